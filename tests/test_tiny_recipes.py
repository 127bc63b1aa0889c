"""Recipes whose parts have exact tests of their own, at a small size: trained and judged, or resumed to the byte."""

import json

import pytest
from twice import assert_trains_and_resumes

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


RESUMED = ("autoencoder", "coupling_flow", "flow_map", "masked", "points")  # trained and judged by their own tests


@pytest.mark.slow  # test_generators resumes by the command in every run, test_trainer and test_resume in other ways
@pytest.mark.parametrize("name", RESUMED)
def test_a_recipe_is_resumed_to_the_byte(name, tmp_path, capsys):
    assert_trains_and_resumes(f"configs/{name}.py:tiny", tmp_path, capsys)
