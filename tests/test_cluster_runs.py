"""Runs of several local processes: what one process trains, and what becomes of all when one of them ends."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from run_command import ROOT, environment

import diffjax
from diffjax import runs
from diffjax.runs import workdir as files

SMALL = (
    "--config=configs/vpsde.py:tiny",
    *(f"--config.{text}" for text in ("model.name=MLP", "model.width=16", "model.depth=1")),
)
CONSTANT = ("--config.checkpoint.every=1000", "--config.learning_rate.schedule=constant")
UNJUDGED = """
import sys
from diffjax import main, runs
runs.Trainer.report = lambda self, out=None: {}
sys.exit(main.main(sys.argv[1:], process=True))
"""  # the command without its report, which takes longer than all else
LIMIT = 30  # seconds in which all processes end


class Together:
    """The processes of one command, running."""

    def __init__(self, count, *args, devices=1, out, code=None, **more):
        with socket.socket() as one:
            one.bind(("localhost", 0))
            port = one.getsockname()[1]
        env = {**environment(devices), "DIFFJAX_JOIN": "120", "DIFFJAX_SILENCE": "off", **more}
        flags = lambda i: [f"--coordinator=localhost:{port}", f"--processes={count}", f"--process={i}"]
        self.streams = [(out / f"{i}.out", out / f"{i}.err") for i in range(count)]
        self.processes = []
        for i, (text, errors) in enumerate(self.streams):
            program = ["-m", "diffjax.main"] if code is None else ["-c", code]
            command = [sys.executable, *program, *flags(i), *args]
            with text.open("w") as stdout, errors.open("w") as stderr:
                self.processes.append(subprocess.Popen(command, cwd=ROOT, env=env, stdout=stdout, stderr=stderr))

    def ends(self, limit=300.0):
        """Exit statuses, and (stdout, stderr) of each."""
        until = time.monotonic() + limit
        try:
            for process in self.processes:
                process.wait(max(until - time.monotonic(), 0.01))
        finally:
            for process in self.processes:
                process.kill()
                process.wait()
        said = [tuple(path.read_text() for path in paths) for paths in self.streams]
        return [process.returncode for process in self.processes], said

    def reach(self, workdir, step):
        """Waits until a checkpoint at this step, or one after it, is there whole."""
        until = time.monotonic() + 200
        while not any(path.name.isdecimal() and int(path.name) >= step for path in (workdir / "checkpoints").glob("*")):
            assert all(process.poll() is None for process in self.processes), self.ends(0.1)
            assert time.monotonic() < until
            time.sleep(0.05)


def lines(text):
    """What a process says on stderr, without what the C++ libraries under jax say as they end."""
    return [line for line in text.splitlines() if "error:" in line]


def metrics(workdir):
    return {line["step"]: line["loss"] for line in files.read_metrics(workdir)}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A run of one process: the losses that all others have."""
    workdir = tmp_path_factory.mktemp("alone") / "run"
    overrides = [text.removeprefix("--config.") for text in SMALL[1:]]
    built = runs.build_run(runs.load(str(ROOT / "configs" / "vpsde.py") + ":tiny", overrides))
    with runs.Trainer(**built._asdict(), workdir=workdir) as trainer:
        trainer.train()
    return workdir


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A run of two processes, and what they said."""
    out = tmp_path_factory.mktemp("two")
    return out / "run", Together(2, *SMALL, f"--workdir={out / 'run'}", out=out, code=UNJUDGED).ends()


def test_two_processes_train_what_one_does(alone, two):
    workdir, (statuses, said) = two
    assert statuses == [0, 0], said
    expected, found = metrics(alone), metrics(workdir)
    assert list(found) == list(expected) == [10, 20, 30, 40]
    np.testing.assert_allclose(list(found.values()), list(expected.values()), rtol=1e-4)
    a, b = (runs.open(path).params for path in (alone, workdir))
    np.testing.assert_allclose(*(np.concatenate([np.ravel(x) for x in jax.tree.leaves(p)]) for p in (a, b)), atol=1e-4)


def test_process_0_alone_writes_prints_and_draws(two):
    workdir, (_, said) = two
    assert "2 x cpu of 2 processes" in said[0][0]
    assert [line for line in said[1][0].splitlines() if "Gloo" not in line] == []
    assert lines(said[0][1]) == lines(said[1][1]) == []
    assert (workdir / "samples" / "step_0000020.png").stat().st_size > 1000
    assert json.loads((workdir / "results.json").read_text())["status"] == "trained"
    assert len((workdir / "command.txt").read_text().splitlines()) == 1  # one process wrote


@pytest.mark.slow
def test_the_report_is_that_of_one_process(two, tmp_path):
    """Both judge, since they draw together; one writes."""
    statuses, said = Together(2, *SMALL, f"--workdir={two[0]}", out=tmp_path).ends()
    assert statuses == [0, 0], said
    assert "report.md" in said[0][0]
    assert [line for line in said[1][0].splitlines() if "Gloo" not in line] == []
    assert (two[0] / "figures" / "samples.png").exists()
    assert json.loads((two[0] / "results.json").read_text())["status"] == "done"


def test_what_two_have_trained_one_draws(two):
    run = runs.open(two[0])
    assert run.step == 40
    assert np.isfinite(run.draw(2)).all()


@pytest.mark.slow
def test_two_processes_sample_what_one_does(two, tmp_path):
    workdir, _ = two
    out = tmp_path / "drawn"
    flags = ["--mode=sample", f"--workdir={workdir}", "--seeds=0-4", f"--out={out}"]
    before = sorted(str(path) for path in workdir.rglob("*"))
    statuses, said = Together(2, *flags, out=tmp_path).ends()
    assert statuses == [0, 0], said
    with np.load(out / "samples.npz") as found:
        np.testing.assert_allclose(found["x"], runs.open(workdir).draw(5), atol=1e-4)
    assert sorted(str(path) for path in workdir.rglob("*")) == before


@pytest.mark.slow
def test_a_mistake_is_one_line_of_each_process(tmp_path):
    wrong = f"--workdir={tmp_path / 'run'}"
    statuses, said = Together(2, *SMALL, "--config.train.batch_size=31", wrong, out=tmp_path).ends()
    assert statuses == [2, 2]
    assert "train.batch_size is 31, expected a multiple of 2, the devices" in "".join(err for _, err in said)
    assert all(len(err.splitlines()) <= 1 for _, err in said), said


LONG = (*SMALL, "--config.train.steps=100000", "--config.checkpoint.every=20", "--config.train.sample_every=100000")


def started(tmp_path, count=2, **more):
    together = Together(count, *LONG, f"--workdir={tmp_path / 'run'}", out=tmp_path, **more)
    together.reach(tmp_path / "run", 40)
    return together


def sound(workdir):
    """The step of the newest checkpoint, which restores."""
    diffjax.trust("broken")
    return runs.open(workdir).step


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("who", [0, 1])
def test_told_to_stop_all_save_one_step(tmp_path, alone, count, who):
    """And go on with other numbers of processes and devices, with the examples of one that was never stopped."""
    flags = (*SMALL, *CONSTANT, f"--workdir={tmp_path / 'run'}")
    together = Together(count, *flags, "--config.train.steps=40000", out=tmp_path)
    until = time.monotonic() + 200
    while not (tmp_path / "run" / "metrics.jsonl").exists() or not metrics(tmp_path / "run"):
        assert time.monotonic() < until
        time.sleep(0.02)
    together.processes[who].send_signal(signal.SIGTERM)
    statuses, said = together.ends(LIMIT)
    assert statuses == [143] * count, said
    step = sound(tmp_path / "run")
    assert f"stopped at step {step}, saved" in said[0][0]
    assert json.loads((tmp_path / "run" / "results.json").read_text())["signal"] == "SIGTERM"
    last = step + 40
    more = f"--config.train.steps={last}"
    env = {**environment(2)}
    command = [sys.executable, "-m", "diffjax.main", *flags, more]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    whole = [sys.executable, "-m", "diffjax.main", *SMALL, *CONSTANT, more]
    subprocess.run([*whole, f"--workdir={tmp_path / 'whole'}"], cwd=ROOT, env=environment(), check=True)
    expected, found = metrics(tmp_path / "whole"), metrics(tmp_path / "run")
    assert list(found) == list(expected)
    np.testing.assert_allclose(list(found.values()), list(expected.values()), rtol=2e-2)


SPLIT = (
    SMALL[0],
    *(f"--config.model.{text}" for text in ("name=DiT", "width=128", "depth=1", "heads=2")),
    *("--config.train.sample_every=20", "--config.learning_rate.schedule=constant"),
)


@pytest.mark.slow
def test_a_state_that_processes_share_is_that_of_one(tmp_path):
    """Split over two processes of two devices, and on from its checkpoint under another split."""
    workdir, whole = tmp_path / "run", tmp_path / "whole"
    for words in (["train.fsdp=4"], ["train.fsdp=2", "train.tensor=2", "train.steps=60"]):
        flags = (*SPLIT, *(f"--config.{text}" for text in words), f"--workdir={workdir}")
        statuses, said = Together(2, *flags, devices=2, out=tmp_path).ends()
        assert statuses == [0, 0], said
    command = [sys.executable, "-m", "diffjax.main", *SPLIT, "--config.train.steps=60", f"--workdir={whole}"]
    subprocess.run(command, cwd=ROOT, env=environment(), check=True)
    expected, found = metrics(whole), metrics(workdir)
    assert list(found) == list(expected) == [10, 20, 30, 40, 50, 60]
    np.testing.assert_allclose(list(found.values()), list(expected.values()), rtol=1e-5)
    out = tmp_path / "drawn"
    flags = ["--mode=sample", f"--workdir={workdir}", "--seeds=0-4", f"--out={out}"]
    statuses, said = Together(2, *flags, devices=2, out=tmp_path).ends()
    assert statuses == [0, 0], said
    with np.load(out / "samples.npz") as drawn:  # of steps so few that samples are far out
        np.testing.assert_allclose(drawn["x"], runs.open(whole).draw(5), rtol=1e-3, atol=1e-3)


def end(together, who, number):
    began = time.monotonic()
    together.processes[who].send_signal(number)
    others = [process for i, process in enumerate(together.processes) if i != who]
    for process in others:
        process.wait(LIMIT)
    seconds = time.monotonic() - began
    together.processes[who].send_signal(signal.SIGCONT)
    statuses, said = together.ends(20)
    return statuses, said, seconds


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize(("count", "who"), [(2, 0), (2, 1), (4, 3)])
def test_one_killed_or_frozen_ends_all(tmp_path, number, count, who):
    together = started(tmp_path, count)
    statuses, said, seconds = end(together, who, number)
    assert seconds < LIMIT
    for i, (_, err) in enumerate(said):
        if i != who:
            assert statuses[i] == 1
            assert len(lines(err)) == 1, err
            assert f"process {who} (" in lines(err)[0]
            assert ("is gone" if number == signal.SIGKILL else "has been silent") in lines(err)[0]
            assert "--workdir=" in lines(err)[0]
    step = sound(tmp_path / "run")
    assert step >= 40
    if who:
        found = json.loads((tmp_path / "run" / "results.json").read_text())
        assert found["status"] == "failed"
        assert f"process {who} (" in found["error"]


BROKEN = """
import os
from diffjax import data

class Broken:
    def __init__(self, source): self._source, self._count = source, 0
    def __len__(self): return len(self._source)
    def __getattr__(self, name): return getattr(self._source, name)
    def gather(self, indices):
        self._count += 1
        if self._count > 200 and os.environ.get("BREAKS") in str(__import__("jax").process_index()):
            raise OSError("the disk is gone")
        return self._source.gather(indices)

def digits():
    found = data.digits()
    return found._replace(train=Broken(found.train))
"""


@pytest.mark.slow
@pytest.mark.parametrize("who", [0, 1])
def test_one_that_fails_ends_all(tmp_path, monkeypatch, who):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "broken.py").write_text(BROKEN)
    path = f"{tmp_path}{os.pathsep}{ROOT}"
    flags = (*LONG, "--config.data.name=broken:digits", f"--workdir={tmp_path / 'run'}")
    statuses, said = Together(2, *flags, out=tmp_path, PYTHONPATH=path, BREAKS=str(who)).ends()
    assert statuses == [1, 1]
    for _, err in said:
        assert len(lines(err)) == 1, err
        assert "the disk is gone" in lines(err)[0]
    assert f"process {who} (" in lines(said[1 - who][1])[0]
    assert sound(tmp_path / "run") >= 100


@pytest.mark.slow
def test_tasks_of_slurm_need_no_flag(tmp_path):
    """By the environment that srun gives its tasks."""
    step = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NODELIST": "localhost", "SLURM_JOB_ID": str(os.getpid())}
    command = [sys.executable, "-m", "diffjax.main", *SMALL, f"--workdir={tmp_path / 'run'}"]
    env = {**environment(), **step, "DIFFJAX_JOIN": "120"}
    children = [
        subprocess.Popen(
            command, **{"cwd": ROOT, "env": {**env, "SLURM_PROCID": str(i)}, "stdout": subprocess.PIPE, "text": True}
        )
        for i in range(2)
    ]
    said = [child.communicate(timeout=300)[0] for child in children]
    assert [child.returncode for child in children] == [0, 0]
    assert "2 x cpu of 2 processes" in said[0]
