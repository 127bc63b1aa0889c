"""Who runs a node of a sweep: one process of one machine, by a lock or a heartbeat."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import run_command

from diffjax.sweeps import claims


def other_host(folder, age, host="elsewhere"):
    folder.mkdir(parents=True, exist_ok=True)
    content = {"host": host, "pid": 1, "log": "", "token": "theirs", "time": time.time() - age}
    (folder / claims.FILE).write_text(json.dumps(content))


def test_a_claim_is_held_by_one_process(tmp_path):
    with claims.claim(tmp_path / "c", tmp_path / "log.txt") as held:
        assert held
        found = claims.alive(tmp_path / "c")
        assert (found["host"], found["pid"]) == (socket.gethostname(), os.getpid())
        assert claims.of_processes(tmp_path, {os.getpid()}) == {"c": tmp_path / "log.txt"}
        code = (
            "import sys; from pathlib import Path; from diffjax.sweeps import claims\n"
            f"with claims.claim(Path({str(tmp_path / 'c')!r}), Path()) as held: print(held)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env=run_command.environment()
        )
        assert done.stdout == "False\n", done.stderr
    assert claims.alive(tmp_path / "c") == {}


def test_a_fresh_heartbeat_of_another_machine_is_left_alone(tmp_path):
    said = []
    other_host(tmp_path / "c", age=claims.FRESH - 5)
    with claims.claim(tmp_path / "c", Path(), said.append) as held:
        assert not held
    assert claims.alive(tmp_path / "c")["host"] == "elsewhere"
    assert not said


def test_a_stale_heartbeat_is_taken_over_with_a_word(tmp_path):
    said = []
    other_host(tmp_path / "c", age=claims.FRESH + 5)
    with claims.claim(tmp_path / "c", Path(), said.append) as held:
        assert held
        assert claims.alive(tmp_path / "c")["host"] == socket.gethostname()
    assert said == ["c is taken over from elsewhere, which was silent for 65 s"]
    assert not list((tmp_path / "c").glob("*.stale"))


def test_of_two_machines_one_takes_a_stale_claim(tmp_path, monkeypatch):
    """The other one was first, between this one's look and its move: its claim is put back."""
    folder, stale = tmp_path / "c", {"token": "stale"}
    other_host(folder, age=0)
    assert not claims._put_aside(folder, stale, "mine")
    assert claims.alive(folder)["token"] == "theirs"
    assert not list(folder.glob("*.stale"))


def test_a_heartbeat_beats(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "EVERY", 0.02)
    with claims.claim(tmp_path / "c", Path()) as held:
        assert held
        first = claims.alive(tmp_path / "c")["time"]
        deadline = time.monotonic() + 20
        while claims.alive(tmp_path / "c")["time"] == first:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_one_that_was_taken_over_says_so_and_leaves_the_claim(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "EVERY", 0.02)
    said = []
    with claims.claim(tmp_path / "c", Path(), said.append):
        other_host(tmp_path / "c", age=0)
        deadline = time.monotonic() + 20
        while not said:
            assert time.monotonic() < deadline
            time.sleep(0.01)
            if claims.alive(tmp_path / "c").get("host") != "elsewhere":  # a beat was on its way
                other_host(tmp_path / "c", age=0)
    assert "taken over by elsewhere" in said[0]
    assert claims.alive(tmp_path / "c")["host"] == "elsewhere"
