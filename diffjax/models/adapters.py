"""Any function, any module of nnx, and any callable pytree (equinox), as a `Network`."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen

from diffjax.models.network import NOTHING, Given, Network, network
from diffjax.types import Array, Key, PyTree


def of(module: Any) -> Network:
    """Makes the network of a linen, nnx or equinox module; a network is given back as it is.

    A linen module is called as `models.network` says, the others as `module(x, c, given)`.

    Raises:
        ValueError: for anything else, or a module with state beside its parameters.
    """
    from flax import nnx

    if hasattr(module, "init") and hasattr(module, "apply") and not isinstance(module, linen.Module):
        return module
    if isinstance(module, linen.Module):
        return network(module)
    if isinstance(module, nnx.Module):
        return from_nnx(module)
    if callable(module) and not isinstance(module, type) and _has_parameters(module):
        return from_pytree(module)
    raise ValueError(
        f"Got {type(module).__name__} as a network, expected an object of a linen, nnx or equinox module with "
        "parameters; of a function and its first parameters models.from_function makes one."
    )


def from_function(fn: Callable[..., Array], params: PyTree, reads: tuple[str, ...] | str | None = None) -> Network:
    """Makes the network of a plain function `fn(params, x, c, given) -> F`, for one example.

    `init` returns a fresh copy of `params` whatever the key, so that a training step may donate it. A function that
    draws its own first parameters, or needs a dropout key, is a `Network(init, apply)` by itself.

    Args:
        reads: names of `given` that it reads; None: it may read any.
    """
    reads = (reads,) if isinstance(reads, str) else reads
    start = jax.tree.map(np.array, params)  # on the host: out of the reach of donation

    def init(key: Key, x: Array, c: Array, given: Given = NOTHING) -> PyTree:
        return jax.tree.map(jnp.array, start)

    def apply(
        params: PyTree, x: Array, c: Array, given: Given = NOTHING, *, train: bool = False, key: Key | None = None
    ) -> Array:
        return fn(params, x, c, given)

    return Network(init, apply, reads)


def from_pytree(module: Any) -> Network:
    """Makes the network of a callable pytree, such as an equinox module: its floating arrays are the parameters.

    Returns:
        The network that calls `module(x, c, given)` for one example; what else stands in the tree stays as it is.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(module)
    names = [jax.tree_util.keystr(path) for path, _ in leaves]
    params = {name: leaf for name, (_, leaf) in zip(names, leaves) if _is_parameter(leaf)}
    rest = [None if name in params else leaf for name, (_, leaf) in zip(names, leaves)]

    def call(params: dict[str, Array], x: Array, c: Array, given: Given) -> Array:
        whole = [params.get(name, leaf) for name, leaf in zip(names, rest)]
        return jax.tree.unflatten(structure, whole)(x, c, given)

    return from_function(call, params)


def _is_parameter(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray) and jnp.issubdtype(leaf.dtype, jnp.floating)


def _has_parameters(module: Any) -> bool:
    return any(_is_parameter(leaf) for leaf in jax.tree.leaves(module))


def _call(module: Any, x: Array, c: Array, given: Given, train: bool, key: Key | None) -> Array:
    return module(x, c, given)


def from_nnx(module: Any, call: Callable[..., Array] = _call) -> Network:
    """Makes the network of a `flax.nnx.Module`: its parameters as a flat dict {"path/of/parameter": array}.

    Args:
        module: whose only state is `nnx.Param`s; their values are what `init` returns, whatever the key.
        call: (module, x, c, given, train, key) -> F for one example; `module(x, c, given)` unless given. A module with
            dropout builds it without rngs and is given them here: `module(x, c, given, rngs=nnx.Rngs(dropout=key))`.

    Raises:
        ValueError: if the module keeps state that is not a parameter (running statistics, its own random stream): it
            would never advance inside a pure function.
    """
    from flax import nnx

    graph, state, rest = nnx.split(module, nnx.Param, ...)
    if others := sorted("/".join(map(str, path)) for path, _ in nnx.to_flat_state(rest)):
        raise ValueError(
            f"{type(module).__name__} keeps state beside its parameters ({', '.join(others)}); a network is a pure "
            "function of its parameters: build dropout without rngs and pass them in `call`, use group or layer norm."
        )
    names = ["/".join(map(str, path)) for path, _ in nnx.to_flat_state(state)]
    structure = jax.tree.structure(state)

    def apply(
        params: PyTree, x: Array, c: Array, given: Given = NOTHING, *, train: bool = False, key: Key | None = None
    ) -> Array:
        values = jax.tree.unflatten(structure, [params[name] for name in names])
        return call(nnx.merge(graph, values), x, c, given, train, key)

    start = dict(zip(names, jax.tree.leaves(state), strict=True))
    return from_function(lambda params, x, c, given: apply(params, x, c, given), start)._replace(apply=apply)
