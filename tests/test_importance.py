"""Times of a chain, drawn evenly or by importance, and what a training step remembers of their losses."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

from diffjax import ema, losses, training
from diffjax.losses import importance as I
from diffjax.method import Example
from diffjax.schedules import EDM, VP, Tabulated

KEY = jax.random.key(3)
T = 5
TABLE = Tabulated.from_betas([0.1, 0.2, 0.3, 0.4, 0.5])


probabilities = jax.jit(I.probabilities)


def drawn(prepare, memory, n):
    """A batch of n examples, drawn by one program."""
    return jax.tree.map(np.asarray, jax.jit(prepare.apply)(memory, KEY, Example(np.zeros(n))))


def naive(rings, steps, values):
    """The published buffers: one by one, the oldest goes."""
    for k, value in zip(steps, values):
        rings[k].append(value)
        del rings[k][:-10]


def law_of(rings, uniform=0.001):
    if any(len(ring) < 10 for ring in rings):
        return np.full(T, 1 / T)
    root = np.sqrt([np.mean(np.square(ring)) for ring in rings])
    return (1 - uniform) * root / root.sum() + uniform / T


def test_probabilities_are_those_of_the_last_ten_losses_one_by_one(x64):
    """Batches with many of one step, more than the ring holds, and with none of another."""
    rng, rings = np.random.default_rng(0), [[] for _ in range(T)]
    prepare = losses.prepare.importance(TABLE)
    seen, update, warm = prepare.init(), jax.jit(prepare.update), []
    for i in range(20):
        k = rng.choice(T, 30, p=[0.55, 0.2, 0.15, 0.05, 0.05] if i else [1, 0, 0, 0, 0])
        values = rng.lognormal(size=30) * (1 + k)
        seen = update(seen, values, {"t01": np.float32((k + 1) / T)})
        naive(rings, k, values)
        warm.append(all(len(ring) == 10 for ring in rings))
        np.testing.assert_allclose(probabilities(seen, 0.001), law_of(rings), rtol=1e-6)
    assert not warm[0]
    assert warm[-1], "the law was uniform, and then it was not"


def seen_with(root):
    return I.LastLosses(np.float32(np.repeat(np.square(root)[:, None], 10, 1)), np.full(len(root), 10))


def test_times_have_their_law_and_weights_make_the_mean_unbiased():
    prepare = losses.prepare.importance(TABLE, uniform=0.1)
    root = np.asarray([1.0, 2.0, 3.0, 0.5, 3.5])
    p = 0.9 * root / 10 + 0.1 / T
    n = 20_000
    batch = drawn(prepare, seen_with(root), n)
    k = np.round(np.asarray(batch.chosen["t"]) * T).astype(int) - 1
    assert stats.chisquare(np.bincount(k, minlength=T), n * p).pvalue > 0.01
    np.testing.assert_allclose(batch.chosen["weight"], 1 / (T * p[k]), rtol=1e-5)
    value = np.asarray([3.0, -1.0, 0.2, 7.0, 2.0])
    assert np.sum(p * value / (T * p)) == pytest.approx(value.mean())
    weighted = np.asarray(batch.chosen["weight"]) * value[k]
    assert abs(weighted.mean() - value.mean()) < 4 * weighted.std() / np.sqrt(n)


def test_before_every_step_was_seen_ten_times_the_law_is_uniform():
    prepare = losses.prepare.importance(TABLE)
    seen = seen_with(np.arange(1.0, 6.0))._replace(count=np.asarray([10, 10, 9, 10, 10]))
    for memory in (prepare.init(), seen, seen_with(np.zeros(5))):
        batch = drawn(prepare, memory, 5000)
        k = np.round(np.asarray(batch.chosen["t"]) * T).astype(int)
        assert stats.chisquare(np.bincount(k, minlength=T + 1)[1:]).pvalue > 0.01
        np.testing.assert_allclose(batch.chosen["weight"], 1.0, rtol=1e-6)


def test_an_examples_time_does_not_depend_on_the_batch():
    prepare = losses.prepare.importance(EDM(), steps=7)
    few, many = (drawn(prepare, prepare.init(), n) for n in (3, 64))
    np.testing.assert_array_equal(few.chosen["t"], many.chosen["t"][:3])
    np.testing.assert_allclose(np.unique(many.chosen["t"]), 80 * np.arange(1, 8) / 7, rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"steps": 2.5}, "steps is 2.5"),
        ({"history": 0}, "history is 0"),
        ({"uniform": 0}, "share of uniform times is 0"),
        ({"uniform": 1.5}, "share of uniform times is 1.5"),
        ({"uniform": np.nan}, "share of uniform times is nan"),
    ],
)
def test_bad_options_are_refused(options, match):
    with pytest.raises(ValueError, match=match):
        losses.prepare.importance(TABLE, **options)


# Uniform times of a chain.


def keys(i=0):
    return SimpleNamespace(step=jax.random.fold_in(KEY, -1), example=jax.random.fold_in(KEY, i))


@pytest.mark.parametrize("evenly", [False, True])
def test_chain_times_are_each_uniform_and_evenly_spread_if_asked(evenly):
    draw = losses.times.chain(VP(), steps=8, evenly=evenly)
    one = lambda i, key: draw(SimpleNamespace(step=key, example=jax.random.fold_in(key, i)), i, 16)
    batch = jax.jit(jax.vmap(jax.vmap(one, (0, None)), (None, 0)))
    k = np.asarray(batch(np.arange(16), jax.random.split(KEY, 500))) * 8
    np.testing.assert_array_equal(k, np.round(k))
    counts = np.stack([(k == j).sum(1) for j in range(1, 9)], 1)
    assert counts.sum() == 16 * 500, "no index 0, none above T"
    assert stats.chisquare(np.bincount(k[:, 3].astype(int), minlength=9)[1:]).pvalue > 0.01
    assert (counts == 2).all() == evenly


@pytest.mark.parametrize("steps", [0, -3, 1.5, True])
def test_bad_chain_lengths_are_refused(steps):
    with pytest.raises(ValueError, match="expected an integer >= 1"):
        losses.times.chain(VP(), steps=steps)


# The hook in the training step.


def quadratic(params, keys, example, index, size):
    loss = (params - example.x) ** 2
    return example.chosen["weight"] * loss, {"t01": example.chosen["t"], "unweighted": loss}


def run(policy_x=None, steps=12):
    prepare = losses.prepare.importance(TABLE, history=2, uniform=0.5)
    optimizer, emas = optax.sgd(0.01), ema.warm_up([])
    state = training.init_state(jnp.float32(0.3), optimizer, emas, KEY, training.loss_method(quadratic, prepare))
    step = jax.jit(training.make_step(training.loss_method(quadratic, prepare), optimizer, emas, time_bins=T))
    window, states = [], [state]
    for i in range(steps):
        x = np.float32(np.linspace(1.0, 2.0, 8) * (np.nan if i == policy_x else 1.0))
        state, metrics = step(state, Example(x))
        states.append(state)
        window.append(metrics)
    return prepare, states, window


def test_a_step_draws_remembers_and_reports_the_loss_before_its_weight():
    prepare, states, window = run()

    @jax.jit
    def expect(old):
        key = jax.random.fold_in(jax.random.fold_in(KEY, old.step), 2)
        batch = prepare.apply(old.memory, key, Example(np.float32(np.linspace(1.0, 2.0, 8))))
        loss = (old.params - batch.x) ** 2
        return batch.chosen["weight"], loss, prepare.update(old.memory, loss, {"t01": batch.chosen["t"]})

    for old, new, metrics in zip(states, states[1:], window):
        weight, loss, expected = jax.tree.map(np.asarray, expect(old))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), new.memory, expected)
        np.testing.assert_allclose(metrics["loss"], (weight * loss).mean(), rtol=1e-5)
        np.testing.assert_allclose(np.sum(metrics["time_loss"]), loss.sum(), rtol=1e-5)
        assert "unweighted" not in metrics["aux"]
    assert np.ptp(probabilities(states[-1].memory, 0.5)) > 0, "the law has left the uniform one"


def test_a_skipped_step_leaves_no_memory():
    _, states, window = run(policy_x=4, steps=6)
    assert [bool(m["finite"]) for m in window] == [True] * 4 + [False, True]
    jax.tree.map(np.testing.assert_array_equal, states[4].memory, states[5].memory)
    assert np.sum(states[6].memory.count) == 5 * 8


def test_without_a_hook_there_is_no_memory():
    optimizer, emas = optax.sgd(0.1), ema.warm_up([])
    assert losses.prepare.nothing(TABLE) is None
    state = training.init_state(jnp.ones(()), optimizer, emas, KEY, None)
    assert state.memory == ()
