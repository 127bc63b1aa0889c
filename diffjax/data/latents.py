"""Latents: the codes of a data set by a finished codec, as data; what is drawn of them is decoded, and then judged.

    u = (E(x) - shift) / scale        what a run sees, computed once     (Rombach et al. 2022, section 3.2, appendix G)
    x = D(scale u + shift)            what files, pictures and judges see

The codec is a coordinate of the data, as units are (`data.units`): every method of real numbers is then one of real
codes, and every method of tokens one of whole codes, which have no scale. Judges say beside each number of samples
what decoded training examples have: what the codec alone costs.

A run keeps its codec in its workdir, codec.safetensors (a weights file) with codec.json, and draws with that one from
then on. Likelihoods are none in pixels: a density of codes is no density of examples.

A path is opened by `diffjax.open`, the library's public face, since a run is what has made this data: the one look up
from the data's layer.
"""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import diffjax
from diffjax import codecs, host, members
from diffjax.data.coordinate import CHUNK, Coded, Codes, Coordinate, Encoding, finite
from diffjax.data.source import Arrays, Dataset, blank, fingerprint
from diffjax.metrics.judges import Floored
from diffjax.specs import build

LEAST = 1e-6  # of |mean|, below which a spread is none


def latents(
    codec: Any,
    of: Any = None,
    sampled: bool = False,
    scale: str | float | None = "channels",
    stored: bool = True,
    cache: str | None = None,
    **options: Any,
) -> Dataset:
    """Makes the data set of the codes of another one.

    Args:
        codec: the workdir of a finished codec's run, or its weights file; in Python a `codecs.Codec` as well.
        of: the data set that is encoded, by its name (digits, folder, ...), its spec, or itself; None: the one that
            the codec's run was trained on.
        sampled: each code is drawn once around its mean, as the codec says, by its place in the data; means have less
            variance than the codec was trained on.
        scale: of real codes: "channels", to mean 0 and variance 1 of each entry of the last axis over the training
            data; "whole", one mean and one variance; a number that codes are divided by (a published factor 0.18215 is
            1 / 0.18215 here); None: as they are. Of whole codes there is none.
        stored: encoded once and kept in memory; else whenever examples are gathered.
        cache: an .npz file that codes are kept in, with the checksum of codec and data; written where there is none.
        options: of the data set that `of` names, such as path="images" of a folder.

    Raises:
        ValueError: for a run without a codec, a codec of other examples, a scale that is none, a data set that mirrors
            its images or has units of its own, a cache of another codec or other data, or one that nothing is kept in
            or whose codec has no numbers to be known by.
    """
    path = codec if isinstance(codec, str | Path) else None
    run = None if path is None else diffjax.open(str(path))
    coder: Any = codecs.of(run) if run is not None else codec
    base = _base(of, run, path, options)
    checked(coder, base, path)
    how = Encoding(coder, sampled)
    whole = jnp.issubdtype(jax.eval_shape(coder.encode, blank(base).x).dtype, jnp.integer)
    if sampled and coder.std is None:
        raise ValueError("sampled is True, but this codec's codes are points, drawn around nothing: leave it out.")
    kept = stored or (scale in ("channels", "whole") and not whole)
    _check_scale(scale, whole)
    _check_cache(cache, kept, coder)
    mark = fingerprint(base.fingerprint, _told_by(coder, base), sampled)
    parts = _cached(base, how, cache, mark) if kept else None
    shift, size = (0.0, 1.0) if whole or scale is None else _measured(scale, None if parts is None else parts[0])
    scaled = coder if whole or scale is None else codecs.scaled(coder, shift, size)
    keep = None if run is None else run.export
    facts = {"checksum": codecs.checksum(coder), "shift": _listed(shift), "scale": _listed(size)}
    low, high = base.span() or _ends(base)
    units = Coordinate(scaled, base, base.shape, low, high, facts, keep, sampled)
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
    code = np.asarray(Encoding(codec, False)(x, np.zeros(len(x))), np.float64)
    weight = np.random.default_rng(0).normal(size=code.shape)
    with np.errstate(all="ignore"):  # codes that are not finite are refused where they are kept
        return f"{np.sum(weight * code):.3g} {np.sum(weight * code**2):.3g}"  # to what machines differ by


def _check_scale(scale: Any, whole: bool) -> None:
    number = isinstance(scale, int | float) and not isinstance(scale, bool)
    if not (scale is None or scale in ("channels", "whole") or (number and 0 < scale < np.inf)):
        raise ValueError(f"scale is {scale!r}, expected channels, whole, a positive number, or None: as they are.")
    if whole and number:
        raise ValueError(f"scale is {scale}, but this codec's codes are whole numbers, which have none: leave it out.")


def _check_cache(cache: str | None, kept: bool, codec: codecs.Codec) -> None:
    if cache is not None and not kept:
        raise ValueError("cache names a file, but codes are made whenever they are gathered: set stored=True.")
    if cache is not None and not jax.tree.leaves(codec):
        raise ValueError(
            "cache names a file, but this codec's functions carry no numbers that it could be known by: give them as "
            "jax.tree_util.Partial(function, parameters), or leave cache out."
        )


def _base(of: Any, run: Any, path: Any, options: dict[str, Any]) -> Dataset:
    if options and not isinstance(of, str):
        name, own = next(iter(options)), [part for part in inspect.signature(latents).parameters if part != "options"]
        raise ValueError(
            f"latents has no option {name!r}: {host.nearest(name, own)}; options of another data set go beside its "
            "name, of=..."
        )
    if isinstance(of, Dataset):
        return of
    if isinstance(of, str | Mapping) or hasattr(of, "keys"):
        from diffjax import data

        if isinstance(of, str) and of not in data.__all__:  # never code of one's own: nobody has typed it as a name=
            raise ValueError(f"There is no data set {of!r} to encode: {host.nearest(of, data.__all__)}.")
        return build(data, {"name": of, **options} if isinstance(of, str) else of)
    if of is not None:
        raise ValueError(f"of is {of!r}, expected a data set, its name or spec, or None: that of the codec's run.")
    if run is None:
        raise ValueError("A codec that is an object says nothing of its data: give of=, the data set to be encoded.")
    if hasattr(run.data.train, "error"):
        raise run.data.train.error(
            f" Name the data that {path} is to encode, with its options: --config.data.of=folder "
            "--config.data.path=..., or of= in Python, a data set, its name or spec."
        )
    return run.data


def _cached(base: Dataset, how: Encoding, cache: str | None, mark: str) -> list[np.ndarray]:
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


def _all(source: Any, how: Encoding, first: int) -> np.ndarray:
    rows = [np.arange(at, min(at + 16 * CHUNK, len(source))) for at in range(0, len(source), 16 * CHUNK)]
    return finite(np.concatenate([how(source.gather(at).x, first + at) for at in rows]), np.arange(len(source)))


def _arrays_of(source: Any, code: np.ndarray) -> Arrays:
    given = source.gather(np.arange(len(source))).given if not isinstance(source, Arrays) else source.given
    return Arrays(code.astype(np.int32 if np.issubdtype(code.dtype, np.integer) else np.float32), **given)


def _measured(scale: Any, code: np.ndarray | None) -> tuple[Any, Any]:
    """(shift, scale) of training codes, over all of them."""
    if isinstance(scale, int | float):
        return 0.0, float(scale)
    assert code is not None
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
