"""Traces of where the time of a command goes, operation by operation, in a file that a browser opens.

jax's own profiler writes it, in the format of Chrome's traces: drop the file on https://ui.perfetto.dev (which reads it
in the browser and uploads nothing) or on chrome://tracing. What lies beside it is for TensorBoard and XProf.
"""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from diffjax import disk

FIRST, STEPS = 3, 10  # calls that are left out, since they compile; that are traced: more make a file of gigabytes


def place(workdir: str | Path, mode: str) -> Path:
    """Names the file for the trace of a command on the run of a workdir, or beside a file."""
    folder = Path(workdir)
    return (folder.parent if folder.is_file() else folder) / "profile" / f"{mode}.json.gz"


@contextlib.contextmanager
def traced(path: str | Path) -> Iterator[None]:
    """Traces a `with` block into a file, `trace.json.gz` say, and says so; nothing is kept of a block that fails."""
    path = Path(path)
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            yield
        _keep(Path(folder), path)


def _keep(folder: Path, path: Path) -> None:
    """Moves what jax wrote to where it was asked for."""
    found = sorted(folder.rglob("*.trace.json.gz"))
    if not found:
        print(f"no profile: jax wrote no trace into {folder}", flush=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    disk.write(path, found[-1].read_bytes())
    for other in folder.rglob("*.xplane.pb"):
        shutil.copy(other, path.with_name(f"{path.name.partition('.')[0]}.xplane.pb"))
    print(f"profile: {path}; open it at https://ui.perfetto.dev", flush=True)


@contextlib.contextmanager
def steps(trainer: Any, path: str | Path, first: int = FIRST, count: int = STEPS) -> Iterator[None]:
    """Traces some dispatches of the training that a `with` block does, after the first ones, which compile.

    Args:
        trainer: whose attribute `steps` makes them (`runs.Trainer`).
    """
    made, plain = 0, trainer.steps

    with contextlib.ExitStack() as tracing:

        def watched(*args: Any) -> Any:
            nonlocal made
            if made == first:
                tracing.enter_context(traced(path))
            result = plain(*args)
            made += 1
            if made == first + count:
                jax.block_until_ready(result)
                tracing.close()
            return result

        trainer.steps = watched
        try:
            yield
        finally:
            trainer.steps = plain
    if made <= first:
        print(f"no profile: it is of dispatches after the first {first}, and {made} were made", flush=True)
