"""Precision, recall, density and coverage: which samples lie among real data, and which real data lie among samples.

A ball about each point reaches to its k-th neighbour in its own cloud, itself left out, and is closed. Precision is the
share of fake samples inside some real ball, recall that of real ones inside some fake ball (Kynkaanniemi et al. 2019,
arXiv:1904.06991, eq. 1 and 2). One outlier among the real has a ball that holds much; density counts, for a fake
sample, the real balls that hold it, over k, and is 1 in the mean for equal laws; coverage is the share of real balls
that hold a fake sample (Naeem et al. 2020, arXiv:2002.09797, eq. 8 and 9). `neighbours.covered` is its mean for equal
laws, whatever these are.
"""

from typing import NamedTuple

import numpy as np

from diffjax.metrics import neighbours

K = 5


class Manifold(NamedTuple):
    """Four measures of two clouds, real and fake."""

    precision: float
    recall: float
    density: float
    coverage: float


def check_size(n: int, k: int = K) -> None:
    """Raises a ValueError unless n samples have a k-th neighbour each."""
    if n <= k:
        raise ValueError(f"{n} samples have no {k}-th neighbour each: expected at least {k + 1}")


def manifold(real: np.ndarray, fake: np.ndarray, k: int = K) -> Manifold:
    """Measures precision, recall, density and coverage of fake (m, ...) beside real (n, ...), by balls of k neighbours.

    Raises:
        ValueError: unless 1 <= k < n and k < m, or for examples of other shapes.
    """
    n, joint = len(real), neighbours.joint_distances(real, fake)
    within, beside = neighbours.radii(joint[:n, :n], k), neighbours.radii(joint[n:, n:], k, "fake")
    inside = joint[:n, n:] <= within[:, None]  # (real ball, fake sample)
    precision, density = inside.any(0).mean(), inside.sum(0).mean() / k  # (features.5)
    recall = (joint[:n, n:] <= beside).any(1).mean()
    return Manifold(float(precision), float(recall), float(density), neighbours.coverage(real, fake, k, joint))
