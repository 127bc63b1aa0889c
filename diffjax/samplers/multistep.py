"""Linear multistep samplers in half log-SNR, lambda = log(alpha / sigma): a method is a rule for weights.

The exact solution over one step of the reverse SDE with noise level tau (0: the probability flow, 1: the reverse SDE),
with h = lambda_s - lambda_t, H = (1 + tau^2) h and u = (lambda - lambda_t) / h, is

    x_s = sigma_s / sigma_t e^(-tau^2 h) x_t + alpha_s int_0^1 H e^(-H (1 - u)) m(u) du
          + sigma_s sqrt(1 - e^(-2 tau^2 h)) z,    m = E[x_0 | x]

(Lu et al. 2022b, eq. 8; Xue et al. 2023, eq. 11). Putting the polynomial through the last p evaluations for m gives the
exponential Adams-Bashforth method of order p (`adams`): order 1 is DDIM at tau = 0 and DDPM at tau = 1. The
published DPM-Solver++ 2M, 3M and their SDE variants approximate those integrals. 3M takes half the exact weight of the
second divided difference, phi_3 for 2 phi_3, so that it is of order two, with a smaller error constant, where
`adams(order=3)` is of order three: tests/test_order.py measures both.
"""

from collections.abc import Callable
from itertools import pairwise
from math import factorial

import numpy as np

from diffjax import host
from diffjax.samplers import table
from diffjax.samplers.base import Sampler
from diffjax.types import Schedule

__all__ = ["adams", "dpmpp_2m", "dpmpp_2m_sde", "dpmpp_3m", "dpmpp_3m_sde"]  # what a config may name

Weights = Callable[[np.ndarray, float], np.ndarray]  # nodes (p,) in units of h, 0 first; H -> weights (p,)
FACTORIALS = [float(factorial(n)) for n in range(24)]  # of the series below: looked up thousands of times by a plan


def adams(schedule: Schedule, order: int = 3, tau: float = 0.0, lower_final: bool = False) -> Sampler:
    """Makes the exponential Adams-Bashforth sampler of order 1, 2 or 3, integrals exact; starts at order 1.

    With tau > 0 it is the predictor of SA-Solver (Xue et al. 2023, eq. 14) at constant tau, with the paper's integrals.
    Their public code adds a term of O(h^3) at order 2, and so in the second step of order 3: its samples are others on
    few steps; without that term the two agree to rounding.

    Order 3 extrapolates far where a step is longer in lambda than those before it, as the last ones of equal steps in t
    are, and with noise the more: such a plan warns (`table.AmplifyingPlan`). Take `grids.log_snr`, or lower_final.

    Args:
        order: 1, 2 or 3.
        tau: noise level in units of g.
        lower_final: end with orders p - 1, ..., 1 (steadier on very short grids that end above t = 0).
    """
    return _sampler(schedule, order, tau, lower_final, adams_weights, order)


def dpmpp_2m(schedule: Schedule, lower_final: bool = False) -> Sampler:
    """Makes the sampler DPM-Solver++(2M) (Lu et al. 2022b, algorithm 2)."""
    return _sampler(schedule, 2, 0.0, lower_final, _dpmpp_2m_weights)


def dpmpp_3m(schedule: Schedule, lower_final: bool = False) -> Sampler:
    """Makes the sampler DPM-Solver++(3M) as in its public implementations; see the module's remark on its order."""
    return _sampler(schedule, 3, 0.0, lower_final, _dpmpp_3m_weights)


def dpmpp_2m_sde(schedule: Schedule, eta: float = 1.0, kind: str = "midpoint") -> Sampler:
    """Makes the sampler SDE-DPM-Solver++(2M) (Lu et al. 2022b, section 5, appendix B); `eta` as in its code.

    Args:
        eta: tau^2: 1 is the reverse SDE, 0 the probability flow.
        kind: "midpoint" or "heun": phi_1 / 2 or phi_2 as the weight of the difference.
    """
    kinds = {"midpoint": _dpmpp_2m_weights, "heun": adams_weights}
    if kind not in kinds:
        raise ValueError(f"The kind is {kind!r}, expected 'midpoint' or 'heun'.")
    return _sampler(schedule, 2, _tau(eta), False, kinds[kind])


def dpmpp_3m_sde(schedule: Schedule, eta: float = 1.0) -> Sampler:
    """Makes the sampler DPM-Solver++(3M) SDE as in public implementations: 3M with H = (1 + eta) h in place of h."""
    return _sampler(schedule, 3, _tau(eta), False, _dpmpp_3m_sde_weights)


def adams_weights(nodes: np.ndarray, h: float) -> np.ndarray:
    """Computes int_0^1 H exp(-H (1 - u)) l_j(u) du, (p,), for Lagrange's basis l_j on `nodes`: exact for degree < p."""
    moments = np.asarray([exponential_moment(k, h) for k in range(len(nodes))])
    return np.linalg.solve(np.vander(nodes, increasing=True).T, moments)  # (adams.2)


def exponential_moment(k: int, h: float) -> float:
    """Computes int_0^1 h exp(-h (1 - u)) u^k du = h k! phi_{k+1}(-h), to float64 accuracy at every h > 0."""
    if h < 1:  # the recursion below cancels there; the series converges fast
        return h * sum((-h) ** j * FACTORIALS[k] / FACTORIALS[j + k + 1] for j in range(20))
    moment = -np.expm1(-h)
    for i in range(1, k + 1):
        moment = 1 - i / h * moment  # (adams.3)
    return moment


def _dpmpp_2m_weights(nodes: np.ndarray, h: float) -> np.ndarray:
    """Computes phi_1 (1 + 1 / 2r, -1 / 2r), r the last step over this one."""
    phi_1 = -np.expm1(-h)
    if len(nodes) == 1:
        return np.asarray([phi_1])
    r = -nodes[1]
    return phi_1 * np.asarray([1 + 0.5 / r, -0.5 / r])  # (dpmpp.1)


def _dpmpp_3m_weights(nodes: np.ndarray, h: float) -> np.ndarray:
    """Computes the weights of phi_1 m + phi_2 D1 + (second moment / 2) D2, divided differences of three evaluations."""
    if len(nodes) < 3:
        return _dpmpp_2m_weights(nodes, h)
    phi = [exponential_moment(k, h) for k in range(3)]
    r0, r1 = -nodes[1], nodes[1] - nodes[2]
    first, earlier = np.asarray([1, -1, 0]) / r0, np.asarray([0, 1, -1]) / r1
    second = (first - earlier) / (r0 + r1)
    return phi[0] * np.asarray([1.0, 0, 0]) + phi[1] * (first + r0 * second) + 0.5 * phi[2] * second  # (dpmpp.2)


def _dpmpp_3m_sde_weights(nodes: np.ndarray, h: float) -> np.ndarray:
    """Computes the 3M rule's weights: its second step takes phi_2 for the difference, the ODE's phi_1 / 2."""
    return adams_weights(nodes, h) if len(nodes) < 3 else _dpmpp_3m_weights(nodes, h)


def _tau(eta: float) -> float:
    if not 0 <= eta < np.inf:
        raise ValueError(f"eta is {eta}, expected a finite number >= 0 (0: probability flow, 1: reverse SDE).")
    return eta**0.5  # (dpmpp.3)


def _sampler(
    schedule: Schedule, order: int, tau: float, lower_final: bool, weights: Weights, interior: int = 2
) -> Sampler:
    """Makes the sampler of a rule for weights over `order` evaluations; interior: its order without noise."""
    order = host.check_order(order, (1, 2, 3), "The multistep order")
    if not 0 <= tau < np.inf:
        raise ValueError(f"tau is {tau}, expected a finite number >= 0 (0: probability flow, 1: reverse SDE).")

    def program(walk: table.Walk) -> table.Form:
        x, past, steps = walk.start, [], len(walk.levels) - 1
        for i, (now, then) in enumerate(pairwise(walk.levels)):
            past = [(now.lam, walk.evaluate(x, now)), *past][: min(order, steps - i if lower_final else order)]
            h = then.lam - now.lam
            if np.isfinite(h):
                usable = [(lam, mean) for lam, mean in past if np.isfinite(lam)]  # not those from alpha = 0
                w = weights(np.asarray([(lam - now.lam) / h for lam, _ in usable]), (1 + tau**2) * h)
            else:  # from alpha = 0, or to sigma = 0
                usable, w = past[:1], np.ones(1)
            data = sum(weight * mean for weight, (_, mean) in zip(w, usable))
            x = then.sigma / now.sigma * np.exp(-(tau**2) * h if tau else 0.0) * x + then.alpha * data  # (adams.1)
            if tau:
                x = x + then.sigma * np.sqrt(-np.expm1(-2 * tau**2 * h)) * walk.normal()
        return x

    # With noise the weak order is at most 2: the covariance of x_t and x_s has a kink at t = s.
    return table.sampler(schedule, program, order, order=min(interior, 2) if tau else interior, random=tau > 0)
