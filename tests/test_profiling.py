"""Traces: a file in the format that browsers open, of the steps or the command that was asked for."""

import gzip
import json

import jax
import jax.numpy as jnp
import pytest

from diffjax import profiling
from diffjax.main import main


def events(path):
    """Names of what a trace holds, after a look at its format."""
    trace = json.loads(gzip.decompress(path.read_bytes()))
    assert {"ph", "pid"} <= set(trace["traceEvents"][0])
    return {event.get("name", "") for event in trace["traceEvents"]}


class Trains:
    """A trainer whose steps are calls of a compiled function."""

    def __init__(self):
        self.made = []
        self.steps = self.step

    def step(self, state, batch):
        self.made.append(batch)
        with jax.profiler.TraceAnnotation(f"call {len(self.made)}"):
            return jnp.sin(state), {}

    def train(self, calls):
        for i in range(calls):
            self.steps(jnp.ones(3), i)


def test_steps_are_traced_after_those_that_compile(tmp_path, capsys):
    trainer, path = Trains(), tmp_path / "profile" / "train.json.gz"
    with profiling.steps(trainer, path, first=2, count=3):
        trainer.train(9)
    assert trainer.made == list(range(9))
    assert {name for name in events(path) if name.startswith("call")} == {"call 3", "call 4", "call 5"}
    assert trainer.steps == trainer.step
    assert f"profile: {path}; open it at https://ui.perfetto.dev" in capsys.readouterr().out


def test_a_run_that_ends_early_has_the_trace_of_its_steps(tmp_path, capsys):
    trainer, path = Trains(), tmp_path / "train.json.gz"
    with profiling.steps(trainer, path, first=2, count=30):
        trainer.train(4)
    assert {name for name in events(path) if name.startswith("call")} == {"call 3", "call 4"}
    with profiling.steps(trainer, tmp_path / "none.json.gz", first=5):
        trainer.train(5)
    assert "no profile: it is of dispatches after the first 5, and 5 were made" in capsys.readouterr().out
    assert not (tmp_path / "none.json.gz").exists()


def test_what_fails_keeps_no_trace_and_leaves_no_profiler_behind(tmp_path):
    with pytest.raises(KeyError), profiling.traced(tmp_path / "a.json.gz"):
        raise KeyError("x")
    assert not (tmp_path / "a.json.gz").exists()
    with profiling.traced(tmp_path / "b.json.gz"):
        jnp.sin(jnp.ones(3))
    assert events(tmp_path / "b.json.gz")


@pytest.mark.slow
def test_commands_write_their_traces_into_the_workdir(tmp_path, capsys):
    flags = ("data.name=moons", "data.n=200", "model.name=MLP", "model.width=8", "model.depth=1", "eval.samples=20")
    flags += ("learning_rate.warmup_steps=0", "train.steps=8", "train.log_every=4", "train.sample_every=8")
    made = [f"--config.{text}" for text in flags]
    workdir = tmp_path / "run"
    assert main(["--config=configs/vpsde.py:tiny", *made, f"--workdir={workdir}", "--profile"]) == 0
    assert main(["--mode=sample", f"--workdir={workdir}", "--seeds=0-1", "--profile"]) == 0
    for mode in ("train", "sample"):
        assert events(workdir / "profile" / f"{mode}.json.gz")
        assert (workdir / "profile" / f"{mode}.xplane.pb").stat().st_size
    capsys.readouterr()
    assert main(["--mode=show", "--config=configs/vpsde.py:tiny", "--profile"]) == 2
    assert "--mode=show runs nothing that --profile could trace" in capsys.readouterr().err
    assert main(["--mode=sample", f"--workdir={tmp_path / 'no'}", "--profile"]) == 2
    assert not (tmp_path / "no").exists()
