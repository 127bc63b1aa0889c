"""A workdir: what a run leaves behind, and what makes it resume.

.lock            who writes here now (`lock`); empty: nobody
config.json      the resolved config: resume, sample and eval read this, never Python from a workdir
command.txt      one line per start
env.json         git commit, versions, devices; "earlier": the same of starts under others
metrics.jsonl    one JSON object per log step
checkpoints/     one directory per step
ema/             averages stored along the run, one file per step, if checkpoint.snapshot_every says so
samples/ figures/ report.md results.json; labels.json, names of the classes where they have some
"""

import contextlib
import json
import os
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from diffjax import disk, lock
from diffjax.config import Config, ConfigError, differences, from_json, to_json
from diffjax.environment import environment


def default_name(config: Config) -> Path:
    """Names a new workdir, runs/<config>-<time>."""
    return Path("runs") / f"{config.name}-{time.strftime('%Y%m%d-%H%M%S')}"


PROGRAM = "objects.program"  # of a run of objects: what differs by jax's version alone is said, not refused


def prepare(
    workdir: Path, config: Config, complete: Callable[[Config], Config] = lambda config: config
) -> tuple[lock.Lock | None, list[str]]:
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
        held = lock.take(workdir) if jax.process_index() == 0 else None
    except lock.HeldError as error:
        raise ConfigError(str(error)) from error
    said = _check_owner(workdir, config, complete)  # once more: by whom the lock was held until now
    if held is not None and held.left:
        said.append(f"{workdir}: {held.left} was there before and did not end by itself")
    disk.write(workdir / "config.json", to_json(config))
    with (workdir / "command.txt").open("a") as file:
        file.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S')} {shlex.join(sys.argv)}\n")
    disk.write(workdir / "env.json", json.dumps(_environments(workdir / "env.json"), indent=2))
    return held, said


def _check_owner(workdir: Path, config: Config, complete: Callable[[Config], Config]) -> list[str]:
    """Refuses a workdir of another config; gives lines to be said."""
    if workdir.exists() and not workdir.is_dir():
        raise ConfigError(f"{workdir} is a file, expected a folder for the run; give another --workdir.")
    saved, said = workdir / "config.json", []
    if saved.exists():
        changed = differences(complete(_read(saved)), config)
        if any(line.startswith(f"{PROGRAM}.jax:") for line in changed):
            said = [f"{workdir}: trained by another jax before ({line})" for line in changed if PROGRAM in line]
            changed = [line for line in changed if PROGRAM not in line]
        if changed and _begun(workdir):
            shown = "; ".join(changed[:4]) + ("; ..." if len(changed) > 4 else "")
            raise ConfigError(f"{workdir} holds a run of another config ({shown}); give another --workdir.")
    elif workdir.exists() and any(path.name != lock.NAME for path in workdir.iterdir()):
        raise ConfigError(f"{workdir} is not empty and holds no config.json; give a new or an empty --workdir.")
    return said


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


def named(changes: list[str]) -> str:
    """Names a folder after what was asked in place of what the config says."""
    return disk.file_name(",".join(changes))


def read_config(workdir: Path) -> Config:
    """Reads the config of a run.

    Raises:
        ConfigError: if there is no run.
    """
    saved = Path(workdir) / "config.json"
    if not os.path.isfile(saved):
        raise ConfigError(f"{workdir} holds no run (no config.json); give the --workdir of a training run.")
    return _read(saved)


def _read(saved: Path) -> Config:
    try:
        return from_json(json.dumps(disk.read_json(saved)), str(saved))
    except (disk.DamagedFileError, ConfigError) as error:
        raise ConfigError(f"{error} A run's config is also in its checkpoints' records (info/metadata).") from error


def cut_metrics(workdir: Path, step: int) -> list[str]:
    """Drops what was logged after `step`, to be logged again, and what is no line of ours; lists the latter."""
    path = workdir / "metrics.jsonl"
    lines, wrong = _logged(path)
    if path.is_file():
        disk.write(path, "".join(json.dumps(line) + "\n" for line in lines if line["step"] <= step))
    return [f"left out of {path.name}: {what}" for what in wrong]


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
