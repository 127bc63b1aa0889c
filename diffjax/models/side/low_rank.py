"""LoRA: a change of low rank beside kernels of a frozen base (Hu et al. 2021; kexue 9138).

A kernel W of d_out outputs, as a matrix of all its other axes (places too, in a convolution) by d_out, becomes

    W + s A B,     A (d_in, r) ~ N(0, 1 / d_in),  B (r, d_out) = 0 at first,     s = gamma / r, or gamma / sqrt(r),

the second of rank-stabilised LoRA (Kalajdzievski 2023): of entries of size 1, A B grows as sqrt(r). It is computed as
x W + s (x A) B, so that W has no gradient and x A, of r entries, is what the way back needs. At the first step dA = 0
and dB != 0. `merged` gives W + s A B, in float32: a change below 2^-8 of W would be lost in bfloat16.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from diffjax import host
from diffjax.models.network import Network
from diffjax.models.side.base import Call, Kind, Site, at, chosen, joined, nested, of_module, sided
from diffjax.types import Array, Key, PyTree

__all__ = ["lora"]

KERNELS = "/(qkv|out|conv_0|conv_1)$"  # of the blocks and the attention of DiT and U-Net


@of_module
def lora(
    base: Any,
    rank: int = 4,
    where: str = KERNELS,
    gamma: float = 4.0,
    stabilised: bool = False,
    classes: int | None = None,
    hint: int = 0,
) -> Network:
    """Makes the network of a base whose kernels have a change of low rank.

    Args:
        base: a linen module, or a spec of one of `models`.
        rank: r of every change.
        where: regular expression on the paths of the base's dense layers and convolutions.
        gamma: of the factor s before A B.
        stabilised: whether s is gamma / sqrt(rank), else gamma / rank.
        classes, hint: what the network is told that the base was not (`models.side.base`).

    Raises:
        ValueError: for rank < 1, a gamma that is no positive number, a stabilised that is no bool, and as `sided`; in
            `init`, for a rank above a kernel's shorter side, or a pattern that no kernel has.
    """
    if not host.is_int(rank, 1):
        raise ValueError(f"rank is {rank!r}, expected an integer of at least 1.")
    host.check_positive("gamma", gamma, ": the factor of a change is gamma / rank")
    if not isinstance(stabilised, bool):
        raise ValueError(f"stabilised is {stabilised!r}, expected True or False.")
    factor = scale(rank, gamma, stabilised)

    def kernels(sites: dict[str, Site]) -> dict[str, Site]:
        return chosen(sites, where, lambda site: isinstance(site.module, nn.Dense | nn.Conv), "kernel", KERNELS)

    def check(sites: dict[str, Site]) -> None:
        for path, site in kernels(sites).items():
            d_in, d_out = _size(site)
            if rank > min(d_in, d_out):
                raise ValueError(
                    f"rank is {rank}, but the kernel of {path} is a matrix of {d_in} x {d_out}: expected at most "
                    f"{min(d_in, d_out)}, or a `where` without it."
                )

    def init(key: Key, sites: dict[str, Site], params: PyTree) -> PyTree:
        def change(i: int, path: str) -> dict[str, Array]:
            kernel = at(params, path)["kernel"]
            *lead, out = kernel.shape
            a = jax.random.normal(jax.random.fold_in(key, i), (*lead, rank), jnp.float32)
            return {"A": a / math.sqrt(math.prod(lead)), "B": jnp.zeros((rank, out), jnp.float32)}

        return nested({path: change(i, path) for i, path in enumerate(kernels(sites))})

    def act(params: PyTree, call: Call) -> Array:
        def hook(path: str) -> Any:
            change = at(params, path)

            def changed(call: Any, module: nn.Module, x: Array) -> Array:
                y = call(x)
                narrow = module.clone(parent=None, name=None, features=rank, use_bias=False)  # pyright: ignore
                low: Any = narrow.apply({"params": {"kernel": change["A"]}}, x)
                return y + (factor * jnp.matmul(low, change["B"].astype(low.dtype))).astype(y.dtype)  # (side.2)

            return changed

        return call.run(call.base, joined(call.told, {path: hook(path) for path in kernels(call.sites)}))

    def merge(params: PyTree, base: PyTree) -> PyTree:
        def whole(node: PyTree, change: PyTree) -> PyTree:
            if "A" in change and "kernel" in node:
                kernel = jnp.asarray(node["kernel"], jnp.float32)
                product = jnp.matmul(change["A"], change["B"], precision="highest")
                return {**node, "kernel": kernel + factor * product}  # (side.3)
            return {**node, **{name: whole(node[name], part) for name, part in change.items()}}

        return whole(base, params)

    return sided(base, Kind("lora", check, init, act, merge, text=f"s = {factor:.6g}"), classes, hint)


def scale(rank: int, gamma: float, stabilised: bool) -> float:
    """Computes the factor s before A B: gamma / rank, or gamma / sqrt(rank)."""
    return gamma / (math.sqrt(rank) if stabilised else rank)


def _size(site: Site) -> tuple[int, int]:
    """Rows and columns of a layer's kernel as a matrix."""
    module: Any = site.module
    d_in = site.args[0].shape[-1]
    places = getattr(module, "kernel_size", ())
    places = (places,) if isinstance(places, int) else places
    return d_in * math.prod(places), module.features
