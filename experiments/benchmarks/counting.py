"""What benchmarks share: FLOPs by a walk over the jaxpr, best-of timing, and the JSON line."""

import importlib.metadata
import json
import math
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.extend.core
import numpy as np

# Data movement, integer bits and comparisons: no floating-point operation.
_MOVES = """and argsort bitcast_convert_type broadcast_in_dim concatenate convert_element_type copy dynamic_slice
dynamic_update_slice eq expand_dims gather ge gt iota le lt ne not or pad random_bits random_fold_in random_seed
random_split random_unwrap random_wrap reshape rev select_n shift_left shift_right_logical slice split squeeze
stop_gradient transpose xor"""
_FREE = frozenset(_MOVES.split())


def flops(function: Callable, *args: Any) -> float:
    """Floating-point operations of one call: 2 per multiply-add of products and convolutions, 1 per element elsewhere.

    XLA's own count visits the body of a scan once, whatever its length; this one multiplies.
    """
    return _count(jax.make_jaxpr(function)(*args).jaxpr)


def _count(jaxpr: Any) -> float:
    return sum(_count_equation(eqn) for eqn in jaxpr.eqns)


def _count_equation(eqn: Any) -> float:
    name = eqn.primitive.name
    inner = [_count(sub) for sub in _sub_jaxprs(eqn)]
    if inner:
        return max(inner) if name == "cond" else sum(inner) * (eqn.params["length"] if name == "scan" else 1)
    if name in _FREE:
        return 0.0
    out = sum(math.prod(v.aval.shape) for v in eqn.outvars)
    if name == "dot_general":
        (contract, _), _ = eqn.params["dimension_numbers"]
        return 2.0 * out * math.prod(eqn.invars[0].aval.shape[d] for d in contract)
    if name == "conv_general_dilated":
        kernel, numbers = eqn.invars[1].aval.shape, eqn.params["dimension_numbers"]
        return 2.0 * out * math.prod(kernel) / kernel[numbers.rhs_spec[0]]
    if name.startswith(("reduce_", "cum", "arg")):
        return float(math.prod(eqn.invars[0].aval.shape))
    return float(out) if np.issubdtype(eqn.outvars[0].aval.dtype, np.floating) else 0.0


def _sub_jaxprs(eqn: Any) -> list[Any]:
    found = []
    for value in eqn.params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, jax.extend.core.ClosedJaxpr):
                found.append(item.jaxpr)
            elif isinstance(item, jax.extend.core.Jaxpr):
                found.append(item)
    return found


def best_times(calls: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """The shortest of several runs of each call, in turn so that drift hits all alike; the first does not count."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats + 1):
        for name, call in calls.items():
            began = time.perf_counter()
            jax.block_until_ready(call())
            times[name].append(time.perf_counter() - began)
    return {name: min(values[1:]) for name, values in times.items()}


def report(name: str, results: dict[str, Any]) -> None:
    """Prints the line."""
    versions = {package: importlib.metadata.version(package) for package in ("jax", "flax", "numpy")}
    device = jax.devices()[0]
    where = {"device": f"{device.platform}:{device.device_kind}", "devices": jax.device_count(), **versions}
    print(json.dumps({"benchmark": name, **results, **where}))
