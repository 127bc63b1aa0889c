"""A run twice, from a config or from objects: trained whole, and stopped at half and gone on, to the byte."""

import json
import shutil

import jax
import numpy as np
import pytest
from unjudged import without_samples

from diffjax import main as command_line
from diffjax import runs
from diffjax.checkpoint import Checkpoints


def judged(config, workdir):
    """Runs `config`, and gives eval.json of the run back."""
    assert command_line.main([f"--config={config}", f"--workdir={workdir}"]) == 0
    return json.loads((workdir / "eval.json").read_text())


def assert_trains_and_resumes(config, tmp_path, capsys, steps=40):
    """Runs `config`, takes its last checkpoint away as a kill at half would have, and runs it again.

    Returns:
        eval.json of the run.
    """
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    found = judged(config, whole)
    capsys.readouterr()
    shutil.copytree(whole, stopped)
    shutil.rmtree(stopped / "checkpoints" / str(steps))
    (stopped / "results.json").unlink()
    with pytest.MonkeyPatch.context() as patch:
        without_samples(patch)  # the first one has
        assert command_line.main([f"--config={config}", f"--workdir={stopped}"]) == 0
    assert f"resuming at step {steps // 2} of {steps}" in capsys.readouterr().out
    state = runs.open(whole).state
    with Checkpoints(stopped / "checkpoints", create=False) as checkpoints:
        assert_same_bytes(state, checkpoints.restore(state).state)
    assert found["step"] == steps
    return found


def assert_trainer_resumes(make, tmp_path, steps=40):
    """Trains `make(workdir)`, a trainer of objects, whole; another up to half, made again and trained on.

    The whole one keeps nothing, so that it has no folder.
    """
    states = []
    for workdir, stops in ((None, [steps]), (tmp_path / "stopped", [steps // 2, steps])):
        for stop in stops:
            with make(workdir) as trainer:
                trainer.train(stop)
        states.append(trainer.state)
    assert_same_bytes(*states)


def assert_same_bytes(one, two):
    """Compares two states leaf by leaf, keys included."""
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(one), jax.tree.leaves(two), strict=True):
        x, y = (jax.random.key_data(v) if jax.dtypes.issubdtype(v.dtype, jax.dtypes.prng_key) else v for v in (x, y))
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes(), jax.tree_util.keystr(path)
