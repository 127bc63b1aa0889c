"""Textbook formulas in NumPy's widest floats: what the tests expect. Nothing here is computed by the library.

Schedules are written the naive way (1 - exp(-B), 1 - cos^2), which cancels: extended precision pays for it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

wide = np.longdouble
PI = wide("3.14159265358979323846264338327950288")
TENTH, TWENTY, COSINE_S, HUNDREDTH, FIFTY = (wide(s) for s in ("0.1", "20", "0.008", "0.01", "50"))


class Form(NamedTuple):
    """A schedule in closed form: t -> (alpha, sigma) and t -> (f, g^2), with the hyper-parameters as keywords."""

    amplitudes: Callable[..., tuple[Any, Any]]
    rates: Callable[..., tuple[Any, Any]]


def _integral(t, beta_min, beta_max):
    return beta_min * t + (beta_max - beta_min) * t**2 / 2


def _vp(t, beta_min=TENTH, beta_max=TWENTY):
    kept = np.exp(-_integral(t, beta_min, beta_max))
    return np.sqrt(kept), np.sqrt(1 - kept)


def _sub_vp(t, beta_min=TENTH, beta_max=TWENTY):
    kept = np.exp(-_integral(t, beta_min, beta_max))
    return np.sqrt(kept), 1 - kept


def _beta(t, beta_min=TENTH, beta_max=TWENTY):
    return beta_min + (beta_max - beta_min) * t


def _sub_vp_rates(t):
    kept = np.exp(-_integral(t, TENTH, TWENTY))
    return -_beta(t) / 2, _beta(t) * (1 - kept**2)


def _ve(t, sigma_min=HUNDREDTH, sigma_max=FIFTY):
    return np.ones_like(t), sigma_min * (sigma_max / sigma_min) ** t


def _vdm(t):
    snr = np.exp(wide("13.3") - wide("18.3") * t)
    return np.sqrt(snr / (1 + snr)), np.sqrt(1 / (1 + snr))


def _vdm_rates(t):
    g2 = wide("18.3") * _vdm(t)[1] ** 2
    return -g2 / 2, g2


def _cosine(t, s=COSINE_S):
    alpha = np.cos((t + s) / (1 + s) * PI / 2) / np.cos(s / (1 + s) * PI / 2)
    return alpha, np.sqrt(1 - alpha**2)


def _cosine_rates(t, s=COSINE_S):
    f = -PI / 2 / (1 + s) * np.tan((t + s) / (1 + s) * PI / 2)
    return f, -2 * f


VP = Form(_vp, lambda t: (-_beta(t) / 2, _beta(t)))
SUB_VP = Form(_sub_vp, _sub_vp_rates)
VE = Form(_ve, lambda t: (0 * t, 2 * _ve(t)[1] ** 2 * np.log(FIFTY / HUNDREDTH)))
VDM = Form(_vdm, _vdm_rates)
EDM = Form(lambda t: (np.ones_like(t), t), lambda t: (0 * t, 2 * t))
COSINE = Form(_cosine, _cosine_rates)
RECTIFIED = Form(lambda t: (1 - t, t), lambda t: (-1 / (1 - t), 2 * t / (1 - t)))


def chain(betas) -> Form:
    """A DDPM chain with beta(t) constant on each step, from its betas."""
    bars = np.concatenate([[wide(1)], np.cumprod(1 - np.asarray(betas, wide))])

    def amplitudes(t):
        k = np.minimum(np.floor(t * len(betas)).astype(int), len(betas) - 1)
        bar = bars[k] * (bars[k + 1] / bars[k]) ** (t * len(betas) - k)
        return np.sqrt(bar), np.sqrt(1 - bar)

    def rates(t):
        k = np.floor(t * len(betas)).astype(int)
        f = len(betas) * np.log(bars[k + 1] / bars[k]) / 2
        return f, -2 * f

    return Form(amplitudes, rates)


def amplitudes(form: Form, t) -> tuple[Any, Any]:
    """(alpha, sigma) of a closed form, float64; cos(pi / 2) is 0."""
    alpha, sigma = form.amplitudes(np.asarray(t, wide))
    return np.float64(np.where(np.abs(alpha) < 1e-18, 0, alpha)), np.float64(sigma)


def slopes(form: Form, t) -> tuple[Any, Any]:
    """(alpha', sigma') from the rates: alpha' = f alpha, (sigma^2)' = 2 f sigma^2 + g^2."""
    (alpha, sigma), (f, g2) = form.amplitudes(t), form.rates(t)
    return f * alpha, f * sigma + g2 / (2 * sigma)


class Mixture(NamedTuple):
    """sum_k w_k N(m_k, C_k) in d dimensions, by SciPy and Bayes' rule."""

    weights: np.ndarray  # (K,)
    means: np.ndarray  # (K, d)
    covariances: np.ndarray  # (K, d, d)

    def marginals(self, alpha, sigma) -> list[Any]:
        """Each component's law of x_t."""
        noise = sigma**2 * np.eye(self.means.shape[1])
        return [
            stats.multivariate_normal(alpha * m, alpha**2 * c + noise) for m, c in zip(self.means, self.covariances)
        ]

    def density(self, x, alpha=1.0, sigma=0.0) -> float:
        return sum(w * law.pdf(x) for w, law in zip(self.weights, self.marginals(alpha, sigma)))

    def posterior(self, x, alpha, sigma) -> tuple[np.ndarray, np.ndarray]:
        """Mean (d,) and covariance (d, d) of x_0 given x_t = x: conditioning of jointly Gaussian vectors."""
        likelihood = np.array([law.pdf(x) for law in self.marginals(alpha, sigma)])
        share = self.weights * likelihood / np.sum(self.weights * likelihood)
        means, second = [], []
        for m, c in zip(self.means, self.covariances):
            gain = alpha * c @ np.linalg.inv(alpha**2 * c + sigma**2 * np.eye(len(m)))
            means.append(m + gain @ (x - alpha * m))
            second.append(c - alpha * gain @ c + np.outer(means[-1], means[-1]))
        mean = share @ np.array(means)
        return mean, np.einsum("k,kij->ij", share, np.array(second)) - np.outer(mean, mean)
