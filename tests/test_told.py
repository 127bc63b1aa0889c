"""What a DiT is told beside label and log-SNR: padding, no text, order, vectors and images that may be absent."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax import models
from diffjax.models import dit, layers
from diffjax.models import text as told
from diffjax.types import NULL, PADDING

KEY = jax.random.key(0)
SHAPE, C = (4, 4, 1), np.float32(0.3)
SMALL = {"depth": 1, "width": 16, "heads": 2}
X = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
TEXT = np.int32([5, 3, 4, PADDING, PADDING])
ALL = {"text": (7, 5), "text_depth": 1, "vector": 3, "image": 2}


def noise_like(module, shape=SHAPE):
    """Parameters away from their initialisation; nothing is compiled for them."""
    shapes = jax.eval_shape(models.network(module).init, KEY, jnp.zeros(shape), jnp.zeros(()))
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: np.asarray(0.3 * rng.normal(size=leaf.shape), leaf.dtype), shapes)


@pytest.fixture(scope="module")
def net():
    """(params, given -> F): everything that a DiT may be told, one program for each set of names."""
    module = models.DiT(**SMALL, classes=2, **ALL)
    params, apply = noise_like(module), jax.jit(models.network(module).apply)
    return params, lambda given, params=params, x=X: np.asarray(apply(params, x, C, given))


def changed(params, path, change):
    """A copy of parameters with one leaf changed."""
    leaf, params = params, jax.tree.map(np.copy, params)
    leaf = params
    for name in path.split("/"):
        leaf = leaf[name]
    change(leaf)
    return params


def test_padding_is_seen_by_nobody(net):
    """Whatever stands in its places: embedding and place of padding at 1e6 change not a bit."""
    params, f = net
    loud = changed(params, "told/text/token/embedding", lambda leaf: leaf.__setitem__(PADDING, 1e6))
    loud = changed(loud, "told/text/place", lambda leaf: leaf.__setitem__(slice(3, 5), -1e6))
    np.testing.assert_array_equal(f({"text": TEXT}, loud), f({"text": TEXT}))
    seen = changed(params, "told/text/token/embedding", lambda leaf: leaf.__setitem__(4, 2.0))
    assert np.abs(f({"text": TEXT}, seen) - f({"text": TEXT})).max() > 1e-3


def test_a_text_is_what_it_is_at_any_length():
    """Two more places of padding, in an encoder without an order and in the mean; a batch has texts of all lengths."""
    encode = told.TextEncoder(7, 16, depth=1, heads=2, order=False)
    shapes = jax.eval_shape(encode.init, KEY, TEXT)["params"]
    rng = np.random.default_rng(2)
    params = jax.tree.map(lambda leaf: (0.5 * rng.normal(size=leaf.shape)).astype(np.float32), shapes)
    apply = jax.jit(lambda text: told.mean_seen(*encode.apply({"params": params}, text)))  # pyright: ignore
    short, long = np.asarray(apply(TEXT[:3])), np.asarray(apply(TEXT))
    np.testing.assert_allclose(long, short, rtol=1e-5, atol=1e-6)
    rows = np.stack([TEXT, np.int32([6, 0, 0, 0, 0]), told.null_text(5)])
    for one, together in zip(map(apply, rows), np.asarray(apply(rows))):
        np.testing.assert_allclose(one, together, rtol=1e-5, atol=1e-6)
    order = np.int32([4, 5, 3, PADDING, PADDING])
    np.testing.assert_allclose(apply(order), long, rtol=1e-5, atol=1e-6)  # a set of words


def test_the_mean_is_that_of_the_words():
    tokens = np.float32([[1.0, 2.0], [3.0, 6.0], [1e6, -1e6]])
    np.testing.assert_array_equal(told.mean_seen(tokens, np.asarray([True, True, False])), [2.0, 4.0])


def test_places_tell_the_order(net):
    _, f = net
    apart = f({"text": np.int32([3, 5, 4, PADDING, PADDING])}) - f({"text": TEXT})
    assert np.abs(apart).max() > 1e-3


def test_nothing_given_is_none_of_each(net):
    """As the network says its none: the row after the last class, the empty text, entries that are absent."""
    _, f = net
    none = models.network(models.DiT(**SMALL, classes=2, **ALL)).none
    assert {name: np.shape(value) for name, value in none.items()} == {
        "label": (),
        "text": (5,),
        "vector": (),
        "image": (),
    }
    assert none["text"].tolist() == [NULL, 0, 0, 0, 0]
    full = {"vector": np.full(3, none["vector"]), "image": np.full((4, 4, 2), none["image"])}
    nothing = f({})
    # Other conditions make another program, whose last bits are its own.
    np.testing.assert_allclose(f({**none, **full}), nothing, rtol=2e-5, atol=2e-6)
    np.testing.assert_allclose(f({"text": np.zeros(5, np.int32)}), nothing, rtol=2e-5, atol=2e-6)  # of padding alone
    assert np.isfinite(nothing).all()
    own = {
        "label": np.int32(1),
        "text": TEXT,
        "vector": np.float32([0, 0, 0]),
        "image": np.zeros((4, 4, 2), np.float32),
    }
    for name, value in own.items():  # each is told: zeros are a vector and an image, not the lack of one
        assert np.abs(f({name: value}) - nothing).max() > 1e-3, name


def test_a_batch_is_that_of_vmap(net):
    params, f = net
    given = {
        "text": np.stack([TEXT, told.null_text(5)]),
        "image": np.stack([np.ones((4, 4, 2)), np.full((4, 4, 2), np.nan)]),
    }
    given = {**given, "image": given["image"].astype(np.float32), "vector": np.float32([[1, 2, 3], [np.nan] * 3])}
    apply = jax.jit(models.network(models.DiT(**SMALL, classes=2, **ALL)).apply)
    rows = np.asarray(apply(params, np.stack([X, X]), np.stack([C, C]), given))
    for i in range(2):
        one = f({name: value[i] for name, value in given.items()})
        np.testing.assert_allclose(rows[i], one, rtol=1e-4, atol=1e-5)


def test_a_network_that_is_told_begins_as_one_that_is_not():
    """Cross-attention and the mean's map are 0 at first: of equal parameters beside, not a bit differs."""
    plain, module = models.DiT(**SMALL), models.DiT(**SMALL, text=(7, 5), text_depth=1)
    net = models.network(module)
    params = jax.jit(lambda: net.init(KEY, jnp.zeros(SHAPE), jnp.zeros(())))()
    away = noise_like(plain)
    cross = {"cross": params["block_0"]["cross"]}
    whole = {**params, **away, "told": params["told"], "block_0": {**away["block_0"], **cross}}
    np.testing.assert_array_equal(params["block_0"]["cross"]["out"]["kernel"], 0)
    expected = jax.jit(models.network(plain).apply)(away, X, C)
    np.testing.assert_array_equal(jax.jit(net.apply)(whole, X, C, {"text": TEXT}), expected)


def cross_attention(params, h, beside, seen, heads):
    """The layer in float64 NumPy, for one example without qk_norm: query by query, over seen tokens alone."""
    of = lambda name, a: a @ np.float64(params[name]["kernel"]) + np.float64(params[name]["bias"])
    y = (h - h.mean(-1, keepdims=True)) / np.sqrt(h.var(-1, keepdims=True) + 1e-6)
    q, (k, v) = of("query", y), np.split(of("told", beside[seen]), 2, axis=-1)
    out = np.zeros_like(h)
    for head in np.split(np.arange(h.shape[-1]), heads):
        logits = q[:, head] @ k[:, head].T / np.sqrt(len(head))
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        out[:, head] = weights / weights.sum(-1, keepdims=True) @ v[:, head]
    return of("out", out)


def test_cross_attention_is_that_of_numpy():
    from diffjax.models.blocks import CrossAttention

    rng = np.random.default_rng(3)
    h, beside, seen = rng.normal(size=(6, 8)), rng.normal(size=(5, 4)), np.asarray([True, False, True, True, False])
    module = CrossAttention(2)
    args = (h.astype(np.float32), beside.astype(np.float32), seen)
    shapes = jax.eval_shape(module.init, KEY, *args)["params"]
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)
    found = jax.jit(module.apply)({"params": params}, *args)
    np.testing.assert_allclose(found, cross_attention(params, h, beside, seen, 2), rtol=2e-4, atol=2e-4)


@pytest.mark.slow  # compiles a scan
def test_a_scan_reads_as_much_as_blocks_apart():
    module = models.JiT(depth=2, width=16, heads=2, classes=3, bottleneck=6, prefix=2, prefix_from=1, text=(7, 5))
    params, given = noise_like(module), {"text": TEXT, "label": np.int32(1)}
    plain = jax.jit(models.network(module).apply)(params, X, C, given)
    scanned = jax.jit(models.network(module.clone(scan=True)).apply)(dit.stacked(params, 1), X, C, given)
    np.testing.assert_allclose(scanned, plain, rtol=1e-4, atol=1e-4)


def test_what_the_network_reads():
    net = models.network(models.DiT(**SMALL, **ALL))
    assert set(net.reads or ()) == {"text", "vector", "image"}
    assert net.text == (7, 5)
    assert models.network(models.DiT(**SMALL)).none == {}
    assert models.DiT.of_data((8, 8, 1), 3, (20, 6))["text"] == (20, 6)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"text": np.zeros(6, np.int32)}, r"A text has shape \(6,\), expected \(5,\): the model's text is \(7, 5\)"),
        ({"vector": np.zeros(2, np.float32)}, r"has shape \(2,\), expected \(3,\): set the model's vector"),
        ({"image": np.zeros((8, 8, 2), np.float32)}, r"has shape \(8, 8, 2\), expected \(4, 4, 2\)"),
    ],
)
def test_another_shape_is_refused_in_one_line(given, said):
    net = models.network(models.DiT(**SMALL, **ALL))
    with pytest.raises(ValueError, match=said) as error:
        jax.eval_shape(net.init, KEY, X, C, given)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", [(7,), (2, 5), (7, 0), (7, 5, 1), (7.5, 5)])
def test_sizes_of_texts_are_two_counts(text):
    with pytest.raises(ValueError, match=r"expected \(V, L\), tokens, of which 0 and 1 are no words"):
        models.DiT(**SMALL, text=text)


def test_attention_of_no_key_is_why_padding_alone_is_no_text():
    """A row that sees nothing has no softmax; the encoder never makes one."""
    q = np.ones((1, 1, 2), np.float32)
    assert np.isnan(layers.attention(q, q, q, np.zeros((1, 1), bool))).all()
