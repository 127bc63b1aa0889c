"""x_t = phi_t(x_0, z), any path from data to noise (Liu et al. 2022; Lipman et al. 2023; kexue 9262 (1), 9497 (2)).

Choose phi with phi_0 = x_0 and phi_1 = z (kexue 9497 (3)). Regress v(x, t) on d phi_t / dt, which is one `jax.jvp`
(kexue 9497 (5)). Integrate dx/dt = v down from z (kexue 9497 (6)). The minimum v = E[d phi_t / dt | x_t = x] carries
the marginals of x_t (kexue 9497 (16)).

The line that touches the path at t meets the times 0 and 1 in

    x_0' = x_t - t d phi_t / dt,    z' = x_t + (1 - t) d phi_t / dt,    so that    x_t = (1 - t) x_0' + t z'.

Seen at t, every path is thus the straight line of a pair (x_0', z'), its `ends`: what a network predicts, how it is
weighted and how it is sampled is that of `schedules.Rectified`, and E[x_0' | x_t] = x - t v is what the denoiser says.
For straight lines that is x_0; for others it is x_0 at t = 0 alone, and only the flow is right (`calculus.FlowOnly`).
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffjax import host
from diffjax.calculus import FlowOnly
from diffjax.processes.gaussian import Unconditional
from diffjax.schedules import Rectified
from diffjax.types import Array, Key, Schedule, pytree, real, static

__all__ = ["rectified", "variance_preserving"]  # what a config may name

Phi = Callable[[Array, Array, Any], Array]  # (x_0, z, t) -> x_t, for one example


@pytree
class Path(Unconditional):
    """The process of a path; make one with `along`, which looks at its ends.

    Attributes:
        schedule: the clock, t in [0, 1]: `FlowOnly(Rectified())`.
        phi: (x_0, z, t) -> x_t, differentiable in t; hashable: a module-level function.
        law: (key, shape) -> z, the noise; standard normal.
    """

    schedule: FlowOnly
    phi: Phi = static()
    law: Callable[..., Array] = static(default=jax.random.normal)

    def noise(self, key: Key, x0: Array) -> Array:
        """Draws z, of x_0's shape."""
        return self.law(key, x0.shape)

    def corrupt(self, x0: Array, z: Array, t: Any) -> Array:
        """Computes x_t = phi_t(x_0, z)."""
        return self.phi(x0, z, t)

    def velocity(self, x0: Array, z: Array, t: Any) -> Array:
        """Computes d phi_t / dt, of x_0's shape."""
        return self._with_velocity(x0, z, t)[1]

    def ends(self, x0: Array, z: Array, t: Any) -> tuple[Array, Array]:
        """Computes (x_0', z'), where the line that touches the path at t meets the times 0 and 1."""
        x, velocity = self._with_velocity(x0, z, t)
        alpha, sigma = self.schedule(t)
        return x - sigma * velocity, x + alpha * velocity  # (flow-matching.2)

    def on(self, schedule: Schedule) -> "Path":
        """Makes the path on another schedule; raises a ValueError for a clock other than that of `Rectified`."""
        return dataclasses.replace(self, schedule=FlowOnly(_clock(schedule)))

    def prior(self, key: Key, shape: tuple[int, ...], t: Any = None) -> Array:
        """Draws z at t = 1; where the grid starts before it, phi_t(0, z): without the trace of x_0, as `Gaussian`."""
        return self.phi(jnp.zeros(shape), self.law(key, shape), self.schedule.t_max if t is None else t)

    def _with_velocity(self, x0: Array, z: Array, t: Any) -> tuple[Array, Array]:
        t = real(t)
        return jax.jvp(lambda t: self.phi(x0, z, t), (t,), (jnp.ones_like(t),))  # (flow-matching.1)


def along(
    phi: Phi,
    schedule: Schedule | None = None,
    law: Callable[..., Array] = jax.random.normal,
    shape: tuple[int, ...] = (4,),
) -> Path:
    """Makes the process of a path of your own.

    Args:
        phi: (x_0, z, t) -> x_t for one example.
        schedule: None: `Rectified()`; or one that ends before 1, for samplers that cannot start at alpha = 0.
        law: of the noise.
        shape: of the example on which the ends are looked at, for a phi that takes no other.

    Raises:
        ValueError: unless phi_0 = x_0, phi_1 = z, shapes are kept, and the clock is `Rectified`.
    """
    clock = _clock(Rectified() if schedule is None else schedule)
    _check_ends(phi, shape)
    return Path(FlowOnly(clock), phi, law)


def _clock(schedule: Schedule) -> Rectified:
    host.need_object(schedule)
    clock = schedule.base if isinstance(schedule, FlowOnly) else schedule
    if not isinstance(clock, Rectified):
        raise ValueError(
            f"A path has its own clock, t from 0 to 1, but the schedule is {type(clock).__name__}; give Rectified "
            "(--config.schedule.name=Rectified), whatever the path."
        )
    return clock


def rectified(schedule: Schedule | None = None) -> Path:
    """Makes the process (1 - t) x_0 + t z, straight lines, for pairs that depend on each other.

    Of independent pairs `Gaussian` says more: its x_t has a score too.

    Raises:
        ValueError: for a schedule that is not `Rectified`.
    """
    return along(_straight, schedule)


def variance_preserving(schedule: Schedule | None = None) -> Path:
    """Makes the process cos(pi t / 2) x_0 + sin(pi t / 2) z (Albergo & Vanden-Eijnden 2023): quarter circles.

    Raises:
        ValueError: for a schedule that is not `Rectified`: the clock is the path's own.
    """
    return along(_quarter_circle, schedule)


def _straight(x0: Array, z: Array, t: Any) -> Array:
    return (1 - t) * x0 + t * z  # (flow-matching.3)


def _quarter_circle(x0: Array, z: Array, t: Any) -> Array:
    return jnp.cos(0.5 * np.pi * t) * x0 + jnp.sin(0.5 * np.pi * t) * z  # (flow-matching.4)


def _check_ends(phi: Phi, shape: tuple[int, ...]) -> None:
    x0, z = np.random.default_rng(0).normal(size=(2, *shape))
    found = [host.float64(phi, x0, z, t) for t in (0.0, 1.0)]
    if all(np.shape(x) == shape for x in found) and np.allclose(found, [z, x0], atol=1e-5):
        raise ValueError("The path runs from z to x_0; here t = 0 is data: give phi with 1 - t in the place of t.")
    for t, x, name, end in zip((0, 1), found, ("x_0", "z"), (x0, z)):
        if np.shape(x) != shape:
            raise ValueError(f"phi_{t} has shape {np.shape(x)} for examples of shape {shape}, expected the same.")
        if not np.allclose(x, end, atol=1e-5):
            raise ValueError(
                f"The path does not meet its end: phi_{t}(x_0, z) begins with {np.ravel(x)[0]:.6g} for x_0 = "
                f"{x0.ravel()[0]:.6g}, z = {z.ravel()[0]:.6g}, expected {name}."
            )
