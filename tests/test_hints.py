"""Edges as hints: of ramps and steps they are known, and a data set brings them beside what it brought; conditions of
other examples, the negative control."""

import numpy as np
import pytest

from diffjax import data
from diffjax.data import hints, others
from diffjax.method import Drawn


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
    assert (len(made.train), made.shape) == (len(plain.train), plain.shape)
    assert made.fingerprint != plain.fingerprint


def test_edges_of_samples_beside_those_of_others():
    """Against the double loop over pairs; of the image that a hint was drawn of the error is 0."""
    rng = np.random.default_rng(0)
    x, hint = rng.normal(size=(4, 6, 5, 1)).astype(np.float32), rng.normal(size=(4, 6, 5, 1)).astype(np.float32)
    e = hints.edges(x)
    each = [[np.mean((a - b) ** 2) for b in hint] for a in e]
    got = hints.edge_error(x, hint)
    np.testing.assert_allclose(got["value"], np.mean(np.diag(each)), rtol=1e-5)
    np.testing.assert_allclose(got["others"], np.sum(each - np.diag(np.diag(each))) / 12, rtol=1e-5)
    assert hints.edge_error(x, e)["value"] == 0
    assert set(hints.edge_error(x[:1], hint[:1])) == {"value"}


def test_samples_are_judged_by_their_edges_beside_their_own_judge():
    made = data.hinted("digits")
    x = made.held_out.gather(np.arange(9)).x
    own = [object()]
    *first, last = hints.judge(lambda drawn, dataset: own, Drawn(x, {"hint": hints.edges(x)}), made)
    assert first == own
    assert last.results["metrics"]["edge error"]["value"] == 0
    assert hints.judge(lambda drawn, dataset: own, Drawn(x, {}), made) == own  # nothing was asked for
    assert last.results["metrics"]["edge error"]["others"] > 0.01


@pytest.mark.parametrize("made", [data.shuffled("digits"), data.hinted("digits", shuffled=True)])
def test_conditions_of_others(made):
    """x stays, what is given keeps its law and is independent of x: as many labels agree as chance has it."""
    plain, at = data.digits(), np.arange(1500)
    batch, own = made.train.gather(at), plain.train.gather(at)
    np.testing.assert_array_equal(batch.x, own.x)
    label, true = batch.given["label"], own.given["label"]
    np.testing.assert_array_equal(np.sort(label), np.sort(true))
    np.testing.assert_array_equal(label, made.train.labels)
    share = np.bincount(true) / 1500
    assert abs(np.mean(label == true) - np.sum(share**2)) < 4 * np.sqrt(0.09 / 1500)
    np.testing.assert_array_equal(made.train.gather(at[7:9]).given["label"], label[7:9])
    if "hint" in batch.given:  # label and hint are those of one image
        edges = hints.edges(own.x)
        np.testing.assert_array_equal(batch.given["hint"], edges[made.train.at])
        assert np.mean(np.all(batch.given["hint"] == edges, (1, 2, 3))) < 0.01
    here = np.arange(297)
    held, true = made.held_out.gather(here), plain.held_out.gather(here)
    np.testing.assert_array_equal(held.given["label"], true.given["label"])
    assert made.fingerprint != plain.fingerprint


PLAIN = data.arrays(np.zeros((20, 4, 4, 1), np.float32))


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: data.hinted("digit"), "There is no data set 'digit' to draw the edges of.*digits"),
        (lambda: data.shuffled("digit"), "There is no data set 'digit' to shuffle the conditions of.*digits"),
        (lambda: others.of_others(PLAIN), "Nothing is known of the examples of .* but x"),
    ],
)
def test_mistakes_are_one_line(make, match):
    with pytest.raises(ValueError, match=match) as found:
        make()
    assert "\n" not in str(found.value)
