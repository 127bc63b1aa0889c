"""Linear operators by name, x -> A x for one example: what is hidden, averaged, blurred or without colour.

    operators.inpaint((8, 8, 1), box=(2, 6, 2, 6))        # every entry but those of a box
    operators.downsample((16, 16, 3), factor=2)           # means of blocks

The axes of an example but its last, the channels, are its places: (H, W) of images (H, W, C), (L,) of sequences (L, C).
A vector has no places: its entries are hidden one by one. The transpose of an operator is JAX's (`linear_transpose`).
"""

import functools
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from diffjax import host, members
from diffjax.types import Array

__all__ = ["blur", "convolve", "downsample", "grey", "inpaint"]  # what a command may name

LUMA = (0.299, 0.587, 0.114)  # ITU-R 601-2, by which data.folder turns colour into grey


def inpaint(shape: tuple[int, ...], box: Any = None, share: Any = None, mask: Any = None, seed: int = 0) -> Partial:
    """Makes the operator that shows some places and hides the others, A x of shape (places, C); of vectors (entries,).

    Args:
        box: (from, to, from, to, ...) per axis of places: what lies in it is hidden. Without any of the three it is the
            middle half of every axis.
        share: of the places that are hidden, drawn at random by `seed`.
        mask: what is shown: an array of the places, or a .npy file of it; 0 is hidden.

    Raises:
        ValueError: for more than one of the three, or one that does not fit, hides nothing, or shows nothing.
    """
    places = shape[:-1] or shape
    if sum(part is not None for part in (box, share, mask)) > 1:
        raise ValueError("inpaint takes one of box, share and mask: leave the others out.")
    if share is not None:
        shown = _drawn(places, share, seed)
    elif mask is not None:
        shown = _mask(places, mask)
    else:
        shown = _outside(places, tuple(edge for n in places for edge in (n // 4, n - n // 4)) if box is None else box)
    if shown.all() or not shown.any():
        raise ValueError(
            f"inpaint {'hides nothing' if shown.all() else 'shows nothing'} of {places}: there is no task."
        )
    return Partial(_seen, np.flatnonzero(shown))


def downsample(shape: tuple[int, ...], factor: int = 2) -> Partial:
    """Makes the operator of means over blocks of factor^r places, (H / factor, W / factor, C) of images.

    Raises:
        ValueError: for vectors, or a factor that does not divide every axis of places.
    """
    _need_places("downsample", shape)
    host.check_int("downsample: factor", factor, 2)
    if any(n % factor for n in shape[:-1]):
        raise ValueError(f"downsample: factor is {factor}, expected one that divides {shape[:-1]}.")
    return Partial(functools.partial(_means, factor))


def blur(shape: tuple[int, ...], sigma: float = 1.0) -> Partial:
    """Makes the Gaussian blur along every axis of places, rows of weights that sum to 1 at the edges too.

    Args:
        sigma: standard deviation, in places.

    Raises:
        ValueError: for vectors, or unless sigma is positive.
    """
    _need_places("blur", shape)
    host.check_positive("blur: sigma", sigma)
    return Partial(along_axes, [_weights(n, float(sigma)) for n in shape[:-1]])


def convolve(shape: tuple[int, ...], kernel: Any) -> Partial:
    """Makes the convolution of every channel with one kernel, of the shape of x; beyond its edges x counts as 0.

    What it is undone by is deconvolution: a camera's motion, or its point spread.

    Args:
        kernel: an array of as many axes as there are places, or a .npy file of it; its middle lies on each place.

    Raises:
        ValueError: for another kernel, or one that is not finite, or all 0.
    """
    _need_places("convolve", shape)
    kernel = np.asarray(members.single(Path(kernel)) if isinstance(kernel, str | Path) else kernel)
    if kernel.ndim != len(shape) - 1 or not np.issubdtype(kernel.dtype, np.number):
        raise ValueError(
            f"convolve: the kernel is {kernel.dtype} of shape {kernel.shape}, expected numbers, one axis for each of "
            f"{shape[:-1]}."
        )
    if not np.all(np.isfinite(kernel)) or not kernel.any() or any(k > n for k, n in zip(kernel.shape, shape)):
        raise ValueError(f"convolve: the kernel {kernel.shape} is 0, not finite, or wider than x {shape[:-1]}.")
    return Partial(_convolved, kernel.astype(np.float32))


def grey(shape: tuple[int, ...]) -> Partial:
    """Makes the luma of colour images (H, W, 3), (H, W, 1): what undoes it gives a grey picture colours.

    Raises:
        ValueError: for examples that have not three channels.
    """
    if len(shape) < 2 or shape[-1] != 3:
        raise ValueError(f"grey is for colour, 3 channels; examples have shape {shape}.")
    return Partial(_luma)


def shown(operator: Any, y: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Makes observations y (n, ...) look like examples (n, *shape): y where it has their shape, else A^T y / A^T 1."""
    if np.shape(y)[1:] == tuple(shape):
        return np.asarray(y)
    back = jax.linear_transpose(operator, jnp.zeros(shape, jnp.float32))
    ones = back(jnp.ones(np.shape(y)[1:], jnp.float32))[0]
    pictures = jax.jit(jax.vmap(lambda y: back(y)[0] / jnp.where(ones > 1e-6, ones, 1.0)))
    return np.asarray(pictures(jnp.asarray(y, jnp.float32)))


def _need_places(name: str, shape: tuple[int, ...]) -> None:
    if len(shape) < 2:
        raise ValueError(f"{name} is for examples with places, such as (H, W, C) or (L, C); these have shape {shape}.")


def _drawn(places: tuple[int, ...], share: Any, seed: Any) -> np.ndarray:
    host.check_int("inpaint: seed", seed, 0)
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share < 1:
        raise ValueError(
            f"inpaint: share is {share!r}, expected a number between 0 and 1, of the places that are hidden."
        )
    order = np.random.default_rng(seed).permutation(math.prod(places))
    return (order >= round(share * len(order))).reshape(places)


def _mask(places: tuple[int, ...], mask: Any) -> np.ndarray:
    mask = np.asarray(members.single(Path(mask)) if isinstance(mask, str | Path) else mask)
    mask = mask[..., 0] if mask.shape == (*places, 1) else mask
    if mask.shape != places or mask.dtype.kind not in "biuf":
        raise ValueError(f"inpaint: the mask is {mask.dtype} of shape {mask.shape}, expected numbers of {places}.")
    return mask != 0


def _outside(places: tuple[int, ...], box: Any) -> np.ndarray:
    edges = tuple(box) if isinstance(box, tuple | list) else (box,)
    pairs = list(zip(edges[::2], edges[1::2]))
    whole = len(edges) == 2 * len(places) and all(host.is_int(edge, 0) for edge in edges)
    if not whole or not all(low < high <= n for (low, high), n in zip(pairs, places)):
        such = ",".join(f"{n // 4},{n - n // 4}" for n in places)
        raise ValueError(f"inpaint: box is {box!r}, expected from and to for each axis of {places}, such as {such}.")
    shown = np.ones(places, bool)
    shown[tuple(slice(low, high) for low, high in pairs)] = False
    return shown


def _weights(n: int, sigma: float) -> np.ndarray:
    at = np.arange(n)
    weights = np.exp(-0.5 * ((at[:, None] - at[None]) / sigma) ** 2)
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)  # (operators.3)


def _seen(at: Array, x: Array) -> Array:
    return x[at] if x.ndim == 1 else x.reshape(-1, x.shape[-1])[at]  # (operators.1)


def _means(factor: int, x: Array) -> Array:
    split = [part for n in x.shape[:-1] for part in (n // factor, factor)]
    return jnp.mean(x.reshape(*split, x.shape[-1]), axis=tuple(range(1, 2 * x.ndim - 2, 2)))  # (operators.2)


def along_axes(weights: list[Any], x: Array) -> Array:
    """Multiplies x, along its first axes, by one matrix for each: of x (n, ...) the first gives (rows, ...)."""
    for axis, own in enumerate(weights):
        moved = jnp.tensordot(own.astype(x.dtype), x, axes=((1,), (axis,)), precision="highest")
        x = jnp.moveaxis(moved, 0, axis)
    return x


def _convolved(kernel: Array, x: Array) -> Array:
    """Adds up shifted copies: jax 0.7 cannot transpose its own convolution inside a linear solver."""
    flipped, size = jnp.flip(kernel).astype(x.dtype), x.shape[:-1]
    padded = jnp.pad(x, [*((k - 1 - (k - 1) // 2, (k - 1) // 2) for k in kernel.shape), (0, 0)])
    shifted = lambda place: padded[tuple(slice(p, p + n) for p, n in zip(place, size))]
    return sum((flipped[place] * shifted(place) for place in np.ndindex(kernel.shape)), jnp.zeros_like(x))


def _luma(x: Array) -> Array:
    # (operators.4)
    return jnp.sum(x * jnp.asarray(LUMA, x.dtype).reshape((1,) * (x.ndim - 1) + (3,)), -1, keepdims=True)
