"""Runs side by side in one program: each as it is alone, to rounding; what ends one ends no other."""

import json
import os
import signal

import jax
import numpy as np
import pytest

from diffjax import runs, sweeps
from diffjax.config import ConfigError
from diffjax.sweeps import together
from diffjax.training import NonFiniteError

FLAGS = ("data.name=swiss_roll", "data.n=200", "model.name=MLP", "model.width=8", "model.depth=1", "train.steps=20")
FLAGS += ("train.log_every=5", "train.sample_every=20", "checkpoint.every=5", "learning_rate.warmup_steps=0")
FLAGS += ("optimizer.name=sgd", "learning_rate.schedule=constant", "eval.samples=20", "train.batch_size=16")
POINTS = [(1e-3, 0), (1e30, 1), (3e-3, 2)]  # rate, seed; the second one diverges


def trainer(rate=1e-3, seed=0, workdir=None, *more):
    flags = [*FLAGS, f"learning_rate.peak={rate}", f"seed={seed}", *more]
    return runs.Trainer(**runs.build_run(runs.load("configs/vpsde.py:tiny", flags))._asdict(), workdir=workdir)


def assert_close(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-5, atol=2e-6), a.params, b.params)


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Three runs alone and side by side: folders, states, errors."""
    folder = tmp_path_factory.mktemp("together")
    beside = [trainer(*point, folder / f"beside{i}") for i, point in enumerate(POINTS)]
    errors = together.train(beside)
    alone = [trainer(*point, folder / f"alone{i}") for i, point in enumerate(POINTS)]
    for i, one in enumerate(alone):
        if i == 1:
            with pytest.raises(NonFiniteError) as error:
                one.train()
            assert str(error.value).partition(" Look")[0] == str(errors[1]).partition(" Look")[0]
        else:
            one.train()
            beside[i].train()  # its end
    for one in (*beside, *alone):
        one.close()
    return folder, beside, alone, errors


@pytest.mark.parametrize("i", [0, 2])
def test_a_run_is_what_it_is_alone(both, i):
    folder, beside, alone, errors = both
    assert errors[i] is None
    assert beside[i].step == alone[i].step == 20
    assert_close(beside[i].state, alone[i].state)
    for ours, theirs in zip(lines(folder / f"beside{i}"), lines(folder / f"alone{i}"), strict=True):
        assert ours["step"] == theirs["step"]
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
    kept = lambda name: sorted(p.name for p in (folder / f"{name}{i}" / "checkpoints").iterdir() if p.name.isdecimal())
    assert kept("beside") == kept("alone")
    assert json.loads((folder / f"beside{i}" / "results.json").read_text())["status"] == "trained"


def test_runs_of_other_rates_and_seeds_are_other_runs(both):
    _, beside, _, _ = both
    kernels = [np.asarray(jax.tree.leaves(beside[i].state.params)[1]) for i in (0, 2)]
    assert np.abs(kernels[0] - kernels[1]).max() > 1e-3


def test_a_run_that_diverges_ends_by_itself(both):
    folder, beside, alone, errors = both
    assert isinstance(errors[1], NonFiniteError)
    found = json.loads((folder / "beside1" / "results.json").read_text())
    assert found["status"] == "nonfinite"
    assert found["step"] == json.loads((folder / "alone1" / "results.json").read_text())["step"]
    assert beside[1].step == alone[1].step


def test_one_that_is_stopped_saves_all_and_goes_on(both, tmp_path, monkeypatch):
    _, _, alone, _ = both
    stopped = [trainer(*POINTS[i], tmp_path / str(i)) for i in (0, 2)]
    arrive = runs.Trainer.arrive

    def interrupted(self, *args):
        if self is stopped[1] and self.step == 7:  # of which the other one is told at the next dispatch
            os.kill(os.getpid(), signal.SIGTERM)
        return arrive(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(runs.Trainer, "arrive", interrupted)
        with pytest.raises(runs.Stopped, match="stopped at step 9"):
            together.train(stopped)
    for one in stopped:
        assert one.checkpoints.steps()[-1] == 9
        one.close()
    again = [trainer(*POINTS[i], tmp_path / str(i)) for i in (0, 2)]
    assert together.train(again) == [None, None]
    for one, i in zip(again, (0, 2)):
        assert_close(one.state, alone[i].state)
        one.close()


def test_what_is_no_one_program_is_refused():
    with pytest.raises(ConfigError, match="run 1 is another program than run 0"):
        together.train([trainer(), trainer(1e-3, 0, None, "optimizer.momentum=0.9")])
    with pytest.raises(ConfigError, match=r"of as many steps and a dispatch alike.*\(0, 15, 1, 1\), \(0, 20, 1, 1\)"):
        together.train([trainer(), trainer(1e-3, 0, None, "train.steps=15")])


@pytest.mark.slow
def test_a_sweep_trains_side_by_side_what_differs_in_numbers(tmp_path, monkeypatch, both):
    """Widths are two programs, rates and seeds of each one; a diverging one is a row, as in any sweep."""
    _, _, alone, _ = both
    groups, train = [], together.train
    monkeypatch.setattr(
        together, "train", lambda trainers, *rest: groups.append(len(trainers)) or train(trainers, *rest)
    )
    flags = dict(text.split("=") for text in FLAGS)
    grid = {
        **{name: [value] for name, value in flags.items()},
        "model.width": [8, 4],
        "learning_rate.peak": [1e-3, 1e30],
        "seed": [0, 5],
    }
    norm = lambda params: float(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(params)))
    sweep = sweeps.Sweep(
        "configs/vpsde.py:tiny", grid, root=tmp_path / "root", measure=lambda run: {"norm": norm(run.params)}
    )
    said = []
    sweep.run(together=8, say=said.append)
    assert groups == [4, 4]
    assert sum("4 side by side" in line for line in said) == 4
    table = sweep.table(["norm", "status"])
    assert [row["status"] for row in table].count("nonfinite") == 4
    (first,) = [r for r in table if (r["model.width"], r["learning_rate.peak"], r["seed"]) == (8, 1e-3, 0)]
    assert first["norm"] == pytest.approx(norm(next(iter(alone[0].state.ema.averages.values()))), rel=1e-4)
    groups.clear()
    sweep.run(together=8, say=said.append)
    assert groups == []
