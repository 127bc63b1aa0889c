"""Bridges: the kernel, DDBM's preconditioning, loss and sampler, DBIM at every eta and order, pairs, and bad input.

The published updates are written here in x_t = A y + B x_0 + C z, the library's run in u = x_t - A y.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_forms import EDM as EDM_FORM
from closed_forms import VDM as VDM_FORM
from closed_forms import VE as VE_FORM
from closed_forms import VP as VP_FORM
from closed_forms import Form, wide
from moments import Mixture
from samplers_table import known_at_knots, laws, walk
from scipy import integrate, ndimage, stats

from diffjax import analytic, calculus, data, denoisers, grids, host, losses, models, processes, samplers, schedules
from diffjax.data.pairs import Pairs, paired
from diffjax.denoisers import DDBM
from diffjax.processes import BridgeSchedule, bridge
from diffjax.samplers import ancestral, bridging_fn, hybrid, multistep, ode, sampling_fn, sde
from diffjax.schedules import EDM, VDM, VE, VP, Cosine, Rectified
from diffjax.types import Posterior

DDBM_VP = VP(0.1, 2.1)  # beta_d = 2, beta_min = 0.1
TWO = wide("2.1")
VP_2 = Form(lambda t: VP_FORM.amplitudes(t, beta_max=TWO), lambda t: (-(wide("0.1") + 2 * t) / 2, wide("0.1") + 2 * t))
BASES = {"vp": (DDBM_VP, VP_2), "edm": (EDM(), EDM_FORM), "ve": (VE(), VE_FORM), "vdm": (VDM(), VDM_FORM)}
every_base = pytest.mark.parametrize("name", BASES)
Y, M, V0 = -1.2, 0.7, 0.16  # an endpoint, and the law N(M, V0) of x_0 given it


def kernel(form, t, end):
    """(A, B, C) as published, in extended precision: r = SNR_T / SNR_t."""
    (alpha, sigma), (alpha_T, sigma_T) = form.amplitudes(wide(t)), form.amplitudes(wide(end))
    r = (alpha_T / sigma_T) ** 2 / (alpha / sigma) ** 2 if sigma else wide(0)
    return r * alpha / alpha_T, alpha * (1 - r), sigma * np.sqrt(1 - r)


def kernels(name, ts):
    schedule, form = BASES[name]
    return np.transpose([[float(c) for c in kernel(form, t, schedule.t_max)] for t in np.asarray(ts)])


def coefficients(schedule, t):
    return (schedule.endpoint_weight(t), *schedule(t))


# The process.


@every_base
@pytest.mark.parametrize("fraction", [1e-5, 1e-3, 0.3, 0.9, 1 - 1e-3, 1 - 1e-4, 1 - 1e-6])
def test_the_kernel_in_float32(name, fraction):
    """To 1e-6 at both ends: nothing cancels. Of the float32 number that t is."""
    schedule, form = BASES[name]
    t = np.float32(fraction * schedule.t_max)
    got = coefficients(BridgeSchedule(schedule), jnp.asarray(t))
    assert got[1].dtype == jnp.float32
    np.testing.assert_allclose(np.asarray(got), np.asarray(kernel(form, t, schedule.t_max), float), rtol=1.2e-6)


def test_schedules_without_a_form_of_their_own_are_right_in_float64(x64):
    for schedule in (Cosine(t_max=0.99), schedules.SubVP(), Rectified(t_max=0.9)):
        for t in (1e-3, 0.4, 0.85):
            (alpha, sigma), (alpha_T, sigma_T) = (map(float, schedule(s)) for s in (t, schedule.t_max))
            r = (alpha_T * sigma / (sigma_T * alpha)) ** 2
            expected = r * alpha / alpha_T, alpha * (1 - r), sigma * np.sqrt(1 - r)
            np.testing.assert_allclose(coefficients(BridgeSchedule(schedule), t), expected, rtol=1e-12)


@pytest.mark.parametrize("name", ["vp", "edm"])
def test_the_ends_are_exact(name):
    schedule = BridgeSchedule(BASES[name][0])
    assert [float(c) for c in coefficients(schedule, schedule.t_max)] == [1, 0, 0]
    assert [float(c) for c in coefficients(schedule, 0.0)] == [0, 1, 0]
    process, y = bridge(BASES[name][0]), jnp.array([0.3, -2.0])
    assert np.all(process.prior(jax.random.key(0), (2,)) == 0)
    u = process.corrupt(y + 1, y, 0.4)
    np.testing.assert_allclose(process.u_of(process.x_of(u, y, 0.4), y, 0.4), u, atol=1e-6)
    np.testing.assert_array_equal(process.x_of(process.prior(jax.random.key(0), (2,)), y, schedule.t_max), y)
    calculus.check(schedule)


@every_base
def test_the_kernel_is_the_conditional_law(name, x64):
    """x_t given x_0 and x_T, by conditioning the jointly Gaussian (x_t, x_T); 1e-14."""
    schedule, form = BASES[name]
    for t in np.array([0.2, 0.5, 0.8]) * schedule.t_max:
        (alpha, sigma), (alpha_T, sigma_T) = form.amplitudes(wide(t)), form.amplitudes(wide(schedule.t_max))
        cross = alpha_T / alpha * sigma**2  # x_T = (alpha_T / alpha) x_t + fresh noise
        gain = cross / sigma_T**2
        expected = gain, alpha - gain * alpha_T, np.sqrt(sigma**2 - gain * cross)
        np.testing.assert_allclose(
            coefficients(BridgeSchedule(schedule), t), np.asarray(expected, float), rtol=1e-13, atol=1e-15
        )


def test_the_bridge_of_ddbm_in_numbers(x64):
    """x_0 = 0.3, y = -1.2: mean and standard deviation at t = 0.3 and 0.7."""
    schedule = BridgeSchedule(DDBM_VP)
    for t, mean, std in ((0.3, 0.1399, 0.3254), (0.7, -0.4470, 0.5179)):
        A, B, C = coefficients(schedule, t)
        assert (pytest.approx(mean, abs=6e-5), pytest.approx(std, abs=6e-5)) == (A * Y + B * 0.3, C)


@every_base
def test_snr_is_the_difference_of_snrs_and_the_noise_the_base_s(name, x64):
    """lambda = log(SNR_t - SNR_T) / 2, its inverse, and g^2: a drift towards y changes no diffusion."""
    base, form = BASES[name]
    schedule = BridgeSchedule(base)
    for t in np.array([0.05, 0.4, 0.97]) * base.t_max:
        snr = lambda t: np.square(np.divide(*form.amplitudes(wide(t))))
        lam = float(np.log(snr(t) - snr(base.t_max)))
        assert calculus.log_snr(schedule, t) == pytest.approx(lam, abs=1e-10)
        assert calculus.time_of(schedule, jnp.asarray(lam)) == pytest.approx(t, rel=1e-9)
        assert calculus.rates(schedule, t)[1] == pytest.approx(float(form.rates(wide(t))[1]), rel=1e-9)


def test_far_from_its_end_a_bridge_is_its_base(x64):
    """SNR_T / SNR_t -> 0: DBIM's rows become DDIM's."""
    base = VP(0.1, 80.0)  # SNR_T = 4e-18
    ts = np.array([0.6, 0.4, 0.2, 0.1, 0.0])
    for eta in (0.0, 0.3, 1.0):
        rows = [ancestral.ddim(schedule, eta).plan(ts) for schedule in (BridgeSchedule(base), base)]
        np.testing.assert_allclose(*(np.asarray(r) for r in rows), rtol=1e-9, atol=1e-12)


@every_base
def test_endpoints_made_of_noise_give_back_the_base(name, x64):
    """y = alpha_T x_0 + sigma_T z: x_t has the marginals of the base process, in mean and variance given x_0."""
    base = BASES[name][0]
    process = bridge(base)
    alpha_T, sigma_T = base(base.t_max)
    for t in np.array([0.1, 0.6, 1.0]) * base.t_max:
        A, B, C = coefficients(process.schedule, t)
        np.testing.assert_allclose((A * alpha_T + B, jnp.hypot(A * sigma_T, C)), base(t), rtol=1e-12)
    y = process.endpoint(jax.random.key(0), jnp.full(40_000, 0.5))
    assert stats.kstest((np.asarray(y) - alpha_T * 0.5) / sigma_T, "norm").pvalue > 1e-3
    assert process.endpoint_prior(jax.random.key(0), (40_000,)).std() == pytest.approx(float(sigma_T), rel=0.02)


# DDBM's preconditioning and loss.

STATISTICS = DDBM(0.6, 0.9, 0.35)


def published_scalings(A, B, C, sigma_0, sigma_T, sigma_0T):
    """c_skip, c_out, c_in of Zhou et al. 2023, appendix A.4."""
    total = A**2 * sigma_T**2 + B**2 * sigma_0**2 + 2 * A * B * sigma_0T + C**2
    c_in = total**-0.5
    out = np.sqrt(A**2 * (sigma_T**2 * sigma_0**2 - sigma_0T**2) + sigma_0**2 * C**2) * c_in
    return (B * sigma_0**2 + A * sigma_0T) / total, out, c_in


@every_base
def test_the_network_s_input_and_target_have_unit_variance(name, x64):
    """By the covariance of (x_0, y, z) with the matched statistics: 1 to 1e-12, and F as little as a linear map can."""
    schedule = BridgeSchedule(BASES[name][0])
    cov = np.diag([0.6**2, 0.9**2, 1.0])
    cov[0, 1] = cov[1, 0] = 0.35
    for t in np.array([0.01, 0.3, 0.8, 0.999]) * schedule.t_max:
        A, B, C = kernels(name, [t])[:, 0]
        x_t = np.array([B, A, C])
        a, b = STATISTICS(schedule, t)
        e = STATISTICS.given(jnp.ones(1)).offset(schedule, t)[0]
        F = np.array([a, e, b], float)
        x_in, _ = STATISTICS.given(jnp.ones(1)).inputs(schedule, jnp.zeros(1), t)
        scale = float(x_in[0]) / A
        np.testing.assert_allclose((scale**2 * x_t @ cov @ x_t, F @ cov @ F), 1.0, rtol=1e-10)
        assert abs(x_t @ cov @ F) < 1e-10  # what x_t says linearly is in c_skip


@every_base
def test_the_denoiser_is_the_published_one(name, x64):
    """c_skip x_t + c_out F(c_in x_t); the pair (a, b, e) belongs to it; at both ends too."""
    schedule = BridgeSchedule(BASES[name][0])
    y, x0, z = np.random.default_rng(0).normal(size=(3, 4))
    net = lambda x, c: jnp.tanh(1.3 * x) + 0.1
    target = STATISTICS.given(jnp.asarray(y))
    denoise = denoisers.denoiser(net, schedule, target)
    for t in np.array([1e-4, 0.3, 0.8, 1.0]) * schedule.t_max:
        A, B, C = kernels(name, [t])[:, 0] if t < schedule.t_max else (1.0, 0.0, 0.0)
        c_skip, c_out, c_in = published_scalings(A, B, C, 0.6, 0.9, 0.35)
        x = A * y + B * x0 + C * z
        expected = c_skip * x + c_out * (np.tanh(1.3 * c_in * x) + 0.1)
        np.testing.assert_allclose(denoise(jnp.asarray(B * x0 + C * z), t).mean, expected, rtol=1e-11, atol=1e-12)
        a, b = target(schedule, t)
        F = (x0 - c_skip * x) / c_out
        np.testing.assert_allclose(a * x0 + b * z + target.offset(schedule, t), F, rtol=1e-9, atol=1e-12)
        perfect = denoisers.denoiser(lambda x, c: jnp.asarray(F), schedule, target)  # noqa: B023
        np.testing.assert_allclose(perfect(jnp.asarray(B * x0 + C * z), t).mean, x0, atol=1e-10)
    assert np.isfinite(denoise(jnp.asarray(x0), 0.0).mean).all()


def test_the_loss_is_ddbm_s(x64):
    """w |D - x_0|^2 with w = 1 / c_out^2, the plain regression of the library in network space."""
    y, x0, z = np.random.default_rng(1).normal(size=(3, 4))
    net = lambda x, c: jnp.sin(x)
    for t in (0.01, 0.5, 0.99):
        A, B, C = kernels("vp", [t])[:, 0]
        c_skip, c_out, c_in = published_scalings(A, B, C, 0.6, 0.9, 0.35)
        x = A * y + B * x0 + C * z
        expected = np.mean((c_skip * x + c_out * np.sin(c_in * x) - x0) ** 2) / c_out**2
        parts = bridge(DDBM_VP), STATISTICS.given(jnp.asarray(y)), jnp.asarray(x0), jnp.asarray(z), t
        assert losses.regression(net, *parts) == pytest.approx(expected, rel=1e-9)


@every_base
def test_from_noise_the_preconditioning_is_edm_s(name, x64):
    """With the statistics of y = alpha_T x_0 + sigma_T z the denoiser is EDM's on the base schedule."""
    base = BASES[name][0]
    alpha_T, sigma_T = (float(c) for c in base(base.t_max))
    sd, (y, u) = 0.5, jnp.asarray(np.random.default_rng(2).normal(size=(2, 3)))
    target = DDBM(sd, np.hypot(alpha_T * sd, sigma_T), alpha_T * sd**2).given(y)
    net = lambda x, c: jnp.tanh(x) + 0.01 * c
    for t in np.array([0.1, 0.5, 0.9]) * base.t_max:
        ours = denoisers.denoiser(net, BridgeSchedule(base), target)(u, t).mean
        edm = denoisers.denoiser(net, base, denoisers.EDM(sd))(bridge(base).x_of(u, y, t), t).mean
        np.testing.assert_allclose(ours, edm, rtol=1e-9)


def test_measured_statistics():
    x, y = np.random.default_rng(0).normal(size=(2, 5, 3))
    target = DDBM.measured(x, y)
    expected = np.sqrt((x**2).mean()), np.sqrt((y**2).mean()), (x * y).mean()
    np.testing.assert_allclose((target.sigma_0, target.sigma_T, target.sigma_0T), expected)


# Samplers: whole trajectories of the published updates, in NumPy, in x.


class Pinned:
    """A denoiser of x_t, nonlinear in x_t, t and y, behind the library's interface in u."""

    def __init__(self, name, y):
        self.name, self.y, self.schedule = name, y, BridgeSchedule(BASES[name][0])

    def of_x(self, x, t):
        end = float(self.schedule.t_max)
        return np.tanh(0.8 * x + 0.3 * self.y) * (1 - 0.4 * t / end) + 0.1 * self.y

    def __call__(self, u, t):
        A = kernels(self.name, [t])[0, 0] if float(t) < self.schedule.t_max else 1.0
        return Posterior(jnp.asarray(self.of_x(np.asarray(u) + A * self.y, float(t))))


def dbim(name, ts, model, eta, noise):
    """Zheng et al. 2024, eq. 8 and 15: x after every step; noise[0] is the booting noise. No noise at the end."""
    form, out, x = BASES[name][1], [], model.y
    for i, (t, s) in enumerate(itertools.pairwise(ts)):
        A, B, C = kernels(name, [s])[:, 0]
        mean = model.of_x(x, t)
        if i == 0:
            x = A * model.y + B * mean + C * noise[0]
        else:
            A_t, B_t, C_t = kernels(name, [t])[:, 0]
            (alpha_t, sigma_t), (alpha, sigma) = ((float(c) for c in form.amplitudes(wide(v))) for v in (t, s))
            rho = eta * sigma * np.sqrt(1 - (sigma / alpha) ** 2 / (sigma_t / alpha_t) ** 2)
            eps = (x - A_t * model.y - B_t * mean) / C_t
            x = A * model.y + B * mean + np.sqrt(C**2 - rho**2) * eps + rho * noise[i]
        out.append(x)
    return out


def dbim_order(name, ts, model, order, noise):
    """Zheng et al. 2024, section 4.3: orders 2 and 3 in lambda = log(B / C), lower orders at the start."""
    A, B, C = kernels(name, ts[1:])
    lam, x = np.log(B / C), A[0] * model.y + B[0] * model.of_x(model.y, ts[0]) + C[0] * noise[0]
    means, out = [], [x]
    for i in range(len(A) - 1):
        means = [model.of_x(x, ts[1 + i]), *means]
        h = lam[i + 1] - lam[i]
        total = -np.expm1(-h) * means[0]
        if i >= 1:
            h_1 = lam[i] - lam[i - 1]
            d_1 = (means[0] - means[1]) / h_1
            slope = d_1
            if i >= 2 and order == 3:
                h_2 = lam[i - 1] - lam[i - 2]
                d_2 = (means[1] - means[2]) / h_2
                slope = (d_1 * (2 * h_1 + h_2) - d_2 * h_1) / (h_1 + h_2)
                total = total + (h**2 / 2 - h + 1 - np.exp(-h)) * 2 * (d_1 - d_2) / (h_1 + h_2)
            total = total + (np.exp(-h) + h - 1) * slope
        x = C[i + 1] / C[i] * x + model.y * (A[i + 1] - A[i] * C[i + 1] / C[i]) + C[i + 1] * np.exp(lam[i + 1]) * total
        out.append(x)
    return out


def placed(name, u, y, ts):
    """x_t of every u_t, (steps, d)."""
    return np.asarray(u) + kernels(name, ts)[0][:, None] * y


@pytest.mark.parametrize("name", ["vp", "edm"])
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_dbim_is_ddim_on_u(name, eta, x64):
    """The booting step and 9 more, at every eta."""
    y, noise = np.array([0.4, -1.1]), np.random.default_rng(0).normal(size=(10, 2))
    model, schedule = Pinned(name, y), BridgeSchedule(BASES[name][0])
    ts = grids.pinned(schedule, 10, gap=1e-2 * schedule.t_max, t_min=1e-2 * schedule.t_max, zero=False)
    u, _ = walk(ancestral.resampled(schedule), ts[:2], model, np.zeros(2), noise)
    _, path = walk(ancestral.ddim(schedule, eta), ts[1:], model, u, noise[1:])
    expected = np.stack(dbim(name, ts, model, eta, noise))
    np.testing.assert_allclose(placed(name, np.stack([u, *path]), y, ts[1:]), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["vp", "edm"])
@pytest.mark.parametrize("order", [2, 3])
def test_dbim_of_higher_order_is_exponential_adams_on_u(name, order, x64):
    y, noise = np.array([0.4, -1.1]), np.random.default_rng(0).normal(size=(1, 2))
    model, schedule = Pinned(name, y), BridgeSchedule(BASES[name][0])
    ts = grids.pinned(schedule, 12, gap=1e-2 * schedule.t_max, t_min=1e-2 * schedule.t_max, zero=False)
    u, _ = walk(ancestral.resampled(schedule), ts[:2], model, np.zeros(2), noise)
    _, path = walk(multistep.adams(schedule, order), ts[1:], model, u, np.zeros((12, 2)))
    expected = np.stack(dbim_order(name, ts, model, order, noise))
    np.testing.assert_allclose(placed(name, np.stack([u, *path]), y, ts[1:]), expected, rtol=1e-10, atol=1e-10)


def ddbm(name, ts, denoise, y, x, noise, ratio=0.33):
    """Zheng et al. 2023, algorithm 1, in x: f - g^2 (s - h) by Euler-Maruyama, f - g^2 (s / 2 - h) by Heun."""
    schedule, form = BASES[name]

    def drift(x, t, half):
        A, B, C = kernel(form, t, schedule.t_max)
        (alpha, sigma), (alpha_T, sigma_T) = form.amplitudes(wide(t)), form.amplitudes(wide(schedule.t_max))
        f, g2 = form.rates(wide(t))
        score = -(x - A * y - B * denoise(x, t)) / C**2
        ratio = alpha_T / alpha
        h = ratio * (y - ratio * x) / (sigma_T**2 - ratio**2 * sigma**2)
        return np.asarray(f * x - g2 * ((0.5 if half else 1) * score - h), float), float(g2)

    out = []
    for i, (t, s) in enumerate(itertools.pairwise(ts)):
        middle = t + ratio * (s - t)
        d, g2 = drift(x, t, False)
        x = x + d * (middle - t) + np.sqrt(g2 * (t - middle)) * noise[i]
        d, _ = drift(x, middle, True)
        ahead = x + d * (s - middle)
        x = x + (s - middle) / 2 * (d + drift(ahead, s, True)[0]) if s > 0 else ahead
        out.append(x)
    return np.stack(out)


def hybrid_path(name, ts, y, noise):
    model, schedule = Pinned(name, y), BridgeSchedule(BASES[name][0])
    rows = np.zeros((3 * len(noise), 2))
    rows[::3] = noise
    _, path = walk(hybrid.ddbm(schedule), ts, model, np.zeros(2), rows)
    return model, np.append(path[2::3], path[-1:], 0) if ts[-1] == 0 else path[2::3]


@pytest.mark.parametrize("name", ["vp", "edm"])
def test_ddbm_s_sampler_in_u(name, x64):
    """At y = 0, where u is x, the published trajectory; at any y the same one with A_t y exact."""
    schedule, noise = BridgeSchedule(BASES[name][0]), np.random.default_rng(0).normal(size=(8, 2))
    end = float(schedule.t_max)
    for ts in (grids.karras(schedule, 8, t_max=0.999 * end, t_min=1e-3 * end),):
        model, got = hybrid_path(name, ts, np.zeros(2), noise)
        expected = ddbm(name, ts, model.of_x, 0.0, np.zeros(2), noise)
        np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-10)
        y = np.array([0.4, -1.1])
        model, got = hybrid_path(name, ts, y, noise)
        shifted = lambda u, t, model=model, y=y: model.of_x(u + kernels(name, [t])[0, 0] * y, t)
        np.testing.assert_allclose(got, ddbm(name, ts, shifted, 0.0, np.zeros(2), noise), rtol=1e-9, atol=1e-10)


@pytest.mark.slow
def test_ddbm_s_sampler_as_published_differs_by_its_error_in_A(x64):
    """In x the known A_t y is integrated too: the same limit, first-order apart for one path of the noise."""
    y, gaps = np.array([0.4, -1.1]), []
    for n in (20, 40):
        ts = np.linspace(0.999, 0.05, n + 1)
        noise = np.zeros((n, 2))
        model, got = hybrid_path("vp", ts, y, noise)
        A = kernels("vp", ts)[0]
        published = ddbm("vp", ts, model.of_x, y, A[0] * y, noise)
        gaps.append(np.abs(got[-1] + A[-1] * y - published[-1]).max())
    assert gaps[0] < 0.05
    assert np.log2(gaps[0] / gaps[1]) == pytest.approx(1, abs=0.15)


def test_every_eta_keeps_the_marginals(x64):
    """k^2 C_t^2 + noise = C_s^2 and k B_t + x0 = B_s for every noise up to C_s; at eta = 1 it is Markov's, 0.372005."""
    schedule, ts = BridgeSchedule(DDBM_VP), np.array([0.7, 0.5, 0.2])
    (_, B, C), plans = kernels("vp", ts), [ancestral.ddim(schedule, eta).plan(ts) for eta in (0.0, 0.4, 1.0)]
    for rows in [*plans, ancestral.resampled(schedule).plan(ts)]:
        np.testing.assert_allclose(rows.x**2 * C[:-1] ** 2 + rows.noise_var, C[1:] ** 2, rtol=1e-12)
        np.testing.assert_allclose(rows.x * B[:-1] + rows.mean, B[1:], rtol=1e-12)
    assert np.sqrt(plans[2].noise_var[0]) == pytest.approx(0.372005, abs=6e-7)
    (a_t, s_t), (a, s) = (tuple(map(float, VP_2.amplitudes(wide(t)))) for t in ts[:2])
    posterior = s * np.sqrt(s_t**2 - (a_t / a) ** 2 * s**2) / s_t  # Var[x_s | x_t, x_0] of the base chain
    assert np.sqrt(plans[2].noise_var[0]) == pytest.approx(posterior, rel=1e-12)


# The law of what is sampled; exact, by the samplers' coefficients.


@pytest.mark.parametrize(
    ("k", "eta", "std"),
    [
        (10, 0.0, 0.3396),
        (10, 0.3, 0.3384),
        (10, 1.0, 0.3145),
        (400, 0.0, 0.3983),
        (400, 0.3, 0.3982),
        (400, 1.0, 0.3963),
    ],
)
def test_dbim_on_a_gaussian(k, eta, std, x64):
    """x_0 given y is N(0.7, 0.4^2); k evaluations on DBIM's grid: the mean is exact, the spread falls short."""
    schedule = BridgeSchedule(DDBM_VP)
    ts = grids.pinned(schedule, k, gap=1e-3, t_min=1e-4, zero=False)
    _, B, C = kernels("vp", ts[1:])
    means, variances = laws(ancestral.ddim(schedule, eta), ts[1:], M, V0, mean=B[0] * M, var=C[0] ** 2)
    np.testing.assert_allclose(means, B[1:] * M, rtol=1e-10)
    assert np.sqrt(variances[-1]) == pytest.approx(std, abs=7e-5)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_with_the_posterior_variance_every_number_of_steps_is_exact(eta, x64):
    schedule = BridgeSchedule(DDBM_VP)
    for n in (2, 5, 10):
        ts = grids.pinned(schedule, n, t_min=1e-2, gap=0.1, zero=False)
        _, B, C = kernels("vp", ts[1:])
        start = dict(mean=B[0] * M, var=C[0] ** 2 + B[0] ** 2 * V0)
        if n == 2:
            assert len(ts) == 3
        means, variances = laws(ancestral.ddim(schedule, eta), ts[1:], M, V0, with_var=True, **start)
        np.testing.assert_allclose(means, B[1:] * M, rtol=1e-9)
        np.testing.assert_allclose(variances, B[1:] ** 2 * V0 + C[1:] ** 2, rtol=1e-9)


def test_the_reverse_sde_has_the_law(x64):
    """Targets of N(0.5 + 0.9 y, 0.4^2) at y = -1 and 1; 4000 Euler-Maruyama steps: within 0.002 of both moments."""
    schedule = BridgeSchedule(DDBM_VP)
    ts = grids.uniform(schedule, 4000, t_max=1 - 1e-4, t_min=1e-4, zero=False)
    for y, target in ((-1.0, -0.4), (1.0, 1.4)):
        m = 0.5 + 0.9 * y
        means, variances = laws(sde.euler_maruyama(schedule), ts, m, V0, mean=0.0, var=0.0)
        assert (means[-1], np.sqrt(variances[-1])) == (pytest.approx(target, abs=2e-3), pytest.approx(0.4, abs=2e-3))


def test_the_flow_is_ddbm_s_and_the_quantile_map(x64):
    """DBIM's ODE d(x / C) = y d(A / C) + x_0 d(B / C) is DDBM's f - g^2 (s / 2 - h), 1e-10; RK45 lands within 3e-8."""
    schedule = BridgeSchedule(DDBM_VP)
    denoise = lambda u, t: Mixture((1.0,), (M,), (V0,)).denoise(u, *kernels("vp", [t])[1:, 0])

    def published(t, x):
        A, B, C = kernels("vp", [t])[:, 0]
        (alpha, sigma), (alpha_T, sigma_T) = (tuple(map(float, VP_2.amplitudes(wide(v)))) for v in (t, 1.0))
        f, g2 = (float(rate) for rate in VP_2.rates(wide(t)))
        R = alpha_T / alpha
        score = -(x - A * Y - B * denoise(x - A * Y, t)) / C**2
        return f * x - g2 * (score / 2 - R * (Y - R * x) / (sigma_T**2 - R**2 * sigma**2))

    def ours(t, u):
        (B, C), (dB, dC) = host.float64(calculus.derivatives, schedule, np.float64(t))
        mean = denoise(u, t)
        return dB * mean + dC * (u - B * mean) / C

    for t in (0.05, 0.5, 0.95):
        u = np.array([-0.3, 0.4])
        A, slope = (
            float(v) for v in host.float64(lambda t: jax.jvp(schedule.pull, (t,), (jnp.ones(()),)), np.float64(t))
        )
        np.testing.assert_allclose(ours(t, u) + slope * Y, published(t, u + A * Y), rtol=1e-10, atol=1e-10)
    start, end = (kernels("vp", [t])[1:, 0] for t in (0.99, 0.01))
    u = start[0] * M + np.hypot(start[0] * 0.4, start[1]) * np.array([-1.5, 0.2, 1.1])
    solution = integrate.solve_ivp(ours, (0.99, 0.01), u, rtol=1e-10, atol=1e-10).y[:, -1]
    expected = Mixture((1.0,), (M,), (V0,)).transport(u, start, end)
    assert np.abs(solution - expected).max() < 3e-8
    model = analytic.gaussian_mixture([1.0], [M], [V0]).denoiser(schedule)
    flow = sampling_fn(ode.probability_flow(schedule, "Dopri8", rtol=1e-11, atol=1e-11), np.array([0.99, 0.01]))
    got = jax.jit(jax.vmap(lambda u: flow(model, jax.random.key(0), u)))(jnp.asarray(u))
    np.testing.assert_allclose(got, expected, atol=3e-8)


LINE = Mixture((0.3, 0.7), (-0.6, 0.5), (0.16, 0.09))
Z = np.array([-1.4, -0.6, 0.1, 0.8, 1.5])


@jax.jit
def run(sample, model, x):
    return jax.vmap(lambda x: sample(model, jax.random.key(0), x))(x)


def order_error(make, n):
    schedule = BridgeSchedule(DDBM_VP)
    ends = [float(calculus.time_of(schedule, jnp.asarray(-2 * np.log(level)))) for level in (2.0, 0.02)]
    ts = grids.karras(schedule, n, t_max=ends[0], t_min=ends[1], zero=False)
    sample, knots = known_at_knots(make(schedule), ts)
    (_, B, C), (mean, var) = kernels("vp", ts[[0, -1]]), LINE.moments()
    x = B[0] * mean + np.sqrt(B[0] ** 2 * var + C[0] ** 2) * Z
    model = analytic.gaussian_mixture(LINE.weights, LINE.means, LINE.variances).denoiser(knots)
    expected = LINE.transport(x, (B[0], C[0]), (B[1], C[1]))
    return np.abs(np.asarray(run(sample, model, jnp.asarray(x))) - expected).max()


@pytest.mark.parametrize(
    ("make", "order"),
    [
        (ancestral.ddim, 1),
        (lambda s: multistep.adams(s, 2), 2),
        (lambda s: multistep.adams(s, 3), 2),  # it starts at order 1
        (lambda s: hybrid.ddbm(s, 0.0), 2),
    ],
    ids=["dbim", "dbim_2", "dbim_3", "heun"],
)
def test_orders(make, order, x64):
    assert np.log2(order_error(make, 160) / order_error(make, 320)) == pytest.approx(order, abs=0.1)


def test_order_3_with_an_exact_history(x64):
    """Primed with two exact evaluations DBIM-3 is of order 3 (measured without: 2)."""
    schedule, found = BridgeSchedule(DDBM_VP), []
    ends = [float(calculus.time_of(schedule, jnp.asarray(-2 * np.log(level)))) for level in (2.0, 0.02)]
    for n in (160, 320):
        ts = grids.karras(schedule, n, t_max=ends[0], t_min=ends[1], zero=False)
        sampler = multistep.adams(schedule, 3)
        sample, knots = known_at_knots(sampler, ts)
        _, B, C = kernels("vp", ts)
        mean, var = LINE.moments()
        x = B[0] * mean + np.sqrt(B[0] ** 2 * var + C[0] ** 2) * Z
        exact = [LINE.transport(x, (B[0], C[0]), (B[i], C[i])) for i in range(3)]
        kept = [LINE.denoise(exact[i], B[i], C[i]) for i in (1, 0)]
        rows = jax.tree.map(lambda a: a[2:], sample.args[0])
        model = analytic.gaussian_mixture(LINE.weights, LINE.means, LINE.variances).denoiser(knots)
        state = jax.vmap(sampler.init)(jnp.asarray(exact[2]))._replace(ys=jnp.asarray(np.stack([*kept, 0 * x], 1)))
        step = lambda state, row, sampler=sampler, model=model: (sampler.step(model, None, state, row), None)
        got = jax.jit(jax.vmap(lambda state: jax.lax.scan(step, state, rows)[0].x))(state)  # noqa: B023
        found.append(np.abs(got - LINE.transport(x, (B[0], C[0]), (B[-1], C[-1]))).max())
    assert np.log2(found[0] / found[1]) == pytest.approx(3, abs=0.15)


@pytest.mark.parametrize("name", ["dbim", "dbim_3", "ddbm"])
def test_samples_in_single_precision(name):
    """4096 samples of a mixture from u = 0: moments and W1 beside what two exact sets are apart."""
    schedule, n = BridgeSchedule(DDBM_VP), 4096
    if name == "ddbm":
        ts = grids.karras(schedule, 40, t_max=1 - 1e-4, t_min=1e-4)
        sample = sampling_fn(hybrid.ddbm(schedule), ts)
        assert samplers.nfe(sample) == 119
    else:
        make = {"dbim": lambda s: ancestral.ddim(s, 0.5), "dbim_3": lambda s: multistep.adams(s, 3)}[name]
        sample = bridging_fn(make(schedule), grids.pinned(schedule, 64))
        assert samplers.nfe(sample) == 64
    model = analytic.gaussian_mixture(LINE.weights, LINE.means, LINE.variances).denoiser(schedule)
    keys = jax.random.split(jax.random.key(1), n)
    got = np.asarray(jax.jit(jax.vmap(lambda key: sample(model, key, jnp.zeros(()))))(keys))
    mean, var = LINE.moments()
    assert got.mean() == pytest.approx(mean, abs=5 * np.sqrt(var / n) + 0.005)
    assert got.std() == pytest.approx(np.sqrt(var), abs=0.025)
    rng = np.random.default_rng(0)
    distance = lambda a, b: np.mean(np.abs(np.sort(a) - np.sort(b)))
    sets = [LINE.draw(rng, n) for _ in range(6)]
    assert distance(got, sets[0]) < max(distance(a, sets[0]) for a in sets[1:]) + 0.02


def test_a_flow_alone_makes_one_image_of_each_endpoint_and_the_boot_many():
    schedule = BridgeSchedule(DDBM_VP)
    sample = bridging_fn(ancestral.ddim(schedule), grids.pinned(schedule, 8))
    model = analytic.gaussian_mixture(LINE.weights, LINE.means, LINE.variances).denoiser(schedule)
    a, b, again = (sample(model, jax.random.key(i), jnp.zeros(())) for i in (0, 1, 0))
    assert abs(a - b) > 1e-3
    assert a == again
    ts, u = grids.pinned(schedule, 8)[1:], jnp.float32(0.1)
    assert len({float(sampling_fn(ancestral.ddim(schedule), ts)(model, jax.random.key(i), u)) for i in (0, 1)}) == 1


def test_one_compile_serves_every_endpoint_bridge_grid_and_eta():
    traces = []

    @jax.jit
    def draw(sample, model, key):
        traces.append(1)
        return sample(model, key, jnp.zeros(2))

    for y, beta, eta, gap in ((0.5, 2.1, 0.0, 1e-3), (-1.0, 3.0, 0.5, 1e-2)):
        schedule = BridgeSchedule(VP(0.1, beta))
        model = denoisers.denoiser(NET, schedule, DDBM(0.5, 0.6, 0.1).given(jnp.full(2, y)))
        x = draw(
            bridging_fn(ancestral.ddim(schedule, eta), grids.pinned(schedule, 4, gap=gap)), model, jax.random.key(0)
        )
        assert np.isfinite(x).all()
    assert len(traces) == 1


NET = jax.tree_util.Partial(lambda w, x, c: w * jnp.tanh(x), jnp.float32(0.3))


def test_flops_are_those_of_the_evaluations():
    """At most 1.005 of NFE forward passes: a bridge costs the sum u + A y and no more."""
    width = 512
    net = jax.tree_util.Partial(lambda w, x, c: jnp.tanh(x @ w), jnp.zeros((width, width)))
    schedule = BridgeSchedule(DDBM_VP)
    model = denoisers.denoiser(net, schedule, DDBM(0.5, 0.6, 0.1).given(jnp.zeros(width)))
    for make in (lambda s: ancestral.ddim(s, 0.3), lambda s: multistep.adams(s, 3)):
        sample = bridging_fn(make(schedule), grids.pinned(schedule, 5))
        text = str(jax.make_jaxpr(lambda key: sample(model, key, jnp.zeros(width)))(jax.random.key(0)))  # noqa: B023
        assert text.count("dot_general") - text.count("dimension_numbers=(([0], [0])") <= 3  # boot, one scanned row
        assert "length=4" in text


# Networks and data.


@pytest.mark.parametrize(
    ("module", "shape", "beside"),
    [
        (models.UNet(channels=4, multipliers=(1, 1), attention=(), condition=2), (8, 8, 1), (8, 8, 2)),
        (models.MLP(width=8, condition=3), (4,), (3,)),
    ],
    ids=["unet", "mlp"],
)
def test_a_network_sees_its_condition_beside_x(module, shape, beside):
    net = models.network(module)
    params = models.init(net, jax.random.key(0), shape)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: leaf + 0.1 * rng.normal(size=leaf.shape).astype(np.float32), params)
    x, c = jnp.ones(shape), jnp.float32(0.3)
    told = jax.jit(lambda condition: net.apply(params, x, c, condition=condition))
    without = jax.jit(net.apply)(params, x, c)
    assert without.shape == shape
    np.testing.assert_allclose(without, told(jnp.zeros(beside)), atol=1e-6)
    assert np.abs(without - told(jnp.ones(beside))).max() > 1e-3
    with pytest.raises(ValueError, match=r"The condition has shape .*, expected .*: the model's `condition`"):
        net.apply(params, x, c, condition=jnp.ones((*shape[:-1], 7)))


def test_the_degradations():
    x = data.digits().train.gather(np.arange(5)).x
    low = data.pairs("digits", "average", factor=2)
    assert low.name == "digits"
    batch = low.train.gather(np.arange(5))
    np.testing.assert_array_equal(batch.x, x)
    np.testing.assert_allclose(
        batch.given["y"][:, 2:4, 4:6], x[:, 2:4, 4:6].mean((1, 2), keepdims=True) * np.ones((2, 2, 1))
    )
    blurred = data.pairs("digits", "blur", sigma=0.7).train.gather(np.arange(5)).given["y"]
    expected = ndimage.gaussian_filter(x, (0, 0.7, 0.7, 0), mode="reflect", truncate=7)
    np.testing.assert_allclose(blurred, expected, atol=1e-5)
    assert len({data.pairs("digits", "blur", sigma=s).fingerprint for s in (0.7, 0.8)}) == 2


def test_photos_are_colour_patches_apart():
    photos = data.photos(size=16, stride=16)
    train, held_out = (np.asarray(part.x) for part in (photos.train, photos.held_out))  # pyright: ignore
    assert (train.shape, held_out.shape) == ((2 * 26 * 32, 16, 16, 3), (2 * 26 * 8, 16, 16, 3))
    x = photos.train.gather(np.arange(100)).x
    assert (x.dtype, x.min() >= -1, x.max() <= 1) == (np.float32, True, True)
    from sklearn.datasets import load_sample_images

    for image in load_sample_images().images:
        for part, patch in ((train, image[16:32, 16:32]), (held_out, image[:16, 512:528])):
            assert np.sum(np.all(part == patch, (1, 2, 3))) == 1
    corners = [image[16 * i : 16 * (i + 1), 512:528] for image in load_sample_images().images for i in range(26)]
    first = [np.any([np.array_equal(x, corner) for x in held_out[:104]]) for corner in corners]
    assert 3 <= sum(first[:26]) <= 23  # the first of them are of both photographs and of all rows
    assert 3 <= sum(first[26:]) <= 23


# Bad input: one line, before anything is traced.


U = jnp.zeros(3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: denoisers.denoiser(NET, BridgeSchedule(VP()), DDBM()),
            r"no endpoint: got y = None, expected an array",
        ),
        (lambda: DDBM().given(None), "no endpoint"),
        (
            lambda: denoisers.denoiser(NET, BridgeSchedule(VP()), DDBM().given(jnp.zeros(2)))(U, 0.5),
            r"endpoint y has shape \(2,\), expected that of x, \(3,\)",
        ),
        (
            lambda: losses.regression(NET, bridge(VP()), DDBM().given(jnp.zeros((3, 1))), U, U, 0.5),
            r"endpoint y has shape \(3, 1\), expected that of x, \(3,\)",
        ),
        (lambda: bridge(VP()).x_of(U, jnp.zeros(2), 0.5), r"shape \(2,\), expected that of x, \(3,\)"),
        (lambda: DDBM.measured(np.zeros((2, 3)), np.zeros((2, 4))), r"shape \(2, 3\), their endpoints \(2, 4\)"),
        (lambda: denoisers.denoiser(NET, VP(), DDBM().given(U)), "DDBM-prediction is for bridges, got VP"),
        (
            lambda: denoisers.denoiser(NET, BridgeSchedule(VP()), DDBM(0.5, 0.5, 0.25).given(U)),
            r"expected positive numbers and \|sigma_0T\| < sigma_0 sigma_T",
        ),
        (lambda: bridge(Rectified()), "Rectified ends at alpha = 0, sigma = 1; a bridge needs both above 0"),
        (
            lambda: denoisers.denoiser(NET, BridgeSchedule(VP()), denoisers.Eps()),
            "does not determine x_0.*; predict DDBM",
        ),
        (lambda: bridging_fn(ancestral.ddim(VP()), [1.0, 0.5, 0.0]), "where both are 0"),
        (lambda: bridging_fn(ancestral.ddim(BridgeSchedule(VP())), [0.9, 0.5, 0.0]), "use sampling_fn"),
        (lambda: bridging_fn(ancestral.ddim(BridgeSchedule(VP())), [1.0, 0.0]), r"Got 1 step\(s\).*two steps or more"),
        (lambda: hybrid.ddbm(VP(), ratio=1.0), r"ratio is 1.0, expected a number in \[0, 1\)"),
        (lambda: hybrid.ddbm(BridgeSchedule(VP())).plan(np.array([1.0, 0.5])), "singular at t = 1; start"),
        (lambda: grids.pinned(BridgeSchedule(VP()), 5, gap=1.0), "gap is 1.0"),
        (lambda: grids.pinned(BridgeSchedule(VP()), 5, base="ladder"), "'ladder'; there are uniform, karras"),
        (lambda: data.pairs("digits", "erase"), "no degradation 'erase'; there are average, blur"),
        (
            lambda: data.pairs("digits", "average", factor=3),
            "factor is 3, expected a positive integer that divides 8 x 8",
        ),
        (lambda: data.pairs("digits", "blur", sigma=0.0), "sigma is 0.0"),
        (lambda: paired(data.moons(), "blur"), r"shape \(2,\), expected images"),
        (lambda: data.pairs("digit", "blur"), "no data set 'digit'.*nearest is 'digits'"),
        (lambda: Pairs(data.digits().train, lambda x: x[:, :4]), r"shape \(4, 8, 1\), expected .*\(8, 8, 1\)"),
        (lambda: data.photos(size=200), "size is 200, expected at most 128"),
        (lambda: data.photos(stride=0), "stride is 0, expected a positive integer"),
    ],
)
def test_bad_input_is_one_line(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_processes_are_the_config_s(x64):
    assert isinstance(processes.bridge(VP()).schedule, BridgeSchedule)
