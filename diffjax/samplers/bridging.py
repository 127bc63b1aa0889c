"""Along a bridge: from u = 0, where x_t is its endpoint, to data (Zheng et al. 2024, section 4.2).

At t_max alpha = sigma = 0: all that is known of x_0 there is what the denoiser says of the endpoint, and there is
nothing to divide by. The first step therefore draws u anew, u_s = B_s E[x_0 | y] + C_s z, DBIM's booting noise; from
there any sampler goes on. A flow alone would make one x_0 of each y: this draw is all the diversity that it has.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from diffjax import grids
from diffjax.calculus import amplitudes
from diffjax.samplers.ancestral import resampled
from diffjax.samplers.base import Sampler, in_turn, sampling_fn


def walking_fn(sampler: Sampler, ts: Any, trace: Callable | None = None) -> jax.tree_util.Partial:
    """Makes the walk along a grid: `bridging_fn` where it starts at a point (alpha = sigma = 0), else `sampling_fn`."""
    return (bridging_fn if pinned(sampler.schedule, ts) else sampling_fn)(sampler, ts, trace)


def pinned(schedule: Any, ts: Any) -> bool:
    """Tells whether the grid starts where x_t is one point."""
    return schedule is not None and not any(map(np.any, amplitudes(schedule, ts[:1])))


def bridging_fn(sampler: Sampler, ts: Any, trace: Callable | None = None) -> jax.tree_util.Partial:
    """Makes `sample(model, key, u_T) -> x_0` along a grid that starts at t_max, for one example; u_T = 0.

    As many evaluations as `sampling_fn`'s on the same grid. A grid that starts below t_max is `sampling_fn`'s, from
    `prior` there (as published for DDBM: t_max - 1e-4). Where the walk ends above 0 without a last mean, it gives u
    there, as `sampling_fn` gives x_t: `Bridge.placed` adds A_t y.

    Args:
        sampler: planned for a `processes.BridgeSchedule`.
        ts: decreasing times (N + 1,), t_max first, N >= 2.
        trace: as for `sampling_fn`; the first step has no entry.

    Raises:
        ValueError: as `sampling_fn`; if the grid does not start where alpha and sigma are 0, or has no second step.
    """
    if sampler.schedule is None:
        raise ValueError("The sampler has no schedule, expected one that is planned for a bridge.")
    ts = grids.check(ts, float(sampler.schedule.t_max))
    alpha, sigma = amplitudes(sampler.schedule, ts[:1])
    if np.any(alpha != 0) or np.any(sigma != 0) or len(ts) < 3:
        alpha, sigma = alpha.reshape(-1), sigma.reshape(-1)
        raise ValueError(
            f"Got {len(ts) - 1} step(s) from t = {ts[0]:g}, where alpha = {alpha[0]:g} and sigma = {sigma[0]:g}; a "
            "bridge starts at its t_max, where both are 0, and takes two steps or more; from below use sampling_fn."
        )
    return in_turn(sampling_fn(resampled(sampler.schedule), ts[:2]), sampling_fn(sampler, ts[1:], trace))  # (dbim.1)
