"""Stop when asked to, after saving: SIGTERM (a scheduler) and SIGINT (Ctrl-C) raise a flag that a loop polls."""

import contextlib
import dataclasses
import signal
import threading
from collections.abc import Iterator
from typing import Any


@dataclasses.dataclass
class Stop:
    """A flag that a signal raises; true once there is one.

    Attributes:
        received: the first signal; None until then.
    """

    received: signal.Signals | None = None

    def __bool__(self) -> bool:
        return self.received is not None


@contextlib.contextmanager
def install_stop_handler() -> Iterator[Stop]:
    """Catches stop signals in a `with` block: `with install_stop_handler() as stop: ... if stop: save and leave`.

    The first SIGTERM or SIGINT only raises the flag; a SIGINT after that raises KeyboardInterrupt at once. The handlers
    found are put back at the end. Outside the main thread, where Python allows no handlers, the flag stays down.

    With several processes a signal may reach one of them only, and each has its own flag: agree on it before acting.
    """
    stop = Stop()

    def handle(number: int, frame: Any) -> None:
        del frame
        if stop and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.received = stop.received or signal.Signals(number)

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    found = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, previous in found.items():
            signal.signal(number, signal.SIG_DFL if previous is None else previous)
