"""Editing, whose time counts wrong tokens: the process, and walks back along it, against enumerated laws."""

import itertools

import enumerated
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import decoding as oracle

from diffjax import denoisers, grids, losses, processes, samplers, schedules
from diffjax.denoisers import categorical as targets
from diffjax.denoisers import joint
from diffjax.method import Keys
from diffjax.processes.editing import Edits, ranks
from diffjax.samplers import edits
from diffjax.types import Categorical, pytree

A = enumerated.unified_law(3, 3, 1, 0, 7)
W = enumerated.unified_law(4, 3, 1, 0, 7)
PROCESS = processes.editing(schedules.Counted(3), 3)


@pytree
class Table:
    """A denoiser that looks up its law by count and sequence: `laws` is (L + 1, V^L, L, V)."""

    schedule: schedules.Counted
    laws: jax.Array

    def __call__(self, x, t):
        code = jnp.ravel_multi_index(tuple(x), (self.laws.shape[-1],) * x.size, mode="clip")
        return Categorical(jnp.log(self.laws[jnp.asarray(t, float).round().astype(jnp.int32), code]))


def marginals(p):
    """p(x_0,i | x_t) for every count and sequence; where x_t cannot be, uniform."""
    length, vocabulary = p.ndim, p.shape[0]
    laws = np.full((length + 1, p.size, length, vocabulary), 1 / vocabulary)
    for t in range(1, length + 1):
        for code, x in enumerate(np.ndindex(*p.shape)):
            laws[t, code] = oracle.marginals(oracle.wrong_posterior(p, x, t))
    return laws


LAWS = marginals(A)
DENOISE = Table(schedules.Counted(3), jnp.asarray(LAWS, jnp.float32))


def frequencies(x, shape):
    found = np.zeros(shape)
    np.add.at(found, tuple(np.asarray(x).T), 1)
    return found / len(x)


def assert_drawn_from(x, law, errors=4.5):
    """Each frequency lies within so many standard errors of its probability; nothing impossible was drawn."""
    found = frequencies(x, law.shape)
    assert np.all(found[law == 0] == 0)
    assert np.max(np.abs(found - law) / np.sqrt(np.maximum(law * (1 - law), 1e-12) / len(x))) < errors


def keys(n, seed=0):
    return jax.random.split(jax.random.key(seed), n)


def every_place_wrong(n, p, seed=3):
    """Draws of x_L from its own law, not from the prior's approximation."""
    rng = np.random.default_rng(seed)
    law = oracle.edited(p, p.ndim)
    index = rng.choice(p.size, n, p=law.ravel())
    return jnp.asarray(np.stack(np.unravel_index(index, p.shape), -1), jnp.int32)


def test_exactly_t_places_differ_and_stay_wrong():
    process, x0 = processes.editing(schedules.Counted(12), 5), np.arange(12) % 5

    def path(key):
        z = process.noise(key, x0.reshape(3, 4))
        return jax.vmap(lambda t: process.corrupt(x0.reshape(3, 4), z, t))(jnp.arange(13))

    found = np.asarray(jax.jit(jax.vmap(path))(keys(50))).reshape(50, 13, 12)
    wrong = found != x0
    np.testing.assert_array_equal(wrong.sum(-1), np.broadcast_to(np.arange(13), (50, 13)))
    assert np.all(wrong[:, 1:] | ~wrong[:, :-1])  # nested
    moved = wrong[:, :-1] & wrong[:, 1:]
    assert np.all(found[:, 1:][moved] == found[:, :-1][moved])  # by the same token
    assert found.min() == 0
    assert found.max() == 4


def test_law_of_x_t_is_the_enumerated_one():
    x0 = jnp.asarray([2, 0, 1])
    certain = np.zeros((3, 3, 3))
    certain[2, 0, 1] = 1
    drawn = jax.jit(jax.vmap(lambda key: PROCESS.corrupt(x0, PROCESS.noise(key, x0), 2)))(keys(20_000))
    assert_drawn_from(drawn, oracle.edited(certain, 2))


def test_noise_is_drawn_from_its_law_given_both_ends():
    x0, x, t = jnp.asarray([0, 1, 2]), jnp.asarray([2, 1, 0]), 2

    def one(key):
        z = PROCESS.invert(key, x0, x, t)
        return z, PROCESS.corrupt(x0, z, t)

    z, back = jax.jit(jax.vmap(one))(keys(20_000))
    np.testing.assert_array_equal(back, np.broadcast_to(x, back.shape))
    # u is what three uniform numbers are given that those of places 0 and 2 are the smallest two, in either order
    u = np.asarray(z.u)
    np.testing.assert_allclose(np.sort(u).mean(0), [0.25, 0.5, 0.75], atol=4.5 * 0.25 / np.sqrt(20_000))
    assert abs((u[:, 0] < u[:, 2]).mean() - 0.5) < 4.5 * 0.5 / np.sqrt(20_000)
    d = np.asarray(z.d)
    assert np.all(d[:, 0] == 2)
    assert np.all(d[:, 2] == 1)
    assert abs((d[:, 1] == 1).mean() - 0.5) < 4.5 * 0.5 / np.sqrt(20_000)


@pytest.mark.parametrize("share", [pytest.param(0.0, marks=pytest.mark.slow), 0.3, 1.0])
def test_renewed_noise_keeps_its_law_and_its_share(share):
    x0 = jnp.zeros(100, jnp.int32)
    process = processes.editing(schedules.Counted(100), 4)

    @jax.jit
    def both(key, keys):
        old = process.noise(key, x0)
        return old, jax.vmap(lambda key: process.renew(key, old, share))(keys)

    old, new = jax.device_get(both(jax.random.key(0), keys(200)))
    renewed = (new.u != old.u).mean()
    assert abs(renewed - share) <= 4.5 * np.sqrt(share * (1 - share) / 20_000)
    assert np.all((new.d == old.d) | (new.u != old.u))
    if share == 1:
        assert abs(new.u.mean() - 0.5) < 4.5 * np.sqrt(1 / 12 / 20_000)
        np.testing.assert_allclose([(new.d == d).mean() for d in (1, 2, 3)], 1 / 3, atol=4.5 * 0.47 / np.sqrt(20_000))


def test_likelihood_spread_and_what_the_network_is_told():
    wide = processes.editing(schedules.Counted(3), 5)

    @jax.jit
    def found():
        told = [PROCESS.told(t) for t in (0, 1, 3)]
        even = PROCESS.likelihood(jnp.asarray([0, 2, 1]), 2)
        return even, wide.spread(jnp.eye(5)[3], 1), wide.likelihood(jnp.arange(5), 1)[:, 3], told

    even, spread, likelihood, told = jax.device_get(found())
    np.testing.assert_allclose(even, 1 / 3, rtol=1e-6)  # two of three places are wrong, each token one of three
    certain = np.zeros((5, 5, 5))
    certain[3, 3, 3] = 1
    law = oracle.marginals(oracle.edited(certain, 1))[0]
    np.testing.assert_allclose(spread, law, rtol=1e-6)
    np.testing.assert_allclose(likelihood, law, rtol=1e-6)
    np.testing.assert_allclose(told, np.log([3.5 / 0.5, 2.5 / 1.5, 0.5 / 3.5]), rtol=1e-6)


@pytest.mark.parametrize("p", [A, pytest.param(W, marks=pytest.mark.slow)], ids=["A", "W(4, 3)"])
def test_one_place_a_step_needs_the_marginals_alone(p, x64):
    laws, worst = marginals(p), 0.0
    vocabulary = p.shape[0]
    states = jnp.asarray(np.stack([i.ravel() for i in np.indices(p.shape)], -1))

    @jax.jit
    def both(t, laws):
        one = lambda law, x: (edits.pairs(Categorical(law), x).probs, edits.total(Categorical(law), x, t))
        return jax.vmap(one)(jnp.log(laws), states)

    for t in range(1, p.ndim + 1):
        found, totals = jax.device_get(both(t, laws[t]))
        np.testing.assert_allclose(totals, 1, rtol=1e-12)
        for x, law in zip(np.ndindex(*p.shape), found, strict=True):
            after = np.zeros(p.shape)
            for place, token in itertools.product(range(p.ndim), range(vocabulary)):
                y = list(x)
                y[place] = token
                after[tuple(y)] += law[place * vocabulary + token]
            worst = max(worst, np.abs(after - oracle.mended(p, x, t)).max())
    assert worst < 1e-15


def walked(sampler, denoise, start, n=None):
    sample = samplers.sampling_fn(sampler, grids.counts(denoise.schedule, n))
    return jax.jit(jax.vmap(sample, in_axes=(None, 0, 0)))(denoise, keys(len(start), 1), start)


def test_walk_of_single_places_draws_the_data():
    assert_drawn_from(walked(edits.single(PROCESS), DENOISE, every_place_wrong(20_000, A)), A)


def test_uniform_start_is_an_approximation():
    law = np.full(A.shape, 1 / A.size)
    for t in (3, 2, 1):
        law = sum(law[x] * oracle.mended(A, x, t) for x in np.ndindex(*A.shape))
    assert enumerated.total_variation(law, A) == pytest.approx(0.003349, abs=1e-6)
    start = jax.jit(jax.vmap(lambda key: PROCESS.prior(key, (3,), 3.0)))(keys(20_000))
    assert_drawn_from(start, np.full(A.shape, 1 / A.size))


def test_bound_of_single_places_by_enumeration():
    """Above -log p of the walk from uniform tokens at every x_0, as the formula has it, term by term."""
    law = np.full(A.shape, 1 / A.size)
    for t in (3, 2, 1):
        law = sum(law[x] * oracle.mended(A, x, t) for x in np.ndindex(*A.shape))
    bounds = np.full(A.shape, 3 * np.log(3 / 2))
    for x0, t in itertools.product(np.ndindex(*A.shape), (1, 2, 3)):
        certain = np.zeros(A.shape)
        certain[x0] = 1
        reached = oracle.edited(certain, t)
        for code, x in enumerate(np.ndindex(*A.shape)):
            wrong = [i for i in range(3) if x[i] != x0[i]]
            if reached[x] > 0:
                chances = [LAWS[t, code][i, x0[i]] / t for i in wrong]
                bounds[x0] += reached[x] * np.mean([-np.log(t * chance) for chance in chances])
    assert np.all(bounds > -np.log(law))
    assert np.sum(A * bounds) - enumerated.entropy(A) == pytest.approx(1.4916, abs=1e-4)  # as the docstring says
    x0 = jnp.asarray([2, 0, 1])
    u = jnp.asarray((np.arange(6000) + 0.5) / 6000, jnp.float32)
    found = np.asarray(jax.jit(jax.vmap(lambda key, u: PROCESS.bound(DENOISE, key, x0, u)))(keys(6000), u))
    assert abs(found.mean() - bounds[2, 0, 1]) < 4.5 * found.std() / np.sqrt(6000)


Q, X, COUNT = np.array([(0.7, 0.2, 0.05, 0.05), (0.1, 0.2, 0.3, 0.4), (0.25, 0.25, 0.4, 0.1)]), (0, 1, 2), 2


def test_counted_draw_is_the_product_given_its_count():
    law = oracle.counted(Q, X, COUNT)
    kept = [oracle.marginals(law)[i, x] for i, x in enumerate(X)]
    np.testing.assert_allclose(kept, [0.717949, 0.076923, 0.205128], atol=5e-7)
    counted = joint.Counted(jnp.log(jnp.asarray(Q, jnp.float32)) + 3.0, jnp.asarray(X), jnp.int32(COUNT))
    drawn = jax.jit(jax.vmap(counted.sample))(keys(20_000))
    assert_drawn_from(drawn, law)
    assert np.all((np.asarray(drawn) != X).sum(-1) == COUNT)


def test_table_of_counts_by_enumeration(x64):
    counted = joint.Counted(jnp.log(jnp.asarray(Q)), jnp.asarray(X), jnp.int32(COUNT))
    differ = 1 - Q[range(3), X]
    expected = np.zeros((4, 4))
    for first in range(4):
        for chosen in itertools.product((0, 1), repeat=3 - first):
            q = differ[first:]
            expected[first, sum(chosen)] += np.prod(np.where(chosen, q, 1 - q))
    np.testing.assert_allclose(np.exp(jax.jit(lambda: counted.table())()), expected, atol=3e-16)


def test_several_places_a_step_take_places_as_independent():
    """One step from three wrong places to one: three others are drawn, two of them, evenly chosen, are set right."""
    x = (2, 0, 1)
    code = int(np.ravel_multi_index(x, A.shape))
    law = oracle.counted(LAWS[3, code], x, 3)
    expected = np.zeros(A.shape)
    for x0 in np.ndindex(*A.shape):
        for places in itertools.combinations(range(3), 2):
            expected[tuple(x0[i] if i in places else x[i] for i in range(3))] += law[x0] / 3
    step, row = edits.several(PROCESS).step, edits.Counts(jnp.float32(3), jnp.float32(1))
    drawn = jax.jit(jax.vmap(lambda key: step(DENOISE, key, jnp.asarray(x), row)))(keys(20_000))
    assert_drawn_from(drawn, expected)


@pytree
class Exact:
    """A denoiser whose estimate is drawn from the joint posterior; `laws` is (L + 1, V^L, V^L)."""

    schedule: schedules.Counted
    laws: jax.Array

    def __call__(self, x, t):
        code = jnp.ravel_multi_index(tuple(x), (3, 3, 3), mode="clip")
        return Whole(jnp.log(self.laws[jnp.asarray(t, float).round().astype(jnp.int32), code]))


@pytree
class Whole:
    logits: jax.Array

    def sample(self, key):
        return jnp.stack(jnp.unravel_index(jax.random.categorical(key, self.logits), (3, 3, 3))).astype(jnp.int32)


@pytest.mark.parametrize("share", [pytest.param(0.0, marks=pytest.mark.slow), 0.3])
def test_joint_estimate_is_exact_at_any_number_of_steps(share):
    laws = np.full((4, 27, 27), 1 / 27)
    for t in (1, 2, 3):
        laws[t] = [oracle.wrong_posterior(A, x, t).ravel() for x in np.ndindex(*A.shape)]
    denoise = Exact(schedules.Counted(3), jnp.asarray(laws, jnp.float32))
    sampler = samplers.unified(PROCESS, share)
    assert_drawn_from(walked(sampler, denoise, every_place_wrong(20_000, A), 2), A)


def test_chain_of_training_times_counts():
    draw = losses.times.chain(schedules.Counted(3))
    found = jax.jit(jax.vmap(lambda key: draw(Keys(key, key), jnp.int32(0), 1)))(keys(40))
    assert set(np.asarray(found)) == {1.0, 2.0, 3.0}


def test_ranks():
    np.testing.assert_array_equal(jax.jit(ranks)(np.array([[0.3, 0.1], [0.2, 0.1]], np.float32)), [[3, 0], [2, 1]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: processes.editing(schedules.Rectified(), 3), "Editing counts its wrong places.*Counted"),
        (lambda: processes.editing(schedules.Counted(3), 1), "vocabulary is 1, expected an integer >= 2"),
        (lambda: schedules.Counted(0), "length is 0, expected an integer >= 1"),
        (lambda: PROCESS.corrupt(jnp.zeros(3, int), Edits(jnp.zeros(3), jnp.ones(3, int)), 4), "t = 4.*from 0 to 3"),
        (lambda: PROCESS.corrupt(jnp.zeros(3, int), Edits(jnp.zeros(3), jnp.ones(3, int)), 1.5), "t = 1.5.*whole"),
        (lambda: PROCESS.noise(jax.random.key(0), jnp.zeros(3)), "x_0 is of float32, expected integers"),
        (lambda: PROCESS.noise(jax.random.key(0), jnp.asarray([0, 3, 1])), "tokens from 0 to 3, expected.*0 to 2"),
        (lambda: PROCESS.noise(jax.random.key(0), jnp.zeros(4, int)), "x_0 has 4 places.*expected 3"),
        (lambda: PROCESS.prior(jax.random.key(0), (3,), 2.0), "starts at t = 2, expected t = 3"),
        (lambda: PROCESS.likelihood(jnp.zeros(3, int), 2, 1), "s = 1, expected s = 0"),
        (lambda: PROCESS.on(schedules.Rectified()), "no other clock than Counted"),
        (lambda: PROCESS.check_density(), "no density"),
        (lambda: PROCESS.check(targets.LeaveOneOut()), "law of x_0 given all of x_t, got LeaveOneOut.*Whole"),
        (lambda: PROCESS.check(denoisers.X0()), "target is X0, expected categorical.Whole"),
        (lambda: PROCESS.rates(jnp.zeros(3, int), 1), "no rates of jumps: take losses.categorical.cross_entropy"),
        (lambda: edits.single(processes.Gaussian(schedules.VP())), "Got Gaussian, expected the process editing"),
        (lambda: edits.several(processes.Gaussian(schedules.VP())), "samplers.unified"),
        (lambda: edits.single(PROCESS).plan(np.array([3.0, 1.0, 0.0])), "from 3 to 1"),
        (lambda: edits.several(PROCESS).plan(np.array([3.0, 1.5, 0.0])), "t = 1.5, expected counts"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()
