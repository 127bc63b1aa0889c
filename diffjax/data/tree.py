"""Named files below one root, a folder or a zip archive: their names, their bytes, and labels beside them.

Names are relative, with / on every system. Nothing below a part that begins with a dot is there (.ipynb_checkpoints),
nor __MACOSX. Links to folders are followed, each folder once.
"""

import io
import json
import os
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Protocol

MOST_BYTES = 2**28  # of one file of an archive, and of a dataset.json
LABELS = "dataset.json"  # of StyleGAN's and EDM's data sets: {"labels": [["00000/img00000000.png", 6], ...]}


class Tree(Protocol):
    """What holds files by name: a folder or a zip archive."""

    where: str
    names: list[str]

    def open(self, name: str) -> BinaryIO | str:
        """Opens a file; a path stands for itself."""
        ...

    def bytes(self, name: str) -> int:
        """Tells the length of a file."""
        ...


def tree(path: str | Path, suffixes: tuple[str, ...], what: str = "data.folder") -> Tree:
    """Opens a folder or a zip archive; of its files those with the suffixes count, and `LABELS`.

    Raises:
        FileNotFoundError: if there is neither.
        ValueError: for another file, a damaged archive, a link to nothing, or one folder under two names.
    """
    root = Path(path).expanduser()
    if os.path.isdir(root):  # False, too, for a name that no file can have
        return _Folder(root, suffixes)
    if not os.path.isfile(root):
        raise FileNotFoundError(
            f"There is no folder or zip {str(root)!r}; {what} needs path=, a folder of images or a zip of them."
        )
    return _Zip(root, suffixes)


def labels_beside(files: Tree) -> dict[str, int] | None:
    """Reads the label of each file from `LABELS`, or None where it gives none.

    Raises:
        ValueError: for text that is no such JSON, or labels that are no integers from 0 on.
    """
    where = f"{files.where}: {LABELS}"
    if files.bytes(LABELS) > MOST_BYTES:
        raise ValueError(f"{where} has {files.bytes(LABELS)} bytes, expected at most {MOST_BYTES}.")
    file = files.open(LABELS)
    try:
        content = Path(file).read_bytes() if isinstance(file, str) else file.read()
        told = json.loads(content.decode())
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{where} is no JSON text ({error}); write it again, or set label=None.") from error
    found = told.get("labels") if isinstance(told, dict) else told
    if found is None:
        return None
    pairs = list(found.items()) if isinstance(found, dict) else found
    named = isinstance(pairs, list) and all(isinstance(p, list | tuple) and len(p) == 2 for p in pairs)
    if not named or not all(isinstance(name, str) for name, _ in pairs):
        raise ValueError(f'{where} is not {{"labels": [["name.png", 3], ...]}}; mend it, or set label=None.')
    for name, label in pairs:
        if isinstance(label, bool) or not isinstance(label, int) or not 0 <= label < 2**31:
            raise ValueError(f"{where} labels {name!r} {label!r}, expected integers from 0 on; or set label=None.")
    return {name.replace("\\", "/"): label for name, label in pairs}


def _hidden(name: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


class _Folder:
    """The files below a folder, by name: hidden ones left out, links followed once."""

    def __init__(self, root: Path, suffixes: tuple[str, ...]):
        self.root, self.where = root, str(root)
        self._seen, self._twice = {os.path.realpath(root): ""}, {}
        found = list(self._walk(root, "", (os.path.realpath(root),), suffixes))
        for name, first in self._twice.items():
            if any(file.startswith(f"{first}/") for file in found):
                raise ValueError(
                    f"{self.where!r} holds one folder as {first!r} and, by a link, as {name!r}: remove one of them."
                )
        self.names = sorted(found)

    def _walk(self, folder: Path, above: str, reals: tuple[str, ...], suffixes: tuple[str, ...]) -> Iterator[str]:
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            raise ValueError(f"The folder {str(folder)!r} cannot be listed: {error.strerror}.") from error
        for entry in entries:
            name = f"{above}{entry.name}"
            if _hidden(entry.name):
                continue
            if entry.is_dir():
                real = os.path.realpath(entry.path)
                if real in reals:  # a link up: there is nothing new
                    continue
                if real in self._seen:
                    self._twice[name] = self._seen[real]
                    continue
                self._seen[real] = name
                yield from self._walk(Path(entry.path), f"{name}/", (*reals, real), suffixes)
            elif name == LABELS or PurePosixPath(name).suffix.lower() in suffixes:
                if entry.is_file():
                    yield name
                elif entry.is_symlink():
                    raise ValueError(
                        f"{entry.path!r} is a link to {os.readlink(entry.path)!r}, where there is no file: mend the "
                        "link, or remove it."
                    )

    def open(self, name: str) -> str:
        return os.path.join(self.root, *name.split("/"))

    def bytes(self, name: str) -> int:
        return os.path.getsize(self.open(name))


class _Zip:
    """An archive's files, read by any number of threads; nothing is unpacked to the disk."""

    def __init__(self, path: Path, suffixes: tuple[str, ...]):
        self.where = str(path)
        try:
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise ValueError(
                f"{self.where!r} is no zip archive, or a truncated one ({error}); expected a folder of images, or a "
                "zip of them."
            ) from error
        wanted = lambda name: name == LABELS or PurePosixPath(name).suffix.lower() in suffixes
        infos = [info for info in self._zip.infolist() if not info.is_dir() and not _hidden(info.filename)]
        self._infos = {info.filename: info for info in infos if wanted(info.filename)}
        self.names = sorted(self._infos)

    def open(self, name: str) -> BinaryIO:
        info = self._infos[name]
        if info.file_size > MOST_BYTES:
            raise ValueError(
                f"{self.where!r}: {name!r} has {info.file_size} bytes, expected at most {MOST_BYTES}: take it out."
            )
        try:
            return io.BytesIO(self._zip.read(info))
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, NotImplementedError) as error:
            raise ValueError(f"{self.where!r} is damaged at {name!r}, or keeps it by a password: {error}.") from error

    def bytes(self, name: str) -> int:
        return self._infos[name].file_size
