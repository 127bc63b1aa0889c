"""Weights of the regression loss, named after their sources.

A weight multiplies the squared error of F. The sources state theirs for the error of x_0, eps or the score; since
x_0 - x_0_hat = c_out (F - F_hat), each is c_out^2 times its weight in x_0 space, whatever the network predicts.

At the ends of time, where SNR is infinite or 0, that product may be infinity times 0. What it tends to there follows
from c_out and the factor e = c_out alpha / sigma of eps, which targets state apart (`noise_out`): e^2 is SNR c_out^2.
So a weight is finite at an end wherever its limit is. Where that is infinite, as eps's of `likelihood` is at alpha = 0,
or the target itself is (Score at sigma = 0, Velocity where sigma' is infinite), times have to end inside: t_min, t_max.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np

from diffjax import host
from diffjax.calculus import amplitudes, derivatives, rates
from diffjax.denoisers.targets import Prediction
from diffjax.types import Array, Schedule

Weight = Callable[[Schedule, Any, Any], Any]  # (schedule, target, t) -> scalar
Limit = Callable[[Schedule, Any, Any, Any], Array]  # (schedule, t, c_out, e) -> scalar, where alpha or sigma is 0


def _of_x0_error(weight_x0: Callable[[Schedule, Any], Array], limit: Limit) -> Weight:
    """Makes the weight whose factor of the squared error of x_0 is weight_x0, and what it tends to at the ends."""

    def weight(schedule: Schedule, target: Any, t: Any) -> Array:
        if not _has_ends(schedule):
            return weight_x0(schedule, t) * target.skip_out(schedule, t)[1] ** 2
        (alpha, sigma), c_out = schedule(t), target.skip_out(schedule, t)[1]
        e = getattr(target, "noise_out", partial(Prediction.noise_out, target))(schedule, t)
        at_end = (alpha == 0) | (sigma == 0)
        # Selected before they are multiplied: what is compiled for times inside stays the same product, to the bit.
        first = jnp.where(at_end, limit(schedule, t, c_out, e), weight_x0(schedule, t))
        return first * jnp.where(at_end, 1.0, c_out**2)  # (weights.1)

    return weight


def _has_ends(schedule: Schedule) -> bool:
    """Tells whether sigma is 0 at t = 0, or alpha at t_max; True where the schedule is being traced."""
    if not host.concrete(schedule):
        return True
    return not np.all(amplitudes(schedule, [float(schedule.t_max), 0.0]))


def _snr(schedule: Schedule, t: Any) -> Array:
    alpha, sigma = schedule(t)
    return (alpha / sigma) ** 2


def unit() -> Weight:
    """Weights by 1 in network space: each target's own natural weight."""
    return lambda schedule, target, t: 1.0


def simple() -> Weight:
    """Weights the error of eps by 1 (Ho et al. 2020, L_simple): SNR on x_0."""
    return _of_x0_error(_snr, lambda schedule, t, c_out, e: jnp.square(e))  # (weights.2)


def likelihood() -> Weight:
    """Weights the error of the score by g^2, which bounds -log p (Song et al. 2021b); that of x_0 by -d SNR/dt."""

    def limit(schedule: Schedule, t: Any, c_out: Any, e: Any) -> Array:
        (alpha, sigma), (d_alpha, d_sigma) = derivatives(schedule, t)
        fall = 2 * (alpha * d_sigma - sigma * d_alpha)  # -d SNR/dt = fall alpha / sigma^3
        return jnp.where(sigma == 0, fall * e**2 / (alpha * sigma), fall * e * c_out / sigma**2)

    # (weights.3)
    return _of_x0_error(lambda schedule, t: rates(schedule, t)[1] * _snr(schedule, t) / schedule(t)[1] ** 2, limit)


def min_snr(gamma: float = 5.0) -> Weight:
    """Weights the error of x_0 by min(SNR, gamma) (Hang et al. 2023)."""
    host.check_positive("gamma", gamma)
    least = lambda schedule, t, c_out, e: jnp.minimum(jnp.square(e), gamma * c_out**2)
    return _of_x0_error(lambda schedule, t: jnp.minimum(_snr(schedule, t), gamma), least)  # (weights.4)


def edm(sigma_data: float = 0.5) -> Weight:
    """Weights the error of x_0 by (l^2 + s^2) / (l s)^2, l the level, s sigma_data (Karras et al. 2022, table 1)."""
    host.check_positive("sigma_data", sigma_data)
    both = lambda schedule, t, c_out, e: jnp.square(e) + c_out**2 / sigma_data**2
    return _of_x0_error(lambda schedule, t: _snr(schedule, t) + 1 / sigma_data**2, both)  # (weights.5)


def p2(gamma: float = 1.0, k: float = 1.0) -> Weight:
    """Weights the error of eps by 1 / (k + SNR)^gamma (Choi et al. 2022)."""
    host.check_positive("gamma", gamma)
    host.check_positive("k", k)

    def limit(schedule: Schedule, t: Any, c_out: Any, e: Any) -> Array:
        clean = jnp.square(c_out) ** gamma * jnp.square(e) ** (1 - gamma)  # e^2 / SNR^gamma
        return jnp.where(schedule(t)[1] == 0, clean, jnp.square(e) / k**gamma)

    return _of_x0_error(lambda schedule, t: _snr(schedule, t) / (k + _snr(schedule, t)) ** gamma, limit)  # (weights.6)


def velocity(floor: float = 0.05) -> Weight:
    """Weights the error of the velocity dx_t/dt by 1, where sigma >= floor, by (sigma / floor)^2 below (Li & He 2025).

    The velocity of an estimate of x_0 is wrong by (alpha sigma' - sigma alpha') / sigma times the error of x_0. The
    floor keeps that finite near the data; samplers have none, whatever published code does.

    Raises:
        ValueError: for a floor that is negative or not finite.
    """
    if not 0 <= floor < np.inf:
        raise ValueError(f"floor is {floor!r}, expected a number >= 0, of sigma: 0.05 as published, 0 for none.")

    def turn(schedule: Schedule, t: Any) -> Array:
        (alpha, sigma), (d_alpha, d_sigma) = derivatives(schedule, t)
        return alpha * d_sigma - sigma * d_alpha

    def weight_x0(schedule: Schedule, t: Any) -> Array:
        return (turn(schedule, t) / jnp.maximum(schedule(t)[1], floor)) ** 2  # (weights.7)

    def limit(schedule: Schedule, t: Any, c_out: Any, e: Any) -> Array:
        (alpha, sigma), rate = schedule(t), turn(schedule, t)
        if not floor:
            return jnp.where(sigma == 0, rate * e / alpha, rate * c_out / sigma) ** 2
        # Where sigma leaves 0 with infinite slope, rate c_out = (sigma rate / alpha) e, whose first factor is finite.
        near = jnp.asarray(schedule.t_max) * 1e-7
        steep = schedule(near)[1] / schedule(near)[0] * turn(schedule, near) * e
        return (jnp.where(jnp.isfinite(rate), rate * c_out, steep) / jnp.maximum(sigma, floor)) ** 2

    return _of_x0_error(weight_x0, limit)
