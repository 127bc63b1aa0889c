"""Adapters: a narrow perceptron behind blocks of a frozen base (Houlsby et al. 2019; kexue 9138).

    h + silu(h W_1) W_2,     W_1 (d, m) ~ N(0, 1 / d),  W_2 (m, d) = 0 at first,

behind every block, its residual branch added: behind a branch that is zero at first an adapter would see zeros. At the
first step dW_1 = 0 and dW_2 != 0. No kernel of the base computes this: an adapter cannot be merged.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from diffjax.models import layers
from diffjax.models.network import Network
from diffjax.models.side.base import Call, Kind, Site, adding, at, chosen, joined, nested, of_module, sided
from diffjax.types import Array, Key, PyTree

__all__ = ["adapter"]

BLOCKS = r"^(block|encode|down|middle|decode|up)_[^/]*$"  # of DiT and U-Net, its attention too


@of_module
def adapter(base: Any, width: int = 8, where: str = BLOCKS, classes: int | None = None, hint: int = 0) -> Network:
    """Makes the network of a base with adapters behind layers.

    Args:
        base: a linen module, or a spec of one of `models`.
        width: m, of the hidden layer.
        where: regular expression on the paths of the base's layers.
        classes, hint: what the network is told that the base was not (`models.side.base`).

    Raises:
        ValueError: for a width that is no positive integer, and as `sided`; in `init`, for a pattern that no layer has.
    """
    layers.check_counts(width=width)

    def picked(sites: dict[str, Site]) -> dict[str, Site]:
        return chosen(sites, where, lambda site: hasattr(site.out, "shape"), "layer", BLOCKS)

    def init(key: Key, sites: dict[str, Site], params: PyTree) -> PyTree:
        def one(i: int, site: Site) -> dict[str, Array]:
            d = site.out.shape[-1]
            into = jax.random.normal(jax.random.fold_in(key, i), (d, width), jnp.float32) / math.sqrt(d)
            return {"into": into, "out": jnp.zeros((width, d), jnp.float32)}

        return nested({f"{path}/adapter": one(i, site) for i, (path, site) in enumerate(picked(sites).items())})

    def act(params: PyTree, call: Call) -> Array:
        def perceptron(own: dict[str, Array]) -> Any:
            cast = lambda w, h: w.astype(h.dtype)
            return lambda h: jnp.matmul(nn.silu(jnp.matmul(h, cast(own["into"], h))), cast(own["out"], h))  # (side.4)

        own = {path: adding(perceptron(at(params, path)["adapter"])) for path in picked(call.sites)}
        return call.run(call.base, joined(call.told, own))

    return sided(base, Kind("adapters", picked, init, act), classes, hint)
