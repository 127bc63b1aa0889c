"""A save holds its caller for a copy alone: what the thread does meanwhile, in which order, and how it fails."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import jax.numpy as jnp
import pytest
from checkpoints import CONFIG, make, restore, save

from diffjax.checkpoint import Checkpoints
from diffjax.writer import Writer

STATE = {"x": jnp.ones(3)}


@pytest.fixture
def held(tmp_path):
    """(checkpoints of one step, what lets the next save be written)"""
    with Checkpoints(tmp_path / "run") as checkpoints:
        checkpoints.save(1, STATE, metrics={}, config={})
        checkpoints.wait()
        write, go = checkpoints._saver.save, threading.Event()

        def late(*args, **words):
            assert go.wait(60)
            write(*args, **words)

        checkpoints._saver.save = late
        yield checkpoints, go
        go.set()


@pytest.mark.parametrize("look", [Checkpoints.steps, lambda c: c.latest, lambda c: c.best, Checkpoints.wait])
def test_a_save_returns_before_it_is_written_and_whoever_looks_waits(held, look):
    checkpoints, go = held
    checkpoints.save(2, STATE, metrics={"loss": 0.0}, config={})
    assert not (checkpoints.directory / "2").exists()
    threading.Timer(0.1, go.set).start()
    assert look(checkpoints) in ([1, 2], 2, None)
    assert (checkpoints.directory / "2").is_dir()


def test_what_is_refused_is_refused_at_once(held):
    checkpoints, go = held
    go.set()
    for step, state in ((2, {"x": jnp.array([1, jnp.nan, 3])}), (1, {"x": jnp.zeros(3)}), (2, {"x": 3})):
        with pytest.raises(ValueError, match=f"save step {step}: "):
            checkpoints.save(step, state, metrics={}, config={})
    assert checkpoints.steps() == [1]


def test_the_threads_error_is_one_line_of_the_next_save(held):
    checkpoints, _ = held

    def full(*args, **words):
        raise RuntimeError("no room\nfor more")

    write, checkpoints._saver.save = checkpoints._saver.save, full
    checkpoints.save(2, STATE, metrics={}, config={})
    with pytest.raises(OSError, match=r"^step 2 was not saved in .*/run: RuntimeError: no room$"):
        checkpoints.save(3, STATE, metrics={}, config={})
    checkpoints._saver.save = write
    checkpoints.wait()  # it is heard of once
    assert checkpoints.latest == 1


def test_the_disk_has_all_of_a_step_before_an_older_one_goes(tmp_path, monkeypatch):
    """Every file and folder of it, and the folder that holds its name, after it has that."""
    save(tmp_path, (10,))
    seen, sync = [], os.fsync

    def synced(file):
        if (tmp_path / "20").exists():  # under its last name
            seen.append(Path(os.readlink(f"/proc/self/fd/{file}")))
            assert (tmp_path / "10").exists()
        sync(file)

    if not Path("/proc/self/fd").exists():
        pytest.skip("names of open files are read from /proc")
    monkeypatch.setattr(os, "fsync", synced)
    save(tmp_path, (20,), keep=1, best=0)
    monkeypatch.undo()
    assert not (tmp_path / "10").exists()
    step = tmp_path / "20"
    assert {step, *step.rglob("*")} <= set(seen)
    assert seen.index(step / "info" / "metadata") < seen.index(step / "info") < seen.index(step) < seen.index(tmp_path)


def test_half_a_deleted_step_is_no_step(tmp_path, monkeypatch):
    """What a kill in a deletion leaves has no step's name, and the next run's first save clears it."""
    save(tmp_path, (10,))
    gone = []
    monkeypatch.setattr(type(Checkpoints(tmp_path).directory), "rmtree", lambda path: gone.append(path.name))
    save(tmp_path, (20,), keep=1, best=0)
    monkeypatch.undo()
    (name,) = gone
    assert (tmp_path / name / "info" / "metadata").exists()
    assert restore(tmp_path)[1] == []
    save(tmp_path, (30,))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["20", "30"]


def test_a_step_that_cannot_be_deleted_is_said_and_stops_nothing(tmp_path, monkeypatch):
    save(tmp_path, (10,))
    lines = []

    def refuse(path):
        raise OSError("busy")

    monkeypatch.setattr(type(Checkpoints(tmp_path).directory), "rmtree", refuse)
    save(tmp_path, (20,), keep=1, best=0, report=lines.append)
    assert lines == [f"{tmp_path}/10 is no longer needed, but could not be deleted: busy"]
    assert restore(tmp_path)[0].step == 20


def test_nothing_is_kept_in_memory_of_a_step_that_was_deleted(tmp_path):
    with Checkpoints(tmp_path, keep=2, best=1) as checkpoints:
        for k in range(6):
            checkpoints.save(k, STATE, metrics={"loss": float(k)}, config={})
        checkpoints.wait()
        assert sorted(checkpoints._records) == checkpoints.steps() == [0, 4, 5]


@pytest.mark.parametrize("place", ["a link to nothing", "a link to a step"])
def test_a_link_in_a_steps_place_is_set_aside(tmp_path, place):
    save(tmp_path, (10, 20))
    (tmp_path / "30").symlink_to("20" if place == "a link to a step" else "nowhere")
    lines = []
    with Checkpoints(tmp_path, report=lines.append) as checkpoints:
        assert checkpoints.restore(make(20)).step == 20
        checkpoints.save(30, make(30), metrics={}, config=CONFIG)
    assert lines[-1] == f"{tmp_path}/30 is no sound checkpoint: set aside as 30.aside1"
    assert (tmp_path / "30.aside1").is_symlink()
    assert restore(tmp_path)[0].step == 30


def test_a_file_in_the_folders_place_is_refused_in_one_line(tmp_path):
    (tmp_path / "checkpoints").write_text("a file")
    with (
        Checkpoints(tmp_path / "checkpoints") as checkpoints,
        pytest.raises(ValueError, match="is no folder"),
    ):
        checkpoints.restore(STATE)
    assert (tmp_path / "checkpoints").read_text() == "a file"


def test_an_interrupted_wait_can_be_made_again():
    writer, go = Writer(), threading.Event()
    writer.start(lambda: go.wait(60), "it failed")
    with pytest.MonkeyPatch.context() as patch:

        def interrupt(_):
            raise KeyboardInterrupt

        patch.setattr("concurrent.futures.wait", interrupt)
        with pytest.raises(KeyboardInterrupt):
            writer.wait()
    go.set()
    assert writer.wait() is True
    assert writer.wait() is None
    writer.close()
    writer.close()


def test_a_process_that_ends_loses_no_save_in_silence(tmp_path):
    """Neither closed nor waited for: it is there, or named."""
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from checkpoints import Checkpoints, make
checkpoints = Checkpoints(sys.argv[1])
checkpoints.save(1, make(1), metrics={{}}, config={{}})
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    if f"step 1 was not saved in {tmp_path}" in done.stderr:  # Python 3.12 and later begin no thread at the end
        assert sys.version_info >= (3, 12)
        return
    assert done.stderr == ""
    assert restore(tmp_path)[0].step == 1


def test_what_the_caller_changes_after_a_save_is_not_saved(held):
    checkpoints, go = held
    state, config = {"x": jnp.ones(3), "y": jnp.arange(3).__array__().copy()}, {"rate": [0.1]}
    checkpoints.save(2, state, metrics={}, config=config)
    state["y"][:], config["rate"][0] = 9, 5.0
    go.set()
    found = checkpoints.restore(state, 2)
    assert found.state["y"].tolist() == [0, 1, 2]
    assert found.info.config == {"rate": [0.1]}


def test_a_record_of_any_size_or_depth_is_damage(tmp_path):
    save(tmp_path, (10, 20, 30))
    with (tmp_path / "30" / "info" / "metadata").open("r+b") as file:
        file.truncate(2**33)  # sparse
    (tmp_path / "20" / "info" / "metadata").write_text("[" * 100_000)
    (step, *_), lines = restore(tmp_path)
    assert step == 10
    assert [line.partition(": ")[2].partition(" Error")[0][:40] for line in lines] == [
        "step 30: cannot read its info: DamagedFi",
        "step 20: cannot read its info: DamagedFi",
    ]
    with Checkpoints(tmp_path, report=lines.append) as checkpoints:
        checkpoints.save(40, make(40), metrics={}, config=CONFIG)
        assert checkpoints.steps() == [10, 20, 30, 40]
