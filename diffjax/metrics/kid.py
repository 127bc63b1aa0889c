"""Kernel distance of two feature clouds, KID (Binkowski et al. 2018, arXiv:1801.01401, section 4).

The squared maximum mean discrepancy under the polynomial kernel k(x, y) = (x'y / d + 1)^3, by its U-statistic: means of
k over pairs within each cloud, of unlike members, less twice the mean over pairs across. It is unbiased at every n: its
mean for equal laws is 0, and negative values are legal. No covariance is formed, so that n may be below d.
"""

import numpy as np

from diffjax import host

BLOCK = 1024  # rows of the kernel matrix that are in memory at a time
FEWEST = 3  # samples whose distance has a standard error


def check_size(n: int, d: int = 1) -> None:
    """Raises a ValueError unless n samples have a distance with an error, whatever their number d of features."""
    if n < FEWEST:
        raise ValueError(f"{n} samples have no standard error of a distance between pairs: expected at least {FEWEST}")


def kid(x: np.ndarray, y: np.ndarray, degree: int = 3) -> float:
    """Computes the unbiased squared MMD of features x (n, d) and y (m, d) under (x'y / d + 1)^degree.

    Raises:
        ValueError: for features of other shapes or not finite, unequal d, or fewer than 2 samples of either.
    """
    return _value(*_sums(x, y, degree, 2))


def estimate(x: np.ndarray, y: np.ndarray, degree: int = 3) -> tuple[float, float]:
    """Computes `kid` and its standard error, of features x (n, d) and y (m, d), by a jackknife over both samples.

    Each sample is left out in turn; what that changes follows from its row of the kernel matrix, so that the error is
    free. For equal laws, where the distance varies by second order alone, it is too large, by a factor up to 2^1/2
    (Efron and Stein 1981: the variance of a jackknife is in the mean never too small).

    Raises:
        ValueError: as `kid`, and for fewer than 3 samples of either.
    """
    xx, yy, xy, yx = sums = _sums(x, y, degree, FEWEST)
    total, n, m = xy.sum(), len(xx), len(yy)
    other_y, other_x = yy.sum() / (m * (m - 1)), xx.sum() / (n * (n - 1))
    without_x = (xx.sum() - 2 * xx) / ((n - 1) * (n - 2)) + other_y - 2 * (total - xy) / ((n - 1) * m)
    without_y = (yy.sum() - 2 * yy) / ((m - 1) * (m - 2)) + other_x - 2 * (total - yx) / ((m - 1) * n)
    spread = sum((len(a) - 1) * float(np.var(a)) for a in (without_x, without_y))
    return _value(*sums), float(np.sqrt(spread))


def _value(xx: np.ndarray, yy: np.ndarray, xy: np.ndarray, yx: np.ndarray) -> float:
    n, m = len(xx), len(yy)
    return float(xx.sum() / (n * (n - 1)) + yy.sum() / (m * (m - 1)) - 2 * xy.sum() / (n * m))  # (features.4)


def _sums(x: np.ndarray, y: np.ndarray, degree: int, fewest: int) -> tuple[np.ndarray, ...]:
    """Sums the kernel of each sample with the others of its own cloud, (n,) and (m,), and with the other cloud."""
    x, y = (np.asarray(a, np.float64) for a in (x, y))
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < fewest:
        raise ValueError(
            f"features have shapes {x.shape} and {y.shape}; expected (n, d) and (m, d) with n, m >= {fewest}"
        )
    for name, part in (("x", x), ("y", y)):
        host.check_rows(f"features {name}", part)
    within = lambda a: _rows(a, a, degree)[0] - (np.sum(a**2, 1) / a.shape[1] + 1) ** degree
    return within(x), within(y), *_rows(x, y, degree)


def _rows(x: np.ndarray, y: np.ndarray, degree: int) -> tuple[np.ndarray, np.ndarray]:
    """Sums the kernel of rows of x and y over y, (n,), and over x, (m,)."""
    rows, columns = [], np.zeros(len(y))
    for start in range(0, len(x), BLOCK):
        part = (x[start : start + BLOCK] @ y.T / x.shape[1] + 1) ** degree
        rows.append(part.sum(1))
        columns += part.sum(0)
    return np.concatenate(rows), columns
