"""The variational bound: tight where the posterior is exact, and by how much it is not where the variance is wrong."""

import functools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from diffjax import analytic, calculus, chains, grids, likelihood
from diffjax.denoisers.variance import Large, Small
from diffjax.schedules import EDM, VE, VP, Cosine, Rectified, Tabulated
from diffjax.types import Posterior, pytree, static

CHAIN = Tabulated.linear()
BAR = np.concatenate([[1.0], np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))])


def exact(v, schedule=CHAIN):
    return analytic.gaussian_mixture([1.0], [[0.0]], [v]).denoiser(schedule, with_var=True)


def expected_bound(denoise, v, ts, **options):
    """The mean over x_0 ~ N(0, v) and the noise: every part is of second degree in (x_0, z), so that +-1 is enough."""
    z, x0 = np.asarray([-1.0, -1.0, 1.0, 1.0]), np.sqrt(v) * np.asarray([-1.0, 1.0, -1.0, 1.0])
    found = given_noise(likelihood.elbo(ts, denoise.schedule, **options), denoise, z, x0)
    return likelihood.Bound(*(np.asarray(part).mean() for part in found))


@jax.jit
@functools.partial(jax.vmap, in_axes=(None, None, 0, 0))
def given_noise(bound, denoise, z, x0):
    with mock.patch.object(jax.random, "normal", lambda key, shape, dtype: jnp.full(shape, z, dtype)):
        return bound(denoise, jax.random.key(0), x0[None])


@jax.jit
def bound_of(bound, denoise, x0):
    return bound(denoise, jax.random.key(0), x0)


def entropy(v):
    return 0.5 * np.log(2 * np.pi * np.e * v)


def reverse_variances(v, ts):
    """(optimal, beta, beta_tilde) of every step but the last, by conditioning of Gaussians and by definition."""
    k = np.round(ts * 1000).astype(int)
    bar, bar_s = BAR[k[:-2]], BAR[k[1:-1]]
    V, V_s, carried = bar * v + 1 - bar, bar_s * v + 1 - bar_s, np.sqrt(bar / bar_s)
    beta = 1 - bar / bar_s
    return V_s - (carried * V_s) ** 2 / V, beta, beta * (1 - bar_s) / (1 - bar)


def excess(wrong, right):
    return 0.5 * np.sum(np.log(wrong / right) + right / wrong - 1)


@pytest.mark.parametrize(("v", "shown"), [(0.25, "0.7257913529"), (1.0, "1.4189385332")])
def test_the_bound_is_tight_for_the_exact_posterior(v, shown, x64):
    """T = 1000: the entropy of the data and KL(q_T || N(0, 1))."""
    V_T = BAR[-1] * v + 1 - BAR[-1]
    total = expected_bound(exact(v), v, grids.trailing(CHAIN, 1000), prior_var=1.0).total
    np.testing.assert_allclose(total, entropy(v) + 0.5 * (V_T - 1 - np.log(V_T)), rtol=0, atol=1e-12)
    assert f"{total:.10f}" == shown


@pytest.mark.parametrize("n", [10, 50, 1000])
def test_the_excess_of_wrong_variances_is_the_closed_form(n, x64):
    """v = 0.25. beta: 0.0011 nats in 1000 steps; beta_tilde, which is far too small in a few steps: 0.456 there."""
    ts = grids.trailing(CHAIN, n)
    right, beta, small = reverse_variances(0.25, ts)
    best = expected_bound(exact(0.25), 0.25, ts)
    large = expected_bound(Large(exact(0.25)), 0.25, ts)
    point = expected_bound(Small(exact(0.25), chains.chain(CHAIN, ts)), 0.25, ts)
    np.testing.assert_allclose(large.diffusion - best.diffusion, excess(beta, right), rtol=1e-7, atol=1e-11)
    np.testing.assert_allclose(point.diffusion - best.diffusion, excess(small, right), rtol=1e-7)
    first = 1 - BAR[round(ts[-2] * 1000)]  # the reverse variance of the last step, beta of the data: decoder N(mean, .)
    posterior = first * 0.25 / ((1 - first) * 0.25 + first)
    gap = excess(np.asarray([first]), np.asarray([posterior]))
    np.testing.assert_allclose(large.reconstruction - best.reconstruction, gap, rtol=1e-6)
    if n == 1000:
        assert f"{large.total - best.total:.4f} {point.diffusion - best.diffusion:.3f}" == "0.0011 0.456"


def test_large_is_tight_for_unit_variance(x64):
    ts = grids.trailing(CHAIN, 1000)
    best, large = (expected_bound(d, 1.0, ts) for d in (exact(1.0), Large(exact(1.0))))
    assert abs(large.total - best.total) < 1e-13


def test_every_schedule_and_every_grid_gives_the_entropy(x64):
    """Also those that end above sigma = 0, or at t_min: then the last time is where x_0 is read off."""
    for schedule in (VP(), EDM(), VE(), Cosine(), Rectified()):
        noisy = float(calculus.amplitudes(schedule, [0.0])[1][0]) > 0
        for zero in (True, False):
            ts = grids.uniform(schedule, 6, t_min=0.05 * schedule.t_max, zero=zero)
            total = expected_bound(exact(0.25, schedule), 0.25, ts).total
            alpha, sigma = (float(a[0]) for a in calculus.amplitudes(schedule, ts[:1]))
            ratio = alpha**2 * 0.25 / sigma**2
            np.testing.assert_allclose(total, entropy(0.25) + 0.5 * (ratio - np.log1p(ratio)), atol=1e-9, err_msg=noisy)


@pytree
class Constant:
    """A denoiser that says miss(t) whatever it sees, and knows of no variance."""

    schedule: object
    miss: object = static()

    def __call__(self, x, t):
        return Posterior(jnp.full_like(x, self.miss(t)), 0.0)


def test_without_variance_it_is_the_change_of_snr_and_in_the_limit_its_derivative(x64):
    """Sum of (SNR_s - SNR_t) |x_0 - mean|^2 / 2; over fine steps the integral of -SNR' |x_0 - mean|^2 / 2."""
    schedule, miss = VP(), lambda t: 0.3 + t
    snr = lambda t: 1 / np.expm1(0.1 * t + 9.95 * t**2)
    slope = lambda t: -(0.1 + 19.9 * t) * np.exp(0.1 * t + 9.95 * t**2) * snr(t) ** 2
    limit = integrate.quad(lambda t: -0.5 * slope(t) * miss(t) ** 2, 0.1, 1.0)[0]
    gaps = []
    for n in (8, 80, 800):
        ts = grids.uniform(schedule, n, t_min=0.1, zero=False)
        found = bound_of(likelihood.elbo(ts, schedule), Constant(schedule, miss), np.zeros(1)).diffusion
        by_hand = 0.5 * np.sum((snr(ts[1:]) - snr(ts[:-1])) * miss(ts[:-1]) ** 2)
        np.testing.assert_allclose(found, by_hand, rtol=1e-10)
        gaps.append(abs(float(found) / limit - 1))
    assert gaps[0] > 5 * gaps[1] > 25 * gaps[2]
    assert gaps[2] < 4e-3


def test_prior_reconstruction_and_units():
    """x_0 of two entries against SciPy, levels and density, and the conversion to bits per dimension."""
    schedule, x0 = Tabulated.linear(), np.asarray([0.5, -1.0])
    ts = np.asarray([1.0, 0.3])
    denoise = Large(Constant(schedule, lambda t: 0.4))
    bar, v = BAR[1000], 1 - BAR[300]
    for prior in (None, 1.0, 2.0):
        var = 1 - bar if prior is None else prior
        kl = 0.5 * ((1 - bar + bar * x0**2) / var - 1 + np.log(var / (1 - bar)))
        bound = bound_of(likelihood.elbo(ts, schedule, prior_var=prior), denoise, x0.astype(np.float32))
        np.testing.assert_allclose(bound.prior, kl.sum(), rtol=1e-3)
    density = -stats.norm(0.4, np.sqrt(v)).logpdf(x0).sum()
    np.testing.assert_allclose(bound.reconstruction, density, rtol=1e-5)
    coded = bound_of(likelihood.elbo(ts, schedule, levels=5), denoise, x0.astype(np.float32))
    law = stats.norm(0.4, np.sqrt(v)).cdf
    np.testing.assert_allclose(coded.reconstruction, -np.log((law(0.75) - law(0.25)) * law(-0.75)), rtol=1e-5)
    np.testing.assert_allclose(coded.bits(2).total, float(coded.total) / 2 / np.log(2), rtol=1e-6)


def test_an_estimate_has_the_expected_mean_and_no_retrace():
    v, traces = 0.25, 0
    ts, denoise = grids.log_snr(CHAIN, 12), exact(v)

    @jax.jit
    def bounds(bound, denoise, keys, x0):
        nonlocal traces
        traces += 1
        return jax.vmap(bound, (None, 0, 0))(denoise, keys, x0).total

    n = 4000
    x0 = 0.5 * np.random.default_rng(1).standard_normal((n, 1), np.float32)
    values = np.asarray(bounds(likelihood.elbo(ts, CHAIN), denoise, jax.random.split(jax.random.key(2), n), x0))
    V_T, s_T = BAR[-1] * v + 1 - BAR[-1], 1 - BAR[-1]
    mean = entropy(v) + 0.5 * (V_T / s_T - 1 - np.log(V_T / s_T))
    assert abs(values.mean() - mean) < 4 * values.std() / np.sqrt(n)
    bounds(likelihood.elbo(grids.trailing(CHAIN, 12), CHAIN), denoise, jax.random.split(jax.random.key(2), n), x0)
    assert traces == 1


def test_bad_input():
    ts = grids.trailing(CHAIN, 5)
    for levels in (1, 2.5, True):
        with pytest.raises(ValueError, match="expected an integer >= 2"):
            likelihood.elbo(ts, CHAIN, levels=levels)
    for prior in (0.0, -1.0, np.nan):
        with pytest.raises(ValueError, match="prior_var is"):
            likelihood.elbo(ts, CHAIN, prior_var=prior)
    with pytest.raises(ValueError, match="must decrease strictly"):
        likelihood.elbo(ts[::-1], CHAIN)
