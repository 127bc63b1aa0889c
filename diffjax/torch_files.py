"""Arrays of a file that torch.save wrote, by name, without torch and without running the pickle in it (`pickles`).

Two layouts. Of torch before 1.6: pickles of a magic number, a version, facts of the system, the state dict and the keys
of its storages, then for each key a count, int64, and the raw numbers. Since 1.6: a zip with the state dict in
`data.pkl` and the raw numbers of each storage in `data/KEY`. In both an array is a view of a storage, by offset, shape
and strides in entries, and all of these are held against the storage before they are used.
"""

import io
import math
import os
import zipfile
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import jax.numpy as jnp
import numpy as np

from diffjax import host, pickles

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
MOST_GIB = 8.0  # of a file, which is read whole
MOST_AXES = 32
STORAGES = {
    f"torch.{kind}Storage": np.dtype(dtype)
    for kind, dtype in {
        **{"Double": np.float64, "Float": np.float32, "Half": np.float16, "BFloat16": jnp.bfloat16, "Bool": np.bool_},
        **{"Long": np.int64, "Int": np.int32, "Short": np.int16, "Char": np.int8, "Byte": np.uint8},
    }.items()
}


class Storage(NamedTuple):
    """A run of numbers in a file: its key, their dtype, how many they are."""

    key: str
    dtype: np.dtype
    count: int


class View(NamedTuple):
    """An array, as a view of a storage; offset and strides in entries."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read(path: str | Path, inside: str = "", most_gib: float = MOST_GIB) -> dict[str, np.ndarray]:
    """Reads the arrays of a state dict by name; they are read-only and share the memory of their storages.

    Entries that are no arrays, such as a step count, are left out.

    Args:
        path: of a file that torch.save wrote, of either layout.
        inside: the entry of a checkpoint that holds the state dict, such as "ema" or "model/ema"; "": the file does.
        most_gib: the largest file, in GiB.

    Raises:
        FileNotFoundError: for what is no file.
        ValueError: in one line that names the file, for another kind of file, a damaged one, one that wants code to be
            run, a view that leaves its storage, or no array at that place.
    """
    path = Path(path)
    if not os.path.isfile(path):  # False, too, for a name that no file can have
        raise FileNotFoundError(f"There is no file {str(path)!r}.")
    if (size := os.path.getsize(path)) > most_gib * 2**30:
        raise ValueError(f"{path} has {size / 2**30:.1f} GiB, expected at most {most_gib}: set most_gib=.")
    book = _Book(path)
    with path.open("rb") as file:
        start = file.read(2)
    if start == b"PK":
        found, contents = _zipped(path, book, size)
    elif start == b"\x80\x02":
        found, contents = _legacy(path, book)
    else:
        raise ValueError(f"{path} was not written by torch.save: it is neither a zip nor a pickle of protocol 2.")
    views = _chosen(path, found, inside)
    return {name: _array(view, contents[view.storage.key]) for name, view in views.items()}


class _Book:
    """The storages that a state dict names, and the calls that it may make."""

    def __init__(self, path: Path):
        self.path, self.storages = path, {}
        self.calls = {
            "collections.OrderedDict": self.ordered,
            "torch._utils._rebuild_tensor_v2": self.view,
            "torch._utils._rebuild_parameter": lambda view, *_: view,
        }

    def refuse(self, why: str) -> NoReturn:
        raise ValueError(f"{self.path} is damaged or lies: {why}.")

    def load(self, stream: Any) -> Any:
        return pickles.load(stream, f"{self.path}", self.calls, frozenset(STORAGES), self.storage)

    def ordered(self, items: Any = ()) -> dict[Any, Any]:
        pairs = [tuple(pair) for pair in items if isinstance(pair, list | tuple)]
        if len(pairs) != len(items) or not all(len(pair) == 2 and isinstance(pair[0], str) for pair in pairs):
            self.refuse("an OrderedDict is made of something else than names and values")
        return dict(pairs)

    def storage(self, told: Any) -> Storage:
        """Reads a persistent id: ("storage", type, key, device, count), and None in the older layout."""
        fits = isinstance(told, tuple) and len(told) in (5, 6) and told[0] == "storage" and told[5:] in ((), (None,))
        if not fits or not isinstance(told[1], pickles.Name) or not isinstance(told[2], str):
            self.refuse("a storage is named in an unknown form")
        if told[1].text not in STORAGES or not host.is_int(told[4], 0):
            self.refuse(f"a storage is of {told[1].text} and {str(told[4])[:20]} numbers")
        made = Storage(told[2], STORAGES[told[1].text], told[4])
        if self.storages.setdefault(made.key, made) != made:
            self.refuse(f"storage {made.key[:40]!r} is told of twice, and not alike")
        return made

    def view(self, storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> View:
        """Makes the view of a storage, held against it: its last number is in there, and it has no more than that."""
        whole = lambda values: isinstance(values, tuple) and all(host.is_int(value, 0) for value in values)
        if not isinstance(storage, Storage) or not host.is_int(offset, 0) or not whole(shape) or not whole(strides):
            self.refuse("an array has an offset, a shape or strides that are no integers >= 0")
        if len(shape) != len(strides) or len(shape) > MOST_AXES:
            self.refuse(f"an array has {len(shape)} axes and {len(strides)} strides")
        size = math.prod(shape)
        last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides)) if size else offset - 1
        if last >= storage.count or size > storage.count:
            self.refuse(
                f"an array of shape {host.one_line(str(shape)[:60])} ends at number {str(last)[:20]} of storage "
                f"{storage.key[:40]!r}, which has {storage.count}"
            )
        return View(storage, offset, shape, strides)


def _legacy(path: Path, book: _Book) -> tuple[Any, dict[str, np.ndarray]]:
    """Reads the layout of torch before 1.6: the state dict, and the numbers of each storage."""
    content = path.read_bytes()
    stream = io.BytesIO(content)
    magic, protocol, system = (pickles.load(stream, f"{path}", {}) for _ in range(3))
    if magic != MAGIC or protocol != PROTOCOL:
        raise ValueError(f"{path} is a pickle that torch.save did not write: it does not begin with torch's number.")
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise ValueError(f"{path} holds big-endian numbers, expected little-endian ones.")
    found, keys = book.load(stream), pickles.load(stream, f"{path}", {})
    listed = isinstance(keys, list) and all(isinstance(key, str) for key in keys)
    if not listed or sorted(keys) != sorted(book.storages):
        book.refuse("its list of storages is not that of its arrays")
    contents, at = {}, stream.tell()
    for key in keys:
        _, dtype, count = book.storages[key]
        told = int.from_bytes(content[at : at + 8], "little", signed=True)
        if told != count:
            book.refuse(f"storage {key[:40]!r} has {told} numbers, and {count} were told of")
        if at + 8 + count * dtype.itemsize > len(content):
            book.refuse(f"it ends within storage {key[:40]!r}")
        contents[key] = np.frombuffer(content, dtype, count, at + 8)
        at += 8 + count * dtype.itemsize
    if at != len(content):
        book.refuse(f"{len(content) - at} bytes are left at its end")
    return found, contents


def _zipped(path: Path, book: _Book, size: int) -> tuple[Any, dict[str, np.ndarray]]:
    """Reads the layout of torch since 1.6: the state dict, and the numbers of each storage."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename: info for info in archive.infolist()}
            pickled = [name for name in members if name == "data.pkl" or name.endswith("/data.pkl")]
            if len(pickled) != 1 or any(name.endswith("constants.pkl") for name in members):
                raise ValueError(
                    f"{path} is another zip, such as a TorchScript program, expected torch.save(state_dict, file)."
                )
            folder = pickled[0].removesuffix("data.pkl")
            if any(info.flag_bits & 1 or info.compress_type for info in members.values()):
                book.refuse("its parts are packed or locked, as torch.save does not write them")
            order = archive.read(f"{folder}byteorder") if f"{folder}byteorder" in members else b"little"
            if order != b"little":
                raise ValueError(f"{path} holds numbers of byte order {order[:20]!r}, expected little-endian ones.")
            found, contents = book.load(io.BytesIO(archive.read(pickled[0]))), {}
            if sum(count * dtype.itemsize for _, dtype, count in book.storages.values()) > size:
                book.refuse("its storages would be larger than the file")
            for key, (_, dtype, count) in book.storages.items():
                info = members.get(f"{folder}data/{key}")
                if info is None or info.file_size != count * dtype.itemsize:
                    there = "is not there" if info is None else f"has {info.file_size} bytes"
                    book.refuse(f"storage {key[:40]!r} {there}, and {count} of {dtype} were told of")
                contents[key] = np.frombuffer(archive.read(info), dtype)
            return found, contents
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError) as error:
        raise ValueError(f"{path} is damaged: {error}.") from error


def _chosen(path: Path, found: Any, inside: str) -> dict[str, View]:
    """Picks the views of a state dict within what a file holds."""
    for part in filter(None, inside.split("/")):
        if not isinstance(found, dict) or part not in found:
            raise ValueError(f"{path} has no {part!r} (inside={inside!r}): {host.nearest(part, _texts(found))}.")
        found = found[part]
    views = {name: part for name, part in found.items() if isinstance(part, View)} if isinstance(found, dict) else {}
    if not views or not all(isinstance(name, str) for name in views):
        groups = [name for name in _texts(found) if isinstance(found[name], dict)]
        way = f"inside= may be {', '.join(map(repr, groups[:8]))}" if groups else "expected a state dict"
        raise ValueError(f"{path} holds no arrays by name{f' inside {inside!r}' if inside else ''}: {way}.")
    return views


def _texts(found: Any) -> list[str]:
    return [name for name in found if isinstance(name, str)] if isinstance(found, dict) else []


def _array(view: View, numbers: np.ndarray) -> np.ndarray:
    strides = [stride * numbers.itemsize for stride in view.strides]
    return np.lib.stride_tricks.as_strided(numbers[view.offset :], view.shape, strides, writeable=False)
