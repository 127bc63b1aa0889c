"""Pseudo-numerical methods (Liu et al. 2022): classical rules average the noise prediction, DDIM takes the step.

    x_s = alpha_s / alpha_t x_t + (sigma_s - alpha_s sigma_t / alpha_t) eps',    eps' a combination of evaluations,

with the coefficients of equal steps whatever the grid: of order two on smooth grids.
"""

from itertools import pairwise

import numpy as np

from diffjax import host
from diffjax.samplers import table
from diffjax.samplers.base import Sampler
from diffjax.samplers.table import ddim_of_eps
from diffjax.types import Schedule

ADAMS_BASHFORTH = (  # newest first
    np.asarray([1.0]),
    np.asarray([3.0, -1.0]) / 2,
    np.asarray([23.0, -16.0, 5.0]) / 12,
    np.asarray([55.0, -59.0, 37.0, -9.0]) / 24,  # (pndm.2)
)
WARM_UP = 3  # Runge-Kutta steps, of four evaluations each


def ipndm(schedule: Schedule, order: int = 4) -> Sampler:
    """Makes the iPNDM sampler (Zhang & Chen 2023, appendix B.2): Adams-Bashforth that starts at order 1.

    One evaluation a step.

    Args:
        order: 1 (DDIM) to 4, the published one.

    Raises:
        ValueError: for another order, or (at planning) if the grid starts where alpha is 0.
    """
    order = host.check_order(order, (1, 2, 3, 4))

    def program(walk: table.Walk) -> table.Form:
        x, past = walk.start, []
        for now, then in pairwise(walk.levels):
            past = [walk.evaluate(x, now), *past][:order]
            x = ddim_of_eps(x, _average(past), now, then)
        return x

    return table.sampler(schedule, program, order, order=min(order, 2), keeps=table.eps)


def pndm(schedule: Schedule) -> Sampler:
    """Makes the F-PNDM sampler (Liu et al. 2022, algorithm 2): three pseudo Runge-Kutta steps, then order 4 multistep.

    N + 9 evaluations on a grid of N >= 3 steps (a Runge-Kutta step that would arrive at sigma = 0 is DDIM instead).

    Raises:
        ValueError: (at planning) if the grid starts where alpha is 0.
    """

    def program(walk: table.Walk) -> table.Form:
        x, past = walk.start, []
        middles = walk.levels_of([(now.t + then.t) / 2 for now, then in pairwise(walk.levels[: WARM_UP + 1])])
        for i, (now, then) in enumerate(pairwise(walk.levels)):
            past = [walk.evaluate(x, now), *past][:4]
            if i >= WARM_UP:
                eps = _average(past)
            else:
                eps = _runge_kutta(walk, x, past[0], (now, middles[i], then)) if then.sigma > 0 else past[0]
            x = ddim_of_eps(x, eps, now, then)  # (pndm.1)
        return x

    # The first multistep row reaches back over three Runge-Kutta steps.
    evaluations = lambda n: n + 3 * WARM_UP
    return table.sampler(schedule, program, 4 * WARM_UP + 1, order=2, keeps=table.eps, evaluations=evaluations)


def _average(past: list[table.Form]) -> table.Form:
    return sum(weight * eps for weight, eps in zip(ADAMS_BASHFORTH[len(past) - 1], past))


def _runge_kutta(walk: table.Walk, x: table.Form, eps: table.Form, levels: tuple) -> table.Form:
    """Averages four stages: at t, twice at the middle of t and s, and at s (Liu et al. 2022, eq. 13)."""
    now, middle, then = levels
    second = walk.evaluate(ddim_of_eps(x, eps, now, middle), middle)
    third = walk.evaluate(ddim_of_eps(x, second, now, middle), middle)
    fourth = walk.evaluate(ddim_of_eps(x, third, now, then), then)
    return (eps + 2 * second + 2 * third + fourth) / 6  # (pndm.3)
