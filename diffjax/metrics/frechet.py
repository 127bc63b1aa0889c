"""Frechet distance of two feature clouds, each taken for its Gaussian (Heusel et al. 2017, arXiv:1706.08500, eq. 6).

d^2 = |m1 - m2|^2 + tr(A + B - 2 (A^1/2 B A^1/2)^1/2): the squared W2 distance of N(m1, A) and N(m2, B) (Dowson and
Landau 1982). The symmetric form needs two `eigh` and no matrix square root of an unsymmetric product, so it stays real
and accurate when a covariance is singular.

Two samples of ONE Gaussian are apart, too. Where lam are the eigenvalues of its covariance, delta the errors of the two
estimates, tr(A + B - 2 ...) is 1/2 sum_ij delta_ij^2 / (lam_i + lam_j) to second order, and Var[delta_ij] is
(1/n + 1/m) lam_i lam_j (1 + [i = j]), so that the distance is in the mean, to first order in 1/n and 1/m,

    (1/n + 1/m) [sum_i lam_i + 1/2 sum_ij lam_i lam_j (1 + [i = j]) / (lam_i + lam_j)].

That is the floor of the distance, known before any sample is drawn. `infinity` fits a + b / n over sub-samples and
gives a (Chong and Forsyth 2020, arXiv:1911.07023): no bias is left, but all of the variance.
"""

from typing import NamedTuple

import numpy as np

from diffjax import host

FEWEST = 5  # samples for each feature, below which terms of higher order bend the line a + b / n


class Gaussian(NamedTuple):
    """The Gaussian fit of a feature cloud: mean (d,) and unbiased covariance (d, d), float64."""

    mean: np.ndarray
    cov: np.ndarray


def fit(features: np.ndarray) -> Gaussian:
    """Fits a Gaussian to features (n, d).

    Raises:
        ValueError: unless n >= 2 and all are finite.
    """
    features = np.asarray(features, np.float64)
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(f"features have shape {features.shape}; expected (n, d) with n >= 2")
    host.check_rows("features", features)
    return Gaussian(features.mean(0), np.atleast_2d(np.cov(features, rowvar=False)))


def distance(p: Gaussian, q: Gaussian) -> float:
    """Computes the squared W2 distance of the Gaussians p and q, in squared feature units, >= 0.

    Raises:
        ValueError: for features of unlike dimensions, or arrays of features, whose distance is `frechet`.
    """
    if not isinstance(p, Gaussian) or not isinstance(q, Gaussian):
        got = next(type(a).__name__ for a in (p, q) if not isinstance(a, Gaussian))
        raise ValueError(
            f"distance takes two Gaussians, fit(x) of features x (n, d), got {got}; of two arrays it is frechet(x, y)"
        )
    if p.mean.shape != q.mean.shape:
        raise ValueError(f"features of {p.mean.size} and of {q.mean.size} dimensions have no distance")
    values, vectors = np.linalg.eigh(p.cov)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ q.cov @ root).clip(0)).sum()
    squared = np.sum((p.mean - q.mean) ** 2) + np.trace(p.cov) + np.trace(q.cov) - 2 * cross  # (features.1), (mnist.1)
    return max(float(squared), 0.0)  # rounding alone can leave -1e-14 for equal clouds


def frechet(x: np.ndarray, y: np.ndarray) -> float:
    """Computes the Frechet distance (the squared one, as FID is printed) of features x (n, d) and y (m, d).

    With n or m not above d a covariance is singular, and the distance far from that of many samples (`check_size`).
    """
    return distance(fit(x), fit(y))


def floor(law: Gaussian, n: float, m: float = np.inf) -> float:
    """Computes the mean Frechet distance of two samples, n and m, of one Gaussian law, to first order in 1/n and 1/m.

    Args:
        law: the Gaussian, or an estimate of it from many samples.
        n, m: sizes of the two samples; infinite for exact moments.

    Raises:
        ValueError: for a size below 2.
    """
    if min(n, m) < 2:
        raise ValueError(f"samples of {n} and {m} have no covariance; expected at least 2 of each")
    lam = np.linalg.eigvalsh(law.cov).clip(0)
    pairs, sums = np.outer(lam, lam), np.add.outer(lam, lam)
    twice = 1 + np.eye(len(lam))
    spread = np.sum(np.divide(pairs * twice, sums, out=np.zeros_like(pairs), where=sums > 0)) / 2
    return float((1 / n + 1 / m) * (lam.sum() + spread))  # (features.2)


def size_for(law: Gaussian, wanted: float) -> int:
    """Computes how many samples, of each side, bring the `floor` of a law down to the distance that is wanted."""
    host.check_positive("The wanted floor", wanted)
    return int(np.ceil(2 * floor(law, 2, 2) / wanted))


def check_size(n: int, d: int, what: str = "samples") -> None:
    """Raises a ValueError unless n samples of d features have a covariance of full rank, n > d."""
    if n <= d:
        raise ValueError(f"{n} {what} have no full covariance of {d} features: expected at least {d + 1}")


def check_line(n: int, d: int) -> None:
    """Raises a ValueError unless n samples of d features give `infinity` a line: 10 for each feature."""
    if n < 2 * FEWEST * d:
        raise ValueError(
            f"the line a + b / n over sub-samples is straight from {FEWEST} samples for each of {d} features on: "
            f"expected at least {2 * FEWEST * d} samples, twice as many, to fit it; got {n}"
        )


def infinity(x: np.ndarray, y: np.ndarray | Gaussian, points: int = 15, seed: int = 0) -> float:
    """Extrapolates the Frechet distance to infinitely many samples, by the line a + b / n over sub-samples.

    Sub-samples of one pool share its error: the value has as much variance as the distance of the whole pools. It may
    be negative.

    Args:
        x: features (n, d).
        y: features (m, d), of which as many are drawn as of x; or moments that are taken for exact.
        points: sizes of sub-samples, evenly from the fewest allowed to all there are.
        seed: of the draws of sub-samples.

    Raises:
        ValueError: for fewer samples than 10 for each feature (`check_line`).
    """
    host.check_int("points", points, 3)
    most, d = int(min(len(x), np.inf if isinstance(y, Gaussian) else len(y))), np.shape(x)[1]
    check_line(most, d)
    rng = np.random.default_rng(seed)
    sizes = np.unique(np.linspace(max(FEWEST * d, most // 10), most, points).astype(int))
    some = lambda cloud, n: fit(cloud[rng.choice(len(cloud), n, replace=False)])
    found = [distance(some(x, n), y if isinstance(y, Gaussian) else some(y, n)) for n in sizes]
    return float(np.polyfit(1 / sizes, found, 1)[1])  # (features.3)
