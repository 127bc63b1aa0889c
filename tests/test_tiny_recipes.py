"""Recipes whose parts have exact tests of their own: each is trained and judged at its small size."""

import json

import pytest

from diffjax import main as command_line
from diffjax import runs

NAMES = ("blurring", "cifar10", "editing", "energy", "heat", "mnist", "photos")
TINY = tuple(f"configs/{name}.py:tiny" for name in NAMES)


@pytest.mark.slow
@pytest.mark.parametrize("config", TINY)
def test_a_recipe_trains_and_is_judged(config, tmp_path):
    assert command_line.main([f"--config={config}", f"--workdir={tmp_path}"]) == 0
    assert json.loads((tmp_path / "eval.json").read_text())["step"] == runs.load(config).train.steps
