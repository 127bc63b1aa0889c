"""Orders of convergence in float64, down to sigma / alpha = 0.002, against the exact probability flow.

On the line the flow is the quantile map between marginals (affine for a Gaussian): no reference solver is needed.
Errors are the largest over five starting points; a slope is log2 of how the last doubling of the steps shrinks them.
Walks are read from planned rows (`rows.py`); the ODE solvers are run.
"""

import functools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_forms import amplitudes
from oracles.mixture import Mixture
from rows import HostModel, laws, legible, read, remembered
from samplers_table import FINITE, SAMPLERS, SETTINGS

from diffjax import analytic, calculus, grids, host
from diffjax.samplers import multistep, ode, restart, sampling_fn

pytestmark = pytest.mark.usefixtures("x64")

TARGETS = {
    "gaussian": Mixture((1.0,), (0.7,), (0.25,)),
    "mixture": Mixture((0.3, 0.7), (-0.6, 0.5), (0.16, 0.09)),
}
Z = np.array([-1.4, -0.6, 0.1, 0.8, 1.5])


@pytest.fixture(scope="module", autouse=True)
def one_length():
    """Pads the times of all these plans to one length, more than any has: each primitive compiles once, not five times;
    and looks levels up once for all samplers.

    `test_planning` and `test_host` have plans as they are padded for users.
    """
    along = host.along
    with mock.patch.object(host, "along", remembered(lambda *args: along(*args[:3], 1024))):
        yield


def library_target(target: Mixture):
    """Two components always, so that all share one compile."""
    w, m, v = (list(a) * (2 // len(a)) for a in target)
    return analytic.gaussian_mixture(w, m, v)


@functools.cache
def level_grid(setting, n, first=2.0, last=0.002):
    """n steps between two values of sigma / alpha, spaced as Karras et al. have it."""
    schedule = SETTINGS[setting].schedule
    t_max, t_min = host.along(calculus.time_of, schedule, -2 * np.log([first, last]))
    return grids.karras(schedule, n, t_max=t_max, t_min=t_min, zero=False)


@functools.cache
def planned(name, setting, n, first):
    """The grid of so many steps and a sampler's rows on it: for both targets, and for a walk with an exact history."""
    ts = level_grid(setting, n, first)
    sampler = SAMPLERS[name].make(SETTINGS[setting].schedule)
    return ts, legible(sampler, sampler.plan(ts))


def start(form, t, target):
    """Five points of the marginal at t."""
    alpha, sigma = amplitudes(form, t)
    mean, var = target.moments()
    return alpha * mean + np.sqrt(alpha**2 * var + sigma**2) * Z


def slope(errors):
    return np.log2(errors[-2] / errors[-1])


def error(ts, rows, setting, target, x=None):
    """The largest of a walk's end, against the flow's; from five points of the marginal."""
    form = SETTINGS[setting].form
    x = start(form, ts[0], target) if x is None else x
    *_, got = read(rows, HostModel(target.denoise, form), x, np.zeros((len(rows.t), len(x))))
    return np.abs(got - target.transport(x, amplitudes(form, ts[0]), amplitudes(form, ts[-1]))).max()


def errors(name, setting, target, first=2.0, steps=None):
    return [error(*planned(name, setting, n, first), setting, target) for n in steps or SAMPLERS[name].steps]


def order_at(row, setting):
    """What a schedule lets one see of an order; 0: nothing is promised."""
    kinked = SETTINGS[setting].knots and row.kinked is not None
    return min(row.order, row.kinked) if kinked else row.order


# Those that reach the levels of these walks.
REACHING = [name for name in FINITE if not SETTINGS[name].ends_in_noise]
DETERMINISTIC = [
    (name, setting)
    for name, row in SAMPLERS.items()
    if row.deterministic
    for setting in REACHING
    if order_at(row, setting)
]
CASES = [(*pair, "mixture") for pair in DETERMINISTIC]
CASES += [
    (*pair, "gaussian") for pair in DETERMINISTIC if pair[1] in ("vp", "edm") and SAMPLERS[pair[0]].order_on_gaussian
]


def told_apart(cases):
    """The cases, of which those are slow that repeat another one.

    Between two levels all schedules have one grid of levels here. A sampler that steps in levels walks one path on it,
    as `test_only_the_ratio_of_noise_to_signal_matters` has it: its order is measured on two schedules by default.
    """
    again = lambda name, setting, *_: SAMPLERS[name].clock == "level" and setting not in ("vp", "edm")
    return [pytest.param(*case, marks=pytest.mark.slow if again(*case) else ()) for case in cases]


@pytest.mark.parametrize(("name", "setting", "target"), told_apart(CASES))
def test_order(name, setting, target):
    row = SAMPLERS[name]
    found = errors(name, setting, TARGETS[target], first=row.first)
    assert slope(found) == pytest.approx(order_at(row, setting), abs=0.1)


STARTED = [("tab_4", 2), ("lms_4", 2)]  # at sigma = 2 alpha, where the first step costs h^2


@pytest.mark.parametrize(("name", "order"), STARTED)
def test_order_1_at_the_start_costs_the_rest(name, order):
    assert slope(errors(name, "vp", TARGETS["mixture"])) == pytest.approx(order, abs=0.1)


@pytest.mark.parametrize(("name", "order"), [("ddim", 1), ("heun", 2), ("dpmpp_2m", 2), ("adams_3", 3), ("ipndm_4", 2)])
def test_order_from_the_noisiest_level(name, order):
    """From sigma = 70 alpha the data looks like one point: Adams(3) loses nothing by starting at order 1."""
    found = errors(name, "edm", TARGETS["mixture"], first=70.0, steps=(160, 320))
    assert slope(found) == pytest.approx(order, abs=0.1)


def primed_error(name, n, target, wrong=0.0):
    """The error of a multistep sampler whose first order - 1 steps are exact."""
    form, (ts, every) = SETTINGS["edm"].form, planned(name, "edm", n, 2.0)
    x, done = start(form, ts[0], target), every.ys.shape[1] - 1
    levels = [amplitudes(form, t) for t in ts]
    exact = [target.transport(x, levels[0], levels[i]) for i in range(done + 1)]
    means = [target.denoise(exact[i], *levels[i]) * (1 + wrong) for i in range(done)]
    kept = [every.y_x[i] * exact[i] + every.y_mean[i] * mean for i, mean in enumerate(means)]  # means or noises
    kept = np.stack([*kept[::-1], 0 * x])  # newest first; the oldest entry is shifted out unused
    rest = type(every)(*(column[done:] for column in every))
    *_, got = read(rest, HostModel(target.denoise, form), exact[-1], np.zeros((n, len(x))), ys=kept)
    return np.abs(got - target.transport(x, levels[0], levels[-1])).max()


@pytest.mark.parametrize("name", [name for name, row in SAMPLERS.items() if row.primed])
def test_order_with_an_exact_history(name):
    """Adams(3) is of order 3; the published 3M of order 2, for it halves the weight of the second difference."""
    for target in TARGETS.values():
        found = [primed_error(name, n, target) for n in SAMPLERS[name].steps]
        assert slope(found) == pytest.approx(SAMPLERS[name].primed, abs=0.1)


def test_an_inexact_history_costs_the_third_order():
    found = [primed_error("adams_3", n, TARGETS["gaussian"], wrong=1e-3) for n in (320, 640)]
    assert slope(found) < 1.5


# Random samplers: mean and variance on a Gaussian, exactly.


WEAK = [
    (name, setting)
    for name, row in SAMPLERS.items()
    if not row.deterministic and row.order and row.least_steps == 1
    for setting in REACHING
    if order_at(row, setting)
]


def weak_error(sampler, setting, n, m=0.7, v=0.25):
    ts = level_grid(setting, n)
    alpha, sigma = amplitudes(SETTINGS[setting].form, ts[-1])
    return abs(laws(sampler, ts, m, v)[1][-1] - (alpha**2 * v + sigma**2))


@pytest.mark.parametrize(("name", "setting"), told_apart(WEAK))
def test_weak_order(name, setting):
    """The variance from the exact law of x_T; churned Heun keeps Heun's order, for noise is added exactly."""
    schedule, row = SETTINGS[setting].schedule, SAMPLERS[name]
    sampler = (row.measured or row.make)(schedule)
    found = [weak_error(sampler, setting, n) for n in row.steps]
    assert slope(found) == pytest.approx(row.order, abs=0.1)


def test_weak_order_of_restart():
    """Heun's, with the steps of the restarts halved too: their noise is added exactly."""
    found = []
    for n in (40, 80):
        ts = level_grid("vp", n)
        alpha, sigma = amplitudes(SETTINGS["vp"].form, ts)
        low = sigma[n // 2] / alpha[n // 2]  # one level for all n
        sampler = restart.restart(SETTINGS["vp"].schedule, ((n // 4 + 1, 2, low, 4 * low),))
        expected = alpha[-1] ** 2 * 0.25 + sigma[-1] ** 2
        found.append(abs(laws(sampler, ts, 0.7, 0.25)[1][-1] - expected))
    assert slope(found) == pytest.approx(2, abs=0.1)


# Published slopes on data of std 0.5, Karras et al.'s n + 1 levels from 80 to 0.002, from x = 3 sigma_max.


def test_euler_and_heun_on_the_gaussian_ode():
    target, found = Mixture((1.0,), (0.0,), (0.25,)), {}
    for name in ("ddim", "heun"):
        sampler = SAMPLERS[name].make(SETTINGS["edm"].schedule)
        grid = lambda n: grids.karras(SETTINGS["edm"].schedule, n, zero=False)
        walks = ((ts, sampler.plan(ts)) for ts in map(grid, (8, 16, 32, 256, 512)))
        found[name] = [error(*walk, "edm", target, np.array([240.0])) for walk in walks]
    slopes = {name: np.log2(np.divide(e[:-1], e[1:])) for name, e in found.items()}
    assert (slopes["ddim"][0], slopes["ddim"][-1]) == pytest.approx((0.89, 1.00), abs=0.005)
    assert (slopes["heun"][0], slopes["heun"][-1]) == pytest.approx((2.14, 2.01), abs=0.005)
    assert found["ddim"][2] == pytest.approx(0.128, rel=0.005)
    assert found["heun"][2] == pytest.approx(0.0221, rel=0.005)


@jax.jit
def run(sample, model, x):
    return jax.vmap(lambda x: sample(model, jax.random.key(0), x))(x)


# diffrax, one fixed step per interval: one compile a solver, walked from the host.


def fixed_step_error(solver, setting, ts, target):
    schedule, form, *_ = SETTINGS[setting]
    model = library_target(target).denoiser(schedule)
    sample = sampling_fn(ode.probability_flow(schedule, solver, adaptive=False), ts)
    start_x = start(form, ts[0], target)
    x = jnp.asarray(start_x)
    for i in range(len(ts) - 1):
        rows = jax.tree.map(lambda a, i=i: a[i : i + 1], sample.args[0])
        x = run(jax.tree_util.Partial(sample.func, rows, schedule), model, x)
    expected = target.transport(start_x, amplitudes(form, ts[0]), amplitudes(form, ts[-1]))
    return np.abs(np.asarray(x) - expected).max()


@pytest.mark.parametrize(("solver", "order"), [("Euler", 1), ("Heun", 2), ("Midpoint", 2)])
def test_order_of_fixed_steps(solver, order):
    found = [fixed_step_error(solver, "vp", level_grid("vp", n), TARGETS["gaussian"]) for n in (80, 160)]
    assert slope(found) == pytest.approx(order, abs=0.1)


def test_order_of_tsit5():
    """Where the flow is smooth on the scale of the steps, before rounding ends it: 7e-12 and 2e-13."""
    error = lambda n: fixed_step_error("Tsit5", "rectified_1", np.linspace(0.9, 0.1, n + 1), TARGETS["gaussian"])
    found = [error(40), error(80)]
    assert slope(found) == pytest.approx(5, abs=0.1)


@pytest.mark.parametrize("setting", ["vp", "rectified_1", "cosine_1", "edm", "ve"])
def test_adaptive_flow_is_the_quantile_map(setting):
    """To 1e-8, from t_max, where alpha may be 0: x_T ~ N(0, sigma_T^2) goes to the marginal at the grid's end.

    EDM and VE are the heat equation's flow in two clocks (kexue 9280): one map, whatever the clock.
    """
    schedule, form, *_ = SETTINGS[setting]
    target = TARGETS["mixture"]
    ts = np.array([float(schedule.t_max), 1e-2])
    sampler = ode.probability_flow(schedule, "Dopri8", rtol=1e-11, atol=1e-11)
    x = start(form, ts[0], target)
    got = run(sampling_fn(sampler, ts), library_target(target).denoiser(schedule), jnp.asarray(x))
    np.testing.assert_allclose(got, target.transport(x, *(amplitudes(form, t) for t in ts)), atol=1e-8)


def test_the_order_of_adams_is_that_of_its_weights():
    """The weights integrate h exp(-h (1 - u)) u^k exactly for k < p, whatever the spacing: by quadrature."""
    u, w = np.polynomial.legendre.leggauss(60)
    u, w = (u + 1) / 2, w / 2
    for h in (1e-6, 0.01, 0.9, 1.1, 8.0):
        for nodes in ([0.0], [0.0, -0.4], [0.0, -1.3, -1.9]):
            weights = multistep.adams_weights(np.asarray(nodes), h)
            for k in range(len(nodes)):
                exact = np.sum(w * h * np.exp(-h * (1 - u)) * u**k)
                assert weights @ np.asarray(nodes) ** k == pytest.approx(exact, rel=1e-11)
