"""An image as a map of local features: each sees a few pixels around its place, and nothing of the rest."""

import jax.numpy as jnp
from flax import linen as nn

from diffjax.models.layers import Conv, check_counts
from diffjax.types import Array


class Maps(nn.Module):
    """Convolutions of 3 x 3 from an image (H, W, C) to a map, float32; without norms, which would see all places.

    Called as `maps(x, c, label=None, train=False)`; c says only how many leading axes are of a batch.

    Attributes:
        channels: of each layer; each but the first halves both axes.

    Raises:
        ValueError: for channels that are no positive integers, or an image that cannot be halved so often.
    """

    channels: tuple[int, ...] = (16, 32)

    def __post_init__(self) -> None:
        check_counts(**{f"channels[{i}]": n for i, n in enumerate(self.channels)})
        if not self.channels:
            raise ValueError("channels = (): expected one positive integer per layer.")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array, c: Array, label: Array | None = None, train: bool = False) -> Array:
        shape, stride = x.shape[jnp.ndim(c) :], 2 ** (len(self.channels) - 1)
        if len(shape) != 3 or any(n % stride for n in shape[:2]):
            raise ValueError(
                f"Got examples of shape {shape}, expected images (H, W, C) with H and W divisible by {stride}, "
                f"for {len(self.channels)} layers: use fewer channels."
            )
        for i, channels in enumerate(self.channels):
            x = nn.silu(Conv(channels, strides=2 if i else 1, name=f"conv_{i}")(x))
        return x
