"""The card of a data set: what a draw has to know of it, as JSON, so that a run draws where its data are not.

It has shapes and dtypes, the classes with their names, the texts of captions, the labels that training has seen, and
the units that samples are brought back by; of examples it has none. A workdir keeps one, data.json, and a weights file
has one in its header.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from diffjax import disk, host
from diffjax.data.coordinate import of_card as coordinate_of_card
from diffjax.data.source import Dataset, blank, labels
from diffjax.data.units import Units
from diffjax.data.vocabulary import Vocabulary
from diffjax.method import Example
from diffjax.specs import ConfigError

FILE = "data.json"
FORMAT = 1
MOST = 2**26  # numbers of one example
MOST_CLASSES = 2**24
PUBLISHED = "published, "  # begins the fingerprint of data that weights alone came without: nobody expects it here
DTYPES = ("bool", "float16", "float32", "float64", *(f"{kind}int{8 * n}" for kind in ("", "u") for n in (1, 2, 4, 8)))


class Gone:
    """A source whose examples are not here; all that is known is what one looks like.

    Attributes:
        like: an example of zeros.
        labels: (k,) those that occur, or None.
    """

    def __init__(self, like: Example, labels: np.ndarray | None, why: str):
        self.like, self.labels, self.why = like, labels, why

    def __len__(self) -> int:
        """Raises the error that says what is missing, and why."""
        raise self.error()

    def gather(self, indices: np.ndarray) -> Example:
        """Raises the error that says what is missing, and why."""
        raise self.error()

    def error(self, instead: str = "") -> ConfigError:
        """Makes the error for whoever asks for examples; `instead` says how to do without."""
        return ConfigError(f"This needs examples of the data, which are not here: {self.why.rstrip('.')}.{instead}")


def card(dataset: Dataset) -> dict[str, Any]:
    """Describes a data set as plain JSON (`of_card`)."""
    example, units = blank(dataset), dataset.units
    shapes = lambda leaf: {"shape": list(leaf.shape), "dtype": str(leaf.dtype)}
    whole = lambda count: None if count is None else int(count)
    return {
        "format": FORMAT,
        "name": dataset.name,
        "fingerprint": dataset.fingerprint,
        "x": shapes(example.x),
        "given": {name: shapes(leaf) for name, leaf in example.given.items()},
        "chosen": {name: shapes(leaf) for name, leaf in example.chosen.items()},
        "classes": whole(dataset.classes),
        "names": None if dataset.names is None else list(dataset.names),
        "texts": None if dataset.texts is None else list(dataset.texts),
        "vocabulary": None if dataset.vocabulary is None else dataset.vocabulary._asdict(),
        "labels": None if labels(dataset.train) is None else dataset.present.tolist(),
        "levels": whole(dataset.levels),
        "unread": list(dataset.unread),
        "units": None if units is None else units.card(),
    }


def of_card(found: Any, where: str, why: str) -> Dataset:
    """Makes the data set of a card, which has no examples.

    Args:
        where: the card is from, such as a file's name.
        why: the examples are not here, for whoever asks for them.

    Raises:
        ConfigError: in one line that names `where`, for a card of a newer format or with anything else in it.
    """
    number = found.get("format", 0) if isinstance(found, dict) else 0
    if not host.is_int(number, 1) or number > FORMAT:
        raise ConfigError(
            f"{where}: the card of the data has format {str(number)[:60]}, expected {FORMAT} at most: it is of a newer "
            "diffjax, take that one."
        )
    try:
        return _dataset(found, why, Path(where).parent)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        said = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise ConfigError(f"{where}: no card of a data set: {said}") from error


def keep_card(workdir: str | Path, dataset: Dataset) -> None:
    """Writes the card of a run's data into its workdir, where there is none or another."""
    path, text = Path(workdir) / FILE, json.dumps(card(dataset))
    if len(text) > disk.LARGEST:
        print(
            f"{path} is not written, it would have {len(text):,} bytes: this run draws only with its data", flush=True
        )
        return
    try:
        if disk.read(path) == text:
            return
    except (FileNotFoundError, disk.DamagedFileError):
        pass
    disk.write(path, text)


def here_or_kept(make: Callable[[], Dataset], workdir: str | Path) -> Dataset:
    """Makes a run's data set; where it cannot be had, the one of the card in the workdir, and says so.

    Raises:
        Exception: what `make` raised, where there is no card; ConfigError for a card that is damaged.
    """
    path = Path(workdir) / FILE
    try:
        found = make()
    except (ValueError, OSError, ImportError) as error:
        try:
            kept = disk.read_json(path)
        except FileNotFoundError:
            raise error from None
        except disk.DamagedFileError as damaged:
            raise ConfigError(f"{damaged} The data cannot be had either: {error}") from damaged
        dataset = of_card(kept, str(path), f"{error}")
        if not dataset.fingerprint.startswith(PUBLISHED):
            print(f"the data are not here, their card is ({path}): {host.one_line(str(error))}", flush=True)
        return dataset
    try:
        before = disk.read_json(path).get("fingerprint")
    except (FileNotFoundError, disk.DamagedFileError):
        return found
    if before != found.fingerprint:
        print(f"{found.name} (split {found.fingerprint}) is not what the run was trained on ({before})", flush=True)
    return found


def check_here(dataset: Dataset) -> None:
    """Raises the ConfigError that says so where the examples of a data set are not here."""
    if isinstance(dataset.held_out, Gone):
        raise dataset.held_out.error()


def _dataset(found: dict[str, Any], why: str, folder: Path) -> Dataset:
    leaves = lambda part: {_text("a name", name): _zeros(name, told) for name, told in dict(found[part]).items()}
    example = Example(_zeros("x", found["x"]), leaves("given"), leaves("chosen"))
    classes, levels = (_count(name, found[name]) for name in ("classes", "levels"))
    source = Gone(example, _seen(found["labels"], classes), why)
    names = None if found["names"] is None else _texts("the name of a class", found["names"])
    if names is not None and (len(names) != classes or len(set(names)) != len(names)):
        raise ValueError(f"it has {len(names)} names of {classes} classes, expected one each.")
    return Dataset(
        _text("name", found["name"]),
        source,
        source,
        example.x.shape,
        classes,
        levels,
        _text("fingerprint", found["fingerprint"]),
        unread=_texts("unread", found["unread"]),
        names=names,
        texts=None if found.get("texts") is None else _texts("the text of a caption", found["texts"]),
        vocabulary=None if found.get("vocabulary") is None else _vocabulary(found["vocabulary"]),
        units=None if found["units"] is None else _units(found["units"], example.x.shape, folder),
    )


def _zeros(name: str, told: Any) -> np.ndarray:
    """Zeros of a shape and a dtype, which take no memory."""
    shape, dtype = told["shape"], told["dtype"]
    if not isinstance(shape, list) or len(shape) > 32 or not all(host.is_int(n, 1) for n in shape):
        raise ValueError(f"{name} has shape {str(shape)[:60]}, expected a list of a few integers >= 1.")
    if dtype not in DTYPES:
        raise ValueError(f"{name} has dtype {str(dtype)[:60]}, expected one of {', '.join(DTYPES)}.")
    if math.prod(shape) > MOST:
        raise ValueError(f"{name} has shape {str(shape)[:60]}, expected at most {MOST:,} numbers.")
    return np.broadcast_to(np.zeros((), dtype), tuple(shape))


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name} is {str(value)[:60]}, expected text.")
    return value


def _texts(name: str, values: Any) -> tuple[str, ...]:
    if not isinstance(values, list):
        raise ValueError(f"{name} is {str(values)[:60]}, expected a list of texts.")
    return tuple(_text(name, value) for value in values)


def _vocabulary(told: Any) -> Vocabulary:
    words, length = _texts("a word", list(told["words"])), _count("the length of a text", told["length"])
    if length is None or list(words) != sorted(set(words)):
        raise ValueError("the words of its texts are not in alphabetical order, each once, with a length.")
    return Vocabulary(words, length)


def _count(name: str, value: Any) -> int | None:
    if value is not None and not (host.is_int(value, 1) and value <= MOST_CLASSES):
        raise ValueError(f"{name} is {str(value)[:60]}, expected an integer from 1 to {MOST_CLASSES}, or null.")
    return value


def _seen(found: Any, classes: int | None) -> np.ndarray | None:
    if found is None:
        return None
    known = isinstance(found, list) and found and all(host.is_int(n, 0) and n < (classes or 0) for n in found)
    if not known or sorted(set(found)) != found:
        raise ValueError(f"labels are {str(found)[:60]}, expected rising integers below {classes}, the classes.")
    return np.asarray(found, np.int32)


def _units(told: Any, shape: tuple[int, ...], folder: Path) -> Any:
    if "codec" in told:
        return coordinate_of_card(told["codec"], folder)
    mean, scale, ends = (np.asarray(told[name], np.float64) for name in ("mean", "scale", "range"))
    if mean.shape not in (shape, shape[-1:], ()) or scale.shape != mean.shape or ends.shape != (2,):
        raise ValueError(f"units have shapes {mean.shape} and {scale.shape}, expected both {shape} or its last axis.")
    if not all(np.isfinite(part).all() for part in (mean, scale, ends)) or not (scale > 0).all():
        raise ValueError("units have to be finite, and their scale positive.")
    return Units(mean, scale, float(ends[0]), float(ends[1]))
