"""The numbers of a run that say nothing of its method, and the one table of defaults that configs differ from."""

import copy
import typing
from typing import Any, NamedTuple

from ml_collections import ConfigDict, config_dict

from diffjax import ema
from diffjax.config import Config, ConfigError, nearest, spec


class Settings(NamedTuple):
    """How long, how often, where; the defaults suit digits on two CPU cores."""

    steps: int = 2400
    batch_size: int = 128  # examples of each turn
    accumulate: int = 1  # parts that a batch is worked through in, for the memory of one
    seed: int = 0
    steps_per_dispatch: int = 1  # on CPUs, XLA slows convolutions down inside loops
    log_every: int = 100
    sample_every: int = 800
    backend: str = "jit"  # or "pmap"
    devices: int | None = None  # None: all of them
    fsdp: int = 1  # devices that share parameters, averages and moments among them (`sharding`)
    tensor: int = 1  # devices that share each example, of a network that says how
    shards: int = 0  # virtual ones of `strict`: the same bytes for any number of devices; 0: no such thing
    nonfinite: str = "stop"  # or "skip"
    loggers: tuple[str, ...] = ()  # any of "tensorboard", "wandb"
    checkpoint_every: int = 500
    snapshot_every: int | None = None  # averages stored along the run, for `ema.power`; None: none
    keep: int = 2
    best: int = 1
    best_by: str = "loss"  # of training; or "held_out", what the method's parts measure of held-out data
    chunk: int = 64  # samples for each device and dispatch
    ema: str = "0.999"  # what samples are made with
    text: object | None = None  # words of every sample, or several texts in turn; None: as held-out examples of seeds
    label: object | None = None  # of every sample, a class's number or name; None: number seed mod those that occur
    samples: int = 1024  # of an evaluation
    time_bins: int = 10


HOMES = {  # where a config has a setting, if not in its group "train"
    "seed": "seed",
    "checkpoint_every": "checkpoint.every",
    "snapshot_every": "checkpoint.snapshot_every",
    "keep": "checkpoint.keep",
    "best": "checkpoint.best",
    "best_by": "checkpoint.best_by",
    "chunk": "sample.chunk",
    "ema": "sample.ema",
    "label": "sample.label",
    "text": "sample.text",
    "samples": "eval.samples",
    "time_bins": "eval.time_bins",
}

GROUPS = {  # the groups of a config that are no settings, as a config has them that says nothing
    "data": spec("digits"),
    "schedule": spec("VP"),
    "process": spec("Gaussian"),
    "target": spec("V"),
    "weight": spec("unit"),
    "times": spec("stratified"),
    "prepare": spec("nothing"),  # of the batch: "importance" draws its times
    "loss": spec("regression"),
    "denoiser": spec("mean"),  # "large", "learned_range", ...; clip=(-1, 1) confines x_0
    "guidance": spec("none"),  # "classifier_free", for a model with classes
    "augment": spec("none"),
    "model": spec("UNet"),
    "optimizer": spec("adam"),  # any optax optimizer, with its own options; of several players one each, by name
    "learning_rate": dict(
        peak=1e-3,
        schedule="constant",
        warmup_steps=0,
        extend=config_dict.placeholder(str),  # how a decay goes on when steps or rate change: see `resume`
        plans=(),  # rates until now, written when a run goes on with others
    ),
    "ema": spec("warm_up", decays=(0.999,)),
    "sampler": spec("ancestral.ddim"),
    "grid": spec("log_snr", n=40, t_min=1e-3),
    "train": dict(
        clip_norm=1.0,  # inf: off
        start=config_dict.placeholder(str),  # the workdir of a run that this one begins from
        carry="parameters",  # what it takes from there; "state": also optimizer, averages and step
        only=config_dict.placeholder(str),  # what is trained: a regular expression on parameter paths; None: all
        label_dropout=0.0,  # share of examples whose conditions are hidden: what guidance without a classifier needs
        apart_dropout=0.0,  # for each condition, of examples of which it alone is: what guidance by two scales needs
    ),
}
NETWORK = spec("MLP")  # the default of the groups that name a player's network
COMMON = ("data", "optimizer", "learning_rate", "ema", "train")  # groups that every method has


def home(field: str) -> str:
    """Tells where a config has this setting: "train.steps"."""
    return HOMES.get(field, f"train.{field}")


def defaults(groups: typing.Iterable[str], own: dict[str, Any] = GROUPS) -> ConfigDict:
    """Makes the config that says nothing, of these groups, some a method's `own`, and of all settings."""
    config = ConfigDict({"name": "run", **{name: copy.deepcopy((GROUPS | own).get(name, NETWORK)) for name in groups}})
    for field, kind in typing.get_type_hints(Settings).items():
        parent, leaf = place(config, home(field), make=True)
        kinds = typing.get_args(kind)  # (int, NoneType) of `int | None`
        optional = type(None) in kinds
        parent[leaf] = config_dict.placeholder(kinds[0]) if optional else Settings._field_defaults[field]
    return config


def place(config: Config, path: str, make: bool = False) -> tuple[Config, str]:
    """Finds the group of a path, and its field in it; with `make` an absent group is made."""
    *groups, leaf = path.split(".")
    for group in groups:
        if make and group not in config:
            config[group] = ConfigDict()
        config = config[group]
    return config, leaf


def settings_of(config: Config) -> Settings:
    """Reads the settings of a complete config."""
    found = {}
    for field in Settings._fields:
        parent, leaf = place(config, home(field))
        found[field] = parent[leaf]
    return Settings(**found)


def merged(settings: Settings, dataset: Any, options: dict[str, Any]) -> Settings:
    """Makes the settings with these fields; of a small data set's judge as many samples as it takes.

    Raises:
        ConfigError: for an option that is no field.
    """
    for name in options:
        if name not in Settings._fields:
            raise ConfigError(f"Trainer has no option {name!r}: {nearest(name, Settings._fields)}.")
    if "samples" not in options:
        settings = settings._replace(samples=max(settings.samples, getattr(dataset, "least", (1, ""))[0]))
    return settings._replace(**options)


def average(settings: Settings) -> ema.Ema:
    """Makes the average that `settings.ema` names by its decay."""
    try:
        decay = float(settings.ema)
    except ValueError:
        raise ConfigError(
            f"ema is {settings.ema!r}, expected a decay such as '0.999', or give ema=, an average that has this name."
        ) from None
    return ema.warm_up((decay,))
