"""Class names: which class has which number, kept with a run, read from a user's words, and said in reports."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from diffjax import disk, host
from diffjax.data.source import Dataset

FILE = "labels.json"  # of a workdir: {"0": "cat", "1": "dog"}
SHOWN = 20  # classes that a report names one by one


class Rows(NamedTuple):
    """The labels that a method knows: 0 .. classes - 1, and what stands for none where training has hidden labels."""

    classes: int
    none: int | None = None

    def has(self, label: Any) -> np.ndarray:
        """Tells which labels there are, of any shape."""
        label = np.asarray(label)
        known = (label >= 0) & (label < self.classes)
        return known if self.none is None else known | (label == self.none)

    def said(self) -> str:
        """Says which labels there are, to end an error message."""
        if self.none is not None:
            return f"expected 0 to {self.classes - 1}, or {self.none} for no label."
        return (
            f"expected 0 to {self.classes - 1}; no number stands for no label, since training hid none "
            "(train.label_dropout, or Condition(none, share))."
        )


def class_of(dataset: Dataset, label: Any, rows: Rows | None = None) -> int | None:
    """Finds the number of a class by its name or its number; None stays None.

    Args:
        rows: the labels that there are; default those of the data.

    Raises:
        ValueError: for a name or a number that there is not, or a number that is the name of another class.
    """
    names, classes = dataset.names, dataset.classes
    if label is None or (classes is None and host.is_int(label)):
        return label
    if isinstance(label, str):
        if names is None:
            known = "has no labels" if classes is None else f"has no class names: give a number, 0 to {classes - 1}"
            raise ValueError(f"label is {label!r}, but {dataset.name} {known}.")
        if label not in names:
            raise ValueError(f"label is {label!r}, which is no class of {dataset.name}: {host.nearest(label, names)}.")
        return names.index(label)
    rows = Rows(classes or 0) if rows is None else rows
    if not host.is_int(label) or not rows.has(label):
        raise ValueError(f"label is {label!r}, {rows.said()}")
    if names is not None and str(label) in names and names.index(str(label)) != label:
        own = f", class {label} is named {names[label]!r}" if label < len(names) else ""
        raise ValueError(
            f"label is {label}, but the class named '{label}' has number {names.index(str(label))}{own}: give the name "
            "in quotes, such as \"'2'\"."
        )
    return int(label)


def numbered(dataset: Dataset, given: dict[str, Any]) -> dict[str, Any]:
    """Puts numbers in the place of words, in what a user says of samples: of a class by its name, tokens of a text."""
    if "text" in given and dataset.vocabulary is not None:
        given = {**given, "text": dataset.vocabulary.rows(given["text"])}
    if "label" not in given:
        return given
    label = given["label"]
    if isinstance(label, str):
        return {**given, "label": class_of(dataset, label)}
    if isinstance(label, list | tuple | np.ndarray) and any(isinstance(one, str) for one in label):
        return {**given, "label": np.asarray([class_of(dataset, one) for one in label])}
    return given


def describe(dataset: Dataset) -> str:
    """Says in one line how many examples there are, and which class has which number."""
    sizes = f"{len(dataset.train)} training and {len(dataset.held_out)} held-out examples of {dataset.name}"
    if dataset.names is None:
        return sizes
    names = [f"{number} {name}" for number, name in enumerate(dataset.names)]
    more = "" if len(names) <= SHOWN else f", ... ({len(names)} in {FILE})"
    return f"{sizes}, classes {', '.join(names[:SHOWN])}{more}"


def check_classes(dataset: Dataset, classes: int | None) -> None:
    """Raises a ValueError where a network of so many classes has no row for a label of the data.

    A network of more classes goes on from one of other data; a line says so (`methods.evaluation.remarks`).
    """
    if classes is not None and (dataset.classes is None or dataset.classes > classes):
        raise ValueError(
            f"model.classes is {classes}, but {dataset.name} has {dataset.classes or 'no'} labels: set it to "
            f"{dataset.classes}."
        )


def keep_names(workdir: str | Path, dataset: Dataset, begun: bool = True) -> None:
    """Writes the class names into a workdir; where a run has begun, checks that its names are those of the data.

    Raises:
        ValueError: where a class has another number, or another name, than when the run began.
    """
    file = Path(workdir) / FILE
    now = None if dataset.names is None else {str(number): name for number, name in enumerate(dataset.names)}
    if begun:
        before = _kept(file)
        if before is not None and before != now:
            known = "no names" if now is None else host.listed(list(now.values()))
            then = host.listed(list(map(str, before.values())))
            raise ValueError(
                f"{file} names the classes {then}, but those of {dataset.name} are {known}: a label would mean "
                "another class. Bring the data back, or give another --workdir."
            )
    elif now is None:
        file.unlink(missing_ok=True)
    else:
        disk.write(file, json.dumps(now, indent=2))


def _kept(file: Path) -> dict[str, Any] | None:
    """Reads the names; None where there are none, or no such JSON: they are a record, no part of the state."""
    try:
        return disk.read_json(file)
    except (OSError, ValueError):
        return None
