"""Hubs: points of a pool that are among the nearest neighbours of many others, and what choosing them costs.

In many dimensions some points are (kexue 9147). With R(z', k) the k nearest neighbours of z', itself left out,

    N(z) = #{z' : z in R(z', k)},        sum_z N(z) = k times the number of points.

Liang et al. 2022 draw latents of a generator, keep those with a large N, and call the samples better. Hubs of a normal
pool are the points near its middle: what is kept is shorter in every direction, so that on Gaussian data a sampler that
is a linear map, as every deterministic one is with the exact denoiser, carries the kept covariance to that of its
samples. Hubs of x_T are a temperature, Var of what is kept, and `shrunk` says which. So hubs are compared with as many
of the pool taken at random, with those of smallest norm, and with x_T scaled by the root of the temperature: where
these score as well, hubness as such did nothing. Samples of chosen noise are no samples of the model: no likelihood
holds for them, and a distance between laws judges another law.
"""

from typing import Any

import numpy as np

from diffjax import host
from diffjax.metrics import neighbours

ROWS = 1024  # points whose distances to all are held at a time


def counts(pool: Any, k: int) -> np.ndarray:
    """Computes N, among whose k nearest neighbours each point of a pool (n, ...) is: (n,) integers, of mean k.

    Of neighbours at equal distance the first in the pool are taken.

    Raises:
        ValueError: unless 1 <= k < n; for a pool that is not finite, or whose points are all the same.
    """
    pool = _pool(pool)
    n = len(pool)
    host.check_int("k", k, 1)
    if k >= n:
        raise ValueError(f"k = {k} of a pool of {n} points; expected at most {n - 1}, all others.")
    found = np.zeros(n, np.int64)
    for start in range(0, n, ROWS):
        rows = neighbours.distances(pool[start : start + ROWS], pool)
        rows[np.arange(len(rows)), start + np.arange(len(rows))] = np.inf  # a point is no neighbour of itself
        chosen = np.argpartition(rows, k - 1, axis=1)[:, :k]
        border = np.take_along_axis(rows, chosen, 1).max(1)
        tied = (rows <= border[:, None]).sum(1) > k
        if tied.any():
            chosen[tied] = np.argsort(rows[tied], axis=1, kind="stable")[:, :k]
        found += np.bincount(chosen.ravel(), minlength=n)  # (hubness.1)
    return found


def hubs(pool: Any, k: int, most: int | None = None, least: int | None = None) -> np.ndarray:
    """Chooses the hubs of a pool (n, ...): their places, in order of the pool.

    Args:
        most: how many, those of largest N; of equal N the first.
        least: the smallest N of one that is kept, above k, the mean; the published rule has 50. Either of the two.

    Raises:
        ValueError: unless one of `most` and `least` is given; for more than there are, or a `least` that is not above
            k or that no point reaches; or as `counts`.
    """
    if (most is None) == (least is None):
        raise ValueError(f"Got most = {most} and least = {least}: expected one of them, how many or how large an N.")
    n = len(_pool(pool))
    if most is not None:
        host.check_int("most", most, 1, most=n)
        return np.sort(np.argsort(-counts(pool, k), kind="stable")[:most])
    least = host.check_int("least", least, 1)
    if least <= k:
        raise ValueError(f"least = {least} is not above k = {k}, which is the mean of N: it would keep no hubs alone.")
    found = counts(pool, k)
    if found.max() < least:
        raise ValueError(
            f"No point is among the {k} nearest of {least} others, the most is {found.max()}: take a larger k or pool, "
            "or a smaller least."
        )
    return np.flatnonzero(found >= least)


def skewness(found: Any) -> float:
    """Computes the skewness of N, E (N - k)^3 / Var^(3/2): 0 where there are no hubs, large in many dimensions.

    Raises:
        ValueError: where all are equal.
    """
    found = np.asarray(found, np.float64)
    centred = found - found.mean()
    if not np.any(centred):
        raise ValueError(f"All {len(found)} counts are {found.flat[0]:g}: they have no skewness.")
    return float(np.mean(centred**3) / np.mean(centred**2) ** 1.5)


def shortest(pool: Any, most: int) -> np.ndarray:
    """Chooses so many points of smallest norm, the baseline of `hubs`: their places, in order of the pool."""
    pool = _pool(pool)
    host.check_int("most", most, 1, most=len(pool))
    return np.sort(np.argsort(np.einsum("nd,nd->n", pool, pool), kind="stable")[:most])


def shrunk(kept: Any, pool: Any) -> float:
    """Computes the temperature of points (m, ...) kept of a pool (n, ...): their variance over that of the pool.

    Each variance is the mean over axes; noise scaled by the root of their ratio has as much as the points.

    Raises:
        ValueError: for fewer than two points, points of other dimensions, or a pool without variance.
    """
    kept, pool = _pool(kept, "What is kept"), _pool(pool)
    if kept.shape[1] != pool.shape[1]:
        raise ValueError(f"What is kept has {kept.shape[1]} entries each, the pool {pool.shape[1]}: not of it.")
    return float(kept.var(0, ddof=1).mean() / pool.var(0, ddof=1).mean())  # (hubness.2)


def _pool(pool: Any, what: str = "The pool") -> np.ndarray:
    pool = np.asarray(pool, np.float64)
    if pool.ndim < 2 or len(pool) < 2:
        raise ValueError(f"{what} has shape {pool.shape}, expected (n, ...) with n >= 2 points.")
    pool = pool.reshape(len(pool), -1)
    host.check_rows(what, pool)
    if not np.any(pool != pool[0]):
        raise ValueError(f"{what} has {len(pool)} points that are all the same: none is nearer than another.")
    return pool
