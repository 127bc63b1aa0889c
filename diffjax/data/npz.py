"""Arrays from a NumPy .npz file."""

import os
from pathlib import Path

import numpy as np

from diffjax import host, members
from diffjax.data import splits, units
from diffjax.data.source import Arrays, Dataset, in_memory


def npz(
    path: str,
    x: str = "x",
    label: str | None = "label",
    held_out: float | str = 0.1,
    held_out_label: str | None = None,
    flip: bool = False,
    z: str | None = None,
    y: str | None = None,
    held_out_y: str | None = None,
    most_gib: float = members.MOST_GIB,
    standardize: str | None = None,
    rank: int | None = None,
) -> Dataset:
    """Makes a data set of an .npz file: images (N, H, W, C) or (N, H, W), vectors (N, d), volumes (N, D, H, W, C).

    Args:
        x: the examples, by name; uint8 ones become [-1, 1], floating images must be in it; all else is kept as it is.
        label: the labels, (N,) integers from 0; None for a set without.
        held_out: a share, every class in proportion and in a random order (`splits.stratified`), or the name of the
            held-out examples.
        held_out_label: their labels, if they are named and `label` is.
        flip: mirror training images at random.
        z: the noise that each example belongs to, of its shape: pairs (reflow), of which held_out is a share.
        y: the endpoint of each example, of its shape and by its rules: pairs for bridges.
        held_out_y: the endpoints of held-out examples that are named.
        most_gib: the most memory that one array may take, looked up before any is taken.
        standardize: "entries", "channels" or "whole": less the mean and by the standard deviation that the training
            data has there (`units.measured`); samples are in the file's units again. Floating images may then span
            anything.
        rank: axes of places of one example; 1 says that (N, L, C) are sequences. None: as many as the first line says.

    Pairs are as a flow made them: their images may leave [-1, 1] a little.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for a truncated file, an array that is missing, or values outside of what is stated here.
    """
    file = Path(path).expanduser()
    if os.path.isdir(file):
        raise ValueError(f"{path!r} is a folder, expected a file written by numpy.savez: data.folder reads folders.")
    if not os.path.isfile(file):
        raise FileNotFoundError(f"There is no file {path!r}; data.npz needs path=, a file written by numpy.savez.")
    host.check_positive("npz: most_gib", most_gib)
    named = isinstance(held_out, str)
    if named and (label is None) != (held_out_label is None):
        raise ValueError(f"npz: got label={label!r} and held_out_label={held_out_label!r}; expected both or neither.")
    if not named and held_out_label is not None:
        raise ValueError(f"npz: held_out_label={held_out_label!r} needs held_out=, the name of the held-out examples.")
    if named and z is not None:
        raise ValueError(f"npz: got z={z!r} and held_out={held_out!r}; of pairs a share is held out, such as 0.1.")
    if (held_out_y is not None) != (named and y is not None):
        raise ValueError(
            f"npz: got {y=}, {held_out=}, {held_out_y=}; endpoints of held-out examples are named with them."
        )
    if y is not None and standardize is not None:
        raise ValueError("standardize is for data without endpoints; set standardize=None for pairs (x, y).")
    free = z is not None or standardize is not None
    if rank is not None:
        host.check_int("npz: rank", rank, 0, most=3)
    train = _arrays(file, x, label, z, y, free, most_gib, rank)
    if isinstance(held_out, str):
        parts = [train, _arrays(file, held_out, held_out_label, None, held_out_y, free, most_gib, rank)]
    else:
        try:
            apart = splits.stratified(len(train), held_out, train.given.get("label"))
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error
        parts = [train.part(p) for p in (~apart, apart)]
    labels = [part.given["label"].max() for part in parts if "label" in part.given]
    classes = int(max(labels)) + 1 if labels else None
    levels = 256 if train.x.dtype == np.uint8 else None
    dataset = in_memory(file.stem, *parts, classes=classes, levels=levels, flip=flip)
    return dataset if standardize is None else units.standardize(dataset, standardize)


def _arrays(
    file: Path,
    x: str,
    label: str | None,
    z: str | None,
    y: str | None,
    free: bool,
    most_gib: float,
    rank: int | None = None,
) -> Arrays:
    examples = members.read(file, x, most_gib, "" if x != "x" else " (x=NAME, --config.data.x=NAME, for another)")
    shape = examples.shape
    if rank is not None and len(shape) not in (rank + 2, 3 if rank == 2 else rank + 2):
        raise ValueError(f"{file}: {x!r} has shape {shape}, expected {rank + 2} axes of examples of rank={rank}.")
    if len(shape) not in (2, 3, 4, 5):
        raise ValueError(
            f"{file}: {x!r} has shape {shape}, expected (N, H, W, C), (N, H, W), (N, d) or (N, D, H, W, C), "
            "or (N, L, C) with rank=1."
        )
    if len(shape) == 4 and shape[1] in (1, 2, 3, 4) and shape[3] > 4 and shape[2] > 4:
        raise ValueError(
            f"{file}: {x!r} has shape {shape}, channels first, expected (N, H, W, C): save x.transpose(0, 2, 3, 1)."
        )
    beside = {name: members.read(file, part, most_gib) for name, part in (("z", z), ("y", y)) if part is not None}
    for name, part in beside.items():
        if part.shape != shape:
            raise ValueError(f"{file}: {name} has shape {part.shape}, expected finite numbers of x's shape {shape}.")
    if y is not None and (beside["y"].dtype == np.uint8) != (examples.dtype == np.uint8):
        raise ValueError(
            f"{file}: {x!r} is {examples.dtype} and {y!r} {beside['y'].dtype}, expected uint8 for both or none."
        )
    with_channels = lambda a: a[..., None] if a.ndim == 3 and rank != 1 else a
    labels = None if label is None else _labels(file, label, most_gib)
    try:
        arrays = Arrays(with_channels(examples), labels, **{k: with_channels(part) for k, part in beside.items()})
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    for name, part in ((x, arrays.x), (y, arrays.given.get("y"))):
        if not free and part is not None and part.ndim == 4 and part.dtype != np.uint8 and np.abs(part).max() > 1:
            low, high = part.min(), part.max()
            ways = "with standardize=channels (--config.data.standardize=channels) they may be of any scale: latents"
            if low >= 0 and 1 < high <= 255:
                ways = "pixels 0 .. 255 are saved by x.round().astype(np.uint8)"
            raise ValueError(
                f"{file}: floating images {name!r} span [{low:g}, {high:g}], expected [-1, 1], or uint8 pixels; {ways}."
            )
    return arrays


def _labels(file: Path, name: str, most_gib: float) -> np.ndarray:
    labels = members.read(
        file,
        name,
        most_gib,
        " (label=None, --config.data.label=None, for a set without labels)" if name == "label" else "",
    )
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"{file}: {name!r} is {labels.dtype} of shape {labels.shape}, expected integers (N,).")
    if labels.size and (labels.min() < 0 or labels.max() >= 2**31):
        raise ValueError(f"{file}: {name!r} spans [{labels.min()}, {labels.max()}], expected labels from 0.")
    return labels
