"""A workdir: what a run leaves behind, and what makes it resume.

config.json      the resolved config: resume, sample and eval read this, never Python from a workdir
command.txt      one line per start
env.json         git commit, versions, devices; "earlier": the same of starts under others
metrics.jsonl    one JSON object per log step
checkpoints/     one directory per step
ema/             averages stored along the run, one file per step, if checkpoint.snapshot_every says so
samples/ figures/ report.md results.json; labels.json, names of the classes where they have some
"""

import importlib.metadata
import json
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from diffjax.config import Config, ConfigError, differences, from_json, to_json


def default_name(config: Config) -> Path:
    """Names a new workdir, runs/<config>-<time>."""
    return Path("runs") / f"{config.name}-{time.strftime('%Y%m%d-%H%M%S')}"


PROGRAM = "objects.program"  # of a run of objects: what differs by jax's version alone is said, not refused


def prepare(workdir: Path, config: Config, complete: Callable[[Config], Config] = lambda config: config) -> list[str]:
    """Makes the workdir, or checks that it belongs to this config; gives lines to be said.

    A start that was refused before its first step leaves a config that the corrected one replaces.

    Args:
        complete: what fills in the fields that an older config left out.

    Raises:
        ConfigError: if it holds a run of another config (the differences are named) or files that no run of ours left.
    """
    if workdir.exists() and not workdir.is_dir():
        raise ConfigError(f"{workdir} is a file, expected a folder for the run; give another --workdir.")
    saved, said = workdir / "config.json", []
    if saved.exists():
        changed = differences(complete(from_json(saved.read_text())), config)
        if any(line.startswith(f"{PROGRAM}.jax:") for line in changed):
            said = [f"{workdir}: trained by another jax before ({line})" for line in changed if PROGRAM in line]
            changed = [line for line in changed if PROGRAM not in line]
        if changed and _begun(workdir):
            shown = "; ".join(changed[:4]) + ("; ..." if len(changed) > 4 else "")
            raise ConfigError(f"{workdir} holds a run of another config ({shown}); give another --workdir.")
    elif workdir.exists() and any(workdir.iterdir()):
        raise ConfigError(f"{workdir} is not empty and holds no config.json; give a new or an empty --workdir.")
    workdir.mkdir(parents=True, exist_ok=True)
    write_atomically(saved, to_json(config))
    with (workdir / "command.txt").open("a") as file:
        file.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S')} {shlex.join(sys.argv)}\n")
    write_atomically(workdir / "env.json", json.dumps(_environments(workdir / "env.json"), indent=2))
    return said


def _begun(workdir: Path) -> bool:
    """Tells whether a step was logged or saved there."""
    saved = any(path.name.isdecimal() for path in (workdir / "checkpoints").glob("*"))
    return saved or bool(read_metrics(workdir))


def _environments(path: Path) -> dict[str, Any]:
    """This start's, and in "earlier" those that differ from it: what a run was trained with is not lost."""
    now, earlier = environment(), []
    if path.exists():
        before = json.loads(path.read_text())
        earlier = [*before.pop("earlier", []), before]
    return {**now, "earlier": [found for found in earlier if found != now]}


def named(changes: list[str]) -> str:
    """Names a folder after what was asked in place of what the config says."""
    return ",".join(changes).replace("/", "_")


def read_config(workdir: Path) -> Config:
    """Reads the config of a run.

    Raises:
        ConfigError: if there is no run.
    """
    saved = Path(workdir) / "config.json"
    if not saved.is_file():
        raise ConfigError(f"{workdir} holds no run (no config.json); give the --workdir of a training run.")
    return from_json(saved.read_text())


def environment() -> dict[str, Any]:
    """Collects commit, versions and devices."""
    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "diffrax", "ml_collections")
    versions = {name: _version(name) for name in packages}
    devices = sorted({f"{d.platform}:{d.device_kind}" for d in jax.devices()})
    return {
        "commit": _commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": versions,
        "devices": devices,
        "device_count": jax.device_count(),
        "process_count": jax.process_count(),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # an extra that is not installed
        return None


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replaces a file in one move: a reader, or a run killed meanwhile, sees the old content or the new one."""
    part = path.with_suffix(path.suffix + ".part")
    part.write_bytes(content.encode() if isinstance(content, str) else content)
    part.replace(path)


def cut_metrics(workdir: Path, step: int) -> None:
    """Drops what was logged after `step`: a resumed run logs it again, and each step appears once."""
    path = workdir / "metrics.jsonl"
    if path.exists():
        lines = [line for line in path.read_text().splitlines() if _step_of(line) <= step]
        write_atomically(path, "".join(line + "\n" for line in lines))


def read_metrics(workdir: Path) -> list[dict[str, Any]]:
    """Reads the logged steps, one dictionary each."""
    path = workdir / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (json.JSONDecodeError, KeyError):  # the last line of a killed run may be cut short
        return float("inf")


def _commit() -> str | None:
    """The commit of a source checkout, "-dirty" if it has changes; None for an installed package."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    git = lambda *args: (
        subprocess.run(["git", "-C", str(root), *args], capture_output=True, text=True, check=False).stdout
    )
    head = git("rev-parse", "--short=12", "HEAD").strip()
    return (head + ("-dirty" if git("status", "--porcelain").strip() else "")) or None
