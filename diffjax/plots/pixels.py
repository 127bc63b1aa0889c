"""Images as boards of pixels: what a picture shows is each pixel of an image as a square of whole pixels."""

from pathlib import Path
from typing import Any

import numpy as np


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


def tile(images: Any, columns: int, gap: int = 1, places: Any = None) -> np.ndarray:
    """Lays images (N, H, W, C) in [-1, 1] on a white board: (rows, columns), `gap` pixels apart; uint8 (H', W', C).

    Args:
        places: (N,) integers, the cell that each image is laid on, counted along rows; default 0, 1, ...
    """
    pixels = to_pixels(pictures(images))
    n, height, width, channels = pixels.shape
    places = np.arange(n) if places is None else np.asarray(places)
    rows = -(-(int(places.max(initial=0)) + 1) // columns)
    board = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, channels), 255, np.uint8)
    for place, image in zip(places, pixels):
        top, left = (place // columns) * (height + gap) + gap, (place % columns) * (width + gap) + gap
        board[top : top + height, left : left + width] = image
    return board


def enlarged(board: np.ndarray, scale: int) -> np.ndarray:
    """Makes every pixel of a board (H, W, C) a square of scale x scale pixels."""
    return board.repeat(scale, 0).repeat(scale, 1)


def save_image(path: str | Path, board: np.ndarray, min_width: int = 480) -> None:
    """Writes uint8 pixels (H, W, C), C = 1, 3 or 4, enlarged by whole pixels to about `min_width` pixels."""
    from PIL import Image

    board = enlarged(board, max(1, round(min_width / board.shape[1])))
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(board[..., 0] if board.shape[-1] == 1 else board).save(path)
