"""How the processes of a run find each other: process 0 listens at the coordinator's address, the others come there.

Before jax is asked for anything, so that a mistake (a port that is taken, a process that does not come or comes twice,
other versions) is one line in every process that is there, after seconds.
"""

import contextlib
import os
import socket
import threading
import time
from typing import Any

from diffjax.peers import Link, Peers

PATIENCE = 30.0  # seconds that processes wait for each other
VARIABLE = "DIFFJAX_JOIN"  # other seconds
PROTOCOL = 1


def patience() -> float:
    """Reads how many seconds processes wait for each other at the start."""
    try:
        return max(float(os.environ.get(VARIABLE, "")), 0.1)
    except ValueError:
        return PATIENCE


def listen(address: tuple[str, int], count: int, facts: dict[str, str], more: dict[str, Any]) -> Peers:
    """Waits for all other processes of a run, as its process 0.

    Args:
        address: host and port to listen at.
        count: number of processes, this one included.
        facts: what has to be equal in all processes, such as versions.
        more: what the others are told (`connect`).

    Raises:
        ValueError: where the port is not to be had, or a process does not come or differs.
    """
    host, port = address
    local = host in ("localhost", "127.0.0.1", "::1")
    try:
        server = socket.create_server((host if local else "", port), backlog=count)
    except OSError as error:
        raise ValueError(
            f"Process 0 cannot listen at {host}:{port}: {error.strerror or error}; give --coordinator another port, of "
            "the machine that process 0 runs on; or is another process 0 there?"
        ) from error
    links: dict[int, Link] = {}
    names = {0: _name(0, socket.gethostname(), os.getpid())}
    until = time.monotonic() + patience()
    try:
        with server:
            while len(names) < count:
                server.settimeout(max(until - time.monotonic(), 0.01))
                link = Link(server.accept()[0])
                link.patience(2.0)
                hello = link.read()
                if hello is None or hello.get("diffjax") != PROTOCOL:  # nobody of ours
                    link.close()
                    continue
                try:
                    _check(hello, count, facts, names)
                except ValueError as error:
                    raise _refused({**links, count: link}, str(error)) from error
                links[hello["process"]] = link
                names[hello["process"]] = _name(hello["process"], hello["host"], hello["pid"])
    except TimeoutError:
        missing = sorted(set(range(count)) - set(names))
        listed = f"Process {missing[0]}" if len(missing) == 1 else f"Processes {', '.join(map(str, missing[:8]))}"
        more_of = "" if len(missing) <= 8 else f" and {len(missing) - 8} more"
        line = (
            f"{listed}{more_of} of {count} did not come to {host}:{port} within {patience():.0f} s; start each with "
            f"--coordinator={host}:{port} --processes={count} --process=N ({VARIABLE}=SECONDS waits longer)."
        )
        raise _refused(links, line) from None
    ordered = [names[peer] for peer in range(count)]
    for link in links.values():
        link.send({"welcome": ordered, "more": more})
    return Peers(0, ordered, links)


def connect(address: tuple[str, int], count: int, index: int, facts: dict[str, str]) -> tuple[Peers, dict[str, Any]]:
    """Joins the run whose process 0 listens at an address; gives what it tells everybody, too.

    Raises:
        ValueError: where nobody answers, or process 0 refuses, in one line.
    """
    host, port = address
    until, why, connection = time.monotonic() + patience(), "", None
    while connection is None:
        try:
            connection = socket.create_connection(address, timeout=max(min(5.0, until - time.monotonic()), 0.1))
        except socket.gaierror as error:
            raise ValueError(f"--coordinator={host}:{port}: there is no host {host!r} ({error.strerror}).") from error
        except OSError as error:
            why = error.strerror or str(error)
            if time.monotonic() >= until:
                raise ValueError(
                    f"No answer from the coordinator {host}:{port} within {patience():.0f} s ({why}): process 0 has to "
                    f"wait there, and its port to be open ({VARIABLE}=SECONDS waits longer). When all are there "
                    "it waits no more: is this number running already?"
                ) from error
            time.sleep(0.2)
    link = Link(connection)
    pid, me = os.getpid(), socket.gethostname()
    link.send({"diffjax": PROTOCOL, "process": index, "processes": count, "facts": facts, "host": me, "pid": pid})
    link.patience(patience() + 5.0)  # process 0 may have begun later, and waits for the others
    found = link.read()
    if found is None or "welcome" not in found:
        link.close()
        said = (found or {}).get(
            "refused"
        ) or f"{host}:{port} is no process 0 of a run, or has ended: give another port?"
        raise ValueError(said)
    return Peers(index, found["welcome"], {0: link}), found["more"]


def _name(index: Any, host: Any, pid: Any) -> str:
    return f"process {index} ({str(host)[:64]}, pid {str(pid)[:16]})"


def _check(hello: dict[str, Any], count: int, facts: dict[str, str], names: dict[int, str]) -> None:
    """Holds what a process says of itself against this run; ValueError in one line."""
    index: Any = hello.get("process") if isinstance(hello.get("process"), int) else -1
    who = _name(hello.get("process", "?"), hello.get("host"), hello.get("pid"))
    if hello.get("processes") != count:
        raise ValueError(f"{who} was started with --processes={hello.get('processes')}, process 0 with {count}.")
    if not 0 <= index < count or index in names:
        raise ValueError(f"{who} came, but {names.get(index, 'there is no such process')} is here: give each its own.")
    for name, value in facts.items():
        if (other := hello.get("facts", {}).get(name)) != value:
            raise ValueError(f"{who} has {name} {other}, process 0 has {value}: all need the same.")


def _refused(links: dict[int, Link], line: str) -> ValueError:
    for link in links.values():
        link.send({"refused": line})
        link.close()
    return ValueError(line)


def relay(address: tuple[str, int]) -> int:
    """Hands a local port on to an address, and keeps its side open when the other one closes; gives the port.

    jax aborts a process, with a page of C++, in the moment in which the connection to its coordinator breaks. Behind
    this it does not notice, and the process ends as `Peers` has it: in one line. It lives as long as the process.
    """
    server = socket.create_server(("127.0.0.1", 0))

    def pump(source: socket.socket, target: socket.socket, far: socket.socket) -> None:
        with far, contextlib.suppress(OSError):
            while data := source.recv(2**16):
                target.sendall(data)

    def serve() -> None:
        while True:
            near = server.accept()[0]
            kept.append(near)
            with contextlib.suppress(OSError):
                far = socket.create_connection(address, timeout=30.0)
                far.settimeout(None)
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=pump, args=(*pair, far), daemon=True, name="relay").start()

    kept: list[socket.socket] = []  # referred to, so that none is closed
    threading.Thread(target=serve, daemon=True, name="relay").start()
    return server.getsockname()[1]
