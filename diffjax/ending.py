"""How a command ends that the machine or its user has stopped: one line, which says why and what is kept, and a status.

A full disk, a folder that may not be written, memory that is not there, a Ctrl-C are no faults of the program: a trace
would only hide what the reader needs.
"""

import errno
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from diffjax.peers import LostError  # light, as all is here

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_LONGEST = 300  # characters of a path or of a library's message
_LINE = 1500  # of what this library says


def explain(error: BaseException, workdir: str | Path | None = None) -> tuple[str, int] | None:
    """Gives (the line, the exit status) for an error that is none of the program's own; None for all others.

    Args:
        workdir: of the training run that the error ends, whose last saved step is named; None: of no run.
    """
    if stopped := next((e for e in _chain(error) if isinstance(e, KeyboardInterrupt)), None):
        number = getattr(stopped, "signal", signal.SIGINT)
        return stopped_by(number, workdir), 128 + number
    if isinstance(error, LostError):
        there = kept(workdir) if error.status == 1 else ""  # not of what was typed
        return f"error: {str(error).removesuffix(there)}{there}", error.status
    if isinstance(error, MemoryError) or _is_of_a_device(error):
        said = _short(str(error).strip().split("\n")[0])
        return f"error: out of memory{said and f': {said}'}{kept(workdir)}", 1
    if isinstance(error, OSError):
        told = (e for e in _chain(error) if isinstance(e, OSError) and (e.filename or e.errno is None))
        return f"error: {_reason(next(told, error), workdir)}{kept(workdir)}", 1
    return None


def script(main: Callable[[], object]) -> None:
    """Calls the `main` of a script on the library; what the library refuses of its input is one line, and status 2.

    A ValueError of the script's own, or of another library, keeps its trace: that is a fault of the script.
    """
    try:
        main()
    except (Exception, KeyboardInterrupt) as error:
        if isinstance(error, ValueError) and _is_of_the_library(error):
            line, status = f"error: {_short(' '.join(str(error).split()), _LINE)}", 2
        elif (explained := explain(error)) is None:
            raise
        else:
            line, status = explained
        print(line, file=sys.stderr)
        raise SystemExit(status) from None


def _is_of_the_library(error: BaseException) -> bool:
    """Tells whether code of this package has raised an error."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and Path(frames[-1].filename).is_relative_to(Path(__file__).parent)


def stopped_by(number: signal.Signals, workdir: str | Path | None = None) -> str:
    """Says that a signal has stopped a command at once, and what of the run is kept."""
    return f"stopped by {number.name}{kept(workdir)}"


def kept(workdir: str | Path | None) -> str:
    """Names the last step that a workdir has whole, to be added to a line; "" without a workdir."""
    if workdir is None:
        return ""
    try:
        steps = [int(path.name) for path in (Path(workdir) / "checkpoints").iterdir() if path.name.isdecimal()]
    except OSError:
        steps = []
    return f"; step {max(steps)} is saved, --workdir={workdir} resumes" if steps else "; no step is saved"


def _reason(error: OSError, workdir: str | Path | None) -> str:
    """Says what the system has refused, of which path, and how much space there is where that is the reason."""
    named = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    told = error.strerror or str(error).strip().split("\n")[0] or type(error).__name__
    said = ": ".join([_short(told), *([" -> ".join(map(_short, named))] if named else [])])
    if any(getattr(e, "errno", None) in NO_SPACE or "No space left" in str(e) for e in _chain(error)):
        place = named[0] if named else str(workdir or ".")
        said += f" ({_free(Path(place)) / 2**20:,.1f} MiB free{'' if named else f' for {_short(place)}'})"
    elif not named and error.strerror and workdir is not None:
        said += f" (in {workdir})"
    return said


def _free(path: Path) -> int:
    """Bytes free where a path is, or would be."""
    for folder in (path, *path.absolute().parents):
        try:
            return shutil.disk_usage(folder).free
        except OSError:
            continue
    return 0


def _is_of_a_device(error: BaseException) -> bool:
    """Tells whether it is XLA's error for memory that a device has not; its class has no name for that."""
    text = str(error)
    return isinstance(error, RuntimeError) and ("RESOURCE_EXHAUSTED" in text or "out of memory" in text.lower())


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and those that it came from: libraries turn one into another."""
    seen = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _short(text: str, most: int = _LONGEST) -> str:
    return text if len(text) <= most else f"{text[: most // 2]}...{text[-most // 2 :]}"
