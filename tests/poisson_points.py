"""Poisson flows of finite data: the library's exact denoiser, and the kernel's by hand."""

import numpy as np

from diffjax.theory import characteristics, constructions

PAIR, SHARES = np.array([-1.0, 2.0]), np.array([0.4, 0.6])  # the two points of the one-dimensional tests


def exact(process, points=PAIR[:, None], weights=SHARES):
    """The denoiser of finite data under a process."""
    return constructions.marginal(characteristics.Affine(process), points, weights).denoiser(process.schedule)


def by_hand(points, weights, x, t, schedule, D):
    """E[x_0 | x_t = x] from the kernel as it is written."""
    alpha, sigma = (float(a) for a in schedule(t))
    squares = D * sigma**2 + ((x - alpha * points) ** 2).sum(1)
    share = weights * squares ** (-(points.shape[1] + D) / 2)
    return share @ points / share.sum()
