"""Examples from a user's own files, read by the rules of a data set: what a trained run is shown."""

import os
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from diffjax import members
from diffjax.data import images
from diffjax.data.given import asked, held_out
from diffjax.data.source import Dataset, unit
from diffjax.data.tree import LABELS, tree
from diffjax.method import Method

ARRAY = ".npy"
MOST, FEW = 64, 8  # seeds where none are asked for; of a single input


def inputs(dataset: Dataset, path: str | Path, most: int) -> np.ndarray:
    """Reads examples (n, *shape) in the data's units from a file, a folder or a zip, in the order of their names.

    Images are read as the data set reads its own (`data.folder` with a size scales and cuts them); a set without images
    of its own takes those of its size. Arrays (.npy) hold one example or several, bytes are pixels.

    Args:
        most: examples that are wanted; more are refused, before any is decoded where names alone tell.

    Raises:
        FileNotFoundError: if there is nothing at `path`.
        ValueError: for a file that is no example of this data set, by its name.
    """
    suffixes = (*images.SUFFIXES, ARRAY)
    if os.path.isfile(path) and Path(path).suffix.lower() != ".zip":
        if Path(path).suffix.lower() not in suffixes:
            raise ValueError(f"{str(path)!r} is none of {', '.join(suffixes)}, nor a folder or a zip of such files.")
        return _whole(str(path), [_read(dataset, str(path), str(path), os.path.getsize(path))], most)
    files = tree(path, suffixes, "--input")
    names = [name for name in files.names if name != LABELS]
    if not names:
        raise ValueError(f"{files.where!r} holds none of {', '.join(suffixes)}.")
    _check_count(files.where, len(names), most)
    read = lambda name: _read(dataset, files.open(name), f"{files.where}/{name}", files.bytes(name))
    return _whole(files.where, images.each(names, read), most)


def shown_to(
    method: Method,
    dataset: Dataset,
    seeds: list[int] | None,
    path: str | Path | None = None,
    label: Any = None,
    text: Any = None,
) -> tuple[np.ndarray, list[int], dict[str, Any]]:
    """Finds what a run is shown: examples (n, *shape) in the data's units, a seed for each, and what is known of them.

    Args:
        seeds: None: 0 .. MOST - 1, of which several inputs take as many as they are, and a single one takes FEW, with
            a line that says so.
        path: of `inputs`; of a single one, once for each seed. None: the held-out examples of the seeds.
        label, text: as of `chosen`.

    Raises:
        ValueError, FileNotFoundError: as `inputs`.
    """
    asked, seeds = seeds, list(range(MOST)) if seeds is None else seeds
    if path is None:
        x, given = chosen(method, dataset, seeds, label, text)
        return x, seeds, given
    x = inputs(dataset, path, len(seeds))
    if asked is None and len(x) == 1:
        seeds = seeds[:FEW]
        print(f"one input, {FEW} results of it: seeds 0-{FEW - 1} (--seeds=0 for one)", flush=True)
    return (np.repeat(x, len(seeds), 0), seeds, {}) if len(x) == 1 else (x, seeds[: len(x)], {})


def chosen(
    method: Method, dataset: Dataset, seeds: Any, label: Any = None, text: Any = None
) -> tuple[np.ndarray, dict[str, Any]]:
    """Gives the held-out examples that seeds stand for, in the data's units, with what is known of them.

    Args:
        label, text: what samples are given in the place of the examples' own; None: their own.
    """
    found, instead = held_out(dataset, seeds), {"label": label, "text": text}
    names = [name for name in asked(method, dataset) if name in found.given]
    own = {name: found.given[name] for name in names if instead.get(name) is None}
    return np.asarray(dataset.to_data(found.x)), own


def _read(dataset: Dataset, file: Any, name: str, size: int) -> np.ndarray:
    """Reads the examples (n, *shape) of one file."""
    if PurePosixPath(name).suffix.lower() == ARRAY:
        return _array(dataset, file, name, size)
    shape = dataset.seen_shape
    if len(shape) != 3 or shape[-1] not in images.MODES:
        raise ValueError(f"{name!r} is an image, but examples of {dataset.name} have shape {shape}: give .npy.")
    if dataset.decode is not None:
        return unit(dataset.decode(file, name))[None]
    return unit(images.decode(file, name, shape, fit=False))[None]


def _array(dataset: Dataset, file: Any, name: str, size: int) -> np.ndarray:
    x = members.single(Path(file)) if isinstance(file, str) else members.alone(file, name, size)
    if x.dtype != np.uint8 and not np.issubdtype(x.dtype, np.floating):
        raise ValueError(f"{name!r} holds {x.dtype}, expected uint8 pixels or floating numbers.")
    if x.shape != dataset.seen_shape and x.shape[1:] != dataset.seen_shape:
        raise ValueError(
            f"{name!r} has shape {x.shape}, expected one example {dataset.seen_shape} of {dataset.name}, or several."
        )
    if not np.all(np.isfinite(x)):
        raise ValueError(f"{name!r} holds numbers that are not finite.")
    dataset.check_range(repr(name), x)
    return unit(x.reshape(-1, *dataset.seen_shape))


def _whole(where: str, found: list[np.ndarray], most: int) -> np.ndarray:
    _check_count(where, sum(map(len, found)), most)
    return np.concatenate(found)


def _check_count(where: str, count: int, most: int) -> None:
    if count > most:
        raise ValueError(f"{where!r} holds {count} inputs, for {most} seeds: ask for as many, --seeds=0-{count - 1}.")
