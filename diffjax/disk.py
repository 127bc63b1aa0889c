"""Files that are whole or not there at all, also after a power cut; and readers that say what is wrong with a file.

`write` makes a file beside the old one, has the disk take it, and moves it into place: what is found under the name was
written whole. Readers take a file for what anybody may have left there: its size is bounded before it is read, its
depth and its numbers while it is parsed, and what is wrong is one line with the file's name.
"""

import contextlib
import errno
import hashlib
import itertools
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

NAME_BYTES = 255  # of one name, on every file system in use
LARGEST = 2**26  # bytes of a file that is read whole: 64 MiB, of metrics a million lines
Json = dict[str, Any]


class DamagedFileError(ValueError):
    """The error of a file that is not what was written: the message names it and says what is wrong."""


def write(path: Path, content: str | bytes) -> None:
    """Replaces a file in one move: a reader, a run killed meanwhile, a power cut finds the old content or the new one.

    Raises:
        OSError: where it cannot be written; the old file is as it was.
    """
    part = path.with_name(f"{path.name}.part")  # one name: what a kill leaves is written over
    try:
        with naming(path), part.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise
    sync_folder(path.parent)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Names the file in an error of the system that does not: one of writing to an open file, such as a full disk."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


FORBIDDEN = '/\\:*?"<>|'  # in a file's name, of one system or another


def file_name(text: str, most: int = 200) -> str:
    """Makes a text the name of one file or folder: the end of a long one is left out, with a digest of it all."""
    text = "".join(char if char.isprintable() and char not in FORBIDDEN else "_" for char in text)
    if len(os.fsencode(text)) <= most:
        return text
    digest = hashlib.sha256(os.fsencode(text)).hexdigest()[:16]
    return f"{os.fsencode(text)[: most - 20].decode(errors='ignore')}-{digest}"


def check_folder(name: str, path: str | Path, kept: tuple[Path, ...] = (), error: type[Exception] = ValueError) -> None:
    """Checks that a folder is there or can be made, before anything is computed for it; nothing is left behind.

    Args:
        name: what the path was given as, such as "--out".
        kept: folders that hold something else, in which it may not be.

    Raises:
        ValueError: (or `error`) saying why not.
    """
    at, names = os.path.abspath(path), []
    try:
        while not os.path.isdir(at):
            if _is_there(at):
                raise NotADirectoryError(errno.ENOTDIR, f"{at} is a file, expected a folder")
            at, last = os.path.split(at)
            names.append(last)
        if max(map(len, map(os.fsencode, names)), default=0) > NAME_BYTES:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        if names:  # it is tried: rights do not tell, of /proc say; by a name of its own, since processes start together
            os.rmdir(tempfile.mkdtemp(prefix=".diffjax-", dir=at))
        elif not os.access(at, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except (OSError, ValueError) as found:  # a name that is too long; one with a NUL, or no text
        reason = getattr(found, "strerror", None) or str(found)
        raise error(f"{name}={str(path)!r} cannot be a folder: {reason}.") from found
    for folder in kept:
        if os.path.commonpath([os.path.realpath(path), os.path.realpath(folder)]) == os.path.realpath(folder):
            raise error(f"{name}={str(path)!r} is in {folder}, which a run keeps: give another folder.")


def _is_there(path: str) -> bool:
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def append(path: Path, text: str) -> None:
    """Adds text to a file."""
    with path.open("a") as file:
        file.write(text)


def note(path: Path, write: Callable[[Path], None]) -> list[str]:
    """Writes a file that is information and stops nothing; gives the line on why it could not be, or nothing."""
    try:
        write(path)
    except OSError as error:
        return [f"{path} cannot be written: {error.strerror or error}"]
    return []


@contextlib.contextmanager
def fresh(path: Path) -> Iterator[Path]:
    """Makes a new folder for a `with` block: of this name, or with -2, -3, ... where somebody else has that.

    It is removed again where the block fails before there is anything in it.
    """
    for name in itertools.chain((path,), (path.with_name(f"{path.name}-{n}") for n in itertools.count(2))):
        with contextlib.suppress(FileExistsError):
            name.mkdir(parents=True)
            break
    try:
        yield name
    except BaseException:
        with contextlib.suppress(OSError):  # not empty
            name.rmdir()
            name.parent.rmdir()
        raise


def sync_folder(folder: Path) -> None:
    """Has the disk take the names in a folder, where the system can be asked for it."""
    with contextlib.suppress(OSError):
        file = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(file)
        finally:
            os.close(file)


def sync_tree(folder: Path) -> None:
    """Has the disk take all files and folders under a folder, and the folder itself.

    Raises:
        OSError: where it does not take a file.
    """
    for where, _, names in os.walk(folder, topdown=False):
        for name in names:
            file = os.open(os.path.join(where, name), os.O_RDONLY)
            try:
                os.fsync(file)
            finally:
                os.close(file)
        sync_folder(Path(where))


def read(path: Path, largest: int = LARGEST) -> str:
    """Reads a whole file as UTF-8 text.

    Raises:
        FileNotFoundError: if there is none.
        DamagedFileError: for what is no regular file, is too large, cannot be read, or is no UTF-8.
    """
    try:
        if not path.exists():
            raise FileNotFoundError(f"There is no file {path}.")
        if not path.is_file():
            raise DamagedFileError(f"{path} is no file.")
        if (size := path.stat().st_size) > largest:
            raise DamagedFileError(f"{path} has {size:,} bytes, expected at most {largest:,}.")
        return path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise DamagedFileError(f"{path} is no text: byte {error.start} is no UTF-8.") from error
    except FileNotFoundError:
        raise
    except OSError as error:
        raise DamagedFileError(f"{path} cannot be read: {error.strerror}.") from error


def read_json(path: Path) -> Json:
    """Reads a JSON object from a file.

    Raises:
        FileNotFoundError: if there is none.
        DamagedFileError: as `read`; for a text that is no JSON object (cut short, say), has a key twice, or is nested
            too deep.
    """
    return parse(read(path), str(path))


def read_lines(path: Path) -> tuple[list[Json], list[str]]:
    """Reads JSON objects, one a line: (those that are whole, what is wrong with each other line); no file: ([], []).

    Raises:
        DamagedFileError: for what is no regular file, or cannot be read: its lines are not known to be wrong.
    """
    if not path.exists():
        return [], []
    if not path.is_file():
        raise DamagedFileError(f"{path} is no file.")
    found, wrong, number = [], [], 0
    try:
        with path.open("rb") as file:
            while line := file.readline(LARGEST):  # a longer one is no line of ours, and comes in parts
                number += 1
                try:
                    found.append(parse(line.decode(errors="replace"), f"{path}, line {number},"))
                except DamagedFileError as error:
                    wrong.append(str(error))
    except OSError as error:
        raise DamagedFileError(f"{path} cannot be read: {error.strerror}.") from error
    return found, wrong


def parse(text: str, name: str) -> Json:
    """Parses the text of a JSON object, which errors call `name`.

    Raises:
        DamagedFileError: as `read_json`.
    """
    if not text.strip():
        raise DamagedFileError(f"{name} is empty.")
    try:
        found = json.loads(text, object_pairs_hook=_once)
    except RecursionError:
        raise DamagedFileError(f"{name} is nested too deep.") from None
    except ValueError as error:  # JSONDecodeError, an integer of too many digits, a key twice
        raise DamagedFileError(f"{name} is no JSON: {str(error).splitlines()[0]}.") from error
    if not isinstance(found, dict):
        raise DamagedFileError(f"{name} holds {type(found).__name__}, expected an object.")
    return found


def _once(pairs: list[tuple[str, Any]]) -> Json:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} is there twice")
    return found
