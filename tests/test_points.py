"""configs/points.py: that it trains and goes on, on any toy, and that its floor and baseline are what it says."""

import re
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from twice import judged

from diffjax import data, runs

CONFIG = "configs/points.py"
TINY = "configs/points.py:tiny"
TEXT = (Path(__file__).parents[1] / CONFIG).read_text()


def w2(x, y):
    """Of two samples of equal size, by the best assignment."""
    cost = cdist(x, y, "sqeuclidean")
    return np.sqrt(cost[linear_sum_assignment(cost)].mean())


def test_the_floor_and_the_baseline_are_those_of_the_data():
    """1024 training points, and as many of the Gaussian with the data's exact moments: mean 0, variance 1 + 0.1^2."""
    points = data.eight_gaussians()
    held_out, train = (np.float64(points.some(part, 1024).x) for part in ("held_out", "train"))
    told = re.search(
        r"exact W2 of \S+ from [^.]+ where real ones have\s+(\S+), the floor,\s+and a Gaussian fit (\S+):", TEXT
    )
    floor, baseline = map(float, told.groups())
    assert w2(train, held_out) == pytest.approx(floor, abs=0.005)
    fit = np.sqrt(1.01) * np.random.default_rng(1).normal(size=(1024, 2))
    assert w2(fit, held_out) == pytest.approx(baseline, abs=0.06)  # draws differ by some 0.02


@pytest.mark.parametrize("name", ["checkerboard", "spirals", "moons", "swiss_roll"])
def test_other_toys_are_trained_on_by_their_name(name):
    assert name in TEXT
    built = runs.build_run(runs.load(TINY, [f"data.name={name}", "data.n=100"]))
    assert (built.data.name, built.data.shape) == (name, (2,))


@pytest.mark.slow
def test_it_trains(tmp_path):
    found = judged(TINY, tmp_path)
    assert found["samples"] == 256
    assert {"1-NN accuracy, real", "exact W2"} <= found["metrics"].keys()
