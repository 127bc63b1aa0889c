"""Mixtures of Gaussians on the line, solved in float64 NumPy: denoiser, flow, moments, samples. No library code."""

from typing import NamedTuple

import numpy as np
from scipy import optimize, special

Level = tuple[float, float]  # (alpha, sigma)


class Mixture(NamedTuple):
    """sum_k w_k N(m_k, v_k) on the line; entries of x are independent numbers. One component is a Gaussian."""

    weights: tuple[float, ...]
    means: tuple[float, ...]
    variances: tuple[float, ...]

    def denoise(self, x, alpha, sigma) -> np.ndarray:
        """E[x_0 | x]: responsibilities times the components' regressions."""
        w, m, v = (np.asarray(a)[:, None] for a in self)
        x, total = np.asarray(x).reshape(1, -1), alpha**2 * v + sigma**2
        logits = np.log(w) - (x - alpha * m) ** 2 / (2 * total) - np.log(total) / 2
        share = np.exp(logits - logits.max(0))
        return np.sum(share * (m + alpha * v / total * (x - alpha * m)), 0) / share.sum(0)

    def cdf(self, x, alpha=1.0, sigma=0.0) -> np.ndarray:
        """P(x_t <= x)."""
        w, m, v = (np.asarray(a)[:, None] for a in self)
        return np.sum(w * special.ndtr((np.reshape(x, (1, -1)) - alpha * m) / np.sqrt(alpha**2 * v + sigma**2)), 0)

    def transport(self, x, start: Level, end: Level) -> np.ndarray:
        """The probability flow's map between two levels: on the line, the quantile map to the last bits."""
        if len(self.weights) == 1:  # affine
            (m,), (v,) = self.means, self.variances
            ratio = np.sqrt((end[0] ** 2 * v + end[1] ** 2) / (start[0] ** 2 * v + start[1] ** 2))
            return end[0] * m + ratio * (np.asarray(x) - start[0] * m)
        width = 12 * np.sqrt(end[0] ** 2 * max(self.variances) + end[1] ** 2) + max(np.abs(self.means))
        miss = lambda y, level: self.cdf(y, *end)[0] - level
        return np.array([optimize.brentq(miss, -width, width, (p,), 1e-16, 1e-15) for p in self.cdf(x, *start)])

    def moments(self) -> tuple[float, float]:
        """Mean and variance of the data."""
        w, m, v = (np.asarray(a) for a in self)
        return w @ m, w @ (v + m**2) - (w @ m) ** 2

    def draw(self, rng, n) -> np.ndarray:
        """n exact samples."""
        k = rng.choice(len(self.weights), n, p=self.weights)
        return np.asarray(self.means)[k] + np.sqrt(np.asarray(self.variances)[k]) * rng.standard_normal(n)


def w1(a, b) -> float:
    """Wasserstein-1 distance of two samples of one size on the line."""
    return float(np.mean(np.abs(np.sort(a) - np.sort(b))))
