"""Heat dissipation, blurring diffusion, soft diffusion: Gaussian processes between two DCTs (`spectral`).

    dissipation    a = 1, sigma constant, w from w_min to w_max (Rissanen, Heinonen, Solin 2022)
    blurring       a base schedule, variance preserving say, under a blur (Hoogeboom & Salimans 2022, section 4)
    soft           a = 1, sigma_t of a base schedule, under a blur (Daras et al. 2022)

The walk is in frequencies, u_t = alpha_t B x_0 + sigma_t z: there all of it is one number per entry, and the samplers,
losses and targets of a schedule serve as they stand. Data enters by B and leaves by B^T, and the network, which sees
pixels, stands between the two (`Spectral.seen`).

Heat leaves the mean of the pixels alone and adds no more noise than sigma: it never becomes noise. Its prior is blurred
data. The published code starts from blurred training images, and so brings them back. Here u_T is drawn from a Gaussian
per frequency, of mean alpha m and variance alpha^2 c + sigma^2, with m and c of the training data (`measured`).
"""

from typing import Any

import jax.numpy as jnp
import numpy as np

from diffjax import host
from diffjax.processes.gaussian import Gaussian
from diffjax.spectral import Blur, Frequencies, Widening, analyse, dct, spectral, synthesise
from diffjax.spectral import Spectral as SpectralSchedule
from diffjax.types import Array, Key, Schedule, pytree, real

__all__ = ["blurring", "dissipation", "soft"]  # what a config may name


@pytree
class Spectral(Gaussian):
    """The process of a schedule per frequency; `dissipation`, `blurring` and `soft` make one.

    Attributes:
        mean, variance: of u_0 per frequency, which `prior` draws u_T of; they broadcast against u. 0: of noise alone.
    """

    schedule: SpectralSchedule
    mean: Any = 0.0
    variance: Any = 0.0

    def enter(self, x: Array) -> Array:
        """Computes u_0 = B x.

        Raises:
            ValueError: for tokens, an example of other sides than the schedule's, or one that its amplitudes, or the
                prior's statistics, would not meet entry by entry.
        """
        u = analyse(x, self.schedule.sides)
        self._check_shape(u.shape)
        return u

    def leave(self, u: Array) -> Array:
        """Computes the pixels B^T u."""
        return synthesise(u, self.schedule.sides)

    def place(self, u: Array, given: dict, t: Any) -> Array:
        """Computes x_t = B^T u_t, in pixels."""
        return self.leave(u)

    def seen(self, net: Any) -> Frequencies:
        """Puts a network of pixels between B^T and B."""
        return Frequencies(net, self.schedule.sides)

    def prior(self, key: Key, shape: tuple[int, ...], t: Any = None) -> Array:
        """Draws u_T ~ N(alpha m, alpha^2 c + sigma^2) at the schedule's end, or at the time t where the grid starts."""
        self._check_shape(shape)
        mean, variance = self._prior(t)
        return mean + jnp.sqrt(variance) * self.law(key, shape)  # (spectral.4)

    def prior_log_density(self, x: Array, t: Any = None) -> Array:
        """Computes log p(u_T) in nats, a scalar, of what `prior` draws; it is that of the pixels too."""
        mean, variance = self._prior(t)
        return -0.5 * jnp.sum((x - mean) ** 2 / variance + jnp.log(2 * np.pi * variance))

    def check(self, target: Any) -> None:
        """Raises a ValueError for a target that loses x_0 in float32 at a frequency that the blur takes away."""
        if not host.concrete(self.schedule, target):
            return
        with np.errstate(all="ignore"):
            found = [np.asarray(c, np.float32) for c in host.along(_skip_out_at, (target, self.schedule), [self._end])]
        if not all(np.all(np.isfinite(c)) for c in found):
            raise ValueError(
                f"{type(target).__name__}-prediction divides by alpha, which the blur takes below float32 at "
                f"t = {self._end:g} (d_min = {float(self.schedule.blur.d_min):g}): predict X0, or V or EDM where sigma "
                "is not 0, or give d_min = 0.001, as published."
            )

    def check_density(self) -> None:
        """Raises a ValueError: the likelihood by the flow is written for one log-SNR at a time."""
        raise ValueError(
            "The likelihood by the flow needs one log-SNR at a time, and this process has one per frequency; of heat "
            "dissipation samplers.heat.step_bounds has the terms of a bound."
        )

    def _check_shape(self, shape: tuple[int, ...]) -> None:
        sides = self.schedule.sides
        expected = (*sides, "channels") if len(sides) > 1 else sides
        if len(shape) != len(expected):
            raise ValueError(
                f"Got an example of shape {tuple(shape)}, expected {expected} of sides = {sides}: two sides are of an "
                "image with an axis of channels, one of a vector."
            )
        told = np.broadcast_shapes(np.shape(self.mean), np.shape(self.variance))
        if told and told[-1] not in (1, shape[-1]):
            raise ValueError(
                f"The prior's mean and variance are of {told[-1]} channels, but the example has shape {tuple(shape)}: "
                "measure them on the training data (processes.heat.measured)."
            )

    @property
    def _end(self) -> float:
        return float(self.schedule.t_max)

    def _prior(self, t: Any) -> tuple[Array, Array]:
        alpha, sigma = self.schedule(real(self.schedule.t_max if t is None else t))
        return alpha * self.mean, alpha**2 * self.variance + sigma**2


def _skip_out_at(of: tuple[Any, Any], t: Any) -> tuple[Array, Array]:
    target, schedule = of
    return target.skip_out(schedule, t)


def dissipation(
    schedule: Schedule, sides: Any = None, w_min: float = 0.5, w_max: float = 4.0, mean: Any = 0.0, variance: Any = 0.0
) -> Spectral:
    """Makes the process of heat dissipation: a blur that widens from w_min to w_max, and noise that stays.

    Args:
        schedule: `schedules.Still`, the noise.
        sides: (height, width) of the data.
        w_min, w_max: in pixels.
        mean, variance: of u_0 at its lowest frequencies (`measured`): (p, q, channels), the others count as 0. They
            are what sampling starts with, so w_max is to leave nothing of the others.

    Raises:
        ValueError: for numbers that make no blur, or statistics of another shape.
    """
    found = spectral(schedule, Widening(w_min, w_max), sides)
    return Spectral(found, mean=_corner("mean", mean, found.sides), variance=_corner("variance", variance, found.sides))


def blurring(schedule: Schedule, sides: Any = None, w_max: float = 2.0, d_min: float = 0.001) -> Spectral:
    """Makes the process of blurring diffusion; with w_max = 0, or d_min = 1, the schedule's own.

    Args:
        schedule: any that ends in noise: `VP`, `Cosine` (published, its log-SNR clipped to [-10, 10]).
        sides: (height, width) of the data.
        w_max: width of the blur at t = 1, in pixels.
        d_min: what is left of the highest frequency.

    Raises:
        ValueError: for numbers that make no blur.
    """
    return Spectral(spectral(schedule, Blur(w_max, d_min), sides))


def soft(schedule: Schedule, sides: Any = None, w_max: float = 2.0, d_min: float = 0.0) -> Spectral:
    """Makes the process of soft diffusion with a blur as its linear map: `blurring` under a schedule of alpha = 1.

    Args: as of `blurring`; the schedule is `VE`, or `EDM` up to t_max = 1.

    Raises:
        ValueError: for a schedule with another alpha, or numbers that make no blur.
    """
    found = spectral(schedule, Blur(w_max, d_min), sides)
    end = float(host.float64(_alpha_at, schedule, float(schedule.t_max)))
    if end != 1:
        raise ValueError(
            f"Soft diffusion adds noise to C_t x_0, so that its schedule has alpha = 1 (VE, EDM), but "
            f"{type(schedule).__name__} ends at alpha = {end:g}; take heat.blurring."
        )
    return Spectral(found)


def _alpha_at(schedule: Schedule, t: Any) -> Array:
    return schedule(t)[0]


def measured(x: Any, corner: int = 3, digits: int = 5) -> dict[str, tuple]:
    """Measures mean and variance of u_0 at the lowest frequencies of training data, as options of `dissipation`.

    Args:
        x: (N, H, W, C).
        corner: how many frequencies of each side.
        digits: after the point, for a config.

    Returns:
        {"mean", "variance"}, nested tuples of shape (corner, corner, C).
    """
    x = np.asarray(x, np.float64)
    rows, columns = dct(x.shape[1])[:corner], dct(x.shape[2])[:corner]
    u = np.einsum("ih,jw,nhwc->nijc", rows, columns, x)
    nested = lambda a: tuple(tuple(tuple(float(round(v, digits)) for v in c) for c in b) for b in a)
    return {"mean": nested(u.mean(0)), "variance": nested(u.var(0))}


def _corner(name: str, values: Any, sides: tuple[int, ...]) -> Any:
    """Spreads statistics of the lowest frequencies to all of `sides`, 0 elsewhere; a number stays one."""
    try:
        values = np.asarray(values, np.float32)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"The prior's {name} is {values!r}, expected a number, or rows of numbers of one length "
            "(processes.heat.measured)."
        ) from error
    if not np.all(np.isfinite(values)) or (name == "variance" and np.any(values < 0)):
        raise ValueError(f"The prior's {name} is to be finite{' and >= 0' * (name == 'variance')}, got {values}.")
    if values.ndim == 0:
        return float(values)
    if values.ndim != max(2 * len(sides) - 1, 1) or any(p > n for p, n in zip(values.shape, sides)):
        raise ValueError(
            f"The prior's {name} has shape {values.shape}, expected the lowest frequencies of {sides} and the channels "
            "(processes.heat.measured)."
        )
    found = np.zeros((*sides, *values.shape[len(sides) :]), np.float32)
    found[tuple(slice(p) for p in values.shape[: len(sides)])] = values
    return jnp.asarray(found)
