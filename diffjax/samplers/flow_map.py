"""Jumps of a flow map: each row is one evaluation, told where it goes; any number of rows draws.

    x_q = X_{t -> q}(x_t),    x_s = (alpha_s / alpha_q) x_q + gamma sigma_s z,
    sigma_q / alpha_q = sqrt(1 - gamma^2) sigma_s / alpha_s

(gamma-sampling, Kim et al. 2024, algorithm 2, on any schedule): the map goes below s and noise brings it back, so that
the law at s is that of x_s. gamma = 0 composes maps, x_s = X_{t -> s}(x_t); gamma = 1 goes to the data and noises
again, the multistep consistency sampler (Song et al. 2023, algorithm 1), `ancestral.resampled` on `flow.at(0)`. Rows
are DDIM's, x_s = k x + (alpha_s - k alpha_t) m(x, t, q): of a denoiser of one time, whose m is E[x_0 | x_t], gamma = 0
is `ancestral.ddim` to the last bit.
"""

from typing import Any, NamedTuple

import numpy as np

from diffjax import calculus, host
from diffjax.calculus import amplitudes
from diffjax.samplers.base import Sampler, linear_step
from diffjax.samplers.precision import Steady
from diffjax.types import Array, Denoiser, Key, Schedule

__all__ = ["jumps"]  # what a config may name


class Row(NamedTuple):
    """One row: the coefficients of `base.Linear`, and where the map goes."""

    t: Any
    x: Any
    mean: Any
    noise_var: Any
    spread: Any
    to: Any


def jumps(schedule: Schedule, gamma: float = 0.0) -> Sampler:
    """Samples by a flow map's jumps, one evaluation a row.

    Args:
        gamma: in [0, 1], the share of sigma_s that is new noise, as an amplitude.

    Raises:
        ValueError: for a gamma outside [0, 1]; for gamma = 1 where sigma_0 > 0 (VE, VDM), or a schedule whose times of
            log-SNRs are unknown; with `sampling_fn`, for noise where only the flow is right.
    """
    if not 0 <= gamma <= 1:
        raise ValueError(f"gamma is {gamma}, expected a number in [0, 1] (0: maps composed, 1: noised from the data).")
    sigma_0 = float(amplitudes(schedule, [0.0])[1][0])
    if gamma == 1 and sigma_0 > 0:
        raise ValueError(
            f"gamma is 1, which goes to data and back, but {type(schedule).__name__} has sigma = {sigma_0:g} at t = 0: "
            "take gamma < 1, or a schedule with sigma = 0 there, such as EDM, VP or Rectified."
        )

    def plan(ts: np.ndarray) -> Row:
        (alpha, sigma) = amplitudes(schedule, ts)
        (alpha_t, alpha_s), (sigma_t, sigma_s) = (alpha[:-1], alpha[1:]), (sigma[:-1], sigma[1:])
        to, (alpha_q, sigma_q) = ts[1:], (alpha_s, sigma_s)
        if gamma:
            to = _below(schedule, ts[1:], gamma)
            alpha_q, sigma_q = amplitudes(schedule, to)
        k = sigma_q / sigma_t
        back = alpha_s / alpha_q
        noise = np.maximum(
            sigma_s**2 - (back * sigma_q) ** 2, 0.0
        )  # gamma^2 sigma_s^2 where q is no end of the schedule
        return Row(ts[:-1], back * k, back * (alpha_q - k * alpha_t), noise, np.zeros_like(k), to)  # (flow-maps.8)

    return Sampler(jump, plan, schedule=schedule, order=None if gamma else 1)


def jump(model: Denoiser, key: Key, x: Array, row: Row) -> Array:
    """Walks along one row: of a flow map by its own way to `row.to`, of any other denoiser by E[x_0 | x_t]."""
    towards = getattr(model, "at", None)
    return linear_step(model if towards is None else Steady(towards(row.to)), key, x, row)  # pyright: ignore


def _below(schedule: Schedule, ts: np.ndarray, gamma: float) -> np.ndarray:
    """The times whose sigma / alpha is sqrt(1 - gamma^2) times that of ts; those of data are data."""
    alpha, sigma = amplitudes(schedule, ts)
    level = np.sqrt(1 - gamma**2) * sigma / alpha
    inside = level > 0
    found = host.float64(calculus.time_of, schedule, -2 * np.log(np.where(inside, level, 1.0)))
    return np.where(inside, np.clip(found, 0.0, ts), 0.0)
