"""Characteristics: ODEs from chosen trajectories, one for each x_0 and x_T, with any prior (kexue 9379).

phi_t(x | x_0) = x_T says on which trajectory from x_0 a point is. It does not change along one, and what is known of
x_T moves with it:

    f_t(x | x_0) = -(d phi / d x)^-1 d_t phi,    p_t(x | x_0) = p_T(phi) |det d phi / d x|    (kexue 9379 (8, 12)).

    affine     x_t = alpha_t x_0 + sigma_t x_T: phi = (x - alpha x_0) / sigma, f = alpha' x_0 + sigma' phi
               (kexue 9379 (22))
    straight   the same with alpha = 1 - t, sigma = t: f = (x - x_0) / t; regression on it is flow matching
               (kexue 9379 (17), 9497 (10))

At t -> 0 f has a pole. On affine trajectories it equals alpha' x_0 + sigma' x_T, which has none: that is the velocity
target (`denoisers.Velocity`). A prior without full support leaves places that no trajectory reaches, where the marginal
velocity is 0 / 0: nothing to learn, and a step of a solver that lands there needs an answer (`constructions.Marginal`).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffjax.calculus import FlowOnly, derivatives
from diffjax.processes.gaussian import Gaussian
from diffjax.schedules import Rectified
from diffjax.types import Array, Key, Schedule, pytree, static


@pytree
class Affine:
    """The trajectories of a process x_t = alpha x_0 + sigma z, z having a density: straight ones for `Rectified`.

    Attributes:
        process: `processes.Gaussian` of any noise law with its log density, or `processes.Poisson`.
    """

    process: Any

    def log_density(self, x: Array, x0: Array, t: Any) -> Array:
        """Computes log p_t(x | x_0), a scalar: the log density of sigma z at x - alpha x_0."""
        return self.process.prior_log_density(x - self.process.schedule(t)[0] * x0, t)

    def velocity(self, x: Array, x0: Array, t: Any) -> Array:
        """Computes f_t(x | x_0) = alpha' x_0 + sigma' (x - alpha x_0) / sigma, of x's shape."""
        (alpha, sigma), (d_alpha, d_sigma) = derivatives(self.process.schedule, t)
        return d_alpha * x0 + d_sigma / sigma * (x - alpha * x0)  # (characteristics.3)

    def sample(self, key: Key, x0: Array, t: Any) -> Array:
        """Draws x_t = alpha x_0 + sigma z given x_0, of its shape."""
        return self.process.corrupt(x0, self.process.noise(key, x0), t)

    def log_prior(self, x: Array) -> Array:
        """Computes the log density of the process's prior at x_T = x, a scalar."""
        return self.process.prior_log_density(x)


@pytree
class Characteristics:
    """The trajectories of any one-to-one map phi, by its derivatives.

    Attributes:
        phi: (x, x_0, t) -> x_T, one to one in x, differentiable.
        path: (x_T, x_0, t) -> x, its inverse.
        log_prior: x_T -> log p_T, a scalar.
        prior: (key, shape) -> x_T.
    """

    phi: Callable[[Array, Array, Any], Array] = static()
    path: Callable[[Array, Array, Any], Array] = static()
    log_prior: Callable[[Array], Array] = static()
    prior: Callable[..., Array] = static()

    def log_density(self, x: Array, x0: Array, t: Any) -> Array:
        """Computes log p_t(x | x_0) = log p_T(phi) + log |det d phi / d x|, a scalar."""
        jacobian = jax.jacfwd(self.phi)(x, x0, t)
        return self.log_prior(self.phi(x, x0, t)) + jnp.linalg.slogdet(jacobian)[1]  # (characteristics.2)

    def velocity(self, x: Array, x0: Array, t: Any) -> Array:
        """Computes f_t(x | x_0) = -(d phi / d x)^-1 d_t phi, of x's shape."""
        jacobian, rate = jax.jacfwd(self.phi, argnums=(0, 2))(x, x0, jnp.asarray(t, x.dtype))
        return -jnp.linalg.solve(jacobian, rate)  # (characteristics.1)

    def sample(self, key: Key, x0: Array, t: Any) -> Array:
        """Draws x_t given x_0: where the trajectory to a draw of the prior is at t."""
        return self.path(self.prior(key, x0.shape), x0, t)


def uniform(low: float, high: float, schedule: Schedule | None = None) -> Affine:
    """Makes trajectories to a prior that is uniform on [low, high]^d: straight ones, or of another schedule.

    Raises:
        ValueError: unless low < high, both finite.
    """
    if not -np.inf < low < high < np.inf:
        raise ValueError(f"The uniform prior is on [{low}, {high}], expected finite low < high.")

    def law(key: Key, shape: tuple[int, ...]) -> Array:
        return jax.random.uniform(key, shape, minval=low, maxval=high)

    def log_density(z: Array) -> Array:
        return jnp.where(jnp.all((z >= low) & (z <= high)), -z.size * np.log(high - low), -jnp.inf)

    return Affine(Gaussian(FlowOnly(Rectified() if schedule is None else schedule), law, log_density))
