"""How long a save holds the training loop, its share of the wall at one save in 100 steps, and memory over 200 saves.

    python experiments/benchmarks/save_stall.py [--smoke]

Of a network of some 7,000 parameters and of the default digits U-Net. `stall` is the wall that `Checkpoints.save` takes
of its caller, `caller_cpu` the CPU time of that thread, which other processes do not disturb; `cpu_per_save` counts all
threads until the save is complete, `complete` its wall. Each save is waited for before the next, outside of the times.

Memory is resident (VmRSS, Linux), after so many saves; `slope_kb_per_save` is over the second half, and the same once
more for what is left after the allocator has given back what it could (`malloc_trim`): of the two only this one would
be a leak.
"""

import argparse
import contextlib
import ctypes
import gc
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from counting import best_times, report

from diffjax import data, parallel, runs, training
from diffjax.checkpoint import Checkpoints
from diffjax.runs.run import init_state

SMALL = ("data.name=moons", "model.name=MLP", "model.width=26", "model.depth=1")


def main() -> None:
    """Both networks, or with --smoke few saves of tiny ones."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="few saves of tiny networks")
    smoke = parser.parse_args().smoke
    small = runs.build_run(runs.load("configs/vpsde.py:tiny", SMALL))
    unet = runs.build_run(runs.load("configs/vpsde.py" + (":tiny" if smoke else "")))
    results = {
        "small": stalls(init_state(small), 5 if smoke else 50),
        "unet": stalls(init_state(unet), 3 if smoke else 30),
    }
    step = step_seconds(unet, 1 if smoke else 5)
    stall = results["unet"]["stall_ms"] / 1000
    results["unet"] |= {"step_ms": round(1000 * step, 2), "share_at_1_in_100": round(stall / (100 * step + stall), 5)}
    results["memory"] = memory(init_state(small), (2, 4, 6) if smoke else (20, 50, 100, 150, 200))
    report("save_stall", results)


def stalls(state: training.TrainState, saves: int) -> dict[str, Any]:
    """Times of saves of one state; the first, which makes the thread and Orbax's own tools, does not count."""
    walls, caller, cpu, complete = [], [], [], []
    with tempfile.TemporaryDirectory() as folder, Checkpoints(folder) as checkpoints:
        for k in range(saves + 1):
            state = state._replace(step=jnp.asarray(k, state.step.dtype))
            jax.block_until_ready(state)
            began, own, every = time.perf_counter(), time.thread_time(), time.process_time()
            checkpoints.save(k, state, metrics={"loss": 1.0 / (k + 1)}, config={})
            walls.append(time.perf_counter() - began)
            caller.append(time.thread_time() - own)
            checkpoints.wait()
            complete.append(time.perf_counter() - began)
            cpu.append(time.process_time() - every)
    ms = lambda seconds: round(1000 * seconds, 2)
    return {
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        "leaves": len(jax.tree.leaves(state)),
        "stall_ms": ms(statistics.median(walls[1:])),
        "stall_p90_ms": ms(float(np.quantile(walls[1:], 0.9))),
        "caller_cpu_ms": ms(statistics.median(caller[1:])),
        "cpu_per_save_ms": ms(statistics.median(cpu[1:])),
        "complete_ms": ms(statistics.median(complete[1:])),
    }


def step_seconds(built: Any, repeats: int) -> float:
    """The best time of a training step, of one constant batch."""
    count = built.settings.steps_per_dispatch
    mesh = parallel.mesh(jax.devices()[:1])
    step = training.make_steps(training.make_step(built.method, built.optimizer, built.ema))
    compiled = parallel.compile_step(step, "jit", mesh, leading=1)
    batch = data.batch_at(built.data.train, built.settings.batch_size, 0, 0)
    stack = parallel.shard_batch(mesh, jax.tree.map(lambda a: np.stack([np.asarray(a)] * count), batch), leading=1)
    holder = {"state": parallel.replicate(mesh, init_state(built))}

    def advance() -> Any:
        holder["state"], _ = compiled(holder["state"], stack)
        return holder["state"].params

    return best_times({"step": advance}, repeats)["step"] / count


def memory(state: training.TrainState, marks: tuple[int, ...]) -> dict[str, Any]:
    """Resident memory after so many saves, and its slope over the second half."""
    resident, kept = {}, {}
    with tempfile.TemporaryDirectory() as folder, Checkpoints(folder) as checkpoints:
        for k in range(1, marks[-1] + 1):
            state = state._replace(step=jnp.asarray(k, state.step.dtype))
            checkpoints.save(k, state, metrics={"loss": 1.0 / k}, config={})
            checkpoints.wait()
            if k in marks:
                resident[k] = resident_mb()
                gc.collect()
                trim()
                kept[k] = resident_mb()
    slope = lambda found: np.polyfit(marks[len(marks) // 2 :], [found[k] for k in marks[len(marks) // 2 :]], 1)[0]
    return {
        "saves": list(marks),
        "resident_mb": [round(resident[k], 1) for k in marks],
        "trimmed_mb": [round(kept[k], 1) for k in marks],
        "slope_kb_per_save": round(1024 * float(slope(resident)), 1),
        "trimmed_slope_kb_per_save": round(1024 * float(slope(kept)), 1),
    }


def resident_mb() -> float:
    """VmRSS; 0 where there is no /proc."""
    path = Path("/proc/self/status")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS")), 0.0)


def trim() -> None:
    """Has glibc give back what is free."""
    with contextlib.suppress(OSError, AttributeError):  # another allocator
        ctypes.CDLL("libc.so.6").malloc_trim(0)


if __name__ == "__main__":
    main()
