"""Where the time of a run went, and results.json, which says how far it is: every second of a start has one entry.

    start        until the first step: reading data, making the state; of a start that goes on with a run: restart
    compile      XLA, wherever it was called from
    input wait   for a batch
    step         training, and waiting for its numbers
    sampling     pictures along the run; evaluation: the report at its end
    save stall   for a checkpoint, as long as training waits for it
    rest         what none of these is

All starts of a run are added up. A start that is killed had its time written down at most 10 s before.
"""

import contextlib
import json
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from diffjax import disk
from diffjax.environment import environment
from diffjax.logs import CompileClock

ENTRIES = ("start", "restart", "compile", "input wait", "step", "sampling", "evaluation", "save stall", "rest")
FILE = "results.json"
EVERY = 10.0  # seconds between two looks at a run that goes on


class Ledger:
    """A clock whose time is always on one of ENTRIES.

    Args:
        clock: of compilation, whose seconds are taken from the entry in which they were spent.
        began: `time.monotonic()` of the start; default now.
    """

    def __init__(self, clock: CompileClock | None = None, began: float | None = None):
        self.clock = clock or CompileClock()
        self._spent: dict[str, float] = dict.fromkeys(ENTRIES, 0.0)
        self._entry: str | None = "start"
        self._since = time.monotonic() if began is None else began
        self._compiled = self.clock.seconds

    def enter(self, entry: str | None, renamed: bool = False) -> str | None:
        """Has the time from here on under another entry, or with `renamed` since it has the present one; gives that.

        None: it is none of the run's, as between two cells of a notebook.
        """
        if not renamed:
            self._close()
        before, self._entry = self._entry, entry
        return before

    @contextlib.contextmanager
    def of(self, entry: str) -> Iterator[None]:
        """Has the time of a `with` block under an entry; one within another takes its own from it."""
        before = self.enter(entry)
        try:
            yield
        finally:
            self.enter(before)

    @property
    def seconds(self) -> dict[str, float]:
        """What each entry has until now; together they are the time since the start."""
        self._close()
        return dict(self._spent)

    def _close(self) -> None:
        now, compiled = time.monotonic(), self.clock.seconds
        if self._entry is not None:
            of_compiler = min(compiled - self._compiled, now - self._since)  # threads may compile at once
            self._spent["compile"] += of_compiler
            self._spent[self._entry] += now - self._since - of_compiler
        self._since, self._compiled = now, compiled


class Account:
    """What results.json says of a run: its status, and the time of all its starts.

    The status is "running" (also of a run that was killed: then nobody holds its lock), "trained", "interrupted",
    "nonfinite", "failed" or "done".

    Args:
        workdir: of the run; None: nothing is written.
        ledger: of this start.

    Attributes:
        skipped: steps of the run that changed nothing, as known last.
        found: what was written last.
        starts: of the run, this one included.
    """

    def __init__(self, workdir: Path | None, ledger: Ledger):
        self.path = None if workdir is None else workdir / FILE
        self.skipped, self.starts = 0, 1
        self.found: dict[str, Any] = {}
        self._ledger, self._written, self._told = ledger, -EVERY, False
        self._earlier: dict[str, float] = dict.fromkeys(ENTRIES, 0.0)
        if self.path is None:
            return
        self._facts = {"command": shlex.join(sys.argv), **_facts()}
        with contextlib.suppress(FileNotFoundError):
            try:
                self._earlier, before = _read(self.path)
                self.starts += before
            except ValueError as error:
                print(f"the time of earlier starts is not known: {error}", flush=True)

    @property
    def seconds(self) -> dict[str, float]:
        """The time of all starts, by entry."""
        return {name: self._earlier[name] + value for name, value in self._ledger.seconds.items()}

    def write(self, status: str, step: int, **more: Any) -> None:
        """Writes the status of a run, and the time of all its starts, to results.json."""
        seconds = self.seconds
        self.found = {
            **{"status": status, "step": step, "skipped": self.skipped, **more},
            "minutes": round(sum(seconds.values()) / 60, 2),
            "starts": self.starts,
            "seconds": {name: round(value, 3) for name, value in seconds.items()},
        }
        if self.path is None:
            return
        self.found |= self._facts
        self._written = time.monotonic()
        try:
            disk.write(self.path, json.dumps(self.found, indent=2))
        except OSError as error:  # it is information, and stops no run
            if not self._told:
                print(f"{self.path} cannot be written: {error.strerror or error}", flush=True)
            self._told = True

    def running(self, step: int) -> None:
        """Writes that the run goes on, if nothing was written for EVERY seconds."""
        if self.path is not None and time.monotonic() - self._written >= EVERY:
            self.write("running", step)

    @contextlib.contextmanager
    def watching(self, step: Callable[[], int], known: dict[type, str | None]) -> Iterator[None]:
        """Writes that a run goes on, and of what fails in the `with` block how it ended.

        Args:
            step: tells where the run is; an error that has a step of its own is at that.
            known: the status of an error, None where the workdir is no longer this run's; "failed" of all others.
        """
        self.write("running", step())
        try:
            yield
        except Exception as error:
            status = next((name for kind, name in known.items() if isinstance(error, kind)), "failed")
            said = f"{type(error).__name__}: {error}" if status == "failed" else str(error)
            if status is not None:
                self.write(status, getattr(error, "step", step()), error=said.partition("\n")[0])
            raise


def _read(path: Path) -> tuple[dict[str, float], int]:
    """The time of all starts until now, and their number; ValueError where the file does not say."""
    found = disk.read_json(path)
    try:
        return {name: float(found["seconds"].get(name, 0.0)) for name in ENTRIES}, int(found["starts"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} has none, it is of an older run or damaged") from error


def table(seconds: dict[str, float], starts: int = 1) -> str:
    """Writes what each entry has, and its share, as Markdown."""
    total = sum(seconds.values())
    rows = [f"| {name} | {seconds[name]:.1f} | {seconds[name] / max(total, 1e-9):.1%} |" for name in ENTRIES]
    whole = f"| in all{'' if starts == 1 else f', {starts} starts'} | {total:.1f} | 100% |"
    return "\n".join(["", "## Time", "", "| what | s | share |", "|---|---|---|", *rows, whole, ""])


def table_of(workdir: Path) -> str:
    """Writes the table of a run's results.json; empty where it has none."""
    try:
        return table(*_read(workdir / FILE))
    except (FileNotFoundError, ValueError):
        return ""


def _facts() -> dict[str, Any]:
    found = environment()
    device = f"{found['device_count']} x {' + '.join(found['devices'])}"
    return {"commit": found["commit"], "device": device, "jax": found["versions"]["jax"]}
