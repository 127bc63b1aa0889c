"""Memory of programs on a CPU: what the C library keeps of it, and what a program may take over from its arguments."""

import ctypes
import functools
import os

import jax

# glibc's numbers of what mallopt sets, and values: no block is mapped by itself, none goes back to the kernel.
_ALLOCATOR = {"MMAP_MAX": (-4, 0), "TRIM_THRESHOLD": (-1, 2**31 - 1), "TOP_PAD": (-2, 2**26)}


@functools.cache
def keep_memory() -> bool:
    """Has the C library keep the memory that a program on a CPU gives back, for the next one; tells whether it could.

    glibc returns large blocks to the kernel, which clears every page of them when they are next used: 60 MB in each
    step of the default network, a third of its time (docs/results.md). The process holds what it needed at its peak
    until it ends. Nothing happens where the environment has a MALLOC_... of its own, or with another C library.
    """
    if any(name.startswith("MALLOC_") for name in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # musl, macOS, Windows
        return False
    done = [mallopt(number, value) for number, value in _ALLOCATOR.values()]
    return done == [1] * len(done)


def donating(*places: int) -> tuple[int, ...]:
    """Gives the places of arguments whose memory a program takes over: these, but none on a CPU of an older jax.

    There XLA writes new values before the old ones are read: the losses of some transformers were wrong from the second
    step on with jax 0.7.2, and were those of kept states with 0.8.3 (tests/test_sharding.py).
    """
    spoils = jax.default_backend() == "cpu" and jax.__version_info__ < (0, 8, 3)
    return () if spoils else places
