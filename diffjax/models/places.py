"""The places of an image (..., H, W, C), or of any other number of axes: made fewer, more, or into channels."""

import jax.numpy as jnp
import numpy as np

from diffjax.types import Array


def down(x: Array, rank: int = 2) -> Array:
    """Averages each block of 2^rank places: (..., H, W, C) to (..., H / 2, W / 2, C)."""
    return jnp.mean(_blocks(x, 2, rank), axis=tuple(range(-2 * rank, 0, 2)))


def up(x: Array, rank: int = 2) -> Array:
    """Repeats each entry as a block of 2^rank places: the transpose of `down`, times their number."""
    batch, places, channels = x.shape[: -1 - rank], x.shape[-1 - rank : -1], x.shape[-1]
    apart = x[(..., *(slice(None), None) * rank, slice(None))]
    blocks = jnp.broadcast_to(apart, (*batch, *(size for n in places for size in (n, 2)), channels))
    return blocks.reshape(*batch, *(2 * n for n in places), channels)


def _blocks(x: Array, size: int, rank: int) -> Array:
    """Splits each axis of places: (..., H, W, C) to (..., H / size, size, W / size, size, C)."""
    batch, places = x.shape[: -1 - rank], x.shape[-1 - rank : -1]
    return x.reshape(*batch, *(part for n in places for part in (n // size, size)), x.shape[-1])


def space_to_depth(x: Array, patch: int, rank: int = 2) -> Array:
    """Moves each patch x patch block to the channels of one position: (..., H, W, C) to (..., H / p, W / p, p p C)."""
    batch, places, channels = x.shape[: -1 - rank], x.shape[-1 - rank : -1], x.shape[-1]
    apart = jnp.transpose(_blocks(x, patch, rank), _order(len(batch), rank))
    return apart.reshape(*batch, *(n // patch for n in places), patch**rank * channels)


def depth_to_space(x: Array, patch: int, rank: int = 2) -> Array:
    """Inverts `space_to_depth`: (..., H / p, W / p, p p C) to (..., H, W, C)."""
    batch, places, channels = x.shape[: -1 - rank], x.shape[-1 - rank : -1], x.shape[-1]
    blocks = x.reshape(*batch, *places, *(patch,) * rank, channels // patch**rank)
    together = jnp.transpose(blocks, np.argsort(_order(len(batch), rank)).tolist())
    return together.reshape(*batch, *(n * patch for n in places), channels // patch**rank)


def _order(batch: int, rank: int) -> list[int]:
    """Lists the axes (batch, H / p, p, W / p, p, C) as (batch, H / p, W / p, p, p, C)."""
    first = [batch + 2 * i for i in range(rank)]
    return [*range(batch), *first, *(axis + 1 for axis in first), batch + 2 * rank]
