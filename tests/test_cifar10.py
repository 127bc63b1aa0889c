"""CIFAR-10 from files that a user names: both published versions and images, and the files that are none."""

import io
import tarfile

import numpy as np
import pytest
from image_files import archive
from PIL import Image
from test_data_tfds import write_archive

from diffjax import data
from diffjax.data.prepare import LABELS

TRAIN = [f"data_batch_{i}.bin" for i in range(1, 6)]
NAMES = [*TRAIN, "test_batch.bin"]


def records(count=7, seed=0):
    """The six files of the binary version, by name: a class and 3 x 32 x 32 bytes for each image."""
    rng = np.random.default_rng(seed)
    made = {}
    for name in NAMES:
        label, pixels = rng.integers(0, 10, count, np.uint8), rng.integers(0, 256, (count, 3072), np.uint8)
        made[name] = (label, pixels)
    return made


def content(label, pixels):
    return np.concatenate([label[:, None], pixels], 1).tobytes()


def write_folder(root, made):
    root.mkdir(parents=True, exist_ok=True)
    for name, (label, pixels) in made.items():
        (root / name).write_bytes(content(label, pixels))


def write_tar(path, made, change=lambda content: content):
    with tarfile.open(path, "w:gz", compresslevel=1) as tar:
        for name, parts in made.items():
            body = change(content(*parts))
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            info.size = len(body)
            tar.addfile(info, io.BytesIO(body))


def image(pixels, index):
    """Pixel by pixel: the planes red, green, blue lie one after the other, row by row."""
    at = lambda row, column: [pixels[index, 1024 * channel + 32 * row + column] for channel in range(3)]
    return np.array([[at(row, column) for column in range(32)] for row in range(32)])


@pytest.mark.parametrize("packed", [True, False])
def test_the_binary_version_is_read_record_by_record(packed, tmp_path):
    made = records()
    path = tmp_path / ("cifar-10-binary.tar.gz" if packed else "batches")
    (write_tar if packed else write_folder)(path, made)
    found = data.cifar10(str(path), per_batch=7, flip=True)
    assert (found.shape, found.classes, found.levels, found.names) == ((32, 32, 3), 10, 256, LABELS)
    assert (len(found.train), len(found.held_out), found.flip) == (35, 7, True)
    for part, names in ((found.train, TRAIN), (found.held_out, NAMES[5:])):
        labels = np.concatenate([made[name][0] for name in names])
        np.testing.assert_array_equal(part.labels, labels)  # pyright: ignore
    for place in (0, 9, 34):
        own = image(made[TRAIN[place // 7]][1], place % 7)
        np.testing.assert_allclose(found.train.gather(np.array([place])).x[0], own / 127.5 - 1, atol=1e-6)


def test_the_python_version_is_the_same_data_set(tmp_path):
    """The very images in both versions have one fingerprint."""
    batches = write_archive(tmp_path / "python.tar.gz", 5)
    made = {f"{name}.bin": (np.asarray(label, np.uint8), pixels) for name, (pixels, label) in batches.items()}
    write_folder(tmp_path / "binary", made)
    both = [data.cifar10(str(tmp_path / name), per_batch=5) for name in ("python.tar.gz", "binary")]
    assert both[0].fingerprint == both[1].fingerprint
    assert len(both[0].train) == 25


def paint(root, per_class, seed=0, size=32, names=LABELS):
    """PNGs in a folder for each class; gives {bytes of an image: its class}."""
    rng, written = np.random.default_rng(seed), {}
    for number, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for index in range(per_class):
            pixels = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{index:04d}.png")
            written[pixels.tobytes()] = number
    return written


def test_images_in_folders_of_classes(tmp_path):
    train, test = (paint(tmp_path / name, 2, seed) for seed, name in enumerate(("train", "test")))
    zips = [archive(tmp_path / f"{name}.zip", tmp_path / name) for name in ("train", "test")]
    found = data.cifar10(zips[0], test=zips[1])
    assert (found.shape, found.classes, found.names, found.name) == ((32, 32, 3), 10, LABELS, "cifar10")
    for part, written in ((found.train, train), (found.held_out, test)):
        seen = {pixels.tobytes(): int(label) for pixels, label in zip(part.x, part.labels)}  # pyright: ignore
        assert seen == written
    alone = data.cifar10(str(tmp_path / "train"))
    assert (len(alone.train) + len(alone.held_out), alone.names) == (20, LABELS)


def test_a_held_out_file_that_is_not_there_is_told_before_the_other_is_read(tmp_path):
    """What is at `path` is no image at all, which reading it would say."""
    (tmp_path / "train" / "cat").mkdir(parents=True)
    with pytest.raises(
        FileNotFoundError, match=r"no file or folder '.*test.zip', the images that data.cifar10 holds out"
    ):
        data.cifar10(str(tmp_path / "train"), test=str(tmp_path / "test.zip"))


def wrong_class(body):
    return body[: 3073 * 2] + b"\x0b" + body[3073 * 2 + 1 :]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda body: body[:-1], r"data_batch_1.bin has 21,510 bytes, expected 7 x 3073"),
        (lambda body: body + b"\0", r"data_batch_1.bin has more bytes, expected 7 x 3073.*CIFAR-100 has two classes"),
        (wrong_class, r"record 2 of data_batch_1.bin has class 11, expected 0 to 9"),
    ],
)
def test_records_of_another_kind_are_refused(change, said, tmp_path):
    write_tar(tmp_path / "a.tar.gz", records(), change)
    with pytest.raises(ValueError, match=said) as error:
        data.cifar10(str(tmp_path / "a.tar.gz"), per_batch=7)
    assert "\n" not in str(error.value)


def test_paths_that_are_no_cifar10_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"data.cifar10 needs path=.*--config.data.path=FILE"):
        data.cifar10("")
    with pytest.raises(FileNotFoundError, match=r"There is no file or folder .*none"):
        data.cifar10(str(tmp_path / "none"))
    (tmp_path / "text.bin").write_bytes(b"hello")
    with pytest.raises(ValueError, match=r"is no zip archive"):
        data.cifar10(str(tmp_path / "text.bin"))
    made = records()
    write_tar(tmp_path / "whole.tar.gz", made)
    with pytest.raises(ValueError, match=r"has the published split: leave test='x' out"):
        data.cifar10(str(tmp_path / "whole.tar.gz"), test="x", per_batch=7)
    (tmp_path / "half.tar.gz").write_bytes((tmp_path / "whole.tar.gz").read_bytes()[:60_000])
    with pytest.raises(ValueError, match=r"half.tar.gz' is truncated or damaged"):
        data.cifar10(str(tmp_path / "half.tar.gz"), per_batch=7)
    write_folder(tmp_path / "five", {name: made[name] for name in TRAIN})
    with pytest.raises(ValueError, match=r"five' has no test_batch.bin; expected data_batch_1.bin, "):
        data.cifar10(str(tmp_path / "five"), per_batch=7)
    with tarfile.open(tmp_path / "other.tar.gz", "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("cifar-100-python/train"), io.BytesIO())
    with pytest.raises(ValueError, match=r"expected the python version of CIFAR-10.*nor CIFAR-100"):
        data.cifar10(str(tmp_path / "other.tar.gz"))
    (tmp_path / "unpacked").mkdir()
    (tmp_path / "unpacked" / "data_batch_1").write_bytes(b"")
    with pytest.raises(ValueError, match=r"is the python version, unpacked: give path= its cifar-10-python.tar.gz"):
        data.cifar10(str(tmp_path / "unpacked"))


@pytest.mark.parametrize(("size", "names"), [(16, LABELS), (32, LABELS[:9]), (32, (*LABELS[:9], "van"))])
def test_images_of_another_set_are_refused(size, names, tmp_path):
    paint(tmp_path / "a", 2, size=size, names=names)
    with pytest.raises(ValueError, match=r"is not CIFAR-10: .*expected 32 x 32, and the sub-folders airplane, auto"):
        data.cifar10(str(tmp_path / "a"))
