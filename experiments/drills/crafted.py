"""What hostile inputs are made of: a run to ask of, and files that were never written by the library."""

import json
import os
import random
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

SMALL = tuple(
    f"--config.{text}"
    for text in (
        *("data.name=moons", "model.name=MLP", "model.width=16", "model.depth=1", "target.name=V"),
        *("train.steps=10", "train.log_every=10", "train.sample_every=10", "checkpoint.every=10"),
        *("eval.samples=64", "grid.n=4", "learning_rate.warmup_steps=2", "sample.chunk=16"),
    )
)
TRAIN = ("--config=configs/vpsde.py:tiny", *SMALL, "--workdir=work")
SAMPLE = ("--mode=sample", "--workdir=work", "--out=out", "--seeds=0-3")
OWN = "from diffjax.config import *\ndef get_config(v):\n c = recipe()\n c.{}\n return c"  # a config file
Make = Callable[[Path, random.Random], Any]


class Input(NamedTuple):
    """A hostile input.

    Attributes:
        kind: a row of the table.
        what: it is.
        args: of the command, run in the folder that `make` filled.
        says: a regular expression that the error has to hold: the field or the file.
        make: puts files into the folder.
    """

    kind: str
    what: str
    args: tuple[str, ...]
    says: str
    make: Make | None = None


TABLES = ("ts", "error", "entries", "noise", "spread", "mean", "variances", "axes")  # of moments.npz, axes.npz


def header(shape: Any, kind: str = "<f4") -> bytes:
    """The header of a .npy file."""
    text = f"{{'descr': {kind!r}, 'fortran_order': False, 'shape': {shape}}}\n".encode()
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text


class _Evil:
    def __reduce__(self):
        return os.system, ("touch EXECUTED",)


def trained(folder: Path, _: random.Random) -> None:
    """Puts the trained run into a folder."""
    shutil.copytree(folder.parents[1] / "run", folder / "work")


def zipped(path: Path, members: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def pickled(path: Path) -> None:
    np.savez(path, **dict.fromkeys(TABLES, np.asarray([_Evil()], object)))


def cut(path: Path, rng: random.Random, x: np.ndarray) -> None:
    np.savez(path, x=x)
    path.write_bytes(path.read_bytes()[: rng.randrange(100, 700)])


def flipped(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data) // 3, len(data) // 2)
    return data[:at] + bytes(b ^ 0xFF for b in data[at : at + 8]) + data[at + 8 :]


def flip(path: Path, rng: random.Random, x: np.ndarray) -> None:
    np.savez(path, x=x)
    path.write_bytes(flipped(path.read_bytes(), rng))


def changed_json(path: Path, change: Callable[[dict], Any]) -> None:
    told = json.loads(path.read_text())
    change(told)
    path.write_text(json.dumps(told))


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(width: int, height: int, packed: bytes | None = None, depth: int = 8) -> bytes:
    """A PNG of zeros, or of this compressed content."""
    body = zlib.compress(bytes((3 * width + 1) * height)) if packed is None else packed
    header = struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def pictures(folder: Path, _: random.Random) -> None:
    (folder / "in").mkdir()
    for n in range(30):
        (folder / f"in/{n}.png").write_bytes(png(8, 8))
