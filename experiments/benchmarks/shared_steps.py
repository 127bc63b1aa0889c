"""What runs that differ in numbers compile, with the numbers of a step as its arguments and without: one JSON line.

    python experiments/benchmarks/shared_steps.py [--config=configs/vpsde.py:tiny] [--runs=4] [--smoke]

Runs of one process, of other rates, betas and seeds each, make two steps. Counted are programs that XLA compiles and
those that jax finds in the folder of kept ones, a new one for each way.
"""

import argparse
import json
import tempfile
import time

import jax
import numpy as np

from diffjax import parallel, training
from diffjax.data.batches import stack_at
from diffjax.runs import run as runs
from diffjax.runs.build import build_run, load


class Counter:
    """Counts jax's own events by the last part of their names."""

    def __init__(self) -> None:
        self.seen: dict[str, int] = {}
        jax.monitoring.register_event_listener(self._add)

    def _add(self, event: str, **_: object) -> None:
        self.seen[event.rpartition("/")[2]] = self.seen.get(event.rpartition("/")[2], 0) + 1


def measure(config: str, runs_made: int, lifted: bool, counter: Counter) -> dict[str, float]:
    """Makes two steps of each run, and counts what the second and later runs compile for them."""
    compiled = found = 0
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        jax.config.update("jax_compilation_cache_dir", folder)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
        jax.experimental.compilation_cache.compilation_cache.reset_cache()
        for i in range(runs_made):
            numbers = [f"learning_rate.peak={1e-3 * (i + 1)}", f"optimizer.b1={0.9 - 0.01 * i}", f"seed={i}"]
            built = build_run(load(config, numbers))
            state = parallel.replicate(parallel.mesh(), runs.init_state(built))
            step = training.make_step(built.method, built.optimizer, built.ema, learning_rate=built.learning_rate)
            steps = training.make_steps(step)
            ours = steps if lifted else (lambda state, batch, steps=steps: steps(state, batch))  # hides its `lift`
            run = parallel.compile_step(ours, "jit", parallel.mesh(), leading=1)
            size = built.settings.batch_size * len(built.method.turns)
            put = lambda k, size=size, built=built: parallel.shard_batch(
                parallel.mesh(), stack_at(built.data.train, size, 0, k, 1), leading=1
            )
            batches = [put(0), put(1)]
            counter.seen.clear()
            began = time.monotonic()
            for batch in batches:
                state, _ = run(state, batch)
            jax.block_until_ready(state)
            seconds.append(time.monotonic() - began)
            compiled += counter.seen.get("cache_misses", 0)
            found += counter.seen.get("cache_hits", 0)
    return {"compiled": compiled, "found": found, "first_s": seconds[0], "later_s": float(np.median(seconds[1:]))}


def main() -> None:
    """Prints one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/vpsde.py:tiny")
    parser.add_argument("--runs", type=int, default=4)
    parser.add_argument("--smoke", action="store_true", help="two runs")
    args = parser.parse_args()
    args.runs = 2 if args.smoke else args.runs
    counter = Counter()
    found = {
        name: measure(args.config, args.runs, name == "arguments", counter) for name in ("arguments", "compiled_in")
    }
    ratio = found["compiled_in"]["later_s"] / found["arguments"]["later_s"]
    device = jax.devices()[0].device_kind
    rounded = {k: {n: round(v, 2) for n, v in one.items()} for k, one in found.items()}
    print(
        json.dumps(
            {
                "config": args.config,
                "runs": args.runs,
                **rounded,
                "ratio": round(ratio, 2),
                "device": device,
                "jax": jax.__version__,
            }
        )
    )


if __name__ == "__main__":
    main()
