"""The law of what samplers return: exact moments on Gaussians and points, samples of a mixture, the noise itself."""

import itertools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_forms import amplitudes
from oracles.mixture import Mixture, w1
from rows import laws, reached, remembered, times
from samplers_table import ALL, EVERY_PAIR, SAMPLERS, SETTINGS, grid, grid_for, in_turn, known_at_knots, one_of_a_step
from scipy import stats

from diffjax import analytic, grids, host
from diffjax.processes import gaussian
from diffjax.samplers import ancestral, heun, sampling_fn, sde
from diffjax.schedules import EDM, VP

exact = pytest.mark.usefixtures("x64")


@pytest.fixture(scope="module", autouse=True)
def levels_once():
    """Levels are looked up once for all samplers, and padded to one length: each primitive compiles once."""
    along = host.along
    with mock.patch.object(host, "along", remembered(lambda *args: along(*args[:3], 1024))):
        yield


def forward(form, t, m, v):
    """(mean, variance) of x_t."""
    alpha, sigma = amplitudes(form, t)
    return alpha * m, alpha**2 * v + sigma**2


POINT_EXACT = [(name, setting) for name, setting in EVERY_PAIR if SAMPLERS[name].exact_on_point]


@exact
@pytest.mark.parametrize(("name", "setting", "zero"), in_turn(POINT_EXACT, (True,), (False,)))
def test_one_point_is_sampled_exactly(name, setting, zero):
    """All data at m: eps is constant on a path, and x_s ~ N(alpha_s m, sigma_s^2) at any number of steps.

    At every evaluation, those at middle nodes, predictions and restarts included.
    """
    row, (schedule, form, *_) = SAMPLERS[name], SETTINGS[setting]
    ts = grid_for(name, setting, max(10, row.least_steps), zero)
    sampler = row.make(schedule)
    means, variances = laws(sampler, ts, 0.7, 0.0)
    if row.rows_per_step == 2:  # x is complete after the second
        complete = np.minimum(np.arange(1, len(means) + 1, 2), len(means) - 1)
        after, means, variances = reached(sampler, ts)[complete], means[complete], variances[complete]
    else:
        after = times(sampler, ts)
    expected = forward(form, after, 0.7, 0.0)
    noisiest = np.max(amplitudes(form, ts[0])[1] / np.maximum(amplitudes(form, ts[0])[0], 1e-3))
    np.testing.assert_allclose(means, expected[0], atol=1e-14 * noisiest)
    np.testing.assert_allclose(variances, expected[1], rtol=1e-10, atol=1e-15 * noisiest**2)


def ddim_on_gaussian(eta, form, t, s, m, v):
    """(A, B, C) of x_s = A x_t + B + C z for one step on N(m, v), derived by hand."""
    (a, sig), (a_s, sig_s) = amplitudes(form, t), amplitudes(form, s)
    total = a**2 * v + sig**2  # E[z | x] = sig (x - a m) / total
    nu2 = eta**2 * sig_s**2 * (1 - (a * sig_s / (a_s * sig)) ** 2)
    slope = (a_s * a * v + np.sqrt(sig_s**2 - nu2) * sig) / total  # Cov(x_s, x_t) / Var(x_t), noise left out
    return slope, a_s * m - slope * a * m, np.sqrt(nu2)


def sde_on_gaussian(churn, form, t, s, m, v):
    """As `ddim_on_gaussian`, of Euler-Maruyama."""
    (a, sig), (f, g2) = amplitudes(form, t), (np.float64(rate) for rate in form.rates(np.longdouble(t)))
    total = a**2 * v + sig**2  # score = (a m - x) / total
    pull = (1 + churn**2) / 2 * g2 / total
    return 1 + (s - t) * (f + pull), -(s - t) * pull * a * m, churn * np.sqrt(g2 * (t - s))


FAMILIES = [(ancestral.ddim, ddim_on_gaussian, eta) for eta in (0.0, 0.2, 0.5, 0.8, 1.0)]
FAMILIES += [(sde.euler_maruyama, sde_on_gaussian, churn) for churn in (0.0, 0.5, 1.0, 1.6)]


@exact
@pytest.mark.parametrize("setting", ["vp", "sub_vp", "ve", "edm", "cosine", "rectified"])
@pytest.mark.parametrize(("make", "step", "strength"), FAMILIES)
@pytest.mark.parametrize("n", [1, 2, 10, 100])
def test_moments_follow_the_recursion(make, step, strength, n, setting):
    """Mean and variance on N(0.7, 0.25), step by step."""
    schedule, form, *_ = SETTINGS[setting]
    ts = grid(setting, n)
    mean, var = forward(form, ts[0], 0.7, 0.25)
    expected = []
    for t, s in itertools.pairwise(ts):
        a, b, c = step(strength, form, t, s, 0.7, 0.25)
        mean, var = a * mean + b, a**2 * var + c**2
        expected.append((mean, var))
    found = np.transpose(laws(make(schedule, strength), ts, 0.7, 0.25))
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-11)


@exact
@pytest.mark.parametrize("eta", [0.0, 0.25, 0.5, 0.75, 1.0])
@pytest.mark.parametrize("setting", ALL)
def test_with_the_posterior_variance_every_number_of_steps_is_exact(eta, setting):
    """Analytic-DPM and Analytic-DDIM on a Gaussian: x_s has its true law whatever the grid (kexue 9245)."""
    schedule, form, *_ = SETTINGS[setting]
    m, v = 0.7, 0.25
    for n in (1, 2, 10):
        ts = grid(setting, n)
        means, variances = laws(ancestral.ddim(schedule, eta), ts, m, v, with_var=True)
        expected_mean, expected = forward(form, ts[1:], m, v)
        alpha, sigma = amplitudes(form, ts)
        if sigma[-1] == 0:  # the mean of x_0 is returned, not a draw
            expected[-1] = v - sigma[-2] ** 2 * v / (alpha[-2] ** 2 * v + sigma[-2] ** 2)
        np.testing.assert_allclose(means, expected_mean, rtol=1e-10, atol=1e-11)
        np.testing.assert_allclose(variances, expected, rtol=1e-9, atol=1e-11)


@exact
@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("k", [5, 10, 100])
def test_analytic_dpm_reproduces_the_spread_of_the_data(k, eta):
    """Data of std 0.5 under DDPM's chain. Plain DDIM: 0.225 at K = 5."""
    schedule, form, *_ = SETTINGS["table_linear"]
    ts = grids.linspace(schedule, k)
    _, variances = laws(ancestral.ddim(schedule, eta), ts, 0.0, 0.25, var=1.0, with_var=True)
    alpha, sigma = amplitudes(form, ts[-2])
    left_out = sigma**2 * 0.25 / (alpha**2 * 0.25 + sigma**2)  # the last step returns a mean, not a draw
    assert 0.4999995 < np.sqrt(variances[-1] + left_out) < 0.5000085
    if k == 5:
        assert np.sqrt(laws(ancestral.ddim(schedule), ts, 0.0, 0.25, var=1.0)[1][-1]) == pytest.approx(0.225, abs=6e-4)


@exact
@pytest.mark.parametrize(("k", "std"), [(5, 0.614388), (10, 0.814586), (50, 0.963383)])
def test_ddim_shrinks_a_standard_normal_by_a_product_of_cosines(k, std):
    """prod cos(phi_i - phi_{i+1}), phi = arccos alpha."""
    schedule, form, *_ = SETTINGS["table_linear"]
    ts = grids.linspace(schedule, k)
    _, variances = laws(ancestral.ddim(schedule), ts, 0.0, 1.0, var=1.0)
    angles = np.arccos(amplitudes(form, ts)[0])
    assert np.sqrt(variances[-1]) == pytest.approx(np.prod(np.cos(np.diff(angles))), rel=1e-13)
    assert np.sqrt(variances[-1]) == pytest.approx(std, abs=5.1e-7)


DDIM_TABLE = [
    (10, 0.0, 0.69839, 0.36161),
    (100, 0.0, 0.69784, 0.48585),
    (1000, 0.0, 0.69778, 0.49850),
    (100, 1.0, None, 0.46795),
]


@exact
@pytest.mark.parametrize(("k", "eta", "mean", "std"), DDIM_TABLE)
def test_ddim_on_a_gaussian(k, eta, mean, std):
    """Data N(0.7, 0.25), DDPM's chain, from N(0, 1)."""
    schedule = SETTINGS["table_linear"].schedule
    means, variances = laws(ancestral.ddim(schedule, eta), grids.linspace(schedule, k), 0.7, 0.25, mean=0.0, var=1.0)
    assert np.sqrt(variances[-1]) == pytest.approx(std, abs=5.1e-6)
    assert mean is None or means[-1] == pytest.approx(mean, abs=5.1e-6)


EDM_TABLE = [(18, 0.0, 1.0, 0.5276), (18, 40.0, 1.0, 0.5622)]
EDM_TABLE_LONG = [(256, 0.0, 1.0, 0.5001), (256, 40.0, 1.0, 0.50096), (256, 40.0, 1.003, 0.50246)]


@exact
@pytest.mark.parametrize(("n", "churn", "s_noise", "std"), EDM_TABLE + EDM_TABLE_LONG)
def test_edm_on_a_gaussian(n, churn, s_noise, std):
    """Data of std 0.5, Karras et al.'s grid from 80 to 0.002, then 0; the mean is kept exactly."""
    schedule = EDM()
    sampler = heun.edm(schedule, churn=churn, s_noise=s_noise)
    means, variances = laws(sampler, grids.karras(schedule, n), 0.7, 0.25)
    assert np.sqrt(variances[-1]) == pytest.approx(std, abs=5.1e-6 if std > 0.5009 and n == 256 else 5.1e-5)
    np.testing.assert_allclose(means, 0.7, atol=1e-11)


@exact
def test_reverse_sdes_of_all_strengths_have_one_law():
    """dx = -x dt + sqrt(2) dw up to t = 3, 4000 steps, noise 0, 1/2, 1, 2 times the forward one in variance."""
    schedule = VP(beta_min=6.0, beta_max=6.0)
    ts = grids.uniform(schedule, 4000, t_min=0.0)
    for ratio, expected in {0.0: 0.2504, 0.5: 0.2505, 1.0: 0.2507, 2.0: 0.2511}.items():
        _, variances = laws(sde.euler_maruyama(schedule, churn=np.sqrt(ratio)), ts, 0.0, 0.25)
        assert variances[-1] == pytest.approx(expected, abs=6e-5)


# Samples, in the precision of use.

LINE = Mixture((0.3, 0.7), (-0.6, 0.5), (0.01, 0.02))
N = 2048
# One of each kind of row, with noise and without, where it is usual and from alpha = 0: other samplers and schedules
# differ by numbers, which the exact laws above hold. Steps by the order.
SAMPLED = [("ddim", 192), ("ddpm", 192), ("em", 512), ("heun", 64), ("heun_churn", 192)]
SAMPLED += [("adams_3", 64), ("restart", 192), ("dpmpp_2m_sde", 192), ("unipc_3", 64), ("principal_2", 64)]


@jax.jit
def sample_batch(sample, model, keys, x):
    return jax.vmap(sample, in_axes=(None, 0, 0))(model, keys, x)


@pytest.mark.parametrize(
    ("name", "steps", "setting"),
    [(name, steps, at) for name, steps in SAMPLED for at in ("vp", "rectified_1") if at in SAMPLERS[name].settings],
)
def test_samples_of_a_mixture(name, steps, setting):
    """Mean, std and W1 of 2048 samples against as many exact ones; the floor is what two exact sets are apart."""
    ts = grid(setting, steps)
    sample, knots = known_at_knots(SAMPLERS[name].make(SETTINGS[setting].schedule), ts)
    target = analytic.gaussian_mixture(LINE.weights, LINE.means, LINE.variances)
    rng = np.random.default_rng(0)
    alpha, sigma = amplitudes(SETTINGS[setting].form, ts[0])
    x = alpha * LINE.draw(rng, N) + sigma * rng.standard_normal(N)
    keys = jax.random.split(jax.random.key(1), N)
    got = np.asarray(sample_batch(sample, target.denoiser(knots), keys, jnp.asarray(x, jnp.float32)))
    mean, var = LINE.moments()
    assert got.mean() == pytest.approx(mean, abs=4 * np.sqrt(var / N) + 0.005)
    assert got.std() == pytest.approx(np.sqrt(var), abs=0.02)
    sets = [LINE.draw(rng, N) for _ in range(9)]
    floor = max(w1(a, sets[0]) for a in sets[1:])
    assert w1(got, sets[0]) < floor + 0.01


def test_samples_of_a_correlated_mixture_in_the_plane():
    """Means and covariances of both modes, through the library's own schedule."""
    schedule = VP()
    covariances = np.array([[[0.04, 0.03], [0.03, 0.05]], [[0.02, 0.0], [0.0, 0.06]]])
    target = analytic.gaussian_mixture([0.4, 0.6], [[-1.0, 0.5], [1.0, -0.5]], covariances)
    x = jax.random.normal(jax.random.key(0), (N, 2))
    keys = jax.random.split(jax.random.key(1), N)
    for sampler, n in ((ancestral.ddpm(schedule), 128), (heun.edm(schedule), 32)):
        sample = sampling_fn(sampler, grids.karras(schedule, n))
        got = np.asarray(sample_batch(sample, target.denoiser(schedule), keys, x))
        left = got[:, 0] < 0
        assert left.mean() == pytest.approx(0.4, abs=0.04)
        for mode, mean, cov in zip((got[left], got[~left]), target.means, covariances):
            np.testing.assert_allclose(mode.mean(0), mean, atol=0.02)
            np.testing.assert_allclose(np.cov(mode.T), cov, atol=0.006)


# The noise.


@pytest.mark.parametrize("setting", ["vp", "sub_vp", "ve", "edm", "rectified_1", "table_cosine"])
def test_prior_is_the_noise_at_the_end_of_the_schedule(setting):
    schedule, form, *_ = SETTINGS[setting]
    process = gaussian.Gaussian(schedule)
    end = float(schedule.t_max)
    for t in (None, 0.5 * end):
        sigma = amplitudes(form, end if t is None else t)[1]
        x = np.asarray(process.prior(jax.random.key(3), (20000,), t))
        assert stats.kstest(x / sigma, "norm").pvalue > 1e-3
        assert x.std() == pytest.approx(sigma, rel=0.02)


def test_noise_is_standard_normal_and_fresh_at_every_step_and_for_every_key():
    """With E[x_0 | x] = 0 the noise of each DDPM step can be read off the path."""
    schedule, form, *_ = SETTINGS["vp"]
    ts, n = grid("vp", 6), 8000
    alpha, sigma = amplitudes(form, ts)
    target = analytic.gaussian_mixture([1.0], [0.0], [0.0])
    sample = sampling_fn(ancestral.ddpm(schedule), ts, trace=lambda x: x)
    keys = jax.random.split(jax.random.key(5), n)
    x = jnp.ones(n)
    _, path = sample_batch(sample, target.denoiser(schedule), keys, x)
    path = np.concatenate([np.ones((n, 1)), np.asarray(path)], 1)[:, :-1]  # the last step has no noise
    nu2 = sigma[1:-1] ** 2 * (1 - (alpha[:-2] * sigma[1:-1] / (alpha[1:-1] * sigma[:-2])) ** 2)
    z = (path[:, 1:] - np.sqrt(sigma[1:-1] ** 2 - nu2) / sigma[:-2] * path[:, :-1]) / np.sqrt(nu2)
    for column in z.T:
        assert stats.kstest(column, "norm").pvalue > 1e-3
    correlation = np.corrcoef(z.T) - np.eye(5)
    assert np.abs(correlation).max() < 5 / np.sqrt(n)
    assert abs(np.corrcoef(z[:-1].ravel(), z[1:].ravel())[0, 1]) < 5 / np.sqrt(5 * n)  # neighbours in the batch
    same = sample_batch(sample, target.denoiser(schedule), keys, x)[1]
    np.testing.assert_array_equal(np.asarray(same)[:, :-1], path[:, 1:])


def test_the_noise_of_an_example_has_independent_entries():
    schedule = EDM()
    sample = sampling_fn(heun.edm(schedule, churn=1.0), grids.karras(schedule, 1), trace=lambda s: s.base)
    target = analytic.gaussian_mixture([1.0], np.zeros((1, 100, 100)), [0.0])
    _, x_hat = sample(target.denoiser(schedule), jax.random.key(0), jnp.zeros((100, 100)))
    z = np.asarray(x_hat[0]) / (80 * np.sqrt((1 + np.sqrt(2) - 1) ** 2 - 1))  # gamma = min(1 / 1, sqrt(2) - 1)
    assert stats.kstest(z.ravel(), "norm").pvalue > 1e-3
    assert abs(np.corrcoef(z[:-1].ravel(), z[1:].ravel())[0, 1]) < 0.05


@pytest.mark.parametrize("name", one_of_a_step(SAMPLERS))
def test_deterministic_samplers_ignore_the_key_and_others_use_it(name):
    row, schedule = SAMPLERS[name], SETTINGS["vp"].schedule
    sample = sampling_fn(row.make(schedule), grid("vp", 10))
    model = analytic.gaussian_mixture(LINE.weights, LINE.means, LINE.variances).denoiser(schedule)
    a, b = (
        sample_batch(sample, model, jax.random.split(jax.random.key(i), 4), jnp.linspace(-1.0, 1.0, 4)) for i in (0, 1)
    )
    assert np.array_equal(a, b) == row.deterministic
