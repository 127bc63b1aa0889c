"""Silences end in a line that says what is being done, on stderr, and only where nothing else was said."""

import contextlib
import io
import sys
import threading
import time

import pytest
import run_command

from diffjax import activity, logs, notebook, screen


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

    began = time.monotonic()
    lines = spoken(act)
    assert lines[0].startswith("... judging: ")
    assert lines[-1].startswith("... compiling: ")
    assert 2 <= len(lines) <= 10 * (time.monotonic() - began)  # one in each 0.1 s, if the machine has time


def test_a_line_that_goes_elsewhere_ends_a_silence_too(spoken):
    elsewhere = io.StringIO()

    def act():
        with contextlib.redirect_stderr(elsewhere):  # as the log of a sweep's evaluation
            time.sleep(0.55)

    began = time.monotonic()
    assert spoken(act) == []
    assert 1 <= len(elsewhere.getvalue().splitlines()) <= 10 * (time.monotonic() - began)  # one in each 0.1 s


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


@pytest.mark.slow
def test_a_command_says_what_it_compiles(monkeypatch):
    """As its own process, which is silent for 0.3 s at most."""
    monkeypatch.setenv(activity.VARIABLE, "0.3")
    small = ("model.channels=4", "model.multipliers=1", "model.attention=()")
    flags = [f"--config.{text}" for text in small]
    status, output = run_command.run("--mode=show", "--config=configs/vpsde.py:tiny", *flags)
    assert status == 0
    assert "... compiling a training step: " in output
    assert "... reading the config and the data it names: " in output


class Bar:
    """Stands for a notebook's bar, which is a widget: nothing of it is text on stderr."""

    def __init__(self, total, initial, **_):
        self.n, self.refreshed = initial, []

    def update(self, n):
        self.n += n

    def refresh(self):
        self.refreshed.append(self.n)

    def set_postfix_str(self, text, refresh):
        pass

    def close(self):
        pass


@pytest.fixture
def bar(monkeypatch):
    """Makes the Log of a notebook; gives it the step as `at` says, and its bar."""
    tqdm = pytest.importorskip("tqdm.auto")
    monkeypatch.setattr(tqdm, "tqdm", Bar)
    monkeypatch.setattr(notebook, "is_notebook", lambda: True)
    return lambda at: logs.Log(None, 100, 3, (), {}, at=at)


def test_a_bar_that_moves_is_a_sign_of_life(spoken, bar):
    """Steps that come between two lines of the log move it; no line is said, though no text was written either."""
    began, seen = time.monotonic(), []

    def act():
        with bar(lambda: 3 + int((time.monotonic() - began) / 0.02)) as log:
            time.sleep(0.5)
            seen.append(log._bar)

    assert spoken(act) == []
    assert 2 <= len(seen[0].refreshed) <= 6
    assert seen[0].refreshed == sorted(set(seen[0].refreshed))
    assert not activity._bars


def test_a_bar_that_stands_still_leaves_the_line(spoken, bar):
    """While a step is compiled, say; and after the training that it was the bar of."""

    def act():
        with bar(lambda: 3) as log, activity.doing("compiling"):
            time.sleep(0.25)
            assert log._bar.n == 3
        with activity.doing("judging"):
            time.sleep(0.15)

    lines = spoken(act)
    assert lines[0].startswith("... compiling: ")
    assert lines[-1].startswith("... judging: ")


def test_the_log_and_the_watch_move_one_bar_to_one_step(bar):
    with bar(lambda: 7) as log:
        assert activity._bars[0]()
        assert not activity._bars[0]()  # it is where it was
        log.progress(9, 1, 0.0, 1.0)
        assert log._bar.n == 9
