"""A frozen network with a trained one at its side: params {"base", "side"}, no loss and no loop of its own.

The base is a linen module whose layers have paths, "block_0/qkv". A side says which layers it acts on, by a regular
expression on paths, and what it puts in the place of a layer's call; the module itself stays as it is. Every side here
begins where the base stands: F is the base's, bit for bit, whatever the side's first parameters. The base's parameters
are stopped (`jax.lax.stop_gradient`), so that no gradient of them is computed, whatever is trained. An optimizer's
weight decay would move them all the same: `finetune.frozen(optimizer, "^side/")` leaves them, as train.only does.

What the base was never told enters by the side too, first at zero:

    e = e_base + L[label],     L (classes + 1, width), 0 at first       before the last silu of `layers.Embedding`
    h = h_base + Z hint,       Z (p^r channels, width), 0 at first      behind the layer that x enters by

so that an unconditional run learns classes or, with an image as a hint (Zhang et al. 2023), edges.
"""

import functools
import inspect
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from diffjax import host
from diffjax.models import layers, places
from diffjax.models.network import NOTHING, Given, Network
from diffjax.types import Array, Key, PyTree

TOLD = "embedding/noise_1"  # whose output is what every block is told, before silu
ENTERS = ("conv_in", "bottleneck", "patch")  # the layer that x enters by: the first that there is

Hook = Callable[..., Any]  # (call, module, *args) -> what stands in the place of call(*args)
Hooks = dict[str, Hook]  # by the path of a layer


class Site(NamedTuple):
    """A layer of a module, as one abstract call for one example met it.

    Attributes:
        module: a copy that is bound to nothing: the layer's class and options.
        args: shapes of its positional arguments; None, or other values, as they were.
        out: shape of its result.
        entered: paths of the layers that had been entered when it was done, itself among them.
    """

    module: nn.Module
    args: tuple[Any, ...]
    out: Any
    entered: tuple[str, ...]


class Call(NamedTuple):
    """One call of the whole network, as a side sees it.

    Attributes:
        base: the base's parameters, stopped.
        sites: path -> `Site`, in the order in which they were done.
        run: (params, hooks) -> F: the base module under other parameters, with hooks.
        told: hooks that tell a run of the base module the label and the hint.
        label: what is added to the embedding, (width,); None where the side takes no label.
        hint: site -> what is added to that layer's output, or None where the side takes no hint or got none.
    """

    base: PyTree
    sites: dict[str, Site]
    run: Callable[[PyTree, Hooks], Array]
    told: Hooks
    label: Array | None
    hint: Callable[[Site], Array | None]


class Kind(NamedTuple):
    """A kind of side: its first parameters, and what it makes of a call; `sided` makes the network.

    Attributes:
        name: of its entry of params["side"].
        check: sites -> anything; raises a ValueError for layers that it cannot act on.
        init: (key, sites, params of the base) -> params.
        act: (params, call) -> F.
        merge: (params, params of the base) -> params of the base that compute the same; None: it is not linear in them.
        width: channels that the hint is brought to; None: those of the layer that x enters by.
        text: what changes F and no shape: a side of another text computes something else from its parameters.
    """

    name: str
    check: Callable[[dict[str, Site]], Any]
    init: Callable[[Key, dict[str, Site], PyTree], PyTree]
    act: Callable[[PyTree, Call], Array]
    merge: Callable[[PyTree, PyTree], PyTree] | None = None
    width: int | None = None
    text: str = ""


def sided(module: Any, kind: Kind, classes: int | None = None, hint: int = 0) -> Network:
    """Makes the network of a frozen base and a side.

    Args:
        module: the base, a linen module (`of_module`).
        classes: labels of `given` that the network takes; of a base with as many, the base reads them itself.
        hint: channels of the image given["hint"] (*places, hint), of x's places; 0: none.

    Returns:
        The network, whose `merge` is the side's (`merged`).

    Raises:
        ValueError: for other classes than the base's own; in `init`, for a base that cannot be told what it should be,
            and for what the side refuses of its layers; in `apply`, for parameters of another base or side.
    """
    own = getattr(module, "classes", None)
    layers.check_counts(**{"classes": classes} if classes is not None else {}, **{"hint": hint} if hint else {})
    if classes is not None and own not in (None, classes):
        raise ValueError(f"classes = {classes} of the side net, but its base has {own}: leave one of them out.")
    names: dict[str, str] = dict(getattr(module, "reads", {}))
    labels = classes if own is None else None
    reads = (*names, *(name for name, has in (("label", labels), ("hint", hint)) if has))
    read = lambda given: {arg: given[name] for name, arg in names.items() if name in given}

    @jax.jit
    def first(key: Key, x: Array, c: Array, told: dict[str, Any]) -> PyTree:
        found = sites(module, x.shape)
        kind.check(found)
        params = dict(module.init(key, x, c, **told))["params"]
        side = {kind.name: kind.init(jax.random.fold_in(key, 1), found, params)}
        if labels:
            side["label"] = jnp.zeros((labels + 1, _site(found, TOLD, "a label").out.shape[-1]), jnp.float32)
        if hint:
            width = kind.width or _enters(found)[1].out.shape[-1]
            side["hint"] = jnp.zeros((getattr(module, "patch", 1) ** (x.ndim - 1) * hint, width), jnp.float32)
        return {"base": params, "side": side}

    @functools.lru_cache(64)
    def expected(shape: tuple[int, ...], told: tuple[Any, ...]) -> dict[str, tuple[int, ...]]:
        like = {name: jax.ShapeDtypeStruct(*of) for name, *of in told}
        x, c = jnp.zeros(shape, jnp.float32), jnp.zeros((), jnp.float32)
        return _shapes(jax.eval_shape(first, jax.random.key(0), x, c, like))

    @functools.partial(jax.jit, static_argnums=5)
    def forward(params: PyTree, x: Array, c: Array, told: dict, more: dict, train: bool, key: Key | None) -> Array:
        nd = jnp.ndim(c)
        own = tuple(
            (name, jnp.shape(value)[nd:], jnp.result_type(value)) for name, value in told.items() if value is not None
        )
        _check_alike(_shapes(params), expected(x.shape[nd:], own))
        stopped, side = jax.lax.stop_gradient(params["base"]), params["side"]  # (side.1)
        found = sites(module, x.shape[nd:])
        label = _row(side["label"], more.get("label"), c) if labels else None
        drawn = _arranged(module, x, nd, more["hint"], hint) if hint and more.get("hint") is not None else None
        of = lambda drawn, site: _matrix(drawn, side["hint"], site, x.shape[:nd])
        hinted = lambda site: None if drawn is None else of(drawn, site)
        hooks: Hooks = {} if label is None else {TOLD: adding(lambda y: label)}
        if drawn is not None and kind.width is None:
            path, site = _enters(found)
            hooks = joined(hooks, {path: adding(lambda y: of(drawn, site))})
        run = functools.partial(call_with, module, x, c, told, train, key)
        return kind.act(side[kind.name], Call(stopped, found, run, hooks, label, hinted))

    def init(key: Key, x: Array, c: Array, given: Given = NOTHING) -> PyTree:
        return first(key, x, c, read(given))

    def apply(
        params: PyTree, x: Array, c: Array, given: Given = NOTHING, *, train: bool = False, key: Key | None = None
    ) -> Array:
        more = {name: given[name] for name in ("label", "hint") if name in given}
        return forward(params, x, c, read(given), more, train, key)

    def merge(params: PyTree) -> PyTree:
        assert kind.merge is not None
        if hint or (labels and getattr(getattr(module, "sizes", None), "prefix", 0)):
            what = "a hint" if hint else "a label beside tokens of the label"
            raise ValueError(f"The side net is told of {what}, for which its base has no room: it cannot be merged.")
        whole = kind.merge(params["side"][kind.name], params["base"])
        if not labels:
            return whole
        table = {"label": {"embedding": params["side"]["label"]}}  # where a base with classes has it
        return {**whole, "embedding": {**whole["embedding"], **table}}

    places, dtype = getattr(module, "tells_places", True), str(getattr(module, "dtype", "float32"))
    known: Any = own if classes is None else classes
    none = {"label": np.int32(known)} if "label" in reads and host.is_int(known, 1) else {}
    none, text = none | getattr(module, "none", {}), tuple(getattr(module, "text", ())) if "text" in names else ()
    said = ", ".join(filter(None, (kind.name, kind.text)))
    merging = None if kind.merge is None else merge
    return Network(init, apply, reads, known, places, False, dtype, merging, none, text, said)


def of_module(make: Callable[..., Network]) -> Callable[..., Network]:
    """Marks a maker of networks with a side: it is called with the base's module, and made again finds its traces."""
    kept, called = functools.lru_cache(64, typed=True)(make), inspect.signature(make)  # rank=True is not rank=1

    @functools.wraps(make)
    def made(base: Any, *args: Any, **options: Any) -> Network:
        where = called.bind(base, *args, **options).arguments.get("where", "")
        if not isinstance(where, str):
            raise ValueError(f"where is {where!r}, expected a regular expression on paths, such as 'block_0/qkv$'.")
        return kept(module_of(base), *args, **options)

    return made


def merged(network: Network, params: PyTree) -> PyTree:
    """Merges a side into its base: makes parameters of the base alone that compute what both compute, in float32.

    A base of dtype bfloat16 rounds them where it computes, and loses what of a change is below 2^-9 of a weight: a base
    of dtype float32 computes as much.

    Raises:
        ValueError: for a network whose side is not linear in the base's kernels: there are no such parameters.
    """
    if network.merge is None:
        raise ValueError(
            "Only a side that adds to kernels (models.side.lora) can be merged into its base; an adapter, prefix, "
            "ladder or control net computes something that the base's layers cannot."
        )
    return network.merge(params)


def module_of(base: Any) -> nn.Module:
    """Makes the linen module that a side stands at, of a module, or of a spec of one of `models`.

    Raises:
        ValueError: for anything else, or a module that scans or recomputes its blocks: its layers are not met one by
            one.
    """
    from diffjax import models  # which imports this file

    if isinstance(base, Mapping) or hasattr(base, "to_dict"):
        options = {name: tuple(v) if isinstance(v, list) else v for name, v in dict(base).items()}
        name, known = options.pop("name", None), [n for n in models.__all__ if isinstance(getattr(models, n), type)]
        if name not in known:
            raise ValueError(f"There is no model {name!r} as the base of a side net: {host.nearest(str(name), known)}.")
        try:
            base = getattr(models, name)(**options)
        except TypeError as error:
            raise ValueError(f"{name} cannot be made of {options}: {error}.") from error
    if not isinstance(base, nn.Module):
        raise ValueError(
            f"The base of a side net is {type(base).__name__}, expected a linen module, whose layers have paths: "
            "models.UNet(...), models.DiT(...), or {'name': 'UNet', ...}."
        )
    for option in ("scan", "remat"):
        if getattr(base, option, False):
            raise ValueError(f"The base of a side net has {option}=True, which hides its layers: set {option}=False.")
    return base


@functools.lru_cache(64)
def sites(module: nn.Module, shape: tuple[int, ...]) -> dict[str, Site]:
    """Lists the layers that a module calls for an example of this shape, by path, in the order in which they are done.

    Nothing is computed; a layer that is called twice is that of the first call.
    """
    found: dict[str, Site] = {}
    entered: list[str] = []
    shape_of = lambda value: jax.ShapeDtypeStruct(value.shape, value.dtype) if hasattr(value, "shape") else value

    def note(next_fun: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
        path = "/".join(context.module.path)
        entered.append(path)
        out = next_fun(*args, **kwargs)
        if context.method_name == "__call__" and path not in found:
            copy = context.module.clone(parent=None, name=None)
            found[path] = Site(
                copy, tuple(map(shape_of, args)), jax.tree.map(shape_of, out), tuple(dict.fromkeys(entered))
            )
        return out

    with nn.intercept_methods(note):
        jax.eval_shape(module.init, jax.random.key(0), jnp.zeros(shape, jnp.float32), jnp.zeros((), jnp.float32))
    return found


def call_with(
    module: nn.Module,
    x: Array,
    c: Array,
    told: dict[str, Any],
    train: bool,
    key: Key | None,
    params: PyTree,
    hooks: Hooks,
) -> Array:
    """Calls a linen module with hooks in the place of its layers."""

    def around(next_fun: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
        hook = hooks.get("/".join(context.module.path)) if context.method_name == "__call__" else None
        call = lambda *args: next_fun(*args, **kwargs)
        return call(*args) if hook is None else hook(call, context.module, *args)

    options = {"train": train} if "train" in inspect.signature(type(module).__call__).parameters else {}
    rngs = None if key is None else {"dropout": key}
    with nn.intercept_methods(around):
        return module.apply({"params": params}, x, c, rngs=rngs, **options, **told)  # pyright: ignore[reportReturnType]


def adding(more: Callable[[Array], Array]) -> Hook:
    """Makes the hook of a layer whose output y becomes y + more(y)."""

    def hook(call: Callable, module: nn.Module, *args: Any) -> Array:
        y = call(*args)
        return y + more(y).astype(y.dtype)

    return hook


def joined(first: Hooks, second: Hooks) -> Hooks:
    """Joins hooks; where both have a path, the second is put around the first."""

    def both(inner: Hook, outer: Hook) -> Hook:
        return lambda call, module, *args: outer(lambda *own: inner(call, module, *own), module, *args)

    return {**first, **{path: both(first[path], hook) if path in first else hook for path, hook in second.items()}}


def chosen(
    found: dict[str, Site], where: str, fits: Callable[[Site], bool], noun: str, default: str | None = None
) -> dict[str, Site]:
    """Picks the sites whose path has a match of the regular expression `where`, among those that fit, by path.

    The module itself is none of them. ValueError for a pattern that is none, or that none of them has; where nothing
    fits, which is a `noun`. No message quotes the pattern that is the default: nobody wrote it.
    """
    try:
        pattern = re.compile(where)
    except re.error as error:
        raise ValueError(f"where is {where!r}, expected a regular expression: {error}.") from error
    fitting = {path: site for path, site in found.items() if path and fits(site)}
    picked = {path: site for path, site in fitting.items() if pattern.search(path)}
    if not fitting:
        raise ValueError(f"This base has no {noun}, which this kind of side net acts on: give a base with some.")
    if not picked:
        some = ", ".join([*list(fitting)[:6], *(["..."] if len(fitting) > 6 else [])])
        said = f"where is {where!r}, which no {noun} of this base has in its path"
        if where == default:
            said = f"No {noun} of this base is called as those of a U-Net or a DiT are that `where` means by default"
        raise ValueError(f"{said}; it has {some}: give where=, a regular expression on such paths.")
    return picked


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Makes a tree of dictionaries of {"block_0/qkv": value}."""
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *homes, last = path.split("/")
        functools.reduce(lambda home, name: home.setdefault(name, {}), homes, tree)[last] = value
    return tree


def at(tree: Mapping[str, Any], path: str) -> Any:
    """Gives what stands at a path, "block_0/qkv", of a tree of dictionaries; the whole tree at ""."""
    return functools.reduce(lambda home, name: home[name], path.split("/") if path else [], tree)


def _site(found: dict[str, Site], path: str, what: str) -> Site:
    if path not in found:
        more = "take a UNet or a DiT, or call the layer for it so"
        raise ValueError(f"The base has no layer {path!r}, by which it could be told of {what}: {more}.")
    return found[path]


def _enters(found: dict[str, Site]) -> tuple[str, Site]:
    path = next((path for path in ENTERS if path in found), ENTERS[0])
    return path, _site(found, path, "a hint")


def _row(table: Array, label: Any, c: Array) -> Array:
    label = jnp.full(jnp.shape(c), table.shape[0] - 1, jnp.int32) if label is None else jnp.asarray(label, jnp.int32)
    return jnp.take(table, label, axis=0)  # NaN for a label that there is not, as of nn.Embed


def _shapes(params: PyTree) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): jnp.shape(leaf) for path, leaf in leaves}


def _check_alike(got: dict[str, tuple[int, ...]], expected: dict[str, tuple[int, ...]]) -> None:
    if alone := sorted(set(got) ^ set(expected)):
        who = "only the network has" if alone[0] in expected else "the network has no"
        raise ValueError(f"The parameters are those of another base or side: {who} {alone[0]}.")
    for name, shape in got.items():
        if shape != expected[name]:
            raise ValueError(f"The parameter {name} has shape {shape}, expected {expected[name]}: its side is another.")


def _arranged(module: Any, x: Array, nd: int, hint: Array, channels: int) -> Array:
    """The hint, in patches as x enters the base."""
    if hint.shape != (expected := (*x.shape[:-1], channels)):
        raise ValueError(f"The hint has shape {hint.shape}, expected {expected}: x's places and the side's `hint`.")
    return places.space_to_depth(hint.astype(jnp.float32), getattr(module, "patch", 1), x.ndim - 1 - nd)


def _matrix(drawn: Array, kernel: Array, site: Site, batch: tuple[int, ...]) -> Array:
    here, there = drawn.shape[len(batch) : -1], site.out.shape[:-1]
    if math.prod(here) != math.prod(there):
        raise ValueError(f"The hint comes in {here} patches, but enters a map of {there} places: tap an earlier block.")
    return jnp.matmul(drawn.reshape(*batch, *there, drawn.shape[-1]), kernel)
