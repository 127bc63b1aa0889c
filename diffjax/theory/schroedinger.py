"""Schroedinger bridges between Gaussians and between tables, in closed form: what `processes.schroedinger` is held to.

The reference is Brownian motion on [0, 1] of variance epsilon at its end. (Any schedule is: x_t / alpha_t is Brownian
in the clock sigma^2 / alpha^2, so epsilon = (sigma_T / alpha_T)^2 and the end is x_T / alpha_T.) A pair (x_0, x_1) of
joint Gaussian law with Cov(x_0, x_1) = C, and the Brownian bridges between them, have

    x_t = (1 - t) x_0 + t x_1 + sqrt(epsilon t (1 - t)) z,
    V_t = (1 - t)^2 S_0 + t (1 - t) (C + C^T) + t^2 S_1 + epsilon t (1 - t).

Static bridge. Its law is f(x) exp(-|x - y|^2 / 2 epsilon) g(y) (Schroedinger's system), so that x_0 and x_1 meet in the
precision matrix by -I / epsilon alone. Eliminating x_1, that is epsilon G = S_1 - G S_0 G for G = S_0^-1 C, with the
root

    C = S_0^1/2 H S_0^-1/2,    H = ((4 S_0^1/2 S_1 S_0^1/2 + epsilon^2 I)^1/2 - epsilon I) / 2

(Janati et al. 2020, theorem 1; Mallasto et al. 2022; Bunne et al. 2023, eq. 5). As epsilon -> 0 H is the root of
Monge's problem, x_1 - m_1 = S_0^-1/2 H S_0^-1/2 (x_0 - m_0); as epsilon grows, C -> S_0 S_1 / epsilon -> 0.

Markovian projection. The forward drift (E[x_1 | x_t] - x_t) / (1 - t) is linear, with the matrix F_t = N_t V_t^-1,

    N_t = Cov(x_1 - x_t, x_t) / (1 - t) = (1 - t) C^T - t C + t S_1 - (1 - t) S_0 - epsilon t I,

finite at both ends. It keeps V_t (V' = F V + V F^T + epsilon I), and carries x_0 to x_1 by Phi' = F Phi, Phi_0 = I: the
projected pair has Cov(x_0, x_1) = S_0 Phi_1^T. The bridge's pair is the only one that this leaves where it was.

Iterative proportional fitting (Fortet 1940; Kullback 1968; De Bortoli et al. 2021) gives one marginal at a time and
keeps the conditional of the other; on a table it is Sinkhorn's iteration.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from diffjax import host
from diffjax.types import Array, Posterior, pytree

STEPS = 512  # of Runge and Kutta's method: their error is below 1e-9 where S_0 and S_1 are of the size of epsilon


class Pair(NamedTuple):
    """A joint Gaussian law of (x_0, x_1): float64 of the host, or device arrays inside `Exact`.

    Attributes:
        mean0, mean1: (d,).
        cov0, cov1: (d, d) of x_0 and of x_1.
        cross: (d, d), Cov(x_0, x_1).
    """

    mean0: Any
    mean1: Any
    cov0: Any
    cov1: Any
    cross: Any

    @property
    def cov(self) -> np.ndarray:
        """The covariance (2 d, 2 d) of (x_0, x_1)."""
        return np.block([[self.cov0, self.cross], [self.cross.T, self.cov1]])

    @property
    def swapped(self) -> "Pair":
        """The law of (x_1, x_0)."""
        return Pair(self.mean1, self.mean0, self.cov1, self.cov0, self.cross.T)

    @property
    def cost(self) -> float:
        """E|x_0 - x_1|^2, the transport cost."""
        gap = self.mean0 - self.mean1
        return float(gap @ gap + np.trace(self.cov0 + self.cov1 - self.cross - self.cross.T))


def gaussian(mean0: Any, cov0: Any, mean1: Any, cov1: Any, epsilon: float) -> Pair:
    """Computes the static Schroedinger bridge between N(mean0, cov0) and N(mean1, cov1).

    Args:
        epsilon: the variance of the reference's end; the entropy's weight beside |x - y|^2 / 2.

    Raises:
        ValueError: for shapes that differ, numbers that are not finite, a covariance that is not symmetric and
            positive, an epsilon that is not.
    """
    host.check_positive("epsilon", epsilon, "; the limit 0 is optimal transport")
    first, last = _law("x_0", mean0, cov0), _law("x_1", mean1, cov1)
    if first[0].shape != last[0].shape:
        raise ValueError(f"The means have shapes {first[0].shape} and {last[0].shape}, expected one shape (d,).")
    (mean0, cov0), (mean1, cov1) = first, last
    root = _power(cov0, 0.5)
    # (sqrt(4 m + e^2) - e) / 2 of each eigenvalue m, without the difference: that is 0 where e is large.
    values, vectors = np.linalg.eigh(root @ cov1 @ root)
    H = (vectors * (2 * values / (np.hypot(2 * np.sqrt(values), epsilon) + epsilon))) @ vectors.T
    return Pair(mean0, mean1, cov0, cov1, root @ H @ _power(cov0, -0.5))  # (schroedinger.3)


def reference(mean0: Any, cov0: Any, epsilon: float) -> Pair:
    """Computes the pair of the reference itself, x_1 = x_0 + sqrt(epsilon) z: where proportional fitting begins.

    Raises:
        ValueError: as `gaussian`.
    """
    host.check_positive("epsilon", epsilon)
    mean0, cov0 = _law("x_0", mean0, cov0)
    return Pair(mean0, mean0, cov0, cov0 + epsilon * np.eye(len(cov0)), cov0)


def independent(mean0: Any, cov0: Any, mean1: Any, cov1: Any) -> Pair:
    """Computes the pair of independent x_0 and x_1: where bridge matching begins."""
    first, last = _law("x_0", mean0, cov0), _law("x_1", mean1, cov1)
    return Pair(first[0], last[0], first[1], last[1], np.zeros_like(first[1]))


def marginal(pair: Pair, t: float, epsilon: float) -> tuple[np.ndarray, np.ndarray]:
    """Computes the mean (d,) and the covariance V_t (d, d) of x_t of the bridges between a pair.

    Raises:
        ValueError: for a time outside [0, 1], or an epsilon that is not positive.
    """
    host.check_positive("epsilon", epsilon)
    if not 0 <= t <= 1:
        raise ValueError(f"t is {t}, expected a time of the reference, from 0 to 1.")
    S = (1 - t) ** 2 * pair.cov0 + t * (1 - t) * (pair.cross + pair.cross.T) + t**2 * pair.cov1
    return (1 - t) * pair.mean0 + t * pair.mean1, S + epsilon * t * (1 - t) * np.eye(len(S))


def posterior(pair: Pair, t: float, epsilon: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Computes (K, k, Q) of the law N(K x + k, Q) of x_0 given x_t = x: what the network learns is K x + k."""
    mean, V = marginal(pair, t, epsilon)
    both = (1 - t) * pair.cov0 + t * pair.cross  # Cov(x_0, x_t)
    K = np.linalg.solve(V, both.T).T
    return K, pair.mean0 - K @ mean, pair.cov0 - K @ both.T


def forward(pair: Pair, t: float, epsilon: float) -> tuple[np.ndarray, np.ndarray]:
    """Computes (F, f) of the forward drift F x + f of the Markovian projection, finite at t = 0 and 1."""
    mean, V = marginal(pair, t, epsilon)
    N = (1 - t) * pair.cross.T - t * pair.cross + t * pair.cov1 - (1 - t) * pair.cov0 - epsilon * t * np.eye(len(V))
    F = np.linalg.solve(V, N.T).T  # (schroedinger.4)
    return F, pair.mean1 - pair.mean0 - F @ mean


def projected(pair: Pair, epsilon: float, steps: int = STEPS) -> Pair:
    """Computes the pair of the Markovian projection of the bridges between a pair: one turn of Markovian fitting.

    Args:
        steps: of Runge and Kutta's method for Phi.
    """
    host.check_int("steps", steps, most=2**20)
    phi, h = np.eye(len(pair.cov0)), 1 / steps
    slope = lambda t: forward(pair, t, epsilon)[0]
    now = slope(0.0)
    for i in range(steps):
        middle, then = slope((i + 0.5) * h), slope((i + 1) * h)
        one = now @ phi
        two = middle @ (phi + h / 2 * one)
        three = middle @ (phi + h / 2 * two)
        phi, now = phi + h / 6 * (one + 2 * two + 2 * three + then @ (phi + h * three)), then
    return pair._replace(cross=pair.cov0 @ phi.T)


def fit_end(pair: Pair, mean: Any, cov: Any) -> Pair:
    """Gives x_1 the law N(mean, cov) and keeps that of x_0 given x_1: half a turn of proportional fitting.

    Raises:
        ValueError: as `gaussian`, also for a law of another dimension than the pair's.
    """
    mean, cov = _law("the end", mean, cov)
    if mean.shape != pair.mean1.shape:
        raise ValueError(f"The law of the end has a mean of shape {mean.shape}, that of the pair {pair.mean1.shape}.")
    gain = np.linalg.solve(pair.cov1, pair.cross.T).T
    return Pair(
        pair.mean0 + gain @ (mean - pair.mean1),
        mean,
        pair.cov0 + gain @ (cov - pair.cov1) @ gain.T,
        cov,
        gain @ cov,
    )


def fit_start(pair: Pair, mean: Any, cov: Any) -> Pair:
    """Gives x_0 the law N(mean, cov) and keeps that of x_1 given x_0: the other half."""
    return fit_end(pair.swapped, mean, cov).swapped


def divergence(pair: Pair, other: Pair) -> float:
    """Computes KL(pair | other) in nats; of path laws with bridges of one reference it is theirs."""
    gap = np.concatenate([pair.mean0 - other.mean0, pair.mean1 - other.mean1])
    ratio = np.linalg.solve(other.cov, pair.cov)
    logs = np.linalg.slogdet(pair.cov)[1] - np.linalg.slogdet(other.cov)[1]
    return float(0.5 * (np.trace(ratio) - len(gap) - logs + gap @ np.linalg.solve(other.cov, gap)))


def fit_table(table: Any, mass: Any, axis: int) -> np.ndarray:
    """Scales the rows (axis 0) or columns (1) of a table (n, m) to sum to a mass: half an iteration of Sinkhorn.

    Raises:
        ValueError: for a mass of another length, or one where the table has none; for a table or a mass with a number
            that is negative or not finite.
    """
    table, mass = np.asarray(table, np.float64), np.asarray(mass, np.float64)
    if axis not in (0, 1) or mass.shape != (table.shape[axis],):
        raise ValueError(f"Got a mass of shape {mass.shape} for axis {axis!r} of a table of shape {table.shape}.")
    for what, part in (("table", table), ("mass", mass)):
        if not np.all((part >= 0) & (part < np.inf)):
            raise ValueError(f"The {what} holds a number that is negative or not finite, expected masses of 0 or more.")
    sums = table.sum(1 - axis)
    if np.any((sums <= 0) & (mass > 0)):
        raise ValueError(f"The table has no mass at {np.flatnonzero((sums <= 0) & (mass > 0))[0]} of axis {axis}.")
    scale = np.divide(mass, sums, out=np.zeros_like(sums), where=sums > 0)
    return table * np.expand_dims(scale, 1 - axis)  # (schroedinger.5)


@pytree
class Exact:
    """The denoiser m(x, t) = E[x_0 | x_t = x] of a Gaussian pair, in u = x_t - A_t y; make one with `exact`.

    Attributes:
        schedule: `processes.schroedinger.MarkovSchedule` or `BridgeSchedule`: A, B, C.
        pair: of x_0 and x_T, as arrays.
        y: (d,), where this walk begins: it places u, and says nothing else.
    """

    schedule: Any
    pair: Pair
    y: Array

    def __call__(self, u: Array, t: Any) -> Posterior:
        """Computes the mean for one example; its variance is left out, since it is a matrix."""
        A, (B, C), of = self.schedule.endpoint_weight(t), self.schedule(t), self.pair
        V = B**2 * of.cov0 + A * B * (of.cross + of.cross.T) + A**2 * of.cov1 + C**2 * jnp.eye(len(of.cov0))
        away = u + A * self.y - B * of.mean0 - A * of.mean1
        gain = B * of.cov0 + A * of.cross
        return Posterior(of.mean0 + jnp.matmul(gain, jnp.linalg.solve(V, away), precision="highest"))


def exact(schedule: Any, pair: Pair, y: Any) -> Exact:
    """Makes the exact denoiser of a pair (x_0, x_T) for a walk that begins at y (d,), in the precision of y."""
    y = jnp.asarray(y)
    if y.shape != np.shape(pair.mean1):
        raise ValueError(f"The endpoint y has shape {y.shape}, expected that of the mean, {np.shape(pair.mean1)}.")
    return Exact(schedule, Pair(*(jnp.asarray(part, y.dtype) for part in pair)), y)


def _law(name: str, mean: Any, cov: Any) -> tuple[np.ndarray, np.ndarray]:
    mean, cov = np.asarray(mean, np.float64), np.asarray(cov, np.float64)
    if mean.ndim != 1 or cov.shape != (*mean.shape, *mean.shape):
        raise ValueError(f"The law of {name} has a mean of shape {mean.shape} and a covariance of shape {cov.shape}.")
    if not (np.isfinite(mean).all() and np.isfinite(cov).all()):
        raise ValueError(f"The law of {name} holds numbers that are not finite, expected finite ones.")
    if not (np.allclose(cov, cov.T) and np.linalg.eigvalsh(cov)[0] > 0):
        raise ValueError(f"The covariance of {name} is not symmetric with positive eigenvalues, expected it to be.")
    return mean, cov


def _power(cov: np.ndarray, exponent: float) -> np.ndarray:
    values, vectors = np.linalg.eigh(cov)
    return (vectors * values**exponent) @ vectors.T
