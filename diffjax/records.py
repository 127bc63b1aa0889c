"""What is recorded beside a saved state: its step, shape, dtype and checksum of each leaf, metrics, the run's config.

One checksum over all of it stands beside them (`crc32`).
"""

import json
import math
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from diffjax.checksum import checksums
from diffjax.types import PyTree


def make(step: int, state: PyTree, metrics: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """Collects what is stored beside a state, as plain JSON; ValueError if it cannot be saved."""
    found = named(state)
    for name, leaf in found.items():
        if not isinstance(leaf, jax.Array | np.ndarray):
            raise ValueError(f"cannot save step {step}: {name} is {type(leaf).__name__}, expected an array")
    leaves = {}
    for (name, leaf), (total, bad) in zip(found.items(), checksums(state)):
        if bad:
            raise ValueError(f"refused to save step {step}: {name} ({kind(leaf)}) has {bad} non-finite values")
        leaves[name] = {"shape": list(leaf.shape), "dtype": str(leaf.dtype), "checksum": total}
    finite = {name: float(value) for name, value in metrics.items() if math.isfinite(float(value))}
    try:
        record = json.loads(json.dumps({"step": step, "leaves": leaves, "metrics": finite, "config": dict(config)}))
    except TypeError as error:
        raise ValueError(f"cannot save step {step}: the config is not JSON ({error})") from error
    return {**record, "crc32": crc32(record)}


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
