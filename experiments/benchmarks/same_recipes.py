"""Which recipes give the same bytes on any number of devices (`train.shards`): steps and samples of configs/.

    python experiments/benchmarks/same_recipes.py [--smoke] [configs/vdm.py:tiny ...]

Each recipe is one JSON line: it makes three strict steps of 4 shards on 1, 2 and 4 devices (of a CPU that has as many),
and 8 samples by what it has then. `steps` and `samples` name what differs from one device by as little as a bit: arrays
of the state and the metrics, or of the samples. By default all recipes that have a small variant, of data that is here.
A batch has two examples for each shard and turn. Exit status 1 where anything differs. Run it on one core
(`taskset -c 0`): the sums of a CPU's matrix products depend on its threads.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from counting import report

from diffjax import data, draws, parallel, runs, strict, training
from diffjax.config import ConfigError
from diffjax.runs.run import Run, init_state

ROOT = Path(__file__).resolve().parents[2]
SHARDS, STEPS, SAMPLES, EACH = 4, 3, 8, 2
DEVICES = (1, 2, 4)


def main() -> int:
    """Prints a line for each recipe, and says which were left out; returns 1 if any differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipes", nargs="*", help="configs and their variants; default the small one of each")
    parser.add_argument("--smoke", action="store_true", help="one recipe, of points")
    flags = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", max(DEVICES))
    every = sorted(f"{path}:tiny" for path in (ROOT / "configs").glob("*.py"))
    differs = False
    for recipe in flags.recipes or (["configs/points.py:tiny"] if flags.smoke else every):
        began, name = time.perf_counter(), recipe.removeprefix(f"{ROOT}/")
        try:
            built = runs.build_run(runs.load(recipe))
        except (ConfigError, OSError) as error:
            if flags.recipes:  # asked for by name
                parser.error(str(error))
            print(f"{name} is left out: {str(error).splitlines()[0]}", flush=True)
            continue
        found = compared(built)
        differs |= any(found.values())
        jax.clear_caches()
        report("same_recipes", {"recipe": name, **found, "seconds": round(time.perf_counter() - began)})
    return int(differs)


def compared(built: Any) -> dict[str, list[str]]:
    """Names of the arrays whose bytes are others on several devices than on one."""
    one, *others = (of_devices(built, devices) for devices in DEVICES)
    return {
        kind: sorted({name for other in others for name in one[kind] if differ(one[kind][name], other[kind][name])})
        for kind in one
    }


def differ(one: np.ndarray, other: np.ndarray) -> bool:
    """Tells whether two arrays have other bytes; both have one shape and dtype."""
    return one.tobytes() != other.tobytes()


def of_devices(built: Any, devices: int) -> dict[str, dict[str, np.ndarray]]:
    """The state, metrics and samples of a few steps on so many devices."""
    mesh, method = parallel.mesh(data=devices), built.method
    size = EACH * SHARDS * len(method.turns)
    shards = strict.virtual(mesh, SHARDS, size)
    rate = {"learning_rate": built.learning_rate, "time_bins": built.settings.time_bins}
    step = training.make_step(method, built.optimizer, built.ema, across=shards, **rate)
    compiled = parallel.compile_step(training.make_steps(step), mesh=mesh, leading=1)
    state, logged = parallel.replicate(mesh, init_state(built)), []
    for k in range(STEPS):
        batch = data.batch_at(built.data.train, size, 0, k)
        stack = jax.tree.map(lambda leaf: np.asarray(leaf)[None], batch)
        state, metrics = compiled(state, parallel.shard_batch(mesh, stack, 1))
        logged.append(jax.device_get(metrics))
    state = jax.device_get(state._replace(key=jax.random.key_data(state.key)))
    run, seeds = Run(method, built.data, built.ema, built.settings, state), np.arange(SAMPLES)
    draw = draws.drawer(method, built.data.shape, SAMPLES // 2, mesh, strict=True)
    return {"steps": named((state, logged)), "samples": named(draw(run.params, seeds, run.given(seeds)))}


def named(tree: Any) -> dict[str, np.ndarray]:
    """The arrays of a tree by the names of their places."""
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


if __name__ == "__main__":
    sys.exit(main())
