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
from diffjax.calculus import derivatives
from diffjax.samplers import quadrature, table
from diffjax.samplers.base import Sampler
from diffjax.types import Schedule

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(8)
Measure = Callable[[Schedule, list[table.Level]], list[tuple[np.ndarray, np.ndarray]]]


def tab(schedule: Schedule, order: int = 3) -> Sampler:
    """Makes the tAB-DEIS sampler (Zhang & Chen 2023): a polynomial in t through `order` evaluations; starts at order 1.

    Args:
        order: 1 (DDIM) to 4; the paper counts from 0.

    Raises:
        ValueError: for another order, or (at planning) if the grid starts where alpha is 0.
    """
    return _sampler(schedule, order, lambda level: level.t, _in_t)


def lms(schedule: Schedule, order: int = 4) -> Sampler:
    """Makes the LMS sampler, which is rhoAB-DEIS: a polynomial in n = sigma / alpha; starts at order 1.

    No reference of many steps in float32: the last step, to n = 0, extrapolates over as many spacings of its nodes as
    it is long, with weights ~ N^3 at order 4. On log_snr(VP) float32 and float64 part by 8e-6 at N = 50, 3.5e-4 at 200,
    2.4e-2 at 1000 (`tab(3)`: 3.2e-4 at 1000), where the plan warns (`table.AmplifyingPlan`); k-diffusion's has the same
    weights. float64 does not mind.

    Args:
        order: 1 (DDIM, Euler in n) to 4.

    Raises:
        ValueError: for another order, or (at planning) if the grid starts where alpha is 0.
    """
    return _sampler(schedule, order, lambda level: level.ratio, _in_n)


def _in_t(schedule: Schedule, levels: list[table.Level]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Finds for each step quadrature times and the measure dn = n'(t) dt on them.

    n' may grow like (t - s)^(-1/2) at the data and like (1 - t)^(-2) at the noise, which tanh-sinh integrates; at the
    knots of a chain it jumps, so that the steps are cut there.
    """
    ends = np.asarray([level.t for level in levels])
    edges = np.unique(np.concatenate([ends, np.clip(getattr(schedule, "knots", ends), ends[-1], ends[0])]))[::-1]
    width = np.diff(edges)[:, None]
    ts = edges[1:, None] - width * quadrature.SHARE
    most = host.LENGTH + len(getattr(schedule, "knots", ()))  # one compile serves grids of up to 64 steps
    (alpha, sigma), (d_alpha, d_sigma) = host.along(_derivatives_at, schedule, ts, most)
    dn = width * quadrature.WEIGHTS * (d_sigma * alpha - sigma * d_alpha) / alpha**2  # (deis.2)
    cuts = np.searchsorted(-edges, -ends)
    return [(ts[i:j].ravel(), dn[i:j].ravel()) for i, j in pairwise(cuts)]


def _derivatives_at(schedule: Schedule, ts: jax.Array) -> tuple:
    return jax.vmap(derivatives, in_axes=(None, 0))(schedule, ts)


def _in_n(schedule: Schedule, levels: list[table.Level]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Finds for each step Gauss-Legendre points in n and their weights: exact for the polynomials."""
    steps = [(now.ratio, then.ratio - now.ratio) for now, then in pairwise(levels)]
    return [(n + step * (1 + _NODES) / 2, step / 2 * _WEIGHTS) for n, step in steps]  # (lms.1)


def _sampler(schedule: Schedule, order: int, clock: Callable[[table.Level], float], measure: Measure) -> Sampler:
    order = host.check_order(order, (1, 2, 3, 4))

    def program(walk: table.Walk) -> table.Form:
        u, past = walk.start / walk.levels[0].alpha, []  # u = x / alpha
        for now, (at, dn) in zip(walk.levels, measure(schedule, walk.levels)):
            past = [(clock(now), walk.evaluate(now.alpha * u, now)), *past][:order]
            for share, (_, eps) in zip(quadrature.lagrange([node for node, _ in past], at), past):
                u = u + eps * np.sum(dn * share)  # (deis.1)
        return walk.levels[-1].alpha * u

    return table.sampler(schedule, program, order, order=order, keeps=table.eps)
