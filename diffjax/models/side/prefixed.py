"""Prefixes: learned keys and values beside those of a frozen base's attention (Li & Liang 2021; kexue 9138).

    O = softmax(Q K^T / sqrt(D)) V + tanh(g) softmax(Q P_k^T / sqrt(D)) P_v,     P_k, P_v (m, heads, D),  g = 0 first,

one gate g for each head (the form of Zhang et al. 2023b, LLaMA-Adapter). P_k ~ N(0, 1) and P_v ~ N(0, 1 / D) at first.
m keys and values in one softmax with those of the layer, as published, take mass at once, whatever their values: O is
then (1 - l) times the base's and l times the prefix's, l their share (He et al. 2022). Two softmaxes and a gate begin
at the base; at the first step dP = 0 and dg != 0. Keys here have no position: rotated queries see them as they are.

P-tuning (Liu et al. 2021), learned tokens at the input alone, is not here: its tokens are in every softmax of all
layers, which no zero of theirs undoes, so that it does not begin at the base, and a U-Net has no tokens to put them by.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from diffjax.models import layers
from diffjax.models.network import Network
from diffjax.models.side.base import Call, Kind, Site, at, chosen, joined, nested, of_module, sided
from diffjax.types import Array, Key, PyTree

__all__ = ["prefix"]


@of_module
def prefix(base: Any, tokens: int = 4, where: str = "", classes: int | None = None, hint: int = 0) -> Network:
    """Makes the network of a base with learned keys and values at its attention.

    Args:
        base: a linen module, or a spec of one of `models`.
        tokens: m, keys and values of each layer.
        where: regular expression on the paths of the base's attention; all of it by default.
        classes, hint: what the network is told that the base was not (`models.side.base`).

    Raises:
        ValueError: for tokens that are no positive integer, and as `sided`; in `init`, for a pattern that no attention
            has, or a base without any.
    """
    layers.check_counts(tokens=tokens)

    def picked(sites: dict[str, Site]) -> dict[str, Site]:
        return chosen(sites, where, lambda site: isinstance(site.module, layers.Attend), "attention", "")

    def init(key: Key, sites: dict[str, Site], params: PyTree) -> PyTree:
        def one(i: int, site: Site) -> dict[str, Array]:
            _, heads, width = site.args[0].shape[-3:]
            draw = lambda n, size: jax.random.normal(jax.random.fold_in(key, 2 * i + n), size, jnp.float32)
            size = (tokens, heads, width)
            return {"keys": draw(0, size), "values": draw(1, size) / math.sqrt(width), "gate": jnp.zeros((heads,))}

        return nested({path: one(i, site) for i, (path, site) in enumerate(picked(sites).items())})

    def act(params: PyTree, call: Call) -> Array:
        def hook(own: dict[str, Array]) -> Any:
            def attend(call: Any, module: nn.Module, q: Array, k: Array, v: Array, *rest: Any) -> Array:
                y = call(q, k, v, *rest)
                lead = lambda p: jnp.broadcast_to(p, (*q.shape[:-3], *p.shape)).astype(q.dtype)
                more = layers.attention(q, lead(own["keys"]), lead(own["values"]))
                gate = layers.of_rank(jnp.tanh(own["gate"])[:, None], y.ndim)
                return y + (gate * more.astype(jnp.float32)).astype(y.dtype)  # (side.5)

            return attend

        own = {path: hook(at(params, path)) for path in picked(call.sites)}
        return call.run(call.base, joined(call.told, own))

    return sided(base, Kind("prefixes", picked, init, act), classes, hint)
