"""--mode=likelihood on tiny runs: what it leaves, what it computes, and what it refuses."""

import json
import re

import jax
import numpy as np
import pytest
from unjudged import without_samples

from diffjax import config as C
from diffjax import main as command_line
from diffjax import runs
from diffjax.commands import likelihood, train
from diffjax.denoisers import variance
from diffjax.methods import Denoising, bound, density
from diffjax.runs import build_run
from diffjax.runs.run import init_state, of
from diffjax.types import Posterior

TINY = "configs/vpsde.py:tiny"
SMALL = ["model.name=MLP", "model.width=16", "model.depth=1", "train.steps=10", "train.sample_every=10"]
SHORT = ["checkpoint.every=10", "grid.n=8"]


@pytest.fixture(scope="module")
def moons_run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "moons"
    with pytest.MonkeyPatch.context() as patch:  # its evaluation is not what is tested
        without_samples(patch)
        train.run(runs.load(TINY, ["data.name=moons", "data.n=300", "data.held_out=32", *SMALL, *SHORT]), workdir)
    assert command_line.main(["--mode=likelihood", f"--workdir={workdir}"]) == 0
    return workdir


def test_the_command_leaves_numbers_text_and_a_figure(moons_run):
    results = json.loads((moons_run / "likelihood.json").read_text())
    text = (moons_run / "likelihood.md").read_text()
    assert (moons_run / "figures" / "latents.png").stat().st_size > 1000
    assert (results["examples"], results["levels"], results["t_min"]) == (32, None, 1e-3)
    assert results["bounds"] == {}
    assert results["ode"]["held out"].keys() == {"none"}
    assert 20 < results["ode"]["held out"]["none"]["nfe"] < 1000
    assert results["round_trip"]["worst"] < 1e-2
    shown = results["ode"]["held out"]["none"]
    assert f"{shown['bits']:.3f} ± {shown['standard_error']:.3f}" in text
    assert "Gaussian fit (baseline)" in text


@pytest.mark.slow  # test_likelihood_ode has fixed steps and tolerances
def test_tolerances_come_from_the_sampler_and_the_reports_folder_from_out(moons_run, tmp_path):
    """The flow in fixed steps along a fine grid is the adaptive one."""
    flags = ["--mode=likelihood", f"--workdir={moons_run}", "--config.grid.zero=False"]
    flow = ["--sampler=ode.probability_flow", "--config.sampler.adaptive=False", "--nfe=60"]
    assert command_line.main([*flags, *flow, f"--out={tmp_path}"]) == 0
    fixed = json.loads((tmp_path / "likelihood.json").read_text())
    assert fixed["ode"]["held out"]["none"]["nfe"] == 60 * 6 + 1
    adaptive = json.loads((moons_run / "likelihood.json").read_text())
    for part in ("held out", "train"):
        found = [results["ode"][part]["none"]["bits"] for results in (fixed, adaptive)]
        assert found[0] == pytest.approx(found[1], abs=2e-3)


class Ideal:
    """The denoiser of independent N(0, v) pixels."""

    def __init__(self, schedule, v):
        self.schedule, self.v = schedule, v

    def __call__(self, x, t):
        alpha, sigma = self.schedule(t)
        return Posterior(alpha * self.v / (alpha**2 * self.v + sigma**2) * x)


V = 0.4


class Known(Denoising):
    """A method's parts that know the posterior, by whatever rule for the variance of a step."""

    def mean_denoiser(self, params, given):
        return Ideal(self.schedule, V)

    def plain_denoiser(self, params, given, chain=None):
        ideal = Ideal(self.schedule, V)
        return {variance.small: variance.Small(ideal, chain), variance.large: variance.Large(ideal, V)}[self.denoiser]


@pytest.fixture(scope="module")
def digits():
    """An untrained run on digits, whose denoiser is that of N(0, V)."""
    small = ["model.multipliers=1", "model.attention=()", "grid.n=4", "sample.chunk=32"]
    built = build_run(runs.load(TINY, small))
    run = of(built, init_state(built))
    return run._replace(method=run.method._replace(parts=Known(*run.method.parts)))


def test_digits_under_a_model_whose_density_is_known(digits):
    """Of N(0, 0.4): bits of dequantised digits by hand, the noise's mean square added; latents scaled by one number."""
    v, n, parts = V, 64, digits.method.parts
    flow = density.plan(parts)
    assert float(flow.density.args[1][0]) == pytest.approx(1e-5)
    assert flow.ts[-1] == 1e-3, "not the grid's zero"
    examples = digits.data.held_out.gather(np.arange(n))
    found = density.measurer(digits, parts, flow)({}, examples)
    integral = 0.1e-3 + 9.95e-6
    alpha2, sigma2 = np.exp(-integral), -np.expm1(-integral)
    start, end = alpha2 * v + sigma2, np.exp(-10.05) * v - np.expm1(-10.05)
    pulled = start * -np.expm1(-10.05) / end  # the prior N(0, sigma_T^2) pulled back by the affine flow
    bits = lambda square, var: (square / var + np.log(2 * np.pi * var)) / (2 * np.log(2))
    square = np.mean(np.asarray(examples.x, np.float64) ** 2)
    uniform = bits(square + 2 / 16 * 2 / 16 / 12, pulled) + 3
    assert found["ode"]["uniform"]["bits"] == pytest.approx(uniform, abs=0.01)
    gaussian = bits(alpha2 * square + sigma2, pulled) - bits(sigma2, sigma2)  # whose decoder is certain
    assert found["ode"]["gaussian"]["bits"] == pytest.approx(gaussian, abs=0.03)
    spread = (alpha2 * square + sigma2) * end / start / -np.expm1(-10.05)
    normality = density.normality(found["latents"])
    assert np.hypot(normality["mean"], normality["std"]) == pytest.approx(np.sqrt(spread), rel=0.01)
    trip = density.round_trip(digits, parts, flow, {}, examples, found)
    assert trip["examples"] == 32
    assert 0 < trip["worst"] < 1e-3  # steps of tolerance 1e-5, by tens: where they are cut depends on the last bits


def test_pixels_of_held_out_digits_are_coded_by_counts_of_training_digits(digits):
    train, held_out = digits.data.train.x, digits.data.held_out.x
    near = {"pixel histograms": pytest.approx(bound.histograms(train, held_out, 17), rel=1e-12)}
    assert density.baseline(digits, len(held_out)) == near
    assert bound.histograms(held_out, train, 17) != near["pixel histograms"]


@pytest.mark.slow
def test_digits_side_by_side(digits, tmp_path, monkeypatch):
    """A whole report without training: both dequantisations, both bounds, histograms, and 3 bits for 17 levels."""
    monkeypatch.setattr(runs, "open", lambda workdir, **options: digits)
    monkeypatch.setattr(bound, "MOST", 32)
    results = likelihood.run("nowhere", out=tmp_path, most=32)
    assert results["ode"]["held out"].keys() == {"gaussian", "uniform"}
    assert results["bounds"].keys() == {"small", "large"}
    assert all(np.isfinite(found["held out"]) for found in results["bounds"].values())
    assert 1 < results["baseline"]["pixel histograms"] < np.log2(17)
    text = (tmp_path / "likelihood.md").read_text()
    assert "17 levels in [-1, 1], spacing 2/16: uniform noise adds log2(16/2) = 3.0000 bits" in text
    assert text.count("| ODE, ") == text.count("| variational bound, ") == 2


def test_normality_of_a_normal_sample_and_of_another():
    values = np.asarray(jax.random.normal(jax.random.key(0), (4000, 2)))
    assert density.normality(values)["kolmogorov"] < 0.02
    off = density.normality(2 * values + 1)
    assert (off["mean"], off["std"]) == pytest.approx((1, 2), abs=0.05)
    assert off["kolmogorov"] > 0.2


@pytest.mark.parametrize(
    ("flags", "match"),
    [
        ([], "needs --workdir"),
        (["--workdir=nowhere"], "holds no run"),
        (["--workdir={run}", "--config.train.steps=3"], "only sampler, grid, denoiser, guidance, sample, eval"),
        (
            ["--workdir={run}", "--sampler=ode.probability_flow", "--config.grid.zero=False", "--nfe=0"],
            "expected an int",
        ),
    ],
)
def test_mistakes_are_one_line(moons_run, flags, match, capsys):
    assert command_line.main(["--mode=likelihood", *(flag.format(run=moons_run) for flag in flags)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert re.search(match, lines[0]), lines[0]


def test_the_command_measures_what_is_restored(moons_run, monkeypatch):
    """The step and the EMA that the flags name."""
    seen = {}
    look = lambda run, of, most: seen.update(step=run.step, ema=run.settings.ema) or 1 / 0
    monkeypatch.setattr(density, "measure", look)
    with pytest.raises(ZeroDivisionError):
        likelihood.run(moons_run, step=10, overrides=["sample.ema=0.999"])
    assert seen == {"step": 10, "ema": "0.999"}
    with pytest.raises(C.ConfigError, match=r"no step 7|it holds"):
        runs.open(moons_run, step=7)
