"""Linear multistep samplers in half log-SNR, lambda = log(alpha / sigma): a method is a table of coefficients.

The exact solution over one step, with h = lambda_s - lambda_t and u = (lambda - lambda_t) / h, is

    x_s = sigma_s / sigma_t x_t + alpha_s int_0^1 h exp(-h (1 - u)) m(u) du,    m = E[x_0 | x]

(Lu et al. 2022b, eq. 8). Putting the polynomial through the last p evaluations for m gives the exponential
Adams-Bashforth method of order p (`adams`): order 1 is DDIM. The published DPM-Solver++ 2M and 3M approximate those
integrals; `dpmpp_2m` and `dpmpp_3m` are their update rules as published. That of 3M takes half the exact weight of the
second divided difference, phi_3 for 2 phi_3, so that it is of order two, with a smaller error constant, where
`adams(order=3)` is of order three: tests/test_order.py measures both.
"""

from collections.abc import Callable
from math import factorial
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from diffjax.samplers.base import Sampler
from diffjax.schedules import amplitudes
from diffjax.types import Array, Denoiser, Key, Schedule

Weights = Callable[[np.ndarray, float], np.ndarray]  # nodes (p,) in units of h, 0 first; h -> weights (p,)


class _Row(NamedTuple):
    t: Any
    x: Any  # coefficient of x_t
    means: Any  # (order,) coefficients of the last evaluations, newest first


class _State(NamedTuple):
    x: Array
    means: Array  # (order, ...) the last evaluations, newest first


def adams(schedule: Schedule, order: int = 3, lower_final: bool = False) -> Sampler:
    """Exponential Adams-Bashforth of order 1, 2 or 3 with exact integrals, for any spacing; starts at order 1.

    Args:
        lower_final: end with orders p - 1, ..., 1 (steadier on very short grids that end above t = 0).
    """
    return _sampler(schedule, order, lower_final, adams_weights)


def dpmpp_2m(schedule: Schedule, lower_final: bool = False) -> Sampler:
    """DPM-Solver++(2M) (Lu et al. 2022b, algorithm 2)."""
    return _sampler(schedule, 2, lower_final, _dpmpp_2m_weights)


def dpmpp_3m(schedule: Schedule, lower_final: bool = False) -> Sampler:
    """DPM-Solver++(3M) as in its public implementations; see the module's remark on its order."""
    return _sampler(schedule, 3, lower_final, _dpmpp_3m_weights)


def adams_weights(nodes: np.ndarray, h: float) -> np.ndarray:
    """int_0^1 h exp(-h (1 - u)) l_j(u) du for the Lagrange basis l_j on `nodes`: exact for degree < p."""
    moments = np.asarray([exponential_moment(k, h) for k in range(len(nodes))])
    return np.linalg.solve(np.vander(nodes, increasing=True).T, moments)


def exponential_moment(k: int, h: float) -> float:
    """int_0^1 h exp(-h (1 - u)) u^k du = h k! phi_{k+1}(-h), to float64 accuracy at every h > 0."""
    if h < 1:  # the recursion below cancels there; the series converges fast
        return h * sum((-h) ** j * factorial(k) / factorial(j + k + 1) for j in range(20))
    moment = -np.expm1(-h)
    for i in range(1, k + 1):
        moment = 1 - i / h * moment
    return moment


def _dpmpp_2m_weights(nodes: np.ndarray, h: float) -> np.ndarray:
    """phi_1 (1 + 1 / 2r, -1 / 2r), r the last step over this one."""
    phi_1 = -np.expm1(-h)
    if len(nodes) == 1:
        return np.asarray([phi_1])
    r = -nodes[1]
    return phi_1 * np.asarray([1 + 0.5 / r, -0.5 / r])


def _dpmpp_3m_weights(nodes: np.ndarray, h: float) -> np.ndarray:
    """phi_1 m + phi_2 D1 + (second moment / 2) D2 in divided differences of the last three evaluations."""
    if len(nodes) < 3:
        return _dpmpp_2m_weights(nodes, h)
    phi = [exponential_moment(k, h) for k in range(3)]
    r0, r1 = -nodes[1], nodes[1] - nodes[2]
    first, earlier = np.asarray([1, -1, 0]) / r0, np.asarray([0, 1, -1]) / r1
    second = (first - earlier) / (r0 + r1)
    return phi[0] * np.asarray([1.0, 0, 0]) + phi[1] * (first + r0 * second) + 0.5 * phi[2] * second


def _sampler(schedule: Schedule, order: int, lower_final: bool, weights: Weights) -> Sampler:
    if order not in (1, 2, 3):
        raise ValueError(f"The multistep order is {order!r}, expected 1, 2 or 3.")

    def plan(ts: np.ndarray) -> _Row:
        alpha, sigma = amplitudes(schedule, ts)
        with np.errstate(divide="ignore"):
            half_log_snr = np.log(alpha) - np.log(sigma)
        steps = len(ts) - 1
        table = np.zeros((steps, order))
        for i in range(steps):
            past = min(i + 1, order, steps - i if lower_final else order)
            h = half_log_snr[i + 1] - half_log_snr[i]
            lam = half_log_snr[i - np.arange(past)]
            usable = np.isfinite(lam) if np.isfinite(h) else np.arange(past) == 0  # from alpha = 0, or to sigma = 0
            nodes = (lam[usable] - lam[0]) / h if np.isfinite(h) else np.zeros(1)
            table[i, : len(nodes)] = alpha[i + 1] * weights(nodes, h)
        return _Row(ts[:-1], sigma[1:] / sigma[:-1], table)

    return Sampler(_step, plan, _Init(order), _final, schedule)


class _Init(NamedTuple):
    order: int

    def __call__(self, x: Array) -> _State:
        return _State(x, jnp.zeros((self.order, *x.shape), x.dtype))


def _step(model: Denoiser, key: Key, state: _State, row: _Row) -> _State:
    means = jnp.concatenate([model(state.x, row.t).mean[None], state.means[:-1]])
    return _State(row.x * state.x + jnp.tensordot(row.means, means, 1), means)


def _final(model: Denoiser, state: _State) -> Array:
    return state.x
