"""The bridge's configs: their recipes build, a whole tiny run and its report, and what they refuse."""

import jax
import numpy as np
import pytest
from run_command import UNET

from diffjax import config as C
from diffjax import data, runs
from diffjax.commands import likelihood, moments, show, train
from diffjax.data import held_out
from diffjax.denoisers import DDBM
from diffjax.method import Drawn
from diffjax.metrics.judges import endpoint_error
from diffjax.runs import build_run
from diffjax.runs.run import init_state, of


@pytest.mark.parametrize("variant", ["digits", "photos", "noise"])
def test_the_statistics_are_those_of_the_training_pairs(variant):
    config = runs.load(f"configs/bridge.py:{variant}")
    x = (source := data.pairs(**drop(config.data)) if variant != "noise" else data.digits()).train
    x, y = (batch := x.gather(np.arange(len(x)))).x, batch.given.get("y")
    if y is None:  # alpha_T x_0 + sigma_T z, alpha_T = exp(-(0.1 + 20) / 4)
        alpha, second = np.exp(-20.1 / 4), np.mean(x.astype(np.float64) ** 2)
        expected = second**0.5, (alpha**2 * second + 1 - alpha**2) ** 0.5, alpha * second
    else:
        target = DDBM.measured(x, y)
        expected = target.sigma_0, target.sigma_T, target.sigma_0T
    got = config.target.sigma_0, config.target.sigma_T, config.target.sigma_0T
    np.testing.assert_allclose(got, expected, rtol=2e-2 if variant == "noise" else 2e-3)
    assert source.shape == x.shape[1:]


def drop(spec):
    return {name: value for name, value in spec.items() if name != "name"}


@pytest.mark.parametrize("variant", ["photos", "noise"])
def test_the_recipes_build(variant):
    method = build_run(runs.load(f"configs/bridge.py:{variant}")).method
    assert method.parts.process.conditions == ("y",)
    assert method.asks == (() if variant == "noise" else ("y",))


@pytest.fixture(scope="module")
def untrained():
    """What was built of a tiny bridge, and its run before the first step."""
    built = build_run(runs.load("configs/bridge.py:tiny", [*UNET, "sample.chunk=2", "grid.n=2"]))
    return built, of(built, init_state(built))


def test_samples_are_by_seed_and_their_endpoints_by_seed_too(untrained):
    built, run = untrained
    params, draw = jax.tree.map(lambda a: a + 0.02, run.state.params), run.drawer()
    images = draw(params, [3, 5, 300], given := run.given([3, 5, 300]))
    np.testing.assert_array_equal(images[:1], draw(params, [3], run.given([3])))
    assert images.shape == (3, 8, 8, 1)
    assert 1e-4 < np.abs(images[0] - images[2]).max() < np.abs(images[0] - images[1]).max()  # 300 has the endpoint of 3
    pairs = held_out(built.data, [3, 5, 300])
    np.testing.assert_array_equal(given["y"], pairs.given["y"])
    np.testing.assert_array_equal(pairs.x[0], pairs.x[2])
    (section,) = endpoint_error(Drawn(images, run.given(range(3))), built.data)
    first = built.data.held_out.gather(np.arange(3))
    error = section.results["metrics"]["squared error"]
    assert error["value"] == pytest.approx(np.mean((np.asarray(images, np.float64) - first.x) ** 2), rel=1e-5)
    assert error["endpoint"] == pytest.approx(np.mean((first.given["y"].astype(np.float64) - first.x) ** 2), rel=1e-5)
    assert 0 < error["endpoint"] < 0.5


def test_a_bridge_has_no_likelihood(untrained, monkeypatch, tmp_path):
    monkeypatch.setattr(runs, "open", lambda workdir, **options: untrained[1])
    with pytest.raises(C.ConfigError, match="The flow of a bridge goes from data to a point"):
        likelihood.run("nowhere", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow  # test_commands counts those of points
def test_show_counts_a_batch_with_endpoints():
    costs = show.run(runs.load("configs/bridge.py:tiny", UNET))
    assert costs["shapes"]["y"] == costs["shapes"]["x"] == (32, 8, 8, 1)
    assert costs["flops"] > 1e5


def test_a_bridge_has_no_moments(untrained, monkeypatch):
    monkeypatch.setattr(runs, "open", lambda workdir, **options: untrained[1])
    with pytest.raises(C.ConfigError, match="without an endpoint"):
        moments.run("nowhere", "moments.npz")


@pytest.mark.slow
def test_a_whole_run_ends_with_a_report(tmp_path):
    results = train.run(runs.load("configs/bridge.py:tiny"), tmp_path)
    assert results["status"] == "done"
    assert "example that the endpoint was made of" in (tmp_path / "report.md").read_text()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["target.name=Eps"], "does not determine x_0|needs target.name=DDBM"),
        (["target.name=X0"], "A bridge needs target.name=DDBM, got X0"),
        (["data.name=digits"], "digits has no endpoints, which the bridge needs: set data.name=pairs, data.of=digits"),
        (["process.from_noise=True"], "digits has endpoints, but process.from_noise draws them"),
        (["process.name=Gaussian"], "DDBM-prediction is for bridges, got VP"),
        (["process.name=Gaussian", "target.name=Eps", "grid.name=uniform", "grid.n=5"], "only a bridge has endpoints"),
        (["model.condition=2"], "model.condition is 2, expected 1"),
        (["schedule.name=Rectified"], "a bridge needs both above 0"),
        (["grid.name=log_snr", "grid.n=5"], "log-SNR is infinite at t = 1.0"),
        (["data.factor=3"], "factor is 3"),
        (["target.sigma_0T=0.7"], "sigma_0T"),
    ],
)
def test_refusals_come_before_anything_runs(overrides, message):
    with pytest.raises(C.ConfigError, match=message) as caught:
        build_run(runs.load("configs/bridge.py:tiny", [*UNET, *overrides]))
    assert "\n" not in str(caught.value)
