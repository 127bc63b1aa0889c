"""Silences end in a line that says what is being done, on stderr, and only where nothing else was said."""

import io
import sys
import threading
import time

import pytest
import run_command

from diffjax import activity, screen


@pytest.fixture
def spoken(monkeypatch):
    """What is written to stderr while at most 0.1 s of silence are allowed; `spoken(act)` runs a function so."""
    monkeypatch.setenv(activity.VARIABLE, "0.1")

    def run(act):
        err = io.StringIO()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stderr", err)
            patch.setattr(sys, "stdout", io.StringIO())
            with screen.guard():
                act()
        return err.getvalue().splitlines()

    return run


def test_a_silence_ends_in_a_line(spoken):
    @activity.doing("compiling")
    def act():
        with activity.doing("judging"):
            time.sleep(0.25)
        time.sleep(0.25)

    lines = spoken(act)
    assert lines[0].startswith("... judging: ")
    assert lines[-1].startswith("... compiling: ")
    assert 2 <= len(lines) <= 5  # one in each 0.1 s, if the machine has time


def test_a_step_that_moves_is_said_as_it_is_then(spoken):
    at = [0]

    def act():
        with activity.doing(lambda: f"step {at[0]}"):
            for at[0] in range(3):
                time.sleep(0.12)

    assert len(set(spoken(act))) > 1


def test_nothing_is_said_while_something_else_is(spoken, monkeypatch):
    monkeypatch.setenv(activity.VARIABLE, "0.5")

    def act():
        for _ in range(20):
            print("step")
            time.sleep(0.04)

    assert spoken(act) == []


def test_silence_may_be_allowed(spoken, monkeypatch):
    for chosen in ("off", "OFF", "100"):
        monkeypatch.setenv(activity.VARIABLE, chosen)
        assert spoken(lambda: time.sleep(0.25)) == []
    monkeypatch.setenv(activity.VARIABLE, "a while")
    assert activity.silence() == activity.SILENCE < 5


def test_one_thread_watches_and_ends_with_its_guard(spoken):
    def watching():
        return [thread for thread in threading.enumerate() if thread.name == "diffjax-activity"]

    def act():
        with screen.guard():
            assert len(watching()) == 1

    spoken(act)
    assert not watching()
    with pytest.raises(KeyError):
        spoken(lambda: {}["x"])
    assert not watching()
    assert not activity._doing


def test_a_line_stands_above_a_bar(spoken, monkeypatch):
    from tqdm import tqdm

    written = []
    monkeypatch.setattr(tqdm, "write", lambda text, file: written.append(text))
    assert spoken(lambda: time.sleep(0.15)) == []
    assert written[0].startswith("... starting: ")


def test_a_command_says_what_it_compiles(monkeypatch):
    """As its own process, which is silent for 0.3 s at most."""
    monkeypatch.setenv(activity.VARIABLE, "0.3")
    small = ("model.channels=4", "model.multipliers=1", "model.attention=()")
    flags = [f"--config.{text}" for text in small]
    status, output = run_command.run("--mode=show", "--config=configs/vpsde.py:tiny", *flags)
    assert status == 0
    assert "... compiling a training step: " in output
    assert "... reading the config and the data it names: " in output
