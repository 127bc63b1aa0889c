"""Images with captions: a folder or a zip of images, and a file captions.jsonl in it with a line of JSON for each.

    {"image": "1f34e.png", "name": "RED APPLE", "category": "Food & Drink", "base": true}

`image` is a path in the tree, or the end of one. One field is the caption, whose text stays as it is: an example has
its number, given["caption"], and the data set the texts by number (`Dataset.texts`). What a network reads of a text is
given["text"], its words as tokens (`data.vocabulary`), where they are asked for. Examples of one caption are in one
part: emoji have up to six skin tones under one name, of which a random split would train on some and hold out others.
A held-out caption of words that training has is then a combination of them that nobody has shown to a network.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from diffjax import host
from diffjax.data import images, splits
from diffjax.data.folder import SHARE, reader, shape_of
from diffjax.data.images import SUFFIXES, Background
from diffjax.data.records import IN_MEMORY
from diffjax.data.source import Arrays, Dataset, fingerprint, in_memory
from diffjax.data.tree import LABELS, MOST_BYTES, Tree, tree
from diffjax.data.vocabulary import Vocabulary, vocabulary_of, words_of
from diffjax.metrics import attributes

FILE = "captions.jsonl"
Entry = dict[str, Any]


def captioned(
    path: str,
    size: int | None = None,
    channels: int = 3,
    background: Background = None,
    caption: str = "name",
    label: str | None = None,
    only: str | None = None,
    held_out: float = SHARE,
    words: int | None = None,
    length: int | None = None,
) -> Dataset:
    """Makes a data set of captioned images (H, W, channels) in [-1, 1], with given["caption"], maybe text and label.

    Texts are words, and samples are judged by what can be read of them (`metrics.attributes`), whether a network reads
    texts or not. How many words of captions are too rare to be told is said.

    Args:
        path, size, channels, background: as of `data.folder`.
        caption: the field whose text is the caption.
        label: the field whose text is the class, in alphabetical order; None: no labels.
        only: a field that has to be true, such as "base", emoji in their first skin tone; None: all images.
        held_out: the probability that a caption is held out, by a hash of its text.
        words: how many training captions have to have a word, so that it is a token of given["text"]; None: none is.
        length: words of a text at most; None: those of the longest caption.

    Raises:
        FileNotFoundError: if there is no such folder or zip.
        ValueError: for one without captions.jsonl, a line that is no such JSON, an image that is missing or cannot be
            used, a word count that no word has, or a length that a caption goes beyond.
    """
    if not path:
        raise ValueError("data.captioned needs path=, a folder or zip of images with captions.jsonl in it.")
    if channels not in images.MODES:
        raise ValueError(f"captioned: channels is {channels!r}, expected 1, 3 or 4.")
    if length is not None and words is None:
        raise ValueError("captioned: length says how many words a text has, but words is None: set words=2.")
    if size is not None and not host.is_int(size, 1):
        raise ValueError(f"captioned: size is {size!r}, expected a positive number of pixels, or None.")
    images.check_background(background, channels)
    files = tree(path, (*SUFFIXES, ".jsonl"), "data.captioned")
    entries = _entries(files, caption, label, only)
    names = _placed(files, [entry["image"] for entry in entries])
    texts, number = np.unique([entry[caption] for entry in entries], return_inverse=True)
    out = splits.by_name([entry[caption] for entry in entries] if words is None else _alike(texts, number), held_out)
    given, classes = {"caption": number.reshape(-1).astype(np.int32)}, None
    if label is not None:
        kinds, of_each = np.unique([entry[label] for entry in entries], return_inverse=True)
        given["label"], classes = of_each.reshape(-1).astype(np.int32), tuple(map(str, kinds))
    known = None if words is None else _vocabulary(texts[number.reshape(-1)], out, words, length)
    if known is not None:
        given["text"] = np.stack([known.tokens(str(text), rare=True) for text in texts])[number.reshape(-1)]
    shape = shape_of(files, names, size, channels)
    if len(names) * int(np.prod(shape)) > IN_MEMORY:
        raise ValueError(f"{files.where!r} has {len(names)} images of {shape}, more than fit in memory: give a size=.")
    read = reader(files, names, shape, background, fit=size is not None)
    whole = Arrays(read(range(len(names))), **given)
    name, count = Path(files.where).name.removesuffix(".zip"), None if classes is None else len(classes)
    made = in_memory(name, whole.part(~out), whole.part(out), classes=count, levels=256)
    said = tuple(map(str, texts))
    digest = fingerprint(made.fingerprint, said, *(() if known is None else (known.words,)))
    made = made._replace(names=classes, texts=said, fingerprint=digest, unread=("label", "caption", "text"))
    return made if known is None else made._replace(vocabulary=known, judge=attributes.judge, least=attributes.LEAST)


def _alike(texts: np.ndarray, number: np.ndarray) -> list[str]:
    """The caption of each image, or the first one with its words: capitals and commas are nothing that is told."""
    first: dict[str, str] = {}
    of_each = [first.setdefault(" ".join(words_of(str(text))), str(text)) for text in texts]
    return [of_each[at] for at in number.reshape(-1)]


def _vocabulary(texts: np.ndarray, out: np.ndarray, least: int, length: int | None) -> Vocabulary:
    """The vocabulary of the training captions among those of each image (N,), and a line on what it leaves out."""
    training, others = (list(map(str, np.unique(part))) for part in (texts[~out], texts[out]))
    found = vocabulary_of(training, map(str, texts), least, length)
    known = set(found.words)
    rare, new = ({word for text in part for word in words_of(text)} - known for part in (training, others))
    lost, unread = (sum(not words_of(text) or not known >= set(words_of(text)) for text in part)
                    for part in (training, others))  # fmt: skip
    host.say_once(
        f"captioned: {len(found.words)} words of {least} or more training captions are told, all others read as one, "
        f"unknown: {len(rare)} rarer ones, in {lost} of {len(training)} training captions, and {len(new - rare)} that "
        f"held-out captions alone have; {unread} of these {len(others)} have an unknown word"
    )
    return found


def _entries(files: Tree, caption: str, label: str | None, only: str | None) -> list[Entry]:
    """Reads the lines of captions.jsonl, those alone whose field `only` is true."""
    where = f"{files.where}: {FILE}"
    if FILE not in files.names:
        raise ValueError(f"{files.where!r} has no {FILE}; expected a line of JSON for each image there.")
    if files.bytes(FILE) > MOST_BYTES:
        raise ValueError(f"{where} has {files.bytes(FILE)} bytes, expected at most {MOST_BYTES}.")
    file = files.open(FILE)
    content = Path(file).read_bytes() if isinstance(file, str) else file.read()
    of, found = {"caption": caption} | ({} if label is None else {"label": label}), []
    for count, line in enumerate(content.splitlines(), 1):
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{where}, line {count}: it is no JSON ({error}).") from error
        lacks = lambda field: not isinstance(entry, dict) or not isinstance(entry.get(field), str)  # noqa: B023
        if lacks("image"):
            has = ", ".join(entry) if isinstance(entry, dict) else type(entry).__name__
            raise ValueError(f"{where}, line {count}: no text 'image'; it has {has[:200]}.")
        for option, field in of.items():
            if lacks(field):
                none = ", or None for no classes" if option == "label" else ""
                raise ValueError(
                    f"{where}, line {count}: no text {field!r}; it has {', '.join(entry)[:200]}: {option}= "
                    f"(--config.data.{option}=) names another field{none}."
                )
        if only is not None and not isinstance(entry.get(only), bool):
            may = [field for field, value in entry.items() if isinstance(value, bool)]
            known = f": {host.nearest(only, may)}" if may and only not in entry else ""
            got = repr(entry[only])[:60] if only in entry else "not there"
            raise ValueError(
                f"{where}, line {count}: {only!r} is {got}, expected a field that is true or false{known}; "
                "only=None (--config.data.only=None) takes all lines."
            )
        if only is None or entry[only]:
            found.append(entry)
    if not found:
        raise ValueError(f"{where} has no line{'' if only is None else f' whose {only!r} is true'}.")
    return found


def _placed(files: Tree, wanted: list[str]) -> list[str]:
    """Finds the path of each image in the tree: its own, or the only one that ends in it."""
    names = {name for name in files.names if name not in (LABELS, FILE)}
    ends: dict[str, list[str]] = {}
    for name in sorted(names):
        parts = name.split("/")
        for first in range(len(parts)):
            ends.setdefault("/".join(parts[first:]), []).append(name)
    found = []
    for image in wanted:
        places = [image] if image in names else ends.get(image, [])
        if len(places) != 1:
            what = "is not there" if not places else f"may be {places[0]} or {places[1]}"
            raise ValueError(f"{files.where}: {FILE} names the image {image!r}, which {what}.")
        found.append(places[0])
    return found
