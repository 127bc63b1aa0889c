"""The devices of a training step: what it takes from all of them, by the two ways in which it may be split.

Under `jit` arrays are whole and there is nothing to do; under a mapped axis (`jax.pmap`) a device has its own rows. The
third way, whose results are the same bytes for any number of devices, is `strict`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from diffjax.method import size_of
from diffjax.types import Key, PyTree


class Across(NamedTuple):
    """The devices of a mapped axis (`jax.pmap`), or, under `jit`, where arrays are whole already, nothing to do."""

    axis: str | None
    together: Callable[[PyTree], PyTree] = lambda params: params  # of parameters that devices share (`sharding`)

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
        """Picks of the rows of all devices the `size` that are this device's."""
        return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, self.place() * size, size), rows)

    def devices(self) -> Any:
        """Counts the devices."""
        return jax.lax.axis_size(self.axis) if self.axis else 1

    def place(self) -> Any:
        """Tells this device's place among them."""
        return jax.lax.axis_index(self.axis) if self.axis else 0

    def mapped(self, step: Callable) -> Callable:
        """Gives the step as it is: `compile_step` maps it."""
        return step


WHOLE = Across(None)
