"""What every rule of averaging shares: its state, its functions, and the update of one average."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffjax.types import Array, PyTree


class State(NamedTuple):
    """What a checkpoint must hold to go on averaging.

    Attributes:
        count: the updates made so far, an int32 scalar.
        averages: one tree of the parameters' shapes for each name.
    """

    count: Array
    averages: dict[str, PyTree]


class Ema(NamedTuple):
    """A rule of averaging as pure functions: another rule (other weights, other counters) is another tuple.

    Attributes:
        init: the averages of the first parameters: those parameters themselves.
        update: the state after one more step, given its parameters.
        decays: the decay that the next update will use, by name.
        combine: (name, counts (S,)) -> {tracked name: (S,) weights}: how averages stored after `counts` updates make
            the one called `name`, which was not tracked. None: this rule cannot.
    """

    init: Callable[[PyTree], State]
    update: Callable[[State, PyTree], State]
    decays: Callable[[State], dict[str, Array]]
    combine: Callable[[str, Sequence[int]], dict[str, np.ndarray]] | None = None


def from_rates(rates: dict[str, Callable[[Array], Array]], combine: Callable | None = None) -> Ema:
    """Makes the rule average <- average + rate(count) (params - average) for each name, count updates before.

    Averages are float32 (float64 for float64 parameters) whatever the parameters are: at a decay of 0.9999 a bfloat16
    average never moves.
    """

    def update(state: State, params: PyTree) -> State:
        averages = {name: _lerp(state.averages[name], params, rate(state.count)) for name, rate in rates.items()}
        return State(state.count + 1, averages)

    return Ema(
        init=lambda params: State(jnp.zeros((), jnp.int32), {name: jax.tree.map(_copy, params) for name in rates}),
        update=update,
        decays=lambda state: {name: 1 - rate(state.count) for name, rate in rates.items()},
        combine=combine,
    )


def _lerp(averages: PyTree, params: PyTree, rate: Array) -> PyTree:
    return jax.tree.map(
        lambda mean, p: mean + rate.astype(mean.dtype) * (p.astype(mean.dtype) - mean), averages, params
    )


def _copy(p: Array) -> Array:
    # Never the parameters' own buffer: a buffer that stands in the state twice cannot be donated.
    return jnp.array(p, p.dtype if p.dtype.itemsize >= 4 else jnp.float32, copy=True)
