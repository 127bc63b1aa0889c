"""Compiled programs are kept on disk, so that a run that starts again reads what an earlier one has compiled.

jax's own cache, in a folder of the user's; what is read is the machine code that was written, so that no bit of a run
depends on it. That code is of one jax, one kind of processor and one number of cores: each has a folder of its own.
"""

import contextlib
import functools
import hashlib
import os
import platform
from importlib.metadata import version
from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache

VARIABLE = "DIFFJAX_CACHE"  # a folder in place of the user's, or "off"
MOST = 4 * 2**30  # bytes of all programs together
LEAST_SECONDS = 0.2  # of compiling: a program that takes less is compiled again


def keep() -> list[str]:
    """Has jax keep programs, and gives lines to be said, once; a folder that jax was told of, and "off", are heeded."""
    said = _keep()
    lines, said[:] = list(said), []
    return lines


@functools.cache
def _keep() -> list[str]:
    chosen = os.environ.get(VARIABLE, "")
    if chosen.lower() == "off" or jax.config.jax_compilation_cache_dir:  # pyright: ignore[reportAttributeAccessIssue]
        return []
    root = Path(chosen) if chosen else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "diffjax"
    folder = root / f"jax-{version('jax')}-{version('jaxlib')}-{machine()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        prune(root, MOST)
    except OSError as error:
        return [f"compiled programs are not kept: {root}: {error.strerror or error}; {VARIABLE}=FOLDER, or off"]
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", LEAST_SECONDS)
    compilation_cache.reset_cache()  # where something was compiled before, jax has settled that there is none
    return []


def machine() -> str:
    """Makes a digest of what machine code depends on: the processor's abilities, and how many cores may be used."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        able = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    except OSError:  # no Linux
        able = f"{platform.machine()} {platform.processor()}"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return hashlib.sha256(f"{able} {cores}".encode()).hexdigest()[:8]


def prune(root: Path, most: int) -> int:
    """Deletes the programs that were written first until the rest takes at most so many bytes; gives how many.

    Programs are files that end in -cache, in folders of our own: the root may be anybody's, and hold anything else.
    """
    found = []
    for path in root.glob("jax-*/*-cache"):
        with contextlib.suppress(OSError):  # another process deletes, too
            found.append((path.stat().st_mtime, path.stat().st_size, path))
    total, gone = sum(size for _, size, _ in found), 0
    for _, size, path in sorted(found):
        if total <= most:
            break
        with contextlib.suppress(OSError):
            path.unlink()
            total, gone = total - size, gone + 1
    return gone
