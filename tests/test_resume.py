"""A run that is killed at any moment and started again ends with the bytes of one that never was."""

import json
import random
import signal
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from run_command import run, start
from unjudged import without_samples

from diffjax import main as command_line
from diffjax import runs

STEPS = 160
LONG = 1200  # for thirty kills
MLP = {"data.name": "moons", "model.name": "MLP", "model.width": 16, "model.depth": 1, "eval.samples": 50}
# The command, but for pictures and the report at its end, which are no part of a run's state.
BARE = """
import sys
from diffjax import main, runs
from diffjax.runs import report
runs.Trainer._show = lambda *_: None
report.evaluate = lambda run, out, times=None: {}
sys.exit(main.main(sys.argv[1:]))
"""


def arguments(steps: int, **changes) -> list[str]:
    """A small run's command line."""
    changes = {"train.steps": steps, "train.sample_every": steps, "checkpoint.every": 20, **changes}
    return ["--config=configs/vpsde.py:tiny", *(f"--config.{field}={value}" for field, value in changes.items())]


ARGS = arguments(STEPS, **MLP)  # what compiles soon: a U-Net is killed thirty times in `-m slow`


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="module")
def reference(tmp_path_factory, cache):
    """The uninterrupted run, whose reader goes after the first line, as `| head -1` does: it ends all the same."""
    workdir = tmp_path_factory.mktemp("runs") / "reference"
    process = start(*ARGS, f"--workdir={workdir}", pinned=True, cache=cache, code=BARE)
    assert process.stdout.readline().startswith("diffjax ")
    process.stdout.close()
    assert process.wait(300) == 0
    assert json.loads((workdir / "results.json").read_text())["status"] == "done"
    return workdir


def uninterrupted(arguments: list[str], workdir: Path, cache: Path, code: str | None = None) -> Path:
    status, output = run(*arguments, f"--workdir={workdir}", pinned=True, cache=cache, code=code)
    assert status == 0, output
    return workdir


def logged(workdir: Path) -> list[dict]:
    """metrics.jsonl without what a clock says."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "timing"} for line in lines]


def assert_same_run(a: Path, b: Path, steps: int = STEPS) -> None:
    one, two = runs.open(a), runs.open(b)
    assert one.step == two.step == steps
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(one.state), jax.tree.leaves(two.state), strict=True):
        x, y = (jax.random.key_data(v) if jax.dtypes.issubdtype(v.dtype, jax.dtypes.prng_key) else v for v in (x, y))
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes(), jax.tree_util.keystr(path)
    assert logged(a) == logged(b)
    assert [line["step"] for line in logged(a)] == list(range(10, steps + 1, 10))


def progress(workdir: Path) -> int:
    path = workdir / "metrics.jsonl"
    return path.read_text().count("\n") * 10 if path.exists() else 0


def kill_at_random_moments(arguments: list[str], workdir: Path, cache: Path, kills: int, rng: random.Random) -> int:
    """Starts the run `kills` times and kills each; how many of the kills came before the end."""
    landed = 0
    for _ in range(kills):
        process = start(*arguments, f"--workdir={workdir}", pinned=True, cache=cache)
        begun, ahead = progress(workdir), rng.choice([0, 10, 20, 30])
        deadline = time.monotonic() + 120
        while process.poll() is None and progress(workdir) < begun + ahead + 1 and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.15))  # into a step, a save, or between the two
        landed += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.communicate()
    return landed


def here(workdir: Path) -> None:
    """Runs the command in this process."""
    with pytest.MonkeyPatch.context() as patch:
        without_samples(patch)
        assert command_line.main([*ARGS, f"--workdir={workdir}"]) == 0


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The uninterrupted run, in this process."""
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    here(workdir)
    return workdir


def test_killed_damaged_and_restarted_run_ends_with_the_same_bytes(whole, cache, tmp_path, capsys):
    """Killed once there are two checkpoints; then the newest is damaged, which the next start skips by name.

    The reader of the killed process goes after its first line, as `| head -1` does: it trains all the same.
    """
    workdir = tmp_path / "killed"
    kept = lambda: sorted(int(path.name) for path in (workdir / "checkpoints").glob("*") if path.name.isdigit())
    process = start(*ARGS, f"--workdir={workdir}", cache=cache, code=BARE)
    assert process.stdout.readline().startswith("diffjax ")
    process.stdout.close()
    deadline = time.monotonic() + 300
    while process.poll() is None and len(kept()) < 2 and time.monotonic() < deadline:
        time.sleep(0.002)
    time.sleep(random.Random(5).uniform(0, 0.1))  # into a step, a save, or between the two
    assert process.poll() is None, "it came too late to interrupt anything"
    process.send_signal(signal.SIGKILL)
    process.wait()
    older, newest = kept()[-2:]
    saved = workdir / "checkpoints" / str(newest) / "state"
    for data in [path for path in saved.rglob("*") if path.is_file() and path.parent.name == "d"]:
        content = bytearray(data.read_bytes())
        for place in range(0, len(content), 50):  # many, in every data file: Orbax leaves some of them unused
            content[place] ^= 0xFF
        data.write_bytes(content)
    capsys.readouterr()
    here(workdir)
    output = "".join(capsys.readouterr())
    assert f"step {newest}" in next(line for line in output.splitlines() if "skipped a checkpoint" in line)
    assert f"resuming at step {older}" in output
    assert_same_run(whole, workdir)


@pytest.mark.slow  # the test above kills once
def test_thirty_kills(cache, tmp_path):
    whole = uninterrupted(arguments(LONG), tmp_path / "whole", cache)
    landed = kill_at_random_moments(arguments(LONG), tmp_path / "killed", cache, 30, random.Random(30))
    assert landed == 30, "the kills came too late to interrupt anything"
    assert_same_run(whole, uninterrupted(arguments(LONG), tmp_path / "killed", cache), LONG)


def assert_interrupted(name: str, workdir: Path) -> None:
    results = json.loads((workdir / "results.json").read_text())
    assert (results["status"], results["signal"]) == ("interrupted", name)


@pytest.mark.slow  # `test_trainer` has both signals in its own process
def test_asked_to_stop_it_saves_and_it_resumes_mid_window(reference, cache, tmp_path):
    """By Ctrl-C; the next test asks by the other signal."""
    workdir = tmp_path / "stopped"
    process = start(*ARGS, f"--workdir={workdir}", pinned=True, cache=cache)
    while process.poll() is None and progress(workdir) < 20:
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGINT, output
    assert_interrupted("SIGINT", workdir)
    assert "--workdir=" in output
    assert "resumes" in output
    status, output = run(*ARGS, f"--workdir={workdir}", pinned=True, cache=cache, code=BARE)
    assert status == 0, output
    assert "resuming at step" in output
    assert_same_run(reference, workdir)


def test_a_scheduler_may_ask_it_to_stop_too(tmp_path, monkeypatch):
    """What the command makes of it; `test_trainer` has both signals themselves, and what is saved and said."""

    def train(trainer):
        raise runs.Stopped(signal.SIGTERM, 20, tmp_path)

    monkeypatch.setattr(runs.Trainer, "train", train)
    assert command_line.main([*ARGS, f"--workdir={tmp_path}"]) == 128 + signal.SIGTERM


def test_another_config_is_refused_and_nothing_is_overwritten(whole, capsys):
    before = {p: p.stat().st_mtime_ns for p in whole.rglob("*") if p.is_file()}
    assert command_line.main([*ARGS, "--config.seed=1", f"--workdir={whole}"]) == 2
    assert "holds a run of another config (seed: 0 -> 1)" in capsys.readouterr().err
    assert before == {p: p.stat().st_mtime_ns for p in whole.rglob("*") if p.is_file()}
