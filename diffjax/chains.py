"""A process seen along a time grid: q(x_s | x_t, x_0), from which ancestral steps and variational bounds are made.

For x_t = alpha x_0 + sigma z with independent increments and s < t, conditioning of Gaussians gives (Ho et al. 2020,
eq. 6 and 7; kexue 9164 (6), by Bayes' rule)

    q(x_s | x_t, x_0) = N(k x_t + gamma x_0, beta_tilde),
    beta_tilde = sigma_s^2 (1 - SNR_t / SNR_s),  gamma = alpha_s (1 - SNR_t / SNR_s),  gamma^2 / beta_tilde = gain,
    gain = SNR_s - SNR_t:  what the step adds to the knowledge of x_0.

A model that knows x_0 up to N(mean, var) then has the reverse variance (kexue 9245 (4), 9246 (1))

    beta_tilde + gamma^2 var = beta_tilde (1 + gain var),

so that var and gain are all that a variance, or a term of the variational bound, depends on. Where s is data
(sigma_s = 0) the gain is infinite, beta_tilde = 0, and the reverse variance is var itself.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np

from diffjax import grids, host, schedules
from diffjax.calculus import amplitudes, log_alphas, need_scalar
from diffjax.types import Array, Discrete, Schedule, pytree, real


@pytree
class Chain:
    """The steps of a grid, noisiest first; make one with `chain`.

    Attributes:
        t: (N,), where each step starts; a grid that ends with noise adds its last time, whose step is the decoder's.
        gain: SNR_s - SNR_t of each step, (N,), or (N, H, W, 1) of a schedule per frequency; infinite on the last, which
            arrives at data.
        floor: variance of the step to data when the denoiser gives none. Of a grid that ends in data it is the
            beta_tilde of the step before (Ho et al. 2020; Nichol & Dhariwal 2021, code); of one that ends with noise
            sigma^2 / alpha^2, what x_t alone says of x_0 (Kingma et al. 2021, section 3.2).
    """

    t: Any
    gain: Any
    floor: Any

    def gain_at(self, t: Any) -> Array:
        """Looks up the gain of the step that starts at t; NaN for a time that is no step of this chain."""
        return look_up(self.t, self.gain, t)

    def check(self, t: Any) -> None:
        """Looks at a time, unless it is being traced.

        Raises:
            ValueError: if it is none of the chain's.
        """
        if not host.concrete(self, t):
            return
        ts, now = np.asarray(self.t), float(t)
        i = np.argmin(np.abs(ts - now))
        if not abs(ts[i] - now) <= 1e-5 * ts[i]:
            raise ValueError(
                f"t = {now:.6g} is none of the {len(ts)} times of the chain, the nearest is {ts[i]:.6g}; "
                "draw training times by losses.times.chain with the same number of steps."
            )


def look_up(ts: Any, values: Any, t: Any) -> Array:
    """Reads the entry of values (N, ...) at the time t of ts (N,); NaN for a time that is none of them."""
    t = real(t)
    ts = jnp.asarray(ts, t.dtype)
    distance = jnp.abs(ts - t)
    i = jnp.argmin(distance)
    return jnp.where(distance[i] <= 1e-5 * ts[i], jnp.asarray(values, t.dtype)[i], jnp.nan)


def chain(schedule: Schedule, ts: Any) -> Chain:
    """Makes the chain along a grid (N + 1,), computed on the host in float64.

    Raises:
        ValueError: if the grid is not finite, decreasing and inside the schedule's domain.
    """
    ts = grids.check(ts, float(schedule.t_max))
    alpha, sigma = amplitudes(schedule, ts)
    with np.errstate(divide="ignore"):
        snr, log_alpha = (alpha / sigma) ** 2, log_alphas(schedule, ts, alpha)
        change = 2 * (log_alpha[:-1] - np.log(sigma[:-1]) - log_alpha[1:] + np.log(sigma[1:]))
    gain = snr[1:] * -np.expm1(change)  # (ancestral.3)
    if np.all(sigma[-1] > 0):
        return Chain(ts, np.concatenate([gain, np.full_like(gain[:1], np.inf)]), (sigma[-1] / alpha[-1]) ** 2)
    if len(gain) > 1:
        floor = -np.expm1(change[-2]) * sigma[-2] ** 2
    else:  # a single step leaves no choice: the variance of unit data
        floor = sigma[0] ** 2 / (alpha[0] ** 2 + sigma[0] ** 2)
    return Chain(ts[:-1], gain, floor)


def whole(schedule: Schedule, steps: int | None = None) -> Chain:
    """Makes the chain of all T steps, at t / t_max = k / T.

    Args:
        steps: T; default the schedule's own number of steps, 1000 for a continuous one.
    """
    steps = length(schedule, steps)
    return chain(schedule, grids.trailing(schedule, steps, steps=steps))


def length(schedule: Schedule, steps: int | None = None) -> int:
    """Finds T, the number of steps of `whole`: `steps`, else the schedule's own, else 1000."""
    if steps is not None:
        return host.check_int("steps", steps, most=schedules.MOST_STEPS)
    return schedule.steps if isinstance(schedule, Discrete) else 1000


def tightest(schedule: Schedule, ts: Any, var: Any, steps: int) -> np.ndarray:
    """Finds the grid of `steps` steps on times of ts along which the bound is tightest (Bao et al. 2022, section 4).

    With the optimal variances a bound is the sum over its steps t -> s of log(1 + gain var) / 2: dynamic programming
    finds the least in O(steps N^2) (Watson et al. 2021; published as the optimal trajectory). The last step, from
    ts[N - 1] to data, is in all of them.

    Args:
        ts: decreasing times (N + 1,), the last one without noise.
        var: (N,), the posterior's variance at each but the last.
        steps: 2 .. N.

    Returns:
        (steps + 1,) of the times, both ends among them.

    Raises:
        ValueError: for lengths that do not fit, or a last time with noise.
    """
    need_scalar(schedule, "The tightest grid")
    ts, var = grids.check(ts, float(schedule.t_max)), np.asarray(var, np.float64)
    n = len(ts) - 1
    alpha, sigma = amplitudes(schedule, ts)
    if var.shape != (n,) or not np.all(var >= 0) or sigma[-1] > 0:
        raise ValueError(
            f"Got {len(ts)} times and variances of shape {var.shape}, expected times that end in data and {n} >= 0."
        )
    if not (host.is_int(steps, 2) and steps <= n):
        raise ValueError(f"steps is {steps!r}, expected an integer from 2 to {n}, those of the grid.")
    snr = (alpha[:-1] / sigma[:-1]) ** 2
    gain = snr[None, :] - snr[:, None]  # of the step from row to column
    cost = np.where(gain > 0, 0.5 * np.log1p(np.maximum(gain, 0) * var[:, None]), np.inf)  # (analytic.5)
    best, came = np.full(n, np.inf), []
    best[0] = 0.0
    for _ in range(steps - 1):
        through = best[:, None] + cost
        came.append(np.argmin(through, 0))
        best = np.min(through, 0)
    path = [n - 1]
    for back in reversed(came):
        path.append(back[path[-1]])
    return ts[[*reversed(path), n]]
