"""Doob's h-transform: kernels by conditioning, Kolmogorov's backward equation, and simulated bridges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_forms import EDM as EDM_FORM
from closed_forms import VE as VE_FORM
from closed_forms import VP as VP_FORM
from closed_forms import Form, wide
from scipy import stats

from diffjax.processes import BridgeSchedule
from diffjax.schedules import EDM, VE, VP
from diffjax.theory import doob, generator, linear

VP_2 = Form(lambda t: VP_FORM.amplitudes(t, beta_max=wide("2.1")), VP_FORM.rates)
BASES = {"vp": (VP(0.1, 2.1), VP_2), "edm": (EDM(), EDM_FORM), "ve": (VE(), VE_FORM)}
every_base = pytest.mark.parametrize("name", BASES)

F = np.array([[-0.7, 1.3, 0.0], [-0.4, -0.2, 0.5], [0.1, 0.0, -1.1]])
L = np.array([[0.8, 0.0, 0.1], [0.3, -0.6, 0.0], [0.0, 0.2, 0.5]])
U = np.array([0.5, -1.0, 0.25])
Y, X = np.array([1.0, -0.5, 0.3]), np.array([0.2, 0.1, -0.4])
T = 1.5


def sde():
    return linear.linear_sde(F, L, U)


# One program for each question.
discretize, transition = jax.jit(linear.LinearSDE.discretize), jax.jit(doob.Pinned.transition)
log_h = jax.jit(doob.Pinned.log_h)
push = jax.jit(lambda bridge, x, t: (bridge.drift(x, t), jax.grad(bridge.log_h)(x, t), bridge.diffusion(x, t)))


def joint(s, t, x):
    """Mean and covariance of (x_t, x_T) given x_s = x, stacked, from the free transitions."""
    first, then = (linear.Transition(*map(np.asarray, discretize(sde(), dt))) for dt in (t - s, T - t))
    mean = first.A @ x + first.b
    cross = first.Q @ then.A.T
    last = then.A @ cross + then.Q
    return np.concatenate([mean, then.A @ mean + then.b]), np.block([[first.Q, cross], [cross.T, last]])


def test_the_conditioned_transition_is_gaussian_conditioning(x64):
    bridge = doob.pinned(sde(), Y, T)
    for s, t in ((0.0, 0.4), (0.3, 1.1)):
        mean, cov = joint(s, t, X)
        gain = np.linalg.solve(cov[3:, 3:], cov[3:, :3]).T
        A, b, Q = map(np.asarray, transition(bridge, s, t))
        np.testing.assert_allclose(A @ X + b, mean[:3] + gain @ (Y - mean[3:]), rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(Q, cov[:3, :3] - gain @ cov[3:, :3], rtol=1e-10, atol=1e-12)


def test_the_conditioned_transition_is_p_times_the_ratio_of_h(x64):
    """p^h(x_t | x_s) = p(x_t | x_s) h(x_t, t) / h(x_s, s), at random points; densities by SciPy."""
    bridge, (s, t) = doob.pinned(sde(), Y, T), (0.2, 0.9)
    A, b, Q = map(np.asarray, discretize(sde(), t - s))
    A_h, b_h, Q_h = map(np.asarray, transition(bridge, s, t))
    for x in np.random.default_rng(0).normal(size=(4, 3)):
        log_ratio = float(log_h(bridge, x, t)) - float(log_h(bridge, X, s))
        free = stats.multivariate_normal(A @ X + b, Q).logpdf(x)
        pinned = stats.multivariate_normal(A_h @ X + b_h, Q_h).logpdf(x)
        assert pinned == pytest.approx(free + log_ratio, abs=1e-9)


def test_bridges_compose(x64):
    """From 0 to 0.5 and on to 1.1 is from 0 to 1.1; close to T the bridge is at y."""
    bridge = doob.pinned(sde(), Y, T)
    both = jax.jit(linear.compose)(transition(bridge, 0.0, 0.5), transition(bridge, 0.5, 1.1))
    for a, b in zip(both, transition(bridge, 0.0, 1.1)):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11)
    end = linear.Transition(*map(np.asarray, transition(bridge, 0.0, T - 1e-7)))
    np.testing.assert_allclose(end.A @ X + end.b, Y, atol=1e-5)
    assert np.abs(end.Q).max() < 1e-6


def test_h_solves_the_backward_equation(x64):
    """(d_t + L) h = 0, for matrices and for a schedule: by Ito's formula."""
    bridge = doob.pinned(sde(), Y, T)
    h = lambda x, t: jnp.exp(bridge.log_h(x, t))
    left = jax.jit(lambda x, t: (generator.ito(sde(), h, x, t).drift, h(x, t)))
    for t in (0.1, 1.2):
        residual, size = map(float, left(X, t))
        assert abs(residual) < 1e-10 * max(1, abs(size))

    @jax.jit
    def of_schedule(schedule, x, y, t):
        h = lambda x, t: jnp.exp(doob.log_h(schedule, x, y, t))
        return generator.ito(generator.forward(schedule), h, x, t).drift

    for schedule, _ in BASES.values():
        assert abs(float(of_schedule(schedule, np.array([0.2]), np.array([0.7]), 0.6 * schedule.t_max))) < 1e-10


def test_the_drift_is_that_of_the_gradient_of_log_h(x64):
    bridge = doob.pinned(sde(), Y, T)
    drift, pull, diffusion = push(bridge, X, 0.7)
    np.testing.assert_allclose(drift, F @ X + U + L @ L.T @ pull, rtol=1e-10)
    np.testing.assert_array_equal(diffusion, L)
    x, y = np.array([0.3, -2.0]), np.array([1.0, 0.5])
    both = jax.jit(lambda *given: (doob.grad_log_h(*given), jax.grad(doob.log_h, 1)(*given)))
    for schedule, _ in BASES.values():
        found, expected = both(schedule, x, y, 0.4 * schedule.t_max)
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_the_bridge_of_ve_and_of_brownian_motion(x64):
    """(y - x) / (sigma_T^2 - sigma_t^2), and (y - x) / (T - t) as a drift, with variance (t - s) (T - t) / (T - s)."""
    x, y, schedule = np.array([0.3]), np.array([1.0]), EDM(t_max=3.0)
    found = jax.jit(doob.grad_log_h)(schedule, x, y, 1.2)
    np.testing.assert_allclose(found, (y - x) / (9 - 1.44), rtol=1e-13)
    bridge, (s, t) = doob.pinned(linear.wiener(1), y, 2.0), (0.3, 1.1)
    np.testing.assert_allclose(push(bridge, x, t)[0], (y - x) / 0.9, rtol=1e-13)
    A, b, Q = map(np.asarray, transition(bridge, s, t))
    np.testing.assert_allclose((A[0, 0], b[0], Q[0, 0]), (0.9 / 1.7, 0.8 / 1.7, 0.8 * 0.9 / 1.7), rtol=1e-12)


@every_base
def test_the_kernel_is_the_snr_formula(name, x64):
    """p(x_t | x_0, x_T) by conditioning is A x_T + B x_0 + C z of DDBM, in extended precision; 1e-15."""
    schedule, form = BASES[name]

    @jax.jit
    def kernels(t):
        bridge = BridgeSchedule(schedule)
        return (bridge.endpoint_weight(t), *bridge(t)), doob.transition(schedule, 0.0, t)

    for t in np.array([0.1, 0.5, 0.9]) * schedule.t_max:
        (alpha, sigma), (alpha_T, sigma_T) = (form.amplitudes(wide(v)) for v in (t, schedule.t_max))
        r = (alpha_T * sigma / (alpha * sigma_T)) ** 2
        expected = r * alpha / alpha_T, alpha * (1 - r), sigma * np.sqrt(1 - r)
        found, (b, a, v) = kernels(t)
        np.testing.assert_allclose(found, np.asarray(expected, float), rtol=1e-13)
        if name != "ve":  # whose sigma is not 0 at 0: x_0 is the data there
            np.testing.assert_allclose((a, b, np.sqrt(v)), np.asarray(expected, float), rtol=1e-13)


def test_matrix_and_scalar_bridges_agree(x64):
    """VP with constant beta is dx = -beta x / 2 dt + sqrt(beta) dw."""
    schedule, free = VP(3.0, 3.0), linear.linear_sde([[-1.5]], [[3.0**0.5]])
    for s, t in ((0.0, 0.4), (0.2, 0.9)):
        A, b, Q = map(np.asarray, transition(doob.pinned(free, [0.8], 1.0), s, t))
        expected = jax.jit(doob.transition)(schedule, s, t)
        np.testing.assert_allclose((A[0, 0], b[0] / 0.8, Q[0, 0]), expected, rtol=1e-10)


def test_euler_maruyama_on_the_bridge_has_the_kernel(x64):
    """x_0 = 0.3 to y = -1.2 in 2000 steps, moments pushed exactly: the kernel to order dt; at T 0.032 is left of it."""
    schedule, steps = VP(0.1, 2.1), 2000
    bridge = doob.bridge(schedule, jnp.full(1, -1.2))
    ts = np.maximum(np.arange(steps) / steps, 1e-9)  # the rates of a schedule are those of 0 < t

    @jax.jit
    @jax.vmap
    def coefficients(t):
        zero = jnp.zeros(1)
        return bridge.drift(zero, t)[0], bridge.drift(zero + 1, t)[0], bridge.diffusion(zero, t)[0, 0]

    offset, at_1, noise = map(np.asarray, coefficients(ts))
    slope, found, mean, var = at_1 - offset, [], 0.3, 0.0
    for a, b, g in zip(slope, offset, noise):
        mean, var = mean + (a * mean + b) / steps, (1 + a / steps) ** 2 * var + g**2 / steps
        found.append((mean, np.sqrt(var)))
    for t, expected in ((0.3, (0.1399, 0.3254)), (0.7, (-0.4470, 0.5179))):
        np.testing.assert_allclose(found[round(t * steps) - 1], expected, atol=6e-4)
    assert found[-1] == (pytest.approx(-1.2, abs=1e-3), pytest.approx(0.032, abs=5e-4))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: doob.pinned(sde(), Y[:2], T), r"y has shape \(2,\), expected \(3,\)"),
        (lambda: doob.pinned(sde(), Y, 0.0), "t_max is 0.0, expected a positive time"),
        (lambda: doob.pinned(linear.linear_sde(-np.eye(2), np.array([[1.0], [2.0]])), [0.0, 0.0], 1.0), "not random"),
    ],
)
def test_bad_input_is_one_line(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
