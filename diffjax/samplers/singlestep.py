"""Single-step solvers in half log-SNR: every interval starts afresh and pays for its order in evaluations.

With h = lambda_s - lambda_t the probability flow is, for the noise prediction,

    x_s = alpha_s / alpha_t x_t - sigma_s int e^(lambda_s - lambda) eps dlambda

(Lu et al. 2022a, eq. 3.4), and has its twin for the data prediction (`multistep`). Intermediate nodes lie at fractions
of h, so the schedule needs an inverse. The step that arrives at sigma = 0, where h is infinite, is one of DDIM.
"""

from collections.abc import Callable
from itertools import islice, pairwise

import numpy as np

from diffjax import host
from diffjax.samplers import table
from diffjax.samplers.base import Sampler
from diffjax.types import Schedule

THIRDS = (1 / 3, 2 / 3)  # r_1 and r_2 of DPM-Solver-3


def dpm_solver(schedule: Schedule, order: int = 2) -> Sampler:
    """Makes the sampler DPM-Solver-2 or -3 (Lu et al. 2022a, algorithms 1 and 2): `order` rows a step.

    r_1 = 1/2 at order 2; r_1 = 1/3, r_2 = 2/3 at order 3.

    Raises:
        ValueError: for another order, or (at planning) if the grid starts where alpha is 0.
    """
    order = host.check_order(order, (2, 3), "The order of DPM-Solver (1: ancestral.ddim)")
    step, nodes = {2: (_dpm_solver_2, (1 / 2,)), 3: (_dpm_solver_3, THIRDS)}[order]
    program = _program(step, nodes, table.ddim_of_eps)
    return table.sampler(schedule, program, order, order=order, keeps=table.eps, evaluations=lambda n: order * n)


def dpmpp_2s(schedule: Schedule) -> Sampler:
    """Makes the sampler DPM-Solver++(2S) (Lu et al. 2022b, algorithm 1, r = 1/2): two rows a step."""
    program = _program(_dpmpp_2s, (1 / 2,), table.ddim_of_mean)
    return table.sampler(schedule, program, 2, order=2, evaluations=lambda n: 2 * n)


def _program(step: Callable, nodes: tuple[float, ...], ddim: Callable) -> table.Program:
    """Makes the program of a step with evaluations at fractions of h, beside those at its start; DDIM where h = inf."""

    def program(walk: table.Walk) -> table.Form:
        x, steps = walk.start, [(now, then, then.lam - now.lam) for now, then in pairwise(walk.levels)]
        lams = [now.lam + r * h for now, _, h in steps if np.isfinite(h) for r in nodes]
        inside = iter(walk.levels_at(lams, len(nodes)))
        for now, then, h in steps:
            if np.isfinite(h):
                x = step(walk, x, now, then, *islice(inside, len(nodes)))
            else:
                x = ddim(x, walk.evaluate(x, now), now, then)
        return x

    return program


def _dpm_solver_2(
    walk: table.Walk, x: table.Form, now: table.Level, then: table.Level, middle: table.Level
) -> table.Form:
    h = then.lam - now.lam
    eps = walk.evaluate(x, now)
    # (dpmsolver.1)
    eps_middle = walk.evaluate(middle.alpha / now.alpha * x - middle.sigma * np.expm1(h / 2) * eps, middle)
    # r_1 = 1/2: the difference comes with 1 / (2 r_1) = 1, so that the first evaluation drops out
    return then.alpha / now.alpha * x - then.sigma * np.expm1(h) * eps_middle  # (dpmsolver.2)


def _dpm_solver_3(
    walk: table.Walk, x: table.Form, now: table.Level, then: table.Level, first: table.Level, second: table.Level
) -> table.Form:
    h, (r1, r2) = then.lam - now.lam, THIRDS
    phi_2 = lambda r: np.expm1(r * h) / (r * h) - 1
    eps = walk.evaluate(x, now)
    d1 = walk.evaluate(first.alpha / now.alpha * x - first.sigma * np.expm1(r1 * h) * eps, first) - eps
    # (dpmsolver.4)
    u2 = second.alpha / now.alpha * x - second.sigma * (np.expm1(r2 * h) * eps + r2 / r1 * phi_2(r2) * d1)
    d2 = walk.evaluate(u2, second) - eps
    return then.alpha / now.alpha * x - then.sigma * (np.expm1(h) * eps + phi_2(1) / r2 * d2)  # (dpmsolver.3)


def _dpmpp_2s(walk: table.Walk, x: table.Form, now: table.Level, then: table.Level, middle: table.Level) -> table.Form:
    h = then.lam - now.lam
    mean = walk.evaluate(x, now)
    u = middle.sigma / now.sigma * x - middle.alpha * np.expm1(-h / 2) * mean
    return then.sigma / now.sigma * x - then.alpha * np.expm1(-h) * walk.evaluate(u, middle)  # (dpmsolver.5)
