"""Doob's h-transform: conditioning on where a process will be (Sarkka & Solin 2019; Zhou et al. 2023, eq. 5).

For dx = f dt + G dw that is to arrive at x_T = y, with h(x, t) = p(x_T = y | x_t = x),

    dx = [f + G G^T grad log h] dt + G dw,        p^h(x_t | x_s) = p(x_t | x_s) h(x_t, t) / h(x_s, s).

h solves the backward Kolmogorov equation (d_t + L) h = 0. For a linear SDE it is the Gaussian N(y; A x + b, Q) of the
transition from t to T, so that all of this is closed; for a schedule it is N(y; R x, q), R = alpha_T / alpha_t and
q = sigma_T^2 (1 - SNR_T / SNR_t), which gives `processes.bridge`. The drift has a pole at T: stop before.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffjax.calculus import rates, remaining
from diffjax.theory.generator import SDE
from diffjax.theory.linear import LinearSDE, Transition
from diffjax.types import Array, Schedule, pytree

_discretize = jax.jit(LinearSDE.discretize)  # one program, where a check on the host would make one of each operation


@pytree
class Pinned:
    """A linear SDE that is conditioned to arrive at y at time t_max; make one with `pinned`.

    Attributes:
        sde: the free process.
        y: (d,).
        t_max: the time of arrival.
    """

    sde: LinearSDE
    y: Array
    t_max: Any

    def log_h(self, x: Array, t: Any) -> Array:
        """Computes log h = log p(x_T = y | x_t = x), a scalar."""
        A, b, Q = self.sde.discretize(self.t_max - t)
        miss = self.y - jnp.matmul(A, x, precision="highest") - b
        return -0.5 * (
            jnp.vdot(miss, jnp.linalg.solve(Q, miss), precision="highest") + jnp.linalg.slogdet(2 * np.pi * Q)[1]
        )

    def drift(self, x: Array, t: Any) -> Array:
        """Computes the drift f + L L^T grad log h, (d,), with grad log h = A^T Q^-1 (y - A x - b)."""
        with jax.default_matmul_precision("highest"):
            A, b, Q = self.sde.discretize(self.t_max - t)
            pull = A.T @ jnp.linalg.solve(Q, self.y - A @ x - b)
            return self.sde.drift(x, t) + self.sde.L @ (self.sde.L.T @ pull)  # (doob.4)

    def diffusion(self, x: Array, t: Any) -> Array:
        """Returns the diffusion L, (d, k), which conditioning leaves as it is."""
        return self.sde.L

    def transition(self, s: Any, t: Any) -> Transition:
        """Computes p(x_t | x_s, x_T = y), s <= t < t_max: the free transition, conditioned on where it leads."""
        with jax.default_matmul_precision("highest"):
            A, b, Q = self.sde.discretize(t - s)
            on, offset, spread = self.sde.discretize(self.t_max - t)
            gain = jnp.linalg.solve(on @ Q @ on.T + spread, on @ Q).T
            keep = jnp.eye(len(self.y), dtype=Q.dtype) - gain @ on
            cov = keep @ Q @ keep.T + gain @ spread @ gain.T  # Joseph's form: a sum of positive matrices
            return Transition(keep @ A, keep @ b + gain @ (self.y - offset), cov)


def pinned(sde: LinearSDE, y: Any, t_max: Any) -> Pinned:
    """Conditions the linear SDE on x_T = y.

    Raises:
        ValueError: if y is not (d,), or noise does not reach every direction by t_max, so that h has no density.
    """
    y, d = jnp.asarray(y, sde.F.dtype), len(sde.u)
    if y.shape != (d,):
        raise ValueError(f"The endpoint y has shape {y.shape}, expected ({d},).")
    if not t_max > 0:
        raise ValueError(f"t_max is {t_max}, expected a positive time.")
    spread = np.linalg.eigvalsh(np.asarray(_discretize(sde, t_max).Q))
    if not spread[0] > len(spread) * np.finfo(spread.dtype).eps * spread[-1]:
        raise ValueError(
            f"The noise of x_T has a covariance with eigenvalues from {spread[0]:.3g} to {spread[-1]:.3g}, expected "
            "all positive: some direction of x_T is not random, and cannot be pinned."
        )
    return Pinned(sde, y, t_max)


def log_h(schedule: Schedule, x: Array, y: Array, t: Any) -> Array:
    """Computes log h = log N(y; R x, q) of a schedule pinned at its t_max, a scalar."""
    R, q = _onward(schedule, t)
    return -0.5 * jnp.sum((y - R * x) ** 2 / q + jnp.log(2 * np.pi * q))


def grad_log_h(schedule: Schedule, x: Array, y: Array, t: Any) -> Array:
    """Computes grad log h = R (y - R x) / q, of x's shape; with alpha = 1 (y - x) / (sigma_T^2 - sigma_t^2)."""
    R, q = _onward(schedule, t)
    return R * (y - R * x) / q  # (doob.1)


def bridge(schedule: Schedule, y: Array) -> SDE:
    """Makes the SDE dx = [f x + g^2 grad log h] dt + g dw for x (d,), on 0 < t < t_max: it arrives at y."""

    def drift(x: Array, t: Any) -> Array:
        f, g2 = rates(schedule, t)
        return f * x + g2 * grad_log_h(schedule, x, y, t)  # (doob.2)

    def diffusion(x: Array, t: Any) -> Array:
        return jnp.sqrt(rates(schedule, t)[1]) * jnp.eye(len(x), dtype=x.dtype)

    return SDE(drift, diffusion)


def transition(schedule: Schedule, s: Any, t: Any) -> tuple[Array, Array, Array]:
    """Computes (a, b, v) of p(x_t | x_s, x_T = y) = N(a x_s + b y, v), s < t < t_max; s = 0 is the kernel of DDBM."""
    (alpha_s, sigma_s), (alpha, sigma), (R, q) = schedule(s), schedule(t), _onward(schedule, t)
    ahead = alpha / alpha_s
    own = sigma**2 - (ahead * sigma_s) ** 2
    total = R**2 * own + q
    return ahead * q / total, R * own / total, own * q / total  # (doob.3)


def _onward(schedule: Schedule, t: Any) -> tuple[Array, Array]:
    """Computes (R, q) of p(x_T | x_t) = N(R x_t, q)."""
    alpha_T, sigma_T = schedule(schedule.t_max)
    return alpha_T / schedule(t)[0], sigma_T**2 * -jnp.expm1(-remaining(schedule, t))
