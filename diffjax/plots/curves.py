"""Figures of lines: losses, schedules, quantiles, and those of a study."""

from collections.abc import Collection, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from diffjax.plots import style
from diffjax.plots.style import ACCENT, GREYS, INK

Curves = Mapping[str, Sequence[float]]


def loss_by_time(path: str | Path, edges: Sequence[float], curves: Curves) -> None:
    """Draws the mean loss per bin of t / t_max; the first of the curves is the one that is looked at."""
    drawing, (found,) = _panels(1)
    found.set(xlabel="t / t_max", yscale="log")
    _title(drawing, found, "loss")
    places, ends = np.asarray(edges, float), []
    for (name, values), color in zip(curves.items(), _colors(list(curves)[:1], curves)):
        values = np.asarray(values, float)
        found.stairs(values, places, color=color, baseline=None, linewidth=1.3, zorder=_over(color))
        ends.append((name, places[-1], _last(values), color))
    _finish(drawing, found, ends, path)


def training_curve(path: str | Path, steps: Sequence[int], curves: Curves) -> None:
    """Draws logged values against the step; the first of the curves is the one that is looked at."""
    drawing, (found,) = _panels(1)
    found.set(xlabel="step", yscale="log")
    _finish(drawing, found, _drawn(found, {name: (steps, y) for name, y in curves.items()}, list(curves)[:1]), path)


def schedule(path: str | Path, times: Any, alpha: Any, sigma: Any, grid: Any) -> None:
    """Draws alpha and sigma against t, log-SNR beside them, and the sampler's grid as ticks."""
    times, alpha, sigma = (np.asarray(a) for a in (times, alpha, sigma))
    drawing, (left, right) = _panels(2)
    left.set(xlabel="t")
    style.name_ends(left, _drawn(left, {"sigma": (times, sigma), "alpha": (times, alpha)}, ["sigma"]))
    inside = (alpha > 0) & (sigma > 0)
    right.set(xlabel="t")
    _title(drawing, right, "log SNR, and the sampling grid")
    right.plot(times[inside], 2 * np.log(alpha[inside] / sigma[inside]), color=GREYS[0], linewidth=1.3)
    right.plot(grid, np.full(len(grid), right.get_ylim()[0]), "|", color=ACCENT, clip_on=False)
    style.save(drawing, path)


def normality(path: str | Path, groups: Mapping[str, Any]) -> None:
    """Draws values that should be standard normal: histograms beside the density, and quantiles beside quantiles."""
    from scipy import stats

    drawing, (left, right) = _panels(2)
    left.set(xlabel="value")
    right.set(xlabel="normal quantile")
    _title(drawing, left, "density, dashed N(0, 1)")
    _title(drawing, right, "quantile")
    at = np.linspace(-4, 4, 201)
    probabilities = stats.norm.cdf(np.linspace(-3.5, 3.5, 141))
    ends = []
    for (name, values), color in zip(groups.items(), _colors(list(groups)[:1], groups)):
        flat = np.asarray(values, float).ravel()
        left.hist(flat, bins=list(at[::4]), density=True, histtype="step", color=color, linewidth=1.3)
        wanted, found = stats.norm.ppf(probabilities), np.quantile(flat, probabilities)
        right.plot(wanted, found, color=color, linewidth=1.3, zorder=_over(color))
        ends.append((name, wanted[-1], found[-1], color))
    left.plot(at, stats.norm.pdf(at), "--", color=INK, linewidth=0.8)
    right.plot(at, at, "--", color=INK, linewidth=0.8)
    _finish(drawing, right, ends, path)


def lines(
    path: str | Path,
    panels: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float]]]],
    accent: Collection[str] = (),
    columns: int = 3,
    **words: Any,
) -> None:
    """Draws lines, each with its name at its end, a panel for each title.

    Args:
        panels: title -> {name: (x, y)}.
        accent: names of the lines that are looked at; the others are grey.
        words: of every panel's axes, such as xlabel and yscale.
    """
    from matplotlib.ticker import NullLocator

    drawing, found = _panels(len(panels), columns, gap=9.5 * max(len(name) for p in panels.values() for name in p) / 2)
    for axes, (title, named) in zip(found, panels.items()):
        axes.set(**words)
        _title(drawing, axes, title)
        ends, places = _drawn(axes, named, accent), sorted({float(x) for xs, _ in named.values() for x in xs})
        if len(places) <= 8:
            axes.set_xticks(places, [f"{x:g}" for x in places])
            axes.xaxis.set_minor_locator(NullLocator())
        style.name_ends(axes, ends)
    style.save(drawing, path)


def _panels(count: int, columns: int = 3, gap: float = 60.0) -> tuple[Any, list[Any]]:
    """Makes a figure of panels from the left and from above, with `gap` points for names to the right of each."""
    columns = min(count, columns)
    rows, width, height = -(-count // columns), style.WIDTH if count > 1 else style.WIDTH * 5 // 8, style.points(190)
    drawing, wide = style.figure(width, height * rows), width // columns
    left, below, above, right = (style.points(n) for n in (46, 32, 20, gap))
    boxes = [
        (i % columns * wide + left, (rows - 1 - i // columns) * height + below, wide - left - right)
        for i in range(count)
    ]
    return drawing, [style.axes(drawing, (*box, height - below - above)) for box in boxes]


def _title(drawing: Any, found: Any, text: str) -> None:
    extent = found.get_window_extent()
    style.write(drawing, extent.x0, extent.y1 + style.points(6), text)


def _drawn(found: Any, named: Mapping[str, Any], accent: Collection[str]) -> list[tuple[str, float, float, str]]:
    """Plots lines by name; gives their ends as `style.name_ends` takes them."""
    ends = []
    for (name, (x, y)), color in zip(named.items(), _colors(accent, named)):
        x, y = np.asarray(x, float), np.asarray(y, float)
        mark = "o" if len(x) < 20 else ""
        found.plot(x, y, color=color, linewidth=1.3, marker=mark, markersize=2.5, zorder=_over(color))
        if len(x):
            ends.append((name, x[-1], _last(y), color))
    return ends


def _colors(accent: Collection[str], named: Mapping[str, Any]) -> list[str]:
    greys = cycle(GREYS[:3])
    return [ACCENT if name in accent else next(greys) for name in named]


def _over(color: str) -> int:
    """Places what is looked at above the rest."""
    return 3 if color == ACCENT else 2


def _last(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(finite[-1]) if len(finite) else float("nan")


def _finish(drawing: Any, found: Any, ends: list[tuple[str, float, float, str]], path: str | Path) -> None:
    style.name_ends(found, ends)
    style.save(drawing, path)
