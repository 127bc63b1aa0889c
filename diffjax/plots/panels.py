"""Groups of examples side by side, and walks from noise to data: images, volumes, sequences, points."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from diffjax.plots import style
from diffjax.plots.pixels import pictures, tile
from diffjax.plots.style import ACCENT, GREYS, INK, SMALL, WIDTH, points

COLUMNS, TALL, CLASSES, PER_CLASS = 16, 2400, 16, 8  # of a board at most: columns, pixels of height, rows of classes
SEQUENCES, CHANNELS, WALKS = 5, 8, 4
CELL = 120  # pixels of an enlarged image, at most


class Panel(NamedTuple):
    """What one group of examples becomes: a board of pixels, or axes of so many pixels (`board` None)."""

    name: str  # of the group
    more: str  # said after it
    examples: np.ndarray
    board: np.ndarray | None
    scale: int
    size: tuple[int, int]  # width, height


def samples(
    path: str | Path,
    groups: Mapping[str, Any],
    columns: int | None = None,
    most: int = 256,
    labels: Mapping[str, Any] | None = None,
    names: Sequence[str] | None = None,
    reference: str = "held out",
) -> None:
    """Draws groups of examples (N, ...) side by side, each under its name.

    Images (N, H, W, C) and the middle slices of volumes (N, D, H, W, C) are boards, their pixels enlarged by a whole
    number; sequences (N, L, C) are lines; anything else is points: its first two entries, a histogram of a single one.

    Args:
        columns: of a board; default about as many as rows.
        most: images of a board without classes.
        labels: group -> (N,) integers: then a board has a row for each class, with its name at the left.
        names: of the classes, by number; default their numbers.
        reference: the group that the others are held against: it is grey.
    """
    shown = {name: np.asarray(x) for name, x in groups.items()}
    classes = _classes(shown, labels or {})
    room = (WIDTH - points(10) * (len(shown) + 1)) // max(len(shown), 1)
    said = [] if classes is None else [_short(k, names) for k in classes]
    left = points(10) + (points(0.6 * SMALL) * max(map(len, said)) + points(4) if said else 0)
    panels = [
        _panel(name, x, room - left // len(shown), (most, columns), classes, (labels or {}).get(name))
        for name, x in shown.items()
    ]
    width = left + sum(panel.size[0] + points(10) for panel in panels)
    height = max(panel.size[1] for panel in panels) + points(30)
    drawing, x, found = style.figure(max(width, points(120)), height), left, []
    for panel in panels:
        bottom = height - points(20) - panel.size[1]
        color = GREYS[0] if panel.name == reference else ACCENT
        style.write(drawing, x, height - points(14), panel.name + panel.more, color)
        if panel.board is None:
            found.append(_plot(drawing, panel, (x, bottom), color))
        else:
            style.lay(drawing, panel.board, x, bottom, panel.scale)
        x += panel.size[0] + points(10)
    _name_rows(drawing, panels[0], said, left, height - points(20))
    _share_limits([axes for axes in found if axes is not None])
    style.save(drawing, path)


def filmstrip(path: str | Path, trajectory: Any, times: Sequence[float], estimates: Any = None) -> None:
    """Draws a trajectory (frames, N, ...) from noise to data, one column per frame, and under it what x_0 seems to be.

    Args:
        times: (frames,) of the frames.
        estimates: of the trajectory's shape, E[x_0 | x_t] at every frame; None: not known.
    """
    rows = [np.asarray(part) for part in ((trajectory,) if estimates is None else (trajectory, estimates))]
    drawn = _strip if _is_board(rows[0][0]) else _frames
    drawn(path, rows, [f"{t:.2g}" for t in times])


def _strip(path: str | Path, rows: list[np.ndarray], times: list[str]) -> None:
    """Draws images: the rows of a walk under each other, then those of the next."""
    rows = [pictures(_slices(part)) for part in rows]
    count, cell = len(rows), rows[0].shape[3] + 1
    frames = _spread(len(times), max((WIDTH - points(42)) // cell, 2))
    walks = min(rows[0].shape[1], 2 * WALKS // count)
    rows = [_within(part[frames, :walks]) for part in rows]  # (frames, walks, H, W, C)
    cells = np.stack(rows, axis=2).transpose(1, 2, 0, 3, 4, 5)  # (walks, rows, frames, H, W, C)
    board = tile(cells.reshape(-1, *cells.shape[3:]), len(frames))
    scale = max(min((WIDTH - points(42)) // board.shape[1], CELL // cell), 1)
    left, below, above = points(28), points(24), points(6)
    high, wide = board.shape[0] * scale, board.shape[1] * scale
    drawing = style.figure(left + wide + points(12), below + high + above)
    style.lay(drawing, board, left, below, scale)
    for column, frame in enumerate(frames):
        style.write(drawing, left + (column + 0.5) * cell * scale, points(13), times[frame], INK, SMALL, ha="center")
    style.write(drawing, left - points(10), points(13), "t =", GREYS[0], SMALL, ha="right")
    step = (rows[0].shape[2] + 1) * scale
    for row in range(walks * count):
        y = below + high - (row + 0.5) * step
        _name_row(drawing, left - points(4), y, row % count)
    style.save(drawing, path)


def _frames(path: str | Path, rows: list[np.ndarray], times: list[str]) -> None:
    """Draws what is no image: a panel per frame."""
    side, left, above = (WIDTH - points(40)) // len(times), points(28), points(16)
    drawing = style.figure(WIDTH, above + len(rows) * side + points(6))
    for row, part in enumerate(rows):
        bottom = (len(rows) - 1 - row) * side + points(6)
        for i, examples in enumerate(part):
            box = (left + i * side, bottom, side - points(4), side - points(4))
            axes = style.axes(drawing, box)
            drawn = _points(axes, examples, ACCENT if row else GREYS[0])
            _share_limits([] if drawn is None else [drawn])
            axes.set(xticks=[], yticks=[], xlabel="")
        _name_row(drawing, left - points(4), bottom + side / 2, row)
    for i, t in enumerate(times):
        style.write(drawing, left + i * side, drawing.bbox.height - points(11), f"t = {t}", INK, SMALL)
    style.save(drawing, path)


def _name_row(drawing: Any, x: float, y: float, row: int) -> None:
    """Writes what a row of a walk is, at its left."""
    text, color = (("xₜ", GREYS[0]), ("x̂₀", ACCENT))[row]
    style.write(drawing, x, y, text, color, ha="right", va="center")


def _is_board(examples: np.ndarray) -> bool:
    return examples.ndim in (4, 5)


def _slices(examples: np.ndarray) -> np.ndarray:
    """Picks the middle slice of each volume (..., N, D, H, W, C); images stay. Trajectories have N at axis 1."""
    volumes = examples.ndim == 6
    return examples[:, :, examples.shape[2] // 2] if volumes else examples


def _panel(
    name: str, x: np.ndarray, room: int, cells: tuple[int, int | None], classes: np.ndarray | None, labels: Any
) -> Panel:
    """Makes the panel of a group, at most `room` pixels wide unless a single image is wider."""
    if not _is_board(x):
        side = max(min(room, points(230)), points(80))
        return Panel(name, "", x, None, 1, (side, side))
    images, more = (x[:, x.shape[1] // 2], ", middle slices") if x.ndim == 5 else (x, "")
    shape = pictures(images[:1]).shape[1:]
    fits = max(room // (shape[1] + 1), 1)
    if classes is not None and labels is not None:
        columns = min(cells[1] or PER_CLASS, fits)
        at, places = _by_class(np.asarray(labels), classes, columns)
        board = tile(images[at], columns, places=places)
    else:
        n = min(cells[0], len(x))
        columns = min(cells[1] or min(int(np.ceil(n**0.5)), COLUMNS), fits)
        n = min(max(TALL // (shape[0] + 1), 1) * columns, n)
        more += f", first {n} of {len(x)}" if n < len(x) else ""
        board = tile(images[:n], columns)
    scale = max(min(room // board.shape[1], TALL // board.shape[0], CELL // (shape[1] + 1)), 1)
    return Panel(name, more, x, board, scale, (board.shape[1] * scale, board.shape[0] * scale))


def _classes(groups: Mapping[str, np.ndarray], labels: Mapping[str, Any]) -> np.ndarray | None:
    """Picks the classes that have a row, of all groups' labels; None where one row would be all, or for no images."""
    if not labels or not all(_is_board(x) for x in groups.values()):
        return None
    found = np.unique(np.concatenate([np.asarray(part) for part in labels.values()]))
    return found[_spread(len(found), CLASSES)] if len(found) > 1 else None


def _by_class(labels: np.ndarray, classes: np.ndarray, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Finds the first examples of each class, and their cells: row i has those of class i."""
    rows = [np.flatnonzero(labels == label)[:columns] for label in classes]
    places = [row * columns + np.arange(len(found)) for row, found in enumerate(rows)]
    last = [np.asarray([], int)]
    return np.concatenate([*rows, *last]), np.concatenate([*places, *last])


def _name_rows(drawing: Any, panel: Panel, names: list[str], left: int, top: int) -> None:
    step = panel.size[1] / max(len(names), 1)
    for row, name in enumerate(names):
        y = top - (row + 0.5) * step
        style.write(drawing, left - points(4), y, name, INK, SMALL, ha="right", va="center")


def _short(label: int, names: Sequence[str] | None, most: int = 16) -> str:
    """The name of a class, its number where it has none, cut to so many characters."""
    name = names[label] if names is not None and label < len(names) else str(label)
    return name if len(name) <= most else f"{name[: most - 1]}…"


def _spread(n: int, most: int) -> np.ndarray:
    """Picks at most so many of 0 .. n - 1, evenly, the ends among them."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).round().astype(int))


def _within(frames: np.ndarray) -> np.ndarray:
    """Scales each frame (frames, ...) into [-1, 1] where noise outgrows it; numbers that are not finite stay."""
    size = np.where(np.isfinite(frames), np.abs(frames), 0).max(axis=tuple(range(1, frames.ndim)), keepdims=True)
    return frames / np.maximum(size, 1)


def _plot(drawing: Any, panel: Panel, corner: tuple[int, int], color: str) -> Any:
    """Draws points or sequences; gives the axes of points, whose limits neighbours share."""
    edge = points(24)
    box = (corner[0] + edge, corner[1] + edge, panel.size[0] - edge, panel.size[1] - edge)
    axes = style.axes(drawing, box)
    return _points(axes, panel.examples, color)


def _points(axes: Any, examples: np.ndarray, color: str) -> Any:
    if examples.ndim == 3:
        return _sequences(axes, examples)
    flat = examples.reshape(len(examples), -1)
    if flat.shape[1] == 1:
        axes.hist(flat[np.isfinite(flat[:, 0]), 0], bins=50, color=color)
        return None
    axes.scatter(flat[:, 0], flat[:, 1], s=3, alpha=0.5, linewidths=0, color=color)
    axes.locator_params(nbins=5)
    if flat.shape[1] > 2:
        axes.set_xlabel(f"entries 1 and 2 of {flat.shape[1]}")
    return axes


def _sequences(axes: Any, examples: np.ndarray) -> None:
    """Draws the first sequences (N, L, C) as lines above each other, the channels of one in steps of grey."""
    few = examples[:SEQUENCES, :, :CHANNELS]
    finite = few[np.isfinite(few)]
    step = 1.1 * float(np.ptp(finite)) if finite.size and np.ptp(finite) else 1.0
    for i, sequence in enumerate(few):
        for channel in reversed(range(sequence.shape[1])):
            grey = 0.2 + 0.6 * channel / max(sequence.shape[1] - 1, 1)
            axes.plot(sequence[:, channel] - i * step, color=str(grey), linewidth=0.8)
    dropped = f", channels 1 to {CHANNELS} of {examples.shape[2]}" if examples.shape[2] > CHANNELS else ""
    axes.set(yticks=[], xlabel=f"{len(few)} of {len(examples)} sequences{dropped}")


def _share_limits(found: list[Any]) -> None:
    """Gives square axes with points one range: that of all their points, as wide as high."""
    if not found:
        return
    low, high = (np.array(ends) for ends in zip(*(_ends(axes) for axes in found)))
    low, high = low.min(0), high.max(0)
    middle, half = (low + high) / 2, max(float((high - low).max()) * 0.53, 1e-9)
    for axes in found:
        axes.set(xlim=(middle[0] - half, middle[0] + half), ylim=(middle[1] - half, middle[1] + half))


def _ends(axes: Any) -> tuple[np.ndarray, np.ndarray]:
    """Finds the least and the largest place (2,) of the finite points in axes; (0, 0) where there is none."""
    places = np.concatenate([np.asarray(part.get_offsets(), float) for part in axes.collections])
    places = places[np.isfinite(places).all(1)]
    return (places.min(0), places.max(0)) if len(places) else (np.zeros(2), np.zeros(2))
