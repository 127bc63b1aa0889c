"""Sweeps that run: four small trainings, two that diverge and one that is killed; workers, searches, a cluster."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import run_command
from test_sweeps import CONFIG

from diffjax import runs, sweeps
from diffjax.config import ConfigError
from diffjax.sweeps import claims, plan, work, workers
from diffjax.training import NonFiniteError

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
    assert [line.partition("]")[0] for line in ends] == [f"[{i}/12" for i in (1, 2, 3, 4, 5, 6, 7, 10)]
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
    name = next(iter(found["metrics"]))
    assert one.table().rows[0][name] == found["metrics"][name]["value"]


# Without XLA: a training or evaluation is a function that writes what one would.


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


@pytest.mark.parametrize("error", [KeyboardInterrupt(), runs.Stopped(signal.SIGTERM, 3, Path("there"))])
def test_a_stop_ends_the_sweep_and_not_one_run(tmp_path, faked, error):
    _, errors = faked
    errors[1] = error
    made = sweeps.Sweep(CONFIG, {"seed": range(3)}, root=tmp_path)
    with pytest.raises(type(error)):
        made.run(say=lambda line: None)
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
    (tmp_path / "log.txt").write_text("first\nstep 2/4\n\n")
    with claims.claim(tmp_path / "claims" / "abc", tmp_path / "log.txt"), workers.watched(tmp_path, said.append):
        until(lambda: said)
    assert said[0] == "  abc: step 2/4"


# Searches.


def search(root, **options):
    space = {"learning_rate.peak": (1e-4, 1e-1, "log"), "seed": [0, 1]}
    words = {"metric": "loss", "trials": 6, "root": root, "say": lambda line: None, **options}
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


def test_optuna_is_asked_for_by_its_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ConfigError, match=r"pip install 'diffjax\[search\]'"):
        search(tmp_path)


def test_submitit_is_asked_for_by_its_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(ConfigError, match=r"pip install 'diffjax\[cluster\]'"):
        sweeps.Sweep(CONFIG, {"seed": [0]}, root=tmp_path).submit()


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


# Processes of their own.


def children(root):
    """The processes that hold a node, by node."""
    return {path.parent.name: json.loads(path.read_text())["pid"] for path in root.glob("claims/*/alive.json")}


@pytest.mark.slow
def test_a_worker_that_is_killed_leaves_a_row_and_the_sweep_goes_on(tmp_path):
    root, grid = tmp_path / "root", {**LONG, "seed": range(4)}
    process, _ = command(tmp_path, root, "--workers=2", train=grid)
    saved = until(lambda: [p for p in root.glob("train/*/checkpoints/*") if p.name.isdecimal()], process)
    key = saved[0].parents[1].name
    os.kill(children(root)[key], signal.SIGKILL)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 1, output
    assert f"{key}: worker died (signal 9)" in output
    made = sweeps.Sweep(CONFIG, grid, root=root)
    states = {node.key: work.status(node) for node in made.plan.nodes if not node.trained}
    assert states.pop(key) == ("died", "worker died (signal 9)")
    assert set(states.values()) == {("trained", "")}
    process, _ = command(tmp_path, root, "--workers=2", train=grid)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    assert json.loads((root / "train" / key / "results.json").read_text())["starts"] == 2


@pytest.mark.slow
def test_ctrl_c_ends_all_workers_and_saves(tmp_path):
    root, grid = tmp_path / "root", {**LONG, "train.steps": 6000, "train.sample_every": 6000, "seed": range(4)}
    process, _ = command(tmp_path, root, "--workers=2", train=grid)
    until(lambda: len({p.parents[1] for p in root.glob("train/*/checkpoints/*") if p.name.isdecimal()}) == 2, process)
    pids = set(children(root).values())
    assert len(pids) == 2
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output
    assert "stopped by SIGINT" in output
    assert not children(root)
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    found = [json.loads(path.read_text())["status"] for path in root.glob("train/*/results.json")]
    assert found == ["interrupted"] * 2


@pytest.mark.slow
def test_workers_end_when_their_parent_is_gone(tmp_path):
    root, grid = tmp_path / "root", {**LONG, "train.steps": 6000, "train.sample_every": 6000, "seed": range(2)}
    process, _ = command(tmp_path, root, "--workers=2", train=grid)
    until(lambda: len(children(root)) == 2, process)
    process.kill()
    until(lambda: not children(root))
    process.communicate()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")  # submitit's
def test_a_cluster_runs_the_shards(tmp_path, monkeypatch):
    for name, value in run_command.environment().items():
        monkeypatch.setenv(name, value)
    file = tmp_path / "grid.py"
    file.write_text(FILE.format(train={}, evaluate={}))
    made = sweeps.Sweep(CONFIG, {**LONG, "seed": range(2)}, root=tmp_path / "root", measure=f"{file}:measure")
    jobs = made.submit(cluster="local", shards=2, timeout_min=10)
    assert [job.result().endswith("1 training (1 done), 1 evaluation (1 done)") for job in jobs] == [True, True]
    assert [row["status"] for row in made.table()] == ["done"] * 2
    with pytest.raises(ConfigError, match="'partition' is Slurm's, but the cluster is local"):
        made.submit(cluster="local", partition="main")


@pytest.mark.slow
def test_a_job_whose_time_is_up_saves_and_goes_on(tmp_path, monkeypatch):
    """What submitit calls at the signal of a cluster: processes have saved when it is back, and the job is to go on."""
    for name, value in run_command.environment().items():
        monkeypatch.setenv(name, value)
    from diffjax.sweeps import cluster

    made = sweeps.Sweep(CONFIG, {**LONG, "train.steps": 6000, "train.sample_every": 6000}, root=tmp_path / "root")
    job = cluster.Shard(made.order())

    def signalled():
        until(lambda: list(made.root.glob("train/*/checkpoints/*")))
        for pid in (*children(made.root).values(), os.getpid()):  # a cluster tells all processes of a job
            os.kill(pid, signal.SIGUSR2)

    again = []
    before = signal.signal(signal.SIGUSR2, lambda *_: again.append(job.checkpoint()))
    try:
        threading.Thread(target=signalled).start()
        job()
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert again[0].function is job
    assert work.status(made.plan.nodes[0]) == ("interrupted", "")


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
