"""Frechet distance of two feature clouds, each taken for its Gaussian (Heusel et al. 2017, arXiv:1706.08500, eq. 6).

d^2 = |m1 - m2|^2 + tr(A + B - 2 (A^1/2 B A^1/2)^1/2): the squared W2 distance of N(m1, A) and N(m2, B) (Dowson and
Landau 1982). The symmetric form needs two `eigh` and no matrix square root of an unsymmetric product, so it stays real
and accurate when a covariance is singular. The value falls with the number of samples: compare at equal n only.
"""

from typing import NamedTuple

import numpy as np


class Gaussian(NamedTuple):
    """The Gaussian fit of a feature cloud: mean (d,) and unbiased covariance (d, d), float64."""

    mean: np.ndarray
    cov: np.ndarray


def fit(features: np.ndarray) -> Gaussian:
    """Fits a Gaussian to features (n, d). ValueError unless n >= 2."""
    features = np.asarray(features, np.float64)
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(f"features have shape {features.shape}; expected (n, d) with n >= 2")
    return Gaussian(features.mean(0), np.atleast_2d(np.cov(features, rowvar=False)))


def distance(p: Gaussian, q: Gaussian) -> float:
    """Computes the squared W2 distance of the Gaussians p and q, in squared feature units, >= 0."""
    if p.mean.shape != q.mean.shape:
        raise ValueError(f"features of {p.mean.size} and of {q.mean.size} dimensions have no distance")
    values, vectors = np.linalg.eigh(p.cov)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ q.cov @ root).clip(0)).sum()
    squared = np.sum((p.mean - q.mean) ** 2) + np.trace(p.cov) + np.trace(q.cov) - 2 * cross  # (mnist.1)
    return max(float(squared), 0.0)  # rounding alone can leave -1e-14 for equal clouds


def frechet(x: np.ndarray, y: np.ndarray) -> float:
    """Computes the Frechet distance (the squared one, as FID is printed) of features x (n, d) and y (m, d)."""
    return distance(fit(x), fit(y))
