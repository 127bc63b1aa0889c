"""Workdirs of earlier versions, made by those versions: they open, draw what they drew, and go on."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from run_command import ROOT
from test_runs import SMALL
from unjudged import without_samples

from diffjax import main as command_line
from diffjax import runs
from diffjax.runs import workdir as files

FIRST = "d752efb"  # the last commit before there was a format

pytestmark = pytest.mark.slow  # it trains with two versions


@pytest.fixture(scope="module")
def older(tmp_path_factory):
    """A run of 20 steps that the first format's program trained, and eight samples that it drew."""
    folder = tmp_path_factory.mktemp("older")
    git = ["git", "-C", str(ROOT)]
    if subprocess.run([*git, "cat-file", "-e", f"{FIRST}^{{commit}}"], check=False, capture_output=True).returncode:
        pytest.skip(f"this checkout has no history: git fetch --unshallow brings {FIRST}")
    tree, run = folder / "tree", folder / "run"
    subprocess.run([*git, "worktree", "add", "--detach", str(tree), FIRST], check=True, capture_output=True)
    try:
        env = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(tree)}
        command = [sys.executable, "-m", "diffjax.main", f"--workdir={run}"]
        small = [word for word in SMALL if word != "data.n=200"]  # fewer than its evaluation took
        words = ["--config=configs/vpsde.py:tiny", *(f"--config.{word}" for word in small)]
        for more in (words, ["--mode=sample", "--seeds=0-7", f"--out={folder / 'drawn'}"]):
            subprocess.run([*command, *more], cwd=tree, env=env, check=True, capture_output=True)
    finally:
        subprocess.run([*git, "worktree", "remove", "--force", str(tree)], check=True, capture_output=True)
    return run, np.load(folder / "drawn" / "samples.npz")["x"]


def test_it_opens_and_draws_what_it_drew(older):
    workdir, drawn = older
    assert "format" not in json.loads((workdir / "config.json").read_text())
    run = runs.open(workdir)
    assert run.step == 20
    np.testing.assert_allclose(run.draw(8), drawn, rtol=1e-5, atol=1e-6)


def test_it_goes_on(older, monkeypatch):
    """From its checkpoint, longer, and is of this format then."""
    workdir, _ = older
    without_samples(monkeypatch)
    logged = (workdir / "metrics.jsonl").read_text().splitlines()
    words = ["--config.train.steps=30", "--config.learning_rate.extend=stretch"]
    assert command_line.main([f"--workdir={workdir}", *words]) == 0
    assert (workdir / "metrics.jsonl").read_text().splitlines()[: len(logged)] == logged
    assert json.loads((workdir / "config.json").read_text())["format"] == files.FORMAT
    assert runs.open(workdir).step == 30
    assert json.loads((workdir / "results.json").read_text())["starts"] == 1  # the first one did not count
