"""The devices of a training step: what it takes from all of them, by the ways in which it may be split.

Under `jit` arrays are whole and there is nothing to do; under a mapped axis (of `jax.pmap`, or of a mesh) a device has
its own rows, and sums of gradients are asked for: once a step, in however many parts a batch is worked through. Another
way, whose results are the same bytes for any number of devices, is `strict`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from diffjax import constants
from diffjax.method import size_of
from diffjax.types import Array, Key, PyTree


class Across(NamedTuple):
    """The devices of a mapped axis (`jax.pmap`), or, under `jit`, where arrays are whole already, nothing to do."""

    axis: str | None
    together: Callable[[PyTree], PyTree] = lambda params: params  # of parameters that devices share (`sharding`)
    mesh: Mesh | None = None  # that `mapped` maps a step over

    def slope(self, compute: Callable, params: PyTree, key: Key, batch: PyTree, apart: bool = True) -> PyTree:
        """Averages the loss and the gradients of `compute(gather, params, key, batch, places)` over the devices."""
        size = size_of(batch)
        index = self.place() * size + jnp.arange(size, dtype=jnp.int32)
        (loss, logged), grads = compute(self.whole, params, key, batch, index)
        loss, grads = self.mean((loss, grads))
        return (loss, logged), grads

    def gathered(self, rows: PyTree) -> tuple[PyTree, "Across"]:
        """Gives per-example rows, and the devices that these are spread over."""
        return rows, self

    def mean(self, tree: PyTree) -> PyTree:
        """Averages `tree` over the devices."""
        return jax.lax.pmean(tree, self.axis) if self.axis else tree

    def total(self, tree: PyTree) -> PyTree:
        """Sums `tree` over the devices."""
        return jax.lax.psum(tree, self.axis) if self.axis else tree

    def whole(self, rows: PyTree) -> PyTree:
        """Makes of a device's rows (B, ...) those of all devices, in order."""
        return jax.lax.all_gather(rows, self.axis, tiled=True) if self.axis else rows

    def own(self, rows: PyTree, size: int) -> PyTree:
        """Slices the `size` rows of this device out of the rows of all devices."""
        return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, self.place() * size, size), rows)

    def devices(self) -> Any:
        """Counts the devices that share a batch."""
        return jax.lax.axis_size(self.axis) if self.axis else 1

    def place(self) -> Any:
        """Tells this device's place among them."""
        return jax.lax.axis_index(self.axis) if self.axis else 0

    def mapped(self, step: Callable) -> Callable:
        """Gives the step as it is, which `compile_step` maps; with a mesh, the step of whole batches (`over`)."""
        return step if self.mesh is None or self.axis is None else over(self.mesh, self.axis, step)


WHOLE = Across(None)


def over(mesh: Mesh, axis: str, step: Callable) -> Callable:
    """Makes of a device's step the one of whole batches: `(state, batch) -> (state, metrics)`, under `jit`.

    Its attribute `lift` does what `constants.lift` does, to what a device computes.
    """
    mapped = lambda f, *front: jax.shard_map(
        f, mesh=mesh, in_specs=(*front, P(), P(axis)), out_specs=P(), check_vma=False
    )

    def lift(state: PyTree, batch: PyTree) -> tuple[Callable, list[Array]]:
        found = []

        def look(state: PyTree, batch: PyTree) -> Array:  # here the axis has a name
            found.append(constants.lift(step, state, batch))
            return jnp.zeros(())

        jax.eval_shape(mapped(look), state, batch)
        lifted, numbers = found[0]
        return mapped(lifted, P()), numbers

    run = mapped(step)
    whole = lambda state, batch: run(state, batch)  # one that takes an attribute
    whole.lift = lift  # pyright: ignore[reportFunctionMemberAccess]  (for `parallel.compile_step`)
    return whole
