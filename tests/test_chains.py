"""Chains against conditioning of Gaussians, and the reverse variances of DDPM and iDDPM against their definitions."""

from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax import calculus, chains, denoisers, grids
from diffjax.denoisers import variance
from diffjax.denoisers.clipping import clipped
from diffjax.samplers import ancestral, sampling_fn
from diffjax.schedules import EDM, VE, VP, Rectified, Tabulated
from diffjax.types import Posterior

LINEAR = np.linspace(1e-4, 0.02, 1000)
BAR = np.concatenate([[1.0], np.cumprod(1 - LINEAR)])  # alphas_cumprod, 1 first
CHAIN = Tabulated.linear()
STRIDED = grids.leading(CHAIN, 20)  # ends with steps 951 -> 901, ..., 51 -> 1, 1 -> 0


def conditioned(alpha_s, sigma_s, alpha_t, sigma_t):
    """x_s | x_t, x_0 = 1: (weight of x_t, weight of x_0, variance), from the joint covariance of (x_s, x_t)."""
    carried = alpha_t / alpha_s
    cov = carried * sigma_s**2
    weight = cov / sigma_t**2
    return weight, alpha_s - weight * alpha_t, sigma_s**2 - weight * cov


def betas_of(ts):
    """Noisiest first: beta and beta_tilde of a sub-sequence of the linear chain, by the definitions of Ho et al."""
    k = np.round(ts * 1000).astype(int)
    beta = 1 - BAR[k[:-1]] / BAR[k[1:]]
    return beta, beta * (1 - BAR[k[1:]]) / (1 - BAR[k[:-1]])


def test_the_posterior_is_gaussian_conditioning_at_every_step_of_the_chain():
    ts = grids.trailing(CHAIN, 1000)
    rows = ancestral.ddpm(CHAIN).plan(ts)
    alpha, sigma = np.sqrt(BAR[::-1]), np.sqrt(1 - BAR[::-1])
    x, x0, noise = conditioned(alpha[1:], sigma[1:], alpha[:-1], sigma[:-1])
    np.testing.assert_allclose(rows.x, x, rtol=0, atol=3e-12)
    np.testing.assert_allclose(rows.mean, x0, rtol=0, atol=3e-12)
    np.testing.assert_allclose(rows.noise_var, noise, rtol=0, atol=3e-13)
    gain = chains.chain(CHAIN, ts).gain
    np.testing.assert_allclose(gain[:-1], x0[:-1] ** 2 / noise[:-1], rtol=1e-8)
    assert gain[-1] == np.inf


@pytest.mark.parametrize("schedule", [VP(), VE(), EDM(), Rectified(t_max=0.99), Rectified()], ids=repr)
def test_the_gain_is_what_the_step_adds_to_the_snr(schedule):
    ts = grids.uniform(schedule, 9, t_min=0.02 * schedule.t_max, zero=False)
    alpha, sigma = calculus.amplitudes(schedule, ts)
    snr = (alpha / sigma) ** 2
    chain = chains.chain(schedule, ts)
    np.testing.assert_allclose(chain.gain, [*np.diff(snr), np.inf], rtol=1e-9)
    np.testing.assert_array_equal(chain.t, ts)
    np.testing.assert_allclose(chain.floor, 1 / snr[-1], rtol=1e-9)  # of a flat density: x_0 = x_t / alpha + ...
    rows = ancestral.ddpm(schedule).plan(ts)
    np.testing.assert_allclose(rows.mean**2 / rows.noise_var, np.diff(snr), rtol=1e-9)


def test_the_numbers_of_the_linear_chain():
    """beta / beta_tilde from 2.20 down to 1.0000008; the log variance of the last step is clipped at 5.5e-5."""
    whole = chains.whole(CHAIN)
    sigma2 = (1 - BAR)[:0:-1]  # of t = T .. 1; the data variance 1 of a variance-preserving chain
    ratio = 1 + whole.gain[:-1] * sigma2[:-1]
    beta, small = betas_of(grids.trailing(CHAIN, 1000))
    np.testing.assert_allclose(ratio, (beta[:-1] / small[:-1]), rtol=1e-9)
    assert f"{ratio[-1]:.2f} {ratio[0]:.7f}" == "2.20 1.0000008"
    assert f"{whole.floor:.1e}" == "5.5e-05"
    np.testing.assert_allclose(whole.floor, small[-2], rtol=1e-10)


def test_the_gain_at_a_time_is_that_of_its_step_in_float32():
    chain = chains.chain(CHAIN, STRIDED)
    found = jax.jit(jax.vmap(chain.gain_at))(np.float32(STRIDED[:-1]))
    np.testing.assert_allclose(found, chain.gain, rtol=1e-6)
    between = jax.jit(jax.vmap(chain.gain_at))(np.float32([0.9, 0.0, 1.0, np.nan, 0.0505]))
    assert np.isnan(between).all()


def test_the_whole_chain_has_the_length_of_its_table():
    assert len(chains.whole(Tabulated.cosine(50)).t) == 50
    assert len(chains.whole(VP()).t) == 1000
    np.testing.assert_allclose(chains.whole(EDM(), 4).t, [80, 60, 40, 20])


def test_times_that_are_none_of_the_chains_are_refused():
    chain = chains.chain(CHAIN, STRIDED)
    chain.check(np.float32(0.951))
    for t in (0.9, 0.0, 1.0, np.nan):
        with pytest.raises(ValueError, match="none of the 20 times of the chain"):
            chain.check(t)


# Reverse variances. A sampler's is noise_var + x0^2 var, with the rows of `ancestral.ddpm`.


ask = jax.jit(lambda denoise, x, t: denoise(x, t))


@jax.jit
def variances(denoise, ts):
    """Var[x_0 | x_t] at x = 0, at each time."""
    return jax.vmap(lambda t: jnp.broadcast_to(denoise(jnp.zeros(1), t).var, (1,))[0])(ts)


def reverse(denoise, ts):
    """The variance of the step from each time of the grid, float64; also that of the last one, which draws no noise."""
    rows = ancestral.ddpm(denoise.schedule).plan(ts)
    return rows.noise_var + rows.mean**2 * np.asarray(variances(denoise, ts[:-1]))


def silent(x, c):
    return jnp.zeros_like(x)


@pytest.mark.parametrize("grid", [grids.trailing, grids.leading, grids.linspace])
@pytest.mark.parametrize("n", [2, 7, 1000])
def test_large_is_beta_t_on_every_variance_preserving_chain(grid, n, x64):
    ts = grid(CHAIN, n)
    denoise = variance.large(silent, CHAIN, denoisers.Eps())
    np.testing.assert_allclose(reverse(denoise, ts), betas_of(ts)[0], rtol=1e-7)


def test_large_is_the_reverse_variance_of_gaussian_data(x64):
    """Var[x_s | x_t] for x_0 ~ N(0, v), from the covariance of (x_s, x_t)."""
    for schedule in (VP(), EDM(), Rectified(t_max=0.99)):
        ts = grids.uniform(schedule, 6, t_min=0.05 * schedule.t_max, zero=False)
        alpha, sigma = calculus.amplitudes(schedule, ts)
        a_t, a_s, s_t, s_s = alpha[:-1], alpha[1:], sigma[:-1], sigma[1:]
        cov = a_s * a_t * 0.3 + a_t / a_s * s_s**2
        exact = a_s**2 * 0.3 + s_s**2 - cov**2 / (a_t**2 * 0.3 + s_t**2)
        denoise = variance.large(silent, schedule, denoisers.Eps(), v=0.3)
        np.testing.assert_allclose(reverse(denoise, ts), exact, rtol=1e-8)


@pytest.mark.parametrize("u", [-1.0, -0.3, 0.0, 1.0, 1.7, -2.0])
def test_the_learned_range_interpolates_the_logs_of_the_strided_chain(u, x64):
    """Also beyond [-1, 1], where the published network is not confined either."""
    net = lambda x, c: jnp.concatenate([0 * x, 0 * x + u], -1)
    denoise = variance.learned_range(net, CHAIN, denoisers.Eps(), chains.chain(CHAIN, STRIDED))
    beta, small = betas_of(STRIDED)
    small[-1] = small[-2]  # beta_tilde = 0 at the last step is clipped to its neighbour
    frac = (u + 1) / 2
    expected = np.exp(frac * np.log(beta) + (1 - frac) * np.log(small))
    np.testing.assert_allclose(reverse(denoise, STRIDED), expected, rtol=1e-7)


def test_one_step_has_one_variance(x64):
    ts = np.asarray([1.0, 0.0])
    for u in (-1.0, 1.0):
        net = lambda x, c: jnp.concatenate([x, 0 * x + u], -1)  # noqa: B023
        denoise = variance.learned_range(net, CHAIN, denoisers.Eps(), chains.chain(CHAIN, ts))
        np.testing.assert_allclose(reverse(denoise, ts), 1 - BAR[-1], rtol=1e-9)


def test_small_adds_nothing_but_at_the_last_step(x64):
    denoise = variance.small(silent, CHAIN, denoisers.Eps(), chains.chain(CHAIN, STRIDED))
    _, small = betas_of(STRIDED)
    np.testing.assert_allclose(reverse(denoise, STRIDED), [*small[:-1], small[-2]], rtol=1e-8)


def test_a_time_off_the_chain_has_no_variance_but_a_mean():
    net = lambda x, c: jnp.concatenate([x, x], -1)
    for make in (variance.small, variance.learned_range):
        denoise = make(net, CHAIN, denoisers.Eps(), chains.chain(CHAIN, STRIDED))
        posterior = ask(denoise, np.ones(3, np.float32), np.float32(0.5))
        assert np.isnan(posterior.var).all()
        assert np.isfinite(posterior.mean).all()


def test_the_mean_is_that_of_the_first_map():
    net = lambda x, c: jnp.concatenate([0.5 * x, 7 * x], -1)
    x, t, chain = np.float32([0.3, -2.0]), np.float32(0.951), chains.chain(CHAIN, STRIDED)
    plain = ask(denoisers.denoiser(lambda x, c: 0.5 * x, CHAIN, denoisers.Eps()), x, t).mean
    for make in (variance.mean, variance.small, variance.large, variance.learned_range):
        np.testing.assert_array_equal(ask(make(net, CHAIN, denoisers.Eps(), chain), x, t).mean, plain)


def test_ancestral_sampling_with_a_learned_variance_is_the_published_update(x64):
    """x_{t-1} = c_0 x_0 + c_t x_t + exp(log_var / 2) noise with x_0 clipped, in NumPy, on a strided chain."""
    net = lambda x, c: jnp.concatenate([jnp.sin(x), jnp.cos(3 * x)], -1)
    denoise = variance.learned_range(net, CHAIN, denoisers.Eps(), chains.chain(CHAIN, STRIDED), clip=(-1.0, 1.0))
    noise = np.random.default_rng(0).normal(size=(21, 4))
    x = noise[20].copy()
    beta, small = betas_of(STRIDED)
    for i, k in enumerate(np.round(STRIDED[:-1] * 1000).astype(int)):
        bar, bar_s = BAR[k], BAR[round(STRIDED[i + 1] * 1000)]
        eps, u = np.sin(x), np.cos(3 * x)
        x0 = np.clip((x - np.sqrt(1 - bar) * eps) / np.sqrt(bar), -1, 1)
        mean = np.sqrt(bar_s) * beta[i] / (1 - bar) * x0 + np.sqrt(bar / bar_s) * (1 - bar_s) / (1 - bar) * x
        if i < 19:
            log_var = (u + 1) / 2 * np.log(beta[i]) + (1 - u) / 2 * np.log(small[i])
            mean = mean + np.exp(log_var / 2) * noise[i]
        x = mean
    walk, draws = sampling_fn(ancestral.ddpm(CHAIN), STRIDED), jnp.asarray(noise)
    with (
        mock.patch.object(jax.random, "fold_in", lambda key, index: index),
        mock.patch.object(jax.random, "normal", lambda index, shape, dtype: draws[index]),
    ):
        found = jax.jit(lambda x: walk(denoise, None, x))(noise[20])
    np.testing.assert_allclose(found, x, rtol=1e-9, atol=1e-9)


# Clipping, and bad input.


def test_clipping_moves_the_mean_and_the_noise_it_implies_and_nothing_else(x64):
    """The DDIM update with the noise recomputed from the clipped x_0, in NumPy (Dhariwal & Nichol 2021)."""
    x, t, s = np.asarray([1.5, -0.2]), 0.5, 0.25
    inner = lambda x, t: Posterior(3 * x, 0.1)
    inner.schedule = CHAIN
    denoise = clipped(inner, (-1, 0.5))
    assert denoise(jnp.asarray(x), t).var == 0.1
    x0, (bar, bar_s) = np.asarray([0.5, -0.6]), BAR[[500, 250]]
    eps = (x - np.sqrt(bar) * x0) / np.sqrt(1 - bar)
    rows = ancestral.ddim(CHAIN).plan(np.asarray([t, s]))
    step = rows.x[0] * x + rows.mean[0] * np.asarray(denoise(jnp.asarray(x), t).mean)
    np.testing.assert_allclose(step, np.sqrt(bar_s) * x0 + np.sqrt(1 - bar_s) * eps, rtol=1e-12)
    assert clipped(inner, None) is inner


@pytest.mark.parametrize("clip", [(1, -1), (0, 0), (np.nan, 1), (1,), 3.0])
def test_bad_clips_are_refused(clip):
    with pytest.raises(ValueError, match=r"expected \(low, high\) with low < high"):
        variance.large(silent, CHAIN, denoisers.Eps(), clip=clip)


@pytest.mark.parametrize("v", [0, -1, np.nan, np.inf])
def test_bad_data_variances_are_refused(v):
    with pytest.raises(ValueError, match="variance of the data is"):
        variance.large(silent, CHAIN, denoisers.Eps(), v=v)


def test_a_learned_range_needs_a_second_map():
    denoise = variance.learned_range(silent, CHAIN, denoisers.Eps(), chains.chain(CHAIN, STRIDED))
    with pytest.raises(
        ValueError, match=r"expected \(8, 8, 2\): 2 map\(s\) per channel \(the model's option `outputs`\)"
    ):
        denoise(jnp.ones((8, 8, 1)), 0.951)
    for wrong in (jnp.ones((8, 8, 3)), jnp.ones((8, 4, 2)), jnp.ones(()), jnp.ones((8, 16, 1))):
        with pytest.raises(ValueError, match="The network gives shape"):
            denoisers.denoiser(lambda x, c: wrong, CHAIN, denoisers.Eps())(jnp.ones((8, 8, 2)), 0.5)  # noqa: B023
