"""From a config to the objects of a run: the only reader of a method's fields.

`config.method` names a function of `diffjax.methods`, "denoising" where there is none. Its parameters are built by
name, each from its group of the config (`PARTS`); what is no such part is an option of `config.method`.
"""

import inspect
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp

from diffjax import (
    activity,
    calculus,
    data,
    denoisers,
    derived,
    ema,
    finetune,
    grids,
    losses,
    methods,
    models,
    optimizers,
    players,
    processes,
    resume,
    samplers,
    schedules,
)
from diffjax import config as configs
from diffjax.config import Config, ConfigError, build, later, nearest
from diffjax.data import Dataset
from diffjax.data import augment as augmentation
from diffjax.method import Method
from diffjax.runs import checks
from diffjax.runs import settings as table
from diffjax.runs import workdir as files
from diffjax.runs.settings import Settings

OBJECTS = "This run was made of objects, which no file holds: make its runs.Trainer again, with this workdir."


class Built(NamedTuple):
    """What a config names: the arguments of `runs.Trainer`, and the config itself."""

    method: Method
    data: Dataset
    optimizer: Any
    ema: ema.Ema
    learning_rate: Callable | None
    settings: Settings
    config: Config


class Part(NamedTuple):
    """A parameter of a method: the groups of a config that it is made of, and how."""

    groups: tuple[str, ...]
    make: Callable[[Config], Any]


@lru_cache(64)
def _traced_once(module: Any) -> models.Network:
    """The network of a module of the package: whoever builds it again finds its traces."""
    return models.of(module)


def _network(group: str) -> Part:
    def make(config: Config) -> models.Network:
        made = build(models, config[group])
        return made if isinstance(made, models.Network) else _traced_once(made)

    return Part((group,), make)


def _later(group: str, namespace: Any, count: int) -> Part:
    return Part((group,), lambda config: later(namespace, config[group], count))


def _process(config: Config) -> Any:
    schedule = build(schedules, config.schedule) if configs.is_spec(config.schedule) else config.schedule
    process = build(processes, config.process, schedule)
    calculus.check(process.schedule)
    return process


def _condition(config: Config) -> methods.Condition:
    classes, none = config.model.get("classes"), dict(getattr(PARTS["network"].make(config), "none", {}))
    none |= {} if classes is None else {"label": jnp.int32(classes)}
    return methods.Condition(none, config.train.label_dropout, config.train.apart_dropout)


PARTS = {
    "process": Part(("process", "schedule"), _process),
    "network": _network("model"),
    **{player: _network(player) for player in ("generator", "critic", "real", "fake", "encoder", "decoder")},
    "target": Part(("target",), lambda config: build(denoisers, config.target)),
    "teacher": Part(("train",), lambda config: config.train.start is not None),  # whether the run begins from one
    "loss": _later("loss", losses, 7),
    "rule": Part(("rule",), lambda config: build(losses.rules, config.rule) if config.rule.name else None),
    "two_times": _later("two_times", losses.pairs, 1),
    "weight": Part(("weight",), lambda config: build(losses.weights, config.weight)),
    "times": _later("times", losses.times, 1),
    "prepare": _later("prepare", losses.prepare, 1),
    "augment": Part(("augment",), lambda config: build(augmentation, config.augment)),
    "condition": Part(("model",), _condition),
    "denoiser": _later("denoiser", denoisers.variance, 4),
    "guidance": _later("guidance", denoisers.guidance, 3),
    "sampler": _later("sampler", samplers, 1),
    "grid": _later("grid", grids, 1),
}


def load(path: str, overrides: Any = ()) -> Config:
    """Reads a config file (`config.load`), or a run's config.json, complete: all that can be overridden is there."""
    if path.endswith(".json"):
        overrides = configs.trusted(overrides)
        config = files.read(Path(path))
        if "objects" in config:
            raise ConfigError(OBJECTS)
        return configs.overridden(complete(config), overrides)
    return configs.load(path, overrides, complete)


def assemble(name: str = "denoising", **parts: Any) -> Method:
    """Makes a method of objects and specs: assemble(network=spec("MLP"), schedule=spec("VP"), target=spec("V")).

    Args:
        name: of a function in `diffjax.methods`.
        parts: its parameters, and the "schedule" that a process which is no object has; a spec is built, anything else
            is taken as it is, and what is left out has the default of a config.

    Raises:
        ConfigError: as `build_run`.
    """
    if "schedule" in parts and not configs.is_spec(parts.get("process", configs.spec("Gaussian"))):
        raise ConfigError(
            "Got a schedule beside a process that is an object, which has its own: leave one of them out."
        )
    config, objects = configs.recipe(), {}
    for part in [part for part in parts if part in (*PARTS, "schedule")]:
        group, value = PARTS[part].groups[0] if part in PARTS else part, parts.pop(part)
        home = config if configs.is_spec(value) or part == "schedule" else objects
        home[group if home is config else part] = value
    config.method = configs.spec(name, **parts)
    return _parts(complete(config), objects)()


def drawn_by(name: str, part: Any) -> Any:
    """Makes a method's part for another draw, of a spec, its name, or what stands in its place; ConfigError else."""
    part = configs.spec(part) if isinstance(part, str) else part
    if configs.is_spec(part) and name in PARTS:
        return PARTS[name].make({name: part})
    if name in PARTS and not callable(part):
        raise ConfigError(
            f"{name} is {repr(part)[:60]}, expected a function, as methods.denoising takes (such as "
            "functools.partial(samplers.ancestral.ddim, eta=1.0) or partial(grids.uniform, n=20)), or a spec."
        )
    return part


@activity.doing("reading the config and the data it names")
def build_run(config: Config, of: Callable[[Callable[[], Dataset]], Dataset] = lambda make: make()) -> Built:
    """Builds what the config names, in an order that reports a slip of the pen before any data is read.

    Args:
        of: gives the data set, of what makes that which the config names.

    Raises:
        ConfigError: in one line, naming the alternatives.
    """
    if "objects" in config:
        raise ConfigError(OBJECTS)
    # Those of a file were looked at when it was read.
    configs.trust(filter(configs.is_own, configs.own_members(config)))
    try:
        return _build(complete(config).lock(), of)
    except (ValueError, FileNotFoundError) as error:
        raise error if isinstance(error, ConfigError) else ConfigError(str(error)) from error
    except TypeError as error:
        raise ConfigError(f"An option of the config is of a type that nobody takes: {error}.") from error


def complete(config: Config) -> Config:
    """Makes the config with the defaults of what it leaves out, of the groups that its method is made of.

    The fingerprint of a run of objects is complete as it is.
    """
    if "objects" in config:
        return config
    make = method_of(config)[1]
    parts = [PARTS[name] for name in inspect.signature(make).parameters if name in PARTS]
    groups = dict.fromkeys([*table.COMMON, *(group for part in parts for group in part.groups)])
    default = table.defaults(groups, getattr(make, "groups", {}))
    return configs.filled(config, default, loose=("method", "learning_rate"))


def method_of(config: Config) -> tuple[str, Callable, str, dict[str, Any]]:
    """Finds the function that makes the method of a config (`specs.member`)."""
    return configs.member(methods, config.get("method") or configs.spec("denoising"))  # pyright: ignore


def _build(config: Config, of: Callable[[Callable[[], Dataset]], Dataset]) -> Built:
    settings = table.settings_of(config)
    checks.check_settings(settings)
    make = lambda: of(lambda: build(data, config.data))
    config, known = derived.resolved(config, models, make)
    if "guidance" in config:
        configs.member(models, config.model)  # a slip of its name goes before what depends on its options
        checks.check_labels(config, _condition(config).none)
    parts = _parts(config)
    emas = build(ema, config.ema)
    checks.check_ema(settings, emas, config.ema.name)
    method = parts()
    optimizer, learning_rate = _optimizers(config, settings.steps, method)
    method.plan(())
    dataset = make() if known is None else known
    optimizer, method = _freeze(config.train.only, optimizer, method)
    if isinstance(method.parts, methods.Denoising):
        checks.check_words(config, method.parts, dataset)
    checks.check_objects(method, dataset, optimizer, settings, emas)
    return Built(method, dataset, optimizer, emas, learning_rate, settings, config)


def _parts(config: Config, objects: dict[str, Any] | None = None) -> Callable[[], Method]:
    """The method's function, to be called; its parts are built here, but those that are objects already."""
    title, make, path, options = method_of(config)
    parameters = inspect.signature(make).parameters
    own = [name for name in parameters if name not in PARTS]
    for name in options:
        if name in PARTS:
            raise ConfigError(f"method has no option {name!r}: set the group {PARTS[name].groups[0]} of the config.")
        if name not in own:
            raise ConfigError(f"{title}.{path} has no option {name!r}: {nearest(name, parameters)}.")
    built = dict(objects or {})
    built |= {name: part.make(config) for name, part in PARTS.items() if name in parameters and name not in built}
    missing = [n for n in own if parameters[n].default is inspect.Parameter.empty and n not in options]
    if missing:
        raise ConfigError(f"{title}.{path} also needs {', '.join(missing)}: set method.{missing[0]}.")
    return partial(make, **built, **options)


def _freeze(only: str | None, optimizer: Any, method: Method) -> tuple[Any, Method]:
    if only is None:
        return optimizer, method
    if players.names(method):
        raise ConfigError(f"train.only is {only!r}, but this method's players have an optimizer each: leave one out.")
    return finetune.frozen(optimizer, only), methods.freezing(method, partial(finetune.freeze, only=only))


def _optimizers(config: Config, steps: int, method: Method) -> tuple[Any, Callable | None]:
    """One optimizer and its schedule; or one for each player, by name, and no schedule to log.

    A schedule counts updates, and a player of k turns makes k in a step: its decay ends with the run all the same.
    """
    if "name" in config.optimizer:
        return _optimizer(config.optimizer.to_dict(), config, steps)
    if not all(isinstance(part, table.ConfigDict) and "name" in part for part in config.optimizer.values()):
        raise ConfigError(
            f"optimizer has no name; got {config.optimizer.to_dict()}, expected a spec, or one for each player."
        )
    each = config.optimizer.to_dict()
    moves = [name for turn in method.turns for name in players.movers(turn.moves)]
    updates = {name: steps * max(moves.count(name), 1) for name in each}
    made = {name: _optimizer(spec, config, updates[name], updates[name] // steps) for name, spec in each.items()}
    return {name: optimizer for name, (optimizer, _) in made.items()}, None


def _optimizer(spec: dict[str, Any], config: Config, updates: int, turns: int = 0) -> tuple[Any, Callable]:
    """An optimizer and its schedule; that of a player, which has `turns` in a step, may set its peak, learning_rate."""
    rate = config.learning_rate.to_dict()
    own = turns and spec.pop("learning_rate", None)
    peak = own or rate["peak"]
    rate["plans"] = resume.plans_of(config, max(turns, 1), own or None)
    homes = {"learning_rate": "learning_rate.peak", "clip_norm": "train.clip_norm"}
    homes |= {name: f"learning_rate.{name}" for name in ("schedule", "warmup_steps", "final", "decay_start")}
    for name in spec:
        if name in homes:
            raise ConfigError(f"optimizer has no option {name!r}: set {homes[name]}.")
    del rate["peak"], rate["extend"]
    return optimizers.build_optimizer(
        {**spec, "learning_rate": peak, **rate, "clip_norm": config.train.clip_norm}, updates
    )
