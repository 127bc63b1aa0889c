"""Whole trajectories against the published update rules in float64 NumPy, and samplers against each other.

Trajectories are read from planned rows (`rows.py`).
"""

import itertools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_forms import amplitudes
from oracles import steps
from oracles.mixture import Mixture
from oracles.paths import stepwise
from rows import HostModel, reached, remembered, times, walk
from samplers_table import EVERY_PAIR, FINITE, SAMPLERS, SETTINGS, grid, grid_for, in_turn

from diffjax import denoisers, grids, host
from diffjax.samplers import ancestral, deis, heun, multistep, nfe, pndm, restart, sampling_fn, sde, unipc
from diffjax.schedules import EDM, VP

TARGET = Mixture((0.3, 0.7), (-0.6, 0.5), (0.04, 0.02))
X = np.linspace(-1.5, 1.5, 5)
pytestmark = pytest.mark.usefixtures("x64")


@pytest.fixture(scope="module", autouse=True)
def levels_once():
    """Levels are looked up once for all samplers."""
    with mock.patch.object(host, "along", remembered(host.along)):
        yield


def noise(rows, seed=0):
    return np.random.default_rng(seed).standard_normal((rows, X.size))


def agree(a, b, x, tolerance=1e-12):
    """Trajectories that start at x, to a tolerance relative to the size of what enters each step."""
    a, b = np.asarray(a), np.asarray(b)
    assert a.shape == b.shape
    size = np.abs([x, *b]).max(-1)
    np.testing.assert_array_less(np.abs(a - b).max(-1), tolerance * np.maximum(size[:-1], size[1:]))


def whole(path, rows_per_step):
    """x where a step is complete; the last one may have a row less."""
    return path[np.minimum(np.arange(rows_per_step - 1, len(path) + rows_per_step - 1, rows_per_step), len(path) - 1)]


@pytest.mark.parametrize(
    ("name", "setting", "more", "zero"), in_turn(EVERY_PAIR, *itertools.product((0, 6), (True, False)))
)
def test_trajectory_is_the_published_one(name, setting, more, zero):
    """On the shortest grid that it walks, one step mostly, and on six steps more; down to data or above it."""
    row, (schedule, form, _, knots, _) = SAMPLERS[name], SETTINGS[setting]
    ts, z = grid_for(name, setting, row.least_steps + more, zero), noise(60)
    alpha, sigma = amplitudes(form, ts[0])
    _, path = walk(row.make(schedule), ts, HostModel(TARGET.denoise, form), sigma * X, z)
    expected = np.array(row.oracle(TARGET.denoise, form, ts, sigma * X, z, knots))
    agree(whole(path, row.rows_per_step), expected, sigma * X, 1e-12 + 1e-15 / (alpha or 1.0) ** row.rounding)


LEVEL = [(name, setting) for name, setting in EVERY_PAIR if SAMPLERS[name].clock == "level" and setting in FINITE]


@pytest.mark.parametrize(("name", "setting"), LEVEL)
def test_only_the_ratio_of_noise_to_signal_matters(name, setting):
    """x / alpha walks one path whatever the schedule: that of EDM at t = sigma / alpha."""
    plain, row, (schedule, form, *_) = EDM(t_max=1e9), SAMPLERS[name], SETTINGS[setting]
    ts, z = grid(setting, 10), noise(40)
    alpha, sigma = amplitudes(form, ts)
    sampler = row.make(schedule)
    here = walk(sampler, ts, HostModel(TARGET.denoise, form), X * sigma[0], z)[1]
    model = HostModel(TARGET.denoise, SETTINGS["edm"].form)
    there = walk(row.make(plain), sigma / alpha, model, X * sigma[0] / alpha[0], z)[1]
    after = reached(sampler, ts) if row.rows_per_step == 2 else times(sampler, ts)
    agree(here / amplitudes(form, after)[0][:, None], there, X * sigma[0] / alpha[0], 1e-11)


@pytest.mark.parametrize("name", ["ddim", "heun", "adams_3", "dpmpp_2m"])
def test_vp_paths_over_alpha_plus_sigma_are_rectified_paths(name):
    """Clocked by sigma / (alpha + sigma)."""
    vp, rectified = SETTINGS["vp"], SETTINGS["rectified"]
    ts, z = grid("vp", 10), noise(20)
    alpha, sigma = amplitudes(vp.form, ts)
    total = alpha + sigma
    make = SAMPLERS[name].make
    here = walk(make(vp.schedule), ts, HostModel(TARGET.denoise, vp.form), X, z)[1][-1]
    model = HostModel(TARGET.denoise, rectified.form)
    there = walk(make(rectified.schedule), sigma / total, model, X / total[0], z)[1][-1]
    np.testing.assert_allclose(here, there * total[-1], rtol=1e-12)


@pytest.mark.parametrize("setting", SETTINGS)
def test_ddim_is_adams_of_order_1_and_dpm_solver_1(setting):
    schedule, form, from_pure_noise, *_ = SETTINGS[setting]
    ts, model = grid(setting, 10, zero=False), HostModel(TARGET.denoise, form)
    alpha, sigma = amplitudes(form, ts)
    x = X * sigma[0]
    ddim, first = (
        walk(make(schedule), ts, model, x, noise(10))[1] for make in (ancestral.ddim, SAMPLERS["adams_1"].make)
    )
    agree(first, ddim, x)
    if from_pure_noise:  # in terms of eps, x_0 is lost there
        return
    for i, then in enumerate(ddim):  # Lu et al. 2022a, eq. 3.7
        now = x if i == 0 else ddim[i - 1]
        h = np.log(alpha[i + 1] / sigma[i + 1]) - np.log(alpha[i] / sigma[i])
        eps = (now - alpha[i] * TARGET.denoise(now, alpha[i], sigma[i])) / sigma[i]
        expected = alpha[i + 1] / alpha[i] * now - sigma[i + 1] * np.expm1(h) * eps
        np.testing.assert_allclose(then, expected, rtol=1e-11, atol=1e-13)
        euler = alpha[i + 1] * (now / alpha[i] + eps * (sigma[i + 1] / alpha[i + 1] - sigma[i] / alpha[i]))
        np.testing.assert_allclose(then, euler, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("n", [1, 7, 10])
def test_ddpm_is_the_posterior_of_the_strided_chain(n):
    schedule, form, *_ = SETTINGS["table_linear"]
    ts, z = grids.trailing(schedule, n), noise(n)
    levels = list(zip(*amplitudes(form, ts)))
    model = HostModel(TARGET.denoise, form)
    for sampler in (ancestral.ddpm(schedule), ancestral.ddim(schedule, eta=1.0)):
        _, path = walk(sampler, ts, model, X, z)
        expected = stepwise(lambda i, *step: steps.ddpm_step(TARGET.denoise, *step), levels, X, z)
        agree(path, expected, X)


@pytest.mark.parametrize("eta", [0.0, 0.3, 0.5, 1.0])
def test_known_variance_enters_as_in_analytic_dpm(eta):
    for setting in ("vp", "ve", "rectified_1"):
        schedule, form, *_ = SETTINGS[setting]
        ts, z = grid(setting, 10), noise(10)
        var = lambda alpha, sigma: 0.3 * sigma**2 / (0.1 + sigma**2)
        levels = list(zip(*amplitudes(form, ts)))
        x = X * levels[0][1]
        _, path = walk(ancestral.ddim(schedule, eta), ts, HostModel(TARGET.denoise, form, var), x, z)
        step = lambda i, now, then, x, z, var=var: steps.ddim_step(TARGET.denoise, now, then, x, z, eta, var(*now))
        agree(path, stepwise(step, levels, x, z), x)


@pytest.mark.parametrize(("churn", "s_min", "s_max", "s_noise"), [(40.0, 0.05, 50.0, 1.003), (3.0, 0.0, np.inf, 0.9)])
def test_edm_is_algorithm_2(churn, s_min, s_max, s_noise):
    schedule, form, *_ = SETTINGS["edm"]
    for n, zero in ((1, True), (10, True), (10, False)):
        ts, z = grid("edm", n, zero=zero), noise(2 * n)
        sampler = heun.edm(schedule, churn, s_min, s_max, s_noise)
        result, path = walk(sampler, ts, HostModel(TARGET.denoise, form), 80 * X, z)
        gamma = np.where((ts >= s_min) & (ts <= s_max), min(churn / n, np.sqrt(2) - 1), 0)
        step = lambda i, *levels, gamma=gamma: steps.edm_step(TARGET.denoise, *levels, gamma[i], s_noise)
        expected = stepwise(step, ts, 80 * X, z[::2])
        agree(path[1::2] if not zero else np.concatenate([path[1::2], path[-1:]]), expected, 80 * X)
        np.testing.assert_array_equal(result, path[-1])


def test_v_and_edm_preconditioning_are_one_under_vp():
    """F_edm = -F_v at sigma_data = 1: any sampler walks the same path."""
    schedule = VP()
    net = lambda x, c: jnp.tanh(1.3 * x + 0.1 * jnp.clip(c, -5, 5))
    v = denoisers.denoiser(net, schedule, denoisers.targets.V())
    edm = denoisers.denoiser(lambda x, c: -net(x, c), schedule, denoisers.targets.EDM(sigma_data=1.0))
    models = [jax.jit(lambda x, t, model=model: model(x, t)) for model in (v, edm)]
    for name in ("ddim_half", "heun_churn", "adams_3", "em"):
        ts, z = grid("vp", 10), noise(20)
        a, b = (walk(SAMPLERS[name].make(schedule), ts, model, X, z)[1] for model in models)
        agree(a, b, X)


@pytest.mark.parametrize("setting", FINITE)
def test_euler_maruyama_without_churn_is_euler_on_the_probability_flow(setting):
    """dx/dt = alpha' E[x_0 | x] + sigma' E[z | x], with the slopes by central differences of the closed form."""
    schedule, form, *_ = SETTINGS[setting]
    ts = 0.9987 * grid(setting, 10)[:-1]  # between the knots of a table, where slopes jump
    _, path = walk(sde.euler_maruyama(schedule, churn=0.0), ts, HostModel(TARGET.denoise, form), X, noise(10))
    x = X
    for i, (t, s) in enumerate(itertools.pairwise(ts)):
        alpha, sigma = amplitudes(form, t)
        step = np.longdouble(1e-6) * t
        ahead, behind = (form.amplitudes(np.longdouble(t) + sign * step) for sign in (1, -1))
        d_alpha, d_sigma = (float((a - b) / (2 * step)) for a, b in zip(ahead, behind))
        mean = TARGET.denoise(x, alpha, sigma)
        x = x + (s - t) * (d_alpha * mean + d_sigma * (x - alpha * mean) / sigma)
        np.testing.assert_allclose(path[i], x, rtol=1e-7, atol=1e-8)
        x = path[i]


def test_adams_2_and_3_fall_back_to_lower_orders_at_the_end():
    """With lower_final the last step is DDIM from the state before it."""
    schedule, form, *_ = SETTINGS["vp"]
    ts, model = grid("vp", 10, t_min=0.05, zero=False), HostModel(TARGET.denoise, form)
    for order in (2, 3):
        _, path = walk(multistep.adams(schedule, order, lower_final=True), ts, model, X, noise(10))
        last = walk(ancestral.ddim(schedule), ts[-2:], model, path[-2], noise(1))[0]
        np.testing.assert_allclose(path[-1], last, rtol=1e-13)
        _, full = walk(multistep.adams(schedule, order), ts, model, X, noise(10))
        assert np.abs(full[-1] - path[-1]).max() > 1e-5


def path_of(sampler, setting, ts):
    form = SETTINGS[setting].form
    x = X * amplitudes(form, ts[0])[1]
    return walk(sampler, ts, HostModel(TARGET.denoise, form), x, noise(40))[1]


def same_walk(a, b, setting, ts, tolerance=1e-12):
    a, b = (path_of(sampler, setting, ts) for sampler in (a, b))
    agree(a, b, X * amplitudes(SETTINGS[setting].form, ts[0])[1], tolerance)


@pytest.mark.parametrize("setting", ["vp", "edm", "table_linear"])
def test_noise_multistep_of_order_1_is_ddim(setting):
    """So are UniPC's and DPM-Solver++'s first steps; a grid of one step makes everything DDIM."""
    schedule = SETTINGS[setting].schedule
    for zero in (True, False):
        ts = grid(setting, 10, zero=zero)
        for sampler in (deis.tab(schedule, 1), deis.lms(schedule, 1), pndm.ipndm(schedule, 1)):
            same_walk(sampler, ancestral.ddim(schedule), setting, ts)
    first = path_of(ancestral.ddim(schedule), setting, grid(setting, 10))[0]
    for variant in unipc.VARIANTS:
        for order in (1, 2, 3):
            predicted = path_of(unipc.unipc(schedule, order, variant), setting, grid(setting, 10))[0]
            np.testing.assert_allclose(predicted, first, rtol=1e-12, atol=1e-14)
    for name in ("unipc_3", "pndm", "ipndm_4", "tab_4", "dpm_solver_3", "dpmpp_2s", "dpmpp_2m_sde"):
        same_walk(SAMPLERS[name].make(schedule), ancestral.ddim(schedule), setting, grid(setting, 1))


def test_without_noise_the_sde_samplers_are_the_ode_ones():
    """2M; 3M but for its second step; the "heun" rule of 2M is Adams of order 2."""
    schedule, ts = SETTINGS["vp"].schedule, grid("vp", 10)
    same_walk(multistep.dpmpp_2m_sde(schedule, eta=0.0), multistep.dpmpp_2m(schedule), "vp", ts)
    same_walk(multistep.dpmpp_2m_sde(schedule, 0.0, "heun"), multistep.adams(schedule, 2), "vp", ts)
    same_walk(multistep.dpmpp_2m_sde(schedule, 0.5, "heun"), multistep.adams(schedule, 2, tau=0.5**0.5), "vp", ts)
    a, b = (path_of(s, "vp", ts) for s in (multistep.dpmpp_3m_sde(schedule, 0.0), multistep.dpmpp_3m(schedule)))
    np.testing.assert_allclose(a[0], b[0], rtol=1e-13)
    assert np.abs(a[1] - b[1]).max() > 1e-7


@pytest.mark.parametrize("setting", ["vp", "rectified_1", "table_linear"])
def test_adams_of_order_1_with_tau_1_is_ddpm(setting):
    """From alpha = 0 too, where x_T says nothing of x_0."""
    schedule = SETTINGS[setting].schedule
    same_walk(multistep.adams(schedule, 1, tau=1.0), ancestral.ddpm(schedule), setting, grid(setting, 10))


def test_where_time_is_the_noise_level_three_multistep_methods_are_one():
    """tAB-DEIS in t = n is LMS; on equal steps iPNDM is, too."""
    schedule = SETTINGS["edm"].schedule
    for order in (2, 3, 4):
        same_walk(deis.tab(schedule, order), deis.lms(schedule, order), "edm", grid("edm", 10), 1e-11)
        equal = grids.uniform(schedule, 10, t_max=4.0, t_min=0.1, zero=False)
        same_walk(pndm.ipndm(schedule, order), deis.lms(schedule, order), "edm", equal)


def test_restart_without_restarts_is_heun_and_published_settings_cost_what_is_published():
    """NFE 203 (ImageNet 64) and 43 (CIFAR-10) of Xu et al. 2023: (2 N - 1) + sum_i 2 K_i (levels_i - 1)."""
    schedule = SETTINGS["edm"].schedule
    model, ts = HostModel(TARGET.denoise, SETTINGS["edm"].form), grid("edm", 10)
    a, b = (walk(s, ts, model, 80 * X, noise(20))[0] for s in (restart.restart(schedule, ()), heun.edm(schedule)))
    np.testing.assert_allclose(a, b, rtol=1e-12)
    imagenet = ((4, 1, 19.35, 40.79), (4, 1, 1.09, 1.92), (4, 5, 0.59, 1.09), (4, 5, 0.30, 0.59), (6, 6, 0.06, 0.30))
    for n, intervals, cost in ((36, imagenet, 203), (18, ((3, 2, 0.06, 0.30),), 43)):
        assert nfe(sampling_fn(restart.restart(schedule, intervals), grids.karras(schedule, n))) == cost
