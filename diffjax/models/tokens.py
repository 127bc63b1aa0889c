"""Networks of tokens made of those of real numbers: a perceptron of all embeddings, a U-Net of a grid of them."""

import math

from flax import linen as nn

from diffjax.models.layers import Dense, check_counts
from diffjax.models.mlp import MLP
from diffjax.models.transformer import places_of
from diffjax.models.unet import UNet
from diffjax.types import Array


class TokenMLP(nn.Module):
    """A network of tokens: each one's embedding, `MLP` over all of them as one vector, a dense layer to the logits.

    Called as `net(x, c, label=None, train=False)` with x (L,) integers 0 .. vocabulary, where `vocabulary` stands for a
    hidden token, or x of more axes, which are flattened; c and label are those of `MLP` (a masked model is told no
    time: c = 0). Returns logits (*shape of x, vocabulary), float32, zero at initialisation: every token is equally
    probable.

    Its parameters grow with the places times the embedding's size: for tens of tokens, not for thousands.

    Attributes:
        vocabulary: V, the number of tokens without the hidden one.
        size: of a token's embedding.
        width, depth, classes, dropout, dtype: of the `MLP`.

    Raises:
        ValueError: for an attribute out of its range, or an x that is not of integers, or has no axis.
    """

    vocabulary: int
    size: int = 16
    width: int = 128
    depth: int = 2
    classes: int | None = None
    dropout: float = 0.0
    dtype: str = "float32"

    def __post_init__(self) -> None:
        check_counts(vocabulary=self.vocabulary, size=self.size, width=self.width, depth=self.depth)
        super().__post_init__()

    @property
    def reads(self) -> dict[str, str]:
        """The names of `given` that the network has room for, and its arguments for them."""
        return {"label": "label"} if self.classes else {}

    @nn.compact
    def __call__(self, x: Array, c: Array, label: Array | None = None, train: bool = False) -> Array:
        batch, shape = places_of("TokenMLP", x, c)
        told = nn.Embed(self.vocabulary + 1, self.size, embedding_init=nn.initializers.normal(1.0), name="token")(x)
        trunk = MLP(self.width, self.depth, self.classes, self.dropout, dtype=self.dtype, name="trunk")
        h = trunk(told.reshape(*batch, -1), c, label, train)
        logits = Dense(math.prod(shape) * self.vocabulary, name="out")(h)
        return logits.reshape(*x.shape, self.vocabulary)


class TokenUNet(nn.Module):
    """A network of tokens on a grid: each one's embedding of V entries enters a `UNet`, its V channels are the logits.

    Called as `net(x, c, label=None, train=False)` with x (L,), (H, W) or (D, H, W) integers 0 .. vocabulary, where
    `vocabulary` stands for a hidden token; last axes of length 1, as of pictures (H, W, 1), are none of places. c and
    label are those of `UNet` (a masked model is told no time: c = 0). Returns logits (*shape of x, vocabulary),
    float32, zero at initialisation: every token is equally probable.

    Attributes:
        vocabulary: V, the number of tokens without the hidden one.
        channels, multipliers, blocks, attention, head_width, classes, dropout, dtype: of the `UNet`.

    Raises:
        ValueError: for an attribute out of its range, an x that is not of integers, or places that the strides do not
            divide.
    """

    vocabulary: int
    channels: int = 32
    multipliers: tuple[int, ...] = (1, 2)
    blocks: int = 1
    attention: tuple[int, ...] = (4,)
    head_width: int | None = None
    classes: int | None = None
    dropout: float = 0.0
    dtype: str = "float32"

    def __post_init__(self) -> None:
        check_counts(vocabulary=self.vocabulary)
        super().__post_init__()

    @property
    def reads(self) -> dict[str, str]:
        """The names of `given` that the network has room for, and its arguments for them."""
        return {"label": "label"} if self.classes else {}

    @nn.compact
    def __call__(self, x: Array, c: Array, label: Array | None = None, train: bool = False) -> Array:
        batch, shape = places_of("TokenUNet", x, c)
        while len(shape) > 1 and shape[-1] == 1:
            shape = shape[:-1]
        init = nn.initializers.normal(1.0)
        h = nn.Embed(self.vocabulary + 1, self.vocabulary, embedding_init=init, name="token")(x.reshape(*batch, *shape))
        trunk = UNet(
            channels=self.channels,
            multipliers=self.multipliers,
            blocks=self.blocks,
            attention=self.attention,
            head_width=self.head_width,
            classes=self.classes,
            dropout=self.dropout,
            dtype=self.dtype,
            name="trunk",
        )
        return trunk(h, c, label, train).reshape(*x.shape, self.vocabulary)
