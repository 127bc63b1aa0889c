"""What a run says while it works: JSON lines in the workdir, a bar or plain lines on the screen, loggers if asked."""

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import jax

from diffjax import activity, disk, notebook
from diffjax.config import ConfigError

LOGGERS = ("tensorboard", "wandb")
_PLAIN_LINE_EVERY = 5.0  # seconds


def in_order(
    lines: Sequence[dict[str, Any]], last: int, every: int | None = None
) -> tuple[list[dict[str, Any]], list[str]]:
    """Sorts logged lines up to the step `last`, one of each step; says which steps are there twice or not at all.

    Args:
        lines: each with its "step"; of two of one step the later holds.
        every: a line is due at each multiple of this; None: nothing is missed.
    """
    found = {line["step"]: line for line in lines if line["step"] <= last}
    missing = [] if every is None else [step for step in range(every, last + 1, every) if step not in found]
    doubled = len([line for line in lines if line["step"] <= last]) - len(found)
    shown = ", ".join(map(str, missing[:5])) + (", ..." if len(missing) > 5 else "")
    said = [f"the lines of {len(missing)} steps, which are lost ({shown})"] if missing else []
    return [found[step] for step in sorted(found)], [*said, *([f"{doubled} lines of a step twice"] if doubled else [])]


class CompileClock:
    """Seconds that XLA has spent compiling in this process since the clock was made."""

    def __init__(self) -> None:
        self.seconds = 0.0
        jax.monitoring.register_event_duration_secs_listener(self._add)

    def _add(self, event: str, duration_secs: float, **kwargs: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            self.seconds += duration_secs


class Log:
    """A context manager over every output of a run.

    Args:
        workdir: where metrics.jsonl and TensorBoard files go.
        total: the last step.
        start: the step resumed from.
        loggers: any of LOGGERS.
        config: for loggers that record it.
        bar: whether there is a bar where somebody sits at the screen.
        at: gives the step now, for a bar that moves between two lines of the log; default: it does not.

    Raises:
        ConfigError: for a logger whose package is not installed.
    """

    def __init__(
        self,
        workdir: Path | None,
        total: int,
        start: int,
        loggers: Sequence[str],
        config: dict[str, Any],
        bar: bool = True,
        at: Callable[[], int] | None = None,
    ):
        if loggers and workdir is None:
            raise ConfigError(f"The logger {loggers[0]} writes into a workdir, which this run has not.")
        self._sinks = [_sink(name, workdir or Path(), config) for name in loggers]
        self._path = Path(os.devnull) if workdir is None else workdir / "metrics.jsonl"
        self._file: TextIO = self._path.open("a")
        self._total, self._last_line = total, 0.0
        self._bar, self._moving, self._outputs = None, threading.Lock(), contextlib.ExitStack()
        self._at, self._seen = at, start
        if bar and (sys.stderr.isatty() or notebook.is_notebook()):
            from tqdm.auto import tqdm  # a notebook's own bar there

            self._bar = tqdm(total=total, initial=start, unit="step", dynamic_ncols=True)

    def __enter__(self) -> "Log":
        if self._bar is not None:
            self._outputs.enter_context(activity.shown_by(partial(self._follow, self._bar)))
        return self

    def __exit__(self, *_: Any) -> None:
        with self._outputs as outputs:  # one that fails leaves none of the others open
            outputs.enter_context(disk.naming(self._path))
            for output in (self._file, *self._sinks, *([] if self._bar is None else [self._bar])):
                outputs.callback(output.close)

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Writes one line of metrics.jsonl, and to every logger."""
        with disk.naming(self._path):
            self._file.write(json.dumps({"step": step, **values}) + "\n")
            self._file.flush()
        for sink in self._sinks:
            sink.write(step, values)

    def progress(self, step: int, batch_size: int, loss: float, rate: float, skipped: int = 0) -> None:
        """Moves the bar, or prints a plain line every few seconds; `rate` is the last window's steps per second.

        `skipped` steps of the run were not finite: they are named from the first one on.
        """
        now, lost = time.monotonic(), f", {skipped} skipped" if skipped else ""
        if self._bar is not None:
            with self._moving:
                self._bar.set_postfix_str(f"{rate * batch_size:,.0f} images/s, loss {loss:.4f}{lost}", refresh=False)
                self._bar.update(step - self._bar.n)
        elif now - self._last_line > _PLAIN_LINE_EVERY or step == self._total:
            self._last_line = now
            left = (self._total - step) / rate
            rates = f"{rate:.1f} step/s  {rate * batch_size:,.0f} images/s"
            print(f"step {step}/{self._total}  loss {loss:.4f}{lost}  {rates}  {left:.0f} s left", flush=True)

    def _follow(self, bar: Any) -> bool:
        """Moves the bar to the step now; tells whether that is another one than when it was last looked at."""
        with self._moving:
            step = bar.n if self._at is None else self._at()
            before, self._seen = self._seen, step
            bar.update(step - bar.n)
            bar.refresh()
        return step != before

    def say(self, text: str) -> None:
        """Prints one line for the reader."""
        if self._bar is not None:
            self._bar.write(text)
        else:
            print(text, flush=True)


def _sink(name: str, workdir: Path, config: dict[str, Any]) -> Any:
    try:
        return _TensorBoard(workdir) if name == "tensorboard" else _WandB(workdir, config)
    except ImportError as error:
        raise ConfigError(f"The {name} logger needs {error.name}: pip install diffjax[{name}].") from error


class _TensorBoard:
    def __init__(self, workdir: Path):
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(workdir / "tensorboard"))

    def write(self, step: int, values: dict[str, Any]) -> None:
        for name, value in _scalars(values):
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _WandB:
    def __init__(self, workdir: Path, config: dict[str, Any]):
        import wandb  # pyright: ignore[reportMissingImports]

        self._run = wandb.init(dir=str(workdir), config=config, resume="allow", id=workdir.name)

    def write(self, step: int, values: dict[str, Any]) -> None:
        self._run.log(dict(_scalars(values)), step=step)

    def close(self) -> None:
        self._run.finish()


def _scalars(values: dict[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    """Nested numbers under joined names; lists by index; None is left out."""
    flat: list[tuple[str, float]] = []
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            flat += _scalars(value, f"{name}/")
        elif isinstance(value, list):
            flat += _scalars({str(i): v for i, v in enumerate(value)}, f"{name}/")
        elif value is not None:
            flat.append((name, float(value)))
    return flat
