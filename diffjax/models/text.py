"""What a network is told beside log-SNR and label: a text as tokens, a vector, an image; each of them may be absent.

A text is tokens (L,), of which PADDING stands for no place: it is seen by nobody, so that a text is what it is at any
length. The encoder embeds tokens and lets them see each other in blocks of the transformer (`models.blocks`, whose
scales and gates are plain parameters here). What comes out is told in two ways (Esser et al. 2024, section 4): token by
token, to the cross-attention of every block, and as the mean over tokens, which joins the label's part of e,

    e = silu(MLP(features of the log-SNR) + label + W mean over seen tokens),     W = 0 at first.

No text is the text of NULL alone, a row that training without a text has moved, and not one of padding alone: its
attention would have nothing to see. No vector and no image are NaN in every entry, which no data set may hold: entries
are 0 then, and a channel beside them is 1, since 0 is a legal image.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from diffjax.models.blocks import Block
from diffjax.models.layers import ZEROS, Dense, layer_norm, of_rank
from diffjax.types import NULL, PADDING, Array

ABSENT = np.float32(np.nan)


def null_text(length: int) -> np.ndarray:
    """Makes the text of `length` places that stands for none, (L,) int32: NULL, then padding."""
    return np.asarray([NULL] + [PADDING] * (length - 1), np.int32)


class TextEncoder(nn.Module):
    """The tokens of a text as vectors that know each other.

    Called as `encode(text)` with text (..., L) integers below `words`; gives vectors (..., L, width) and where they may
    be seen, (..., L) bool. A text of padding alone is read as that of none.

    Attributes:
        words: V, the number of tokens, PADDING and NULL among them.
        width: of a vector.
        depth: number of blocks.
        heads: of each block's attention.
        order: whether places are told, by a learned vector each; without, a text is a set of words.
        dtype: of the products.
    """

    words: int
    width: int
    depth: int = 2
    heads: int = 4
    order: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, text: Array) -> tuple[Array, Array]:
        normal, size = nn.initializers.normal(1.0), text.shape[-1]
        nothing = jnp.all(text == PADDING, axis=-1, keepdims=True)
        text = jnp.where(nothing, of_rank(jnp.asarray(null_text(size), text.dtype), text.ndim), text)
        seen = text != PADDING
        h = nn.Embed(self.words, self.width, embedding_init=normal, name="token")(text)
        if self.order:
            h = h + of_rank(self.param("place", normal, (size, self.width), jnp.float32), h.ndim)
        one = jnp.ones((*text.shape[:-1], 1), jnp.float32)
        for i in range(self.depth):
            h = Block(self.heads, dtype=self.dtype, name=f"block_{i}")(h, one, mask=seen[..., None, None, :])
        return layer_norm(h), seen


def mean_seen(tokens: Array, seen: Array) -> Array:
    """Averages vectors (..., L, C) over those that may be seen, (..., L) bool: (..., C)."""
    weights = seen.astype(tokens.dtype)[..., None]
    return jnp.sum(tokens * weights, axis=-2) / jnp.sum(weights, axis=-2)  # (text.3)


def flagged(value: Array | None, shape: tuple[int, ...], rank: int) -> Array:
    """Joins a condition of this shape, (..., C), with a channel that is 1 where it is absent; float32.

    Args:
        value: with ABSENT in every entry where there is none; None: there is none for any example.
        rank: axes of one example's, 1 of a vector, 3 of an image.

    Raises:
        ValueError: for a value of another shape.
    """
    value = jnp.full(shape, ABSENT) if value is None else value
    if value.shape != shape:
        raise ValueError(f"A condition has shape {value.shape}, expected {shape}: set the model's vector or image.")
    absent = jnp.any(jnp.isnan(value), axis=tuple(range(-rank, 0)), keepdims=True)
    flag = jnp.broadcast_to(absent, (*shape[:-1], 1)).astype(jnp.float32)
    return jnp.concatenate([jnp.where(absent, 0.0, value.astype(jnp.float32)), flag], axis=-1)  # (text.4)


class Told(nn.Module):
    """What joins the label's part of the embedding, (..., width), and what blocks read beside; None where nothing does.

    Called as `told(batch, text, vector)` with batch the shape of the leading axes, text (*batch, L) and vector
    (*batch, entries); None: there is none for any example.

    Attributes:
        width: of the embedding.
        text: (V, L), tokens and places of a text; (): the network reads none.
        vector: entries of a vector; 0: the network reads none.
        depth, heads, order, dtype: of the `TextEncoder`.

    Raises:
        ValueError: for a text or a vector of another length than the network's.
    """

    width: int
    text: tuple[int, ...] = ()
    vector: int = 0
    depth: int = 2
    heads: int = 4
    order: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, batch: tuple[int, ...], text: Array | None, vector: Array | None
    ) -> tuple[Array | None, tuple[Array, Array] | None]:
        joined, beside = None, None
        if self.text:
            words, length = self.text
            if text is not None and text.shape != (*batch, length):
                raise ValueError(
                    f"A text has shape {text.shape[len(batch) :]}, expected ({length},): the model's text is "
                    f"{self.text}, tokens and places."
                )
            own = jnp.broadcast_to(jnp.asarray(null_text(length)), (*batch, length)) if text is None else text
            encode = TextEncoder(words, self.width, self.depth, self.heads, self.order, self.dtype, name="text")
            beside = encode(own)
            joined = Dense(self.width, kernel_init=ZEROS, name="mean")(mean_seen(*beside))  # (text.2)
        if self.vector:
            own = flagged(vector, (*batch, self.vector), 1)
            of_vector = Dense(self.width, name="vector")(own)
            joined = of_vector if joined is None else joined + of_vector
        return joined, beside
