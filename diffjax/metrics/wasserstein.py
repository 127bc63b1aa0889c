"""2-Wasserstein distance of two equally large samples, exact and sliced, in the units of x.

W2^2 = min over permutations p of mean_i |x_i - y_p(i)|^2, an assignment problem. Sliced: the mean of the
one-dimensional W2^2, which sorting solves, over directions on the sphere (Bonneel et al. 2015). In many dimensions the
exact distance of two samples of ONE law is large, and a sample of the mean is nearer to the data than the data is
to itself: print it beside its floor, do not judge by it.
"""

from collections.abc import Sequence

import numpy as np

from diffjax import host
from diffjax.metrics import neighbours


def _check(x: np.ndarray, y: np.ndarray) -> tuple[int, int]:
    """Gives the shape (n, d) of both, flattened."""
    if np.shape(x) != np.shape(y) or not len(x):
        raise ValueError(f"samples have shapes {np.shape(x)} and {np.shape(y)}; expected one shape (n, ...), n >= 1")
    return len(x), np.size(x) // len(x)


def exact(x: np.ndarray, y: np.ndarray, gaps: np.ndarray | None = None) -> float:
    """Computes W2 of the empirical laws of x and y, both (n, ...): O(n^3), seconds at n = 2000.

    Args:
        gaps: the distances (n, n) of x and y, where they are known.
    """
    from scipy.optimize import linear_sum_assignment
    from scipy.spatial.distance import cdist

    n, d = _check(x, y)
    if gaps is None and d > neighbours.WIDE:
        gaps = neighbours.distances(x, y)
    flat = lambda a: np.asarray(a, np.float64).reshape(n, d)
    cost = cdist(flat(x), flat(y), "sqeuclidean") if gaps is None else gaps**2
    return float(np.sqrt(cost[linear_sum_assignment(cost)].mean()))


def sliced(
    x: np.ndarray, y: np.ndarray, projections: int = 256, seed: int = 0, along: Sequence[np.ndarray] | None = None
) -> float:
    """Computes the root of the mean projected W2^2 of x and y (n, ...), over directions that seed alone decides.

    Args:
        along: `projected` x and y (n, projections), where they are known.
    """
    n, d = _check(x, y)
    if projections < 1:
        raise ValueError(f"projections = {projections}; expected at least 1")
    if along is None and d > neighbours.WIDE:
        along = projected([x, y], projections, seed)
    if along is None:
        directions = np.random.default_rng(seed).standard_normal((d, projections))
        directions /= np.linalg.norm(directions, axis=0)
        along = [np.asarray(a, np.float64).reshape(n, d) @ directions for a in (x, y)]
    gaps = np.sort(along[0], axis=0) - np.sort(along[1], axis=0)
    return float(np.sqrt(np.mean(gaps**2)))


def projected(arrays: Sequence[np.ndarray], projections: int = 256, seed: int = 0) -> list[np.ndarray]:
    """Projects arrays (n, ...) on the directions of `sliced`, without holding all of those or a float64 copy."""
    rng, squares = np.random.default_rng(seed), np.zeros(projections)
    along = [np.zeros((len(x), projections)) for x in arrays]
    for parts in host.blocks(*arrays):
        directions = rng.standard_normal((parts[0].shape[1], projections))
        squares += (directions**2).sum(0)
        along = [total + part @ directions for total, part in zip(along, parts)]
    return [total / np.sqrt(squares) for total in along]
