"""Resolves a config and prints what it would run: config, parameters, FLOPs, memory, batch shapes. Trains nothing."""

from argparse import Namespace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from diffjax import models, samplers, training
from diffjax.commands import workdir as files
from diffjax.commands.experiment import Experiment, build_experiment, init_state, loss_fn, plan
from diffjax.config import to_json


def main(config: ConfigDict | None, overrides: list[str], flags: Namespace) -> None:
    """The command line's entry."""
    run(config if config is not None else files.read_config(Path(flags.workdir)))


def run(config: ConfigDict, workdir: str | Path | None = None) -> dict[str, Any]:
    """Prints, and returns, a run's costs; memory and FLOPs are XLA's figures for one compiled step on one device."""
    experiment = build_experiment(config)
    state = jax.eval_shape(lambda: init_state(experiment))
    shapes = {"batch": (config.train.batch_size, *experiment.dataset.shape), "label": (config.train.batch_size,)}
    costs = {**_step_costs(experiment, state), "nfe": samplers.nfe(plan(config, experiment.schedule).walk)}
    print(to_json(config))
    print(models.format_table(models.parameter_table(state.params)))
    print(
        f"data       {experiment.dataset.name}: {len(experiment.dataset.train)} train, {len(experiment.dataset.held_out)} held out"
    )
    print(
        f"batch      x {shapes['batch']} float32"
        + (f", label {shapes['label']} int32" if experiment.conditional else "")
    )
    print(f"dispatch   {config.train.steps_per_dispatch} steps of it")
    print(
        f"step       {costs['flops'] / 1e9:.3f} GFLOP, {costs['flops'] / config.train.batch_size / 1e6:.2f} MFLOP per image"
    )
    print(
        f"memory     {costs['state_bytes'] / 2**20:.1f} MiB state, {costs['temporary_bytes'] / 2**20:.1f} MiB temporaries"
    )
    print(f"sampling   {costs['nfe']} evaluations per sample")
    return {"shapes": shapes, **costs}


def _step_costs(experiment: Experiment, state: Any) -> dict[str, Any]:
    step = training.make_step(loss_fn(experiment), experiment.optimizer, experiment.emas)
    size = experiment.config.train.batch_size
    batch = {"x": jax.ShapeDtypeStruct((size, *experiment.dataset.shape), jnp.float32)}
    if experiment.conditional:
        batch["label"] = jax.ShapeDtypeStruct((size,), jnp.int32)
    compiled = jax.jit(step, donate_argnums=0).lower(state, batch).compile()
    memory = compiled.memory_analysis()
    return {
        "flops": (compiled.cost_analysis() or {}).get("flops", float("nan")),
        "state_bytes": sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state)),
        "temporary_bytes": getattr(memory, "temp_size_in_bytes", 0),
    }
