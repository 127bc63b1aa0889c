"""A schedule per DCT frequency: heat dissipation, blurring diffusion, soft diffusion.

With B the orthonormal DCT-II (separable, per channel) and u = B x, each frequency k has an amplitude of its own,

    u_t,k = alpha_k(t) u_0,k + sigma(t) z_k,    alpha_k = a(t) d_k(t),
    d_k = (1 - d_min) exp(-lambda_k tau) + d_min,    lambda = pi^2 (i^2 / H^2 + j^2 / W^2),    tau = w^2 / 2.

exp(-lambda tau) is the heat equation with insulated ends after the time tau: a blur of w pixels. B is orthonormal, so
z is white in pixels too. Sources: Rissanen, Heinonen, Solin 2022 (a = 1, sigma constant); Hoogeboom & Salimans 2022,
section 4 (a, sigma of a variance-preserving schedule, d_min = 0.001); Daras et al. 2022 (a = 1, sigma_t of its own).

exp(-lambda tau) is 0 in float32 from w = 4 on for 8 x 8 pixels, in float64 from w = 10. What is made of quotients of
amplitudes therefore takes their logarithms, which `Spectral.log_signal` states (`calculus.log_alphas`).
"""

import functools
from typing import Any, Protocol

import jax.numpy as jnp
import numpy as np

from diffjax import host
from diffjax.types import Array, Network, Schedule, pytree, real, static

Sides = tuple[int, ...]


@functools.cache
def dct(n: int) -> np.ndarray:
    """Makes the orthonormal DCT-II of n numbers, (n, n) float64: row k is the cosine of frequency k."""
    k, i = np.arange(n)[:, None], np.arange(n)[None]
    return np.sqrt(2 / n) * np.cos(np.pi * k * (i + 0.5) / n) * np.where(k == 0, np.sqrt(0.5), 1.0)  # (spectral.1)


def eigenvalues(sides: Sides) -> np.ndarray:
    """Computes lambda_k of the heat equation with insulated ends, of shape `sides`, in 1 / pixel^2, float64."""
    found = np.zeros(sides)
    for axis, n in enumerate(sides):
        squares = (np.pi * np.arange(n) / n) ** 2
        found = found + squares.reshape(-1, *(1,) * (len(sides) - axis - 1))  # (spectral.3)
    return found


def analyse(x: Array, sides: Sides) -> Array:
    """Computes u = B x over the first axes of x, which are `sides`; what stands behind them are channels.

    Raises:
        ValueError: for tokens, or an example of other sides.
    """
    return _along(x, sides, dct)


def synthesise(u: Array, sides: Sides) -> Array:
    """Computes x = B^T u, which takes `analyse` back; ValueError as there."""
    return _along(u, sides, lambda n: dct(n).T)


def _along(x: Array, sides: Sides, matrix: Any) -> Array:
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"Frequencies are of real numbers, got {x.dtype}, tokens say: take a process of tokens.")
    if x.shape[: len(sides)] != tuple(sides) or x.ndim > len(sides) + 1:
        raise ValueError(
            f"Got an example of shape {x.shape}, but the schedule has a frequency for each of sides = {tuple(sides)} "
            f"(and any channels behind): set process.sides={x.shape[: max(x.ndim - 1, 1)]}."
        )
    for axis, n in enumerate(sides):
        x = jnp.moveaxis(jnp.tensordot(jnp.asarray(matrix(n), x.dtype), x, (1, axis), precision="highest"), 0, axis)
    return x


@pytree
class Frequencies:
    """A network of pixels as a network of frequencies: u -> B^T u -> network -> B, each map of its output apart.

    What a network predicts may be a map per frequency (v, the velocity, EDM's target) or not (eps, x_0): applied behind
    B, all of them are right.

    Attributes:
        net: (x_in, c) -> F in pixels.
        sides: of the image, (H, W); of a vector, (n,).
    """

    net: Network
    sides: Sides = static()

    def __call__(self, u: Array, c: Any, *args: Any, **options: Any) -> Array:
        """Evaluates the network where the walk is in frequencies."""
        return analyse(self.net(synthesise(u, self.sides), c, *args, **options), self.sides)


class Damping(Protocol):
    """How a schedule forgets its frequencies over time."""

    def width(self, t: Any) -> Array:
        """Computes the width w of the blur at t, in pixels; tau = w^2 / 2."""
        ...

    @property
    def d_min(self) -> Any:
        """The part of every amplitude that no blur takes away."""
        ...


@pytree
class Blur:
    """The blur w = w_max sin(pi t / 2)^2, t in [0, 1], of blurring diffusion (Hoogeboom & Salimans 2022, appendix A).

    Attributes:
        w_max: width of the blur at t = 1, in pixels (published: 20 at 64 x 64).
        d_min: what is left of the highest frequency (published: 0.001), since x_0 from eps is divided by it.
    """

    w_max: float = 2.0
    d_min: float = 0.001

    def width(self, t: Any) -> Array:
        """Computes w at t, in pixels."""
        return self.w_max * jnp.sin(0.5 * np.pi * real(t)) ** 2


@pytree
class Widening:
    """The blur w = w_min (w_max / w_min)^t of heat dissipation, geometric in t as its published levels; 0 at t = 0.

    Attributes:
        w_min, w_max: width of the blur next to t = 0 and at t = 1, in pixels (published: 0.5, and 20 for MNIST).
        d_min: what is left of the highest frequency; nothing.
    """

    w_min: float = 0.5
    w_max: float = 4.0
    d_min: float = 0.0

    def width(self, t: Any) -> Array:
        """Computes w at t, in pixels."""
        t = real(t)
        return jnp.where(t > 0, self.w_min * jnp.exp(t * jnp.log(self.w_max / self.w_min)), 0.0)


@pytree
class Still:
    """The schedule alpha = 1 with a sigma that stays, of heat dissipation; at t = 0 stands data without noise.

    Its log-SNR is one number at every time: it destroys nothing by itself, only under a blur (`Spectral`).

    Attributes:
        sigma: standard deviation of the noise, in units of x_0 (published: 0.01 for data in [0, 1]).
        t_max: the time of most blur, where sampling starts.
    """

    sigma: float = 0.01
    t_max: float = 1.0

    def __call__(self, t: Any) -> tuple[Array, Array]:
        """Computes (1, sigma), and (1, 0) at t = 0."""
        t = real(t)
        return jnp.ones_like(t), jnp.where(t > 0, self.sigma, 0.0).astype(t.dtype)


@pytree
class Spectral:
    """The schedule of a base schedule under a blur: an amplitude for each frequency.

    Attributes:
        base: t -> (a, sigma), scalars.
        blur: how wide the blur is at t, and what it leaves.
        sides: of the image, (H, W); of a vector, (n,).
    """

    base: Schedule
    blur: Damping
    sides: Sides = static()

    @property
    def t_max(self) -> Any:
        """The end of the base schedule's domain."""
        return self.base.t_max

    def __call__(self, t: Any) -> tuple[Array, Array]:
        """Computes (alpha, sigma) of shapes (H, W, 1) and (1, 1, 1), or (n,) and (1,): they broadcast against u."""
        a, sigma = self.base(t)
        heat = jnp.exp(-self._exponent(t))
        # 1 exactly where there is no blur, and without a difference where there is much.
        damped = heat + self.blur.d_min * -jnp.expm1(-self._exponent(t))  # (spectral.2)
        return a * damped, sigma.reshape((1,) * damped.ndim)

    def log_signal(self, t: Any) -> Array:
        """Computes log(alpha), of alpha's shape, finite where alpha itself is too small for its precision."""
        exponent = self._exponent(t)
        left = self.blur.d_min * -jnp.expm1(-exponent)
        some = left > 0
        return jnp.log(self.base(t)[0]) + jnp.logaddexp(
            -exponent, jnp.where(some, jnp.log(jnp.where(some, left, 1.0)), -jnp.inf)
        )

    def told(self, t: Any) -> Array:
        """Computes the scalar that a network is told: the base's log-SNR, that of the mean of all pixels.

        Where that is one number at all times (`Still`) it is -2 log(w), of the blur's width in pixels.
        """
        if isinstance(self.base, Still):
            return -2 * jnp.log(self.blur.width(t))
        a, sigma = self.base(t)
        return 2 * (jnp.log(a) - jnp.log(sigma))

    def _exponent(self, t: Any) -> Array:
        """Computes lambda tau >= 0, of alpha's shape."""
        tau = 0.5 * self.blur.width(t) ** 2
        found = jnp.asarray(eigenvalues(self.sides), tau.dtype) * tau
        return found[..., None] if len(self.sides) > 1 else found


def spectral(base: Schedule, blur: Any, sides: Any) -> Spectral:
    """Makes the schedule of a base schedule under a blur, looking at its numbers.

    Args:
        sides: one or two integers, of an image without its channels.

    Raises:
        ValueError: for sides that are no positive integers, a blur that is negative or upside down, a d_min outside
            [0, 1], or a schedule that goes on after t = 1, where `Blur` narrows.
    """
    host.need_object(base)
    sides = (sides,) if host.is_int(sides) else tuple(sides or ())
    if not 1 <= len(sides) <= 2 or not all(host.is_int(n, 1) for n in sides):
        raise ValueError(f"sides is {sides!r}, expected the height and width of the data, (8, 8) for digits.")
    if host.concrete(blur):
        if not 0 <= blur.d_min <= 1:
            raise ValueError(f"d_min is {blur.d_min}, expected a number in [0, 1] (published: 0.001).")
        numbers = {name: getattr(blur, name) for name in ("w_min", "w_max") if hasattr(blur, name)}
        if not all(0 <= w < np.inf for w in numbers.values()):
            raise ValueError(f"The blur has {numbers}, expected widths in pixels >= 0 (0: no blur).")
        if "w_min" in numbers and not 0 < numbers["w_min"] < numbers["w_max"]:
            raise ValueError(f"The blur has {numbers}, expected 0 < w_min < w_max: it widens with time.")
    if host.concrete(base) and isinstance(blur, Blur) and float(base.t_max) > 1:
        raise ValueError(
            f"The blur has its whole width at t = 1 and narrows from there, but {type(base).__name__} goes on to t_max "
            f"= {float(base.t_max):g}: give it t_max = 1 (schedule.t_max), or take another schedule, VE or VP."
        )
    return Spectral(base, blur, tuple(map(int, sides)))
