"""Panels of examples that are neither images nor points: sequences as lines, volumes as slices."""

from typing import Any

import numpy as np

SEQUENCE, VOLUME = 3, 5  # axes of a batch of them, (n, L, C) and (n, D, H, W, C)
LINES = 8  # sequences of a panel; more hide each other


def draw(axes: Any, examples: np.ndarray, columns: int) -> bool:
    """Draws examples (n, L, C) as lines or (n, D, H, W, C) as slices into a panel; False, and nothing, for others."""
    if examples.ndim == SEQUENCE:
        lines(axes, examples)
    elif examples.ndim == VOLUME:
        slices(axes, examples, columns)
    return examples.ndim in (SEQUENCE, VOLUME)


def lines(axes: Any, sequences: np.ndarray) -> None:
    """Draws the first few sequences (n, L, C) over their places, a colour for each and a dash for each channel."""
    dashes = ("-", "--", ":", "-.")
    for i, sequence in enumerate(sequences[:LINES]):
        for channel, values in enumerate(sequence.T):
            axes.plot(values, dashes[channel % len(dashes)], color=f"C{i}", linewidth=1)
    if len(sequences) > LINES:
        axes.set_xlabel(f"the first {LINES} of {len(sequences)}")


def slices(axes: Any, volumes: np.ndarray, columns: int) -> None:
    """Draws the middle slice along the first axis of volumes (n, D, H, W, C), in rows of `columns`."""
    board = board_of(volumes, columns)
    axes.imshow(board[..., 0] if board.shape[-1] == 1 else board, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_axis_off()


def board_of(volumes: np.ndarray, columns: int) -> np.ndarray:
    """Lays the middle slices of volumes in [-1, 1] on a white board, (rows, columns, 1 or 3) in [0, 1].

    Of channels that make no colour the first is taken; what leaves [-1, 1] is clipped, what is no number black.
    """
    middle = volumes[:, volumes.shape[1] // 2]
    middle = middle if middle.shape[-1] in (1, 3) else middle[..., :1]
    n, height, width, channels = middle.shape
    board = np.ones((-(-n // columns) * (height + 1) + 1, columns * (width + 1) + 1, channels))
    for i, part in enumerate(np.clip(np.nan_to_num(middle, nan=-1.0) / 2 + 0.5, 0, 1)):
        top, left = (i // columns) * (height + 1) + 1, (i % columns) * (width + 1) + 1
        board[top : top + height, left : left + width] = part
    return board
