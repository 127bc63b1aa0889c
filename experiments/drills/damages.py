"""A hundred damages to the files of a small run: each resumes to the same bytes, says what it left out, or refuses.

    python experiments/drills/damages.py            # one core, some ten minutes; a Markdown table
    python experiments/drills/damages.py --smoke    # eight of them
    python experiments/drills/damages.py --only=config.json   # those whose name has this in it

A run of 80 steps is stopped at 60, with checkpoints of steps 20, 40 and 60. Each damage is done to a copy of it, which
is then resumed, most in this process and each twentieth by the command. What came of it is one of these:

    same     the last checkpoint's checksums and all metrics but times are those of the run that nothing happened to,
             and steps that were passed over were named
    named    the state is the same; lines of the log are lost, and the screen said so
    error    one line, of diffjax's own, exit status 1 or 2; no file that was there has changed
    wrong    anything else: a traceback, other numbers, silence about what was lost. The exit status counts these.
"""

import argparse
import collections
import contextlib
import io
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
OVERRIDES = [
    *("data.name=moons", "augment.name=none", "model.name=MLP", "model.width=8", "model.depth=1"),
    *("target.sigma_data=1.0", "train.batch_size=8", "train.steps=80", "train.log_every=10", "train.sample_every=80"),
    *("checkpoint.every=20", "checkpoint.keep=9", "checkpoint.snapshot_every=20", "eval.samples=20"),
]
STOPPED, STEPS, CONFIG = 60, 80, "configs/edm.py:tiny"
# Files that a start writes anew, or that say who is there: a refused start may change them.
FREE = (".lock", "command.txt", "env.json")


COMMAND = """
import sys
from diffjax import main, runs
from diffjax.runs import report
runs.Trainer._show = lambda *_: None
report.evaluate = lambda run, out, times=None: {}
sys.exit(main.main())
"""
HEADS = ("same bytes", "log lines lost, named", "own error", "wrong")


class Damage(NamedTuple):
    """One damage: the kind that it is counted under, what it is called, what it does to a workdir."""

    kind: str
    name: str
    act: Callable[[Path], Any]


def main() -> int:
    """The number of damages that came out wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="eight damages")
    parser.add_argument("--only", default="", help="those with this in their names")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--core", type=int, help="the core to run on; default the first that is allowed")
    flags = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):  # bits repeat on one core; the commands that are started inherit it
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0)) if flags.core is None else flags.core})
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", f"{folder}/compiled")
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")  # it compiles soon
        os.chdir(ROOT)
        return drill(Path(folder), 8 if flags.smoke else flags.count, flags.only)


def drill(folder: Path, count: int, only: str) -> int:
    """Makes the runs, does the damages, prints the table."""
    stopped, whole = folder / "stopped", folder / "whole"
    train(stopped, STOPPED)
    shutil.copytree(stopped, whole)
    train(whole)
    found, wrong = collections.defaultdict(collections.Counter), []
    for number, damage in enumerate(chosen(stopped, count, only)):
        workdir = folder / "damaged"
        shutil.copytree(stopped, workdir, symlinks=True)
        damage.act(workdir)
        before = contents(workdir)
        status, said = (command if number % 20 == 9 else in_process)(workdir)
        came, why = judge(workdir, whole, before, status, said)
        found[damage.kind][came] += 1
        if came == "wrong":
            wrong.append(f"{damage.name}: {why}")
        print(f"{number + 1:4} {came:6} {damage.name}{': ' + last(said) if came != 'same' else ''}", flush=True)
        remove(workdir)
    columns = ("same", "named", "error", "wrong")
    print(f"\n| kind of damage | number | {' | '.join(HEADS)} |\n|---{'|---' * (len(HEADS) + 1)}|")
    total = collections.Counter()
    for kind, counts in found.items():
        total += counts
        print(f"| {kind} | {sum(counts.values())} | {' | '.join(str(counts[name]) for name in columns)} |")
    print(f"| all | {sum(total.values())} | {' | '.join(str(total[name]) for name in columns)} |")
    print("".join(f"\nWRONG {line}" for line in wrong))
    return len(wrong)


# The damages


def chosen(stopped: Path, count: int, only: str) -> list[Damage]:
    """So many of all damages, seeded, kinds in turn, the same ones each time."""
    everything = [*of_files(stopped), *of_steps(), *of_logs()]
    if only:
        return [damage for damage in everything if only in damage.name]
    kinds: dict[str, list[Damage]] = {}
    for damage in random.Random(0).sample(everything, len(everything)):
        kinds.setdefault(damage.kind, []).append(damage)
    rows, picked = list(kinds.values()), []
    while len(picked) < count and any(rows):
        picked += [row.pop() for row in rows if row]
    return picked[:count]


def of_files(stopped: Path) -> Iterator[Damage]:
    """Each change of one file, to every file of the newest step and of the workdir."""
    newest = stopped / "checkpoints" / str(STOPPED)
    files = [*sorted(p for p in newest.rglob("*") if p.is_file()), *sorted(p for p in stopped.iterdir() if p.is_file())]
    files += [sorted((stopped / "ema").iterdir())[0], stopped / "results.json", stopped / "labels.json"]
    for number, file in enumerate(files):
        path = file.relative_to(stopped)
        for kind, change in CHANGES.items():
            yield Damage(kind, f"{kind}: {path}", lambda w, c=change, p=path, n=number: c(w / p, random.Random(n)))
        twin = Path(*("40" if part == str(STOPPED) else part for part in path.parts))
        if twin != path and (stopped / twin).exists():
            yield Damage(
                "swapped between steps", f"swapped with step 40's: {path}", lambda w, a=path, b=twin: swap(w / a, w / b)
            )


def _flip(path: Path, rng: random.Random) -> None:
    content = bytearray(path.read_bytes()) if path.exists() else bytearray(b"{}")
    for place in rng.sample(range(len(content)), min(3, len(content))):
        content[place] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def _truncate(path: Path, rng: random.Random) -> None:
    content = path.read_bytes() if path.exists() else b"{}"
    path.write_bytes(content[: rng.randrange(len(content) or 1)])


def _append(path: Path, rng: random.Random) -> None:
    with path.open("ab") as file:
        file.write(rng.randbytes(40))


def _enlarge(path: Path, rng: random.Random) -> None:
    with path.open("ab") as file:
        file.truncate(2**33)  # sparse


def _folder(path: Path, rng: random.Random) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()
    (path / "inside").write_text("something")


def _link_to_nothing(path: Path, rng: random.Random) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to("nowhere")


def _link_to_itself_moved(path: Path, rng: random.Random) -> None:
    path.touch()
    path.rename(path.with_name(path.name + ".moved"))
    path.symlink_to(path.name + ".moved")


def _forbid(path: Path, rng: random.Random) -> None:
    path.touch()
    path.chmod(0)


CHANGES: dict[str, Callable[[Path, random.Random], Any]] = {
    "bits flipped": _flip,
    "cut short": _truncate,
    "emptied": lambda path, rng: path.write_bytes(b""),
    "deleted": lambda path, rng: path.unlink(missing_ok=True),
    "bytes appended": _append,
    "8 GB, sparse": _enlarge,
    "a folder in its place": _folder,
    "a link to nothing": _link_to_nothing,
    "a link to the file": _link_to_itself_moved,
    "no permissions": _forbid,
}


def swap(a: Path, b: Path) -> None:
    """Exchanges two files or folders."""
    between = a.with_name("between")
    a.rename(between)
    b.rename(a)
    between.rename(b)


def of_steps() -> Iterator[Damage]:
    """Folders of steps: copied, renamed, exchanged, emptied, files in their place."""
    at = lambda workdir, name: workdir / "checkpoints" / str(name)

    def file_for(workdir: Path, name: Any) -> None:
        shutil.rmtree(at(workdir, name), ignore_errors=True)
        at(workdir, name).write_text("a file")

    def link_for(workdir: Path, name: Any, other: Any) -> None:
        shutil.rmtree(at(workdir, name), ignore_errors=True)
        at(workdir, name).symlink_to(str(other))

    def without_all(workdir: Path) -> None:
        for step in (20, 40, 60):
            (at(workdir, step) / "info" / "metadata").unlink()

    acts: dict[str, Callable[[Path], Any]] = {
        "40 copied to 70": lambda w: shutil.copytree(at(w, 40), at(w, 70)),
        "40 copied to 80": lambda w: shutil.copytree(at(w, 40), at(w, 80)),
        "60 renamed 65": lambda w: at(w, 60).rename(at(w, 65)),
        "60 renamed 80": lambda w: at(w, 60).rename(at(w, 80)),
        "40 and 60 exchanged": lambda w: swap(at(w, 40), at(w, 60)),
        "states of 40 and 60 exchanged": lambda w: swap(at(w, 40) / "state", at(w, 60) / "state"),
        "records of 40 and 60 exchanged": lambda w: swap(at(w, 40) / "info", at(w, 60) / "info"),
        "60 deleted": lambda w: shutil.rmtree(at(w, 60)),
        "60 emptied": lambda w: [shutil.rmtree(at(w, 60)), at(w, 60).mkdir()],
        "60 without its state": lambda w: shutil.rmtree(at(w, 60) / "state"),
        "60 is a file": lambda w: file_for(w, 60),
        "80 is a file": lambda w: file_for(w, 80),
        "80 is an empty folder": lambda w: at(w, 80).mkdir(),
        "60 is a link to 40": lambda w: link_for(w, 60, 40),
        "60 is a link to nothing": lambda w: link_for(w, 60, "nowhere"),
        "80 is a link to nothing": lambda w: link_for(w, 80, "nowhere"),
        "80 is a link to 60": lambda w: link_for(w, 80, 60),
        "a step of 200 digits": lambda w: shutil.copytree(at(w, 60), at(w, "9" * 200)),
        "060 beside 60": lambda w: shutil.copytree(at(w, 40), at(w, "060")),
        "an Arabic 60": lambda w: shutil.copytree(at(w, 40), at(w, "٦٠")),
        "left by a kill": lambda w: at(w, 60).rename(at(w, "60.orbax-checkpoint-tmp")),
        "all records deleted": without_all,
        "checkpoints deleted": lambda w: shutil.rmtree(w / "checkpoints"),
        "checkpoints is a file": lambda w: [shutil.rmtree(w / "checkpoints"), (w / "checkpoints").write_text("a file")],
        "checkpoints is a link": lambda w: [
            (w / "checkpoints").rename(w / "elsewhere"),
            (w / "checkpoints").symlink_to("elsewhere"),
        ],
        "ema deleted": lambda w: shutil.rmtree(w / "ema"),
        "ema is a file": lambda w: [shutil.rmtree(w / "ema"), (w / "ema").write_text("a file")],
        "samples is a file": lambda w: [
            shutil.rmtree(w / "samples", ignore_errors=True),
            (w / "samples").write_text("a file"),
        ],
    }
    for name, act in acts.items():
        yield Damage("folders of steps", f"folders: {name}", act)


def of_logs() -> Iterator[Damage]:
    """Lines of metrics.jsonl: torn, dropped, doubled, exchanged."""

    def changed(change: Callable[[list[str]], list[str]]) -> Callable[[Path], Any]:
        path = lambda workdir: workdir / "metrics.jsonl"
        return lambda w: path(w).write_text("".join(change(path(w).read_text().splitlines(keepends=True))))

    acts = {
        "last line torn": lambda ls: [*ls[:-1], ls[-1][:30]],
        "last line lost": lambda ls: ls[:-1],
        "middle line torn": lambda ls: [*ls[:2], ls[2][5:], *ls[3:]],
        "middle line lost": lambda ls: [*ls[:2], *ls[3:]],
        "a line doubled": lambda ls: [*ls[:3], ls[2], *ls[3:]],
        "all lines doubled": lambda ls: [*ls, *ls],
        "lines out of order": lambda ls: [*ls[3:], *ls[:3]],
        "a line of a later step": lambda ls: [*ls, ls[-1].replace(f'"step": {STOPPED}', '"step": 75')],
        "a line 3": lambda ls: ["3\n", *ls],
        "a line without a step": lambda ls: ['{"loss": 1.0}\n', *ls],
    }
    for name, change in acts.items():
        yield Damage("lines of the log", f"log: {name}", changed(change))


# Runs, and what came of them


def train(workdir: Path, steps: int | None = None) -> None:
    """Trains as the command does, without pictures and the report."""
    from diffjax import parallel, runs

    parallel.compile_step = _compiled_once(parallel.compile_step)
    if (workdir / "config.json").exists():
        config = runs.run.read_config(workdir)
    else:
        config = runs.load(CONFIG, OVERRIDES)
    built = runs.build_run(config)
    runs.Trainer._show = lambda *_: None  # pyright: ignore
    with runs.Trainer(**built._asdict(), workdir=workdir) as trainer:
        trainer.train(steps)


def _compiled_once(compile_step: Callable, kept: list[Any] = []) -> Callable:  # noqa: B006
    """One compiled step for all starts in this process: they are of one config."""

    def step(*args: Any, **words: Any) -> Any:
        if not kept:
            kept.append(compile_step(*args, **words))
        return kept[0]

    return step


def in_process(workdir: Path) -> tuple[int, str]:
    """(exit status, what was said) of a start in this process."""
    from diffjax.config import ConfigError

    said, status = io.StringIO(), 0
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            train(workdir)
        except ConfigError as error:
            status = 2
            print(f"error: {error}")
        except Exception:
            status = 1
            traceback.print_exc()
    return status, said.getvalue()


def command(workdir: Path) -> tuple[int, str]:
    """(exit status, what was said) of the command, but for pictures and the report at its end."""
    call = [sys.executable, "-c", COMMAND, f"--workdir={workdir}"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(call, env=env, capture_output=True, text=True, timeout=600)
    return done.returncode, done.stdout + done.stderr


def judge(workdir: Path, whole: Path, before: dict[str, Any], status: int, said: str) -> tuple[str, str]:
    """(what came of it, why)"""
    if "Traceback" in said:
        return "wrong", last(said)
    if status:
        lost = [name for name, content in before.items() if contents(workdir).get(name) != content]
        return ("wrong", f"refused, yet changed {', '.join(lost)}") if lost else ("error", "")
    if outcome(workdir) != outcome(whole):
        return "wrong", f"another state at the end: {last(said)}"
    passed_over = "resuming at step 60" not in said
    if passed_over and "skipped a checkpoint" not in said and before.get("checkpoints/60/info/metadata") is not None:
        return "wrong", f"step 60 was passed over in silence: {last(said)}"
    if logged(workdir) == logged(whole):
        return "same", ""
    if "metrics.jsonl" in said:
        return "named", ""
    return "wrong", f"lines of the log are lost in silence: steps {[line.get('step') for line in logged(workdir)]}"


def outcome(workdir: Path) -> Any:
    """Checksums of the state after the last step."""
    path = workdir / "checkpoints" / str(STEPS) / "info" / "metadata"
    return json.loads(path.read_text())["leaves"] if path.exists() else None


def logged(workdir: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without what a clock says."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "timing"} for line in lines]


def contents(workdir: Path) -> dict[str, Any]:
    """Every file, by name: its bytes, or its size where that is large; links by where they point."""
    found: dict[str, Any] = {}
    for path in sorted(workdir.rglob("*")):
        name = str(path.relative_to(workdir))
        if name in FREE:
            continue
        if path.is_symlink():
            found[name] = os.readlink(path)
        elif path.is_file():
            found[name] = path.stat().st_size if path.stat().st_size > 2**26 else path.read_bytes()
    return found


def last(said: str) -> str:
    """The last line."""
    return said.strip().splitlines()[-1][:300] if said.strip() else "nothing was said"


def remove(workdir: Path) -> None:
    """Deletes a workdir, whatever the damage was."""
    shutil.rmtree(workdir, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
