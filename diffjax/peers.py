"""The other processes of a run, as one process knows them: who is there, what they say, when they stop, who is lost.

Process 0 listens; each of the others keeps one connection to it. Every process beats once a second, so that one that is
killed (its connection closes) or frozen (it falls silent) is noticed by all within `SILENCE`, whatever its devices wait
for. Messages are lines of JSON. Nothing here knows of jax: a process that hangs in a collective still hears and ends.
"""

import contextlib
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

BEAT = 1.0  # seconds between two signs of life
SILENCE = 15.0  # seconds without one, after which a process is lost
GRACE = 6.0  # seconds that a process has to end by itself, once another is lost
LONGEST = 2**26  # bytes of a message

Json = Any


class LostError(RuntimeError):
    """The error of a run that ends since another of its processes has failed, was killed, or fell silent.

    Attributes:
        status: the exit status that all processes end with.
    """

    def __init__(self, line: str, status: int = 1):
        self.status = status
        super().__init__(line)


class Link:
    """A connection to another process, that takes and gives lines of JSON.

    Attributes:
        heard: `time.monotonic()` when it last said anything.
    """

    def __init__(self, connection: socket.socket):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connection, self._file = connection, connection.makefile("rb")
        self._sending = threading.Lock()
        self.heard = time.monotonic()

    def send(self, message: Json) -> None:
        """Sends a message; one that cannot be sent is lost, as its reader is."""
        with self._sending, contextlib.suppress(OSError):
            self._connection.sendall(json.dumps(message).encode() + b"\n")

    def read(self) -> Json:
        """Reads the next message; None at the end of the connection, or for what is no message."""
        try:
            line = self._file.readline(LONGEST)
            found = json.loads(line) if line.endswith(b"\n") else None
        except (OSError, ValueError):
            return None
        self.heard = time.monotonic()
        return found if isinstance(found, dict) else None

    def patience(self, seconds: float | None) -> None:
        """Sets how long one call may take."""
        self._connection.settimeout(seconds)

    def close(self, reader: bool = True) -> None:
        """Closes the connection; idempotent. Where another thread reads from it, the reader is left to that thread."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()
        if reader:
            self._file.close()


class Peers:
    """The processes of a run, seen from one of them; made by `rendezvous`.

    Args:
        index: of this process.
        names: of all of them, "process 1 (host, pid 7)", by index.
        links: connections by index: process 0 has one to each other process, those have one to process 0.
    """

    def __init__(self, index: int, names: list[str], links: dict[int, Link]):
        self.index, self.names, self.lost = index, names, None
        self.told: Callable[[str], str] = lambda line: ""  # what is done, and added to the line, if a thread ends all
        self._links, self._changed, self._over, self._leave = links, threading.Condition(), False, leave
        self._round, self._said = 0, {}  # of `share`: its number, and what was said by number
        self._epoch, self._step, self._steps = 0, 0, {}  # of `agreed`: steps that may be on their way
        self._stop, self._fenced, self._until = None, False, None
        for peer, link in links.items():
            link.patience(None)
            threading.Thread(target=self._listen, args=(peer, link), daemon=True, name=f"peer-{peer}").start()
        threading.Thread(target=self._beat, daemon=True, name="peers").start()

    @property
    def count(self) -> int:
        """Counts the processes of the run."""
        return len(self.names)

    def share(self, value: Json) -> list[Json]:
        """Gives what all processes share, by index; every process calls it as often as the others.

        Raises:
            LostError: where one of them is lost meanwhile.
        """
        with self._changed:
            number, self._round = self._round, self._round + 1
            if self.index:
                self._links[0].send({"share": number, "value": value})
                self._wait(lambda: "all" in self._said.get(number, {}))
                return self._said.pop(number)["all"]
            mine = self._said.setdefault(number, {})
            mine[0] = value
            self._wait(lambda: len(mine) == self.count)
            del self._said[number]
        values = [mine[peer] for peer in range(self.count)]
        for link in self._links.values():
            link.send({"shared": number, "values": values})
        return values

    def agreed(self, signal: int | None, step: int, stride: int = 1) -> int | None:
        """Tells by which signal all processes stop at this step, the one for all; None: they go on.

        Costs nothing until one process has a signal: then all say how far they are, and stop at the first step that
        none of them has passed; until it is known nobody passes another one. `settle` begins anew.

        Args:
            signal: that this process has received; None: none.
            step: that is done now, or is on its way to the devices.
            stride: to the next one.

        Raises:
            LostError: where another process is lost.
        """
        with self._changed:
            self._step = step + stride  # it may be on its way there as soon as this returns
            if signal is not None and self._stop is None and not self._fenced:
                self._ask(signal)
            self._wait(lambda: not self._fenced or self._until is not None)
            return self._stop if self._until is not None and step >= self._until else None

    def settle(self, signal: int | None) -> int | None:
        """Tells by which signal a walk of steps was stopped, anywhere; every process calls it when it has ended."""
        found = self.share(self._stop if signal is None else signal)
        with self._changed:
            self._epoch, self._step, self._steps = self._epoch + 1, 0, {}
            self._stop, self._fenced, self._until = None, False, None
        return next((number for number in found if number is not None), None)

    def fail(self, line: str, status: int) -> bool:
        """Tells all others that this process ends, and why; whether process 0 ends with the very same line."""
        for link in self._links.values():
            link.send({"failed": line, "status": status, "of": self.index})
        with self._changed:
            if self.index:  # what is wrong with a config is wrong in all processes
                self._changed.wait_for(lambda: self.lost is not None, 1.0)
            said = self.lost is not None and str(self.lost) == self._named(0, line)
            self._over = True
        return said

    def close(self) -> None:
        """Lets go of the others, all of which have come to their end too."""
        with self._changed:
            self._over = True
        for link in self._links.values():
            link.close(reader=False)

    def look(self, seconds: float) -> LostError | None:
        """Waits for the news that another process is lost: an error here may be nothing but its echo."""
        with self._changed:
            self._changed.wait_for(lambda: self.lost is not None, seconds)
            return self.lost

    def _wait(self, done: Callable[[], bool]) -> None:
        while not done() and self.lost is None:
            self._changed.wait(BEAT)  # Ctrl-C is served between two of them
        if self.lost is not None:
            raise self.lost

    def _named(self, peer: int, line: str) -> str:
        return f"{self.names[peer]} has ended: {line.removeprefix('error: ')}"

    def _ask(self, signal: int) -> None:
        if self.index:
            self._links[0].send({"stop": signal, "epoch": self._epoch})
            self._fenced = True  # until process 0 has asked everybody
        else:
            self._stop, self._fenced, self._steps = signal, True, {0: self._step}
            for link in self._links.values():
                link.send({"where": signal, "epoch": self._epoch})
            self._decide()

    def _decide(self) -> None:
        if len(self._steps) < self.count:
            return
        self._until = max(self._steps.values())
        for link in self._links.values():
            link.send({"until": self._until, "epoch": self._epoch})
        self._changed.notify_all()

    def _listen(self, peer: int, link: Link) -> None:
        while (message := link.read()) is not None:
            with self._changed:
                self._heard(peer, link, message)
                self._changed.notify_all()
        link.close()
        self.lose(f"{self.names[peer]} is gone: it was killed, or its machine or network is down")

    def _heard(self, peer: int, link: Link, message: dict[str, Any]) -> None:
        if "share" in message:
            self._said.setdefault(message["share"], {})[peer] = message["value"]
        elif "shared" in message:
            self._said.setdefault(message["shared"], {})["all"] = message["values"]
        elif "failed" in message:
            self.lose(self._named(message["of"], message["failed"]), message["status"])
        elif "lost" in message:
            self.lose(message["lost"], message["status"])
        elif message.get("epoch") == self._epoch:
            if "stop" in message and self._stop is None:
                self._ask(message["stop"])
            elif "where" in message:
                self._stop, self._fenced = message["where"], True
                link.send({"step": self._step, "epoch": self._epoch})
            elif "step" in message:
                self._steps[peer] = message["step"]
                self._decide()
            elif "until" in message:
                self._until = message["until"]

    def _beat(self) -> None:
        before = time.monotonic()
        while not self._over:
            for link in self._links.values():
                link.send({"beat": 1})
            time.sleep(BEAT)
            now = time.monotonic()
            slept, before = now - before > SILENCE / 2, now  # this process was frozen itself: others first have a turn
            for peer, link in self._links.items():
                if not slept and now - link.heard > SILENCE:
                    self.lose(f"{self.names[peer]} has been silent for {SILENCE:.0f} s: frozen, or out of reach")

    def lose(self, line: str, status: int = 1) -> None:
        """Has all processes end by this line; the first one holds."""
        with self._changed:
            if self.lost is not None or self._over:
                return
            self.lost = LostError(line, status)
            self._changed.notify_all()
        for link in self._links.values() if not self.index else ():  # process 0 hands it on
            link.send({"lost": line, "status": status})
        threading.Thread(target=self._end, daemon=True, name="end").start()

    def _end(self) -> None:
        """Ends this process where it hangs, in a collective say, after a time in which it may end by itself."""
        time.sleep(GRACE)
        line = str(self.lost)
        with contextlib.suppress(Exception):
            line += self.told(line)
        with contextlib.suppress(Exception):
            sys.stdout.flush()
        self._leave(self.signed(f"error: {line}"), self.lost.status if self.lost else 1)

    def signed(self, line: str) -> str:
        """Puts the number of this process before a line, where it is not process 0; an empty line stays."""
        return f"process {self.index}: {line}" if self.index and line else line


def leave(line: str, status: int) -> None:
    """Ends this process at once, with a last line on stderr: what waits for lost processes at exit waits in vain."""
    with contextlib.suppress(OSError):
        sys.stderr.flush()
        os.write(2, f"{line}\n".encode(errors="backslashreplace") if line else b"")
    os._exit(status)
