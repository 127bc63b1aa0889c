"""Similarities of features as potentials: closed forms in NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax.denoisers import similarity

NORMAL = np.random.default_rng(2)
FEATURES, PICTURE = NORMAL.standard_normal((3, 4, 5), np.float32), NORMAL.standard_normal((3, 4), np.float32)
encode = lambda x, t: jnp.tanh(jnp.stack([k * x for k in (1.0, 2.0, 3.0, 4.0, 5.0)], -1))


@functools.cache
def encoded(scale=1):
    """The features of the picture times `scale`, by NumPy."""
    return np.tanh(np.stack([k * scale * PICTURE for k in (1, 2, 3, 4, 5)], -1))


def test_style_is_blind_to_where_things_are_and_structure_is_not():
    shuffled = np.random.default_rng(4).permutation(PICTURE.ravel()).reshape(PICTURE.shape)

    @jax.jit
    def of(x, reference):
        features = encode(reference, 0.0)
        return [make(encode, features)(x, 0.0) for make in (similarity.style, similarity.structure)]

    assert of(PICTURE, PICTURE) == [0, 0]
    style, structure = map(float, of(shuffled, PICTURE))
    assert style == pytest.approx(0, abs=1e-9)
    assert structure < -0.1
    gram, own = (np.einsum("ijc,ijd->cd", encoded(k), encoded(k)) / 12 for k in (2, 1))
    assert float(of(2 * PICTURE, PICTURE)[0]) == pytest.approx(-np.sum((gram - own) ** 2), rel=1e-4)


def test_content_is_a_cosine():
    of = jax.jit(lambda features: similarity.content(encode, features)(PICTURE, 0.0))
    mine, other = encoded().mean((0, 1)), FEATURES.mean((0, 1))
    expected = mine @ other / np.sqrt((mine @ mine) * (other @ other))
    assert float(of(FEATURES)) == pytest.approx(expected, rel=1e-5)
    assert float(of(3 * encoded())) == pytest.approx(1, rel=1e-5)


def test_features_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"features of shape \(2, 2, 5\), the reference has \(3, 4, 5\)"):
        similarity.structure(encode, FEATURES)(jnp.zeros((2, 2)), 0.0)
