"""Resolves a config and prints what it would run: config, parameters, FLOPs, memory, batch shapes. Trains nothing."""

from argparse import Namespace
from typing import Any

import jax

from diffjax import activity, models, specs, training
from diffjax import data as sources
from diffjax.config import Config, to_json
from diffjax.method import Example
from diffjax.runs.build import Built, build_run
from diffjax.runs.run import abstract_state


def main(config: Config | None, overrides: list[str], flags: Namespace) -> None:
    """Prints what a config, or the run of --workdir, would cost."""
    assert config is not None
    run(config)


def run(config: Config) -> dict[str, Any]:
    """Prints, and returns, a run's costs; memory and FLOPs are XLA's figures for one compiled step on one device."""
    with specs.noted() as book:
        built = build_run(config)
    state, config, data, size = abstract_state(built), built.config, built.data, built.settings.batch_size
    costs = {**_step_costs(built, state), "nfe": getattr(built.method.plan(data.shape), "nfe", None)}
    batch = _batch(built)
    shapes = {name: leaf.shape for name, leaf in {"x": batch.x, **batch.given, **batch.chosen}.items()}
    gflop, kept, temporary = costs["flops"] / 1e9, costs["state_bytes"] / 2**20, costs["temporary_bytes"] / 2**20
    print(to_json(config))
    print("defaults   of options that the config leaves out; --config.GROUP.OPTION=VALUE sets one")
    print("".join(f"  {group:<15}{text}\n" for group, text in specs.unsaid(config, book).items()))
    print(models.format_table(models.parameter_table(state.params)))
    print(f"data       {data.name}: {len(data.train)} train, {len(data.held_out)} held out, split {data.fingerprint}")
    print(f"batch      {', '.join(f'{name} {shape}' for name, shape in shapes.items())}")
    print(f"dispatch   {config.train.steps_per_dispatch} steps")
    print(f"step       {gflop:.3f} GFLOP, {1e3 * gflop / size:.2f} MFLOP per image")
    print(f"memory     {kept:.1f} MiB state, {temporary:.1f} MiB temporaries")
    if costs["nfe"] is not None:
        print(f"sampling   {costs['nfe']} evaluations per sample")
    return {"shapes": shapes, **costs}


def _batch(built: Built) -> Example:
    """A training batch; of what is given only what the method reads."""
    size = built.settings.batch_size * len(built.method.turns)
    whole = jax.tree.map(lambda a: jax.ShapeDtypeStruct((size, *a.shape), a.dtype), sources.blank(built.data))
    read = sources.asked(built.method, built.data)
    return whole._replace(given={name: leaf for name, leaf in whole.given.items() if name in read})


def _step_costs(built: Built, state: Any) -> dict[str, Any]:
    step = training.make_step(built.method, built.optimizer, built.ema, accumulate=built.settings.accumulate)
    with activity.doing("compiling a training step"):
        compiled = jax.jit(step, donate_argnums=0).lower(state, _batch(built)).compile()
    memory = compiled.memory_analysis()
    return {
        "flops": (compiled.cost_analysis() or {}).get("flops", float("nan")),
        "state_bytes": sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state)),
        "temporary_bytes": getattr(memory, "temp_size_in_bytes", 0),
    }
