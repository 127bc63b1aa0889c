"""Tokens in an order, 0 .. K - 1 as grey values are: noise moves a place to its neighbours.

`levels` is heat on a line with reflecting ends. With C the discrete cosine transform (DCT-II), orthonormal,

    Q(tau) = C^T exp(-tau (2 - 2 cos(pi k / K))) C,

symmetric, a semigroup, uniform as tau grows, one jump to either neighbour at the rate 1. tau = -rate log alpha, where
the default rate, 1 / (2 - 2 cos(pi / K)), leaves of the slowest cosine of the levels the share alpha: mode k decays as
alpha^(lambda_k / lambda_1), about alpha^(k^2). So q(x_t | x_0) is one row, and posteriors are made of two; the only
K x K array is C, whatever the times.

`gaussian` is D3PM's discretised Gaussian (Austin et al. 2021, appendix A.2.3), a chain of T steps

    Q_t(k, j) = exp(-4 (k - j)^2 / ((K - 1)^2 beta_t)) / (sum over d = -(K - 1) .. K - 1 of exp(-4 d^2 / ..)),  j != k,

the rest on the diagonal. Its products have no closed form, and no two of its matrices commute, so that the cumulative
ones are a table of T + 1 matrices of K x K.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffjax import host
from diffjax.processes.tokens import TINY, TokenProcess, check_schedule, check_vocabulary, everywhere, slope
from diffjax.types import Array, Key, Schedule, pytree, static

ENTRIES = 2**26  # of a table: 1000 steps of 256 levels, 262 MB in float32


class Ordered(TokenProcess):
    """Mixin of a process of ordered tokens: z is one u ~ U[0, 1) a place, and x_t its quantile of q(x_t | x_0)."""

    def noise(self, key: Key, x0: Array) -> Array:
        """Draws u, of x_0's shape."""
        return jax.random.uniform(key, x0.shape)

    def corrupt(self, x0: Array, z: Array, t: Any) -> Array:
        """Computes x_t: the least level at which the distribution function of q(x_t | x_0) is above u."""
        below = jnp.cumsum(self.spread(self.one_hot(x0), t), -1)[..., :-1]
        return (below <= z[..., None]).sum(-1).astype(x0.dtype)

    def invert(self, key: Key, x0: Array, x: Array, t: Any) -> Array:
        """Draws u of p(u | x_0, x_t = x): uniform between the values of the distribution function below and at x."""
        law = self.spread(self.one_hot(x0), t)
        own = jnp.take_along_axis(law, x[..., None], -1)[..., 0]
        upto = jnp.take_along_axis(jnp.cumsum(law, -1), x[..., None], -1)[..., 0]
        return upto - own + own * jax.random.uniform(key, x0.shape)

    def renew(self, key: Key, z: Array, share: Any) -> Array:
        """Draws u anew at each place with probability `share`."""
        key_new, key_place = jax.random.split(key)
        return jnp.where(jax.random.uniform(key_place, z.shape) < share, self.noise(key_new, z), z)

    @property
    def states(self) -> int:
        """K, the number of states that a place may be in: the levels."""
        return self.vocabulary

    @property
    def limit(self) -> Array:
        """The law (K,) of what a place holds where nothing of x_0 is left: uniform."""
        return jnp.full(self.vocabulary, 1 / self.vocabulary)


@pytree
class Heat(Ordered):
    """Heat on the line of levels; `levels` makes one.

    Attributes:
        schedule: t -> (alpha, 1 - alpha), probabilities; alpha is what is left of the slowest mode at the default rate.
        rate: tau is -rate log alpha.
        vocabulary: K = V, the number of levels.
    """

    schedule: Schedule
    rate: Any
    vocabulary: int = static()

    def spread(self, probs: Array, t: Any) -> Array:
        """Computes the law (*shape, K) of x_t,i of a place whose x_0,i has the law `probs` (*shape, K)."""
        return self._smoothed(_product(probs, self._cosines().T), self.kept(t)[0])

    def likelihood(self, x: Array, t: Any, s: Any = 0.0) -> Array:
        """Computes q(x_t = x | x_s = k) for every level k, (*shape of x, K)."""
        return self._smoothed(self._cosines().T[x], self.kept(t)[0] / self.kept(s)[0])

    def rates(self, x: Array, t: Any) -> Array:
        """Computes the rates per time at which a place in state k jumps to x, (*shape of x, K): from neighbours."""
        rate = -self.rate * slope(self.schedule, t) / self.kept(t)[0]
        return jnp.where(abs(_levels(self.vocabulary, x) - x[..., None]) == 1, rate, 0.0)

    def _smoothed(self, modes: Array, left: Array) -> Array:
        """Damps cosine modes (*shape, K) by the share `left` of alpha, and makes a law of them; no entry is 0."""
        damping = left ** (self.rate * jnp.asarray(_modes(self.vocabulary), float))
        law = _product(modes * everywhere(damping, modes), self._cosines())
        return jnp.maximum(law, TINY)  # (categorical.15)

    def _cosines(self) -> Array:
        return jnp.asarray(_dct(self.vocabulary), float)


def levels(schedule: Schedule, vocabulary: int, rate: float | None = None) -> Heat:
    """Makes the process of heat on a line of levels with reflecting ends.

    Args:
        vocabulary: the number of levels.
        rate: tau is -rate log alpha; None: 1 / (2 - 2 cos(pi / vocabulary)).

    Raises:
        ValueError: for a vocabulary under 2, or over 4096 (of which C would have 16.8 million entries); a schedule
            that is none of probabilities; a rate that is not positive.
    """
    if check_vocabulary(vocabulary) > 4096:
        raise ValueError(f"levels has {vocabulary} levels, expected at most 4096: their cosines are a square matrix.")
    slowest = 1 / _modes(vocabulary)[1]
    chosen = float(slowest if rate is None else rate)
    host.check_positive("rate", chosen)
    return Heat(check_schedule(schedule), chosen, vocabulary)


@pytree
class Table(Ordered):
    """D3PM's discretised Gaussian, a chain of T steps; `gaussian` makes one.

    Attributes:
        schedule: the clock: t = t_max k / T is step k. Its alpha is what the network is told, no probability of x_t.
        betas: (T,), of each step.
        table: (T + 1, K, K) float32, of k steps the law of x_t in each row.
        vocabulary: K = V, the number of levels.
    """

    schedule: Schedule
    betas: Any
    table: Any
    vocabulary: int = static()

    @property
    def steps(self) -> int:
        """T, the number of steps."""
        return len(self.betas)

    def spread(self, probs: Array, t: Any) -> Array:
        """Computes the law (*shape, K) of x_t,i of a place whose x_0,i has the law `probs` (*shape, K)."""
        return _product(probs, self._table(t))

    def likelihood(self, x: Array, t: Any, s: Any = 0.0) -> Array:
        """Computes q(x_t = x | x_s = k) for every level k, (*shape of x, K), of s = 0 or the step before t."""
        k = self._step(t)
        beta = jnp.asarray(self.betas, float)[jnp.maximum(k - 1, 0)]
        return jnp.where(self._step(s) == 0, self._table(t).T[x], _column(x, beta, self.vocabulary))

    def rates(self, x: Array, t: Any) -> Array:
        """Raises a ValueError: a chain of whole steps jumps at no rate."""
        raise ValueError(
            "A chain of whole steps has no rates; for the discretised Gaussian take losses.categorical.d3pm."
        )

    def check_steps(self, ts: np.ndarray) -> None:
        """Raises a ValueError for a grid that leaves out steps of the chain."""
        k = np.asarray(ts) * self.steps / float(self.schedule.t_max)
        if np.any(abs(k - np.round(k)) > 1e-6) or np.any(np.round(k[:-1]) - np.round(k[1:]) != 1):
            raise ValueError(
                f"The discretised Gaussian has {self.steps} steps, of which a walk leaves out none, but the grid has "
                f"{len(ts) - 1}: grids.uniform with n={self.steps}, t_min=0 (--config.grid.n={self.steps})."
            )

    def _table(self, t: Any) -> Array:
        return jnp.asarray(self.table)[self._step(t)].astype(float)

    def _step(self, t: Any) -> Array:
        return jnp.round(jnp.asarray(t) * self.steps / self.schedule.t_max).astype(jnp.int32)


def gaussian(
    schedule: Schedule, vocabulary: int, steps: int = 1000, beta_min: float = 1e-4, beta_max: float = 0.02
) -> Table:
    """Makes D3PM's discretised Gaussian with beta even from beta_min to beta_max, as a table.

    Raises:
        ValueError: for a vocabulary under 2, steps under 1, betas that are not positive; a table of more than 2^26
            entries.
    """
    check_vocabulary(vocabulary)
    host.check_int("steps", steps, 1, most=1_000_000)
    host.check_positive("beta_min", beta_min)
    host.check_positive("beta_max", beta_max)
    if (entries := (steps + 1) * vocabulary**2) > ENTRIES:
        raise ValueError(
            f"categorical.gaussian needs a table of {steps + 1} x {vocabulary} x {vocabulary} = {entries} numbers, "
            f"expected at most {ENTRIES}; categorical.levels has none."
        )
    betas = np.linspace(beta_min, beta_max, steps)
    table = np.empty((steps + 1, vocabulary, vocabulary), np.float32)
    now = np.eye(vocabulary)
    table[0] = now
    for k, beta in enumerate(betas):
        now = now @ step_matrix(vocabulary, beta)
        table[k + 1] = now
    return Table(check_schedule(schedule), betas, table, vocabulary)


def step_matrix(vocabulary: int, beta: float) -> np.ndarray:
    """Makes one step's matrix (K, K) of D3PM's discretised Gaussian, float64: symmetric, rows sum to 1."""
    apart = np.arange(1 - vocabulary, vocabulary)
    weights = np.exp(-4.0 * apart**2 / ((vocabulary - 1) ** 2 * beta))
    matrix = (weights / weights.sum())[np.subtract.outer(np.arange(vocabulary), np.arange(vocabulary)) + vocabulary - 1]
    np.fill_diagonal(matrix, 0.0)
    return matrix + np.diag(1 - matrix.sum(1))  # (categorical.16)


def _column(x: Array, beta: Array, K: int) -> Array:
    """Computes one step's probabilities of going to x from every level, (*shape of x, K)."""
    weight = lambda apart: jnp.exp(-4.0 * apart.astype(float) ** 2 / ((K - 1) ** 2 * beta))
    total = weight(jnp.arange(1 - K, K)).sum()
    apart = _levels(K, x) - x[..., None]
    column = jnp.where(apart == 0, 0.0, weight(apart) / total)
    return jnp.where(apart == 0, 1 - column.sum(-1, keepdims=True), column)


def _levels(K: int, x: Array) -> Array:
    return everywhere(jnp.arange(K, dtype=x.dtype), x[..., None])


def _dct(K: int) -> np.ndarray:
    """The orthonormal DCT-II, modes in rows."""
    k, j = np.arange(K)[:, None], np.arange(K)[None]
    return np.sqrt((2.0 - (k == 0)) / K) * np.cos(np.pi * k * (j + 0.5) / K)


def _modes(K: int) -> np.ndarray:
    """2 - 2 cos(pi k / K), as a square: no difference near 0."""
    return 4 * np.sin(0.5 * np.pi * np.arange(K) / K) ** 2


def _product(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision="highest")
