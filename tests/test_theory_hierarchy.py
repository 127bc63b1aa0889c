"""A chain's bound, term by term: against the KL of two joint Gaussians, the library's own losses, the autoencoder's."""

import jax
import numpy as np
import pytest
from scipy import optimize

from diffjax import analytic, chains, denoisers
from diffjax.losses.variational import kl
from diffjax.tabulated import Tabulated
from diffjax.theory import hierarchy

V = 0.25


def cosine(T):
    """The chain alpha_k = cos(pi k / (2 (T + 1))) and its grid of all steps."""
    k = np.arange(T + 1)
    return Tabulated(np.log(np.cos(np.pi * k / 2 / (T + 1)))), k[::-1] / T


def joint(T, v, rule):
    """KL(q(x_0, ..., x_T) || p(x_0, ..., x_T)) of the two joint Gaussians, from their covariances."""
    a = np.cos(np.pi * np.arange(T + 1) / 2 / (T + 1))
    s2 = 1 - a**2
    s2[0] = 0
    order = np.arange(T + 1)
    lower = np.minimum.outer(order, order)  # x_t = (a_t / a_s) x_s + noise, s < t
    q = a[:, None] / a[lower] * (a[None] / a[lower]) * (a[lower] ** 2 * v + s2[lower])
    precision = np.zeros((T + 1, T + 1))
    precision[T, T] += 1  # the prior N(0, 1)
    log_det = 0.0
    for t in range(T, 0, -1):
        s = t - 1
        slope = q[s, t] / q[t, t]  # the exact mean of x_s given x_t
        true = q[s, s] - slope * q[s, t]
        beta = 1 - (a[t] / a[s]) ** 2
        small = beta * s2[s] / s2[t]
        var = true if s == 0 else {"exact": true, "small": small, "large": beta}[rule]
        row = np.zeros(T + 1)
        row[s], row[t] = 1, -slope
        precision += np.outer(row, row) / var
        log_det += np.log(var)
    return 0.5 * (np.trace(precision @ q) - (T + 1) + log_det - np.linalg.slogdet(q)[1])


@pytest.mark.parametrize("rule", hierarchy.RULES)
@pytest.mark.parametrize(("T", "v"), [(1, V), (2, 3.0), (4, V), (16, 0.7)])
def test_the_gap_is_the_kl_of_the_two_joints(T, v, rule):
    """kexue 9152 (4): the bound's loss is that of the whole chain's joint law."""
    found = hierarchy.chain_terms(*cosine(T), v, rule)
    assert len(found.steps) == T - 1
    np.testing.assert_allclose(found.gap, joint(T, v, rule), rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize(
    ("T", "gaps"),
    [
        (1, (0.0475018, 0.0475018, 0.0475018)),
        (4, (0.0013470, 0.252329, 0.0898510)),
        (16, (1.02359e-5, 0.941464, 0.0346412)),
        (64, (4.796e-8, 1.285149, 0.0093923)),
    ],
)
def test_more_latents_lose_nothing_by_the_exact_variance_and_ever_more_by_the_small_one(T, gaps):
    found = [hierarchy.chain_terms(*cosine(T), V, rule).gap for rule in hierarchy.RULES]
    np.testing.assert_allclose(found, gaps, rtol=2e-4)
    if T > 1:
        assert found[1] > hierarchy.chain_terms(*cosine(T // 4), V, "small").gap
        assert found[0] == pytest.approx(hierarchy.chain_terms(*cosine(T), V).prior - prior_floor(T), abs=1e-12)


def prior_floor(T):
    """E KL(q(x_T | x_0) || q(x_T)): what of the prior's term the latent tells of x_0, which is no loss."""
    a2 = np.cos(np.pi * T / 2 / (T + 1)) ** 2
    return 0.5 * np.log((a2 * V + 1 - a2) / (1 - a2))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("rule", ["small", "large"])
def test_terms_are_the_librarys_losses_in_the_mean(rule):
    """`losses.variational.kl` of the library's denoiser and rule, at points whose squares have the law's moments."""
    schedule, ts = cosine(5)
    chain = chains.chain(schedule, ts)
    ideal = denoisers.variance.Large(analytic.gaussian_mixture([1.0], [[0.0]], [[[V]]]).denoiser(schedule))
    rules = {"small": denoisers.variance.Small(ideal, chain), "large": ideal}
    expected = hierarchy.chain_terms(schedule, ts, V, rule)
    signs = np.array([(i, j) for i in (-1.0, 1.0) for j in (-1.0, 1.0)])

    def term(x0, z, t, gain):
        alpha, sigma = schedule(t)
        return kl(rules[rule](alpha * x0 + sigma * z, t), gain, x0).sum()

    of_signs = jax.vmap(term, (0, 0, None, None))
    times, gains = np.asarray(chain.t)[:-1], np.asarray(chain.gain)[:-1]
    found = jax.jit(jax.vmap(of_signs, (None, None, 0, 0)))(signs[:, :1] * V**0.5, signs[:, 1:], times, gains)
    np.testing.assert_allclose(found.mean(1), expected.steps, rtol=1e-9)


def test_a_learned_encoder_loses_nothing_where_the_fixed_one_does():
    """One latent each: the autoencoder's total is the entropy, the chain's of one step is above it by the prior."""
    entropy = 0.5 * np.log(2 * np.pi * np.e * V)
    for std in (0.1, 0.3, 0.5):
        found = hierarchy.linear_terms(V, std)
        assert found.total == pytest.approx(entropy, abs=1e-12)
        assert found.gap == pytest.approx(0, abs=1e-12)
    assert hierarchy.chain_terms(*cosine(1), V).gap > 0.04


@pytest.mark.parametrize("std", [0.2, 0.5, 0.9])
def test_the_linear_autoencoder_of_one_latent_is_a_minimum(std):
    """-bound of decoder w z and encoder N(m x, d), minimised by numbers."""

    def negative(free):
        w, m, log_d = free
        d = np.exp(log_d)
        error = (1 - w * m) ** 2 * V + w**2 * d
        rate = 0.5 * (m**2 * V + d - 1 - log_d)
        return rate + 0.5 * (error / std**2 + np.log(2 * np.pi * std**2))

    best = optimize.minimize(negative, [0.3, 0.5, -1.0], method="BFGS", options={"gtol": 1e-9})
    w, m, log_d = best.x
    found = hierarchy.linear_terms(V, std)
    assert best.fun == pytest.approx(found.total, abs=1e-9)
    assert 0.5 * (m**2 * V + np.exp(log_d) - 1 - log_d) == pytest.approx(found.prior, abs=1e-5)
    assert abs(w) == pytest.approx(np.sqrt(max(V - std**2, 0)), abs=1e-3)


def test_refuses_bad_input_in_one_line():
    schedule, ts = cosine(4)
    with pytest.raises(ValueError, match=r"^Got rule = 'beta', expected one of exact, small, large\.$"):
        hierarchy.chain_terms(schedule, ts, V, "beta")
    with pytest.raises(ValueError, match=r"^Got v = 0, expected a positive variance\.$"):
        hierarchy.chain_terms(schedule, ts, 0)
    with pytest.raises(ValueError, match=r"^The grid ends at t = 0\.25 with noise, expected one that ends in data"):
        hierarchy.chain_terms(schedule, ts[:-1], V)
    with pytest.raises(ValueError, match=r"^Got std = -1, expected a positive number\.$"):
        hierarchy.linear_terms(V, -1)
