"""Sweeps that run: four small trainings, two that diverge and one that is killed; workers, searches, a cluster."""

import json
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import run_command
from test_sweeps import CONFIG

from diffjax import runs, sweeps
from diffjax.config import ConfigError
from diffjax.sweeps import claims, work

LONG = {  # a training of sixty steps, which compiles soon
    "data.name": "swiss_roll",
    "model.name": "MLP",
    "model.width": 8,
    "model.depth": 1,
    "train.steps": 60,
    "train.log_every": 20,
    "train.sample_every": 60,
    "checkpoint.every": 5,
    "optimizer.name": "sgd",
    "learning_rate.schedule": "constant",
    "learning_rate.warmup_steps": 0,
}
FILE = """
TRAIN = {train!r}
EVALUATE = {evaluate!r}
def measure(run):
    import jax, numpy as np
    return {{"norm": float(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(run.params))),
            "n": run.config.grid.n}}
"""


def command(folder, root, *args, train, evaluate=None, cache=None):
    """The command of a sweep file that is written for it, running."""
    file = folder / "grid.py"
    plain = {key: list(value) if isinstance(value, range) else value for key, value in train.items()}
    file.write_text(FILE.format(train=plain, evaluate=evaluate or [{}]))
    words = [f"--config={CONFIG}", f"--sweep={file}", f"--root={root}", *args]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "cwd": run_command.ROOT}
    env = run_command.environment(cache=cache)
    return subprocess.Popen([sys.executable, "-m", "diffjax.sweeps", *words], env=env, **pipes), f"{file}:measure"


def until(ready, process=None, seconds=300):
    """Waits for what is to come."""
    deadline = time.monotonic() + seconds
    while not (found := ready()):
        assert time.monotonic() < deadline
        assert process is None or process.poll() is None, process.communicate()[0]
        time.sleep(0.01)
    return found


GRID = {**LONG, "learning_rate.peak": [1e-3, 1e30], "seed": range(2)}


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """Four trainings, two of which diverge; the first was killed by the system, and another start went on with all."""
    folder = tmp_path_factory.mktemp("sweep")
    root, said = folder / "root", []
    process, measure = command(
        folder, root, train=GRID, evaluate={"grid.n": [5, 7]}, cache=tmp_path_factory.mktemp("cache")
    )
    until(lambda: [p for p in root.glob("train/*/checkpoints/*") if p.name.isdecimal()], process)
    process.kill()
    process.communicate()
    made = sweeps.Sweep(CONFIG, GRID, evaluate={"grid.n": [5, 7]}, root=root, measure=measure)
    before = {node.key: work.status(node) for node in made.plan.nodes}
    made.run(say=said.append)
    return made, said, before


def test_a_killed_training_goes_on(ran):
    made, _, before = ran
    first = made.plan.nodes[0]
    assert before[first.key] == ("running", "")
    results = json.loads((first.folder / "results.json").read_text())
    assert (results["status"], results["step"], results["starts"]) == ("trained", 60, 2)
    log = (first.folder / "log.txt").read_text()
    assert "training 60 steps" in log
    assert "resuming at step" in log
    assert claims.alive(made.root / "claims" / first.key) == {}


def test_a_sweep_says_a_line_for_each_node_and_how_far_it_is(ran):
    _, said, _ = ran
    assert said[1].endswith("4 trainings (0 done), 8 evaluations (0 done)")
    assert said[-1].endswith("4 trainings (2 done, 2 nonfinite), 8 evaluations (4 done, 4 nonfinite)")
    ends = [line for line in said if line.startswith("[")]
    assert len(ends) == 8  # four trainings, and the evaluations of two
    # Each ends itself, but a training that diverges its two evaluations, too.
    assert [line.partition("]")[0] for line in ends] == [f"[{i}/12 ended" for i in (1, 2, 3, 4, 5, 6, 9, 12)]
    assert sum("diverged: " in line for line in ends) == 2
    assert "learning_rate.peak=0.001, seed=1, grid.n=7: evaluated in" in ends[5]
    assert "none left" in ends[-1]


def test_what_was_measured_is_of_the_run_in_its_folder(ran):
    made, _, _ = ran
    table = made.table(["norm", "n"])
    for node, row in zip([node for node in made.plan.nodes if node.trained], table):
        assert row["n"] == (row["grid.n"] if row["status"] == "done" else None) or row["status"] == "nonfinite"
        if row["status"] == "done":
            run = runs.open(node.workdir)
            square = sum(np.square(np.asarray(leaf, np.float64)).sum() for leaf in jax.tree.leaves(run.params))
            assert row["norm"] == pytest.approx(square, rel=1e-5)
            assert (run.step, run.config.seed) == (60, row["seed"])
        else:
            assert "is inf at step 0" in row["error"]
    assert [row["status"] for row in table] == ["done"] * 4 + ["nonfinite"] * 4
    one, two = made.table("norm", over=["seed", "grid.n"])
    assert (one["n"], one["of"], two["n"], two["of"]) == (4, 4, 0, 4)
    assert one["norm"] == pytest.approx(np.mean([row["norm"] for row in table.rows[:4]]))
    assert two["norm"] is None


def test_what_is_done_is_not_done_again(ran, monkeypatch):
    made, _, _ = ran
    monkeypatch.setattr(work, "perform", lambda *args: pytest.fail("nothing is left"))
    made.run(say=lambda line: None)
    more = sweeps.Sweep(CONFIG, GRID, evaluate={"grid.n": [5, 7, 9]}, root=made.root, measure=made.measure)
    ended = []
    monkeypatch.setattr(work, "perform", lambda node, measure: ended.append(node) or work.record(node, "failed", "no"))
    more.run(say=lambda line: None)
    assert [node.config.grid.n for node in ended] == [9, 9]  # samplers and grids never train again
    assert all(node.trained for node in ended)
    for node in ended:
        (node.folder / work.FAILED).unlink()


def test_a_training_is_an_ordinary_workdir(ran):
    made, _, _ = ran
    run = runs.open(made.plan.nodes[0].folder, overrides=["grid.n=3"])
    assert run.draw(5).shape == (5, 2)


def test_a_trained_run_is_swept_over_as_it_is(ran, tmp_path):
    made, _, _ = ran
    workdir = made.plan.nodes[0].folder
    before = (workdir / "results.json").read_bytes()
    other = sweeps.Sweep(workdir, {}, evaluate={"eval.samples": [300]}, root=tmp_path, measure=made.measure)
    other.run(say=lambda line: None)
    assert [row["norm"] for row in other.table("norm")] == [made.table("norm").rows[0]["norm"]]
    assert [row["norm"] for row in sweeps.table(tmp_path, "norm")] == [made.table("norm").rows[0]["norm"]]
    assert (workdir / "results.json").read_bytes() == before
    with pytest.raises(ConfigError, match="is a run that is trained: it has no grid of trainings, got 'seed'"):
        sweeps.Sweep(workdir, {"seed": [0]}, root=tmp_path / "other")


def test_a_point_gives_measure_its_arguments(ran, tmp_path):
    made, _, _ = ran
    heard = []

    def measure(run, k, by="x"):
        heard.append((run.config.grid.n, k, by))
        return {"product": k * run.config.grid.n}

    points = sweeps.chain({"measure.k": [2, 0.5], "grid.n": [5, 7]}, {"measure.k": [3], "measure.by": "y", "grid.n": 5})
    other = sweeps.Sweep(made.plan.nodes[0].folder, {}, evaluate=points, root=tmp_path, measure=measure)
    other.run(say=lambda line: None)
    assert heard == [(5, 2, "x"), (7, 2, "x"), (5, 0.5, "x"), (7, 0.5, "x"), (5, 3, "y")]
    rows = [(row["measure.k"], row["grid.n"], row["measure.by"], row["product"]) for row in other.table("product")]
    assert rows == [(2, 5, None, 10), (2, 7, None, 14), (0.5, 5, None, 2.5), (0.5, 7, None, 3.5), (3, 5, "y", 15)]
    again = [
        tuple(row[name] for name in ("measure.k", "grid.n", "measure.by", "product"))
        for row in sweeps.table(tmp_path, "product")
    ]
    assert sorted(again, key=str) == sorted(rows, key=str)  # of the folder alone


def test_an_evaluation_is_the_report_of_its_run(ran, tmp_path):
    made, _, _ = ran
    one = sweeps.Sweep(made.plan.nodes[0].folder, {}, evaluate={"eval.samples": [300]}, root=tmp_path).run(
        say=lambda line: None
    )
    (node,) = [node for node in one.plan.nodes if node.trained]
    found = json.loads((node.folder / "eval.json").read_text())
    assert (found["samples"], found["step"]) == (300, 60)
    assert (node.folder / "report.md").is_file()
    name = "exact W2"  # the distance that a report of points opens with, though not its first metric
    assert one.table().rows[0][name] == found["metrics"][name]["value"]


# The command.


def test_the_command_says_what_is_wrong_in_one_line(tmp_path, capsys):
    from diffjax.sweeps.__main__ import main

    file = tmp_path / "grid.py"
    for text, words in (
        ("TRAIN = {'learning_rate.paek': [1]}", "nearest is 'peak'"),
        ("EVALUATE = {}", "has no grid"),
        ("TRAIN = []", "grid is empty"),
    ):
        file.write_text(text)
        assert main([f"--config={CONFIG}", f"--sweep={file}", f"--root={tmp_path / 'root'}"]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert words in error
        assert error.count("\n") == 1
    with pytest.raises(SystemExit) as end:
        main([f"--config={CONFIG}", f"--sweep={file}", "--cluster.partition=main"])
    assert end.value.code == 2


def test_an_evaluation_is_of_the_end_of_its_training(tmp_path):
    """Not of an earlier checkpoint: one that could not be read, or a stop that looked like damage."""
    made = sweeps.Sweep(CONFIG, {**LONG, "seed": [0]}, root=tmp_path, measure=lambda run: {"step": run.step})
    made.run(say=lambda line: None)
    (training,) = [node for node in made.plan.nodes if not node.trained]
    (evaluation,) = [node for node in made.plan.nodes if node.trained]
    (evaluation.folder / "eval.json").unlink()
    newest = max((training.folder / "checkpoints").glob("[0-9]*"), key=lambda path: int(path.name))
    for file in newest.rglob("*"):
        if file.is_file() and file.name != "metadata":
            file.write_bytes(b"")
    said = []
    made.run(say=said.append)
    assert not (evaluation.folder / "eval.json").exists()
    assert work.status(evaluation)[0] == "failed"
    assert "has trained to step 60, but its newest sound checkpoint is" in work.status(evaluation)[1]
