"""Batches as a pure function of (seed, step), for any number of hosts, workers, or restarts.

Example i of batch k stands at position p = k B + i of an endless walk: epoch e = p // N, and within it the
permutation of (seed, e) says which example it is. The shuffle comes before the split over hosts, so the global batch
does not depend on their number; resuming is starting at another step.
"""

import itertools
import queue
import threading
import weakref
from collections.abc import Callable, Generator
from contextlib import closing
from functools import lru_cache, partial
from typing import Any

import jax
import numpy as np

from diffjax.data.source import Source, check_flip
from diffjax.data.workers import in_order
from diffjax.method import Example

MOST_STACKS = 2**40  # that processes are asked for: more than any run takes


def order_at(n: int, seed: int, positions: np.ndarray) -> np.ndarray:
    """Finds which of n examples stand at the positions (m,) of the walk: their indices (m,)."""
    epochs, places = np.divmod(positions, n)
    indices = np.empty_like(positions)
    for epoch in np.unique(epochs).tolist():
        here = epochs == epoch
        indices[here] = _permutation(n, seed, epoch)[places[here]]
    return indices


@lru_cache(maxsize=4)
def _permutation(n: int, seed: int, epoch: int) -> np.ndarray:
    # Sorting counter-based random words: fixed by Philox's definition, not by NumPy's way of shuffling.
    words = np.random.Philox(key=_key(seed, epoch)).random_raw(n)
    return np.argsort(words, kind="stable")


def _key(seed: int, stream: int) -> np.ndarray:
    return np.asarray([seed % 2**64, stream], np.uint64)


def batch_at(source: Source, batch_size: int, seed: int, step: int, **options: Any) -> Example:
    """Makes this host's part of the batch of `step`, leaves (batch_size / process_count, ...); see `stack_at`."""
    return jax.tree.map(lambda part: part[0], stack_at(source, batch_size, seed, step, 1, **options))


def stack_at(
    source: Source,
    batch_size: int,
    seed: int,
    step: int,
    steps: int,
    *,
    process_index: int = 0,
    process_count: int = 1,
    flip: bool = False,
) -> Example:
    """Makes the batches of step, ..., step + steps - 1 at once: leaves (steps, batch_size / process_count, ...).

    Args:
        process_index, process_count: this host takes the consecutive examples that are its share of each batch.
        flip: mirror each image left to right with probability 1/2, a function of (seed, position).

    Raises:
        ValueError: for a batch_size that process_count does not divide, or other numbers that make no batch.
    """
    if min(batch_size, steps) < 1 or step < 0 or not 0 <= process_index < process_count:
        raise ValueError(f"There is no {batch_size=}, {step=}, {steps=} on host {process_index} of {process_count}.")
    if batch_size % process_count:
        raise ValueError(f"batch_size is {batch_size}, expected a multiple of {process_count}, the number of hosts.")
    local = batch_size // process_count
    starts = np.arange(step, step + steps, dtype=np.int64) * batch_size + process_index * local
    positions = (starts[:, None] + np.arange(local)).reshape(-1)
    batch = source.gather(order_at(len(source), seed, positions))
    if flip:
        batch = batch._replace(x=_mirror(batch.x, _coins(seed, positions)))
    return jax.tree.map(lambda part: part.reshape(steps, local, *part.shape[1:]), batch)


def _mirror(x: np.ndarray, which: np.ndarray) -> np.ndarray:
    """Exchanges left and right in those of the images x (m, H, W, C) that `which` (m,) marks."""
    check_flip(x.shape[1:])
    x = x.copy()
    x[which] = x[which][:, :, ::-1]
    return x


def _coins(seed: int, positions: np.ndarray) -> np.ndarray:
    """Tosses a fair coin per position of the walk; positions (m,) ascend."""
    first = int(positions[0]) // 4 * 4
    stream = np.random.Philox(key=_key(seed, 2**64 - 1))  # no epoch has this number
    stream.advance(first // 4)  # one step of the counter is four words
    words = stream.random_raw(int(positions[-1]) - first + 1)
    return (words[positions - first] >> np.uint64(63)).astype(bool)


class Batches:
    """An endless iterator over stacks of batches, prepared by a thread that stays `prefetch` ahead; a context manager.

    Iterating gives `put(stack)`, leaves (steps_per_dispatch, local batch, ...), from step start_step on; `put` runs in
    the thread, which ends with the `with` block, at `close`, or when the iterator is dropped. A source of files may
    have processes that make stacks for the thread (`Records.workers`); they end with it.

    Raises:
        ValueError: for numbers that make no batch (see `stack_at`), or a `prefetch` below 1.
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
        put: Callable[[Example], Any] = jax.device_put,
        process_index: int | None = None,
        process_count: int | None = None,
    ):
        if prefetch < 1:
            raise ValueError(f"prefetch is {prefetch!r}, expected the number of stacks to stay ahead, at least 1.")
        hosts = {
            "process_index": jax.process_index() if process_index is None else process_index,
            "process_count": jax.process_count() if process_count is None else process_count,
        }
        make = partial(stack_at, source, batch_size, seed, steps=steps_per_dispatch, flip=flip, **hosts)
        first = make(step=start_step)  # what is wrong with the data is raised here, not in the thread

        def stacks() -> Generator[Any]:
            yield put(first)
            with closing(_made(make, start_step + steps_per_dispatch, getattr(source, "workers", 0))) as rest:
                yield from map(put, rest)

        self._ready: queue.Queue = queue.Queue(prefetch)
        self._closed = threading.Event()
        arguments = (stacks(), self._ready, self._closed)  # not self, which can then be collected
        # Of a thread that has processes the interpreter's end waits, so that it is the thread that ends them.
        alone = not getattr(source, "workers", 0)
        self._thread = threading.Thread(target=_fill, args=arguments, daemon=alone, name="batches")
        self._thread.start()
        weakref.finalize(self, self._closed.set)

    def __iter__(self) -> "Batches":
        return self

    def __next__(self) -> Any:
        if self._closed.is_set():
            raise StopIteration
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
        """Stops the thread that prepares batches; a second call does nothing."""
        self._closed.set()
        self._thread.join()


def _made(make: partial, start: int, workers: int) -> Generator[Example]:
    """Makes the stacks from step `start` on, here or in processes."""
    stride = make.keywords["steps"]
    if workers:
        call = partial(_at_step, make)
        return in_order(call, range(start, start + stride * MOST_STACKS, stride), workers)
    return (make(step=step) for step in itertools.count(start, stride))


def _at_step(make: partial, step: int) -> Example:
    return make(step=step)


def _fill(stacks: Generator[Any], ready: queue.Queue, closed: threading.Event) -> None:
    try:
        with closing(stacks):
            for stack in stacks:
                if not _offer((stack, None), ready, closed):
                    return
    except BaseException as error:  # handed to the consumer, whoever it concerns
        _offer((None, error), ready, closed)


def _offer(item: Any, ready: queue.Queue, closed: threading.Event) -> bool:
    """Tells whether there was room for the item before the consumer went away."""
    while not closed.is_set() and threading.main_thread().is_alive():
        try:
            ready.put(item, timeout=0.1)
        except queue.Full:
            continue
        return True
    return False
