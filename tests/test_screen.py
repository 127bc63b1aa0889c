"""A screen that goes away mutes what is said and nothing else; what a machine or its user stops ends in one line."""

import errno
import io
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import run_command

from diffjax import ending, logs, main, method, runs, screen
from diffjax.commands import show, train

SPACE = os.strerror(errno.ENOSPC)


class Fails(io.StringIO):
    """A stream that takes so many writes, and then none."""

    def __init__(self, writes, error):
        super().__init__()
        self.left, self.error = writes, error

    def write(self, text):
        if not self.left:
            raise self.error
        self.left -= 1
        return super().write(text)


def guarded(monkeypatch, stdout, act=lambda: print("one\ntwo"), stderr=None):
    """Calls a function under a guard of these streams; the streams are there again after it."""
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stdout)
        patch.setattr(sys, "stderr", stderr)
        with screen.guard():
            act()
            with screen.guard():  # nested, as main's and the Trainer's are
                act()
            act()
        assert (sys.stdout, sys.stderr) == (stdout, stderr)


@pytest.mark.parametrize("number", [errno.EPIPE, errno.EIO, errno.EBADF, errno.ENOSPC, errno.EDQUOT, errno.EAGAIN])
@pytest.mark.parametrize("writes", [0, 1, 3])
def test_a_stream_that_fails_loses_its_text_alone(monkeypatch, number, writes):
    stream = Fails(writes, OSError(number, "gone"))
    guarded(monkeypatch, stream)
    assert stream.getvalue() == "".join(["one\ntwo", "\n", "one\ntwo"][:writes])


def test_a_stream_that_is_closed_or_was_never_there_is_silent(monkeypatch):
    closed = io.StringIO()
    closed.close()
    for stream in (None, closed):
        isatty = []
        guarded(monkeypatch, stream, lambda: isatty.append(sys.stdout.isatty() or print("x", flush=True)), stream)  # noqa: B023
        assert isatty == [None] * 3


def test_a_full_disk_may_have_room_again(monkeypatch):
    stream = Fails(0, OSError(errno.ENOSPC, SPACE))

    def say():
        print("lost")
        stream.left = 2
        print("kept")
        stream.left = 0

    guarded(monkeypatch, stream, say)
    assert stream.getvalue() == "kept\n" * 3


def test_what_a_stream_has_no_letters_for_is_escaped(monkeypatch):
    kept = io.BytesIO()
    stream = io.TextIOWrapper(kept, encoding="ascii", newline="\n")
    guarded(monkeypatch, stream, lambda: print("\u03c3 = 1 of \udcff"))
    assert kept.getvalue() == b"\\u03c3 = 1 of \\udcff\n" * 3


def test_a_mistake_in_a_print_is_still_one():
    with screen.guard(), pytest.raises(TypeError):
        sys.stdout.write(3)  # pyright: ignore


def test_what_passes_through_is_all_there(capsys):
    with screen.guard():
        print("out")
        print("err", file=sys.stderr)
        sys.stdout.writelines(["a", "b"])
        assert sys.stdout.encoding
    assert capsys.readouterr() == ("out\nab", "err\n")


def child(code, closing="", **options):
    """A program that imports no jax, started by a shell that closes or redirects some of its files."""
    command = ["sh", "-c", f'exec "$0" -c "$1" {closing}', sys.executable, code]
    env = {**os.environ, "PYTHONPATH": str(run_command.ROOT), "PYTHONUNBUFFERED": ""}  # what is held may not be lost
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


PRINTS = """
import os, sys
from diffjax import screen
with screen.guard():
    for line in range(6000):
        print("a line to be read by nobody", line)
    print("a warning", file=sys.stderr)
open(os.environ["DONE"], "w").close()
"""


@pytest.mark.parametrize("closing", ["", ">/dev/full", ">/dev/full 2>/dev/full", ">&-", ">&- 2>&- <&-"])
def test_the_end_of_the_process_is_as_quiet(closing, tmp_path, monkeypatch):
    """Python flushes stdout at its end: what it could not write there would be a message, and status 120."""
    monkeypatch.setenv("DONE", str(tmp_path / "done"))
    process = child(PRINTS, closing)
    process.stdout.close()
    said = process.stderr.read()
    process.stderr.close()
    assert (process.wait(60), said) == (0, "" if "2>" in closing else "a warning\n")
    assert (tmp_path / "done").exists()


def test_no_file_takes_the_number_of_stderr(tmp_path):
    """What a library in C writes to 2 would else be in the file that was opened next."""
    code = f"""
import os
from diffjax import screen
screen.occupy()
with open({str(tmp_path / "kept")!r}, "w") as file:
    os.write(1, b"noise"), os.write(2, b"noise")
    file.write("data")
"""
    process = child(code, ">&- 2>&- <&-")
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert (tmp_path / "kept").read_text() == "data"


SERVES = """
import ctypes, gc, os, signal, sys, time
from diffjax import ending, signals
signals.PATIENCE = 0.3
def hang():
    lock, library = ctypes.create_string_buffer(64), ctypes.CDLL(None)
    library.pthread_mutex_lock(lock), library.pthread_mutex_lock(lock)  # in C, where no handler of Python's runs
def swallow():
    while True:
        try:
            time.sleep(60)
        except KeyboardInterrupt:
            pass
def collect():
    gc.callbacks.append(lambda *_: time.sleep(60))  # Python loses what is raised there
    while True:
        gc.collect()
with signals.insistence(lambda number: ending.stopped_by(number, "/nowhere")):
    with signals.install_stop_handler() as stop:
        print("ready", flush=True)
        {act}()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the lock of another C library has another size")
@pytest.mark.parametrize("act", ["hang", "swallow", "collect"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_second_signal_ends_what_hangs_in_one_line(act, number):
    process = child(SERVES.format(act=act))
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    time.sleep(0.6)  # longer than a shell takes to say one thing twice
    assert process.poll() is None, "the first one only asks"
    process.send_signal(number)
    _, said = process.communicate(timeout=30)
    assert (process.returncode, said) == (128 + number, f"stopped by {number.name}; no step is saved\n")


# One line for what the machine refuses.


@pytest.fixture
def saved(tmp_path):
    """A workdir whose steps 20 and 100 are saved, and 120 is about to be."""
    for name in ("20", "100", "120.orbax-checkpoint-tmp-1"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    return tmp_path


REFUSED = [
    (OSError(errno.EACCES, "Permission denied", "/w/x"), "Permission denied: /w/x"),
    (OSError(errno.EROFS, "Read-only file system", "/w/x"), "Read-only file system: /w/x"),
    (
        OSError(errno.ENAMETOOLONG, "File name too long", "x" * 5000),
        "File name too long: " + "x" * 150 + "..." + "x" * 150,
    ),
    (OSError(errno.EMFILE, "Too many open files"), "Too many open files (in {workdir})"),
    (OSError(errno.EXDEV, "Invalid cross-device link", "a", None, "b"), "Invalid cross-device link: a -> b"),
    (OSError("step 120 was not saved in W: it is not there\nmore"), "step 120 was not saved in W: it is not there"),
    (MemoryError(), "out of memory"),
    (MemoryError("Unable to allocate 7 TiB"), "out of memory: Unable to allocate 7 TiB"),
    (RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes.\nmore"), "out of memory: RESOURCE_EXHAUSTED"),
]


@pytest.mark.parametrize(("error", "said"), REFUSED, ids=lambda v: str(v)[:40])
def test_what_the_machine_refuses_is_one_line(error, said, saved):
    line, status = ending.explain(error, saved)
    assert status == 1
    assert "\n" not in line
    assert line.startswith(f"error: {said.format(workdir=saved)}")
    assert line.endswith(f"; step 100 is saved, --workdir={saved} resumes")
    assert ending.explain(error)[0].startswith("error: ")


@pytest.mark.parametrize("path", ["metrics.jsonl", "not/yet/there"])
def test_a_full_disk_is_named_with_its_space(path, tmp_path, monkeypatch):
    usage = lambda folder: SimpleNamespace(free=2**19, is_there=folder.stat())
    monkeypatch.setattr(ending.shutil, "disk_usage", usage)
    line, _ = ending.explain(OSError(errno.ENOSPC, SPACE, str(tmp_path / path)), tmp_path)
    assert line == f"error: {SPACE}: {tmp_path / path} (0.5 MiB free); no step is saved"
    by_library = OSError("step 20 was not saved")
    by_library.__cause__ = ValueError("RESOURCE: No space left on device [/w/d/0]")
    line, _ = ending.explain(by_library, tmp_path)
    assert line == f"error: step 20 was not saved (0.5 MiB free for {tmp_path}); no step is saved"


def test_of_two_errors_the_one_that_names_a_path_is_told():
    """What is closed after an error may fail again for the same reason."""
    error = OSError(errno.EROFS, "Read-only file system")
    error.__context__ = OSError(errno.EROFS, "Read-only file system", "/w/metrics.jsonl")
    assert ending.explain(error) == ("error: Read-only file system: /w/metrics.jsonl", 1)


@pytest.mark.parametrize("error", [TypeError("x"), RuntimeError("x"), AssertionError()])
def test_a_fault_of_ours_keeps_its_trace(error, monkeypatch):
    assert ending.explain(error) is None

    def fail(*_):
        raise error

    monkeypatch.setattr(show, "main", fail)
    with pytest.raises(type(error)):
        main.main(["--mode=show", "--config=configs/vpsde.py:tiny"])


def interrupted_import():
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt as error:
        raise ImportError("half imported") from error


@pytest.mark.parametrize("act", [interrupted_import, lambda: signal.raise_signal(signal.SIGINT)])
def test_ctrl_c_anywhere_is_one_line(act, monkeypatch, capsys):
    monkeypatch.setattr(show, "main", lambda *_: act())
    before = signal.set_wakeup_fd(-1)
    assert main.main(["--mode=show", "--config=configs/vpsde.py:tiny"], process=True) == 130
    assert signal.set_wakeup_fd(before) == -1  # put back
    assert capsys.readouterr().err == "stopped by SIGINT\n"


def test_the_command_line_says_it(monkeypatch, capsys, saved):
    def fail(*_, **__):
        with logs.Log(saved, 10, 0, (), {}) as log:
            log._file.close()
            log._file = Path("/dev/full").open("a")  # noqa: SIM115
            log.write(1, {"loss": 1.0})

    monkeypatch.setattr(train, "main", fail)
    assert main.main(["--config=configs/vpsde.py:tiny", f"--workdir={saved}"]) == 1
    line = capsys.readouterr().err
    assert line.startswith(f"error: {SPACE}: {saved / 'metrics.jsonl'} (")
    assert line.endswith(f" MiB free); step 100 is saved, --workdir={saved} resumes\n")


def test_a_run_without_a_workdir_names_the_one_that_it_made(monkeypatch, capsys, tmp_path):
    def fail(trainer):
        (trainer.workdir / "checkpoints" / "20").mkdir(parents=True)
        raise MemoryError

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runs.Trainer, "train", fail)
    small = [f"--config.{word}" for word in ("data.name=moons", "model.name=MLP", "model.width=8", "eval.samples=20")]
    assert main.main([f"--config={run_command.ROOT / 'configs' / 'vpsde.py'}:tiny", *small]) == 1
    (made,) = (tmp_path / "runs").iterdir()
    assert f"step 20 is saved, --workdir=runs/{made.name} resumes" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_command_whose_text_is_its_result_fails_without_it(monkeypatch, capsys):
    monkeypatch.setattr(show, "main", lambda *_: print("costs"))
    with open("/dev/full", "w") as full, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", full)
        assert main.main(["--mode=show", "--config=configs/vpsde.py:tiny"]) == 1
    assert SPACE in capsys.readouterr().err


def test_a_picture_for_which_there_is_no_room_is_left_out_without_a_trace(capsys):
    def fail():
        raise OSError(errno.ENOSPC, SPACE)

    (section,) = method.attempt("samples.png", fail)
    assert SPACE in section.text
    assert capsys.readouterr().err == ""


# A whole run.

MLP = ("data.name=moons", "model.name=MLP", "model.width=16", "model.depth=1", "eval.samples=50")


@pytest.mark.slow  # the reader of `test_resume`'s reference goes too
def test_a_run_whose_reader_and_terminal_have_gone_ends_well(tmp_path):
    """stdout is read up to the first line, as by `| head -1`; stderr is a terminal, which is closed then."""
    fields = [*MLP, "train.steps=40", "train.sample_every=40", "checkpoint.every=20"]
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "diffjax.main", "--config=configs/vpsde.py:tiny", f"--workdir={tmp_path}"]
        + [f"--config.{field}" for field in fields],
        cwd=run_command.ROOT,
        env=run_command.environment(),
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
    )
    os.close(theirs)
    assert process.stdout.readline().startswith("diffjax ")
    process.stdout.close()
    os.close(ours)
    assert process.wait(300) == 0
    assert "done" in (tmp_path / "results.json").read_text()
    assert (tmp_path / "report.md").stat().st_size > 0
    assert (tmp_path / "checkpoints" / "40").is_dir()
