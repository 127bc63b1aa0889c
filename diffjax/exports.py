"""What a weights file says of a run: all that a draw needs, for a process that has no run, no data, no config file.

layers_0/kernel, ...   the parameters that samples are made with, by their paths
memory/...             what the method has learned beside them
__metadata__           {"diffjax": JSON text, "sha256": of the numbers}; in the text: format, config (whole), step,
                       ema (the average that the parameters are), data (its card), made (versions, commit)
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from diffjax import disk, environment, host, weights
from diffjax.config import Config, ConfigError, check_trusted, from_json
from diffjax.data import Dataset, card, of_card
from diffjax.types import PyTree

FORMAT = 1
NAME, MEMORY = "diffjax", "memory/"  # of the text in the header; what names of arrays of memory begin with
MOST_STEPS = 2**31 - 1
DEEPEST = 16  # groups within groups of a config


class Exported(NamedTuple):
    """What a weights file says; the numbers are read by `fill`.

    Attributes:
        config: of the run, as it was saved.
        data: the data set that its card tells of.
        step: training steps made.
        ema: the name of the average that the parameters are.
        made: versions of diffjax and jax, and the commit.
    """

    header: weights.Header
    config: Config
    data: Dataset
    step: int
    ema: str
    made: dict[str, Any]


def write(
    path: str | Path, params: PyTree, memory: PyTree, config: Config | None, data: Dataset, step: int, ema: str
) -> int:
    """Writes what a run draws with into a weights file; gives its bytes.

    Args:
        params, memory: arrays; those that samples are made with, and those of `TrainState.memory`.
        config: complete; of a run of objects its fingerprint, or None: such a file is read by `parameters` alone.

    Raises:
        ConfigError: for numbers that are not finite, or of a dtype that such a file cannot hold.
    """
    now = environment.environment()
    made = {name: now["versions"][name] for name in ("diffjax", "jax")} | {"commit": now["commit"]}
    told = {"objects": {}} if config is None else config.to_dict()
    facts = {"format": FORMAT, "step": step, "ema": ema, "config": told, "data": card(data), "made": made}
    if "objects" in told:
        print(f"{path} is of a run of objects, which no file holds: to open it takes its method (docs/weights.md)")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    arrays = jax.device_get({**weights.named(params), **weights.named(memory, MEMORY)})
    try:
        return weights.write(path, arrays, {NAME: json.dumps(facts, sort_keys=True)})
    except ValueError as error:
        raise ConfigError(f"{path} cannot be written: {error}") from error


def read(path: str | Path, objects: bool = False) -> Exported:
    """Reads what a weights file says, no numbers yet.

    Args:
        objects: take a file of a run of objects, too, which has a fingerprint in the place of a config.

    Raises:
        ConfigError: in one line that names the file, for anything that is no weights file of a run.
    """
    try:
        header = weights.header(path)
        if NAME not in header.texts:
            raise ValueError(f"{path} has no {NAME!r} in its header's __metadata__: it is of no --mode=export of ours.")
        facts = disk.parse(header.texts[NAME], f"{NAME!r} in the header of {path}")
        return _exported(header, facts, objects)
    except (OSError, ValueError) as error:
        raise error if isinstance(error, ConfigError) else ConfigError(str(error)) from error


def fill(found: Exported, params: PyTree, memory: PyTree) -> tuple[PyTree, PyTree]:
    """Reads parameters and memory, held against those of the network: arrays, or their shapes and dtypes.

    Raises:
        ConfigError: naming the file, for weights of another architecture, or damaged ones.
    """
    try:
        weights.check(found.header, {**weights.named(params), **weights.named(memory, MEMORY)})
        arrays = weights.read(found.header)
    except (OSError, ValueError) as error:
        raise ConfigError(str(error)) from error
    return weights.place(params, arrays), weights.place(memory, arrays, MEMORY)


def state(found: Exported, like: Any, step: int | None, ema: str) -> Any:
    """Makes the state of a run that draws: step, parameters as the average of their name, and memory.

    Args:
        like: the state of a training run, traced (`TrainState`); what only training reads stays as it is there.
        step, ema: that are asked for; None: the file's step.

    Raises:
        ConfigError: for another step or average than the file's, or as `fill`.
    """
    for name, asked, own in (("step", step, found.step), ("sample.ema", ema, found.ema)):
        if asked not in (None, own):
            raise ConfigError(
                f"{name} is {asked!r}, but {found.header.path} holds {own!r} alone: take the workdir of the run."
            )
    params, memory = fill(found, next(iter(like.ema.averages.values())), like.memory)
    averages, count = like.ema._replace(averages={found.ema: params}), np.int32(found.step)
    return like._replace(step=count, params=params, ema=averages, skipped=np.int32(0), memory=memory)


def parameters(path: str | Path, params: PyTree) -> PyTree:
    """Reads the parameters alone, for a network at hand: Trainer(..., start=partial(exports.parameters, path)).

    Args:
        params: its own, of which shapes and dtypes are taken.

    Raises:
        ConfigError: as `read` and `fill`.
    """
    found = read(path, objects=True)
    own = {name: entry for name, entry in found.header.entries.items() if not name.startswith(MEMORY)}
    try:
        weights.check(found.header._replace(entries=own), weights.named(params))
        return weights.place(params, weights.read(found.header))
    except (OSError, ValueError) as error:
        raise ConfigError(str(error)) from error


def _exported(header: weights.Header, facts: Mapping[str, Any], objects: bool) -> Exported:
    path, number, step = header.path, facts.get("format", 0), facts.get("step", -1)
    if not host.is_int(number, 1) or number > FORMAT:
        raise ConfigError(
            f"{path} has format {str(number)[:60]}, expected {FORMAT} at most: it is of a newer diffjax, take that one."
        )
    for name, kind in {"ema": str, "config": dict, "made": dict}.items():
        if not isinstance(facts.get(name), kind):
            raise ConfigError(f"{path}: {name} in its header is {str(facts.get(name))[:60]}, expected {kind.__name__}.")
    if not host.is_int(step, 0) or step > MOST_STEPS:
        raise ConfigError(f"{path}: step in its header is {str(step)[:60]}, expected an integer >= 0.")
    config = facts["config"]
    if "objects" in config and not objects:
        raise ConfigError(
            f"{path} is of a run of objects, which no file holds; with its method at hand: "
            f"Trainer(method, data, start=functools.partial(diffjax.exports.parameters, {str(path)!r}), ...)."
        )
    _check_words(config, path)
    data = of_card(facts.get("data"), str(path), f"{path} holds weights alone, no data")
    return Exported(
        header, from_json(json.dumps(config), f"The config in {path}"), data, step, facts["ema"], facts["made"]
    )


def _check_words(config: dict[str, Any], path: Path) -> None:
    """Refuses a config that is nested deep, or that names somebody's own code which is not trusted."""
    level = [config]
    for _ in range(DEEPEST + 1):
        inner = [value for group in level for value in (group.values() if isinstance(group, dict) else group)]
        level = [value for value in inner if isinstance(value, dict | list)]
    if level:
        raise ConfigError(f"{path}: its config is nested deeper than {DEEPEST} groups.")
    check_trusted(config, f"The config in {path}")
