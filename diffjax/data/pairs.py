"""A data set with an endpoint y for each example x: what bridges learn to undo. y is a degraded x, of x's shape.

    average   the mean over blocks of factor x factor pixels, spread over the block again: low resolution
    blur      a Gaussian of standard deviation sigma pixels, the image continued by reflection

Both are linear and the same for every example; what they take away no network gets back, so that the best prediction
E[x | y] is blurred too, and a bridge draws one of the possible x.

Pairs of one's own are `data.arrays(x, y=y)`, `data.npz(path, y="y")` and `data.folder(path, y=other_path)`.
"""

from functools import partial
from typing import Any

import numpy as np

from diffjax import host
from diffjax.data import endpoints
from diffjax.data.digits import digits
from diffjax.data.folder import folder
from diffjax.data.mnist import mnist
from diffjax.data.npz import npz
from diffjax.data.photos import photos
from diffjax.data.source import Dataset, Source, blank, fingerprint, labels
from diffjax.data.tfds import tfds
from diffjax.method import Example
from diffjax.metrics.judges import Gated

DEGRADATIONS = ("average", "blur")
MAKERS = {"digits": digits, "folder": folder, "mnist": mnist, "npz": npz, "photos": photos, "tfds": tfds}


def pairs(of: str, degradation: str = "average", factor: int = 2, sigma: float = 1.0, **options: Any) -> Dataset:
    """Makes pairs of a named data set: its examples, and degraded copies as endpoints.

    Args:
        of: digits, mnist, photos, folder, npz or tfds.
        degradation, factor, sigma: as for `paired`.
        options: of that data set.

    Raises:
        ValueError: for another name, and as `paired`.
    """
    return paired(host.one_of(of, MAKERS, "data set", " to degrade")(**options), degradation, factor, sigma)


class Pairs:
    """A source whose examples are given their endpoints "y".

    Raises:
        ValueError: if y has another shape than x.
    """

    def __init__(self, source: Source, degrade: Any):
        self.source, self.degrade, self.labels = source, degrade, labels(source)
        first = source.gather(np.zeros(1, int)).x
        if (shape := degrade(first).shape) != first.shape:
            raise ValueError(f"Endpoints have shape {shape[1:]}, expected that of the examples, {first.shape[1:]}.")

    def __len__(self) -> int:
        """The number of pairs."""
        return len(self.source)

    def gather(self, indices: np.ndarray) -> Example:
        """Gathers the pairs at `indices` (B,)."""
        batch = self.source.gather(indices)
        return batch._replace(given={**batch.given, "y": self.degrade(batch.x)})


def paired(dataset: Dataset, degradation: str, factor: int = 2, sigma: float = 1.0) -> Dataset:
    """Makes the data set whose endpoints are degraded examples.

    Args:
        degradation: "average" or "blur".
        factor: of the averaging, in pixels.
        sigma: of the blur, in pixels.

    Raises:
        ValueError: for another degradation, examples that are no images, a factor that does not divide them, a sigma
            that is not positive, or a data set that mirrors its images (the endpoints would stay as they were).
    """
    if degradation not in DEGRADATIONS:
        raise ValueError(f"There is no degradation {degradation!r}; there are {', '.join(DEGRADATIONS)}.")
    if len(dataset.shape) != 3:
        raise ValueError(f"Examples have shape {dataset.shape}, expected images (H, W, C) to degrade.")
    if dataset.flip:
        raise ValueError("flip mirrors x alone; set flip=False for a data set of pairs.")
    if "y" in blank(dataset).given:
        raise ValueError(f"{dataset.name} has endpoints of its own: leave its y= out, or do not degrade it.")
    if dataset.units is not None:
        raise ValueError("standardize is for data without endpoints; set standardize=None for a data set of pairs.")
    degrade = _average(dataset.shape, factor) if degradation == "average" else _blur(dataset.shape, sigma)
    parts = [Pairs(source, degrade) for source in (dataset.train, dataset.held_out)]
    digest = fingerprint(dataset.fingerprint, degradation, factor, sigma)
    own = dataset.judge
    judge = partial(endpoints.judge_labelled, own) if isinstance(own, Gated) else endpoints.judge
    return dataset._replace(train=parts[0], held_out=parts[1], fingerprint=digest, judge=judge)


def _average(shape: tuple[int, ...], factor: int) -> Any:
    height, width, channels = shape
    if not host.is_int(factor, 1) or height % factor or width % factor:
        raise ValueError(f"factor is {factor!r}, expected a positive integer that divides {height} x {width} pixels.")

    def degrade(x: np.ndarray) -> np.ndarray:
        blocks = x.reshape(-1, height // factor, factor, width // factor, factor, channels)
        means = blocks.mean((2, 4), keepdims=True, dtype=np.float32)
        return np.broadcast_to(means, blocks.shape).reshape(x.shape)

    return degrade


def _blur(shape: tuple[int, ...], sigma: float) -> Any:
    if not 0 < sigma < np.inf:
        raise ValueError(f"sigma is {sigma!r}, expected a positive number of pixels.")
    rows, columns = (_kernel(size, sigma) for size in shape[:2])
    return lambda x: np.einsum("ij,kl,njlc->nikc", rows, columns, x, optimize=True).astype(np.float32)


def _kernel(size: int, sigma: float) -> np.ndarray:
    """Makes a kernel (size, size): a Gaussian around each pixel, folded back at the edges; rows sum to 1.

    Edges are half-sample reflections.
    """
    radius = int(np.ceil(6 * sigma))
    matrix = np.zeros((size, size))
    weight = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    for i in range(size):
        at = np.arange(i - radius, i + radius + 1) % (2 * size)
        np.add.at(matrix[i], np.minimum(at, 2 * size - 1 - at), weight)
    return (matrix / matrix.sum(1, keepdims=True)).astype(np.float32)
