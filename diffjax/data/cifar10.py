"""CIFAR-10 (Krizhevsky 2009): 60,000 colour images of 32 x 32 in ten classes, from files that the user names.

    binary version   cifar-10-binary.tar.gz, or the folder in it: records of 1 + 3072 bytes, a class and an image,
                     channel by channel; data_batch_1.bin to data_batch_5.bin are trained on, test_batch.bin is held out
    python version   cifar-10-python.tar.gz, of which no pickle is run (`pickles`)
    images           a folder or a zip with a sub-folder for each class; a second one, `test`, is held out

The two published versions hold the same images in the same order. Copies of images as JPEG are other images: a distance
measured on them stands beside no published figure.
"""

import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from diffjax.data.folder import folder
from diffjax.data.prepare import LABELS, Split, read_cifar10
from diffjax.data.source import Arrays, Dataset, in_memory

MEMBERS = {"train": [f"data_batch_{i}.bin" for i in range(1, 6)], "test": ["test_batch.bin"]}
SIDE, PER_BATCH = 32, 10_000
RECORD = 1 + 3 * SIDE**2  # bytes


def cifar10(path: str, test: str | None = None, flip: bool = False, per_batch: int = PER_BATCH) -> Dataset:
    """Reads CIFAR-10: x (32, 32, 3) in [-1, 1], labels 0 .. 9 with the published names.

    Args:
        path: of an archive or a folder of the binary version, of the python version's archive, or of images.
        test: a folder or zip of images to hold out beside a `path` of images; None: a tenth of those, by their names.
        flip: mirror training images at random.
        per_batch: images in each of the six published files.

    Raises:
        FileNotFoundError: if there is nothing at a path.
        ValueError: for files that are none of the three, are truncated, or have a class above 9.
    """
    if not path:
        raise ValueError("data.cifar10 needs path=, such as cifar-10-binary.tar.gz: --config.data.path=FILE.")
    where = Path(path).expanduser()
    if not where.exists():
        raise FileNotFoundError(f"There is no file or folder {str(where)!r} for data.cifar10.")
    names = [name for names in MEMBERS.values() for name in names]
    found = dict(_members(where, names, per_batch * RECORD))
    packed = where.is_file() and tarfile.is_tarfile(where)
    if not packed and not found:
        if (where / "data_batch_1").is_file():
            raise ValueError(f"{str(where)!r} is the python version, unpacked: give path= its cifar-10-python.tar.gz.")
        return _images(path, test, flip)
    if test is not None:
        raise ValueError(f"{str(where)!r} has the published split: leave test={test!r} out.")
    if found:
        missing = [name for name in names if name not in found]
        if missing:
            raise ValueError(f"{str(where)!r} has no {missing[0]}; expected {', '.join(names)}, all of them.")
        splits = {part: _split(where, names, found, per_batch) for part, names in MEMBERS.items()}
    else:
        splits = read_cifar10(where, per_batch)
    parts = [Arrays(splits[part].image, splits[part].label) for part in MEMBERS]
    return in_memory("cifar10", *parts, classes=len(LABELS), levels=256, flip=flip)._replace(names=LABELS)


def _members(where: Path, names: list[str], size: int) -> Iterator[tuple[str, bytes]]:
    """Finds the files of the binary version in a folder or a tar archive, each of at most `size` + 1 bytes."""
    if where.is_dir():
        for name in names:
            if (where / name).is_file():
                with open(where / name, "rb") as file:
                    yield name, file.read(size + 1)
        return
    if not tarfile.is_tarfile(where):
        return
    try:
        with tarfile.open(where, "r:*") as tar:
            for member in tar:
                name = member.name.rpartition("/")[2]
                if name in names and (file := tar.extractfile(member)) is not None:
                    yield name, file.read(size + 1)
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{str(where)!r} is truncated or damaged: {str(error).partition(chr(10))[0]}.") from error


def _split(where: Path, names: list[str], found: dict[str, bytes], per_batch: int) -> Split:
    """Reads the records of some files: images (N, 32, 32, 3) and labels (N,)."""
    for name in names:
        if len(found[name]) != per_batch * RECORD:
            more = "more" if len(found[name]) > per_batch * RECORD else f"{len(found[name]):,}"
            raise ValueError(
                f"{str(where)!r}: {name} has {more} bytes, expected {per_batch} x {RECORD}, a class and an image of "
                f"{SIDE} x {SIDE} x 3 each (CIFAR-100 has two classes each)."
            )
    records = np.frombuffer(b"".join(found[name] for name in names), np.uint8).reshape(-1, RECORD)
    label = records[:, 0].astype(np.int32)
    if label.max() >= len(LABELS):
        at = int(np.flatnonzero(label >= len(LABELS))[0])
        name, place = names[at // per_batch], at % per_batch
        raise ValueError(f"{str(where)!r}: record {place} of {name} has class {label[at]}, expected 0 to 9.")
    return Split(records[:, 1:].reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1), label)


def _images(path: str, test: str | None, flip: bool) -> Dataset:
    """Reads images in a sub-folder for each class; those of `test`, where it is given, are held out, all of them."""
    if test is not None and not Path(test).expanduser().exists():  # before all of `path` is read
        raise FileNotFoundError(f"There is no file or folder {test!r}, the images that data.cifar10 holds out (test=).")
    train = _checked(path, flip)
    if test is None:
        return train._replace(name="cifar10")
    parts = [_whole(part) for part in (train, _checked(test, flip))]
    made = in_memory("cifar10", *parts, classes=len(LABELS), levels=256, flip=flip)
    return made._replace(names=LABELS, decode=train.decode)


def _checked(path: str, flip: bool) -> Dataset:
    found = folder(path, flip=flip, in_memory=True)
    if found.names != LABELS or found.shape != (SIDE, SIDE, 3):
        what = f"images of {found.shape[0]} x {found.shape[1]} in {len(found.names or ())} sub-folders"
        raise ValueError(
            f"{path!r} is not CIFAR-10: {what}; expected {SIDE} x {SIDE}, and the sub-folders {', '.join(LABELS)}."
        )
    return found


def _whole(dataset: Dataset) -> Arrays:
    """Joins the two parts of a data set in memory."""
    parts: Any = (dataset.train, dataset.held_out)
    return Arrays(*(np.concatenate(leaves) for leaves in zip(*((part.x, part.labels) for part in parts))))
