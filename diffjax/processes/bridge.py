"""Diffusion bridges: a process pinned at both ends, where it is Gaussian (Zhou et al. 2023, eq. 8).

Given its endpoint x_T = y, the process x_t = alpha x_0 + sigma z of a base schedule has, with r = SNR_T / SNR_t,

    x_t = A_t y + B_t x_0 + C_t z,    A = r alpha_t / alpha_T,    B = alpha_t (1 - r),    C^2 = sigma_t^2 (1 - r).

y is known. So u_t = x_t - A_t y is the Gaussian process of the schedule (B, C), with the base's g and

    B^2 / C^2 = SNR_t - SNR_T,

and everything that is written for a schedule works on u as it stands: DBIM (Zheng et al. 2024) is `ancestral.ddim`, its
orders 2 and 3 are `multistep.adams`, DDBM's sampler is `samplers.hybrid`, its loss is `losses.regression`. At t_max
u = 0: nothing is left to draw, and the first step is `samplers.bridging_fn`'s.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np

from diffjax.calculus import amplitudes, log_snr, remaining, time_of
from diffjax.processes.gaussian import Gaussian
from diffjax.roots import leaving_zero
from diffjax.types import Array, Key, Schedule, pytree, real, static


@pytree
class BridgeSchedule:
    """(B, C) of a base schedule that is pinned at its t_max; both are 0 there."""

    base: Schedule

    @property
    def t_max(self) -> Any:
        """The end of the base schedule's domain."""
        return self.base.t_max

    def __call__(self, t: Any) -> tuple[Array, Array]:
        """Computes the amplitudes (B_t, C_t) of x_0 and z in u_t."""
        return _bridge(self, real(t))

    def endpoint_weight(self, t: Any) -> Array:
        """Computes A_t, from 0 where sigma is to 1 at t_max."""
        (alpha, sigma), (alpha_T, sigma_T) = self.base(t), self.base(self.t_max)
        return alpha_T / alpha * (sigma / sigma_T) ** 2  # (ddbm.2)

    def inverse(self, log_snr_u: Any) -> Array:
        """Finds the time of a log-SNR of u: the base's SNR is larger by SNR_T."""
        return time_of(self.base, jnp.logaddexp(log_snr_u, log_snr(self.base, self.t_max)))  # (dbim.2)


@leaving_zero
def _bridge(schedule: BridgeSchedule, t: Array) -> tuple[Array, Array]:
    alpha, sigma = schedule.base(t)
    open_ = -jnp.expm1(-remaining(schedule.base, t))  # 1 - r
    return alpha * open_, sigma * jnp.sqrt(open_)  # (ddbm.1)


@pytree
class Bridge(Gaussian):
    """The process of u; make one with `bridge`. `prior` is 0 at t_max, and C_t z at a time below.

    Attributes:
        from_noise: the endpoints are the base process's own x_T, not part of the data.
    """

    schedule: BridgeSchedule
    from_noise: bool = static(default=False)

    def __post_init__(self) -> None:
        """Raises a ValueError for a base schedule in the place of the bridge's own."""
        check_pinned(self.schedule, BridgeSchedule, "processes.bridge")

    def u_of(self, x: Array, y: Array, t: Any) -> Array:
        """Computes u_t = x_t - A_t y.

        Raises:
            ValueError: if x and y differ in shape.
        """
        return x - self.schedule.endpoint_weight(t) * _endpoint(y, x)

    def x_of(self, u: Array, y: Array, t: Any) -> Array:
        """Computes x_t = u_t + A_t y.

        Raises:
            ValueError: if u and y differ in shape.
        """
        return u + self.schedule.endpoint_weight(t) * _endpoint(y, u)  # (dbim.3)

    @property
    def conditions(self) -> tuple[str, ...]:
        """The one name that x_t depends on, ("y",), the endpoint."""
        return ("y",)

    @property
    def asks(self) -> tuple[str, ...]:
        """("y",), the endpoint, unless the base process draws it."""
        return () if self.from_noise else ("y",)

    def given(self, key: Key, given: dict, shape: tuple[int, ...], x0: Array | None = None) -> dict:
        """Completes `given` with the endpoint "y", drawn by the base process where data has none."""
        if not self.from_noise:
            return given
        return {**given, "y": self.endpoint_prior(key, shape) if x0 is None else self.endpoint(key, x0)}

    def place(self, u: Array, given: dict, t: Any) -> Array:
        """Computes x_t = u_t + A_t y."""
        return self.x_of(u, given["y"], t)

    def check(self, target: Any) -> None:
        """Raises a ValueError for a target that does not know of endpoints."""
        if not hasattr(target, "sigma_0T"):
            raise ValueError(f"A bridge needs target.name=DDBM, got {type(target).__name__}.")

    def check_data(self, brought: tuple[str, ...], name: str) -> None:
        """Raises a ValueError unless the endpoints come from data or from the base process, one of the two."""
        if not self.from_noise and "y" not in brought:
            raise ValueError(
                f"{name} has no endpoints, which the bridge needs: set data.name=pairs, data.of={name}, or "
                "process.from_noise=True."
            )
        if self.from_noise and "y" in brought:
            raise ValueError(f"{name} has endpoints, but process.from_noise draws them: set one of the two.")

    def check_density(self) -> None:
        """Raises a ValueError: a bridge has no prior density."""
        raise ValueError(
            "The flow of a bridge goes from data to a point, its endpoint: there is no density to integrate from; "
            "--mode=likelihood takes Gaussian processes."
        )

    def endpoint(self, key: Key, x0: Array) -> Array:
        """Draws y by the base process from x_0: the bridge from noise to data, whose x_t are those of the base."""
        alpha, sigma = self.schedule.base(self.schedule.t_max)
        return alpha * x0 + sigma * self.law(key, x0.shape)

    def endpoint_prior(self, key: Key, shape: tuple[int, ...]) -> Array:
        """Draws y where x_0 is not known: sigma_T z, as `Gaussian.prior` of the base."""
        return Gaussian(self.schedule.base, self.law).prior(key, shape)


def bridge(schedule: Schedule, from_noise: bool = False) -> Bridge:
    """Makes the bridge of a base schedule, pinned at its t_max.

    Args:
        from_noise: endpoints are drawn by the base process (`endpoint`): generation from noise as a bridge.

    Raises:
        ValueError: if the base has no signal or no noise at its end: x_T then says nothing of x_t, or everything.
    """
    (alpha,), (sigma,) = amplitudes(schedule, [float(schedule.t_max)])
    if not (alpha > 0 and sigma > 0):
        raise ValueError(
            f"{type(schedule).__name__} ends at alpha = {alpha:g}, sigma = {sigma:g}; a bridge needs both above 0: end "
            "it earlier (t_max)."
        )
    return Bridge(BridgeSchedule(schedule), from_noise=from_noise)


def check_pinned(got: Any, kind: type, maker: str) -> None:
    """Raises a ValueError for a schedule of another kind; whatever a pytree is rebuilt of is not looked at.

    Args:
        maker: makes the process of a base schedule, by name.
    """
    if hasattr(got, "t_max") and not isinstance(got, kind | type):
        name = type(got).__name__
        raise ValueError(
            f"Got the schedule {name}, expected {kind.__name__}: {maker}(schedule) makes the process of it."
        )


def _endpoint(y: Any, x: Array) -> Array:
    if np.shape(y) != np.shape(x):
        raise ValueError(f"The bridge's endpoint y has shape {np.shape(y)}, expected that of x, {np.shape(x)}.")
    return y
