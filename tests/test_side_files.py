"""A side alone in a file: it comes back on its own base, to the bit, and is refused on any other."""

import jax
import numpy as np
import pytest

from diffjax import models, side_files, weights
from diffjax.models import side

BASE = models.MLP(width=4, depth=1)
X, C = np.float32([0.3, -0.8]), np.float32(0.1)


def drawn(net, seed):
    draw = np.random.default_rng(seed).normal
    shapes = jax.eval_shape(net.init, jax.random.key(0), X, C)
    return jax.tree.map(lambda leaf: np.asarray(draw(size=leaf.shape), leaf.dtype), shapes), shapes


def test_a_side_comes_back_on_its_base(tmp_path):
    net = side.lora(BASE, rank=2, where="^dense", classes=3)
    params, shapes = drawn(net, 1)
    size = side_files.write(tmp_path / "a.safetensors", net.side, params)
    count = sum(leaf.size for leaf in jax.tree.leaves(params["side"]))
    assert 4 * count < size < 4 * count + 1500  # no number of the base
    back = side_files.read(tmp_path / "a.safetensors", net.side, params["base"], shapes["side"])
    jax.tree.map(np.testing.assert_array_equal, back, params)
    assert jax.tree.structure(back) == jax.tree.structure(params)


def test_a_side_of_something_else_is_refused(tmp_path):
    net = side.lora(BASE, rank=2, where="^dense")
    params, shapes = drawn(net, 1)
    path = tmp_path / "a.safetensors"
    side_files.write(path, net.side, params)
    moved = jax.tree.map(np.copy, params["base"])
    moved["out"]["bias"][0] = np.nextafter(moved["out"]["bias"][0], np.float32(9))  # one bit of one number
    with pytest.raises(ValueError, match="is the side of another base: it was trained on parameters of digest"):
        side_files.read(path, net.side, moved, shapes["side"])
    with pytest.raises(ValueError, match="expected float32 of shape"):
        side_files.read(path, net.side, params["base"], drawn(side.lora(BASE, rank=1, where="^dense"), 1)[1]["side"])
    with pytest.raises(ValueError, match="has no parameter"):
        side_files.read(path, net.side, params["base"], drawn(side.adapter(BASE, where="^dense"), 1)[1]["side"])
    with pytest.raises(ValueError, match="expected a base and a side"):
        side_files.write(path, net.side, params["base"])
    with pytest.raises(ValueError, match="The kind of the side is '', expected a text"):
        side_files.write(path, models.of(BASE).side, params)
    weights.write(path, weights.named(params["side"]), {})
    with pytest.raises(ValueError, match="it is no side net's file"):
        side_files.read(path, net.side, params["base"], shapes["side"])


def test_a_side_of_another_factor_is_refused(tmp_path):
    """gamma = 4 and 40 have the shapes of each other; gamma / r = 2 is that of gamma = 2 sqrt(2) and stabilised too."""
    of = lambda **options: side.lora(BASE, rank=2, where="^dense", **options)
    params, shapes = drawn(of(), 1)
    path = tmp_path / "a.safetensors"
    side_files.write(path, of().side, params)
    one = "is the file of the side 'lora, s = 2', expected 'lora, s = "
    for other, s in ((of(gamma=40.0), "20'"), (of(stabilised=True), "2.82843'")):
        with pytest.raises(ValueError, match=one + s) as found:
            side_files.read(path, other.side, params["base"], shapes["side"])
        assert "\n" not in str(found.value)
    alike = of(gamma=2 * 2**0.5, stabilised=True)
    back = side_files.read(path, alike.side, params["base"], shapes["side"])
    np.testing.assert_allclose(alike.apply(back, X, C), of().apply(params, X, C), rtol=1e-5)
    weights.write(path, weights.named(params["side"]), {side_files.BASE: side_files.digest(params["base"])})
    with pytest.raises(ValueError, match="that it does not name"):
        side_files.read(path, of().side, params["base"], shapes["side"])
