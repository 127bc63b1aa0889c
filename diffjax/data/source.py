"""What a data set is: two sources of examples, addressed by index; and what all kinds of data set share."""

import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from diffjax.data import endpoints, splits
from diffjax.data.vocabulary import Vocabulary
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
            raise ValueError(
                f"The examples have dtype {x.dtype}, expected uint8 (pixels 0 .. 255), floating (as they are) or int32 "
                "(tokens from 0 on): x.astype(np.int32)."
            )
        if np.issubdtype(x.dtype, np.floating) and not np.all(np.isfinite(x)):
            raise ValueError(f"Example {np.flatnonzero(~np.isfinite(x.reshape(len(x), -1)).all(1))[0]} is not finite.")
        if label is not None and len(label) != len(x):
            raise ValueError(f"Got {len(x)} examples and {len(label)} labels.")
        if z is not None and (np.shape(z) != x.shape or not np.all(np.isfinite(z))):
            raise ValueError(f"The noise z has shape {np.shape(z)}, expected finite numbers of x's shape {x.shape}.")
        labels = {} if label is None else {"label": _labels(label)}
        if np.issubdtype(x.dtype, np.floating):
            most = np.abs(x).max()
            if most > np.finfo(np.float32).max:
                raise ValueError(
                    f"The examples hold numbers of size {most:g}, expected those of float32, or scale them."
                )
            x = x.astype(np.float32)
        self.x = x
        self.given = labels | {name: _known(name, part, x) for name, part in given.items()}
        self.chosen: dict[str, np.ndarray] = {} if z is None else {"z": np.asarray(z, np.float32)}

    def __len__(self) -> int:
        """The number of examples."""
        return len(self.x)

    def part(self, where: np.ndarray) -> "Arrays":
        """Makes the source of the examples that `where` (N,) bool marks."""
        at = lambda parts: {name: part[where] for name, part in parts.items()}
        return Arrays(self.x[where], **at(self.given), **at(self.chosen))

    @property
    def labels(self) -> np.ndarray | None:
        """The labels (N,), or None."""
        return self.given.get("label")

    def gather(self, indices: np.ndarray) -> Example:
        """Gathers the examples at `indices` (B,), in one vectorised read."""
        at = lambda parts: {name: unit(part[indices]) for name, part in parts.items()}  # bytes are pixels
        return Example(unit(self.x[indices]), at(self.given), at(self.chosen))


class Subset:
    """The examples of a source that stand at some places."""

    def __init__(self, source: Source, places: np.ndarray):
        known = labels(source)
        self.source, self.at, self.labels = source, places, None if known is None else known[places]
        self.workers = getattr(source, "workers", 0)  # `Records`

    def __len__(self) -> int:
        """The number of examples."""
        return len(self.at)

    def gather(self, indices: np.ndarray) -> Example:
        """Gathers the examples at `indices` (B,) of the subset."""
        return self.source.gather(self.at[indices])


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


def labels(source: Any) -> np.ndarray | None:
    """Gives the labels (N,) of all examples of a source; None where there are none, or they are in its files alone."""
    return getattr(source, "labels", None)


Judge = Callable[[Drawn, "Dataset"], list[Section]]
LOOKED = 1024  # training examples whose range is looked at
ENTRIES = 2**26  # numbers of examples that are looked at together: 341 images of 256 x 256 x 3


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
        texts: of the captions, by the number given["caption"]; None: examples have no caption.
        vocabulary: of the tokens given["text"], which makes tokens of a user's words; None: they are tokens alone.
        mixed: the order of examples says nothing of them, so that the first n are as good as any n.
        units: what examples were standardised or encoded by and samples are brought back by (`data.units`,
            `data.latents`), or None.
        decode: (file, its name) -> uint8 (H, W, C), as the data set reads its own images; None: it has no rule.
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
    mixed: bool = False
    units: Any = None
    decode: Callable[[Any, str], np.ndarray] | None = None
    texts: tuple[str, ...] | None = None
    vocabulary: Vocabulary | None = None

    def __repr__(self) -> str:
        sizes = f"{len(self.train):,} training and {len(self.held_out):,} held-out examples of shape {self.shape}"
        classes = "" if self.classes is None else f", {self.classes} classes"
        return f"<Dataset {self.name}: {sizes}{classes}, split {self.fingerprint}>"

    @property
    def in_memory(self) -> bool:
        """Whether examples are looked at without opening a file."""
        return isinstance(self.train, Arrays)

    @property
    def present(self) -> np.ndarray:
        """The labels that training examples have, rising; all of them where only the files know."""
        known = labels(self.train)
        return np.arange(self.classes or 1) if known is None else np.unique(known)

    @property
    def usable(self) -> np.ndarray:
        """The places of held-out examples whose label training has; of all of them where none is."""
        known, at = labels(self.held_out), np.arange(len(self.held_out))
        seen = at if known is None else np.flatnonzero(np.isin(known, self.present))
        return seen if len(seen) else at

    def places(self, part: str, n: int) -> np.ndarray:
        """Picks n examples of a part ("train", "held_out"), (n,) indices: of all places of a file; then from the first.

        Held-out examples of a label that training never saw are left out: no run can be held against them.
        """
        order = self._order(part)
        return order[np.arange(n) % len(order)]

    def some(self, part: str, most: int) -> Example:
        """Gathers at most `most` examples of a part, each once, and of large ones as many as ENTRIES hold."""
        order = self._order(part)
        room = max(ENTRIES // max(int(np.prod(self.shape)), 1), 2)
        return getattr(self, part).gather(order[: min(most, room)])

    def _order(self, part: str) -> np.ndarray:
        at = np.arange(len(self.train)) if part == "train" else self.usable
        return at if self.mixed else at[np.argsort(np.random.Philox(key=0).random_raw(len(at)), kind="stable")]

    def cut(self, train: int, held_out: int) -> "Dataset":
        """Gives the data set of so many examples at most."""
        some = lambda part, n: Subset(getattr(self, part), self._order(part)[:n])
        return self._replace(train=some("train", train), held_out=some("held_out", held_out))

    def to_data(self, x: Any) -> Any:
        """Brings samples (n, *shape) to the data's units."""
        return x if self.units is None else self.units.to_data(x)

    def span(self) -> tuple[float, float] | None:
        """Tells between which numbers images and volumes of this data lie, in its units; None where nobody knows.

        Pixels lie in [-1, 1]; else it is what units were measured of, or [-1, 1] and what training examples that are
        here have beyond.
        """
        if len(self.seen_shape) < 3 or self.units is not None:
            return None if len(self.seen_shape) < 3 else (self.units.low, self.units.high)
        if self.levels is not None:
            return -1.0, 1.0
        try:
            x = self.some("train", LOOKED).x
        except ValueError:  # they are not here
            return None
        return min(float(x.min()), -1.0), max(float(x.max()), 1.0)

    def check_range(self, name: str, x: np.ndarray) -> None:
        """Raises a ValueError for images (n, *shape), no bytes, that leave the data's span by half of its width."""
        span = None if x.dtype == np.uint8 or not x.size else self.span()
        if span is None:
            return
        (low, high), most, least = span, float(np.max(x)), float(np.min(x))
        if max(most - high, low - least) > (high - low) / 2 > 0:
            raise ValueError(
                f"{name} spans [{least:.4g}, {most:.4g}], but {self.name} lies in [{low:.4g}, {high:.4g}]: scale it "
                "there; pixels 0 .. 255 are taken as uint8, x.astype(np.uint8)."
            )

    @property
    def log_scale(self) -> float:
        """What the units take from a log density in nats: log p of the data is log p of what a run sees, less this."""
        return 0.0 if self.units is None else self.units.log_scale(self.shape)

    def shown(self, x: Any) -> Any:
        """Makes what is drawn of samples in the data's units: images and volumes in [-1, 1]."""
        return x if self.units is None else self.units.shown(x)

    @property
    def seen_shape(self) -> tuple[int, ...]:
        """The shape of an example in the data's own units, which that of codes is not (`data.latents`)."""
        return getattr(self.units, "shape", self.shape)

    def alike(self, own: np.ndarray) -> Example:
        """Gathers training examples of these labels (n,), each once before one comes again; any for a label of none."""
        known, order = labels(self.train), self._order("train")
        at = order[np.arange(len(own)) % len(order)]
        for label in np.unique(own):
            if known is not None and len(of := order[known[order] == label]):
                here = np.flatnonzero(own == label)
                at[here] = of[np.arange(len(here)) % len(of)]
        return self.train.gather(at)

    def of_label(self, label: int | None) -> "Dataset":
        """Gives the examples of this label alone; all of them for None, a label of none, or without labels."""
        parts = [self.train, self.held_out]
        at = [np.flatnonzero(labels(part) == label) if labels(part) is not None else np.zeros(0) for part in parts]
        if label is None or not all(map(len, at)):
            return self
        train, held_out = (Subset(part, where) for part, where in zip(parts, at))
        return self._replace(train=train, held_out=held_out)


def blank(dataset: Dataset) -> Example:
    """Makes an example of zeros, of the data set's shapes."""
    if (like := getattr(dataset.train, "like", None)) is not None:  # of a data set whose examples are not here
        return like
    zeros = lambda part: np.zeros(part.shape[1:], part.dtype)
    return jax.tree.map(zeros, dataset.train.gather(np.zeros(1, int)))


def arrays(x: Any, held_out: float = 0.1, name: str = "arrays", **given: Any) -> Dataset:
    """Makes the data set of arrays, x (N, ...) and what is given of each example; a share is held out.

    `data.standardize(data.arrays(x), "entries")` is for data of any scale.

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
    for other in ("y", "z", "image"):
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
