"""What DDBM's network predicts: EDM's, with the covariances of both ends (Zhou et al. 2023, appendix A.4).

With sigma_0^2, sigma_T^2, sigma_0T the second moments of x_0, y and both, and A, B, C of `processes.bridge`,

    E[x_0 | x_t, y] = c_skip x_t + c_out F(c_in x_t, y),   total = A^2 sigma_T^2 + B^2 sigma_0^2 + 2 A B sigma_0T + C^2,
    c_in^2 = 1 / total,    c_skip = (B sigma_0^2 + A sigma_0T) / total,
    c_out^2 = (A^2 (sigma_T^2 sigma_0^2 - sigma_0T^2) + sigma_0^2 C^2) / total.

In u = x_t - A y the network's target is F = a x_0 + b z + e, with the known third term e = -c_skip A y / c_out. Where y
is what the base process makes of x_0 (sigma_0T = alpha_T sigma_0^2, and so on), this is EDM's on the base schedule. The
network is told the base's log-SNR (published: 250 log t).
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np

from diffjax import host
from diffjax.calculus import log_snr
from diffjax.denoisers.targets import Prediction
from diffjax.types import Array, Pinned, pytree


@pytree
class DDBM(Prediction):
    """The prediction of DDBM's network, for bridges only; `given(y)` before use.

    Attributes:
        sigma_0, sigma_T: root mean squares of x_0 and of the endpoint.
        sigma_0T: mean product of the two; the published scripts have 0, the paper sigma_0^2 / 2.
        y: the endpoint of this example, of x's shape.
    """

    sigma_0: float = 0.5
    sigma_T: float = 0.5
    sigma_0T: float = 0.0
    y: Any = None

    @classmethod
    def measured(cls, x: Any, y: Any) -> "DDBM":
        """Makes the target with the second moments of examples x and their endpoints y, both (N, ...)."""
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        if x.shape != y.shape:
            raise ValueError(f"Examples have shape {x.shape}, their endpoints {y.shape}, expected the same.")
        return cls(float(np.sqrt(np.mean(x**2))), float(np.sqrt(np.mean(y**2))), float(np.mean(x * y)))

    @property
    def sigma_data(self) -> float:
        """The root mean square sigma_0 of x_0, by the name that every target has for it."""
        return self.sigma_0

    def given(self, given: Any) -> "DDBM":
        """Makes the target of an example whose endpoint is given["y"].

        Raises:
            ValueError: if there is none.
        """
        y = given.get("y") if isinstance(given, dict) else given
        if y is None:
            raise ValueError(_MISSING)
        return dataclasses.replace(self, y=y)

    def __call__(self, schedule: Any, t: Any) -> tuple[Array, Array]:
        """Computes (a, b) = (1 - c_skip B, -c_skip C) / c_out, without the difference."""
        A, B, C, total, spread = self._moments(schedule, t)
        norm, cross = jnp.sqrt(total * spread), A * B * self.sigma_0T
        signal = B * self.sigma_0**2 + A * self.sigma_0T
        return ((A * self.sigma_T) ** 2 + cross + C**2) / norm, -signal * C / norm

    def skip_out(self, schedule: Any, t: Any) -> tuple[Array, Array]:
        """Computes (c_skip, c_out) of E[x_0 | x_t, y] = c_skip x_t + c_out F, finite everywhere."""
        A, B, _, total, spread = self._moments(schedule, t)
        return (B * self.sigma_0**2 + A * self.sigma_0T) / total, jnp.sqrt(spread / total)  # (ddbm.4)

    def noise_out(self, schedule: Any, t: Any) -> Array:
        """Computes c_out B / C; where C is 0, B sigma_0 / sqrt(total): 1 at t = 0, and 0 at t_max."""
        _, B, C, total, spread = self._moments(schedule, t)
        inside = jnp.sqrt(spread / total) * B / jnp.where(C > 0, C, 1.0)
        return jnp.where(C > 0, inside, B * self.sigma_0 / jnp.sqrt(total))

    def offset(self, schedule: Any, t: Any) -> Array:
        """Computes e = -c_skip A y / c_out, of x's shape."""
        c_skip, c_out = self.skip_out(schedule, t)
        return -c_skip * schedule.endpoint_weight(t) / c_out * self._endpoint()

    def inputs(self, schedule: Any, x: Array, t: Any) -> tuple[Array, Array]:
        """Makes the network's inputs: c_in x_t of x = u, and the base schedule's log-SNR."""
        return self._x_of(schedule, x, t) / jnp.sqrt(self._moments(schedule, t)[3]), log_snr(schedule.base, t)

    def mean(self, schedule: Any, x: Array, F: Array, t: Any) -> Array:
        """Computes E[x_0 | x_t, y] = c_skip x_t + c_out F of x = u."""
        c_skip, c_out = self.skip_out(schedule, t)
        return c_skip * self._x_of(schedule, x, t) + c_out * F

    def check(self, schedule: Any) -> None:
        """Raises a ValueError for another process than a bridge, or moments that no pair of variables has."""
        if not isinstance(schedule, Pinned):
            raise ValueError(
                f"DDBM-prediction is for bridges, got {type(schedule).__name__}: take processes.bridge(schedule), or "
                "processes.schroedinger(schedule) between two data sets without pairs."
            )
        moments = self.sigma_0, self.sigma_T, self.sigma_0T
        if not host.concrete(moments):
            return
        first, last, both = map(float, moments)
        if not (0 < first < np.inf and 0 < last < np.inf and abs(both) < first * last):
            raise ValueError(
                f"Got sigma_0 = {first}, sigma_T = {last}, sigma_0T = {both}, expected positive numbers and "
                "|sigma_0T| < sigma_0 sigma_T."
            )

    def _moments(self, schedule: Any, t: Any) -> tuple[Any, ...]:
        """Computes A, B, C, total, and total c_out^2."""
        A, (B, C) = schedule.endpoint_weight(t), schedule(t)
        start, end = self.sigma_0**2, self.sigma_T**2
        total = A**2 * end + B**2 * start + 2 * A * B * self.sigma_0T + C**2  # (ddbm.3)
        return A, B, C, total, A**2 * (end * start - self.sigma_0T**2) + start * C**2

    def _endpoint(self) -> Array:
        if self.y is None:
            raise ValueError(_MISSING)
        return self.y

    def _x_of(self, schedule: Any, x: Array, t: Any) -> Array:
        y = self._endpoint()
        if np.shape(y) != np.shape(x):
            raise ValueError(f"The bridge's endpoint y has shape {np.shape(y)}, expected that of x, {np.shape(x)}.")
        return x + schedule.endpoint_weight(t) * y


_MISSING = "The bridge has no endpoint: got y = None, expected an array of x's shape; give DDBM(...).given(y)."
