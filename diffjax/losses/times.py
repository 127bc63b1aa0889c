"""The law of the training times, one example at a time: `(keys, index, batch_size) -> t`.

`keys.step` is shared by the whole batch and `keys.example` is the example's own; `index` is its place in the global
batch. So a stratified batch stays one whatever the number of devices it is spread over.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffjax import chains, grids, host
from diffjax.calculus import time_of
from diffjax.types import Array, Schedule

Times = Callable[[Any, Any, int], Array]


def uniform(schedule: Schedule, t_min: float = 1e-5) -> Times:
    """Draws t ~ U[t_min, t_max], independently (Song et al. 2021)."""
    low, high = _ends(schedule, t_min)
    return lambda keys, index, batch_size: low + (high - low) * jax.random.uniform(keys.example)


def stratified(schedule: Schedule, t_min: float = 1e-5) -> Times:
    """Spreads a batch's times evenly behind one random offset (Kingma et al. 2021, appendix I.1): each t is uniform."""
    low, high = _ends(schedule, t_min)

    def draw(keys: Any, index: Any, batch_size: int) -> Array:
        place = jnp.asarray(index, float) / batch_size + jax.random.uniform(keys.step)
        return low + (high - low) * (place - jnp.floor(place))

    return draw


def chain(schedule: Schedule, steps: int | None = None, evenly: bool = False) -> Times:
    """Draws t / t_max = k / T, k uniform on 1 .. T: the times of a discrete chain (Ho et al. 2020, algorithm 1).

    Args:
        steps: T; default the schedule's own number of steps, 1000 for a continuous one.
        evenly: stratified over the batch: each k is uniform all the same.

    Raises:
        ValueError: unless T is an integer >= 1.
    """
    T = chains.length(schedule, steps)
    if not host.is_int(T, 1):
        raise ValueError(f"The chain has {T!r} steps, expected an integer >= 1.")

    def draw(keys: Any, index: Any, batch_size: int) -> Array:
        place = jax.random.uniform(keys.step if evenly else keys.example)
        if evenly:
            place = place + jnp.asarray(index, float) / batch_size
            place = place - jnp.floor(place)
        k = jnp.minimum(jnp.floor(place * T), T - 1) + 1
        return k / T * schedule.t_max

    return draw


def last(schedule: Schedule) -> Times:
    """Gives t = t_max always: for networks that go from noise to data in one step (Liu et al. 2022)."""
    return lambda keys, index, batch_size: jnp.asarray(schedule.t_max, float)


def log_normal(schedule: Schedule, mean: float = -1.2, std: float = 1.2) -> Times:
    """Draws log(sigma / alpha) ~ N(mean, std^2) (Karras et al. 2022, table 1), on any schedule with an inverse log-SNR.

    Draws beyond the schedule's ends go to the ends (0.2 % of them at t = 0 for VE's sigma_min = 0.01).
    """
    if not (np.isfinite(mean) and 0 < std < np.inf):
        raise ValueError(f"Got mean = {mean} and std = {std}, expected finite numbers with std > 0.")

    def draw(keys: Any, index: Any, batch_size: int) -> Array:
        t = time_of(schedule, -2 * (mean + std * jax.random.normal(keys.example)))
        return jnp.clip(t, 0.0, schedule.t_max)

    return draw


def ladder(schedule: Schedule, levels: int) -> Times:
    """Draws t uniformly from the `levels` times of `grids.ladder`, independently: NCSN's discrete noise levels.

    Raises:
        ValueError: unless levels is an integer >= 2.
    """
    ts = np.asarray(grids.ladder(schedule, levels), np.float32)
    return lambda keys, index, batch_size: jnp.asarray(ts)[jax.random.randint(keys.example, (), 0, levels)]


def _ends(schedule: Schedule, t_min: float) -> tuple[float, Any]:
    if not 0 <= t_min < float(schedule.t_max):
        raise ValueError(
            f"Training times start at t_min = {t_min}, expected 0 <= t_min < t_max = {float(schedule.t_max)}."
        )
    return t_min, schedule.t_max
