"""Grids: lists of points, and a point is the fields of a config that differ, {"learning_rate.peak": "0.001"}.

    {"learning_rate.peak": [3e-4, 1e-3], "seed": range(10)}                    # a dict is a product: 20 points
    zip({"model.channels": [16, 32], "learning_rate.peak": [2e-3, 1e-3]})      # side by side: 2 points
    product(zip(...), {"seed": range(3)});   chain({"seed": [0]}, other)       # of grids: every pair; one after another

Keys and values are those of the command line, --config.learning_rate.peak=0.001: a value is kept as it is typed there.
"""

import builtins
import itertools
import runpy
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from diffjax.config import ConfigError

Point = dict[str, str]
Grid = Any  # a mapping of keys to values, or an iterable of points
FORMS = "expected {key: [values]}, or points [{key: value}, ...]"


def points(grid: Grid) -> list[Point]:
    """Lists the points of a grid: all combinations of a dict's values, or the points that an iterable gives.

    Raises:
        ConfigError: for anything else, an empty grid, or a value that cannot be typed.
    """
    if isinstance(grid, Mapping):
        lists = [[{key: typed(key, value)} for value in _values(key, values)] for key, values in grid.items()]
        found = [_merged(parts) for parts in itertools.product(*lists)]
    elif isinstance(grid, Iterable) and not isinstance(grid, str):
        found = [_point(point) for point in grid]
    else:
        raise ConfigError(f"Got {grid!r} as a grid, {FORMS}.")
    if not found:
        raise ConfigError(f"The grid is empty: {FORMS}, with at least one point.")
    return found


def product(*grids: Grid) -> list[Point]:
    """Lists every combination of a point of each grid."""
    return [_merged(parts) for parts in itertools.product(*map(points, grids))]


def zip(*grids: Grid) -> list[Point]:
    """Lists the first points of all grids together, then the second ones, ...; of a dict, the values at each place.

    Raises:
        ConfigError: for grids or values of different lengths.
    """
    lists = []
    for grid in grids:
        if isinstance(grid, Mapping):
            lists += [[{key: typed(key, value)} for value in _values(key, values)] for key, values in grid.items()]
        else:
            lists.append(points(grid))
    if len(lengths := {len(found) for found in lists}) != 1:
        raise ConfigError(f"zip got lists of {' and '.join(map(str, sorted(lengths))) or 'no'} entries, expected one.")
    return [_merged(parts) for parts in builtins.zip(*lists)]


def chain(*grids: Grid) -> list[Point]:
    """Lists the points of one grid after those of another."""
    return [point for grid in grids for point in points(grid)]


def typed(key: str, value: Any) -> str:
    """Writes a value as it is typed in --config.key=value.

    Raises:
        ConfigError: for what is no number, text, truth value, None, or tuple of these.
    """
    value = value.item() if getattr(value, "shape", None) == () else value
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple) and all(isinstance(v, str | int | float | None) for v in value):
        return repr(tuple(value))
    if value is None or isinstance(value, int | float):
        return repr(value)
    raise ConfigError(f"The value of {key} is {value!r}, expected a number, text, None, or a tuple of these.")


def said(point: Point) -> str:
    """Writes a point as one phrase: "learning_rate.peak=0.001, seed=3"."""
    return ", ".join(f"{key}={value}" for key, value in point.items())


def texts(point: Point) -> list[str]:
    """Writes a point as overrides of a config."""
    return [f"{key}={value}" for key, value in point.items()]


def read(path: str) -> dict[str, Any]:
    """Runs a sweep file, and gives what it says, by name in small letters.

    Its grids are tables TRAIN, EVALUATE or functions train(), evaluate() that yield points; measure(run), SPACE,
    METRIC, TRIALS, DIRECTION may be there (`sweeps.search`).

    Raises:
        ConfigError: for a file that is not there or fails, in one line.
    """
    if not Path(path).is_file():
        raise ConfigError(f"There is no sweep file {path!r}, expected one such as experiments/sweeps/rates.py.")
    try:
        names = runpy.run_path(path)
        found = {name.lower(): names[name] for name in ("SPACE", "METRIC", "TRIALS", "DIRECTION") if name in names}
        for grid in ("train", "evaluate"):
            if grid.upper() in names:
                found[grid] = names[grid.upper()]
            elif grid in names:
                found[grid] = list(names[grid]())
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"{path}: {type(error).__name__}: {error}.") from error
    if "measure" in names:
        found["measure"] = f"{path}:measure"
    return found


def _values(key: str, values: Any) -> list[Any]:
    """One value stands for a list of one."""
    return [values] if isinstance(values, str | int | float | None) else list(values)


def _point(point: Any) -> Point:
    if not isinstance(point, Mapping) or not all(isinstance(key, str) for key in point):
        raise ConfigError(f"Got {point!r} as a point of a grid, {FORMS}.")
    return {key: typed(key, value) for key, value in point.items()}


def _merged(parts: Iterable[Point]) -> Point:
    found: Point = {}
    for part in parts:
        if twice := sorted(found.keys() & part):
            raise ConfigError(f"The key {twice[0]!r} is in two of the grids that are put together: leave one out.")
        found |= part
    return found
