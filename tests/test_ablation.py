"""EDM's ablation (Karras et al. 2022, table 1): other columns' noise levels, and networks that know some levels only.

The expectations are the table's formulas in float64 NumPy.
"""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from oracles.mixture import Mixture
from rows import HostModel, walk

from diffjax import analytic, calculus, grids
from diffjax.denoisers.targets import EDM as EDMTarget
from diffjax.denoisers.targets import Eps, check_target, inputs
from diffjax.losses import weights
from diffjax.samplers import heun
from diffjax.schedules import EDM, VE, VP, Rectified, Rounded, Tabulated

WIDE = EDM(t_max=1000.0)
M, C_1, C_2, J_0 = 1000, 0.001, 0.008, 8


def u():
    """iDDPM's levels u_0 > ... > u_M = 0, by the table's recursion."""
    bar = lambda j: np.sin(np.pi / 2 * j / (M * (C_2 + 1))) ** 2
    levels = np.zeros(M + 1)
    for j in range(M, 0, -1):
        levels[j - 1] = np.sqrt((levels[j] ** 2 + 1) / max(bar(j - 1) / bar(j), C_1) - 1)
    return levels


def table_1(column, n):
    """sigma at the n time steps of a column."""
    i = np.arange(n) / (n - 1)
    if column == "vp":
        t = 1 + i * (1e-3 - 1)
        return np.sqrt(np.exp(19.9 / 2 * t**2 + 0.1 * t) - 1)
    if column == "ve":
        return np.sqrt(100.0**2 * (0.02**2 / 100.0**2) ** i)
    return u()[np.floor(J_0 + (M - 1 - J_0) * i + 0.5).astype(int)]


@pytest.mark.parametrize("column", ["vp", "ve", "iddpm"])
@pytest.mark.parametrize("n", [2, 18, 129, 256])
def test_levels_are_those_of_table_1(column, n):
    ts = getattr(grids, column)(WIDE, n)
    assert ts[-1] == 0
    np.testing.assert_allclose(ts[:-1], table_1(column, n), rtol=1e-9)


@pytest.mark.parametrize("column", ["vp", "ve", "iddpm"])
@pytest.mark.parametrize("schedule", [VP(), VE(sigma_min=0.001, sigma_max=200.0), Rectified()], ids=str)
def test_levels_are_the_same_on_every_schedule(column, schedule):
    ts = getattr(grids, column)(schedule, 12)
    alpha, sigma = calculus.amplitudes(schedule, ts[:-1])
    np.testing.assert_allclose(sigma / alpha, table_1(column, 12), rtol=1e-8)


def test_each_column_is_natural_on_its_own_schedule():
    np.testing.assert_allclose(grids.vp(VP(), 18), grids.uniform(VP(), 18), rtol=1e-9)
    even = grids.ve(VE(sigma_min=0.01, sigma_max=100.0), 18)[:-1]
    np.testing.assert_allclose(np.diff(even, 2), 0, atol=1e-12)
    knots = grids.iddpm(Tabulated.cosine(), 18)[:-1] * 1000
    np.testing.assert_allclose(knots, np.round(knots), atol=1e-6)


def test_one_step_starts_at_the_noisiest_level():
    for column, first in (("vp", table_1("vp", 2)[0]), ("ve", 100.0), ("iddpm", u()[J_0])):
        np.testing.assert_allclose(getattr(grids, column)(WIDE, 1), [first, 0.0], rtol=1e-9)


def nearest(levels, sigma):
    return levels[np.abs(levels - np.asarray(sigma)[..., None]).argmin(-1)]


CHAIN = Rounded.chain("cosine")
LEVELS = u()[:M]
LOWEST = LEVELS[-1]  # 0.0064: EDM's 0.002 is below what the chain knows


def test_a_chain_knows_iddpms_levels():
    np.testing.assert_allclose(np.sort(LEVELS), CHAIN.levels, rtol=1e-9)
    betas = np.linspace(1e-4, 0.02, 1000)
    np.testing.assert_allclose(Rounded.chain("linear").levels, np.sqrt(1 / np.cumprod(1 - betas) - 1), rtol=1e-9)


def test_the_defaults_of_iddpms_levels_are_the_columns():
    own = {"steps": M, "s": C_2, "max_beta": 1 - C_1, "sigma_max": 81.0, "sigma_min": 0.002}
    np.testing.assert_array_equal(grids.iddpm(WIDE, 18), grids.iddpm(WIDE, 18, **own))


def test_the_bounds_of_iddpms_levels_are_among_them():
    """Of 20 levels, the first and the last are the bounds themselves; there is no 21st."""
    levels = grids.chain_levels(Tabulated.cosine(M, C_2, 1 - C_1))
    bounds = {"sigma_min": levels[10], "sigma_max": levels[29]}
    found = grids.iddpm(WIDE, 20, **bounds)[:-1]  # EDM's time is the level
    np.testing.assert_allclose(found[[0, -1]], levels[[29, 10]], rtol=1e-12)
    with pytest.raises(ValueError, match="n = 21 steps out of 20 levels"):
        grids.iddpm(WIDE, 21, **bounds)


@pytest.mark.parametrize(
    ("base", "options"),
    [
        ("karras", {"t_max": 80.0, "t_min": LOWEST}),
        ("karras", {"t_max": 80.0, "t_min": LOWEST, "zero": False}),
        ("ve", {}),
        ("vp", {}),
        ("iddpm", {}),
    ],
)
def test_rounded_grids_go_to_the_nearest_level(base, options):
    ts = grids.rounded(CHAIN, 18, base=base, **options)
    plain = getattr(grids, base)(WIDE, 18, **options)
    assert (ts[-1] == 0) == (plain[-1] == 0)
    inside = plain > 0
    expected = nearest(LEVELS, plain[inside])
    np.testing.assert_allclose(ts[inside], expected, rtol=1e-9)
    if base != "iddpm":
        assert np.abs(ts - plain).max() > 1e-3
    np.testing.assert_allclose(grids.rounded(EDM(), 18), grids.karras(EDM(), 18), rtol=1e-14)


def test_nearest_is_meant_in_sigma():
    """4 is nearer to 1 than to 10, though not in the logarithm."""
    found = [float(Rounded(np.array([1.0, 10.0])).inverse(-2 * np.log(sigma))) for sigma in (0.3, 4.0, 5.6, 99.0)]
    assert found == [1, 1, 10, 10]


def test_churn_goes_to_the_nearest_level(x64):
    """Algorithm 2 with rounding where the published code has it: t_hat = round(sigma + gamma sigma)."""
    target = Mixture((0.3, 0.7), (-0.6, 0.5), (0.04, 0.02))
    n, x = 18, np.linspace(-1.5, 1.5, 5)
    ts = grids.rounded(CHAIN, n, t_max=80.0, t_min=LOWEST)
    z = np.random.default_rng(0).standard_normal((2 * n, x.size))
    form = lambda t: (1.0, t)
    model = HostModel(target.denoise, type("Form", (), {"amplitudes": staticmethod(form)}))
    sampler = heun.edm(CHAIN, churn=4.0, s_min=0.05, s_max=50.0)
    result, _ = walk(sampler, ts, model, 80 * x, z)

    now, raised = 80 * x, []
    for i, (sigma, then) in enumerate(itertools.pairwise(ts)):
        gamma = min(4.0 / n, np.sqrt(2) - 1) if 0.05 <= sigma <= 50 else 0.0
        hat = nearest(LEVELS, sigma + gamma * sigma)
        raised.append(hat)
        x_hat = now + np.sqrt(max(hat**2 - sigma**2, 0)) * z[2 * i]
        slope = (x_hat - target.denoise(x_hat, 1.0, hat)) / hat
        now = x_hat + (then - hat) * slope
        if then > 0:
            now = x_hat + (then - hat) * (slope + (now - target.denoise(now, 1.0, then)) / then) / 2
    np.testing.assert_allclose(sampler.plan(ts).t[::2], raised, rtol=1e-9)
    np.testing.assert_allclose(result, now, rtol=1e-7, atol=1e-9)


def test_columns_vp_and_iddpm_predict_eps(x64):
    """c_skip = 1, c_out = -sigma, c_in = 1 / sqrt(sigma^2 + 1), lambda = 1 / sigma^2: eps with the unit weight."""
    for schedule, sigma in ((EDM(), 0.7), (CHAIN, LEVELS[500])):
        np.testing.assert_allclose(np.stack(Eps().skip_out(schedule, sigma)), [1, -sigma], rtol=1e-12)
        scaled, _ = inputs(schedule, Eps(), jnp.ones(1), sigma)
        np.testing.assert_allclose(scaled, 1 / np.sqrt(sigma**2 + 1), rtol=1e-12)
        np.testing.assert_allclose(weights.simple()(schedule, Eps(), sigma), 1, rtol=1e-12)


@pytest.mark.parametrize("sd", [0.5, 0.75])
@pytest.mark.parametrize("sigma", [0.002, 0.3, 80.0])
def test_edm_weight_is_one_in_network_space_and_gaussian_data_leaves_nothing_to_learn(sd, sigma, x64):
    """lambda c_out^2 = 1; for data N(0, sd^2) the ideal denoiser is c_skip x, so that F = 0."""
    target, schedule = EDMTarget(sd), EDM()
    np.testing.assert_allclose(weights.edm(sd)(schedule, target, sigma), 1, rtol=1e-12)
    c_skip, c_out = target.skip_out(schedule, sigma)
    weight = (sigma**2 + sd**2) / (sigma * sd) ** 2
    np.testing.assert_allclose(weight * c_out**2, 1, rtol=1e-12)
    x = jnp.asarray([-3.0, 0.2, 40.0])
    ideal = analytic.gaussian_mixture([1.0], np.zeros((1, 3)), [sd**2]).denoiser(schedule)(x, sigma).mean
    np.testing.assert_allclose((ideal - c_skip * x) / c_out, 0, atol=1e-9)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: grids.vp(EDM(), 18), r"runs from 15\d\.\d+ to 0, expected it inside \[0, 80"),
        (lambda: grids.vp(WIDE, 0), "expected an integer >= 1"),
        (lambda: grids.vp(WIDE, 5, t_min=1.5), "t_min = 1.5"),
        (lambda: grids.ve(WIDE, 0), "expected an integer >= 1"),
        (lambda: grids.ve(WIDE, 5, sigma_min=0.0), "sigma_min = 0"),
        (lambda: grids.ve(WIDE, 5, sigma_min=2.0, sigma_max=1.0), "0 < sigma_min < sigma_max"),
        (lambda: grids.iddpm(WIDE, 995), "n = 995 steps out of 992 levels"),
        (lambda: grids.iddpm(WIDE, 5, steps=3), "expected n <= 3"),
        (lambda: grids.rounded(CHAIN, 5, base="rho"), "no grid 'rho' to round; there are angle, counts, iddpm, karras"),
        (lambda: grids.rounded(CHAIN, 900, t_max=80.0), "decrease strictly"),  # two times, one level
        (lambda: Rounded.chain("sigmoid"), "no chain 'sigmoid'; there are linear, cosine, kexue"),
        (lambda: check_target(EDMTarget(0.0), EDM(), 80.0), r"EDM's sigma_data is 0\.0, expected a positive number"),
        (lambda: check_target(EDMTarget(-0.5), EDM(), 80.0), r"sigma_data is -0\.5"),
        (lambda: check_target(EDMTarget(np.nan), EDM(), 80.0), "sigma_data is nan"),
        (lambda: weights.edm(0.0), "sigma_data is 0"),
        (lambda: heun.edm(EDM(), churn=-1.0), r"churn = -1\.0"),
    ],
)
def test_refuses(make, match):
    with pytest.raises(ValueError, match=match):
        make()


def test_churn_above_the_noisiest_level_is_refused():
    ts = grids.rounded(CHAIN, 5, t_min=LOWEST)
    with pytest.raises(ValueError, match="which Rounded does not reach; set s_max below"):
        heun.edm(CHAIN, churn=4.0).plan(ts)
    heun.edm(CHAIN, churn=4.0, s_max=80.0).plan(ts)


def test_a_grid_off_the_levels_is_refused_under_churn():
    """Rounding would take noise away."""
    with pytest.raises(ValueError, match="Rounded does not reach"):
        heun.edm(CHAIN, churn=1e-9).plan(np.array([LEVELS[300] * 1.001, LEVELS[600], 0.0]))
