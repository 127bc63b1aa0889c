"""Arrays by name in one file, .safetensors, with texts beside them: written whole, read with nothing believed.

The format: eight bytes, the length of a JSON header; the header, name -> {"dtype", "shape", "data_offsets"} and the
texts in "__metadata__"; then the numbers, little-endian, one array after the other. A header is held against the size
of its file before anything is read by it, and against what is wanted before an array is: no more memory is taken than
the file has bytes, and nothing in it is imported or executed.
"""

import hashlib
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffjax import disk, host
from diffjax.types import PyTree

MOST_HEADER = 2**24  # bytes, of some hundred thousand arrays
MOST_NAME = 1000  # characters
MOST_AXES = 32  # of an array of the oldest NumPy
DIGEST = "sha256"  # the text that says what the numbers were
DTYPES = {
    **{"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": jnp.bfloat16, "BOOL": np.bool_},
    **{f"{kind}{8 * n}": np.dtype(f"{kind.lower()}{n}") for kind in "IU" for n in (1, 2, 4, 8)},
}
DTYPES = {name: np.dtype(dtype) for name, dtype in DTYPES.items()}


class Entry(NamedTuple):
    """An array in a file: its kind, its shape, and where its bytes begin and end."""

    dtype: np.dtype
    shape: tuple[int, ...]
    begin: int
    end: int

    def __str__(self) -> str:
        return f"{self.dtype} of shape {self.shape}"


class Header(NamedTuple):
    """What a file says of itself: its arrays by name, and texts by name."""

    path: Path
    entries: dict[str, Entry]
    texts: dict[str, str]


def named(tree: PyTree, prefix: str = "") -> dict[str, Any]:
    """Lists the leaves of a tree by their paths: {"layers_0/kernel": leaf}; no two trees give the same names.

    A "/" in a key is written %2F, a "%" %25. Names without a prefix never begin as one with it: a first key "memory" is
    written %6Demory.

    Args:
        prefix: of all names, "memory/".
    """

    def name(path: Any) -> str:
        keys = [jax.tree_util.keystr((key,), simple=True) for key in path]
        keys = [key.replace("%", "%25").replace("/", "%2F") for key in keys]
        first = [f"%6D{key[1:]}" if key == "memory" and not prefix else key for key in keys[:1]]
        return prefix + "/".join([*first, *keys[1:]])

    return {name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def write(path: str | Path, arrays: Mapping[str, Any], texts: Mapping[str, str]) -> int:
    """Writes arrays and texts as a .safetensors file, in one move, and a digest of the numbers; gives its bytes.

    Raises:
        ValueError: for a dtype that the format has not, numbers that are not finite, or texts too long to be read.
    """
    from safetensors import numpy as safetensors

    arrays = {name: np.ascontiguousarray(array).reshape(np.shape(array)) for name, array in arrays.items()}
    for name, array in arrays.items():
        if len(name) > MOST_NAME:
            raise ValueError(f"The name {name[:20]!r}... has {len(name):,} characters, expected at most {MOST_NAME:,}.")
        if array.dtype not in DTYPES.values():
            raise ValueError(f"{name} is {array.dtype}, expected one of {', '.join(map(str, DTYPES.values()))}.")
        _check_finite(name, array)
    content = safetensors.save(arrays, {**texts, DIGEST: _digest(arrays)})
    if (size := int.from_bytes(content[:8], "little")) > MOST_HEADER:
        raise ValueError(f"{path} would have a header of {size:,} bytes, expected at most {MOST_HEADER:,}.")
    disk.write(Path(path), content)
    return len(content)


def header(path: str | Path) -> Header:
    """Reads the header of a .safetensors file, and holds it against the file.

    Raises:
        FileNotFoundError: for what is no file.
        disk.DamagedFileError: naming the file, for anything that is not as it should be.
    """
    path = Path(path)
    if not os.path.isfile(path):  # False, too, for a name that no file can have
        raise FileNotFoundError(f"There is no file {str(path)!r}.")
    try:
        with path.open("rb") as file:
            whole, first = os.fstat(file.fileno()).st_size, file.read(8)
            length = int.from_bytes(first, "little")
            _check_start(path, first, length, whole)
            text = file.read(length)
    except OSError as error:
        raise disk.DamagedFileError(f"{path} cannot be read: {error.strerror}.") from error
    try:
        found = disk.parse(text.decode(), f"the header of {path}")
    except UnicodeDecodeError as error:
        raise disk.DamagedFileError(f"the header of {path} is no text: byte {error.start} is no UTF-8.") from error
    texts = found.pop("__metadata__", {})
    if not isinstance(texts, dict) or not all(isinstance(value, str) for value in texts.values()):
        raise disk.DamagedFileError(f"{path}: __metadata__ in its header holds something else than texts.")
    entries = {name: _entry(path, name, told, 8 + length) for name, told in found.items()}
    _check_places(path, entries, 8 + length, whole)
    return Header(path, entries, texts)


def check(header: Header, wanted: Mapping[str, Any]) -> None:
    """Holds the arrays of a file against those that are wanted, by name: arrays, or their shapes and dtypes.

    Raises:
        ValueError: naming the file and the first array that is missing, too many, or of another kind.
    """
    for name, leaf in wanted.items():
        if name not in header.entries:
            raise ValueError(f"{header.path} has no parameter {name!r}: {_nearest(name, header.entries)}.")
        entry = header.entries[name]
        if (entry.shape, entry.dtype) != (tuple(leaf.shape), leaf.dtype):
            raise ValueError(f"{header.path}: {name} is {entry}, expected {leaf.dtype} of shape {tuple(leaf.shape)}.")
    for name in header.entries:
        if name not in wanted:
            raise ValueError(f"{header.path}: {name!r} is no parameter of this network: {_nearest(name, wanted)}.")


def read(header: Header) -> dict[str, np.ndarray]:
    """Reads all arrays of a file, whose memory they share.

    Raises:
        disk.DamagedFileError: naming the file, for numbers that are not finite or not those that were written.
    """
    path = header.path
    begin = min((entry.begin for entry in header.entries.values()), default=0)
    size = max((entry.end for entry in header.entries.values()), default=0) - begin
    with path.open("rb") as file:
        file.seek(begin)
        content = file.read(size)
    if len(content) < size:
        raise disk.DamagedFileError(f"{path} was cut short while it was read.")
    found = {}
    for name, (dtype, shape, at, end) in header.entries.items():
        array = np.frombuffer(content, np.uint8, end - at, at - begin)
        if dtype == np.bool_ and np.any(array > 1):
            raise disk.DamagedFileError(f"{path}: {name} is bool and holds something else than 0 and 1.")
        found[name] = array.view(dtype).reshape(shape)
    if header.texts.get(DIGEST, written := _digest(found)) != written:
        raise disk.DamagedFileError(f"{path} is damaged: its numbers are not those that were written ({DIGEST}).")
    for name, array in found.items():
        _check_finite(f"{path}: {name}", array)
    return found


def place(tree: PyTree, arrays: Mapping[str, Any], prefix: str = "") -> PyTree:
    """Puts arrays in the place of the leaves of a tree, by the names that `named` gives them."""
    return jax.tree.unflatten(jax.tree.structure(tree), [arrays[name] for name in named(tree, prefix)])


def _check_start(path: Path, first: bytes, length: int, whole: int) -> None:
    kinds = {b"PK": "a zip, as .npz and PyTorch's files are", b"\x80": "a pickle, which is never loaded",
             b"\x89HDF": "HDF5", b"\x93NUMPY": "one NumPy array"}  # fmt: skip
    kind = next((f" ({kind})" for mark, kind in kinds.items() if first.startswith(mark) and length > whole), "")
    if len(first) < 8 or kind:
        raise disk.DamagedFileError(
            f"{path} is no .safetensors file{kind}, or a truncated one: it has {whole:,} bytes."
        )
    if length > min(whole - 8, MOST_HEADER):
        raise disk.DamagedFileError(
            f"{path} is no .safetensors file, or a truncated one: its header would have {length:,} bytes, expected at "
            f"most {min(whole - 8, MOST_HEADER):,}."
        )


def _entry(path: Path, name: str, told: Any, start: int) -> Entry:
    if len(name) > MOST_NAME:
        raise disk.DamagedFileError(f"{path}: the name {name[:20]!r}... in its header has {len(name):,} characters.")
    whole = lambda values: isinstance(values, list) and all(host.is_int(value, 0) for value in values)
    if not isinstance(told, dict) or set(told) != {"dtype", "shape", "data_offsets"}:
        raise disk.DamagedFileError(f"{path}: {name!r} in its header has no dtype, shape and data_offsets.")
    kind, shape, offsets = told["dtype"], told["shape"], told["data_offsets"]
    if not isinstance(kind, str) or kind not in DTYPES:
        raise disk.DamagedFileError(f"{path}: {name!r} has dtype {kind!r}, expected one of {', '.join(DTYPES)}.")
    if not whole(shape) or len(shape) > MOST_AXES:
        raise disk.DamagedFileError(f"{path}: {name!r} has shape {_short(shape)}, expected a few integers >= 0.")
    if not whole(offsets) or len(offsets) != 2:
        raise disk.DamagedFileError(f"{path}: {name!r} has data_offsets {_short(offsets)}, expected two integers >= 0.")
    size = math.prod(shape) * DTYPES[kind].itemsize
    if size != offsets[1] - offsets[0]:
        raise disk.DamagedFileError(
            f"{path}: {name!r} is {kind} of shape {_short(shape)}, which is another number of bytes than its "
            f"data_offsets {_short(offsets)} have."
        )
    return Entry(DTYPES[kind], tuple(shape), start + offsets[0], start + offsets[1])


def _check_places(path: Path, entries: dict[str, Entry], start: int, whole: int) -> None:
    """The arrays lie one behind the other, from the header to the end of the file."""
    at, before = start, "the header"
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.end > whole:
            raise disk.DamagedFileError(f"{path}: {name!r} ends beyond the file, which is truncated or lies.")
        if entry.begin != at:
            how = "overlaps" if entry.begin < at else "leaves a gap behind"
            raise disk.DamagedFileError(f"{path}: {name!r} {how} {before!r}: its data_offsets are wrong.")
        at, before = entry.end, name
    if at != whole:
        raise disk.DamagedFileError(f"{path} has {whole - at:,} bytes more than its header says.")


def _check_finite(name: str, array: np.ndarray) -> None:
    if jnp.issubdtype(array.dtype, jnp.floating) and not np.all(np.isfinite(array)):
        raise disk.DamagedFileError(f"{name} holds numbers that are not finite.")


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    """The SHA-256 over names, kinds and numbers, in the order of names."""
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name}\0{array.dtype}{array.shape}\0".encode("utf-8", "surrogatepass"))
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _nearest(name: str, options: Mapping[str, Any]) -> str:
    close = host.closest(name, list(options)[:1000])
    return "it has none like it" if close is None else f"nearest is {close!r}"


def _short(value: Any) -> str:
    return host.one_line(str(value)[:60])
