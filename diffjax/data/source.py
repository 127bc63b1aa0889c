"""What a data set is: two sources of examples, addressed by index; and what all kinds of data set share."""

import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from diffjax.data import endpoints, splits
from diffjax.method import Drawn, Example, Section


class Source(Protocol):
    """A source of examples 0 .. len - 1, in one fixed order."""

    def __len__(self) -> int:
        """The number of examples."""
        ...

    def gather(self, indices: np.ndarray) -> Example:
        """Gathers the examples at `indices` (B,): x (B, ...) float32, or int32 tokens; leaves of `given`, `chosen`."""
        ...


class Arrays:
    """A source held in memory: uint8 images are kept as bytes and become [-1, 1] when gathered.

    Args:
        x: (N, ...) uint8 or floating, or int32 tokens.
        label: (N,) integers, or None.
        z: of x's shape, the noise that each example belongs to, or None: it is drawn.
        given: (N, ...) what else is known of each example, by name; floating arrays are kept as float32, and uint8 of
            the shape of uint8 images x, such as a bridge's endpoints, are images too.

    Raises:
        ValueError: for lengths that differ, another dtype, no example, or values that are not finite.
    """

    def __init__(self, x: Any, label: Any = None, z: Any = None, **given: Any):
        x = np.asarray(x)
        if x.shape[:1] == (0,):
            raise ValueError("The data set holds no example.")
        if x.ndim == 0 or x.size == 0:
            raise ValueError(f"The examples x have shape {x.shape}, expected (N, ...) with some number in each.")
        if x.dtype not in (np.uint8, np.int32) and not np.issubdtype(x.dtype, np.floating):
            raise ValueError(f"The examples have dtype {x.dtype}, expected uint8 (0 .. 255) or floating (as they are).")
        if np.issubdtype(x.dtype, np.floating) and not np.all(np.isfinite(x)):
            raise ValueError(f"Example {np.flatnonzero(~np.isfinite(x.reshape(len(x), -1)).all(1))[0]} is not finite.")
        if label is not None and len(label) != len(x):
            raise ValueError(f"Got {len(x)} examples and {len(label)} labels.")
        if z is not None and (np.shape(z) != x.shape or not np.all(np.isfinite(z))):
            raise ValueError(f"The noise z has shape {np.shape(z)}, expected finite numbers of x's shape {x.shape}.")
        labels = {} if label is None else {"label": _labels(label)}
        self.x = x.astype(np.float32) if np.issubdtype(x.dtype, np.floating) else x
        self.given = labels | {name: _known(name, part, x) for name, part in given.items()}
        self.chosen = {} if z is None else {"z": np.asarray(z, np.float32)}

    def __len__(self) -> int:
        """The number of examples."""
        return len(self.x)

    def part(self, where: np.ndarray) -> "Arrays":
        """Makes the source of the examples that `where` (N,) bool marks."""
        at = lambda parts: {name: part[where] for name, part in parts.items()}
        return Arrays(self.x[where], **at(self.given), **at(self.chosen))

    def gather(self, indices: np.ndarray) -> Example:
        """Gathers the examples at `indices` (B,), in one vectorised read."""
        at = lambda parts: {name: unit(part[indices]) for name, part in parts.items()}  # bytes are pixels
        return Example(unit(self.x[indices]), at(self.given), at(self.chosen))


def _labels(label: Any) -> np.ndarray:
    label = np.asarray(label)
    whole = label.ndim == 1 and np.issubdtype(label.dtype, np.integer) and label.size and label.min() >= 0
    if not whole:
        raise ValueError(f"Labels are {label.dtype} of shape {label.shape}, expected integers (N,) from 0 on.")
    return label.astype(np.int32)


def _known(name: str, part: Any, x: np.ndarray) -> np.ndarray:
    part = np.asarray(part)
    if np.ndim(part) == 0 or len(part) != len(x):
        raise ValueError(f"Got {len(x)} examples and {part.size} of {name!r}, expected one for each.")
    if part.dtype == x.dtype == np.uint8 and part.shape == x.shape:
        return part
    if not np.issubdtype(part.dtype, np.number) or not np.all(np.isfinite(part)):
        raise ValueError(f"{name!r} has dtype {part.dtype}, expected finite numbers.")
    return part.astype(np.float32 if np.issubdtype(part.dtype, np.floating) else np.int32)


Judge = Callable[[Drawn, "Dataset"], list[Section]]


class Dataset(NamedTuple):
    """A data set, split for good into a training and a held-out part.

    Attributes:
        name: of its kind.
        train, held_out: the two parts.
        shape: of one example.
        classes: number of labels, or None.
        levels: number of grey levels that pixels take, or None for continuous data.
        fingerprint: of content, order and split; two runs with the same one saw the same data.
        flip: mirror training images at random.
        judge: (drawn, data set) -> sections, what samples are held against; None: distances between two samples.
        least: the fewest samples that `judge` takes, and why.
        unread: names of `given` that no part of a run has to read: they serve the judge.
        names: of the classes, by number; None: they have numbers alone.
    """

    name: str
    train: Source
    held_out: Source
    shape: tuple[int, ...]
    classes: int | None
    levels: int | None
    fingerprint: str
    flip: bool = False
    judge: Judge | None = None
    least: tuple[int, str] = (1, "")
    unread: tuple[str, ...] = ("label",)
    names: tuple[str, ...] | None = None


def blank(dataset: Dataset) -> Example:
    """Makes an example of zeros, of the data set's shapes."""
    zeros = lambda part: np.zeros(part.shape[1:], part.dtype)
    return jax.tree.map(zeros, dataset.train.gather(np.zeros(1, int)))


def arrays(x: Any, held_out: float = 0.1, name: str = "arrays", **given: Any) -> Dataset:
    """Makes the data set of arrays, x (N, ...) and what is given of each example; a share is held out.

    Every name in `given` has to be read by some part of a run (its network, its process); "label" makes classes, each
    of which is held out in proportion (`splits.stratified`), and "y" of x's shape the endpoints of a bridge.

    Raises:
        ValueError: as `Arrays` and `splits.stratified`.
    """
    if not isinstance(name, str):
        raise ValueError(
            "name is what the data set is called, expected text; call what is given of examples otherwise."
        )
    whole = Arrays(x, **given)
    label = whole.given.get("label")
    out = splits.stratified(len(whole), held_out, label)
    classes = None if label is None else int(label.max()) + 1
    return in_memory(name, whole.part(~out), whole.part(out), classes=classes)._replace(unread=())


def fitting(name: str, value: Any, like: np.ndarray, n: int) -> np.ndarray:
    """Spreads what n examples are given by this name, one value for all or one for each, to (n, ...) and their dtype.

    Args:
        like: what one example of the data is given.

    Raises:
        ValueError: for another shape, or numbers that are not finite, or no integers where those of the data are.
    """
    value = np.asarray(value)
    exact = np.issubdtype(value.dtype, np.integer) or np.issubdtype(like.dtype, np.floating)
    if not exact or not np.issubdtype(value.dtype, np.number) or not np.all(np.isfinite(value)):
        raise ValueError(f"given[{name!r}] is {value}, expected finite {like.dtype} numbers.")
    if value.shape not in (like.shape, (n, *like.shape)):
        raise ValueError(
            f"given[{name!r}] has shape {value.shape}, expected {like.shape} for all or {(n, *like.shape)}."
        )
    return np.broadcast_to(value, (n, *like.shape)).astype(like.dtype)


def unit(x: np.ndarray) -> np.ndarray:
    """Converts uint8 pixels 0 .. 255 to float32 in [-1, 1], others to float32, unscaled; int32 tokens stay."""
    if x.dtype == np.int32:
        return x
    scaled = x.astype(np.float32)
    if x.dtype == np.uint8:  # in place: on a batch of images, temporaries cost ten times the arithmetic
        scaled /= 127.5
        scaled -= 1
    return scaled


def fingerprint(*parts: Any) -> str:
    """Computes 16 hexadecimal digits of a SHA-256 over arrays (bytes, dtype, shape), Nones and texts, in order."""
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
    """Makes the data set of two array sources, its fingerprint taken from all they hold.

    Raises:
        ValueError: for parts whose examples differ in shape, or `flip` for examples that are not images (H, W, C).
    """
    shape = train.x.shape[1:]
    if held_out.x.shape[1:] != shape:
        raise ValueError(f"{name}: training examples have shape {shape}, held-out ones {held_out.x.shape[1:]}.")
    if flip:
        check_flip(shape)
    for other in ("y", "z"):
        if flip and other in {**train.given, **train.chosen}:
            raise ValueError(f"{name}: flip mirrors x alone, but each x belongs to its {other}: set flip=False.")
    labels = (train.given.get("label"), held_out.given.get("label"))
    more = [(key, part.given[key]) for part in (train, held_out) for key in sorted(part.given) if key != "label"]
    pairs = [part.chosen[key] for part in (train, held_out) for key in part.chosen]
    digest = fingerprint(train.x, labels[0], held_out.x, labels[1], *pairs, *(leaf for pair in more for leaf in pair))
    endpoint = "y" in train.given and train.given["y"].shape[1:] == shape
    return Dataset(name, train, held_out, shape, classes, levels, digest, flip, endpoints.judge if endpoint else None)


def check_flip(shape: tuple[int, ...]) -> None:
    """Raises a ValueError unless the shape is that of images (H, W, C)."""
    if len(shape) != 3:
        raise ValueError(f"flip mirrors images (H, W, C); the examples have shape {shape}: set flip=False.")
