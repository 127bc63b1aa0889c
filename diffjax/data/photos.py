"""Patches of scikit-learn's two sample photographs, 427 x 640 in colour, which need no network.

A held-out patch shares no pixel with a training patch: the right fifth of each photograph is held out. Patches start
every `stride` pixels in both directions. They stand in a fixed random order, so that the first n are of all places.
"""

import numpy as np

from diffjax import host
from diffjax.data.source import Arrays, Dataset, in_memory

HELD_OUT = 128  # columns of 640


def photos(size: int = 16, stride: int = 8) -> Dataset:
    """Cuts patches (size, size, 3) in [-1, 1] from photographs of a temple in China and of a flower; no labels.

    Raises:
        ValueError: for a size or stride that is not a positive integer, or patches wider than the held-out part.
    """
    from sklearn.datasets import load_sample_images

    for name, value in (("size", size), ("stride", stride)):
        if not host.is_int(value, 1):
            raise ValueError(f"photos: {name} is {value!r}, expected a positive integer.")
    if size > HELD_OUT:
        raise ValueError(f"photos: size is {size}, expected at most {HELD_OUT}, the width of the held-out part.")
    images = [np.asarray(image, np.uint8) for image in load_sample_images().images]
    parts = [[image[:, :-HELD_OUT] for image in images], [image[:, -HELD_OUT:] for image in images]]
    patches = [np.concatenate([_patches(image, size, stride) for image in part]) for part in parts]
    mixed = [part[np.random.default_rng(0).permutation(len(part))] for part in patches]
    return in_memory("photos", *map(Arrays, mixed), classes=None, levels=256)._replace(mixed=True)


def _patches(image: np.ndarray, size: int, stride: int) -> np.ndarray:
    """Cuts the image into patches (N, size, size, C), row by row."""
    windows = np.lib.stride_tricks.sliding_window_view(image, (size, size), (0, 1))[::stride, ::stride]
    return windows.transpose(0, 1, 3, 4, 2).reshape(-1, size, size, image.shape[2])
