"""Resolves a config and prints what it would run: config, parameters, FLOPs, memory, batch shapes. Trains nothing."""

from argparse import Namespace
from functools import partial
from typing import Any

import jax

from diffjax import activity, models, slices, specs, training
from diffjax import data as sources
from diffjax.config import Config, one_line, to_json
from diffjax.method import Example
from diffjax.runs.build import Built, build_run
from diffjax.runs.run import abstract_state


def main(config: Config | None, overrides: list[str], flags: Namespace) -> None:
    """Prints what a config, or the run of --workdir, would cost."""
    assert config is not None
    run(config, flags.topology)


def run(config: Config, topology: str | None = None) -> dict[str, Any]:
    """Prints, and returns, a run's costs; FLOPs are counted, memory is XLA's figure for a step, here or on a slice."""
    with specs.noted() as book:
        built = build_run(config)
    state, config, data, size = abstract_state(built), built.config, built.data, built.settings.batch_size
    costs, batch = _costs(built, state, topology), _batch(built)
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
        many, cost = "s" * (costs["nfe"] != 1), costs["evaluation_flops"] / 1e6
        print(f"sampling   {costs['nfe']} evaluation{many} per sample, {cost:.2f} MFLOP each")
    print("".join(f"{line}\n" for line in costs["slice"]), end="")
    return {"shapes": shapes, **costs}


def _batch(built: Built) -> Example:
    """A training batch; of what is given only what the method reads."""
    size = built.settings.batch_size * len(built.method.turns)
    whole = jax.tree.map(lambda a: jax.ShapeDtypeStruct((size, *a.shape), a.dtype), sources.blank(built.data))
    read = sources.asked(built.method, built.data)
    return whole._replace(given={name: leaf for name, leaf in whole.given.items() if name in read})


def _costs(built: Built, state: Any, topology: str | None) -> dict[str, Any]:
    """Costs of a step, and of one sample, of which the network's evaluations are all but a small share."""
    log = {"learning_rate": built.learning_rate, "time_bins": built.settings.time_bins}
    parts = built.method, built.optimizer, built.ema
    make = partial(training.make_step, *parts, accumulate=built.settings.accumulate, **log)
    example, request = sources.blank(built.data), built.method.plan(built.data.shape)
    given = {name: example.given[name] for name in sources.asked(built.method, built.data)}
    draw = lambda params: built.method.draw(params, request, jax.random.key(0), given)
    with activity.doing("compiling a training step"), one_line():
        told = built.method, state, _batch(built), built.settings
        found = slices.compiled(topology, make, *told) if topology else None
        compiled = found.program if found else jax.jit(make(), donate_argnums=0).lower(state, _batch(built)).compile()
    return {
        "flops": models.flops(make(), state, _batch(built)),
        "nfe": (nfe := getattr(request, "nfe", None)),
        "evaluation_flops": models.flops(draw, state.params) / (nfe or 1),
        "state_bytes": sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state)),
        "slice": list(found.lines()) if found else [],
        "temporary_bytes": getattr(compiled.memory_analysis(), "temp_size_in_bytes", 0),
    }
