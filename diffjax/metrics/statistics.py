"""Files of reference statistics: the moments of a data set in a feature space, and which space that was.

The format is that of EDM (Karras et al. 2022, code): an .npz with `mu` (d,) and `sigma` (d, d), float64, the mean and
the unbiased covariance. Ours also says `n`, how many images they are of, and of the space `features` (its name),
`fingerprint` and `preprocessing`. Moments of another space have no distance, and are refused. A file that does not say
its space is read with a warning: whoever gives it has to know. No pickle is ever read.
"""

import io
import warnings
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from diffjax import disk, members
from diffjax.metrics import frechet
from diffjax.metrics.features import TOGETHER, Features

TEXTS = ("features", "fingerprint", "preprocessing")
WRITTEN = "expected arrays mu (d,) and sigma (d, d), as statistics.write makes them"


class Statistics(NamedTuple):
    """The moments of images in a feature space.

    Attributes:
        gaussian: their mean (d,) and unbiased covariance (d, d).
        n: how many images they are of; None where nobody said.
        features, fingerprint, preprocessing: those of the space (`Features`); None where nobody said.
    """

    gaussian: frechet.Gaussian
    n: int | None
    features: str | None
    fingerprint: str | None
    preprocessing: str | None

    def check(self, space: Features, name: str = "The statistics") -> None:
        """Raises a ValueError for statistics of another space than this one; those that say none pass."""
        told = (self.features, self.fingerprint, self.preprocessing)
        own = (space.name, space.fingerprint, space.preprocessing)
        if self.fingerprint is not None and told != own:
            raise ValueError(
                f"{name} are of the space {told[0]} ({told[1]}; preprocessing: {told[2]}), expected {space.said}: "
                "features of two spaces have no distance."
            )

    def check_features(self, found: np.ndarray, name: str = "The statistics") -> None:
        """Raises a ValueError unless features (n, d) are as many as those of the statistics."""
        if (d := len(self.gaussian.mean)) != found.shape[1]:
            raise ValueError(f"{name} are of {d} features, and the space has {found.shape[1]}.")


def measure(space: Features, images: Any) -> Statistics:
    """Measures the statistics of images (N, *shape) in [-1, 1], or of all examples of a source of data, in one pass.

    Args:
        images: an array; or a source, `dataset.train` or `dataset.held_out`, whose examples are looked at in turn.

    Raises:
        ValueError: for images that are not those of the space (`Features.of`), or too few for a full covariance.
    """
    if hasattr(images, "held_out"):
        raise ValueError(f"Got a whole data set ({images.name}), expected images or one part of it: its .train.")
    n, centre, total, squares = 0, None, 0.0, 0.0
    for part in _batches(images):
        found = space.of(part)
        centre = found.mean(0) if centre is None else centre  # sums of squares about a point near the mean stay small
        found -= centre
        n, total, squares = n + len(found), total + found.sum(0), squares + found.T @ found
    if centre is None:
        raise ValueError("There is no image, expected more images than features.")
    frechet.check_size(n, len(centre), "images")
    cov = (squares - np.outer(total, total) / n) / (n - 1)
    gaussian = frechet.Gaussian(centre + total / n, (cov + cov.T) / 2)
    return Statistics(gaussian, n, space.name, space.fingerprint, space.preprocessing)


def write(path: str | Path, found: Statistics) -> None:
    """Writes statistics as an .npz file, in one move; what nobody said is left out."""
    told = {name: value for name in ("n", *TEXTS) if (value := getattr(found, name)) is not None}
    content = io.BytesIO()
    np.savez(content, mu=found.gaussian.mean, sigma=found.gaussian.cov, **told)
    disk.write(Path(path), content.getvalue())


def read(path: str | Path, space: Features | None = None) -> Statistics:
    """Reads the statistics of a file; nothing in it is executed.

    A file without n or a space, such as EDM's own, is read with a warning that says what cannot be checked.

    Args:
        space: the one that they have to be of; None: any.

    Raises:
        FileNotFoundError: for what is no file.
        ValueError: naming the file: for another kind of file, moments that are none, or those of another space.
    """
    path = Path(path)
    if path.suffix in (".pkl", ".pickle"):
        raise ValueError(f"{path} is a pickle, which is never loaded: {WRITTEN}.")
    found = members.several(path, ["mu", "sigma"], note=f", {WRITTEN}")
    mu, sigma = (_moments(path, name, found[name]) for name in ("mu", "sigma"))
    if mu.ndim != 1 or sigma.shape != (len(mu), len(mu)):
        raise ValueError(f"{path} has mu of shape {mu.shape} and sigma of shape {sigma.shape}: {WRITTEN}.")
    size = np.abs(sigma).max()
    if not np.allclose(sigma, sigma.T, rtol=0, atol=1e-6 * size) or np.linalg.eigvalsh(sigma)[0] < -1e-6 * size:
        raise ValueError(f"{path}: sigma is no covariance, it is not symmetric or has a negative eigenvalue.")
    with zipfile.ZipFile(path) as archive:
        there = [name for name in ("n", *TEXTS) if f"{name}.npy" in archive.namelist()]
    told = members.several(path, there) if there else {}
    n = told.get("n")
    if n is not None and (n.shape or not np.issubdtype(n.dtype, np.integer) or n < 2):
        raise ValueError(f"{path} has n = {n}, expected an integer >= 2, the number of images.")
    texts = {name: _text(path, name, told[name]) for name in TEXTS if name in told}
    if missing := [name for name in ("n", *TEXTS) if name not in told]:
        warnings.warn(
            f"{path} does not say {', '.join(missing)}: that its features are those asked for is not checked, "
            "and no floor is known without n.",
            stacklevel=2,
        )
    whole = [texts.get(name) if len(texts) == len(TEXTS) else None for name in TEXTS]
    result = Statistics(frechet.Gaussian(mu, sigma), None if n is None else int(n), *whole)
    if space is not None:
        result.check(space, f"The statistics in {path}")
    return result


def _moments(path: Path, name: str, array: np.ndarray) -> np.ndarray:
    if not np.issubdtype(array.dtype, np.floating) or not array.size or not np.isfinite(array).all():
        raise ValueError(f"{path}: {name} is {array.dtype} of shape {array.shape}, expected finite numbers: {WRITTEN}.")
    return array.astype(np.float64)


def _text(path: Path, name: str, array: np.ndarray) -> str:
    if array.shape or array.dtype.kind != "U" or array.dtype.itemsize > 4000:
        raise ValueError(f"{path}: {name} is {array.dtype} of shape {array.shape}, expected a short text.")
    return str(array)


def _batches(images: Any) -> Iterator[np.ndarray] | Iterable[np.ndarray]:
    gather = getattr(images, "gather", None)
    for start in range(0, len(images), TOGETHER):
        stop = min(start + TOGETHER, len(images))
        yield images[start:stop] if gather is None else gather(np.arange(start, stop)).x
