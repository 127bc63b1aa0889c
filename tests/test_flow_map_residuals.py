"""Residuals of flow maps at exact maps: of a Gaussian of any covariance and a mixture on the line; four schedules."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import flow_maps as oracle
from scipy import linalg, stats

from diffjax import schedules
from diffjax.denoisers import EDM, X0, Eps, V, Velocity
from diffjax.denoisers.flow_map import coefficients, flow_map
from diffjax.losses import flow_map as losses

pytestmark = pytest.mark.usefixtures("x64")

MIXTURE = ((0.3, 0.7), (-1.0, 1.5), (0.2, 0.6))
MEAN, ROOT = np.array([0.7, -0.3, 0.2]), np.array([[0.5, 0.1, 0], [0.2, 0.4, 0.1], [0, 0.3, 0.6]])
LAWS = {"gaussian": oracle.gaussian(MEAN, ROOT), "mixture": oracle.line(*MIXTURE)}
X = {"gaussian": np.array([0.5, -0.8, 1.1]), "mixture": np.array([0.37])}
TARGETS = {"Velocity": Velocity(), "V": V(), "EDM": EDM(1.0), "X0": X0()}
PLACES = {  # schedule, t, r, and X of the mixture at x = 0.37, computed elsewhere
    "Rectified": (schedules.Rectified(), 0.8, 0.25, 1.0372540154),
    "VP": (schedules.VP(), 0.7, 0.2, 1.1363320810),
    "Cosine": (schedules.Cosine(), 0.75, 0.2, 1.1301214511),
    "EDM": (schedules.EDM(), 5.0, 0.8, 0.8223059427),
}
CASES = [("Rectified", "Velocity"), ("VP", "V"), ("Cosine", "EDM"), ("EDM", "EDM"), ("Rectified", "X0")]
REST = [(place, target) for place in PLACES for target in TARGETS if (place, target) not in CASES]


def exact(law, place, target):
    schedule, told = PLACES[place][0], TARGETS[target]
    return flow_map(oracle.network(LAWS[law], schedule, told), schedule, told)


@cache
def found(law, place, target):
    """Every residual of the exact map, and where it lands."""
    _, t, r, _ = PLACES[place]

    def residuals(x, t, r):  # not compiled: one by one, all cases have the same operations
        flow = exact(law, place, target)
        v, q = losses.velocity(flow, flow.ends(x, t), t), 0.45 * t + 0.55 * r
        F, aim = losses.eulerian(flow, x, t, r, v)
        off, _ = losses.eulerian(flow, x, t, r, v + 1.0)[::-1]
        legs = flow.land(flow.land(x, t, q), q, r)
        return {
            "eulerian": F - aim,
            "lagrangian": losses.lagrangian(flow, x, t, r, flow.ends),
            "semigroup": losses.semigroup(flow, x, t, r, legs, F),
            "landed": flow.land(x, t, r),
            "composed": legs,
            "as it is": flow.land(x, t, t),
            "wrong velocity": F - off,
        }

    return jax.device_get(residuals(*map(jnp.asarray, (X[law], np.float64(t), np.float64(r)))))


def landing(law, place):
    """Where the flow leads, by NumPy and SciPy alone."""
    schedule, t, r, _ = PLACES[place]
    (a, s), (a_r, s_r) = ((float(v) for v in schedule(np.float64(time))) for time in (t, r))
    if law == "mixture":
        w, m, std = (np.asarray(v) for v in MIXTURE)
        level = np.sum(w * stats.norm.cdf(X[law], a * m, np.hypot(a * std, s)))
        return oracle.quantile(level, w, a_r * m, np.hypot(a_r * std, s_r))
    V_t, V_r = (a_i**2 * ROOT @ ROOT.T + s_i**2 * np.eye(3) for a_i, s_i in ((a, s), (a_r, s_r)))
    root = lambda C: np.real(linalg.sqrtm(C))
    return a_r * MEAN + root(V_r) @ np.linalg.inv(root(V_t)) @ (X[law] - a * MEAN)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize(("place", "target"), [*CASES, *(pytest.param(*c, marks=pytest.mark.slow) for c in REST)])
def test_residuals_vanish_at_the_exact_map(law, place, target):
    made = found(law, place, target)
    for name in ("eulerian", "lagrangian", "semigroup"):
        np.testing.assert_allclose(made[name], 0, atol=1e-11, err_msg=name)
    np.testing.assert_allclose(made["landed"], landing(law, place), atol=1e-11)
    np.testing.assert_allclose(made["composed"], made["landed"], atol=1e-11)
    np.testing.assert_array_equal(made["as it is"], X[law])
    assert np.abs(made["wrong velocity"]).min() > 1e-2


def test_maps_of_elsewhere():
    np.testing.assert_allclose(
        found("gaussian", "Rectified", "Velocity")["landed"], [0.65014753, -0.41779564, 0.77886508], atol=5e-9
    )
    for place, target in CASES:
        np.testing.assert_allclose(found("mixture", place, target)["landed"], PLACES[place][3], atol=5e-11)


def test_coefficients():
    """VP with V, EDM's c_skip and c_out at r = 0, Rectified; (1, 0) at r = t for every target, to the bit."""
    at = lambda schedule, target, *ts: [float(c) for c in coefficients(schedule, target, *map(np.float64, ts))]
    np.testing.assert_allclose(at(schedules.VP(), V(), 0.7, 0.2), [0.6508579859, -0.7591995009], atol=5e-11)
    np.testing.assert_allclose(at(schedules.EDM(), EDM(0.5), 5, 0), [0.0099009901, 0.4975185951], atol=5e-11)
    np.testing.assert_allclose(at(schedules.Rectified(), Velocity(), 0.8, 0.25), [1, -0.55], atol=1e-15)
    np.testing.assert_allclose(at(schedules.Rectified(), X0(), 0.8, 0.25), [0.25 / 0.8, 0.55 / 0.8], atol=1e-15)
    for schedule, t, _, _ in PLACES.values():
        for target in (*TARGETS.values(), Eps()):
            assert at(schedule, target, t, t) == [1.0, 0.0]


def test_boundary_is_exact_in_float32_under_jit():
    schedule = schedules.Rectified()
    ts = np.random.default_rng(0).uniform(0.01, 1, 256).astype(np.float32)
    A, B = jax.jit(jax.vmap(lambda t: coefficients(schedule, V(), t, t)))(ts)
    assert np.all(np.asarray(A) == 1)
    assert np.all(np.asarray(B) == 0)


# Stochastic targets, at the mixture's exact map on Rectified

POINTS = [(0.37, 0.8, 0.25, 0.8602078332), (-0.3, 0.95, 0.05, 2.0170699775)]  # x, t, r, dX/dx


@cache
def stochastic():
    """(x, t, r, ends) -> residuals with the example's velocity: of meanflow, and of improved MeanFlow."""
    flow = exact("mixture", "Rectified", "Velocity")

    @jax.jit
    @partial(jax.vmap, in_axes=(None, None, None, 0))
    def residuals(x, t, r, v):
        known = losses.velocity(flow, flow.ends(x, t), t)
        (F, aim), (G, mended) = losses.eulerian(flow, x, t, r, v), losses.eulerian(flow, x, t, r, v, known)
        return F - aim, G - mended, known

    return residuals


@pytest.mark.parametrize(("x", "t", "r", "slope"), POINTS)
def test_mean_and_spread_of_stochastic_targets(x, t, r, slope):
    """The mean over x_0 | x_t is 0: no gradient is left. MeanFlow's noise is dX/dx times that of improved MeanFlow."""
    x0, share = oracle.posterior(x, 1 - t, t, *MIXTURE)
    v = (x - x0) / t  # z - x_0, z = (x - (1 - t) x_0) / t
    e, mended, known = jax.device_get(stochastic()(np.array([x]), np.float64(t), np.float64(r), v[:, None]))
    np.testing.assert_allclose([share @ e[:, 0], share @ mended[:, 0], share @ v - known[0, 0]], 0, atol=1e-12)
    np.testing.assert_allclose(mended[:, 0], -(v - known[0, 0]), atol=1e-12)
    np.testing.assert_allclose(e[:, 0], -slope * (v - known[0, 0]), atol=1e-8)
    X = oracle.quantile(np.sum(np.array(MIXTURE[0]) * stats.norm.cdf(x, *_law(t))), MIXTURE[0], *_law(r))
    ratio = [np.sum(np.array(MIXTURE[0]) * stats.norm.pdf(y, *_law(s))) for y, s in ((x, t), (X[0], r))]
    np.testing.assert_allclose(ratio[0] / ratio[1], slope, atol=1e-9)  # p_t(x) / p_r(X)


def _law(t):
    """Means and standard deviations of x_t."""
    _, m, s = (np.asarray(v) for v in MIXTURE)
    return (1 - t) * m, np.hypot((1 - t) * s, t)


def test_where_the_circle_is_at_a_quarter_nothing_is_said():
    """VP-like trigonometry: B' = -cos(t - r) is 0 there; the aim is F itself, and finite."""
    flow = exact("mixture", "Cosine", "V")
    t, x = np.float64(1.0), np.array([0.2])
    F, aim = jax.jit(lambda x, t: losses.eulerian(flow, x, t, jnp.zeros_like(t), jnp.zeros_like(x)))(x, t)
    assert np.all(np.isfinite(F))
    np.testing.assert_array_equal(F, aim)  # compiled, B' is 1e-16 there, and the aim would be 1e15
