"""Calls of one function, made ahead by processes and given in order: what the interpreter's lock keeps threads from.

Of W processes, the one numbered w makes the calls w, w + W, w + 2 W, ... and each is one call ahead (Grain's
`mp_prefetch`); results are taken in turn, so that W changes when a call is made, never its result or its place.
"""

import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable, Generator
from contextlib import closing
from typing import Any

import jax

GUARD = 'a script that uses workers has to start its work below `if __name__ == "__main__":`'


def in_order(call: Callable[[int], Any], arguments: range, workers: int) -> Generator[Any]:
    """Gives call(argument) for each argument, made in `workers` processes that end with the iterator's `close`.

    Args:
        call: of what a process can be sent; every process has a copy of its own.

    Raises:
        ValueError, OSError: as `call` raises them, in the place of their result.
        RuntimeError: if a process ended by itself.
    """
    import grain
    from absl import flags

    if not flags.FLAGS.is_parsed():  # Grain looks at flags of its own, which are parsed in programs of absl alone
        flags.FLAGS.mark_as_parsed()
    made = grain.MapDataset.range(arguments.start, arguments.stop, arguments.step).map(_Sent(call))
    serial = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
    ahead = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=1)
    with closing(iter(made.to_iter_dataset(serial).mp_prefetch(ahead, worker_init_fn=_prepare))) as results:
        while True:
            try:
                result = pickle.loads(
                    next(results)
                )  # of our own processes alone: nothing that a file or a network holds
            except StopIteration:
                return
            except RuntimeError as error:  # Grain's, of a process that is gone
                if "terminated unexpectedly" not in str(error):
                    raise
                raise RuntimeError(f"A process that makes batches ended by itself ({error}); {GUARD}.") from error
            if isinstance(result, Exception):
                raise result
            yield result


class _Sent:
    """The call, whose result is sent as bytes: of arrays Grain would keep in shared memory, which containers bound."""

    def __init__(self, call: Callable[[int], Any]):
        self.call = call

    def __call__(self, argument: int) -> bytes:
        try:
            result = self.call(int(argument))
        except (ValueError, OSError) as error:  # raised here, Grain would add lines of its own
            result = error
        return pickle.dumps(result, protocol=pickle.HIGHEST_PROTOCOL)


def _prepare(number: int, workers: int) -> None:
    """Has a process leave signals and accelerators to the one that it works for, and end when that one is gone."""
    del number, workers
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):  # a shell or scheduler sends them to every process of a run
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    jax.config.update("jax_platforms", "cpu")
    threading.Thread(target=_end_with_parent, daemon=True, name="parent").start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
