"""Kill drill: a run killed at random moments and started again ends with the bytes of one that nobody disturbed.

    python experiments/drills/kills.py               # 100 kills, five a run: half an hour on two idle cores
    python experiments/drills/kills.py --smoke       # three kills of one run

The moments are drawn (`--seed`) within every phase of a run: start-up, steps, saves, evaluation, report; SIGKILL,
SIGTERM, SIGHUP, SIGINT and pairs of signals take turns. After each kill the same command is given again; the last start
is left alone. Compared with an undisturbed run are the state's leaves, the checkpoints kept, metrics.jsonl without
timing, eval.json, report.md, results.json without minutes, the pictures drawn along the run, and 16 samples by seed.
Bits depend on how many threads there are, so that each process has one core. Compiled programs are kept in a folder of
the drill's own: a kill may tear what is being written there, which jax then compiles again. The result is a table in
Markdown, every failure by name; the exit status counts the failures.
"""

import argparse
import collections
import concurrent.futures
import hashlib
import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

from diffjax import runs

ROOT = Path(__file__).resolve().parents[2]
STEPS, EVERY = 160, 20
FIELDS = {
    "data.name": "moons",
    "model.name": "MLP",
    "model.width": 16,
    "model.depth": 1,
    "eval.samples": 50,
    "train.steps": STEPS,
    "train.sample_every": STEPS // 2,
    "checkpoint.every": EVERY,
}
ARGS = ["--config=configs/vpsde.py:tiny", *(f"--config.{field}={value}" for field, value in FIELDS.items())]
PHASES = ("start-up", "steps", "saves", "evaluation", "report")
KILLS = (("SIGKILL",), ("SIGTERM",), ("SIGHUP",), ("SIGINT",), ("SIGTERM", "SIGINT"))
FREE = ("timing", "minutes", "seconds", "starts", "command")  # what two runs of one program differ in
SAID = re.compile(r"^\| (?:command|minutes, until this report) \|.*\n", re.MULTILINE)  # of them, in a report
KEPT = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1"}
LONGEST = 300  # seconds that any start, and any end, may take


def start(core: int, cache: Path, workdir: Path, said: Path) -> subprocess.Popen:
    """Starts the run on one core; what it says goes into a file.

    Signals that are ignored here (of a drill in the background, or under nohup) are not ignored there.
    """
    given = {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT), "JAX_COMPILATION_CACHE_DIR": str(cache), **KEPT}
    pinned = ["env", "--default-signal=HUP,INT,TERM", "taskset", "-c", str(core)]
    command = [*pinned, sys.executable, "-m", "diffjax.main", *ARGS, f"--workdir={workdir}"]
    with said.open("w") as file:
        env = {**os.environ, **given}
        return subprocess.Popen(command, cwd=ROOT, env=env, stdout=file, stderr=subprocess.STDOUT)


class Eye:
    """Sees from outside in which phase a run is, by what it has said and written since this start."""

    def __init__(self, workdir: Path, said: Path):
        self.workdir, self.said, self.since = workdir, said, time.time()

    def phase(self) -> str:
        """Names the phase that the run is in."""
        if not self.opened():
            return "start-up"
        if self.newer("figures/*.png"):
            return "report"
        saved = [path.name for path in (self.workdir / "checkpoints").glob("*")]
        if any(not name.isdecimal() for name in saved):
            return "saves"
        return "evaluation" if str(STEPS) in saved else "steps"

    def opened(self) -> bool:
        """Tells whether the run has said where it begins."""
        text = self.said.read_text(errors="replace")
        return any(words in text for words in (": training ", ": resuming at ", ": all "))

    def logged(self) -> int:
        """Counts the lines of metrics.jsonl."""
        path = self.workdir / "metrics.jsonl"
        return path.read_bytes().count(b"\n") if path.exists() else 0

    def newer(self, pattern: str) -> bool:
        """Tells whether such a file was written since the start."""
        return any(path.stat().st_mtime > self.since for path in self.workdir.glob(pattern))


def aim(eye: Eye, process: subprocess.Popen, phase: str, rng: random.Random) -> None:
    """Waits for a moment in a phase, or for the end of the process."""
    wait = rng.uniform(0, {"start-up": 6.0, "steps": 0.1, "saves": 0.06, "evaluation": 3.0, "report": 1.5}[phase])
    begun, ahead, deadline = None, rng.choice((0, 0, 2, 5)), time.monotonic() + LONGEST
    while process.poll() is None and time.monotonic() < deadline and phase != "start-up":
        if eye.opened():
            begun = eye.logged() if begun is None else begun
            far = phase in ("evaluation", "report") or eye.logged() >= min(begun + ahead, STEPS // 10 - 2)
            if far and (eye.phase() == phase or (phase != "report" and eye.phase() == "report")):
                break
        time.sleep(0.001)
    time.sleep(wait)


def kill(process: subprocess.Popen, names: tuple[str, ...], rng: random.Random) -> str | None:
    """Sends the signals and waits for the end; what was wrong with it, or None."""
    for number in (getattr(signal, name) for name in names):
        process.send_signal(number)
        time.sleep(rng.uniform(0, 0.3))
    numbers = [getattr(signal, name) for name in names]
    try:
        status = process.wait(LONGEST)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return f"did not end within {LONGEST} s"
    fine = {0, *(-n for n in numbers), *(128 + n for n in numbers)}
    return None if status in fine else f"exit status {status}"


def contents(workdir: Path) -> dict[str, object]:
    """What is compared, by name."""
    read = lambda line: {key: value for key, value in json.loads(line).items() if key not in FREE}
    run = runs.open(workdir)
    keyed = lambda leaf: jax.random.key_data(leaf) if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
    leaves = [np.asarray(keyed(leaf)) for leaf in jax.tree.leaves(run.state)]
    return {
        "step": run.step,
        "state": [(leaf.shape, str(leaf.dtype), hashlib.sha256(leaf.tobytes()).hexdigest()) for leaf in leaves],
        "checkpoints": sorted(path.name for path in (workdir / "checkpoints").iterdir() if path.name.isdecimal()),
        "metrics": [read(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()],
        "results": read((workdir / "results.json").read_text()),
        "eval.json": (workdir / "eval.json").read_bytes(),
        "report.md": SAID.sub("", (workdir / "report.md").read_text().partition("\n## Time\n")[0]),
        **{f"samples/{path.name}": path.read_bytes() for path in sorted((workdir / "samples").glob("*.png"))},
        "samples": run.draw(16).tobytes(),
    }


def finish(core: int, cache: Path, workdir: Path) -> None:
    """Starts the run and leaves it alone until its end; what it says is in WORKDIR.txt."""
    start(core, cache, workdir, workdir.with_name(f"{workdir.name}.txt")).wait(4 * LONGEST)


def compared(whole: dict[str, object], workdir: Path) -> list[str]:
    """Names what of a run differs from the undisturbed one's."""
    try:
        mine = contents(workdir)
    except (OSError, ValueError, KeyError) as error:
        said = workdir.with_name(f"{workdir.name}.txt").read_text(errors="replace")
        return [f"all: it cannot be read ({error}); its last start said\n{said[-3000:]}"]
    return sorted(name for name in whole.keys() | mine.keys() if whole.get(name) != mine.get(name))


def disturb(core: int, cache: Path, workdir: Path, number: int, kills: int, seed: int) -> list[tuple[str, str, str]]:
    """Kills a run some times and lets it end; (phase, signals, what was wrong or "") of each kill that came in time."""
    rng = random.Random(f"{seed} {number}")
    early, late = rng.sample(["steps", "saves"], 2), ["evaluation", "report"]
    phases = [*early, *late]
    phases.insert(rng.randrange(5), "start-up")
    found = []
    for at, wanted in enumerate(itertools.islice(itertools.cycle(phases), kills)):
        names, said = KILLS[(number + at) % len(KILLS)], workdir.with_name(f"{workdir.name}-{at}.txt")
        process = start(core, cache, workdir, said)
        eye = Eye(workdir, said)
        aim(eye, process, wanted, rng)
        if process.poll() is not None:
            continue  # it was quicker
        phase = eye.phase()
        wrong = kill(process, names, rng) or ""
        text = said.read_text(errors="replace")
        ours = phase != "start-up" or "_process()" in text  # not Python's own, which has not come to our code yet
        if not wrong and ours and ("Traceback" in text or "Exception ignored" in text):
            wrong = "a trace was shown"
        where = f"{workdir.name}, kill {at} ({' '.join(names)} in {phase})"
        found.append((phase, " ".join(names), wrong and f"{where}: {wrong}:\n{text[-1500:]}"))
    finish(core, cache, workdir)
    return found


def table(kills: list[tuple[str, str, str]], differs: dict[int, list[str]], of: list[int]) -> str:
    """Writes kills by phase, and by signal: how many, whether they ended as they should, and their runs equal."""
    rows = ["| killed | kills | run ended the same | differs | ended badly |", "|---|---|---|---|---|"]
    for column, names in ((0, PHASES), (1, [" ".join(names) for names in KILLS])):
        for name in names:
            mine = [(kill, run) for kill, run in zip(kills, of) if kill[column] == name]
            other = sum(run in differs for _, run in mine)
            bad = sum(bool(kill[2]) for kill, _ in mine)
            rows.append(f"| {name} | {len(mine)} | {len(mine) - other} | {other} | {bad} |")
    other = sum(run in differs for run in of)
    rows.append(f"| all | {len(of)} | {len(of) - other} | {other} | {sum(bool(kill[2]) for kill in kills)} |")
    return "\n".join(rows)


def main() -> int:
    """The number of failures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--each", type=int, default=5, help="kills of one run")
    parser.add_argument("--cores", type=lambda text: [int(part) for part in text.split(",")], help="such as 0,1")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="a new folder for the runs; default a temporary one")
    parser.add_argument("--smoke", action="store_true", help="three kills of one run")
    flags = parser.parse_args()
    count, each = (3, 3) if flags.smoke else (flags.kills, flags.each)
    cores = flags.cores or sorted(os.sched_getaffinity(0))[:2]
    folder = Path(tempfile.mkdtemp()) if flags.keep is None else flags.keep
    cache = folder / "compiled"
    cache.mkdir(parents=True)
    jax.config.update("jax_compilation_cache_dir", str(cache))
    try:
        finish(cores[0], cache, folder / "undisturbed")
        whole = contents(folder / "undisturbed")
        print(f"{folder / 'undisturbed'}: as it should be", flush=True)
        shares = [min(each, count - first) for first in range(0, count, each)]
        free, differs, kills, of = collections.deque(cores), {}, [], []

        def one(number: int) -> list[tuple[str, str, str]]:
            core = free.popleft()
            try:
                return disturb(core, cache, folder / f"run{number}", number, shares[number], flags.seed)
            finally:
                free.append(core)

        with concurrent.futures.ThreadPoolExecutor(len(cores)) as pool:
            for number, found in enumerate(pool.map(one, range(len(shares)))):
                kills, of = [*kills, *found], [*of, *[number] * len(found)]
                if wrong := compared(whole, folder / f"run{number}"):
                    differs[number] = wrong
                said = f"DIFFERS in {', '.join(differs[number])}" if number in differs else "equal"
                print(f"run{number}: {said} after {', '.join(f'{k[1]} in {k[0]}' for k in found)}", flush=True)
                print("".join(f"{kill[2]}\n" for kill in found if kill[2]), end="", flush=True)
        print(f"\n{table(kills, differs, of)}")
        print(json.dumps({"kills": len(kills), "differ": len(differs), "bad": sum(bool(kill[2]) for kill in kills)}))
    finally:
        if flags.keep is None:
            shutil.rmtree(folder, ignore_errors=True)
    return len(differs) + sum(bool(kill[2]) for kill in kills)


if __name__ == "__main__":
    sys.exit(main())
