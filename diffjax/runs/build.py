"""From a config to the objects of a run: the only reader of a method's fields. Absent groups have `DEFAULTS`."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
from ml_collections import ConfigDict, config_dict

from diffjax import (
<<<<<<< HEAD
=======
    calculus,
>>>>>>> 888f1d2
    data,
    denoisers,
    ema,
    finetune,
    grids,
    losses,
    methods,
    models,
    optimizers,
    processes,
    samplers,
    schedules,
)
from diffjax.config import Config, ConfigError, build, maker
from diffjax.data import Dataset
from diffjax.data import augment as augmentation
from diffjax.method import Method
from diffjax.runs import checks
from diffjax.runs.settings import Settings

NAMED = {  # what a config may leave out
    "data": "digits",
    "schedule": "VP",
    "process": "Gaussian",
    "target": "V",
    "weight": "unit",
    "times": "stratified",
    "augment": "none",
    "prepare": "nothing",
    "loss": "regression",
    "denoiser": "mean",
    "guidance": "none",
    "model": "UNet",
    "optimizer": "adam",
}


def defaults() -> ConfigDict:
    """Every group, as a config has it that says nothing."""
    config = ConfigDict({group: dict(name=name) for group, name in NAMED.items()})
    config.seed, config.name = 0, "run"
    config.learning_rate = dict(peak=1e-3, schedule="constant", warmup_steps=0)
    config.ema = dict(name="warm_up", decays=(0.999,))
    config.train = dict(Settings()._asdict(), clip_norm=1.0, start=config_dict.placeholder(str), label_dropout=0.0)
    config.train.only, config.train.devices = config_dict.placeholder(str), config_dict.placeholder(int)
    config.sampler, config.grid = dict(name="ancestral.ddim"), dict(name="log_snr", n=40, t_min=1e-3)
    config.sample = dict(chunk=64, ema="0.999", label=config_dict.placeholder(int))
    config.checkpoint = dict(every=500, keep=2, best=1)
    config.eval = dict(samples=1024, time_bins=10)
    for field in ("seed", "chunk", "ema", "label", "checkpoint_every", "keep", "best", "snapshot_every", "time_bins"):
        del config.train[field]
    return config


class Built(NamedTuple):
    """What a config names: the arguments of `runs.Trainer`, and the config itself."""

    method: Method
    data: Dataset
    optimizer: Any
    ema: ema.Ema
    learning_rate: Callable
    settings: Settings
    config: Config


def build_run(config: Config) -> Built:
    """Builds what the config names, in an order that reports a slip of the pen before any data is read.

    Raises:
        ConfigError: in one line, naming the alternatives.
    """
    try:
        return _build(complete(config))
    except (ValueError, FileNotFoundError) as error:
        raise error if isinstance(error, ConfigError) else ConfigError(str(error)) from error


def complete(config: Config) -> Config:
    """The config with the defaults in the place of groups, and of the fields of unnamed groups, that are not there."""
    whole = copy.deepcopy(config)
    with whole.unlocked():
        for group, default in defaults().items():
            if group not in whole:
                whole[group] = default
            elif isinstance(default, ConfigDict) and "name" not in default:
                whole[group].update({field: value for field, value in default.items() if field not in whole[group]})
    return whole.lock()


def _build(config: Config) -> Built:
    settings = _settings(config)
    checks.check_settings(settings, config.train)
    process = build(processes, config.process, build(schedules, config.schedule))
    calculus.check(process.schedule)
    emas = build(ema, config.ema)
    checks.check_ema(settings, emas, config.ema.name)
    optimizer, learning_rate = _optimizer(config, settings.steps)
    network = models.network(build(models, config.model))
    method = methods.denoising(
        network,
        process,
        build(denoisers, config.target),
        loss=maker(losses, config.loss, 7),
        weight=build(losses.weights, config.weight),
        times=maker(losses.times, config.times, 1),
        prepare=maker(losses.prepare, config.prepare, 1),
        augment=build(augmentation, config.augment),
        condition=_condition(config),
        variance=maker(denoisers.variance, config.denoiser, 4),
        guidance=maker(denoisers.guidance, config.guidance, 3),
        sampler=maker(samplers, config.sampler, 1),
        grid=maker(grids, config.grid, 1),
    )
    method.plan(())
    dataset = build(data, config.data)
    optimizer = finetune.frozen(optimizer, config.train.only)
    method = methods.only(method, partial(finetune.freeze, only=config.train.only))
    checks.check_config(config, method.parts, dataset)
    built = Built(method, dataset, optimizer, emas, learning_rate, settings, config)
    checks.check_calls(method, dataset)
    return built


def _settings(config: Config) -> Settings:
    train = {name: config.train[name] for name in Settings._fields if name in config.train}
    rest = dict(seed=config.seed, chunk=config.sample.chunk, ema=config.sample.ema, label=config.sample.label)
    kept = dict(checkpoint_every=config.checkpoint.every, keep=config.checkpoint.keep, best=config.checkpoint.best)
    rest |= dict(snapshot_every=config.checkpoint.get("snapshot_every"), time_bins=config.eval.time_bins)
    return Settings(**train, **rest, **kept)


def _condition(config: Config) -> methods.Condition:
    classes = config.model.get("classes")
    return methods.condition({} if classes is None else {"label": jnp.int32(classes)}, config.train.label_dropout)


def _optimizer(config: Config, steps: int) -> tuple[Any, Callable]:
    rate = config.learning_rate.to_dict()
    homes = {"learning_rate": "learning_rate.peak", "clip_norm": "train.clip_norm"}
    homes |= {name: f"learning_rate.{name}" for name in ("schedule", "warmup_steps", "final", "decay_start")}
    for name in config.optimizer:
        if name in homes:
            raise ConfigError(f"optimizer has no option {name!r}: set {homes[name]}.")
    spec = {
        **config.optimizer.to_dict(),
        "learning_rate": rate.pop("peak"),
        **rate,
        "clip_norm": config.train.clip_norm,
    }
    return optimizers.build_optimizer(spec, steps)
