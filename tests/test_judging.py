"""Judging: labels that follow the data's, fits of wide examples, metrics that fail alone, samples that are not finite.

Expectations are NumPy's and SciPy's in float64, from dense matrices and written-out laws.
"""

import itertools
import json
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.distance import cdist
from scipy.stats import multivariate_normal

from diffjax import analytic, data, denoisers, ema, host, methods, models, processes, runs, schedules
from diffjax.commands import sample
from diffjax.data.given import given_of
from diffjax.method import Drawn, Example, Method, Section, Turn, attempt, per_example
from diffjax.methods import evaluation
from diffjax.methods.autoencoder import pca_error
from diffjax.metrics import gate, judges, neighbours, wasserstein
from diffjax.runs import report

CENTRES = np.array([[-1.0, -1.0], [1.0, 1.0]])


def test_axes_of_wide_examples_are_those_of_the_covariance():
    x = np.random.default_rng(0).normal(size=(7, 5, 4)) + 3
    found, flat = host.thin_axes(x), x.reshape(7, 20)
    np.testing.assert_allclose(found.mean, flat.mean(0), rtol=1e-12)
    assert found.axes.shape == (20, 6)
    np.testing.assert_allclose((found.axes * found.variances) @ found.axes.T, np.cov(flat.T), atol=1e-5)
    np.testing.assert_allclose(found.axes.T @ found.axes, np.eye(6), atol=1e-5)
    few = host.thin_axes(np.stack([x[0], x[1], x[0]]))  # a copy adds no axis
    assert len(few.variances) == 1
    with pytest.raises(ValueError, match="at least 2"):
        host.thin_axes(x[:1])


def test_the_fit_of_wide_examples_is_that_of_the_dense_gaussian():
    alpha, sigma = 0.8, 0.6
    rng = np.random.default_rng(1)
    x, x_t = rng.normal(size=(5, 4, 3)), rng.normal(size=12)
    fit, cov, mean = analytic.fitted_gaussian(x), np.cov(x.reshape(5, 12).T), x.reshape(5, 12).mean(0)
    assert fit.bases is not None
    assert fit.bases.shape == (1, 12, 4)
    total = alpha**2 * cov + sigma**2 * np.eye(12)
    gain = alpha * cov @ np.linalg.inv(total)
    point = jnp.asarray(x_t, jnp.float32).reshape(4, 3)
    asked = lambda *at: (fit.posterior(*at), fit.covariance(*at), fit.log_prob(*at), fit.score(*at))
    found, full, log_p, pull = jax.jit(asked)(point, jnp.float32(alpha), jnp.float32(sigma))
    spread = cov - alpha * gain @ cov
    np.testing.assert_allclose(found.mean.ravel(), mean + gain @ (x_t - alpha * mean), atol=2e-5)
    np.testing.assert_allclose(found.var.ravel(), np.diag(spread), atol=2e-5)
    np.testing.assert_allclose(full, spread, atol=2e-5)
    law: Any = multivariate_normal
    assert float(log_p) == pytest.approx(law.logpdf(x_t, alpha * mean, total), rel=1e-4)
    score = -np.linalg.solve(total, x_t - alpha * mean)
    np.testing.assert_allclose(pull.ravel(), score, atol=1e-4)


def test_the_fit_of_wide_examples_is_finite_where_there_is_no_noise():
    x = np.random.default_rng(2).normal(size=(3, 8))
    fit, one = analytic.fitted_gaussian(x), jnp.asarray(x[0], jnp.float32)
    both = lambda one, zero: (fit.posterior(one, 1.0, zero).mean, fit.sample(jax.random.key(0), 4000))
    found, drawn = jax.jit(both)(one, jnp.float32(0))
    np.testing.assert_allclose(found, x[0], atol=1e-5)  # an example lies in its own plane
    np.testing.assert_allclose(np.cov(np.asarray(drawn).T), np.cov(x.T), atol=0.15)


@pytest.mark.parametrize("shape", [(40, 1), (3, 6), (2, 5)])
def test_draws_of_the_fit_have_its_mean_and_covariance(shape):
    x = np.random.default_rng(3).normal(size=shape) * 2 + 1
    drawn = gate.fit_gaussian(x, 40_000, np.random.default_rng(0))
    assert drawn.shape == (40_000, shape[1])
    cov = np.cov(x.T).reshape(shape[1], shape[1])
    np.testing.assert_allclose(drawn.mean(0), x.mean(0), atol=5 * np.sqrt(np.diag(cov).max() / 40_000))
    np.testing.assert_allclose(np.cov(drawn.T).reshape(cov.shape), cov, atol=0.03 * np.diag(cov).max())


def test_nothing_of_the_size_d_squared_is_made():
    """256 x 256 x 3 numbers: d^2 doubles are 288 GiB, which no machine of ours has."""
    x = np.random.default_rng(4).random((3, 256, 256, 3), np.float32)
    assert gate.fit_gaussian(x, 2, np.random.default_rng(0)).shape == (2, 256, 256, 3)
    fit = analytic.fitted_gaussian(x)
    np.testing.assert_allclose(fit.variances.sum(), x.var(0, ddof=1).sum(), rtol=1e-4)
    assert pca_error(x, x, 2) < 1e-9  # three points lie in a plane


def test_distances_of_wide_examples_are_cdists():
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(2, 6, 5000)) + 100
    y[2] = x[4]  # a copy is at 0, not at what rounding leaves
    expected = cdist(x, y)
    np.testing.assert_allclose(neighbours.distances(x, y), expected, rtol=1e-9)
    assert neighbours.distances(x, y)[4, 2] == 0
    assert (np.diag(neighbours.distances(x, x)) == 0).all()
    joint = np.concatenate([x, y])
    np.testing.assert_allclose(neighbours.joint_distances(x, y), cdist(joint, joint), atol=1e-6)
    found = judges.distances(y, x)
    directions = np.random.default_rng(0).standard_normal((x.shape[1], 256))
    directions /= np.linalg.norm(directions, axis=0)
    gaps = np.sort(x @ directions, 0) - np.sort(y @ directions, 0)
    assert found["sliced W2"] == pytest.approx(np.sqrt(np.mean(gaps**2)), rel=1e-9)
    assert found["sliced W2"] == wasserstein.sliced(y, x)
    best = min((expected**2)[np.arange(6), list(order)].mean() for order in itertools.permutations(range(6)))
    assert found["exact W2"] == pytest.approx(np.sqrt(best), rel=1e-9)


def pair(train, held_out, **options):
    """A data set of these two parts."""
    made = data.Arrays(np.asarray(train), **{k: v[0] for k, v in options.items()})
    apart = data.Arrays(np.asarray(held_out), **{k: v[1] for k, v in options.items()})
    classes = 1 + int(max(part.given["label"].max() for part in (made, apart))) if options else None
    return data.Dataset("mine", made, apart, made.x.shape[1:], classes, None, "0")


@pytest.mark.parametrize(("train", "held", "lost"), [(57, 3, 1), (57, 6, 0), (20, 1, 3), (1, 1, 4), (300, 30, 0)])
def test_what_few_examples_do_not_allow_is_left_out_alone(train, held, lost):
    rng = np.random.default_rng(6)
    dataset = pair(rng.normal(size=(train, 2)), rng.normal(size=(held, 2)))
    drawn = Drawn(rng.normal(size=(64, 2)), {})
    first, *more = judges.judged(drawn, dataset)
    n = min(train, held)
    real, fake = dataset.some("held_out", n).x, drawn.x[:n]
    value = {name: found["value"] for name, found in first.results["metrics"].items()}
    assert value["exact W2"] == wasserstein.exact(fake, real)
    if n >= 6:
        both = (value["1-NN accuracy, real"], value["1-NN accuracy, fake"])
        assert both == neighbours.two_sample_accuracy(real, fake)
        assert both[0] != both[1]
        assert value["coverage, k = 5"] == neighbours.coverage(real, fake, 5)
    left = more[0].results["left_out"] if more else {}
    assert len(left) == lost
    assert ("coverage, k = 5" in left) == (n < 6)
    assert ("Gaussian fit" in left) == (train < 2)
    assert judges.trial(dataset) == left  # and is said before the run
    assert all(name in more[0].text for name in left)


def test_a_judge_that_fails_costs_only_itself(capfd):
    def judge(drawn, dataset):
        raise KeyError("features")

    dataset = pair(np.zeros((4, 2)), np.zeros((4, 2)))._replace(judge=judge)
    (section,) = judges.judged(Drawn(np.zeros((4, 2)), {}), dataset)
    assert section.results == {"left_out": {"the judge": "KeyError: 'features'"}}
    assert "Traceback" in capfd.readouterr().err
    assert judges.trial(dataset) == section.results["left_out"]
    good = [Section({"a": 1})]
    assert attempt("a", lambda: good) is good


@pytest.mark.parametrize("shape", [(8, 2), (8, 3, 3, 1)])
def test_samples_that_are_not_finite_are_counted_and_named(shape):
    rng = np.random.default_rng(7)
    x = rng.normal(size=shape)
    dataset, bad = pair(x, rng.normal(size=shape)), x.copy()
    bad.reshape(8, -1)[2, 1], bad.reshape(8, -1)[5, 0] = np.nan, np.inf
    first, second, *_ = judges.judged(Drawn(bad, {}), dataset)
    assert first.results == {"nonfinite": {"count": 2, "of": 8, "seeds": [2, 5]}}
    assert "2 of 8 samples are not finite: seeds 2, 5" in first.text
    assert first.passed is False
    rest, real = np.delete(bad, [2, 5], 0), dataset.some("held_out", 6).x
    assert second.results["metrics"]["exact W2"]["value"] == wasserstein.exact(rest, real)
    none = judges.judged(Drawn(np.full(shape, np.nan), {}), dataset)
    assert none[1].results == {"left_out": {"the judge": "no sample is finite"}}
    assert judges.said(bad, range(100, 108)).endswith("seeds 102, 105")


def test_samples_far_outside_the_data_are_counted():
    x = np.linspace(-1, 1, 40).reshape(20, 2)
    dataset = pair(x, x)
    drawn = np.concatenate([x[:5], [[2.9, 0.0], [0.0, -3.1], [1e30, 0.0]]])  # the width is 2: until 3 either way
    (section,) = judges.outside(Drawn(drawn, {}), dataset)
    assert section.results == {"outside": {"count": 2, "of": 8}}
    assert judges.outside(Drawn(x, {}), dataset) == []


def clusters(labels, seed):
    return CENTRES[labels] + 0.1 * np.random.default_rng(seed).normal(size=(len(labels), 2))


def unequal(sorted_by_class):
    """93 : 7 around two centres, as FAULTS A2 has it."""
    label = (np.arange(4000) % 100 >= 93).astype(np.int32)
    label = np.sort(label) if sorted_by_class else label
    held = (np.arange(400) % 100 >= 93).astype(np.int32)
    held = np.sort(held) if sorted_by_class else held
    return pair(clusters(label, 0), clusters(held, 1), label=(label, held))


def own_method(draw, loss=None):
    """A method of one number that reads labels and draws by `draw(params, key, given)`."""
    loss = loss or (lambda params, keys, example, index, size: (jnp.sum(params**2), {}))
    return Method(
        lambda key, example: jnp.ones(()),
        (Turn(per_example(loss)),),
        lambda params, request, key, given: draw(params, key, given),
        asks=("label",),
    )


def a_run(method, dataset):
    """A run of one parameter, 1, that was never trained: 64 samples of an evaluation."""
    averages = types.SimpleNamespace(averages={"0.999": jnp.ones(())})
    state: Any = types.SimpleNamespace(step=3, skipped=0, params=jnp.ones(()), ema=averages)
    return runs.Run(method, dataset, ema.warm_up((0.999,)), runs.Settings(samples=64, chunk=8), state)


@pytest.mark.parametrize("sorted_by_class", [False, True])
def test_a_right_model_of_unequal_classes_is_judged_as_right(sorted_by_class):
    """Samples of the very law, by label: they score the floor; with labels seed mod 2 W2 is sqrt(8 (.5 - .07))."""
    dataset, method = unequal(sorted_by_class), own_method(None)
    given = data.followed(method, dataset, 400)
    assert given["label"].mean() == pytest.approx(0.07, abs=1e-6)
    (section,) = judges.judged(Drawn(clusters(given["label"], 2), given), dataset)
    found = section.results["metrics"]["exact W2"]
    assert found["value"] < 1.5 * found["floor"] < 0.5
    even = given_of(method, dataset, range(400))["label"]
    assert np.bincount(even).tolist() == [200, 200]
    (section,) = judges.judged(Drawn(clusters(even, 2), {"label": even}), dataset)
    assert section.results["metrics"]["exact W2"]["value"] == pytest.approx(np.sqrt(8 * 0.43), abs=0.1)


def test_labels_without_an_example_are_named_and_not_sampled():
    label = np.array([1, 2, 4] * 20)
    held = np.array([1, 2, 4, 5, 5, 1])  # 5: its images are all held out
    dataset = pair(np.zeros((60, 2)), np.zeros((6, 2)), label=(label, held))
    method = own_method(None)
    assert given_of(method, dataset, range(7))["label"].tolist() == [1, 2, 4, 1, 2, 4, 1]
    assert set(data.followed(method, dataset, 50)["label"].tolist()) == {1, 2, 4}
    assert given_of(method, dataset, range(3), label=5)["label"].tolist() == [5, 5, 5]  # asked for
    (line,) = data.remarks(dataset, labelled=True)
    assert "no training example has label 0, 3, 5 (of 0 to 5)" in line
    assert "2 held-out examples of such labels are not judged" in line
    assert data.remarks(dataset, labelled=False) == []
    full = pair(np.zeros((60, 2)), np.zeros((6, 2)), label=(np.arange(60) % 6, np.arange(6)))
    assert given_of(method, full, range(8))["label"].tolist() == [0, 1, 2, 3, 4, 5, 0, 1]


def test_places_are_of_the_whole_file_and_the_first_of_more():
    label = np.repeat(np.arange(10), 1000)
    dataset = pair(np.zeros((10_000, 1)), np.arange(10_000.0)[:, None], label=(label, label))
    at = dataset.places("held_out", 500)
    assert np.bincount(label[at], minlength=10).min() > 25
    assert len(set(at.tolist())) == 500
    np.testing.assert_array_equal(dataset.places("held_out", 10_000)[:500], at)
    np.testing.assert_array_equal(dataset.some("held_out", 500).x[:, 0], at)
    np.testing.assert_array_equal(dataset._replace(mixed=True).places("held_out", 10_003)[-4:], [9999, 0, 1, 2])
    only = dataset.of_label(3)
    assert (data.labels(only.held_out) == 3).all()
    assert len(only.train) == 1000
    assert dataset.of_label(10) is dataset


def test_an_evaluation_counts_samples_that_are_not_finite_and_ends_with_status_1(tmp_path, capsys, monkeypatch):
    """Through the commands: a run whose draws of label 1 are NaN."""

    def draw(params, key, given):
        x = jnp.asarray(CENTRES, jnp.float32)[given["label"]] + 0.1 * jax.random.normal(key, (2,))
        return jnp.where(given["label"] == 1, jnp.nan, x) * params

    run = a_run(own_method(draw), unequal(False))
    results = report.evaluate(run, tmp_path)
    labels = data.followed(run.method, run.data, 64)["label"]
    assert results["nonfinite"]["seeds"] == np.flatnonzero(labels).tolist() != []
    assert results["gate"] is False
    assert judges.status(results) == 1
    assert "samples are not finite" in (tmp_path / "report.md").read_text()
    assert "exact W2" in json.loads((tmp_path / "eval.json").read_text())["metrics"]
    monkeypatch.setattr(sample.runs, "open", lambda *args, **options: run)
    x = sample.run(tmp_path, [0, 1, 2, 3], out=tmp_path / "out")
    assert "error: 2 of 4 samples are not finite: seeds 1, 3" in capsys.readouterr().err
    np.testing.assert_array_equal(np.isnan(x).any(1), [False, True, False, True])
    assert judges.status({"samples": 4}) == 0


def test_what_needs_more_than_its_chunk_is_walked_for_the_first_few(tmp_path, monkeypatch):
    """Of large examples the walks of all would not fit: the first eight are kept."""
    monkeypatch.setattr(report, "TRACED", 20)
    plain = lambda params, request, key, given: jax.random.normal(key, (2,))
    traced = lambda params, request, key, given: (jax.random.normal(key, (2,)), jnp.zeros((3, 2)))
    both = lambda params, request, key, given: (traced if request else plain)(params, request, key, given)
    method = own_method(None)._replace(draw=both, plan=lambda shape, trace=None: (1,) if trace else ())
    drawn = report.draw(a_run(method, unequal(False)))
    assert drawn.x.shape == (64, 2)
    assert drawn.trajectory.shape == (8, 3, 2)


def test_the_noise_of_t_max_is_held_against_the_data():
    """alpha(1) of VP(0.1, 20) is exp(-5.025): of N(1000, 100^2) it leaves 7.2; of unit data nothing to speak of."""
    rng = np.random.default_rng(8)
    net = models.of(models.MLP(width=4, depth=1))
    of = methods.denoising(net, processes.Gaussian(schedules.VP()), denoisers.V()).parts
    far = data.arrays(rng.normal(1000, 100, size=(400, 3)))
    (line,) = of.remarks(far)
    x = far.some("train", 1024).x
    reach = (np.abs(x.mean(0)) + x.std(0)).max()
    assert f"leaves {np.exp(-5.025) * reach:.4g}" in line
    assert of.remarks(data.standardize(far, "entries")) == []
    assert of.remarks(data.arrays(rng.normal(size=(400, 3)))) == []
    wide = methods.denoising(net, processes.Gaussian(schedules.Rectified()), denoisers.Velocity()).parts
    assert wide.remarks(far) == []  # alpha(1) = 0


@pytest.mark.parametrize(
    ("low", "high", "said"), [(0, 1, "half of the range"), (0, 255, "far outside"), (-1, 1, None), (-1, 0, "half")]
)
def test_the_range_of_floating_images_is_looked_at(low, high, said):
    x = np.random.default_rng(9).uniform(low, high, size=(30, 4, 4, 1))
    found = data.remarks(data.arrays(x), labelled=False)
    assert len(found) == (said is not None)
    assert said is None or said in found[0]
    bytes_ = (255 * (x - low) / (high - low) / 4).astype(np.uint8)  # dark pixels are no slip of scale
    assert data.remarks(data.arrays(bytes_), labelled=False) == []


@pytest.mark.parametrize("n", [9, 60])
def test_names_of_metrics_are_those_of_an_evaluation(n):
    """Of as many samples as held-out examples; where those are few, some metrics need more."""
    x = np.random.default_rng(0).normal(size=(n, 2)).astype(np.float32)
    dataset = data.arrays(x, label=np.arange(n) % 3, held_out=0.3)
    (section, *_) = judges.two_samples(Drawn(dataset.held_out.gather(np.arange(len(dataset.held_out))).x, {}), dataset)
    assert judges.names(dataset, ()) == [*section.results["metrics"]]


def test_digits_have_the_accuracy_of_classes_where_samples_have_labels():
    digits = data.digits()
    assert judges.names(digits, ()) == [*gate.NAMES]
    assert judges.names(digits, ("label",)) == [*gate.NAMES, "class accuracy"]


@pytest.mark.parametrize(("numbers", "repeats", "passes"), [(30, 16, 3), (30, 2, 2), (9, 16, 1), (10**6, 16, 16)])
def test_losses_of_large_examples_take_fewer_draws(monkeypatch, numbers, repeats, passes):
    """Five examples of two numbers: no more passes than fit, one at least; each has a key of its own."""
    monkeypatch.setattr(evaluation, "NUMBERS", numbers)
    monkeypatch.setattr(evaluation, "REPEATS", repeats)
    drawn = lambda params, key, batch, index, size: (jnp.full(size, jax.random.uniform(key)), {"t01": jnp.zeros(size)})
    settings, method = types.SimpleNamespace(time_bins=2), types.SimpleNamespace(prepare=None)
    run = types.SimpleNamespace(settings=settings, method=method, data=types.SimpleNamespace(shape=(2,)))
    found = evaluation.curve(run, drawn)(None, Example(np.zeros((5, 2), np.float32)))
    expected = [float(jax.random.uniform(jax.random.key(i))) for i in range(passes)]
    assert found["mean"] == pytest.approx(np.mean(expected), rel=1e-6)
    assert found["bins"] == [pytest.approx(np.mean(expected), rel=1e-6), None]
