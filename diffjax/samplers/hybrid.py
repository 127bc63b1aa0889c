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
from diffjax.samplers.base import Sampler
from diffjax.types import Schedule


def ddbm(schedule: Schedule, ratio: float = 0.33) -> Sampler:
    """The published sampler; `heun.edm` raises the noise by a leap in place of the stochastic step.

    Args:
        ratio: of the step that is stochastic, in [0, 1); 0: Heun's method in t alone, two evaluations a step.

    Raises:
        ValueError: for a ratio outside [0, 1), or (at planning) if the grid starts where alpha or sigma is 0.
    """
    if not 0 <= ratio < 1:
        raise ValueError(f"ratio is {ratio}, expected a number in [0, 1) (published: 0.33).")

    def drift(walk: table.Walk, x: table.Form, level: table.Level, strength: float) -> tuple[table.Form, float]:
        """f x - strength g^2 score, and g^2."""
        f, g2 = (float(rate) for rate in host.float64(rates, schedule, np.float64(level.t)))
        if not (np.isfinite(f) and np.isfinite(g2) and level.sigma > 0):
            raise ValueError(
                f"The SDE of {type(schedule).__name__} is singular at t = {level.t:g}; start the grid below it (t_max)."
            )
        score = (level.alpha * walk.evaluate(x, level) - x) / level.sigma**2
        return f * x - strength * g2 * score, g2

    def program(walk: table.Walk) -> table.Form:
        x = walk.start
        for now, then in pairwise(walk.levels):
            if ratio:
                middle = walk.level_of(now.t + ratio * (then.t - now.t))
                (d, g2), step = drift(walk, x, now, 1.0), middle.t - now.t
                x, now = x + step * d + np.sqrt(-step * g2) * walk.normal(), middle
            d, step = drift(walk, x, now, 0.5)[0], then.t - now.t
            ahead = x + step * d
            x = x + step / 2 * (d + drift(walk, ahead, then, 0.5)[0]) if then.t > 0 else ahead
        return x

    return table.sampler(schedule, program, 2, random=ratio > 0, evaluations=lambda n: (3 if ratio else 2) * n)
