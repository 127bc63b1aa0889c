"""Where the leaves of a state go on a mesh of devices: which axis of each is split over which axis of the mesh.

The axes of a mesh are (data, fsdp, tensor), or data alone. A batch is split over the first two. Over `fsdp` parameters
are split too, and whatever has their shapes, averages and moments of an optimizer (Rajbhandari et al. 2020, ZeRO, stage
3; Zhao et al. 2023, FSDP): each leaf of `LEAST` elements or more along its largest axis that the devices divide. They
are put together where they are used, and gradients go back split (`gathered`). Over `tensor` a network is split that
says how (Shoeybi et al. 2019): by rules (regular expression on the path of a parameter, axis from the end, parts).
"""

import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from diffjax.types import Array, PyTree

DATA, FSDP, TENSOR = AXES = ("data", "fsdp", "tensor")
BATCH = (DATA, FSDP)  # what a batch is split over
LEAST = 2**14  # elements below which a leaf is whole: to gather it would cost more than to keep it

Rule = tuple[str, int, int]


def axes_of(shape: tuple[int, ...], fsdp: int = 1, taken: int | None = None, least: int = LEAST) -> tuple[Any, ...]:
    """Chooses the axis of the mesh that each axis of a leaf is split over; None: over none.

    Args:
        shape: of the leaf.
        fsdp: devices on that axis of the mesh.
        taken: the axis of the leaf, from the end, that is split over `tensor`; None: none is.
        least: elements from which a leaf is split over `fsdp`: along its largest axis that `fsdp` divides, of equal
            ones the last.
    """
    found: list[Any] = [None] * len(shape)
    if taken is not None:
        found[taken] = TENSOR
    size = 1
    for n in shape:
        size *= n
    free = [i for i, n in enumerate(shape) if found[i] is None and n % fsdp == 0]
    if fsdp > 1 and size >= least and free:
        found[max(free, key=lambda i: (shape[i], i))] = FSDP
    return tuple(found)


def split_axes(params: PyTree, rules: Iterable[Rule], tensor: int) -> dict[str, int]:
    """Finds the parameters that rules split over `tensor` devices: path -> axis, from the end.

    Args:
        params: arrays or their shapes.
        rules: (regular expression that is searched for in a path such as "block_0/qkv/kernel", axis from the end,
            parts), parts being the number of equal pieces, such as heads, that stay whole; 1: entries.

    Raises:
        ValueError: for a rule that finds no parameter, and for devices that do not divide an axis or its parts.
    """
    shapes = {name: tuple(leaf.shape) for name, leaf in named(params)}
    found: dict[str, int] = {}
    for pattern, axis, parts in rules:
        here = [name for name in shapes if re.search(pattern, name)]
        if not here:
            raise ValueError(f"The rule {pattern!r} for tensor splits no parameter; there are {', '.join(shapes)}.")
        if parts != 1 and parts % tensor:
            raise ValueError(
                f"train.tensor is {tensor}, expected a divisor of the {parts} heads of {here[0]} (model.heads)."
            )
        for name in here:
            shape = shapes[name]
            if not -len(shape) <= axis < 0 or shape[axis] % tensor:
                raise ValueError(f"tensor = {tensor} does not divide axis {axis} of {name}, of shape {shape}.")
            found[name] = axis
    return found


def specs(
    tree: PyTree, sizes: Mapping[str, int], rules: Iterable[Rule] = (), params: PyTree = None, least: int = LEAST
) -> PyTree:
    """Makes the `PartitionSpec` of each leaf of a tree: a state, or a part of it.

    A leaf whose path ends in that of a parameter of its shape is split as that parameter: it is its average, or its
    moment in the optimizer. Typed keys are whole.

    Args:
        tree: arrays or their shapes.
        sizes: devices on each axis of the mesh, by name (`Mesh.shape`); 1 on those that it has not.
        rules: the network's, for `tensor` (`split_axes`); needed where that has more than one device.
        params: the parameters that the rules are about; default `tree`.
        least: as of `axes_of`.

    Raises:
        ValueError: for several devices on `tensor` and no rules, or rules as of `split_axes`.
    """
    rules, params, tensor = tuple(rules), tree if params is None else params, sizes.get(TENSOR, 1)
    if tensor > 1 and not rules:
        raise ValueError(
            f"train.tensor is {tensor}, but this network does not say how it is split over devices; models.DiT and "
            "models.JiT do. Set train.tensor to 1; train.fsdp splits the state of any network."
        )
    split = split_axes(params, rules, tensor) if tensor > 1 else {}
    shapes = {name: tuple(leaf.shape) for name, leaf in named(params)}

    def of(path: Any, leaf: Any) -> P:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return P()
        shape, words = tuple(leaf.shape), _name(path).split("/")
        ends = ("/".join(words[i:]) for i in range(len(words)))
        like = next((end for end in ends if end in shapes), "")
        taken = split.get(like) if shapes.get(like) == shape else None
        axes = axes_of(shape, sizes.get(FSDP, 1), taken, least)
        return P(*axes) if any(axes) else P()

    return jax.tree_util.tree_map_with_path(of, tree)


def shardings(
    tree: PyTree, mesh: Mesh, rules: Iterable[Rule] = (), params: PyTree = None, least: int = LEAST
) -> PyTree:
    """Makes the sharding of each leaf of a tree on a mesh; arguments and errors are those of `specs`."""
    found = specs(tree, mesh.shape, rules, params, least)
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), found, is_leaf=lambda node: isinstance(node, P))


def of_state(state: Callable[[], Any], mesh: Mesh, method: Any, error: type[Exception] = ValueError) -> PyTree | None:
    """Makes the sharding of each leaf of a method's training state; None where a mesh keeps all of it whole.

    Args:
        state: makes the state, arrays or shapes; called where the mesh splits it.
        method: whose network (`parts.network`) may have rules, its `tensor`.

    Raises:
        ValueError: (or `error`) as of `specs`.
    """
    if mesh.axis_names == (DATA,):
        return None
    made, rules = state(), getattr(getattr(method.parts, "network", None), "tensor", ())
    try:
        return shardings(made, mesh, rules, made.params)
    except ValueError as refused:
        raise error(str(refused)) from refused


def is_split(leaf: Any) -> bool:
    """Tells whether a leaf is an array that no device of its mesh has the whole of."""
    where = getattr(leaf, "sharding", None)
    return isinstance(where, NamedSharding) and not where.is_fully_replicated


def gathering(split: Any) -> Callable[[PyTree], PyTree] | None:
    """Makes what a step gathers the parameters by (`gathered`), of the shardings of its state; None of None."""
    return None if split is None else partial(gathered, split=split.params)


def gathered(params: PyTree, split: PyTree) -> PyTree:
    """Puts together, inside a compiled step, parameters that are split over `fsdp`; their gradients are split again.

    Without it XLA may gather the examples' activations in place of the parameters.

    Args:
        params: traced parameters.
        split: their shardings.
    """
    return jax.tree.map(lambda leaf, where: _gather(where, leaf) if FSDP in where.spec else leaf, params, split)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _gather(where: NamedSharding, leaf: Array) -> Array:
    whole = P(*(None if axis == FSDP else axis for axis in where.spec))
    return jax.lax.with_sharding_constraint(leaf, NamedSharding(where.mesh, whole))


# Of a sum over devices of which each keeps a part, XLA makes one reduce-scatter.
_gather.defvjp(
    lambda where, leaf: (_gather(where, leaf), None),
    lambda where, _, slope: (jax.lax.with_sharding_constraint(slope, where),),
)


def named(tree: PyTree) -> list[tuple[str, Any]]:
    """Lists the leaves of a tree with their paths, "block_0/qkv/kernel"."""
    return [(_name(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
