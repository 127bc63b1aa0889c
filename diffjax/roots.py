"""Derivatives of schedules whose sigma leaves 0 like a square root, where it is 0."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffjax import host
from diffjax.types import Array


def leaving_zero(amplitudes: Callable[[Any, Any], tuple[Array, Array]]) -> Callable[[Any, Any], tuple[Array, Array]]:
    """Gives (schedule, t) -> (alpha, sigma), whose sigma leaves 0 like a square root, its derivatives where sigma is 0.

    Those by the schedule's numbers are 0 there, of alpha and sigma: both are what they are whatever the numbers. The
    chain rule would make infinity times 0 of them. Those by t are as they were: the one of sigma is infinite.
    """

    @jax.custom_jvp
    def rooted(schedule: Any, t: Any) -> tuple[Array, Array]:
        return amplitudes(schedule, t)

    @partial(rooted.defjvp, symbolic_zeros=True)
    def _(primals: Any, tangents: Any) -> tuple[Any, Any]:
        (schedule, t), (turn, rise) = primals, tangents
        found = amplitudes(schedule, t)
        moved = jax.tree.map(jnp.zeros_like, found)
        if not all(map(_still, jax.tree.leaves(turn, is_leaf=_still))):
            at_data, turn = found[1] == 0, jax.tree.map(_number, turn, is_leaf=_still)
            inside = jnp.where(at_data, jax.lax.stop_gradient(jnp.asarray(0.5 * schedule.t_max, t.dtype)), t)
            slopes = jax.jvp(lambda schedule: amplitudes(schedule, inside), (schedule,), (turn,))[1]
            moved = tuple(jnp.where(at_data, 0.0, slope) for slope in slopes)
        if not _still(rise):
            moved = jax.tree.map(jnp.add, moved, jax.jvp(partial(amplitudes, schedule), (t,), (rise,))[1])
        return found, moved

    return lambda schedule, t: (amplitudes if host.planning() else rooted)(schedule, t)


def _still(tangent: Any) -> bool:
    return isinstance(tangent, jax.custom_derivatives.SymbolicZero)


def _number(tangent: Any) -> Any:
    """Makes an array of a tangent that may be a symbolic zero; those of integers are of JAX's empty type."""
    if not _still(tangent):
        return tangent
    plain = tangent.dtype != jax.dtypes.float0
    return jnp.zeros(tangent.shape, tangent.dtype) if plain else np.zeros(tangent.shape, jax.dtypes.float0)
