"""Training times drawn where the loss is large (Nichol & Dhariwal 2021, section 3.3).

    p_k ~ sqrt(E[L_k^2]) over the last 10 losses of every k, mixed with 0.001 of uniform;   weight 1 / (T p_k),

so that the weighted loss has the mean of the uniform one, whatever p. Uniform until every k has its 10 losses.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from diffjax import chains, host
from diffjax.types import Array, Key, Prepare, PyTree, Schedule


class LastLosses(NamedTuple):
    """The memory of `importance`: the last losses of every step of the chain."""

    squares: Array  # (T, history), a ring
    count: Array  # (T,), how many there were


MOST = 2**28  # losses that are remembered: 1 GiB


def importance(schedule: Schedule, steps: int | None = None, history: int = 10, uniform: float = 0.001) -> Prepare:
    """Draws each example's time "t" where the loss is large, and gives the "weight" that keeps the loss's mean.

    Args:
        steps: T (`chains.length`); t / t_max = k / T, k = 1 .. T.
        history: losses kept of each k.
        uniform: share of the uniform law in p.

    Raises:
        ValueError: for counts below 1, or a share outside (0, 1].
    """
    T = chains.length(schedule, steps)
    for name, value in (("steps", T), ("history", history)):
        host.check_int(name, value)
    if T * history > MOST:
        raise ValueError(f"steps = {T} times history = {history} are more than {MOST} losses: keep fewer.")
    if not 0 < uniform <= 1:
        raise ValueError(f"The share of uniform times is {uniform}, expected it in (0, 1] (published: 0.001).")

    def init() -> LastLosses:
        return LastLosses(jnp.zeros((T, history), jnp.float32), jnp.zeros(T, jnp.int32))

    def apply(memory: LastLosses, key: Key, batch: PyTree) -> PyTree:
        size = jax.tree.leaves(batch)[0].shape[0]
        keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(size))
        p = probabilities(memory, uniform)
        ladder = jnp.cumsum(p)
        k = jnp.searchsorted(ladder, jax.vmap(jax.random.uniform)(keys) * ladder[-1], side="right")
        k = jnp.minimum(k, T - 1)
        return batch.choose(t=(k + 1) / T * schedule.t_max, weight=1 / (T * p[k]))  # (iddpm.5)

    def update(memory: LastLosses, losses: Array, logged: dict[str, Array]) -> LastLosses:
        k = jnp.round(logged["t01"] * T).astype(jnp.int32) - 1
        return remember(memory, k, losses**2)

    return Prepare(init, apply, update)


def probabilities(memory: LastLosses, uniform: Any) -> Array:
    """Computes p (T,), the probability of each step k, from the memory; it sums to 1."""
    T, history = memory.squares.shape
    root = jnp.sqrt(memory.squares.mean(1))
    total = root.sum()
    ready = (memory.count >= history).all() & (total > 0)
    law = jnp.where(ready, root / jnp.where(ready, total, 1.0), 1 / T)
    return (1 - uniform) * law + uniform / T  # (iddpm.4)


def remember(memory: LastLosses, k: Array, squares: Array) -> LastLosses:
    """Adds the squared losses (B,) of the steps k (B,) to the memory, in order: of one step the last `history` stay."""
    T, history = memory.squares.shape
    alike, order = k[:, None] == k[None, :], jnp.arange(len(k), dtype=jnp.int32)
    earlier = (alike & (order[None, :] < order[:, None])).sum(1, dtype=jnp.int32)
    later = (alike & (order[None, :] > order[:, None])).sum(1, dtype=jnp.int32)
    place = (memory.count[k] + earlier) % history
    kept = jnp.where(later < history, k, T)  # T is out of range: dropped
    added = jnp.zeros_like(memory.count).at[k].add(1)
    squares = memory.squares.at[kept, place].set(squares.astype(memory.squares.dtype), mode="drop")
    return LastLosses(squares, memory.count + added)
