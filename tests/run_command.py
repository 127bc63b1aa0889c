"""Runs `python -m diffjax.main` in a process of its own: what a user types, on one pinned core where bits matter."""

import os
import subprocess
import sys
from pathlib import Path

import compiled

ROOT = Path(__file__).parents[1]
UNET = ("model.channels=4", "model.multipliers=1", "model.attention=()")  # that traces and compiles soon


def environment(devices: int = 1, pinned: bool = False, cache: Path | None = None) -> dict[str, str]:
    """CPU only, `devices` of them; compiled programs are kept, so that a second start is quick.

    Args:
        pinned: whether the process runs on one core.
        cache: a folder for them in place of the tests' own: for processes that are killed, maybe while they write.
    """
    flags = compiled.xla_flags(f"--xla_force_host_platform_device_count={devices}")
    kept = compiled.settings(1 if pinned else cores())
    if cache is not None:
        kept["jax_compilation_cache_dir"] = str(cache)
    kept = {name.upper(): str(value) for name, value in kept.items()}
    return {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "PYTHONPATH": str(ROOT), **kept}


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def core() -> int:
    """The core that this test worker pins processes to, another one in each: bits depend on threads, not on it."""
    cores = sorted(os.sched_getaffinity(0))
    return cores[int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % len(cores)]


def one_core() -> list[str]:
    """What a command begins with to run on that core."""
    return ["taskset", "-c", str(core())]


def start(*args: str, pinned: bool = False, code: str | None = None, **options) -> subprocess.Popen:
    """The command, or the program `code` in its place, running; stdout and stderr are piped as text."""
    program = ["-m", "diffjax.main"] if code is None else ["-c", code]
    command = [*(one_core() if pinned else []), sys.executable, *program, *args]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env=environment(pinned=pinned, **options), **pipes)


def run(*args: str, **options) -> tuple[int, str]:
    """(exit status, output) of the finished command."""
    process = start(*args, **options)
    output, _ = process.communicate(timeout=600)
    return process.returncode, output
