"""Recipes whose parts have exact tests of their own: each is trained at its small size, stopped at half and resumed."""

import pytest
from twice import assert_trains_and_resumes

from diffjax import runs

TINY = ("configs/blurring.py:tiny", "configs/editing.py:tiny", "configs/heat.py:tiny")


@pytest.mark.slow
@pytest.mark.parametrize("config", TINY)
def test_a_recipe_trains_and_resumes(config, tmp_path, capsys):
    assert_trains_and_resumes(config, tmp_path, capsys, runs.load(config).train.steps)
