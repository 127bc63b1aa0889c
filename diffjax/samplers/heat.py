"""Samplers of heat dissipation and soft diffusion, per frequency: x is u = B x (`processes.heat`).

    dissipation    u_s = alpha_s m + delta z, the last step alpha_s m (Rissanen, Heinonen, Solin 2022, algorithm 2)
    momentum       u_s = u_t + (alpha_s - alpha_t) m + (1 - sigma_s^2 / sigma_t^2) (alpha_t m - u_t) + noise
                   (Daras et al. 2022): k u_t + (alpha_s - k alpha_t) m with k = sigma_s^2 / sigma_t^2

m = E[u_0 | u_t]. Momentum keeps the marginals if and only if its noise has the variance sigma_s^2 (1 - k). Dissipation
is `ancestral.resampled` with noise of another size, delta. On Gaussian data of variance c the right one is delta^2 =
sigma^2 + alpha_s^2 Var[u_0 | u_t]: a denoiser that knows the variance adds the second term itself, delta = 1 the first.
With the mean alone each of many steps multiplies the variance by (1 + sigma^2 / c)^-2 and adds delta^2, so that the
standard deviation tends to delta / (sqrt 2 sigma) of the true one: 0.707 at delta = sigma, 0.884 at the published 1.25
sigma, 1 at sqrt 2 sigma. More steps make the published sampler worse. That is so of an exact m; the errors of a network
add variance of their own.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffjax import grids, host
from diffjax.calculus import amplitudes
from diffjax.samplers.base import Linear, Sampler, linear_step
from diffjax.types import Array, Denoiser, Key, Schedule

__all__ = ["dissipation", "momentum"]  # what a config may name

NAMED = {"sigma": 1.0, "published": 1.25, "fixed_point": math.sqrt(2)}


def dissipation(schedule: Schedule, delta: float | str = "published") -> Sampler:
    """Samples the next blur level of E[x_0 | x_t] with new noise at every step, and the last one without.

    Args:
        delta: standard deviation of the noise in units of sigma: "sigma" (1), "published" (1.25), "fixed_point"
            (sqrt 2, right for many steps), or a number. With a denoiser that knows Var[x_0 | x_t], 1 is right.

    Raises:
        ValueError: for another name, or a number that is negative or not finite.
    """
    size = _size(delta)

    def plan(ts: np.ndarray) -> Linear:
        alpha, sigma = amplitudes(schedule, ts[1:])
        # (spectral.7)
        return Linear(ts[:-1], np.zeros_like(alpha), alpha, (size * sigma) ** 2, np.where(sigma > 0, alpha, 0.0))

    return Sampler(linear_step, plan, schedule=schedule)


def momentum(schedule: Schedule) -> Sampler:
    """Samples by soft diffusion's momentum sampler: the step of cold diffusion, and an ancestral one of the noise.

    On a schedule of alpha = 1 without a blur it is `ancestral.ddpm`. The noise is the ancestral one,
    sigma_s sqrt(1 - sigma_s^2 / sigma_t^2): sqrt(sigma_t^2 - sigma_s^2) would end with too much.
    """

    def plan(ts: np.ndarray) -> Linear:
        alpha, sigma = amplitudes(schedule, ts)
        k = (sigma[1:] / sigma[:-1]) ** 2
        mean = alpha[1:] - k * alpha[:-1]  # (spectral.8)
        noise_var = sigma[1:] ** 2 * (1 - k)
        if np.any(noise_var < 0):
            raise ValueError(
                f"{type(schedule).__name__} loses noise with time after t = {ts[1 + np.argwhere(noise_var < 0)[0][0]]:g}: "
                "the momentum sampler is for sigma that rises (EDM, VE)."
            )
        return Linear(ts[:-1], k, mean, noise_var, np.where(sigma[1:] > 0, mean, 0.0))

    return Sampler(linear_step, plan, schedule=schedule)


def step_bounds(
    denoise: Denoiser, schedule: Schedule, key: Key, u0: Array, ts: Any, delta: float | str = "published"
) -> Array:
    """Computes the terms of the variational bound of heat dissipation, one example's, in nats (Rissanen, eq. 8).

    Of the step from t to s it is KL(N(alpha_s u_0, sigma^2) | N(alpha_s m, delta^2)), of the last one, which arrives at
    data, -log N(u_0; m, delta_t^2): delta is that of the time before. What the prior costs is not among them.

    Args:
        u0: B x_0 of one example.
        ts: decreasing times (N + 1,) that end at 0.
        delta: as for `dissipation`.

    Returns:
        (N,), noisiest step first.

    Raises:
        ValueError: for another delta, or a grid that does not end in data.
    """
    size, ts = _size(delta), grids.check(ts, float(schedule.t_max))
    alpha, sigma = amplitudes(schedule, ts)
    if np.any(sigma[-1] > 0) or size == 0:
        raise ValueError(
            f"The grid ends at t = {ts[-1]:g} with noise, or delta is 0: the bound needs a grid that ends at 0, delta > 0."
        )
    terms = []
    for i in range(len(ts) - 1):
        z = jax.random.normal(jax.random.fold_in(key, i), u0.shape, u0.dtype)
        row = [jnp.asarray(a, u0.dtype) for a in (alpha[i], sigma[i], alpha[i + 1], sigma[i + 1], ts[i])]
        a_t, s_t, a_s, s_s, t = row
        error, last = (a_s * (u0 - denoise(a_t * u0 + s_t * z, t).mean)) ** 2, i == len(ts) - 2
        var = (size * (s_t if last else s_s)) ** 2
        # (spectral.9)
        spread = jnp.log(2 * np.pi * var) if last else 1 / size**2 - 1 + 2 * math.log(size)
        terms.append(0.5 * jnp.sum(error / var + spread))
    return jnp.stack(terms)


def _size(delta: float | str) -> float:
    if isinstance(delta, str) and delta not in NAMED:
        raise ValueError(f"There is no delta {delta!r}; {host.nearest(delta, NAMED)}, or a number of sigmas.")
    size = NAMED[delta] if isinstance(delta, str) else delta
    if not 0 <= size < np.inf:
        raise ValueError(f"delta is {delta}, expected a number of sigmas >= 0, or one of {', '.join(NAMED)}.")
    return float(size)
