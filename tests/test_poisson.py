"""Poisson flows: the Student-t law, its flow and likelihood, EDM as the limit, and bad input."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from poisson_points import PAIR, SHARES, by_hand, exact
from run_command import UNET
from scipy import optimize, special, stats

from diffjax import analytic, calculus, denoisers, grids, host, likelihood, losses, processes, runs, samplers
from diffjax.calculus import FlowOnly
from diffjax.processes import poisson
from diffjax.processes.poisson import PUBLISHED_CLIP
from diffjax.runs import build_run
from diffjax.samplers import heun, multistep, sampling_fn
from diffjax.schedules import EDM, VP

KEY, N_DRAWS = jax.random.key(0), 200_000
RNG = np.random.default_rng(0)

# One program each for every D and every schedule of a kind: processes and denoisers are arguments.
mean = jax.jit(lambda denoise, x, t: denoise(x, t).mean)
log_density = jax.jit(lambda process, x, t: process.prior_log_density(x, t))
solved = jax.jit(lambda density, denoise, x: jax.vmap(lambda x: density(denoise, KEY, x))(x))


@functools.partial(jax.jit, static_argnums=(1, 2))
def draws(process, n, size):
    """z (size, n)."""
    return jax.vmap(lambda key: process.law(key, (n,)))(jax.random.split(KEY, size))


@jax.jit
def walked(walk, denoise, x):
    return jax.vmap(lambda x: walk(denoise, KEY, x))(x)


# The law.


@pytest.mark.parametrize(("n", "D"), [(1, 1.0), (2, 1.0), (5, 1.0), (3, 2.5), (64, 64.0), (2, 0.3)])
def test_the_ratio_of_radii_has_its_beta_law(n, D):
    """R^2 / (R^2 + r^2) ~ Beta(N / 2, D / 2); Kolmogorov's distance has its 1e-4 quantile at 2.2 / sqrt(draws)."""
    size = N_DRAWS // 4
    z = np.asarray(draws(poisson(EDM(), D), n, size), np.float64)
    square = (z**2).sum(1)
    found = stats.kstest(square / (square + D), stats.beta(n / 2, D / 2).cdf).statistic
    assert found < 2.2 / np.sqrt(size)
    assert np.abs(np.mean(z / np.sqrt(square)[:, None], 0)).max() < 5 / np.sqrt(size)


@pytest.mark.parametrize(("D", "gap"), [(256, 0.022), (4096, 0.0014)])
def test_the_radius_tends_to_the_normals(D, gap):
    """Quantiles 0.05 to 0.95 at N = 4: of the draws, within their own noise, and of the law, to the digits given."""
    q = np.linspace(0.05, 0.95, 181)
    normal = stats.chi(4).ppf(q)
    assert np.abs(2 * np.sqrt(stats.f(4, D).ppf(q)) - normal).max() == pytest.approx(gap, rel=0.05)
    radii = np.linalg.norm(draws(poisson(EDM(), D), 4, N_DRAWS), axis=1)
    assert np.abs(np.quantile(radii, q) - normal).max() == pytest.approx(gap, abs=0.008)


@pytest.mark.parametrize("D", [0.5, 1.0, 3.0, 64.0, 1e4, 1e7])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_density_is_the_multivariate_t(D, dtype):
    x = np.asarray([0.3, -1.2, 40.0, 2.0], dtype)
    with host.enable_x64(dtype == np.float64):
        got = log_density(poisson(VP(), D), x, 0.4)
    assert got.dtype == dtype
    sigma = calculus.amplitudes(VP(), [0.4])[1][0]
    expected = stats.multivariate_t(np.zeros(4), sigma**2 * np.eye(4), D).logpdf(x.astype(float))
    np.testing.assert_allclose(got, expected, rtol=1e-9 if dtype == np.float64 else 3e-6)


@pytest.mark.parametrize("d", [1, 2, 5])
def test_one_extra_dimension_has_the_poisson_kernels_constant(d, x64):
    """C = Gamma((d + 1) / 2) / pi^((d + 1) / 2) in C t / (t^2 + r^2)^((d + 1) / 2)."""
    x, t = RNG.normal(size=d), 0.7
    constant = special.gamma((d + 1) / 2) / np.pi ** ((d + 1) / 2)
    expected = constant * t / (t**2 + x @ x) ** ((d + 1) / 2)
    got = np.exp(log_density(poisson(EDM(), 1.0), x, t))
    np.testing.assert_allclose(got, expected, rtol=1e-10)


def test_draws_stay_finite_where_the_clipped_beta_is_wrong():
    """N = 3072, D = 1: 92 % of the Betas are above the published clip at 1 - 1e-3."""
    process = poisson(EDM(40.0), 1.0)
    noise = jax.jit(jax.vmap(lambda key: process.noise(key, np.zeros(3072, np.float32))))
    found = np.linalg.norm(noise(jax.random.split(KEY, 1000)), axis=1).astype(np.float64)  # the norm in float32
    assert np.all(np.isfinite(found))
    assert np.mean(found**2 / (1 + found**2) > 1 - 1e-3) == pytest.approx(0.92, abs=0.03)


def test_the_published_clip_moves_half_of_the_prior():
    """The ideal radius from z = 40 at N = 3072 has its median at 3287 and is beyond 3000 in 54 % of the draws."""
    ideal, clipped = poisson(EDM(40.0), 1.0), poisson(EDM(40.0), 1.0, clip=PUBLISHED_CLIP)
    ratio = stats.f(3072, 1)
    assert ratio.sf((3000 / 40) ** 2 / 3072) == pytest.approx(0.54, abs=0.005)
    assert 40 * np.sqrt(3072 * ratio.median()) == pytest.approx(3288, rel=1e-3)
    keys = jax.random.split(KEY, 1000)
    draw = jax.jit(jax.vmap(lambda key: [process.prior(key, (3072,)) for process in (ideal, clipped)]))
    x, held = (np.asarray(drawn, np.float64) for drawn in draw(keys))
    radius = np.linalg.norm(x, axis=1)
    assert np.mean(radius > 3000) == pytest.approx(0.54, abs=0.05)
    assert np.median(radius) == pytest.approx(3287, rel=0.15)
    np.testing.assert_allclose(held, x * (np.clip(radius, 1, 3000) / radius)[:, None], rtol=1e-5, atol=1e-5)


# The flow.


@pytest.mark.parametrize("schedule", [EDM(), VP()], ids=["edm", "vp"])
@pytest.mark.parametrize("D", [1.0, 3.5, 64.0])
def test_the_exact_denoiser_is_the_kernels_mean(schedule, D, x64):
    points, weights = RNG.normal(size=(6, 3)), RNG.dirichlet(np.ones(6))
    denoise = exact(poisson(schedule, D), points, weights)
    for t in (0.05, 0.4, 0.9):
        x = RNG.normal(size=3)
        np.testing.assert_allclose(mean(denoise, x, t), by_hand(points, weights, x, t, schedule, D), rtol=1e-9)


def test_many_dimensions_are_edm(x64):
    """The exact denoiser tends to the Gaussian's like 1 / D; D = inf is that process and schedule themselves."""
    points, x, t = RNG.normal(size=(6, 3)), np.asarray([0.4, -1.0, 0.2]), 0.8
    gaussian = np.asarray(mean(analytic.empirical(points).denoiser(EDM()), x, t))
    errors = [np.abs(mean(exact(poisson(EDM(), D), points, None), x, t) - gaussian).max() for D in (1e3, 1e4)]
    assert 1e-4 < errors[0] < 1e-2
    assert errors[0] / errors[1] == pytest.approx(10, rel=0.02)
    process = poisson(EDM(), np.inf)
    assert process == processes.Gaussian(EDM())


def test_the_recipe_with_infinitely_many_dimensions_is_edms_to_the_bit():
    loss = jax.jit(
        lambda process: losses.regression(
            lambda x, c: x, process, denoisers.EDM(), jnp.ones(3), process.noise(KEY, jnp.ones(3)), 0.7
        )
    )
    assert loss(poisson(EDM(), np.inf)) == loss(processes.Gaussian(EDM()))
    a = build_run(runs.load("configs/pfgm.py:tiny", ["process.D=inf", *UNET])).method.parts
    b = build_run(runs.load("configs/edm.py:tiny", UNET)).method.parts
    assert a.schedule == b.schedule
    assert a.process == b.process


def cauchy(x, t):
    """The distribution function of the pair under D = 1 at t."""
    return SHARES @ stats.cauchy.cdf((np.asarray(x)[None] - PAIR[:, None]) / t)


def test_the_flow_keeps_the_quantiles_of_the_exact_cauchy_mixture(x64):
    """From t = 40 down to 1e-3 the flow of two points keeps F_t(x_t), and the mass divides as the data does."""
    process, q = poisson(EDM(40.0), 1.0), np.append(np.linspace(0.01, 0.99, 49), [0.39, 0.399, 0.401, 0.41])
    start = [optimize.brentq(lambda x: cauchy([x], 40.0)[0] - p, -1e4, 1e4, xtol=1e-12) for p in q]  # noqa: B023
    sampler = samplers.ode.probability_flow(process.schedule, "Dopri8", rtol=1e-11, atol=1e-13)
    walk, denoise = sampling_fn(sampler, np.array([40.0, 1e-3])), exact(process)
    end = np.asarray(walked(walk, denoise, np.asarray(start)[:, None]))[:, 0]
    np.testing.assert_allclose(cauchy(end, 1e-3), q, atol=5e-9)
    np.testing.assert_array_equal(end > 0.5, q > 0.4)


def quantile(process, t):
    """The median of the mixture's lower and upper part: the x at which its distribution function is 0.4."""
    (alpha,), (sigma,) = calculus.amplitudes(process.schedule, [t])
    law = stats.t(float(process.D))
    return optimize.brentq(lambda x: SHARES @ law.cdf((x - alpha * PAIR) / sigma) - 0.4, -1e3, 1e3)


@pytest.mark.parametrize("D", [1.0, 4.0])
@pytest.mark.parametrize(("make", "schedule"), [(heun.edm, EDM(40.0)), (multistep.dpmpp_2m, VP())], ids=["heun", "2m"])
def test_ordinary_samplers_and_grids_serve_it(make, schedule, D, x64):
    """Whatever starts a little below the 0.4-quantile at the start ends at one point, above it at the other.

    The tails of D = 1 keep x a little off the point to the end.
    """
    process = poisson(schedule, D)
    ts = grids.karras(schedule, 60) if isinstance(schedule, EDM) else grids.log_snr(schedule, 60)
    walk, denoise = sampling_fn(make(process.schedule), ts), exact(process)
    middle, width = quantile(process, ts[0]), calculus.amplitudes(schedule, ts[:1])[1][0]
    end = np.asarray(walked(walk, denoise, middle + width * np.asarray([[-3], [-0.02], [0.02], [3]])))
    np.testing.assert_allclose(end[:, 0], [-1, -1, 2, 2], atol=0.05 if D == 1 else 1e-4)


def test_the_regression_has_the_field_as_its_mean_without_a_batch(x64):
    """E[(x_0 - E[x_0 | x_t]) h(x_t)] = 0 for bounded h, D = 1; the Gaussian's denoiser fails it."""
    process, t, n = poisson(EDM(), 1.0), 0.8, 60_000
    x0 = RNG.choice(PAIR, n, p=SHARES)[:, None]
    corrupt = jax.jit(jax.vmap(lambda key, x0: process.corrupt(x0, process.noise(key, x0), t)))
    x = np.asarray(corrupt(jax.random.split(KEY, n), x0))
    h = np.stack([np.ones(n), np.tanh(x[:, 0]), np.cos(x[:, 0])])

    def slip(denoise):
        miss = (x0 - np.asarray(jax.jit(jax.vmap(lambda x: denoise(x, t).mean))(x)))[:, 0]
        return (h * miss).mean(1) * np.sqrt(n) / (h * miss).std(1)

    assert np.abs(slip(exact(process))).max() < 4
    assert np.abs(slip(exact(processes.Gaussian(EDM())))).max() > 20


def test_the_process_is_a_pytree_whose_dimensions_do_not_retrace():
    traced = []

    @jax.jit
    def draw(process, key):
        traced.append(1)
        x = process.prior(key, (3,), 2.0)
        return x, process.prior_log_density(x, 2.0)

    first, second = draw(poisson(EDM(), 2.0), KEY), draw(poisson(EDM(), 7.0), KEY)
    assert len(traced) == 1
    assert not np.allclose(first[0], second[0])
    with pytest.raises(ValueError, match=r"made for FlowOnly\(base=VP"):
        sampling_fn(heun.edm(poisson(EDM(), 2.0).schedule), grids.karras(EDM(), 4))(
            exact(poisson(VP(), 2.0)), KEY, jnp.ones(1)
        )


# The likelihood.


@pytest.mark.parametrize("D", [1.0, 5.0])
def test_the_likelihood_is_the_pushed_prior(D, x64):
    """In 1-D the flow is the map between quantiles of the mixtures at T and at t_min: p(x) = prior(x_T) dx_T / dx."""
    process, law, T, t_min = poisson(EDM(20.0), D), stats.t(D), 20.0, 0.3
    cdf = lambda x, t: SHARES @ law.cdf((x - PAIR) / t)
    pdf = lambda x, t: SHARES @ law.pdf((x - PAIR) / t) / t
    density = likelihood.ode(np.array([T, t_min]), process, rtol=1e-10, atol=1e-10, trace="exact")
    denoise, xs = exact(process), np.array([-1.3, 0.1, 0.6, 2.2, 6.0])
    found = solved(density, denoise, xs[:, None])
    for x, latent, log_p in zip(xs, np.asarray(found.latent)[:, 0], np.asarray(found.log_p)):
        x_T = optimize.brentq(lambda y: cdf(y, T) - cdf(x, t_min), -1e5, 1e5, xtol=1e-12)  # noqa: B023
        np.testing.assert_allclose(latent, x_T, rtol=1e-6, atol=1e-7)
        expected = law.logpdf(x_T / T) - np.log(T) + np.log(pdf(x, t_min) / pdf(x_T, T))
        np.testing.assert_allclose(log_p, expected, atol=1e-6)


def test_the_density_integrates_to_one(x64):
    """By quadrature over the line, x = sinh(u)."""
    process = poisson(EDM(20.0), 3.0)
    density = likelihood.ode(np.array([20.0, 0.3]), process, rtol=1e-8, atol=1e-8, trace="exact")
    u, denoise = np.linspace(-9, 9, 400), exact(process)
    log_p = np.asarray(solved(density, denoise, np.sinh(u)[:, None]).log_p)
    assert np.trapezoid(np.exp(log_p) * np.cosh(u), u) == pytest.approx(1, abs=2e-6)


# Bad input.


@pytest.mark.parametrize("D", [0, -1.0, np.nan, "64", True, None])
def test_other_dimensions_are_refused(D):
    with pytest.raises(ValueError, match=r"^D is .*, expected a positive number of extra dimensions: 1 for PFGM"):
        poisson(EDM(), D)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: poisson(EDM(), 1.0, clip=(3.0, 1.0)), r"clipped to \(3\.0, 1\.0\), expected None or"),
        (lambda: poisson(EDM(), np.inf, clip=(1.0, 2.0)), "D is inf"),
        (lambda: poisson(EDM(), 1.0, clip=(1, 2)).prior_log_density(jnp.ones(2)), "has no density"),
        (lambda: likelihood.ode([1.0, 0.1], poisson(EDM(), 1.0, clip=(1, 2))), "has no density"),
        (lambda: losses.poisson.batch_field(jnp.ones(2), 1.0, jnp.ones((3, 1))), r"sources of shape \(3, 1\)"),
        (lambda: losses.poisson.batch_field(jnp.ones(2), 0.0, jnp.ones((3, 2))), r"z = 0\.0, expected a positive"),
        (lambda: losses.poisson.most_for(0.0, 2), "expected all positive"),
        (lambda: build_run(runs.load("configs/pfgm.py:tiny", ["process.D=0"])), "D is 0"),
        (lambda: build_run(runs.load("configs/pfgm.py:tiny", ["sampler.churn=1"])), "adds Gaussian noise"),
        (lambda: build_run(runs.load("configs/pfgm.py:tiny", ["denoiser.name=large"])), "denoiser.name=mean"),
        (lambda: calculus.need_gaussian(FlowOnly(VP()), "A", "B"), "A, but the process is not Gaussian.*; B"),
    ],
)
def test_bad_input_is_one_line(call, match):
    with pytest.raises(ValueError, match=match) as caught:
        call()
    assert "\n" not in str(caught.value)
