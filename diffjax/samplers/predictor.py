"""The predictors that discretise the forward chain first and reverse it then (Song et al. 2021, section 4.2).

Between two times of the grid the forward process is one step of a chain, exact for every schedule:

    x_t = k x_s + G z,    k = alpha_t / alpha_s,    G^2 = sigma_t^2 - k^2 sigma_s^2

(VP: k = sqrt(1 - beta), G^2 = beta; VE: k = 1, G^2 = sigma_t^2 - sigma_s^2; the paper leaves sub-VP out).
With score = (alpha_t E[x_0 | x_t] - x_t) / sigma_t^2 it is reversed by

    reverse_diffusion   x_s = (2 - k) x_t + G^2 score + G z      (eq. 46)
    ancestral           x_s = (x_t + G^2 score) / k + G z        (eq. 4: DDPM with the 'large' variance beta)

VE's ancestral sampling (eq. 47) has the posterior variance G^2 sigma_s^2 / sigma_t^2: that is `ancestral.ddpm`. All of
them are of weak order 1. As in the public code no noise is added on arrival at data.
"""

from collections.abc import Callable

import numpy as np

from diffjax.calculus import amplitudes
from diffjax.samplers.base import Linear, Sampler, linear_step, starts_too_early, then_mean
from diffjax.types import Schedule


def reverse_diffusion(schedule: Schedule, denoise: bool = False) -> Sampler:
    """Makes the reverse-diffusion sampler (Song et al. 2021, eq. 46; algorithms 2, 3 without their correctors).

    Args:
        denoise: end with E[x_0 | x] at the grid's last time, one more evaluation, if that time has noise.

    Raises:
        ValueError: (at planning) if the grid starts where alpha is 0, for 2 - k stands for 1 / k.
    """
    return _reversed(schedule, lambda k: 2 - k, lambda k: np.ones_like(k), denoise)  # (predictors.2)


def ancestral(schedule: Schedule, denoise: bool = False) -> Sampler:
    """Makes DDPM's sampler with the forward step's ('large') variance (Song et al. 2021, eq. 4; Ho et al. 2020).

    Args:
        denoise: as for `reverse_diffusion`.

    Raises:
        ValueError: (at planning) if the grid starts where alpha is 0, where 1 / k is infinite.
    """
    return _reversed(schedule, lambda k: 1 / k, lambda k: 1 / k, denoise)  # (predictors.3)


def _reversed(schedule: Schedule, keep: Callable, follow: Callable, denoise: bool) -> Sampler:
    """Makes the sampler of x_s = keep(k) x_t + follow(k) G^2 score + G z."""

    def plan(ts: np.ndarray) -> Linear:
        alpha, sigma = amplitudes(schedule, ts)
        if np.any(alpha[0] == 0):
            raise starts_too_early(
                f"The chain cannot be reversed from alpha = 0 at t = {ts[0]:g}", "use ancestral.ddpm"
            )
        (a, s), k = (alpha[:-1], sigma[:-1]), alpha[:-1] / alpha[1:]
        fresh = s**2 - (k * sigma[1:]) ** 2  # (predictors.1)
        pull = follow(k) * fresh / s**2
        noise_var = np.where(sigma[1:] > 0, fresh, 0.0)
        rows = Linear(ts[:-1], keep(k) - pull, pull * a, noise_var, np.zeros_like(k))
        return then_mean(rows, ts[-1], sigma[-1]) if denoise else rows

    return Sampler(linear_step, plan, schedule=schedule, order=1)
