"""Several processes as one run: `python -m diffjax.main --coordinator=HOST:PORT --processes=N --process=I ...` in each.

Under Slurm (`srun`, several tasks) and on a TPU pod (`pods`) the place is found, and no flag is needed. Process 0
owns the workdir: it alone reads and writes there, prints and draws pictures; what the others need of it, it tells them
(`told`). In one process all of this is nothing.
"""

import contextlib
import os
import re
import signal
import socket
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax

import diffjax
from diffjax import activity, peers, pods, rendezvous
from diffjax.peers import LostError as LostError
from diffjax.peers import Peers

PORT = 8482  # of process 0, where a pod names its host alone: jax's choice too, and none of libtpu's (8471, 8476)
PACKAGES = ("jax", "jaxlib", "numpy")  # whose versions have to agree
_here: list[Peers] = []  # what this process knows of the others; empty: it is alone


class Place(NamedTuple):
    """Where a process belongs.

    Attributes:
        coordinator: host and port at which process 0 listens.
        processes: of the run.
        process: this one's number.
        devices: numbers of this machine's devices that are this process's; None: all.
    """

    coordinator: tuple[str, int]
    processes: int
    process: int
    devices: list[int] | None = None


def place(
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Place | None:
    """Finds the place of this process, from flags or else from the environment; None where it is alone.

    Raises:
        ValueError: in one line, for flags that make no place, or as `pods.worker`.
    """
    given = {"--coordinator": coordinator, "--processes": processes, "--process": process}
    if missing := [name for name, value in given.items() if value is None]:
        if len(missing) < 3:
            there = next(name for name in given if name not in missing)
            raise ValueError(f"{there} also needs {' and '.join(missing)}: such as {_EXAMPLE}.")
        return _slurm(environ) or _pod(environ)
    assert coordinator is not None
    assert processes is not None
    assert process is not None
    host, colon, port = coordinator.rpartition(":")
    if not colon or not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise ValueError(f"--coordinator is {coordinator!r}, expected HOST:PORT of process 0: such as {_EXAMPLE}.")
    if processes < 1:
        raise ValueError(f"--processes is {processes}, expected at least 1.")
    if not 0 <= process < processes:
        raise ValueError(f"--process is {process}, expected 0 to {processes - 1}, as --processes is {processes}.")
    return Place((host.strip("[]"), int(port)), processes, process) if processes > 1 else None


_EXAMPLE = "--coordinator=10.0.0.1:8476 --processes=2 --process=0"


def _slurm(environ: Mapping[str, str]) -> Place | None:
    """The place of a task that `srun` has started beside others; a batch script itself is no such task."""
    count, nodes = environ.get("SLURM_STEP_NUM_TASKS", "1"), environ.get("SLURM_STEP_NODELIST", "")
    if not count.isdecimal() or int(count) < 2 or not nodes or "SLURM_PROCID" not in environ:
        return None
    job = int(environ.get("SLURM_JOB_ID", "0")) * 31 + int(environ.get("SLURM_STEP_ID", "0"))
    port = 61000 + job % 4000  # above the ports that systems hand out: steps of one machine do not meet
    devices = None
    mine, on_node = environ.get("SLURM_LOCALID", "0"), environ.get("SLURM_STEP_TASKS_PER_NODE", "1")
    tasks = max(int(number) for number in re.findall(r"(\d+)(?:\(x\d+\))?", on_node) or ["1"])
    visible = [name for name in environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    if tasks > 1 and len(visible) >= tasks:  # they see all devices of the node, and share them
        each = len(visible) // tasks
        devices = list(range(int(mine) * each, (int(mine) + 1) * each))
    return Place((first_host(nodes), port), int(count), int(environ["SLURM_PROCID"]), devices)


def first_host(nodes: str) -> str:
    """Reads the first name of a list of hosts as Slurm writes it: "gpu[003-007,12],login" is "gpu003"."""
    first = re.match(r"([^\[,]+)(?:\[(\w+)[^\]]*\]([^,]*))?", nodes)
    return "" if first is None else "".join(part or "" for part in first.groups())


def _pod(environ: Mapping[str, str]) -> Place | None:
    """The place of a worker of TPU slices of several hosts."""
    found = pods.worker(environ)
    return None if found is None else Place((found.host, PORT), found.processes, found.process)


def join(coordinator: str | None = None, processes: int | None = None, process: int | None = None) -> None:
    """Joins this process to the others of its run, before anything touches a device; does nothing where it is alone.

    In place of `jax.distributed.initialize`, which it calls. A script that has joined ends by `part`, after an error by
    `end`; the commands do.

    Args:
        coordinator: "host:port" at which process 0 listens; all three are left out where the environment says them.
        processes: how many there are.
        process: this one's number, from 0.

    Raises:
        ValueError: in one line, where they do not come together.
    """
    where = place(coordinator, processes, process)
    if where is None:
        return
    if _here or jax.distributed.is_initialized():
        raise ValueError("This process has joined others already: join once, by cluster.join alone.")
    facts = {"diffjax": diffjax.__version__, **{name: version(name) for name in PACKAGES}}
    host = where.coordinator[0]
    if where.process == 0:
        port = _free_port()
        known = rendezvous.listen(where.coordinator, where.processes, facts, {"jax": port})
        _initialize("127.0.0.1", port, where)
    else:
        known, more = rendezvous.connect(where.coordinator, where.processes, where.process, facts)
        _initialize("127.0.0.1", rendezvous.relay((host, more["jax"])), where)
    _here.append(known)
    if threading.current_thread() is threading.main_thread():  # jax takes SIGTERM, and keeps it to itself
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM) or signal.SIG_DFL)


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("", 0))
        return one.getsockname()[1]


def _initialize(host: str, port: int, where: Place) -> None:
    jax.distributed.initialize(
        f"{host}:{port}",
        where.processes,
        where.process,
        local_device_ids=where.devices,
        cluster_detection_method="deactivate",
        initialization_timeout=int(max(rendezvous.patience(), 60.0)),
    )


def first() -> bool:
    """Tells whether this process is the one that reads and writes files, prints and draws."""
    return not _here or _here[0].index == 0


def several() -> bool:
    """Tells whether this process has joined others."""
    return bool(_here)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Has all processes but the first print nothing on stdout in a `with` block, nor say what they are doing."""
    if first():
        yield
        return
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere), activity.shown_by(lambda: True):
        yield


def share(value: Any) -> list[Any]:
    """Gives the values, as JSON has them, of all processes, by number; each of them calls it.

    Raises:
        LostError: where a process is lost meanwhile.
        ValueError: in a program of several processes that have not joined here.
    """
    if _here:
        return _here[0].share(value)
    if jax.process_count() > 1:
        raise ValueError("These processes have joined by jax.distributed.initialize: join by diffjax.cluster.join.")
    return [value]


def told(make: Callable[[], Any]) -> Any:
    """Gives what process 0 makes, in all processes; to the others it comes as JSON has it."""
    return share(make() if first() else None)[0]


def same(name: str, value: Any, error: type[Exception] = ValueError) -> None:
    """Holds a value against that of process 0.

    Raises:
        ValueError: (or `error`) in all processes, naming one that has another.
    """
    first_one, *others = share(value)
    for number, other in enumerate(others, 1):
        if other != first_one:
            mine, yours = first_one, other
            if isinstance(mine, dict) and isinstance(yours, dict):  # only what differs
                mine, yours = ({k: v for k, v in a.items() if b.get(k) != v} for a, b in ((mine, yours), (yours, mine)))
            who = f"{_here[0].names[number]} has {name} {yours}, process 0 has {mine}"
            raise error(f"{who}: give all processes the same.")


def agreed(number: int | None, step: int, stride: int = 1) -> int | None:
    """Tells by which signal all processes stop at this step; None: they go on (`Peers.agreed`)."""
    return _here[0].agreed(number, step, stride) if _here else number


def settle(number: int | None) -> int | None:
    """Tells by which signal a walk of steps was stopped in any process, when it has ended in all (`Peers.settle`)."""
    return _here[0].settle(number) if _here else number


@contextlib.contextmanager
def desk(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """Gives a folder to write into in a `with` block: this one in process 0, in the others one that is thrown away.

    All processes do the work of a report, since they draw together; one is to be kept.
    """
    if first():
        yield Path(folder)
        return
    with tempfile.TemporaryDirectory() as scratch:
        yield Path(scratch)


@contextlib.contextmanager
def last_words(say: Callable[[str], str]) -> Iterator[None]:
    """Has `say(line)` called in a `with` block if another process is lost and this one does not come back to end.

    What it gives is added to the line.
    """
    if not _here:
        yield
        return
    before, _here[0].told = _here[0].told, say
    try:
        yield
    finally:
        _here[0].told = before


def echo(error: BaseException) -> BaseException:
    """Gives the loss of another process where an error here is its echo, as that of a collective is; or the error."""
    if not _here or not _is_of_devices(error):
        return error
    return _here[0].look(peers.SILENCE + 3 * peers.BEAT) or error


@contextlib.contextmanager
def naming() -> Iterator[None]:
    """Raises the loss of another process in the place of an error of a `with` block that is its echo (`echo`)."""
    try:
        yield
    except Exception as error:
        if (found := echo(error)) is error:
            raise
        raise found from error


def _is_of_devices(error: BaseException) -> bool:
    text = str(error).lower()
    return isinstance(error, jax.errors.JaxRuntimeError) and any(word in text for word in _BROKEN)


_BROKEN = ("gloo", "nccl", "connection", "socket", "peer", "collective", "coordination", "unavailable", "aborted")


def traced(error: BaseException) -> tuple[str, int]:
    """Prints the trace of an error that is the program's own; gives the line for the others, and the exit status."""
    traceback.print_exception(error)
    text = str(error).strip().partition("\n")[0][:300]
    return f"error: {type(error).__name__}: {text}", 1


def end(line: str, status: int) -> None:
    """Ends this process after an error or a stop, the others with it; does nothing in one that is alone.

    Args:
        line: what is said on stderr, and to the others; empty: it has been said.
    """
    if not _here:
        return
    known = _here[0]
    if known.lost is None and known.fail(line, status):
        line = ""  # process 0 says it
    peers.leave(known.signed(line), status)


def part() -> None:
    """Ends the run of several processes, when all have come to its end."""
    if not _here:
        return
    known = _here[0]
    known.share("done")
    watch = threading.Timer(peers.GRACE, lambda: peers.leave("", 0))  # an old jax waits without end
    watch.daemon = True
    watch.start()
    jax.distributed.shutdown()
    watch.cancel()
    _here.pop().close()
