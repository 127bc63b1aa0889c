"""Adams-Bashforth in the angle of TrigFlow: a clock without singular ends, on a field of unit size.

With u = x / alpha, n = sigma / alpha and s = sigma_data, let phi = arctan(n / s) and r = u / sqrt(n^2 + s^2). Then

    dr / dphi = y,    y = (s^2 u - (n^2 + s^2) E[x_0 | x]) / (n s sqrt(n^2 + s^2))

is -F of EDM's preconditioning (Lu & Song 2024, eq. 8). With R = sqrt(sigma^2 + alpha^2 s^2) these are

    phi = arctan(sigma / (alpha s)),    r = x / R,    y = (alpha s^2 x - R^2 E[x_0 | x]) / (R sigma s),

finite where alpha = 0 too: there phi = pi / 2, r = x / sigma, y = -E[x_0] / s. phi runs from pi / 2, pure noise, to 0,
the data: the last step keeps its full order. On Gaussian data N(m, s^2) y = -(m / s) sin(phi): for m = 0 it vanishes,
and every step is exact; for another mean the steps have the method's order (centre the data, or take
`principal.adams` with Axes(m, s^2), which is exact there).
"""

from itertools import pairwise

import numpy as np

from diffjax import host
from diffjax.samplers import quadrature, table
from diffjax.samplers.base import Sampler
from diffjax.types import Schedule

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(4)  # exact for the cubics of the highest order


def adams(schedule: Schedule, order: int = 2, sigma_data: float = 0.5) -> Sampler:
    """Makes Adams-Bashforth in phi: the polynomial through evaluations of y, integrated exactly; starts at order 1.

    Order 4 is no reference of many steps in float32, as `deis.lms` says of its own: 2.6e-4 off float64 at N = 200 on
    log_snr(VP), 3.4e-2 at 1000; in few steps of log_snr or karras it extrapolates far at the noise (`grids.angle` is
    its clock). Either plan warns (`table.AmplifyingPlan`).

    Args:
        order: 1 to 4.
        sigma_data: standard deviation s of the data, in units of x_0.

    Raises:
        ValueError: for another order or a sigma_data that is not positive.
    """
    order = host.check_order(order, (1, 2, 3, 4))
    if not 0 < sigma_data < np.inf:
        raise ValueError(f"sigma_data is {sigma_data}, expected a positive number.")
    angle = lambda level: np.arctan2(level.sigma, level.alpha * sigma_data)  # (trigflow.1)
    # (trigflow.2)
    radius = lambda level: np.hypot(level.sigma, level.alpha * sigma_data)  # R = x / r

    def field(level: table.Level) -> tuple[float, float]:
        total = radius(level)
        return level.alpha * sigma_data / (total * level.sigma), -total / (level.sigma * sigma_data)  # (trigflow.3)

    def program(walk: table.Walk) -> table.Form:
        r, past = walk.start / radius(walk.levels[0]), []
        for now, then in pairwise(walk.levels):
            past = [(angle(now), walk.evaluate(radius(now) * r, now)), *past][:order]
            turn = angle(then) - angle(now)
            at = angle(now) + turn * (1 + _NODES) / 2
            for share, (_, y) in zip(quadrature.lagrange([node for node, _ in past], at), past):
                r = r + y * np.sum(turn / 2 * _WEIGHTS * share)  # (trigflow.4)
        return radius(walk.levels[-1]) * r

    return table.sampler(schedule, program, order, order=order, keeps=field)
