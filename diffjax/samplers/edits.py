"""Walks of editing, in which t counts the wrong places of x_t (`processes.editing`; kexue 9271, its editing example).

One place a step needs the marginals alone: x_s is x_t with place i set to v with probability

    p(x_0,i = v | x_t) / t,    v != x_t,i,        (exact)

which sum to 1, because the expected number of places that differ is t. A network's do not: what is drawn is the pair
(i, v) of the normalised ones, and `total` is the sum, a diagnostic that is 1 for the true marginals.

Several places a step need an estimate x_0 with exactly t of them (`denoisers.joint.differing`), t - s of which, at
random, are then set right. It takes the places for independent given x_t: the price of its steps, as for every
factorised estimate.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffjax.denoisers.joint import Counted, other_tokens
from diffjax.processes.editing import Editing, ranks
from diffjax.samplers.base import Sampler
from diffjax.schedules import count
from diffjax.types import Array, Categorical, Key, real

__all__ = ["several", "single"]  # what a config may name


class Counts(NamedTuple):
    """The rows of editing's walks: the numbers of wrong places before a step and after it."""

    t: Any
    s: Any


def single(process: Editing) -> Sampler:
    """Samples by setting one place a step right: exact for exact marginals, from an x_L all of whose places are wrong.

    Raises:
        ValueError: for another process than editing; from `plan`, for a grid that is not L, L - 1, .. 0 or an end of it
            (`grids.counts`).
    """
    _check(process)

    def plan(ts: np.ndarray) -> Counts:
        rows = _counts(ts)
        if (long := np.flatnonzero(rows.t - rows.s != 1)).size:
            i = long[0]
            raise ValueError(
                f"edits.single sets one place a step right, but the grid goes from {rows.t[i]:g} to {rows.s[i]:g}: "
                f"take the grid of {rows.t[0]:g} steps, or edits.several."
            )
        return rows

    return Sampler(_single, plan, schedule=process.schedule, tokens=True)


def several(process: Editing) -> Sampler:
    """Samples by setting t - s of exactly t wrong places right at once: biased unless one place is wrong at t.

    Raises:
        ValueError: for another process than editing; from `plan`, for times that are no counts.
    """
    _check(process)
    return Sampler(_several, _counts, schedule=process.schedule, tokens=True)


def total(posterior: Categorical, x: Array, t: Any) -> Array:
    """Computes the expected number of places that differ from x, over t: 1 for the true marginals."""
    return (1 - jnp.exp(posterior.log_prob(x))).sum() / real(t)


def pairs(posterior: Categorical, x: Array) -> Categorical:
    """Makes the law of what one step sets right, the pair (place, token other than x's): logits (L V,)."""
    return Categorical(other_tokens(jax.nn.log_softmax(posterior.logits, axis=-1), x).logits.ravel())  # (editing.5)


def _single(model: Any, key: Key, x: Array, row: Counts) -> Array:
    law = model(x, row.t)
    place, token = jnp.divmod(pairs(law, x).sample(key), law.logits.shape[-1])
    return x.ravel().at[place].set(token.astype(x.dtype)).reshape(x.shape)


def _several(model: Any, key: Key, x: Array, row: Counts) -> Array:
    key_estimate, key_order = jax.random.split(key)
    wrong_now = count(row.t)
    estimate = Counted(model(x, row.t).logits, x, wrong_now).sample(key_estimate)
    wrong = estimate != x
    order = ranks(jnp.where(wrong, jax.random.uniform(key_order, x.shape), 2.0))
    return jnp.where(wrong & (order < wrong_now - count(row.s)), estimate, x).astype(x.dtype)


def _counts(ts: np.ndarray) -> Counts:
    if (broken := ts[ts != np.round(ts)]).size:
        raise ValueError(f"The grid has t = {broken[0]:g}, expected counts of wrong places: take grids.counts.")
    return Counts(ts[:-1], ts[1:])


def _check(process: Any) -> None:
    if not isinstance(process, Editing):
        raise ValueError(
            f"Got {type(process).__name__}, expected the process editing, whose time counts wrong places; "
            "samplers.unified walks back along any process."
        )
