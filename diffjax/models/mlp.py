"""A residual perceptron for vectors, 2-D toys, latent codes; what has places is flattened."""

import math

import jax.numpy as jnp
from flax import linen as nn

from diffjax.models.layers import (
    DTYPES,
    EMBEDDINGS,
    ZEROS,
    Dense,
    Embedding,
    Norm,
    check_choice,
    check_counts,
    check_rate,
    with_condition,
)
from diffjax.types import Array


class MLP(nn.Module):
    """A residual network x + f(x, c, label) of `depth` blocks at one width: modulated layer norm, two dense layers.

    Called as `mlp(x, c, label=None, train=False, condition=None, gap=None)` with x (d,), or of any other shape, such as
    a sequence (L, C), which is flattened; c the scalar log-SNR (may be infinite), label an integer scalar, `classes` or
    None for "no label", condition a vector that enters beside x (a bridge's endpoint), gap one that says how far in
    time to go (`methods.flow_map`); None for either means zeros. Returns F of x's shape, float32, zero at
    initialisation.

    Attributes:
        width: of every layer.
        depth: number of residual blocks.
        classes: number of labels; None for an unconditional network.
        dropout: its rate, inside the blocks, only where train is True (rng "dropout").
        embedding: of the log-SNR: positional, fourier or angle.
        outputs: maps of x's shape, one after the other in the last axis: (outputs * d,) (2: F and a variance).
        condition: entries of the last axis of what enters beside x; 0 for a network that takes none.
        gap: entries of that vector, 17; 0 for a network of one time. It enters without a bias.
        dtype: of the computation, float32 or bfloat16; parameters and normalisation are float32.

    Raises:
        ValueError: for an attribute out of its range, or an x that has no axis.
    """

    width: int = 128
    depth: int = 4
    classes: int | None = None
    dropout: float = 0.0
    embedding: str = "positional"
    outputs: int = 1
    condition: int = 0
    gap: int = 0
    dtype: str = "float32"

    def __post_init__(self) -> None:
        check_counts(width=self.width, depth=self.depth, outputs=self.outputs)
        check_counts(classes=self.classes if self.classes is not None else 1)
        check_counts(condition=self.condition or 1, gap=self.gap or 1)
        check_rate("dropout", self.dropout)
        check_choice("embedding", self.embedding, EMBEDDINGS)
        check_choice("dtype", self.dtype, DTYPES)
        super().__post_init__()

    @property
    def reads(self) -> dict[str, str]:
        """The names of `given` that the network has room for, and its arguments for them."""
        room = {"label": ("label", self.classes), "y": ("condition", self.condition), "gap": ("gap", self.gap)}
        return {name: argument for name, (argument, has) in room.items() if has}

    @nn.compact
    def __call__(
        self,
        x: Array,
        c: Array,
        label: Array | None = None,
        train: bool = False,
        condition: Array | None = None,
        gap: Array | None = None,
    ) -> Array:
        if x.ndim <= jnp.ndim(c):
            raise ValueError(f"the MLP takes vectors (d,), or (L, C), ..., got {x.shape}, c of shape {jnp.shape(c)}.")
        batch, shape = x.shape[: jnp.ndim(c)], x.shape[jnp.ndim(c) :]
        dtype = jnp.dtype(self.dtype)
        embed = Embedding(self.width, self.classes, kind=self.embedding, augment=self.gap, name="embedding")
        embedding = embed(c, label, gap)
        seen = with_condition(x, condition, self.condition).reshape(*batch, -1)
        h = Dense(self.width, dtype=dtype, name="in")(seen.astype(dtype))
        for i in range(self.depth):
            y = nn.silu(Norm(0, name=f"norm_{i}")(h, embedding)).astype(dtype)
            y = nn.silu(Dense(self.width, dtype=dtype, name=f"dense_{i}_0")(y))
            y = nn.Dropout(self.dropout, deterministic=not train)(y)
            h = h + Dense(self.width, dtype=dtype, kernel_init=ZEROS, name=f"dense_{i}_1")(y)
        h = nn.silu(Norm(0, name="norm_out")(h))
        maps = Dense(math.prod(shape) * self.outputs, kernel_init=ZEROS, name="out")(h)
        parts = jnp.split(maps, self.outputs, -1) if len(shape) > 1 else [maps]
        return jnp.concatenate([part.reshape(*batch, *shape) for part in parts], -1) if len(shape) > 1 else maps
