"""Batches as a pure function of (seed, step), for any number of hosts, workers, or restarts.

Example i of batch k stands at position p = k B + i of an endless walk: epoch e = p // N, and within it the
permutation of (seed, e) says which example it is. The shuffle comes before the split over hosts, so the global batch
does not depend on their number; resuming is starting at another step.
"""

import queue
import threading
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import jax
import numpy as np

from diffjax.data.source import Batch, Source


def indices_at(n: int, seed: int, step: int, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Which examples form batch `step`, and their positions in the walk; both (batch_size,)."""
    positions = np.arange(step * batch_size, (step + 1) * batch_size, dtype=np.int64)
    epochs, places = positions // n, positions % n
    orders = {epoch: _permutation(n, seed, epoch) for epoch in np.unique(epochs).tolist()}
    return np.asarray([orders[e][p] for e, p in zip(epochs.tolist(), places.tolist())], np.int64), positions


@lru_cache(maxsize=4)
def _permutation(n: int, seed: int, epoch: int) -> np.ndarray:
    # Sorting counter-based random words: fixed by Philox's definition, not by NumPy's way of shuffling.
    words = np.random.Philox(key=np.asarray([seed, epoch], np.uint64)).random_raw(n)
    return np.argsort(words, kind="stable")


def batch_at(
    source: Source,
    batch_size: int,
    seed: int,
    step: int,
    *,
    process_index: int = 0,
    process_count: int = 1,
    flip: bool = False,
) -> Batch:
    """This host's part of the global batch of `step`: batch_size / process_count consecutive examples of it.

    Args:
        flip: mirror each image left to right with probability 1/2, a function of (seed, position).

    Raises:
        ValueError: unless process_count divides batch_size.
    """
    if batch_size % process_count:
        raise ValueError(f"batch_size is {batch_size}, expected a multiple of {process_count}, the number of hosts.")
    own = slice(process_index * batch_size // process_count, (process_index + 1) * batch_size // process_count)
    indices, positions = (part[own] for part in indices_at(len(source), seed, step, batch_size))
    batch = source.gather(indices)
    if flip:
        mirrored = _coins(seed, positions)[:, None, None, None]
        batch = {**batch, "x": np.where(mirrored, batch["x"][:, :, ::-1], batch["x"])}
    return batch


def _coins(seed: int, positions: np.ndarray) -> np.ndarray:
    """One fair bit per position of the walk."""
    first = int(positions[0])
    stream = np.random.Philox(key=np.asarray([seed, 2**64 - 1], np.uint64))
    stream.advance(first // 4)  # one step of the counter is four words
    return (stream.random_raw(first % 4 + len(positions))[first % 4 :] >> np.uint64(63)).astype(bool)


class Batches:
    """An endless iterator over stacks of batches, prepared by a thread that stays a few ahead; a context manager.

    Iterating gives `put(stack)`, leaves (steps_per_dispatch, local batch, ...), for steps start_step, start_step + 1, ...
    """

    def __init__(
        self,
        source: Source,
        batch_size: int,
        seed: int,
        start_step: int = 0,
        *,
        steps_per_dispatch: int = 1,
        flip: bool = False,
        prefetch: int = 2,
        put: Callable[[Batch], Any] = jax.device_put,
        process_index: int | None = None,
        process_count: int | None = None,
    ):
        hosts = {
            "process_index": jax.process_index() if process_index is None else process_index,
            "process_count": jax.process_count() if process_count is None else process_count,
        }
        make = lambda step: batch_at(source, batch_size, seed, step, flip=flip, **hosts)
        make(start_step)  # what is wrong with the data is raised here, not in the thread

        def stacks() -> Iterator[Any]:
            step = start_step
            while True:
                parts = [make(step + i) for i in range(steps_per_dispatch)]
                yield put({name: np.stack([part[name] for part in parts]) for name in parts[0]})
                step += steps_per_dispatch

        self._ready: queue.Queue = queue.Queue(max(prefetch, 1))
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._fill, args=(stacks(),), daemon=True, name="batches")
        self._thread.start()

    def _fill(self, stacks: Iterator[Any]) -> None:
        try:
            for stack in stacks:
                if not self._offer((stack, None)):
                    return
        except BaseException as error:  # handed to the consumer, whoever it concerns
            self._offer((None, error))

    def _offer(self, item: Any) -> bool:
        while not self._closed.is_set():
            try:
                self._ready.put(item, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def __iter__(self) -> "Batches":
        return self

    def __next__(self) -> Any:
        stack, error = self._ready.get()
        if error is not None:
            self.close()
            raise error
        return stack

    def __enter__(self) -> "Batches":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def close(self) -> None:
        """Stops the thread; idempotent."""
        self._closed.set()
        self._thread.join()
