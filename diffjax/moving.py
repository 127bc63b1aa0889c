"""Arrays between the processes of a run: what one process has, all have; what all have, one can use alone.

A global array, of a mesh over several processes, is computed with by all of them together; a local one by each for
itself. In one process there is no difference.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding

from diffjax.types import Array, T

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
        if _is_key(x):
            return jax.random.wrap_key_data(one(jax.random.key_data(x)), impl=jax.random.key_impl(x))
        if isinstance(x, jax.Array) and x.sharding == sharding:
            return x
        whole = np.asarray(x)
        return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])  # checks nothing

    return jax.tree.map(one, tree)


def local(tree: T) -> T:
    """Gives the arrays of a tree, each whole on every device, as arrays of this process alone; nothing is copied."""

    def one(x: Any) -> Any:
        if not isinstance(x, jax.Array) or x.is_fully_addressable:
            return x
        if _is_key(x):
            return jax.random.wrap_key_data(one(jax.random.key_data(x)), impl=jax.random.key_impl(x))
        return x.addressable_data(0)

    return jax.tree.map(one, tree)


def from_first(tree: T) -> T:
    """Gives every process the values that process 0 has, bit for bit; all call it, with trees of equal shapes.

    They travel from device to device, as words: a sum with zeros would make 0.0 of -0.0.
    """
    if jax.process_count() == 1:
        return tree
    leaves, structure = jax.tree.flatten(tree)
    parts = [np.asarray(jax.random.key_data(x) if _is_key(x) else x) for x in leaves]
    data = np.concatenate([np.frombuffer(part.tobytes(), np.uint8) for part in parts])
    size = min(PIECE, -(-data.size // 4))
    words = np.zeros(-(-data.size // (4 * size)) * size, np.uint32)
    words.view(np.uint8)[: data.size] = data
    for start in range(0, words.size, size):
        words[start : start + size] = multihost_utils.broadcast_one_to_all(words[start : start + size])
    found, at = [], 0
    for leaf, part in zip(leaves, parts):
        whole = words.view(np.uint8)[at : at + part.nbytes].view(part.dtype).reshape(part.shape)
        new: Array = jnp.array(whole)
        found.append(jax.random.wrap_key_data(new, impl=jax.random.key_impl(leaf)) if _is_key(leaf) else new)
        at += part.nbytes
    return jax.tree.unflatten(structure, found)


def _is_key(x: Any) -> bool:
    return isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
