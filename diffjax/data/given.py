"""What samples are given, of what a method reads: by seed where they are drawn, by held-out example where judged."""

from typing import Any

import numpy as np

from diffjax.data.names import Rows, check_classes, class_of, numbered
from diffjax.data.source import Dataset, blank, fitting
from diffjax.host import nearest
from diffjax.method import Example, Method


def asked(method: Method, dataset: Dataset) -> tuple[str, ...]:
    """Names of `given` that the method draws with: what it reads, or all that data brings."""
    return tuple(blank(dataset).given) if method.asks is None else method.asks


def given_of(method: Method, dataset: Dataset, seeds: Any, label: Any = None) -> dict[str, np.ndarray]:
    """Makes what the samples of these seeds are given, of what the method asks for.

    A label alone is `label`, or else number seed mod their number of those that occur in training; anything else is
    that of held-out example seed mod their number.
    """
    seeds, label = np.asarray(seeds, np.uint32), label_of(method, dataset, label)
    names = asked(method, dataset)
    if set(names) <= {"label"}:
        return dict.fromkeys(names, _labels(dataset.present[seeds % len(dataset.present)], label))
    return _chosen(held_out(dataset, seeds), names, label)


def followed(method: Method, dataset: Dataset, n: int, label: Any = None) -> dict[str, np.ndarray]:
    """Makes what the n samples of an evaluation are given: that of held-out examples, whose labels they then share."""
    examples = dataset.held_out.gather(dataset.places("held_out", n))
    return _chosen(examples, asked(method, dataset), label_of(method, dataset, label))


def held_out(dataset: Dataset, seeds: Any) -> Example:
    """Gathers the held-out examples that seeds stand for: in their order, of labels that training has."""
    return dataset.held_out.gather(dataset.usable[np.asarray(seeds) % len(dataset.usable)])


def _chosen(examples: Example, names: tuple[str, ...], label: Any) -> dict[str, np.ndarray]:
    given = examples.given
    return {name: _labels(given[name], label) if name == "label" else given[name] for name in names}


def _labels(own: np.ndarray, label: Any) -> np.ndarray:
    return (own if label is None else np.full(len(own), label)).astype(np.int32)


def told(method: Method, dataset: Dataset, seeds: Any, words: dict[str, Any], label: Any) -> dict[str, np.ndarray]:
    """Makes what these samples are given, with what a user says of it in the place of what the seeds stand for.

    Args:
        words: name -> one value for all samples, or one for each (n, ...).

    Raises:
        ValueError: for a name that the method does not read, a shape that is none of the two, or a label out of range.
    """
    names, first = asked(method, dataset), blank(dataset).given
    for name in words:
        if name not in names:
            raise ValueError(f"Nobody reads {name!r} of what is given: {nearest(name, names)}.")
    if without := getattr(dataset.held_out, "error", None):  # the data are not here
        needed = [name for name in names if name not in words]
        if set(names) - {"label"} and needed:
            raise without(f" Give {', '.join(f'{name}=...' for name in needed)} for each sample, or for all.")
    given = {} if set(names) <= set(words) else given_of(method, dataset, seeds, label)
    for name, value in numbered(dataset, words).items():
        given[name] = fitting(name, value, first[name], len(seeds))
    check_labels(method, dataset, given)
    return given


def known(method: Method, dataset: Dataset, words: dict[str, Any]) -> dict[str, Any]:
    """Makes what one example is given of what a user says of it, labels as numbers; ValueError as `told`."""
    given = numbered(dataset, words)
    check_labels(method, dataset, given)
    return given


def check_labels(method: Method, dataset: Dataset, given: dict[str, Any]) -> None:
    """Raises a ValueError for labels that the method has no row for, or no trained one of none."""
    labels = np.asarray(given.get("label", np.zeros(0, int)))
    if dataset.classes is None or not labels.size:
        return
    rows = rows_of(method, dataset)
    if not rows.has(labels).all():
        low, high = labels.min(), labels.max()
        raise ValueError(f"label is {low if low == high else f'{low} to {high}'}, {rows.said()}")


def check_rows(method: Method, dataset: Dataset) -> None:
    """Raises a ValueError where a method has no row for a label or a token of the data (`names.check_classes`).

    A method of tokens has `parts.check_examples`, which looks at those that are here.
    """
    look = getattr(method.parts, "check_examples", None)
    if look is not None and not hasattr(dataset.train, "error"):
        look(dataset)
    classes = getattr(getattr(method.parts, "network", None), "classes", None)
    check_classes(dataset, classes)
    condition = getattr(method.parts, "condition", None)
    none = None if condition is None else condition.none.get("label")
    if classes is None and none is not None and dataset.classes is not None and dataset.classes > none + 1:
        raise ValueError(
            f"Label {int(none)} stands for none, but {dataset.name} has labels 0 to {dataset.classes - 1}: take the "
            f"number after the last one, {dataset.classes}."
        )


def rows_of(method: Method, dataset: Dataset) -> Rows:
    """Counts the labels that a method takes, and finds the label that stands for none where training has hidden some.

    A network may have more classes than the data.
    """
    condition, classes = getattr(method.parts, "condition", None), dataset.classes or 0
    if condition is None or "label" not in condition.none:
        return Rows(classes)
    none = int(condition.none["label"])
    return Rows(max(classes, none), none if condition.share else None)


def label_of(method: Method, dataset: Dataset, label: Any) -> int | None:
    """Finds the number of the label that a user asks for by name or number.

    Raises:
        ValueError: as `class_of`, and for a label of a method that reads none.
    """
    if label is not None and "label" not in asked(method, dataset):
        raise ValueError(f"label is {label!r}, but this run reads no label: leave it out.")
    return class_of(dataset, label, rows_of(method, dataset))
