"""From data to its noise along the probability flow, and between noises: encode, interpolate, decode (kexue 9181).

A deterministic sampler run up its grid is an encoder (Song et al. 2020, section 4.3). It evaluates the model at the
lower end of every step where decoding evaluates it at the upper one: a round trip is exact only to the sampler's order.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffjax import grids
from diffjax.samplers.base import Sampler, rows_of, sampling_fn
from diffjax.types import Array


def encoding_fn(sampler: Sampler, ts: Any) -> jax.tree_util.Partial:
    """Makes `encode(model, key, x) -> x_T`: the sampler along the grid from its end to its start, for one example.

    Args:
        sampler: one that adds no noise; `key` is not used.
        ts: decreasing times (N + 1,), as for `sampling_fn`, ending above t = 0 (zero=False); x counts as x_t there.

    Raises:
        ValueError: for a sampler that adds noise, or a grid that is not decreasing or ends at t = 0.
    """
    end = None if sampler.schedule is None else float(sampler.schedule.t_max)
    ts = grids.check(ts, end)
    if ts[-1] == 0:
        raise ValueError("Encoding starts at the grid's last time, where x must carry noise; got 0: give zero=False.")
    rows = rows_of(sampler, ts)
    noisy = [name for name in rows._fields if name.startswith("noise") and np.any(getattr(rows, name) != 0)]
    if noisy:
        raise ValueError(
            "Encoding follows the probability flow, but this sampler adds noise; set its eta or churn to 0."
        )
    return sampling_fn(sampler._replace(plan=lambda ts: sampler.plan(ts[::-1])), ts)  # (encoding.1)


def slerp(a: Array, b: Array, weight: Any) -> Array:
    """Finds the point at `weight` of the angle from a to b, on their great circle (Song et al. 2020, appendix D.5).

    Args:
        a, b: of one shape, not parallel.
        weight: 0 gives a, 1 gives b.
    """
    cosine = jnp.vdot(a, b, precision="highest") / (jnp.linalg.norm(a.ravel()) * jnp.linalg.norm(b.ravel()))
    angle = jnp.arccos(jnp.clip(cosine, -1.0, 1.0))
    return (jnp.sin((1 - weight) * angle) * a + jnp.sin(weight * angle) * b) / jnp.sin(angle)  # (encoding.2)


def mix(a: Array, b: Array, weight: Any) -> Array:
    """Mixes a cos(w pi / 2) + b sin(w pi / 2): standard normal if a and b are, and independent (kexue 9181 (15)).

    A straight line between them would halve the variance in the middle.
    """
    return jnp.cos(weight * np.pi / 2) * a + jnp.sin(weight * np.pi / 2) * b  # (encoding.3)
