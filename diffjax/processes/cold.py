"""Cold diffusion: x_t = D_t(x_0) + z, any degradation D_t, little noise or none (Bansal et al. 2022; kexue 9271).

    z ~ N(0, s^2 I) in units of x_0, at every t > 0; s = 0: no noise         t from 0, D_0(x) = x, to 1
    z' = x_t - D_t(x_0)                                                      `invert`: D_t + z is one-to-one in z

so that a step of `samplers.unified` with its share of new noise is, for s = 0, one of Bansal et al.'s two:

    share 1   x_s = D_s(x0)                       their algorithm 1, naive
    share 0   x_s = x_t + D_s(x0) - D_t(x0)       their algorithm 2, improved;  x0 = the estimate of x_0 given x_t

For a linear D_t the improved sampler's error telescopes, x_end - x_0 = sum over steps of (D_s - D_t)(x0_t - x_0): what
D_1 keeps is kept, and errors of estimates that depend on each other little average out. Of no noise comes nothing new:
a walk from D_1 of a few numbers has the diversity of those numbers, of a full blur three (the article's criticism).

    masked    a place is hidden, shown as `grey`, once t is above its own u ~ U(0, 1): z = (u, noise)
    mix       x_t = alpha_t x_0 + sigma_t z, z an image of another set: Bansal et al.'s animorphosis. It is the process
              of `gaussian` with another law of z; on `Rectified` the improved step is DDIM's

The clock is that of `Rectified`; a network is told its log-SNR at t, 2 log((1 - t) / t), and x_t as the target scales
it. Only mix has a flow; the others refuse what needs a score, a density, or samplers made of a schedule alone.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffjax import host, members
from diffjax.calculus import Clock, FlowOnly
from diffjax.processes import starts
from diffjax.processes.degradations import Blocks as Blocks
from diffjax.processes.degradations import Blur as Blur
from diffjax.processes.degradations import block_sizes as block_sizes
from diffjax.processes.degradations import checked
from diffjax.processes.gaussian import Additive, Unconditional
from diffjax.processes.starts import Examples as Examples
from diffjax.processes.starts import examples as examples
from diffjax.schedules import Rectified
from diffjax.types import Array, Key, Schedule, as_pytree, pytree

__all__ = ["blur", "downsample", "masked", "mix", "pixelate"]  # what a config may name

Degradation = Callable[[Array, Any], Array]  # (x, t) -> D_t(x), for one example


class Flowless(Unconditional):
    """Mixin of a process on the clock t in [0, 1] whose x_t is no alpha x_0 + sigma z: it has no flow by a schedule."""

    schedule: Any

    def on(self, schedule: Schedule) -> Any:
        """Makes the process on another schedule; raises a ValueError for a clock other than that of `Rectified`."""
        return dataclasses.replace(self, schedule=clock(schedule))  # pyright: ignore[reportArgumentType]

    def ends(self, x0: Array, z: Any, t: Any) -> tuple[Array, Array]:
        """Computes the pair that a prediction a x_0 + b z is regressed on: x_0, and (x_t - alpha x_0) / sigma for z.

        So every target that determines x_0 on the clock's straight line determines it here: alpha x_0 + sigma z = x_t.
        """
        alpha, sigma = self.schedule(t)
        off = self.corrupt(x0, z, t) - alpha * x0  # pyright: ignore[reportAttributeAccessIssue]
        return x0, off / jnp.where(sigma > 0, sigma, 1)  # (cold.8)

    def check_density(self) -> None:
        """Raises a ValueError: there is no flow to integrate a density along."""
        raise ValueError(f"{type(self).__name__} has no flow, so x_0 has no density here; take a Gaussian process.")

    def prior_log_density(self, x: Array, t: Any = None) -> Array:
        """Raises a ValueError: there is no flow to integrate a density along."""
        self.check_density()
        raise AssertionError


@pytree
class Cold(Flowless):
    """The process of a degradation; make one with `of`, which looks at it, or by a degradation's name.

    Attributes:
        schedule: the clock, t in [0, 1].
        degrade: (x, t) -> D_t(x).
        std: s, standard deviation of the noise in units of x_0.
        start: (key, shape) -> an example that D_1 makes the start of a walk from; None: there is no prior.
        extra: standard deviation of further noise on that start alone, in units of x_0 (Bansal et al. 2022).
    """

    schedule: Clock
    degrade: Degradation
    std: Any = 0.0
    start: Callable[..., Array] | None = None
    extra: Any = 0.0

    def noise(self, key: Key, x0: Array) -> Array:
        """Draws z of N(0, s^2 I), of x_0's shape."""
        return _normal(key, x0, self.std)

    def corrupt(self, x0: Array, z: Array, t: Any) -> Array:
        """Computes x_t = D_t(x_0) + z; at t = 0 it is x_0, without noise where there is noise."""
        return self.degrade(x0, t) + _until_data(z, t, self.std)  # (cold.1)

    def invert(self, key: Key, x0: Array, x: Array, t: Any) -> Array:
        """Computes z = x_t - D_t(x_0), the only one; of a wrong x_0 it is none that the law would draw."""
        return x - self.degrade(x0, t)  # (cold.2)

    def renew(self, key: Key, z: Array, share: Any) -> Array:
        """Computes sqrt(1 - share^2) z + share s eps, of the law of z."""
        return _renewed(key, z, share, self.std)

    def prior(self, key: Key, shape: tuple[int, ...], t: Any = None) -> Array:
        """Draws D_t of the start, with the noise of the law and `extra`, at t = 1 or where the grid starts.

        Raises:
            ValueError: for a process without a start.
        """
        if self.start is None:
            raise ValueError(
                "A cold process starts from D_1 of data, not from noise: give it start=(mean, std) of an example's "
                "mean, or an object, or take cold.fitted(process, x) or cold.examples(x)."
            )
        key_start, key_noise = jax.random.split(key)
        x = self.degrade(self.start(key_start, shape), self.schedule.t_max if t is None else t)
        return x + _normal(key_noise, x, jnp.hypot(self.std, self.extra))


class Veil(NamedTuple):
    """The noise of masking: when each place is hidden, u (*places, 1) in [0, 1); what is added, z of x_0's shape."""

    u: Array
    z: Array


@pytree
class Masking(Flowless):
    """The process that hides places one after the other, in an order of each example's own; `masked` makes one.

    Attributes:
        schedule: the clock, t in [0, 1].
        grey: what is shown of a hidden place, in units of x_0.
        std: s, standard deviation of the noise, in units of x_0.
    """

    schedule: Clock
    grey: Any = 0.0
    std: Any = 0.0

    def noise(self, key: Key, x0: Array) -> Veil:
        """Draws when places are hidden, each uniformly, and N(0, s^2 I)."""
        key_u, key_z = jax.random.split(key)
        places = (*x0.shape[:-1], 1) if x0.ndim > 1 else x0.shape
        return Veil(jax.random.uniform(key_u, places, x0.dtype), _normal(key_z, x0, self.std))

    def corrupt(self, x0: Array, z: Veil, t: Any) -> Array:
        """Computes x_t: x_0 where u >= t, grey elsewhere, and the noise; at t = 0 it is x_0, as of `Cold`."""
        return self._shown(x0, z.u, t) + _until_data(z.z, t, self.std)  # (cold.5)

    def invert(self, key: Key, x0: Array, x: Array, t: Any) -> Veil:
        """Draws u and z of their law given both ends: uniform on either side of t, and what is left of x_t.

        Without noise a place is hidden where x_t is grey; with noise by the two likelihoods of what is seen there.
        """
        key_hidden, key_u = jax.random.split(key)
        noisy = jnp.asarray(self.std) > 0
        t, std, grey = (jnp.asarray(a, x.dtype) for a in (t, jnp.where(noisy, self.std, 1.0), self.grey))
        per_place = lambda a: jnp.sum(a, -1, keepdims=True) if a.ndim > 1 else a
        odds = jnp.log(t) - jnp.log1p(-t) + per_place((x - x0) ** 2 - (x - grey) ** 2) / (2 * std**2)
        drawn = jax.random.uniform(key_hidden, odds.shape, x.dtype) < jax.nn.sigmoid(odds)
        hidden = jnp.where(noisy, drawn, per_place(jnp.abs(x - grey)) == 0)  # (cold.6)
        part = jax.random.uniform(key_u, odds.shape, x.dtype)
        below = jnp.nextafter(t, jnp.zeros_like(t))  # u < t, whatever rounding makes of t part
        u = jnp.where(hidden, jnp.minimum(t * part, below), t + (1 - t) * part)
        return Veil(u, x - self._shown(x0, u, t))

    def renew(self, key: Key, z: Veil, share: Any) -> Veil:
        """Draws each place's u anew with probability `share`, and renews the noise as `Cold` does."""
        key_which, key_u, key_z = jax.random.split(key, 3)
        anew = jax.random.uniform(key_which, z.u.shape, z.u.dtype) < jnp.asarray(share, z.u.dtype)
        u = jnp.where(anew, jax.random.uniform(key_u, z.u.shape, z.u.dtype), z.u)
        return Veil(u, _renewed(key_z, z.z, share, self.std))

    def prior(self, key: Key, shape: tuple[int, ...], t: Any = None) -> Array:
        """Draws the grey image with the law's noise, all places hidden: the walk starts at t = 1."""
        return self.grey + _normal(key, jnp.zeros(shape), self.std)

    def _shown(self, x0: Array, u: Array, t: Any) -> Array:
        return jnp.where(u >= t, x0, jnp.asarray(self.grey, x0.dtype))


@pytree
class Mixed(Additive):
    """The process alpha_t x_0 + sigma_t z whose z is an image of another set; `mix` makes one.

    Attributes:
        schedule: t -> (alpha, sigma), of which the flow alone is right.
        images: (n, *shape), one of which is drawn as z.
    """

    schedule: FlowOnly
    images: Array

    def law(self, key: Key, shape: tuple[int, ...]) -> Array:
        """Draws one of the images; raises a ValueError for another shape."""
        if self.images.shape[1:] != tuple(shape):
            raise ValueError(f"cold.mix has images of shape {self.images.shape[1:]}, but examples of shape {shape}.")
        return self.images[jax.random.randint(key, (), 0, len(self.images))]

    def renew(self, key: Key, z: Array, share: Any) -> Array:
        """Draws another image with probability `share`."""
        key_which, key_law = jax.random.split(key)
        anew = jax.random.uniform(key_which, (), z.dtype) < jnp.asarray(share, z.dtype)
        return jnp.where(anew, self.law(key_law, z.shape).astype(z.dtype), z)

    def prior(self, key: Key, shape: tuple[int, ...], t: Any = None) -> Array:
        """Draws sigma_t z, at the schedule's end or where the grid starts: without alpha_t x_0, as `Gaussian`."""
        return self.schedule(self.schedule.t_max if t is None else t)[1] * self.law(key, shape)

    def check_density(self) -> None:
        """Raises a ValueError: draws from a list have no density."""
        raise ValueError("Mixed draws z from a list of images, which has no density; take a Gaussian process.")

    def prior_log_density(self, x: Array, t: Any = None) -> Array:
        """Raises a ValueError: draws from a list have no density."""
        self.check_density()
        raise AssertionError


def fitted(process: Cold, x: Any) -> Cold:
    """Gives a process a start by data: D_1 of draws of the normal law with mean and covariance of x.

    For a linear D_1 that is the normal law fitted to D_1(x): of a full blur, to the mean of each channel.

    Args:
        x: training examples (n, *shape), n > 1.

    Raises:
        ValueError: for examples of which there is no covariance.
    """
    return dataclasses.replace(process, start=starts.fit(x))


def of(
    degrade: Degradation,
    schedule: Schedule | None = None,
    std: float = 0.0,
    start: Any = None,
    extra: float = 0.0,
    shape: tuple[int, ...] = (8, 8, 1),
) -> Cold:
    """Makes the process of a degradation of your own.

    Args:
        degrade: (x, t) -> D_t(x) for one example, t in [0, 1]: a function, or a pytree whose leaves `jit` is to see.
        schedule: None: `Rectified()`, whose clock it is.
        std: s, of the noise in every x_t with t > 0, in units of x_0.
        start: (mean, std) of the mean of an example, by channel; or (key, shape) -> example; None: no samples.
        extra: of the noise that is added to the start alone.
        shape: of the example on which the degradation is looked at.

    Raises:
        ValueError: unless D_0 is the identity and shapes are kept; for a negative std or extra, or another clock.
    """
    _check_stds(std=std, extra=extra)
    checked(degrade, tuple(shape))
    return Cold(clock(schedule), as_pytree(degrade), float(std), starts.start(start), float(extra))


def blur(
    schedule: Schedule | None = None,
    width: float | None = None,
    std: float = 0.0,
    start: Any = None,
    extra: float = 0.0,
) -> Cold:
    """Makes the process of a blur up to `width` places; None: to the longest side, and of an image its means are left.

    Raises:
        ValueError: for a width that is not positive, and as `of`.
    """
    if width is not None:
        host.check_positive("cold.blur: width", width)
    return of(Blur(None if width is None else float(width)), schedule, std, start, extra)


def pixelate(
    schedule: Schedule | None = None, factor: int = 2, std: float = 0.0, start: Any = None, extra: float = 0.0
) -> Cold:
    """Makes the process of means over blocks that grow by `factor`; raises a ValueError for one below 2, or as `of`.

    Other arguments are those of `of`.
    """
    return of(Blocks(host.check_int("cold.pixelate: factor", factor, 2)), schedule, std, start, extra)


def downsample(
    schedule: Schedule | None = None, factor: int = 2, std: float = 0.0, start: Any = None, extra: float = 0.0
) -> Cold:
    """Makes the process of fewer places, enlarged by straight lines; raises a ValueError as `pixelate`."""
    return of(Blocks(host.check_int("cold.downsample: factor", factor, 2), True), schedule, std, start, extra)


def masked(schedule: Schedule | None = None, grey: float = 0.0, std: float = 0.0) -> Masking:
    """Makes the process that hides places, all channels of a pixel at once; of vectors, entries.

    Raises:
        ValueError: for a negative std, or a clock other than that of `Rectified`.
    """
    _check_stds(std=std)
    return Masking(clock(schedule), float(grey), float(std))


def mix(schedule: Schedule | None = None, images: Any = None) -> Mixed:
    """Makes the process that mixes an image of another set in.

    Args:
        schedule: t -> (alpha, sigma); None: `Rectified`, (1 - t, t).
        images: (n, *shape) in units of x_0, or a .npy file of it.

    Raises:
        ValueError: for images that are none, not finite, or missing.
    """
    host.need_object(schedule)
    found = members.single(Path(images)) if isinstance(images, str | Path) else images
    if found is None:
        raise ValueError("cold.mix needs images (n, *shape), an array or a .npy file, such as images=patches.npy.")
    schedule = Rectified() if schedule is None else schedule
    flow = schedule if isinstance(schedule, FlowOnly) else FlowOnly(schedule)
    return Mixed(flow, jnp.asarray(starts.checked(found, "mix", 1), jnp.float32))


def clock(schedule: Schedule | None) -> Clock:
    """Makes the clock of a cold process; raises a ValueError unless it is that of `Rectified`, up to t = 1."""
    host.need_object(schedule)
    base = schedule.base if isinstance(schedule, FlowOnly) else Rectified() if schedule is None else schedule
    if not isinstance(base, Rectified):
        raise ValueError(
            f"A degradation has its own clock, t from 0 to 1, but the schedule is {type(base).__name__}; give "
            "Rectified (--config.schedule.name=Rectified), whatever the degradation."
        )
    return Clock(base)


def _check_stds(**stds: Any) -> None:
    for name, value in stds.items():
        if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not 0 <= value < np.inf:
            raise ValueError(f"{name} is {value!r}, expected a standard deviation in units of x_0, 0 for no noise.")


def _until_data(z: Array, t: Any, std: Any) -> Array:
    """Gives z; 0 at t = 0 where there is noise: data has none. Without noise z is what an estimate missed: it stays."""
    return jnp.where((jnp.asarray(t) > 0) | (jnp.asarray(std) == 0), z, jnp.zeros_like(z))


def _renewed(key: Key, z: Array, share: Any, std: Any) -> Array:
    share = jnp.asarray(share, z.dtype)
    return jnp.sqrt(1 - share**2) * z + share * _normal(key, z, std)


def _normal(key: Key, x: Array, std: Any) -> Array:
    return jnp.asarray(std, x.dtype) * jax.random.normal(key, x.shape, x.dtype)
