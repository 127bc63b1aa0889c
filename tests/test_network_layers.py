"""Layers of networks against NumPy: embeddings, norms, attention, resampling, patches."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from diffjax.models import layers, places

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)


def test_positional_embedding_is_that_of_ddpm():
    c = np.array([-np.inf, -20.0, -3.7, 0.0, 5.25, 20.0, np.inf], np.float32)
    position = 1000 * (20 - np.clip(c.astype(np.float64), -20, 20)) / 40
    angles = position[:, None] * 10_000.0 ** -(np.arange(8) / 7)
    expected = np.concatenate([np.cos(angles), np.sin(angles)], 1)
    np.testing.assert_allclose(layers.positional(jnp.asarray(c), 16), expected, atol=1e-3)  # 1000 rad in float32


def test_fourier_embedding_has_gaussian_frequencies():
    c = np.array([-6.0, 0.3, 2.0, np.inf], np.float32)
    log_sigma = -np.clip(c.astype(np.float64), -20, 20) / 2
    frequencies = scipy.stats.halfnorm(scale=16).ppf((np.arange(32) + 0.5) / 32)
    angles = 2 * np.pi * log_sigma[:, None] * frequencies
    expected = np.concatenate([np.cos(angles), np.sin(angles)], 1)
    np.testing.assert_allclose(layers.fourier(jnp.asarray(c), 64), expected, atol=5e-3)


@pytest.mark.parametrize(
    ("channels", "groups"), [(4, 1), (8, 2), (12, 3), (3, 1), (20, 5), (32, 8), (128, 32), (200, 25)]
)
def test_groups_adapt_to_the_channels(channels, groups):
    assert layers.groups_of(channels) == groups


@pytest.mark.parametrize("mean", [0.0, 300.0])
def test_group_norm_is_that_of_numpy(mean):
    x = (RNG.normal(size=(2, 3, 5, 6)) + mean).astype(np.float32)
    expected = np.empty(x.shape)
    for i, group in itertools.product(range(2), range(3)):
        part = x[i, ..., 2 * group : 2 * group + 2].astype(np.float64)
        expected[i, ..., 2 * group : 2 * group + 2] = (part - part.mean()) / np.sqrt(part.var() + 1e-6)
    np.testing.assert_allclose(layers.group_norm(jnp.asarray(x), 3), expected, atol=1e-6 * (1 + mean))
    np.testing.assert_allclose(layers.group_norm(jnp.asarray(x[1]), 3), expected[1], atol=1e-6 * (1 + mean))


def test_modulated_norm_scales_and_shifts_by_the_embedding():
    x, e = RNG.normal(size=(4, 4, 8)).astype(np.float32), RNG.normal(size=3).astype(np.float32)
    kernel, bias = RNG.normal(size=(3, 16)).astype(np.float32), RNG.normal(size=16).astype(np.float32)
    out = layers.Norm().apply({"params": {"affine": {"kernel": kernel, "bias": bias}}}, jnp.asarray(x), jnp.asarray(e))
    affine = e @ kernel + bias
    grouped = x.reshape(4, 4, 2, 4)
    normal = (grouped - grouped.mean((0, 1, 3), keepdims=True)) / grouped.std((0, 1, 3), keepdims=True)
    np.testing.assert_allclose(out, normal.reshape(x.shape) * (1 + affine[:8]) + affine[8:], atol=1e-4)


def numpy_attention(q, k, v):
    out = np.empty(q.shape)
    for head in range(q.shape[1]):
        for i in range(q.shape[0]):
            weights = np.exp(k[:, head] @ q[i, head] / np.sqrt(q.shape[-1]))
            out[i, head] = weights @ v[:, head] / weights.sum()
    return out


def test_attention_is_that_of_numpy():
    q, k, v = RNG.normal(size=(3, 2, 6, 2, 4))
    out = layers.attention(*(jnp.asarray(a[0:1][0] if a.ndim == 4 else a, jnp.float32) for a in (q[0], k[0], v[0])))
    np.testing.assert_allclose(out, numpy_attention(q[0], k[0], v[0]), atol=1e-5)
    batched = layers.attention(*(jnp.asarray(a, jnp.float32) for a in (q, k, v)))
    np.testing.assert_allclose(batched[1], numpy_attention(q[1], k[1], v[1]), atol=1e-5)


def test_self_attention_layer_is_that_of_numpy():
    x = RNG.normal(size=(2, 3, 8)).astype(np.float32)
    params = {
        "norm": {"scale": np.ones(8, np.float32), "bias": np.zeros(8, np.float32)},
        "qkv": {"kernel": RNG.normal(size=(8, 24)).astype(np.float32), "bias": RNG.normal(size=24).astype(np.float32)},
        "out": {"kernel": RNG.normal(size=(8, 8)).astype(np.float32), "bias": RNG.normal(size=8).astype(np.float32)},
    }
    out = layers.SelfAttention(head_width=4, skip_scale=0.5).apply({"params": params}, jnp.asarray(x))
    h = np.asarray(layers.group_norm(jnp.asarray(x), 2)).reshape(6, 8)
    q, k, v = np.split((h @ params["qkv"]["kernel"] + params["qkv"]["bias"]).reshape(6, 6, 4), 3, axis=1)
    h = numpy_attention(q, k, v).reshape(6, 8) @ params["out"]["kernel"] + params["out"]["bias"]
    np.testing.assert_allclose(out, (x + h.reshape(x.shape)) * 0.5, atol=1e-4)


def test_resampling():
    x = RNG.normal(size=(3, 4, 6, 2)).astype(np.float32)
    mean = np.stack([[x[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean((1, 2)) for j in range(3)] for i in range(2)])
    np.testing.assert_allclose(places.down(jnp.asarray(x)), mean.transpose(2, 0, 1, 3), atol=1e-6)
    np.testing.assert_array_equal(places.up(jnp.asarray(x)), x.repeat(2, axis=1).repeat(2, axis=2))


def test_patches():
    x = RNG.normal(size=(2, 4, 6, 3)).astype(np.float32)
    patches = np.asarray(places.space_to_depth(jnp.asarray(x), 2))
    assert patches.shape == (2, 2, 3, 12)
    np.testing.assert_array_equal(patches[:, 1, 2], x[:, 2:4, 4:6].reshape(2, 12))
    np.testing.assert_array_equal(places.depth_to_space(jnp.asarray(patches), 2), x)


def test_embedding_is_that_of_numpy():
    """Two layers of the log-SNR's features, the label's own vector added, silu over both; that vector apart."""
    rng, c, label = np.random.default_rng(5), np.float32([-3.0, 0.5]), np.int32([2, 0])
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
    params = {f"noise_{i}": {"kernel": draw(n, 6), "bias": draw(6)} for i, n in enumerate((8, 6))}
    params["label"] = {"embedding": draw(4, 6)}
    e, own = layers.Embedding(6, 3, 8).apply({"params": params}, c, label, method="apart")
    silu = lambda x: x / (1 + np.exp(-x))
    h = np.asarray(layers.positional(jnp.asarray(c), 8), np.float64)
    first, second = (lambda x, p=params[f"noise_{i}"]: x @ p["kernel"] + p["bias"] for i in range(2))
    vector = params["label"]["embedding"][label]
    np.testing.assert_array_equal(own, vector)
    np.testing.assert_allclose(e, silu(second(silu(first(h))) + vector), rtol=1e-4, atol=1e-5)
