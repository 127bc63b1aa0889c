"""Examples that stay in files, read by Grain's threads when they are gathered, or by processes ahead of that."""

import importlib.util
from collections.abc import Callable
from contextlib import closing
from typing import Any

import numpy as np

from diffjax import host
from diffjax.data.images import UnusableError
from diffjax.data.source import Arrays, unit
from diffjax.method import Example

Columns = dict[str, np.ndarray]  # "x" and what is given, as a file has them

PER_READ = 16  # records that one of several threads takes at a time
PER_CALL = 1024  # that a single one does: what reads records is quicker in long calls
IN_MEMORY = 4 * 2**30  # bytes: sets up to this size are loaded, larger ones stay in their files


def check_readers(*packages: str) -> None:
    """Raises a ValueError, which says how to get what reads records, where a package is not installed."""
    if missing := [name for name in packages if importlib.util.find_spec(name) is None]:
        raise ValueError(
            f"Examples that stay in files are read by {', '.join(packages)}, of which {', '.join(missing)} is not "
            "installed: pip install 'diffjax[records]'."
        )


class Records:
    """A source over `read`, which takes indices (b,) to {"x", "y": (b, ...) uint8 or floating, "label": (b,) integers}.

    Which examples form a batch is decided above, by (seed, step): threads and processes change the speed, never the
    result.

    Args:
        threads: that share one read; 1: the caller's own.
        labels: those of all examples, where they are known without reading one.
        workers: processes that make batches ahead (`Batches`), each with one thread; 0: none.

    Raises:
        ValueError: for no example, no thread, or a number of workers that is none.
    """

    def __init__(
        self,
        count: int,
        read: Callable[[np.ndarray], Columns],
        threads: int = 16,
        labels: np.ndarray | None = None,
        workers: int = 0,
    ):
        check_readers("grain")
        if count < 1:
            raise ValueError("The data set holds no example.")
        self.threads, self.workers = host.check_int("threads", threads), host.check_int("workers", workers, 0)
        self.count, self.read, self.labels = count, read, labels

    def __len__(self) -> int:
        """The number of examples."""
        return self.count

    def gather(self, indices: np.ndarray) -> Example:
        """Gathers the examples at `indices` (B,); x as float32, bytes in [-1, 1]."""
        columns = self.gather_raw(indices)
        known = lambda name, part: part.astype(np.int32) if name == "label" else unit(part)
        return Example(unit(columns["x"]), {name: known(name, part) for name, part in columns.items() if name != "x"})

    def gather_raw(self, indices: np.ndarray) -> Columns:
        """Gathers the examples at `indices` (B,), as they are stored."""
        parts, refused = [], []
        with closing(self._reads(np.asarray(indices))) as reads:
            for part in reads:
                if isinstance(part, Exception) and not isinstance(part, UnusableError):
                    raise part
                (refused if isinstance(part, UnusableError) else parts).append(part)
        if refused:
            raise UnusableError([reason for error in refused for reason in error.reasons])
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _reads(self, indices: np.ndarray) -> Any:
        """Reads parts of what is asked for, in order: an iterator that can be closed."""
        split = lambda most: np.array_split(indices, -(-len(indices) // most))
        if self.threads == 1:
            return (self._tried(chunk) for chunk in split(PER_CALL))
        import grain

        options = grain.ReadOptions(num_threads=self.threads, prefetch_buffer_size=2 * self.threads)
        return iter(grain.MapDataset.source(split(PER_READ)).map(self._tried).to_iter_dataset(options))

    def _tried(self, indices: np.ndarray) -> Columns | Exception:
        """Reads, or gives what went wrong: raised in a thread, Grain would write lines of its own behind it."""
        try:
            return self.read(indices)
        except (ValueError, OSError) as error:
            return error

    def __getstate__(self) -> dict[str, Any]:
        """Gives what a worker process is sent: there it is one of several, and reads by itself."""
        return {**self.__dict__, "threads": 1}

    def load(self) -> Arrays:
        """Loads all examples into memory."""
        return Arrays(**self.gather_raw(np.arange(self.count)))
