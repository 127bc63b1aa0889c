"""Where the time of a run went, and what results.json says while it goes on, when it ends, and when it is killed."""

import contextlib
import json
import os

import numpy as np
import pytest
from own_objects import pulled

from diffjax import ledger, training
from diffjax.ledger import ENTRIES, Account, Ledger
from diffjax.runs import Stopped


class Clocks:
    """Time that a test moves on, and a compiler's."""

    def __init__(self, monkeypatch):
        self.now, self.seconds = 100.0, 0.0
        monkeypatch.setattr(ledger.time, "monotonic", lambda: self.now)

    def go(self, seconds, compiling=0.0):
        self.now += seconds
        self.seconds += compiling


def test_each_second_has_one_entry(monkeypatch):
    """Entries nest, compiling is taken out of the one it falls in, and what is nobody's is not counted."""
    clocks = Clocks(monkeypatch)
    found = Ledger(clocks, began=97.0)
    clocks.go(2.0)
    found.enter("restart", renamed=True)  # since the start
    found.enter(None)
    clocks.go(1000.0, compiling=7.0)  # of somebody else
    with found.of("rest"):
        clocks.go(0.5)
        for _ in range(3):
            with found.of("input wait"):
                clocks.go(0.25)
            with found.of("step"):
                clocks.go(10.0, compiling=4.0)
        with found.of("sampling"):
            clocks.go(1.0)
            with found.of("save stall"):
                clocks.go(0.125)
        with contextlib.suppress(KeyError), found.of("evaluation"):
            clocks.go(8.0, compiling=9.0)  # of several threads
            raise KeyError
    wanted = {"restart": 5.0, "compile": 20.0, "input wait": 0.75, "step": 18.0, "sampling": 1.0, "save stall": 0.125}
    wanted |= {"start": 0.0, "rest": 0.5, "evaluation": 0.0}
    assert found.seconds == pytest.approx(wanted)
    assert list(found.seconds) == list(ENTRIES)


def read(workdir):
    return json.loads((workdir / "results.json").read_text())


def test_starts_add_up_and_a_run_that_goes_on_is_looked_at_every_ten_seconds(tmp_path, monkeypatch):
    clocks = Clocks(monkeypatch)
    for start in range(3):
        account = Account(tmp_path, Ledger(clocks))
        account.skipped = start
        clocks.go(30.0)
        account.write("running", 7)
        clocks.go(9.0)
        account.running(8)
        assert read(tmp_path)["step"] == 7
        clocks.go(1.0)
        account.running(9)  # and then it is killed
        found = read(tmp_path)
        assert (found["status"], found["step"], found["skipped"], found["starts"]) == ("running", 9, start, start + 1)
        assert found["seconds"]["start"] == 40.0 * (start + 1)
        assert found["minutes"] == round(40.0 * (start + 1) / 60, 2)
    assert found["commit"] is None or len(found["commit"]) >= 12
    assert found["device"].endswith("1 x cpu")
    assert found["command"]
    assert f"| start | 120.0 | {120 / 120:.1%} |" in ledger.table_of(tmp_path)
    assert "| in all, 3 starts | 120.0 | 100% |" in ledger.table_of(tmp_path)


@pytest.mark.parametrize("content", [b"", b"[1]", b'{"status": "done"}', b'{"seconds": 3, "starts": 1}', b"\xff"])
def test_a_torn_file_costs_the_time_of_earlier_starts_and_says_so(tmp_path, content, capsys):
    (tmp_path / "results.json").write_bytes(content)
    assert ledger.table_of(tmp_path) == ""
    Account(tmp_path, Ledger()).write("running", 0)
    assert "the time of earlier starts is not known" in capsys.readouterr().out
    assert read(tmp_path)["starts"] == 1


def test_a_run_says_how_it_goes_and_how_it_ended(tmp_path, monkeypatch):
    """Running, trained, done; of a second start both times."""
    seen, write = [], Account.write

    def watched(self, status, *args, **words):
        seen.append(status)
        write(self, status, *args, **words)

    monkeypatch.setattr(Account, "write", watched)
    with pulled(workdir=tmp_path / "run", log_every=5, checkpoint_every=5, samples=20) as one:
        one.train(5)
        first = read(tmp_path / "run")
        assert first["status"] == "trained"
    with pulled(workdir=tmp_path / "run", log_every=5, checkpoint_every=5, samples=20) as two:
        two.train(10)
        results = two.report()
    assert seen == ["running", "trained", "running", "trained", "done"]
    found = read(tmp_path / "run")
    assert found == two.account.found
    assert (found["status"], found["step"], found["starts"], found["skipped"]) == ("done", 10, 2, 0)
    assert {name: found[name] for name in results} == json.loads(json.dumps(results))
    assert all(found["seconds"][name] >= first["seconds"][name] for name in ENTRIES)
    for name in ("start", "restart", "step", "evaluation", "save stall"):
        assert found["seconds"][name] > 0
    told = (tmp_path / "run" / "report.md").read_text()
    assert "## Time" in told
    assert "| in all, 2 starts |" in told


def test_a_run_that_fails_says_how(tmp_path):
    words = {"log_every": 4, "checkpoint_every": 2}
    with pulled(workdir=tmp_path / "a", **words) as one:
        one.train(4)
        one.steps = lambda state, batch: 1 / 0
        with pytest.raises(ZeroDivisionError):
            one.train(8)
    assert read(tmp_path / "a")["status"] == "failed"
    assert read(tmp_path / "a")["error"] == "ZeroDivisionError: division by zero"
    assert read(tmp_path / "a")["step"] == 4
    with pulled(workdir=tmp_path / "b", **words) as two:
        two.train(4)
        steps = two.steps
        two.steps = lambda state, batch: (os.kill(os.getpid(), 15), steps(state, batch))[1]
        with pytest.raises(Stopped):
            two.train(8)
    found = read(tmp_path / "b")
    assert (found["status"], found["signal"], found["step"]) == ("interrupted", "SIGTERM", 5)
    with pulled(workdir=tmp_path / "c", **words) as three:
        steps = three.steps

        def broken(state, batch):
            state, metrics = steps(state, batch)
            return state, {**metrics, "finite": metrics["finite"] & False, "loss": metrics["loss"] * np.nan}

        three.steps = broken
        with pytest.raises(training.NonFiniteError, match=r"Look at it: Trainer\.replay\(0\)"):
            three.train(8)
    assert (read(tmp_path / "c")["status"], read(tmp_path / "c")["step"]) == ("nonfinite", 0)
