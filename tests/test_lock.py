"""One writer: a folder's lock against other processes, dead ones, other names of the folder, and one's own process."""

import errno
import fcntl
import gc
import json
import os
import signal
import socket
import subprocess
import sys

import pytest
from run_command import ROOT

from diffjax import lock

HOLD = """
import sys
from diffjax import lock
held = lock.take(sys.argv[1])
print(held.run, flush=True)
sys.stdin.read()
"""


def holder(folder, code=HOLD):
    """A process that holds the folder's lock until its stdin is closed, and the token of its run."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    child = subprocess.Popen([sys.executable, "-c", code, str(folder)], cwd=ROOT, **pipes)
    return child, child.stdout.readline().strip()


def end(child):
    child.stdin.close()
    child.stdout.close()
    child.wait(60)


def test_another_process_is_refused_by_name_and_a_killed_one_is_not_waited_for(tmp_path, monkeypatch):
    """By a link to the folder, too; let in are those of the holder's run alone."""
    folder, link = tmp_path / "run", tmp_path / "link"
    folder.mkdir()
    link.symlink_to(folder)
    child, run = holder(folder)
    try:
        for name in (folder, link, tmp_path / "run" / ".." / "link"):
            with pytest.raises(
                lock.HeldError, match=rf"process {child.pid} of {socket.gethostname()} \(since 20"
            ) as refused:
                lock.take(name)
            assert "\n" not in str(refused.value)
        monkeypatch.setenv(lock.RUN, run)
        other = lock.take(link)
        other.check()
        other.release()
        monkeypatch.setenv(lock.RUN, "another")
        with pytest.raises(lock.HeldError):
            lock.take(folder)
        monkeypatch.delenv(lock.RUN)
        child.send_signal(signal.SIGKILL)
        child.wait(60)
        with lock_of(folder) as mine:
            assert f"process {child.pid}" in mine.left
        with lock_of(folder) as mine:
            assert mine.left == "", "who lets go leaves nothing behind"
    finally:
        end(child)


class lock_of:
    """A lock in a `with` block."""

    def __init__(self, folder):
        self.held = lock.take(folder)

    def __enter__(self):
        return self.held

    def __exit__(self, *_):
        self.held.release()


def test_the_newest_part_of_a_process_has_the_folder(tmp_path):
    """A notebook's cell is run again: the run that it made before may not write any more."""
    first = lock.take(tmp_path)
    second = lock.take(tmp_path)
    second.check()
    with pytest.raises(lock.HeldError, match="was taken by another run of this process"):
        first.check()
    first.release()  # changes nothing
    second.check()
    child, run = holder(tmp_path)
    end(child)
    assert run == "", "the child was let in"
    second.release()
    second.release()
    child, run = holder(tmp_path)
    end(child)
    assert len(run) == 32


def test_a_lock_that_nobody_knows_of_is_let_go(tmp_path):
    lock.take(tmp_path)
    gc.collect()
    child, run = holder(tmp_path)
    end(child)
    assert len(run) == 32


FORGET = """
import sys
from diffjax import lock
held = [lock.take(sys.argv[1])]
held.append(held)  # which no reference count ends
print(held[0].run, flush=True)
sys.stdin.read()
"""


def test_a_process_that_ends_by_itself_lets_go(tmp_path):
    end(holder(tmp_path, FORGET)[0])
    with lock_of(tmp_path) as mine:
        assert mine.left == ""


FORK = """
import os, sys
from diffjax import lock
held = lock.take(sys.argv[1])
if os.fork():
    held.release()
    print("let go", flush=True)
sys.stdin.read()
"""


def test_a_forked_child_does_not_hold_the_lock_of_its_parent(tmp_path):
    forked, said = holder(tmp_path, FORK)
    assert said == "let go"
    other, run = holder(tmp_path)
    end(other)
    end(forked)
    assert len(run) == 32, "the child kept the lock"


@pytest.mark.parametrize("said", [b"", b"[1]", b"\xff\xff", b'{"pid": "x"}', b"{" * 5000])
def test_what_stands_in_the_file_does_not_matter_where_the_kernel_knows(tmp_path, said):
    (tmp_path / lock.NAME).write_bytes(said)
    with lock_of(tmp_path) as mine:
        assert json.loads((tmp_path / lock.NAME).read_text())["pid"] == os.getpid()
        mine.check()


def test_without_locks_of_the_kernel_the_text_is_believed(tmp_path, monkeypatch):
    def unknown(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unknown)
    path, here = tmp_path / lock.NAME, socket.gethostname()
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    for host, pid, free in ((here, int(gone.stdout), True), (here, os.getppid(), False), ("elsewhere", 1, False)):
        path.write_text(json.dumps({"host": host, "pid": pid, "start": "2026-01-01T00:00:00"}))
        if free:
            lock.take(tmp_path).release()
        else:
            with pytest.raises(lock.HeldError, match=rf"process {pid} of {host}"):
                lock.take(tmp_path)


def test_a_folder_in_the_locks_place_is_named(tmp_path):
    (tmp_path / lock.NAME).mkdir()
    with pytest.raises(lock.HeldError, match=r"\.lock is no file, so that the folder cannot be locked"):
        lock.take(tmp_path)
