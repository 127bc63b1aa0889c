"""The digits gate: real digits pass it; every spoilt, collapsed, incomplete or copied set of digits fails it.

The fakes are made from 594 training digits and judged with the other 906 as the training set, so that what they are
made from does not give them away as copies.
"""

import json

import jax
import numpy as np
import pytest
from scipy import ndimage
from scipy.linalg import sqrtm

from diffjax import data
from diffjax.metrics import digits, gate

USED = 594


@pytest.fixture(scope="module", autouse=True)
def measured_once():
    """Floors and Gaussian fits of the same digits stand in most reports: equal arrays are measured once."""
    measure, found = gate._measure, {}

    def remembered(network, *arrays):
        key = tuple(array.tobytes() for array in arrays)
        if key not in found:
            found[key] = measure(network, *arrays)
        return found[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gate, "_measure", remembered)
        yield


def _arrays(source):
    batch = source.gather(np.arange(len(source)))
    return np.asarray(batch.x), np.asarray(batch.given["label"])


@pytest.fixture(scope="module")
def real():
    """(train x, train labels, held-out x, held-out labels)."""
    dataset = data.digits()
    return *_arrays(dataset.train), *_arrays(dataset.held_out)


@pytest.fixture(scope="module")
def parts(real):
    """(material x, its labels, reference training set, held-out x)."""
    order = np.random.default_rng(11).permutation(len(real[0]))
    used, kept = order[:USED], order[USED:]
    return real[0][used], real[1][used], real[0][kept], real[2]


@pytest.fixture(scope="module")
def genuine(parts):
    return gate.evaluate_digits(parts[0], parts[2], parts[3])


def test_names_of_metrics_are_known_beforehand(genuine):
    assert sorted(gate.NAMES) == sorted(metric.name for metric in genuine.metrics)


def _class_means(x, label, rng):
    return np.stack([x[label == c].mean(0) for c in range(10)])[label]


def _class_gaussians(x, label, rng):
    return np.concatenate([gate.fit_gaussian(x[label == c], np.sum(label == c), rng) for c in range(10)])


def _zoom(x, label, rng):
    """A geometric shrinking by 0.85 about the middle of the image."""
    offset = 3.5 * (1 - 1 / 0.85)
    zoom = lambda image: ndimage.affine_transform(image, np.eye(2) / 0.85, offset=offset, order=1, cval=-1.0)
    return np.stack([zoom(image[..., 0]) for image in x])[..., None]


def _blur(x, width):
    return ndimage.gaussian_filter(x, (0, width, width, 0), mode="constant", cval=-1.0)


CONTROLS = {
    "class means": _class_means,
    "one Gaussian per class": _class_gaussians,
    "blurred, 0.5 pixels": lambda x, label, rng: _blur(x, 0.5),
    "blurred, 0.7 pixels": lambda x, label, rng: _blur(x, 0.7),
    "shrunk by 0.85 towards grey": lambda x, label, rng: 0.85 * x,
    "shrunk by 0.85 towards black": lambda x, label, rng: 0.85 * (x + 1) - 1,
    "shrunk by 0.85 in size": _zoom,
    "noise 0.2": lambda x, label, rng: x + 0.2 * rng.standard_normal(x.shape),
}


@pytest.mark.parametrize("name", CONTROLS)
def test_negative_controls_fail(name, parts, genuine):
    x, label, train, held_out = parts
    report = gate.evaluate_digits(CONTROLS[name](x, label, np.random.default_rng(5)), train, held_out)
    assert not report.passed
    failed = {entry[0] for entry in gate.judge(report) if not entry[3]}
    assert "Frechet distance" in failed  # the features see every one of these
    assert report.metrics[0].value > 2.5 * genuine.metrics[0].floor


@pytest.mark.parametrize("missing", [0, 1, 8])
def test_a_missing_class_fails(missing, parts):
    x, label, train, held_out = parts
    report = gate.evaluate_digits(x[label != missing], train, held_out)
    failed = {entry[0] for entry in gate.judge(report) if not entry[3]}
    assert "rarest class, of its share" in failed


def test_genuine_digits_pass(genuine, real):
    """Training digits that the reference training set does not hold: a perfect generator."""
    assert genuine.passed, genuine.table()
    for seed in range(2):
        order = np.random.default_rng(seed).permutation(len(real[0]))
        report = gate.evaluate_digits(real[0][order[:USED]], real[0][order[USED:]], real[2], seed=seed)
        assert report.passed, report.table()


@pytest.mark.parametrize("share", [0.15, 1.0])
def test_copies_of_training_digits_fail(share, parts):
    """All copies, or a part of them, which leaves the median distance where it was."""
    x, _, train, held_out = parts
    copies = int(share * USED)
    report = gate.evaluate_digits(np.concatenate([train[:copies], x[copies:]]), train, held_out)
    metrics = {m.name: m for m in report.metrics}
    assert metrics["copied share"].passed is False
    assert metrics["copied share"].value == pytest.approx(share, abs=0.03)
    assert (metrics["train-neighbour ratio"].value == 0) == (share == 1)


def test_a_perfect_generator_scores_its_floor(genuine):
    for metric in genuine.metrics:
        assert metric.value == pytest.approx(metric.floor, rel=0.35, abs=0.08), metric.name
    assert genuine.metrics[0].gaussian > 5 * genuine.metrics[0].floor


def test_metrics_are_their_definitions_on_the_chunks(parts):
    """One chunk of 297, all used: the order does not matter, so each number can be found without the gate."""
    x, _, train, held_out = parts
    report = gate.evaluate_digits(fake := x[: len(held_out)], train, held_out)
    values = {m.name: m.value for m in report.metrics}
    nearest = lambda a: np.array([np.sqrt(((image - train) ** 2).sum((1, 2, 3))).min() for image in a])
    limit = np.quantile(nearest(held_out), 0.01)
    assert values["train-neighbour ratio"] == pytest.approx(np.median(nearest(fake)) / np.median(nearest(held_out)))
    assert values["copied share"] == pytest.approx(np.mean(nearest(fake) < limit))
    shares = [np.mean(digits.read(a).logits.argmax(1)[:, None] == np.arange(10), axis=0) for a in (fake, train)]
    assert values["rarest class, of its share"] == pytest.approx(np.min(shares[0] / shares[1]))
    assert values["class histogram, total variation"] == pytest.approx(np.maximum(shares[0] - shares[1], 0).sum())
    a, b = (digits.read(images).features for images in (fake, held_out))
    covs = np.cov(a.T), np.cov(b.T)
    expected = np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(covs[0] + covs[1] - 2 * sqrtm(covs[0] @ covs[1]).real)
    assert values["Frechet distance"] == pytest.approx(expected, rel=1e-6)


def test_images_are_read_as_grey_levels(parts, genuine):
    """Less than half a grey level (1/16) and whatever leaves [-1, 1] is not seen; the seed alone sets the order."""
    x, _, train, held_out = parts
    rng = np.random.default_rng(2)
    overshoot = np.where(np.abs(x) == 1, x * 1.3, x + rng.uniform(-0.06, 0.06, x.shape))
    assert gate.evaluate_digits(overshoot, train, held_out) == genuine
    assert gate.evaluate_digits(x, train, held_out, seed=1) != genuine


def test_the_verdict_is_about_the_bounds():
    """judge, passed, table and as_dict say the same, at and beyond each end."""
    metric = lambda value, low, high: gate.Metric("m", value, 1.0, 2.0, low, high)
    assert [metric(v, 0.9, 1.15).passed for v in (0.89, 0.9, 1.0, 1.15, 1.16)] == [False, True, True, True, False]
    assert metric(3.0, -np.inf, 2.0).passed is False
    assert metric(3.0, None, None).passed is None
    assert metric(np.nan, 0.0, 1.0).passed is False
    bounds = [metric(0, *ends).bound for ends in ((0.9, 1.15), (-np.inf, 2.0), (0.5, np.inf))]
    assert bounds == ["[0.9, 1.15]", "<= 2", ">= 0.5"]
    report = gate.Report((metric(1.0, 0.9, 1.15), metric(1.2, 0.9, 1.15), metric(9.0, None, None)), 297, 2)
    assert not report.passed
    assert gate.judge(report) == [("m", 1.0, "[0.9, 1.15]", True), ("m", 1.2, "[0.9, 1.15]", False)]
    assert report.table().count("**FAIL**") == 1
    assert "Gate: failed by m." in report.table()
    assert report._replace(metrics=report.metrics[::2]).passed


def test_report_is_plain_json(genuine):
    entries = json.loads(json.dumps(genuine.as_dict(), allow_nan=False))
    assert set(entries["exact W2"]) == {"value", "floor", "gaussian", "bound", "passed"}
    assert entries["exact W2"]["passed"] is None
    assert entries["Frechet distance"]["passed"] is True


@pytest.mark.parametrize(
    ("fake", "message"),
    [
        (np.zeros((296, 8, 8, 1)), r"fake has shape \(296, 8, 8, 1\); expected \(m, 8, 8, 1\) with m >= 297"),
        (np.zeros((400, 8, 8)), r"fake has shape \(400, 8, 8\)"),
        (np.full((300, 8, 8, 1), np.nan), "fake: 19200 of 19200 pixels are not finite"),
    ],
)
def test_bad_samples_are_refused(fake, message, real):
    with pytest.raises(ValueError, match=message):
        gate.evaluate_digits(fake, real[0], real[2])


def test_too_small_a_training_set_is_refused(real):
    with pytest.raises(ValueError, match=r"train has shape .*m >= 594"):
        gate.evaluate_digits(real[0], real[0][:500], real[2])


def test_classifier_reads_held_out_digits(real):
    assert np.mean(digits.read(real[2]).logits.argmax(1) == real[3]) >= 0.98
    assert digits.FILE.stat().st_size < 200_000


def test_classifier_is_its_formula(real):
    """The network written again with loops over pixels, in float64."""
    weights = {name: leaf.astype(np.float64) for name, leaf in digits.load().items()}

    def conv(x, kernel, bias, stride):
        """SAME padding as TensorFlow lays it: for 8 pixels at stride 2, none before and one after."""
        before = 1 if stride == 1 else 0
        x = np.pad(x, ((before, 1), (before, 1), (0, 0)))
        at, pixel = range(0, 8, stride), lambda r, c: np.einsum("hwi,hwio->o", x[r : r + 3, c : c + 3], kernel)
        return np.maximum(np.array([[pixel(r, c) for c in at] for r in at]) + bias, 0)

    seen = digits.read(real[2][:3])
    for index, image in enumerate(real[2][:3].astype(np.float64)):
        h = conv(image, weights["conv1"], weights["conv1_bias"], 1)
        h = conv(h, weights["conv2"], weights["conv2_bias"], 2)
        features = h.reshape(-1) @ weights["dense"] + weights["dense_bias"]
        out = np.maximum(features, 0) @ weights["head"] + weights["head_bias"]
        np.testing.assert_allclose(seen.features[index], features, atol=1e-4)
        np.testing.assert_allclose(np.concatenate([seen.logits[index], seen.defects[index]]), out, atol=1e-4)


def test_classifier_refuses_bad_images_and_files(tmp_path):
    with pytest.raises(ValueError, match=r"shape \(2, 8, 8\); expected \(n, 8, 8, 1\)"):
        digits.read(np.zeros((2, 8, 8)))
    with pytest.raises(ValueError, match="1 of 64 pixels are not finite"):
        digits.read(np.where(np.arange(64).reshape(1, 8, 8, 1) == 7, np.inf, 0.0))
    np.savez(tmp_path / "other.npz", conv1=np.zeros((3, 3, 1, 4)))
    with pytest.raises(ValueError, match=r"other.npz holds .*expected"):
        digits.load(tmp_path / "other.npz")


def test_weights_survive_the_file(tmp_path):
    weights = digits.init(jax.random.key(0))
    digits.save(weights, tmp_path / "weights.npz")
    for name, leaf in digits.load(tmp_path / "weights.npz").items():
        assert leaf.dtype == np.float32
        np.testing.assert_allclose(leaf, weights[name], rtol=1e-3, atol=1e-6)
