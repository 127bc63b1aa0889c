"""Diffusion transformers: DiT (Peebles & Xie 2023) and JiT (Li & He 2025), of patches of an image as tokens.

An image (H, W, C) is cut into patches of p x p pixels, T = H W / p^2 tokens of p^2 C entries (`places.space_to_depth`),

    y = P(patches) + positions,     y through `depth` blocks (`models.blocks`),     F = unpatch(W (N(y) (1 + a) + b)),

where e, the embedding of the log-SNR and of the label, modulates every block, and a, b are affine in e. W, a, b and the
blocks' gates are 0 at first: F is 0, and every block the identity. P is affine, or, in JiT, passes a bottleneck of few
entries. JiT also puts tokens of the label before the others from some block on, which are not rotated, and predicts x_0
whatever the loss is stated in (`losses.weights.velocity`). SiT (Ma et al. 2024) is a DiT whose target is the velocity.
What else the network may be told, a text, a vector, an image, is `models.text`.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from diffjax import host
from diffjax.models import layers
from diffjax.models.blocks import KERNELS, MLPS, NORMS, Block, modulation, normed
from diffjax.models.layers import DTYPES, EMBEDDINGS, ZEROS, Dense, Embedding, of_rank
from diffjax.models.places import depth_to_space, space_to_depth
from diffjax.models.positions import angles, sincos
from diffjax.models.text import ABSENT, Told, flagged, null_text
from diffjax.types import Array, PyTree

POSITIONS = ("sincos", "rotary", "both", "learned", "none")


class Size(NamedTuple):
    """The sizes that a preset names; JiT alone has the last three: bottleneck, tokens of the label, their block."""

    depth: int
    width: int
    heads: int
    bottleneck: int
    prefix: int
    prefix_from: int


PRESETS = {
    "tiny": Size(4, 64, 4, 16, 4, 1),  # tiny, mini and small: for CPUs, ours
    "mini": Size(4, 96, 4, 24, 4, 1),
    "small": Size(4, 128, 4, 32, 4, 1),
    "S": Size(12, 384, 6, 128, 32, 4),  # S, B, L, XL of DiT and SiT; B, L, H of JiT, whose part of S and XL is ours
    "B": Size(12, 768, 12, 128, 32, 4),
    "L": Size(24, 1024, 16, 128, 32, 8),
    "XL": Size(28, 1152, 16, 256, 32, 9),
    "H": Size(32, 1280, 16, 256, 32, 10),
}

# What devices of the mesh's axis `tensor` share of a block (Shoeybi et al. 2019, 3): columns (-1) of the layers that
# make queries, keys, values and hidden entries, rows (-2) of those that follow: one sum over devices ends each part.
TENSOR = (("qkv/(kernel|bias)", -1), ("out/kernel", -2), ("up/(kernel|bias)", -1), ("down/kernel", -2))
TENSOR_CROSS = (("(query|told)/(kernel|bias)", -1), ("out/kernel", -2))  # of what a text is read by
WITHOUT_HEADS = ("up/(kernel|bias)", "down/kernel")  # all others have columns or rows head by head


class DiT(nn.Module):
    """The transformer of patches. `DiT(preset="XL", patch=2, classes=1000, outputs=2)` is the published DiT-XL/2.

    Called as `dit(x, c, label=None, train=False, augment=None, condition=None, gap=None, text=None, vector=None,
    image=None)` with x an image (H, W, C), a sequence (L, C) or a volume (D, H, W, C): patches have as many axes as
    there are places. c is the scalar log-SNR (may be infinite), label an integer scalar, `classes` or None for "no
    label"; augment, condition and gap are those of `UNet`; text, vector and image, of x's places, are those of
    `models.text`. Returns F of x's shape, with `outputs` times its channels, float32, zero at initialisation.

    Attributes:
        preset: names depth, width, heads, and what of JiT is None: tiny, mini, small (for CPUs), S, B, L, XL, H.
        patch: pixels of a patch on each axis.
        depth: number of blocks; None, as of the next two: the preset's.
        width: channels of a token.
        heads: of the attention, a divisor of the width.
        classes: number of labels; None for an unconditional network.
        positions: sincos (fixed, added), learned (added), rotary (queries and keys), both (sincos and rotary); none.
        norm: layer, without parameters, or rms, with a scale.
        mlp: gelu, of 4 times the width, or swiglu, of two thirds of that.
        qk_norm: whether queries and keys are normalised per head.
        bottleneck: entries that a patch passes on its way to a token; 0: none; None: the preset's.
        prefix: tokens of the label put before the others, which are not rotated; None: the preset's. Without classes
            they are learned alone.
        prefix_from: the block that they enter at, counted from 0; None: the preset's.
        urpe: multiply the softmax by a learned factor for each offset of places and head (`models.blocks`).
        dropout: its rate, inside the blocks, only where train is True (rng "dropout").
        outputs: maps of x's shape that are returned, one after the other in the channels (2: F and a variance).
        embedding: of the log-SNR: positional, fourier or angle; features: their number.
        augment: entries of the augmentation label (`data.augment`); 0 for a network that takes none.
        gap: entries of the vector that says how far in time to go (`denoisers.flow_map`), 17; 0: a network of one time.
        condition: channels of the image that enters beside x; 0 for a network that takes none.
        text: (V, L): tokens, of which 0 is padding and 1 "no text", and places of a text; () for a network of none.
        text_depth: blocks of its encoder; text_order: whether the order of tokens is told.
        vector: entries of a vector; 0 for a network that takes none.
        image: channels of an image that enters beside x and may be absent; 0 for a network that takes none.
        kernel: of the attention: einsum, or fused: cuDNN's on a GPU in bfloat16, XLA's elsewhere (`blocks.fused`).
        scan: compile one block for all, with stacked parameters (`stacked`, `unstacked`): shorter to compile, on a CPU
            a quarter slower. `train.only` then cannot name one block.
        remat: recompute each block on the way back instead of storing it: less memory, a third more time.
        dtype: of the products, float32 or bfloat16; parameters, sums, norms, rotations, softmax, output are float32.

    Raises:
        ValueError: for an attribute out of its range, an unknown preset, an image that the patch does not divide, or a
            width that heads or positions do not divide.
    """

    preset: str = "tiny"
    patch: int = 2
    depth: int | None = None
    width: int | None = None
    heads: int | None = None
    classes: int | None = None
    positions: str = "sincos"
    norm: str = "layer"
    mlp: str = "gelu"
    qk_norm: bool = False
    bottleneck: int | None = 0
    prefix: int | None = 0
    prefix_from: int | None = 0
    urpe: bool = False
    dropout: float = 0.0
    outputs: int = 1
    embedding: str = "positional"
    features: int = 256
    augment: int = 0
    condition: int = 0
    gap: int = 0
    text: tuple[int, ...] = ()
    text_depth: int = 2
    text_order: bool = True
    vector: int = 0
    image: int = 0
    kernel: str = "einsum"
    scan: bool = False
    remat: bool = False
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            size, slash, patch = str(self.preset).rpartition("-")[2].partition("/")  # as the papers write it: DiT-B/2
            known = size in PRESETS
            way = f"preset={size}{f' with patch={patch}' * bool(slash)}" if known else host.nearest(size, PRESETS)
            raise ValueError(f"preset = {self.preset!r} is unknown: {way}.")
        _check(self)
        super().__post_init__()

    @property
    def sizes(self) -> Size:
        """The numbers of the preset, with those that were given in their place."""
        given = {name: getattr(self, name) for name in Size._fields}
        return PRESETS[self.preset]._replace(**{name: value for name, value in given.items() if value is not None})

    @classmethod
    def of_data(cls, shape: tuple[int, ...], classes: int | None, text: tuple[int, ...] = ()) -> dict[str, Any]:
        """Chooses patch, classes and text for examples of this shape: what the word "data" stands for.

        The patch is the least of 2, 3, ... pixels that divides all axes and leaves at most 64 tokens of examples of up
        to 32 places a side, 256 of larger ones.

        Raises:
            ValueError: for examples without places, or axes that have no such divisor.
        """
        places = shape[:-1]
        most = 64 if max(places, default=0) <= 32 else 256
        fits = lambda p: all(n % p == 0 for n in places) and math.prod(n // p for n in places) <= most
        found = [p for p in range(2, min(places, default=0) + 1) if fits(p)]
        if not found:
            raise ValueError(
                f"the DiT cuts examples (H, W, C) into patches whose size divides all sides, and finds none for {shape}"
                f" that leaves at most {most}: give patch a number, or the data another size."
            )
        return {"patch": found[0], "classes": classes, "text": text}

    @property
    def reads(self) -> dict[str, str]:
        """The names of `given` that the network has room for, and its arguments for them."""
        room = {
            "label": ("label", self.classes),
            "y": ("condition", self.condition),
            "augment": ("augment", self.augment),
            "gap": ("gap", self.gap),
            "text": ("text", self.text),
            "vector": ("vector", self.vector),
            "image": ("image", self.image),
        }
        return {name: argument for name, (argument, has) in room.items() if has}

    @property
    def none(self) -> dict[str, Any]:
        """What stands for none of each that the network reads and may be without, by name in `given`."""
        text = {"text": null_text(self.text[1])} if self.text else {}
        return text | {name: ABSENT for name in ("vector", "image") if getattr(self, name)}

    @property
    def tensor(self) -> tuple[tuple[str, int, int], ...]:
        """How blocks are split over devices that share an example: rules of `sharding.split_axes`; heads stay whole."""
        of_blocks = [(rf"(^|/)blocks?_\d+/{name}$", name, axis) for name, axis in TENSOR]
        of_texts = [(rf"(^|/)cross/{name}$", name, axis) for name, axis in TENSOR_CROSS if self.text]
        heads = self.sizes.heads
        return tuple(
            (path, axis, 1 if name in WITHOUT_HEADS else heads) for path, name, axis in [*of_blocks, *of_texts]
        )

    @property
    def tells_places(self) -> bool:
        """Whether the patches of a constant image may come out different: relative positions alone cannot do that."""
        if self.positions == "rotary":  # a token that is not rotated among rotated ones reads where they are
            return self.urpe or self.sizes.prefix > 0
        return self.urpe or self.positions != "none"

    def check_shape(self, x: Array, c: Array) -> tuple[int, ...]:
        """Gives the number of patches on each axis of an example; raises a ValueError unless the patch divides them."""
        places = x.shape[jnp.ndim(c) : -1]
        if not places:
            raise ValueError(
                "the DiT takes images (H, W, C), sequences (L, C) or volumes (D, H, W, C), got shape "
                f"{x.shape} with c of shape {jnp.shape(c)}."
            )
        if any(n % self.patch for n in places):
            size, fits = "x".join(map(str, places)), [p for p in range(1, 65) if not any(n % p for n in places)]
            raise ValueError(
                f"patch = {self.patch} does not divide the sides of an example {size}: take one of "
                f"{', '.join(map(str, fits))}, or another size."
            )
        return tuple(n // self.patch for n in places)

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
        text: Array | None = None,
        vector: Array | None = None,
        image: Array | None = None,
    ) -> Array:
        shape, batch = self.check_shape(x, c), x.shape[: jnp.ndim(c)]
        rank, size, width, normal = len(shape), self.sizes, self.sizes.width, nn.initializers.normal(1.0)
        dtype = jnp.dtype(self.dtype)
        channels = x.shape[-1] * self.patch**rank * self.outputs
        seen = layers.with_condition(x, condition, self.condition)
        if self.image:
            seen = jnp.concatenate([seen, flagged(image, (*x.shape[:-1], self.image), rank + 1)], -1)
        x = space_to_depth(seen, self.patch, rank)
        embed = Embedding(width, self.classes, self.features, self.embedding, self.augment, self.gap, name="embedding")
        reader = Told(width, self.text, self.vector, self.text_depth, size.heads, self.text_order, dtype, name="told")
        joined, beside = reader(batch, text, vector)
        e, own = embed.apart(c, label, augment, gap, joined)

        h = x.reshape(*batch, math.prod(shape), -1).astype(dtype)
        if size.bottleneck:
            h = Dense(size.bottleneck, use_bias=False, dtype=dtype, name="bottleneck")(h)  # (dit.6)
        h = Dense(width, dtype=dtype, name="patch")(h).astype(jnp.float32)
        if self.positions in ("sincos", "both"):
            h = h + of_rank(jnp.asarray(sincos(shape, width)), h.ndim)
        if self.positions == "learned":
            h = h + of_rank(self.param("place", normal, h.shape[-2:], jnp.float32), h.ndim)
        turns = jnp.asarray(angles(shape, width // size.heads)) if self.positions in ("rotary", "both") else None

        enters = size.prefix_from if size.prefix else 0
        h = self._layers(range(enters), h, (e, turns, None, beside), shape, train)
        if size.prefix:
            places = self.param("prefix", normal, (size.prefix, width), jnp.float32)
            h = jnp.concatenate([own[..., None, :] + of_rank(places, h.ndim), h], -2)
            turns = None if turns is None else jnp.pad(turns, ((size.prefix, 0), (0, 0)))
        told = (e, turns, None, beside)
        h = self._layers(range(enters, size.depth), h, told, shape, train)[..., size.prefix :, :]

        shift, scale = modulation(e, width, 2)
        y = normed(self.norm, "norm_out", h) * (1 + scale) + shift
        # In float32 whatever the compute dtype: what bfloat16 rounds here stays in the sample.
        y = Dense(channels, kernel_init=ZEROS, name="out")(y).reshape(*batch, *shape, channels)  # (dit.2)
        parts = jnp.split(y, self.outputs, -1)  # map after map, whatever the patch: `finetune` adds maps at the end
        return jnp.concatenate([depth_to_space(part, self.patch, rank) for part in parts], -1)

    def _layers(self, numbers: range, h: Array, told: tuple, shape: tuple[int, ...], train: bool) -> Array:
        """The blocks of these numbers, told what `Block` takes, one after the other, or scanned as one stack."""
        cls: Any = nn.remat(Block, prevent_cse=not self.scan) if self.remat else Block
        table = shape if self.urpe else ()
        make = lambda name: cls(
            self.sizes.heads,
            self.dropout,
            jnp.dtype(self.dtype),
            self.norm,
            self.mlp,
            self.qk_norm,
            self.kernel,
            table,
            train,
            name=name,
        )
        if not self.scan:
            for i in numbers:
                h = make(f"block_{i}")(h, *told)
        elif numbers:
            step = nn.scan(
                lambda block, h, told: (block(h, *told), None),
                variable_axes={"params": 0},
                split_rngs={"params": True, "dropout": True},
                in_axes=nn.broadcast,  # pyright: ignore[reportArgumentType]
                length=len(numbers),
            )
            h, _ = step(make(f"blocks_{numbers.start}"), h, told)
        return h


class JiT(DiT):
    """The `DiT` with the parts of JiT (Li & He 2025): `JiT(preset="B", patch=16, classes=1000)` is JiT-B/16.

    Sines and cosines and rotations, RMS norms, normalised queries and keys, SwiGLU, a bottleneck, tokens of the label.
    Its target is `X0`, its weight `velocity`. Attributes are those of `DiT`.
    """

    positions: str = "both"
    norm: str = "rms"
    mlp: str = "swiglu"
    qk_norm: bool = True
    bottleneck: int | None = None
    prefix: int | None = None
    prefix_from: int | None = None


def _check(net: DiT) -> None:
    """Raises a ValueError that names the first attribute out of its range."""
    size = net.sizes
    counts = {f: getattr(net, f) for f in ("patch", "outputs", "features")}
    optional = {f: getattr(net, f) for f in ("augment", "condition", "gap", "vector", "image")}
    if net.text and (len(net.text) != 2 or not host.is_int(net.text[0], 3) or not host.is_int(net.text[1], 1)):
        raise ValueError(f"text = {net.text!r}: expected (V, L), tokens, of which 0 and 1 are no words, and places.")
    layers.check_counts(text_depth=net.text_depth)
    optional |= {f: getattr(size, f) for f in ("bottleneck", "prefix", "prefix_from")}
    layers.check_counts(**counts, depth=size.depth, width=size.width, heads=size.heads)
    layers.check_counts(**{f: v for f, v in optional.items() if v}, classes=1 if net.classes is None else net.classes)
    layers.check_rate("dropout", net.dropout)
    for field, choices in (
        ("positions", POSITIONS),
        ("norm", NORMS),
        ("mlp", MLPS),
        ("embedding", EMBEDDINGS),
        ("kernel", KERNELS),
        ("dtype", DTYPES),
    ):
        layers.check_choice(field, getattr(net, field), choices)
    if size.width % size.heads:
        fits = ", ".join(str(n) for n in range(1, size.width // 4 + 1) if size.width % n == 0)
        raise ValueError(
            f"heads = {size.heads} does not divide the width {size.width}: take one of {fits}, or another width."
        )
    if size.prefix and size.prefix_from >= size.depth:
        raise ValueError(f"prefix_from = {size.prefix_from}: expected less than depth = {size.depth}.")
    if net.urpe and net.kernel == "fused":
        raise ValueError("urpe multiplies the softmax, which a fused kernel does not show: set kernel to einsum.")


def stacked(params: PyTree, prefix_from: int = 0) -> PyTree:
    """Makes the parameters of a `DiT` with scan=True of those of one without: block_0, ... become stacks.

    Args:
        prefix_from: the network's, where tokens of the label enter; 0 without them.
    """
    whole = {name: part for name, part in params.items() if not name.startswith("block_")}
    depth = len(params) - len(whole)
    for start, end in ((0, prefix_from), (prefix_from, depth)):
        if start < end:
            each = [params[f"block_{i}"] for i in range(start, end)]
            whole[f"blocks_{start}"] = jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)
    return whole


def unstacked(params: PyTree) -> PyTree:
    """Makes the parameters of a `DiT` without scan of those of one with scan=True: inverts `stacked`."""
    whole = {name: part for name, part in params.items() if not name.startswith("blocks_")}
    for name in params.keys() - whole.keys():
        for i in range(jax.tree.leaves(params[name])[0].shape[0]):
            block = f"block_{int(name.removeprefix('blocks_')) + i}"
            whole[block] = jax.tree.map(lambda leaf, i=i: leaf[i], params[name])
    return whole
