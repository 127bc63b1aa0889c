"""A data set with a hint for each image, what a side net is told of it (`models.side`): its edges.

    e(i, j) = |(x(i + 1, j) - x(i - 1, j), x(i, j + 1) - x(i, j - 1))| / 2,     the largest of the channels,

the length of the gradient by central differences, the image continued by its edge pixels. It is given as "hint", of
one channel: other than a bridge's endpoint y it is told to a network alone, and no process begins there.
"""

from typing import Any

import numpy as np

from diffjax.data.pairs import MAKERS
from diffjax.data.source import Dataset, Source, blank, fingerprint, labels
from diffjax.host import nearest
from diffjax.method import Example


def hinted(of: str, **options: Any) -> Dataset:
    """Makes a named data set of images whose examples are given their edges.

    Args:
        of: digits, mnist, photos, folder, npz or tfds.
        options: of that data set.

    Raises:
        ValueError: for another name, examples that are no images, or a data set that mirrors them (a hint would stay).
    """
    if of not in MAKERS:
        raise ValueError(f"There is no data set {of!r} to draw the edges of: {nearest(of, MAKERS)}.")
    dataset = MAKERS[of](**options)
    if len(dataset.shape) != 3:
        raise ValueError(f"Examples have shape {dataset.shape}, expected images (H, W, C) to draw the edges of.")
    if dataset.flip:
        raise ValueError("flip mirrors x alone, not its hint: set flip=False for a data set with hints.")
    if "hint" in blank(dataset).given:
        raise ValueError(f"{dataset.name} has hints of its own: leave its hint= out, or name it itself.")
    parts = [Hinted(source) for source in (dataset.train, dataset.held_out)]
    return dataset._replace(train=parts[0], held_out=parts[1], fingerprint=fingerprint(dataset.fingerprint, "edges"))


class Hinted:
    """A source whose images are given their edges as "hint"."""

    def __init__(self, source: Source):
        self.source, self.labels = source, labels(source)

    def __len__(self) -> int:
        """The number of images."""
        return len(self.source)

    def gather(self, indices: np.ndarray) -> Example:
        """Gathers the images at `indices` (B,) with their hints."""
        batch = self.source.gather(indices)
        return batch._replace(given={**batch.given, "hint": edges(batch.x)})


def edges(x: np.ndarray) -> np.ndarray:
    """Computes the edges of images (B, H, W, C): (B, H, W, 1), float32."""
    wide = np.pad(np.asarray(x, np.float32), ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    down, across = wide[:, 2:, 1:-1] - wide[:, :-2, 1:-1], wide[:, 1:-1, 2:] - wide[:, 1:-1, :-2]
    return np.sqrt(down**2 + across**2).max(-1, keepdims=True) / 2
