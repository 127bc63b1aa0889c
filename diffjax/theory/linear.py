"""Linear SDEs with constant matrices, solved exactly (Sarkka & Solin 2019, chapter 6).

    dx = (F x + u) dt + L dw,    w a Wiener process: independent increments, w_t - w_s ~ N(0, (t - s) I).

A Gaussian stays one. Its mean and covariance follow

    dm/dt = F m + u,    dP/dt = F P + P F^T + L L^T,

and x_t given x_s is N(A x_s + b, Q) with

    A = exp(F dt),    b = int_0^dt exp(F r) u dr,    Q = int_0^dt exp(F r) L L^T exp(F r)^T dr,

all three from one matrix exponential (Van Loan 1978). Texts that give the white noise a spectral density Q_c of its own
write L Q_c L^T for our L L^T.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffjax import host
from diffjax.types import Array, Key, pytree

_TERMS = 18  # of the exponential's series, where the norm of F dt is at most 1/2: the rest is below 1 / 18! = 2e-16
_DOUBLINGS = 48  # enough for steps of 2^47 time constants


class Moments(NamedTuple):
    """The moments of a Gaussian: mean (d,) and covariance (d, d)."""

    mean: Array
    cov: Array


class Transition(NamedTuple):
    """The Gaussian transition p(x_t | x_s) = N(A x_s + b, Q): A (d, d), b (d,), Q (d, d)."""

    A: Array
    b: Array
    Q: Array

    def push(self, law: Moments) -> Moments:
        """Computes the law of x_t from the law of x_s."""
        A, b, Q = self
        with jax.default_matmul_precision("highest"):
            return Moments(A @ law.mean + b, A @ law.cov @ A.T + Q)

    def sample(self, key: Key, x: Array) -> Array:
        """Draws x_t given x_s = x, (d,); Q may be singular."""
        values, vectors = jnp.linalg.eigh(self.Q)
        spread = jnp.sqrt(jnp.maximum(values, 0)) * jax.random.normal(key, x.shape, x.dtype)
        with jax.default_matmul_precision("highest"):
            return self.A @ x + self.b + vectors @ spread


def compose(first: Transition, then: Transition) -> Transition:
    """Composes the transitions of two steps: A = A_2 A_1, Q = A_2 Q_1 A_2^T + Q_2 (Chapman-Kolmogorov)."""
    mean, cov = then.push(Moments(first.b, first.Q))
    with jax.default_matmul_precision("highest"):
        return Transition(then.A @ first.A, mean, cov)  # (linear-sde.3)


@pytree
class LinearSDE:
    """The SDE dx = (F x + u) dt + L dw; make one with `linear_sde`.

    Attributes:
        F: (d, d), in 1 / time.
        u: (d,), in units of x / time.
        L: (d, k), in units of x / sqrt(time).
    """

    F: Array
    u: Array
    L: Array

    def drift(self, x: Array, t: Any) -> Array:
        """Computes the drift F x + u, (d,)."""
        return jnp.matmul(self.F, x, precision="highest") + self.u

    def diffusion(self, x: Array, t: Any) -> Array:
        """Returns the diffusion L, (d, k)."""
        return self.L

    def moment_rates(self, law: Moments) -> Moments:
        """Computes the rates (dm/dt, dP/dt) at which mean and covariance change."""
        with jax.default_matmul_precision("highest"):
            pull = self.F @ law.cov
            return Moments(self.F @ law.mean + self.u, pull + pull.T + self.L @ self.L.T)  # (linear-sde.1)

    def discretize(self, dt: Any) -> Transition:
        """Computes the exact transition over a time dt >= 0; differentiable in dt.

        Van Loan's exponential holds exp(-F dt) too, in which a stiff F loses all digits of Q. It is taken of a step of
        half a time constant or less, and doubled by composition, which only adds positive matrices.

        Raises:
            ValueError: if dt is negative.
        """
        if host.concrete(dt) and not np.all(np.asarray(dt) >= 0):
            raise ValueError(f"dt is {dt}, expected a number >= 0; backwards in time see generator.time_reversal.")
        dt = jnp.asarray(dt, self.F.dtype)
        speed = jnp.max(jnp.sum(jnp.abs(self.F), axis=1)) * dt
        doublings = jnp.minimum(jnp.ceil(jnp.log2(jnp.maximum(2 * speed, 1))), _DOUBLINGS)

        def double(i: Any, step: Transition) -> Transition:
            return jax.tree.map(lambda two, one: jnp.where(i < doublings, two, one), compose(step, step), step)

        with jax.default_matmul_precision("highest"):
            small = _van_loan(self, dt * 2.0**-doublings)
            return jax.lax.fori_loop(0, _DOUBLINGS, double, small)

    def stationary(self) -> Moments:
        """Solves F m + u = 0 and Lyapunov's F P + P F^T + L L^T = 0, d^2 unknowns, for the law that stays.

        Raises:
            ValueError: if an eigenvalue of F has a real part >= 0: nothing need be stationary then.
        """
        if host.concrete(self.F) and (worst := np.linalg.eigvals(np.asarray(self.F)).real.max()) >= 0:
            raise ValueError(
                f"F has an eigenvalue of real part {worst:.3g}, expected all negative: there is no stationary law."
            )
        eye = jnp.eye(len(self.u), dtype=self.F.dtype)
        with jax.default_matmul_precision("highest"):
            noise = (self.L @ self.L.T).reshape(-1)
            # (linear-sde.4)
            cov = jnp.linalg.solve(jnp.kron(self.F, eye) + jnp.kron(eye, self.F), -noise).reshape(self.F.shape)
            return Moments(jnp.linalg.solve(self.F, -self.u), 0.5 * (cov + cov.T))


def linear_sde(F: Any, L: Any, u: Any = None) -> LinearSDE:
    """Makes the SDE dx = (F x + u) dt + L dw.

    Args:
        F: (d, d).
        L: (d, k).
        u: (d,), default 0.

    Raises:
        ValueError: on shapes that do not fit, or numbers that are not finite.
    """
    F, L = jnp.asarray(F, float), jnp.asarray(L, float)
    u = jnp.zeros(F.shape[:1]) if u is None else jnp.asarray(u, float)
    if F.ndim != 2 or F.shape[0] != F.shape[1] or L.ndim != 2 or len(L) != len(F) or u.shape != F.shape[:1]:
        raise ValueError(f"Got F {F.shape}, L {L.shape}, u {u.shape}, expected (d, d), (d, k), (d,).")
    if host.concrete(F, L, u) and not all(np.all(np.isfinite(a)) for a in (F, L, u)):
        raise ValueError("F, L or u holds a number that is not finite.")
    return LinearSDE(F, u, L)


def wiener(d: int) -> LinearSDE:
    """Makes the Wiener process itself, in d dimensions."""
    return linear_sde(np.zeros((d, d)), np.eye(d))


def euler_maruyama(sde: LinearSDE, dt: Any) -> Transition:
    """Computes the law of one Euler-Maruyama step: weak order 1 (and strong order 1: additive noise)."""
    with jax.default_matmul_precision("highest"):
        return Transition(jnp.eye(len(sde.u), dtype=sde.F.dtype) + sde.F * dt, sde.u * dt, sde.L @ sde.L.T * dt)


def sample_path(sde: LinearSDE, key: Key, x: Array, ts: Any) -> Array:
    """Draws one path at the times ts (K,), from x (d,) at ts[0]: (K, d). Exact, whatever the spacing.

    Raises:
        ValueError: unless ts rises.
    """
    ts = np.asarray(ts, np.float64)
    if ts.ndim != 1 or len(ts) < 2 or not np.all(np.diff(ts) > 0):
        raise ValueError(f"ts is {ts}, expected at least two rising times.")
    steps = jax.vmap(sde.discretize)(jnp.asarray(np.diff(ts), x.dtype))

    def step(x: Array, row: Any) -> tuple[Array, Array]:
        x = row[0].sample(row[1], x)
        return x, x

    _, path = jax.lax.scan(step, x, (steps, jax.random.split(key, len(ts) - 1)))
    return jnp.concatenate([x[None], path])


def _van_loan(sde: LinearSDE, dt: Array) -> Transition:
    """Computes exp([[-F, L L^T], [0, F^T]] dt) = [[., A^-1 Q], [0, A^T]] of the state (x, 1), whose F also holds u."""
    d = len(sde.u)
    F = jnp.zeros((d + 1, d + 1), sde.F.dtype).at[:d, :d].set(sde.F).at[:d, d].set(sde.u)
    noise = jnp.zeros_like(F).at[:d, :d].set(sde.L @ sde.L.T)
    step = jnp.block([[-F, noise], [jnp.zeros_like(F), F.T]]) * dt  # (linear-sde.2)
    # 1 + s / 1 (1 + s / 2 (1 + ...)): L L^T enters linearly, however large, so that the norm of F dt alone decides.
    eye = jnp.eye(len(step), dtype=step.dtype)
    power = jax.lax.fori_loop(0, _TERMS, lambda i, power: eye + step @ power / jnp.asarray(_TERMS - i, step.dtype), eye)
    A = power[d + 1 :, d + 1 :].T
    Q = (A @ power[: d + 1, d + 1 :])[:d, :d]
    return Transition(A[:d, :d], A[:d, d], 0.5 * (Q + Q.T))
