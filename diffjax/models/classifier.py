"""A classifier of noisy images: the way down of the U-Net, then the mean over positions (Dhariwal & Nichol 2021, 4)."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from diffjax.models import layers, places
from diffjax.models.layers import Conv, Dense, Embedding, Norm, SelfAttention
from diffjax.models.unet import ResidualBlock
from diffjax.types import Array


class Classifier(nn.Module):
    """The network of a noisy-image classifier: logits of images (H, W, C) at any noise level.

    Called as `classifier(x, c, train=False)` with c the scalar log-SNR; returns (classes,) float32, zero at
    initialisation.

    Attributes:
        classes: number of labels.
        channels, multipliers, blocks, attention, dropout: as in `UNet`.

    Raises:
        ValueError: for an attribute out of its range, or an image that the strides do not divide.
    """

    classes: int
    channels: int = 32
    multipliers: tuple[int, ...] = (1, 2)
    blocks: int = 1
    attention: tuple[int, ...] = (4,)
    dropout: float = 0.0

    def __post_init__(self) -> None:
        counts = {f"multipliers[{i}]": m for i, m in enumerate(self.multipliers)}
        layers.check_counts(classes=self.classes, channels=self.channels, blocks=self.blocks, **counts)
        layers.check_rate("dropout", self.dropout)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array, c: Array, label: Any = None, train: bool = False) -> Array:
        del label  # what is asked, not told; networks of `models.network` are called with one
        stride = 2 ** (len(self.multipliers) - 1)
        if x.ndim != 3 + jnp.ndim(c) or x.shape[-3] % stride or x.shape[-2] % stride:
            raise ValueError(
                f"The classifier takes images (H, W, C) whose sides are multiples of {stride}, got {x.shape}."
            )
        embedding = Embedding(4 * self.channels, None, self.channels, name="embedding")(c)
        h = Conv(self.channels, name="conv_in")(x)
        for level, multiplier in enumerate(self.multipliers):
            width = self.channels * multiplier
            for i in range(self.blocks):
                resample = places.down if level > 0 and i == 0 else None
                block = ResidualBlock(width, self.dropout, resample=resample, train=train, name=f"block_{level}_{i}")
                h = block(h, embedding)
                if h.shape[-3] in self.attention:
                    h = SelfAttention(name=f"attention_{level}_{i}")(h)
        h = nn.silu(Norm(name="norm_out")(h)).mean((-3, -2))
        return Dense(self.classes, kernel_init=layers.ZEROS, name="head")(h)
