"""Bounds before allocation: what is asked for is held against the memory that is here before any of it is taken.

A number with a few zeros too many would else fill the machine, minutes later and for everybody on it. Where bytes say
nothing, as of a count of steps, a constant bounds it.
"""

import contextlib
import math
import os
from pathlib import Path
from typing import Any

import jax

from diffjax import host
from diffjax.types import PyTree

MOST = 2**31 - 1  # what int32 counts, such as a state's step
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")  # of version 2 and version 1


def at_hand() -> int:
    """Finds the bytes of memory that this process may have: the machine's, its control group's, or its own limit."""
    found = []
    with contextlib.suppress(AttributeError, ValueError, OSError):  # no Windows
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for path in _LIMITS:
        with contextlib.suppress(OSError, ValueError):  # none there, or "max"
            found.append(int(Path(path).read_text()))
    with contextlib.suppress(ImportError, OSError):
        import resource

        if (limit := resource.getrlimit(resource.RLIMIT_AS)[0]) != resource.RLIM_INFINITY:
            found.append(limit)
    return min((n for n in found if n > 0), default=2**63)


def size(tree: PyTree) -> int:
    """Counts the bytes of a tree of arrays, or of their shapes and dtypes."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def written(count: int) -> str:
    """Writes a number of bytes as people do: 3.0 GiB."""
    exponent = min(max(count.bit_length() - 1, 0) // 10, 8)
    unit = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB")[exponent]
    scaled = count * 10 // 1024**exponent  # an int: a float overflows at 10^308
    return f"{count} bytes" if not exponent else f"{scaled // 10}.{scaled % 10} {unit}"


def check(what: str, wanted: int, instead: str) -> None:
    """Checks that memory for something is here.

    Args:
        what: was asked for, with its value: "train.batch_size = 10".
        wanted: the bytes it takes, an int of any length.
        instead: what to set.

    Raises:
        ValueError: in one line, with the bytes it would take, and those at hand.
    """
    if wanted > (here := at_hand()):
        raise ValueError(f"{what} would take {written(wanted)} of memory, and {written(here)} are here: {instead}.")


def check_state(state: Any) -> None:
    """Checks that memory for a state, parameters and what goes with them, is here.

    Args:
        state: shapes and dtypes are enough (`jax.eval_shape`).

    Raises:
        ValueError: with the number of parameters.
    """
    parameters = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(state.params))
    what = f"A network of {parameters:,} parameters, with its optimizer and averages,"
    check(what, size(state), "make it smaller: model.width, model.channels, model.depth")


def check_run(example: PyTree, turns: int, settings: Any) -> None:
    """Checks that memory for a dispatch's examples, the samples of an evaluation, and a chunk of samples is here.

    Args:
        example: one, as arrays or their shapes.
        turns: of a step, each with examples of its own.
        settings: of the run (`runs.Settings`).

    Raises:
        ValueError: naming what to lower.
    """
    one, batch, together = size(example), settings.batch_size, settings.steps_per_dispatch
    what = f"train.batch_size = {batch} with train.steps_per_dispatch = {together}"
    check(what, batch * together * turns * one, f"an example has {one} bytes; lower them")
    bins = settings.time_bins
    check(f"eval.time_bins = {bins} with train.batch_size = {batch}", 4 * batch * bins, "lower them")
    check_samples("eval.samples", settings.samples, example, settings.chunk)


def check_samples(name: str, count: int, example: PyTree, chunk: int) -> None:
    """Checks that memory for so many samples, and for a chunk of them, is here.

    Raises:
        ValueError: naming what to lower.
    """
    one = size(example)
    host.check_int(name, count, most=host.MOST_SAMPLES)
    check(f"{name} = {count}", 2 * count * one, f"a sample has {one} bytes and is held twice; ask for fewer")
    check(f"sample.chunk = {chunk}", 2 * chunk * one, f"a sample has {one} bytes; lower it, to 64 say")
