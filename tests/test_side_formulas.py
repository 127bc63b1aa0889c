"""Side networks by their equations: what each computes beside small bases, in NumPy, away from where it begins."""

import jax
import numpy as np
import pytest
from flax import linen as nn

from diffjax.models import layers, side
from diffjax.models.blocks import Block

RNG, C = np.random.default_rng(4), np.float32(0.0)


class Two(nn.Module):
    """tanh(x W) V, of layers "patch" and "last"."""

    @nn.compact
    def __call__(self, x, c):
        return nn.Dense(5, use_bias=False, name="last")(nn.tanh(nn.Dense(4, use_bias=False, name="patch")(x)))


class Attention(nn.Module):
    """Attention of tokens (T, heads, D), x W, that are queries, keys and values at once."""

    @nn.compact
    def __call__(self, x, c):
        x = nn.Dense(4, use_bias=False, name="patch")(x)
        return layers.Attend(name="attention")(x, x, x)


class Blocks(nn.Module):
    """Three blocks of one head, told ones."""

    @nn.compact
    def __call__(self, x, c):
        for i in range(3):
            x = Block(heads=1, name=f"block_{i}")(x, np.ones(3, np.float32))
        return x


def moved(net, x, given=None):
    """Parameters of the network's shapes, all of them drawn: no part is zero."""
    shapes = jax.eval_shape(net.init, jax.random.key(0), x, C, given or {})
    return jax.tree.map(lambda leaf: RNG.normal(size=leaf.shape).astype(np.float32) / 2, shapes)


def applied(net, params, x, given=None):
    with jax.disable_jit():
        return np.asarray(net.apply(params, x, C, given or {}))


def double(tree):
    return jax.tree.map(np.float64, tree)


def softmax(logits):
    e = np.exp(logits - logits.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


TOKENS = RNG.normal(size=(3, 6)).astype(np.float32)


@pytest.mark.parametrize("stabilised", [False, True])
def test_lora(stabilised):
    net = side.lora(Two(), rank=2, where="patch", gamma=3.0, stabilised=stabilised)
    params = moved(net, TOKENS)
    base, own = double(params["base"]), double(params["side"]["lora"]["patch"])
    s = 3 / np.sqrt(2) if stabilised else 3 / 2
    want = np.tanh(TOKENS @ (base["patch"]["kernel"] + s * own["A"] @ own["B"])) @ base["last"]["kernel"]
    np.testing.assert_allclose(applied(net, params, TOKENS), want, rtol=1e-4, atol=1e-5)


def test_adapter():
    net = side.adapter(Two(), width=3, where="patch")
    params = moved(net, TOKENS)
    base, own = double(params["base"]), double(params["side"]["adapters"]["patch"]["adapter"])
    h = TOKENS @ base["patch"]["kernel"]
    narrow = h @ own["into"]
    h = h + (narrow / (1 + np.exp(-narrow))) @ own["out"]
    np.testing.assert_allclose(applied(net, params, TOKENS), np.tanh(h) @ base["last"]["kernel"], rtol=1e-4, atol=1e-5)


def test_prefix():
    """Of two heads, each with a gate of its own."""
    x = RNG.normal(size=(5, 2, 4)).astype(np.float32)
    net = side.prefix(Attention(), tokens=3)
    params = moved(net, x)
    own = params["side"]["prefixes"]["attention"]
    keys, values, gate = (np.float64(own[name]) for name in ("keys", "values", "gate"))
    seen = x @ np.float64(params["base"]["patch"]["kernel"])
    want = np.zeros(x.shape)
    for head in range(2):
        q = seen[:, head]
        want[:, head] = softmax(q @ q.T / 2) @ q  # sqrt(D) = 2
        want[:, head] += np.tanh(gate[head]) * softmax(q @ keys[:, head].T / 2) @ values[:, head]
    np.testing.assert_allclose(applied(net, params, x), want, rtol=1e-4, atol=1e-5)


def test_ladder_of_two_taps():
    """The rungs by `Block` itself, the rest written out; the block that is not tapped moves the base alone."""
    x = RNG.normal(size=(4, 6)).astype(np.float32)
    net = side.ladder(Blocks(), width=2, where="block_(0|2)$")
    params = moved(net, x)
    base, own = params["base"], params["side"]["ladder"]
    e = np.ones(3, np.float32)
    run = lambda block, h: np.asarray(Block(heads=1).apply({"params": block}, h.astype(np.float32), e), np.float64)
    with jax.disable_jit():
        h0 = run(base["block_0"], x)
        h2 = run(base["block_2"], run(base["block_1"], h0))
        s = np.zeros((4, 2))
        for rung, h in (("rung_00", h0), ("rung_01", h2)):
            g = 1 / (1 + np.exp(-np.float64(own[rung]["gate"]) / 0.1))
            s = run(own[rung]["block"], g * h @ np.float64(own[rung]["down"]) + (1 - g) * s)
    np.testing.assert_allclose(applied(net, params, x), h2 + s @ np.float64(own["up"]), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("where", ["patch", "patch|last"])
def test_control(where):
    """The copy ends behind its last map, and hears nothing of what is added to the base's."""
    net = side.control(Two(), where=where, hint=2)
    hint = RNG.normal(size=(3, 2)).astype(np.float32)
    params = moved(net, TOKENS, {"hint": hint})
    base, own = double(params["base"]), double(params["side"]["control"])
    W, V = (base[name]["kernel"] for name in ("patch", "last"))
    assert ("last" in own["copy"]) == ("last" in where)
    copied = TOKENS @ (W + own["copy"]["patch"]["kernel"])
    h = np.tanh(TOKENS @ W + (copied + hint @ np.float64(params["side"]["hint"])) @ own["zeros"]["patch"]) @ V
    got = applied(net, params, TOKENS, {"hint": hint})
    if where == "patch|last":
        # The copy's map is what its layer gives, which a hint told behind that layer is added to.
        told = copied + hint @ np.float64(params["side"]["hint"])
        h = h + np.tanh(told) @ (V + own["copy"]["last"]["kernel"]) @ own["zeros"]["last"]
    np.testing.assert_allclose(got, h, rtol=1e-4, atol=1e-5)


class Wide(nn.Module):
    """x W, then attention of four heads of 16."""

    @nn.compact
    def __call__(self, x, c):
        y = nn.Dense(64, use_bias=False, name="dense")(x).reshape(*x.shape[:-1], 4, 16)
        return layers.Attend(name="attention")(y, y, y)


def test_what_is_drawn_at_first_keeps_the_size_of_what_it_meets():
    """Standard deviations of 1 / sqrt(inputs); of a prefix's keys 1. Of 1600 numbers or more, within 4 of their own."""
    x = np.zeros((2, 100), np.float32)
    with jax.disable_jit():
        first = lambda net, name: net.init(jax.random.key(1), x, C)["side"][name]
        low = first(side.lora(Wide(), rank=20, where="dense"), "lora")["dense"]["A"]
        into = first(side.adapter(Wide(), width=30, where="dense"), "adapters")["dense"]["adapter"]["into"]
        own = first(side.prefix(Wide(), tokens=40), "prefixes")["attention"]
    for leaf, std in ((low, 0.1), (into, 1 / 8), (own["keys"], 1.0), (own["values"], 0.25)):
        assert abs(np.std(leaf) / std - 1) < 4 / np.sqrt(2 * leaf.size), (leaf.shape, std)
    assert np.std(own["keys"] - 4 * own["values"]) > 1  # not one draw


def test_a_hint_enters_behind_the_layer_that_x_enters_by():
    net = side.lora(Two(), rank=1, where="last", hint=2)
    hint = RNG.normal(size=(3, 2)).astype(np.float32)
    params = moved(net, TOKENS, {"hint": hint})
    params["side"]["lora"]["last"]["B"] *= 0
    base, Z = double(params["base"]), np.float64(params["side"]["hint"])
    want = np.tanh(TOKENS @ base["patch"]["kernel"] + hint @ Z) @ base["last"]["kernel"]
    np.testing.assert_allclose(applied(net, params, TOKENS, {"hint": hint}), want, rtol=1e-4, atol=1e-5)
    none = np.tanh(TOKENS @ base["patch"]["kernel"]) @ base["last"]["kernel"]
    np.testing.assert_allclose(applied(net, params, TOKENS), none, rtol=1e-4, atol=1e-5)
