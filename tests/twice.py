"""A small config through the command line: trained whole, and stopped at half and gone on, to the byte."""

import json
import shutil

import jax
import numpy as np
from run_command import run

from diffjax import runs


def assert_trains_and_resumes(config, tmp_path, steps=40):
    """Runs `config`, takes its last checkpoint away as a kill at half would have, and runs it again.

    Returns:
        eval.json of the run.
    """
    cache, whole, stopped = tmp_path / "compiled", tmp_path / "whole", tmp_path / "stopped"
    status, output = run(f"--config={config}", f"--workdir={whole}", pinned=True, cache=cache)
    assert status == 0, output
    shutil.copytree(whole, stopped)
    shutil.rmtree(stopped / "checkpoints" / str(steps))
    (stopped / "results.json").unlink()
    status, output = run(f"--config={config}", f"--workdir={stopped}", pinned=True, cache=cache)
    assert status == 0, output
    assert f"resuming at step {steps // 2} of {steps}" in output
    one, two = (runs.open(workdir).state for workdir in (whole, stopped))
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(one), jax.tree.leaves(two), strict=True):
        x, y = (jax.random.key_data(v) if jax.dtypes.issubdtype(v.dtype, jax.dtypes.prng_key) else v for v in (x, y))
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes(), jax.tree_util.keystr(path)
    found = [json.loads((workdir / "eval.json").read_text()) for workdir in (whole, stopped)]
    assert found[0] == found[1]
    assert found[0]["step"] == steps
    return found[0]
