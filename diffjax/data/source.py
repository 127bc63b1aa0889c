"""What a data set is: two sources of examples, addressed by index; and what all kinds of data set share."""

import difflib
import hashlib
from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol

import numpy as np

from diffjax.method import Example as Example

Batch = dict[str, np.ndarray]  # "x": (B, ...) float32; "label": (B,) int32 where there are labels; "z" of x's shape


class Source(Protocol):
    """Examples 0 .. len - 1, in one fixed order."""

    def __len__(self) -> int:
        """The number of examples."""
        ...

    def gather(self, indices: np.ndarray) -> Batch:
        """The examples at `indices` (B,)."""
        ...


class Arrays:
    """A source held in memory: uint8 images are kept as bytes and become [-1, 1] when gathered.

    Args:
        x: (N, ...) uint8 or floating.
        label: (N,) integers, or None.
        z: of x's shape, the noise that each example belongs to, or None: it is drawn.

    Raises:
        ValueError: for lengths that differ, another dtype, no example, or values that are not finite.
    """

    def __init__(self, x: Any, label: Any = None, z: Any = None, **given: Any):
        x = np.asarray(x)
        if len(x) == 0:
            raise ValueError("The data set holds no example.")
        if x.dtype != np.uint8 and not np.issubdtype(x.dtype, np.floating) and x.dtype != np.int32:
            raise ValueError(f"The examples have dtype {x.dtype}, expected uint8 (0 .. 255) or floating (as they are).")
        if x.dtype != np.uint8 and not np.all(np.isfinite(x)):
            raise ValueError(f"Example {np.flatnonzero(~np.isfinite(x.reshape(len(x), -1)).all(1))[0]} is not finite.")
        if label is not None and len(label) != len(x):
            raise ValueError(f"Got {len(x)} examples and {len(label)} labels.")
        if z is not None and (np.shape(z) != x.shape or not np.all(np.isfinite(z))):
            raise ValueError(f"The noise z has shape {np.shape(z)}, expected finite numbers of x's shape {x.shape}.")
        self.x = x if x.dtype in (np.uint8, np.int32) else x.astype(np.float32)
        self.given = {name: np.asarray(part) for name, part in given.items()}
        self.label = None if label is None else np.asarray(label, np.int32)
        self.z = None if z is None else np.asarray(z, np.float32)

    def __len__(self) -> int:
        """The number of examples."""
        return len(self.x)

    def gather(self, indices: np.ndarray) -> Batch:
        """The examples at `indices`, in one vectorised read."""
        beside = {"label": self.label, "z": self.z, **self.given}
        return {"x": unit(self.x[indices])} | {k: part[indices] for k, part in beside.items() if part is not None}


def example(batch: Batch) -> Example:
    """x; what is given beside it; and, of data in pairs with noise, the "z" that is chosen for it."""
    beside = {name: part for name, part in batch.items() if name not in ("x", "z")}
    return Example(batch["x"], beside, {"z": batch["z"]} if "z" in batch else {})


class Dataset(NamedTuple):
    """A data set, split for good.

    Attributes:
        name: of its kind.
        train, held_out: the two parts.
        shape: of one example.
        classes: number of labels, or None.
        levels: number of grey levels that pixels take, or None for continuous data.
        flip: mirror training images at random.
        fingerprint: of content, order and split; two runs with the same one saw the same data.
    """

    name: str
    train: Source
    held_out: Source
    shape: tuple[int, ...]
    classes: int | None
    levels: int | None
    fingerprint: str
    flip: bool = False


def blank(dataset: Dataset) -> Example:
    """Zeros in the place of one example."""
    first = example(dataset.train.gather(np.zeros(1, int)))
    zeros = lambda parts: {name: np.zeros(part.shape[1:], part.dtype) for name, part in parts.items()}
    return Example(np.zeros(first.x.shape[1:], first.x.dtype), zeros(first.given), zeros(first.chosen))


def arrays(x: Any, held_out: float = 0.1, name: str = "arrays", **given: Any) -> Dataset:
    """The data set of arrays in memory, x (N, ...) and what is given of each example; a share is held out, evenly."""
    parts, out = {name: np.asarray(part) for name, part in given.items()}, evenly(len(x), held_out)
    sources = [Arrays(np.asarray(x)[at], **{k: part[at] for k, part in parts.items()}) for at in (~out, out)]
    label = parts.get("label")
    return in_memory(name, *sources, classes=None if label is None else int(label.max()) + 1)


def unit(x: np.ndarray) -> np.ndarray:
    """uint8 pixels 0 .. 255 as float32 in [-1, 1]; anything else as float32, unscaled."""
    if x.dtype == np.int32:  # tokens
        return x
    scaled = x.astype(np.float32)
    if x.dtype == np.uint8:  # in place: on a batch of images, temporaries cost ten times the arithmetic
        scaled /= 127.5
        scaled -= 1
    return scaled


def fingerprint(*parts: Any) -> str:
    """16 hexadecimal digits of a SHA-256 over arrays (their bytes, dtype and shape), Nones and texts, in order."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(f"{part.dtype.str}{part.shape}".encode())
            digest.update(np.ascontiguousarray(part).data)
        else:
            digest.update(repr(part).encode())
    return digest.hexdigest()[:16]


def in_memory(
    name: str, train: Arrays, held_out: Arrays, *, classes: int | None, levels: int | None = None, flip: bool = False
) -> Dataset:
    """The data set of two array sources, its fingerprint taken from all they hold.

    Raises:
        ValueError: for parts whose examples differ in shape, or `flip` for examples that are not images (H, W, C).
    """
    shape = train.x.shape[1:]
    if held_out.x.shape[1:] != shape:
        raise ValueError(f"{name}: training examples have shape {shape}, held-out ones {held_out.x.shape[1:]}.")
    if flip:
        check_flip(shape)
    if flip and train.z is not None:
        raise ValueError(f"{name}: flip mirrors x alone, but each x belongs to its z: set flip=False.")
    pairs = () if train.z is None else (train.z, held_out.z)
    digest = fingerprint(train.x, train.label, held_out.x, held_out.label, *pairs)
    return Dataset(name, train, held_out, shape, classes, levels, digest, flip)


def check_flip(shape: tuple[int, ...]) -> None:
    """Raises ValueError unless examples are images."""
    if len(shape) != 3:
        raise ValueError(f"flip mirrors images (H, W, C); the examples have shape {shape}: set flip=False.")


def evenly(n: int, share: float) -> np.ndarray:
    """Which of n examples are held out, (n,) bool: round(n share) of them, evenly spaced in the order they come in.

    Raises:
        ValueError: unless that leaves at least one example in each part.
    """
    count = round(n * share)
    if not 0 < count < n:
        raise ValueError(f"held_out={share} of {n} examples is {count}; expected at least one example in each part.")
    return np.diff(np.arange(n + 1) * count // n) > 0


def nearest(name: str, options: Iterable[str]) -> str:
    """'nearest is x; it has x, y, z', to end an error message."""
    options = sorted(options)
    close = difflib.get_close_matches(name, options, 1)
    return (f"nearest is {close[0]!r}; " if close else "") + f"it has {', '.join(options) or 'none'}"
