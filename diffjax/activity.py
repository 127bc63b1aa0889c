"""What a command is doing while it says nothing: after some seconds of silence a line on stderr says so, and how long.

    with activity.doing("compiling the training step"):
        ...                                        # "... compiling the training step: 5 s"

A thread looks when the guarded streams (`screen`) were last written to. DIFFJAX_SILENCE=SECONDS sets how long they may
be silent, and "off" lets them. A progress bar that moves is a sign of life too (`shown_by`): a notebook's is no text.
"""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator

VARIABLE = "DIFFJAX_SILENCE"
SILENCE = 4.0  # seconds
_bars: list[Callable[[], bool]] = []  # each moves a progress bar to where things are, and tells whether it moved
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


@contextlib.contextmanager
def shown_by(move: Callable[[], bool]) -> Iterator[None]:
    """Has a progress bar stand for the lines in a `with` block, for as long as it moves.

    Args:
        move: brings the bar to where things are, in the thread that watches; tells whether they moved since it last
            did.
    """
    _bars.append(move)
    try:
        yield
    finally:
        _bars.remove(move)


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
    allowed, over, moved = silence(), threading.Event(), [0.0]  # when a bar or this thread last spoke
    if allowed is None:
        yield
        return

    def watch(allowed: float) -> None:
        quiet = lambda: time.monotonic() - max(last(), *moved)
        while not over.wait(max(allowed - quiet(), 0.05)):
            if quiet() < allowed:
                continue
            found = [move() for move in _bars]  # all of them
            if not any(found):
                _say(line())
            moved[0] = time.monotonic()  # what is said may go elsewhere than to the streams that `last` looks at

    thread = threading.Thread(target=watch, args=(allowed,), daemon=True, name="diffjax-activity")
    with doing("starting"):
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
