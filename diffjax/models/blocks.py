"""The block of transformers: self-attention and a perceptron, each modulated and gated by e, what the network is told.

adaLN-zero (Peebles & Xie 2023, section 3.2), N a layer norm without parameters or an RMS norm with a scale:

    y += g_1 Attention(N(y) (1 + a_1) + b_1),     y += g_2 MLP(N(y) (1 + a_2) + b_2),     a, b, g affine in e, first 0.

Queries and keys may be normalised per head, at a scale (Henry et al. 2020; Dehghani et al. 2023): each logit is then at
most sqrt(D) scale^2, D the width of a head. The perceptron is d -> 4 d with tanh-GELU, or SwiGLU (Shazeer 2020) of two
thirds of that width. With a table of offsets (URPE, Luo et al. 2022; kexue 9105) attention is

    O = (A * C) V,     A = softmax(Q K^T / sqrt(D)),     C_ij = c of the offset i - j, per head, first 1,

whose rows need not sum to 1: rows of A do, so that of equal tokens A V makes equal ones whatever relative positions are
added to the logits. Tokens of something else, such as a text, are read by cross-attention (Vaswani et al. 2017), whose
projection is 0 at first, so that a block which is told them begins as the one which is not:

    y += W Attention(queries of N(y), keys and values of the other tokens).
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from diffjax import host
from diffjax.models import layers
from diffjax.models.layers import ONES, ZEROS, Dense, of_rank
from diffjax.models.positions import offsets, turned
from diffjax.types import Array

NORMS = ("layer", "rms")
MLPS = ("gelu", "swiglu")
KERNELS = ("einsum", "fused")


def fused(q: Array, k: Array, v: Array, mask: Array | None = None) -> Array:
    """Computes attention by one kernel of jax: cuDNN's on a GPU in bfloat16, XLA's elsewhere (`layers.attention`).

    Its softmax is in float32 also where q is float64, so that exact tests use `layers.attention`.

    Args: as of `layers.attention`; (..., T, heads, D).
    """
    batch, rest = q.shape[:-3], q.shape[-3:]
    q, k, v = (a.reshape(math.prod(batch), *rest) for a in (q, k, v))
    by = "cudnn" if host.platform() == "gpu" and q.dtype == jnp.bfloat16 else "xla"
    mask = None if mask is None else of_rank(mask, 4)
    return jax.nn.dot_product_attention(q, k, v, mask=mask, implementation=by).reshape(*batch, *rest)


class Scaled(nn.Module):
    """The RMS norm over the last axis times a scale, a parameter that is 1 at first; float32."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        return layers.rms_norm(x) * of_rank(self.param("scale", ONES, (x.shape[-1],), jnp.float32), x.ndim)


def normed(norm: str, name: str, x: Array) -> Array:
    """Normalises x (..., C) inside a module: a layer norm without parameters, or `Scaled` under this name."""
    return layers.layer_norm(x) if norm == "layer" else Scaled(name=name)(x)


def modulation(e: Array, channels: int, count: int) -> list[Array]:
    """Computes `count` vectors (..., 1, channels) inside a module, affine in e, 0 at first: shifts, scales, gates."""
    table = Dense(count * channels, kernel_init=ZEROS, name="modulation")(e)[..., None, :]
    return jnp.split(table, count, axis=-1)


class CrossAttention(nn.Module):
    """What (..., T, C) reads of other tokens (..., L, E): 0 at initialisation, whatever those are.

    Called as `read(h, beside, seen)` with seen (..., L), True where a token may be seen, at least one for each example;
    what is not seen changes nothing.

    Attributes:
        heads, dtype, norm, qk_norm: as of `Block`.
    """

    heads: int
    dtype: Any = jnp.float32
    norm: str = "layer"
    qk_norm: bool = False

    @nn.compact
    def __call__(self, h: Array, beside: Array, seen: Array) -> Array:
        channels = h.shape[-1]
        split = lambda a: a.reshape(*a.shape[:-1], self.heads, -1)
        y = normed(self.norm, "norm", h).astype(self.dtype)
        q = split(Dense(channels, dtype=self.dtype, name="query")(y))
        told = Dense(2 * channels, dtype=self.dtype, name="told")(beside.astype(self.dtype))
        k, v = (split(a) for a in jnp.split(told, 2, axis=-1))
        if self.qk_norm:
            q, k = Scaled(name="norm_q")(q).astype(self.dtype), Scaled(name="norm_k")(k).astype(self.dtype)
        y = layers.Attend(name="attention")(q, k, v, seen[..., None, None, :])
        out = Dense(channels, dtype=self.dtype, kernel_init=ZEROS, name="out")
        return out(y.reshape(h.shape)).astype(h.dtype)  # (text.1)


class Block(nn.Module):
    """One block of (..., T, C), which equals its input at initialisation.

    Called as `block(h, e, turns=None, mask=None, beside=None)` with e (..., E), turns (T, head / 2) angles of the
    rotation of queries and keys, and mask (T, T), True where a query sees a key. `beside` are the arguments of a
    `CrossAttention`, which follows the self-attention. The sum h, the norms, the rotation and the softmax are float32.

    Attributes:
        heads: of the attention, a divisor of C.
        dropout: its rate on what either part adds, only where `train` is True (rng "dropout").
        dtype: of the products.
        norm: layer, without parameters, or rms, with a scale.
        mlp: gelu, of 4 C channels, or swiglu, of two thirds of that.
        qk_norm: whether queries and keys are normalised per head, before the rotation.
        kernel: einsum (`layers.attention`), or fused (`fused`), which no table goes with.
        table: number of places on each axis for a table of offsets C; () for none. Tokens before those of the places,
            of a prefix, have factors 1.
        train: whether dropout is on.
    """

    heads: int
    dropout: float = 0.0
    dtype: Any = jnp.float32
    norm: str = "layer"
    mlp: str = "gelu"
    qk_norm: bool = False
    kernel: str = "einsum"
    table: tuple[int, ...] = ()
    train: bool = False

    @nn.compact
    def __call__(
        self,
        h: Array,
        e: Array,
        turns: Array | None = None,
        mask: Array | None = None,
        beside: tuple[Array, Array] | None = None,
    ) -> Array:
        channels = h.shape[-1]
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = modulation(e, channels, 6)
        drop = nn.Dropout(self.dropout, deterministic=not self.train)

        y = (normed(self.norm, "norm_1", h) * (1 + scale_1) + shift_1).astype(self.dtype)
        qkv = Dense(3 * channels, dtype=self.dtype, name="qkv")(y)
        q, k, v = (a.reshape(*a.shape[:-1], self.heads, -1) for a in jnp.split(qkv, 3, axis=-1))
        if self.qk_norm:
            q, k = Scaled(name="norm_q")(q), Scaled(name="norm_k")(k)  # (dit.4)
        if turns is not None:
            q, k = turned(q, turns), turned(k, turns)
        q, k = q.astype(self.dtype), k.astype(self.dtype)
        told = (mask,) if self.kernel == "fused" else (mask, self._factors(h.shape[-2]))
        y = layers.Attend(fused if self.kernel == "fused" else layers.attention, name="attention")(q, k, v, *told)
        y = Dense(channels, dtype=self.dtype, name="out")(y.reshape(*y.shape[:-2], channels))
        h = h + gate_1 * drop(y).astype(h.dtype)  # (transformer.1) (dit.1)
        if beside is not None:
            h = h + drop(CrossAttention(self.heads, self.dtype, self.norm, self.qk_norm, name="cross")(h, *beside))

        y = (normed(self.norm, "norm_2", h) * (1 + scale_2) + shift_2).astype(self.dtype)
        if self.mlp == "swiglu":
            a, b = jnp.split(Dense(2 * (8 * channels // 3), dtype=self.dtype, name="up")(y), 2, axis=-1)
            y = nn.silu(a) * b  # (dit.5)
        else:
            y = nn.gelu(Dense(4 * channels, dtype=self.dtype, name="up")(y))
        y = Dense(channels, dtype=self.dtype, name="down")(y)
        return h + gate_2 * drop(y).astype(h.dtype)

    def _factors(self, size: int) -> Array | None:
        """C (heads, T, T) of the table, with rows and columns of ones for tokens before those of the places."""
        if not self.table:
            return None
        table = self.param("table", ONES, (self.heads, *(2 * n - 1 for n in self.table)), jnp.float32)
        factors = table.reshape(self.heads, -1)[:, offsets(self.table)]  # (urpe.2)
        before = size - factors.shape[-1]
        return jnp.pad(factors, ((0, 0), (before, 0), (before, 0)), constant_values=1.0)
