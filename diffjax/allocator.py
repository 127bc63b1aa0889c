"""What the C library does with the memory that programs on a CPU give back."""

import ctypes
import functools
import os

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
