"""A control net: a trained copy of a frozen base's encoder, whose features are added to the base's (Zhang et al. 2023).

With h_i the base's feature maps at some layers, E' the copy up to the last of them, and Z all 0 at first,

    h_i becomes h_i + E'_i(x, hint, label) Z_i.

The copy's parameters are W + d, W the base's and d = 0 at first: it starts at whatever run the base starts at, and
weight decay on d pulls to the base. At the first step Z alone has a gradient, from the second on the copy and what it
is told of too. A U-Net has them at its skips and in the middle, a transformer behind its blocks.
"""

import contextlib
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from diffjax.models.network import Network
from diffjax.models.side.base import Call, Kind, Site, adding, chosen, joined, nested, of_module, sided
from diffjax.types import Array, Key, PyTree

__all__ = ["control"]

FEATURES = r"^(skip_\d+|middle_1|block_\d+)$"


class _Enough(Exception):
    """The copy has made its last feature map: what stands behind it is not traced."""


@of_module
def control(base: Any, where: str = FEATURES, classes: int | None = None, hint: int = 0) -> Network:
    """Makes the network of a base with a trained copy of its first layers.

    Args:
        base: a linen module, or a spec of one of `models`.
        where: regular expression on the paths of the layers whose results are added to; the copy ends behind the last.
        classes, hint: what the copy is told that the base was not; the base itself hears nothing of it.

    Raises:
        ValueError: as `sided`; in `init`, for a pattern that no layer has.
    """

    def picked(sites: dict[str, Site]) -> dict[str, Site]:
        return chosen(sites, where, lambda site: hasattr(site.out, "shape"), "layer", FEATURES)

    def init(key: Key, sites: dict[str, Site], params: PyTree) -> PyTree:
        found = picked(sites)
        zeros = lambda d: jnp.zeros((d, d), jnp.float32)
        homes = list(found.values())[-1].entered
        flat = {"/".join(str(key.key) for key in path): leaf for path, leaf in _leaves(params)}
        copied = {path: jnp.zeros_like(leaf) for path, leaf in flat.items() if path.rpartition("/")[0] in homes}
        return {"copy": nested(copied), "zeros": {path: zeros(site.out.shape[-1]) for path, site in found.items()}}

    def act(params: PyTree, call: Call) -> Array:
        found, made = picked(call.sites), {}
        last = list(found)[-1]

        def copying(path: str) -> Any:
            def hook(run: Any, module: nn.Module, *args: Any) -> Array:
                made[path] = run(*args)
                if path == last:
                    raise _Enough
                return made[path]

            return hook

        with contextlib.suppress(_Enough):
            call.run(_moved(call.base, params["copy"]), joined(call.told, {path: copying(path) for path in found}))
        add = lambda path: lambda y: jnp.matmul(made[path], params["zeros"][path].astype(made[path].dtype))  # (side.8)
        return call.run(call.base, {path: adding(add(path)) for path in found})

    return sided(base, Kind("control", picked, init, act), classes, hint)


def _leaves(tree: PyTree) -> list[tuple[Any, Array]]:
    return jax.tree_util.tree_leaves_with_path(tree)


def _moved(base: PyTree, change: PyTree) -> PyTree:
    """The copy's parameters: the base's, moved where there is a change."""
    if not isinstance(change, dict):
        return base + change
    return {name: _moved(part, change[name]) if name in change else part for name, part in base.items()}
