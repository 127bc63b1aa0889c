"""Two data sets: examples x of one, endpoints y of another, for a process that leads from the other to the one.

Nothing says which y belongs to which x: the pairs are independent, or those that a run made (`pairs`), of which x is
true, a training example, and y was walked to. Held-out examples and endpoints are always those of the two data sets, so
that every turn is judged alike.
"""

from pathlib import Path
from typing import Any

import numpy as np

from diffjax import host, members
from diffjax.data import endpoints
from diffjax.data.source import Arrays, Dataset, Source, blank, in_memory, unit
from diffjax.data.toys import checkerboard, eight_gaussians, modes, moons, spirals, swiss_roll
from diffjax.specs import build, is_spec

MAKERS = {make.__name__: make for make in (checkerboard, eight_gaussians, modes, moons, spirals, swiss_roll)}
OWN = "a data set, or its spec: spec('npz', path=...), --config=configs/schroedinger.py:own --config.data.end.path=FILE"


def between(end: Any = "moons", start: Any = "eight_gaussians", pairs: Any = None, **options: Any) -> Dataset:
    """Makes the data set of examples of `end` with endpoints of `start`: toys by name, or data sets of one's own.

    Args:
        end, start: names of `data.toys`, whose points alone are taken, those of `start` of the next seed; or data sets,
            or their specs, such as {"name": "npz", "path": "shapes.npz"}.
        pairs: as of `crossed`.
        options: of the toys that are named, such as n, held_out and seed.

    Raises:
        ValueError: for another name, options without a toy, and as `crossed`.
    """
    return crossed(*ends(end, start, **options), pairs)


def ends(end: Any = "moons", start: Any = "eight_gaussians", **options: Any) -> tuple[Dataset, Dataset]:
    """Makes the two data sets that `between` goes between; arguments and errors are those of `between`."""
    if options and not isinstance(end, str) and not isinstance(start, str):
        raise ValueError(f"between: {', '.join(options)} is of toys by name; a spec has options of its own.")
    return _end(end, options), _end(start, {**options, "seed": options.get("seed", 0) + 1})


def _end(what: Any, options: dict[str, Any]) -> Dataset:
    if isinstance(what, Dataset):
        return what
    if is_spec(what):
        from diffjax import data

        return build(data, what)
    made = host.one_of(what, MAKERS, "data set", " to go between", f"; or give {OWN}")(**options)
    alone = [Arrays(part.gather(np.arange(len(part))).x) for part in (made.train, made.held_out)]
    return made._replace(train=alone[0], held_out=alone[1], classes=None, mixed=True)


def crossed(end: Dataset, start: Dataset, pairs: Any = None) -> Dataset:
    """Makes the data set of examples of one data set with endpoints of another, as many as the shorter one has.

    What is known of an example, such as its label, stays with it; what is known of an endpoint nobody reads.

    Args:
        pairs: an .npz file of x and y (N, ...), as `experiments/schroedinger/pairs.py` makes them, or the two arrays:
            what is trained on in place of independent pairs. Nothing else is known of them. None: independent.

    Raises:
        ValueError: for a data set that is not held in memory, mirrors its examples, has units, endpoints or noise of
            its own, or says more than a label of what would be endpoints; for examples of another shape or of tokens;
            for pairs of another shape, whose names `end` and `start` are those of other data sets, or, without names or
            with one name of both, whose x are no training examples of `end`.
    """
    for part in (end, start):
        _check_end(part)
    if end.shape != start.shape:
        raise ValueError(f"{end.name} has examples of shape {end.shape}, {start.name} of {start.shape}, expected one.")
    if lost := [name for name in blank(start).given if name not in start.unread]:
        raise ValueError(
            f"{start.name} gives {', '.join(lost)} of its examples, but nobody reads what is known of an endpoint: "
            "leave it out of the data set that endpoints are taken from."
        )
    parts = {part: _crossed(part, end, start) for part in ("train", "held_out")}
    if pairs is not None:
        parts["train"] = _paired(pairs, end, start)
        parts["held_out"] = Arrays(parts["held_out"].x, y=parts["held_out"].given["y"])
    known = end if pairs is None else end._replace(classes=None, names=None, texts=None, vocabulary=None)
    made = in_memory(f"{end.name} from {start.name}", *parts.values(), classes=known.classes)
    kept = {field: getattr(known, field) for field in ("names", "texts", "vocabulary", "unread")}
    return made._replace(judge=endpoints.judge_transported, mixed=end.mixed and start.mixed, **kept)


def _check_end(part: Any) -> None:
    if not isinstance(part, Dataset):
        raise ValueError(f"Got {type(part).__name__} as a data set to go between, expected data.arrays(x) of it.")
    if not part.in_memory or blank(part).x.dtype != np.float32:
        raise ValueError(f"{part.name} is not real numbers held in memory, expected so of both data sets.")
    if part.flip:
        raise ValueError(f"{part.name} mirrors its images at random: set flip=False for a data set to go between.")
    if part.units is not None:
        raise ValueError(f"{part.name} has units of its own: set standardize=None for a data set to go between.")
    example = blank(part)
    if beside := sorted({"y", "z"} & {*example.given, *example.chosen}):
        raise ValueError(f"{part.name} has {beside[0]} for each example already: leave it out of what is paired anew.")


def _crossed(part: str, end: Dataset, start: Dataset) -> Arrays:
    sources = [getattr(dataset, part) for dataset in (end, start)]
    n = min(map(len, sources))
    # Of the longer one as many of all its places, which its file may have sorted.
    at = [np.arange(n) if len(of) == n else data.places(part, n) for of, data in zip(sources, (end, start))]
    examples, endpoint = (source.gather(where) for source, where in zip(sources, at))
    return Arrays(examples.x, y=endpoint.x, **examples.given)


def _paired(pairs: Any, end: Dataset, start: Dataset) -> Arrays:
    """Reads pairs that a walk made, of a file or of two arrays, and looks whether they are of this half."""
    if isinstance(pairs, str | Path):
        where = Path(pairs).expanduser()
        made = members.tables(where, ("x", "y"), "pairs", "python experiments/schroedinger/pairs.py makes them")
        x, y = made["x"], made["y"]
        names = members.texts(where, ("end", "start"))
    elif isinstance(pairs, tuple | list) and len(pairs) == 2:
        where, (x, y), names = "pairs", map(np.asarray, pairs), {}
    else:
        raise ValueError(f"pairs is of type {type(pairs).__name__}, expected an .npz file, or arrays (x, y).")
    if x.shape != y.shape or x.shape[1:] != end.shape:
        shape = ", ".join(map(str, end.shape))
        raise ValueError(f"{where}: x has shape {x.shape} and y {y.shape}, expected (N, {shape}).")
    for part, dataset in (("end", end), ("start", start)):
        if (said := names.get(part, dataset.name)) != dataset.name:
            raise ValueError(
                f"{where} holds pairs whose {part} is {said}, expected {dataset.name}: they are of the other half."
            )
    found = Arrays(unit(x), y=unit(y))
    # Names decide where they tell the halves apart: of toys the other half draws its end by another seed.
    if len(set(names.values())) < 2 and (missing := ~_among(found.x, end.train)).any():
        other = _among(found.x, start.train).all()
        why = f"; all are endpoints, of {start.name}: the pairs are of the other half" if other else ""
        raise ValueError(
            f"{where}: x of pair {np.argmax(missing)} is no training example of {end.name}, expected so of each{why}."
        )
    found.chosen["pair"] = np.arange(len(x), dtype=np.int32)  # says that no pairing may part them
    return found


def _among(x: np.ndarray, source: Source) -> np.ndarray:
    """Tells which of x (n, ...) are examples of a source, to the bit."""
    key = lambda rows: [row.tobytes() for row in np.asarray(rows, np.float32) + 0.0]  # -0 is 0
    known = set(key(source.gather(np.arange(len(source))).x))
    return np.asarray([row in known for row in key(x)])
