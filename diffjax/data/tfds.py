"""TensorFlow Datasets without TensorFlow: prepared array_record files, read at random.

Only what is on the disk is read: nothing is downloaded, prepared or substituted here. Of each example the features that
are asked for are read, images by the decoders of `diffjax.data.images` alone.
"""

import io
import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from diffjax import host
from diffjax.data import images, tfds_metadata
from diffjax.data.records import IN_MEMORY, Columns, Records, check_readers
from diffjax.data.source import Dataset, check_flip, fingerprint
from diffjax.data.source import in_memory as arrays
from diffjax.host import nearest

SMALL = 64 * 64 * 3  # entries of an image: up to here, and of tensors, most of the work holds the interpreter's lock,
# and 16 threads take half as long again as one (experiments/benchmarks/input_rates.py)
ARCHIVES = {"cifar10": "cifar-10-python.tar.gz"}  # what diffjax.data.prepare takes


def tfds(
    dataset: str = "cifar10",
    data_dir: str | None = None,
    train: str = "train",
    held_out: str = "test",
    image: str = "image",
    label: str | None = "label",
    flip: bool = False,
    in_memory: bool | None = None,
    workers: int = 0,
) -> Dataset:
    """Opens a prepared data set of images or vectors.

    Args:
        dataset: its name, as "name", "name/config" or "name/config:1.0.0"; without a version, the newest here.
        data_dir: where data sets are; default $TFDS_DATA_DIR, else ~/tensorflow_datasets.
        train, held_out: splits in TFDS's notation, such as "train[:90%]" and "train[90%:]"; they must not overlap.
        image: the feature that holds the examples: an image, or a tensor of uint8 or floating numbers.
        label: the class feature; None for a set without.
        flip: mirror training images at random.
        in_memory: hold both splits in memory; None: if they need less than 4 GiB. Otherwise Grain reads the files.
        workers: processes that read batches of files ahead, for more small images than one process reads, some
            thousands a second; 0: none. A script that asks for them does its work below `if __name__ == "__main__":`.

    Raises:
        FileNotFoundError: if it is not there; the ways to get it are listed.
        ValueError: for another file format, unknown splits or features, splits that overlap, files that are damaged, a
            description that names other code than TFDS's features, or workers for what is held in memory.
    """
    host.check_int("workers", workers, 0)
    root = Path(data_dir or default_dir()).expanduser()
    folder = find(dataset, root)
    builder = _builder(folder, dataset)
    _check_splits(builder, dataset, train, held_out, folder)
    shape, dtype, classes = _features(builder, dataset, image, label)
    if flip:
        check_flip(shape)
    parts = [_records(builder, split, image, label, n) for split, n in ((train, workers), (held_out, 0))]
    name, levels = builder.info.name, 256 if dtype == np.uint8 else None
    names = _names(builder, label)
    fits = sum(map(len, parts)) * int(np.prod(shape)) * dtype.itemsize <= IN_MEMORY
    held = fits if in_memory is None else in_memory
    if held and workers:
        raise ValueError(
            f"workers is {workers}, but {dataset!r} is held in memory, where nothing is read: leave workers out, or "
            "set in_memory=False."
        )
    if held:
        made = arrays(name, parts[0].load(), parts[1].load(), classes=classes, levels=levels, flip=flip)
        return made._replace(names=names)
    digest = _fingerprint(builder, train, held_out, image, label)
    return Dataset(name, parts[0], parts[1], shape, classes, levels, digest, flip, names=names)


def default_dir() -> str:
    """Finds the folder of data sets by TFDS's own rule."""
    return os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"


def find(dataset: str, root: Path) -> Path:
    """Finds the folder of the newest prepared version of "name[/config][:version]" below `root`.

    Raises:
        FileNotFoundError: listing what is there, and the ways to get the rest.
    """
    name, _, wanted = dataset.partition(":")
    is_version = re.compile(r"\d+\.\d+\.\d+").fullmatch
    prepared = sorted(
        (tuple(map(int, folder.name.split("."))), folder)
        for folder in ((root / name).glob("*") if os.path.isdir(root / name) else ())
        if is_version(folder.name) and (folder / "dataset_info.json").is_file() and wanted in ("", folder.name)
    )
    if prepared:
        return prepared[-1][1]
    infos = [*root.glob("*/*/dataset_info.json"), *root.glob("*/*/*/dataset_info.json")]
    here = {info.parent.parent.relative_to(root).as_posix() for info in infos}
    get = f"tfds build {name} --file_format=array_record --data_dir={root} (on a machine with network and TensorFlow)"
    if name in ARCHIVES:
        get = f"python -m diffjax.data.prepare {name} --from={ARCHIVES[name]} --data_dir={root}; or {get}"
    raise FileNotFoundError(
        f"There is no prepared data set {dataset!r} in {str(root)!r} ({nearest(name, here)}). Ways to get it: {get}; "
        "or say where it is: --config.data.data_dir=DIR; or use your own files: --config.data.name=npz "
        "--config.data.path=FILE, or --config.data.name=folder --config.data.path=FOLDER."
    )


def _builder(folder: Path, dataset: str) -> Any:
    check_readers("grain", "array_record", "importlib_resources")
    import tensorflow_datasets
    from google.protobuf.json_format import ParseError

    tfds_metadata.check(folder)
    wrong = (ParseError, ValueError, KeyError, TypeError, AttributeError, AssertionError, OSError)
    try:
        builder = tensorflow_datasets.builder_from_directory(str(folder))
    except wrong as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"TFDS cannot read {str(folder)!r} ({reason}): {tfds_metadata.AGAIN}.") from error
    file_format = getattr(builder.info.file_format, "value", None)
    if file_format != "array_record":
        raise ValueError(
            f"{dataset!r} in {str(folder)!r} is prepared as {file_format}, which cannot be read at random; "
            "prepare it with --file_format=array_record."
        )
    return builder


def _check_splits(builder: Any, dataset: str, train: str, held_out: str, folder: Path) -> None:
    """Raises a ValueError unless both splits exist and hold examples in whole files, and no example is in both."""
    spans = []
    for split in (train, held_out):
        try:
            files = builder.info.splits[split].file_instructions
        except (KeyError, ValueError, AssertionError, IndexError, AttributeError) as error:
            if split in builder.info.splits:  # then it is its description: a template of file names, say
                where = f"{folder}: the files of split {split!r} cannot be told"
                raise ValueError(f"{where} ({error}): {tfds_metadata.AGAIN}.") from error
            known = nearest(split, builder.info.splits)
            raise ValueError(f"{dataset!r} has no split {split!r}: {known}; parts are train[:90%].") from error
        if not files:
            raise ValueError(f"The split {split!r} of {dataset!r} holds no example.")
        tfds_metadata.check_files(folder, split, files)
        spans.append([(f.filename, f.skip, f.skip + f.take) for f in files])
    shared = [(a, b) for a in spans[0] for b in spans[1] if a[0] == b[0] and max(a[1], b[1]) < min(a[2], b[2])]
    if shared:
        raise ValueError(f"The splits {train!r} and {held_out!r} of {dataset!r} share examples; they must not.")


def _features(builder: Any, dataset: str, image: str, label: str | None) -> tuple[tuple, np.dtype, int | None]:
    """Reads shape and dtype of one example, and the number of classes."""
    features = builder.info.features
    for name in (image, label):
        if name is not None and name not in features:
            raise ValueError(f"{dataset!r} has no feature {name!r}: {nearest(name, features)}.")
    shape, dtype = features[image].shape, np.dtype(features[image].np_dtype)
    if None in shape:
        raise ValueError(f"{dataset!r} has {image}s of varied shape {shape}; expected one: prepare it resized.")
    if dtype != np.uint8 and not np.issubdtype(dtype, np.floating):
        raise ValueError(f"{dataset!r} has {image}s of dtype {dtype}, expected uint8 or floating.")
    classes = None if label is None else getattr(features[label], "num_classes", None)
    if label is not None and classes is None:
        raise ValueError(f"The feature {label!r} of {dataset!r} is no class label; set label=None, or one of its own.")
    return tuple(shape), dtype, classes


def _names(builder: Any, label: str | None) -> tuple[str, ...] | None:
    """The names of the classes, where they are more than their numbers."""
    if label is None:
        return None
    found = builder.info.features[label].names
    return None if found is None or list(found) == [str(n) for n in range(len(found))] else tuple(found)


def _records(builder: Any, split: str, image: str, label: str | None, workers: int) -> Records:
    import tensorflow_datasets as tfds
    from google.protobuf.message import DecodeError
    from tensorflow_datasets.core.decode import DeserializeMethod

    examples = builder.as_data_source(split, deserialize_method=DeserializeMethod.RAW_BYTES)
    read = [name for name in (image, label) if name is not None]
    features: Any = tfds.features.FeaturesDict({name: builder.info.features[name] for name in read})
    pictures = isinstance(features[image], tfds.features.Image)
    decoders = {image: tfds.decode.SkipDecoding()} if pictures else None

    def pixels(stored: Any, index: int) -> np.ndarray:
        height, width, channels = features[image].shape
        floating = np.issubdtype(features[image].np_dtype, np.floating)  # TFDS's way: each in the bytes of a colour
        name, shape = f"{builder.data_path}: {split}[{index}]", (height, width, 4 if floating else channels)
        found = images.decode(io.BytesIO(stored), name, shape, fit=False, upright=False)
        return found.view(features[image].np_dtype) if floating else found

    def one(record: bytes, index: int) -> dict[str, Any]:
        try:
            row = features.deserialize_example_np(record, decoders=decoders)
        except (ValueError, KeyError, TypeError, AttributeError, DecodeError) as error:
            reason = str(error).partition("\n")[0]
            where = f"{builder.data_path}: {split}[{index}] is no example of these features"
            raise ValueError(f"{where} ({reason}): {tfds_metadata.AGAIN}.") from error
        return {**row, image: pixels(row[image], index)} if pictures else row

    def rows(indices: np.ndarray) -> Columns:
        try:
            stored = examples.__getitems__(indices.tolist())
        except (RuntimeError, OSError) as error:
            reason = str(error).partition("\n")[0]
            raise ValueError(
                f"{builder.data_path}: {split} cannot be read ({reason}): {tfds_metadata.AGAIN}."
            ) from error
        found = [one(record, i) for record, i in zip(stored, indices.tolist())]
        batch = {"x": np.stack([row[image] for row in found])}
        return batch if label is None else {**batch, "label": np.asarray([row[label] for row in found])}

    large = pictures and int(np.prod(features[image].shape)) > SMALL
    return Records(len(examples), rows, threads=16 if large else 1, workers=workers)


def _fingerprint(builder: Any, *options: str | None) -> str:
    """Hashes the description, the splits, names and sizes of the record files: their content is too large."""
    files = sorted(Path(builder.data_path).iterdir())
    described = [file.read_text() for file in files if file.suffix == ".json"]
    return fingerprint(*described, *((file.name, file.stat().st_size) for file in files), *options)
