"""What must vanish if a density and its dynamics belong together, at a point and in the mean.

    continuity     d_t log p + v . grad log p + div v = 0                  dx/dt = v moves p
                   (kexue 9280 (8), 9461 (16))
    Fokker-Planck  the same with v = f - div(D) / 2 - D grad log p / 2     dx = f dt + G dw, D = G G^T
                   (kexue 9228 (10), 9461 (24))
    weak form      E phi(x_T) - E phi(x_0) = int E[(d_t + L) phi] dt       Dynkin's formula (kexue 9461 (22))

The pointwise ones are divided by p: in 1 / time, and right where p underflows. The weak one asks for samples alone.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from diffjax.theory.generator import Dynamics, Field, ito, probability_flow
from diffjax.types import Array

LogProb = Callable[[Array, Any], Array]  # (x (d,), t) -> log p_t(x), a scalar


def divergence(velocity: Field, x: Array, t: Any) -> Array:
    """Computes div v at (x, t), a scalar: the exact trace, d forward derivatives."""
    return jnp.trace(jax.jacfwd(velocity)(x, t))


def continuity(log_prob: LogProb, velocity: Field, x: Array, t: Any) -> Array:
    """Computes (d_t p + div(p v)) / p at (x, t), a scalar: 0 where dx/dt = v moves p_t."""
    t = jnp.asarray(t, x.dtype)
    _, along = jax.jvp(log_prob, (x, t), (velocity(x, t), jnp.ones_like(t)))
    return along + divergence(velocity, x, t)  # (residuals.1)


def fokker_planck(log_prob: LogProb, sde: Dynamics, x: Array, t: Any) -> Array:
    """Computes (d_t p - L* p) / p at (x, t), a scalar: 0 where p_t is the law of the SDE.

    Raises:
        ValueError: if x, drift or diffusion are not (d,), (d,), (d, k).
    """
    return continuity(log_prob, probability_flow(sde, jax.grad(log_prob)), x, t)  # (residuals.2)


def weak(sde: Dynamics, phi: Callable[[Array, Any], Array], xs: Array, ts: Any) -> Array:
    """Computes phi(x_T) - phi(x_0) - int (d_t + L) phi dt along one path, of phi's shape: a martingale, 0 in the mean.

    Average it over paths of the SDE; independent draws of the marginals do as well, with a larger spread. The integral
    is the trapezoid's, so that the mean is 0 to O(dt^2).

    Args:
        phi: (x (d,), t) -> an array of any shape, the test function; of compact support, or growing slower than the
            tails of p fall.
        xs: (K, d), the path.
        ts: (K,), its times.

    Raises:
        ValueError: unless xs and ts are (K, d) and (K,), K >= 2; or as `generator.ito`.
    """
    ts = jnp.asarray(ts, xs.dtype)
    if xs.ndim != 2 or ts.shape != xs.shape[:1] or len(ts) < 2:
        raise ValueError(f"Got xs {xs.shape} and ts {ts.shape}, expected (K, d) and (K,) with K >= 2.")
    rates = jax.vmap(lambda x, t: ito(sde, phi, x, t).drift)(xs, ts)
    means = 0.5 * (rates[1:] + rates[:-1])
    # (residuals.3)
    return phi(xs[-1], ts[-1]) - phi(xs[0], ts[0]) - jnp.tensordot(jnp.diff(ts), means, 1, precision="highest")
