"""Which examples are held out: by label where there are labels, and never by their places in a file.

    stratified   of n examples in an order, round(n share): every class in proportion, its members in a random order
    by_name      of named files: those whose hash says so, so that new files move no old one to the other part

Both put at least one example of every class that has two into each part. A class of one example is trained on, unless
the held-out part would come out too small without such ones.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

SEED = np.asarray([0x73706C6974, 0], np.uint64)  # of the permutation: one for all data sets and for good


def stratified(n: int, share: float, label: Any = None) -> np.ndarray:
    """Marks which of n examples are held out, (n,) bool: round(n share) of them, or as near as each class allows.

    Args:
        label: (n,) integers; None: all are of one class.

    Raises:
        ValueError: for fewer than two examples, or a share that is not between 0 and 1.
    """
    _check(n, share)
    rank = np.empty(n, np.int64)  # sorted random words, as of batches: fixed by Philox, not by NumPy's way of shuffling
    rank[np.argsort(np.random.Philox(key=SEED).random_raw(n), kind="stable")] = np.arange(n)
    count = min(max(round(n * share), 1), n - 1)
    group = _groups(label, n, count)
    free = np.flatnonzero(group >= 0)
    order = free[np.lexsort((rank[free], group[free]))]  # class after class, each in its random order
    out = np.zeros(n, bool)
    out[order] = np.diff(np.arange(len(order) + 1) * count // len(order)) > 0
    return _both(out, rank, group)


def by_name(names: Sequence[str], share: float, label: Any = None) -> np.ndarray:
    """Marks which of n files are held out, (n,) bool: those whose names have a hash below the share of all hashes.

    Args:
        label: (n,) integers; None: all are of one class. A class that would be in one part alone gives the other its
            smallest, or its largest, hash.

    Raises:
        ValueError: as `stratified`.
    """
    _check(len(names), share)
    rank = np.asarray([_hash(name) for name in names])
    out = rank < share
    group = _groups(label, len(names), 1)
    return _both(out & (group >= 0), rank, group)


def _check(n: int, share: float) -> None:
    if isinstance(share, bool) or not isinstance(share, int | float | np.number) or not 0 < share < 1:
        raise ValueError(f"held_out is {share!r}, expected a share between 0 and 1.")
    if n < 2:
        raise ValueError(f"Got {n} examples, expected two or more, so that one can be held out.")


def _groups(label: Any, n: int, count: int) -> np.ndarray:
    """Numbers the classes, (n,); -1 for the only example of one, where the others can give `count` without it.

    Where they cannot, examples of such classes are one group.
    """
    if label is None:
        return np.zeros(n, np.int64)
    _, group, sizes = np.unique(label, return_inverse=True, return_counts=True)
    group = group.reshape(n)
    alone = sizes[group] == 1
    enough = (sizes - 1).sum() >= count
    return np.where(alone, -1 if enough else len(sizes), group)


def _both(out: np.ndarray, rank: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Gives each part an example of every group of two or more: of the lowest rank to the held-out one."""
    out = out.copy()
    order = np.lexsort((rank, group))
    ends = np.flatnonzero(np.diff(group[order], append=np.iinfo(np.int64).max))
    for members in np.split(order, ends[:-1] + 1):
        if len(members) > 1 and group[members[0]] >= 0:
            out[members[0]] |= not out[members].any()
            out[members[-1]] &= not out[members].all()
    return out


def _hash(name: str) -> float:
    """Computes a number in [0, 1) that is a function of the name alone."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64
