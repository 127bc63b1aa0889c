"""Adams-Bashforth in the angle of TrigFlow: a clock without singular ends, on a field of unit size.

With u = x / alpha, n = sigma / alpha and s = sigma_data, let phi = arctan(n / s) and r = u / sqrt(n^2 + s^2). Then

    dr / dphi = y,    y = (s^2 u - (n^2 + s^2) E[x_0 | x]) / (n s sqrt(n^2 + s^2))

is -F of EDM's preconditioning (Lu & Song 2024, eq. 8). It vanishes on Gaussian data of standard deviation s, where
every step is then exact, and phi runs from pi / 2, pure noise, to 0, the data: the last step keeps its full order.
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

    Args:
        order: 1 to 4.
        sigma_data: standard deviation s of the data, in units of x_0.

    Raises:
        ValueError: for another order or a sigma_data that is not positive, or (at planning) if the grid starts where
            alpha is 0.
    """
    order = host.check_order(order, (1, 2, 3, 4))
    if not 0 < sigma_data < np.inf:
        raise ValueError(f"sigma_data is {sigma_data}, expected a positive number.")
    angle = lambda level: np.arctan(level.ratio / sigma_data)
    radius = lambda level: level.alpha * np.hypot(level.ratio, sigma_data)  # x / r

    def field(level: table.Level) -> tuple[float, float]:
        n, total = level.ratio, np.hypot(level.ratio, sigma_data)
        return sigma_data / (n * total * level.alpha), -total / (n * sigma_data)

    def program(walk: table.Walk) -> table.Form:
        r, past = walk.start / radius(walk.levels[0]), []
        for now, then in pairwise(walk.levels):
            past = [(angle(now), walk.evaluate(radius(now) * r, now)), *past][:order]
            turn = angle(then) - angle(now)
            at = angle(now) + turn * (1 + _NODES) / 2
            for share, (_, y) in zip(quadrature.lagrange([node for node, _ in past], at), past):
                r = r + y * np.sum(turn / 2 * _WEIGHTS * share)
        return radius(walk.levels[-1]) * r

    return table.sampler(schedule, program, order, order=order, keeps=field)
