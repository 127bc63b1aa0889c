"""Exponential moving averages of the parameters, several decays at once, with warm-up.

    average <- average + r_n (params - average),    r_n = 1 - min(decay, (1 + n) / (10 + n)),

n being the number of updates before this one: the `num_updates` rule of TensorFlow's ExponentialMovingAverage, which
Song et al. 2021 train with. An average starts at the parameters themselves, so it is a weighted mean at every moment
(the weights sum to one) and needs no debiasing; the warm-up makes the untrained parameters fade within tens of updates.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from diffjax.types import Array, PyTree

__all__ = ["warm_up"]  # what a config may name


class State(NamedTuple):
    """What a checkpoint must hold to go on averaging: the updates made so far, int32, and one tree for each name."""

    count: Array
    averages: dict[str, PyTree]


class Ema(NamedTuple):
    """A rule of averaging as pure functions: another rule (other weights, other counters) is another triple."""

    init: Callable[[PyTree], State]
    update: Callable[[State, PyTree], State]
    decays: Callable[[State], dict[str, Array]]  # the decay that the next update will use, by name


def warm_up(decays: Sequence[float] = (0.999,)) -> Ema:
    """One average for each decay, named by it ("0.999"), all warmed up alike; no decays, no averages.

    Averages are float32 (float64 for float64 parameters) whatever the parameters are: at a decay of 0.9999 a bfloat16
    average never moves.

    Raises:
        ValueError: if a decay is outside [0, 1) or given twice.
    """
    named = {str(float(decay)): float(decay) for decay in decays}
    if bad := [decay for decay in named.values() if not 0 <= decay < 1]:
        raise ValueError(f"Got EMA decays {bad}, expected numbers in [0, 1), such as 0.999.")
    if len(named) < len(decays):
        raise ValueError(f"Got EMA decays {tuple(decays)}, expected each of them once.")

    def update(state: State, params: PyTree) -> State:
        averages = {name: _lerp(state.averages[name], params, _rate(named[name], state.count)) for name in named}
        return State(state.count + 1, averages)

    return Ema(
        init=lambda params: State(jnp.zeros((), jnp.int32), {name: jax.tree.map(_copy, params) for name in named}),
        update=update,
        decays=lambda state: {name: decay_at(decay, state.count) for name, decay in named.items()},
    )


def decay_at(decay: float, count: Array | int) -> Array:
    """min(decay, (1 + count) / (10 + count)): the weight of the past in the update after `count` others."""
    return 1 - _rate(decay, count)


def _rate(decay: float, count: Array | int) -> Array:
    # 1 - decay is taken in double precision: in float32, 1 - 0.9999 would be off by 2e-4 of itself.
    return jnp.maximum(1 - decay, 9 / (10 + jnp.asarray(count, float)))


def _lerp(averages: PyTree, params: PyTree, rate: Array) -> PyTree:
    return jax.tree.map(
        lambda mean, p: mean + rate.astype(mean.dtype) * (p.astype(mean.dtype) - mean), averages, params
    )


def _copy(p: Array) -> Array:
    # Never the parameters' own buffer: a buffer that stands in the state twice cannot be donated.
    return jnp.array(p, p.dtype if p.dtype.itemsize >= 4 else jnp.float32, copy=True)
