"""Ladder side-tuning: a narrow network that reads a frozen base's blocks (Sung, Cho & Bansal 2022; kexue 9138).

With h_1 .. h_n what n blocks of the base give, their taps,

    s_i = Block_i(g_i stop(h_i) D_i + (1 - g_i) s_{i-1}),     g_i = sigmoid(a_i / T),  T = 0.1,  a_i = 0 at first,
    h_n becomes h_n + s_n U,     U = 0 at first,

s of few channels, s_0 = Z hint or 0, Block the base's own kind of block, told stop(e) + L[label], e as the tapped block
is told it. Taps are stopped, as are the base's parameters: nothing goes back through the base but for what stands
behind its last tap, and what the way back keeps are the n taps and the narrow blocks. n, not the base's depth, is what
that memory grows with. Between taps of other sizes the state is averaged over two places a side, or repeated.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from diffjax.models import layers, places
from diffjax.models.blocks import Block
from diffjax.models.network import Network
from diffjax.models.side.base import Call, Kind, Site, chosen, of_module, sided
from diffjax.models.unet import ResidualBlock
from diffjax.types import Array, Key, PyTree

__all__ = ["ladder"]

TEMPERATURE = 0.1
BLOCKS = r"^(?!told/)"  # not those of a text encoder: tokens of a text are no places of x


@of_module
def ladder(base: Any, width: int = 8, where: str = BLOCKS, classes: int | None = None, hint: int = 0) -> Network:
    """Makes the network of a base with a ladder at its side.

    Args:
        base: a linen module of blocks, `UNet`, `DiT` or `Transformer`, or a spec of one of `models`.
        width: channels of the ladder.
        where: regular expression on the paths of the base's blocks, which ones are tapped; by default all but those of
            a text encoder (`told/`). The first one's map has as many places as enter the base, where there is a hint.
        classes, hint: what the ladder is told that the base was not; the base itself hears nothing of it.

    Raises:
        ValueError: for a width that is no positive integer, and as `sided`; in `init`, for a pattern that no block has,
            or blocks whose places are not twice, once or half as many from one tap to the next.
    """
    layers.check_counts(width=width)

    def taps(sites: dict[str, Site]) -> dict[str, Site]:
        found = chosen(sites, where, lambda site: isinstance(site.module, Block | ResidualBlock), "block", BLOCKS)
        sizes = [_places(site) for site in found.values()]
        for (path, _), before, now in zip(list(found.items())[1:], sizes, sizes[1:]):
            if not any(now == tuple(n * 2**k // 2**j for n in before) for k, j in _SIZES):
                raise ValueError(
                    f"{path} has {now} places, the tap before it {before}: no `down` or `up` between them; of a base "
                    "that puts tokens before x's (JiT's prefix) tap blocks on one side of that, by `where`."
                )
        return found

    def init(key: Key, sites: dict[str, Site], params: PyTree) -> PyTree:
        found = taps(sites)
        rungs = {}
        for i, site in enumerate(found.values()):
            d, e = site.out.shape[-1], site.args[1]
            own, down = jax.random.split(jax.random.fold_in(key, i))
            s = jnp.zeros((*site.out.shape[:-1], width), jnp.float32)
            rungs[f"rung_{i:02}"] = {
                "down": jax.random.normal(down, (d, width), jnp.float32) / math.sqrt(d),
                "gate": jnp.zeros(()),
                "block": _rung(site, width).init(own, s, jnp.zeros(e.shape, jnp.float32))["params"],
            }
        return {**rungs, "up": jnp.zeros((width, list(found.values())[-1].out.shape[-1]), jnp.float32)}

    def act(params: PyTree, call: Call) -> Array:
        found, state = taps(call.sites), {}
        last = list(found)[-1]

        def hook(i: int, path: str, site: Site) -> Any:
            own, rung = params[f"rung_{i:02}"], _rung(site, width)

            def tapped(run: Any, module: nn.Module, h: Array, e: Array, *rest: Any) -> Array:
                y = run(h, e, *rest)
                read = jnp.matmul(jax.lax.stop_gradient(y).astype(jnp.float32), own["down"])
                before = _resized(state["s"], read.shape, len(_places(site))) if state else _first(call, site, read)
                told = jax.lax.stop_gradient(e)
                told = told if call.label is None else told + call.label
                s: Any = rung.apply({"params": own["block"]}, climb(own["gate"], read, before), told)
                state["s"] = s.astype(jnp.float32)
                return y if path != last else y + jnp.matmul(state["s"], params["up"]).astype(y.dtype)  # (side.7)

            return tapped

        return call.run(call.base, {path: hook(i, path, site) for i, (path, site) in enumerate(found.items())})

    return sided(base, Kind("ladder", taps, init, act, width=width), classes, hint)


def climb(gate: Array, read: Array, before: Array) -> Array:
    """Mixes what a rung reads with the state below it: g read + (1 - g) before, g = sigmoid(gate / T)."""
    g = jax.nn.sigmoid(gate / TEMPERATURE)
    return g * read + (1 - g) * before  # (side.6)


_SIZES = ((0, 0), (1, 0), (0, 1))


def _places(site: Site) -> tuple[int, ...]:
    """Sizes of a block's map, without its channels: (T,) tokens, (H, W) places."""
    return site.out.shape[:-1]


def _rung(site: Site, width: int) -> nn.Module:
    """The ladder's own block: of the tapped one's kind, without resampling, positions, dropout."""
    module: Any = site.module
    if isinstance(module, ResidualBlock):
        return module.clone(features=width, resample=None, dropout=0.0)
    return module.clone(heads=math.gcd(module.heads, width), table=(), dropout=0.0)


def _resized(s: Array, shape: tuple[int, ...], rank: int) -> Array:
    """The state at the places of the next tap: halved, doubled or as it is."""
    now, then = s.shape[-1 - rank], shape[-1 - rank]
    return s if now == then else places.down(s, rank) if now > then else places.up(s, rank)


def _first(call: Call, site: Site, read: Array) -> Array:
    """The state below the first rung: zeros, or the hint."""
    hint = call.hint(site)
    return jnp.zeros_like(read) if hint is None else hint
