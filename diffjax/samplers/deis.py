"""Adams-Bashforth on the noise prediction, d(x / alpha) = eps dn with n = sigma / alpha, in a clock of choice.

    x_s / alpha_s = x_t / alpha_t + int eps dn,

with the polynomial through the last evaluations of eps for eps: a polynomial in t is tAB-DEIS (Zhang & Chen 2023, eq.
15), one in n itself is rhoAB-DEIS, the linear multistep method (LMS) of Karras et al.'s followers.
"""

from collections.abc import Callable
from itertools import pairwise

import jax
import numpy as np

from diffjax import host
from diffjax.samplers import table
from diffjax.samplers.base import Sampler
from diffjax.schedules import derivatives
from diffjax.types import Schedule

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(128)
Measure = Callable[[Schedule, table.Level, table.Level], tuple[np.ndarray, np.ndarray]]


def tab(schedule: Schedule, order: int = 3) -> Sampler:
    """tAB-DEIS (Zhang & Chen 2023): `order` evaluations, a polynomial in t of one degree less; starts at order 1.

    Args:
        order: 1 (DDIM) to 4; the paper counts from 0.

    Raises:
        ValueError: for another order, or (at planning) if the grid starts where alpha is 0.
    """
    return _sampler(schedule, order, lambda level: level.t, _in_t)


def lms(schedule: Schedule, order: int = 4) -> Sampler:
    """LMS, which is rhoAB-DEIS: a polynomial in n = sigma / alpha; starts at order 1.

    Args:
        order: 1 (DDIM, Euler in n) to 4.

    Raises:
        ValueError: for another order, or (at planning) if the grid starts where alpha is 0.
    """
    return _sampler(schedule, order, lambda level: level.noise, _in_n)


def _in_t(schedule: Schedule, now: table.Level, then: table.Level) -> tuple[np.ndarray, np.ndarray]:
    """Times between the levels, and the measure dn = n'(t) dt on them; Gauss-Legendre in the root of t - s.

    n' may grow like (t - s)^(-1/2) at the data: in that variable it is smooth.
    """
    root = (1 + _NODES) / 2
    ts = then.t + (now.t - then.t) * root**2
    (alpha, sigma), (d_alpha, d_sigma) = host.float64(jax.vmap(derivatives, in_axes=(None, 0)), schedule, ts)
    return ts, (then.t - now.t) * root * _WEIGHTS * (d_sigma * alpha - sigma * d_alpha) / alpha**2


def _in_n(schedule: Schedule, now: table.Level, then: table.Level) -> tuple[np.ndarray, np.ndarray]:
    """Gauss-Legendre, exact for the polynomials."""
    change = then.noise - now.noise
    return now.noise + change * (1 + _NODES) / 2, change / 2 * _WEIGHTS


def _sampler(schedule: Schedule, order: int, clock: Callable[[table.Level], float], measure: Measure) -> Sampler:
    if order not in (1, 2, 3, 4):
        raise ValueError(f"The order is {order!r}, expected 1, 2, 3 or 4.")

    def program(walk: table.Walk) -> table.Form:
        u, past = walk.start / walk.levels[0].alpha, []  # u = x / alpha
        for now, then in pairwise(walk.levels):
            past = [(clock(now), walk.evaluate(now.alpha * u, now)), *past][:order]
            at, dn = measure(schedule, now, then)
            for j, (node, eps) in enumerate(past):
                others = [other for i, (other, _) in enumerate(past) if i != j]
                u = u + eps * np.sum(dn * np.prod([(at - o) / (node - o) for o in others], axis=0))
        return walk.levels[-1].alpha * u

    return table.sampler(schedule, program, order, predicts=table.noise)
