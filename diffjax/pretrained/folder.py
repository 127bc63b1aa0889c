"""From a file of published weights to the folder of a run, which every command opens.

The folder has what a trained run has: config.json, the card of its data, and a checkpoint of step 0, whose parameters
and average are the published weights. It draws without its data and is evaluated with them.
"""

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffjax import data, host, models, runs, training, weights
from diffjax.config import Config, ConfigError, build, overridden
from diffjax.pretrained import files, maps
from diffjax.pretrained.family import Family
from diffjax.pretrained.index import FAMILIES
from diffjax.runs import build as builders
from diffjax.runs import run as runner
from diffjax.runs import workdir

LIKELY = 0.5  # the share of a network's arrays from which a file is said to look like it


def family(name: str) -> Family:
    """Finds a family by its name.

    Raises:
        ConfigError: for none; they are listed.
    """
    if name not in FAMILIES:
        raise ConfigError(f"There are no published weights {name!r}: {host.nearest(name, FAMILIES)}.")
    return FAMILIES[name]


def config_of(name: str, overrides: Iterable[str] = ()) -> Config:
    """Makes the complete config of a family, with overrides "a.b=value"."""
    config = builders.complete(family(name).config())
    with config.unlocked():
        config.name = name
    return overridden(config, overrides)


def convert(name: str, path: str | Path, out: str | Path, overrides: Iterable[str] = ()) -> Path:
    """Writes the folder of a run that draws with published weights.

    Args:
        name: of the family (`FAMILIES`).
        path: of the file.
        out: the folder, new or empty.
        overrides: "a.b=value" on the family's recipe, such as "model.blocks=8" for a deeper network of a family.

    Raises:
        ConfigError: in one line, for a name, an option, a folder or a file that will not do; a `WeightsError`, with all
            its faults, for weights of another network.
    """
    found, out = family(name), Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} is there and not empty: give a new folder.")
    config, file = config_of(name, overrides), files.open_file(path)
    if file.format not in found.maps:
        raise ConfigError(
            f"{path} is {file.format}, but {name} is read from {' or '.join(found.maps)}.{_hint(name, file)}"
        )
    built = builders.build_run(config, lambda make: _card(found, name, config))
    example = data.blank(built.data)
    like = jax.eval_shape(built.method.init, jax.random.key(0), example)
    network = build(models, config.model)
    leaves = found.maps[file.format](network, like)
    maps.check(file, leaves, found.title, found.ignored, _hint(name, file))
    maps.check_computed(file, found.computed(network, found.shape), found.title)
    params = maps.fill(file, leaves, like)
    state = training.init_state(params, built.optimizer, built.ema, jax.random.key(built.settings.seed), built.method)
    _write(out, built, state)
    return out


def opened(name: str, path: str | Path, out: str | Path, overrides: Iterable[str] = ()) -> runs.Run:
    """Opens the run of published weights, after `convert` has written its folder."""
    return runs.open(convert(name, path, out, overrides))


def _hint(name: str, file: files.File) -> str:
    """Says which other family a file looks like, where it does."""
    shares = {}
    for other, found in FAMILIES.items():
        marked = sum(re.match(found.marks, entry) is not None for entry in file.entries)
        if other != name and file.format in found.maps and marked > LIKELY * len(file.entries):
            network = build(models, config_of(other).model)
            given = {"label": jnp.int32(0)} if found.classes else {}
            example = jnp.zeros(found.shape, jnp.float32), jnp.float32(0), given
            like = jax.eval_shape(models.of(network).init, jax.random.key(0), *example)
            shares[other] = maps.share(file, found.maps[file.format](network, like))
    best = max(shares, key=lambda other: shares[other], default="")
    if not best or shares[best] < LIKELY:
        return ""
    return f" It looks like {best}, of which it has {shares[best]:.0%} by name and shape."


def _card(found: Family, name: str, config: Config) -> data.Dataset:
    """The data that a network was trained on, of which no example is here."""
    label = {"label": {"shape": [], "dtype": "int32"}} if found.classes else {}
    labels = list(range(found.classes)) if found.classes else None
    card = {
        **{"format": 1, "name": found.data, "fingerprint": f"{data.PUBLISHED}{name}", "unread": [], "names": None},
        **{"x": {"shape": list(found.shape), "dtype": "float32"}, "given": label, "chosen": {}, "units": None},
        **{"classes": found.classes, "labels": labels, "levels": found.levels},
    }
    return data.of_card(card, name, f"{name} is weights alone, whose data --config.data.name=... names at the start")


def _write(out: Path, built: Any, state: training.TrainState) -> None:
    lock, _ = workdir.prepare(out, built.config, builders.complete)
    try:
        data.keep_card(out, built.data)
        record = {"config": built.config.to_dict(), "window": [], "data": built.data.fingerprint, "updates": 0}
        with runner.open_checkpoints(out, built.settings) as checkpoints:
            checkpoints.save(0, state, metrics={}, config=record)
    finally:
        if lock is not None:
            lock.release()


def parameters(run: runs.Run) -> int:
    """Counts the parameters of a run."""
    return sum(int(np.prod(leaf.shape)) for leaf in weights.named(run.params).values())


def check_free(out: str | os.PathLike[str]) -> None:
    """Refuses a folder that cannot be made, before a file is read for it."""
    from diffjax import disk

    disk.check_folder("--out", os.fspath(out), error=ConfigError)
