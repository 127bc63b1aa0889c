"""What each method's test asks of the command line: it trains, is judged, and a resumed run has the same bytes."""

import json
import os
import shutil
from pathlib import Path

import jax
import numpy as np
from run_command import run

from diffjax import runs


def train_and_resume(config: str, tmp_path: Path, steps: int) -> tuple[runs.Run, dict]:
    """(the run, its eval.json) of a config of so many steps that keeps a checkpoint at half of them.

    A copy that has lost its newest checkpoint goes on from half way, and ends where the whole run did, to the byte.
    """
    cache = Path(os.environ.get("JAX_COMPILATION_CACHE_DIR", tmp_path / "compiled"))
    whole, halved = tmp_path / "whole", tmp_path / "halved"
    for workdir in (whole, halved):
        if workdir is halved:
            shutil.copytree(whole, halved)
            shutil.rmtree(halved / "checkpoints" / str(steps))
        status, output = run(f"--config={config}", f"--workdir={workdir}", pinned=True, cache=cache)
        assert status == 0, output
    assert f"resuming at step {steps // 2} of {steps}" in output
    first, second = (runs.open(workdir) for workdir in (whole, halved))
    assert first.step == second.step == steps
    assert_same_bytes(first.state, second.state)
    return first, json.loads((halved / "eval.json").read_text())


def assert_same_bytes(one, two) -> None:
    """Every leaf of two states, keys included."""
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(one), jax.tree.leaves(two), strict=True):
        x, y = (jax.random.key_data(v) if jax.dtypes.issubdtype(v.dtype, jax.dtypes.prng_key) else v for v in (x, y))
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes(), jax.tree_util.keystr(path)


def stop_and_go_on(trainer, workdir: Path, steps: int) -> None:
    """A trainer of objects, `trainer(workdir) -> Trainer`, made again at half: the bytes of one that was not."""
    states = {}
    for name, stops in {"whole": [steps], "halved": [steps // 2, steps]}.items():
        for stop in stops:
            with trainer(workdir / name) as made:
                made.train(stop)
                states[name] = jax.device_get(made.state)
    assert_same_bytes(states["whole"], states["halved"])
