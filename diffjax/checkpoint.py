"""Checkpoints that can be trusted: a step is restored exactly as it was saved, or not at all.

A save holds its caller for a copy of the state to the host. All else is done by a thread: Orbax writes the step beside
its place and renames it when it is complete, so that a killed save leaves no step behind; the disk has taken every file
and name of it before an older step is deleted. What Orbax does not notice is damage: flipped bytes restore as wrong
numbers, missing chunks as zeros, another dtype is cast; nor a folder that was copied or renamed. So every step also
records its number, and the shape, dtype and checksum of each leaf (`records`). `restore` compares the number with the
folder's and with the state's own `step`, shapes and dtypes with its target before reading, checksums with what was
read, and walks back to the newest step that passes.

Of several processes of a run one has the checkpoints (`cluster`), with arrays of its own; the others know none of it.
"""

import contextlib
import gc
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp

from diffjax import activity, disk, records
from diffjax.checksum import checksums
from diffjax.folders import Folders
from diffjax.types import PyTree
from diffjax.writer import Writer

_log = logging.getLogger(__name__)
_WRITING = threading.Lock()  # Orbax takes what belongs to one save for another's, where a process has two under way


class Info(NamedTuple):
    """What was saved beside a state, and which newer steps were passed over to reach it.

    Attributes:
        config: the run's config, as plain JSON.
        metrics: the finite ones of those given to `Checkpoints.save`.
        skipped: one line for each newer step that was passed over, with the reason.
    """

    config: dict[str, Any]
    metrics: dict[str, float]
    skipped: tuple[str, ...] = ()


class Restored(NamedTuple):
    """One step as it was saved, its checksums verified.

    Attributes:
        step: its number.
        state: the leaves of the target, filled.
        info: what was saved beside the state.
    """

    step: int
    state: PyTree
    info: Info


class DamagedError(ValueError):
    """The error of a step that is incomplete, unreadable, or not what was saved."""


class Checkpoints:
    """The checkpoints of one run, in one directory; a context manager that waits for the last save.

    Args:
        directory: holds one subdirectory per step, named by its number. A path, or an address known to Orbax (gs://).
        keep: the newest steps to keep, at least 1.
        best: the steps of lowest `best_metric` to keep besides.
        best_metric: a key of the metrics given to `save`; None ranks nothing. Steps where it is not finite do not rank.
        keep_every: keep besides the steps divisible by this.
        create: make the directory.
        report: called with one line for each step that is passed over or set aside.

    Raises:
        FileNotFoundError: the directory does not exist and is not to be made.

    Only steps that were recorded by `save` are ever deleted: other files, and steps found damaged, stay.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        keep: int = 2,
        best: int = 1,
        best_metric: str | None = "loss",
        keep_every: int | None = None,
        create: bool = True,
        report: Callable[[str], Any] = _log.warning,
    ):
        for name, value, least in (("keep", keep, 1), ("best", best, 0), ("keep_every", keep_every, 1)):
            if value is not None and value < least:
                raise ValueError(f"{name}={value}: expected an integer of at least {least}")
        self._folders = Folders(directory, (*_ITEMS, "commit_success.txt"))
        self.directory = self._folders.path
        if create:
            self._folders.make()
        elif not self.directory.is_dir():
            raise FileNotFoundError(f"no checkpoints at {self.directory}: expected the directory that training wrote")
        self._keep, self._best, self._metric, self._every = keep, best, best_metric, keep_every
        self._report = report
        self._records: dict[int, Any] = {}  # what is known of each step; None: not to be trusted
        self._cleared = False
        self._pending: int | None = None
        self._writer = Writer()
        logging.getLogger("absl").addFilter(_not_orbax)
        alone = _alone()
        both = {"state": ocp.StandardCheckpointHandler(**alone), "info": ocp.JsonCheckpointHandler(**alone)}
        options = ocp.CompositeOptions(**alone)
        self._saver = ocp.Checkpointer(ocp.CompositeCheckpointHandler(composite_options=options, **both), **alone)
        self._reader = ocp.Checkpointer(ocp.StandardCheckpointHandler(**alone), **alone)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type | None, *_: Any) -> None:
        try:
            self.close()
        except OSError as error:
            if kind is None:
                raise
            self._report(str(error))  # another error is on its way, and is not to be hidden by this one

    def close(self) -> None:
        """Waits for the save under way; OSError if it failed."""
        try:
            self.wait()
        finally:
            self._writer.close()

    def wait(self) -> None:
        """Blocks until the save under way is complete; OSError if it failed."""
        step = self._pending
        if step is None:
            return
        try:
            said = self._writer.wait()
            if not self._folders.of(step).is_dir():
                raise FileNotFoundError("it is not there after the save")
        except Exception as error:  # Orbax hands on whatever its writing threads met
            raise self._failed(step, error) from error
        self._pending = None
        for line in said or ():
            self._report(line)

    def steps(self) -> list[int]:
        """Lists the steps in the directory, ascending, after the save under way; only `restore` verifies them."""
        self.wait()
        return self._folders.steps()

    @property
    def latest(self) -> int | None:
        """Finds the newest step with a sound record, or None; waits for the save under way."""
        return max(self._recorded(self.steps()), default=None)

    @property
    def best(self) -> int | None:
        """Finds the step of lowest `best_metric`, or None; waits for the save under way."""
        return next(iter(self._ranked(self.steps())), None)

    def newest(self) -> tuple[int, Info] | None:
        """Reads what was saved beside the newest step with a sound record, but not its state; None where none has."""
        step = self.latest
        return None if step is None else (step, Info(self._records[step]["config"], self._records[step]["metrics"]))

    def save(self, step: int, state: PyTree, *, metrics: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
        """Starts to save a step; the state may be donated as soon as this returns.

        Args:
            step: larger than every step saved before.
            state: arrays in any pytree, typed keys included.
            metrics: scalars; those that are not finite are left out.
            config: anything that JSON can hold.

        Returns:
            False if this very state is already saved at this step, else True.

        Raises:
            ValueError: a leaf is no array, or not finite; the config is not JSON; the step or a newer one is taken.
            OSError: this save, or the one before, failed.
        """
        records.check_arrays(step, state)
        facts = records.facts(step, metrics, config)
        recorded = self._recorded(self.steps())
        if not self._cleared:
            self._folders.clear()
        self._cleared = True
        if step in recorded and self._records[step]["leaves"] == records.make(facts, state)["leaves"]:
            return False
        if recorded and recorded[-1] >= step:
            raise ValueError(f"cannot save step {step}: {self.directory} already holds {_listed(recorded)}")
        saved = records.to_host(step, state)
        if self._folders.taken(step):
            self._report(self._folders.set_aside(step))
        self._pending = step
        self._writer.start(lambda: self._whole(step, saved, facts), self._failure(step))
        return True

    def _whole(self, step: int, state: PyTree, facts: dict[str, Any]) -> list[str]:
        with _WRITING:
            return self._end(step, self._begin(step, state, records.make(facts, state)))

    def _begin(self, step: int, state: PyTree, record: dict[str, Any]) -> dict[str, Any]:
        stored = records.by_words(record["leaves"], records.words, state)
        items = ocp.args.Composite(state=ocp.args.StandardSave(stored), info=ocp.args.JsonSave(record))
        self._saver.save(self._folders.of(step), args=items)
        return record

    def _end(self, step: int, record: dict[str, Any]) -> list[str]:
        """Has the disk take a step that was written, and deletes what is no longer to be kept; lines to be said."""
        self._folders.sync(step)
        self._records[step] = record
        said: list[str] = []
        for old in self._unkept(self._folders.steps()):
            said += self._folders.delete(old)
            self._records.pop(old, None)  # tens of kilobytes each
        return said

    def _failed(self, step: int, error: Exception) -> OSError:
        """Forgets a save that failed, and gives the error that says so."""
        self._pending = None
        self._records.pop(step, None)
        self._cleared = False  # what it left is cleared by the next
        return OSError(f"{self._failure(step)}: {_line(error)}")

    def _failure(self, step: int) -> str:
        return f"step {step} was not saved in {self.directory}"

    @activity.doing("reading checkpoints")
    def restore(self, target: PyTree, step: int | None = None) -> Restored | None:
        """Restores the newest step that is complete and verified, or the given one.

        Args:
            target: the state to fill, as arrays or `jax.ShapeDtypeStruct`s: structure, shapes, dtypes and shardings. A
                leaf without a sharding goes to the first device.
            step: this step and no other.

        Returns:
            Step, state and info; None if the directory holds no checkpoint.

        Raises:
            ValueError: the target does not fit; no such step; the given step, or every step, is damaged.
        """
        steps = self.steps()
        target = jax.tree_util.tree_map_with_path(records.abstract, target)
        if step is not None:
            if step not in steps:
                raise ValueError(f"no step {step} in {self.directory}: it holds {_listed(steps)}")
            return self._read(step, target)
        skipped: list[str] = []
        for k in reversed(steps):
            try:
                found = self._read(k, target)
            except DamagedError as error:
                self._report(f"skipped a checkpoint: {error}")
                skipped.append(str(error))
            else:
                return found._replace(info=found.info._replace(skipped=tuple(skipped)))
        if any(map(self._folders.entries, steps)):  # to start afresh would replace them silently
            raise ValueError(f"no checkpoint in {self.directory} can be restored: {'; '.join(skipped)}")
        return None

    def _read(self, step: int, target: PyTree) -> Restored:
        try:
            record = self._records[step] = self._load_record(step)
            records.check_fit(f"step {step} in {self.directory}", record["leaves"], target)
            leaves = record["leaves"]
            args = ocp.args.StandardRestore(records.by_words(leaves, records.words, target))
            state = self._load(step, "state", lambda place: self._reader.restore(place, args=args))
            state = records.by_words(leaves, lambda words, kind: jax.random.wrap_key_data(words, impl=kind), state)
            for (name, leaf), (found, _) in zip(records.named(state).items(), checksums(state)):
                if found != leaves[name]["checksum"]:
                    raise DamagedError(f"step {step}: {name} ({records.kind(leaf)}) is not what was saved: checksum")
            own = getattr(state, "step", None)
            if isinstance(own, jax.Array) and int(own) != step:
                raise DamagedError(f"step {step}: its state is that of step {own}")
        except DamagedError:
            self._records[step] = None
            raise
        return Restored(step, state, Info(record["config"], record["metrics"]))

    def _load_record(self, step: int) -> dict[str, Any]:
        present = self._folders.entries(step)
        if missing := [name for name in _ITEMS if name not in present]:
            raise DamagedError(f"step {step}: incomplete, it lacks {', '.join(missing)}")
        record = self._load(step, "info", lambda place: self._parse(place / "metadata"))
        if record.pop("crc32", None) != records.crc32(record):
            raise DamagedError(f"step {step}: its record is not what was saved: checksum")
        if (own := record.get("step", step)) != step:  # older records have none
            raise DamagedError(f"step {step}: it is step {own}, whose folder was copied or renamed")
        return record

    def _parse(self, path: Any) -> dict[str, Any]:
        if (size := path.stat().length) > disk.LARGEST:
            raise disk.DamagedFileError(f"metadata has {size:,} bytes, expected at most {disk.LARGEST:,}")
        return disk.parse(path.read_bytes().decode(), "metadata")

    def _load(self, step: int, item: str, load: Callable[[Any], Any]) -> Any:
        with _hushed():
            try:
                return load(self._folders.of(step) / item)
            except (MemoryError, jax.errors.JaxRuntimeError):  # this machine's fault, not the step's
                raise
            except Exception as error:  # on damaged files Orbax and TensorStore raise anything, bare Exception included
                reason = f"step {step}: cannot read its {item}: {_line(error)}"
            time.sleep(0.05)  # the other reads of the same step end, and their tasks are collected, in silence
            gc.collect()
        raise DamagedError(reason)

    def _recorded(self, steps: Iterable[int]) -> list[int]:
        """Selects those of the steps that have a sound record and were not found damaged."""
        for k in sorted(set(steps) - self._records.keys()):
            try:
                self._records[k] = self._load_record(k)
            except DamagedError:  # said by `restore`, if it comes to that
                self._records[k] = None
        return [k for k in steps if self._records[k] is not None]

    def _ranked(self, steps: Iterable[int]) -> list[int]:
        scores = {k: self._records[k]["metrics"].get(self._metric) for k in self._recorded(steps)}
        return sorted((k for k, score in scores.items() if score is not None), key=lambda k: (scores[k], -k))

    def _unkept(self, steps: Sequence[int]) -> list[int]:
        recorded = self._recorded(steps)
        kept = {*recorded[-self._keep :], *self._ranked(recorded)[: self._best]}
        return [k for k in recorded if k not in kept and not (self._every and k % self._every == 0)]


def _alone() -> dict[str, Any]:
    """Options by which Orbax, of several processes, waits for none of the others."""
    if jax.process_count() == 1:
        return {}
    me = jax.process_index()
    only = ocp.options.MultiprocessingOptions(
        primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"process-{me}"
    )
    return {"multiprocessing_options": only}


_ITEMS = ("state", "info", "_CHECKPOINT_METADATA")


def _not_orbax(record: logging.LogRecord) -> bool:
    """Drops Orbax's commentary, which on damage runs to pages: what fails reaches our caller, in one line."""
    return f"{os.sep}orbax{os.sep}" not in record.pathname


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
    """Silences asyncio's asides: when the first of many reads fails, the others still print what became of them."""
    log, drop, hook = logging.getLogger("asyncio"), lambda _: False, sys.unraisablehook
    log.addFilter(drop)
    sys.unraisablehook = drop
    try:
        yield
    finally:
        sys.unraisablehook = hook
        log.removeFilter(drop)


def _line(error: BaseException) -> str:
    """Shortens an error, whose message may fill a page, to one line."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:200]}" if text else type(error).__name__


def _listed(steps: Sequence[int]) -> str:
    return ", ".join(map(str, steps)) or "no steps"
