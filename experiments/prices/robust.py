"""Where descent under a weight of the sample's own error stops, in any dimension, by quadrature in one.

A regression of a flow's velocity v_c = alpha' x_0 + sigma' z on x_t, whose gradient is multiplied by a stopped weight
w(|e|^2), e = v_c - F, does not stop at F = E[v_c | x_t] but where E[w(|e|^2) e | x_t] = 0. Every weight here that falls
with the error is a mixture of Gaussians in it, w(q) = sum_i nu_i exp(-lambda_i q):

    (q/c + 1)^-p:           lambda ~ Gamma(p, rate c), p = 0 is the point lambda = 0
    1 / (sqrt(q) + c):      d lambda (1 / sqrt(pi lambda) - c erfcx(c sqrt(lambda)))

On the data sum_k w_k N(mu_k e_1, s^2 I) in R^d, v_c given x_t is a mixture along e_1 and a Gaussian along the d - 1
other axes, where the pull is 0 by symmetry. So for e = (j_1 (v_1 - F), j_o v_others), v_1 ~ sum_k w_k N(m_k, tau^2),

    E[w e_1] = sum_i nu_i a_i^{-3/2} b_i^{-(d-1)/2} sum_k w_k j_1 (m_k - F) exp(-lambda_i j_1^2 (m_k - F)^2 / a_i),
    a_i = 1 + 2 lambda_i j_1^2 tau^2,  b_i = 1 + 2 lambda_i j_o^2 tau^2:

one sum over lambda for any d. Imported by flow_maps.py; NumPy and SciPy alone, float64.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy.special import erfcx, gammaln, log_ndtr

RECTIFIED: Callable = lambda t: (1.0 - t, t, -1.0, 1.0)  # alpha, sigma and their derivatives
ANGLE: Callable = lambda t: (np.cos(t), np.sin(t), -np.sin(t), np.cos(t))
ROUNDING = 16 * np.finfo(float).eps


class Posterior(NamedTuple):
    """The law of v_c along e_1 given x_t: a mixture of Gaussians of one variance, which the other axes share."""

    weights: Any  # (..., K)
    means: Any  # (..., K)
    var: Any  # scalar or (...)

    @property
    def mean(self) -> np.ndarray:
        return np.sum(self.weights * self.means, -1)

    @property
    def std(self) -> np.ndarray:
        return np.sqrt(self.var + np.sum(self.weights * (self.means - self.mean[..., None]) ** 2, -1))

    def skewness(self) -> np.ndarray:
        """The third central moment over the variance to the power 3/2."""
        return np.sum(self.weights * (self.means - self.mean[..., None]) ** 3, -1) / self.std**3


class Target(NamedTuple):
    """Data sum_k w_k N(mu_k e_1, s^2 I), on a path that gives (alpha, sigma, alpha', sigma') at t."""

    weights: np.ndarray
    means: np.ndarray
    s: float
    path: Callable = RECTIFIED

    def variance(self, t: float) -> float:
        """V_t, the variance of x_t in a mode, on every axis."""
        a, sigma = self.path(t)[:2]
        return a**2 * self.s**2 + sigma**2

    def posterior(self, x: Any, t: float) -> Posterior:
        """The law of v_c along e_1 given x_t = x there."""
        a, sigma, da, dsigma = self.path(t)
        V, gap = self.variance(t), np.asarray(x, float)[..., None] - a * self.means
        logits = np.log(self.weights) - gap**2 / (2 * V)
        weights = np.exp(logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True))
        means = da * self.means + (a * da * self.s**2 + sigma * dsigma) / V * gap
        return Posterior(weights, means, (da * sigma - dsigma * a) ** 2 * self.s**2 / V)

    def log_density(self, x: Any, t: float) -> np.ndarray:
        V, gap = self.variance(t), np.asarray(x, float)[..., None] - self.path(t)[0] * self.means
        return np.logaddexp.reduce(np.log(self.weights) - gap**2 / (2 * V), axis=-1) - np.log(2 * np.pi * V) / 2

    def log_tails(self, x: Any, t: float) -> tuple[np.ndarray, np.ndarray]:
        """The logs of the mass below x and of the mass above x, along e_1."""
        gap = (np.asarray(x, float)[..., None] - self.path(t)[0] * self.means) / np.sqrt(self.variance(t))
        tail = lambda z: np.logaddexp.reduce(np.log(self.weights) + log_ndtr(z), axis=-1)
        return tail(gap), tail(-gap)

    def quantile(self, tails: tuple[Any, Any], t: float) -> np.ndarray:
        """The x with these logs of the masses below and above, by halving in the nearer tail."""
        below, above = (np.asarray(a, float) for a in tails)
        nearer = below < above

        def rising(x: np.ndarray) -> np.ndarray:
            low, high = self.log_tails(x, t)
            return np.where(nearer, low - below, above - high)

        return root(rising, np.full(below.shape, -40.0), np.full(below.shape, 40.0))

    def jump(self, x: Any, t: float, r: float) -> tuple[np.ndarray, np.ndarray, float]:
        """(X, dX/dx) of the flow's map from t to r along e_1, and its slope on the other axes."""
        X = self.quantile(self.log_tails(x, t), r)
        slope = np.exp(self.log_density(x, t) - self.log_density(X, r))
        return X, slope, float(np.sqrt(self.variance(r) / self.variance(t)))


# Weights of the error as mixtures of Gaussians: (lambda, nu), each (L,).

STEP, FIRST = 1 / 3, -22.0  # of log(lambda); the trapezoid rule with this step is exact to about 1e-13


def adaptive(p: float, c: float) -> tuple[np.ndarray, np.ndarray]:
    """The weight (q + c)^-p, times c^p."""
    if p == 0:
        return np.zeros(1), np.ones(1)
    logs = np.arange(FIRST, np.log(40 / c), STEP)
    nu = STEP * np.exp(p * (logs + np.log(c)) - c * np.exp(logs) - gammaln(p))
    return _with_tail(np.exp(logs), nu, p)


def normalised(c: float) -> tuple[np.ndarray, np.ndarray]:
    """The weight 1 / (sqrt(q) + c) of a vector over its norm plus c."""
    lam = np.exp(np.arange(FIRST, 30.0, STEP))
    nu = STEP * lam * (1 / np.sqrt(np.pi * lam) - c * erfcx(c * np.sqrt(lam)))
    return _with_tail(
        lam, np.maximum(nu, 0.0), 0.5
    )  # the difference is rounding where lambda is large, and weighs nothing


def _with_tail(lam: np.ndarray, nu: np.ndarray, power: float) -> tuple[np.ndarray, np.ndarray]:
    """Adds the nodes below the first one, where nu falls like lambda^power, as one at lambda = 0."""
    return np.append(0.0, lam), np.append(nu[0] / np.expm1(power * STEP), nu)


def pull(F: Any, law: Posterior, weight: tuple, d: Any, slopes: tuple[Any, Any] = (1.0, 1.0)) -> tuple[Any, Any]:
    """E[w(|e|^2) e_1] at F, and the sum of the sizes of what it is added up from; both of F's shape.

    Args:
        F: (...), or broadcast against the posterior.
        weight: (lambda, nu); nu may have F's leading axes.
        d: dimension, a number or (...).
        slopes: j_1 along e_1 and j_o on other axes, which the error is multiplied by.
    """
    lam, nu = weight
    shape = lambda a: np.asarray(a, float)[..., None]
    j, other = shape(slopes[0]), shape(slopes[1])
    a, b = 1 + 2 * lam * j**2 * shape(law.var), 1 + 2 * lam * other**2 * shape(law.var)
    kernel = nu * a**-1.5 * np.exp(-(shape(d) - 1) / 2 * np.log(b))  # (..., L)
    e = j * (law.means - shape(F))  # (..., K)
    terms = law.weights * e * np.sum(kernel[..., None, :] * np.exp(-lam * e[..., None] ** 2 / a[..., None, :]), -1)
    return terms.sum(-1), np.abs(terms).sum(-1)


def root(function: Callable, low: Any, high: Any, times: int = 60, relative: float = 1e-15) -> np.ndarray:
    """A zero between low and high, where the function differs in sign: Chandrupatla's method (1997), entry by entry.

    Halves where the inverse parabola through the last three points is not to be trusted.
    """
    a, b = np.asarray(high, float), np.asarray(low, float)
    fa, fb = function(a), function(b)
    t = np.full(np.shape(a), 0.5)
    for _ in range(times):
        x = a + t * (b - a)
        fx = function(x)
        stays = np.sign(fx) == np.sign(fa)  # the zero is between x and b
        c, fc = np.where(stays, a, b), np.where(stays, fa, fb)
        b, fb = np.where(stays, b, a), np.where(stays, fb, fa)
        a, fa = x, fx
        least = relative * (np.abs(a) + 1e-3) / np.maximum(np.abs(b - a), 1e-300)
        if np.all((least > 0.5) | (fa == 0)):
            break
        with np.errstate(divide="ignore", invalid="ignore"):
            xi, phi = (a - b) / (c - b), (fa - fb) / (fc - fb)
            bowed = fa / (fb - fa) * fc / (fb - fc) + (c - a) / (b - a) * fa / (fc - fa) * fb / (fc - fb)
        t = np.where((phi**2 < xi) & ((1 - phi) ** 2 < 1 - xi) & np.isfinite(bowed), bowed, 0.5)
        t = np.where(fa == 0, 0.0, np.clip(t, np.minimum(least, 0.5), 1 - np.minimum(least, 0.5)))
    return np.where(np.abs(fa) <= np.abs(fb), a, b)


def settled(law: Posterior, weight: tuple, d: Any, slopes: Any = (1.0, 1.0), scan: int = 64) -> Any:
    """Where descent that starts at the mean stops: the first zero of the pull in its own direction.

    A pull at the mean that is rounding counts as 0, so that the mean itself is given back.
    """
    mean = law.mean
    g, size = pull(mean, law, weight, d, slopes)
    still, sign = np.abs(g) <= ROUNDING * size, np.sign(g)
    end = np.where(g > 0, law.means.max(-1), law.means.min(-1))  # beyond all means every term of the pull points back
    against = lambda F: -sign * pull(F, law, weight, d, slopes)[0]
    near, far, found = mean, end, np.zeros(np.shape(g), bool)
    for k in range(1, scan + 1):
        F = mean + (end - mean) * k / scan
        crossed = (against(F) >= 0) & ~found
        far, found = np.where(crossed, F, far), found | crossed
        near = np.where(found, near, F)
        if found.all():
            break
    return np.where(still, mean, root(against, near, far))


def shift(law: Posterior, weight: tuple, d: Any, slopes: Any = (1.0, 1.0)) -> np.ndarray:
    """(where descent stops - the mean) / (standard deviation of v_c along e_1)."""
    gap = settled(law, weight, d, slopes) - law.mean
    return np.where(gap == 0, 0.0, gap / np.where(law.std > 0, law.std, 1.0))
