"""Runs `python -m diffjax.main` in a process of its own: what a user types, on one pinned core where bits matter."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def environment(devices: int = 1, cache: Path | None = None) -> dict[str, str]:
    """CPU only, `devices` of them; compiled programs kept in `cache`, so that a second start is quick."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    env = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "PYTHONPATH": str(ROOT)}
    if cache is not None:
        env |= {"JAX_COMPILATION_CACHE_DIR": str(cache), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    return env


def core() -> int:
    """The core that this test worker pins processes to, another one in each: bits depend on threads, not on it."""
    cores = sorted(os.sched_getaffinity(0))
    return cores[int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % len(cores)]


def one_core() -> list[str]:
    """What a command begins with to run on that core."""
    return ["taskset", "-c", str(core())]


def start(*args: str, pinned: bool = False, **options) -> subprocess.Popen:
    """The command, running; stdout and stderr are piped as text."""
    command = [*(one_core() if pinned else []), sys.executable, "-m", "diffjax.main", *args]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env=environment(**options), **pipes)


def run(*args: str, **options) -> tuple[int, str]:
    """(exit status, output) of the finished command."""
    process = start(*args, **options)
    output, _ = process.communicate(timeout=600)
    return process.returncode, output
