"""Where a token stands, for places on any number of axes: vectors that are added, rotations, offsets between places.

Places are numbered row after row. Sines and cosines (Vaswani et al. 2017, section 3.5; in two axes Dosovitskiy et al.
2021) give each of r axes an equal share of the d entries, m = d / 2r frequencies, the last axis first, as Peebles and
Xie 2023 have it:

    (sin p w_0, ..., sin p w_m-1, cos p w_0, ..., cos p w_m-1),     w_j = 10000^(-j / m), p the place on that axis.

Rotation (Su et al. 2021, eq. 34, the axial form) turns the j-th of m pairs of entries that belong to an axis by p w_j,

    <R(p) q, R(p') k> = <q, R(p' - p) k>,

so that what attention reads is how far places are apart.
"""

import jax.numpy as jnp
import numpy as np

from diffjax.models.layers import fine, of_rank
from diffjax.types import Array

BASE = 10_000.0  # the j-th of m frequencies is BASE^(-j / m) radians a place


def _frequencies(count: int) -> np.ndarray:
    return BASE ** (-np.arange(count) / count)


def sincos(shape: tuple[int, ...], width: int) -> np.ndarray:
    """Computes the fixed vectors of all places, (T, width) float32: sines and cosines, the last axis first.

    Args:
        shape: number of places on each axis.

    Raises:
        ValueError: for a width that the axes do not share in pairs.
    """
    if width % (2 * len(shape)):
        raise ValueError(
            f"positions of sines and cosines on {len(shape)} axes take a width that is a multiple of "
            f"{2 * len(shape)}, got {width}: change the width, or take learned positions."
        )
    places = np.indices(shape).reshape(len(shape), -1)[::-1]  # (axes, T), the last first
    turns = places[..., None] * _frequencies(width // (2 * len(shape)))  # (axes, T, m)
    waves = np.concatenate([np.sin(turns), np.cos(turns)], -1)  # (dit.3)
    return np.moveaxis(waves, 0, 1).reshape(-1, width).astype(np.float32)


def angles(shape: tuple[int, ...], head: int) -> np.ndarray:
    """Computes by how much each pair of entries turns at each place, (T, head / 2): axes one after the other.

    Args:
        shape: number of places on each axis; axes of length 1 do not turn.
        head: entries of a query; each axis has an equal share of its pairs.

    Raises:
        ValueError: for a head whose entries do not fall into pairs for each axis.
    """
    axes = [axis for axis, length in enumerate(shape) if length > 1] or [0]
    if head % (2 * len(axes)):
        raise ValueError(
            f"rotary positions on {len(axes)} axes take heads whose width is a multiple of {2 * len(axes)}, got "
            f"{head}: change width or heads, or take positions=learned."
        )
    places = np.indices(shape).reshape(len(shape), -1)[axes]  # (axes, T)
    turns = places[..., None] * _frequencies(head // (2 * len(axes)))  # (axes, T, pairs)
    return np.moveaxis(turns, 0, 1).reshape(-1, head // 2).astype(np.float32)


def turned(x: Array, turns: Array) -> Array:
    """Rotates pairs (x_2j, x_2j+1) of queries or keys (..., T, heads, D) by turns (T, D / 2), in float32 at least."""
    y, turns = x.astype(fine(x.dtype)), turns.astype(fine(x.dtype))
    a, b = y[..., ::2], y[..., 1::2]
    cos, sin = (of_rank(wave[:, None], x.ndim) for wave in (jnp.cos(turns), jnp.sin(turns)))
    return jnp.stack([a * cos - b * sin, a * sin + b * cos], axis=-1).reshape(x.shape)  # (transformer.2)


def offsets(shape: tuple[int, ...]) -> np.ndarray:
    """Numbers the offset from place j to place i, (T, T) int: i - j on each axis, of 2 n - 1 that n places have.

    The number is an index into a flattened table of shape (2 n - 1 for each axis): places equally far apart share one.
    """
    places = np.indices(shape).reshape(len(shape), -1)
    apart = places[:, :, None] - places[:, None, :] + np.asarray(shape)[:, None, None] - 1
    return np.asarray(np.ravel_multi_index(tuple(apart), tuple(2 * n - 1 for n in shape)))
