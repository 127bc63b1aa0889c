"""What benchmarks share: FLOPs, best-of timing, and the JSON line."""

import importlib.metadata
import json
import time
from collections.abc import Callable
from typing import Any

import jax

from diffjax.models import flops as flops


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
