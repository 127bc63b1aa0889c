"""What a look at a data set finds before a run is made of it: labels without examples, images in another range."""

import numpy as np

from diffjax.data.source import Dataset, labels

LOOKED, DECODED = 1024, 128  # training examples that are looked at; of those that stay in files


def remarks(dataset: Dataset, labelled: bool) -> list[str]:
    """Says, a line each, what looks like a slip in a data set.

    Args:
        labelled: whether the run reads labels.
    """
    return [*(_empty(dataset) if labelled else []), *_range(dataset)]


def _empty(dataset: Dataset) -> list[str]:
    if labels(dataset.train) is None or dataset.classes is None:
        return []
    empty = np.setdiff1d(np.arange(dataset.classes), dataset.present)
    if not empty.size:
        return []
    known = labels(dataset.held_out)
    held = 0 if known is None else int(np.isin(known, empty).sum())
    low, high = int(dataset.present[0]), int(dataset.present[-1])
    if low > 0 and empty.size == low:  # whoever counts from 1 means as many classes as there are labels
        return [
            f"{dataset.name}: labels count from {low}, {low} to {high}, and are read as {dataset.classes} classes, 0 "
            f"to {high}: no training example has label {named(empty)}; subtract {low} for {high - low + 1} classes"
        ]
    unjudged = f", and {held} held-out examples of such labels are not judged" if held else ""
    return [
        f"{dataset.name}: no training example has label {named(empty)} (of 0 to {dataset.classes - 1}); samples have "
        f"such a label only if asked for{unjudged}"
    ]


def named(numbers: np.ndarray, most: int = 8) -> str:
    """Lists numbers in words, the first of many."""
    shown = ", ".join(str(int(number)) for number in numbers[:most])
    return shown if len(numbers) <= most else f"{shown}, ... ({len(numbers)} in all)"


def _range(dataset: Dataset) -> list[str]:
    bytes_ = dataset.levels is not None or getattr(getattr(dataset.train, "x", None), "dtype", None) == np.uint8
    if len(dataset.shape) != 3 or bytes_ or dataset.units is not None:
        return []
    x = dataset.some("train", LOOKED if dataset.in_memory else DECODED).x
    low, high = float(x.min()), float(x.max())
    span = f"{dataset.name}: floating images span [{low:.4g}, {high:.4g}]"
    if max(-low, high) > 1.5:
        return [f"{span}, far outside of [-1, 1], where clipping, levels and pictures expect them: scale them"]
    if low >= -0.05 or high <= 0.05:
        return [f"{span}, half of the range [-1, 1] that is expected: 2 x - 1 takes [0, 1] there"]
    return []
