"""Degradations D_t of images and sequences, D_0 the identity, D_1 all the same: linear, and continuous in t in [0, 1].

    blur         D_t = B^T exp(-lambda w^2 / 2) B, B the orthonormal cosines (DCT-II), lambda = pi^2 sum (k / n)^2: heat
                 for the time w^2 / 2, a Gaussian blur of w places with a mirror at each edge, whose width grows by
                 an equal factor in equal times, but near t = 0: w = width (e^(4 t) - 1) / (e^4 - 1)
    pixelate     the mean over blocks, copied over each; blocks of 1, f, f^2, ... places, and the whole at last
    downsample   the mean over such blocks, a straight line from the middle of each to that of the next

The blocks grow with t: between two sizes D_t mixes both, weights of a straight line in t. What is left at t = 1 is one
number for each channel; of the blur to the longest side, also exp(-pi^2 / 2) = 0.7 % of the slowest wave along it.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffjax import host, operators, spectral
from diffjax.types import Array, pytree, static

GROWTH = 4.0  # of the blur's width: by e^4 = 55 from t = 0 to 1


@pytree
class Blur:
    """The blur by heat.

    Attributes:
        width: standard deviation of the blur at t = 1, in places; None: the longest side.
    """

    width: Any = None

    def __call__(self, x: Array, t: Any) -> Array:
        """Blurs x (*places, C); raises a ValueError for a vector, which has no places."""
        sides = places("blur", x)
        width = float(max(sides)) if self.width is None else self.width
        tau = 0.5 * (width * jnp.expm1(GROWTH * t) / np.expm1(GROWTH)) ** 2
        left = jnp.exp(-tau * jnp.asarray(spectral.eigenvalues(sides), jnp.result_type(tau)))[..., None]
        u = left.astype(x.dtype) * spectral.analyse(x, sides)  # (cold.3)
        return spectral.synthesise(u, sides)


@pytree
class Blocks:
    """The means over blocks.

    Attributes:
        factor: f, by which blocks grow, while their size divides every side.
        lines: whether a straight line leads from the middle of a block to that of the next.
    """

    factor: int = static(default=2)
    lines: bool = static(default=False)

    def __call__(self, x: Array, t: Any) -> Array:
        """Averages x (*places, C); raises a ValueError for a vector, which has no places."""
        sizes = block_sizes(places("downsample" if self.lines else "pixelate", x), self.factor)
        at = t * jnp.asarray(float(len(sizes) - 1))
        weights = [jnp.maximum(0.0, 1.0 - jnp.abs(at - j)).astype(x.dtype) for j in range(len(sizes))]
        spread = _lines if self.lines else _copies
        levels = [x] + [
            operators.along_axes([spread(n, size) for n, size in zip(x.shape[:-1], level)], x) for level in sizes[1:]
        ]
        return sum((w * level for w, level in zip(weights, levels)), jnp.zeros_like(x))  # (cold.4)


def block_sizes(sides: tuple[int, ...], factor: int) -> list[tuple[int, ...]]:
    """Lists the sizes of blocks, per axis: 1, f, f^2, ... while they divide every side, and the sides at last."""
    sizes, size = [], 1
    while all(n % size == 0 and n > size for n in sides):
        sizes.append((size,) * len(sides))
        size *= factor
    return [*(sizes or [(1,) * len(sides)]), tuple(sides)]


def places(name: str, x: Any) -> tuple[int, ...]:
    """Gives the sides of x (*places, C); raises a ValueError, naming the degradation, for a vector."""
    if np.ndim(x) < 2:
        raise ValueError(
            f"cold.{name} is for examples with places, such as (H, W, C) or (L, C); these have shape {np.shape(x)}."
        )
    return tuple(np.shape(x)[:-1])


def checked(degrade: Any, shape: tuple[int, ...]) -> Any:
    """Gives a degradation after a look at it, on the host, on one example of this shape.

    Raises:
        ValueError: unless D_t can be traced, keeps the shape, is finite, and D_0 is the identity.
    """
    if not callable(degrade):
        raise ValueError(f"Got {degrade!r} as the degradation, expected a function of (x, t), such as cold.Blur().")
    x = np.random.default_rng(0).normal(size=shape)
    try:
        jax.eval_shape(degrade, jnp.zeros(shape), jnp.zeros(()))
    except (jax.errors.JAXTypeError, TypeError, ValueError) as error:
        said = str(error).splitlines()[0]
        raise ValueError(
            f"The degradation does not take x {shape} and a scalar t of JAX ({type(error).__name__}: {said}); "
            "write it in jax.numpy, a condition on t as jnp.where(t < 0.5, x, 0 * x)."
        ) from error
    for t in (0.0, 0.5, 1.0):
        with np.errstate(all="ignore"):  # what comes of it is looked at
            found = host.float64(degrade, x, t)
        if np.shape(found) != shape:
            raise ValueError(
                f"The degradation makes shape {np.shape(found)} of an example of shape {shape} at t = {t:g}, expected "
                "the same: enlarge again what was made smaller."
            )
        if not np.isfinite(found).all():
            raise ValueError(f"The degradation is not finite at t = {t:g}, on an example of shape {shape}.")
        if t == 0 and not np.allclose(found, x, atol=1e-5):
            raise ValueError(
                f"The degradation at t = 0 is not the identity: it makes {np.ravel(found)[0]:.6g} of "
                f"{x.ravel()[0]:.6g}; t = 0 is data, t = 1 full degradation."
            )
    return degrade


def _copies(n: int, size: int) -> np.ndarray:
    return np.kron(np.eye(n // size), np.full((size, size), 1 / size))


def _lines(n: int, size: int) -> np.ndarray:
    blocks = n // size
    at = np.clip((np.arange(n) + 0.5) / size - 0.5, 0, blocks - 1)
    weights = np.maximum(0, 1 - np.abs(at[:, None] - np.arange(blocks)))
    return weights @ np.kron(np.eye(blocks), np.full((1, size), 1 / size))
