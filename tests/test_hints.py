"""Edges as hints: of ramps and steps they are known, and a data set brings them beside what it brought."""

import numpy as np
import pytest

from diffjax import data
from diffjax.data import hints


def test_edges_of_ramps_and_steps():
    rows, columns = np.mgrid[:6, :5].astype(np.float32)
    ramp = (3 * rows + 4 * columns)[None, :, :, None]
    got = hints.edges(ramp)
    assert (got.shape, got.dtype) == ((1, 6, 5, 1), np.float32)
    np.testing.assert_allclose(got[0, 1:-1, 1:-1, 0], 5, rtol=1e-6)  # |(3, 4)|
    np.testing.assert_allclose(got[0, 0, 1:-1, 0], np.hypot(1.5, 4), rtol=1e-6)  # half a difference at the edge
    step = np.where(columns < 2, -1.0, 1.0)[None, :, :, None]
    np.testing.assert_allclose(hints.edges(step)[0, :, :, 0], np.tile([0, 1, 1, 0, 0], (6, 1)))
    both = np.concatenate([step, ramp], -1)  # the largest of the channels
    np.testing.assert_allclose(hints.edges(both), np.maximum(hints.edges(step), got))


def test_a_data_set_with_hints():
    plain, made = data.digits(), data.hinted("digits")
    indices = np.array([3, 0, 7])
    batch, own = made.train.gather(indices), plain.train.gather(indices)
    np.testing.assert_array_equal(batch.x, own.x)
    np.testing.assert_array_equal(batch.given["label"], own.given["label"])
    np.testing.assert_array_equal(batch.given["hint"], hints.edges(own.x))
    assert (len(made.train), made.shape, made.judge) == (len(plain.train), plain.shape, plain.judge)
    assert made.fingerprint != plain.fingerprint


@pytest.mark.parametrize(
    ("make", "match"),
    [(lambda: data.hinted("digit"), "There is no data set 'digit' to draw the edges of.*digits")],
)
def test_mistakes_are_one_line(make, match):
    with pytest.raises(ValueError, match=match):
        make()
