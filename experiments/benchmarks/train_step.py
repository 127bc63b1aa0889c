"""What a training step costs beside its network: FLOPs over 3 x forward, donated memory, compiles, transfers, data.

On a CPU with glibc also the pages that the kernel clears in each step (`parallel.keep_memory`); MALLOC_ARENA_MAX=8 in
the environment, or any other setting of the allocator's, shows what there are without it.
"""

import argparse
import resource
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from counting import best_times, flops, report

from diffjax import data, parallel, runs, training
from diffjax.method import Example, Method
from diffjax.runs.run import init_state


def main() -> None:
    """The default digits recipe, or its tiny variant."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="the tiny recipe, few repeats")
    smoke = parser.parse_args().smoke
    built = runs.build_run(runs.load("configs/vpsde.py" + (":tiny" if smoke else "")))
    size, per_dispatch = built.settings.batch_size, built.settings.steps_per_dispatch
    step = training.make_step(built.method, built.optimizer, built.ema)
    state = init_state(built)
    batch = jax.tree.map(jnp.asarray, data.batch_at(built.data.train, size, 0, 0))
    stack = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (per_dispatch, *leaf.shape)) + 0, batch)
    results = {"config": built.config.name, "batch": size, **static_costs(built.method, step, state, batch, stack)}
    results |= running_costs(built.data.train, step, state, stack, *((2, 2) if smoke else (3, 5)))
    report("train_step", results)


def static_costs(method: Method, step: Any, state: Any, batch: Example, stack: Example) -> dict:
    """Counts of the compiler's, free of noise."""
    apply = lambda params, x: jax.vmap(lambda x: method.parts.network.apply(params, x, jnp.zeros(())))(x)
    ratio = flops(step, state, batch) / (3 * flops(apply, state.params, batch.x))
    donated = jax.jit(training.make_steps(step), donate_argnums=0)
    memory = donated.lower(state, stack).compile().memory_analysis()
    state_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    return {
        "flops_over_3_forward": round(ratio, 4),
        "donated_over_state_bytes": round(getattr(memory, "alias_size_in_bytes", 0) / state_bytes, 4),
    }


def running_costs(source: Any, step: Any, state: Any, stack: Example, dispatches: int, repeats: int) -> dict:
    """Compiles and transfers of a warm step, and its time with real data beside one constant batch."""
    per_dispatch, size = jax.tree.leaves(stack)[0].shape[:2]
    mesh = parallel.mesh(jax.devices()[:1])
    compiled = parallel.compile_step(training.make_steps(step), "jit", mesh, leading=1)
    holder = {"state": parallel.replicate(mesh, state)}
    put = lambda stack: parallel.shard_batch(mesh, stack, leading=1)
    constant = put(jax.device_get(stack))

    def advance(stack: Example) -> None:
        holder["state"], _ = compiled(holder["state"], stack)

    advance(constant)
    compiles = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, duration_secs, **_: compiles.append(event) if event.endswith("backend_compile_duration") else None
    )
    with jax.transfer_guard("disallow"):  # a transfer inside the step would raise
        advance(constant)
    with data.Batches(source, size, 0, steps_per_dispatch=per_dispatch, put=put) as batches:
        stream = iter(batches)

        def run(next_stack: Callable) -> Any:
            for _ in range(dispatches):
                advance(next_stack())
            return holder["state"].params

        both = {"real": lambda: run(lambda: next(stream)), "constant": lambda: run(lambda: constant)}
        times = best_times(both, repeats)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        jax.block_until_ready(run(lambda: constant))
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    return {
        "recompiles": len(compiles),
        "host_transfers_in_step": 0,
        "memory_kept": parallel.keep_memory(),
        "page_faults_per_step": round(faults / (dispatches * per_dispatch)),
        "real_over_constant_data_time": round(times["real"] / times["constant"], 3),
        "steps_per_s": round(dispatches * per_dispatch / times["real"], 2),
    }


if __name__ == "__main__":
    main()
