"""2-Wasserstein distance of two equally large samples, exact and sliced, in the units of x.

W2^2 = min over permutations p of mean_i |x_i - y_p(i)|^2, an assignment problem. Sliced: the mean of the
one-dimensional W2^2, which sorting solves, over directions on the sphere (Bonneel et al. 2015). In many dimensions the
exact distance of two samples of ONE law is large, and a sample of the mean is nearer to the data than the data is
to itself: print it beside its floor, do not judge by it.
"""

import numpy as np


def _pair(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if np.shape(x) != np.shape(y) or not len(x):
        raise ValueError(f"samples have shapes {np.shape(x)} and {np.shape(y)}; expected one shape (n, ...), n >= 1")
    flat = (len(x), np.size(x) // len(x))
    return np.asarray(x, np.float64).reshape(flat), np.asarray(y, np.float64).reshape(flat)


def exact(x: np.ndarray, y: np.ndarray) -> float:
    """Computes W2 of the empirical laws of x and y, both (n, ...): O(n^3), seconds at n = 2000."""
    from scipy.optimize import linear_sum_assignment
    from scipy.spatial.distance import cdist

    x, y = _pair(x, y)
    cost = cdist(x, y, "sqeuclidean")
    return float(np.sqrt(cost[linear_sum_assignment(cost)].mean()))


def sliced(x: np.ndarray, y: np.ndarray, projections: int = 256, seed: int = 0) -> float:
    """Computes the root of the mean projected W2^2 of x and y (n, ...), over directions that seed alone decides."""
    x, y = _pair(x, y)
    if projections < 1:
        raise ValueError(f"projections = {projections}; expected at least 1")
    directions = np.random.default_rng(seed).standard_normal((x.shape[1], projections))
    directions /= np.linalg.norm(directions, axis=0)
    gaps = np.sort(x @ directions, axis=0) - np.sort(y @ directions, axis=0)
    return float(np.sqrt(np.mean(gaps**2)))
