"""Searches, without XLA: trials are trainings, and what is asked of a metric."""

import json
import sys

import pytest
from faked_nodes import stand_in
from test_sweeps import CONFIG
from test_sweeps_run import LONG

from diffjax import sweeps
from diffjax.config import ConfigError
from diffjax.sweeps import columns, tables, work
from diffjax.training import NonFiniteError


@pytest.fixture
def faked(monkeypatch):
    """What was done, and the errors to be raised, by seed."""
    return stand_in(monkeypatch)


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
