"""Two data sets: examples x of one, endpoints y of another, for a process that leads from the other to the one.

Nothing says which y belongs to which x: the pairs are independent, or those that a run made (`pairs`), of which one end
is true. Held-out examples and endpoints are always those of the two data sets, so that every turn is judged alike.
"""

from pathlib import Path
from typing import Any

import numpy as np

from diffjax import members
from diffjax.data import endpoints
from diffjax.data.source import Arrays, Dataset, in_memory
from diffjax.data.toys import checkerboard, eight_gaussians, modes, moons, spirals, swiss_roll
from diffjax.host import nearest

MAKERS = {make.__name__: make for make in (checkerboard, eight_gaussians, modes, moons, spirals, swiss_roll)}


def between(end: str = "moons", start: str = "eight_gaussians", pairs: str | None = None, **options: Any) -> Dataset:
    """Makes the data set of examples of `end` with endpoints of `start`, both toys by name.

    Args:
        end, start: names of `data.toys`; the points of `start` are of the next seed.
        pairs: an .npz file of x and y (N, 2), as `experiments/schroedinger/pairs.py` makes them; None: independent.
        options: of both, such as n, held_out and seed.

    Raises:
        ValueError: for another name, and as `crossed`.
    """
    for name in (end, start):
        if name not in MAKERS:
            raise ValueError(f"There is no data set {name!r} to go between: {nearest(name, MAKERS)}.")
    other = {**options, "seed": options.get("seed", 0) + 1}
    return crossed(MAKERS[end](**options), MAKERS[start](**other), pairs)._replace(mixed=True)


def crossed(end: Dataset, start: Dataset, pairs: str | None = None) -> Dataset:
    """Makes the data set of examples of one data set with endpoints of another; of the longer one the first are taken.

    Raises:
        ValueError: for a data set that is not held in memory, examples of another shape or of tokens, a file whose
            arrays are not pairs of that shape, or whose names `end` and `start` are those of other data sets; a file
            without names is taken at its word.
    """
    for part in (end, start):
        if not part.in_memory or part.train.gather(np.zeros(1, int)).x.dtype != np.float32:
            raise ValueError(f"{part.name} is not real numbers held in memory, expected so of both data sets.")
    if end.shape != start.shape:
        raise ValueError(f"{end.name} has examples of shape {end.shape}, {start.name} of {start.shape}, expected one.")
    train, held_out = (_crossed(getattr(end, part), getattr(start, part)) for part in ("train", "held_out"))
    if pairs is not None:
        train = _read(pairs, end.shape, {"end": end.name, "start": start.name})
    made = in_memory(f"{end.name} from {start.name}", train, held_out, classes=None)
    return made._replace(judge=endpoints.judge_transported)


def _crossed(end: Any, start: Any) -> Arrays:
    n = min(len(end), len(start))
    return Arrays(end.gather(np.arange(n)).x, y=start.gather(np.arange(n)).x)


def _read(path: str, shape: tuple[int, ...], names: dict[str, str]) -> Arrays:
    file = Path(path).expanduser()
    made = members.tables(file, ("x", "y"), "pairs", "python experiments/schroedinger/pairs.py makes them")
    x, y = made["x"], made["y"]
    if x.shape != y.shape or x.shape[1:] != shape:
        raise ValueError(f"{file}: x has shape {x.shape} and y {y.shape}, expected (N, {', '.join(map(str, shape))}).")
    for part, said in members.texts(file, tuple(names)).items():
        if said != names[part]:
            raise ValueError(
                f"{file} holds pairs whose {part} is {said}, expected {names[part]}: they are of the other half."
            )
    found = Arrays(x, y=y)
    found.chosen["pair"] = np.arange(len(x), dtype=np.int32)  # says that no pairing may part them
    return found
