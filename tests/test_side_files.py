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
    size = side_files.write(tmp_path / "a.safetensors", params)
    count = sum(leaf.size for leaf in jax.tree.leaves(params["side"]))
    assert 4 * count < size < 4 * count + 1500  # no number of the base
    back = side_files.read(tmp_path / "a.safetensors", params["base"], shapes["side"])
    jax.tree.map(np.testing.assert_array_equal, back, params)
    assert jax.tree.structure(back) == jax.tree.structure(params)


def test_a_side_of_something_else_is_refused(tmp_path):
    net = side.lora(BASE, rank=2, where="^dense")
    params, shapes = drawn(net, 1)
    path = tmp_path / "a.safetensors"
    side_files.write(path, params)
    moved = jax.tree.map(np.copy, params["base"])
    moved["out"]["bias"][0] = np.nextafter(moved["out"]["bias"][0], np.float32(9))  # one bit of one number
    with pytest.raises(ValueError, match="is the side of another base: it was trained on parameters of digest"):
        side_files.read(path, moved, shapes["side"])
    with pytest.raises(ValueError, match="expected float32 of shape"):
        side_files.read(path, params["base"], drawn(side.lora(BASE, rank=1, where="^dense"), 1)[1]["side"])
    with pytest.raises(ValueError, match="has no parameter"):
        side_files.read(path, params["base"], drawn(side.adapter(BASE, where="^dense"), 1)[1]["side"])
    with pytest.raises(ValueError, match="expected a base and a side"):
        side_files.write(path, params["base"])
    weights.write(path, weights.named(params["side"]), {})
    with pytest.raises(ValueError, match="it is no side net's file"):
        side_files.read(path, params["base"], shapes["side"])
