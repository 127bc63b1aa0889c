"""Tokens destroyed place by place, against joints that can be enumerated: the bound, three targets, walks, kernels."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from enumerated import (
    entropy,
    kl,
    known,
    markov_walk,
    mixture_walk,
    noised,
    replacement,
    total_variation,
    unified_law,
)
from twice import assert_trains_and_resumes

from diffjax import grids, samplers
from diffjax import main as command_line
from diffjax.denoisers.categorical import ConcreteScore, Known, LeaveOneOut, Whole
from diffjax.likelihood import tokens
from diffjax.losses import categorical as losses
from diffjax.processes import categorical as processes
from diffjax.schedules import VP, Rectified

A, B = unified_law(3, 3, 1, 0, 7), unified_law(3, 2, 1, 0, 7)
PROCESSES = {
    "masked": lambda V: processes.masked(Rectified(), V),
    "uniform": lambda V: processes.uniform(Rectified(), V),
    "mixed": lambda V: processes.mixed(Rectified(), V),
    "gidd": lambda V: processes.gidd(Rectified(), V),
    "levels": lambda V: processes.levels(Rectified(), V),
    "gaussian": lambda V: processes.gaussian(Rectified(), V, steps=8, beta_min=0.1, beta_max=0.8),
}
SLOW = {"mixed", "gaussian", "levels"}
RATED = [name for name in PROCESSES if name != "gaussian"]  # a chain of whole steps has no rates


def each(names, slow=SLOW):
    """The names as parameters; what another name shows too is for the long suite."""
    return [pytest.param(name, marks=[pytest.mark.slow] if name in slow else []) for name in names]


@functools.cache
def kernel(name, V):
    """The program t -> (V, K), the law of x_t for each x_0."""
    process = PROCESSES[name](V)
    return jax.jit(lambda t: process.spread(jnp.eye(V), t))


def states(process, length):
    return np.array(list(itertools.product(range(process.states), repeat=length)), np.int32)


def sequences(p):
    return states(processes.uniform(Rectified(), p.shape[0]), p.ndim)


def at(x):
    """A noise of replacement that puts x in the place of every x_0."""
    return processes.Replaced(jnp.full(x.shape, -1.0), x)


class Arriving:
    """A process whose corruption arrives at the noise itself, so that a loss can be asked at every x_t."""

    def __init__(self, process):
        self.process = process

    def __getattr__(self, name):
        return getattr(self.process, name)

    def corrupt(self, x0, z, t):
        return z


def means(name, p, loss, target, table, ts, **options):
    """The mean over x_t of a loss of every x_0 at each time, (times, sequences); the network is a table of log laws.

    Args:
        table: (times, states, L, width), what the network says at the times and states.
    """
    process, V = PROCESSES[name](p.shape[0]), p.shape[0]
    xs, x0s = states(process, p.ndim), sequences(p)

    @jax.jit
    def one_time(t, rows):
        net = lambda x, c, row: row
        value = lambda x0, x, row: loss(lambda x, c: net(x, c, row), Arriving(process), target, x0, x, t, **options)
        values = jax.vmap(jax.vmap(value, (None, 0, 0)), (0, None, None))(x0s, xs, rows)
        chance = jnp.prod(process.spread(jnp.eye(V), t)[x0s[:, None], xs[None]], -1)
        return jnp.sum(jnp.where(chance > 0, chance * values, 0.0), 1)

    return np.stack([one_time(t, jnp.asarray(rows)) for t, rows in zip(ts, table)])


def table(name, p, ts, without):
    V = p.shape[0]
    laws = [known(p, np.asarray(kernel(name, V)(t)), without).reshape(-1, p.ndim, V) for t in ts]
    with np.errstate(divide="ignore"):
        return np.log(np.stack(laws))


STEP = 0.125
NODES = np.pi * np.sinh(STEP * np.arange(-26, 27))  # tanh-sinh: t from 1e-18 on, and as near to 1
TIMES = 1 / (1 + np.exp(-NODES))
WEIGHTS = STEP * np.pi * np.cosh(STEP * np.arange(-26, 27)) * TIMES * (1 / (1 + np.exp(NODES)))


@pytest.mark.parametrize("name", each(RATED, {"masked", "uniform", "mixed"}))
def test_bound_of_an_exact_model_is_minus_log_p_of_every_sequence(x64, name):
    rows = table(name, B, TIMES, without=True)
    found = WEIGHTS @ means(name, B, losses.score_entropy, LeaveOneOut(), rows, TIMES)
    np.testing.assert_allclose(found, -np.log(B.ravel()), atol=1e-12)


@pytest.mark.parametrize(
    ("name", "excess"),
    [
        ("uniform", 0.950019),
        *(pytest.param(*row, marks=pytest.mark.slow) for row in (("gidd", 0.843417), ("mixed", 0.756489))),
    ],
)
def test_posterior_in_the_place_of_the_leave_one_out_law_pays(x64, name, excess):
    """The trap: trained by the bound a network learns the leave-one-out law, not p(x_0 | x_t)."""
    rows = table(name, B, TIMES, without=False)
    found = WEIGHTS @ means(name, B, losses.score_entropy, LeaveOneOut(), rows, TIMES)
    assert abs(B.ravel() @ found - entropy(B) - excess) < 2e-6
    if name == "uniform":  # a target that knows what the network states puts it right
        found = WEIGHTS @ means(name, B, losses.score_entropy, Whole(), rows, TIMES)
        np.testing.assert_allclose(found, -np.log(B.ravel()), atol=1e-12)


def test_score_entropy_of_masks_is_the_bound_of_masked_diffusion(x64):
    """-alpha' / (1 - alpha) sum over hidden places of -log p(x_0,i | x_t), and the flow's bound is this one too."""
    t = 0.63
    rows = table("masked", A, [t], without=False)
    process = PROCESSES["masked"](3)
    xs = states(process, 3)
    log = np.where(np.isfinite(rows[0]), rows[0], -50.0)
    every = (losses.score_entropy, losses.flow_matching)
    one = lambda x0, x, row: [f(lambda x, c: row, Arriving(process), Whole(), x0, x, t) for f in every]
    of_all = jax.jit(jax.vmap(one, (None, 0, 0)))
    for x0 in [(0, 1, 2), (2, 0, 1)]:
        possible = np.all((xs == x0) | (xs == 3), 1)
        own = np.take_along_axis(log, np.broadcast_to(x0, xs.shape)[..., None], -1)[..., 0]
        expected = np.where(xs == 3, -own, 0.0).sum(1) / t
        for found in of_all(np.int32(x0), xs, rows[0]):
            np.testing.assert_allclose(found[possible], expected[possible], atol=4e-15)


@pytest.mark.slow
def test_flow_bound_is_above_the_markov_bound_and_not_below_the_entropy(x64):
    rows = table("uniform", B, TIMES, without=False)
    found = WEIGHTS @ means("uniform", B, losses.flow_matching, Whole(), rows, TIMES)
    assert np.all(found > -np.log(B.ravel()) + 0.01)
    masked = table("masked", B, TIMES, without=False)
    found = WEIGHTS @ means("masked", B, losses.flow_matching, Whole(), masked, TIMES)
    np.testing.assert_allclose(found, -np.log(B.ravel()), atol=1e-12)


# The three targets


def test_targets_are_one_object(x64):
    """Posterior, leave-one-out law and concrete score on A at alpha = 0.37, uniform; each network says one of them."""
    t, process = 0.63, PROCESSES["uniform"](3)
    Q = replacement(0.37, np.full(3, 1 / 3), 3)
    whole, loo, p_t = known(A, Q), known(A, Q, without=True), noised(A, Q)
    assert abs(np.abs(whole - loo).max() - 0.2487) < 5e-5
    score = np.zeros_like(whole)
    for x in np.ndindex(p_t.shape):
        for place, v in itertools.product(range(3), range(3)):
            score[x][place, v] = p_t[(*x[:place], v, *x[place + 1 :])] / p_t[x]
    xs = states(process, 3)

    def says(target):
        def one(x, row):
            of = Known(lambda x, c: row, process, target)
            return of(x, t).probs, of.without(x, t).probs, jnp.exp(of.log_score(x, t))

        return jax.jit(jax.vmap(one))

    flat = lambda a: a.reshape(27, 3, 3)
    for target, stated in ((Whole(), whole), (LeaveOneOut(), loo), (ConcreteScore(), score)):
        found = says(target)(xs, np.log(flat(stated)) + 0.7)  # up to a constant
        for got, expected in zip(found, (whole, loo, score)):
            np.testing.assert_allclose(got, flat(expected), atol=2e-15)


def test_hidden_tokens_get_no_mass_and_seen_ones_stay(x64):
    """SUBS, and finite slopes of every loss: logits of minus infinity are masked before they meet a logarithm."""
    process, x0 = PROCESSES["masked"](3), np.int32([0, 2, 1])
    x = np.int32([3, 2, 3])
    logits = np.random.default_rng(0).normal(size=(3, 3))
    every = (losses.score_entropy, losses.cross_entropy, losses.flow_matching, functools.partial(losses.d3pm, steps=2))

    @jax.jit
    def said(logits):
        of = Known(lambda x, c: logits, process, Whole())
        value = lambda loss: lambda logits: loss(lambda x, c: logits, process, Whole(), x0, at(x), 0.5)
        slopes = [jax.grad(value(loss))(logits) for loss in every]
        return of(x, 0.5).probs, of.without(x, 0.5).probs, process.told(0.5), slopes

    probs, without, told, slopes = jax.device_get(said(logits))
    np.testing.assert_allclose(probs[1], [0, 0, 1])
    np.testing.assert_allclose(probs[[0, 2]], np.exp(logits[[0, 2]]) / np.exp(logits[[0, 2]]).sum(-1, keepdims=True))
    assert told == 0
    np.testing.assert_allclose(without[1], [0, 0, 1])
    for slope in slopes:
        assert np.all(np.isfinite(slope))
        np.testing.assert_array_equal(slope[1], 0)
        assert np.all(np.abs(slope[[0, 2]]).sum(-1) > 0.1)


@pytest.mark.parametrize("name", each(RATED, {"masked", "uniform", *SLOW}))
def test_losses_are_finite_to_the_ends_of_time(name):
    """In float32, at t = 1 itself, where alpha is 0, and near data; slopes too."""
    process = PROCESSES[name](4)
    x0 = np.int32([0, 1, 2, 3, 0, 1])

    @jax.jit
    def both(t, key, logits):
        value = lambda logits: losses.score_entropy(
            lambda x, c: logits, process, LeaveOneOut(), x0, process.noise(key, jnp.asarray(x0)), t
        )
        return jax.value_and_grad(value)(logits)

    logits = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    for t in (1e-3, 0.5, 1 - 1e-7, 1.0):
        value, slope = both(np.float32(t), jax.random.key(1), logits)
        assert np.isfinite(value)
        assert value > -1e-5
        assert np.all(np.isfinite(slope))


# Kernels


@pytest.mark.parametrize("name", each(PROCESSES, {"masked", "uniform"}))
def test_kernels_compose_and_agree(x64, name):
    """q(x_t | x_0) = sum over x_s of q(x_t | x_s) q(x_s | x_0), rows sum to 1, and rates are the slope of q."""
    process, V = PROCESSES[name](5), 5
    s, t = 0.375, 0.5
    every, h = np.arange(process.states), 1e-5

    @jax.jit
    def found(every, times):
        q = jax.vmap(lambda t: process.spread(jnp.eye(V), t))(times)
        rates = None if name == "gaussian" else process.rates(every, t).T  # from k to x
        return *q, process.likelihood(every, t, s).T, process.likelihood(every, t).T, rates

    q_t, q_s, after, before, at_data, at_end, step, whole, rates = jax.device_get(
        found(every, np.array([t, s, t + h, t - h, 0.0, 1.0]))
    )
    tolerance = 2e-7 if name == "gaussian" else 1e-13  # its table is of float32
    np.testing.assert_allclose(q_s @ step, q_t, atol=tolerance)
    np.testing.assert_allclose(whole[:V], q_t, atol=tolerance)
    np.testing.assert_allclose(np.sum(q_t, 1), 1, atol=tolerance)
    np.testing.assert_allclose(np.sum(step, 1), 1, atol=tolerance)
    assert np.all(step >= 0)
    if name == "gaussian":
        return
    assert np.all(np.diag(rates) == 0)
    np.testing.assert_allclose(q_t @ (rates - np.diag(rates.sum(1))), (after - before) / (2 * h), atol=1e-7)
    np.testing.assert_allclose(at_data, np.eye(V, process.states), atol=1e-14)
    np.testing.assert_allclose(at_end, np.broadcast_to(process.limit, (V, process.states)), atol=1e-6)


@pytest.mark.parametrize("name", each(PROCESSES, {"masked", "uniform", "gaussian", "mixed"}))
def test_noise_is_drawn_nested_and_found_again(x64, name):
    """x_t has the law q; z of `invert` leads to x_t, and for drawn pairs has the law of z; so has that of `renew`."""
    process, n, t, s = PROCESSES[name](4), 20_000, 0.5, 0.25
    x0 = np.full((n, 1), 1, np.int32)

    @jax.jit
    def drawn(key):
        keys = jax.random.split(key, 4)
        x0s = jnp.asarray(x0)
        z = process.noise(keys[0], x0s)
        x = process.corrupt(x0s, z, t)
        back = process.invert(keys[1], x0s, x, t)
        new = process.renew(keys[2], back, 0.3)
        return (
            x,
            process.corrupt(x0s, back, t),
            [process.corrupt(x0s, z, at) for z in (z, back, new) for at in (s, t)],
            jnp.mean(
                jnp.concatenate([(a == b) for a, b in zip(jax.tree.leaves(back), jax.tree.leaves(new))], 1).all(1)
            ),
            process.prior(keys[3], (n,)),
            [process.spread(jnp.eye(4)[1], at) for at in (s, t)],
        )

    x, again, others, same, some, laws = jax.device_get(drawn(jax.random.key(0)))
    np.testing.assert_array_equal(again, x)
    for place, found in enumerate(others):
        expected = laws[place % 2]
        frequencies = np.bincount(found[:, 0], minlength=process.states) / n
        assert np.all(np.abs(frequencies - expected) < 4.5 * np.sqrt(expected * (1 - expected) / n) + 1e-9)
    assert abs(same - 0.7) < 0.02
    if name != "levels" and name != "gaussian":  # what was replaced at s still is at t
        early, late = others[0], others[1]
        replaced = early != x0
        assert np.all(late[replaced] != 1) or name in ("uniform", "mixed", "gidd")
        assert np.mean(late[replaced] == early[replaced]) > 0.8
    frequencies = np.bincount(some, minlength=process.states) / n
    np.testing.assert_allclose(frequencies, process.limit, atol=5 * np.sqrt(0.25 / n))


def test_heat_on_the_line_of_levels(x64):
    """K = 17, tau = 3: a semigroup, doubly stochastic, positive; known probabilities of staying."""
    K = 17
    process = processes.levels(Rectified(), K, rate=1.0)
    slowest = processes.levels(Rectified(), K)  # by default the slowest cosine is left by alpha
    Q = lambda process, tau: process.spread(jnp.eye(K), -np.expm1(-tau))
    found, one, two, by_default = jax.device_get(
        jax.jit(lambda: (*(Q(process, tau) for tau in (3.0, 1.0, 2.0)), slowest.spread(jnp.eye(K), 0.3)))()
    )
    np.testing.assert_allclose(found.sum(0), 1, atol=1e-14)
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-14)
    np.testing.assert_allclose(one @ two, found, atol=1e-14)
    assert abs(found.min() / 1.2e-8 - 1) < 0.05
    assert abs(found[0, 0] - 0.318709) < 1e-6
    assert abs(found[8, 8] - 0.166657) < 1e-6
    cosine = np.cos(np.pi * (np.arange(K) + 0.5) / K)
    np.testing.assert_allclose(by_default @ cosine, 0.7 * cosine, atol=1e-14)


def test_discretised_gaussian_of_d3pm(x64):
    from diffjax.processes.levels import _dct, step_matrix

    Q = step_matrix(17, 0.02)
    assert abs(1 - Q[8, 8] - 0.501325) < 1e-6
    assert abs(1 - Q[0, 0] - 0.250663) < 1e-6
    C = _dct(17)
    modes = C @ Q @ C.T
    assert abs(np.abs(modes - np.diag(np.diag(modes))).max() - 0.0116) < 1e-4
    other = step_matrix(17, 0.5)
    assert np.abs(Q @ other - other @ Q).max() > 0.01  # so that nothing is closed under products
    np.testing.assert_allclose(Q.sum(0), 1, atol=1e-15)


# Walks


def test_price_of_steps(x64):
    """KL(A | law of samples) of exact models, as measured independently: masks, uniform, Markov, and the wrong plug."""
    mask, flat = np.array([0, 0, 0, 1.0]), np.full(3, 1 / 3)
    price = lambda walk, N, pi, *options: round(kl(A, walk(A, pi, np.linspace(0, 1, N + 1), *options)), 6)
    assert [price(mixture_walk, N, mask) for N in (1, 2, 3, 6, 12)] == [
        0.104733,
        0.035059,
        0.017574,
        0.005060,
        0.001374,
    ]
    assert price(mixture_walk, 12, mask, 1.0) == 0.004363
    assert [price(mixture_walk, N, flat) for N in (2, 6, 12)] == [0.060933, 0.010271, 0.002729]
    assert [price(markov_walk, N, flat) for N in (2, 6, 12)] == [0.060933, 0.011078, 0.003027]
    assert [round(price(markov_walk, N, flat, False), 4) for N in (6, 12)] == [0.0611, 0.0602]
    two = [kl(A, mixture_walk(A, mask, [0, 0.5, 1], share)) for share in (0.0, 0.5, 1.0)]
    np.testing.assert_allclose(two, 0.0350595, atol=5e-8)


def test_rows_of_mixtures(x64):
    """Planned in float64: ReMDM's unmasking, sums of 1, the way to data, and what leaves the simplex."""
    process, share = PROCESSES["masked"](3), 0.3
    row = samplers.categorical.mixture(process, share).plan(np.array([0.7, 0.4]))
    alpha_t, alpha_s = 0.3, 0.6
    remasked = share * (1 - alpha_s)
    unmasking = (alpha_s - (1 - remasked) * alpha_t) / (1 - alpha_t)
    np.testing.assert_allclose(row.x0, unmasking, atol=1e-15)
    np.testing.assert_allclose(row.keep + row.noise, 1 - unmasking, atol=1e-15)
    rows = samplers.categorical.mixture(process, 0.5).plan(grids.uniform(Rectified(), 5, t_min=0.0))
    np.testing.assert_allclose(rows.keep + rows.x0 + rows.noise, 1, atol=1e-15)
    assert (rows.keep[-1], rows.x0[-1], rows.noise[-1]) == (0, 1, 0)  # no token is hidden in a sample
    # ReMDM's larger remasking: as often as min(1, (1 - alpha_s) / alpha_t) allows, at 1 - alpha_s = 0.4, alpha_t = 0.3
    most = samplers.categorical.mixture(process, min(1, 0.4 / 0.3) / 0.4).plan(np.array([0.7, 0.4]))
    np.testing.assert_allclose(most.noise, 1, atol=1e-12)
    with pytest.raises(
        ValueError, match=r"has a probability of -0.02 that a seen one stays seen; expected a share nearer"
    ):
        samplers.categorical.mixture(process, 2.55).plan(np.array([0.7, 0.4]))
    with pytest.raises(ValueError, match=r"has a probability of -.* that a hidden token stays hidden"):
        samplers.categorical.mixture(process, 2.0).plan(np.array([0.3, 0.2]))


@functools.cache
def exact(name, which):
    """A network that knows p_t of B under this process by enumeration, traced: (process, net)."""
    process = PROCESSES[name](3)

    def net(x, c):
        t = jax.nn.sigmoid(-c)  # c is log(alpha / (1 - alpha))
        Q = process.spread(jnp.eye(3), t)
        places = [Q[:, x[i]] for i in range(2)]
        if which == "loo":
            laws = [jnp.asarray(B) @ places[1], places[0] @ jnp.asarray(B)]
        else:
            laws = [(jnp.asarray(B) @ places[1]) * places[0], (places[0] @ jnp.asarray(B)) * places[1]]
        return jnp.log(jnp.stack(laws))

    return process, net


@pytest.mark.parametrize(
    ("make", "target", "which"),
    [
        (samplers.categorical.mixture, Whole(), "whole"),
        pytest.param(
            functools.partial(samplers.categorical.mixture, share=0.5), LeaveOneOut(), "loo", marks=pytest.mark.slow
        ),
        (samplers.categorical.markov, LeaveOneOut(), "loo"),
        pytest.param(
            functools.partial(samplers.categorical.markov, estimate="posterior"),
            Whole(),
            "whole",
            marks=pytest.mark.slow,
        ),
        pytest.param(functools.partial(samplers.unified, share=0.5), Whole(), "whole", marks=pytest.mark.slow),
    ],
    ids=["mixture", "share", "markov", "posterior", "unified"],
)
def test_walks_draw_the_enumerated_laws(make, target, which):
    """Uniform replacement in three steps, walked by `sampling_fn`: frequencies of all sequences."""
    (process, net), n = exact("uniform", which), 40_000
    ts, flat = grids.uniform(Rectified(), 3, t_min=0.0), np.full(3, 1 / 3)
    walk = samplers.sampling_fn(make(process), ts)
    options = getattr(make, "keywords", {})
    if "estimate" in options or make is samplers.categorical.markov:
        expected = markov_walk(B, flat, 1 - ts, options.get("estimate") != "posterior")
    else:
        expected = mixture_walk(B, flat, 1 - ts, options.get("share", 0.0))

    def draw(key):
        key_prior, key_walk = jax.random.split(key)
        return walk(Known(net, process, target), key_walk, process.prior(key_prior, (2,)))

    x = np.asarray(jax.jit(lambda key: jax.vmap(draw)(jax.random.split(key, n)))(jax.random.key(0)))
    assert x.dtype == np.int32
    found = np.bincount(np.ravel_multi_index(x.T, (3, 3)), minlength=9) / n
    floor = 0.5 * np.sum(np.sqrt(2 * expected * (1 - expected) / (np.pi * n)))
    assert total_variation(found, expected.ravel()) < 1.8 * floor
    if "posterior" in options.values():
        assert total_variation(found, markov_walk(B, flat, 1 - ts).ravel()) > 3 * floor  # the wrong plug is seen


def test_flows_carry_the_marginals(x64):
    """d p_alpha / d alpha is inflow less outflow: the flow's rates by the posterior, the reversed chain's by loo."""
    alpha, h = 0.37, 1e-5
    for name in ("masked", "uniform"):
        pi = np.asarray(PROCESSES[name](3).pi)
        slope = (noised(A, replacement(alpha + h, pi, 3)) - noised(A, replacement(alpha - h, pi, 3))) / (2 * h)
        Q = replacement(alpha, pi, 3)
        p_t, whole, process = noised(A, Q), known(A, Q), PROCESSES[name](3)
        xs = states(process, 3)
        rows = np.log(np.maximum(known(A, Q, without=True), 1e-300)).reshape(-1, 3, 3)
        of = lambda row, process=process: Known(lambda x, c: row, process, LeaveOneOut())
        both = lambda x, row, rates=process.rates: (jnp.exp(of(row).log_score(x, 1 - alpha)), rates(x, 1 - alpha))  # noqa: B023
        scores, rates = jax.device_get(jax.jit(jax.vmap(both))(xs, rows))
        moved = {"flow": np.zeros_like(p_t), "chain": np.zeros_like(p_t)}
        for n, x in enumerate(map(tuple, xs)):
            for place, v in itertools.product(range(3), range(process.states)):
                y = (*x[:place], v, *x[place + 1 :])
                if v == x[place]:
                    continue
                flow = p_t[x] * (whole[x][place, v] if v < 3 else 0.0) / (1 - alpha)
                chain = p_t[x] * rates[n, place, v] * scores[n, place, v] if rates[n, place, v] else 0.0
                for kind, amount in (("flow", flow), ("chain", chain)):
                    moved[kind][x] -= amount
                    moved[kind][y] += amount
        np.testing.assert_allclose(moved["flow"], slope, atol=1e-9)
        np.testing.assert_allclose(moved["chain"], slope, atol=1e-9)


# What walks cost

WALKS = {
    "mixture": (samplers.categorical.mixture, "uniform", Whole()),
    "markov": (samplers.categorical.markov, "uniform", LeaveOneOut()),
    "random": (samplers.decoding.random, "masked", Whole()),
}


def linear(weights, x, c):
    """A network of tokens whose layers are matrices."""
    h = weights[0][x] + jnp.tanh(c)
    for weight in weights[1:]:
        h = h @ weight
    return h


def of_weights(weights, name, target):
    return Known(functools.partial(linear, weights), PROCESSES[name](weights[-1].shape[-1]), target)


@pytest.mark.parametrize(("make", "name", "target"), WALKS.values(), ids=WALKS)
def test_flops_are_those_of_the_evaluations(make, name, target):
    """One evaluation a row, and at most 1.005 of its FLOPs."""
    width, length, V = 512, 64, 16
    weights = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((V + 1, width), *[(width, width)] * 4, (width, V))]
    sampler, x = make(PROCESSES[name](V)), jax.ShapeDtypeStruct((length,), jnp.int32)
    row = jax.tree.map(lambda leaf: jnp.asarray(leaf[1]), sampler.plan(grids.uniform(Rectified(), length, t_min=0.0)))
    flops = lambda f, *args: jax.jit(f).lower(*args).compile().cost_analysis()["flops"]
    step = lambda weights, key, x: sampler.step(of_weights(weights, name, target), key, x, row)
    one = flops(lambda weights, x: linear(weights, x, 0.5), weights, x)
    assert one > 4 * 2 * length * width**2
    assert flops(step, weights, jax.random.key(0), x) <= 1.005 * one


@pytest.mark.parametrize("walk", each(WALKS, {"markov", "random"}))
def test_a_walk_is_one_program_for_grids_of_one_length_and_of_one_example(walk):
    make, name, target = WALKS[walk]
    rng = np.random.default_rng(0)
    weights = [rng.normal(size=shape).astype(np.float32) for shape in ((4, 8), (8, 3))]
    process, keys = PROCESSES[name](3), jax.random.split(jax.random.key(0), 5)

    @jax.jit
    def run(sample, weights, keys):
        draw = lambda key: sample(of_weights(weights, name, target), key, process.prior(key, (4,)))
        return jax.vmap(draw)(keys), draw(keys[2])

    even = grids.uniform(Rectified(), 4, t_min=0.0)
    for ts in (even, even**2):
        batch, one = jax.device_get(run(samplers.sampling_fn(make(process), ts), weights, keys))
        np.testing.assert_array_equal(batch[2], one)
        assert batch.min() >= 0
        assert batch.max() < 3
        assert len(np.unique(batch, axis=0)) > 1
    assert run._cache_size() == 1


# Bounds of chains, and estimates


@pytest.mark.parametrize(
    ("name", "gaps"),
    [
        ("masked", [0.104733, 0.058844, 0.031041]),
        pytest.param("uniform", [0.104733, 0.078421, 0.045884], marks=pytest.mark.slow),
    ],
)
def test_bound_of_a_chain_closes_as_one_over_its_steps(x64, name, gaps):
    """The mean over steps of `d3pm` without its cross-entropy, exact model: gap to the entropy of A, N = 1, 2, 4."""
    for N, gap in zip((1, 2, 4), gaps):
        ts = np.arange(1, N + 1) / N
        rows = table(name, A, ts, without=True)
        loss = functools.partial(losses.d3pm, steps=N, auxiliary=0.0)
        found = means(name, A, loss, LeaveOneOut(), rows, ts).mean(0)
        assert abs(A.ravel() @ found - entropy(A) - gap) < 1e-6
    if name == "masked":
        assert np.min(found + np.log(A.ravel())) < -0.3  # it bounds the law of N steps, not p, at one x


def test_d3pm_adds_cross_entropy_at_all_places(x64):
    process, x0, x, t = PROCESSES["uniform"](3), np.int32([0, 2]), np.int32([1, 2]), 0.5
    logits = np.random.default_rng(0).normal(size=(2, 3))

    @jax.jit
    def values(logits):
        parts = (lambda x, c: logits, process, Whole(), x0, at(x), t)
        bound = functools.partial(losses.d3pm, *parts, steps=4)
        posterior = bound(auxiliary=0.0, estimate="posterior")
        return losses.cross_entropy(*parts), bound(auxiliary=0.0), bound(auxiliary=0.5), posterior

    cross, alone, half, plugged = jax.device_get(values(logits))
    expected = -np.sum((logits - np.log(np.exp(logits).sum(-1, keepdims=True)))[[0, 1], x0])
    np.testing.assert_allclose(cross, expected, atol=1e-14)
    np.testing.assert_allclose(half - alone, 0.5 * expected, atol=1e-13)
    assert abs(plugged - alone) > 0.01


@pytest.mark.parametrize("name", each(["masked", "uniform", "gaussian"], {"uniform", "gaussian"}))
def test_estimates_of_the_bound_have_its_mean(x64, name):
    """`likelihood.tokens`: masks by counts, rates by times, a chain by its steps; and the whole sum of a walk."""
    process, n = PROCESSES[name](3), 4000
    x0 = np.int32([2, 1])

    def net(x, c):  # right for masks at any time; a fixed law for the others
        law = jnp.asarray(B)
        seen = [jnp.where(x[i] == 3, 1.0, jax.nn.one_hot(x[i], 3)) for i in range(2)]
        return jnp.log(jnp.stack([law @ seen[1] + 1e-3, seen[0] @ law + 1e-3]))

    of = Known(net, process, LeaveOneOut())
    ts = np.linspace(1, 0, 9)

    @jax.jit
    def both(key):
        keys = jax.random.split(key, n)
        u = jnp.asarray((np.arange(n) + 0.5) / n)
        one = jax.vmap(lambda key, u: tokens.bound(of, key, jnp.asarray(x0), u))(keys, u)
        return one, jax.vmap(lambda key: tokens.steps(of, key, jnp.asarray(x0), ts))(keys)

    one, whole = (np.asarray(a) for a in both(jax.random.key(0)))
    error = lambda a: a.std() / np.sqrt(n)
    if name == "masked":
        assert abs(one.mean() + np.log(B[2, 1])) < 5 * error(one) + 2e-3
    if name == "gaussian":  # the same steps, drawn one at a time
        assert abs(one.mean() - whole.mean()) < 5 * (error(one) + error(whole))
    assert whole.mean() > one.mean() - 5 * (error(one) + error(whole))  # fewer steps, a bound less sharp
    assert np.isfinite(one).all()


# Trained


@pytest.mark.slow
def test_config_trains_and_resumes(tmp_path, capsys):
    found = assert_trains_and_resumes("configs/discrete.py:tiny", tmp_path, capsys)
    assert found["discrete"]["bound"] < found["discrete"]["product_of_marginals"] + 0.1
    assert found["tokens"]["floor"] > 0


# Bad input


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: processes.masked(VP(), 3), "VP has alpha = .* but for tokens they are probabilities, alpha"),
        (lambda: processes.masked(Rectified(0.9), 3), "At t_max = 0.9 a token is still seen with probability"),
        (lambda: processes.uniform(Rectified(), 1), "vocabulary is 1, expected an integer >= 2"),
        (lambda: processes.uniform(Rectified, 3), "Got the class Rectified"),
        (lambda: processes.mixed(Rectified(), 3, 1.0), "hidden is 1.0, expected a share inside"),
        (lambda: processes.gidd(Rectified(), 3, 0.0), "B is 0.0, expected a positive number; without uniform noise"),
        (lambda: processes.levels(Rectified(), 5000), "levels has 5000 levels, expected at most 4096"),
        (lambda: processes.gaussian(Rectified(), 300), "a table of 1001 x 300 x 300 = 90090000 numbers"),
        (lambda: PROCESSES["gaussian"](3).rates(jnp.zeros(2, int), 0.5), "A chain of whole steps has no rates"),
        (
            lambda: samplers.categorical.markov(PROCESSES["gaussian"](3)).plan(np.linspace(1, 0, 5)),
            "The discretised Gaussian has 8 steps, of which a walk leaves out none, but the grid has 4",
        ),
        (lambda: samplers.categorical.mixture(PROCESSES["gidd"](3)), "needs a pi that does not move, but Moving"),
        (
            lambda: samplers.categorical.mixture(PROCESSES["uniform"](3), 1.5),
            "share is 1.5, expected a number in .* only masks",
        ),
        (lambda: samplers.categorical.markov(PROCESSES["uniform"](3), "mean"), "estimate is 'mean', expected"),
        (lambda: PROCESSES["uniform"](3).check(object()), "the target is object, expected categorical.Whole"),
        (lambda: PROCESSES["levels"](3).check(ConcreteScore()), "Of Heat no law of x_0 follows from a concrete"),
        (lambda: PROCESSES["levels"](3).check_density(), "tokens, which have no density"),
        (lambda: tokens.check_tokens(np.array([0, 3]), 3, "mine"), "mine has tokens from 0 to 3, expected 0 to 2"),
    ],
)
def test_what_cannot_be_is_refused(make, match):
    with pytest.raises(ValueError, match=match):
        make()


@pytest.mark.parametrize(
    ("flags", "match"),
    [
        (
            ("--config.process.vocabulary=2", "--config.model.vocabulary=2"),
            "error: tokens has tokens from 0 to 2, expected 0 to 1: the vocabulary is 2.",
        ),
        (("--config.sampler.name=ancestral.ddim",), "error: x_T is of int32, expected real numbers"),
    ],
)
def test_the_command_line_refuses_in_one_line(flags, match, tmp_path, capsys):
    flags = ["--config=configs/discrete.py:tiny", f"--workdir={tmp_path}", *flags]
    assert command_line.main(flags) == 2
    (line,) = [line for line in "".join(capsys.readouterr()).splitlines() if line.startswith("error")]
    assert line.startswith(match)


def test_losses_refuse_times_between_steps_and_moving_laws():
    process, x0, net = PROCESSES["uniform"](3), np.int32([0, 1]), lambda x, c: jnp.zeros((2, 3))
    ask = lambda loss, process, t, **options: loss(net, process, Whole(), x0, None, t, **options)
    with pytest.raises(
        ValueError, match=r"t = 0.3 ends none of 4 steps: draw times by losses.times.chain with steps=4"
    ):
        ask(losses.d3pm, process, 0.3, steps=4)
    with pytest.raises(ValueError, match="estimate is 'whole', expected 'leave_one_out' or 'posterior'"):
        ask(losses.d3pm, process, 0.5, estimate="whole")
    with pytest.raises(ValueError, match=r"The loss has 1000 steps, but the process 8: loss.steps=8"):
        ask(losses.d3pm, PROCESSES["gaussian"](3), 0.5)
    with pytest.raises(ValueError, match="Flow matching needs a pi that does not move, but Moving has none"):
        ask(losses.flow_matching, PROCESSES["gidd"](3), 0.5)
    of = jax.jit(lambda x: losses.cross_entropy(net, process, Whole(), x, at(x), 0.5))
    assert np.isnan(of(np.int32([0, 3])))
    of = jax.jit(lambda t: losses.d3pm(net, process, Whole(), x0, at(x0), t, steps=4))  # a time that is not known yet
    assert np.isnan(of(0.375))
    assert np.isfinite(of(0.75))


def test_prior_term_is_finite_and_small():
    """In float32, where alpha_T = 0 is a tiny number: nothing of x_0 is left; more is where the chain ends early."""
    term = lambda name: tokens.prior(PROCESSES[name](3), jnp.int32([0, 2, 1]))
    found = jax.device_get(jax.jit(lambda: {name: term(name) for name in PROCESSES})())
    assert 1e-3 < found.pop("gaussian") < 0.5
    assert all(abs(value) < 1e-6 for value in found.values())
