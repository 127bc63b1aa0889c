"""What a command is doing while it says nothing: after some seconds of silence a line on stderr says so, and how long.

    with activity.doing("compiling the training step"):
        ...                                        # "... compiling the training step: 5 s"

A thread looks when the guarded streams (`screen`) were last written to. DIFFJAX_SILENCE=SECONDS sets how long they may
be silent, and "off" lets them.
"""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator

VARIABLE = "DIFFJAX_SILENCE"
SILENCE = 4.0  # seconds
_doing: list[tuple[str | Callable[[], str], float]] = []  # the innermost last, with the time that each began


@contextlib.contextmanager
def doing(what: str | Callable[[], str]) -> Iterator[None]:
    """Names what is done in a `with` block or a decorated function; one within another is said in its place.

    Args:
        what: words, or a function that gives them, such as those of a step that moves.
    """
    entry = (what, time.monotonic())
    _doing.append(entry)
    try:
        yield
    finally:
        _doing.remove(entry)


def line() -> str:
    """Says what is done now, and since when."""
    what, since = _doing[-1] if _doing else ("working", time.monotonic())
    return f"... {what() if callable(what) else what}: {time.monotonic() - since:.0f} s"


def _say(text: str) -> None:
    """Prints a line; where there is a progress bar, above it."""
    bars = sys.modules.get("tqdm")
    if bars is None:
        print(text, file=sys.stderr, flush=True)
    else:
        bars.tqdm.write(text, file=sys.stderr)


def silence() -> float | None:
    """Reads how many seconds of silence are allowed; None: any."""
    chosen = os.environ.get(VARIABLE, "").lower()
    try:
        return None if chosen == "off" else float(chosen or SILENCE)
    except ValueError:
        return SILENCE


@contextlib.contextmanager
def watched(last: Callable[[], float]) -> Iterator[None]:
    """Ends silences in a `with` block: prints `line` on sys.stderr where nothing was written for too long.

    Args:
        last: gives `time.monotonic()` of when something was last written.
    """
    allowed, over = silence(), threading.Event()
    if allowed is None:
        yield
        return

    def watch(allowed: float) -> None:
        while not over.wait(max(allowed - (time.monotonic() - last()), 0.05)):
            if time.monotonic() - last() >= allowed:
                _say(line())

    thread = threading.Thread(target=watch, args=(allowed,), daemon=True, name="diffjax-activity")
    with doing("starting"):
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
