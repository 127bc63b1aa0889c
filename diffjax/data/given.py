"""What samples are given, of what a method reads: by seed where they are drawn, by held-out example where judged."""

from typing import Any

import numpy as np

from diffjax.data import vocabulary
from diffjax.data.names import Rows, check_classes, class_of, numbered
from diffjax.data.source import Arrays, Dataset, blank, fitting
from diffjax.data.vocabulary import are_texts
from diffjax.host import nearest
from diffjax.method import Example, Method
from diffjax.types import NULL

LOOKED_AT = 512  # training examples, at most, that `Prepare.check` sees


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


def followed(method: Method, dataset: Dataset, n: int, label: Any = None, text: Any = None) -> dict[str, np.ndarray]:
    """Makes what the n samples of an evaluation are given: that of held-out examples, whose labels they then share.

    A label and a text of the user are those of all samples; of several texts sample i has number i mod their number.
    """
    examples = dataset.held_out.gather(dataset.places("held_out", n))
    given = _chosen(examples, asked(method, dataset), label_of(method, dataset, label))
    return given if text is None else told(method, dataset, range(n), {**given, "text": in_turn(text, range(n))}, None)


def held_out(dataset: Dataset, seeds: Any) -> Example:
    """Gathers the held-out examples that seeds stand for: in their order, of labels that training has."""
    return dataset.held_out.gather(dataset.usable[np.asarray(seeds) % len(dataset.usable)])


def _chosen(examples: Example, names: tuple[str, ...], label: Any) -> dict[str, np.ndarray]:
    given = examples.given
    return {name: _labels(given[name], label) if name == "label" else given[name] for name in names}


def _labels(own: np.ndarray, label: Any) -> np.ndarray:
    return (own if label is None else np.full(len(own), label)).astype(np.int32)


def in_turn(text: Any, seeds: Any) -> Any:
    """Gives a text for all seeds, or of several texts number seed mod their number, as labels are."""
    texts = _texts_of(text)
    return text if isinstance(text, str) else [texts[int(seed) % len(texts)] for seed in seeds]


def _texts_of(text: Any) -> list[str]:
    if not are_texts(texts := [text] if isinstance(text, str) else text):
        raise ValueError(f"text is {text!r}, expected words, or several texts; a number in quotes: \"'7'\".")
    return list(texts)


def told(
    method: Method, dataset: Dataset, seeds: Any, words: dict[str, Any], label: Any, text: Any = None
) -> dict[str, np.ndarray]:
    """Makes what these samples are given, with what a user says of it in the place of what the seeds stand for.

    Args:
        words: name -> one value for all samples, or one for each (n, ...); of texts their words will do. None is no
            text, and no label.
        label, text: of samples that `words` says nothing of; several texts as `in_turn`.

    Raises:
        ValueError: for a name that the method does not read, a shape that is none of the two, another number of texts
            than of samples, a label out of range, or a text that is longer than those of the data, or has a word that
            they have not.
    """
    words = words if text is None else {"text": in_turn(text, seeds), **words}
    names, first = asked(method, dataset), blank(dataset).given
    for name in words:
        if name not in names:
            raise ValueError(f"Nobody reads {name!r} of what is given: {nearest(name, names)}.")
    if without := getattr(dataset.held_out, "error", None):  # the data are not here
        words = words if label is None or "label" not in names else {"label": label, **words}
        needed = [name for name in names if name not in words]
        if set(names) - {"label"} and needed:
            raise without(f" Give {', '.join(f'{name}=...' for name in needed)} for each sample, or for all.")
    if are_texts(texts := words.get("text", ())) and len(texts) != len(seeds):
        raise ValueError(f"Got {len(texts)} texts for {len(seeds)} samples, expected a text for all, or one for each.")
    words = _without_none(method, dataset, words)
    given = {} if set(names) <= set(words) else given_of(method, dataset, seeds, label)
    for name, value in numbered(dataset, words).items():
        given[name] = fitting(name, value, first[name], len(seeds))
    check_labels(method, dataset, given)
    if "text" in words:
        check_text(method, given["text"])
    return given


def _without_none(method: Method, dataset: Dataset, words: dict[str, Any]) -> dict[str, Any]:
    """Puts the number of no label in the place of a label that is None."""
    if "label" not in words or words["label"] is not None:
        return words
    if (rows := rows_of(method, dataset)).none is None:
        raise ValueError(f"label is None, {rows.said()}")
    return {**words, "label": rows.none}


def known(method: Method, dataset: Dataset, words: dict[str, Any]) -> dict[str, Any]:
    """Makes what one example is given of what a user says of it, labels as numbers; ValueError as `told`."""
    given = numbered(dataset, _without_none(method, dataset, words))
    check_labels(method, dataset, given)
    if "text" in given:
        check_text(method, given["text"])
    return given


def check_words(method: Method, dataset: Dataset, label: Any, text: Any) -> None:
    """Raises the ValueError that a draw by this label and these texts would raise: names, words and lengths."""
    label_of(method, dataset, label)
    if text is None:
        return
    if "text" not in asked(method, dataset):
        raise ValueError(f"text is {text!r}, but this run reads no text: leave it out.")
    if dataset.vocabulary is None:
        raise ValueError(
            f"text is {text!r}, but {dataset.name} has tokens without words: give given['text'] in Python."
        )
    check_text(method, dataset.vocabulary.rows(_texts_of(text)))


def check_text(method: Method, text: Any) -> None:
    """Raises a ValueError for a user's tokens that the method has no row for, or no trained one of no text."""
    if not _texts(method):
        return
    vocabulary.check(text, _texts(method), "given['text']")
    condition = getattr(method.parts, "condition", None)
    hidden = condition is not None and "text" in condition.none and (condition.share or condition.apart)
    if not hidden and (np.asarray(text) == NULL).any():
        raise ValueError(
            "given['text'] has no words, but training showed all texts (train.label_dropout, or Condition(none, share))"
            ": give one or more."
        )


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

    A method has `parts.check_examples`, which looks at those that are here, real numbers or tokens; so may
    `Prepare.check`.
    """
    look = getattr(method.parts, "check_examples", None)
    here = not hasattr(dataset.train, "error")
    if look is not None and here:
        look(dataset)
    if here and method.prepare is not None and method.prepare.check is not None:
        method.prepare.check(dataset.some("train", LOOKED_AT))
    classes = getattr(getattr(method.parts, "network", None), "classes", None)
    check_classes(dataset, classes)
    _check_texts(_texts(method), dataset)
    condition = getattr(method.parts, "condition", None)
    none = None if condition is None else condition.none.get("label")
    if classes is None and none is not None and dataset.classes is not None and dataset.classes > none + 1:
        raise ValueError(
            f"Label {int(none)} stands for none, but {dataset.name} has labels 0 to {dataset.classes - 1}: take the "
            f"number after the last one, {dataset.classes}."
        )


def _texts(method: Method) -> tuple[int, ...]:
    """The tokens and places of the texts that the method's network reads, () where it reads none, or none knows."""
    return getattr(getattr(method.parts, "network", None), "text", ())


def _check_texts(sizes: tuple[int, ...], dataset: Dataset) -> None:
    """Raises a ValueError where a network has no row for a token of the data, or another number of places."""
    text = blank(dataset).given.get("text")
    if not sizes or text is None:
        return
    known = dataset.vocabulary
    if known is not None and known.sizes[0] > sizes[0]:
        raise ValueError(
            f"model.text is {sizes}, but {dataset.name} has {known.sizes[0]} tokens: set it to {known.sizes}."
        )
    parts = [part.given["text"] for part in (dataset.train, dataset.held_out) if isinstance(part, Arrays)]
    for part in parts or [np.full_like(text, NULL)]:
        vocabulary.check(part, sizes, f"The text of {dataset.name}")


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
