"""Euler-Maruyama on the reverse SDE and its whole Fokker-Planck family (Song et al. 2021, eq. 6).

    dx = [f x - (1 + churn^2) / 2 g^2 score] dt + churn g dw        (kexue 9228 (13))

has the marginals of the forward process for every churn >= 0. At 0 it is the probability-flow ODE (kexue 9228 (14)). At
1 it is the reverse SDE, dx = [f x - g^2 score] dt + g dw (kexue 9209 (8)).
"""

import numpy as np

from diffjax import host
from diffjax.calculus import amplitudes, over, rates
from diffjax.samplers.base import Linear, Sampler, linear_step, starts_too_early, then_mean
from diffjax.types import Schedule


def euler_maruyama(schedule: Schedule, churn: float = 1.0, denoise: bool = False) -> Sampler:
    """Makes the sampler of one Euler-Maruyama step per interval of the grid (kexue 9209 (9)); weak order 1.

    Args:
        churn: noise level in units of g, at least 0.
        denoise: end with E[x_0 | x] at the grid's last time, one more evaluation, if that time has noise.

    Raises:
        ValueError: if churn is negative, or (at planning) if the grid touches a time where alpha or sigma is 0.
    """
    if not 0 <= churn < np.inf:
        raise ValueError(f"churn is {churn}, expected a finite number >= 0 (0: probability flow, 1: reverse SDE).")

    def plan(ts: np.ndarray) -> Linear:
        alpha, sigma = amplitudes(schedule, ts)
        f, g2 = host.along(rates, schedule, ts[:-1])
        finite = np.isfinite(f) & np.isfinite(g2)
        if not np.all(finite):
            where = ts[np.argwhere(~finite)[0][0]]
            raise starts_too_early(
                f"The SDE of {type(schedule).__name__} is singular at t = {where:g}",
                "use a sampler that needs no rates (ancestral, multistep)",
            )
        # (reversesde.2)
        step, pull = over(np.diff(ts), g2), 0.5 * (1 + churn**2) * g2 / np.square(sigma[:-1])  # score = (alpha m - x) / sigma^2
        # (reversesde.1)
        rows = Linear(
            ts[:-1], 1 + step * (f + pull), -step * pull * alpha[:-1], -step * churn**2 * g2, np.zeros_like(f)
        )
        return then_mean(rows, ts[-1], sigma[-1]) if denoise else rows

    return Sampler(linear_step, plan, schedule=schedule, order=1)
