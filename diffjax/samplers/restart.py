"""Restart sampling (Xu et al. 2023): Heun's method on the probability flow, with leaps back up in noise.

When the walk arrives at n_min (n = sigma / alpha), fresh noise takes x up to n_max, and the flow brings it down again,
several times: the added noise contracts the errors made above, the flow adds few of its own.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from diffjax.samplers import heun, table
from diffjax.samplers.base import Sampler
from diffjax.types import Schedule


def restart(
    schedule: Schedule,
    intervals: Sequence[tuple[int, int, float, float]] = ((3, 2, 0.06, 0.3),),
    rho: float = 7.0,
) -> Sampler:
    """Makes the sampler of Xu et al. 2023, algorithm 1.

    Two evaluations a step, on the way down and in restarts; the last step is Euler's.

    Args:
        intervals: (levels, repeats, n_min, n_max), as published: `repeats` restarts from the grid's level nearest to
            n_min up to n_max, each back down along a Karras grid of so many levels, both ends counted.
        rho: of those grids.

    Raises:
        ValueError: for intervals that are upside down or too short, or (at planning) that start outside the grid, at
            the same level, or end outside the schedule, or if the grid starts where alpha is 0.
    """
    if not isinstance(intervals, tuple | list):
        raise ValueError(f"Got intervals = {intervals}, expected tuples (levels, repeats, n_min, n_max).")
    intervals = tuple(intervals)
    for interval in intervals:
        _check(interval)
    if not 0 < rho < np.inf:
        raise ValueError(f"rho is {rho}, expected a positive number (Karras et al.: 7).")

    def plan(ts: np.ndarray) -> heun.Half:
        walk = table.Walk(schedule, ts, 0, False)
        _, alpha, sigma = np.asarray(walk.levels).T
        ns = heun.clock(alpha, sigma, ts)
        starts = {_nearest(ns, low, high): (count, repeats, high) for count, repeats, low, high in intervals}
        if len(starts) < len(intervals):
            raise ValueError(f"Two of the restart intervals {intervals} begin at the same level of the grid.")
        legs = []  # (where it begins, where noise is raised to, where it ends)
        for i, (now, then) in enumerate(pairwise(walk.levels), 1):
            legs.append((now, now, then))
            count, repeats, high = starts.get(i, (2, 0, 1.0))
            ramp = np.linspace(high ** (1 / rho), then.ratio ** (1 / rho), count)[:-1] ** rho  # (restart.2)
            down = [*walk.levels_at(-np.log(ramp)), then] if repeats else []
            for _ in range(repeats):
                legs.append((then, down[0], down[1]))
                legs += [(upper, upper, lower) for upper, lower in pairwise(down[1:])]
        begin, hat, end = (np.asarray(part, np.float64).T for part in zip(*legs))
        (_, alpha, sigma), (_, alpha_hat, sigma_hat) = begin, hat
        raised = np.maximum((sigma_hat / alpha_hat) ** 2 - (sigma / alpha) ** 2, 0.0)
        return heun.halves(alpha, hat, end, alpha_hat * np.sqrt(raised))  # (restart.1)

    return heun.sampler(schedule, plan)


def _check(interval: tuple[int, int, float, float]) -> None:
    if len(interval) == 4 and all(isinstance(count, int | np.integer) for count in interval[:2]):
        count, repeats, low, high = interval
        if count >= 2 and repeats >= 1 and 0 < low < high < np.inf:
            return
    raise ValueError(
        f"Got the restart interval {interval}, expected (levels >= 2, repeats >= 1, 0 < n_min < n_max), integers first."
    )


def _nearest(ns: np.ndarray, low: float, high: float) -> int:
    """Finds the index of the level where a restart begins: inside the grid, above 0, below n_max."""
    inside = np.flatnonzero((ns[1:] > 0) & (ns[1:] < high)) + 1
    if not inside.size or not ns[ns > 0].min() * 0.5 <= low <= ns[0]:
        raise ValueError(
            f"A restart begins at sigma / alpha = {low:g}, outside the grid, which runs from {ns[0]:g} to "
            f"{ns[ns > 0].min():g}."
        )
    return int(inside[np.argmin(np.abs(ns[inside] - low))])
