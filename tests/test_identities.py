"""Whole trajectories against the published update rules in float64 NumPy, and samplers against each other."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import moments
import numpy as np
import published as pub
import pytest
from moments import Mixture
from published import Journal
from samplers_table import (
    ALL,
    AXES,
    EVERY_PAIR,
    FINITE,
    RESTARTS,
    SAMPLERS,
    SETTINGS,
    HostModel,
    amplitudes,
    grid,
    grid_for,
    row_times,
    walk,
)

from diffjax import denoisers, grids
from diffjax.samplers import ancestral, deis, heun, multistep, nfe, pndm, restart, sampling_fn, sde, unipc
from diffjax.schedules import EDM, VP

TARGET = Mixture((0.3, 0.7), (-0.6, 0.5), (0.04, 0.02))
X = np.linspace(-1.5, 1.5, 5)
pytestmark = pytest.mark.usefixtures("x64")


def noise(rows, seed=0):
    return np.random.default_rng(seed).standard_normal((rows, X.size))


def agree(a, b, x, tolerance=1e-12):
    """Trajectories that start at x, to a tolerance relative to the size of what enters each step."""
    a, b = np.asarray(a), np.asarray(b)
    assert a.shape == b.shape
    size = np.abs([x, *b]).max(-1)
    np.testing.assert_array_less(np.abs(a - b).max(-1), tolerance * np.maximum(size[:-1], size[1:]))


def stepwise(step, levels, x, z):
    """Iterates step(i, now, then, x, z_i) over the levels."""
    out = []
    for i, (now, then) in enumerate(itertools.pairwise(levels)):
        x = step(i, now, then, x, z[i])
        out.append(x)
    return out


MULTISTEP = {  # rule, order, tau^2
    "adams_1": (moments.adams, 1, 0.0),
    "adams_2": (moments.adams, 2, 0.0),
    "adams_3": (moments.adams, 3, 0.0),
    "adams_2_tau": (partial(moments.adams, tau2=0.7**2), 2, 0.7**2),
    "adams_3_tau": (partial(moments.adams, tau2=1.0), 3, 1.0),
    "dpmpp_2m": (moments.dpmpp_2m, 2, 0.0),
    "dpmpp_3m": (moments.dpmpp_3m, 3, 0.0),
    "dpmpp_2m_sde": (partial(moments.dpmpp_2m_sde, eta=1.0, kind="midpoint"), 2, 1.0),
    "dpmpp_2m_sde_heun": (partial(moments.dpmpp_2m_sde, eta=0.6, kind="heun"), 2, 0.6),
    "dpmpp_3m_sde": (partial(moments.dpmpp_3m_sde, eta=1.0), 3, 1.0),
}
JOURNALS = {  # x after every evaluation
    "dpm_solver_2": pub.dpm_solver_2,
    "dpm_solver_3": pub.dpm_solver_3,
    "dpmpp_2s": pub.dpmpp_2s,
    **{f"tab_{p}": partial(pub.tab_deis, order=p) for p in (1, 2, 3, 4)},
    **{f"lms_{p}": partial(pub.lms, order=p) for p in (1, 2, 3, 4)},
    **{f"ipndm_{p}": partial(pub.ipndm, order=p) for p in (1, 2, 3, 4)},
    "pndm": pub.pndm,
    "unipc_1": partial(pub.unipc, order=1, variant="bh2"),
    "unipc_2_bh1": partial(pub.unipc, order=2, variant="bh1"),
    "unipc_2_full": partial(pub.unipc, order=2, variant="bh2", lower_final=False),
    "unipc_3": partial(pub.unipc, order=3, variant="bh2"),
    "unipc_3_exact": partial(pub.unipc, order=3, variant="exact"),
    "unipc_3_full": partial(pub.unipc, order=3, variant="bh1", lower_final=False),
    **{f"principal_{p}": partial(pub.principal, order=p, c=AXES.variances) for p in (1, 2, 3)},
    "restart": partial(pub.restart, intervals=RESTARTS),
}


def published(name, setting, ts, x, z, denoise=TARGET.denoise):
    """x after every step (of `JOURNALS`, every evaluation) by the paper's rule; for Heun x / alpha after every step."""
    form = SETTINGS[setting].form
    alpha, sigma = amplitudes(form, ts)
    levels = list(zip(alpha, sigma))
    if name in ("ddim", "ddim_half", "ddpm"):
        eta = {"ddim": 0.0, "ddim_half": 0.5, "ddpm": 1.0}[name]
        return stepwise(lambda i, *step: moments.ddim_step(denoise, *step, eta=eta), levels, x, z)
    if name in ("reverse_diffusion", "large_variance"):
        rule = getattr(moments, name + "_step")
        return stepwise(lambda i, *step: rule(denoise, *step), levels, x, z)
    if name in ("pf_euler", "em_half", "em"):
        churn = {"pf_euler": 0.0, "em_half": 0.5, "em": 1.0}[name]
        # A chain's rates are constant on each of its steps: at t = 1 they are those of the step that ends there.
        inside = 1 - 1e-12 if setting.startswith("table") else 1
        f, g2 = (np.float64(rate) for rate in form.rates(inside * ts[:-1].astype(np.longdouble)))
        step = lambda i, now, then, x, z: moments.sde_step(
            denoise, now, x, z, ts[i + 1] - ts[i], f[i], g2[i], churn=churn
        )
        return stepwise(step, levels, x, z)
    if name in ("heun", "heun_churn"):
        n, churn = sigma / alpha, {"heun": 0.0, "heun_churn": 4.0}[name]
        gamma = np.where((n >= 0.05) & (n <= 20), min(churn / (len(n) - 1), np.sqrt(2) - 1), 0)
        step = lambda i, now, then, x, z: moments.edm_step(denoise, now, then, x, z, gamma[i])
        return stepwise(step, n, x / alpha[0], z[::2])
    if name in JOURNALS:
        ask, knots = Journal(denoise, z), {"knots": 1000} if name.startswith("tab") and "table" in setting else {}
        return ask.path(JOURNALS[name](ask, form, ts, x, **knots))
    update, order, tau2 = MULTISTEP[name.removesuffix("_lower")]
    return moments.multistep(update, denoise, alpha, sigma, x, order, name.endswith("lower"), tau2, z)


@pytest.mark.parametrize(("name", "setting"), EVERY_PAIR)
def test_trajectory_is_the_published_one(name, setting):
    schedule, form, _ = SETTINGS[setting]
    model = HostModel(TARGET.denoise, schedule, form)
    for n, zero in ((1, True), (7, False), (7, True))[name == "restart" :]:  # a restart needs a level inside
        ts, z = grid_for(name, setting, n, zero), noise(4 * n)
        x = X * amplitudes(form, ts[0])[1]
        _, path = walk(SAMPLERS[name].make(schedule), ts, model, x, z)
        expected = np.array(published(name, setting, ts, x, z))
        if name.startswith("heun"):  # a row per evaluation; x is complete after the corrector
            path = path[1::2] if len(path) == 2 * n else np.concatenate([path[1::2], path[-1:]])
            alpha = amplitudes(form, ts)[0][:, None]
            path, x = path / alpha[1:], x / alpha[0]
        # An Euler step of a singular SDE multiplies x by 1 + |f| dt, and tAB-DEIS integrates up to sigma / alpha: up to
        # 1e3 where alpha is nearly 0.
        singular = name.startswith(("em", "pf_euler")) or (name.startswith("tab") and form.amplitudes(1.0)[0] < 1e-3)
        agree(path, expected, x, 2e-11 if singular else 1e-12)


# Not those that step in t or in x itself.
UNLEVEL = ("pf_euler", "em", "tab", "pndm", "reverse_diffusion", "large_variance")
LEVEL_SAMPLERS = [name for name in SAMPLERS if not name.startswith(UNLEVEL)]


@pytest.mark.parametrize("name", LEVEL_SAMPLERS)
def test_only_the_ratio_of_noise_to_signal_matters(name):
    """x / alpha walks one path whatever the schedule: that of EDM at t = sigma / alpha."""
    plain = EDM(t_max=1e9)
    for setting in FINITE if SAMPLERS[name].settings in (ALL, FINITE) else ("rectified", "table_linear"):
        schedule, form, _ = SETTINGS[setting]
        ts, z = grid(setting, 10), noise(40)
        alpha, sigma = amplitudes(form, ts)
        sampler = SAMPLERS[name].make(schedule)
        here = walk(sampler, ts, HostModel(TARGET.denoise, schedule, form), X * sigma[0], z)[1]
        model = HostModel(TARGET.denoise, plain, SETTINGS["edm"].form)
        there = walk(SAMPLERS[name].make(plain), sigma / alpha, model, X * sigma[0] / alpha[0], z)[1]
        after = ts[np.arange(len(here)) // 2 + 1] if name.startswith("heun") else row_times(sampler, ts)
        agree(here / amplitudes(form, after)[0][:, None], there, X * sigma[0] / alpha[0], 1e-11)


@pytest.mark.parametrize("name", ["ddim", "heun", "adams_3", "dpmpp_2m"])
def test_vp_paths_over_alpha_plus_sigma_are_rectified_paths(name):
    """Clocked by sigma / (alpha + sigma)."""
    vp, rectified = SETTINGS["vp"], SETTINGS["rectified"]
    ts, z = grid("vp", 10), noise(20)
    alpha, sigma = amplitudes(vp.form, ts)
    total = alpha + sigma
    make = SAMPLERS[name].make
    here = walk(make(vp.schedule), ts, HostModel(TARGET.denoise, vp.schedule, vp.form), X, z)[1][-1]
    model = HostModel(TARGET.denoise, rectified.schedule, rectified.form)
    there = walk(make(rectified.schedule), sigma / total, model, X / total[0], z)[1][-1]
    np.testing.assert_allclose(here, there * total[-1], rtol=1e-12)


@pytest.mark.parametrize("setting", SETTINGS)
def test_ddim_is_adams_of_order_1_and_dpm_solver_1(setting):
    schedule, form, from_pure_noise = SETTINGS[setting]
    ts, model = grid(setting, 10, zero=False), HostModel(TARGET.denoise, schedule, form)
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
    schedule, form, _ = SETTINGS["table_linear"]
    ts, z = grids.trailing(schedule, n), noise(n)
    levels = list(zip(*amplitudes(form, ts)))
    model = HostModel(TARGET.denoise, schedule, form)
    for sampler in (ancestral.ddpm(schedule), ancestral.ddim(schedule, eta=1.0)):
        _, path = walk(sampler, ts, model, X, z)
        expected = stepwise(lambda i, *step: moments.ddpm_step(TARGET.denoise, *step), levels, X, z)
        agree(path, expected, X)


@pytest.mark.parametrize("eta", [0.0, 0.3, 0.5, 1.0])
def test_known_variance_enters_as_in_analytic_dpm(eta):
    for setting in ("vp", "ve", "rectified_1"):
        schedule, form, _ = SETTINGS[setting]
        ts, z = grid(setting, 10), noise(10)
        var = lambda alpha, sigma: 0.3 * sigma**2 / (0.1 + sigma**2)
        levels = list(zip(*amplitudes(form, ts)))
        x = X * levels[0][1]
        _, path = walk(ancestral.ddim(schedule, eta), ts, HostModel(TARGET.denoise, schedule, form, var), x, z)
        step = lambda i, now, then, x, z, var=var: moments.ddim_step(TARGET.denoise, now, then, x, z, eta, var(*now))
        agree(path, stepwise(step, levels, x, z), x)


@pytest.mark.parametrize(("churn", "s_min", "s_max", "s_noise"), [(40.0, 0.05, 50.0, 1.003), (3.0, 0.0, np.inf, 0.9)])
def test_edm_is_algorithm_2(churn, s_min, s_max, s_noise):
    schedule, form, _ = SETTINGS["edm"]
    for n, zero in ((1, True), (10, True), (10, False)):
        ts, z = grid("edm", n, zero=zero), noise(2 * n)
        sampler = heun.edm(schedule, churn, s_min, s_max, s_noise)
        result, path = walk(sampler, ts, HostModel(TARGET.denoise, schedule, form), 80 * X, z)
        gamma = np.where((ts >= s_min) & (ts <= s_max), min(churn / n, np.sqrt(2) - 1), 0)
        step = lambda i, *levels, gamma=gamma: moments.edm_step(TARGET.denoise, *levels, gamma[i], s_noise)
        expected = stepwise(step, ts, 80 * X, z[::2])
        agree(path[1::2] if not zero else np.concatenate([path[1::2], path[-1:]]), expected, 80 * X)
        np.testing.assert_array_equal(result, path[-1])


def test_v_and_edm_preconditioning_are_one_under_vp():
    """F_edm = -F_v at sigma_data = 1: any sampler walks the same path."""
    schedule = VP()
    net = lambda x, c: jnp.tanh(1.3 * x + 0.1 * jnp.clip(c, -5, 5))
    v = denoisers.denoiser(net, schedule, denoisers.targets.V())
    edm = denoisers.denoiser(lambda x, c: -net(x, c), schedule, denoisers.targets.EDM(sigma_data=1.0))
    for name in ("ddim_half", "heun_churn", "adams_3", "em"):
        ts, z = grid("vp", 10), noise(20)
        a, b = (walk(SAMPLERS[name].make(schedule), ts, model, X, z)[1] for model in (v, edm))
        agree(a, b, X)


@pytest.mark.parametrize("setting", FINITE)
def test_euler_maruyama_without_churn_is_euler_on_the_probability_flow(setting):
    """dx/dt = alpha' E[x_0 | x] + sigma' E[z | x], with the slopes by central differences of the closed form."""
    schedule, form, _ = SETTINGS[setting]
    ts = 0.9987 * grid(setting, 10)[:-1]  # between the knots of a table, where slopes jump
    _, path = walk(sde.euler_maruyama(schedule, churn=0.0), ts, HostModel(TARGET.denoise, schedule, form), X, noise(10))
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
    schedule, form, _ = SETTINGS["vp"]
    ts, model = grid("vp", 10, t_min=0.05, zero=False), HostModel(TARGET.denoise, schedule, form)
    for order in (2, 3):
        _, path = walk(multistep.adams(schedule, order, lower_final=True), ts, model, X, noise(10))
        last = walk(ancestral.ddim(schedule), ts[-2:], model, path[-2], noise(1))[0]
        np.testing.assert_allclose(path[-1], last, rtol=1e-13)
        _, full = walk(multistep.adams(schedule, order), ts, model, X, noise(10))
        assert np.abs(full[-1] - path[-1]).max() > 1e-5


def path_of(sampler, setting, ts):
    schedule, form, _ = SETTINGS[setting]
    x = X * amplitudes(form, ts[0])[1]
    return walk(sampler, ts, HostModel(TARGET.denoise, schedule, form), x, noise(40))[1]


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
    model, ts = HostModel(TARGET.denoise, schedule, SETTINGS["edm"].form), grid("edm", 10)
    a, b = (walk(s, ts, model, 80 * X, noise(20))[0] for s in (restart.restart(schedule, ()), heun.edm(schedule)))
    np.testing.assert_allclose(a, b, rtol=1e-12)
    imagenet = ((4, 1, 19.35, 40.79), (4, 1, 1.09, 1.92), (4, 5, 0.59, 1.09), (4, 5, 0.30, 0.59), (6, 6, 0.06, 0.30))
    for n, intervals, cost in ((36, imagenet, 203), (18, ((3, 2, 0.06, 0.30),), 43)):
        assert nfe(sampling_fn(restart.restart(schedule, intervals), grids.karras(schedule, n))) == cost


def test_compiled_is_what_was_walked():
    """`walk` runs the steps one by one; scan under jit gives the same path."""
    schedule, ts = VP(), grid("vp", 10)
    model = denoisers.denoiser(lambda x, c: jnp.tanh(x), schedule, denoisers.targets.X0())
    for name in ("ddim", "heun", "adams_3"):
        sampler = SAMPLERS[name].make(schedule)
        compiled = jax.jit(sampling_fn(sampler, ts))(model, jax.random.key(0), jnp.asarray(X))
        np.testing.assert_allclose(compiled, walk(sampler, ts, model, X, noise(20))[0], rtol=1e-13)
