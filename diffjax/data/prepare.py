"""python -m diffjax.data.prepare cifar10 --from=cifar-10-python.tar.gz [--data_dir=DIR]

Prepares a published archive as a TensorFlow Datasets data set (array_record) without TensorFlow; `data.tfds` and
TFDS itself read it. CIFAR-10 is Krizhevsky's (2009), from https://www.cs.toronto.edu/~kriz/cifar.html.
"""

import argparse
import io
import math
import sys
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from diffjax import host, pickles
from diffjax.data.tfds import ARCHIVES, default_dir

VERSION = "3.0.2"  # TFDS's own version of the same images, features and label names
FOLDER = "cifar-10-batches-py"
MEMBERS = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}
NAMES = [name for names in MEMBERS.values() for name in names]
LABELS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
LARGEST = 64 * 2**20  # bytes: a real batch has 31 million


class Split(NamedTuple):
    """A split in the order of the archive: image (N, 32, 32, 3) uint8, label (N,) 0 .. 9."""

    image: np.ndarray
    label: np.ndarray


def prepare_cifar10(archive: str | Path, data_dir: str | Path, per_batch: int = 10_000) -> Path:
    """Writes CIFAR-10 to `data_dir`/cifar10/3.0.2; the folder appears complete or not at all.

    Args:
        archive: the published "python version", cifar-10-python.tar.gz.
        per_batch: images in each of its six batches.

    Returns:
        The folder that was written.

    Raises:
        FileNotFoundError: if there is no such archive.
        FileExistsError: if the data set is there already; it is left as it is.
        ValueError: if the archive is truncated, or is another one.
    """
    target = Path(data_dir).expanduser() / "cifar10" / VERSION
    if target.exists():
        raise FileExistsError(f"{str(target)!r} is there already; remove it to prepare it again, or use --data_dir.")
    splits = read_cifar10(archive, per_batch)
    builder = _builder(splits, str(target.parent.parent))
    builder.download_and_prepare()
    return target


def read_cifar10(archive: str | Path, per_batch: int = 10_000) -> dict[str, Split]:
    """Reads the splits "train" and "test" of the archive, checked; nothing is unpacked to the disk.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is truncated, or is another one.
    """
    archive = Path(archive).expanduser()
    if not archive.is_file():
        raise FileNotFoundError(f"There is no archive {str(archive)!r}; expected cifar-10-python.tar.gz.")
    batches = {}
    try:
        with tarfile.open(archive, "r:*") as tar:
            for member in tar:
                folder, _, name = member.name.removeprefix("./").rpartition("/")
                if folder == FOLDER and name in NAMES:
                    batches[name] = _batch(_bytes(tar, member), f"{archive.name}: {member.name}", per_batch)
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{str(archive)!r} is truncated or not a tar archive: {reason}.") from error
    for name in NAMES:
        if name not in batches:
            raise ValueError(
                f"{str(archive)!r} has no {FOLDER}/{name}; expected the python version of CIFAR-10, "
                "cifar-10-python.tar.gz (not the binary or Matlab version, nor CIFAR-100)."
            )
    join = lambda names: Split(*(np.concatenate(parts) for parts in zip(*(batches[name] for name in names))))
    return {split: join(names) for split, names in MEMBERS.items()}


def _bytes(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    if file is None or member.size > LARGEST:
        raise ValueError(f"{member.name} is not a plain file of at most {LARGEST} bytes.")
    return file.read()


def _batch(content: bytes, where: str, count: int) -> Split:
    """Reads one batch file: a dictionary with b"data" (N, 3072) uint8, channel by channel, and N b"labels"."""
    try:
        batch = pickles.load(io.BytesIO(content), where, CALLS, frozenset({"numpy.ndarray"}))
    except ValueError as error:
        raise ValueError(f"{error} It is not a batch of CIFAR-10.") from error
    if isinstance(batch, dict):  # Python 3 reads the texts of Python 2 as bytes, and writes them so
        batch = {key.decode("latin1") if isinstance(key, bytes) else key: value for key, value in batch.items()}
    if not isinstance(batch, dict) or not {"data", "labels"} <= batch.keys():
        raise ValueError(f"{where} holds no 'data' and 'labels'; expected a batch of CIFAR-10.")
    data, labels = batch["data"], batch["labels"]
    data = data.array if isinstance(data, _Pixels) else data
    labels = np.asarray(labels if _integers(labels) else [], np.int64)
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.shape != (count, 3072):
        raise ValueError(f"{where}: data is {_describe(data)}, expected uint8 of shape ({count}, 3072).")
    if labels.shape != (count,) or labels.dtype.kind != "i" or labels.min() < 0 or labels.max() > 9:
        raise ValueError(f"{where}: labels are {_describe(labels)}, expected {count} integers from 0 to 9.")
    return Split(data.reshape(count, 3, 32, 32).transpose(0, 2, 3, 1), labels)


def _describe(value: Any) -> str:
    if not isinstance(value, np.ndarray):
        return type(value).__name__
    span = f" in [{value.min()}, {value.max()}]" if value.size and value.dtype.kind in "iu" else ""
    return f"{value.dtype} of shape {value.shape}{span}"


class _Bytes(pickles.Built):
    """The dtype of an array, which has to be bytes; the state that follows says how NumPy would order them."""

    def __init__(self, code: Any, *_: Any):
        if code not in (b"u1", "u1"):
            raise ValueError(f"it holds an array of dtype {str(code)[:80]!r}, expected bytes")


class _Pixels(pickles.Built):
    """An array of bytes, empty until its state gives shape and content."""

    def __init__(self, *_: Any):
        self.array = np.empty(0, np.uint8)

    def build(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise ValueError("the state of an array has not five parts")
        _, shape, dtype, by_columns, content = state
        content = content.encode("latin1") if isinstance(content, str) else content
        if not (isinstance(dtype, _Bytes) and isinstance(content, bytes) and _integers(shape) and not by_columns):
            raise ValueError("the state of an array is no shape and bytes, row after row")
        if math.prod(shape) != len(content) or min(shape, default=0) < 0:
            raise ValueError(f"an array of {len(content)} bytes says that its shape is {shape}")
        self.array = np.frombuffer(content, np.uint8).reshape(shape)


def _integers(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(host.is_int(n) and abs(n) < 2**31 for n in value)


CALLS = {
    "numpy.core.multiarray._reconstruct": _Pixels,
    "numpy._core.multiarray._reconstruct": _Pixels,
    "numpy.dtype": _Bytes,
    "_codecs.encode": lambda text, _: str.encode(text, "latin1"),  # how Python 3 writes bytes for Python 2
}


def _builder(splits: dict[str, Split], data_dir: str) -> Any:
    """Makes the TFDS builder that writes what TFDS's own "cifar10" does, from arrays instead of its download."""
    import tensorflow_datasets as tfds
    from PIL import Image

    class Cifar10(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # pyright: ignore  TFDS has the name itself
        VERSION = tfds.core.Version(VERSION)

        def _info(self) -> Any:
            features = {
                "id": tfds.features.Text(),
                "image": tfds.features.Image(shape=(32, 32, 3)),
                "label": tfds.features.ClassLabel(names=LABELS),
            }
            return tfds.core.DatasetInfo(
                builder=self,
                description="CIFAR-10 (Krizhevsky 2009): 60000 colour images, 32 x 32, in 10 classes.",
                homepage="https://www.cs.toronto.edu/~kriz/cifar.html",
                features=tfds.features.FeaturesDict(features),
                supervised_keys=("image", "label"),
            )

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            return {name: self._generate_examples(name) for name in splits}

        def _generate_examples(self, split: str) -> Iterator[tuple[int, dict]]:  # pyright: ignore
            for i, (image, label) in enumerate(zip(*splits[split])):  # i is TFDS's own key: it sets the order on disk
                yield i, {"id": f"{split}_{i:05d}", "image": Image.fromarray(image), "label": int(label)}

    return Cifar10(data_dir=data_dir, file_format="array_record")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m diffjax.data.prepare", allow_abbrev=False)
    parser.add_argument("dataset", choices=sorted(ARCHIVES))
    parser.add_argument("--from", required=True, dest="archive", metavar="FILE", help=", ".join(ARCHIVES.values()))
    parser.add_argument("--data_dir", default=default_dir(), help="default $TFDS_DATA_DIR, else ~/tensorflow_datasets")
    flags = parser.parse_args(argv)
    try:
        folder = prepare_cifar10(flags.archive, flags.data_dir)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"wrote {folder}; train with --config=configs/vpsde.py:cifar10 --config.data.data_dir={flags.data_dir}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
