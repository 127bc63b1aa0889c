"""A bidirectional transformer for tokens in any number of axes: sequences (L,), grids (H, W), pictures (H, W, C).

Places are numbered row after row. Each block is pre-norm, modulated and gated by e, the embedding of the log-SNR and
of the label (adaLN-zero, Peebles & Xie 2023, section 3.2):

    y += g_1 Attention(N(y) (1 + a_1) + b_1),     y += g_2 MLP(N(y) (1 + a_2) + b_2),     a, b, g affine in e, first 0.

A place is told by a learned vector, by rotating its queries and keys, or both. Rotation (Su et al. 2021, eq. 34, the
axial form) turns the j-th of m pairs of entries that belong to an axis by p 10000^(-j / m), p the place on that axis,

    <R(p) q, R(p') k> = <q, R(p' - p) k>,

so that what attention reads is how far places are apart. With `block` = B, place i sees no place j of a later block
of B places, j // B > i // B: what is computed of past blocks then does not depend on later ones, as block diffusion
wants it (Arriola et al. 2025, section 3.2).
"""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from diffjax.models.layers import (
    DTYPES,
    EMBEDDINGS,
    ZEROS,
    Dense,
    Embedding,
    attention,
    check_choice,
    check_counts,
    check_rate,
    fine,
    layer_norm,
    of_rank,
)
from diffjax.types import Array

POSITIONS = ("learned", "rotary", "both", "none")
BASE = 10_000.0  # of the rotations: the j-th of m pairs turns by BASE^(-j / m) a place


class Block(nn.Module):
    """One block of (..., T, C): self-attention and a perceptron of 4 C channels, each modulated and gated by e.

    Called as `block(h, e, turns=None, mask=None, train=False)` with e (..., E), turns (T, head / 2) angles of the
    rotation of queries and keys, and mask (T, T), True where a query sees a key. Equals h at initialisation. The sum
    h, the norms, the rotation and the softmax are float32.

    Attributes:
        heads: of the attention, a divisor of C.
        dropout: its rate on what either part adds, only where train is True (rng "dropout").
        dtype: of the products.
    """

    heads: int
    dropout: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, h: Array, e: Array, turns: Array | None = None, mask: Array | None = None, train: bool = False
    ) -> Array:
        channels = h.shape[-1]
        table = Dense(6 * channels, kernel_init=ZEROS, name="modulation")(e)[..., None, :]
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = jnp.split(table, 6, axis=-1)
        drop = nn.Dropout(self.dropout, deterministic=not train)

        y = (layer_norm(h) * (1 + scale_1) + shift_1).astype(self.dtype)
        qkv = Dense(3 * channels, dtype=self.dtype, name="qkv")(y)
        q, k, v = (a.reshape(*a.shape[:-1], self.heads, -1) for a in jnp.split(qkv, 3, axis=-1))
        if turns is not None:
            q, k = (turned(a, turns).astype(self.dtype) for a in (q, k))
        y = Dense(channels, dtype=self.dtype, name="out")(attention(q, k, v, mask).reshape(y.shape))
        h = h + gate_1 * drop(y).astype(h.dtype)  # (transformer.1)

        y = (layer_norm(h) * (1 + scale_2) + shift_2).astype(self.dtype)
        y = nn.gelu(Dense(4 * channels, dtype=self.dtype, name="up")(y))
        y = Dense(channels, dtype=self.dtype, name="down")(y)
        return h + gate_2 * drop(y).astype(h.dtype)


class Transformer(nn.Module):
    """A network of tokens: `depth` blocks in which each place sees every other, and a dense layer to the logits.

    Called as `net(x, c, label=None, train=False)` with x of one or more axes of integers 0 .. vocabulary, where
    `vocabulary` stands for a hidden token; c is the scalar log-SNR (0 for a masked model, which is told no time), label
    an integer scalar, `classes` or None for "no label". Returns logits (*shape of x, vocabulary), float32, zero at
    initialisation: every token is equally probable.

    Attributes:
        vocabulary: V, the number of tokens without the hidden one.
        width: C, channels of a place.
        depth: number of blocks.
        heads: of each block's attention, a divisor of the width.
        classes: number of labels; None for an unconditional network.
        dropout: its rate, inside the blocks and on the embedded tokens, only where train is True (rng "dropout").
        positions: how a place is told: learned (a vector for each), rotary (axes of length 1 do not turn), both; none.
        block: B, places of a block that sees no later one; None: every place sees every other.
        embedding: of the log-SNR: positional, fourier or angle.
        dtype: of the products, float32 or bfloat16; parameters, sums, norms and softmax are float32.

    Raises:
        ValueError: for an attribute out of its range, an x that is not of integers or has no axis, or with rotary a
            head whose width the axes do not share in pairs.
    """

    vocabulary: int
    width: int = 64
    depth: int = 4
    heads: int = 4
    classes: int | None = None
    dropout: float = 0.0
    positions: str = "learned"
    block: int | None = None
    embedding: str = "positional"
    dtype: str = "float32"

    def __post_init__(self) -> None:
        check_counts(vocabulary=self.vocabulary, width=self.width, depth=self.depth, heads=self.heads)
        check_counts(classes=1 if self.classes is None else self.classes, block=1 if self.block is None else self.block)
        check_rate("dropout", self.dropout)
        check_choice("positions", self.positions, POSITIONS)
        check_choice("embedding", self.embedding, EMBEDDINGS)
        check_choice("dtype", self.dtype, DTYPES)
        if self.width % self.heads:
            raise ValueError(f"heads = {self.heads} does not divide the width {self.width}.")
        super().__post_init__()

    @property
    def reads(self) -> dict[str, str]:
        """The names of `given` that the network has room for, and its arguments for them."""
        return {"label": "label"} if self.classes else {}

    @nn.compact
    def __call__(self, x: Array, c: Array, label: Array | None = None, train: bool = False) -> Array:
        batch, shape = places_of("Transformer", x, c)
        size, dtype, init = math.prod(shape), jnp.dtype(self.dtype), nn.initializers.normal(1.0)
        e = Embedding(self.width, self.classes, kind=self.embedding, name="embedding")(c, label)
        h = nn.Embed(self.vocabulary + 1, self.width, embedding_init=init, name="token")(x.reshape(*batch, size))
        if self.positions in ("learned", "both"):
            h = h + of_rank(self.param("place", init, (size, self.width), jnp.float32), h.ndim)
        h = nn.Dropout(self.dropout, deterministic=not train)(h)
        turns = jnp.asarray(angles(shape, self.width // self.heads)) if self.positions in ("rotary", "both") else None
        mask = None if self.block is None else jnp.asarray(seen_in_blocks(size, self.block))
        for i in range(self.depth):
            h = Block(self.heads, self.dropout, dtype, name=f"block_{i}")(h, e, turns, mask, train)
        shift, scale = jnp.split(Dense(2 * self.width, kernel_init=ZEROS, name="modulation")(e)[..., None, :], 2, -1)
        y = layer_norm(h) * (1 + scale) + shift
        return Dense(self.vocabulary, kernel_init=ZEROS, name="out")(y).reshape(*x.shape, self.vocabulary)


def places_of(name: str, x: Array, c: Array) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Splits the shape of tokens x into (batch, shape of one example), c having one number for each example.

    Raises:
        ValueError: for an x that is not of integers, or has no axis of places.
    """
    batch = jnp.ndim(c)
    if x.ndim <= batch or not jnp.issubdtype(x.dtype, jnp.integer):
        raise ValueError(
            f"{name} takes sequences (L,) of integers, got {x.dtype} of shape {x.shape} with c of shape "
            f"{jnp.shape(c)}; integers of more axes, (H, W), ..., will do too."
        )
    return x.shape[:batch], x.shape[batch:]


def angles(shape: tuple[int, ...], head: int) -> np.ndarray:
    """Computes by how much each pair of entries turns at each place, (T, head / 2): axes one after the other.

    Args:
        shape: of an example; axes of length 1 do not turn.
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
    pairs = head // (2 * len(axes))
    places = np.indices(shape).reshape(len(shape), -1)[axes]  # (axes, T)
    turns = places[..., None] * BASE ** (-np.arange(pairs) / pairs)  # (axes, T, pairs)
    return np.moveaxis(turns, 0, 1).reshape(-1, head // 2).astype(np.float32)


def turned(x: Array, turns: Array) -> Array:
    """Rotates pairs (x_2j, x_2j+1) of queries or keys (..., T, heads, D) by turns (T, D / 2), in float32 at least."""
    y, turns = x.astype(fine(x.dtype)), turns.astype(fine(x.dtype))
    a, b = y[..., ::2], y[..., 1::2]
    cos, sin = (of_rank(wave[:, None], x.ndim) for wave in (jnp.cos(turns), jnp.sin(turns)))
    return jnp.stack([a * cos - b * sin, a * sin + b * cos], axis=-1).reshape(x.shape)  # (transformer.2)


def seen_in_blocks(size: int, block: int) -> np.ndarray:
    """Marks which places each of `size` sees, (T, T) bool: those of its own block and of earlier ones."""
    number = np.arange(size) // block
    return number[:, None] >= number  # (transformer.3)
