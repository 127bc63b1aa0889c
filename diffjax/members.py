"""Arrays of a NumPy .npz file, one by one: shape and dtype are read, and bounded, before any memory is taken."""

import math
import os
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffjax.host import nearest

MOST_GIB = 4.0  # of one array


def read(file: Path, name: str, most_gib: float = MOST_GIB, note: str = "") -> np.ndarray:
    """Reads the array `name` of an .npz file; nothing in it is executed (`several`)."""
    return several(file, [name], most_gib, note)[name]


def several(file: Path, names: Sequence[str], most_gib: float = MOST_GIB, note: str = "") -> dict[str, np.ndarray]:
    """Reads the arrays of these names from an .npz file; nothing in it is executed.

    Args:
        most_gib: the most memory that one array may take, in GiB.
        note: what to do where there is no such array.

    Raises:
        FileNotFoundError: for what is no file.
        ValueError: naming file and array: for another kind of file, a damaged one, an array that is missing, of
            Python objects, larger than `most_gib`, or of another length than its header says.
    """
    if not os.path.isfile(file):  # False, too, for a name that no file can have
        raise FileNotFoundError(f"There is no file {str(file)!r}.")
    if not zipfile.is_zipfile(file):
        with file.open("rb") as start:
            single = start.read(6) == b"\x93NUMPY"
        if single:
            raise ValueError(
                f"{file} is one array (.npy), expected a file of named ones: numpy.savez(file, {names[0]}=array)."
            )
        raise ValueError(f"{file} is not an .npz file, or a truncated one; write it again with numpy.savez.")
    found, name = {}, names[0]
    try:
        with zipfile.ZipFile(file) as archive:
            for name in names:
                found[name] = _array(archive, file, name, most_gib, note)
            return found
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError) as error:
        raise ValueError(f"{file} is damaged at {name!r}: {error}.") from error


def single(file: Path, most_gib: float = MOST_GIB) -> np.ndarray:
    """Reads the one array of a .npy file; nothing in it is executed.

    Raises:
        FileNotFoundError: for what is no file.
        ValueError: for a damaged one, one of Python objects, larger than `most_gib`, or of another length than it says.
    """
    if not os.path.isfile(file):
        raise FileNotFoundError(f"There is no file {str(file)!r}.")
    with file.open("rb") as opened:
        return alone(opened, str(file), os.path.getsize(file), most_gib)


def alone(opened: Any, name: str, size: int, most_gib: float = MOST_GIB) -> np.ndarray:
    """Reads the array of an open .npy file of `size` bytes (`single`)."""
    shape, dtype, start = _header(opened, name, "the array")
    wanted = math.prod(shape) * dtype.itemsize
    if wanted != size - start:
        raise ValueError(
            f"{name} is damaged: its header says {shape} of {dtype}, {wanted} bytes; there are {size - start}."
        )
    if wanted > most_gib * 2**30:
        raise ValueError(
            f"{name} is {shape} of {dtype}, {wanted / 2**30:.1f} GiB, expected at most {most_gib} GiB: split it."
        )
    opened.seek(0)
    return np.lib.format.read_array(opened, allow_pickle=False)


def tables(
    path: str | Path,
    names: Sequence[str],
    what: str,
    written: str,
    optional: Sequence[str] = (),
    nan: Sequence[str] = (),
) -> dict[str, np.ndarray]:
    """Reads arrays of finite floating-point numbers, as float64; of `optional` ones those that are there.

    Args:
        what: they are, such as "axes".
        written: how such a file is made, to end the message.
        nan: names of arrays that may hold numbers that are not finite.

    Raises:
        ValueError: naming the file, for anything else.
    """
    found, file = {}, Path(path)
    try:
        for name in (*names, *optional):
            if name in optional and not zipfile.Path(file, f"{name}.npy").exists():
                continue
            array = read(file, name)
            if not np.issubdtype(array.dtype, np.floating) or array.size == 0:
                raise ValueError(f"{name!r} is {array.dtype} of shape {array.shape}, expected floating-point numbers")
            if name not in nan and not np.isfinite(array).all():
                raise ValueError(f"{name!r} holds numbers that are not finite")
            found[name] = array.astype(np.float64)
    except (OSError, ValueError) as error:
        raise ValueError(f"{str(path)!r} holds no {what} ({str(error).rstrip('.')}); {written}.") from error
    return found


def texts(file: Path, names: Sequence[str]) -> dict[str, str]:
    """Reads texts of an .npz file, those that are there."""
    return {name: str(read(file, name)) for name in names if zipfile.Path(file, f"{name}.npy").exists()}


def _array(archive: zipfile.ZipFile, file: Path, name: str, most_gib: float, note: str) -> np.ndarray:
    members = {info.filename: info for info in archive.infolist()}
    arrays = [member.removesuffix(".npy") for member in members if member.endswith(".npy")]
    if f"{name}.npy" not in members:
        what = "is no array (.npy)" if name in members else "has no array"
        where = f"{file}: {name!r} {what}" if name in members else f"{file} {what} {name!r}"
        raise ValueError(f"{where}{note}: {nearest(name, arrays)}.")
    info = members[f"{name}.npy"]
    if info.flag_bits & 1:
        raise ValueError(f"{file} keeps {name!r} by a password; write it again with numpy.savez.")
    with archive.open(info) as member:
        shape, dtype, start = _header(member, file, name)
    wanted = math.prod(shape) * dtype.itemsize
    if wanted != info.file_size - start:
        raise ValueError(
            f"{file} is damaged at {name!r}: its header says {shape} of {dtype}, {wanted} bytes; there are "
            f"{info.file_size - start}."
        )
    if wanted > most_gib * 2**30:
        raise ValueError(
            f"{file}: {name!r} is {shape} of {dtype}, {wanted / 2**30:.1f} GiB, expected at most {most_gib} GiB: set "
            "most_gib=, keep pixels as uint8, or put images into files (data.folder)."
        )
    with archive.open(info) as member:
        return np.lib.format.read_array(member, allow_pickle=False)


def _header(member: Any, file: Path | str, name: str) -> tuple[tuple[int, ...], np.dtype, int]:
    """Reads shape, dtype, and where the numbers begin."""
    try:
        version = np.lib.format.read_magic(member)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"version {version} of .npy")
        read_it = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read_it(member)
    except (ValueError, SyntaxError, RecursionError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"{file}: {name!r} has no header of an array ({reason}); write it with numpy.savez."
        ) from error
    if dtype.hasobject:
        raise ValueError(
            f"{file}: {name!r} holds Python objects, such as lists of unlike lengths, which are never unpickled; "
            "expected numbers: save one rectangular array, numpy.stack(list)."
        )
    return shape, dtype, member.tell()
