"""Augmentation that does not leak (Karras et al. 2022, appendix F.2): the network is told what was done to an image.

`augment(key, x) -> (x', label)` for one image. The label is given to the network in training (`models.UNet(augment=9)`)
and is zero in sampling, where images as they are are wanted. Each transform but the x-flip is drawn with one small
probability, and adds its entries of the label, zero where it is not drawn:

    x-flip, y-flip   0 or 1, with a fair coin                             1
    scaling          2^(0.2 a), a ~ N(0, 1)                               a
    rotation         by a ~ U(-pi, pi)                                    cos a - 1, sin a
    anisotropy       2^(0.2 a) and its inverse along an axis at angle r   a cos r, a sin r
    translation      (a, b) ~ N(0, 1) eighths of the image                a, b

Geometry is about the centre of the image, x to the right and y down. All of it is one bilinear resampling of the image
continued by reflection. Deviation: the published code resamples an image that wavelets have enlarged twice.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates

from diffjax.types import Array, Key

__all__ = ["geometric", "none"]  # what a config may name

Augment = Callable[[Key, Array], tuple[Array, Array | None]]
TRANSFORMS = ("x_flip", "y_flip", "scale", "rotate", "stretch", "shift")
OCTAVES, EIGHTH = 0.2, 0.125
_dot = partial(jnp.matmul, precision="highest")  # coordinates in bfloat16 would be off by pixels


class Drawn(NamedTuple):
    """The transforms drawn for one image; all zeros leave the image as it was.

    Attributes:
        x_flip, y_flip: 0 or 1; a scalar, as all others but `shift` are.
        scale, stretch: logarithms to base 2 of the factors, in units of OCTAVES.
        angle: of the rotation, in radians.
        axis: angle of the stretched axis, in radians.
        shift: (2,), to the right and down, in units of EIGHTH of width and height.
    """

    x_flip: Any  # 0 or 1
    y_flip: Any
    scale: Any  # in units of OCTAVES
    angle: Any
    stretch: Any  # in units of OCTAVES
    axis: Any  # angle of the stretched axis
    shift: Any  # (2,), to the right and down, in units of EIGHTH


def none() -> Augment:
    """Leaves images as they are, without a label."""
    return lambda key, x: (x, None)


def geometric(
    probability: float = 0.12, x_flip: float = 1.0, transforms: Sequence[str] = TRANSFORMS
) -> Callable[[Key, Array], tuple[Array, Array]]:
    """Makes the published augmentation of images (H, W, C), with a label of 9 entries.

    Args:
        probability: that of each transform but the x-flip (published: 0.12 on CIFAR-10).
        x_flip: probability that the coin of the x-flip is tossed (published: 1).
        transforms: those that are used, of TRANSFORMS; the label keeps its length.

    Raises:
        ValueError: for a probability outside [0, 1], an unknown transform, or (when called) an x that is no image.
    """
    for name, value in (("probability", probability), ("x_flip", x_flip)):
        if not 0 <= value <= 1:
            raise ValueError(f"The augmentation's {name} is {value}, expected a probability in [0, 1].")
    if unknown := [name for name in transforms if name not in TRANSFORMS]:
        raise ValueError(f"There is no transform {unknown[0]!r}; there are {', '.join(TRANSFORMS)}.")
    chances = dict.fromkeys(TRANSFORMS, probability) | {"x_flip": x_flip}
    probabilities = [chances[name] if name in transforms else 0.0 for name in TRANSFORMS]

    def augment(key: Key, x: Array) -> tuple[Array, Array]:
        if x.ndim != 3:
            raise ValueError(f"augment transforms images (H, W, C); the examples have shape {x.shape}: set it to none.")
        drawn = draw(key, probabilities)
        return apply(drawn, x), label(drawn)

    return augment


def draw(key: Key, probabilities: Sequence[float]) -> Drawn:
    """Draws the transforms for one image; probabilities are those of TRANSFORMS."""
    keys = jax.random.split(key, 5)
    taken = jax.random.uniform(keys[0], (6,)) < jnp.asarray(probabilities, float)
    flips = jnp.where(taken[:2] & jax.random.bernoulli(keys[1], 0.5, (2,)), 1.0, 0.0)
    normals = jax.random.normal(keys[2], (4,))
    angle, axis = jax.random.uniform(keys[3], (2,), minval=-math.pi, maxval=math.pi)
    axis = jnp.where(jax.random.bernoulli(keys[4]), axis, 0.0)  # half of all axes are horizontal, as published
    gate = lambda i, value: jnp.where(taken[i], value, jnp.zeros_like(value))
    return Drawn(
        flips[0],
        flips[1],
        gate(2, normals[0]),
        gate(3, angle),
        gate(4, normals[1]),
        gate(4, axis),
        gate(5, normals[2:]),
    )


def label(drawn: Drawn) -> Array:
    """Makes the label (9,) that tells the network of the drawn transforms."""
    turned = [jnp.cos(drawn.angle) - 1, jnp.sin(drawn.angle)]
    stretched = [drawn.stretch * jnp.cos(drawn.axis), drawn.stretch * jnp.sin(drawn.axis)]
    # (augmentation.2)
    entries = [drawn.x_flip, drawn.y_flip, drawn.scale, *turned, *stretched, drawn.shift[0], drawn.shift[1]]
    return jnp.stack([jnp.asarray(entry, float) for entry in entries])


def apply(drawn: Drawn, x: Array) -> Array:
    """Transforms the image (H, W, C): flips are exact, and where nothing else is drawn no bit is changed."""
    x = jnp.where(drawn.x_flip == 1, x[:, ::-1], x)
    x = jnp.where(drawn.y_flip == 1, x[::-1], x)
    moved = jnp.any(jnp.stack([drawn.scale, drawn.angle, drawn.stretch, *drawn.shift]) != 0)
    return jnp.where(moved, warp(x, *backwards(drawn, x.shape[0], x.shape[1])), x)


def backwards(drawn: Drawn, height: int, width: int) -> tuple[Array, Array]:
    """Computes (A, d) such that the pixel at p comes from A (p - d), both in pixels (x, y) from the centre."""
    squeeze = jnp.exp2(-OCTAVES * drawn.stretch)
    matrix = _dot(jnp.diag(jnp.stack([squeeze, 1 / squeeze])), _rotation(drawn.axis))
    matrix = _dot(_rotation(drawn.angle), _dot(_rotation(-drawn.axis), matrix))
    matrix = jnp.exp2(-OCTAVES * drawn.scale) * matrix  # (augmentation.1)
    return matrix, EIGHTH * drawn.shift * jnp.asarray([width, height], drawn.shift.dtype)


def warp(x: Array, matrix: Array, shift: Array) -> Array:
    """Makes x' with x'(p) = x(matrix (p - shift)), p = (x, y) in pixels from the centre; bilinear, with reflection."""
    height, width, _ = x.shape
    centre = jnp.asarray([(width - 1) / 2, (height - 1) / 2], x.dtype)
    columns, rows = jnp.meshgrid(jnp.arange(width, dtype=x.dtype), jnp.arange(height, dtype=x.dtype))
    to = jnp.stack([columns, rows]).reshape(2, -1) - centre[:, None] - shift[:, None].astype(x.dtype)
    source = _dot(matrix.astype(x.dtype), to) + centre[:, None]
    sample = lambda channel: map_coordinates(channel, [source[1], source[0]], order=1, mode="mirror")
    return jax.vmap(sample, 2, 1)(x).reshape(x.shape)


def _rotation(angle: Array) -> Array:
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return jnp.stack([jnp.stack([cos, -sin]), jnp.stack([sin, cos])])
