"""Samplers on bridges: DDBM's and DBIM's published trajectories, exact laws, orders, samples, one compile.

The published updates are written in x_t = A y + B x_0 + C z (`oracles/bridges.py`), the library's run in u = x_t - A y.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bridge_table import BASES, DDBM_VP, LINE, NET, VP_2, kernels
from closed_forms import Form, wide
from oracles import bridges
from oracles.mixture import Mixture
from rows import HostModel, laws, read, walk
from scipy import integrate

from diffjax import analytic, calculus, denoisers, grids, samplers
from diffjax.denoisers import DDBM
from diffjax.processes import BridgeSchedule
from diffjax.samplers import ancestral, bridging_fn, hybrid, multistep, ode, sampling_fn, sde
from diffjax.schedules import VP
from diffjax.types import Posterior

Y, M, V0 = -1.2, 0.7, 0.16  # an endpoint, and the law N(M, V0) of x_0 given it


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


def base_of(name):
    """The closed form of a base, and where it ends."""
    schedule, form = BASES[name]
    return form, schedule.t_max


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
    expected = np.stack(bridges.dbim(*base_of(name), ts, model.of_x, y, eta, noise))
    np.testing.assert_allclose(placed(name, np.stack([u, *path]), y, ts[1:]), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["vp", "edm"])
@pytest.mark.parametrize("order", [2, 3])
def test_dbim_of_higher_order_is_exponential_adams_on_u(name, order, x64):
    y, noise = np.array([0.4, -1.1]), np.random.default_rng(0).normal(size=(1, 2))
    model, schedule = Pinned(name, y), BridgeSchedule(BASES[name][0])
    ts = grids.pinned(schedule, 12, gap=1e-2 * schedule.t_max, t_min=1e-2 * schedule.t_max, zero=False)
    u, _ = walk(ancestral.resampled(schedule), ts[:2], model, np.zeros(2), noise)
    _, path = walk(multistep.adams(schedule, order), ts[1:], model, u, np.zeros((12, 2)))
    expected = np.stack(bridges.dbim_order(*base_of(name), ts, model.of_x, y, order, noise))
    np.testing.assert_allclose(placed(name, np.stack([u, *path]), y, ts[1:]), expected, rtol=1e-10, atol=1e-10)


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
        expected = bridges.ddbm(*base_of(name), ts, model.of_x, 0.0, np.zeros(2), noise)
        np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-10)
        y = np.array([0.4, -1.1])
        model, got = hybrid_path(name, ts, y, noise)
        shifted = lambda u, t, model=model, y=y: model.of_x(u + kernels(name, [t])[0, 0] * y, t)
        np.testing.assert_allclose(
            got, bridges.ddbm(*base_of(name), ts, shifted, 0.0, np.zeros(2), noise), rtol=1e-9, atol=1e-10
        )


@pytest.mark.slow
def test_ddbm_s_sampler_as_published_differs_by_its_error_in_A(x64):
    """In x the known A_t y is integrated too: the same limit, first-order apart for one path of the noise."""
    y, gaps = np.array([0.4, -1.1]), []
    for n in (20, 40):
        ts = np.linspace(0.999, 0.05, n + 1)
        noise = np.zeros((n, 2))
        model, got = hybrid_path("vp", ts, y, noise)
        A = kernels("vp", ts)[0]
        published = bridges.ddbm(*base_of("vp"), ts, model.of_x, y, A[0] * y, noise)
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

    slopes = jax.jit(lambda t: calculus.derivatives(schedule, t))

    def ours(t, u):
        (B, C), (dB, dC) = jax.tree.map(float, slopes(t))
        mean = denoise(u, t)
        return dB * mean + dC * (u - B * mean) / C

    endpoint = jax.jit(lambda t: jax.jvp(schedule.endpoint_weight, (t,), (jnp.ones(()),)))
    for t in (0.05, 0.5, 0.95):
        u = np.array([-0.3, 0.4])
        A, slope = map(float, endpoint(t))
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


Z = np.array([-1.4, -0.6, 0.1, 0.8, 1.5])


time_of = jax.jit(calculus.time_of)


@functools.cache
def levels(n):
    """A grid between two noise levels, and (B, C) of the bridge there, as the schedule of u."""
    schedule = BridgeSchedule(DDBM_VP)
    ends = [float(time_of(schedule, -2 * np.log(level))) for level in (2.0, 0.02)]
    return grids.karras(schedule, n, t_max=ends[0], t_min=ends[1], zero=False), schedule


def in_u(t):
    """(B, C) of one time: a closed form of the bridge's schedule."""
    return bridges.kernel(VP_2, t, DDBM_VP.t_max)[1:]


MODEL = HostModel(LINE.denoise, Form(lambda t: np.transpose([in_u(one) for one in np.atleast_1d(t)])[:, 0], None))


def starts(B, C):
    """Five points of the marginal where the walk begins."""
    mean, var = LINE.moments()
    return B[0] * mean + np.sqrt(B[0] ** 2 * var + C[0] ** 2) * Z


def order_error(make, n):
    ts, schedule = levels(n)
    _, B, C = kernels("vp", ts[[0, -1]])
    x = starts(B, C)
    got, _ = walk(make(schedule), ts, MODEL, x, np.zeros((3 * n, 5)))
    return np.abs(got - LINE.transport(x, (B[0], C[0]), (B[1], C[1]))).max()


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
    found = []
    for n in (160, 320):
        ts, schedule = levels(n)
        _, B, C = kernels("vp", ts)
        x = starts(B, C)
        exact = [LINE.transport(x, (B[0], C[0]), (B[i], C[i])) for i in range(3)]
        kept = [LINE.denoise(exact[i], B[i], C[i]) for i in (1, 0)]
        every = multistep.adams(schedule, 3).plan(ts)
        rest = type(every)(*(column[2:] for column in every))
        *_, got = read(rest, MODEL, exact[2], np.zeros((n, 5)), ys=np.stack([*kept, 0 * x]))
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
    draw = jax.jit(lambda sample, seed, u: sample(model, jax.random.key(seed), u))
    a, b, again = (draw(sample, seed, np.float32(0)) for seed in (0, 1, 0))
    assert abs(a - b) > 1e-3
    assert a == again
    flow = sampling_fn(ancestral.ddim(schedule), grids.pinned(schedule, 8)[1:])
    assert len({float(draw(flow, seed, np.float32(0.1))) for seed in (0, 1)}) == 1


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
