"""ODEs that carry one law into another, made from what becomes of a single point (kexue 9370, 9379).

Say how x_0 spreads, p_t(x | x_0), and with which velocity f_t(x | x_0); data and time mix both linearly:

    p_t(x) = E p_t(x | x_0),    v(x, t) = E[f_t(x | x_0) | x_t = x],    d_t p + div(p v) = 0
             (kexue 9370 (8), 9379 (13, 14)).

v is also what a network learns from E|v(x_t, t) - f_t(x_t | x_0)|^2, x_t ~ p_t(. | x_0) (kexue 9379 (15)). `green`
and `characteristics` are two ways to say it. Over finite data v is exact (`marginal`); `denoiser` makes of any velocity
what samplers walk.
"""

from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from diffjax.calculus import FlowOnly
from diffjax.denoisers.flow import flow
from diffjax.theory import residuals
from diffjax.theory.generator import Field
from diffjax.types import Array, Categorical, Denoiser, Key, Schedule, pytree


class Construction(Protocol):
    """What becomes of one point x_0 (d,) at times t > 0, as a density and a velocity: a pytree."""

    def log_density(self, x: Array, x0: Array, t: Any) -> Array:
        """Computes log p_t(x | x_0), a scalar."""
        ...

    def velocity(self, x: Array, x0: Array, t: Any) -> Array:
        """Computes f_t(x | x_0), (d,)."""
        ...

    def sample(self, key: Key, x0: Array, t: Any) -> Array:
        """Draws x_t from p_t(. | x_0), (d,)."""
        ...


def residual(construction: Construction, x: Array, x0: Array, t: Any) -> Array:
    """Computes (d_t p + div(p f)) / p at (x, t) given x_0, a scalar that must be 0 (`residuals.continuity`)."""
    return residuals.continuity(
        lambda x, t: construction.log_density(x, x0, t), lambda x, t: construction.velocity(x, x0, t), x, t
    )


def regression(velocity: Field, construction: Construction, key: Key, x0: Array, t: Any) -> Array:
    """Computes |v(x_t, t) - f_t(x_t | x_0)|^2 at one draw of x_t, a scalar: least in the mean for the marginal v."""
    x = construction.sample(key, x0, t)
    return jnp.sum((velocity(x, t) - construction.velocity(x, x0, t)) ** 2)


@pytree
class Marginal:
    """The law p_t and the velocity of finite data under a construction; make it with `marginal`.

    Attributes:
        construction: of one point.
        points: (K, d).
        log_weights: (K,).
    """

    construction: Any
    points: Array
    log_weights: Array

    def log_prob(self, x: Array, t: Any) -> Array:
        """Computes log p_t(x), a scalar."""
        return jax.nn.logsumexp(self._log_joint(x, t))

    def velocity(self, x: Array, t: Any) -> Array:
        """Computes v(x, t), (d,), exactly; where no point's density reaches x, by the nearest point's trajectory."""
        each = jax.vmap(self.construction.velocity, in_axes=(None, 0, None))(x, self.points, t)
        log_joint, distance = self._log_joint(x, t), jnp.sum((self.points - x[None]) ** 2, 1)
        # A solver's step over the edge of a bounded support must come back, not become 0 / 0.
        nearest = jnp.where(distance == distance.min(), 0.0, -jnp.inf)
        shares = jax.nn.softmax(jnp.where(log_joint.max() > -jnp.inf, log_joint, nearest))
        return jnp.einsum("k,kd->d", shares, each, precision="highest")  # (characteristics.4)

    def sample(self, key: Key, t: Any) -> Array:
        """Draws x_t from p_t, (d,)."""
        key_point, key = jax.random.split(key)
        return self.construction.sample(key, self.points[Categorical(self.log_weights).sample(key_point)], t)

    def denoiser(self, schedule: Schedule) -> Denoiser:
        """Makes the denoiser of the marginal velocity under a schedule (`constructions.denoiser`)."""
        return denoiser(jax.tree_util.Partial(Marginal.velocity, self), schedule)

    def _log_joint(self, x: Array, t: Any) -> Array:
        density = jax.vmap(self.construction.log_density, in_axes=(None, 0, None))
        return self.log_weights + density(x, self.points, t)


def marginal(construction: Construction, points: Any, weights: Any = None) -> Marginal:
    """Makes the law and the velocity of weighted points under a construction.

    Args:
        points: (K, d).
        weights: (K,), not negative; normalised here. None: equal.

    Raises:
        ValueError: for other shapes, bad weights, or (`characteristics`) a prior that is 0 at one of the points.
    """
    points = np.asarray(points, np.float64)
    weights = np.ones(len(points)) if weights is None else np.asarray(weights, np.float64)
    if points.ndim != 2 or not points.size or not np.all(np.isfinite(points)):
        raise ValueError(f"Got points of shape {points.shape}, expected finite points (K, d), K >= 1.")
    if weights.shape != points.shape[:1] or not np.all(weights >= 0) or not 0 < weights.sum() < np.inf:
        raise ValueError(f"Got weights {weights}, expected {len(points)} numbers >= 0, not all 0.")
    if getattr(construction, "log_prior", None) is not None:
        for i, x in enumerate(points[weights > 0]):
            if float(_log_prior(construction, jnp.asarray(x, float))) == -np.inf:
                raise ValueError(
                    f"The prior has no mass at data point {x} (number {i}), expected one whose support holds the data: "
                    "elsewhere there is no velocity to learn. Widen it, or scale the data."
                )
    with np.errstate(divide="ignore"):
        log_weights = np.log(weights / weights.sum())
    return Marginal(construction, jnp.asarray(points, float), jnp.asarray(log_weights, float))


@jax.jit
def _log_prior(construction: Any, x: Array) -> Array:
    return construction.log_prior(x)


def denoiser(velocity: Field, schedule: Schedule) -> Denoiser:
    """Makes the denoiser whose probability flow under the schedule is dx/dt = velocity, for deterministic samplers.

    Args:
        velocity: (x, t) -> dx/dt, of x's shape; a pytree, or any function, which `jit` takes as a constant.
        schedule: a clock of the velocity's own t with alpha' sigma < alpha sigma'; `schedules.EDM` with its end as
            t_max, or `Rectified`, for which the mean is x - t v.
    """
    return flow(velocity, schedule if isinstance(schedule, FlowOnly) else FlowOnly(schedule))
