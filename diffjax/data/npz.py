"""Arrays from a NumPy .npz file."""

import zipfile
import zlib
from pathlib import Path

import numpy as np

from diffjax.data import units
from diffjax.data.source import Arrays, Dataset, evenly, in_memory
from diffjax.host import nearest


def npz(
    path: str,
    x: str = "x",
    label: str | None = "label",
    held_out: float | str = 0.1,
    held_out_label: str | None = None,
    flip: bool = False,
    z: str | None = None,
    standardize: str | None = None,
) -> Dataset:
    """Makes a data set of images (N, H, W, C) or (N, H, W), or vectors (N, d), named by their arrays in the file.

    Args:
        x: the examples; uint8 images become [-1, 1], floating ones must be in it; vectors are kept as they are.
        label: the labels, (N,) integers from 0; None for a set without.
        held_out: a share, taken evenly spaced over the order of the file, or the name of the held-out examples.
        held_out_label: their labels, if they are named and `label` is.
        flip: mirror training images at random.
        z: the noise that each example belongs to, of its shape: pairs (reflow), of which held_out is a share.
        standardize: "entries", "channels" or "whole": less the mean and by the standard deviation that the training
            data has there (`units.measured`); samples are in the file's units again. Floating images may then span
            anything.

    Pairs are as a flow made them: their images may leave [-1, 1] a little.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for a truncated file, an array that is missing, or values outside of what is stated here.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise FileNotFoundError(f"There is no file {path!r}; data.npz needs path=, a file written by numpy.savez.")
    named = isinstance(held_out, str)
    if named and (label is None) != (held_out_label is None):
        raise ValueError(f"npz: got label={label!r} and held_out_label={held_out_label!r}; expected both or neither.")
    if not named and held_out_label is not None:
        raise ValueError(f"npz: held_out_label={held_out_label!r} needs held_out=, the name of the held-out examples.")
    if named and z is not None:
        raise ValueError(f"npz: got z={z!r} and held_out={held_out!r}; of pairs a share is held out, such as 0.1.")
    free = z is not None or standardize is not None
    train = _arrays(file, x, label, z, free)
    if isinstance(held_out, str):
        parts = [train, _arrays(file, held_out, held_out_label, None, free)]
    else:
        apart = evenly(len(train), held_out)
        pick = lambda part, where: None if part is None else part[where]
        known = train.given.get("label"), train.chosen.get("z")
        parts = [Arrays(train.x[p], *(pick(part, p) for part in known)) for p in (~apart, apart)]
    labels = [part.given["label"].max() for part in parts if "label" in part.given]
    classes = int(max(labels)) + 1 if labels else None
    levels = 256 if train.x.dtype == np.uint8 else None
    dataset = in_memory(file.stem, *parts, classes=classes, levels=levels, flip=flip)
    return dataset if standardize is None else units.standardize(dataset, standardize)


def _arrays(file: Path, x: str, label: str | None, z: str | None, free: bool) -> Arrays:
    examples = _read(file, x)
    if examples.ndim not in (2, 3, 4):
        raise ValueError(f"{file}: {x!r} has shape {examples.shape}, expected (N, H, W, C), (N, H, W) or (N, d).")
    with_channels = lambda a: a[..., None] if a.ndim == 3 else a
    examples, noise = with_channels(examples), None if z is None else with_channels(_read(file, z))
    labels = None if label is None else _labels(file, label)
    try:
        arrays = Arrays(examples, labels, noise)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    if not free and arrays.x.ndim == 4 and arrays.x.dtype != np.uint8 and np.abs(arrays.x).max() > 1:
        low, high = arrays.x.min(), arrays.x.max()
        raise ValueError(f"{file}: floating images {x!r} span [{low:g}, {high:g}], expected [-1, 1], or uint8 pixels.")
    return arrays


def _labels(file: Path, name: str) -> np.ndarray:
    labels = _read(file, name)
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"{file}: {name!r} is {labels.dtype} of shape {labels.shape}, expected integers (N,).")
    if labels.size and (labels.min() < 0 or labels.max() >= 2**31):
        raise ValueError(f"{file}: {name!r} spans [{labels.min()}, {labels.max()}], expected labels from 0.")
    return labels


def _read(file: Path, name: str) -> np.ndarray:
    if not zipfile.is_zipfile(file):
        raise ValueError(f"{file} is not an .npz file, or a truncated one; write it again with numpy.savez.")
    try:
        with np.load(file, allow_pickle=False) as arrays:
            if name not in arrays.files:
                unlabelled = " (label=None for a set without labels)" if name == "label" else ""
                raise ValueError(f"{file} has no array {name!r}{unlabelled}: {nearest(name, arrays.files)}.")
            return arrays[name]
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        raise ValueError(f"{file} is damaged at {name!r}: {error}.") from error
