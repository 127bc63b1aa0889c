"""What the network of heat dissipation predicts: the next blur level, less x_t (Rissanen, Heinonen, Solin 2022, eq. 9).

The network gives F, and mu = u_t + F stands for alpha_s u_0, s being the next time of a grid. So F = a u_0 + b z with

    a = alpha_s - alpha_t,    b = -sigma,    and    u_0 = (u_t + F) / alpha_s:

one more pair (a, b), whose unit weight is the published loss |mu - alpha_s u_0|^2. Frequencies that not even the next
level has left (alpha_s below 1e-30) count as 0, which is what a sampler multiplies them by.
"""

from typing import Any

import jax.numpy as jnp

from diffjax import host
from diffjax.denoisers.targets import Prediction
from diffjax.types import Array, Schedule, pytree, real

LEAST = 1e-30  # of an alpha that is divided by: its inverse is a float32


@pytree
class Deblur(Prediction):
    """The difference of the next blur level and x_t as target; the network is tied to the grid that it steps on.

    A walk on a grid of more steps takes the same levels or earlier ones, and is right. One of fewer steps goes further
    than the network was trained to, and multiplies its errors by alpha_s of the walk over alpha_s of the training.

    Attributes:
        n: steps of the grid `grids.uniform(n, t_min=t_min)`.
        t_min: the last time of that grid before 0.
    """

    sigma_data: float = 1.0
    n: float = 40
    t_min: float = 1e-3

    def next(self, schedule: Schedule, t: Any) -> Array:
        """Finds the time s of the next level, 0 behind the last one."""
        t = real(t)
        s = t - (schedule.t_max - self.t_min) / jnp.maximum(self.n - 1, 1)
        return jnp.where(s > 0.5 * self.t_min, s, 0.0)

    def __call__(self, schedule: Schedule, t: Any) -> tuple[Any, Any]:
        """Computes (a, b) = (alpha_s - alpha_t, -sigma)."""
        alpha, sigma = schedule(t)
        return schedule(self.next(schedule, t))[0] - alpha, -sigma  # (spectral.5)

    def skip_out(self, schedule: Schedule, t: Any) -> tuple[Any, Any]:
        """Computes (c_skip, c_out) = (1, 1) / alpha_s, and 0 where that level has nothing left."""
        alpha_s = schedule(self.next(schedule, t))[0]
        some = alpha_s > LEAST
        inverse = jnp.where(some, 1 / jnp.where(some, alpha_s, 1.0), 0.0)
        return inverse, inverse  # (spectral.6)

    def check(self, schedule: Schedule) -> None:
        """Raises a ValueError for numbers that make no grid of this schedule."""
        super().check(schedule)
        if host.concrete(self) and not (float(self.n).is_integer() and self.n >= 1):
            raise ValueError(f"Deblur's n is {self.n!r}, expected the steps of the grid, an integer >= 1.")
        if host.concrete(self, schedule) and not 0 < self.t_min < float(schedule.t_max):
            raise ValueError(
                f"Deblur's t_min is {self.t_min}, expected the grid's, between 0 and {float(schedule.t_max)}."
            )
