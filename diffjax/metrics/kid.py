"""Kernel distance of two feature clouds, KID (Binkowski et al. 2018, arXiv:1801.01401, section 4).

The squared maximum mean discrepancy under the polynomial kernel k(x, y) = (x'y / d + 1)^3, by its U-statistic: means of
k over pairs within each cloud, of unlike members, less twice the mean over pairs across. It is unbiased at every n: its
mean for equal laws is 0, and negative values are legal. No covariance is formed, so that n may be below d.
"""

import numpy as np

BLOCK = 1024  # rows of the kernel matrix that are in memory at a time


def check_size(n: int, d: int = 1) -> None:
    """Raises a ValueError unless n samples have pairs, whatever their number d of features."""
    if n < 2:
        raise ValueError(f"{n} sample has no pair: expected at least 2")


def kid(x: np.ndarray, y: np.ndarray, degree: int = 3) -> float:
    """Computes the unbiased squared MMD of features x (n, d) and y (m, d) under (x'y / d + 1)^degree.

    Raises:
        ValueError: for features of other shapes, unequal d, or fewer than 2 samples of either.
    """
    x, y = (np.asarray(a, np.float64) for a in (x, y))
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < 2:
        raise ValueError(f"features have shapes {x.shape} and {y.shape}; expected (n, d) and (m, d) with n, m >= 2")
    n, m = len(x), len(y)
    within = (_total(x, x, degree) - _diagonal(x, degree)) / (n * (n - 1))
    other = (_total(y, y, degree) - _diagonal(y, degree)) / (m * (m - 1))
    return within + other - 2 * _total(x, y, degree) / (n * m)  # (features.4)


def _total(x: np.ndarray, y: np.ndarray, degree: int) -> float:
    """Sums the kernel over all pairs of rows."""
    parts = (x[start : start + BLOCK] for start in range(0, len(x), BLOCK))
    return float(sum(np.sum((part @ y.T / x.shape[1] + 1) ** degree) for part in parts))


def _diagonal(x: np.ndarray, degree: int) -> float:
    return float(np.sum((np.sum(x**2, 1) / x.shape[1] + 1) ** degree))
