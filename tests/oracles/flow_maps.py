"""Exact flow maps, in float64: of Gaussians of any covariance, of mixtures on the line, and the networks that say them.

On y = x / sqrt(alpha^2 + sigma^2) every schedule's flow is that of the angle: y = cos(phi) x_0 + sin(phi) z. No library
code but the pair (a, b) that turns the ends of a map into what a network predicts.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import optimize, special


class Gaussian(NamedTuple):
    """N(mean, U diag(variances) U^T)."""

    mean: np.ndarray
    basis: np.ndarray
    variances: np.ndarray

    def denoise(self, y, phi):
        """E[x_0 | y]."""
        cos, sin = jnp.cos(phi), jnp.sin(phi)
        gain = cos * self.variances / (cos**2 * self.variances + sin**2)
        return self.mean + self.basis @ (gain * (self.basis.T @ (y - cos * self.mean)))

    def land(self, y, phi, psi):
        """Where the flow carries y from the angle phi to psi: V_psi^(1/2) V_phi^(-1/2) of what is off the mean."""
        spread = lambda angle: jnp.sqrt(jnp.cos(angle) ** 2 * self.variances + jnp.sin(angle) ** 2)
        off = self.basis.T @ (y - jnp.cos(phi) * self.mean)
        return jnp.cos(psi) * self.mean + self.basis @ (spread(psi) / spread(phi) * off)


def gaussian(mean, root):
    """N(mean, root root^T)."""
    variances, basis = np.linalg.eigh(root @ root.T)
    return Gaussian(np.asarray(mean), basis, variances)


class Line(NamedTuple):
    """sum_k w_k N(m_k, s_k^2), for y of shape (1,): the map takes quantiles to quantiles."""

    w: np.ndarray
    m: np.ndarray
    s: np.ndarray

    def denoise(self, y, phi):
        """E[x_0 | y]: responsibilities times regressions."""
        m, s = _levels(self, phi)
        share = jax.nn.softmax(jnp.log(self.w / s) - ((y - m) / s) ** 2 / 2)
        return jnp.sum(share * (self.m + jnp.cos(phi) * self.s**2 / s**2 * (y - m)))[None]

    def land(self, y, phi, psi):
        """The quantile map; differentiable: a root by bisection, stopped, and steps of Newton's from there."""
        level = _cdf(self, y, phi)
        found = _root(self, *jax.lax.stop_gradient((level, psi)))[None]
        for _ in range(2):
            found = found - (_cdf(self, found, psi) - level) / _density(self, found, psi)
        return found


def _levels(law, phi):
    """Means and standard deviations at the angle phi."""
    return jnp.cos(phi) * law.m, jnp.sqrt((jnp.cos(phi) * law.s) ** 2 + jnp.sin(phi) ** 2)


def _cdf(law, y, phi):
    m, s = _levels(law, phi)
    return jnp.sum(law.w * jax.scipy.special.ndtr((y - m) / s))


def _density(law, y, phi):
    m, s = _levels(law, phi)
    return jnp.sum(law.w * jnp.exp(-(((y - m) / s) ** 2) / 2) / s) / np.sqrt(2 * np.pi)


@jax.jit
def _root(law, level, psi):
    """Where the distribution function is `level`, by bisection."""

    def halve(_, ends):
        low, high = ends
        middle = (low + high) / 2
        below = _cdf(law, middle[None], psi) < level
        return jnp.where(below, middle, low), jnp.where(below, high, middle)

    return jax.lax.fori_loop(0, 60, halve, (jnp.full_like(level, -12.0), jnp.full_like(level, 12.0)))[0]


def line(w, m, s):
    """A mixture on the line."""
    return Line(*(np.asarray(a, np.float64) for a in (w, m, s)))


def now(c):
    """The angle that a network is told by the log-SNR c; networks are told no less than -19.9 at pure noise."""
    return jnp.where(c < -19.89, np.pi / 2, jnp.arctan(jnp.exp(-c / 2)))


def network(law, schedule, target):
    """(x_in, c, gap) -> F of the exact map, reading both times out of what a network is told; sigma_data is 1."""

    def net(y, c, gap):
        phi = now(c)
        psi = phi - gap[0]
        same = gap[0] == 0
        apart = jnp.where(same, 1.0, jnp.sin(phi - psi))
        landed = law.land(y, phi, jnp.where(same, phi / 2, psi))
        mean = (jnp.sin(phi) * landed - jnp.sin(psi) * y) / apart
        noise = (jnp.cos(psi) * y - jnp.cos(phi) * landed) / apart
        D = law.denoise(y, phi)
        Z = (y - jnp.cos(phi) * D) / jnp.sin(phi)
        a, b = target(schedule, schedule.inverse(c))
        return jnp.where(same, a * D + b * Z, a * mean + b * noise)

    return net


def quantile(levels, w, m, s):
    """The quantile function of a mixture on the line, by SciPy alone."""
    cdf = lambda x: np.sum(np.asarray(w) * special.ndtr((x - np.asarray(m)) / np.asarray(s)))
    return np.array([optimize.brentq(lambda x, p=p: cdf(x) - p, -40, 40, xtol=1e-14) for p in np.atleast_1d(levels)])


def posterior(x, alpha, sigma, w, m, s, nodes=40):
    """Nodes and weights of x_0 | x_t = x for data of a mixture: Gauss-Hermite in each component."""
    w, m, s = (np.asarray(a, np.float64) for a in (w, m, s))
    total = alpha**2 * s**2 + sigma**2
    share = np.log(w) - (x - alpha * m) ** 2 / (2 * total) - np.log(total) / 2
    share = np.exp(share - share.max())
    share /= share.sum()
    mean, std = m + alpha * s**2 / total * (x - alpha * m), s * sigma / np.sqrt(total)
    node, weight = np.polynomial.hermite_e.hermegauss(nodes)
    return (mean[:, None] + std[:, None] * node).ravel(), (share[:, None] * weight / weight.sum()).ravel()
