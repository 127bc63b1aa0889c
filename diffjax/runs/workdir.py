"""A workdir: what a run leaves behind, and what makes it resume.

.lock            who writes here now (`lock`); empty: nobody
config.json      the resolved config: resume, sample and eval read this, never Python from a workdir; and the format
history.json     what changed when the run went on: a line for each field
command.txt      one line per start
env.json         git commit, versions, devices; "earlier": the same of starts under others
metrics.jsonl    one JSON object per log step
checkpoints/     one directory per step
ema/             averages stored along the run, one file per step, if checkpoint.snapshot_every says so
data.json        the card of the data: what a draw knows of them where they are gone
samples/ figures/ report.md results.json; labels.json, names of the classes where they have some
"""

import contextlib
import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from diffjax import cluster, derived, diagnosis, disk, lock, logs, resume
from diffjax.checkpoint import Checkpoints, Info
from diffjax.config import Config, ConfigError, check_trusted, from_json, to_json
from diffjax.environment import environment

FORMAT = 1  # of a workdir, in its config.json; 0, where none is said: config.json, checkpoints and metrics are as now


@contextlib.contextmanager
def fresh(config: Config) -> Iterator[Path]:
    """Makes a new workdir for a `with` block, runs/<config>-<time> (`disk.fresh`); of several processes one does."""
    path = Path(diagnosis.RUNS) / f"{config.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    with disk.fresh(path) if cluster.first() else contextlib.nullcontext() as made:
        yield Path(cluster.told(lambda: str(made)))


def told(make: Callable[[], Config]) -> Config:
    """Gives the config that process 0 makes, in all processes."""
    made = make() if cluster.first() else None
    text = cluster.told(lambda: made and to_json(made))
    return made or from_json(text, "the config of process 0")


def going_on(workdir: Path, asked: Config, complete: Callable[[Config], Config], new: bool = False) -> Config:
    """Makes the config of a start: as asked for in a new workdir; where a run has begun, what it goes on with.

    Raises:
        ConfigError: for what a run that has begun cannot become (`resume.joined`), or a rule where there is none.
    """
    if not new and _begun(workdir):
        saved = complete(read_config(workdir))
        return resume.joined(saved, derived.kept(complete(asked), saved), str(workdir), *_reached(workdir))
    if asked.train.start is not None and asked.train.carry == "state":
        return resume.carried(asked, complete(read_config(Path(asked.train.start))), *_reached(Path(asked.train.start)))
    if asked.learning_rate.extend is not None:
        raise ConfigError(f"{resume.RULE} is for a run that goes on, but this one is new: leave it out.")
    return resume.begun(asked)


def _reached(workdir: Path) -> tuple[int, int]:
    """Tells the newest step that is saved, and the updates applied until there."""
    step, info = newest(workdir) or (0, None)
    return step, step if info is None else info.config.get("updates", step)


def newest(workdir: Path) -> tuple[int, Info] | None:
    """Reads the newest sound step of a workdir, and what was saved beside its state; None where there is none."""
    if not os.path.isdir(workdir / "checkpoints"):  # False, too, for a name that no folder can have
        return None
    with Checkpoints(workdir / "checkpoints", create=False, report=lambda line: None) as checkpoints:
        return checkpoints.newest()


PROGRAM = "objects.program"  # of a run of objects: what differs with another jax or diffjax is said, not refused


def prepare(
    workdir: Path, config: Config, complete: Callable[[Config], Config] = lambda config: config
) -> tuple[lock.Lock, list[str]]:
    """Makes the workdir, or checks that it belongs to this config; gives its lock, held, and lines to be said.

    A start that was refused before its first step leaves a config that the corrected one replaces.

    Args:
        complete: what fills in the fields that an older config left out.

    Raises:
        ConfigError: if it holds a run of another config (the differences are named) or files that no run of ours left,
            or another process trains there. Nothing is touched then.
    """
    _check_owner(workdir, config, complete)
    workdir.mkdir(parents=True, exist_ok=True)
    try:
        held = lock.take(workdir)
    except lock.HeldError as error:
        raise ConfigError(str(error)) from error
    changes, said = _check_owner(workdir, config, complete)  # once more: by whom the lock was held until now
    if held.left:
        said.append(f"{workdir}: {held.left} was there before and did not end by itself")
    if changes:
        said += resume.record(workdir, changes, (newest(workdir) or (0, None))[0])
    disk.write(workdir / "config.json", json.dumps({"format": FORMAT, **json.loads(to_json(config))}, indent=2))
    line = f"{time.strftime('%Y-%m-%dT%H:%M:%S')} {shlex.join(sys.argv)}\n"
    said += disk.note(workdir / "command.txt", lambda path: disk.append(path, line))
    said += disk.note(workdir / "env.json", lambda path: disk.write(path, json.dumps(_environments(path), indent=2)))
    return held, said


def _check_owner(
    workdir: Path, config: Config, complete: Callable[[Config], Config]
) -> tuple[list[resume.Change], list[str]]:
    """Refuses a workdir of another config; gives what changes in that of a run, and lines to be said."""
    if workdir.exists() and not workdir.is_dir():
        raise ConfigError(f"{workdir} is a file, expected a folder for the run; give another --workdir.")
    if _begun(workdir):
        saved, said = complete(read_config(workdir)), []
        ours = resume.changes(saved, config)
        if any(change.field in (f"{PROGRAM}.jax", f"{PROGRAM}.diffjax") for change in ours):
            differs = ", ".join(str(change) for change in ours if PROGRAM in change.field)
            said = [f"{workdir}: trained by another jax or diffjax before ({differs})"]
            with saved.unlocked():
                saved.objects.program = config.objects.program
        return resume.check(saved, config, str(workdir)), said
    there = {path.name for path in workdir.iterdir()} if workdir.exists() else set()
    if there - {lock.NAME} and "config.json" not in there:
        raise ConfigError(f"{workdir} is not empty and holds no config.json; give a new or an empty --workdir.")
    with contextlib.suppress(FileNotFoundError):
        try:
            disk.read_json(workdir / "config.json")
        except disk.DamagedFileError as error:
            return [], [f"replaced, since no step was made: {error}"]
    return [], []


def _begun(workdir: Path) -> bool:
    """Tells whether a step was logged or saved there."""
    saved = any(path.name.isdecimal() for path in (workdir / "checkpoints").glob("*"))
    return saved or bool(read_metrics(workdir))


def _environments(path: Path) -> dict[str, Any]:
    """This start's, and in "earlier" those that differ from it: what a run was trained with is not lost."""
    now, earlier = environment(), []
    with contextlib.suppress(FileNotFoundError, disk.DamagedFileError):  # it is information, no more
        before = disk.read_json(path)
        past = before.pop("earlier", [])
        earlier = [*(past if isinstance(past, list) else []), before]
    return {**now, "earlier": [found for found in earlier if found != now]}


def folder(workdir: str | Path) -> Path:
    """Tells where what is drawn of a run goes: into its workdir, or beside its weights file."""
    return Path(workdir).parent if os.path.isfile(workdir) else Path(workdir)


def named(changes: list[str]) -> str:
    """Names a folder after what was asked in place of what the config says."""
    return disk.file_name(",".join(changes))


def read_config(workdir: Path) -> Config:
    """Reads the config of a run; of a damaged config.json, that in its newest checkpoint, and says so.

    Raises:
        ConfigError: if there is no run, or it is of a newer format.
    """
    return read(Path(workdir) / "config.json")


def read(saved: Path) -> Config:
    """Reads a config.json (`read_config`)."""
    try:
        return _config(disk.read_json(saved), str(saved))
    except (FileNotFoundError, disk.DamagedFileError) as error:
        if os.path.isfile(saved.parent):
            raise ConfigError(
                f"{saved.parent} is a file, expected the workdir of a training run; weights alone are for "
                "sample, for train.start without carry=state, and for diffjax.open."
            ) from error
        known = newest(saved.parent)
        if os.path.isdir(saved):
            raise ConfigError(f"{saved} is a folder; move it away: a checkpoint has the config, too.") from error
        if known is None and not os.path.lexists(saved):
            why = f"no {saved.name}" if os.path.lexists(saved.parent) else "it is not there"
            raise ConfigError(f"{saved.parent} holds no run ({why}): give a run's workdir, or weights file.") from error
        if known is None:
            raise ConfigError(f"{error} There is no checkpoint beside it that has the config.") from error
        print(f"{saved} is restored from the checkpoint of step {known[0]}: {error}", flush=True)
        return _config(known[1].config["config"], str(saved))


def _config(found: dict[str, Any], name: str) -> Config:
    number = found.pop("format", 0)
    if not isinstance(number, int) or number > FORMAT:
        raise ConfigError(
            f"{name} has format {number!r}, expected at most {FORMAT}: it is of a newer diffjax, take that one."
        )
    config = from_json(json.dumps(found), name)
    check_trusted(config, name)
    return config


def cut_metrics(workdir: Path, step: int, every: int | None = None) -> list[str]:
    """Drops what was logged after `step`, to be logged again, and what is no line of ours; lists what else is lost."""
    path, changed = workdir / "metrics.jsonl", (workdir / "history.json").exists()
    lines, wrong = _logged(path)
    kept, lost = logs.in_order(lines, step, None if changed else every)  # which lines were due is known no more
    if path.is_file():
        disk.write(path, "".join(json.dumps(line) + "\n" for line in kept))
    return [f"left out of {path.name}: {what}" for what in [*wrong, *lost]]


def read_metrics(workdir: Path) -> list[dict[str, Any]]:
    """Reads the logged steps, one dictionary each; lines that are damaged are left out."""
    return _logged(workdir / "metrics.jsonl")[0]


def _logged(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    try:
        lines, wrong = disk.read_lines(path)
    except disk.DamagedFileError as error:
        raise ConfigError(str(error)) from error
    steps = [line for line in lines if isinstance(line.get("step"), int)]
    return steps, [*wrong, *([f"{len(lines) - len(steps)} lines without a step"] if len(steps) < len(lines) else [])]
