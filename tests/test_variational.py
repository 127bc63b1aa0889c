"""Terms of the variational bound, the decoder, L_hybrid and L_vlb, each against a second derivation in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from diffjax import chains, denoisers, losses
from diffjax.losses.variational import kl, log_likelihood, term
from diffjax.processes import Gaussian
from diffjax.schedules import VP, Tabulated
from diffjax.types import Posterior

T = 20
BETA = np.linspace(1e-3, 0.4, T)
TABLE = Tabulated.from_betas(BETA)
PROCESS = Gaussian(TABLE)
BAR = np.concatenate([[1.0], np.cumprod(1 - BETA)])
RNG = np.random.default_rng(0)
X0, Z = RNG.choice([-1.0, -0.5, 0.125, 1.0], 6), RNG.normal(size=6)

divergence = jax.jit(kl)
log_prob = jax.jit(log_likelihood, static_argnums=2)
bound_term = jax.jit(term, static_argnums=3)


def gaussian_kl(m, v, m2, v2):
    """KL(N(m, v) || N(m2, v2)), as textbooks have it."""
    return np.log(np.sqrt(v2 / v)) + (v + (m - m2) ** 2) / (2 * v2) - 0.5


@pytest.mark.parametrize("var", [0.0, 1e-4, 0.3, 2.0])
def test_a_term_is_the_divergence_of_the_two_steps(var, x64):
    """Coefficients of the step by Ho et al.'s eq. 7; the reverse variance by the definition of var."""
    gain, mean = chains.whole(TABLE).gain, 0.3
    for k in (2, 7, T):
        bar, bar_s, beta = BAR[k], BAR[k - 1], BETA[k - 1]
        x_weight, x0_weight = np.sqrt(1 - beta) * (1 - bar_s) / (1 - bar), np.sqrt(bar_s) * beta / (1 - bar)
        small = beta * (1 - bar_s) / (1 - bar)
        mu, mu_model = (x_weight * 0.7 + x0_weight * x0 for x0 in (X0, mean))
        expected = gaussian_kl(mu, small, mu_model, small + x0_weight**2 * var)
        found = divergence(Posterior(mean, var), gain[T - k], X0)
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-13)


def test_the_mean_part_has_the_published_weights(x64):
    """beta^2 / (2 sigma^2 (1 - beta) (1 - bar)) on eps for the reverse variance sigma^2 = beta; on x_0 times SNR."""
    whole = chains.whole(TABLE)
    large = np.asarray(jax.jit(jax.vmap(lambda t: denoisers.variance.unit_variance(TABLE, t)))(whole.t))
    for k in (2, 9, T):
        bar, beta, i = BAR[k], BETA[k - 1], T - k
        miss = np.array([0.0, 0.37])  # of the mean; eps misses by -alpha / sigma of it
        without, given = np.asarray(divergence(Posterior(miss, large[i]), whole.gain[i], np.zeros(2)))
        on_x0 = float(given - without) / 0.37**2
        on_eps = beta**2 / (2 * beta * (1 - beta) * (1 - bar))
        np.testing.assert_allclose(on_x0, on_eps * bar / (1 - bar), rtol=1e-9)


# The decoder.


def lattice(levels):
    return np.linspace(-1, 1, levels)


@pytest.mark.parametrize("levels", [2, 17, 256])
@pytest.mark.parametrize("std", [1e-3, 0.02, 0.7, 30.0])
def test_probabilities_of_all_levels_sum_to_1_for_any_mean(levels, std, x64):
    for mean in (-7.0, -1.0, -0.3, 0.01, 1.0, 2.5):
        log_p = np.asarray(log_prob(Posterior(mean, std**2), lattice(levels), levels))
        assert not np.isnan(log_p).any()
        np.testing.assert_allclose(np.exp(log_p).sum(), 1, rtol=0, atol=1e-13)


def test_a_level_has_the_probability_of_its_bin(x64):
    mean, std, half = 0.2, 0.15, 1 / 16
    x = lattice(17)
    law = stats.norm(mean, std)
    expected = law.cdf(x + half) - law.cdf(x - half)
    expected[0], expected[-1] = law.cdf(-1 + half), law.sf(1 - half)
    found = log_prob(Posterior(mean, std**2), x, 17)
    np.testing.assert_allclose(np.exp(found), expected, rtol=1e-8)


def test_far_tails_are_finite_in_float32_and_so_are_their_gradients():
    """40 standard deviations away, log(Phi(b) - Phi(a)) by SciPy's log of the larger one and their ratio."""
    x = np.float32(lattice(256))
    log_p = lambda mean, log_std: log_likelihood(Posterior(mean, jnp.exp(2 * log_std)), x, 256)

    @jax.jit
    def answers(*at):
        back = jax.grad(lambda m, s: log_p(m, s).sum(), (0, 1))(*at)
        return log_p(*at), jax.jacfwd(log_p, (0, 1))(*at), back

    values, slopes, back = jax.tree.map(np.asarray, answers(np.float32(-1.5), np.float32(np.log(0.05))))
    a, b = (-1.5 - x + s / 255 for s in (-1, 1))
    log_a, log_b = (stats.norm.logcdf(np.asarray(v, np.float64) / 0.05) for v in (a, b))
    inside = log_b + np.log(-np.expm1(log_a - log_b))
    np.testing.assert_allclose(values[1:-1], inside[1:-1], rtol=2e-4)
    assert values.dtype == np.float32
    assert all(np.isfinite(s).all() for s in slopes)
    np.testing.assert_allclose(back, [s.sum() for s in slopes], rtol=1e-3)


def test_continuous_data_have_a_density(x64):
    found = log_prob(Posterior(0.2, 0.09), X0)
    np.testing.assert_allclose(found, stats.norm(0.2, 0.3).logpdf(X0), rtol=1e-12)


def test_the_last_step_is_the_decoder_and_the_others_are_divergences(x64):
    posterior = Posterior(0.2, 0.04)
    last = bound_term(posterior, np.inf, X0, 17)
    np.testing.assert_allclose(last, -np.asarray(log_prob(posterior, X0, 17)), rtol=1e-14)
    np.testing.assert_allclose(bound_term(posterior, 3.0, X0, 17), divergence(posterior, 3.0, X0), rtol=1e-14)
    slope = jax.jit(jax.grad(lambda var: term(Posterior(0.2, var), 3.0, X0, 17).sum()))(0.0)
    assert np.isfinite(slope), "a step without variance is no 0 / 0 in the decoder that it is not"


@pytest.mark.parametrize("levels", [1, 0, -5, 2.5, True, "256"])
def test_bad_levels_are_refused(levels):
    with pytest.raises(ValueError, match="expected an integer >= 2"):
        log_likelihood(Posterior(np.zeros(2), 1.0), np.zeros(2), levels)


# L_vlb and L_hybrid.


def two_maps(params, x, c):
    """F = a x, u = b x."""
    return jnp.concatenate([params["F"] * x, params["u"] * x], -1)


def by_hand(params, k, levels):
    """(mean of (eps - F)^2, term k in bits per dimension), from betas alone, for the network above."""
    bar, bar_s, beta = BAR[k], BAR[k - 1], BETA[k - 1]
    x = np.sqrt(bar) * X0 + np.sqrt(1 - bar) * Z
    eps, u = params["F"] * x, params["u"] * x
    mean = (x - np.sqrt(1 - bar) * eps) / np.sqrt(bar)
    small = beta * (1 - bar_s) / (1 - bar) if k > 1 else BETA[1] * (1 - BAR[1]) / (1 - BAR[2])
    var = np.exp((u + 1) / 2 * np.log(beta) + (1 - u) / 2 * np.log(small))
    if k > 1:
        move = np.sqrt(bar_s) * beta / (1 - bar)
        nats = gaussian_kl(move * X0, small, move * mean, var)
    else:
        half, law = 1 / (levels - 1), stats.norm(mean, np.sqrt(var))
        upper, lower = law.cdf(X0 + half), law.cdf(X0 - half)
        nats = -np.log(np.where(X0 == 1, 1, upper) - np.where(X0 == -1, 0, lower))
    return np.mean((Z - eps) ** 2), np.mean(nats) / np.log(2)


PARAMS = {"F": 0.8, "u": 0.5}


def call(loss, params, t, **options):
    net = jax.tree_util.Partial(two_maps, params)
    return loss(net, PROCESS, denoisers.Eps(), X0, Z, t, levels=17, **options)


evaluate = jax.jit(call, static_argnums=0)
gradient = jax.jit(jax.grad(call, 1), static_argnums=0)  # by the network's parameters


@pytest.mark.parametrize("k", [1, 2, 11, T])
def test_the_losses_are_those_of_the_paper(k, x64):
    """L_hybrid = L_simple + 0.001 L_vlb, L_vlb being T times one term in bits per dimension: their RESCALED losses."""
    simple, bits = by_hand(PARAMS, k, 17)
    np.testing.assert_allclose(evaluate(losses.variational, PARAMS, k / T), T * bits, rtol=1e-8)
    np.testing.assert_allclose(evaluate(losses.hybrid, PARAMS, k / T), simple + 0.001 * T * bits, rtol=1e-8)
    half = evaluate(losses.hybrid, PARAMS, k / T, vlb_weight=0.5)
    np.testing.assert_allclose(half, simple + 0.5 * T * bits, rtol=1e-8)


@pytest.mark.parametrize("k", [1, 5, T])
def test_the_bound_does_not_move_the_mean_in_the_hybrid(k, x64):
    """The gradient with respect to F is L_simple's to the bit, that with respect to u the bound's times its weight."""
    hybrid, only = (gradient(losses.hybrid, PARAMS, k / T, vlb_weight=weight) for weight in (0.25, 0.0))
    bound = gradient(losses.variational, PARAMS, k / T)
    assert hybrid["F"] == only["F"]
    assert only["u"] == 0
    np.testing.assert_allclose(hybrid["u"], 0.25 * float(bound["u"]), rtol=1e-12)
    assert abs(float(bound["F"])) > 1e-3, "alone, the bound moves both"


def test_the_regression_in_the_hybrid_has_its_weight(x64):
    weight = losses.weights.min_snr(5.0)
    first = lambda x, c: PARAMS["F"] * x

    @jax.jit
    def both(t):
        plain = losses.regression(first, PROCESS, denoisers.Eps(), X0, Z, t, weight)
        return call(losses.hybrid, PARAMS, t, weight=weight, vlb_weight=0.0), plain

    found, plain = both(0.5)
    np.testing.assert_allclose(found, plain, rtol=1e-14)


def test_a_continuous_schedule_is_a_chain_of_so_many_steps(x64):
    args = (jax.tree_util.Partial(two_maps, PARAMS), Gaussian(VP()), denoisers.V(), X0, Z)
    hybrid = jax.jit(lambda t: losses.hybrid(*args, t, steps=40))
    for t in (1 / 40, 0.5, 1.0):
        assert np.isfinite(hybrid(t))
    with pytest.raises(ValueError, match="none of the 40 times of the chain"):
        losses.variational(*args, 0.51, steps=40)


def test_a_network_of_one_map_is_refused_and_one_of_two_by_the_regression():
    args, pair = (PROCESS, denoisers.Eps()), jax.tree_util.Partial(two_maps, PARAMS)
    of = lambda loss, net, **options: jax.eval_shape(  # traced, not run
        lambda *drawn: loss(net, *args, *drawn, **options), np.float32(X0), np.float32(Z), 0.5
    )
    for loss in (losses.hybrid, losses.variational):
        with pytest.raises(ValueError, match="expected \\(12,\\): 2 map"):
            of(loss, lambda x, c: x)
    with pytest.raises(ValueError, match="for a second map"):
        of(losses.regression, pair)
    with pytest.raises(ValueError, match="levels = 1, expected an integer >= 2"):
        of(losses.hybrid, pair, levels=1)
