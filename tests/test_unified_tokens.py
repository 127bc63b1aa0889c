"""Estimate and correct on tokens: the theorem of the joint draw, and walks of arrays, against enumerated laws."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from enumerated import ancestral as enumerated_ancestral
from enumerated import kl, total_variation, unified_law
from estimate_correct import KEY, batched, exact, tokens
from samplers_table import state_x
from scipy import stats
from token_process import Exact, Replacing, Tally

from diffjax.samplers import sampling_fn, unified
from diffjax.samplers.unified import Row
from diffjax.schedules import Rectified
from diffjax.types import Categorical

LAWS = {  # data, pi
    "mask": (unified_law(3, 3, 1, 0, 7), [0.0, 0.0, 0.0, 1.0]),
    "uniform": (unified_law(3, 2, 1, 0, 7), [1 / 3] * 3),
    "biased, with a mask": (unified_law(2, 2, 1, 1, 7), [0.5, 0.2, 0.3]),
}


def chain(name, n, share, joint=True):
    """(the laws of x_s after every step, the tally) of the sampler's own step, on every outcome; n even steps."""
    p, law = LAWS[name]
    tally = Tally(p, law, np.linspace(0, 1, n + 1), joint)
    now, found = np.prod(tally.law[tally.x], -1), []
    for i in range(n):
        now = tally.step(unified(tally, share), now, i, Row(i, i + 1, share))
        found.append(now)
    return found, tally


def data(tally, law):
    """What a law of states says of the tokens of data."""
    law = np.asarray(law).reshape((tally.states,) * tally.length)
    assert law.sum() == pytest.approx(1, abs=1e-12)
    return law[(slice(tally.vocabulary),) * tally.length]


JOINT = list(itertools.product(LAWS, (1, 2, 3), (0.0, 0.3, 1.0)))
HEAVY = [case for case in JOINT if case[:2] == ("mask", 3)]  # a million outcomes


@pytest.mark.parametrize(
    ("name", "n", "share"), [pytest.param(*case, marks=pytest.mark.slow if case in HEAVY else ()) for case in JOINT]
)
def test_a_joint_draw_leaves_every_marginal_exact(name, n, share):
    """At every share and number of steps, one included; at every step, not at the last alone."""
    found, tally = chain(name, n, share)
    for i, law in enumerate(found):
        expected = np.bincount(tally.number(tally.moved(i + 1)).ravel(), weights(tally), len(tally.x))
        np.testing.assert_allclose(law, expected, atol=1e-12)  # sums of up to a million terms
    np.testing.assert_allclose(data(tally, found[-1]), tally.p, atol=1e-12)
    verbs = {0.0: ["model", "invert"], 1.0: ["model"]}.get(share, ["model", "invert", "renew"])
    assert tally.told == [*((verb, share if verb == "renew" else n - 1) for verb in verbs), ("corrupt", n)]


def weights(tally):
    """p(x_0) q(z) of every pair."""
    return (tally.p0[:, None] * tally.q_place.prod(-1)).ravel()


def test_a_draw_place_by_place_does_not():
    """Two steps: one law for all shares, for the last step arrives where all noise is gone. One is the marginals'."""
    two = [data(tally, found[-1]) for found, tally in (chain("mask", 2, share, False) for share in (0.0, 0.5, 1.0))]
    np.testing.assert_allclose(two[1:], np.stack([two[0]] * 2), atol=1e-15)
    p = LAWS["mask"][0]
    assert kl(p, two[0]) == pytest.approx(0.0350595, abs=5.1e-8)
    one = data(chain("mask", 1, 0.0, False)[1], chain("mask", 1, 0.0, False)[0][-1])
    marginals = [p.sum(tuple(j for j in range(3) if j != i)) for i in range(3)]
    np.testing.assert_allclose(one, np.einsum("i,j,k->ijk", *marginals), atol=1e-15)


def test_kept_masks_are_ancestral_steps():
    """Against the chain that opens hidden tokens with probability 1 - s / t, enumerated."""
    found, tally = chain("mask", 3, 0.0, False)
    np.testing.assert_allclose(data(tally, found[-1]), enumerated_ancestral(tally.p, 3), atol=1e-15)


def test_with_three_steps_the_share_matters():
    laws = [data(tally, found[-1]) for found, tally in (chain("uniform", 3, share, False) for share in (0.0, 0.5))]
    assert total_variation(*laws) > 1e-3


def test_walks_of_tokens_have_the_enumerated_law():
    """int32 in the walk, and back in the integers that were given; a share of another number is no new program."""
    p, process, model = tokens()
    count, ts = 8000, np.linspace(1, 0, 3)
    keys = jax.random.split(KEY, count)
    x = jax.vmap(lambda key: process.prior(key, (2,)))(jax.random.split(jax.random.key(1), count))
    for share in (0.3, 0.8):
        before = batched._cache_size()
        found = np.asarray(batched(sampling_fn(unified(process, share), ts), model, keys, x.astype(jnp.uint8)))
        assert batched._cache_size() - before == (share == 0.3)
        assert found.dtype == np.uint8
        laws, tally = chain("biased, with a mask", 2, share, joint=False)
        expected = data(tally, laws[-1])
        seen = np.bincount(2 * found[:, 0] + found[:, 1], minlength=4)
        assert stats.chisquare(seen, count * expected.ravel()).pvalue > 1e-3
        assert stats.chisquare(seen, count * p.ravel()).pvalue < 1e-3  # it can tell


@exact
def test_tokens_walk_with_numbers_of_the_default_precision():
    _, process, model = tokens()
    seen = []

    class Noted:
        schedule = process.schedule

        def __call__(self, x, t):
            seen.append((x.dtype, t.dtype))
            return Categorical(model(x, t).logits.astype(jnp.bfloat16))

    sample = sampling_fn(unified(process), [1.0, 0.5, 0.0], trace=state_x)
    x, path = sample(Noted(), KEY, np.array([2, 2]))
    assert seen == [(jnp.int32, jnp.float64)]
    assert (x.dtype, path.dtype, path.shape) == (jnp.int64, jnp.int32, (2, 2))
    np.testing.assert_array_equal(path[-1], x)


def test_tokens_of_a_model_of_another_schedule_are_none():
    _, process, model = tokens()
    sample = sampling_fn(unified(process), [0.9, 0.5, 0.0], max_rows=5)
    keys, x = jax.random.split(KEY, 3), jnp.full((3, 2), 2)
    other = Exact(model.p, Replacing(Rectified(t_max=0.95), process.law, 2))
    assert np.all(np.asarray(batched(sample, other, keys, x)) == -1)
    assert np.all(np.asarray(batched(sample, model, keys, x)) >= 0)
