"""A picture of examples side by side: one row for each, one column for each thing that was made of it."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from diffjax import plots
from diffjax.metrics import judges

SHOWN = 16  # rows


def write(folder: Path, dataset: Any, seeds: list[int], groups: Mapping[str, np.ndarray], **more: Any) -> None:
    """Writes samples.npz, and grid.png with a column for each group: the inputs first, what was made of them last.

    Results that are not finite are named on stderr; they are in samples.npz, and in no picture.
    """
    inputs, *_, outputs = groups.values()
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "samples.npz", seeds=np.asarray(seeds), inputs=inputs, outputs=outputs, **more)
    good = ~judges.broken(outputs)
    if not good.all():
        print(f"error: {judges.said(outputs, seeds)}", file=sys.stderr)
    if good.any():
        columns(folder / "grid.png", {name: dataset.shown(x[good]) for name, x in groups.items()})


def columns(path: str | Path, groups: Mapping[str, Any], shown: int = SHOWN) -> None:
    """Draws groups of examples (n, *shape), each a column under its name: the first `shown` of them.

    Images are enlarged by whole pixels; anything else is drawn as `plots.samples` draws it, group by group.
    """
    parts = {name: np.asarray(part)[:shown] for name, part in groups.items()}
    first = next(iter(parts.values()))
    if first.ndim != 4:
        plots.samples(path, parts)
        return
    rows = np.stack(list(parts.values()), 1).reshape(-1, *first.shape[1:])
    board = plots.tile(rows, len(parts), 2)
    width = board.shape[1] / len(parts)
    scale = max(1, round(96 / width))
    board = board.repeat(scale, 0).repeat(scale, 1)
    _titled(path, board, list(parts), width * scale)


def _titled(path: str | Path, board: np.ndarray, names: list[str], width: float) -> None:
    """Writes pixels one to one, below a line that names the columns."""
    from matplotlib.figure import Figure

    dpi, head = 100, 22
    height = board.shape[0] + head
    figure = Figure(figsize=(board.shape[1] / dpi, height / dpi), dpi=dpi)
    grey = board[..., 0] if board.shape[-1] == 1 else board
    figure.figimage(grey, 0, 0, cmap="gray", vmin=0, vmax=255, origin="upper")
    for i, name in enumerate(names):
        across, up = (i + 0.5) * width / board.shape[1], 1 - 0.5 * head / height
        figure.text(across, up, name, ha="center", va="center", fontsize=8)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
