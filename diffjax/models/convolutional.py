"""An image read as numbers, and numbers written as an image: encoders, critics, decoders, generators of pixels.

The residual blocks of the U-Net (Brock et al. 2019; Ho et al. 2020), down alone or up alone: no skip connection joins
the two, so that all that a decoder knows of an image has passed the code. `Encoder` and `Decoder` have codes of any
shape, through a dense layer; those of `GridEncoder` and `GridDecoder` are images of fewer places.
"""

import math
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from diffjax.models.layers import (
    DTYPES,
    Conv,
    Dense,
    Norm,
    check_choice,
    check_counts,
    check_rate,
)
from diffjax.models.places import depth_to_space, down, space_to_depth, up
from diffjax.types import Array


class Block(nn.Module):
    """A residual block x + f(x) without a time: norm, silu, convolve, norm, silu, dropout, convolve.

    Attributes:
        features: channels of the result.
    """

    features: int
    dropout: float = 0.0
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        dtype = jnp.dtype(self.dtype)
        h = Conv(self.features, dtype=dtype, name="conv_0")(nn.silu(Norm(name="norm_0")(x)).astype(dtype))
        h = nn.silu(Norm(name="norm_1")(h)).astype(dtype)
        h = nn.Dropout(self.dropout, deterministic=not train)(h)
        h = Conv(self.features, dtype=dtype, name="conv_1")(h)
        return (x if x.shape[-1] == self.features else Dense(self.features, dtype=dtype, name="skip")(x)) + h


class Encoder(nn.Module):
    """A convolutional network from an image (H, W, C) to an array of a given shape, float32.

    Called as `encoder(x, c, label=None, train=False)`; c says only how many leading axes are of a batch.

    Attributes:
        shape: of what it makes: (2 k,) for mean and log-variance of k latents; () for a critic's number.
        channels: of the first level.
        multipliers: channels of each level over those of the first; each level but the first halves both axes.
        blocks: residual blocks of each level.
        dropout: its rate, inside the blocks, only where train is True.
        dtype: of the computation, float32 or bfloat16; parameters, norms and the last layer are float32.

    Raises:
        ValueError: for an attribute out of its range, or an image that cannot be halved so often.
    """

    shape: tuple[int, ...] = (32,)
    channels: int = 32
    multipliers: tuple[int, ...] = (1, 2)
    blocks: int = 1
    dropout: float = 0.0
    dtype: str = "float32"

    def __post_init__(self) -> None:
        _check(self)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array, c: Array, label: Array | None = None, train: bool = False) -> Array:
        batch = x.shape[: jnp.ndim(c)]
        _check_shape(x.shape[jnp.ndim(c) :], len(self.multipliers))
        dtype = jnp.dtype(self.dtype)
        h = Conv(self.channels * self.multipliers[0], dtype=dtype, name="conv_in")(x.astype(dtype))
        for level, multiplier in enumerate(self.multipliers):
            h = down(h) if level else h
            for i in range(self.blocks):
                h = Block(self.channels * multiplier, self.dropout, self.dtype, name=f"block_{level}_{i}")(h, train)
        h = nn.silu(Norm(name="norm_out")(h)).reshape(*batch, -1)
        return Dense(math.prod(self.shape), name="out")(h).reshape(*batch, *self.shape)


class Decoder(nn.Module):
    """A convolutional network from an array of any shape, flattened, to an image (H, W, C), float32.

    Called as `decoder(z, c, label=None, train=False)`; c says only how many leading axes are of a batch.

    Attributes:
        shape: (H, W, C) of the image; other attributes are those of `Encoder`, levels in the order of the encoder's.

    Raises:
        ValueError: for an attribute out of its range, or an image that cannot be halved so often.
    """

    shape: tuple[int, ...] = (8, 8, 1)
    channels: int = 32
    multipliers: tuple[int, ...] = (1, 2)
    blocks: int = 1
    dropout: float = 0.0
    dtype: str = "float32"

    def __post_init__(self) -> None:
        _check(self)
        super().__post_init__()

    @staticmethod
    def of_data(shape: tuple[int, ...], classes: int | None) -> dict[str, Any]:
        """Chooses the shape of the image: what the word "data" stands for."""
        return {"shape": tuple(shape)}

    @nn.compact
    def __call__(self, x: Array, c: Array, label: Array | None = None, train: bool = False) -> Array:
        batch, levels = x.shape[: jnp.ndim(c)], len(self.multipliers)
        _check_shape(self.shape, levels)
        height, width, channels = self.shape
        stride, dtype = 2 ** (levels - 1), jnp.dtype(self.dtype)
        first = (height // stride, width // stride, self.channels * self.multipliers[-1])
        h = Dense(math.prod(first), dtype=dtype, name="in")(x.reshape(*batch, -1).astype(dtype))
        h = h.reshape(*batch, *first)
        for level in reversed(range(levels)):
            for i in range(self.blocks):
                features = self.channels * self.multipliers[level]
                h = Block(features, self.dropout, self.dtype, name=f"block_{level}_{i}")(h, train)
            h = up(h) if level else h
        h = nn.silu(Norm(name="norm_out")(h))
        return Conv(channels, name="conv_out")(h.astype(jnp.float32))


class GridEncoder(nn.Module):
    """A convolutional network from an image (H, W, C) to one of fewer places, (H / s, W / s, features), float32.

    Called as `encoder(x, c, train=False)`; c says only how many leading axes are of a batch. s is `patch` times 2 for
    each level but the first.

    Attributes:
        features: channels of what it makes: 2 k for mean and log-variance of k numbers at each place.
        patch: pixels along each axis of the blocks that the first layer takes as one place.
        channels, multipliers, blocks, dropout, dtype: as of `Encoder`.

    Raises:
        ValueError: for an attribute out of its range, or an image that cannot be halved so often.
    """

    features: int = 8
    patch: int = 1
    channels: int = 32
    multipliers: tuple[int, ...] = (1, 2)
    blocks: int = 1
    dropout: float = 0.0
    dtype: str = "float32"

    def __post_init__(self) -> None:
        check_counts(features=self.features, patch=self.patch)
        _check(self)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array, c: Array, train: bool = False) -> Array:
        _check_shape(x.shape[jnp.ndim(c) :], len(self.multipliers), self.patch)
        dtype = jnp.dtype(self.dtype)
        h = space_to_depth(x.astype(dtype), self.patch)
        h = Conv(self.channels * self.multipliers[0], dtype=dtype, name="conv_in")(h)
        for level, multiplier in enumerate(self.multipliers):
            h = down(h) if level else h
            for i in range(self.blocks):
                h = Block(self.channels * multiplier, self.dropout, self.dtype, name=f"block_{level}_{i}")(h, train)
        return Dense(self.features, name="out")(nn.silu(Norm(name="norm_out")(h)))


class GridDecoder(nn.Module):
    """A convolutional network from an image of fewer places, (H / s, W / s, c), to an image (H, W, C), float32.

    Called as `decoder(z, c, train=False)`; c says only how many leading axes are of a batch.

    Attributes:
        shape: (H, W, C) of the image; other attributes are those of `GridEncoder`, levels in the encoder's order.

    Raises:
        ValueError: for an attribute out of its range, an image that cannot be halved so often, or a code of another
            number of places.
    """

    shape: tuple[int, ...] = (28, 28, 1)
    patch: int = 1
    channels: int = 32
    multipliers: tuple[int, ...] = (1, 2)
    blocks: int = 1
    dropout: float = 0.0
    dtype: str = "float32"

    def __post_init__(self) -> None:
        check_counts(patch=self.patch)
        _check(self)
        super().__post_init__()

    @staticmethod
    def of_data(shape: tuple[int, ...], classes: int | None) -> dict[str, Any]:
        """Chooses the shape of the image: what the word "data" stands for."""
        return {"shape": tuple(shape)}

    @nn.compact
    def __call__(self, x: Array, c: Array, train: bool = False) -> Array:
        levels, dtype = len(self.multipliers), jnp.dtype(self.dtype)
        _check_shape(self.shape, levels, self.patch)
        stride = self.patch * 2 ** (levels - 1)
        places = tuple(n // stride for n in self.shape[:2])
        if x.shape[jnp.ndim(c) : -1] != places:
            raise ValueError(
                f"Got a code {x.shape[jnp.ndim(c) :]} to decode to shape={self.shape}, which takes ({places[0]}, "
                f"{places[1]}, c): set the decoder's shape to that of the data (in a config decoder.shape=data), or as "
                "many levels and as large a patch as the encoder has."
            )
        h = Conv(self.channels * self.multipliers[-1], dtype=dtype, name="conv_in")(x.astype(dtype))
        for level in reversed(range(levels)):
            for i in range(self.blocks):
                features = self.channels * self.multipliers[level]
                h = Block(features, self.dropout, self.dtype, name=f"block_{level}_{i}")(h, train)
            h = up(h) if level else h
        h = nn.silu(Norm(name="norm_out")(h))
        made = Conv(self.shape[2] * self.patch**2, name="conv_out")(h.astype(jnp.float32))
        return depth_to_space(made, self.patch)


def _check(module: Encoder | Decoder | GridEncoder | GridDecoder) -> None:
    counts = {f"multipliers[{i}]": m for i, m in enumerate(module.multipliers)}
    sizes = {f"shape[{i}]": n for i, n in enumerate(getattr(module, "shape", ()))}
    check_counts(channels=module.channels, blocks=module.blocks, **counts, **sizes)
    if not module.multipliers:
        raise ValueError("multipliers = (): expected one positive integer per level.")
    check_rate("dropout", module.dropout)
    check_choice("dtype", module.dtype, DTYPES)


def _check_shape(shape: tuple[int, ...], levels: int, patch: int = 1) -> None:
    stride = patch * 2 ** (levels - 1)
    if len(shape) != 3 or any(n % stride for n in shape[:2]):
        raise ValueError(
            f"Got examples of shape {shape}, expected images (H, W, C) with H and W divisible by {stride}, "
            f"for {levels} levels: use fewer multipliers, or a Perceptron."
        )
