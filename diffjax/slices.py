"""A run's training step on a described slice of TPUs: lowered, compiled, and held against what a chip can do."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax

from diffjax import host, models, parallel, roofline, sharding, strict, topology, training
from diffjax.method import Method
from diffjax.types import PyTree

Make = Callable[..., training.Step]


class Compiled(NamedTuple):
    """A program for a slice, and what a step of it costs."""

    program: Any
    costs: roofline.Costs
    slice: topology.Slice
    images: int  # of a step

    def lines(self) -> Iterator[str]:
        """Writes what a step costs on the slice (`roofline.lines`)."""
        return roofline.lines(self.costs, self.slice, self.images)


def compiled(name: str, make: Make, method: Method, state: PyTree, batch: PyTree, settings: Any) -> Compiled:
    """Compiles the program that a run would dispatch on a slice, of its mesh, shardings and steps of a dispatch.

    Args:
        name: of the slice (`topology.described`).
        make: `training.make_step` of the method, optimizer and averages, which still takes how the state is split.
        method: whose network says how it is split over `tensor`.
        state, batch: shapes and dtypes of the whole state, and of one step's batch on all devices.
        settings: of the run (`runs.Settings`).

    Raises:
        ValueError: as `topology.described`, or for a batch that the devices do not divide, a part of the devices,
            another backend than "jit", or a step that does not fit into a chip.
    """
    where = topology.described(name)
    if settings.backend != "jit":
        raise ValueError(f"train.backend is {settings.backend!r}, expected 'jit', which --topology compiles.")
    if settings.devices not in (None, len(where.devices)):
        raise ValueError(f"train.devices is {settings.devices}, expected None, or {len(where.devices)}, all of {name}.")
    mesh = parallel.mesh_over(where.devices, settings)
    return Compiled(*on_mesh(mesh, make, method, state, batch, settings), where, settings.batch_size)


def on_mesh(
    mesh: jax.sharding.Mesh, make: Make, method: Method, state: PyTree, batch: PyTree, settings: Any
) -> tuple[Any, roofline.Costs]:
    """Compiles the program that a run would dispatch on a mesh, whose devices may be described ones.

    Args: as of `compiled`.

    Raises:
        ValueError: for a batch that the devices do not divide, or a step that does not fit into one of them.
    """
    split = sharding.of_state(lambda: state, mesh, method)
    across = strict.of_settings(mesh, settings)
    step = make(gather=sharding.gathering(split), across=across)
    k, alone = settings.steps_per_dispatch, make()
    stack = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((k, *leaf.shape), leaf.dtype), batch)
    with host.tracing_for(mesh.devices.flat[0].platform):
        lowered = parallel.lower(training.make_steps(step), state, stack, mesh, leading=1, shardings=split)
        program, flops = topology.compiled(lowered), models.flops(alone, state, batch)
    plain = split is None and not isinstance(across, strict.Shards)  # else sums go by other ways
    size = sum(x.size for x in jax.tree.leaves(state.params)) if plain else 0
    return program, roofline.costs(program, flops, mesh.size, size, k)
