"""A data set with a hint for each image, what a side net is told of it (`models.side`): its edges.

    e(i, j) = |(x(i + 1, j) - x(i - 1, j), x(i, j + 1) - x(i, j - 1))| / 2,     the largest of the channels,

the length of the gradient by central differences, the image continued by its edge pixels. It is given as "hint", of
one channel: other than a bridge's endpoint y it is told to a network alone, and no process begins there. Samples are
judged as those of the data set itself, and by how far their edges are from those they were given.
"""

from functools import partial
from typing import Any

import numpy as np

from diffjax import host
from diffjax.data.others import of_others
from diffjax.data.pairs import MAKERS
from diffjax.data.source import Dataset, Judge, Source, blank, fingerprint, labels
from diffjax.method import Drawn, Example, Section
from diffjax.metrics.judges import two_samples


def hinted(of: str, shuffled: bool = False, **options: Any) -> Dataset:
    """Makes a named data set of images whose examples are given their edges.

    Args:
        of: digits, mnist, photos, folder, npz or tfds.
        shuffled: the negative control: training examples are given the edges, and labels, of others (`data.shuffled`).
        options: of that data set.

    Raises:
        ValueError: for another name, examples that are no images, a data set that mirrors them (a hint would stay) or
            standardises them (samples are not in those units), or one with hints of its own.
    """
    dataset = host.one_of(of, MAKERS, "data set", " to draw the edges of")(**options)
    if len(dataset.shape) != 3:
        raise ValueError(f"Examples have shape {dataset.shape}, expected images (H, W, C) to draw the edges of.")
    if dataset.flip:
        raise ValueError("flip mirrors x alone, not its hint: set flip=False for a data set with hints.")
    if dataset.units is not None:
        raise ValueError("standardize changes the units of edges: set standardize=None for a data set with hints.")
    if "hint" in blank(dataset).given:
        raise ValueError(f"{dataset.name} has a 'hint' of its own: leave it out, or name that data set itself.")
    parts = [Hinted(source) for source in (dataset.train, dataset.held_out)]
    made = dataset._replace(
        train=parts[0],
        held_out=parts[1],
        fingerprint=fingerprint(dataset.fingerprint, "edges"),
        judge=partial(judge, dataset.judge or two_samples),
    )
    return of_others(made) if shuffled else made


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


def judge(own: Judge, drawn: Drawn, dataset: Dataset) -> list[Section]:
    """Judges samples as `own` does, and by their edges beside those they were given; real images have an error of 0."""
    sections = own(drawn, dataset)
    if "hint" not in drawn.given:
        return sections
    found = edge_error(np.asarray(drawn.x), np.asarray(drawn.given["hint"]))
    beside = (
        f"; to those that others were given {found['others']:.4f}, what ignoring them has" if "others" in found else ""
    )
    text = f"\nMean squared error of the samples' edges to those they were given: {found['value']:.4f}{beside}.\n"
    return [*sections, Section({"metrics": {"edge error": found}}, text)]


def edge_error(x: np.ndarray, hint: np.ndarray) -> dict[str, float]:
    """Computes the mean squared error of edges of x (n, H, W, C) to hint (n, H, W, 1), their own and those of others.

    Returns:
        value: the mean over i of |e_i - h_i|^2 / (H W); others: that of pairs i != j, where there are any.
    """
    e, h = (np.asarray(a, np.float64).reshape(len(x), -1) for a in (edges(x), hint))
    n, own = len(e), np.mean((e - h) ** 2)
    pairs = np.mean(e**2) + np.mean(h**2) - 2 * np.mean(e.mean(0) * h.mean(0))  # over all i, j, i = j among them
    return {"value": float(own), **({"others": float((n * pairs - own) / (n - 1))} if n > 1 else {})}
