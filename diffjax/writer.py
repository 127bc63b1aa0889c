"""A thread that works while its owner goes on, one job at a time; what fails there is heard of by whoever waits.

A process that ends waits for the jobs under way, and says what became of those that nobody waited for. From Python 3.12
on no thread can begin by then, so that a job that needs one fails, and is named: wait before the end.
"""

import atexit
import concurrent.futures
import concurrent.futures.thread  # before the hook below: hooks are called in reverse, and this one forbids new threads
import logging
import threading
import weakref
from collections.abc import Callable
from typing import Any

_log = logging.getLogger(__name__)


class Writer:
    """One thread, begun by the first job."""

    def __init__(self):
        self._failure = ""
        self._pool: concurrent.futures.ThreadPoolExecutor | None = None
        self._job: concurrent.futures.Future | None = None
        _WRITERS.add(self)

    def start(self, job: Callable[[], Any], failure: str) -> None:
        """Starts a job; the one before has been waited for.

        Args:
            failure: what is said at the end of the process if it failed and nobody waited for it.
        """
        assert self._job is None
        if self._pool is None:
            self._pool = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="diffjax-writer")
        self._failure = failure
        self._job = self._pool.submit(job)

    def wait(self) -> Any:
        """Waits for the job under way and gives what it returned, or raises what it raised; None without a job."""
        if self._job is None:
            return None
        concurrent.futures.wait([self._job])  # Ctrl-C here leaves the job to be waited for again
        job, self._job = self._job, None
        return job.result()

    def close(self) -> None:
        """Lets the thread end, after the job under way; idempotent."""
        if self._pool is not None:
            self._pool.shutdown()
        self._pool = None


_WRITERS: weakref.WeakSet[Writer] = weakref.WeakSet()


def _finish() -> None:
    for writer in list(_WRITERS):
        try:
            writer.wait()
        except Exception as error:  # nobody is left to raise it to
            _log.error("%s: %s", writer._failure, str(error).strip().partition("\n")[0])


# `atexit` comes too late: by then threads were waited for, and a job that needs another one has failed.
getattr(threading, "_register_atexit", atexit.register)(_finish)
