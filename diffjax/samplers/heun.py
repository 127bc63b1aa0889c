"""Heun's method with churn (Karras et al. 2022, algorithms 1 and 2), in u = x / alpha clocked by n = sigma / alpha.

There du/dn = eps_hat = (x - alpha E[x_0|x]) / sigma for every schedule, and for EDM's own u = x, n = t. One interval:

    raise the noise from n_t to n_hat = (1 + gamma) n_t;  d = eps_hat at n_hat;  Euler step to n_s;
    d' = eps_hat there;  redo the step with (d + d') / 2.

A row is one evaluation, predictor or corrector; both end in the same formula. The step to sigma = 0 has no corrector.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffjax import host
from diffjax.calculus import amplitudes, need_scalar, time_of
from diffjax.samplers.base import Sampler, starts_too_early
from diffjax.types import Array, Denoiser, Key, Schedule

__all__ = ["edm"]  # what a config may name


class Half(NamedTuple):
    """The coefficients of one evaluation, predictor or corrector, and of the step of its interval."""

    t: Any  # where the model is evaluated
    alpha: Any  # of that time
    sigma: Any
    scale: Any  # x is multiplied by this and
    noise: Any  # noise of this size is added, before the evaluation: churn
    base: Any  # x_s = base x_hat + slope d
    slope: Any
    corrector: Any


class _State(NamedTuple):
    x: Array
    base: Array  # x_hat of the interval
    slope: Array  # d at x_hat


def edm(
    schedule: Schedule, churn: float = 0.0, s_min: float = 0.0, s_max: float = np.inf, s_noise: float = 1.0
) -> Sampler:
    """Karras et al.'s sampler: 2 N - 1 evaluations on a grid of N steps that ends at 0, else 2 N.

    Args:
        churn: S_churn; gamma = min(churn / N, sqrt(2) - 1) on intervals that start in [s_min, s_max].
        s_min, s_max: S_tmin, S_tmax, in units of sigma / alpha.
        s_noise: S_noise; any value but 1 changes the marginals.

    Raises:
        ValueError: for negative parameters, or (at planning) if churn asks for more noise than the schedule has, or if
            the grid starts where alpha is 0, where the clock is infinite.
    """
    if not (churn >= 0 and s_noise >= 0 and 0 <= s_min <= s_max):
        raise ValueError(
            f"Got churn = {churn}, s_noise = {s_noise}, s_min = {s_min}, s_max = {s_max}: expected all >= 0."
        )

    def plan(ts: np.ndarray) -> Half:
        alpha, sigma = amplitudes(schedule, ts)
        if churn:
            need_scalar(schedule, "Churn, which raises the noise to another time's,")
        n = clock(alpha, sigma, ts)
        gamma = np.where((n[:-1] >= s_min) & (n[:-1] <= s_max), min(churn / (len(ts) - 1), 2**0.5 - 1), 0.0)  # (heun.4)
        t_hat, alpha_hat, sigma_hat = _raise_noise(schedule, ts[:-1], n[:-1], gamma)
        # (heun.5)
        noise = s_noise * alpha_hat * np.sqrt(np.maximum((sigma_hat / alpha_hat) ** 2 - n[:-1] ** 2, 0.0)) * (gamma > 0)
        return halves(alpha[:-1], (t_hat, alpha_hat, sigma_hat), (ts[1:], alpha[1:], sigma[1:]), noise)

    return sampler(schedule, plan)


def sampler(schedule: Schedule, plan: Callable[[np.ndarray], Half]) -> Sampler:
    """Makes the sampler that walks along planned halves."""
    return Sampler(_step, plan, _init, _final, schedule, order=2)


def halves(alpha: np.ndarray, hat: Any, then: Any, noise: np.ndarray) -> Half:
    """Plans Heun's rows of n intervals: a predictor each, and a corrector where the interval ends above sigma = 0.

    Args:
        alpha: (n,), where each interval begins.
        hat: (t, alpha, sigma), each (n,), the level that noise is raised to, and the model evaluated at first.
        then: (t, alpha, sigma), where each interval ends.
        noise: (n,), the standard deviation of what raises x to `hat`; 0 where `hat` is the beginning.
    """
    (t_hat, alpha_hat, sigma_hat), (t, alpha_s, sigma_s) = hat, then
    base, slope = alpha_s / alpha_hat, alpha_s * (sigma_s / alpha_s - sigma_hat / alpha_hat)  # (heun.1)
    one, zero, redone = np.ones_like(noise), np.zeros_like(noise), np.full(len(noise), True)
    predictor = Half(t_hat, alpha_hat, sigma_hat, alpha_hat / alpha, noise, base, slope, ~redone)
    corrector = Half(t, alpha_s, sigma_s, one, zero, base, slope, redone)
    rows = jax.tree.map(lambda p, c: np.stack([p, c], 1).reshape(-1, *p.shape[1:]), predictor, corrector)
    kept = ~(rows.corrector & np.all(rows.sigma.reshape(len(rows.t), -1) == 0, 1))
    return jax.tree.map(lambda a: a[kept], rows)


def clock(alpha: np.ndarray, sigma: np.ndarray, ts: np.ndarray) -> np.ndarray:
    """Computes n = sigma / alpha along a grid (N + 1,), Heun's clock.

    Raises:
        ValueError: if the grid starts where alpha is 0.
    """
    if np.any(alpha[0] == 0):
        raise starts_too_early(f"Heun's clock sigma / alpha is infinite at t = {ts[0]:g}")
    return sigma / alpha


def _raise_noise(schedule: Schedule, ts: np.ndarray, n: np.ndarray, gamma: np.ndarray) -> Any:
    """(t_hat, alpha, sigma) at noise (1 + gamma) n; times without churn stay as they are, to the bit."""
    if not np.any(gamma > 0):
        return (ts, *amplitudes(schedule, ts))
    raised = host.along(time_of, schedule, -2 * np.log((1 + gamma) * n))
    t_hat = np.where(gamma > 0, raised, ts)
    alpha, sigma = amplitudes(schedule, t_hat)
    short = sigma < (1 - 1e-6) * (1 + gamma) * n * alpha
    ended = t_hat >= (1 - 1e-6) * float(schedule.t_max)
    missed = np.flatnonzero((short & ended) | ~(sigma >= (1 - 1e-6) * n * alpha))
    if missed.size:  # the schedule ends before that level (a table, say); a rounded one may fall short of it inside
        i = missed[0]
        raise ValueError(
            f"Churn asks for sigma/alpha = {(1 + gamma[i]) * n[i]:.6g} at t = {ts[i]:.6g}, which "
            f"{type(schedule).__name__} does not reach; set s_max below {n[i]:.6g}, or churn to 0."
        )
    return t_hat, alpha, sigma


def _init(x: Array) -> _State:
    return _State(x, x, jnp.zeros_like(x))


def _step(model: Denoiser, key: Key, state: _State, row: Half) -> _State:
    x = row.scale * state.x + row.noise * jax.random.normal(key, state.x.shape, state.x.dtype)
    d = (x - row.alpha * model(x, row.t).mean) / row.sigma  # (heun.2)
    base = jnp.where(row.corrector, state.base, x)
    slope = jnp.where(row.corrector, 0.5 * (state.slope + d), d)  # (heun.3)
    return _State(row.base * base + row.slope * slope, base, slope)


def _final(model: Denoiser, state: _State) -> Array:
    return state.x
