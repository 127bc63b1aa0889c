"""How straight a flow is (Liu et al. 2022, section 2.2):

    S = int_0^1 E |z - x_0 - v(x_t, t)|^2 dt,    x_t = (1 - t) x_0 + t z    (its integrand: kexue 9497 (9)),

over the pairs (x_0, z). For the flow that was trained on these pairs S = int E Var[z - x_0 | x_t] dt: 0 just where no
two lines cross, and then one step of Euler's method is the whole flow. For the pairs (ODE(z), z) of any other flow it
says how far v is from their chords.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from diffjax.theory.generator import Field
from diffjax.theory.wasserstein_bound import Rule, gauss_legendre
from diffjax.types import Array


def straightness(velocity: Field | Callable, x0: Array, z: Array, rule: Rule | None = None) -> Array:
    """Computes S, how far a flow is from straight: a scalar, in squared units of x summed over entries.

    Args:
        velocity: (x, t) -> dx/dt for one example.
        x0, z: (N, ...) pairs: samples, or a cubature of their joint law.
        rule: points in time; None: 16 of Gauss and Legendre on [0, 1].

    Raises:
        ValueError: unless x0 and z have one shape (N, ...).
    """
    if x0.shape != z.shape or x0.ndim < 2:
        raise ValueError(f"Got x0 of shape {x0.shape} and z of shape {z.shape}, expected one shape (N, ...).")
    rule = rule or gauss_legendre(1.0)

    def miss(x0: Array, z: Array, t: Any) -> Array:
        return jnp.sum((z - x0 - velocity((1 - t) * x0 + t * z, t)) ** 2)  # (straightness.1)

    over_pairs = jax.vmap(miss, in_axes=(0, 0, None))
    ts, weights = (jnp.asarray(a, x0.dtype) for a in (rule.ts, rule.weights))
    missed = jax.lax.map(lambda t: over_pairs(x0, z, t).mean(), ts)
    return jnp.vdot(weights, missed, precision="highest")
