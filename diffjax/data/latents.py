"""Latents: the codes of a data set by a finished codec, as data; what is drawn of them is decoded, and then judged.

    u = (E(x) - shift) / scale        what a run sees, computed once     (Rombach et al. 2022, section 3.2, appendix G)
    x = D(scale u + shift)            what files, pictures and judges see

The codec is a coordinate of the data, as units are (`data.units`): every method of real numbers is then one of real
codes, and every method of tokens one of whole codes, which have no scale. What no such model beats is its codec, so
that judges say beside each number of samples what decoded training examples have.

A run keeps its codec in its workdir, codec.safetensors (a weights file) with codec.json, and draws with that one from
then on. Likelihoods are none in pixels: a density of codes is no density of examples.

A path is opened by `diffjax.open`, the library's public face, since a run is what has made this data: the one look up
from the data's layer.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import diffjax
from diffjax import codecs, disk, host, members
from diffjax.data.source import Arrays, Dataset, Subset, blank, fingerprint, labels
from diffjax.method import Example
from diffjax.metrics.judges import Floored
from diffjax.specs import build

FILE, FACTS = "codec.safetensors", "codec.json"
CHUNK = 64  # examples that are encoded or decoded together: always as many, so that bits do not depend on the number
LEAST = 1e-6  # of |mean|, below which a spread is none
ALIKE = 1e-3  # of a scale, by which two machines measure it and its shift differently
NOISE = 50  # seed of what codes are drawn by around their means


def latents(
    codec: Any,
    of: Any = None,
    sampled: bool = False,
    scale: str | float | None = "channels",
    stored: bool = True,
    cache: str | None = None,
) -> Dataset:
    """Makes the data set of the codes of another one.

    Args:
        codec: the workdir of a finished codec's run, or its weights file; in Python a `codecs.Codec` as well.
        of: the data set that is encoded, or its spec; None: the one that the codec's run was trained on.
        sampled: each code is drawn once around its mean, as the codec says, by its place in the data; means have less
            variance than the codec was trained on.
        scale: of real codes: "channels", to mean 0 and variance 1 of each entry of the last axis over the training
            data; "whole", one mean and one variance; a number that codes are divided by; None: as they are.
        stored: encoded once and kept in memory; else whenever examples are gathered.
        cache: an .npz file that codes are kept in, with the checksum of codec and data; written where there is none.

    Raises:
        ValueError: for a run without a codec, a codec of other examples, a scale that is none, a data set that mirrors
            its images or has units of its own, or a cache of another codec or other data.
    """
    path = codec if isinstance(codec, str | Path) else None
    run = None if path is None else diffjax.open(str(path))
    coder: Any = codecs.of(run) if run is not None else codec
    base = _base(of, run, path)
    checked(coder, base, path)
    how = _Encoding(coder, sampled)
    whole = jnp.issubdtype(jax.eval_shape(coder.encode, blank(base).x).dtype, jnp.integer)
    if sampled and coder.std is None:
        raise ValueError("sampled is True, but this codec's codes are points, drawn around nothing: leave it out.")
    mark = fingerprint(base.fingerprint, _told_by(coder, base), sampled)
    parts = _cached(base, how, cache, mark) if stored or scale in ("channels", "whole") else None
    shift, size = (0.0, 1.0) if whole or scale is None else _measured(scale, None if parts is None else parts[0])
    scaled = coder if whole or scale is None else codecs.scaled(coder, shift, size)
    keep = None if run is None else run.export
    facts = {"checksum": codecs.checksum(coder), "shift": _listed(shift), "scale": _listed(size)}
    low, high = base.span() or _ends(base)
    units = Coordinate(scaled, base, base.shape, low, high, facts, keep)
    if stored:
        assert parts is not None
        sources = [Codes(_arrays_of(source, (code - shift) / size if not whole else code), source)
                   for source, code in zip((base.train, base.held_out), parts)]  # fmt: skip
    else:
        firsts = zip((base.train, base.held_out), (0, len(base.train)))
        sources = [Coded(source, how, first, shift, size, whole) for source, first in firsts]
    shape = sources[0].gather(np.zeros(1, int)).x.shape[1:]
    return base._replace(
        name=f"latents of {base.name}",
        train=sources[0],
        held_out=sources[1],
        shape=shape,
        levels=None,
        fingerprint=fingerprint(mark, scale),  # not what was measured, whose last bits depend on the machine
        judge=Floored(base.judge, units.trip),
        units=units,
        decode=None,
    )


def checked(codec: Any, base: Dataset, path: Any = None) -> None:
    """Holds a codec against the data set that it is to encode; a ValueError says what is wrong."""
    if not isinstance(codec, codecs.Codec):
        raise ValueError(
            f"Got {type(codec).__name__} as a codec, expected the workdir of a finished run of one, or a codecs.Codec."
        )
    if base.units is not None:
        raise ValueError(f"{base.name} has units of its own, and a codec is one: leave standardize out.")
    if base.flip:
        raise ValueError(f"{base.name} mirrors its images at random, which codes cannot: set flip=False.")
    example = blank(base)
    if beside := {"y", "z"} & {*example.given, *example.chosen}:
        raise ValueError(f"{base.name} has a {sorted(beside)[0]} of x's shape for each example, which is not encoded.")
    name = "This codec" if path is None else f"The codec of {path}"
    try:
        codec.shape(example.x)
    except Exception as error:  # of anybody's functions
        said = host.one_line(str(error).partition("\n")[0])
        raise ValueError(f"{name} takes no examples {example.x.shape} of {base.name}: {said}") from error


def _told_by(codec: codecs.Codec, base: Dataset) -> str:
    """What tells a codec from others: its numbers; of one without, two sums over codes of the first examples."""
    if jax.tree.leaves(codec):
        return codecs.checksum(codec)
    x = base.train.gather(np.arange(min(CHUNK, len(base.train)))).x
    code = np.asarray(_Encoding(codec, False)(x, np.zeros(len(x))), np.float64)
    weight = np.random.default_rng(0).normal(size=code.shape)
    with np.errstate(all="ignore"):  # codes that are not finite are refused where they are kept
        return f"{np.sum(weight * code):.3g} {np.sum(weight * code**2):.3g}"  # to what machines differ by


class _Encoding(NamedTuple):
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
    ):
        self.codec, self.base, self.shape, self.low, self.high = codec, base, tuple(shape), low, high
        self.facts, self.export = facts, export

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
        """Gives the data set that was encoded, of the same examples; itself where they are not here."""
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
        """Gives the data set with the codec that is kept in a run's folder, where another stands in its place now."""
        if not (folder / FACTS).is_file() or self._is(told := disk.read_json(folder / FACTS)):
            return dataset
        print(f"the codec is not the one this run was trained with, which is taken: {folder / FILE}", flush=True)
        return dataset._replace(units=of_card(told, folder))

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

    def __init__(self, plain: Any, how: _Encoding, first: int, shift: Any, scale: Any, whole: bool):
        self.plain, self.how, self.first, self.shift, self.scale, self.whole = plain, how, first, shift, scale, whole
        self.labels = labels(plain)

    def __len__(self) -> int:
        """The number of examples."""
        return len(self.plain)

    def gather(self, indices: np.ndarray) -> Example:
        """Gathers the examples at `indices` (B,) and encodes them."""
        found = self.plain.gather(indices)
        code = self.how(found.x, self.first + np.asarray(indices))
        return found._replace(x=code if self.whole else np.float32((code - self.shift) / self.scale))


def _uncoded(part: Any) -> Any:
    return Subset(_uncoded(part.source), part.at) if isinstance(part, Subset) else part.plain


def _base(of: Any, run: Any, path: Any) -> Dataset:
    if isinstance(of, Dataset):
        return of
    if isinstance(of, Mapping) or hasattr(of, "keys"):
        from diffjax import data

        return build(data, of)
    if of is not None:
        raise ValueError(f"of is {of!r}, expected a data set, its spec, or None: that of the codec's run.")
    if run is None:
        raise ValueError("A codec that is an object says nothing of its data: give of=, the data set to be encoded.")
    if hasattr(run.data.train, "error"):
        raise run.data.train.error(f" Name the data that {path} is to encode: of=spec(...), --config.data.of.name=.")
    return run.data


def _cached(base: Dataset, how: _Encoding, cache: str | None, mark: str) -> list[np.ndarray]:
    """Codes of both parts before their scale, from the cache where there is one."""
    names, file = ("train", "held_out"), None if cache is None else Path(cache).expanduser()
    if file is not None and file.exists():
        found = members.several(file, [*names, "checksum"])
        if (kept := bytes(found["checksum"]).decode("ascii", "replace")) != mark:
            raise ValueError(
                f"{file} holds codes of another codec or other data (checksum {kept[:16]}, now {mark}): remove it, or "
                "name another cache."
            )
        return [found[name] for name in names]
    parts = [_all(base.train, how, 0), _all(base.held_out, how, len(base.train))]
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez(file, train=parts[0], held_out=parts[1], checksum=np.frombuffer(mark.encode(), np.uint8))
    return parts


def _all(source: Any, how: _Encoding, first: int) -> np.ndarray:
    rows = [np.arange(at, min(at + 16 * CHUNK, len(source))) for at in range(0, len(source), 16 * CHUNK)]
    code = np.concatenate([how(source.gather(at).x, first + at) for at in rows])
    if np.issubdtype(code.dtype, np.floating) and not np.isfinite(code).all():
        bad = int(np.flatnonzero(~np.isfinite(code.reshape(len(code), -1)).all(1))[0])
        raise ValueError(f"The code of example {bad} is not finite.")
    return code


def _arrays_of(source: Any, code: np.ndarray) -> Arrays:
    given = source.gather(np.arange(len(source))).given if not isinstance(source, Arrays) else source.given
    return Arrays(code.astype(np.int32 if np.issubdtype(code.dtype, np.integer) else np.float32), **given)


def _measured(scale: Any, code: np.ndarray | None) -> tuple[Any, Any]:
    """(shift, scale) of training codes, over all of them."""
    if isinstance(scale, int | float) and not isinstance(scale, bool) and 0 < scale < np.inf:
        return 0.0, float(scale)
    if scale not in ("channels", "whole") or code is None:
        raise ValueError(f"scale is {scale!r}, expected channels, whole, a positive number, or None: as they are.")
    axes = tuple(range(code.ndim - 1)) if scale == "channels" else None
    mean, std = (np.asarray(f(code, axes, dtype=np.float64)) for f in (np.mean, np.std))
    if not (spreads := std > LEAST * np.abs(mean)).all():
        at = int(np.argmin(spreads))
        raise ValueError(
            f"Channel {at} of the codes is {mean.ravel()[at]:g} for all {len(code)} training examples: it has no scale."
        )
    spread = lambda a: np.float32(a).reshape((1,) * (code.ndim - 2) + (-1,)) if scale == "channels" else np.float32(a)
    return spread(mean), spread(std)


def _listed(value: Any) -> Any:
    return np.asarray(value, np.float32).tolist()


def _ends(base: Dataset) -> tuple[float, float]:
    x = base.some("train", 1024).x
    return float(x.min()), float(x.max())
