"""A network is a pair of pure functions; training, sampling and likelihoods see nothing else of it."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from diffjax import host
from diffjax.types import Array, Key, PyTree

Given = Mapping[str, Any]
NOTHING: Given = MappingProxyType({})


class Network(NamedTuple):
    """A pair of pure functions, made of a linen, nnx or equinox module (`models.of`), or of a function.

    Attributes:
        init: (key, x, c, given={}) -> params, a pytree of float32 arrays that optax can update.
        apply: (params, x, c, given={}, *, train=False, key=None) -> F, of x's shape for most targets, float32. x is one
            example, c the scalar log-SNR log(alpha^2 / sigma^2), infinite at the ends, given what is known of x, by
            name; with leading batch dimensions on all of them the result equals that of `jax.vmap`. key feeds dropout,
            and is needed only where train is True.
        reads: names of `given` that the network reads, any other is passed over; None: it may read any.
        classes: labels that it has rows for, beside that of none; None: no one knows, or it reads no label.
        none: name in `given` -> the value that stands for none, of an example's shape or one for all entries, of what
            the network reads and may be without.
        text: (V, L), tokens and places of the text that it reads; (): it reads none, or no one knows.
        tensor: how it is split over devices that share an example: rules of `sharding.split_axes` on its parameters;
            (): it does not say.
        side: of a base with a side net, the side's kind and what changes F without a shape; "": there is no side.
        tells_places: False where it gives a constant image the same answer at all places, whatever its parameters.
        energy: whether F is two maps, the gradient of a scalar and that scalar (`scalar.gradient`).
        dtype: of its computation, as far as it says.
        merge: of a base with a side net, params -> those of the base alone that compute as much in float32; None: there
            are none.
    """

    init: Callable[..., PyTree]
    apply: Callable[..., Array]
    reads: tuple[str, ...] | None = None
    classes: int | None = None
    tells_places: bool = True
    energy: bool = False
    dtype: str = "float32"
    merge: Callable[[PyTree], PyTree] | None = None
    none: Given = NOTHING
    text: tuple[int, ...] = ()
    side: str = ""
    tensor: tuple[tuple[str, int, int], ...] = ()


def network(module: nn.Module) -> Network:
    """Makes the network of a linen module whose only state is its parameters.

    The module is called as `module(x, c, **read)`, and with train= where it takes that. What it reads of `given` is its
    attribute or property `reads`, {name in given: argument}; without one it reads nothing. What stands for none of it
    is its `none`, and the number after the last class. How it is split over devices is its `tensor`.

    The module is traced once for shapes and dtypes, whatever losses, walks and checks the network is then called in.
    """
    arguments: dict[str, str] = getattr(module, "reads", {})
    modes = inspect.signature(type(module).__call__).parameters
    read = lambda given: {arg: given[name] for name, arg in arguments.items() if name in given}

    # Not inlined: an operation keeps the line of the module that it comes from.
    @jax.jit
    def first(key: Key, x: Array, c: Array, told: dict[str, Any]) -> PyTree:
        variables = dict(module.init(key, x, c, **told))
        params = variables.pop("params", {})
        if variables:
            raise ValueError(
                f"{type(module).__name__} keeps state beside its parameters ({', '.join(sorted(variables))}); a "
                "network is a pure function of its parameters: use group or layer norm instead of running statistics."
            )
        return params

    @partial(jax.jit, static_argnums=4)
    def forward(params: PyTree, x: Array, c: Array, told: dict[str, Any], train: bool, key: Key | None) -> Array:
        rngs = None if key is None else {"dropout": key}
        options = {"train": train} if "train" in modes else {}
        return module.apply({"params": params}, x, c, rngs=rngs, **options, **told)  # pyright: ignore[reportReturnType]

    def init_params(key: Key, x: Array, c: Array, given: Given = NOTHING) -> PyTree:
        return first(key, x, c, read(given))

    def apply(
        params: PyTree, x: Array, c: Array, given: Given = NOTHING, *, train: bool = False, key: Key | None = None
    ) -> Array:
        return forward(params, x, c, read(given), train, key)

    classes = getattr(module, "classes", None)
    known = classes if "label" in arguments and host.is_int(classes, 1) else None
    none = {} if known is None else {"label": np.int32(known)}
    none, text = none | getattr(module, "none", {}), getattr(module, "text", ()) if "text" in arguments else ()
    dtype, tells = str(getattr(module, "dtype", "float32")), getattr(module, "tells_places", True)
    own = {"none": none, "text": tuple(text), "tensor": tuple(getattr(module, "tensor", ()))}
    return Network(init_params, apply, tuple(arguments), known, tells, dtype=dtype, **own)


def init(net: Network, key: Key, shape: tuple[int, ...], given: Given = NOTHING) -> PyTree:
    """Makes the first parameters for examples of this shape, in one compiled call."""
    args = (key, jnp.zeros(shape, jnp.float32), jnp.zeros((), jnp.float32), dict(given))
    return host.run_once(net.init, *args)


class Parameter(NamedTuple):
    """A row of `parameter_table`: path, shape, dtype and number of entries of one leaf."""

    path: str
    shape: tuple[int, ...]
    dtype: str
    count: int


def parameter_table(params: PyTree) -> list[Parameter]:
    """Makes one row per leaf of a tree of arrays, or of `jax.ShapeDtypeStruct`s, in the tree's order."""

    def row(path: Any, leaf: Any) -> Parameter:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return Parameter(name, tuple(leaf.shape), str(leaf.dtype), leaf.size)

    return [row(path, leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(params)]


def format_table(rows: list[Parameter]) -> str:
    """Formats the table as aligned text that ends with the total."""
    cells = [("parameter", "shape", "dtype", "count")]
    cells += [(r.path, "x".join(map(str, r.shape)) or "scalar", r.dtype, f"{r.count:,}") for r in rows]
    cells += [("total", "", "", f"{sum(r.count for r in rows):,}")]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = (f"{p:<{widths[0]}}  {s:<{widths[1]}}  {d:<{widths[2]}}  {n:>{widths[3]}}" for p, s, d, n in cells)
    return "\n".join(lines)
