"""experiments/prices/flow_maps.py against a second derivation: quadrature over x_0 itself, brute force, draws."""

import importlib
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import run_command
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.stats import chi2, norm

WEIGHTS, MEANS, S = np.array([0.3, 0.7]), np.array([-1.0, 1.0]), 0.25
RECTIFIED = lambda t: (1 - t, t, -1.0, 1.0)
ANGLE = lambda t: (np.cos(t), np.sin(t), -np.sin(t), np.cos(t))
X0 = np.linspace(-3.5, 3.5, 14001)


@pytest.fixture(scope="module")
def prices():
    """The modules of the study, which leave no module of a name that another folder has."""
    folder, names = str(run_command.ROOT / "experiments/prices"), ("robust", "distances", "capacity", "flow_maps")
    before = {name: sys.modules.pop(name) for name in names if name in sys.modules}
    sys.path.insert(0, folder)
    try:
        yield SimpleNamespace(**{name: importlib.import_module(name) for name in names})
    finally:
        sys.path.remove(folder)
        for name in names:
            sys.modules.pop(name, None)
        sys.modules.update(before)


def conditional(x, t, path, weights=WEIGHTS, means=MEANS, s=S, x0=X0):
    """v_c at the nodes x0 and their chances given x_t = x, by Bayes' rule: no formula of a posterior."""
    a, sigma, da, dsigma = path(t)
    p = norm.pdf(x0[:, None], means, s) @ weights * norm.pdf((x - a * x0) / sigma)
    return da * x0 + dsigma * (x - a * x0) / sigma, p / p.sum()


def others(d, x, t, path, nodes=1200):
    """|v_c - v|^2 of the other d - 1 axes in nodes of equal chance, each axis N(0, s^2) in the data."""
    if d == 1:
        return np.zeros(1)
    v, p = conditional(x, t, path, np.ones(1), np.zeros(1))
    return (p @ v**2 - (p @ v) ** 2) * chi2.ppf((np.arange(nodes) + 0.5) / nodes, d - 1)


def stop(pull, mean, end):
    """The first change of sign of a pull on the way from the mean."""
    F = np.linspace(mean, end, 400)
    g = np.array([pull(f) for f in F])
    first = np.flatnonzero(np.sign(g[1:]) != np.sign(g[0]))[0]
    return brentq(pull, F[first], F[first + 1], xtol=1e-12)


@pytest.mark.parametrize(("d", "expected"), [(1, -0.574578), (8, -0.492680), (64, -0.173680)])
def test_the_shift_of_an_adaptive_weight_at_one_point(prices, d, expected):
    """p = 1, x = .1, t = .7; in one dimension a grid as coarse as the weight is narrow would give -.5738."""
    v, p = conditional(0.1, 0.7, RECTIFIED)
    mean = p @ v
    R = others(d, 0.1, 0.7, RECTIFIED)
    pull = lambda F: p @ ((v - F) * np.mean(1 / ((v[:, None] - F) ** 2 + R + 0.01), 1))
    v, p = (v[::10], p[::10] / p[::10].sum()) if d > 1 else (v, p)  # smooth where other axes blur the weight
    found = (stop(pull, mean, mean - 2) - mean) / np.sqrt(p @ (v - mean) ** 2)
    law = prices.flow_maps.TARGET.posterior(0.1, 0.7)
    shift = float(prices.robust.shift(law, prices.robust.adaptive(1.0, 0.01), d))
    assert abs(shift - expected) < 1e-6
    assert abs(shift - found) < (1e-8 if d == 1 else 2e-5)  # 1200 nodes of the other axes


def test_the_pull_vanishes_where_descent_stops_by_draws(prices):
    """Two million draws in R^8: within four standard errors of 0 there, and more than 100 away at the mean."""
    rng, n, d = np.random.default_rng(0), 2_000_000, 8
    v, p = conditional(0.1, 0.7, RECTIFIED)
    v0, p0 = conditional(0.1, 0.7, RECTIFIED, np.ones(1), np.zeros(1))
    drawn = rng.choice(v, n, p=p)
    R = (p0 @ v0**2 - (p0 @ v0) ** 2) * rng.chisquare(d - 1, n)
    stopped = float(
        prices.robust.settled(prices.flow_maps.TARGET.posterior(0.1, 0.7), prices.robust.adaptive(1.0, 0.01), d)
    )
    for F, near in ((stopped, True), (p @ v, False)):
        terms = (drawn - F) / ((drawn - F) ** 2 + R + 0.01)
        errors = abs(terms.mean()) / (terms.std() / np.sqrt(n))
        assert errors < 4 if near else errors > 100


@pytest.mark.parametrize(("d", "expected", "rms"), [(1, -0.114632, 0.942848), (64, -0.099757, 0.905664)])
def test_the_mean_of_a_normalised_tangent_at_one_point(prices, d, expected, rms):
    """x = -.3, t = .9, c = .1: E[g / (|g| + c)] at the exact map along e_1, where E[g] = 0; and its rms there."""
    a, sigma = ANGLE(0.9)[:2]
    V = a**2 * S**2 + sigma**2
    below = WEIGHTS @ norm.cdf((-0.3 - a * MEANS) / np.sqrt(V))
    X = brentq(lambda y: WEIGHTS @ norm.cdf((y - MEANS) / S) - below, -4, 4, xtol=1e-14)
    slope = (WEIGHTS @ norm.pdf(-0.3, a * MEANS, np.sqrt(V))) / (WEIGHTS @ norm.pdf(X, MEANS, S))
    v, p = conditional(-0.3, 0.9, ANGLE)
    e, R = a * slope * (v - p @ v), (a * S / np.sqrt(V)) ** 2 * others(d, -0.3, 0.9, ANGLE)
    g = e[:, None] / (np.sqrt(e[:, None] ** 2 + R) + 0.1)
    assert abs(p @ e) < 1e-12
    assert abs(p @ g.mean(1) - expected) < 1e-6
    assert abs(np.sqrt(p @ (g**2).mean(1)) - rms) < 1e-5
    turned, robust = prices.flow_maps.TURNED, prices.robust
    found, own, other = turned.jump(np.array(-0.3), 0.9, 0.0)
    assert np.allclose([found, own, other], [X, slope, S / np.sqrt(V)], rtol=1e-10)
    law = turned.posterior(-0.3, 0.9)
    pull = robust.pull(law.mean, law, robust.normalised(0.1), d, (a * own, a * other))[0]
    assert abs(pull - expected) < 1e-6


def test_weights_are_mixtures_of_gaussians(prices):
    q = np.array([0.0, 1e-6, 1e-3, 0.02, 1.0, 30.0, 2000.0])
    for c in (3e-7, 0.01, 0.7):
        for p in (0.25, 0.5, 0.75, 1.0, 2.0):
            lam, nu = prices.robust.adaptive(p, c)
            assert np.allclose(np.exp(-np.outer(q, lam)) @ nu, (1 + q / c) ** -p, rtol=1e-8, atol=0)
    for c in (0.01, 0.1, 3.2):
        lam, nu = prices.robust.normalised(c)
        found = np.exp(-np.outer(q[1:], lam)) @ nu  # at 0 the sum over lambda ends too early by 2e-7 / c
        assert np.allclose(found, 1 / (np.sqrt(q[1:]) + c), rtol=1e-7, atol=0)


def test_what_pays_nothing_is_exactly_zero(prices):
    robust, target = prices.robust, prices.flow_maps.TARGET
    x = np.linspace(-1.5, 1.5, 41)
    for d in (1, 2, 1024):
        assert not np.any(robust.shift(target.posterior(x, 0.6), robust.adaptive(0.0, 0.01), d))
        assert np.all(np.abs(robust.shift(target.posterior(x, 0.6), robust.adaptive(0.25, 0.01), d)[8:12]) > 1e-4)
    assert prices.flow_maps.distilled() == {"p = 1": 0.0, "g / (|g| + .1)": 0.0}
    assert prices.flow_maps.unrestricted() < 1e-15


def test_in_many_dimensions_the_shift_is_the_skewness_over_the_noise(prices):
    law = prices.flow_maps.TARGET.posterior(0.1, 0.7)
    v, p = conditional(0.1, 0.7, RECTIFIED)
    third = p @ (v - p @ v) ** 3
    assert abs(law.skewness() * law.std**3 - third) < 1e-9
    for power in (0.5, 1.0):
        for d in (10_000, 100_000):
            shift = float(prices.robust.shift(law, prices.robust.adaptive(power, 0.01), d)) * float(law.std)
            assert abs(shift / (-power * third / (d * law.var)) - 1) < 60 / d


def test_the_mass_of_the_minority_mode(prices):
    """Without a weight it is the data's; with p = .5 two walks around it part, by pulls over x_0 and halving."""
    robust, flow = prices.robust, prices.flow_maps
    free = flow.minority(lambda x, t: flow.TARGET.posterior(x, t).mean, 1.0, 40)
    assert abs(free - WEIGHTS @ norm.cdf(-MEANS / S)) < 3e-4
    weight = robust.adaptive(0.5, 0.01)
    found = flow.minority(lambda x, t: robust.settled(flow.TARGET.posterior(x, t), weight, 1, scan=16), 1.0, 16, 1)
    assert abs(found - 0.1508) < 0.007  # one zoom of 33 walks between .01 and .4

    def field(x, t):
        v, p = conditional(x, min(max(t, 1e-3), 1.0), RECTIFIED, x0=X0[::20])
        pull = lambda F: p @ ((v - F) / np.sqrt((v - F) ** 2 + 0.01))
        return brentq(pull, v.min(), v.max(), xtol=1e-9)  # convex for p <= 1/2: one zero

    ends = []
    for q in (0.147, 0.155):
        x, h = norm.ppf(q), 1 / 24
        for i in range(24):
            t = 1 - i * h
            x = x - h * field(x - h / 2 * field(x, t), t - h / 2)
        ends.append(x)
    assert ends[0] < -0.3 < 0.3 < ends[1]


@pytest.mark.parametrize("rho", [0.3, 0.5, 0.8])
def test_warm_up_ends_where_its_tangent_vanishes(prices, rho):
    """E[g] = 0: cos t (v - F) = rho sin t (x + dF/dt), by central differences along the flow."""
    flow, u, t, h = prices.flow_maps, np.array([-1.1, -0.4, 0.3]), 0.8, 1e-4
    at = lambda t: flow.TURNED.quantile((norm.logcdf(u), norm.logsf(u)), t)
    F = lambda t: (np.cos(t) * at(t) - flow.warmed(rho, t, u, nodes=400)) / np.sin(t)
    v = flow.TURNED.posterior(at(t), t).mean
    slope = (F(t + h) - F(t - h)) / (2 * h)
    assert np.allclose(np.cos(t) * (v - F(t)), rho * np.sin(t) * (at(t) + slope), atol=2e-5)


def test_warm_up_of_a_gaussian_and_at_both_ends(prices):
    flow, u = prices.flow_maps, np.array([-1.5, 0.2, 2.0])
    one = prices.robust.Target(np.ones(1), np.zeros(1), S, ANGLE)
    k = 1 / 0.4 - 1
    V = lambda share: S**2 * (1 - share**2) + share**2
    slope = quad(lambda share: k * share ** (k - 1) * np.sqrt(1 - share**2) * S**2 / np.sqrt(V(share)), 0, 1)[0]
    assert np.allclose(flow.warmed(0.4, np.pi / 2, u, one), slope * u, rtol=1e-6)
    x = flow.TURNED.quantile((norm.logcdf(u), norm.logsf(u)), 0.8)
    assert np.allclose(flow.warmed(1.0, 0.8, u), flow.TURNED.jump(x, 0.8, 0.0)[0], atol=1e-12)
    denoised = [p @ (np.cos(0.8) * y - np.sin(0.8) * v) for y in x for v, p in [conditional(y, 0.8, ANGLE)]]
    assert np.allclose(flow.warmed(0.0, 0.8, u), denoised, atol=1e-10)


@pytest.mark.parametrize(("d", "c"), [(1, 0.3), (2, 0.3), (8, 0.05)])
def test_one_level_of_a_pseudo_huber_distance(prices, d, c):
    """With N = 1 x_0 does not depend on x_1: the minimiser over m of the mean distance to the data, on other axes 0."""
    x0 = np.linspace(-4, 4, 1601)
    p = norm.pdf(x0[:, None], MEANS, 0.5) @ np.array([0.4, 0.6])
    p /= p.sum()
    R = 0.25 * chi2.ppf((np.arange(2000) + 0.5) / 2000, d - 1) if d > 1 else np.zeros(1)
    slope = lambda m: p @ ((m - x0) * np.mean(1 / np.sqrt((m - x0[:, None]) ** 2 + R + c**2), 1))
    f, other = prices.distances.trained(1, d, c, (41, 401))
    assert np.allclose(f(np.array([-1.3, 0.0, 2.0])), brentq(slope, -2, 2), atol=2e-5 if d == 1 else 2e-4)
    assert abs(other) < 1e-15


def test_levels_of_distances(prices):
    """A c far above all errors is the square, whose first levels are those measured before; a small c is not."""
    judged = lambda c: prices.distances.judged(prices.distances.trained(8, 1, c, (161, 201))[0])
    square, wide, middle = judged(None), judged(300.0), judged(1.0)
    assert abs(square["rms"] - 0.2130) < 5e-4
    assert abs(wide["rms"] - square["rms"]) < 2e-5
    assert abs(middle["rms"] - 0.2020) < 5e-4
    assert abs(square["share"] - 0.4026) < 1e-3


def test_a_vanishing_c_is_a_walk_along_the_median(prices):
    """One step from t = 1 is the data's median; several are what the recursion tends to."""
    middle = brentq(lambda y: np.array([0.4, 0.6]) @ norm.cdf((y - MEANS) / 0.5) - 0.5, -2, 2)
    x = np.array([-1.4, -0.2, 0.0, 0.7, 1.9])
    assert np.allclose(prices.distances.medians(1)(x), middle, atol=1e-10)
    limit = prices.distances.medians(3)(x)
    gaps = [np.abs(prices.distances.trained(3, 1, c, (161, 1201))[0](x) - limit).max() for c in (0.1, 0.01, 0.002)]
    assert gaps[2] < 3e-3 < 0.02 < gaps[0]
    assert gaps[2] < gaps[1] < gaps[0]


def test_an_affine_network_is_solved(prices):
    """Descent with a stopped target, as rounds of least squares on nodes that have the moments of (x_0, z) exactly."""
    rng = np.random.default_rng(1)
    node = np.array([-np.sqrt(3), 0.0, np.sqrt(3)])
    chance = np.array([1 / 6, 2 / 3, 1 / 6])
    t = rng.uniform(0.2, 1, 7)
    r = t * rng.uniform(0, 1, 7)
    w = rng.uniform(0.1, 1, 7)
    n, k, i, j = (a.ravel() for a in np.indices((7, 2, 3, 3)))
    x0, z = MEANS[k] + S * node[i], node[j]
    weight = w[n] * WEIGHTS[k] * chance[i] * chance[j]
    x, v, gap, T = (1 - t[n]) * x0 + t[n] * z, z - x0, (t - r)[n], t[n]
    for degree in (0, 2):
        power = T[:, None] ** np.arange(degree + 1)
        slope = np.arange(degree + 1) * T[:, None] ** np.maximum(np.arange(degree + 1) - 1, 0)
        features = np.concatenate([power * x[:, None], power], 1)
        change = np.concatenate([power * v[:, None] + slope * x[:, None], slope], 1)  # d features / dt along v
        found = np.zeros(2 * degree + 2)
        root = np.sqrt(weight)[:, None]
        for _ in range(400 if degree == 0 else 4000):
            target = v - gap * (change @ found)
            new = np.linalg.lstsq(features * root, target * root[:, 0], rcond=None)[0]
            found = found + 0.3 * (new - found)
        solved = np.concatenate(prices.capacity.affine(prices.flow_maps.TARGET, t, r, w, degree))
        assert np.allclose(found, solved, atol=1e-6), degree


def test_more_capacity_buys_the_shift_back(prices):
    rows = prices.capacity.limited(prices.flow_maps.TARGET, 60)["degree"]
    skewed = [rows[str(degree)]["logit-normal(-.4, 1)"] for degree in (0, 1, 2, 4, 8)]
    assert all(row["uniform"] == 0 for row in rows.values())
    assert skewed[0] > 0.15 > 0.08 > skewed[3] > 0.03 > skewed[4] > 1e-3


def test_the_variance_of_the_residual(prices):
    """Along x itself, with the slope of the map by central differences; and figures of one step."""
    target = prices.flow_maps.TARGET._replace(s=0.5)
    t, r, d = 0.7, 0.2, 8
    x, h = np.linspace(-5, 5, 801), 1e-4
    slope = (target.jump(x + h, t, r)[0] - target.jump(x - h, t, r)[0]) / (2 * h)
    V = 0.3**2 * 0.25 + 0.7**2
    p = norm.pdf(x[:, None], 0.3 * MEANS, np.sqrt(V)) @ WEIGHTS
    p /= p.sum()
    laws = [conditional(y, t, RECTIFIED, s=0.5, x0=X0[::20]) for y in x]
    var = np.array([c @ v**2 - (c @ v) ** 2 for v, c in laws])
    tau2 = 0.25 / V
    other = (0.8**2 * 0.25 + 0.2**2) / V
    expected = (p @ (slope**2 * var) + (d - 1) * tau2 * other) / (p @ var + (d - 1) * tau2)
    found = prices.flow_maps.variance_ratio(target, t, r, d)
    assert abs(found["ratio"] / expected - 1) < 1e-5
    one = lambda s: prices.flow_maps.variance_ratio(prices.flow_maps.TARGET._replace(s=s), 1.0, 0.0, 1)
    assert np.allclose([one(0.5)[k] for k in ("slope", "along")], [3.595, 1.472], rtol=1e-3)
    assert np.allclose([one(0.25)[k] for k in ("slope", "along")], [712.8, 53.70], rtol=1e-3)
