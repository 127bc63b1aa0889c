"""DDBM's hybrid sampler (Zhou et al. 2023, algorithm 1): a stochastic Euler step, then Heun's method on the flow, in t.

    t_hat = t + ratio (s - t):  dx = [f x - g^2 score] dt + g dw  from t to t_hat by Euler-Maruyama,
    from t_hat to s:            dx = [f x - g^2 score / 2] dt     by Heun's method; by Euler's where s = 0.

Three evaluations a step, two in the last one of a grid that ends at 0. In `processes.bridge` f, g^2 and the score are
those of u, and A_t y is added at the end; the published code takes these steps in x_t = u_t + A_t y, and so makes an
additional error in A_t, which is known (`tests/test_bridge_samplers.py` has both; they are one for y = 0).
"""

from itertools import pairwise

import numpy as np

from diffjax import host
from diffjax.calculus import rates
from diffjax.samplers import table
from diffjax.samplers.base import Sampler, starts_too_early
from diffjax.types import Schedule


def ddbm(schedule: Schedule, ratio: float = 0.33) -> Sampler:
    """Makes DDBM's published sampler; `heun.edm` raises the noise by a leap in place of the stochastic step.

    Args:
        ratio: of the step that is stochastic, in [0, 1); 0: Heun's method in t alone, two evaluations a step.

    Raises:
        ValueError: for a ratio outside [0, 1), or (at planning) if the grid starts where alpha or sigma is 0.
    """
    if not 0 <= ratio < 1:
        raise ValueError(f"ratio is {ratio}, expected a number in [0, 1) (published: 0.33).")

    def drift(walk: table.Walk, x: table.Form, at: tuple, strength: float) -> tuple[table.Form, float]:
        """Computes the drift f x - strength g^2 score, and g^2."""
        level, f, g2 = at
        if not (np.isfinite(f) and np.isfinite(g2) and level.sigma > 0):
            raise starts_too_early(f"The SDE of {type(schedule).__name__} is singular at t = {level.t:g}")
        score = (level.alpha * walk.evaluate(x, level) - x) / level.sigma**2
        return f * x - strength * g2 * score, g2

    def program(walk: table.Walk) -> table.Form:
        x, ts = walk.start, [level.t for level in walk.levels]
        middles = walk.levels_of([t + ratio * (s - t) for t, s in pairwise(ts)])
        known = _with_rates(schedule, [*walk.levels, *middles])
        for i, (now, then) in enumerate(pairwise(known[: len(ts)])):
            if ratio:
                middle = known[len(ts) + i]
                (d, g2), step = drift(walk, x, now, 1.0), middle[0].t - now[0].t
                x, now = x + step * d + np.sqrt(-step * g2) * walk.normal(), middle  # (ddbm.5)
            d, step = drift(walk, x, now, 0.5)[0], then[0].t - now[0].t
            ahead = x + step * d
            x = x + step / 2 * (d + drift(walk, ahead, then, 0.5)[0]) if then[0].t > 0 else ahead
        return x

    evaluations = lambda n: (3 if ratio else 2) * n
    return table.sampler(schedule, program, 2, order=1 if ratio else 2, random=ratio > 0, evaluations=evaluations)


def _with_rates(schedule: Schedule, levels: list[table.Level]) -> list[tuple[table.Level, float, float]]:
    """Looks up f and g^2 at levels, all in one call of the schedule: (level, f, g^2) each."""
    f, g2 = host.along(rates, schedule, [level.t for level in levels], 2 * host.LENGTH)
    return list(zip(levels, map(float, f), map(float, g2)))
