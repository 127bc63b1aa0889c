"""The U-Net of DDPM++ (Ho et al. 2020; Song et al. 2021, section C; Dhariwal & Nichol 2021, section 3.1).

The CIFAR-10 recipe of Song et al. is `UNet(channels=128, multipliers=(1, 2, 2, 2), blocks=4, attention=(16,),
dropout=0.1, skip_scale=0.5**0.5)`; the defaults here suit 8 x 8 digits on a CPU.
"""

import math
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from diffjax.models import layers, places
from diffjax.models.layers import DTYPES, EMBEDDINGS, ZEROS, Conv, Dense, Embedding, Norm, SelfAttention
from diffjax.types import Array

PRESETS: dict[str, dict[str, Any]] = {  # `PublishedUNet` has those of the papers to the number
    "digits": dict(channels=16, multipliers=(1, 2), blocks=1, attention=(4,)),
    "mnist": dict(channels=16, multipliers=(1, 2, 2), blocks=1, attention=(7,)),
    "cifar10": dict(channels=128, multipliers=(2, 2, 2), blocks=4, attention=(16,), dropout=0.13, skip_scale=0.5**0.5),
}
WIDTHS = ((1,), (1, 2), (1, 2, 2), (1, 2, 2, 2), (1, 1, 2, 3, 4), (1, 1, 2, 2, 4, 4))  # multipliers of so many levels


class ResidualBlock(nn.Module):
    """The residual block: norm, silu, (resample), convolve, modulated norm, silu, dropout, convolve from zero.

    The (resampled) input is added to the result.

    Attributes:
        features: channels of the result.
        resample: None, or `places.down` or `places.up`, applied to both branches (Brock et al. 2019).
        skip_scale: multiplies the sum; 1 / sqrt(2) keeps its variance.
        rank: number of axes of places: 2 of images (H, W, C).
    """

    features: int
    dropout: float = 0.0
    skip_scale: float = 1.0
    dtype: Any = jnp.float32
    resample: Any = None
    train: bool = False
    rank: int = 2

    @nn.compact
    def __call__(self, x: Array, embedding: Array) -> Array:
        resample = self.resample or (lambda x, rank: x)
        h = resample(nn.silu(Norm(self.rank, name="norm_0")(x)).astype(self.dtype), self.rank)
        h = Conv(self.features, self.rank, dtype=self.dtype, name="conv_0")(h)
        h = nn.silu(Norm(self.rank, name="norm_1")(h, embedding)).astype(self.dtype)
        h = nn.Dropout(self.dropout, deterministic=not self.train)(h)
        h = Conv(self.features, self.rank, dtype=self.dtype, kernel_init=ZEROS, name="conv_1")(h)
        x = resample(x, self.rank)
        if x.shape[-1] != self.features:
            x = Dense(self.features, dtype=self.dtype, name="skip")(x)
        return (x + h) * self.skip_scale


class UNet(nn.Module):
    """A U-Net: residual blocks on the way down and up again, joined by skip connections, self-attention in between.

    Called as `unet(x, c, label=None, train=False, augment=None, condition=None, gap=None)` with x an image (H, W, C), a
    sequence (L, C) or a volume (D, H, W, C): kernels have as many axes as there are places. c is the scalar log-SNR
    (may be infinite), label an integer scalar, `classes` or None for "no label", augment the label of what was done to
    x, or None for nothing, condition an image that enters beside x (a bridge's endpoint), gap what a flow map is told
    of its second time, or None for zeros. Returns F of x's shape, with `outputs` times its channels, float32, zero at
    initialisation.

    Attributes:
        channels: of the first level.
        multipliers: channels of each level over those of the first; each level but the first halves every axis.
        blocks: residual blocks per level (one more on the way up).
        attention: heights (lengths of the first axis) of the feature maps that attend, e.g. (16,); the middle attends
            too if any does.
        head_width: channels per attention head; None for one head.
        classes: number of labels; None for an unconditional network.
        dropout: its rate, inside the blocks, only where train is True (rng "dropout").
        skip_scale: multiplies each residual sum.
        outputs: maps of x's shape that are returned, one after the other in the channels (2: F and a variance).
        patch: an image enters as blocks of patch x patch pixels, (H / patch, W / patch, patch^2 C).
        embedding: of the log-SNR: positional or fourier.
        augment: entries of the augmentation label (`data.augment`); 0 for a network that takes none.
        gap: entries of the vector that says how far in time to go (`denoisers.flow_map`), 17; 0: a network of one time.
        condition: channels of the image that enters beside x; 0 for a network that takes none.
        dtype: of the computation, float32 or bfloat16; parameters, normalisation and output are float32.
        remat: recompute each block on the way back instead of storing it: less memory, a third more time.

    Raises:
        ValueError: for an attribute out of its range, or an image that the strides do not divide.
    """

    channels: int = 32
    multipliers: tuple[int, ...] = (1, 2)
    blocks: int = 1
    attention: tuple[int, ...] = (4,)
    head_width: int | None = None
    classes: int | None = None
    dropout: float = 0.0
    skip_scale: float = 1.0
    outputs: int = 1
    patch: int = 1
    embedding: str = "positional"
    augment: int = 0
    condition: int = 0
    gap: int = 0
    dtype: str = "float32"
    remat: bool = False

    def __post_init__(self) -> None:
        counts = {f"multipliers[{i}]": m for i, m in enumerate(self.multipliers)}
        optional = {f: v for f in ("head_width", "classes") if (v := getattr(self, f)) is not None}
        sizes = {f: getattr(self, f) for f in ("channels", "blocks", "outputs", "patch")}
        layers.check_counts(**sizes, **counts, **optional)
        if not self.multipliers:
            raise ValueError("multipliers = (): expected one positive integer per level.")
        for name in ("augment", "condition", "gap"):
            if getattr(self, name):
                layers.check_counts(**{name: getattr(self, name)})
        layers.check_rate("dropout", self.dropout)
        layers.check_choice("embedding", self.embedding, EMBEDDINGS)
        layers.check_choice("dtype", self.dtype, DTYPES)
        super().__post_init__()

    @classmethod
    def preset(cls, preset: str, **changes: Any) -> "UNet":
        """Makes the network of a size by its name, digits, mnist or cifar10, with some attributes changed.

        Raises:
            ValueError: for a name that is none, or an attribute that is none; they are listed.
        """
        return layers.preset_of(cls, PRESETS, preset, changes)

    @classmethod
    def of_data(cls, shape: tuple[int, ...], classes: int | None) -> dict[str, Any]:
        """Chooses multipliers, attention and classes for examples of this shape: what the word "data" stands for.

        Every level halves each axis, down to 4 places of the shortest, or 8 of one longer than 32 (as published for 32
        and 256 pixels); maps of at most 256 places attend, but for the first.

        Raises:
            ValueError: for examples without places, or an axis that cannot be halved once, or is shorter than 8.
        """
        places, size = shape[:-1], "x".join(map(str, shape[:-1]))
        if not places:
            raise ValueError(f"the U-Net takes examples with places, such as (H, W, C), got shape {shape}.")
        if min(places) < 8 or any(n % 2 for n in places):
            raise ValueError(
                f"the U-Net halves examples, which {size} cannot be: take even sizes of 8 or more, such as "
                f"data.size={max(8, min(places) // 8 * 8 + (8 if min(places) % 8 > 4 else 0))}."
            )
        least, levels = 4 if min(places) <= 32 else 8, 1
        while all(n % 2**levels == 0 for n in places) and min(places) // 2**levels >= least and levels < len(WIDTHS):
            levels += 1
        attend = [i for i in range(1, levels) if math.prod(n // 2**i for n in places) <= 256]
        attention = tuple(places[0] // 2**i for i in attend)
        return {"multipliers": WIDTHS[levels - 1], "attention": attention, "classes": classes}

    @property
    def reads(self) -> dict[str, str]:
        """The names of `given` that the network has room for, and its arguments for them."""
        room = {
            "label": ("label", self.classes),
            "y": ("condition", self.condition),
            "augment": ("augment", self.augment),
            "gap": ("gap", self.gap),
        }
        return {name: argument for name, (argument, has) in room.items() if has}

    def check_shape(self, x: Array, c: Array) -> None:
        """Raises a ValueError unless the strides divide the image and `attention` names heights of its feature maps."""
        places = x.shape[jnp.ndim(c) : -1]
        if not places:
            raise ValueError(
                "the U-Net takes images (H, W, C), sequences (L, C) or volumes (D, H, W, C), got shape "
                f"{x.shape} with c of shape {jnp.shape(c)}."
            )
        size, noun = "x".join(map(str, places)), "image" if len(places) == 2 else "example"
        levels = len(self.multipliers)
        stride = self.patch * 2 ** (levels - 1)
        if any(n % stride for n in places):
            raise ValueError(
                f"{noun} {size} is not divisible by {stride}, the U-Net's total stride (patch {self.patch}, "
                f"{levels} levels): use sizes that are multiples of {stride}, fewer multipliers or a smaller patch."
            )
        heights = [places[0] // self.patch // 2**i for i in range(levels)]
        if absent := [a for a in self.attention if a not in heights]:
            raise ValueError(f"attention at {absent}: the feature maps of a {size} {noun} have heights {heights}")

    @nn.compact
    def __call__(
        self,
        x: Array,
        c: Array,
        label: Array | None = None,
        train: bool = False,
        augment: Array | None = None,
        condition: Array | None = None,
        gap: Array | None = None,
    ) -> Array:
        self.check_shape(x, c)
        rank = x.ndim - 1 - jnp.ndim(c)
        channels = x.shape[-1] * self.patch**rank * self.outputs
        x = layers.with_condition(x, condition, self.condition)
        dtype = jnp.dtype(self.dtype)
        sizes = (4 * self.channels, self.classes, self.channels, self.embedding, self.augment, self.gap)
        embedding = Embedding(*sizes, name="embedding")(c, label, augment, gap)
        wrap: Any = nn.remat if self.remat else lambda cls: cls
        Block, Attention = wrap(ResidualBlock), wrap(SelfAttention)

        def block(name: str, h: Array, level: int, resample: Any = None) -> Array:
            width = self.channels * self.multipliers[level]
            return Block(width, self.dropout, self.skip_scale, dtype, resample, train, rank, name=name)(h, embedding)

        def attend(name: str, h: Array) -> Array:
            return Attention(self.head_width, self.skip_scale, dtype, rank, name=name)(h)

        pixels = places.space_to_depth(x.astype(dtype), self.patch, rank)
        h = Conv(self.channels, rank, dtype=dtype, name="conv_in")(pixels)
        skips = [layers.Identity(name="skip_0")(h)]
        levels = range(len(self.multipliers))
        for level in levels:
            if level > 0:
                h = block(f"down_{level}", h, level - 1, places.down)
                skips.append(layers.Identity(name=f"skip_{len(skips)}")(h))
            for i in range(self.blocks):
                h = block(f"encode_{level}_{i}", h, level)
                h = attend(f"encode_{level}_{i}_attention", h) if h.shape[-1 - rank] in self.attention else h
                skips.append(layers.Identity(name=f"skip_{len(skips)}")(h))

        h = block("middle_0", h, levels[-1])
        h = attend("middle_attention", h) if self.attention else h
        h = block("middle_1", h, levels[-1])

        for level in reversed(levels):
            for i in range(self.blocks + 1):
                h = block(f"decode_{level}_{i}", jnp.concatenate([h, skips.pop()], -1), level)
            h = attend(f"decode_{level}_attention", h) if h.shape[-1 - rank] in self.attention else h
            if level > 0:
                h = block(f"up_{level}", h, level, places.up)

        h = nn.silu(Norm(rank, name="norm_out")(h))
        # In float32 whatever the compute dtype: what bfloat16 rounds here stays in the sample.
        h = Conv(channels, rank, kernel_init=ZEROS, name="conv_out")(h)
        parts = jnp.split(h, self.outputs, -1)  # map after map, whatever the patch: `finetune` adds maps at the end
        return jnp.concatenate([places.depth_to_space(part, self.patch, rank) for part in parts], -1)
