"""What is recorded beside a saved state: its step, shape, dtype and checksum of each leaf, metrics, the run's config.

One checksum over all of it stands beside them (`crc32`).
"""

import json
import math
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffjax.checksum import checksums
from diffjax.types import PyTree


def check_arrays(step: int, state: PyTree) -> None:
    """Raises a ValueError if a leaf of a state is no array."""
    if not all(isinstance(leaf, jax.Array | np.ndarray) for leaf in jax.tree.leaves(state)):
        wrong = {name: leaf for name, leaf in named(state).items() if not isinstance(leaf, jax.Array | np.ndarray)}
        name, leaf = next(iter(wrong.items()))
        raise ValueError(f"cannot save step {step}: {name} is {type(leaf).__name__}, expected an array")


def facts(step: int, metrics: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """Collects what a record says beside the leaves, as plain JSON; ValueError if the config is none."""
    finite = {name: float(value) for name, value in metrics.items() if math.isfinite(float(value))}
    try:
        return json.loads(json.dumps({"step": step, "metrics": finite, "config": dict(config)}))
    except TypeError as error:
        raise ValueError(f"cannot save step {step}: the config is not JSON ({error})") from error


def to_host(step: int, state: PyTree) -> PyTree:
    """Copies a state into memory of its own, which no donation reaches; ValueError for values that are not finite.

    Typed keys stay such, of copied bits.
    """
    for leaf in jax.tree.leaves(state):
        if isinstance(leaf, jax.Array):
            leaf.copy_to_host_async()  # all at once; the copies below wait for each
    copy = jax.tree.map(_copied, state)
    if not all(map(_is_finite, jax.tree.leaves(copy))):
        for name, leaf in named(copy).items():
            if not _is_finite(leaf):
                _check_finite(step, name, leaf, leaf.size - int(np.isfinite(leaf).sum()))
    return copy


def _copied(leaf: jax.Array | np.ndarray) -> Any:
    if isinstance(leaf, np.ndarray):
        return leaf.copy()
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(_copied(jax.random.key_data(leaf)), impl=jax.random.key_impl(leaf))
    # By its shards: a view of the whole array would be kept by it, and keep its memory from being donated.
    if leaf.is_fully_replicated:
        return np.array(leaf.addressable_data(0))
    whole = np.empty(leaf.shape, leaf.dtype)
    for shard in leaf.addressable_shards:
        if shard.replica_id == 0:
            whole[shard.index] = np.asarray(shard.data)
    return whole


def _is_finite(leaf: Any) -> bool:
    inexact = isinstance(leaf, np.ndarray) and jnp.issubdtype(leaf.dtype, jnp.inexact)
    return not inexact or bool(np.isfinite(leaf).all())


def make(facts: Mapping[str, Any], state: PyTree) -> dict[str, Any]:
    """Makes the record of a state, of `facts` and its checksums; ValueError for values that are not finite."""
    leaves = {}
    for (name, leaf), (total, bad) in zip(named(state).items(), checksums(state)):
        _check_finite(facts["step"], name, leaf, bad)
        leaves[name] = {"shape": list(leaf.shape), "dtype": str(leaf.dtype), "checksum": total}
        if is_key(leaf) and jax.process_count() > 1:  # where Orbax takes no array of one process
            leaves[name]["words"] = str(jax.random.key_impl(leaf))
    record = {**facts, "leaves": leaves}
    return {**record, "crc32": crc32(record)}


def is_key(leaf: Any) -> bool:
    """Tells whether a leaf, or the shape of one, is of typed keys."""
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def words(key: Any, kind: str = "") -> Any:
    """Gives the words of typed keys on the host; of a shape of keys that of their words, in its place."""
    if isinstance(key, jax.ShapeDtypeStruct):
        found = jax.eval_shape(jax.random.key_data, key)
        return jax.ShapeDtypeStruct(found.shape, found.dtype, sharding=key.sharding)
    return np.asarray(jax.random.key_data(key))


def by_words(leaves: Mapping[str, Any], change: Callable[[Any, str], Any], tree: PyTree) -> PyTree:
    """Changes, by `change(leaf, kind of keys)`, those leaves of a tree that a record says are stored as words."""
    stored = {name: leaf["words"] for name, leaf in leaves.items() if "words" in leaf}
    name = jax.tree_util.keystr
    one = lambda path, leaf: change(leaf, stored[name(path)]) if name(path) in stored else leaf
    return jax.tree_util.tree_map_with_path(one, tree)


def _check_finite(step: int, name: str, leaf: Any, bad: int) -> None:
    if bad:
        raise ValueError(f"refused to save step {step}: {name} ({kind(leaf)}) has {bad} non-finite values")


def crc32(record: Mapping[str, Any]) -> int:
    """Computes the checksum of a record, that entry itself left out."""
    return zlib.crc32(json.dumps(record, sort_keys=True).encode())


def named(tree: PyTree) -> dict[str, Any]:
    """Lists the leaves of a tree by their paths."""
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def abstract(path: Any, leaf: Any) -> jax.ShapeDtypeStruct:
    """Makes shape, dtype and sharding of a leaf of a target; ValueError for what is no array."""
    if not hasattr(leaf, "shape") or not hasattr(leaf, "dtype"):
        name = jax.tree_util.keystr(path)
        raise ValueError(f"target {name} is {type(leaf).__name__}: expected an array or a jax.ShapeDtypeStruct")
    sharding = getattr(leaf, "sharding", None) or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    sharding.shard_shape(tuple(leaf.shape))  # a sharding that does not divide is an error here, not damage there
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def check_fit(where: str, saved: Mapping[str, Any], target: PyTree) -> None:
    """Raises a ValueError if a target has other leaves, shapes or dtypes than were saved."""
    there = {name: f"{leaf['dtype']}{leaf['shape']}" for name, leaf in saved.items()}
    wanted = {name: kind(leaf) for name, leaf in named(target).items()}
    differ = [
        f"{name} is {there.get(name, 'absent')}, expected {wanted.get(name, 'absent')}"
        for name in {**there, **wanted}
        if there.get(name) != wanted.get(name)
    ]
    if differ:
        more = f"; and {len(differ) - 3} more" if len(differ) > 3 else ""
        raise ValueError(f"{where} does not fit this model and optimizer: {'; '.join(differ[:3])}{more}")


def kind(leaf: Any) -> str:
    """Writes dtype and shape: float32[3, 2]."""
    return f"{leaf.dtype}{list(leaf.shape)}"
