"""A network is a pair of pure functions; training, sampling and likelihoods see nothing else of it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from diffjax.types import Array, Key, PyTree


class Network(NamedTuple):
    """What a linen module, an nnx module or a plain function becomes.

    `jax.tree_util.Partial(network.apply, params, label=label)` is the (x_in, c) -> F that denoisers and losses take.

    Attributes:
        init: (key, x, c, given={}) -> params, a pytree of float32 arrays that optax can update.
        apply: (params, x, c, given={}, *, train=False, key=None) -> F of x's shape, float32. x is one
            example, c the scalar log-SNR log(alpha^2 / sigma^2), infinite at the ends, given what is known of it;
            with leading batch dimensions on all of them the result is the same as that of `jax.vmap`. key feeds
            dropout, and is needed only where train is True. `told` is what else the module takes, each optional.
    """

    init: Callable[..., PyTree]
    apply: Callable[..., Array]
    reads: tuple[str, ...] | None = None  # names of `given` that it reads; None: it may read any


READS = {"label": ("label", "classes"), "y": ("condition", "condition"), "augment": ("augment", "augment")}
READS |= {"gap": ("gap", "gap")}


def reads(module: Any) -> dict[str, str]:
    """name in `given` -> argument of the module: its own `reads`, else by the fields that say it has room for one."""
    own = getattr(module, "reads", None)
    return {name: arg for name, (arg, field) in READS.items() if getattr(module, field, None)} if own is None else own


def as_given(value: Any) -> dict[str, Any]:
    """A label alone is {"label": label}; None is {}."""
    return value if isinstance(value, dict) else {} if value is None else {"label": value}


def network(module: nn.Module) -> Network:
    """The network of a linen module called as `module(x, c, label=..., train=...)` whose only state is its parameters.

    What it reads of `given` is its `reads`, {name in given: argument}, or goes by its fields (`READS`).
    """
    arguments = reads(module)
    known = lambda given: {arg: as_given(given)[name] for name, arg in arguments.items() if name in as_given(given)}

    def init_params(key: Key, x: Array, c: Array, given: Any = None) -> PyTree:
        variables = dict(module.init(key, x, c, **known(given)))
        params = variables.pop("params", {})
        if variables:
            raise ValueError(
                f"{type(module).__name__} keeps state beside its parameters ({', '.join(sorted(variables))}); a "
                "network is a pure function of its parameters: use group or layer norm instead of running statistics."
            )
        return params

    def apply(
        params: PyTree,
        x: Array,
        c: Array,
        given: Any = None,
        *,
        train: bool = False,
        key: Key | None = None,
        **told: Any,
    ) -> Array:
        rngs = None if key is None else {"dropout": key}
        told = {**known(given), **told}
        return module.apply({"params": params}, x, c, train=train, rngs=rngs, **told)  # pyright: ignore[reportReturnType]

    return Network(init_params, apply, tuple(arguments))


def init(net: Network, key: Key, shape: tuple[int, ...], label: int | None = None) -> PyTree:
    """The first parameters for examples of this shape; computed in one compiled call."""
    label_array = None if label is None else jnp.asarray(label, jnp.int32)
    args = (key, jnp.zeros(shape, jnp.float32), jnp.zeros((), jnp.float32), label_array)
    # It runs once: at full optimisation the CPU compiler spends four times as long on the random draws (11 s for 2.5).
    options: Any = {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else None
    return jax.jit(net.init).lower(*args).compile(compiler_options=options)(*args)


class Parameter(NamedTuple):
    """One row of `parameter_table`."""

    path: str
    shape: tuple[int, ...]
    dtype: str
    count: int


def parameter_table(params: PyTree) -> list[Parameter]:
    """One row per leaf of a tree of arrays, or of `jax.ShapeDtypeStruct`s, in the tree's order."""

    def row(path: Any, leaf: Any) -> Parameter:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return Parameter(name, tuple(leaf.shape), str(leaf.dtype), leaf.size)

    return [row(path, leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(params)]


def format_table(rows: list[Parameter]) -> str:
    """The table as aligned text that ends with the total."""
    cells = [("parameter", "shape", "dtype", "count")]
    cells += [(r.path, "x".join(map(str, r.shape)) or "scalar", r.dtype, f"{r.count:,}") for r in rows]
    cells += [("total", "", "", f"{sum(r.count for r in rows):,}")]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = (f"{p:<{widths[0]}}  {s:<{widths[1]}}  {d:<{widths[2]}}  {n:>{widths[3]}}" for p, s, d, n in cells)
    return "\n".join(lines)
