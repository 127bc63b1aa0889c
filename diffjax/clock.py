"""A clock that can be learned: a monotone network u -> v on [0, 1], and the schedule that runs by it.

The bound on the likelihood does not depend on how fast log-SNR falls between its ends, only the variance of its
estimates does (Kingma et al. 2021, section 5.1): so the way between the ends is free to be learned
(`losses.learned`), and the process, its prior and every network trained for it stay what they are.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffjax import host
from diffjax.calculus import time_of
from diffjax.roots import leaving_zero
from diffjax.types import Array, Schedule, pytree, real

HALVINGS = 60


@pytree
class Monotone:
    """The clock v(u) = f(u) / f(1), f(u) = a u + sum_j c_j (sigmoid(k_j u + b_j) - sigmoid(b_j)), a, c and k positive.

    A network of one hidden layer with positive weights beside a straight line (Kingma et al. 2021, appendix H), so
    v(0) = 0, v(1) = 1, and v' > 0. Each is kept as its logarithm; b is free.

    Attributes:
        a: scalar.
        b, c, k: (features,).
    """

    a: Any
    b: Any
    c: Any
    k: Any

    @classmethod
    def near_identity(cls, features: int = 64) -> "Monotone":
        """Makes the straight line with a twentieth of sigmoids, whose middles lie evenly on [0, 1]."""
        host.check_int("features", features)
        slope = 16.0
        middles = (np.arange(features) + 0.5) / features
        full = lambda value: np.full(features, value, np.float32)
        return cls(
            np.float32(0.0), (-slope * middles).astype(np.float32), full(np.log(0.05 / features)), full(np.log(slope))
        )

    def __call__(self, u: Any) -> Array:
        """Computes v(u), with its full relative precision near 0."""
        u = real(u)
        return self._rise(u) / self._rise(jnp.ones((), u.dtype))

    def inverse(self, v: Any) -> Array:
        """Finds u with v(u) = v by bisection; a last step of Newton also makes the result differentiable."""
        v = real(v)

        def halve(_: Any, ends: tuple[Array, Array]) -> tuple[Array, Array]:
            low, high = ends
            middle = (low + high) / 2
            below = self(middle) < v
            return jnp.where(below, middle, low), jnp.where(below, high, middle)

        low, high = jax.lax.fori_loop(0, HALVINGS, halve, (jnp.zeros_like(v), jnp.ones_like(v)))
        u = jax.lax.stop_gradient((low + high) / 2)
        found, slope = jax.jvp(self, (u,), (jnp.ones_like(u),))
        return u - (found - v) / jax.lax.stop_gradient(slope)

    def _rise(self, u: Any) -> Array:
        u = real(u)
        b, c, k = (jnp.asarray(leaf, u.dtype).reshape((1,) * u.ndim + (-1,)) for leaf in (self.b, self.c, self.k))
        step = jnp.exp(k) * u[..., None]
        # sigmoid(b + step) - sigmoid(b), without the cancellation
        bumps = jax.nn.sigmoid(b + step) * jax.nn.sigmoid(-b) * -jnp.expm1(-step)
        return jnp.exp(jnp.asarray(self.a, u.dtype)) * u + (jnp.exp(c) * bumps).sum(-1)  # (vdm-clock.1)


@pytree
class Warped:
    """A schedule by another clock: (alpha, sigma) at t are those of `base` at t_max clock(t / t_max).

    Attributes:
        base: the schedule whose amplitudes it takes.
        clock: from [0, 1] onto [0, 1], rising.
    """

    base: Schedule
    clock: Monotone

    @property
    def t_max(self) -> Any:
        """The end of the base schedule's domain."""
        return self.base.t_max

    def __call__(self, t: Any) -> tuple[Array, Array]:
        """Computes (alpha_t, sigma_t) of the base schedule at t_max clock(t / t_max)."""
        return _warped(self, real(t))

    def inverse(self, log_snr: Any) -> Array:
        """Finds the time of a log-SNR; the base schedule needs an inverse."""
        return self.t_max * self.clock.inverse(time_of(self.base, log_snr) / self.t_max)


@leaving_zero
def _warped(schedule: Warped, t: Array) -> tuple[Array, Array]:
    return schedule.base(schedule.t_max * schedule.clock(t / schedule.t_max))
