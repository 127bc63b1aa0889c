"""Worker processes of a sweep on one machine, and what the screen says of all that run.

A worker is a new Python that works through the plan (`sweeps.work`) with its share of the cores. It ends when it is
asked to, when nothing is left for it, or when the process that began it is gone. One that a signal kills (the system,
say, for want of memory) leaves "worker died" in its node's folder, and another one is begun in its place.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from diffjax import runs, signals
from diffjax.sweeps import claims, work
from diffjax.sweeps import plan as plans
from diffjax.sweeps.plan import Plan

# A cluster sends these to all processes of a job whose time is up; the job has its workers save and end (`cluster`).
CLUSTERS = tuple(getattr(signal, name) for name in ("SIGUSR1", "SIGUSR2") if hasattr(signal, name))
LOOK = 5.0  # seconds between two looks at what runs
CODE = "from diffjax.sweeps.workers import child; child()"


class Worker(NamedTuple):
    """A process, and the thread that brings what it prints to the screen."""

    process: subprocess.Popen
    reader: threading.Thread


_RUNNING: list[Worker] = []
_ASKED: set[int] = set()  # processes that were asked to end: a second time would have them end at once


def run(order: dict[str, Any], count: int, plan: Plan, root: Path, say: Callable[[str], Any]) -> None:
    """Works through a plan in `count` processes.

    Args:
        order: what `plan.remade` makes the plan of.

    Raises:
        signals.Insisted: (a KeyboardInterrupt) after a stop signal, when all workers have saved and ended.
    """
    order = order | {"since": time.time(), "workers": count}
    start = lambda place: _RUNNING.append(_started(order | {"place": place}, say))
    with signals.install_stop_handler() as stop:
        try:
            for place in range(count):
                start(place)
            while _RUNNING:
                time.sleep(0.1)
                if stop:
                    _ask_to_end()
                for worker in [worker for worker in _RUNNING if worker.process.poll() is not None]:
                    _RUNNING.remove(worker)
                    _let_go(worker)
                    if worker.process.pid not in _ASKED and _buried(worker, plan, root, say):
                        start(count - len(_RUNNING) - 1)
        finally:
            for worker in _RUNNING:
                worker.process.kill()
                _let_go(worker)
            _RUNNING.clear()
    if stop.received:
        raise signals.Insisted(stop.received)


def pids() -> set[int]:
    """The processes that work here: this one and its workers."""
    return {os.getpid(), *(worker.process.pid for worker in _RUNNING)}


def stop() -> None:
    """Asks all workers to save and to end, and waits for that."""
    _ask_to_end()
    for worker in list(_RUNNING):
        worker.process.wait()


@contextlib.contextmanager
def watched(root: Path, say: Callable[[str], Any]) -> Iterator[None]:
    """Says every LOOK seconds of a `with` block what is new in the logs of the nodes that run here.

    What a log held before is of an earlier start, and not said again.
    """
    ended, told = threading.Event(), {}  # name -> the line said last, looks since, those to wait for
    before_this = {log.absolute(): log.stat().st_size for log in root.glob(f"train/**/{work.LOG}")}

    def look() -> None:
        while not ended.wait(LOOK):
            for name, log in claims.of_processes(root / "claims", pids()).items():
                line = _last_line(log, before_this.get(log.absolute(), 0))
                before, looks, patience = told.get(name, (None, 0, 1))
                if line != before or looks + 1 >= patience:  # where nothing is new, the pauses grow
                    same = line == before
                    say(f"  {name}: {line or 'at work'}{' ...' if same else ''}")
                    told[name] = (line, 0, 2 * patience if same else 1)
                else:
                    told[name] = (line, looks + 1, patience)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def child() -> None:
    """Is a worker: reads its order, a line of JSON, from stdin, and ends when stdin does."""
    order = json.loads(sys.stdin.buffer.raw.readline())  # pyright: ignore[reportAttributeAccessIssue]
    sys.argv = order["argv"]
    _share_cores(order["place"], order["workers"])
    threading.Thread(target=_end_with_parent, daemon=True).start()
    for number in CLUSTERS:
        signal.signal(number, signal.SIG_IGN)
    out = sys.stdout  # that of a run goes to its log meanwhile
    say = lambda line: print(line, file=out, flush=True)
    measure = work.measured(order["measure"])
    try:
        beside = order.get("together", 1)
        work.work(plans.remade(order), Path(order["root"]), say, order["since"], measure, order["workers"], beside)
    except runs.Stopped as stopped:
        sys.exit(128 + stopped.signal)
    except KeyboardInterrupt as error:
        sys.exit(128 + getattr(error, "signal", 2))


def _started(order: dict[str, Any], say: Callable[[str], Any]) -> Worker:
    # In a session of its own: Ctrl-C reaches the parent alone, which asks once.
    path = os.pathsep.join(part or os.getcwd() for part in sys.path)
    share = {"XLA_PYTHON_CLIENT_MEM_FRACTION": f"{0.75 / order['workers']:.3f}"}  # of an accelerator's memory
    process = subprocess.Popen(
        [sys.executable, "-c", CODE],
        **{"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True},
        env={**share, **os.environ, "PYTHONPATH": path},
        start_new_session=True,
    )
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(json.dumps(order) + "\n")
        process.stdin.flush()
    reader = threading.Thread(target=lambda: [say(line.rstrip("\n")) for line in process.stdout or ()], daemon=True)
    reader.start()
    return Worker(process, reader)


def _buried(worker: Worker, plan: Plan, root: Path, say: Callable[[str], Any]) -> bool:
    """Says how a worker ended, and writes it to its node; True where another one is to take its place."""
    status, pid = worker.process.returncode, worker.process.pid
    if status == 0:
        return False
    why = f"worker died (signal {-status})" if status < 0 else f"worker ended with status {status}"
    had = claims.of_processes(root / "claims", {pid})
    for node in plan.nodes:
        if node.key in had:
            work.record(node, "died", why)
            say(f"{node.key}: {why}")
            (root / "claims" / node.key / claims.FILE).unlink(missing_ok=True)
    if not had:
        say(f"{why}, and had nothing to do")
    return bool(had)


def _let_go(worker: Worker) -> None:
    """Closes the pipes of a worker that has ended, once all that it printed is said."""
    worker.process.wait()
    worker.reader.join()
    for pipe in (worker.process.stdin, worker.process.stdout):
        if pipe is not None:
            pipe.close()


def _ask_to_end() -> None:
    for worker in _RUNNING:
        if worker.process.pid not in _ASKED:
            _ASKED.add(worker.process.pid)
            worker.process.terminate()


def _share_cores(place: int, count: int) -> None:
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cores[place % count :: count] or [cores[place % len(cores)]])


def _end_with_parent() -> None:
    os.read(0, 1)
    os.kill(os.getpid(), signals.STOPPING[0])


def _last_line(log: Path, start: int) -> str:
    """The last line that a log has after so many bytes."""
    try:
        with log.open("rb") as file:
            file.seek(max(log.stat().st_size - 2000, start))
            lines = file.read().decode(errors="replace").split("\n")
    except OSError:
        return ""
    return next((line.strip()[:160] for line in reversed(lines) if line.strip()), "")
