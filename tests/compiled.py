"""The folder where tests keep compiled programs: of both workers, of the processes that they start, and of later runs.

A program is compiled once and then read, whoever asks next. Measured on sampler files: a second run takes half of
the CPU time, a first one a few percent more than without a folder, less what processes take from each other.
Results are the same to the byte: what is read is the machine code that was written. That code depends on the version
of jax, on the instructions of the CPU and on how many cores the process may use: there is a folder for each.
"""

import getpass
import hashlib
import os
import tempfile
from pathlib import Path

import jax
import jaxlib


def instructions() -> str:
    """What the CPU can do, where Linux says it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


def folder(cores: int) -> Path:
    """Where programs are kept that were compiled for so many cores: in $DIFFJAX_TEST_CACHE, or a temporary folder."""
    given = os.environ.get("DIFFJAX_TEST_CACHE")
    root = Path(given) if given else Path(tempfile.gettempdir()) / f"diffjax-tests-{getpass.getuser()}"
    machine = hashlib.sha256(instructions().encode()).hexdigest()[:8]
    return root / f"jax-{jax.__version__}-{jaxlib.__version__}-{machine}-{cores}"


def settings(cores: int) -> dict[str, str | int]:
    """jax's options for it; every program is kept, however small: small ones are most of the time."""
    return {
        "jax_compilation_cache_dir": str(folder(cores)),
        "jax_persistent_cache_min_compile_time_secs": 0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
