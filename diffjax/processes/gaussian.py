"""x_t = alpha_t x_0 + sigma_t z (kexue 9119 (6); Song et al. 2021, eq. 29): linear SDEs, straight flows, EDM.

The noise law is a field, because one family changes only that: PFGM++ takes a Student-t.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from diffjax.types import Array, Key, Schedule, pytree, static


class Unconditional:
    """Verbs of a process whose x_t depends on x_0 and noise alone: a mixin, for others to override."""

    @property
    def conditions(self) -> tuple[str, ...]:
        """The names of `given` that the law of x_t depends on."""
        return ()

    @property
    def asks(self) -> tuple[str, ...]:
        """The names among `conditions` that data has to bring."""
        return ()

    @property
    def hidden(self) -> tuple[str, ...]:
        """The names among `conditions` that no network may read."""
        return ()

    def given(self, key: Key, given: dict, shape: tuple[int, ...], x0: Array | None = None) -> dict:
        """Makes what network, target and guidance read: what came with the example, and what the process itself draws.

        Args:
            x0: the example; None where it is to be sampled.
        """
        return given

    def place(self, u: Array, given: dict, t: Any) -> Array:
        """Computes x_t of the state u that a sampler walks in, of one shape."""
        return u

    def enter(self, x: Array) -> Array:
        """Computes what the process destroys, of an example x of data: x itself."""
        return x

    def leave(self, u: Array) -> Array:
        """Computes the example of data that u stands for: u itself."""
        return u

    def seen(self, net: Any) -> Any:
        """Puts a network that sees data into the coordinates that the process works in: data's own."""
        return net

    def check(self, target: Any) -> None:
        """Raises a ValueError for a target that says nothing of x_0 here."""

    def check_data(self, brought: tuple[str, ...], name: str) -> None:
        """Raises a ValueError where data of this name does not bring what the process asks for, or what it draws."""

    def check_density(self) -> None:
        """Raises a ValueError where the flow has no density to integrate from."""

    def ends(self, x0: Array, z: Array, t: Any) -> tuple[Array, Array]:
        """Computes the pair that a prediction a x_0 + b z is regressed on."""
        return x0, z

    def on(self, schedule: Schedule) -> Any:
        """Puts the process on another schedule, of another clock."""
        return dataclasses.replace(self, schedule=schedule)  # pyright: ignore[reportArgumentType]


class Additive(Unconditional):
    """Mixin of a process x_t = alpha_t x_0 + sigma_t z with fields or methods `schedule` and `law`, that of z."""

    schedule: Any
    law: Any

    def noise(self, key: Key, x0: Array) -> Array:
        """Draws z from `law`, of x_0's shape."""
        return self.law(key, x0.shape)

    def corrupt(self, x0: Array, z: Array, t: Any) -> Array:
        """Computes x_t = alpha_t x_0 + sigma_t z."""
        alpha, sigma = self.schedule(t)
        return alpha * x0 + sigma * z  # (vpsde.1)

    def invert(self, key: Key, x0: Array, x: Array, t: Any) -> Array:
        """Computes the z with x = alpha_t x_0 + sigma_t z, for sigma_t > 0."""
        alpha, sigma = self.schedule(t)
        return (x - alpha * x0) / sigma


@pytree
class Gaussian(Additive):
    """The process of a schedule.

    Attributes:
        schedule: t -> (alpha, sigma).
        law: (key, shape) -> z, the noise; standard normal.
        log_density: z -> log density of that law, a scalar; None: known for the standard normal alone.
    """

    schedule: Schedule
    law: Callable[..., Array] = static(default=jax.random.normal)
    log_density: Callable[[Array], Array] | None = static(default=None)

    def prior(self, key: Key, shape: tuple[int, ...], t: Any = None) -> Array:
        """Draws x_T = sigma_T z at the schedule's end, or at the time t where the grid starts.

        It leaves out alpha_T x_0: for VP that is 6.6e-3 of the data (a KL divergence of 2e-5 nats per dimension of unit
        variance), for EDM 1/80 of the noise.
        """
        return self.schedule(self.schedule.t_max if t is None else t)[1] * self.law(key, shape)  # (vpsde.2)

    def renew(self, key: Key, z: Array, share: Any) -> Array:
        """Draws sqrt(1 - share^2) z + share eps: the share of a standard normal z, as an amplitude, that is new.

        Raises:
            ValueError: for another noise law, which that sum does not keep.
        """
        if self.law is not jax.random.normal:
            name = getattr(self.law, "__name__", repr(self.law))
            raise ValueError(f"The noise law {name} is not kept by a sum of two draws; take share = 0 or share = 1.")
        share = jnp.asarray(share, z.dtype)
        return jnp.sqrt(1 - share**2) * z + share * jax.random.normal(key, z.shape, z.dtype)  # (unified.3)

    def prior_log_density(self, x: Array, t: Any = None) -> Array:
        """Computes log p(x_T) in nats, a scalar, of what `prior` draws.

        Raises:
            ValueError: for a noise law whose density was not given.
        """
        log_density = self.log_density
        if log_density is None and self.law is not jax.random.normal:
            name = getattr(self.law, "__name__", repr(self.law))
            raise ValueError(
                f"The noise law {name} has no density here, so that x_T has none; give the process its `log_density` "
                "(z -> scalar), or the likelihood a `prior` (x_T -> scalar)."
            )
        sigma = self.schedule(self.schedule.t_max if t is None else t)[1]
        return (log_density or _standard_normal)(x / sigma) - x.size * jnp.log(sigma)


def _standard_normal(z: Array) -> Array:
    return -0.5 * jnp.sum(z**2) - 0.5 * z.size * math.log(2 * math.pi)
