"""Recipes whose parts have exact tests of their own: each is trained and judged at its small size."""

import json

import pytest

from diffjax import main as command_line
from diffjax import runs

TINY = (
    "configs/blurring.py:tiny",
    "configs/dit.py:tiny",
    "configs/editing.py:tiny",
    "configs/energy.py:tiny",
    "configs/heat.py:tiny",
)


@pytest.mark.slow
@pytest.mark.parametrize("config", TINY)
def test_a_recipe_trains_and_is_judged(config, tmp_path):
    assert command_line.main([f"--config={config}", f"--workdir={tmp_path}"]) == 0
    assert json.loads((tmp_path / "eval.json").read_text())["step"] == runs.load(config).train.steps
