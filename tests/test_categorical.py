"""Tokens destroyed place by place, against joints that can be enumerated: the bound, three targets, kernels."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from enumerated import entropy, known, noised, replacement
from token_table import PROCESSES, RATED, SLOW, TIMES, WEIGHTS, A, Arriving, B, at, each, means, states, table

from diffjax.denoisers.categorical import ConcreteScore, Known, LeaveOneOut, Whole
from diffjax.losses import categorical as losses
from diffjax.processes import categorical as processes
from diffjax.schedules import Rectified


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
