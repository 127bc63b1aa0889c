"""The one style of all pictures: an accent for what is looked at, greys for the rest, names at the ends of lines.

A figure is laid out in pixels, from the left and from below, so that boards of pixels are drawn as they are: nothing
is resampled.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffjax.plots.pixels import enlarged

LAYOUT: dict[str, Any] = {"layout": "none", "dpi": 110}
WIDTH = 880  # pixels of a figure at most, about the width of a notebook's cell
ACCENT, INK, GREYS = "#d9480f", "#333333", ("#555555", "#8c8c8c", "#b4b4b4", "#d0d0d0")
TITLE, SMALL = 9, 7.5  # points


def points(n: float) -> int:
    """Converts points to pixels."""
    return round(n * LAYOUT["dpi"] / 72)


def figure(width: int, height: int) -> Any:
    """Makes an empty figure of so many pixels."""
    from matplotlib.figure import Figure

    dpi = LAYOUT["dpi"]
    return Figure(figsize=((width + 0.5) / dpi, (height + 0.5) / dpi), facecolor="white", **LAYOUT)


def axes(drawing: Any, box: tuple[float, float, float, float], **words: Any) -> Any:
    """Adds axes with thin lines to a figure.

    Args:
        box: left, bottom, width, height, in pixels.
        words: as of matplotlib's axes, such as xlabel and yscale.
    """
    width, height = _size(drawing)
    found = drawing.add_axes([box[0] / width, box[1] / height, box[2] / width, box[3] / height])
    found.set(**words)
    found.tick_params(width=0.5, length=3, labelsize=SMALL, color=GREYS[1], labelcolor=GREYS[0])
    found.tick_params(which="minor", width=0.4, length=1.5, labelsize=SMALL, color=GREYS[1], labelcolor=GREYS[0])
    for side, spine in found.spines.items():
        spine.set(linewidth=0.5, edgecolor=GREYS[1], visible=side in ("left", "bottom"))
    for text in (found.xaxis.label, found.yaxis.label):
        text.set(fontsize=SMALL, color=GREYS[0])
    return found


def write(drawing: Any, x: float, y: float, text: str, color: str = INK, size: float = TITLE, **words: Any) -> None:
    """Writes text at a pixel of a figure, as it stands: names of classes may hold any characters."""
    width, height = _size(drawing)
    said = " ".join(str(text).split())
    drawing.text(x / width, y / height, said, color=color, fontsize=size, parse_math=False, **words)


def lay(drawing: Any, board: np.ndarray, x: int, y: int, scale: int) -> None:
    """Lays a board of pixels, enlarged by a whole number, on a figure: its lower left corner at the pixel (x, y)."""
    pixels = enlarged(board, scale)
    drawing.figimage(pixels.repeat(3, -1) if pixels.shape[-1] == 1 else pixels, x, y)


def name_ends(found: Any, ends: Sequence[tuple[str, float, float, str]]) -> None:
    """Writes the names of lines to the right of their ends, moved apart where they would cover each other.

    Args:
        found: axes whose lines are drawn: their limits are fixed here.
        ends: name, x, y and colour of each line's end; the ends that are not finite are left out.
    """
    found.set(xlim=found.get_xlim(), ylim=found.get_ylim())
    low, high = found.get_window_extent().y0, found.get_window_extent().y1
    ends = [end for end in ends if np.isfinite(end[1]) and np.isfinite(end[2])]
    at = [found.transData.transform(end[1:3])[1] for end in ends]
    order, step = np.argsort(at, kind="stable"), points(SMALL * 1.25)
    places = apart([min(max(float(at[i]), low), high) for i in order], step)
    right = found.get_window_extent().x1 + points(3)
    for i, y in zip(order, places):
        write(found.figure, right, y, ends[i][0], ends[i][3], SMALL, va="center")


def apart(places: Sequence[float], step: float) -> list[float]:
    """Moves rising places as little as it takes for neighbours to be `step` apart: groups stay around their mean."""
    groups: list[list[float]] = []  # [sum of first places that its members ask for, how many, its first place]
    for place in places:
        groups.append([place, 1, place])
        while len(groups) > 1 and groups[-1][2] < groups[-2][2] + groups[-2][1] * step:
            total, count, _ = groups.pop()
            before, size, _ = groups[-1]
            total = before + total - count * size * step
            groups[-1] = [total, size + count, total / (size + count)]
    return [first + k * step for _, count, first in groups for k in range(int(count))]


def save(drawing: Any, path: str | Path) -> None:
    """Writes a figure; characters that its font has not are drawn as boxes, without a warning each."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph \d+")
        drawing.savefig(path, dpi=drawing.dpi)


def _size(drawing: Any) -> tuple[float, float]:
    return tuple(drawing.bbox.size)
