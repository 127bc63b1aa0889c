"""Layers without a batch: each is written for one example, and takes leading batch dimensions all the same."""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from diffjax import host
from diffjax.models import clocks
from diffjax.types import Array

MAX_LOG_SNR = 20.0  # the log-SNR is infinite at the ends of a schedule; beyond this float32 cannot tell x_t from x_0
DTYPES = ("float32", "bfloat16")
EMBEDDINGS = ("positional", "fourier", "angle", "chain", "signal")


def _traced_once(initializer: Callable[..., Array]) -> Callable[..., Array]:
    """Makes an initializer (key, shape, dtype) -> Array one program."""
    # flax asks it for each parameter's shape whenever a network is traced, which would cost half of the trace.
    return jax.jit(initializer, static_argnums=(1, 2))


ZEROS, ONES = _traced_once(nn.initializers.zeros_init()), _traced_once(nn.initializers.ones_init())
UNIFORM = _traced_once(nn.initializers.variance_scaling(1.0, "fan_avg", "uniform"))  # of Ho et al. and Song et al.
Dense = functools.partial(nn.Dense, kernel_init=UNIFORM, bias_init=ZEROS)


def Conv(features: int, rank: int = 2, **options: Any) -> nn.Conv:
    """Makes the convolution of 3 places along each of `rank` axes: 2 of images (H, W, C), 1 of sequences (L, C)."""
    return nn.Conv(features, **{"kernel_size": (3,) * rank, "kernel_init": UNIFORM, "bias_init": ZEROS, **options})


def preset_of(cls: Any, presets: Mapping[str, Any], preset: str, changes: Mapping[str, Any]) -> Any:
    """Makes the network that a preset names, with some attributes of the preset replaced.

    Args:
        cls: the module's class.
        presets: attributes of each size, by name.

    Raises:
        ValueError: for a name that is none, or an attribute that is none; they are listed.
    """
    if preset not in presets:
        raise ValueError(f"There is no {cls.__name__} {preset!r}: {host.nearest(str(preset), presets)}.")
    own = [name for name in cls.__dataclass_fields__ if name not in ("name", "parent")]
    if unknown := [name for name in changes if name not in own]:
        raise ValueError(f"{cls.__name__} has no attribute {unknown[0]!r}: {host.nearest(unknown[0], own)}.")
    return cls(**{**presets[preset], **changes})


def check_choice(field: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raises a ValueError that lists the choices unless value is one of them."""
    if value not in choices:
        raise ValueError(f"{field} = {value!r} is unknown; choose from {', '.join(choices)}.")


MOST, MOST_LAYERS = 2**24, 2**10  # of widths and classes; of what is traced one by one, such as blocks


def check_counts(**counts: Any) -> None:
    """Raises a ValueError that names the first value that is not a positive integer, or one out of all proportion."""
    for field, value in counts.items():
        most = MOST_LAYERS if field in ("depth", "blocks") else MOST
        if not host.is_int(value, 1):
            raise ValueError(f"{field} = {value!r}: expected a positive integer.")
        if value > most:
            raise ValueError(f"{field} = {value}: expected at most {most}.")


def check_rate(field: str, value: float) -> None:
    """Raises a ValueError unless 0 <= value < 1."""
    if not 0 <= value < 1:
        raise ValueError(f"{field} = {value!r}: expected a probability in [0, 1).")


def positional(c: Array, width: int) -> Array:
    """Computes the timestep embedding: cos and sin of the log-SNR at width / 2 frequencies (Ho et al. 2020, B).

    Its position in [0, 1000] is 25 (20 - c), c clipped to [-20, 20]: about that of DDPM's thousand times, data at 0.
    """
    position = (MAX_LOG_SNR - jnp.clip(c, -MAX_LOG_SNR, MAX_LOG_SNR)) * (500 / MAX_LOG_SNR)
    return _waves(position, jnp.exp(jnp.linspace(0.0, -math.log(10_000), width // 2, dtype=jnp.float32)))


def fourier(c: Array, width: int, scale: float = 16.0) -> Array:
    """Computes cos and sin of 2 pi f log(sigma / alpha), f ~ N(0, scale^2) (Gaussian features, Song et al. 2021, C).

    Deviation: f are the quantiles of that law instead of draws, so that nothing random has to be kept with the
    parameters; only positive ones, since -f gives the same features up to sign. c is clipped to [-20, 20].
    """
    log_sigma = -jnp.clip(c, -MAX_LOG_SNR, MAX_LOG_SNR) / 2
    quantiles = (jnp.arange(width // 2, dtype=jnp.float32) + 0.5) / (width // 2)
    return _waves(log_sigma, 2 * math.pi * scale * jax.scipy.special.ndtri(0.5 + quantiles / 2))


def angle(c: Array, waves: int = 8) -> Array:
    """Computes phi, cos and sin of 2 j phi, j = 1 .. waves, of the angle phi = arctan(sigma / alpha) in (0, pi / 2).

    The features to take a derivative in time of: that is of order 2 waves where those of the log-SNR, clipped to
    [-20, 20] as here, grow without bound towards the ends of a schedule.
    """
    c = jnp.clip(c, -MAX_LOG_SNR, MAX_LOG_SNR).astype(jnp.float32)
    phi = jnp.arctan(jnp.exp(-c / 2))
    return jnp.concatenate([phi[..., None], _waves(phi, 2.0 * jnp.arange(1, waves + 1, dtype=jnp.float32))], -1)


def _waves(position: Array, frequencies: Array) -> Array:
    angles = jnp.tensordot(position.astype(jnp.float32), frequencies, axes=0)
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], -1)


def with_augment(features: Array, augment: Array | None, entries: int, name: str = "augment") -> Array:
    """Adds a linear map of the augmentation label to features (..., F), inside a module; a label None is zeros.

    Source: Karras et al. 2022, appendix F.2.

    Args:
        augment: (..., entries).
        entries: of a label, the network's `augment`; 0 for a network that takes none.
        name: of the layer, and of the network's attribute: "gap" of a vector that says how far in time to go.

    Raises:
        ValueError: for a label of another length.
    """
    if augment is not None and augment.shape[-1:] != (entries,):
        what = {"augment": "an augmentation label"}.get(name, f"a {name}")
        raise ValueError(f"got {what} of shape {augment.shape}, but the network has {name} = {entries}.")
    if not entries:
        return features
    label = jnp.zeros((*features.shape[:-1], entries), features.dtype) if augment is None else augment
    return features + Dense(features.shape[-1], use_bias=False, name=name)(label)


class Embedding(nn.Module):
    """The embedding of the log-SNR and, with classes, of the label: the vector (width,) that modulates every block.

    The table of labels has one row more than there are classes: label == classes, or None, means "no label". If
    `augment` is not 0, a vector of that many entries joins the features of the log-SNR linearly, without a bias, so
    that None means zeros (Karras et al. 2022, appendix F.2). So does a vector of `gap` entries, by a layer of its own.

    Attributes:
        width: of the embedding.
        classes: number of labels; None for no table.
        features: number of features of the log-SNR; `angle` has its own.
        kind: of these features: positional, fourier or angle; chain or signal, of the times that DiT and SiT are told.
        augment: entries of the augmentation label; 0 for none.
        gap: entries of the vector that says how far in time to go; 0 for a network of one time.
    """

    width: int
    classes: int | None = None
    features: int = 128
    kind: str = "positional"
    augment: int = 0
    gap: int = 0

    def __call__(
        self, c: Array, label: Array | None = None, augment: Array | None = None, gap: Array | None = None
    ) -> Array:
        """Computes the vector (width,)."""
        return self.apart(c, label, augment, gap)[0]

    @nn.compact
    def apart(
        self,
        c: Array,
        label: Array | None = None,
        augment: Array | None = None,
        gap: Array | None = None,
        more: Array | None = None,
    ) -> tuple[Array, Array]:
        """Computes the vector, and the label's own part of it, before they are added; zeros without classes.

        Args:
            more: (..., width), of a text or of anything else that joins the label's part as it is.
        """
        if self.classes is None and label is not None:
            raise ValueError("got a label, but the network has classes = None: set classes to their number.")
        c = jnp.asarray(c, jnp.float32)
        kinds = {"positional": positional, "fourier": fourier, "angle": lambda c, width: angle(c)}
        told = functools.partial(clocks.cos_sin, self.kind)  # by a clock of published networks
        features = with_augment(kinds.get(self.kind, told)(c, self.features), augment, self.augment)
        features = with_augment(features, gap, self.gap, name="gap")
        embedding = Dense(self.width, name="noise_0")(features)
        embedding = Dense(self.width, name="noise_1")(nn.silu(embedding))
        own = jnp.zeros_like(embedding)
        if self.classes is not None:
            label = jnp.full(c.shape, self.classes, jnp.int32) if label is None else jnp.asarray(label, jnp.int32)
            init = nn.initializers.normal(1.0)  # as large as the entries of the noise embedding
            own = nn.Embed(self.classes + 1, self.width, embedding_init=init, name="label")(label)
            embedding += own
        if more is not None:
            own, embedding = own + more, embedding + more
        return nn.silu(embedding), own


def groups_of(channels: int, most: int = 32) -> int:
    """Finds the largest divisor <= `most` of the channels with 4 or more to a group (fewer channels: one group)."""
    return max(g for g in range(1, max(1, min(most, channels // 4)) + 1) if channels % g == 0)


def normalize(x: Array, mean: Callable[[Array], Array], eps: float = 1e-6) -> Array:
    """Scales x to zero mean and unit variance, in float32 (two passes: large means do not cancel).

    Args:
        mean: gives the means of an array like x, in a shape that broadcasts against it.
    """
    x = x.astype(jnp.float32)
    centred = x - mean(x)
    return centred * jax.lax.rsqrt(mean(jnp.square(centred)) + eps)


def group_norm(x: Array, groups: int, eps: float = 1e-6, rank: int = 2) -> Array:
    """Normalises (..., H, W, C) over (H, W, C / groups) of each example (group norm, Wu & He 2018); float32.

    Args:
        rank: number of axes of places: 2 of (H, W).
    """
    *batch, channels = (*x.shape[: -1 - rank], x.shape[-1])

    def mean(x: Array) -> Array:
        # Over the pixels first, channel by channel: on a CPU 2 to 4 times as fast as over pixels and groups at once.
        grouped = jnp.mean(x, tuple(range(-1 - rank, -1))).reshape(*batch, groups, channels // groups)
        means = jnp.broadcast_to(jnp.mean(grouped, -1, keepdims=True), grouped.shape)
        return means.reshape(*batch, *(1,) * rank, channels)

    return normalize(x, mean, eps)


def layer_norm(x: Array, eps: float = 1e-6) -> Array:
    """Normalises (..., C) over its last axis (layer norm, Ba et al. 2016); float32."""
    return normalize(x, lambda x: jnp.mean(x, -1, keepdims=True), eps)


def rms_norm(x: Array, eps: float = 1e-6) -> Array:
    """Scales (..., C) to unit mean square over its last axis (RMS norm, Zhang & Sennrich 2019); float32."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), -1, keepdims=True) + eps)


class Norm(nn.Module):
    """The group norm of images, or layer norm of vectors, then y -> scale y + shift per channel; float32.

    Scale and shift are parameters, or, given an embedding, functions of it: 1 + a(e), b(e) with affine a, b
    (adaptive group norm, Dhariwal & Nichol 2021, section 3.1). a and b start at zero, as in EDM2: a plain norm.

    Attributes:
        rank: number of axes of places: 2 for (..., H, W, C), 1 for (..., L, C); 0 for vectors (..., C).
    """

    rank: int = 2

    @nn.compact
    def __call__(self, x: Array, embedding: Array | None = None) -> Array:
        channels = x.shape[-1]
        if embedding is None:
            scale = self.param("scale", ONES, (channels,), jnp.float32)
            shift = self.param("bias", ZEROS, (channels,), jnp.float32)
        else:
            scale, shift = jnp.split(Dense(2 * channels, kernel_init=ZEROS, name="affine")(embedding), 2, axis=-1)
            scale = 1 + scale
        y = group_norm(x, groups_of(channels), rank=self.rank) if self.rank else layer_norm(x)
        return y * _like(scale, y) + _like(shift, y)


def _like(per_channel: Array, x: Array) -> Array:
    """Puts unit axes into (C,) or (batch, C), so that it multiplies x of shape (batch, ..., C)."""
    batch, channels = per_channel.shape[:-1], per_channel.shape[-1]
    if not batch:
        return per_channel.reshape((1,) * (x.ndim - 1) + (channels,))
    return per_channel.reshape(*batch, *(1,) * (x.ndim - len(batch) - 1), channels)


def fine(dtype: Any) -> Any:
    """Gives the dtype of sums and angles where the products are of `dtype`: itself from float32 on, else float32."""
    return dtype if jnp.finfo(dtype).bits >= 32 else jnp.float32


def of_rank(x: Array, rank: int) -> Array:
    """Puts unit axes before those of x, so that it broadcasts against an array of that rank."""
    return x.reshape((1,) * (rank - x.ndim) + x.shape)


def attention(q: Array, k: Array, v: Array, mask: Array | None = None, factors: Array | None = None) -> Array:
    """Computes softmax(q k^T / sqrt(D)) v over tokens, (..., T, heads, D) each, by a softmax in float32 at least.

    Source: Vaswani et al. 2017, eq. 1.

    Args:
        mask: (T, T), True where a query (row) sees a key (column), at least one each; None: everywhere. One for each
            example is (..., 1, T, T), or (..., 1, 1, T) where all queries see the same keys.
        factors: (heads, T, T), by which the softmax is multiplied: its rows then need not sum to 1 (`models.blocks`).
    """
    logits = jnp.einsum("...qhd,...khd->...hqk", q, k, preferred_element_type=fine(q.dtype)) / math.sqrt(q.shape[-1])
    logits = logits if mask is None else jnp.where(of_rank(mask, logits.ndim), logits, -jnp.inf)
    weights = jax.nn.softmax(logits, axis=-1)
    weights = (weights if factors is None else weights * of_rank(factors, weights.ndim)).astype(v.dtype)  # (urpe.1)
    return jnp.einsum("...hqk,...khd->...qhd", weights, v)


class Attend(nn.Module):
    """Attention as a layer without parameters: a place in a network that has a path, by which it is read or changed.

    Attributes:
        by: what computes it, `attention` or a kernel.
    """

    by: Callable[..., Array] = attention

    def __call__(self, q: Array, k: Array, v: Array, *rest: Any) -> Array:
        """Computes attention over tokens, (..., T, heads, D) each."""
        return self.by(q, k, v, *rest)


class Identity(nn.Module):
    """A layer that gives back what it gets: a place in a network that has a path, as `models.side` wants it."""

    def __call__(self, h: Array) -> Array:
        """Gives the input h as it is."""
        return h


class SelfAttention(nn.Module):
    """The layer x + projected attention over all positions of (..., H, W, C); the projection starts at zero.

    Attributes:
        rank: number of axes of places: 2 of (H, W).
        head_width: channels per head; None for one head of C channels.
        skip_scale: multiplies the sum.
        dtype: of the computation.
    """

    head_width: int | None = None  # None: one head of C channels
    skip_scale: float = 1.0
    dtype: Any = jnp.float32
    rank: int = 2

    @nn.compact
    def __call__(self, x: Array) -> Array:
        height, channels = x.shape[-1 - self.rank], x.shape[-1]
        batch, places = x.shape[: -1 - self.rank], math.prod(x.shape[-1 - self.rank : -1])
        head = self.head_width or channels
        if channels % head:
            raise ValueError(
                f"head_width = {head} does not divide the {channels} channels that attend at height {height}."
            )
        h = Norm(self.rank, name="norm")(x).astype(self.dtype).reshape(*batch, places, channels)
        qkv = Dense(3 * channels, dtype=self.dtype, name="qkv")(h)
        q, k, v = (a.reshape(*a.shape[:-1], channels // head, head) for a in jnp.split(qkv, 3, axis=-1))
        h = Attend(name="attention")(q, k, v).reshape(h.shape)
        h = Dense(channels, dtype=self.dtype, kernel_init=ZEROS, name="out")(h)
        return (x + h.reshape(x.shape)) * self.skip_scale


def with_condition(x: Array, condition: Array | None, channels: int) -> Array:
    """Joins x (..., C) with the condition (..., channels) behind it in the last axis; None: zeros.

    Raises:
        ValueError: for a condition of another shape.
    """
    shape = (*x.shape[:-1], channels)
    if condition is not None and condition.shape != shape:
        raise ValueError(f"The condition has shape {condition.shape}, expected {shape}: the model's `condition`.")
    if not channels:
        return x
    return jnp.concatenate([x, jnp.zeros(shape, x.dtype) if condition is None else condition.astype(x.dtype)], -1)
