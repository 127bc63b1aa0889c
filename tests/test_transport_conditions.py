"""Transport within conditions: noise stays normal given what sampling is told; held against SciPy, block by block."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, special

from diffjax import config as C
from diffjax import couplings, data, losses, methods, models, runs
from diffjax.denoisers import Velocity
from diffjax.method import Example
from diffjax.processes import Gaussian, path
from diffjax.schedules import Rectified

N = 24
PROCESS = path.rectified()
X = np.random.default_rng(0).normal(size=(N, 2)).astype(np.float32)
X[:, 0] += np.where(np.arange(N) % 2, 1.5, -1.5)


KEYS = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(jax.random.key(3), jnp.arange(N))  # as a step makes them
DRAWN = np.asarray(jax.vmap(lambda key: jax.random.normal(key, (2,)))(KEYS), np.float64)  # each example's own noise
EXACT = jax.jit(couplings.exact(Gaussian(Rectified())))


def best(rows):
    """SciPy's least cost of these examples and their own noise."""
    cost = ((X[rows, None].astype(float) - DRAWN[rows]) ** 2).sum(-1)
    return cost[optimize.linear_sum_assignment(cost)].sum()


def block_of(given):
    """Row -> the rows that are given the same, by comparing tuples."""
    told = [tuple(np.ravel(value[i]).tolist() for value in given.values()) for i in range(N)]
    return [[j for j in range(N) if told[j] == told[i]] for i in range(N)]


RNG = np.random.default_rng(1)
GIVEN = {
    "labels that alternate": {"label": np.arange(N) % 2},
    "one label": {"label": np.zeros(N, int)},
    "each its own": {"label": np.arange(N)},
    "rare": {"label": (np.arange(N) > 21).astype(int)},
    "large and negative": {"label": RNG.choice([-7, 2**30], N)},
    "texts": {"text": RNG.integers(0, 2, (N, 2))},
    "both": {"label": np.arange(N) % 3, "text": RNG.integers(0, 2, (N, 1))},
    "truth": {"label": RNG.integers(0, 2, N).astype(bool)},
}


@pytest.mark.parametrize("pattern", GIVEN)
def test_exact_pairs_are_scipys_within_each_condition(pattern):
    blocks = block_of(GIVEN[pattern])
    same = couplings.alike({name: jnp.asarray(value) for name, value in GIVEN[pattern].items()})
    np.testing.assert_array_equal(same, [[j in block for j in range(N)] for block in blocks])
    z = np.asarray(EXACT(KEYS, jnp.asarray(X), same)[1], np.float64)
    for rows in map(list, {tuple(block) for block in blocks}):
        np.testing.assert_allclose(np.sort(z[rows], 0), np.sort(DRAWN[rows], 0), atol=1e-5)  # its own, in another order
        assert ((X[rows] - z[rows]) ** 2).sum() == pytest.approx(best(rows), rel=1e-5)


def test_sinkhorn_draws_within_each_condition_from_the_plan_of_its_block():
    """Where labels part the batch, the plan is that of each block: potentials iterated in NumPy, in float64."""
    label = np.arange(N) % 3
    same = label[:, None] == label
    z = np.random.default_rng(5).normal(size=(N, 2))
    cost = ((X[:, None].astype(float) - z) ** 2).sum(-1)
    epsilon = 0.3 * cost[same].mean()
    expected = np.zeros((N, N))
    for k in range(3):
        rows = np.ix_(label == k, label == k)
        f, g = np.zeros(N // 3), np.zeros(N // 3)
        for _ in range(500):
            f = -special.logsumexp(g - cost[rows] / epsilon, axis=1)
            g = -special.logsumexp(f[:, None] - cost[rows] / epsilon, axis=0)
        expected[rows] = np.exp(f[:, None] + g - cost[rows] / epsilon) / N
    forbidden = jnp.asarray(np.where(same, cost, np.inf), jnp.float32)
    plan = np.exp(np.asarray(couplings.sinkhorn(forbidden, float(epsilon), tolerance=1e-6)))
    np.testing.assert_allclose(plan, expected, atol=1e-4 / N)
    assert (plan[~same] == 0).all()


def test_sinkhorn_takes_noise_of_its_own_condition_alone():
    label = np.arange(N) % 2
    prepare = losses.prepare.optimal_transport(PROCESS, "sinkhorn")
    batch = Example(jnp.asarray(X), {"label": jnp.asarray(label)})
    z = np.asarray(jax.jit(prepare.apply)((), jax.random.key(3), batch).chosen["z"])
    taken = np.abs(DRAWN - z[:, None]).max(-1).argmin(1)  # whose noise each example has
    np.testing.assert_allclose(z, DRAWN[taken], atol=1e-5)
    np.testing.assert_array_equal(label[taken], label)
    assert (taken != np.arange(N)).mean() > 1 / 3  # and exchanged it


# --- in a method: what it reads is what parts the pairs ---------------------------------------------------------------


def method_of(reads):
    """The method of a network that reads these; a label is hidden for a fifth of the examples."""
    hidden = methods.Condition({"label": jnp.int32(2)}, 0.2) if reads == ("label",) else methods.Condition({})
    return methods.denoising(
        models.from_function(lambda params, x, *rest: params * x, jnp.ones(()), reads),
        path.rectified(),
        Velocity(),
        prepare=losses.prepare.optimal_transport,
        condition=hidden,
    )


def mean_by_label(method, label, trials=60):
    """E[z_1 | label] over batches: 0 where z is normal given the label; pulled to the clusters where it is not."""
    batch = Example(jnp.asarray(X), {"label": jnp.asarray(label)})
    one = jax.jit(lambda key: method.prepare.apply((), key, batch).chosen["z"])
    z = np.stack([np.asarray(one(jax.random.key(i))) for i in range(trials)])
    return [z[:, label == k, 0].mean() for k in (0, 1)], z.std()


def test_noise_is_normal_given_a_label_that_is_read_and_hidden_for_a_share_of_the_examples():
    means, std = mean_by_label(method_of(("label",)), np.arange(N) % 2)
    np.testing.assert_allclose(means, 0, atol=4 / np.sqrt(60 * N / 2))
    assert std == pytest.approx(1, abs=0.05)


def test_a_label_that_nobody_reads_parts_no_pairs():
    label = np.arange(N) % 2
    means, _ = mean_by_label(method_of(()), label)
    assert means[0] < -0.6  # the whole batch is coupled: noise lies on the side of its cluster
    assert means[1] > 0.6
    batch = Example(jnp.asarray(X), {"label": jnp.asarray(label), "y": jnp.ones((N, 2))})
    done = jax.jit(method_of(()).prepare.apply)((), jax.random.key(3), batch)
    assert set(done.given) == {"label", "y"}
    assert ((X - np.asarray(done.chosen["z"])) ** 2).sum() == pytest.approx(best(np.arange(N)), rel=1e-5)


def test_a_condition_that_each_example_has_for_itself_is_refused_with_what_to_do():
    given = {"y": jnp.zeros((N, 2)), "label": jnp.zeros(N, int)}
    message = r"'y' is float32, each example's own: set prepare\.name=nothing, or give it as integers"
    with pytest.raises(ValueError, match=message):
        losses.prepare.optimal_transport(PROCESS).apply((), jax.random.key(0), Example(jnp.asarray(X), given))
    arrays = data.arrays(X, y=np.ones((N, 2)))
    options = dict(optimizer=C.spec("adam", learning_rate=1e-3), steps=2, batch_size=8, log_every=2, sample_every=2)
    with pytest.raises(C.ConfigError, match=message):
        runs.Trainer(method_of(("y",)), arrays, **options)


def test_couplings_pair_all_where_nothing_is_given():
    assert couplings.alike({}) is None
    z = np.asarray(EXACT(KEYS, jnp.asarray(X), None)[1])
    assert ((X - z) ** 2).sum() == pytest.approx(best(np.arange(N)), rel=1e-5)
    np.testing.assert_array_equal(z, EXACT(KEYS, jnp.asarray(X), jnp.ones((N, N), bool))[1])
