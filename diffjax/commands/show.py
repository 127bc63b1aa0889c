"""Resolves a config and prints what it would run: config, parameters, FLOPs, memory, batch shapes. Trains nothing."""

from argparse import Namespace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from diffjax import models, samplers, training
from diffjax.commands import workdir as files
from diffjax.commands.experiment import Experiment, abstract_state, build_experiment, loss_fn, plan
from diffjax.config import Config, to_json


def main(config: Config | None, overrides: list[str], flags: Namespace) -> None:
    """The command line's entry."""
    run(config if config is not None else files.read_config(Path(flags.workdir)))


def run(config: Config, workdir: str | Path | None = None) -> dict[str, Any]:
    """Prints, and returns, a run's costs; memory and FLOPs are XLA's figures for one compiled step on one device."""
    experiment = build_experiment(config)
    state = abstract_state(experiment)
    costs = {**_step_costs(experiment, state), "nfe": samplers.nfe(plan(config, experiment.schedule).walk)}
    data, size = experiment.dataset, config.train.batch_size
    shapes = {name: leaf.shape for name, leaf in _batch(experiment).items()}
    gflop, mib = costs["flops"] / 1e9, 2.0**-20
    print(to_json(config))
    print(models.format_table(models.parameter_table(state.params)))
    print(f"data       {data.name}: {len(data.train)} train, {len(data.held_out)} held out, split {data.fingerprint}")
    print(f"batch      {', '.join(f'{name} {shape}' for name, shape in shapes.items())}")
    print(f"dispatch   {config.train.steps_per_dispatch} steps")
    print(f"step       {gflop:.3f} GFLOP, {1e3 * gflop / size:.2f} MFLOP per image")
    print(
        f"memory     {costs['state_bytes'] * mib:.1f} MiB state, {costs['temporary_bytes'] * mib:.1f} MiB temporaries"
    )
    print(f"sampling   {costs['nfe']} evaluations per sample")
    return {"shapes": shapes, **costs}


def _batch(experiment: Experiment) -> dict[str, jax.ShapeDtypeStruct]:
    """A training batch: "x", and of labels, endpoints "y" and noise "z" what the data has and the run takes."""
    one, size = experiment.dataset.train.gather(np.zeros(1, int)), experiment.config.train.batch_size
    taken = [name for name in one if name != "label" or experiment.conditional]
    return {name: jax.ShapeDtypeStruct((size, *one[name].shape[1:]), one[name].dtype) for name in taken}


def _step_costs(experiment: Experiment, state: Any) -> dict[str, Any]:
    step = training.make_step(loss_fn(experiment), experiment.optimizer, experiment.emas, prepare=experiment.prepare)
    compiled = jax.jit(step, donate_argnums=0).lower(state, _batch(experiment)).compile()
    memory = compiled.memory_analysis()
    return {
        "flops": (compiled.cost_analysis() or {}).get("flops", float("nan")),
        "state_bytes": sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state)),
        "temporary_bytes": getattr(memory, "temp_size_in_bytes", 0),
    }
