"""Weights of the regression loss, named after their sources.

A weight multiplies the squared error of F. The sources state theirs for the error of x_0, eps or the score; since
x_0 - x_0_hat = c_out (F - F_hat), each is c_out^2 times its weight in x_0 space, whatever the network predicts.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from diffjax.calculus import rates
from diffjax.host import check_positive
from diffjax.types import Array, Schedule

Weight = Callable[[Schedule, Any, Any], Any]  # (schedule, target, t) -> scalar


def _of_x0_error(weight_x0: Callable[[Schedule, Any], Array]) -> Weight:
    return lambda schedule, target, t: weight_x0(schedule, t) * target.skip_out(schedule, t)[1] ** 2


def _snr(schedule: Schedule, t: Any) -> Array:
    alpha, sigma = schedule(t)
    return (alpha / sigma) ** 2


def unit() -> Weight:
    """Weights by 1 in network space: each target's own natural weight."""
    return lambda schedule, target, t: 1.0


def simple() -> Weight:
    """Weights the error of eps by 1 (Ho et al. 2020, L_simple): SNR on x_0."""
    return _of_x0_error(_snr)


def likelihood() -> Weight:
    """Weights the error of the score by g^2, which bounds -log p (Song et al. 2021b); that of x_0 by -d SNR/dt."""
    return _of_x0_error(lambda schedule, t: rates(schedule, t)[1] * _snr(schedule, t) / schedule(t)[1] ** 2)


def min_snr(gamma: float = 5.0) -> Weight:
    """Weights the error of x_0 by min(SNR, gamma) (Hang et al. 2023)."""
    check_positive("gamma", gamma)
    return _of_x0_error(lambda schedule, t: jnp.minimum(_snr(schedule, t), gamma))


def edm(sigma_data: float = 0.5) -> Weight:
    """Weights the error of x_0 by (l^2 + s^2) / (l s)^2, l the level, s sigma_data (Karras et al. 2022, table 1)."""
    check_positive("sigma_data", sigma_data)
    return _of_x0_error(lambda schedule, t: _snr(schedule, t) + 1 / sigma_data**2)


def p2(gamma: float = 1.0, k: float = 1.0) -> Weight:
    """Weights the error of eps by 1 / (k + SNR)^gamma (Choi et al. 2022)."""
    check_positive("gamma", gamma)
    check_positive("k", k)
    return _of_x0_error(lambda schedule, t: _snr(schedule, t) / (k + _snr(schedule, t)) ** gamma)
