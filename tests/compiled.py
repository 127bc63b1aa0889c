"""How tests compile: quickly, and once for both workers, the processes that they start, and later runs.

**Quickly.** Tests' programs are small and run a few times, so that most of a suite's time is XLA's. `flags` ask it for
plain machine code: the training step of a small network compiles in 1.1 s of CPU instead of 5.9 (jax 0.10.2). Values
differ in last bits from what users run; with DIFFJAX_TEST_COMPILER=full tests compile as users do.

**Once.** A program is compiled once and then read, whoever asks next. Results are the same to the byte: what is read
is the machine code that was written. That code depends on the version of jax, on the instructions of the CPU, on how
many cores the process may use (there is a folder for each) and on XLA's flags (they are part of jax's keys).
"""

import getpass
import hashlib
import os
import tempfile
from importlib.metadata import version
from pathlib import Path


def flags() -> tuple[str, ...]:
    """XLA's flags for tests; the emitters of jaxlib 0.11 and later cannot be chosen."""
    if os.environ.get("DIFFJAX_TEST_COMPILER") == "full":
        return ()
    whole = "--xla_cpu_parallel_codegen_split_count=1"  # parts cost more than two cores give back
    plain = ("--xla_backend_optimization_level=0", "--xla_llvm_disable_expensive_passes=true", whole)
    older = tuple(map(int, version("jaxlib").split(".")[:2])) < (0, 11)
    return (*plain, "--xla_cpu_use_fusion_emitters=false") if older else plain


def xla_flags(*more: str) -> str:
    """What a process finds in XLA_FLAGS: the flags of this process, and more."""
    given = os.environ.get("XLA_FLAGS", "").split()
    named = {flag.split("=")[0] for flag in more}
    return " ".join([*(flag for flag in given if flag.split("=")[0] not in named), *more])


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
    return root / f"jax-{version('jax')}-{version('jaxlib')}-{machine}-{cores}"


def settings(cores: int) -> dict[str, str | int]:
    """jax's options for it; every program is kept, however small: small ones are most of the time."""
    return {
        "jax_compilation_cache_dir": str(folder(cores)),
        "jax_persistent_cache_min_compile_time_secs": 0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
