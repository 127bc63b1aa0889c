"""Checkpoints that can be trusted: a step is restored exactly as it was saved, or not at all.

Orbax writes each step asynchronously and renames it into place when it is complete, so that a killed save leaves no
step behind. What it does not notice is damage: flipped bytes restore as wrong numbers, missing chunks as zeros, another
dtype is cast; nor a folder that was copied or renamed. So every step also records its number, and the shape, dtype and
checksum of each leaf (`records`). `restore` compares the number with the folder's and with the state's own `step`,
shapes and dtypes with its target before reading, checksums with what was read, and walks back to the newest step that
passes.

In a multi-process run every process calls every method, the state holds global arrays, and the directory is shared. A
data file that one process cannot read then ends the run, naming the step, since its peers may have read theirs.
"""

import contextlib
import gc
import itertools
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from diffjax import records
from diffjax.checksum import checksums
from diffjax.types import PyTree

_log = logging.getLogger(__name__)


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
        path = os.fspath(directory)
        path = path if "://" in path else os.path.abspath(path)
        if not create and "://" not in path and not os.path.isdir(path):
            raise FileNotFoundError(f"no checkpoints at {path}: expected the directory that training wrote")
        self._keep, self._best, self._metric, self._every = keep, best, best_metric, keep_every
        self._report = report
        self._records: dict[int, Any] = {}  # what is known of each step; None: not to be trusted
        self._pending, self._cleared = None, False
        logging.getLogger("absl").addFilter(_not_orbax)
        options = ocp.CheckpointManagerOptions(create=create, preservation_policy=_Preserve(self._kept))
        handlers = {"state": ocp.StandardCheckpointHandler(), "info": ocp.JsonCheckpointHandler()}
        self._manager = ocp.CheckpointManager(path, options=options, item_handlers=handlers)
        self.directory = self._manager.directory

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
            self._manager.close()

    def wait(self) -> None:
        """Blocks until the save under way is complete; OSError if it failed."""
        step, self._pending = self._pending, None
        if step is None:
            return
        try:
            self._manager.wait_until_finished()
            if not self._place(step).is_dir():
                raise FileNotFoundError("it is not there after the save")
        except Exception as error:  # Orbax hands on whatever its writing threads met
            self._records.pop(step, None)
            raise OSError(f"step {step} was not saved in {self.directory}: {_line(error)}") from error

    def steps(self) -> list[int]:
        """Lists the steps in the directory, ascending, after the save under way; only `restore` verifies them."""
        self.wait()
        self._manager.reload()
        return sorted(self._manager.all_steps())

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
        record = records.make(step, state, metrics, config)
        recorded = self._recorded(self.steps())
        self._clear_leftovers()
        if step in recorded and self._records[step]["leaves"] == record["leaves"]:
            return False
        if recorded and recorded[-1] >= step:
            raise ValueError(f"cannot save step {step}: {self.directory} already holds {_listed(recorded)}")
        if self._place(step).exists():
            self._set_aside(step)
        self._records[step] = record
        self._pending = step
        items = ocp.args.Composite(state=ocp.args.StandardSave(state), info=ocp.args.JsonSave(record))
        try:
            self._manager.save(step, args=items, force=True)
        except Exception as error:
            self._pending = None
            self._records.pop(step, None)
            raise OSError(f"step {step} was not saved in {self.directory}: {_line(error)}") from error
        return True

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
        if any(map(self._entries, steps)):  # to start afresh would replace them silently
            raise ValueError(f"no checkpoint in {self.directory} can be restored: {'; '.join(skipped)}")
        return None

    def _read(self, step: int, target: PyTree) -> Restored:
        try:
            record = self._records[step] = self._load_record(step)
            records.check_fit(f"step {step} in {self.directory}", record["leaves"], target)
            state = self._load(step, "state", ocp.args.StandardRestore(target))
            for (name, leaf), (found, _) in zip(records.named(state).items(), checksums(state)):
                if found != record["leaves"][name]["checksum"]:
                    raise DamagedError(f"step {step}: {name} ({records.kind(leaf)}) is not what was saved: checksum")
            own = getattr(state, "step", None)
            if isinstance(own, jax.Array) and int(own) != step:
                raise DamagedError(f"step {step}: its state is that of step {own}")
        except DamagedError:
            self._records[step] = None
            raise
        return Restored(step, state, Info(record["config"], record["metrics"]))

    def _load_record(self, step: int) -> dict[str, Any]:
        present = self._entries(step)
        if missing := [name for name in _ITEMS if name not in present]:
            raise DamagedError(f"step {step}: incomplete, it lacks {', '.join(missing)}")
        record = self._load(step, "info", ocp.args.JsonRestore())
        if not isinstance(record, dict) or record.pop("crc32", None) != records.crc32(record):
            raise DamagedError(f"step {step}: its record is not what was saved: checksum")
        if (own := record.get("step", step)) != step:  # older records have none
            raise DamagedError(f"step {step}: it is step {own}, whose folder was copied or renamed")
        return record

    def _load(self, step: int, item: str, args: ocp.args.CheckpointArgs) -> Any:
        with _hushed():
            try:
                return self._manager.restore(step, args=ocp.args.Composite(**{item: args}))[item]
            except (MemoryError, jax.errors.JaxRuntimeError):  # this machine's fault, not the step's
                raise
            except Exception as error:  # on damaged files Orbax and TensorStore raise anything, bare Exception included
                reason = f"step {step}: cannot read its {item}: {_line(error)}"
            time.sleep(0.05)  # the other reads of the same step end, and their tasks are collected, in silence
            gc.collect()
        if item == "state" and jax.process_count() > 1:  # the others read other shards, and wait for this process
            raise ValueError(f"{reason}; several processes cannot walk back together: move the step away, start again")
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

    def _kept(self, steps: Sequence[int]) -> list[bool]:
        recorded = self._recorded(sorted(steps))
        kept = {*recorded[-self._keep :], *self._ranked(recorded)[: self._best]}
        kept.update(k for k in recorded if self._every and k % self._every == 0)
        return [k in kept or k not in recorded for k in steps]

    def _place(self, step: int) -> Any:
        return self.directory / str(step)

    def _entries(self, step: int) -> list[str]:
        try:
            return [p.name for p in self._place(step).iterdir()]
        except FileNotFoundError:  # a run that is going on has deleted it meanwhile
            return []

    def _set_aside(self, step: int) -> None:
        """Renames what stands where a step is to be saved: a damaged step, or something that is none."""
        place = self._place(step)
        names = (self.directory / f"{step}.aside{n}" for n in itertools.count(1))
        aside = next(name for name in names if not name.exists())
        _once(f"set aside {place}", lambda: place.rename(aside))
        self._manager.reload()
        self._report(f"{place} is no sound checkpoint: set aside as {aside.name}")

    def _clear_leftovers(self) -> None:
        """Deletes what killed saves left, before the first save: temporary directories with our items and no others."""
        if not self._cleared:
            left = [p for p in self.directory.iterdir() if re.fullmatch(r"\d+\.orbax-checkpoint-tmp.*", p.name)]
            left = [p for p in left if p.is_dir() and all(q.name.startswith(_ITEMS) for q in p.iterdir())]
            _once(f"clear {self.directory}", lambda: [p.rmtree() for p in left])
        self._cleared = True


_ITEMS = ("state", "info", "_CHECKPOINT_METADATA")


class _Preserve(NamedTuple):
    """A rule of which steps Orbax keeps, by its protocol for retention."""

    kept: Callable[[Sequence[int]], list[bool]]

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        return self.kept([c.step for c in checkpoints])


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


def _once(name: str, act: Callable[[], Any]) -> None:
    """Acts in one process while the others wait."""
    if jax.process_index() == 0:
        act()
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def _line(error: BaseException) -> str:
    """Shortens an error, whose message may fill a page, to one line."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:200]}" if text else type(error).__name__


def _listed(steps: Sequence[int]) -> str:
    return ", ".join(map(str, steps)) or "no steps"
