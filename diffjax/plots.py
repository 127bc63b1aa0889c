"""Pictures of samples and of training: PNG files, no display and no global plotting state."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffjax import panels

# Of every figure; the layout engine draws each text twice, half of a figure's time.
LAYOUT: dict[str, Any] = {"layout": "tight", "dpi": 110}


def to_pixels(images: Any) -> np.ndarray:
    """Converts floats (..., H, W, C) in [-1, 1] to uint8, clipped; what is no number is black."""
    scaled = (np.asarray(images, np.float32) + 1) * 127.5 + 0.5
    return np.clip(np.nan_to_num(scaled, nan=0.0, posinf=255.0, neginf=0.0), 0, 255).astype(np.uint8)


def pictures(images: Any) -> np.ndarray:
    """Lays the channels of images (..., H, W, C) that are no picture side by side, (..., H, C W, 1): C not 1, 3, 4."""
    images = np.asarray(images)
    *rest, height, width, channels = images.shape
    if channels in (1, 3, 4):
        return images
    return np.moveaxis(images, -1, -2).reshape(*rest, height, channels * width, 1)


def tile(images: Any, columns: int, gap: int = 1) -> np.ndarray:
    """Lays images (N, H, W, C) in [-1, 1] on a white board: (rows, columns), `gap` pixels apart; uint8 (H', W', C)."""
    pixels = to_pixels(pictures(images))
    n, height, width, channels = pixels.shape
    rows = -(-n // columns)
    board = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, channels), 255, np.uint8)
    for i, image in enumerate(pixels):
        top, left = (i // columns) * (height + gap) + gap, (i % columns) * (width + gap) + gap
        board[top : top + height, left : left + width] = image
    return board


def save_image(path: str | Path, board: np.ndarray, min_width: int = 480) -> None:
    """Writes uint8 pixels (H, W, C), C = 1, 3 or 4, enlarged by whole pixels to about `min_width` pixels."""
    from PIL import Image

    scale = max(1, round(min_width / board.shape[1]))
    board = board.repeat(scale, 0).repeat(scale, 1)
    _parent(path)
    Image.fromarray(board[..., 0] if board.shape[-1] == 1 else board).save(path)


def samples(path: str | Path, groups: Mapping[str, Any], columns: int = 8) -> None:
    """Draws groups of examples (N, ...) side by side, each under its name (`_panel` says how)."""
    figure = _figure(3.4 * len(groups), 3.7)
    for i, (name, examples) in enumerate(groups.items()):
        axes = figure.add_subplot(1, len(groups), i + 1, title=name)
        _panel(axes, np.asarray(examples), columns)
    _save(figure, path)


def filmstrip(path: str | Path, trajectory: Any, times: Sequence[float]) -> None:
    """Draws a trajectory (frames, N, ...) from noise to data: of images one row per example, one column per frame."""
    trajectory = np.asarray(trajectory)
    if _are_images(trajectory[0]):
        trajectory = pictures(trajectory)
        frames, rows = trajectory.shape[:2]
        peak = np.abs(trajectory).max(axis=(1, 2, 3, 4), keepdims=True)  # noise outgrows [-1, 1]: scale each frame
        strip = (trajectory / np.maximum(peak, 1)).swapaxes(0, 1).reshape(-1, *trajectory.shape[2:])
        figure = _figure(0.8 * frames, 0.8 * rows + 0.5)
        axes = figure.add_subplot()
        _panel(axes, strip, frames)
        axes.set_axis_on()
        width = trajectory.shape[3] + 1
        axes.set_xticks([(i + 0.5) * width for i in range(frames)], [f"{t:.2g}" for t in times])
        axes.set_yticks([])
        axes.set_xlabel("t")
    else:
        figure = _figure(2.2 * len(times), 2.5)
        for i, (points, t) in enumerate(zip(trajectory, times)):
            _panel(figure.add_subplot(1, len(times), i + 1, title=f"t = {t:.2g}"), points, 1)
    _save(figure, path)


def _are_images(examples: np.ndarray) -> bool:
    return examples.ndim == 4


def _panel(axes: Any, examples: np.ndarray, columns: int) -> None:
    """Draws images as tiles, sequences and volumes as `panels` does, all else as points of its first two entries.

    Of one entry it is a histogram.
    """
    if _are_images(examples):
        board = tile(examples, columns)
        axes.imshow(board[..., 0] if board.shape[-1] == 1 else board, cmap="gray", interpolation="nearest")
        axes.set_axis_off()
        return
    if panels.draw(axes, examples, columns):
        return
    flat = examples.reshape(len(examples), -1)
    if flat.shape[1] == 1:
        axes.hist(flat[np.isfinite(flat[:, 0]), 0], bins=50)
        return
    axes.scatter(flat[:, 0], flat[:, 1], s=2, alpha=0.5, linewidths=0)
    axes.set_aspect("equal")
    if flat.shape[1] > 2:
        axes.set_xlabel(f"entries 1 and 2 of {flat.shape[1]}")


def loss_by_time(path: str | Path, edges: Sequence[float], curves: Mapping[str, Sequence[float]]) -> None:
    """Draws the mean loss per bin of t / t_max."""
    figure = _figure(5, 3.4)
    axes = figure.add_subplot(xlabel="t / t_max", ylabel="loss", yscale="log")
    for name, values in curves.items():
        axes.stairs(np.asarray(values, float), np.asarray(edges, float), label=name, baseline=None)
    axes.legend()
    _save(figure, path)


def training_curve(path: str | Path, steps: Sequence[int], curves: Mapping[str, Sequence[float]]) -> None:
    """Draws logged values against the step."""
    figure = _figure(5, 3.4)
    axes = figure.add_subplot(xlabel="step", yscale="log")
    for name, values in curves.items():
        axes.plot(steps, values, label=name)
    axes.legend()
    _save(figure, path)


def schedule(path: str | Path, times: Any, alpha: Any, sigma: Any, grid: Any) -> None:
    """Draws alpha and sigma against t, log-SNR beside them, and the sampler's grid as ticks."""
    alpha, sigma = np.asarray(alpha), np.asarray(sigma)
    figure = _figure(8, 3.2)
    left = figure.add_subplot(1, 2, 1, xlabel="t")
    left.plot(times, alpha, label="alpha")
    left.plot(times, sigma, label="sigma")
    left.legend()
    right = figure.add_subplot(1, 2, 2, xlabel="t", ylabel="log SNR")
    inside = (alpha > 0) & (sigma > 0)
    right.plot(np.asarray(times)[inside], 2 * np.log(alpha[inside] / sigma[inside]))
    right.plot(grid, np.full(len(grid), right.get_ylim()[0]), "|", clip_on=False, label="sampling grid")
    right.legend()
    _save(figure, path)


def normality(path: str | Path, groups: Mapping[str, Any]) -> None:
    """Draws values that should be standard normal: histograms beside the density, and quantiles beside quantiles."""
    from scipy import stats

    figure = _figure(8, 3.4)
    left = figure.add_subplot(1, 2, 1, xlabel="value", ylabel="density")
    right = figure.add_subplot(1, 2, 2, xlabel="normal quantile", ylabel="quantile")
    at = np.linspace(-4, 4, 201)
    probabilities = stats.norm.cdf(np.linspace(-3.5, 3.5, 141))
    for name, values in groups.items():
        flat = np.asarray(values, float).ravel()
        left.hist(flat, bins=at[::4], density=True, histtype="step", label=name)
        right.plot(stats.norm.ppf(probabilities), np.quantile(flat, probabilities), label=name)
    left.plot(at, stats.norm.pdf(at), "k--", linewidth=1, label="N(0, 1)")
    right.plot(at, at, "k--", linewidth=1)
    left.legend()
    _save(figure, path)


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), **LAYOUT)


def _save(figure: Any, path: str | Path) -> None:
    _parent(path)
    figure.savefig(path)


def _parent(path: str | Path) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
