"""How a sweep goes through its nodes, without XLA: what stands in for a run writes what one would."""

import contextlib
import json
import os
import signal
import time
from pathlib import Path

import pytest
from faked_nodes import stand_in, trains_by
from test_sweeps import CONFIG
from test_sweeps_run import until

from diffjax import programs, runs, sweeps
from diffjax.sweeps import __main__ as command
from diffjax.sweeps import claims, work, workers
from diffjax.training import NonFiniteError


@pytest.fixture
def faked(monkeypatch):
    """What was done, and the errors to be raised, by seed."""
    return stand_in(monkeypatch)


def test_an_error_is_a_row_and_the_others_go_on(tmp_path, faked):
    done, errors = faked
    errors[1] = RuntimeError("one\nand two")
    made, said = sweeps.Sweep(CONFIG, {"seed": range(3)}, root=tmp_path), []
    made.run(say=said.append)
    assert [row["status"] for row in made.table()] == ["done", "failed", "done"]
    assert made.table().rows[1]["error"] == "its training: RuntimeError: one"
    assert sum("failed: RuntimeError: one" in line for line in said) == 1
    assert "RuntimeError: one\nand two" in (made.plan.nodes[2].folder / "log.txt").read_text()  # the trace
    assert len(done) == 5  # it was tried once
    errors.clear()
    made.run(say=said.append)  # another start tries what failed again
    assert [row["status"] for row in made.table()] == ["done"] * 3
    assert len(done) == 7


@pytest.mark.parametrize(
    ("error", "name"),
    [(KeyboardInterrupt(), "SIGINT"), (runs.Stopped(signal.SIGTERM, 3, Path("there")), "SIGTERM")],
)
def test_a_stop_ends_the_sweep_and_not_one_run(tmp_path, faked, error, name):
    """As a KeyboardInterrupt, whatever ended: a script that catches Ctrl-C hears of a training's too."""
    _, errors = faked
    errors[1] = error
    made = sweeps.Sweep(CONFIG, {"seed": range(3)}, root=tmp_path)
    with pytest.raises(
        KeyboardInterrupt, match=rf"^stopped by {name}; the same sweep goes on where it was$"
    ) as stopped:
        made.run(say=lambda line: None)
    assert stopped.value.__suppress_context__  # the caller's trace is of its own call, not of what was stopped
    assert len(stopped.traceback) <= 6
    assert [row["status"] for row in made.table()] == ["done", "not begun", "not begun"]
    assert not list(tmp_path.glob("claims/*/alive.json"))
    errors.clear()
    made.run(say=lambda line: None)
    assert [row["status"] for row in made.table()] == ["done"] * 3


def test_sigterm_ends_what_is_no_training_at_once(tmp_path, faked, monkeypatch):
    def slow(node, measure):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)

    monkeypatch.setattr(work, "_evaluate", slow)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt, match="SIGTERM"):
        sweeps.Sweep(CONFIG, {"seed": [0]}, root=tmp_path).run(say=lambda line: None)
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_stop_that_is_lost_in_a_callback_ends_the_sweep_all_the_same(tmp_path, faked, monkeypatch):
    done, _ = faked

    def deaf(node):
        with contextlib.suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(60)
        done.append(node.key)

    monkeypatch.setattr(work, "_trainer", trains_by(deaf))
    with pytest.raises(KeyboardInterrupt, match="SIGINT"):
        sweeps.Sweep(CONFIG, {"seed": range(3)}, root=tmp_path).run(say=lambda line: None)
    assert len(done) == 1


def test_a_node_whose_worker_died_is_tried_once_more(tmp_path, faked):
    done, _ = faked
    made = sweeps.Sweep(CONFIG, {"seed": [0, 1]}, root=tmp_path)
    first, _, second, _ = made.plan.nodes
    for times in (1, 2):
        work.record(second, "died", "worker died (signal 9)")
        assert work.found(second.folder / work.FAILED)["tries"] == times
    work.record(first, "died", "worker died (signal 9)")
    assert [row["error"] for row in made.table()] == ["its training: worker died (signal 9)"] * 2
    assert not any(work.is_due(node, made.plan, since=0.0) for node in made.plan.nodes)  # not in the start it died in
    made.run(say=lambda line: None)
    assert [row["status"] for row in made.table()] == ["done", "died"]
    assert first.key in done
    assert second.key not in done


def test_a_claimed_node_is_left_alone(tmp_path, faked):
    done, _ = faked
    made = sweeps.Sweep(CONFIG, {"seed": range(2)}, root=tmp_path)
    theirs = {"host": "elsewhere", "pid": 1, "log": "", "token": "theirs", "time": time.time()}
    folder = tmp_path / "claims" / made.plan.nodes[0].key
    folder.mkdir(parents=True)
    (folder / claims.FILE).write_text(json.dumps(theirs))
    made.run(say=lambda line: None)
    assert [row["status"] for row in made.table()] == ["not begun", "done"]
    assert work.missing(made.plan, tmp_path) == []
    (folder / claims.FILE).unlink()
    assert work.missing(made.plan, tmp_path) == list(made.plan.nodes[:2])
    assert made.plan.nodes[0].key not in done


def test_two_shards_do_all_of_it_once(tmp_path, faked):
    done, _ = faked
    for shard in ("0/2", "1/2", "0/1"):
        sweeps.Sweep(CONFIG, {"seed": range(3)}, root=tmp_path).run(shard=shard, say=lambda line: None)
    assert len(done) == len(set(done)) == 6


def test_what_runs_is_watched(tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "LOOK", 0.02)
    said = []
    (log := tmp_path / "train" / "abc" / "log.txt").parent.mkdir(parents=True)
    with claims.claim(tmp_path / "claims" / "abc", log), workers.watched(tmp_path, said.append):
        log.write_text("first\nstep 2/4\n\n")
        until(lambda: "  abc: step 2/4" in said)


@pytest.mark.parametrize("place", ["train/abc", "train/abc/eval/def"])
def test_what_an_earlier_start_wrote_is_not_said_again(tmp_path, monkeypatch, place):
    """A node that goes on has a log already; a line of it is news only when this start wrote it."""
    monkeypatch.setattr(workers, "LOOK", 0.02)
    monkeypatch.chdir(tmp_path)
    said, log = [], Path("root", place, "log.txt")
    log.parent.mkdir(parents=True)
    log.write_text("stopped at step 9\n")
    with claims.claim(Path("root/claims/abc"), log.absolute()), workers.watched(Path("root"), said.append):
        until(lambda: said)  # a worker has the absolute path
        with log.open("a") as file:
            file.write("resuming at step 9\n")
        until(lambda: "  abc: resuming at step 9" in said)
    assert said[0] == "  abc: at work"
    assert not any("stopped" in line for line in said)


# What the command says at its end.


@pytest.fixture
def run(tmp_path, monkeypatch, faked, capsys):
    """Runs the command on a grid of three seeds; gives (exit status, lines of stdout, lines of stderr)."""
    file, root = tmp_path / "grid.py", tmp_path / "root"
    file.write_text("TRAIN = {'seed': range(3), 'learning_rate.peak': [1e-3, 1e-2]}")
    monkeypatch.setattr(programs, "keep", list)

    def run(*words):
        status = command.main([f"--config={CONFIG}", f"--sweep={file}", f"--root={root}", *words])
        said = capsys.readouterr()
        return status, said.out.splitlines(), said.err.splitlines()

    return run


def test_the_last_line_names_the_rows_that_have_no_result(run, faked):
    """A training that diverges on purpose ends the command with status 1, and not without a word."""
    _, errors = faked
    errors.update({1: NonFiniteError("loss", 1, range(2), float("nan")), 2: RuntimeError("no")})
    status, _, err = run()
    assert status == 1
    assert err[-1] == (
        "exit status 1: 4 of 6 rows have no result: seed=1, learning_rate.peak=0.001 (nonfinite); "
        "seed=1, learning_rate.peak=0.01 (nonfinite); seed=2, learning_rate.peak=0.001 (failed); "
        "seed=2, learning_rate.peak=0.01 (failed)"
    )


def test_the_last_line_of_many_rows_is_short(run, faked, monkeypatch):
    monkeypatch.setattr(command, "NAMED", 1)
    faked[1][1] = RuntimeError("no")
    assert run()[2][-1].endswith("rows have no result: seed=1, learning_rate.peak=0.001 (failed); and 1 more")


def test_a_command_whose_rows_are_all_there_says_nothing_more(run):
    status, _, err = run()
    assert status == 0
    assert not any("exit status" in line for line in err)


def test_the_columns_of_the_table_may_be_chosen(run, tmp_path):
    status, out, _ = run("--table=loss, minutes,loss")
    assert status == 0
    assert "| learning_rate.peak | loss | minutes | n | of |" in out
    assert "loss" in (tmp_path / "root" / "table.csv").read_text().splitlines()[0].split(",")
    assert (tmp_path / "root" / "table.md").read_text() in "\n".join(out)


def test_a_column_that_there_is_not_is_said_as_soon_as_it_can_be(run, faked, tmp_path):
    """After the run where there was nothing to know it by, with the default's table; else before anything runs."""
    done, _ = faked
    status, out, err = run("--table=los")
    assert (status, err[-1][:35]) == (2, "error: There is no column 'los': ne")
    assert "| learning_rate.peak | loss | minutes | n | of |" in out  # what is measured, where no metric is
    before = len(done)
    (tmp_path / "root" / "table.md").unlink()
    next((tmp_path / "root" / "train").glob("*/eval/*/eval.json")).unlink()  # something is left to do
    status, _, err = run("--table=los")
    assert (status, err[-1]) == (2, "error: There is no column 'los': nearest is 'loss'; it has loss, minutes, step.")
    assert len(done) == before
    assert not (tmp_path / "root" / "table.md").exists()


@pytest.mark.parametrize("words", [["--table="], ["--table=loss,,minutes"], ["--table=loss", "--cluster=local"]])
def test_a_table_that_cannot_be_is_refused(run, faked, words):
    status, _, (line,) = run(*words)
    assert status == 2
    assert line.startswith("error: --table ")
    assert faked[0] == []


def test_the_help_says_what_the_exit_status_means(capsys):
    with pytest.raises(SystemExit):
        command.main(["--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "1 some rows have none, be it that a training was meant to diverge" in said
    assert "--table COLUMNS" in said
