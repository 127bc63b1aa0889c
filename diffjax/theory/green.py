"""Green functions: ODEs as fields without sources in space and time (kexue 9370).

(p, p v) has no divergence in (t, x) (kexue 9370 (4)), so that each point of data is a charge at t = 0 with the field

    d_t G_1 + div G_x = 0 for t > 0,    G_1(0, x) = delta(x - x_0),    p_t(x | x_0) = G_1,    f_t(x | x_0) = G_x / G_1
                           (kexue 9370 (7, 5)).

    space-time isotropic   G ~ (t, x - x_0) / (t^2 + |x - x_0|^2)^((d + 1) / 2), the only one: Poisson flow
                           (kexue 9370 (11), 9305 (3))
    space isotropic        G_1 = phi_t(r), r = |x - x_0|: G_x = -(x - x_0) r^-d d_t int_0^r phi_t s^(d-1) ds;
                           a Gaussian phi gives the flow of the heat equation (kexue 9370 (25, 29))
    radial                 the same backwards: any law of r, of survival S_t(r) = 1 - psi_t(r), psi -> 1 as t -> 0,
                           p = -d_r S r^(1-d) / area,  f = -(d_t S / d_r S) (x - x_0) / r (kexue 9370 (31))

Whatever psi(r / t), points go straight: f = (x - x_0) / t. What differs is the density, hence the marginal velocity.
The law of r is given by log S, not psi: far out, where psi is 1 to rounding, the velocity is a ratio of its derivatives
all the same.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffjax.types import Array, Key, pytree, static


@pytree
class SpaceTimeIsotropic:
    """The field of a charge in one more dimension, which is t: `processes.poisson` with D = 1 at r = t."""

    def log_density(self, x: Array, x0: Array, t: Any) -> Array:
        """Computes log p_t = log C t / (t^2 + r^2)^((d + 1) / 2), C = Gamma((d + 1) / 2) / pi^((d + 1) / 2)."""
        half = (x.size + 1) / 2
        constant = jax.scipy.special.gammaln(half) - half * np.log(np.pi)
        return constant + jnp.log(t) - half * jnp.log(t**2 + jnp.sum((x - x0) ** 2))  # (green.1)

    def velocity(self, x: Array, x0: Array, t: Any) -> Array:
        """Computes f_t(x | x_0) = (x - x_0) / t, (d,)."""
        return (x - x0) / t

    def sample(self, key: Key, x0: Array, t: Any) -> Array:
        """Draws x_t = x_0 + t e_x / |e_t|, (d,), with normal e."""
        e = jax.random.normal(key, (x0.size + 1,), x0.dtype)
        return x0 + t * e[:-1].reshape(x0.shape) / jnp.abs(e[-1])  # (green.2)


@pytree
class SpaceIsotropic:
    """The Gaussian phi_t = N(0, sigma(t)^2 I): -sigma' sigma grad log p is its marginal velocity (`heat`).

    Attributes:
        sigma: t -> standard deviation, differentiable, 0 at t = 0.
    """

    sigma: Callable[[Any], Array] = static()

    def log_density(self, x: Array, x0: Array, t: Any) -> Array:
        """Computes log p_t = log N(x; x_0, sigma^2 I), a scalar."""
        return jnp.sum(jax.scipy.stats.norm.logpdf(x, x0, self.sigma(t)))

    def velocity(self, x: Array, x0: Array, t: Any) -> Array:
        """Computes f_t(x | x_0) = sigma' / sigma (x - x_0), (d,)."""
        sigma, rate = jax.jvp(self.sigma, (jnp.asarray(t, x.dtype),), (jnp.ones((), x.dtype),))
        return rate / sigma * (x - x0)  # (green.3)

    def sample(self, key: Key, x0: Array, t: Any) -> Array:
        """Draws x_t = x_0 + sigma z, (d,)."""
        return x0 + self.sigma(t) * jax.random.normal(key, x0.shape, x0.dtype)


@pytree
class Radial:
    """A law of the distance r from x_0, in every direction alike. The density is infinite at r = 0 if d > 1.

    Attributes:
        log_survival: (r, t) -> log P(distance > r), differentiable in both, 0 at r = 0.
        quantile: (u, t) -> the r at which the survival is 1 - u.
    """

    log_survival: Callable[[Array, Any], Array] = static()
    quantile: Callable[[Array, Any], Array] = static()

    def log_density(self, x: Array, x0: Array, t: Any) -> Array:
        """Computes the log of p_t = -d_r S r^(1-d) / area of the unit sphere, a scalar; r > 0."""
        r = _norm(x - x0)
        log_s, slope = jax.value_and_grad(self.log_survival)(r, t)
        log_area = np.log(2) + x.size / 2 * np.log(np.pi) - jax.scipy.special.gammaln(x.size / 2)
        return log_s + jnp.log(-slope) - (x.size - 1) * jnp.log(r) - log_area  # (green.4)

    def velocity(self, x: Array, x0: Array, t: Any) -> Array:
        """Computes f_t(x | x_0) = -(d_t S / d_r S) (x - x_0) / r, (d,); r > 0."""
        r = _norm(x - x0)
        along, rate = jax.grad(self.log_survival, argnums=(0, 1))(r, jnp.asarray(t, x.dtype))
        return -(rate / along) * (x - x0) / r  # (green.5)

    def sample(self, key: Key, x0: Array, t: Any) -> Array:
        """Draws x_t = x_0 + r u, (d,), u a direction."""
        key_r, key_u = jax.random.split(key)
        e = jax.random.normal(key_u, x0.shape, x0.dtype)
        return x0 + self.quantile(jax.random.uniform(key_r, (), x0.dtype), t) * e / _norm(e)


def tanh() -> Radial:
    """Makes the radial law psi = tanh(r / t): S = 2 / (exp(2 r / t) + 1)."""
    return Radial(_tanh_survival, _tanh_quantile)


def exponential() -> Radial:
    """Makes the radial law psi = 1 - exp(-r / t): S = exp(-r / t)."""
    return Radial(_exponential_survival, _exponential_quantile)


# Module-level, so that two of a kind are one structure to `jit`.
def _tanh_survival(r: Array, t: Any) -> Array:
    return np.log(2) - jax.nn.softplus(2 * r / t)


def _tanh_quantile(u: Array, t: Any) -> Array:
    return t * jnp.arctanh(u)


def _exponential_survival(r: Array, t: Any) -> Array:
    return -r / t


def _exponential_quantile(u: Array, t: Any) -> Array:
    return -t * jnp.log1p(-u)


def _norm(x: Array) -> Array:
    return jnp.sqrt(jnp.sum(x**2))
