"""Networks of tokens: the transformer against itself in NumPy, positions, blocks, precisions; batches, bad input."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax import models
from diffjax.models import blocks, layers

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
SMALL = {"vocabulary": 5, "width": 16, "depth": 1, "heads": 2}


def noise_like(module, shape):
    """Parameters away from their initialisation; nothing is compiled for them."""
    shapes = jax.eval_shape(models.network(module).init, KEY, jnp.zeros(shape, jnp.int32), jnp.zeros(()))
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: np.asarray(0.3 * rng.normal(size=leaf.shape), leaf.dtype), shapes)


def tokens(*shape):
    return np.random.default_rng(2).integers(0, 6, shape).astype(np.int32)


def applied(module, shape):
    """(apply, params): batched, compiled at its first call."""
    return jax.jit(models.network(module).apply), noise_like(module, shape)


def norm(x):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)


def dense(p, x):
    return x @ np.asarray(p["kernel"], np.float64) + p["bias"]


def numpy_forward(params, x, e, heads, shape, block):
    """The network of one example from its module's equations, float64; e is the embedding of c and label."""
    h = np.asarray(params["token"]["embedding"], np.float64)[x.reshape(-1)] + params["place"]
    size, width = h.shape
    pairs = width // heads // 2
    axes = [axis for axis, n in enumerate(shape) if n > 1]
    each = pairs // len(axes)
    turn = np.empty((size, pairs))
    for i, place in enumerate(np.ndindex(shape)):
        for a, axis in enumerate(axes):
            for j in range(each):
                turn[i, a * each + j] = place[axis] * 10_000.0 ** (-j / each)

    def attend(q, k, v):
        out = np.empty(q.shape)
        for i in range(size):
            seen = [j for j in range(size) if block is None or j // block <= i // block]
            for head in range(heads):
                at = slice(head * 2 * pairs, (head + 1) * 2 * pairs)
                logits = []
                for j in seen:
                    z = [complex(*v) for v in q[i, at].reshape(-1, 2)] * np.exp(1j * turn[i])
                    y = [complex(*v) for v in k[j, at].reshape(-1, 2)] * np.exp(1j * turn[j])
                    logits.append(np.real(z * np.conj(y)).sum() / math.sqrt(2 * pairs))
                weights = np.exp(np.asarray(logits) - max(logits))
                out[i, at] = weights @ v[seen][:, at] / weights.sum()
        return out

    for i in range(sum(name.startswith("block_") for name in params)):
        p = params[f"block_{i}"]
        b1, a1, g1, b2, a2, g2 = np.split(dense(p["modulation"], e), 6)
        q, k, v = np.split(dense(p["qkv"], norm(h) * (1 + a1) + b1), 3, -1)
        h = h + g1 * dense(p["out"], attend(q, k, v))
        y = dense(p["up"], norm(h) * (1 + a2) + b2)
        gelu = y / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (y + 0.044715 * y**3)))
        h = h + g2 * dense(p["down"], gelu)
    b, a = np.split(dense(params["modulation"], e), 2)
    return dense(params["out"], norm(h) * (1 + a) + b).reshape(*shape, -1)


@pytest.mark.parametrize(("shape", "block"), [pytest.param((6,), None, marks=pytest.mark.slow), ((2, 3, 1), 2)])
def test_network_is_that_of_numpy(shape, block):
    """Two blocks, both kinds of positions, a mask, in one and two axes; a label and a log-SNR."""
    module = models.Transformer(5, 16, 2, 2, classes=3, positions="both", block=block)
    apply, params = applied(module, shape)
    x, c, label = tokens(4, *shape), np.float32([0.0, -3.0, 0.5, np.inf]), np.int32([0, 1, 2, 3])
    out = apply(params, x, c, {"label": label})
    e = layers.Embedding(16, 3).apply({"params": params["embedding"]}, c, label)
    expected = [numpy_forward(params, *row, 2, shape, block) for row in zip(x, np.asarray(e, np.float64))]
    assert (out.shape, out.dtype) == ((4, *shape, 5), jnp.float32)
    np.testing.assert_allclose(out, expected, rtol=2e-4, atol=2e-4)
    assert np.abs(out[:, 0] - out[:, 1]).min() > 1e-3


def test_logits_are_zero_and_blocks_do_nothing_at_initialisation():
    module, h = models.Transformer(**SMALL, classes=3), RNG.normal(size=(6, 16)).astype(np.float32)

    @jax.jit
    def made(x, h):
        params = module.init(KEY, x, 0.0)["params"]
        block = blocks.Block(2).apply({"params": params["block_0"]}, h, jnp.ones(16))
        return params, module.apply({"params": params}, x, 0.0), block

    params, logits, same = made(tokens(6), h)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype("float32")}
    np.testing.assert_array_equal(logits, 0)
    np.testing.assert_array_equal(same, h)


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (models.Transformer(**SMALL, positions="both", block=2), (2, 2)),
        (models.TokenMLP(5, size=4, width=16, depth=1), (2, 3)),
        pytest.param(models.TokenUNet(5, 4, (1,), attention=()), (4, 2, 1), marks=pytest.mark.slow),
    ],
)
def test_an_example_alone_is_what_it_is_in_a_batch(module, shape):
    """vmap is the network of leading axes, no example mixes with another, and one alone is close to the last bit."""
    apply, params = applied(module, shape)
    x, c = tokens(4, *shape), np.zeros(4, np.float32)
    out = np.asarray(apply(params, x, c))
    mapped = np.asarray(jax.jit(jax.vmap(models.network(module).apply, (None, 0, 0)))(params, x, c))
    assert out.shape == (4, *shape, 5)
    np.testing.assert_allclose(mapped, out, rtol=2e-5, atol=1e-5)
    moved = x.copy()
    moved[1] = (moved[1] + 1) % 6
    other = np.asarray(apply(params, moved, c))
    np.testing.assert_array_equal(other[[0, 2, 3]], out[[0, 2, 3]])
    assert np.abs(other[1] - out[1]).max() > 1e-3
    np.testing.assert_allclose(models.network(module).apply(params, x[2], c[2]), out[2], rtol=2e-5, atol=1e-5)


def test_token_mlp_flattens_what_has_more_axes():
    module = models.TokenMLP(5, size=4, width=16, depth=1)
    apply, params = applied(module, (2, 3))
    x, c = tokens(4, 2, 3), np.zeros(4, np.float32)
    np.testing.assert_array_equal(apply(params, x, c), apply(params, x.reshape(4, 6), c).reshape(4, 2, 3, 5))


def test_places_without_positions_are_a_set():
    """Permuting tokens permutes logits, unless places are told."""
    order = np.array([3, 0, 5, 1, 4, 2])
    for positions, equal in (("none", True), ("learned", False)):
        apply, params = applied(models.Transformer(**SMALL, positions=positions), (6,))
        x = tokens(6)
        out, other = (np.asarray(apply(params, x, np.float32(0.0))) for x in (x, x[order]))
        assert (np.abs(other - out[order]).max() < 1e-5) == equal


def test_what_a_block_computes_does_not_depend_on_later_blocks():
    """Bit for bit, through two layers: what cached keys and values rest on."""
    apply, params = applied(models.Transformer(5, 16, 2, 2, positions="rotary", block=2), (6,))
    x = tokens(6)
    for place in range(6):
        moved = x.copy()
        moved[place] = (moved[place] + 1) % 6
        apart = np.abs(apply(params, moved, np.float32(0.0)) - apply(params, x, np.float32(0.0))).max(-1)
        first = place // 2 * 2
        assert np.all(apart[:first] == 0)
        assert np.all(apart[first:] > 1e-6)


def test_dropout_in_training_only():
    module = models.Transformer(**SMALL)
    params, net = noise_like(module, (6,)), models.network(module.clone(dropout=0.5))
    x, c = tokens(6), np.float32(0.0)
    dropped = jax.jit(lambda key: net.apply(params, x, c, train=True, key=key))
    trained = [np.asarray(dropped(jax.random.key(i))) for i in (0, 1, 0)]
    assert np.abs(trained[0] - trained[1]).max() > 1e-3
    np.testing.assert_array_equal(trained[0], trained[2])
    plain = models.network(module).apply
    assert str(jax.make_jaxpr(net.apply)(params, x, c)) == str(jax.make_jaxpr(plain)(params, x, c))


def test_products_are_of_the_compute_dtype_and_close_to_those_of_float32():
    module = models.Transformer(**SMALL, dtype="bfloat16")
    apply, params = applied(module, (6,))
    x, c = tokens(6), np.float32(0.0)
    lines = str(jax.make_jaxpr(models.network(module).apply)(params, x, c)).splitlines()
    products = [line for line in lines if "dot_general" in line]
    assert sum("bf16" in line.split("=")[0] for line in products) == 4 + 1  # qkv, values, out, up, down
    assert not any("bf16" in line.split("=")[0] for line in lines if " exp " in line)  # the softmax
    out = apply(params, x, c)
    assert out.dtype == jnp.float32
    expected = jax.jit(models.network(models.Transformer(**SMALL)).apply)(params, x, c)
    np.testing.assert_allclose(out, expected, atol=0.05 * np.abs(expected).max())


def test_attention_is_in_float64_where_its_arguments_are(x64):
    q, k, v = RNG.normal(size=(3, 5, 2, 4))
    mask = np.tri(5, dtype=bool)
    logits = np.where(mask, np.einsum("qhd,khd->hqk", q, k) / 2, -np.inf)
    weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    found = layers.attention(*map(jnp.asarray, (q, k, v)), jnp.asarray(mask))
    np.testing.assert_allclose(found, np.einsum("hqk,khd->qhd", weights, v), atol=1e-14)


def test_parameter_count():
    """S 12 layers of width 384 has 12 d^2 (+ 6 d e) a layer: the count of the formula, not of the code."""
    v, d, depth, size = 17, 64, 3, 64
    block = 4 * d * d + 8 * d * d + 6 * d * d + (3 + 1 + 4 + 1 + 6) * d
    told = 128 * d + d + d * d + d
    total = (v + 1) * d + size * d + told + depth * block + 2 * d * d + 2 * d + d * v + v
    module = models.Transformer(vocabulary=v, width=d, depth=depth)
    assert sum(leaf.size for leaf in jax.tree.leaves(noise_like(module, (8, 8, 1)))) == total


@pytest.mark.parametrize(
    ("options", "shape", "message"),
    [
        ({"heads": 3}, (4,), "heads = 3 does not divide the width 16"),
        ({"positions": "sine"}, (4,), "positions = 'sine' is unknown; choose from learned, rotary, both, none"),
        ({"block": 0}, (4,), "block = 0: expected a positive integer"),
        ({"dropout": 1.0}, (4,), "dropout = 1.0: expected a probability"),
        ({"dtype": "float16"}, (4,), "dtype = 'float16' is unknown"),
        ({"vocabulary": 0}, (4,), "vocabulary = 0: expected a positive integer"),
        ({"heads": 8, "positions": "rotary"}, (4, 4), "on 2 axes take heads whose width is a multiple of 4, got 2"),
        ({}, (), r"Transformer takes sequences \(L,\) of integers, got int32 of shape \(\)"),
    ],
)
def test_bad_input_is_one_readable_line(options, shape, message):
    with pytest.raises(ValueError, match=message) as error:
        models.network(models.Transformer(**{**SMALL, **options})).init(KEY, tokens(*shape), jnp.zeros(()))
    assert "\n" not in str(error.value)


def test_real_numbers_are_refused():
    with pytest.raises(ValueError, match=r"of integers, got float32 of shape \(4,\)"):
        models.network(models.Transformer(**SMALL)).init(KEY, jnp.zeros(4), jnp.zeros(()))
    with pytest.raises(ValueError, match="got a label, but the network has classes = None"):
        models.Transformer(**SMALL).init(KEY, tokens(4), jnp.zeros(()), 3)
