"""What a config may not ask for, said in one line before anything runs: each function raises a `ConfigError`."""

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from diffjax import denoisers, ema, schedules
from diffjax.commands.logs import LOGGERS
from diffjax.config import Config, ConfigError, nearest
from diffjax.types import PyTree

if TYPE_CHECKING:
    from diffjax.commands.experiment import Experiment


def check_ema(config: Config, emas: ema.Ema) -> None:
    """sample.ema is tracked, or can be made of what is stored along the run."""
    name, every, train = config.sample.ema, config.checkpoint.get("snapshot_every"), config.train
    names = list(jax.eval_shape(emas.init, jnp.zeros(())).averages)
    if every is not None and (every < 1 or every % train.steps_per_dispatch):
        raise ConfigError(
            f"checkpoint.snapshot_every is {every}, expected a multiple of train.steps_per_dispatch, "
            f"{train.steps_per_dispatch}, or None to store no averages."
        )
    if every is not None and emas.combine is None:
        raise ConfigError(
            f"checkpoint.snapshot_every is {every}, but ema.{config.ema.name} makes nothing of snapshots."
        )
    if name in names:
        return
    if emas.combine is None:
        raise ConfigError(f"sample.ema is {name!r}: {nearest(name, names)}.")
    emas.combine(name, [1])
    if every is None or every > train.sample_every:
        raise ConfigError(
            f"sample.ema is {name!r}, which is not tracked ({', '.join(names)} are) and needs stored "
            f"averages: train with checkpoint.snapshot_every <= train.sample_every, {train.sample_every}; got {every}."
        )


def check_augment(experiment: "Experiment") -> None:
    """The network takes the label that the augmentation gives."""
    x = jax.ShapeDtypeStruct(experiment.dataset.shape, jnp.float32)
    _, label = jax.eval_shape(experiment.augment, jax.eval_shape(lambda: jax.random.key(0)), x)
    taken = experiment.config.model.get("augment", 0)
    if label is not None and label.size != taken:
        raise ConfigError(
            f"augment.{experiment.config.augment.name} gives a label of {label.size} entries, but model.augment is "
            f"{taken}; set model.augment={label.size} (UNet has it), or augment.name=none."
        )


def check_maps(config: Config) -> None:
    """What the denoiser reads beside F is what the loss trains."""
    wanted = denoisers.variance.TRAINED_BY.get(config.denoiser.name)
    if wanted and config.loss.name not in wanted:
        raise ConfigError(
            f"denoiser.{config.denoiser.name} reads a second map of the network, which losses.{' or '.join(wanted)} "
            f"trains; this run's loss is {config.loss.name}."
        )


def check_pairs(experiment: "Experiment") -> None:
    """Data that comes in pairs with its noise stays in them, and their flow is all that is known."""
    if "z" not in experiment.dataset.train.gather(np.arange(1)):
        return
    if experiment.config.augment.name != "none":
        raise ConfigError(
            f"augment.{experiment.config.augment.name} would part each x from its z: set augment.name=none."
        )
    if experiment.prepare is not None and "z" in prepared_one(experiment):
        raise ConfigError(
            f"prepare.{experiment.config.prepare.name} would part each x from its z: set prepare.name=nothing."
        )
    if not schedules.flow_only(experiment.schedule):
        raise ConfigError(
            "The data comes in pairs (x, z), so that x_t given x_0 is not Gaussian and only the flow is right: set "
            "process.name=path.rectified (schedule.name=Rectified)."
        )


def prepared_one(experiment: "Experiment") -> PyTree:
    """What `prepare` makes of a batch of one."""
    assert experiment.prepare is not None
    x = jnp.zeros((1, *experiment.dataset.shape), jnp.float32)
    return experiment.prepare.apply(experiment.prepare.init(), jax.random.key(0), {"x": x})


def check_labels(experiment: "Experiment") -> None:
    """Labels are in range, and what guidance needs was trained."""
    config, data = experiment.config, experiment.dataset
    classes, dropout, label = config.model.get("classes"), config.train.label_dropout, config.sample.label
    if not 0 <= dropout < 1:
        raise ConfigError(f"train.label_dropout is {dropout}, expected a share in [0, 1); Ho and Salimans: 0.1 to 0.2.")
    if classes is None:
        for field, used in (("train.label_dropout", dropout), ("sample.label", label is not None)):
            if used:
                raise ConfigError(f"{field} is set, but the model takes no labels: set model.classes.")
        if config.guidance.name != "none":
            raise ConfigError(f"guidance.{config.guidance.name} needs a conditional model: set model.classes.")
        return
    if data.classes is None or data.classes > classes:
        raise ConfigError(f"model.classes is {classes}, but {data.name} has {data.classes or 'no'} labels.")
    if config.guidance.name != "none" and dropout == 0:
        raise ConfigError(
            f"guidance.{config.guidance.name} needs a model that was trained without labels too: "
            "set train.label_dropout, to 0.1 say."
        )
    if label is not None and not 0 <= label <= classes:
        raise ConfigError(f"sample.label is {label}, expected 0 to {classes - 1}, or {classes} for no label.")


def check_endpoints(experiment: "Experiment") -> None:
    """A bridge has its target and its endpoints, and the network room for them."""
    bridge, data, config = experiment.bridge, experiment.dataset, experiment.config
    first = data.train.gather(np.zeros(1, int))
    channels = config.model.get("condition", 0)
    if bridge is None:
        if channels:
            raise ConfigError(f"model.condition is {channels}, but only a bridge has endpoints: process.name=bridge.")
        return
    if not isinstance(experiment.target, denoisers.DDBM):
        raise ConfigError(f"A bridge needs target.name=DDBM, got {config.target.name}.")
    if bridge.from_noise and "y" in first:
        raise ConfigError(f"{data.name} has endpoints, but process.from_noise draws them: set one of the two.")
    if not bridge.from_noise and "y" not in first:
        raise ConfigError(
            f"{data.name} has no endpoints, which the bridge needs: set data.name=pairs, data.of={config.data.name}, "
            "or process.from_noise=True."
        )
    if channels not in (0, data.shape[-1]):
        raise ConfigError(f"model.condition is {channels}, expected {data.shape[-1]}, the endpoint's channels, or 0.")
    if config.augment.name != "none":
        raise ConfigError("augment transforms x alone, not its endpoint: set augment.name=none.")


def check_counts(config: Config) -> None:
    """What is only used late in a run is looked at before it begins."""
    if not 0 <= config.seed < 2**32:
        raise ConfigError(f"seed is {config.seed}, expected an integer in [0, 2^32).")
    for path in ("eval.samples", "eval.time_bins", "sample.chunk", "checkpoint.every", "checkpoint.keep"):
        group, field = path.split(".")
        if config[group][field] < 1:
            raise ConfigError(f"{path} is {config[group][field]}, expected an integer >= 1.")


def check_train(train: Config) -> None:
    """Counts are positive and meet at dispatches; loggers, backend and policy exist."""
    for field in ("steps", "batch_size", "steps_per_dispatch", "log_every", "sample_every"):
        if train[field] < 1:
            raise ConfigError(f"train.{field} is {train[field]}, expected an integer >= 1.")
    for field in ("steps", "log_every", "sample_every"):
        if train[field] % train.steps_per_dispatch:
            raise ConfigError(
                f"train.{field} = {train[field]} is not a multiple of train.steps_per_dispatch, "
                f"{train.steps_per_dispatch}."
            )
    for name in train.loggers:
        if name not in LOGGERS:
            raise ConfigError(f"train.loggers holds {name!r}: {nearest(name, LOGGERS)}.")
    for field, options in (("backend", ("jit", "pmap")), ("nonfinite", ("stop", "skip"))):
        if train[field] not in options:
            raise ConfigError(f"train.{field} is {train[field]!r}: {nearest(train[field], options)}.")
