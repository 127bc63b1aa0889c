"""The figure of a sweep: one column against one key, a line for each value of others, named where it ends."""

from collections.abc import Iterable
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from diffjax import disk
from diffjax.config import ConfigError, nearest
from diffjax.plots import style
from diffjax.sweeps import tables, work
from diffjax.sweeps.plan import Plan


def draw(
    plan: Plan,
    root: Path,
    x: str,
    by: str | Iterable[str] = (),
    y: str | None = None,
    over: str | Iterable[str] = (),
) -> Path:
    """Draws means over `over` with their standard errors into ROOT/figures; what failed is not drawn, and said.

    Args:
        x: a swept key.
        by: keys whose values have a line each; keys that are in none of x, by and over are added.
        y: a column; default the first metric.
        over: default the seed, where it is swept.

    Returns:
        The file.

    Raises:
        ConfigError: for a key that is not swept, a column that is not there, or where nothing is done.
    """
    by = [by] if isinstance(by, str) else list(by)
    over = [over] if isinstance(over, str) else list(over) or [key for key in ("seed",) if key in plan.keys]
    over = [key for key in over if key not in (x, *by)]
    for key in (x, *by):
        if key not in plan.keys:
            raise ConfigError(f"{key!r} is no key of this sweep: {nearest(key, plan.keys)}.")
    by += [key for key in plan.several if key not in (x, *by, *over)]
    table = tables.make(plan, None if y is None else [y], over)
    name = next((column for column in table.columns if column not in (*plan.keys, *work.RESERVED)), "n")
    rows = [row for row in table if isinstance(row[name], int | float) and np.isfinite(row[name])]
    if not rows or name == "n":
        raise ConfigError(f"{root} has nothing to draw yet: no evaluation of it is done.")
    lines: dict[tuple, list[dict]] = {}
    for row in rows:
        lines.setdefault(tuple(row[key] for key in by), []).append(row)
    values = list(dict.fromkeys(row[x] for row in rows))
    numeric = all(isinstance(value, int | float) for value in values)
    at = {value: value if numeric else place for place, value in enumerate(sorted(values) if numeric else values)}
    drawing, axes = _figure(max(len(_said(by, values_of)) for values_of in lines), x, name.removesuffix(".value"))
    ends = []
    for values_of, color in zip(lines, cycle((style.ACCENT, *style.GREYS[:3]))):
        found = sorted(lines[values_of], key=lambda row: at[row[x]])
        places, heights = [at[row[x]] for row in found], [row[name] for row in found]
        errors = [row.get(name + tables.ERROR) or 0.0 for row in found]
        axes.errorbar(places, heights, errors, fmt="o-", markersize=2.5, linewidth=1.3, capsize=2, color=color)
        ends.append((_said(by, values_of), places[-1], heights[-1], color))
    _scales(axes, at, [row[name] for row in rows], numeric)
    style.name_ends(axes, ends)
    for note in table.notes:
        print(note, flush=True)
    path = root / "figures" / disk.file_name(f"{name.removesuffix('.value')} by {x}.png".replace(" ", "_"))
    style.save(drawing, path)
    return path


def _figure(letters: int, x: str, y: str) -> tuple[Any, Any]:
    """Makes a figure and its axes, with room at the right for names of so many letters."""
    left, below, above, right = (style.points(n) for n in (34, 32, 20, 12 + 4.5 * letters))
    width, height = style.WIDTH * 3 // 4, style.points(220)
    drawing = style.figure(width, height)
    axes = style.axes(drawing, (left, below, width - left - right, height - below - above), xlabel=x)
    style.write(drawing, left, height - above + style.points(6), y)
    return drawing, axes


def _said(by: list[str], values: tuple) -> str:
    """Names a line by the values that it is of."""
    named = {key.removesuffix(".name").rpartition(".")[2]: value for key, value in zip(by, values)}
    return ", ".join(f"{value}" if len(by) == 1 else f"{key} {value}" for key, value in named.items())


def _scales(axes: Any, at: dict[Any, Any], heights: list[float], numeric: bool) -> None:
    """Values that span a factor of ten are drawn by their logarithm; room is left for the names at the right."""
    wide = lambda values: min(values) > 0 and max(values) >= 10 * min(values)
    if numeric and wide(list(at.values())):
        axes.set_xscale("log")
    axes.set_xticks(list(at.values()), [f"{value:g}" if numeric else str(value) for value in at])
    axes.minorticks_off()
    if wide(heights):
        axes.set_yscale("log")
    axes.margins(x=0.08)
