"""A screen is not worth a run: what is printed goes to it for as long as it is there, and then nowhere.

A terminal is closed, the reader of a pipe leaves (`| head -1`), the disk under a redirected log is full, a service
starts a program without stdout: none of that ends a run or changes its exit status. `guard` puts streams in the place
of sys.stdout and sys.stderr that write through and drop what cannot be written.
"""

import contextlib
import errno
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from diffjax import activity

PASSING = (errno.ENOSPC, errno.EDQUOT, errno.EAGAIN)  # after these the next line may go through again


class Screen:
    """A text stream that writes through to another one, and never raises for want of it.

    Attributes:
        lost: the last error for which text was dropped; None: all was written.
    """

    def __init__(self, stream: Any):
        self._stream = Path(os.devnull).open("w") if stream is None else stream  # noqa: SIM115
        self._own, self._gone = stream is None, False
        self.lost: Exception | None = None
        self.written = time.monotonic()  # when it last was

    def __getattr__(self, name: str) -> Any:
        if name == "_stream":  # of one that is being copied
            raise AttributeError(name)
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Writes text, or drops it; characters that the stream has not are written as escapes."""
        self.written = time.monotonic()
        try:
            self._through("write", text)
        except UnicodeEncodeError:
            encoding = getattr(self._stream, "encoding", None) or "ascii"
            self._through("write", text.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Writes lines, or drops them."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Flushes what was written, or drops it."""
        self._through("flush")

    def isatty(self) -> bool:
        """Tells whether somebody sits at the stream."""
        try:
            return not self._gone and self._stream.isatty()
        except (OSError, ValueError):
            return False

    def _through(self, name: str, *args: Any) -> None:
        if self._gone:
            return
        try:
            getattr(self._stream, name)(*args)
        except UnicodeEncodeError:
            raise
        except (OSError, ValueError) as error:  # ValueError: the stream is closed
            self.lost, self._gone = error, getattr(error, "errno", None) not in PASSING
            _empty(self._stream)

    def _let_go(self) -> None:
        self.flush()
        if self._own:
            self._stream.close()


def _empty(stream: Any) -> None:
    """Drops what a stream still holds: Python flushes it at exit, fails again, says so and exits with 120.

    The bytes go to the null device, which stands in the file's place for that time; the stream stays as it was.
    """
    with contextlib.suppress(OSError, ValueError, AttributeError):
        file = stream.fileno()
        kept, null = os.dup(file), os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(null, file)
            stream.flush()
        finally:
            os.dup2(kept, file)
            os.close(kept)
            os.close(null)


@contextlib.contextmanager
def guard() -> Iterator[None]:
    """Guards sys.stdout and sys.stderr in a `with` block or a decorated function; puts back what it found.

    Nested ones leave the work to the outermost. Where it is silent for long, a line says why (`activity`).
    """
    mine = {name: Screen(found) for name in _NAMES if not isinstance(found := getattr(sys, name), Screen)}
    before = {name: getattr(sys, name) for name in mine}
    for name, screen in mine.items():
        setattr(sys, name, screen)
    last = lambda: max(screen.written for screen in mine.values())
    try:
        with activity.watched(last) if mine else contextlib.nullcontext():
            yield
    finally:
        for name, screen in mine.items():
            if getattr(sys, name) is screen:
                setattr(sys, name, before[name])
            screen._let_go()


_NAMES = ("stdout", "stderr")


def lost() -> Exception | None:
    """Gives the error for which a guarded stdout dropped text, though somebody may still want it; None: none did.

    A reader who left wants no more; a full disk is another matter for a command whose text is its result.
    """
    sys.stdout.flush()
    error = getattr(sys.stdout, "lost", None)
    return error if getattr(error, "errno", None) in PASSING else None


def occupy() -> None:
    """Opens the null device under the numbers 0, 1 and 2 where a process was started without these files.

    Otherwise the next files opened would get them, and what libraries print to stderr would land in a checkpoint.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
