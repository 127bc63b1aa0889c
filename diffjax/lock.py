"""One writer for a folder: FOLDER/.lock names the host, process and start of the run that writes there.

The kernel holds the lock (`flock`) and lets go of it when the process ends, however that comes about: what a killed run
leaves in the file is text, and the next start takes the lock. By whatever name a folder is reached, its file is one.
Only where a file system has no such locks is the text believed: then a process of this host that has ended is told from
one that lives, and what one of another host has left is to be removed by hand.
"""

import atexit
import contextlib
import errno
import json
import os
import socket
import time
import uuid
import weakref
from pathlib import Path
from typing import Any

NAME = ".lock"
RUN = "DIFFJAX_RUN"  # the environment variable by which the other processes of a run are known
UNKNOWN = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL)  # of a file system without flock


class HeldError(ValueError):
    """The error of a folder that another run, or another part of this process, writes into."""


class Lock:
    """A folder's lock, held; `take` makes one.

    Attributes:
        path: of its file.
        run: the token by which other processes of this run are let in, in their environment's DIFFJAX_RUN.
        left: what the lock's last holder left behind when it was killed, in words; "" where it let go.
    """

    def __init__(self, path: Path, run: str, left: str = "", file: int | None = None):
        self.path, self.run, self.left, self._file = path, run, left, file
        self.held = True

    def check(self) -> None:
        """Checks that the lock is still held.

        Raises:
            HeldError: after `release`, or once another part of this process has taken the folder.
        """
        if not self.held:
            raise HeldError(
                f"{self.path.parent} was taken by another run of this process, or this one was closed: make it again."
            )

    def __del__(self) -> None:
        self.release()

    def release(self) -> None:
        """Lets go of the folder; idempotent."""
        if self.held and self._file is not None:
            _OURS.pop(_identity(self._file), None)
            os.ftruncate(self._file, 0)
            os.close(self._file)
        self.held, self._file = False, None

    def _give(self) -> int | None:
        """Hands the open file, and with it the lock, to another part of this process."""
        file, self._file, self.held = self._file, None, False
        return file


# By device and inode: what this process holds, for as long as somebody in it knows of the lock.
_OURS: weakref.WeakValueDictionary[tuple[int, int], Lock] = weakref.WeakValueDictionary()


def take(folder: str | os.PathLike[str]) -> Lock:
    """Takes the lock of a folder that exists; of one that this process holds, from the part that has it.

    Raises:
        HeldError: for a folder that another process writes into, by name of host, process and start.
        HeldError: for one that is not to be had, since its file is none.
        OSError: where the file cannot be made.
    """
    path, run = Path(folder) / NAME, os.environ.get(RUN, "")
    while True:
        if path.exists() and not path.is_file():
            raise HeldError(f"{path} is no file, so that the folder cannot be locked; move it away.")
        file = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o644)
        if ours := _OURS.get(_identity(file)):
            os.close(file)
            return _hold(path, ours._give(), ours.run)
        before = _said(file)
        if not _locked(file, before):
            os.close(file)
            if run and before.get("run") == run:  # another process of the run that holds it
                return Lock(path, run)
            raise HeldError(
                f"{path.parent} is being written by {_holder(before)}; wait for it or stop it, or give another folder."
            )
        with contextlib.suppress(FileNotFoundError):
            if _identity(file) == _identity(path):  # not deleted between the opening and the lock
                return _hold(path, file, run or uuid.uuid4().hex, _holder(before) if before else "")
        os.close(file)


def _hold(path: Path, file: int | None, run: str, left: str = "") -> Lock:
    assert file is not None
    now = time.strftime("%Y-%m-%dT%H:%M:%S")
    content = {"host": socket.gethostname(), "pid": os.getpid(), "start": now, "run": run}
    os.ftruncate(file, 0)
    os.lseek(file, 0, os.SEEK_SET)
    os.write(file, json.dumps(content).encode())
    lock = _OURS[_identity(file)] = Lock(path, run, left, file)
    return lock


def _locked(file: int, before: dict[str, Any]) -> bool:
    """Tells whether the lock could be had."""
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in UNKNOWN:
            raise
        return not before or (before.get("host") == socket.gethostname() and not _lives(before.get("pid")))
    return True


def _lives(pid: Any) -> bool:
    if os.name == "nt":  # where signal 0 is Ctrl-C
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, TypeError, OverflowError):
        return False
    except OSError:  # somebody else's
        return True
    return True


def _said(file: int) -> dict[str, Any]:
    """What the lock's file says; {}: nothing that can be read."""
    try:
        os.lseek(file, 0, os.SEEK_SET)
        found = json.loads(os.read(file, 4096).decode())
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _holder(said: dict[str, Any]) -> str:
    """Names who wrote the file, from text that anybody may have written."""
    host, pid, start = (str(said.get(name, "?"))[:64] for name in ("host", "pid", "start"))
    return f"process {pid} of {host} (since {start})" if said else "another process"


def _identity(file: int | Path) -> tuple[int, int]:
    found = os.stat(file)
    return found.st_dev, found.st_ino


def _let_go_in_child() -> None:
    """A forked child shares the open file, and would hold the lock for as long as it lives."""
    for lock in list(_OURS.values()):
        if (file := lock._give()) is not None:
            os.close(file)
    _OURS.clear()


def _let_go_at_exit() -> None:
    for lock in list(_OURS.values()):
        lock.release()


atexit.register(_let_go_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go_in_child)
