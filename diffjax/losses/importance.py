"""Training times drawn where the loss is large (Nichol & Dhariwal 2021, section 3.3).

    p_k ~ sqrt(E[L_k^2]) over the last 10 losses of every k, mixed with 0.001 of uniform;   weight 1 / (T p_k),

so that the weighted loss has the mean of the uniform one, whatever p. Uniform until every k has its 10 losses.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffjax import chains
from diffjax.types import Array, Key, Prepare, PyTree, Schedule


class Seen(NamedTuple):
    """The last losses of every step of the chain."""

    squares: Array  # (T, history), a ring
    count: Array  # (T,), how many there were


def importance(schedule: Schedule, steps: int | None = None, history: int = 10, uniform: float = 0.001) -> Prepare:
    """Gives each example of the batch its time "t" and the "weight" of its loss.

    Args:
        steps: T (`chains.length`); t / t_max = k / T, k = 1 .. T.
        history: losses kept of each k.
        uniform: share of the uniform law in p.

    Raises:
        ValueError: for counts below 1, or a share outside (0, 1].
    """
    T = chains.length(schedule, steps)
    for name, value in (("steps", T), ("history", history)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
            raise ValueError(f"{name} is {value!r}, expected an integer >= 1.")
    if not 0 < uniform <= 1:
        raise ValueError(f"The share of uniform times is {uniform}, expected it in (0, 1] (published: 0.001).")

    def init() -> Seen:
        return Seen(jnp.zeros((T, history), jnp.float32), jnp.zeros(T, jnp.int32))

    def apply(seen: Seen, key: Key, batch: PyTree) -> PyTree:
        size = jax.tree.leaves(batch)[0].shape[0]
        own = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(size))
        p = probabilities(seen, uniform)
        ladder = jnp.cumsum(p)
        k = jnp.searchsorted(ladder, jax.vmap(jax.random.uniform)(own) * ladder[-1], side="right")
        k = jnp.minimum(k, T - 1)
        return batch.choose(t=(k + 1) / T * schedule.t_max, weight=1 / (T * p[k]))

    def update(seen: Seen, losses: Array, logged: dict[str, Array]) -> Seen:
        k = jnp.round(logged["t01"] * T).astype(jnp.int32) - 1
        return remember(seen, k, losses**2)

    return Prepare(init, apply, update)


def probabilities(seen: Seen, uniform: Any) -> Array:
    """p (T,)."""
    T, history = seen.squares.shape
    root = jnp.sqrt(seen.squares.mean(1))
    total = root.sum()
    ready = (seen.count >= history).all() & (total > 0)
    law = jnp.where(ready, root / jnp.where(ready, total, 1.0), 1 / T)
    return (1 - uniform) * law + uniform / T


def remember(seen: Seen, k: Array, squares: Array) -> Seen:
    """The ring after losses of the steps k (B,), as if they had come one by one: of many alike the last stay."""
    T, history = seen.squares.shape
    alike, order = k[:, None] == k[None, :], jnp.arange(len(k), dtype=jnp.int32)
    earlier = (alike & (order[None, :] < order[:, None])).sum(1, dtype=jnp.int32)
    later = (alike & (order[None, :] > order[:, None])).sum(1, dtype=jnp.int32)
    place = (seen.count[k] + earlier) % history
    kept = jnp.where(later < history, k, T)  # T is out of range: dropped
    added = jnp.zeros_like(seen.count).at[k].add(1)
    squares = seen.squares.at[kept, place].set(squares.astype(seen.squares.dtype), mode="drop")
    return Seen(squares, seen.count + added)
