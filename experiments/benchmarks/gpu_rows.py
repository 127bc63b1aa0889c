"""Rows of a benchmark under a budget of seconds: each is printed when it is known, and a watchdog ends what runs over.

What no longer fits is skipped and said. A compilation cannot be interrupted, so the watchdog prints the closing line
itself and ends the process: a row that was under way is lost, no other.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from counting import report

MARGIN = 3.0  # seconds before the end of the budget at which the watchdog closes: for its lines to be written
FASTEST, SLOWEST = 0.5, 4.0  # bounds of a machine's pace, since one row that was guessed badly says little


def began() -> float:
    """Tells when this process began, by `time.monotonic`, imports included; now, where the system does not say."""
    try:
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, ValueError, IndexError):
        age = 0.0
    return time.monotonic() - age


class Rows:
    """The rows of a benchmark, and the seconds that are left for more.

    Attributes:
        found: row -> its numbers; skipped: row -> why it has none; failed: row -> the error.
    """

    def __init__(self, name: str, budget: float, end: Callable[[int], Any] = os._exit) -> None:
        """Starts the clock.

        Args:
            budget: seconds from the beginning of the process.
            end: what the watchdog ends the process with.
        """
        if not budget > MARGIN:
            raise ValueError(f"--budget is {budget:g}, expected more than {MARGIN:g} seconds.")
        self.name, self.until, self.end = name, began() + budget, end
        self.found: dict[str, Any] = {}
        self.skipped: dict[str, str] = {}
        self.failed: dict[str, str] = {}
        self.about: dict[str, Any] = {}
        self.under_way, self.guessed, self.took = "start", 0.0, 0.0
        self._lock, self._closed = threading.Lock(), False
        self._watchdog = threading.Timer(max(0.0, self.left() - MARGIN), self._run_over)
        self._watchdog.daemon = True
        self._watchdog.start()

    def left(self) -> float:
        """Tells how many seconds are left."""
        return self.until - time.monotonic()

    @property
    def pace(self) -> float:
        """The seconds that rows took over those that were guessed, within bounds; 1 before the first."""
        return min(max(self.took / self.guessed, FASTEST), SLOWEST) if self.guessed else 1.0

    def row(self, name: str, guess: float, make: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
        """Makes and prints a row, unless what is left of the budget is less than it may take.

        Args:
            guess: seconds, compilation included; the pace of the rows before scales it.
            make: the numbers of the row. What it raises is its failure, and takes no other row with it.
        """
        needed, left = guess * self.pace, self.left() - MARGIN
        if needed > left:
            self.skip(name, f"needs about {needed:.0f} s, {max(left, 0):.0f} are left")
            return None
        self.under_way, began = name, time.monotonic()
        try:
            values = make()
        except Exception as error:
            why = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            self._say({"row": name, "failed": why}, self.failed, name, why)
            return None
        seconds = time.monotonic() - began
        self.guessed, self.took = self.guessed + guess, self.took + seconds
        values = {**values, "row_s": round(seconds, 2)}
        self._say({"row": name, **values}, self.found, name, values)
        return values

    def forget_pace(self) -> None:
        """Forgets the pace, where the rows so far say nothing of those to come."""
        self.guessed = self.took = 0.0

    def skip(self, name: str, why: str) -> None:
        """Notes and prints why a row is not made."""
        self._say({"row": name, "skipped": why}, self.skipped, name, why)

    def close(self) -> int:
        """Prints the closing line; gives the exit status, 1 where a row failed."""
        self._watchdog.cancel()
        self._finish(report)
        return 1 if self.failed else 0

    def _say(self, line: dict[str, Any], kept: dict, name: str, value: Any) -> None:
        with self._lock:
            if not self._closed:
                kept[name] = value
                print(json.dumps(line), flush=True)

    def _finish(self, write: Callable[[str, dict[str, Any]], None]) -> bool:
        with self._lock:
            first, self._closed = not self._closed, True
            if first:
                write(self.name, {"rows": self.found, "skipped": self.skipped, "failed": self.failed, **self.about})
                sys.stdout.flush()
            return first

    def _run_over(self) -> None:
        self.skip(self.under_way, f"cut off {MARGIN:g} s before the end of the budget")
        started = self.under_way != "start"  # until then `report` would wait for the devices
        bare = lambda name, line: print(json.dumps({"benchmark": name, **line}))
        if self._finish(report if started else bare):
            self.end(1 if self.failed else 0)


def seconds_of(call: Callable[[], Any], count: int, groups: int = 3) -> float:
    """Measures the seconds of a call: the best of some groups of `count` calls in a row, of which the last is awaited.

    Calls are dispatched ahead of the device, as in training, so that what the host does is hidden where it can be.
    """
    best = float("inf")
    for _ in range(groups):
        began = time.perf_counter()
        for _ in range(count):
            result = call()
        jax.block_until_ready(result)
        best = min(best, (time.perf_counter() - began) / count)
    return best
