"""What a prepared data set of TensorFlow Datasets says of itself, checked before TFDS reads it.

TFDS imports the module of every feature class that features.json names, wherever Python finds it: a data set could run
code. So its own feature classes alone may be named here, and record files lie in the data set's folder and hold as many
examples as dataset_info.json says.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from diffjax.host import is_decimal

MOST_BYTES = 2**26  # of one JSON file
CLASS_KEYS = ("pythonClassName", "python_class_name", "type")  # of the present format, and of the one before
AGAIN = "prepare the data set again"


def check(folder: Path) -> None:
    """Checks dataset_info.json and features.json of a prepared data set; nothing they name is imported.

    Raises:
        ValueError: naming the file: for text that is no such JSON, a class that is none of TFDS's, or a path as a name.
    """
    info, features = (_object(folder / name) for name in ("dataset_info.json", "features.json"))
    for split in _objects(info.get("splits", []), folder / "dataset_info.json"):
        lengths = split.get("shardLengths", [])
        if not isinstance(lengths, list) or not all(is_decimal(str(n)) and int(n) < 2**48 for n in lengths):
            raise ValueError(f"{folder / 'dataset_info.json'}: shardLengths are {str(lengths)[:60]}, expected counts.")
    allowed = _feature_classes()
    for key, value in _entries(features):
        if key in CLASS_KEYS and isinstance(value, str) and value not in allowed:
            raise ValueError(
                f"{folder / 'features.json'} names the class {value!r}, which is none of TFDS's own features; data may "
                f"not name code to run: {AGAIN} with classes of tensorflow_datasets.features."
            )
        if key == "features" and isinstance(value, dict):
            for name in value:
                if "/" in name or "\\" in name or name in ("", ".", ".."):
                    raise ValueError(f"{folder / 'features.json'} has a feature {name!r}, a path: {AGAIN}.")


def check_files(folder: Path, split: str, files: list[Any]) -> None:
    """Checks that the record files of a split (TFDS's file instructions) are in the folder, and are whole.

    Raises:
        ValueError: naming the file.
    """
    here = os.path.abspath(folder)
    for file in files:
        if os.path.dirname(os.path.abspath(file.filename)) != here:
            raise ValueError(f"{folder}: split {split!r} lies at {file.filename!r}, outside of the data set: {AGAIN}.")
        if not os.path.isfile(file.filename):
            raise ValueError(f"{folder}: split {split!r} lacks {os.path.basename(file.filename)!r}: {AGAIN}.")
        count = _count(file.filename)
        if count < file.skip + file.take:
            raise ValueError(
                f"{file.filename} holds {count} examples, but dataset_info.json says {file.examples_in_shard}: {AGAIN}."
            )


def _count(file: str) -> int:
    from array_record.python.array_record_module import ArrayRecordReader

    reader = ArrayRecordReader(file)
    try:
        count = reader.num_records()
        reader.close()  # a damaged file is told of here, at the latest
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{file} is no array_record file, or a truncated one ({reason}): {AGAIN}.") from error
    return count


def _feature_classes() -> set[str]:
    import tensorflow_datasets as tfds

    kind = tfds.features.FeatureConnector
    found = [c for c in vars(tfds.features).values() if isinstance(c, type) and issubclass(c, kind) and c is not kind]
    return {f"{c.__module__}.{c.__name__}" for c in found}


def _object(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"more than {MOST_BYTES} bytes")
        found = json.loads(path.read_bytes().decode())
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read as JSON ({error}): {AGAIN}.") from error
    return _objects([found], path)[0]


def _objects(found: Any, path: Path) -> list[dict[str, Any]]:
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise ValueError(f"{path} is no description of a data set: {AGAIN}.")
    return found


def _entries(tree: Any) -> Iterator[tuple[str, Any]]:
    """Goes through every entry of every object of a JSON tree, and of JSON text inside of it."""
    if isinstance(tree, str) and tree.lstrip()[:1] in ("{", "["):
        try:
            tree = json.loads(tree)
        except (ValueError, RecursionError):
            return
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield key, value
            yield from _entries(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from _entries(value)
