"""The coordinate of codes: what encodes examples, what decodes samples, and what of it a run keeps in its workdir.

It stands where the units of a data set do (`data.units`): a run sees u, and files, pictures and judges see x = D(u). A
path is opened by `diffjax.open`, as `data.latents` says.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import diffjax
from diffjax import codecs, disk
from diffjax.data.source import Arrays, Dataset, Subset, labels
from diffjax.method import Example
from diffjax.metrics.judges import Floored

FILE, FACTS = "codec.safetensors", "codec.json"
CHUNK = 64  # examples that are encoded or decoded together: always as many, so that bits do not depend on the number
ALIKE = 1e-3  # of a scale, by which two machines measure it and its shift differently
NOISE = 50  # seed of what codes are drawn by around their means


class Encoding(NamedTuple):
    """How examples become codes before their scale; a place is the example's, held-out ones after all others."""

    codec: codecs.Codec
    sampled: bool

    def __call__(self, x: np.ndarray, places: np.ndarray) -> np.ndarray:
        return _chunked(_drawn if self.sampled else _encoded, self.codec, np.asarray(x), np.asarray(places, np.uint32))


@jax.jit
def _encoded(codec: codecs.Codec, x: Any, places: Any) -> Any:
    return jax.vmap(codec.encode)(x)


@jax.jit
def _drawn(codec: codecs.Codec, x: Any, places: Any) -> Any:
    def one(x: Any, place: Any) -> Any:
        mean = codec.encode(x)
        key = jax.random.fold_in(jax.random.key(NOISE), place)
        return mean + codec.std(x) * jax.random.normal(key, mean.shape, mean.dtype)  # pyright: ignore

    return jax.vmap(one)(x, places)


@jax.jit
def _decoded(codec: codecs.Codec, u: Any) -> Any:
    return jax.vmap(codec.decode)(u)


def _chunked(function: Callable, codec: codecs.Codec, *rows: np.ndarray) -> np.ndarray:
    """Calls a function of rows in chunks of CHUNK, the last one filled up with its last row."""
    n, made = len(rows[0]), []
    if n == 0:
        one = jax.eval_shape(function, codec, *(jax.ShapeDtypeStruct((1, *row.shape[1:]), row.dtype) for row in rows))
        return np.zeros((0, *one.shape[1:]), one.dtype)
    for start in range(0, n, CHUNK):
        at = np.minimum(np.arange(start, start + CHUNK), n - 1)
        made.append(np.asarray(function(codec, *(row[at] for row in rows)))[: n - start])
    return np.concatenate(made)


class Coordinate:
    """What stands in the place of units where a codec is the coordinate: x = D(u).

    Attributes:
        codec: scaled, from an example to what a run sees.
        base: the data set that was encoded; None where only its card is here.
        shape: of an example of it.
        low, high: the least and the largest number of it.
        facts: {"checksum", "shift", "scale"}, of the codec that `export` writes.
        export: path -> None, writes the codec's run as a weights file; None: no file holds it.
        sampled: whether codes are drawn around their means.
    """

    def __init__(
        self,
        codec: codecs.Codec,
        base: Dataset | None,
        shape: tuple[int, ...],
        low: float,
        high: float,
        facts: dict[str, Any],
        export: Callable[[Path], Any] | None,
        sampled: bool = False,
    ):
        self.codec, self.base, self.shape, self.low, self.high = codec, base, tuple(shape), low, high
        self.facts, self.export, self.sampled = facts, export, sampled

    @property
    def codes(self) -> int | None:
        """The number of whole codes that can be decoded; None of real ones, or where nobody says."""
        return self.codec.codes

    def to_units(self, x: Any) -> np.ndarray:
        """Encodes examples (n, *shape) by their means."""
        return _chunked(_encoded, self.codec, np.asarray(x, np.float32), np.zeros(len(x), np.uint32))

    def to_data(self, u: Any) -> np.ndarray:
        """Decodes codes (n, ...)."""
        return _chunked(_decoded, self.codec, np.asarray(u))

    def trip(self, x: Any) -> np.ndarray:
        """Encodes and decodes examples (n, *shape)."""
        return self.to_data(self.to_units(x))

    def shown(self, x: Any) -> Any:
        """Gives what is drawn of examples: they are as the data is."""
        return x

    def undone(self, dataset: Dataset) -> Dataset:
        """Gives the data set that was encoded, of the examples of `dataset`; where none are here, `dataset` itself."""
        if self.base is None:
            return dataset
        parts = {part: _uncoded(getattr(dataset, part)) for part in ("train", "held_out")}
        return self.base._replace(judge=dataset.judge, **parts)

    def log_scale(self, shape: tuple[int, ...]) -> float:
        """Raises the ValueError that says why codes have no likelihood in pixels."""
        raise ValueError(
            "This run is of codes, whose density says nothing of examples without the codec's own bound: "
            "--mode=likelihood is for runs of the examples themselves, or of methods.autoencoder."
        )

    @property
    def affine(self) -> tuple[Any, Any]:
        """Raises the ValueError that says why what needs mean and scale cannot be had."""
        raise ValueError(
            "This run is of codes, and a codec is no mean and scale: what looks at examples linearly (restoring, a "
            "compiled sampler) takes a run of the examples themselves."
        )

    def instead(self, whole: bool) -> str:
        """Says which codec has codes of the other kind, whole or real, for a method that takes those."""
        found, other = ("real", "compression.vq, fsq or gumbel") if whole else ("whole", "compression.kl")
        return f"its codec makes {found} codes: take the run of another as data.codec, such as one of {other}"

    def card(self) -> dict[str, Any]:
        """Describes this as plain JSON (`of_card`)."""
        return {"codec": {**self.facts, "shape": list(self.shape), "range": [self.low, self.high]}}

    def keep(self, dataset: Dataset, folder: Path) -> str:
        """Writes codec and facts into the folder of a run, once; says what is wrong where others are there."""
        path = folder / FACTS
        if path.is_file():
            return (
                ""
                if self._is(disk.read_json(path))
                else f"{path}: the codec or its scale are others than when this run began."
            )
        if self.export is None:
            print(f"the codec is an object that no file holds: {folder} draws with it at hand alone", flush=True)
            return ""
        self.export(folder / FILE)
        disk.write(path, json.dumps(self.card()["codec"]))
        return ""

    def kept(self, dataset: Dataset, folder: Path) -> Dataset:
        """Gives the data set by the codec that is kept in a run's folder, where another stands in its place now.

        Examples are then encoded by that codec whenever they are gathered.
        """
        if not (folder / FACTS).is_file() or self._is(told := disk.read_json(folder / FACTS)):
            return dataset
        print(f"the codec is not the one this run was trained with, which is taken: {folder / FILE}", flush=True)
        made = of_card(told, folder)
        if self.base is None:
            return dataset._replace(units=made)
        made.base, made.sampled, how = self.base, self.sampled, Encoding(made.codec, self.sampled)
        whole, first = np.issubdtype(dataset.train.gather(np.zeros(1, int)).x.dtype, np.integer), len(self.base.train)
        again = lambda part, at: _recoded(part, lambda plain: Coded(plain, how, at, 0.0, 1.0, bool(whole)))
        parts = {"train": again(dataset.train, 0), "held_out": again(dataset.held_out, first)}
        return dataset._replace(units=made, judge=Floored(self.base.judge, made.trip), **parts)

    def _is(self, told: Any) -> bool:
        """Tells whether these facts are of this codec, and of this scale up to what machines differ by."""
        own = self.card()["codec"]
        pairs = [(np.asarray(told[name]), np.asarray(own[name])) for name in ("shift", "scale")]
        if told["checksum"] != own["checksum"] or any(one.shape != other.shape for one, other in pairs):
            return False
        return all((np.abs(one - other) <= ALIKE * pairs[1][1]).all() for one, other in pairs)


def of_card(told: Any, folder: Path) -> Coordinate:
    """Makes the coordinate of a card, from the weights file that lies in the folder.

    Raises:
        ValueError: for a file that is missing or of another codec, or a card with something else in it.
    """
    path = Path(folder) / FILE
    if not path.is_file():
        raise ValueError(f"samples are codes, to be decoded by {path}, which is not there: copy it from the workdir.")
    codec = codecs.of(diffjax.open(str(path)))
    if (found := codecs.checksum(codec)) != told["checksum"]:
        raise ValueError(f"{path} is another codec ({found}) than the one that the run was trained with.")
    facts = {name: told[name] for name in ("checksum", "shift", "scale")}
    shift, size = (np.asarray(facts[name], np.float32) for name in ("shift", "scale"))
    plain = not shift.any() and (size == 1).all()  # whole codes have no scale
    shape, (low, high) = tuple(told["shape"]), told["range"]
    return Coordinate(codec if plain else codecs.scaled(codec, shift, size), None, shape, low, high, facts, None)


class Codes(Arrays):
    """Codes in memory, with the source that they were made of."""

    def __init__(self, arrays: Arrays, plain: Any):
        self.x, self.given, self.chosen, self.plain = arrays.x, arrays.given, arrays.chosen, plain


class Coded:
    """Codes that are made whenever they are gathered."""

    def __init__(self, plain: Any, how: Encoding, first: int, shift: Any, scale: Any, whole: bool):
        self.plain, self.how, self.first, self.shift, self.scale, self.whole = plain, how, first, shift, scale, whole
        self.labels = labels(plain)

    def __len__(self) -> int:
        """The number of examples."""
        return len(self.plain)

    def gather(self, indices: np.ndarray) -> Example:
        """Gathers the examples at `indices` (B,) and encodes them."""
        found = self.plain.gather(indices)
        code = finite(self.how(found.x, self.first + np.asarray(indices)), indices)
        return found._replace(x=code if self.whole else np.float32((code - self.shift) / self.scale))


def _uncoded(part: Any) -> Any:
    return _recoded(part, lambda plain: plain)


def _recoded(part: Any, make: Callable[[Any], Any]) -> Any:
    return Subset(_recoded(part.source, make), part.at) if isinstance(part, Subset) else make(part.plain)


def finite(code: np.ndarray, numbers: Any) -> np.ndarray:
    """Gives codes back; raises the ValueError for one that is not finite, or negative of whole ones.

    -1 is what codecs of the library write where numbers are not finite (`quantise.known`).
    """
    whole = not np.issubdtype(code.dtype, np.floating)
    good = code >= 0 if whole else np.isfinite(code)
    if not good.all():
        row = np.flatnonzero(~good.reshape(len(code), -1).all(1))[0]
        value = code[row][~good[row]].flat[0]
        what = "whole numbers from 0 on (-1 stands for what is not finite)" if whole else "finite numbers"
        raise ValueError(f"The code of example {np.asarray(numbers)[row]} holds {value}, expected {what}.")
    return code
