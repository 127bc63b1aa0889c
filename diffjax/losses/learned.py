"""A schedule learned by the variance of the loss (Kingma et al. 2021, section 5.1 and appendix I.2).

Times are t = t_max v(u), u even, each loss L weighted by v'(u): the weighted loss has the mean of even t, whatever the
clock v, so that the clock moves its variance alone.

    minimised      E[(v' L)^2] = integral of l(v) v' dv,     l(v) = E[L^2 | v]
    its gradient   E[(v' L)^2 grad s],     s = log v' - stop(v'' / v'^2) v    at fixed u

No derivative of the network is in it: the losses that a training step makes anyway are enough.

The best clock has v' ~ 1 / sqrt(l), which makes every time's loss equally large. With `weights.likelihood` L estimates
the diffusion part of the bound, and the clock is VDM's schedule between the ends of this one (`schedules.VDM`).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from diffjax import host
from diffjax.calculus import need_scalar
from diffjax.clock import Monotone, Warped
from diffjax.types import Array, Key, Prepare, PyTree, Schedule


class Learning(NamedTuple):
    """The memory of `learned`: the clock so far, and its optimizer's state."""

    clock: Monotone
    state: Any


def learned(
    schedule: Schedule, features: int = 64, learning_rate: float = 3e-3, t_min: float = 1e-5, decay: float = 0.999
) -> Prepare:
    """Draws each example's time "t" and the "weight" of its loss by a clock, and learns that clock.

    Samples and reports are made by the learned clock's schedule (`clock.Warped`).

    Args:
        features: of the monotone network.
        learning_rate: of Adam, for the clock alone.
        t_min: times before it are drawn at it: there a loss may not be finite.
        decay: of the second moment of the gradient.

    Raises:
        ValueError: for a rate or a count that is not positive, or t_min outside [0, t_max).
    """
    need_scalar(schedule, "A clock that is learned")
    first = Monotone.near_identity(features)
    host.check_positive("The clock's learning_rate", learning_rate)
    if not 0 <= t_min < float(schedule.t_max):
        raise ValueError(f"t_min is {t_min}, expected 0 <= t_min < t_max = {float(schedule.t_max)}.")
    optimizer = optax.adam(learning_rate, b2=decay)

    def init() -> Learning:
        clock = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), first)
        return Learning(clock, optimizer.init(clock))

    def apply(learning: Learning, key: Key, batch: PyTree) -> PyTree:
        size = jax.tree.leaves(batch)[0].shape[0]
        place = jnp.arange(size) / size + jax.random.uniform(key)
        v, slope = _with_slope(learning.clock, place - jnp.floor(place))
        return batch.choose(t=jnp.maximum(schedule.t_max * v, t_min), weight=slope)  # (vdm-clock.2)

    def update(learning: Learning, losses: Array, logged: dict[str, Array]) -> Learning:
        u = learning.clock.inverse(logged["t01"])
        gradient = jax.grad(_log_variance)(learning.clock, u, losses)
        with jax.numpy_dtype_promotion("standard"):  # optax multiplies integer counts by floats
            change, state = optimizer.update(gradient, learning.state)
        return Learning(jax.tree.map(jnp.add, learning.clock, change), state)

    return Prepare(init, apply, update, lambda learning: Warped(schedule, learning.clock))


def _with_slope(clock: Monotone, u: Array) -> tuple[Array, Array]:
    """v(u) and its derivative v'(u), each of u's shape."""
    return jax.jvp(clock, (u,), (jnp.ones_like(u),))


def _log_variance(clock: Monotone, u: Array, losses: Array) -> Array:
    """A scalar whose gradient is that of log E[(v' L)^2], from losses (B,) at v(u), u (B,)."""
    (v, slope), (_, bend) = jax.jvp(lambda u: _with_slope(clock, u), (u,), (jnp.ones_like(u),))
    squares = jax.lax.stop_gradient((slope * losses) ** 2)
    score = jnp.log(slope) - jax.lax.stop_gradient(bend / slope**2) * v  # (vdm-clock.3)
    return jnp.mean(squares * score) / jnp.maximum(jnp.mean(squares), jnp.finfo(squares.dtype).tiny)
