"""The diffusion ODE by way of the heat equation, without an SDE (kexue 9280).

dx/dt = v moves densities by d_t p = - div(p v) (kexue 9280 (9)). The ansatz is v = - D_t grad log p (kexue 9280 (10)).
It makes this the heat equation d_t p = D_t Laplace p (kexue 9280 (12)). That smooths with a Gaussian:
p_t = p_0 * N(0, sigma_t^2 I) where D = sigma' sigma (kexue 9280 (16)). Hence

    dx/dt = - sigma' sigma grad log p_t(x)        (Karras et al. 2022, eq. 1; kexue 9280 (17))

from N(0, sigma_T^2 I), sigma_T far above the diameter of the data, down to t = 0. y = alpha_t x gives it a drift: with
sigma_t / alpha_t in the place of sigma_t it is the probability flow of the schedule (alpha, sigma). Backwards the heat
equation is ill-posed: steps must shrink with sigma.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from diffjax.theory.generator import Field
from diffjax.theory.residuals import LogProb, divergence
from diffjax.types import Array

Clock = Callable[[Any], Array]  # t -> a scalar: sigma_t, alpha_t


def residual(log_prob: LogProb, sigma: Clock, x: Array, t: Any) -> Array:
    """Computes (d_t p - sigma' sigma Laplace p) / p, a scalar: Laplace p / p = Laplace log p + |grad log p|^2."""
    now, rate = _derivative(sigma, t)
    slope = jax.grad(log_prob)
    laplace = divergence(slope, x, t) + jnp.sum(slope(x, t) ** 2)
    # (heat.2)
    return jax.jvp(lambda s: log_prob(x, s), (jnp.asarray(t, float),), (jnp.ones(()),))[1] - rate * now * laplace


def flow(score: Field, sigma: Clock) -> Field:
    """Makes the velocity -sigma' sigma score(x, t) of the heat equation's ODE.

    Args:
        score: grad log p_t of p_t = p_0 * N(0, sigma_t^2 I).
        sigma: differentiable in t.
    """

    def velocity(x: Array, t: Any) -> Array:
        now, rate = _derivative(sigma, t)
        return -rate * now * score(x, t)  # (heat.1)

    return velocity


def rescale(velocity: Field, alpha: Clock) -> Field:
    """Makes the velocity of y = alpha_t x: alpha' / alpha y + alpha velocity(y / alpha, t)."""

    def rescaled(y: Array, t: Any) -> Array:
        now, rate = _derivative(alpha, t)
        return rate / now * y + now * velocity(y / now, t)  # (heat.3)

    return rescaled


def with_log_prob(velocity: Field) -> Callable[[tuple[Array, Array], Any], tuple[Array, Array]]:
    """Makes ((x, log p_t(x)), t) -> their rates (v, -div v), at equal stages of a solver (Chen et al. 2018, eq. 8)."""
    return lambda state, t: (velocity(state[0], t), -divergence(velocity, state[0], t))  # (heat.4)


def _derivative(clock: Clock, t: Any) -> tuple[Array, Array]:
    t = jnp.asarray(t, float)
    return jax.jvp(clock, (t,), (jnp.ones_like(t),))
