"""Sweeps in processes of their own: workers that are killed, stopped, left alone; a cluster."""

import json
import os
import signal
import threading

import pytest
import run_command
from test_sweeps import CONFIG
from test_sweeps_run import FILE, LONG, command, until

from diffjax import sweeps
from diffjax.config import ConfigError
from diffjax.sweeps import work


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
