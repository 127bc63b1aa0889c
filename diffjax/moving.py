"""Arrays between the processes of a run: what one process has, all have; what all have, one can use alone.

A global array, of a mesh over several processes, is computed with by all of them together; a local one by each for
itself.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding

from diffjax.types import T

PIECE = 2**24  # 4-byte words that are sent at a time: one program for all


def put(tree: T, sharding: NamedSharding) -> T:
    """Puts a tree where a sharding says; of several processes each holds the whole values, and they are equal.

    Typed keys are put as such. Python's numbers stay: a program takes them as they are, on every device.
    """
    if jax.process_count() == 1:
        return jax.device_put(tree, sharding)

    def one(x: Any) -> Any:
        if isinstance(x, bool | int | float | complex):
            return x
        if is_key(x):
            return jax.random.wrap_key_data(one(jax.random.key_data(x)), impl=jax.random.key_impl(x))
        if isinstance(x, jax.Array) and not x.is_fully_addressable:
            return x if x.sharding == sharding else jax.device_put(x, sharding)
        whole = np.asarray(x)
        return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])  # checks nothing

    return jax.tree.map(one, tree)


def local(tree: T) -> T:
    """Gives those arrays of a tree that every device has whole as they lie on one of this process's, without a copy.

    What is computed of them is then computed once, by one program whatever the number of devices. Others stay.
    """

    def one(x: Any) -> Any:
        if not isinstance(x, jax.Array) or not x.is_fully_replicated or len(x.sharding.device_set) == 1:
            return x
        if is_key(x):
            return jax.random.wrap_key_data(one(jax.random.key_data(x)), impl=jax.random.key_impl(x))
        return x.addressable_data(0)

    return jax.tree.map(one, tree)


def from_first(tree: T) -> T:
    """Gives every process the values that process 0 has, as NumPy arrays, bit for bit; all call it.

    They travel from device to device, as words: a sum with zeros would make 0.0 of -0.0.

    Args:
        tree: in process 0 of its own arrays; in the others of any of equal shapes.
    """
    if jax.process_count() == 1:
        return tree
    leaves, structure = jax.tree.flatten(tree)
    shapes = [jax.eval_shape(jax.random.key_data, x) if is_key(x) else jax.eval_shape(lambda x=x: x) for x in leaves]
    sizes = [shape.size * shape.dtype.itemsize for shape in shapes]
    piece = min(PIECE, max(-(-sum(sizes) // 4), 1))
    words = np.zeros(-(-sum(sizes) // (4 * piece)) * piece, np.uint32)
    places = np.cumsum([0, *sizes])
    if jax.process_index() == 0:
        for x, at, size in zip(leaves, places, sizes):
            part = np.asarray(jax.random.key_data(x) if is_key(x) else x)
            words.view(np.uint8)[at : at + size] = np.frombuffer(part.tobytes(), np.uint8)
    for start in range(0, words.size, piece):
        words[start : start + piece] = multihost_utils.broadcast_one_to_all(words[start : start + piece])
    found = []
    for x, shape, at, size in zip(leaves, shapes, places, sizes):
        new = words.view(np.uint8)[at : at + size].view(shape.dtype).reshape(shape.shape)
        found.append(jax.random.wrap_key_data(jnp.array(new), impl=jax.random.key_impl(x)) if is_key(x) else new)
    return jax.tree.unflatten(structure, found)


def is_key(x: Any) -> bool:
    """Tells whether it is an array of typed keys."""
    return isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
