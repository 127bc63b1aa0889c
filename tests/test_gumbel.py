"""Gumbel noise: its laws in closed form, gradients by quadrature and enumeration, and no other draw of tokens."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, special, stats

import diffjax
from diffjax import gumbel
from diffjax.types import Categorical

P = np.array([0.1, 0.2, 0.7])
N = 40_000


def test_low_bits_are_the_enumeration_of_every_value():
    """u = k 2^-23: those of k under 2^23 - 2^17 add less than e^-156 to the mean of u^((1 - p) / p)."""
    log_u = np.log1p(-(np.arange(1, 2**17 + 1)) * 2.0**-23)
    probs = np.array([1e-5, 1e-6, 1e-7])
    enumerated = np.array([np.exp((1 - p) / p * log_u).sum() * 2.0**-23 for p in probs])
    np.testing.assert_allclose(gumbel.low_bits(probs) / enumerated, 1, atol=1e-4)  # exponent 1 / p for 1 / p - 1
    np.testing.assert_allclose(gumbel.low_bits(probs), enumerated, atol=2e-8)
    np.testing.assert_allclose(gumbel.low_bits(probs) / probs, [0.99405, 0.94158, 0.51966], atol=6e-6)


@jax.jit
def _draws(key, logits):
    """(N, V) perturbed logits, tokens of `Categorical` of the same keys, pairs without replacement, relaxed draws."""

    def one(key):
        noisy = gumbel.perturbed(key, logits)
        soft = [gumbel.softmax(noisy, tau) for tau in (0.1, 1.0, 5.0)]
        return noisy, Categorical(logits).sample(key), gumbel.largest(noisy, 2), jnp.stack(soft)

    return jax.vmap(one)(jax.random.split(key, N))


@pytest.fixture(scope="module")
def draws():
    return jax.device_get(_draws(jax.random.key(0), np.log(P).astype(np.float32)))


def near(found, expected, n=N):
    """Frequencies within five standard deviations."""
    assert np.all(np.abs(found - expected) < 5 * np.sqrt(expected * (1 - expected) / n))


def test_largest_has_the_law_of_softmax_and_is_what_categorical_draws(draws):
    noisy, tokens, _, soft = draws
    near(np.bincount(tokens, minlength=3) / N, P)
    np.testing.assert_array_equal(np.argmax(noisy, -1), tokens)
    for tau in range(3):  # whatever the temperature
        np.testing.assert_array_equal(np.argmax(soft[:, tau], -1), tokens)
    top = noisy.max(-1)  # a Gumbel variable at log sum exp(o) = 0
    assert stats.kstest(top, stats.gumbel_r.cdf).pvalue > 1e-3


def test_pairs_are_drawn_without_replacement(draws):
    pairs = draws[2]
    assert pairs.dtype == np.int32
    for i in range(3):
        for j in {0, 1, 2} - {i}:
            near(np.mean(np.all(pairs == [i, j], -1)), P[i] * P[j] / (1 - P[i]))


def test_two_classes_are_a_logistic_variable_in_a_logistic_function():
    """P(y_1 < y) = sigmoid(tau logit(y) - (o_1 - o_0))."""
    logits, tau = np.array([0.4, -0.3]), 0.7
    draw = lambda key: gumbel.softmax(gumbel.perturbed(key, logits.astype(np.float32)), tau)[1]
    y = np.asarray(jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(3), 20_000)), np.float64)
    law = lambda y: special.expit(tau * special.logit(y) + 0.7)
    assert stats.kstest(y, law).pvalue > 1e-3
    assert stats.kstest(y, lambda y: special.expit(special.logit(y) + 0.7)).pvalue < 1e-9  # negative control: tau = 1


@pytest.mark.usefixtures("x64")
def test_gradient_of_the_relaxed_choice_by_quadrature():
    """E (y - .45)^2 under logits (.3, 0): the bias is not monotone in tau. Two Gumbels differ by a logistic law."""
    taus = np.array([2.0, 1.0, 0.5, 0.1, 0.02])
    worth = lambda o, g, tau: (gumbel.softmax(o + g, tau)[0] - 0.45) ** 2
    slope = jax.jit(jax.vmap(jax.grad(worth), (None, 0, None)))
    o, (x, w) = np.array([0.3, 0.0]), np.polynomial.legendre.leggauss(200)
    edges = np.concatenate([np.linspace(-40, -1, 30), np.linspace(-1, 1, 21)[1:-1], np.linspace(1, 40, 30)])
    half = np.diff(edges)[:, None] / 2
    at, weight = (edges[:-1, None] + half * (x + 1)).ravel(), (half * w).ravel()
    density = stats.logistic.pdf(at)
    g = np.stack([at, np.zeros_like(at)], -1)
    found = [np.sum(weight * density * np.asarray(slope(o, g, tau))[:, 0]) for tau in taus]
    np.testing.assert_allclose(found, [0.016139, 0.026411, 0.031884, 0.027791, 0.025165], atol=6e-7)
    p = special.expit(0.3)
    exact = p * (1 - p) * (0.55**2 - 0.45**2)
    np.testing.assert_allclose(exact, 0.024446, atol=5e-7)
    assert np.all(np.diff(np.abs(np.array(found) - exact))[1:2] > 0)  # tau = .5 is worse than 1


@pytest.mark.usefixtures("x64")
def test_straight_through_is_one_hot_and_has_the_gradient_of_the_softmax():
    noisy, cost = np.array([[0.3, -0.2, 1.1], [2.0, -np.inf, 1.9]]), np.array([0.7, -1.3, 0.4])
    hard, slope = jax.jit(jax.value_and_grad(lambda o: (gumbel.straight_through(o, 0.6) @ cost).sum()))(noisy)
    np.testing.assert_array_equal(np.asarray(gumbel.straight_through(noisy, 0.6)), np.eye(3)[[2, 0]])
    assert hard == cost[2] + cost[0]
    y = special.softmax(noisy / 0.6, -1)
    np.testing.assert_allclose(slope, y * (cost - (y @ cost)[:, None]) / 0.6, atol=1e-14)


@pytest.mark.usefixtures("x64")
def test_score_function_has_the_exact_gradient_in_mean_by_enumeration():
    """Over all pairs of two places, for any baseline; f itself depends on the logits too."""
    logits, table = np.array([[0.3, -1.0, 0.2], [0.0, 0.5, -0.7]]), np.array([[1.0, -2, 0.5], [0, 3, 1], [2, 2, -1]])
    pairs = np.stack(np.unravel_index(np.arange(9), (3, 3)), -1)
    f = lambda o, x: jnp.asarray(table)[x[0], x[1]] * (1 + o[0, 0] ** 2)
    chance = lambda o: jnp.prod(jax.vmap(lambda x: jnp.exp(Categorical(o).log_prob(x)))(pairs), -1)
    expected = jax.jit(jax.grad(lambda o: chance(o) @ jax.vmap(f, (None, 0))(o, pairs)))(logits)
    for baseline in (0.0, 1.7):
        one = lambda o, x: gumbel.score_function(Categorical(o), x, f(o, x), baseline)  # noqa: B023
        values, slopes = jax.jit(jax.vmap(jax.value_and_grad(one), (None, 0)))(logits, pairs)
        np.testing.assert_allclose(values, table.ravel() * 1.09)
        found = np.einsum("n,nij->ij", np.asarray(chance(logits)), np.asarray(slopes))
        np.testing.assert_allclose(found, expected, atol=1e-14)
    surprise = jax.grad(lambda o: gumbel.score_function(Categorical(o), pairs[4], jnp.float64(3.0), 3.0))
    np.testing.assert_array_equal(surprise(logits), 0)  # what was expected moves nothing


def test_given_its_argmax_the_noise_is_that_of_the_draws(draws):
    """Mixed over winners of probability p: the joint law of the largest and of each token's perturbed logit."""
    logits = np.log(P).astype(np.float32)
    given = jax.jit(jax.vmap(gumbel.given_winner, (0, None, 0)))
    noisy = np.asarray(given(jax.random.split(jax.random.key(5), N), logits, draws[1]))
    np.testing.assert_array_equal(np.argmax(noisy, -1), draws[1])
    for v in range(3):
        assert stats.kstest(noisy[:, v] - np.log(P[v]), stats.gumbel_r.cdf).pvalue > 1e-3
        won = draws[1] == v  # the largest does not know who it is
        assert stats.kstest(noisy[won].max(-1), stats.gumbel_r.cdf).pvalue > 1e-3
    gap = [np.sort(a, -1)[:, 2] - np.sort(a, -1)[:, 1] for a in (noisy, draws[0])]
    assert stats.ks_2samp(*gap).pvalue > 1e-3


def test_nothing_else_draws_tokens():
    """Every draw of tokens is `Categorical.sample` or reads `gumbel.perturbed`: both of full precision."""
    root = Path(diffjax.__file__).parent
    drawing = re.compile(r"random\.(gumbel|categorical|choice)\(|^from jax\.random import|\b(gumbel|categorical)\(key")
    found = [(str(p.relative_to(root)), line) for p in root.rglob("*.py") for line in p.read_text().splitlines()]
    found = [(path, line.strip()) for path, line in found if drawing.search(line)]
    assert {path for path, _ in found} == {"gumbel.py", "types.py"}
    assert all('mode="high"' in line for _, line in found)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda o: gumbel.softmax(o, 0.0), r"tau is 0.0, expected a positive number; 0 is the argmax"),
        (lambda o: gumbel.straight_through(o, -1.0), r"tau is -1.0, expected a positive number"),
        (lambda o: gumbel.perturbed(jax.random.key(0), o.at[1].set(-jnp.inf)), r"shape \(2, 3\) where row 1 is all"),
        (lambda o: gumbel.perturbed(jax.random.key(0), np.array([-np.inf] * 3)), r"where the row is all -inf"),
        (lambda o: gumbel.perturbed(jax.random.key(0), np.array([1, 2])), r"logits of int\d+, expected float32"),
        (lambda o: gumbel.perturbed(jax.random.key(0), o.astype(jnp.bfloat16)), r"bfloat16, expected float32 or flo"),
        (lambda o: gumbel.given_winner(jax.random.key(0), o.astype(jnp.float16), 0), r"float16, expected float32"),
        (lambda o: gumbel.largest(o, 4), r"k is 4, expected at most 3"),
        (lambda o: gumbel.largest(o, 0), r"k is 0, expected an integer >= 1"),
        (lambda o: gumbel.largest(o.at[1, :2].set(-jnp.inf), 2), r"A row has 1 tokens that can be.*at least k = 2"),
    ],
)
def test_bad_input_is_refused_in_a_line(call, match):
    with pytest.raises(ValueError, match=match):
        call(jnp.zeros((2, 3)))


def test_zipf_tail_of_default_bits():
    """50 000 tokens of p ~ 1 / rank^2: what float32's default loses of the tail, by the closed form alone."""
    p = 1.0 / np.arange(1, 50_001) ** 2
    p /= p.sum()
    lost = np.sum(p - gumbel.low_bits(p))
    assert np.all(gumbel.low_bits(p) <= p)
    numeric = integrate.quad(lambda r: 1 / r**2 / (np.pi**2 / 6), 2247, np.inf)[0]  # all of p < 1.2e-7
    assert 0.2 * numeric < lost < 1.5 * numeric


def test_vocabularies_that_are_trained_here_do_not_see_default_bits():
    """A negative result: of characters, codes and words, evenly, V 2^-24 of all draws are lost, to first order."""
    for size in (27, 512, 4667):
        p = np.full(size, 1 / size)
        lost = np.sum(p - gumbel.low_bits(p))
        np.testing.assert_allclose(lost, size * 2.0**-24, rtol=1e-3)
    np.testing.assert_allclose(lost, 0.00028, atol=5e-6)  # of 4,667 words one draw in 3,600
