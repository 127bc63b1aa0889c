"""What the same bits on any number of devices cost (`train.shards`): operations, bytes sent, time of steps and samples.

    python experiments/benchmarks/same_bits.py [--shards=8] [--only=mlp] [--smoke]

For the default digits U-Net and the default MLP on points, on one device and on all (8 of a CPU). `flops`: those of the
shards' losses and gradients over those of the whole batch's. `sent`: bytes that collectives make on a device over those
of the gradients, by the shapes in the compiled step; `ordinary_sent` those of all-reduce, whose result each device may
send about twice. `time`: that of a strict step over that of an ordinary one, the best of a few. `samples`: that of 16
samples by ten steps of the grid, on one device.
"""

import argparse
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
from counting import best_times, flops, report

from diffjax import data, draws, parallel, runs, strict, training
from diffjax.config import Config
from diffjax.method import size_of
from diffjax.runs.run import init_state

CONFIGS = {"unet": "configs/vpsde.py", "mlp": "configs/points.py"}
SMALL = {"unet": ["model.channels=4", "model.multipliers=1", "model.attention=()", "train.batch_size=16"], "mlp": []}
COLLECTIVE = re.compile(r"= (.*?) (?:collective-permute|all-reduce|all-gather)(?:-start)?\(")
ARRAY = re.compile(r"\b(?:f|s|u|bf)(\d+)\[([\d,]*)\]")


def main() -> None:
    """Prints the ratios of both networks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--smoke", action="store_true", help="the tiny recipes, few repeats")
    parser.add_argument("--only", choices=tuple(CONFIGS), help="one network")
    flags = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", 8)
    results: dict[str, Any] = {"shards": flags.shards}
    for name, config in CONFIGS.items() if flags.only is None else [(flags.only, CONFIGS[flags.only])]:
        chosen = runs.load(config + ":tiny", SMALL[name]) if flags.smoke else runs.load(config, ["grid.n=10"])
        results[name] = measured(chosen, flags.shards, 1 if flags.smoke else 3)
    report("same_bits", results)


def measured(config: Config, shards: int, repeats: int) -> dict[str, Any]:
    """Ratios of one config's strict step over its ordinary one."""
    built = runs.build_run(config)
    size = built.settings.batch_size
    batch = data.batch_at(built.data.train, size, 0, 0)
    found: dict[str, Any] = {"batch": size, "flops": round(of_shards(built, batch, shards), 4)}
    found["samples"] = round(of_samples(built, repeats), 3)
    for devices in (1, jax.device_count()):
        mesh = parallel.mesh(data=devices)
        steps = {
            name: Prepared(built, mesh, batch, count, size) for name, count in (("ordinary", None), ("strict", shards))
        }
        gradients = sum(leaf.nbytes for leaf in jax.tree.leaves(steps["strict"].holder["state"].params))
        sent = {name: step.sent() / gradients for name, step in steps.items()}
        times = best_times(dict(steps), repeats)
        found[f"devices_{devices}"] = {
            "sent": round(sent["strict"], 3),
            "ordinary_sent": round(sent["ordinary"], 3),
            "ordinary_ms": round(1e3 * times["ordinary"], 2),
            "time": round(times["strict"] / times["ordinary"], 3),
        }
    return found


def of_shards(built: Any, batch: Any, shards: int) -> float:
    """Operations of the shards' losses and gradients over those of the batch's."""
    state, turn = init_state(built), built.method.turns[0]
    count = lambda rows: flops(lambda params, key: training.slope(turn, params, key, rows), state.params, state.key)
    part = jax.tree.map(lambda leaf: leaf[: size_of(batch) // shards], batch)
    prepared = [jax.tree.map(jnp.asarray, rows) for rows in (part, batch)]
    return shards * count(prepared[0]) / count(prepared[1])


def of_samples(built: Any, repeats: int) -> float:
    """Time of drawing samples as they are written over that of ordinary ones, by the first parameters."""
    run = runs.Run(
        built.method, built.data, built.ema, built.settings, jax.device_get(init_state(built)._replace(key=0))
    )
    seeds, one = range(16), parallel.mesh(data=1)
    told = run.given(seeds)

    def drawing(exact: bool) -> Any:
        draw = draws.drawer(built.method, built.data.shape, 16, one, strict=exact)
        return lambda: draw(run.params, seeds, told)

    times = best_times({"ordinary": drawing(False), "strict": drawing(True)}, repeats)
    return times["strict"] / times["ordinary"]


class Prepared:
    """A compiled step and its state."""

    def __init__(self, built: Any, mesh: Any, batch: Any, count: int | None, size: int):
        shards = strict.virtual(mesh, count, size)
        self.step = training.make_step(built.method, built.optimizer, built.ema, across=shards)
        self.holder = {"state": parallel.replicate(mesh, init_state(built))}
        self.batch = parallel.shard_batch(mesh, batch)
        parallel.keep_memory()  # as `compile_step` does
        options = getattr(self.step, "options", None)
        jitted = jax.jit(self.step, donate_argnums=0, out_shardings=parallel.replicated(mesh), compiler_options=options)
        self.compiled = jitted.lower(self.holder["state"], self.batch).compile()

    def __call__(self) -> Any:
        """Makes a step."""
        self.holder["state"], _ = self.compiled(self.holder["state"], self.batch)
        return self.holder["state"].params

    def sent(self) -> float:
        """Counts the bytes of the results of the compiled step's collectives."""
        text = self.compiled.as_text() or ""
        arrays = [array for line in COLLECTIVE.findall(text) for array in ARRAY.findall(line)]
        return sum(int(bits) // 8 * math.prod(map(int, filter(None, shape.split(",")))) for bits, shape in arrays)


if __name__ == "__main__":
    main()
