"""Transport within conditions: noise stays normal given what sampling is told; held against SciPy, block by block."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, special

from diffjax import config as C
from diffjax import couplings, data, losses, methods, models, runs
from diffjax.calculus import FlowOnly
from diffjax.denoisers import Velocity
from diffjax.method import Example
from diffjax.processes import Gaussian, path
from diffjax.schedules import Rectified

N = 48
SCHEDULE = FlowOnly(Rectified())
X = np.random.default_rng(0).normal(size=(N, 2)).astype(np.float32)
X[:, 0] += np.where(np.arange(N) % 2, 1.5, -1.5)


def own_draws(key):
    """The noise that each example draws for itself."""
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(N))
    return np.asarray(jax.vmap(lambda k: jax.random.normal(k, (2,)))(keys), np.float64)


def block_of(given):
    """Row -> the rows that are given the same, by comparing tuples."""
    told = [tuple(np.ravel(value[i]).tolist() for value in given.values()) for i in range(N)]
    return [[j for j in range(N) if told[j] == told[i]] for i in range(N)]


RNG = np.random.default_rng(1)
GIVEN = {
    "labels that alternate": {"label": np.arange(N) % 2},
    "one label": {"label": np.zeros(N, int)},
    "each its own": {"label": np.arange(N)},
    "rare": {"label": (np.arange(N) > 44).astype(int)},
    "large and negative": {"label": RNG.choice([-7, 2**30], N)},
    "texts": {"text": RNG.integers(0, 2, (N, 2))},
    "both": {"label": np.arange(N) % 3, "text": RNG.integers(0, 2, (N, 1))},
    "truth": {"label": RNG.integers(0, 2, N).astype(bool)},
}


@pytest.mark.parametrize("pattern", GIVEN)
def test_exact_pairs_are_scipys_within_each_condition(pattern):
    given, key = GIVEN[pattern], jax.random.key(3)
    prepare = losses.prepare.optimal_transport(SCHEDULE)
    batch = prepare.apply((), key, Example(jnp.asarray(X), {k: jnp.asarray(v) for k, v in given.items()}))
    z, drawn = np.asarray(batch.chosen["z"], np.float64), own_draws(key)
    for block in {tuple(rows) for rows in block_of(given)}:
        rows = list(block)
        np.testing.assert_array_equal(np.sort(z[rows], 0), np.sort(drawn[rows], 0))  # its own noise, in another order
        cost = ((X[rows, None].astype(float) - drawn[rows]) ** 2).sum(-1)
        best = cost[optimize.linear_sum_assignment(cost)].sum()
        assert ((X[rows] - z[rows]) ** 2).sum() == pytest.approx(best, rel=1e-5)


def test_sinkhorn_draws_within_each_condition_from_the_plan_of_its_block():
    """Where labels part the batch, the plan is that of each block: potentials iterated in NumPy, in float64."""
    label = np.arange(N) % 3
    same = np.asarray(couplings.alike({"label": jnp.asarray(label)}))
    np.testing.assert_array_equal(same, label[:, None] == label)
    z = np.random.default_rng(5).normal(size=(N, 2))
    cost = ((X[:, None].astype(float) - z) ** 2).sum(-1)
    epsilon = 0.3 * cost[same].mean()
    expected = np.zeros((N, N))
    for k in range(3):
        rows = np.ix_(label == k, label == k)
        f, g = np.zeros(N // 3), np.zeros(N // 3)
        for _ in range(5000):
            f = -special.logsumexp(g - cost[rows] / epsilon, axis=1)
            g = -special.logsumexp(f[:, None] - cost[rows] / epsilon, axis=0)
        expected[rows] = np.exp(f[:, None] + g - cost[rows] / epsilon) / N
    forbidden = jnp.asarray(np.where(same, cost, np.inf), jnp.float32)
    plan = np.exp(np.asarray(couplings.sinkhorn(forbidden, epsilon, iterations=3000, tolerance=1e-6)))
    np.testing.assert_allclose(plan, expected, atol=1e-4 / N)
    assert (plan[~same] == 0).all()


def test_sinkhorn_takes_noise_of_its_own_condition_alone():
    label, key = np.arange(N) % 2, jax.random.key(4)
    prepare = losses.prepare.optimal_transport(SCHEDULE, "sinkhorn")
    z = prepare.apply((), key, Example(jnp.asarray(X), {"label": jnp.asarray(label)})).chosen["z"]
    drawn = [tuple(v) for v in own_draws(key).astype(np.float32).tolist()]
    found = [label[drawn.index(tuple(v))] for v in np.asarray(z).tolist()]
    np.testing.assert_array_equal(found, label)
    moved = sum(tuple(v) != drawn[i] for i, v in enumerate(np.asarray(z).tolist()))
    assert moved > N / 2  # and exchanged it


# --- in a method: what it reads is what parts the pairs ---------------------------------------------------------------


def method_of(reads, share=0.0):
    none = {"label": jnp.int32(2)} if share else {}
    return methods.denoising(
        models.from_function(lambda params, x, *rest: params * x, jnp.ones(()), reads),
        path.rectified(),
        Velocity(),
        prepare=losses.prepare.optimal_transport,
        condition=methods.Condition(none, share),
    )


def mean_by_label(method, label, trials=40):
    """E[z_1 | label] over batches: 0 where z is normal given the label; pulled to the clusters where it is not."""
    batch = Example(jnp.asarray(X), {"label": jnp.asarray(label)})
    one = jax.jit(lambda key: method.prepare.apply((), key, batch).chosen["z"])
    z = np.stack([np.asarray(one(jax.random.key(i))) for i in range(trials)])
    return [z[:, label == k, 0].mean() for k in (0, 1)], z.std()


@pytest.mark.parametrize("share", [0.0, 0.2])
def test_noise_is_normal_given_a_label_that_is_read_and_over_all_of_them(share):
    label = np.arange(N) % 2
    means, std = mean_by_label(method_of(("label",), share), label)
    np.testing.assert_allclose(means, 0, atol=4 / np.sqrt(40 * N / 2))
    assert std == pytest.approx(1, abs=0.05)


def test_a_label_that_nobody_reads_parts_no_pairs():
    label, key = np.arange(N) % 2, jax.random.key(0)
    means, _ = mean_by_label(method_of(()), label)
    assert means[0] < -0.6  # the whole batch is coupled: noise lies on the side of its cluster
    assert means[1] > 0.6
    batch = Example(jnp.asarray(X), {"label": jnp.asarray(label), "y": jnp.ones((N, 2))})
    done = method_of(()).prepare.apply((), key, batch)
    assert set(done.given) == {"label", "y"}
    cost = ((X[:, None].astype(float) - own_draws(key)) ** 2).sum(-1)
    best = cost[optimize.linear_sum_assignment(cost)].sum()
    assert ((X - np.asarray(done.chosen["z"])) ** 2).sum() == pytest.approx(best, rel=1e-5)


def test_a_condition_that_each_example_has_for_itself_is_refused_with_what_to_do():
    given = {"y": jnp.zeros((N, 2)), "label": jnp.zeros(N, int)}
    message = r"'y' is float32, each example's own: set prepare\.name=nothing, or give it as integers"
    with pytest.raises(ValueError, match=message):
        losses.prepare.optimal_transport(SCHEDULE).apply((), jax.random.key(0), Example(jnp.asarray(X), given))
    arrays = data.arrays(X, y=np.ones((N, 2)))
    options = dict(optimizer=C.spec("adam", learning_rate=1e-3), steps=2, batch_size=8, log_every=2, sample_every=2)
    with pytest.raises(C.ConfigError, match=message):
        runs.Trainer(method_of(("y",)), arrays, **options)


def test_couplings_pair_all_where_nothing_is_given():
    keys = jax.random.split(jax.random.key(0), N)
    assert couplings.alike({}) is None
    for couple in (couplings.exact(Gaussian(Rectified())), couplings.entropic(Gaussian(Rectified()))):
        one = couple(keys, jnp.asarray(X))[1]
        np.testing.assert_array_equal(one, couple(keys, jnp.asarray(X), jnp.ones((N, N), bool))[1])
