"""The Python that README and CONTRIBUTING show is run as it stands, and held against the truth of its own data."""

import re
from pathlib import Path

import jax
import numpy as np
import optax
import pytest

from diffjax import data, runs

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True, scope="module")
def as_users_run_it():
    """optax's own Adam multiplies integer counts by floats, which the tests' strict promotion refuses."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def block(document):
    """The one Python block of a document."""
    (found,) = re.findall(r"```python\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)
    return found


def ran(document):
    """The names that a document's block leaves behind."""
    names = {"__name__": "block"}
    exec(compile(block(document), document, "exec"), names)
    return names


@pytest.fixture(scope="module")
def readme():
    """What the README's block leaves behind: it trains a network."""
    return ran("README.md")


def test_the_readmes_block_is_short():
    assert len(block("README.md").splitlines()) <= 25


# Eight Gaussians, k at the angle k pi/4 of the unit circle, 0.77 from their neighbours, of standard deviation 0.1. The
# mean of n samples is off by 0.1 / sqrt(n) an axis: four of these, and 0.03 for what 1500 steps leave.
STD, LEFT = 0.1, 0.03


def test_the_readmes_samples_are_of_the_class_asked_for(readme):
    samples = readme["samples"]
    assert samples.shape == (16, 2)
    assert np.abs(samples.mean(0) - [-(0.5**0.5), 0.5**0.5]).max() < 4 * STD / 16**0.5 + LEFT
    assert np.linalg.norm(samples - samples.mean(0), axis=1).max() < 5 * STD


def test_the_readmes_run_has_learned_every_class(readme):
    n = 256
    labels = np.repeat(np.arange(8), n)
    samples = readme["run"].draw(len(labels), label=labels).reshape(8, n, 2)
    angles = np.deg2rad([0, 45, 90, 135, 180, 225, 270, 315])
    truth = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    assert np.abs(samples.mean(1) - truth).max() < 4 * STD / n**0.5 + LEFT
    assert np.abs(samples.std(1) - STD).max() < 4 * STD / (2 * n) ** 0.5 + LEFT / 3


def test_the_four_nouns_by_hand_sample_their_mixture():
    """docs/methods.md: weights, means, variances, within four standard errors and what the middle line cuts wrongly."""
    x = np.asarray(ran("docs/methods.md")["x_0"], np.float64)
    assert x.shape == (1000, 2)
    left = (x - [0.25, 0.25]) @ [2.5, 0.5] < 0  # of the middle line: 0.2 % of the right component is there, too
    assert abs(left.mean() - 0.3) < 4 * np.sqrt(0.3 * 0.7 / len(x)) + 0.002
    for part, mean, var in ((x[left], [-1.0, 0.0], 0.05), (x[~left], [1.5, 0.5], 0.2)):
        assert np.abs(part.mean(0) - mean).max() < 4 * np.sqrt(var / len(part)) + 0.01
        assert np.abs(part.var(0) / var - 1).max() < 4 * np.sqrt(2 / len(part)) + 0.1


def test_the_family_of_contributing_fits_its_gaussian(tmp_path):
    """The likeliest Gaussian has the data's own mean and standard deviation; samples at half the heat half of that."""
    x = np.array([2.0, -1.0]) + np.array([0.5, 2.0]) * np.random.default_rng(0).normal(size=(2000, 2))
    diagonal, dataset = ran("CONTRIBUTING.md")["diagonal"], data.arrays(x)
    words = dict(optimizer=optax.adam(0.01), batch_size=256, samples=512)
    run = runs.Trainer(diagonal(temperature=0.5), dataset, **words, name="diagonal", workdir=tmp_path).train(600)
    seen = dataset.train.gather(np.arange(len(dataset.train))).x
    assert np.allclose(run.params["mean"], seen.mean(0), atol=0.1)
    assert np.allclose(np.exp(run.params["log_std"]), seen.std(0), rtol=0.05)
    samples = run.draw(2048)
    assert np.allclose(samples.mean(0), run.params["mean"], atol=4 * 1.0 / 2048**0.5)
    assert np.allclose(samples.std(0), seen.std(0) / 2, rtol=0.05 + 4 / (2 * 2048) ** 0.5)
    with runs.Trainer(diagonal(temperature=0.5), dataset, **words, name="diagonal", workdir=tmp_path) as again:
        assert again.step == 600
        assert again.report()["std"] == pytest.approx(seen.std(0).mean() / 2, rel=0.15)
    assert "## Spread" in (tmp_path / "report.md").read_text()
