"""A folder of images, sub-folders being classes."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from diffjax import host
from diffjax.data.records import IN_MEMORY, Columns, Records
from diffjax.data.source import Dataset, check_flip, fingerprint, in_memory

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
ORIENTATION = 0x0112  # the EXIF tag; from 5 on, width and height change places


def folder(
    path: str,
    size: int | None = None,
    channels: int = 3,
    held_out: float = 0.1,
    flip: bool = False,
    in_memory: bool | None = None,
) -> Dataset:
    """Makes a data set of every image below `path`, as (H, W, channels) in [-1, 1].

    The label is the sub-folder, in alphabetical order; images directly in `path` have no label. An image is held out if
    a hash of its relative name says so: adding files, or moving the folder, moves no other image to the other part.

    Args:
        size: scale the shorter side to it and cut out the centre; None: all images must have one size.
        channels: 1, 3 or 4; images are converted.
        held_out: the probability of being held out.
        flip: mirror training images at random.
        in_memory: hold all of them as bytes; None: if they need less than 4 GiB. Otherwise they are read when needed.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: for a folder without images, one that is both flat and sorted, or an image that cannot be used.
    """
    root = Path(path).expanduser()
    _check(root, size, channels, held_out)
    names = _names(root)
    apart = np.asarray([_share(name) < held_out for name in names])
    if apart.all() or not apart.any():
        raise ValueError(
            f"held_out={held_out} holds out {apart.sum()} of the {len(names)} images in {path!r}; "
            "expected at least one in each part."
        )
    classes = sorted({name.split("/")[0] for name in names if "/" in name})
    shape = _shape(root, names, size, channels)
    if flip:
        check_flip(shape)
    parts = [_records(root, [n for n, a in zip(names, apart) if a == side], classes, shape) for side in (False, True)]
    fits = len(names) * int(np.prod(shape)) <= IN_MEMORY if in_memory is None else in_memory
    return _dataset(root, names, parts, shape, len(classes) or None, fits, flip)


def _check(root: Path, size: int | None, channels: int, held_out: float) -> None:
    if not root.is_dir():
        raise FileNotFoundError(f"There is no folder {str(root)!r}; data.folder needs path=, a folder of images.")
    if channels not in MODES:
        raise ValueError(f"folder: channels is {channels!r}, expected 1, 3 or 4.")
    if size is not None and not host.is_int(size, 1):
        raise ValueError(f"folder: size is {size!r}, expected a positive number of pixels, or None.")
    if not 0 < held_out < 1:
        raise ValueError(f"folder: held_out is {held_out!r}, expected a share between 0 and 1.")


def _names(root: Path) -> list[str]:
    """Lists the relative names of the images, sorted, with / on every system."""
    names = sorted(
        file.relative_to(root).as_posix()
        for file in root.rglob("*")
        if file.suffix.lower() in SUFFIXES and file.is_file() and not file.name.startswith(".")
    )
    if not names:
        raise ValueError(f"The folder {str(root)!r} holds no image; expected {', '.join(SUFFIXES)}, in it or below it.")
    flat = [name for name in names if "/" not in name]
    if flat and len(flat) < len(names):
        raise ValueError(
            f"The folder {str(root)!r} holds images directly ({flat[0]}) and in sub-folders; "
            "expected all of them in it (no labels), or all in sub-folders (classes)."
        )
    return names


def _share(name: str) -> float:
    """Computes a number in [0, 1) that is a function of the name alone."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64


def _shape(root: Path, names: list[str], size: int | None, channels: int) -> tuple[int, int, int]:
    """Finds the shape (H, W, C) of every image, from the headers alone."""
    if size is not None:
        return (size, size, channels)
    sizes = [_size(root / name) for name in names]
    width, height = sizes[0]
    for name, (w, h) in zip(names, sizes):
        if (w, h) != (width, height):
            raise ValueError(
                f"{str(root / name)!r} is {w} x {h} pixels and {names[0]!r} is {width} x {height}; "
                "expected one size, or size= to scale and cut them to."
            )
    return (height, width, channels)


@contextmanager
def _image(file: Path) -> Iterator[Any]:
    """Opens an image; what Pillow says of a broken one becomes a ValueError that names it."""
    from PIL import Image

    try:
        with Image.open(file) as image:
            yield image
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # SyntaxError: Pillow's for some headers
        raise ValueError(f"{str(file)!r} cannot be read as an image: {error}.") from error


def _size(file: Path) -> tuple[int, int]:
    """Computes width and height of the upright image, in pixels."""
    with _image(file) as image:
        turned = image.getexif().get(ORIENTATION, 1) >= 5
        return image.size[::-1] if turned else image.size


def _decode(file: Path, shape: tuple[int, int, int]) -> np.ndarray:
    """Decodes the upright image as (H, W, C) uint8, scaled and cut to `shape` if it has another."""
    from PIL import Image, ImageOps

    height, width, channels = shape
    with _image(file) as image:
        if image.mode.startswith(("I", "F")):
            raise ValueError(f"{str(file)!r} has pixels of mode {image.mode}, expected 8 bits per channel.")
        image = ImageOps.exif_transpose(image).convert(MODES[channels])
        if image.size != (width, height):
            image = ImageOps.fit(image, (width, height), Image.Resampling.BICUBIC)
        return np.asarray(image, np.uint8).reshape(shape)


def _records(root: Path, names: list[str], classes: list[str], shape: tuple[int, int, int]) -> Records:
    numbers = {name: number for number, name in enumerate(classes)}
    labels = np.asarray([numbers[name.split("/")[0]] for name in names], np.int32) if classes else None

    def read(indices: np.ndarray) -> Columns:
        batch = {"x": np.stack([_decode(root / names[i], shape) for i in indices])}
        return batch if labels is None else {**batch, "label": labels[indices]}

    return Records(len(names), read, labels=labels)


def _dataset(
    root: Path, names: list[str], parts: list[Records], shape: tuple, classes: int | None, fits: bool, flip: bool
) -> Dataset:
    if fits:
        train, held_out = (part.load() for part in parts)
        return in_memory(root.name, train, held_out, classes=classes, levels=256, flip=flip)
    digest = fingerprint(shape, len(parts[1]), *((name, os.path.getsize(root / name)) for name in names))
    return Dataset(root.name, *parts, shape=shape, classes=classes, levels=256, fingerprint=digest, flip=flip)
