"""How a sweep goes through its nodes, without XLA: what stands in for a run writes what one would."""

import contextlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from test_sweeps import CONFIG
from test_sweeps_run import LONG, until

from diffjax import programs, runs, sweeps
from diffjax.config import ConfigError
from diffjax.sweeps import __main__ as command
from diffjax.sweeps import claims, columns, plan, tables, work, workers
from diffjax.training import NonFiniteError


def trains_by(train):
    """Makes what stands in the place of a node's Trainer."""
    return lambda node: contextlib.nullcontext(SimpleNamespace(train=lambda: train(node)))


@pytest.fixture
def faked(monkeypatch):
    """Stands in for trainings and evaluations; `errors` says, by seed, what a training raises."""
    done, errors = [], {}

    def train(node):
        done.append(node.key)
        if isinstance(error := errors.get(node.config.seed), BaseException):
            if isinstance(error, NonFiniteError):
                content = {"status": "nonfinite", "error": str(error), "step": 1}
                (node.folder / "results.json").write_text(json.dumps(content))
            raise error
        content = {"status": "trained", "step": node.config.train.steps, "minutes": 1.0}
        (node.folder / "results.json").write_text(json.dumps(content))

    def evaluate(node, measure):
        done.append(node.key)
        loss = (np.log10(node.config.learning_rate.peak) + 2.5) ** 2
        (node.folder / "eval.json").write_text(json.dumps({"loss": loss}))

    monkeypatch.setattr(work, "_trainer", trains_by(train))
    monkeypatch.setattr(work, "_evaluate", evaluate)
    monkeypatch.setattr(plan, "check", lambda plan: len(plan.nodes))
    return done, errors


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


# Searches.


def search(root, **options):
    space = {"learning_rate.peak": (1e-4, 1e-1, "log"), "seed": [0, 1]}
    words = {
        "metric": "loss",
        "measure": lambda run: {},
        "trials": 6,
        "root": root,
        "say": lambda line: None,
        **options,
    }
    return sweeps.search(CONFIG, words.pop("space", space), **words)


def test_a_search_runs_trials_as_trainings(tmp_path, faked):
    done, errors = faked
    errors[1] = NonFiniteError("loss", 1, range(2), float("nan"))
    study = search(tmp_path)
    assert len(study.trials) == 6
    states = {trial.params["seed"]: trial.state.name for trial in study.trials}
    assert states.get(0, "COMPLETE") == "COMPLETE"
    assert states.get(1, "FAIL") == "FAIL"
    rows = {row["learning_rate.peak"]: row for row in sweeps.table(tmp_path, ["loss"])}
    for trial in study.trials:
        row = rows[trial.params["learning_rate.peak"]]
        assert row["seed"] == trial.params["seed"]
        assert trial.value == (row["loss"] if row["seed"] == 0 else None)
    assert (tmp_path / "search.db").is_file()
    count = len(done)
    assert len(search(tmp_path).trials) == 6  # they are remembered
    assert len(search(tmp_path, trials=7).trials) == 7
    assert len(done) > count


def test_a_point_that_is_proposed_twice_is_trained_once(tmp_path, faked):
    done, _ = faked
    study = search(tmp_path, space={"seed": [0]}, trials=3)
    assert [trial.value for trial in study.trials] == [study.trials[0].value] * 3
    assert len(done) == 2


def test_a_search_that_was_stopped_goes_on_with_its_trial(tmp_path, faked):
    done, errors = faked
    errors[0] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path, space={"learning_rate.peak": (1e-3, 1e-2), "seed": [0]}, trials=2)
    errors.clear()
    study = search(tmp_path, space={"learning_rate.peak": (1e-3, 1e-2), "seed": [0]}, trials=2)
    assert [trial.state.name for trial in study.trials] == ["FAIL", "COMPLETE", "COMPLETE"]
    assert study.trials[0].params == study.trials[1].params
    assert len(set(done)) == 4


@pytest.mark.parametrize(
    ("space", "words"),
    [
        (
            {"learning_rate.peak": (1.0, 0.1)},
            r"The space of learning_rate.peak is \(1.0, 0.1\), expected \(low, high\)",
        ),
        ({"learning_rate.peak": (0.0, 0.1, "log")}, "expected"),
        ({"learning_rate.paek": (0.1, 1.0)}, "nearest is 'peak'"),
        ({"seed": []}, "expected"),
        ({}, "expected"),
    ],
)
def test_a_wrong_space_is_refused(tmp_path, faked, space, words):
    with pytest.raises(ConfigError, match=words):
        search(tmp_path / "root", space=space)
    assert not (tmp_path / "root").exists()


class Metrics:
    """What stands in for the reading of a data set and a trial of its judge."""

    def __init__(self, monkeypatch, whole=True):
        paths = ["metrics.Frechet distance.value", "metrics.Frechet distance.floor", "held_out_loss", "minutes"]
        monkeypatch.setattr(columns, "known", lambda plan: (paths, whole))


@pytest.mark.parametrize("metric", ["frechett", "Frechet distence", "loss", "held_out_los"])
def test_a_metric_that_there_is_not_is_refused_before_the_first_trial(tmp_path, faked, monkeypatch, metric):
    Metrics(monkeypatch)
    with pytest.raises(ConfigError, match=f"There is no column '{metric}': .*it has Frechet distance, held_out_loss"):
        search(tmp_path / "root", metric=metric, measure=None)
    assert not (tmp_path / "root").exists()
    assert faked[0] == []


@pytest.mark.parametrize("words", [{}, {"measure": None, "metric": "bound.total"}, {"measure": None}])
def test_a_metric_that_nobody_can_know_is_looked_for_when_the_first_trial_has_ended(
    tmp_path, faked, monkeypatch, words
):
    """With a measure of one's own, a path in eval.json, or a method whose report has numbers of its own."""
    Metrics(monkeypatch, whole="metric" in words)
    done, said = faked[0], []
    with pytest.raises(ConfigError, match="There is no column"):
        search(tmp_path, say=said.append, **{"metric": "lossy", **words})
    assert len(done) == 2  # one training, one evaluation
    assert "is seen when the first trial has ended" in said[0]


@pytest.mark.slow
def test_what_can_be_known_of_a_run_is_what_its_evaluation_holds(tmp_path):
    """Of a denoising run on points; `tests/test_judging.py` has the names of a judge."""
    words = {**LONG, "train.steps": 20, "eval.samples": 16}
    made = sweeps.Sweep(CONFIG, {"seed": [0], **words}, root=tmp_path).run(say=lambda line: None)
    held = tables.results(made.plan.nodes[-1])
    paths, whole = columns.known(made.plan)
    assert whole
    assert set(paths) <= {*held, "bits_per_dimension", *(path for path in paths if path.endswith(".gaussian"))}
    assert {"metrics.exact W2.value", "held_out_loss", "minutes"} <= set(paths)
    assert columns.check(made.plan, "sliced", None, print)


def test_a_metric_that_is_no_number_ends_a_search(tmp_path, faked, monkeypatch):
    written = lambda node, measure: (node.folder / "eval.json").write_text(json.dumps({"loss": "small"}))
    monkeypatch.setattr(work, "_evaluate", written)
    with pytest.raises(ConfigError, match="The metric 'loss' is 'small' of the first trial, expected a number"):
        search(tmp_path)


def test_a_trial_without_a_metric_that_others_have_is_a_failed_one(tmp_path, faked, monkeypatch):
    """As one is whose samples are not finite, and are not judged."""
    count = []

    def evaluate(node, measure):
        count.append(node.key)
        (node.folder / "eval.json").write_text(json.dumps({"step": 1} if len(count) == 2 else {"loss": 1.0}))

    monkeypatch.setattr(work, "_evaluate", evaluate)
    space = {"learning_rate.peak": (1e-4, 1e-1, "log")}
    assert [trial.state.name for trial in search(tmp_path, space=space, trials=3).trials] == [
        "COMPLETE",
        "FAIL",
        "COMPLETE",
    ]


def test_optuna_is_asked_for_by_its_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ConfigError, match=r"pip install 'diffjax\[search\]'"):
        search(tmp_path)


def test_submitit_is_asked_for_by_its_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(ConfigError, match=r"pip install 'diffjax\[cluster\]'"):
        sweeps.Sweep(CONFIG, {"seed": [0]}, root=tmp_path).submit()


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
