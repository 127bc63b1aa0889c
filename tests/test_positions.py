"""Positions: sines and cosines by hand, rotations that read distances, offsets by enumeration."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from diffjax.models import positions


def test_sincos_of_a_place_by_hand():
    """Row 1, column 2 of a grid, 8 entries: the column's sines and cosines at frequencies 1 and 1 / 100, the row's."""
    found = positions.sincos((2, 3), 8)
    assert found.shape == (6, 8)
    expected = [0.909297, 0.019999, -0.416147, 0.999800, 0.841471, 0.010000, 0.540302, 0.999950]
    np.testing.assert_allclose(found[5], expected, atol=1e-6)
    np.testing.assert_allclose(found[0], [0, 0, 1, 1, 0, 0, 1, 1])


def test_sincos_on_one_and_three_axes():
    np.testing.assert_allclose(positions.sincos((4,), 4)[3], [np.sin(3), np.sin(0.03), np.cos(3), np.cos(0.03)], 1e-6)
    volume = positions.sincos((2, 3, 2), 6)
    last_first = [f(p) for p in (0, 2, 1) for f in (np.sin, np.cos)]  # of (1, 2, 0), row after row the 11th
    np.testing.assert_allclose(volume[10], last_first, rtol=1e-6)


def test_rotation_reads_distances_and_keeps_norms(x64, monkeypatch):
    """The value for rng(0), offset (1, -2), base 100 was computed independently; a shift of all places changes none."""
    monkeypatch.setattr(positions, "BASE", 100.0)
    q, k = np.random.default_rng(0).normal(size=(2, 16))
    turns = positions.angles((4, 4), 16).astype(np.float64).reshape(4, 4, 8)
    turned = lambda x, i, j: np.asarray(positions.turned(jnp.asarray(x)[None, None], jnp.asarray(turns[i, j])[None]))
    product = lambda a, b: np.sum(turned(q, *a) * turned(k, *b))
    np.testing.assert_allclose(product((0, 2), (1, 0)), 4.546280, atol=2e-6)
    np.testing.assert_allclose(product((1, 3), (2, 1)), 4.546280, atol=2e-6)
    assert abs(product((0, 0), (1, 2)) - 4.546280) > 0.1
    np.testing.assert_allclose(np.linalg.norm(turned(q, 3, 2)), np.linalg.norm(q))


@pytest.mark.parametrize("shape", [(5,), (2, 3), (3, 1), (2, 2, 3)])
def test_offsets_are_equal_where_places_are_equally_far_apart(shape):
    found, places = positions.offsets(shape), list(np.ndindex(shape))
    numbers = {}
    for (i, a), (j, b) in itertools.product(enumerate(places), repeat=2):
        numbers.setdefault(tuple(np.subtract(a, b)), set()).add(int(found[i, j]))
    assert all(len(each) == 1 for each in numbers.values())
    assert len(set.union(*numbers.values())) == len(numbers) == np.prod([2 * n - 1 for n in shape])
    assert found.min() == 0
    assert found.max() == len(numbers) - 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: positions.sincos((2, 2), 6),
            "on 2 axes take a width that is a multiple of 4, got 6: change the width",
        ),
        (lambda: positions.angles((2, 2), 6), "on 2 axes take heads whose width is a multiple of 4, got 6"),
    ],
)
def test_widths_that_axes_cannot_share_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
