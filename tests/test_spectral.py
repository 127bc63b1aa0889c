"""A schedule per DCT frequency: expectations in NumPy and SciPy, by recursion through planned rows; no row is compiled.

The data of most tests is a line of 8 numbers, Gaussian, of variance c_k = (1 + k)^-2 at frequency k.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rows
import scipy.fft
import scipy.integrate

from diffjax import calculus, chains, denoisers, grids, losses, methods, models, samplers, schedules
from diffjax.denoisers.coordinates import Frequencies
from diffjax.method import Example
from diffjax.methods import evaluation
from diffjax.processes import heat
from diffjax.samplers import ancestral, base
from diffjax.spectral import Blur, Widening, analyse, dct, eigenvalues, spectral, synthesise
from diffjax.types import Posterior

C = (1.0 + np.arange(8)) ** -2
VP = schedules.VP()
BLURRED = spectral(VP, Blur(2.0), (8, 8))
TS = np.asarray([1.0, 0.6, 0.3, 0.0])


def gain(alpha, sigma, c=C):
    """E[u_0 | u_t] = gain u_t, and Var[u_0 | u_t], of Gaussian data of variance c."""
    total = alpha**2 * c + sigma**2
    return alpha * c / total, c * sigma**2 / total


def ratios(schedule, sampler, ts, c=C, knows=False):
    """The standard deviation of a walk's end over the true one, from an exact start, through the rows of `Linear`."""
    planned = base.rows_of(sampler, ts)
    (alpha, sigma), end = calculus.amplitudes(schedule, ts), slice(0, -1)
    v, (a, s) = alpha[0] ** 2 * c + sigma[0] ** 2, (alpha[end], sigma[end])
    for i, row in enumerate(rows.each(planned)):
        g, var = gain(a[i], s[i], c)
        v = (row.x + row.mean * g) ** 2 * v + row.noise_var + (row.spread**2 * var if knows else 0.0)
    return np.sqrt(v / c)


def heat_grid(n):
    """Widths from 4 to 0.5 in n levels, geometric, then 0."""
    return np.append(np.linspace(1, 1e-12, n), 0.0)


@pytest.mark.parametrize("n", [1, 2, 8, 13])
def test_the_transform_is_scipys(n):
    np.testing.assert_allclose(dct(n), scipy.fft.dct(np.eye(n), norm="ortho", axis=0), atol=1e-14)
    np.testing.assert_allclose(dct(n) @ dct(n).T, np.eye(n), atol=1e-14)


def test_data_enters_by_the_transform_of_both_sides_and_leaves_by_its_inverse(x64):
    x = np.random.default_rng(0).normal(size=(4, 6, 3))
    u = analyse(jnp.asarray(x), (4, 6))
    np.testing.assert_allclose(u, scipy.fft.dctn(x, axes=(0, 1), norm="ortho"), atol=1e-13)
    np.testing.assert_allclose(synthesise(u, (4, 6)), x, atol=1e-13)


def test_the_heat_kernel_is_a_semigroup_that_keeps_the_mean_and_rings_at_small_times():
    kernel = lambda tau: dct(8).T @ np.diag(np.exp(-eigenvalues((8,)) * tau)) @ dct(8)
    np.testing.assert_allclose(kernel(0.3) @ kernel(0.7), kernel(1.0), atol=1e-14)
    np.testing.assert_allclose(kernel(0.7).sum(1), 1.0, atol=1e-14)
    for tau, smallest, digit in ((0.05, -0.01445, 5e-6), (0.3, -0.00094, 5e-6), (1.0, 1.4e-6, 5e-8)):
        assert abs(kernel(tau).min() - smallest) < digit


def test_lambda_is_that_of_both_sides():
    i, j = np.mgrid[:4, :6]
    np.testing.assert_allclose(eigenvalues((4, 6)), np.pi**2 * (i**2 / 16 + j**2 / 36), rtol=1e-14)


def test_the_posterior_of_blurring_is_ddim_at_eta_one():
    """Hoogeboom & Salimans 2022, eq. 17 and 18, per frequency."""
    schedule, ts = spectral(schedules.Cosine(s=0.0), Blur(3.0), (8,)), np.asarray([0.6, 0.5])
    (alpha_t, alpha_s), (sigma_t, sigma_s) = calculus.amplitudes(schedule, ts)
    ratio = alpha_t / alpha_s
    step = sigma_t**2 - (ratio * sigma_s) ** 2
    var = 1 / (1 / sigma_s**2 + ratio**2 / step)
    row = base.rows_of(ancestral.ddim(schedule, eta=1.0), ts)
    np.testing.assert_allclose(row.noise_var[0], var, atol=5e-15)
    np.testing.assert_allclose(row.x[0], var * ratio / step, atol=5e-15)
    np.testing.assert_allclose(row.mean[0], var * alpha_s / sigma_s**2, atol=5e-15)


HEAT = spectral(schedules.Still(0.01), Widening(0.5, 4.0), (8,))
SHRUNKEN = {
    ("sigma", 10): [0.99950, 0.99442, 0.52108, 0.57030],
    ("sigma", 100): [0.99504, 0.95637, 0.69488, 0.69088],
    ("sigma", 1000): [0.95361, 0.76104, 0.70664, 0.69905],
    ("published", 10): [0.99975, 0.99625, 0.64152, 0.71288],
    ("published", 100): [0.99780, 0.97999, 0.86859, 0.86360],
    ("published", 1000): [0.97995, 0.90289, 0.88330, 0.87381],
    ("fixed_point", 10): [0.99995, 0.99768, 0.72143, 0.80653],
    ("fixed_point", 100): [0.99995, 0.99797, 0.98270, 0.97705],
    ("fixed_point", 1000): [0.99995, 0.99939, 0.99934, 0.98861],
}


@pytest.mark.parametrize(("delta", "n"), SHRUNKEN)
def test_more_steps_make_the_published_noise_of_heat_worse(delta, n):
    found = ratios(HEAT, samplers.heat.dissipation(HEAT, delta), heat_grid(n))
    np.testing.assert_allclose(found[[0, 1, 2, 7]], SHRUNKEN[delta, n], atol=6e-6)


@pytest.mark.parametrize("n", [10, 100])
def test_a_denoiser_that_knows_the_variance_makes_delta_sigma_right_but_for_the_last_step(n):
    found = ratios(HEAT, samplers.heat.dissipation(HEAT, "sigma"), heat_grid(n), knows=True)
    np.testing.assert_allclose(found[[0, 1, 2, 7]], [0.99995, 0.99979, 0.99948, 0.97949], atol=6e-6)


COSINE = spectral(schedules.Cosine(s=0.0), Blur(2.0), (8,))
BLURRING = {
    (0.0, 16): [0.92568, 0.90580, 0.83794, 0.70996],
    (0.0, 256): [0.99519, 0.99385, 0.98912, 0.97961],
    (1.0, 16): [0.87984, 0.83636, 0.75676, 0.64893],
    (1.0, 256): [0.99068, 0.98514, 0.97328, 0.95173],
}


@pytest.mark.parametrize(("eta", "n"), BLURRING)
def test_blurring_from_no_signal_at_all(eta, n):
    found = ratios(COSINE, ancestral.ddim(COSINE, eta), grids.uniform(COSINE, n, t_min=0.0))
    np.testing.assert_allclose(found[[0, 1, 3, 7]], BLURRING[eta, n], atol=6e-6)


@pytest.mark.parametrize("n", [1, 16, 256])
def test_ddim_turns_a_standard_normal_frequency_by_equal_angles(n):
    """The DC, of variance 1: each step multiplies by the cosine of its angle, pi / 2n."""
    found = ratios(COSINE, ancestral.ddim(COSINE), grids.uniform(COSINE, n, t_min=0.0))[0]
    np.testing.assert_allclose(found, np.cos(np.pi / (2 * n)) ** n, atol=1e-12)


def test_ddim_is_of_order_one_at_every_frequency():
    short = [1 - ratios(COSINE, ancestral.ddim(COSINE), grids.uniform(COSINE, n, t_min=0.0)) for n in (256, 4096)]
    np.testing.assert_allclose(short[0] / short[1], 16, rtol=0.01)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_with_the_exact_variance_the_last_step_alone_is_left(eta):
    for n, left in ((64, 0.01874), (256, 0.001203)):
        found = ratios(COSINE, ancestral.ddim(COSINE, eta), grids.uniform(COSINE, n, t_min=0.0), knows=True)
        np.testing.assert_allclose(1 - found.min(), left, rtol=1e-3)


@pytest.mark.parametrize("name", ["reverse_diffusion", "ancestral", "euler_maruyama"])
def test_samplers_of_the_sde_converge_at_every_frequency(name):
    make = samplers.sde.euler_maruyama if name == "euler_maruyama" else getattr(samplers.predictor, name)
    far = []
    for n in (200, 400):
        ts = grids.uniform(BLURRED, n, t_max=0.9, t_min=0.05, zero=False)
        found = ratios(BLURRED, make(BLURRED), ts, np.full((8, 8, 1), 0.3))
        alpha, sigma = calculus.amplitudes(BLURRED, ts[-1:])
        far.append(np.abs(found / np.sqrt((alpha[0] ** 2 * 0.3 + sigma[0] ** 2) / 0.3) - 1).max())
    assert 1.6 < far[0] / far[1] < 2.4  # order 1
    assert far[1] < 0.1


def test_heun_is_of_order_two_at_every_frequency():
    c, far = np.linspace(0.1, 1.0, 64).reshape(8, 8, 1), []
    for n in (40, 80):
        ts = grids.uniform(BLURRED, n, t_max=0.8, t_min=0.1, zero=False)
        alpha, sigma = calculus.amplitudes(BLURRED, ts)
        model = lambda x, t: (gain(*(a[0] for a in calculus.amplitudes(BLURRED, [t])), c)[0] * x, 0.0)
        begun = np.sqrt(alpha[0] ** 2 * c + sigma[0] ** 2)
        planned = base.rows_of(samplers.heun.edm(BLURRED), ts)
        *_, end = rows.heuns(planned, model, begun, np.zeros(2 * n))
        far.append(np.abs(end / np.sqrt(alpha[-1] ** 2 * c + sigma[-1] ** 2) - 1).max())
    assert 3.6 < far[0] / far[1] < 4.4
    assert far[1] < 1e-2


def test_the_momentum_samplers_noise_is_the_ancestral_one():
    """The variance of sigma_s z after one step of a known x_0, as its numbers say: 0.09, and 0.1924 with the other."""
    schedule = schedules.EDM(0.5)
    row = base.rows_of(samplers.heat.momentum(schedule), np.asarray([0.5, 0.3]))
    np.testing.assert_allclose(row.x**2 * 0.25 + row.noise_var, 0.09, rtol=1e-14)
    np.testing.assert_allclose(row.x**2 * 0.25 + (0.25 - 0.09), 0.1924, atol=1e-15)
    ddpm = base.rows_of(ancestral.ddpm(schedule), np.asarray([0.5, 0.3]))  # without a blur
    for a, b in zip(row, ddpm):
        np.testing.assert_allclose(a, b, rtol=1e-13)
    soft = heat.soft(schedule, (8,), w_max=20.0).schedule
    (alpha, _), row = calculus.amplitudes(soft, [0.5, 0.3]), base.rows_of(samplers.heat.momentum(soft), [0.5, 0.3])
    np.testing.assert_allclose(row.x[0] * alpha[0] + row.mean[0], alpha[1], rtol=1e-13)  # x_0 is kept


@pytest.mark.parametrize("blur", [Blur(0.0), Blur(20.0, d_min=1.0)])
def test_without_a_blur_it_is_the_schedule_to_the_last_bit(blur):
    ts = np.linspace(0, 1, 9)
    (alpha, sigma), plain = calculus.amplitudes(spectral(VP, blur, (8,)), ts), calculus.amplitudes(VP, ts)
    np.testing.assert_array_equal(alpha, np.repeat(plain[0][:, None], 8, 1))
    np.testing.assert_array_equal(sigma[:, 0], plain[1])
    schedule = spectral(schedules.Cosine(s=0.0), blur, (8,))
    for eta, std in ((0.0, 0.428037), (1.0, 0.388636)):
        found = 0.5 * ratios(schedule, ancestral.ddim(schedule, eta), grids.uniform(schedule, 10, t_min=0.0), 0.25)
        np.testing.assert_allclose(found, std, atol=6e-7)


def test_a_blur_of_forty_pixels_underflows_in_alpha_and_in_no_row():
    schedule, ts = spectral(VP, Blur(40.0, d_min=0.0), (64,)), np.asarray([1.0, 0.95, 0.9, 0.0])
    alpha, sigma = calculus.amplitudes(schedule, ts)
    assert np.sum(alpha[0] == 0) > 10
    assert np.sum(alpha[1] == 0) > 10
    for sampler in (ancestral.ddpm(schedule), ancestral.ddim(schedule), samplers.heat.dissipation(schedule)):
        base.rows_of(sampler, ts)  # refuses rows that are not finite
    row = base.rows_of(ancestral.ddpm(schedule), ts)
    exponent = eigenvalues((64,)) * 800 * np.sin(np.pi / 2 * ts[:3, None]) ** 4
    snr = np.exp(2 * (exponent[1] - exponent[0]))
    scalar = [np.exp(-(t * (0.1 + 9.95 * t)) / 2) for t in ts[:2]]
    change = snr * (scalar[0] * sigma[1, 0] / scalar[1] / sigma[0, 0]) ** 2
    np.testing.assert_allclose(row.noise_var[0], sigma[1] ** 2 * (1 - change), rtol=1e-9)


def test_amplitudes_of_eight_pixels_underflow_where_the_module_says():
    highest = lambda w, dtype: np.exp(dtype(-eigenvalues((8, 8)).max() * w**2 / 2))
    assert highest(4.0, np.float32) == 0 < highest(3.5, np.float32)
    assert highest(10.0, np.float64) == 0 < highest(9.5, np.float64)


def test_the_rates_are_those_of_the_heat_equation():
    schedule, t = spectral(schedules.Still(0.1), Widening(0.5, 40.0), (8, 8)), 0.7
    width = 0.5 * 80**t
    slope = np.log(80) * width**2  # of tau = w^2 / 2
    f, g2 = calculus.rates(schedule, jnp.float32(t))
    expected = eigenvalues((8, 8))[..., None] * slope
    np.testing.assert_allclose(f, -expected, rtol=1e-5)
    np.testing.assert_allclose(g2, 2 * expected * 0.01, rtol=1e-5)


def test_a_chain_has_the_gain_of_each_frequency():
    found, (alpha, sigma) = chains.chain(BLURRED, TS[1:]), calculus.amplitudes(BLURRED, TS[1:-1])
    snr = (alpha / sigma) ** 2
    np.testing.assert_allclose(found.gain[0], snr[1] - snr[0], rtol=1e-10)
    assert np.all(np.isinf(found.gain[1]))
    assert np.shape(found.floor) == (8, 8, 1)


def test_the_grid_of_the_base_is_vps():
    np.testing.assert_array_equal(grids.of_base(BLURRED, 7, t_min=1e-2), grids.log_snr(VP, 7, t_min=1e-2))


PROCESS = heat.blurring(schedules.Cosine(t_max=0.99), (4, 6), w_max=1.5)


def test_corruption_is_a_blur_of_pixels_and_white_noise():
    rng = np.random.default_rng(1)
    x, z, t = rng.normal(size=(4, 6, 2)), rng.normal(size=(4, 6, 2)), 0.4
    w = 1.5 * np.sin(np.pi / 2 * t) ** 2
    damped = 0.999 * np.exp(-eigenvalues((4, 6)) * w**2 / 2) + 0.001
    a, s = (float(v) for v in PROCESS.schedule.base(t))
    u = a * damped[..., None] * scipy.fft.dctn(x, axes=(0, 1), norm="ortho") + s * z
    found = PROCESS.corrupt(PROCESS.enter(jnp.float32(x)), jnp.float32(z), t)
    np.testing.assert_allclose(found, u, atol=2e-6)
    pixels = scipy.fft.idctn(u, axes=(0, 1), norm="ortho")
    np.testing.assert_allclose(PROCESS.place(found, {}, t), pixels, atol=2e-6)


TARGETS = {
    "X0": denoisers.X0(),
    "Eps": denoisers.Eps(),
    "V": denoisers.V(),
    "Velocity": denoisers.Velocity(),
    "EDM": denoisers.EDM(0.7),
    "Deblur": denoisers.Deblur(n=7, t_min=0.05),
}


@pytest.mark.parametrize("name", TARGETS)
def test_every_target_finds_x0_behind_the_transform(name):
    """A network of pixels that answers rightly for one (x_0, z): regression has no loss, the denoiser finds x_0."""
    target, t, key = TARGETS[name], jnp.float32(0.4), jax.random.key(0)
    x, z = jax.random.normal(key, (2, 4, 6, 2))
    u0 = PROCESS.enter(x)
    a, b = target(PROCESS.schedule, t)
    answer = PROCESS.leave(a * u0 + b * z)
    seen = []
    net = PROCESS.seen(lambda x, c: seen.append((x, c)) or answer)
    assert float(losses.regression(net, PROCESS, target, u0, z, t)) < 1e-10
    mean = denoisers.denoiser(net, PROCESS.schedule, target)(PROCESS.corrupt(u0, z, t), t).mean
    np.testing.assert_allclose(mean, u0, atol=2e-3 if name == "Eps" else 1e-4)
    (pixels, c), (alpha, sigma) = seen[0], PROCESS.schedule(t)
    scaled = PROCESS.corrupt(u0, z, t) / jnp.hypot(sigma, alpha * target.sigma_data)
    np.testing.assert_allclose(pixels, PROCESS.leave(scaled), atol=1e-5)
    base_alpha, base_sigma = PROCESS.schedule.base(t)
    np.testing.assert_allclose(c, 2 * np.log(base_alpha / base_sigma), rtol=1e-6)


def test_the_weight_of_soft_score_matching_is_alpha_squared_per_frequency():
    """|C_t (h - x_0)|^2 in pixels, C_t as a matrix (Daras et al. 2022)."""
    process, t = heat.soft(schedules.EDM(1.0), (5,), w_max=2.0), 0.6
    x, h, z = np.random.default_rng(2).normal(size=(3, 5)).astype(np.float32)
    tau = 0.5 * (2.0 * np.sin(np.pi / 2 * t) ** 2) ** 2
    blur = dct(5).T @ np.diag(np.exp(-eigenvalues((5,)) * tau)) @ dct(5)
    weight = lambda schedule, target, t: schedule(t)[0] ** 2
    net = process.seen(lambda x, c: jnp.asarray(h))
    found = losses.regression(net, process, denoisers.X0(), process.enter(jnp.asarray(x)), jnp.asarray(z), t, weight)
    np.testing.assert_allclose(found, np.mean((blur @ (h - x)) ** 2), rtol=1e-5)


def test_heats_prior_is_the_gaussian_of_blurred_data():
    x = np.random.default_rng(3).normal(1.0, 2.0, size=(500, 4, 4, 1))
    told = heat.measured(x, corner=2)
    process = heat.dissipation(schedules.Still(0.1), (4, 4), w_max=3.0, **told)
    u = scipy.fft.dctn(x, axes=(1, 2), norm="ortho")[..., 0]
    alpha = np.exp(-eigenvalues((4, 4)) * 4.5)
    drawn = jax.vmap(lambda key: process.prior(key, (4, 4, 1)))(jax.random.split(jax.random.key(0), 4000))[..., 0]
    mean, var = np.zeros((2, 4, 4))
    mean[:2, :2], var[:2, :2] = (alpha * u.mean(0))[:2, :2], (alpha**2 * u.var(0))[:2, :2]
    var += 0.01
    np.testing.assert_allclose(drawn.mean(0), mean, atol=4.5 * np.sqrt(var.max() / 4000))
    np.testing.assert_allclose(drawn.var(0) / var, 1.0, atol=4.5 * np.sqrt(2 / 4000))
    found = process.prior_log_density(jnp.float32(u[0][..., None]))
    expected = -0.5 * np.sum((u[0] - mean) ** 2 / var + np.log(2 * np.pi * var))
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_the_networks_clock_of_heat_is_the_width():
    schedule = heat.dissipation(schedules.Still(0.1), (8, 8), w_min=0.5, w_max=6.0).schedule
    np.testing.assert_allclose(calculus.told(schedule, 0.5), -2 * np.log(np.sqrt(3.0)), rtol=1e-6)
    assert np.isinf(calculus.told(schedule, 0.0))
    assert calculus.told(schedule, 1.0) < calculus.told(schedule, 0.1)


def test_the_next_level_is_the_grids():
    schedule = heat.dissipation(schedules.Still(0.1), (8, 8)).schedule
    target, ts = denoisers.Deblur(n=6, t_min=0.01), grids.uniform(schedule, 6, t_min=0.01)
    found = [float(target.next(schedule, jnp.float32(t))) for t in ts[:-1]]
    np.testing.assert_allclose(found, ts[1:], atol=1e-6)


def test_the_reports_loss_is_finite_where_frequencies_are_almost_lost():
    process = heat.dissipation(schedules.Still(0.1), (8, 8), w_min=0.5, w_max=10.0)
    network = models.from_function(lambda params, x, c, given: params * x, jnp.float32(0.01))
    time, target = (lambda i: 0.05 + 0.95 * jnp.float32(i) / 16), denoisers.Deblur(n=40)
    method = methods.denoising(network, process, target, times=lambda schedule: lambda keys, i, size: time(i))
    batch, index = Example(jax.random.normal(jax.random.key(1), (16, 8, 8, 1))), jnp.arange(16)
    of_batch = lambda turn: jax.jit(turn, static_argnums=4)(jnp.float32(0.01), jax.random.key(0), batch, index, 16)[0]
    validation = evaluation.validation(method.parts, method.parts.mean_denoiser)
    trained, told = of_batch(method.turns[0].losses), of_batch(validation)
    least = jax.vmap(lambda i: process.schedule(target.next(process.schedule, time(i)))[0].min())(index)
    assert np.any((least > 1e-30) & (least < 1e-20))  # divided by; the inverse's square is above float32's range
    np.testing.assert_allclose(told[least > 1e-30], trained[least > 1e-30], rtol=1e-4)
    assert np.all(told <= 1.0001 * trained)  # where frequencies are lost the rest is left


def test_the_terms_of_heats_bound_are_divergences_of_normal_laws():
    """By quadrature, for a denoiser that always says 0.2."""
    schedule, ts = spectral(schedules.Still(0.3), Widening(0.5, 2.0), (2,)), np.asarray([0.9, 0.4, 0.0])
    denoise = lambda u, t: Posterior(jnp.full(2, 0.2))
    u0, delta = np.asarray([0.7, -0.4]), 1.25 * 0.3
    found = samplers.heat.step_bounds(denoise, schedule, jax.random.key(0), jnp.float32(u0), ts, 1.25)
    alpha = calculus.amplitudes(schedule, ts)[0][1]
    log_normal = lambda x, m, s: -0.5 * ((x - m) / s) ** 2 - np.log(s * np.sqrt(2 * np.pi))

    def divergence(m, n):
        log_p, log_q = (partial(log_normal, m=m, s=0.3), partial(log_normal, m=n, s=delta))
        return scipy.integrate.quad(lambda x: np.exp(log_p(x)) * (log_p(x) - log_q(x)), m - 4, m + 4)[0]

    expected = [sum(map(divergence, alpha * u0, alpha * 0.2)), -sum(log_normal(u0, 0.2, delta))]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_network_of_pixels_keeps_its_maps_apart():
    two = Frequencies(lambda x, c: jnp.concatenate([x, 2 * x], -1), (4, 6))
    u = jax.random.normal(jax.random.key(0), (4, 6, 1))
    np.testing.assert_allclose(two(u, 0.0), jnp.concatenate([u, 2 * u], -1), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_end_to_end_the_variances_are_those_of_the_recursion(eta):
    """N(0, B^T diag(c) B) by a network of pixels, the library's own walk from keys, 20,000 draws."""
    process, ts, n = heat.blurring(schedules.Cosine(s=0.0), (8,), w_max=2.0), np.linspace(1, 0, 17), 20_000
    schedule, wiener = process.schedule, jnp.asarray(C, jnp.float32)

    def exact(x, c):  # x_0 in pixels, of x_t in pixels scaled to unit variance
        t = 2 / jnp.pi * jnp.arctan(jnp.exp(-c / 2))
        alpha, sigma = schedule(t)
        u = analyse(x, (8,)) * jnp.hypot(sigma, alpha)
        return synthesise(alpha * wiener / (alpha**2 * wiener + sigma**2) * u, (8,))

    denoise = denoisers.denoiser(process.seen(exact), schedule, denoisers.X0())
    walk = samplers.sampling_fn(ancestral.ddim(schedule, eta), ts)

    @jax.jit
    def draw(key):
        first, second = jax.random.split(key)
        return process.leave(walk(denoise, second, process.prior(first, (8,))))

    x = np.asarray(jax.vmap(draw)(jax.random.split(jax.random.key(7), n)), np.float64)
    found = (x @ dct(8).T).var(0) / C
    expected = ratios(schedule, ancestral.ddim(schedule, eta), ts) ** 2
    np.testing.assert_allclose(found / expected, 1, atol=4 * np.sqrt(2 / n))
    np.testing.assert_allclose(np.sqrt(expected[[0, 1, 3, 7]]), BLURRING[eta, 16], atol=6e-6)
