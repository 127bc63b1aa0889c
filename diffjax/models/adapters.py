"""Any function, or any nnx module, as a `Network`."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffjax.models.network import Network, network
from diffjax.types import Array, Key, PyTree


def from_function(fn: Callable[..., Array], params: PyTree) -> Network:
    """The network of a plain function `fn(params, x, c, label) -> F` of x's shape, for one example.

    `init` returns a fresh copy of `params` whatever the key, so that a training step may donate it. A function that
    draws its own first parameters, or needs a dropout key, is a `Network(init, apply)` by itself.
    """
    start = jax.tree.map(np.array, params)  # on the host: out of the reach of donation

    def init(key: Key, x: Array, c: Array, given: Any = None) -> PyTree:
        return jax.tree.map(jnp.array, start)

    def apply(
        params: PyTree, x: Array, c: Array, given: Any = None, *, train: bool = False, key: Key | None = None
    ) -> Array:
        return fn(params, x, c, given)

    return Network(init, apply)


def _call(module: Any, x: Array, c: Array, given: Any, train: bool, key: Key | None) -> Array:
    return module(x, c, given)


def from_nnx(module: Any, call: Callable[..., Array] = _call) -> Network:
    """The network of a `flax.nnx.Module`: its parameters as a flat dict {"path/of/parameter": array}.

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

    def pure(params: dict[str, Array], x: Array, c: Array, given: Any, train: bool, key: Key | None) -> Array:
        values = jax.tree.unflatten(structure, [params[name] for name in names])
        return call(nnx.merge(graph, values), x, c, given, train, key)

    network = from_function(pure, dict(zip(names, jax.tree.leaves(state), strict=True)))
    return network._replace(
        apply=lambda params, x, c, given=None, *, train=False, key=None: pure(
            params, x, c, {} if given is None else given, train, key
        )
    )


def of(module: Any) -> Network:
    """The network of a linen or nnx module, or of what is one already."""
    from flax import linen, nnx

    if isinstance(module, linen.Module):
        return network(module)
    return from_nnx(module) if isinstance(module, nnx.Module) else module
