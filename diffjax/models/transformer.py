"""A bidirectional transformer for tokens in any number of axes: sequences (L,), grids (H, W), pictures (H, W, C).

Its blocks (`models.blocks`) are those of the diffusion transformer: pre-norm, modulated and gated by e, which embeds
log-SNR and label. A place is told by a learned vector, by rotating its queries and keys, or both
(`models.positions`). With `block` = B, place i sees no place j of a later block of B places, j // B > i // B: what is
computed of past blocks then does not depend on later ones, as block diffusion wants it (Arriola et al. 2025, section
3.2).
"""

import math

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from diffjax.models.blocks import Block, modulation
from diffjax.models.layers import (
    DTYPES,
    EMBEDDINGS,
    ZEROS,
    Dense,
    Embedding,
    check_choice,
    check_counts,
    check_rate,
    layer_norm,
    of_rank,
)
from diffjax.models.positions import angles
from diffjax.types import Array

POSITIONS = ("learned", "rotary", "both", "none")


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
            h = Block(self.heads, self.dropout, dtype, train=train, name=f"block_{i}")(h, e, turns, mask)
        shift, scale = modulation(e, self.width, 2)
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


def seen_in_blocks(size: int, block: int) -> np.ndarray:
    """Marks which places each of `size` sees, (T, T) bool: those of its own block and of earlier ones."""
    number = np.arange(size) // block
    return number[:, None] >= number  # (transformer.3)
