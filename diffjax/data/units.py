"""Units: data of any scale is standardised for a run, and its samples are brought back.

A schedule is made for data of about unit size around 0: what is far larger is not drowned by its noise at t_max, and
samples start beside it. A run sees u of x = mean + scale u; files and judges see x.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from diffjax import members
from diffjax.data.source import Arrays, Dataset, Source, fingerprint
from diffjax.method import Example

HOW = ("entries", "channels", "whole")


class Units(NamedTuple):
    """The affine map x = mean + scale u between an example and what a run sees of it.

    Attributes:
        mean, scale: of the training data, float64, of the example's shape, (C,) or ().
        low, high: the least and the largest number of the training data, between which images are shown.
    """

    mean: np.ndarray
    scale: np.ndarray
    low: float
    high: float

    def to_units(self, x: Any) -> np.ndarray:
        """Standardises examples (n, *shape), x -> u in float32."""
        return ((np.asarray(x, np.float64) - self.mean) / self.scale).astype(np.float32)

    def to_data(self, u: Any) -> np.ndarray:
        """Brings samples (n, *shape) back, u -> x in float32."""
        return (self.mean + self.scale * np.asarray(u, np.float64)).astype(np.float32)

    def shown(self, x: Any) -> Any:
        """Maps [low, high] of images and volumes (n, ...) to [-1, 1], what pictures are drawn from; others stay."""
        if np.ndim(x) < 4:
            return x
        return 2 * (np.asarray(x, np.float32) - self.low) / max(self.high - self.low, 1e-30) - 1

    @property
    def affine(self) -> tuple[Any, Any]:
        """Gives (mean, scale) of x = mean + scale u."""
        return self.mean, self.scale

    def log_scale(self, shape: tuple[int, ...]) -> float:
        """Computes what the units take from a log density in nats of an example of this shape."""
        return float(np.log(np.broadcast_to(self.scale, shape)).sum())

    def undone(self, dataset: Dataset) -> Dataset:
        """Gives a data set of these units in its own."""
        return dataset._replace(train=Undone(dataset.train, self), held_out=Undone(dataset.held_out, self))

    def card(self) -> dict[str, Any]:
        """Describes the units as plain JSON."""
        return {"mean": self.mean.tolist(), "scale": self.scale.tolist(), "range": [self.low, self.high]}

    def keep(self, dataset: Dataset, folder: Path) -> str:
        """Writes the units into a run's folder, once; says what is wrong where others are there."""
        path = folder / "units.npz"
        try:
            kept = self.kept(dataset, folder).units
        except ValueError as error:
            return str(error)
        if not path.exists():
            np.savez(path, **self._asdict())
        same = all(np.array_equal(a, b) for a, b in zip(kept, self))
        why = f"{path}: mean or scale of {dataset.name} are others than when this run began: its data changed."
        return "" if same else why

    def kept(self, dataset: Dataset, folder: Path) -> Dataset:
        """Gives the data set with the units that are kept in a run's folder, if there are any."""
        if not (folder / "units.npz").is_file():
            return dataset
        written = "it is written where a run begins, and says what the run's numbers mean"
        found = members.tables(folder / "units.npz", Units._fields, "units of a run's data", written)
        if not (found["scale"] > 0).all() or found["low"].shape or found["high"].shape:
            raise ValueError(f"{folder / 'units.npz'} holds no units of a run's data: its scale has to be positive.")
        return dataset._replace(units=Units(**{**found, "low": float(found["low"]), "high": float(found["high"])}))


class Undone:
    """A source in the data's own units, of a standardised one."""

    def __init__(self, source: Source, units: Units):
        self.source, self.units, self.labels = source, units, getattr(source, "labels", None)

    def __len__(self) -> int:
        """The number of examples."""
        return len(self.source)

    def gather(self, indices: np.ndarray) -> Example:
        """Gathers the examples at `indices` (B,), x in the data's units."""
        found = self.source.gather(indices)
        return found._replace(x=self.units.to_data(found.x))


def measured(x: np.ndarray, how: str) -> Units:
    """Measures mean and standard deviation of training data (n, *shape): a constant is shifted to 0 and not scaled.

    Args:
        how: "entries": of each entry of an example; "channels": of each place of the last axis; "whole": of all.

    Raises:
        ValueError: for another word, or integers, which are pixels or tokens.
    """
    if how not in HOW:
        raise ValueError(f"standardize is {how!r}, expected {', '.join(HOW)}, or None for data as it is.")
    if not np.issubdtype(x.dtype, np.floating):
        raise ValueError(f"standardize={how!r} is for floating data; this is {x.dtype}: pixels become [-1, 1] without.")
    axes = {"entries": 0, "channels": tuple(range(x.ndim - 1)), "whole": None}[how]
    mean, scale = np.mean(x, axes, dtype=np.float64), np.std(x, axes, dtype=np.float64)
    varies = scale > 1e-6 * np.abs(mean)  # float32 has no finer steps
    return Units(np.asarray(mean), np.where(varies, scale, 1.0), float(x.min()), float(x.max()))


def standardize(dataset: Dataset, how: str) -> Dataset:
    """Standardises a data set held in memory by its training part (`measured`).

    Raises:
        ValueError: as `measured`, and for examples that come with a noise or an endpoint in their own units.
    """
    train, held_out = dataset.train, dataset.held_out
    if not isinstance(train, Arrays) or not isinstance(held_out, Arrays):
        raise ValueError(f"standardize={how!r} is for data held in memory; {dataset.name} stays in its files.")
    if beside := {"y", "z"} & {*train.given, *train.chosen}:
        raise ValueError(
            f"standardize={how!r} would change x and not its {'y' if 'y' in beside else 'z'}: standardise both in the "
            "file, and leave it out here."
        )
    units = measured(train.x, how)
    parts = [Arrays(units.to_units(part.x), part.labels, **_more(part)) for part in (train, held_out)]
    digest = fingerprint(dataset.fingerprint, how, units.mean, units.scale)
    return dataset._replace(train=parts[0], held_out=parts[1], fingerprint=digest, units=units)


def _more(part: Arrays) -> dict[str, np.ndarray]:
    return {name: value for name, value in part.given.items() if name != "label"}


def undone(dataset: Dataset) -> Dataset:
    """Gives the data set in its own units, as judges see it."""
    return dataset if dataset.units is None else dataset.units.undone(dataset)


def keep(dataset: Dataset, folder: Path) -> str:
    """Writes the units of a run's data into its folder, once; says what is wrong where others are there."""
    return "" if dataset.units is None else dataset.units.keep(dataset, folder)


def kept_units(dataset: Dataset, folder: Path | None) -> Dataset:
    """Gives the data set with the units that are kept in a run's folder, if there are any."""
    return dataset if folder is None or dataset.units is None else dataset.units.kept(dataset, folder)
