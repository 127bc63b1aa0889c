"""Claims: of all processes, on all machines over one folder, one runs a node; FOLDER/alive.json says which.

On one machine the kernel's lock decides (`diffjax.lock`), which dies with its process. Where it does not reach other
machines (network file systems) a heartbeat does: alive.json is written every 15 s, a claim of another machine that was
written less than 60 s ago is left to it, an older one is taken over. Clocks have to agree to some seconds for that.
"""

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from diffjax import disk, lock

FILE = "alive.json"
EVERY, FRESH = 15.0, 60.0  # seconds between beats, and for which one counts


@contextlib.contextmanager
def claim(folder: Path, log: Path, say: Callable[[str], Any] = print) -> Iterator[bool]:
    """Holds a node in a `with` block; gives False where another process has it.

    Args:
        folder: of the claim.
        log: the file that the node's progress goes to, for whoever watches.
        say: told of what is taken over, and of a claim that was lost meanwhile.
    """
    mine = {"host": socket.gethostname(), "pid": os.getpid(), "log": str(log), "token": uuid.uuid4().hex}
    held = _take(folder, mine, say)
    if held is None:
        yield False
        return
    stop = threading.Event()
    thread = threading.Thread(target=_beat, args=(folder, mine, stop, say), daemon=True)
    thread.start()
    try:
        yield True
    finally:
        stop.set()
        thread.join()
        if alive(folder).get("token") == mine["token"]:
            (folder / FILE).unlink(missing_ok=True)
        held.release()


def alive(folder: Path) -> dict[str, Any]:
    """Reads who has a claim: host, pid, time, log; {} for nobody, or what cannot be read."""
    with contextlib.suppress(FileNotFoundError, disk.DamagedFileError):
        return disk.read_json(folder / FILE)
    return {}


def of_processes(claims: Path, pids: set[int]) -> dict[str, Path]:
    """Finds the nodes that processes of this machine have: name -> log."""
    found, host = {}, socket.gethostname()
    for folder in claims.glob("*"):
        said = alive(folder)
        if said.get("host") == host and said.get("pid") in pids:
            found[folder.name] = Path(str(said.get("log")))
    return found


def _take(folder: Path, mine: dict[str, Any], say: Callable[[str], Any]) -> lock.Lock | None:
    folder.mkdir(parents=True, exist_ok=True)
    found = alive(folder)
    away = found.get("host") not in (None, mine["host"])
    silent = time.time() - _number(found.get("time"))
    if away and silent < FRESH:
        return None
    try:
        held = lock.take(folder)
    except lock.HeldError:
        return None
    if (folder / FILE).exists() and not _put_aside(folder, found, mine["token"]):
        held.release()
        return None
    try:
        with (folder / FILE).open("x") as file:  # of two machines one makes it
            file.write(_written(mine))
    except FileExistsError:
        held.release()
        return None
    if away:
        say(f"{folder.name} is taken over from {str(found['host'])[:64]}, which was silent for {silent:.0f} s")
    return held


def _put_aside(folder: Path, stale: dict[str, Any], token: str) -> bool:
    """Removes a claim that has ended, unless another machine was first and it is not the one that was looked at."""
    aside = folder / f"{token}.stale"
    try:
        (folder / FILE).rename(aside)
    except FileNotFoundError:
        return False
    try:
        moved = disk.read_json(aside)
    except (FileNotFoundError, disk.DamagedFileError):
        moved = {}
    same = moved.get("token") == stale.get("token")
    if not same:
        with contextlib.suppress(OSError):
            os.link(aside, folder / FILE)
    aside.unlink(missing_ok=True)
    return same


def _beat(folder: Path, mine: dict[str, Any], stop: threading.Event, say: Callable[[str], Any]) -> None:
    while not stop.wait(EVERY):
        if (found := alive(folder)) and found.get("token") != mine["token"]:
            say(f"{folder.name}: taken over by {str(found.get('host'))[:64]}, since this process was silent too long")
            return
        with contextlib.suppress(OSError):  # the next one may go through
            disk.write(folder / FILE, _written(mine))


def _written(mine: dict[str, Any]) -> str:
    return json.dumps({**mine, "time": time.time()})


def _number(value: Any) -> float:
    return value if isinstance(value, int | float) else 0.0
