"""Exponential moving averages of the parameters, with two ways to begin.

    average <- average + r_n (params - average),    n being the number of updates before this one.

`warm_up`, r_n = 1 - min(decay, (1 + n) / (10 + n)): the `num_updates` rule of TensorFlow's ExponentialMovingAverage,
which Song et al. 2021 train with. `half_life`, r_n = 1 - 2^(-1 / h_n) with h_n = min(half-life, ramp n): that of Karras
et al. 2022. An average starts at the parameters themselves, so it is a weighted mean at every moment (the weights sum
to one) and needs no debiasing; either beginning makes the untrained parameters fade within tens of updates, or at once.
"""

import math
from collections.abc import Sequence
from functools import partial

import jax.numpy as jnp

from diffjax.ema.base import Ema, from_rates
from diffjax.types import Array


def warm_up(decays: Sequence[float] = (0.999,)) -> Ema:
    """Makes one average for each decay, named by it ("0.999"), all warmed up alike; no decays, no averages.

    Raises:
        ValueError: if a decay is outside [0, 1) or given twice.
    """
    try:
        named = {str(float(decay)): float(decay) for decay in decays}
    except (TypeError, ValueError):
        raise ValueError(f"Got EMA decays {decays!r}, expected numbers in [0, 1), such as (0.999,).") from None
    if bad := [decay for decay in named.values() if not 0 <= decay < 1]:
        raise ValueError(f"Got EMA decays {bad}, expected numbers in [0, 1), such as 0.999.")
    if len(named) < len(decays):
        raise ValueError(f"Got EMA decays {tuple(decays)}, expected each of them once.")
    return from_rates({name: partial(_warm_up_rate, decay) for name, decay in named.items()})


def half_life(updates: float, ramp: float | None = 0.05) -> Ema:
    """Makes one average, named "half_life".

    Args:
        updates: the half-life: the published number of images over the batch size.
        ramp: its largest share of the updates so far; None for none.

    Raises:
        ValueError: if either is not a positive number.
    """
    for name, value in (("updates", updates), ("ramp", ramp)):
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"The EMA's half-life has {name} = {value}, expected a positive number.")
    return from_rates({"half_life": partial(_half_life_rate, 1 / updates, ramp)})


def _warm_up_rate(decay: float, count: Array | int) -> Array:
    # 1 - decay is taken in double precision: in float32, 1 - 0.9999 would be off by 2e-4 of itself.
    return jnp.maximum(1 - decay, 9 / (10 + jnp.asarray(count, float)))  # (vpsde.3)


def _half_life_rate(least: float, ramp: float | None, count: Array | int) -> Array:
    inverse = jnp.asarray(least, float)  # 1 / h_n, infinite at the first update of a ramp
    if ramp is not None:
        inverse = jnp.maximum(inverse, 1 / (ramp * jnp.asarray(count, float)))
    return -jnp.expm1(-math.log(2.0) * inverse)  # (edm-recipe.2)
