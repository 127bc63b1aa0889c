"""Files of published weights, read as names, shapes and numbers: .safetensors, and Flax's msgpack. Nothing is executed.

What a file is, its first bytes say. Of .safetensors the header is held against the file (`weights.header`); no package
is needed to read it. Flax's `serialization.to_bytes` is a msgpack map of maps, its arrays extension type 1: the msgpack
triple (shape, name of a dtype, raw bytes). Any other extension that a wanted array lies in is refused by its number. A
pickle, which is what PyTorch's .pth, .pt and .ckpt are, runs what it names when it is loaded: it never is.
"""

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from diffjax import host, weights
from diffjax.config import ConfigError

ARRAY, SCALAR = 1, 3  # of Flax's extension types; 2 is a complex number
DEEPEST = 64  # maps within maps
MOST_AXES = 32
AVERAGED = ("params_ema", "ema_params", "params")  # where a training state of Flax keeps what samples are made with
CONVERT = "where you trust it, write its tensors as .safetensors (docs/pretrained.md shows the lines), and give that"
KINDS = {  # first bytes -> what they begin
    b"PK\x03\x04": f"a zip, as PyTorch's .pth and .pt are, which holds a pickle and is never loaded: {CONVERT}",
    b"\x89HDF": "HDF5, expected .safetensors or Flax's msgpack",
    b"\x93NUMPY": "one NumPy array, expected .safetensors or Flax's msgpack",
    b"version https://git-lfs": "a pointer to a file that Git LFS has not fetched: git lfs pull",
}
PICKLE = f"a pickle, as PyTorch's old .pth and .ckpt are, which runs code when it is loaded, and never is: {CONVERT}"


class Entry(NamedTuple):
    """An array in a file: its shape, the name of its dtype, and how to read it."""

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], np.ndarray]


class File(NamedTuple):
    """What a file holds: format is "safetensors" or "msgpack"; entries are arrays by name ("a/b/c" of maps in maps)."""

    path: Path
    format: str
    entries: dict[str, Entry]


def open_file(path: str | Path) -> File:
    """Opens a file of weights.

    Raises:
        ConfigError: in one line that names the file, for what is missing, of another kind, damaged, or lies.
    """
    path = Path(path)
    if os.path.isdir(path):
        raise ConfigError(f"{path} is a folder, expected a file of weights, .safetensors or Flax's msgpack.")
    if not os.path.isfile(path):
        raise ConfigError(f"There is no file {str(path)!r}.")
    try:
        with path.open("rb") as file:
            first = file.read(32)
        kind = next((text for mark, text in KINDS.items() if first.startswith(mark)), None)
        if first[:1] == b"\x80" and first[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
            kind = PICKLE
        if kind:
            raise ConfigError(f"{path} is {kind}.")
        if first[8:9] == b"{" or path.suffix == ".safetensors":
            return _safetensors(path)
        if first[:1] and (0x80 <= first[0] <= 0x8F or first[0] in (0xDE, 0xDF)):  # a map
            return _msgpack(path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise error if isinstance(error, ConfigError) else ConfigError(str(error)) from error
    raise ConfigError(
        f"{path} is no file of weights, expected .safetensors or Flax's msgpack; it begins {first[:8]!r}."
    )


def _safetensors(path: Path) -> File:
    header, held = weights.header(path), {}

    def read(name: str) -> np.ndarray:
        if not held:
            held.update(weights.read(header))
        return held[name]

    entries = {
        name: Entry(entry.shape, str(entry.dtype), lambda name=name: read(name))
        for name, entry in header.entries.items()
    }
    return File(path, "safetensors", entries)


class _Extension(NamedTuple):
    code: int
    data: bytes


def _msgpack(path: Path) -> File:
    import msgpack  # which Flax depends on

    try:
        tree = msgpack.unpackb(path.read_bytes(), ext_hook=_Extension, raw=False, strict_map_key=False)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is no msgpack of Flax: a text in it is no UTF-8.") from error
    except (msgpack.UnpackException, ValueError, RecursionError) as error:  # cut short, too long a length, too deep
        raise ConfigError(
            f"{path} is no whole msgpack of Flax: {host.one_line(str(error), 200) or type(error).__name__}."
        ) from error
    root = next((tree[name] for name in AVERAGED if isinstance(tree.get(name), dict)), tree)
    return File(path, "msgpack", dict(_arrays(path, root, "", 0)))


def _arrays(path: Path, tree: dict, prefix: str, depth: int) -> Any:
    """Lists (name, entry) of the arrays in a map of maps; of lists and numbers beside them nothing."""
    if depth > DEEPEST:
        raise ConfigError(f"{path}: {prefix[:60]!r}... is nested deeper than {DEEPEST} maps.")
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if not isinstance(key, str):
            raise ConfigError(f"{path}: a name below {prefix or 'the top'!r} is {str(key)[:60]!r}, expected text.")
        if isinstance(value, dict):
            yield from _arrays(path, value, f"{name}/", depth + 1)
        elif isinstance(value, _Extension):
            yield name, _entry(path, name, value)


def _entry(path: Path, name: str, told: _Extension) -> Entry:
    import msgpack

    if told.code not in (ARRAY, SCALAR):
        raise ConfigError(f"{path}: {name} is of msgpack's extension type {told.code}, expected {ARRAY}, an array.")
    try:
        triple = msgpack.unpackb(told.data, raw=True)
        shape, kind, content = triple
        shape, kind = tuple(shape), kind.decode()
        kinds = {"bfloat16": jnp.bfloat16, **{str(np.dtype(d)): d for d in weights.DTYPES.values()}}
        dtype = np.dtype(kinds[kind])
        whole = len(shape) <= MOST_AXES and all(host.is_int(n, 0) for n in shape) and isinstance(content, bytes)
    except (msgpack.UnpackException, ValueError, TypeError, AttributeError, KeyError) as error:
        raise ConfigError(
            f"{path}: {name} is no array of Flax, (shape, dtype, bytes): {host.one_line(str(error), 100)}."
        ) from error
    if not whole or math.prod(shape) * dtype.itemsize != len(content):
        said = str(shape)[:60]
        raise ConfigError(f"{path}: {name} is {kind} of shape {said}, which is not what its bytes are.")

    def read() -> np.ndarray:
        array = np.frombuffer(content, dtype).reshape(shape)
        if jnp.issubdtype(dtype, jnp.floating) and not np.all(np.isfinite(array)):
            raise ConfigError(f"{path}: {name} holds numbers that are not finite.")
        return array

    return Entry(shape, kind, read)
