"""A plain perceptron from any shape to any shape: critics, generators, encoders, decoders."""

import math
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from diffjax.models.layers import DTYPES, UNIFORM, Dense, check_choice, check_counts
from diffjax.types import Array

WEIGHTS = {"glorot": UNIFORM, "lecun": nn.initializers.lecun_normal()}  # of variance 2 / (n + m) and 1 / n


class Perceptron(nn.Module):
    """A plain network of dense layers and silu, on x flattened; without time, labels, norms or dropout.

    Called as `perceptron(x, c, label=None, train=False)`; c says only how many leading axes are of a batch. Returns F
    of the given shape, float32.

    Attributes:
        shape: of F; None: that of x; (): one number.
        width: of every hidden layer.
        depth: number of hidden layers; 0 for an affine map.
        weights: how they begin, a name of `WEIGHTS`. Of two inputs and 128 outputs glorot's first layer is 0.18 times
            lecun's, and the network smooth for long: a critic that has to tell modes apart wants lecun.
        dtype: of the computation, float32 or bfloat16; parameters are float32.

    Raises:
        ValueError: for an attribute out of its range.
    """

    shape: tuple[int, ...] | None = None
    width: int = 128
    depth: int = 2
    weights: str = "glorot"
    dtype: str = "float32"

    def __post_init__(self) -> None:
        sizes = {f"shape[{i}]": size for i, size in enumerate(self.shape or ())}
        check_counts(width=self.width, depth=self.depth if self.depth != 0 else 1, **sizes)
        check_choice("dtype", self.dtype, DTYPES)
        check_choice("weights", self.weights, tuple(WEIGHTS))
        super().__post_init__()

    @staticmethod
    def of_data(shape: tuple[int, ...], classes: int | None) -> dict[str, Any]:
        """Chooses the shape of F, that of examples: what the word "data" stands for."""
        return {"shape": tuple(shape)}

    @nn.compact
    def __call__(self, x: Array, c: Array, label: Array | None = None, train: bool = False) -> Array:
        batch, dtype = x.shape[: jnp.ndim(c)], jnp.dtype(self.dtype)
        shape = x.shape[jnp.ndim(c) :] if self.shape is None else self.shape
        h = x.reshape(*batch, -1).astype(dtype)
        init = WEIGHTS[self.weights]
        for i in range(self.depth):
            h = nn.silu(Dense(self.width, dtype=dtype, kernel_init=init, name=f"dense_{i}")(h))
        h = Dense(math.prod(shape), kernel_init=init, name="out")(h.astype(jnp.float32))
        return h.reshape(*batch, *shape)
