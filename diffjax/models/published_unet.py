"""The U-Nets of published weights: DDPM, DDPM++ and NCSN++, ADM. One network, whose attributes say where they differ.

All are levels of residual blocks, down and up again, joined by skip connections, with attention at some levels and in
the middle (Ho et al. 2020, appendix B; Song et al. 2021, appendix H; Dhariwal & Nichol 2021, section 3):

    DDPM      resamples by a convolution; attends after every block of an attending level
    DDPM++    resamples inside residual blocks, each sum times 1 / sqrt 2; attends after the last block on the way up
    NCSN++    DDPM++ with a smoothing filter (1, 3, 3, 1), Fourier features of log sigma, and the input shown again,
              filtered and convolved, at every level ("residual" input pyramid)
    ADM       the embedding scales and shifts the second norm; heads; attends after every block; 64 channels to a head

`UNet` is this library's own, with fewer parts; what is published fits here to the number, so that its weights do.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from diffjax import host
from diffjax.models import layers, places
from diffjax.models.clocks import CLOCKS, MOST_LOG_SNR, cos_sin, published_time
from diffjax.models.layers import ONES, ZEROS, Conv, Dense
from diffjax.types import Array

RESAMPLING = ("convolution", "block")
FEATURES = ("sin_cos", "cos_sin", "fourier")

_SONG: dict[str, Any] = dict(blocks=4, resample="block", everywhere=False, skip_scale=0.5**0.5)
_SMOOTH: dict[str, Any] = dict(smooth=True, pyramid=True, features="fourier")
_ADM: dict[str, Any] = dict(resample="block", modulated=True, features="cos_sin", eps=1e-5)
PRESETS: dict[str, dict[str, Any]] = {  # of what was published, by papers' names
    "ddpm": {},
    "ddpm_256": dict(multipliers=(1, 1, 2, 2, 4, 4), attention=(4,)),
    "ddpmpp": dict(**_SONG, clock="vp"),
    "ddpmpp_edm": dict(**_SONG, clock="edm", multipliers=(2, 2, 2)),
    "ncsnpp": dict(**_SONG, **_SMOOTH, clock="ve"),
    "ncsnpp_edm": dict(**_SONG, **_SMOOTH, clock="edm", multipliers=(2, 2, 2)),
    "adm_64": dict(
        **_ADM,
        clock="cosine_chain",
        channels=192,
        multipliers=(1, 2, 3, 4),
        blocks=3,
        attention=(1, 2, 3),
        head_width=64,
        classes=1000,
        outputs=2,
    ),
}


def smooth_up(x: Array) -> Array:
    """Doubles both axes of places by (1, 3, 3, 1) / 4 between zeros: (..., H, W, C) to (..., 2 H, 2 W, C)."""
    for axis in (x.ndim - 3, x.ndim - 2):
        n, padded = x.shape[axis], _padded(x, axis, 1, 1)
        before, after = (jax.lax.slice_in_dim(padded, at, at + n, axis=axis) for at in (0, 2))
        pairs = jnp.stack([0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after], axis=axis + 1)
        x = pairs.reshape(*x.shape[:axis], 2 * n, *x.shape[axis + 1 :])
    return x


def smooth_down(x: Array, zeros: int = 1, stride: int = 2) -> Array:
    """Filters both axes of places by (1, 3, 3, 1) / 8 with zeros at both ends; one place of `stride` stays."""
    for axis in (x.ndim - 3, x.ndim - 2):
        padded = _padded(x, axis, zeros, zeros)
        n = padded.shape[axis] - 3
        outer, inner = (
            sum(jax.lax.slice_in_dim(padded, k, k + n, stride, axis) for k in ks) for ks in ((0, 3), (1, 2))
        )
        x = jnp.asarray(0.125 * outer + 0.375 * inner)
    return x


def _padded(x: Array, axis: int, before: int, after: int) -> Array:
    return jnp.pad(x, [(before, after) if at == axis else (0, 0) for at in range(x.ndim)])


def _downsampled(x: Array, features: int, name: str) -> Array:
    """Halves places by a convolution of stride 2, zeros put behind the last place of each axis (DDPM)."""
    return Conv(features, strides=(2, 2), padding=((0, 1), (0, 1)), name=name)(x)


class GroupNorm(nn.Module):
    """Group norm (Wu & He 2018) with a scale and a shift per channel, in the precision of x, float64 included.

    Attributes:
        groups: their number at most: 4 channels or more make one.
    """

    groups: int
    eps: float

    @nn.compact
    def __call__(self, x: Array) -> Array:
        channels = x.shape[-1]
        groups = min(channels // 4, self.groups)
        scale, shift = (
            self.param(name, init, (channels,), jnp.float32) for name, init in (("scale", ONES), ("bias", ZEROS))
        )

        def mean(x: Array) -> Array:  # of places first, as in `layers.group_norm`
            places = jnp.mean(x, (-3, -2)).reshape(*x.shape[:-3], groups, channels // groups)
            means = jnp.broadcast_to(jnp.mean(places, -1, keepdims=True), places.shape)
            return means.reshape(*x.shape[:-3], 1, 1, channels)

        centred = x - mean(x)
        y = centred * jax.lax.rsqrt(mean(jnp.square(centred)) + self.eps)
        return y * layers.of_rank(scale, x.ndim) + layers.of_rank(shift, x.ndim)


class Block(nn.Module):
    """A residual block: norm, silu, (resample), convolve, add or modulate by the embedding, norm, silu, convolve, sum.

    Attributes:
        features: channels of the result.
        net: the network's attributes.
        resample: of both branches, None for none.
    """

    features: int
    net: "PublishedUNet"
    resample: Any = None
    train: bool = False

    @nn.compact
    def __call__(self, x: Array, embedding: Array) -> Array:
        net, resample = self.net, self.resample or (lambda x: x)
        norm = lambda name: GroupNorm(net.groups, net.eps, name=name)
        h = Conv(self.features, name="conv_0")(resample(nn.silu(norm("norm_0")(x))))
        told = Dense(self.features * (1 + net.modulated), name="time")(embedding)[..., None, None, :]
        if net.modulated:
            scale, shift = jnp.split(told, 2, axis=-1)
            h = norm("norm_1")(h) * (1 + scale) + shift
        else:
            h = norm("norm_1")(h + told)
        h = nn.Dropout(net.dropout, deterministic=not self.train)(nn.silu(h))
        h = Conv(self.features, kernel_init=ZEROS, name="conv_1")(h)
        wider, x = x.shape[-1] != self.features, resample(x)
        if wider or (self.resample is not None and not net.modulated):
            x = Dense(self.features, name="skip")(x)
        return (x + h) * net.skip_scale


class Attention(nn.Module):
    """x + projected self-attention over all places of (..., H, W, C), of `net.head_width` channels to a head."""

    net: "PublishedUNet"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        channels = x.shape[-1]
        head = self.net.head_width or channels
        h = GroupNorm(self.net.groups, self.net.eps, name="norm")(x)
        h = h.reshape(*x.shape[:-3], x.shape[-3] * x.shape[-2], channels)
        split = lambda a: a.reshape(*a.shape[:-1], channels // head, head)
        q, k, v = (split(Dense(channels, name=name)(h)) for name in ("query", "key", "value"))
        h = Dense(channels, kernel_init=ZEROS, name="out")(layers.Attend(name="attention")(q, k, v).reshape(h.shape))
        return (x + h.reshape(x.shape)) * self.net.skip_scale


class PublishedUNet(nn.Module):
    """A U-Net of published weights, called as `unet(x, c, label=None, train=False, augment=None)`: x is (H, W, C).

    c is the log-SNR (may be infinite) and becomes what the published network is told (`published_time`). Returns F of
    x's shape, with `outputs` times its channels, zero at initialisation.

    Attributes:
        channels: of the first level.
        multipliers: channels of each level over those of the first; each level but the first halves both axes.
        blocks: residual blocks per level (one more on the way up).
        attention: the levels that attend, 0 the first; the middle always attends.
        everywhere: on the way up, attend after every block of such a level, not after its last alone.
        head_width: channels per attention head; None for one head.
        resample: by a "convolution" after a level, or inside a residual "block".
        smooth: resample through the filter (1, 3, 3, 1), not by means and copies of 2 x 2 places.
        pyramid: add the input, filtered and convolved level by level, to what comes down.
        modulated: the embedding scales and shifts the second norm of a block, rather than being added before it.
        skip_scale: multiplies each residual sum.
        features: of what is told: sin_cos, cos_sin (the order, and DDPM's or ADM's frequencies), or fourier.
        clock: what is told: chain, cosine_chain, vp, ve, edm.
        raw: take x_t itself and not, as any network here is given it, x_t / sqrt(1 + sigma^2), alpha being 1.
        groups, eps: of the norms.
        classes: number of labels; None for an unconditional network.
        augment: entries of the augmentation label (`data.augment`); 0 for a network that takes none.
        dropout: its rate, only where train is True.
        outputs: maps of x's shape that are returned, one after the other in the channels.

    Raises:
        ValueError: for an attribute out of its range, or an image that the strides do not divide.
    """

    channels: int = 128
    multipliers: tuple[int, ...] = (1, 2, 2, 2)
    blocks: int = 2
    attention: tuple[int, ...] = (1,)
    everywhere: bool = True
    head_width: int | None = None
    resample: str = "convolution"
    smooth: bool = False
    pyramid: bool = False
    modulated: bool = False
    skip_scale: float = 1.0
    features: str = "sin_cos"
    clock: str = "chain"
    raw: bool = False
    groups: int = 32
    eps: float = 1e-6
    classes: int | None = None
    augment: int = 0
    dropout: float = 0.0
    outputs: int = 1

    def __post_init__(self) -> None:
        optional = {f: v for f in ("head_width", "classes") if (v := getattr(self, f)) is not None}
        counts = {f"multipliers[{i}]": m for i, m in enumerate(self.multipliers)}
        sizes = {f: getattr(self, f) for f in ("channels", "blocks", "groups", "outputs")}
        sizes |= {"augment": self.augment} if self.augment else {}
        layers.check_counts(**sizes, **counts, **optional)
        layers.check_rate("dropout", self.dropout)
        for name, choices in (("resample", RESAMPLING), ("features", FEATURES), ("clock", CLOCKS)):
            layers.check_choice(name, getattr(self, name), choices)
        if self.channels < 4:
            raise ValueError(f"channels = {self.channels}: expected at least 4, those of one group of a norm.")
        if absent := [a for a in self.attention if not host.is_int(a, 0) or a >= len(self.multipliers)]:
            raise ValueError(f"attention at levels {absent}: expected some of 0 to {len(self.multipliers) - 1}.")
        if head := self.head_width:
            wide = {self.channels * self.multipliers[a] for a in (*self.attention, len(self.multipliers) - 1)}
            if bad := [width for width in sorted(wide) if width % head]:
                raise ValueError(f"head_width = {head} does not divide the {bad[0]} channels of a level that attends.")
        super().__post_init__()

    @classmethod
    def preset(cls, preset: str, **changes: Any) -> "PublishedUNet":
        """Makes a published network by its name, with other attributes in the place of some of its own.

        Raises:
            ValueError: for a name that is none, or an attribute that is none; they are listed.
        """
        return layers.preset_of(cls, PRESETS, preset, changes)

    @classmethod
    def of_data(cls, shape: tuple[int, ...], classes: int | None) -> dict[str, Any]:
        """Chooses the classes for data of so many: what the word "data" stands for."""
        return {"classes": classes}

    @property
    def reads(self) -> dict[str, str]:
        """The names of `given` that the network has room for, and its arguments for them."""
        return {name: name for name, has in (("label", self.classes), ("augment", self.augment)) if has}

    def parts(self) -> list[tuple[str, str]]:
        """Lists (kind, name) of all that has parameters, in the order of its calls, which published files keep."""
        last, found = len(self.multipliers) - 1, [("fourier", "fourier")] * (self.features == "fourier")
        found += [("augment", "augment")] * bool(self.augment)
        found += [("dense", "time_0"), ("dense", "time_1"), ("label", "label"), ("convolution", "conv_in")]
        found = [part for part in found if part[0] != "label" or self.classes]
        for level in range(last + 1):
            for i in range(self.blocks):
                found.append(("block", f"encode_{level}_{i}"))
                found += [("attention", f"encode_{level}_{i}_attention")] * (level in self.attention)
            if level < last:
                found.append((self.resample, f"down_{level}"))
                found += [("pyramid", f"pyramid_{level}")] * self.pyramid
        found += [("block", "middle_0"), ("attention", "middle_attention"), ("block", "middle_1")]
        for level in range(last, -1, -1):
            for i in range(self.blocks + 1):
                found.append(("block", f"decode_{level}_{i}"))
                attends = level in self.attention and (self.everywhere or i == self.blocks)
                found += [("attention", f"decode_{level}_{i}_attention")] * attends
            found += [(self.resample, f"up_{level}")] * (level > 0)
        return [*found, ("norm", "norm_out"), ("convolution", "conv_out")]

    def embedded(self, c: Array, label: Array | None, augment: Array | None) -> Array:
        """Embeds the noise level, the label and the augmentation: silu of a vector (4 channels,)."""
        if self.features == "cos_sin":
            h = cos_sin(self.clock, c, self.channels)
        else:
            if self.features == "fourier":
                init = nn.initializers.normal(16.0)
                turns = 2 * math.pi * self.param("fourier", init, (self.channels,), jnp.float32)
            else:
                half = self.channels // 2
                turns = jnp.exp(jnp.arange(half, dtype=c.dtype) * (-math.log(10_000) / (half - 1)))
            angles = jnp.tensordot(published_time(self.clock, c), jax.lax.stop_gradient(turns), axes=0)
            h = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1)
        h = layers.with_augment(h, augment, self.augment)
        h = Dense(4 * self.channels, name="time_1")(nn.silu(Dense(4 * self.channels, name="time_0")(h)))
        if self.classes:
            table = self.param("label", nn.initializers.normal(1.0), (self.classes + 1, 4 * self.channels), jnp.float32)
            h = h + table[jnp.full(c.shape, self.classes) if label is None else label]
        return nn.silu(h)

    @nn.compact
    def __call__(
        self, x: Array, c: Array, label: Array | None = None, train: bool = False, augment: Array | None = None
    ) -> Array:
        c = jnp.asarray(c).astype(x.dtype)
        self.check_shape(x, c)
        embedding = self.embedded(c, label, augment)
        last, channels = len(self.multipliers) - 1, x.shape[-1] * self.outputs
        inside = self.resample == "block"
        down, up = (smooth_down, smooth_up) if self.smooth else (places.down, places.up)
        if self.raw:
            x = x * jnp.sqrt(1 + jnp.exp(-jnp.clip(c, -MOST_LOG_SNR, MOST_LOG_SNR)))[..., None, None, None]

        def block(name: str, h: Array, level: int, resample: Any = None) -> Array:
            width = self.channels * self.multipliers[level]
            return Block(width, self.clone(parent=None), resample, train, name=name)(h, embedding)

        def attend(name: str, h: Array) -> Array:
            return Attention(self.clone(parent=None), name=f"{name}_attention")(h)

        h = Conv(self.channels, name="conv_in")(x)
        skips, shown = [h], x
        for level, multiplier in enumerate(self.multipliers):
            for i in range(self.blocks):
                h = block(f"encode_{level}_{i}", h, level)
                h = attend(f"encode_{level}_{i}", h) if level in self.attention else h
                skips.append(h)
            if level < last:
                width, name = self.channels * multiplier, f"down_{level}"
                h = block(name, h, level, down) if inside else _downsampled(h, width, name)
                if self.pyramid:
                    wide = smooth_down(shown, zeros=2, stride=1)
                    shown = Conv(width, strides=(2, 2), padding="VALID", name=f"pyramid_{level}")(wide)
                    h = shown = (shown + h) * self.skip_scale
                skips.append(h)

        h = block("middle_0", h, last)
        h = block("middle_1", attend("middle", h), last)

        for level in range(last, -1, -1):
            for i in range(self.blocks + 1):
                h = block(f"decode_{level}_{i}", jnp.concatenate([h, skips.pop()], -1), level)
                if level in self.attention and (self.everywhere or i == self.blocks):
                    h = attend(f"decode_{level}_{i}", h)
            if level > 0:
                name, width = f"up_{level}", self.channels * self.multipliers[level]
                h = block(name, h, level, up) if inside else Conv(width, name=name)(places.up(h))

        h = nn.silu(GroupNorm(self.groups, self.eps, name="norm_out")(h))
        return Conv(channels, kernel_init=ZEROS, name="conv_out")(h)

    def check_shape(self, x: Array, c: Array) -> None:
        """Raises a ValueError unless x is an image that the strides divide."""
        places, stride = x.shape[jnp.ndim(c) : -1], 2 ** (len(self.multipliers) - 1)
        if len(places) != 2 or any(n % stride for n in places):
            raise ValueError(
                f"a published U-Net of {len(self.multipliers)} levels takes images (H, W, C) whose sides {stride} "
                f"divides, got shape {x.shape[jnp.ndim(c) :]}."
            )
