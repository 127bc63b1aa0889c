"""Stop when asked to, after saving: SIGTERM (a scheduler), SIGINT (Ctrl-C) and SIGHUP (a terminal that was closed).

The first one raises a flag that a loop polls; a second one insists, and ends the program at once.
"""

import contextlib
import dataclasses
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

STOPPING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name))
REPEATED = 0.5  # seconds: shells and schedulers say one thing by several signals at once
PATIENCE = 5.0  # seconds that a program which was insisted on has to end by itself


class Stopped(Exception):
    """Training was asked to stop by a signal; what it had reached is saved where there is a workdir."""

    def __init__(self, number: signal.Signals, step: int, workdir: Path | None):
        self.signal, self.step, self.workdir = number, step, workdir
        kept = f"saved; --workdir={workdir} resumes" if workdir else "not saved: it has no workdir"
        super().__init__(f"stopped at step {step}, {kept}")


class Insisted(KeyboardInterrupt):
    """A second signal, while the first one was being served.

    Attributes:
        signal: the second one.
    """

    def __init__(self, number: signal.Signals):
        self.signal = number
        super().__init__(f"stopped at once by {number.name}")


@dataclasses.dataclass
class Stop:
    """A flag that a signal raises; true once there is one.

    Attributes:
        received: the first signal; None until then.
    """

    received: signal.Signals | None = None

    def __bool__(self) -> bool:
        return self.received is not None


class _Asked:
    """Tells a second request from a first one that comes as several signals."""

    def __init__(self) -> None:
        self._since: float | None = None

    def again(self, number: int) -> bool:
        now = time.monotonic()
        if self._since is None:
            self._since = now
            return False
        return number == signal.SIGINT or now - self._since > REPEATED


@contextlib.contextmanager
def install_stop_handler() -> Iterator[Stop]:
    """Catches stop signals in a `with` block: `with install_stop_handler() as stop: ... if stop: save and leave`.

    The first of `STOPPING` only raises the flag; another one raises `Insisted`, a KeyboardInterrupt, at once: a SIGINT
    always, the others if they come more than `REPEATED` seconds after the first. A SIGHUP that is ignored (nohup) stays
    ignored. The handlers found are put back at the end. Outside the main thread, where Python allows no handlers, the
    flag stays down.

    With several processes a signal may reach one of them only, and each has its own flag: agree on it before acting.
    """
    stop, asked = Stop(), _Asked()

    def handle(number: int, frame: Any) -> None:
        del frame
        if asked.again(number):
            raise Insisted(signal.Signals(number))
        stop.received = stop.received or signal.Signals(number)

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    hung_up = getattr(signal, "SIGHUP", None)
    heard = [n for n in STOPPING if n != hung_up or signal.getsignal(n) is not signal.SIG_IGN]
    found = {number: signal.signal(number, handle) for number in heard}
    try:
        yield stop
    finally:
        for number, previous in found.items():
            signal.signal(number, signal.SIG_DFL if previous is None else previous)


def undisturbed(main: Callable[..., int]) -> int:
    """Runs the command of this process, `main(process=True)`, whose end no signal disturbs; gives its exit status."""
    try:
        return main(process=True)
    except KeyboardInterrupt:  # one more, while the line for the first was printed
        return 128 + signal.SIGINT
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # what is left is Python's own end


@contextlib.contextmanager
def untraced() -> Iterator[None]:
    """Hides the trace that Python shows of an interrupt which is lost in a callback (the collector's)."""
    hook = sys.unraisablehook
    sys.unraisablehook = lambda lost: None if issubclass(lost.exc_type, KeyboardInterrupt) else hook(lost)
    try:
        yield
    finally:
        sys.unraisablehook = hook


@contextlib.contextmanager
def insistence(last_words: Callable[[signal.Signals], str]) -> Iterator[None]:
    """Ends the process `PATIENCE` seconds after a second stop signal, or at a third, whatever hangs in it.

    For the outermost block of a program, in its main thread. A handler in Python waits for the code that runs to come
    back, which a stuck device or file system does not; a thread of its own hears the signals here. What it says last,
    on the process's own stderr, is `last_words(signal)`; the exit status is 128 + the signal's number.
    """
    ears, mouth = socket.socketpair()
    mouth.setblocking(False)
    before = signal.set_wakeup_fd(mouth.fileno(), warn_on_full_buffer=False)
    if hasattr(os, "register_at_fork"):  # a child's signals are not ours
        os.register_at_fork(after_in_child=_deaf)
    thread = threading.Thread(target=_listen, args=(ears, last_words), daemon=True)
    thread.start()
    try:
        with untraced():
            yield
    finally:
        signal.set_wakeup_fd(before)
        mouth.close()
        thread.join()
        ears.close()


def _listen(ears: socket.socket, last_words: Callable[[signal.Signals], str]) -> None:
    asked = _Asked()
    while heard := ears.recv(1):
        if heard[0] in STOPPING and asked.again(heard[0]):
            ears.settimeout(PATIENCE)
            with contextlib.suppress(TimeoutError):
                if not ears.recv(1):
                    return  # it has ended by itself
            number = signal.Signals(heard[0])
            try:
                os.write(2, f"{last_words(number)}\n".encode(errors="backslashreplace"))
            finally:
                os._exit(128 + number)


def _deaf() -> None:
    with contextlib.suppress(ValueError):
        signal.set_wakeup_fd(-1)
