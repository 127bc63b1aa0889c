"""How busy a device was, from a trace that jax's profiler wrote (Chrome's format, as `diffjax.profiling` keeps it).

Busy is the union of the intervals of a device's kernels and copies, over the time from the first's begin to the last's
end: gaps in which the device waits for the host are what is missing to 1. Of a GPU only the lanes of streams count;
those that the profiler derives from them, such as "XLA Modules", span the gaps too.
"""

import gzip
import json
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax

HOST_POOLS = ("tf_XLAEigen", "tf_XLAExecute", "tf_XLAPjRtCpuClient")  # threads that run programs on a CPU


class Busy(NamedTuple):
    """How busy a device was.

    Attributes:
        share: busy over all seconds, in (0, 1].
        busy_s, wall_s: these seconds.
        kernels: intervals in the trace.
        lanes: where they are from: "streams" of a GPU, or "threads" of a CPU's pools.
    """

    share: float
    busy_s: float
    wall_s: float
    kernels: int
    lanes: str


def union(intervals: Iterable[tuple[float, float]]) -> float:
    """Measures the length of the union of intervals (begin, end)."""
    total, reached = 0.0, float("-inf")
    for begin, end in sorted(intervals):
        if end > reached:
            total += end - max(begin, reached)
            reached = end
    return total


def busy(trace: dict[str, Any]) -> Busy | None:
    """Measures how busy the busiest device of a trace was; None where the trace has no lane of a device.

    Args:
        trace: what the file holds, with events "traceEvents" in microseconds.
    """
    events = trace["traceEvents"]
    named = [event for event in events if event.get("ph") == "M"]
    processes = {e["pid"]: e["args"]["name"] for e in named if e.get("name") == "process_name"}
    threads = {(e["pid"], e["tid"]): e["args"]["name"] for e in named if e.get("name") == "thread_name"}
    devices = {pid for pid, name in processes.items() if name.startswith("/device:GPU")}
    starts = ("Stream",) if devices else HOST_POOLS
    lanes = {at for at, name in threads.items() if name.startswith(starts) and (at[0] in devices or not devices)}
    found = []
    for device in {pid for pid, _ in lanes}:
        kernels = [
            (event["ts"], event["ts"] + event["dur"])
            for event in events
            if event.get("ph") == "X" and event["pid"] == device and (device, event.get("tid")) in lanes
        ]
        wall = max((end for _, end in kernels), default=0.0) - min((begin for begin, _ in kernels), default=0.0)
        if wall > 0:
            length, where = union(kernels), "streams" if devices else "threads"
            found.append(Busy(length / wall, length * 1e-6, wall * 1e-6, len(kernels), where))
    return max(found, default=None)


def traced(call: Callable[[], Any], kept: Path | None = None) -> Busy | None:
    """Traces a call, which awaits what it starts, and measures how busy the device was meanwhile.

    Args:
        kept: the file, .json.gz, that the trace is kept in; None: nowhere.
    """
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0  # its events would fill the million that the file has room for
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, profiler_options=options):
            call()
        files = sorted(Path(folder).rglob("*.trace.json.gz"))
        if not files:
            return None
        content = files[-1].read_bytes()
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_bytes(content)
    found = busy(json.loads(gzip.decompress(content)))
    is_host = found is not None and found.lanes == "threads"
    return None if is_host and jax.default_backend() != "cpu" else found  # threads say nothing of another device
