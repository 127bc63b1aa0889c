"""The heat equation's ODE against closed forms and SciPy's Runge-Kutta."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_forms import Mixture
from scipy import integrate

from diffjax import analytic, schedules
from diffjax.samplers import ode
from diffjax.theory import heat

WEIGHTS, MEANS, VARIANCES = np.array([0.3, 0.7]), np.array([[-1.0, 0.5], [1.5, -0.2]]), np.array([0.05, 0.2])
CLOCKS = {"t": lambda t: t, "t^2": lambda t: t**2, "exp": lambda t: 0.1 * jnp.exp(2 * t)}


def smoothed(sigma):
    """log of the mixture convolved with N(0, sigma_t^2 I), the test's own formula."""

    def log_p(x, t):
        total = VARIANCES + sigma(t) ** 2
        offset = jnp.sum((x[None] - MEANS) ** 2, 1)
        return jax.nn.logsumexp(np.log(WEIGHTS) - 0.5 * offset / total - jnp.log(2 * np.pi * total))

    return log_p


def solve(velocity, x, start, end, tol):
    """The state at `end` by SciPy, for any pytree-free velocity (y, t)."""
    run = jax.jit(velocity)
    solution = integrate.solve_ivp(lambda t, y: np.asarray(run(y, t)), (start, end), x, "RK45", rtol=tol, atol=tol)
    assert solution.success
    return solution.y[:, -1]


@pytest.mark.parametrize("clock", CLOCKS)
def test_smoothed_densities_solve_the_heat_equation(x64, clock):
    sigma = CLOCKS[clock]
    at = lambda x, t: [heat.residual(smoothed(sigma), s, x, t) for s in (sigma, lambda t: 2 * sigma(t))]
    xs, ts = jnp.array([[0.0, 0.0], [-0.9, 0.4], [3.0, -2.0]]), jnp.array([0.1, 0.7, 2.0])
    right, wrong = jax.jit(jax.vmap(at))(jnp.tile(xs, (3, 1)), jnp.repeat(ts, 3))
    scale = np.abs(wrong)  # 3 sigma' sigma Laplace p / p
    assert np.all(np.abs(right) < 1e-12 * np.maximum(scale, 1))
    assert scale.min() > 1e-3


def test_the_residual_of_another_density(x64):
    """log p = a . x + b t: b - sigma' sigma |a|^2, with sigma = t^2."""
    a, b = np.array([0.3, -1.2]), 0.7
    got = heat.residual(lambda x, t: a @ x + b * t, CLOCKS["t^2"], jnp.array([0.6, -1.1]), 0.9)
    np.testing.assert_allclose(got, b - 2 * 0.9**3 * a @ a, rtol=1e-14)


@pytest.mark.parametrize("clock", ["t", "t^2"])
def test_the_map_of_a_gaussian(x64, clock):
    """x_t = m + sqrt((v + sigma_t^2) / (v + sigma_T^2)) (x_T - m), between t = 2 and t = 0.1."""
    sigma, m, v, x = CLOCKS[clock], np.array([0.7, -0.4]), 0.25, np.array([3.0, -1.0])
    flow = heat.flow(lambda x, t: (m - x) / (v + sigma(t) ** 2), sigma)
    expected = m + np.sqrt((v + sigma(0.1) ** 2) / (v + sigma(2.0) ** 2)) * (x - m)
    np.testing.assert_allclose(solve(flow, x, 2.0, 0.1, 1e-10), expected, rtol=0, atol=1e-8)


def test_the_clock_does_not_matter(x64):
    """sigma = t from 3 to 0.1 and sigma = t^2 from sqrt(3) to sqrt(0.1): one map of a mixture."""
    x = np.array([1.4, -2.0])
    ends = [
        solve(heat.flow(jax.grad(smoothed(CLOCKS[name])), CLOCKS[name]), x, at(3.0), at(0.1), 1e-10)
        for name, at in (("t", float), ("t^2", np.sqrt))
    ]
    np.testing.assert_allclose(ends[0], ends[1], atol=1e-8)
    assert np.abs(ends[0] - x).max() > 0.5


@pytest.mark.parametrize("x", [[0.0, 0.0], [-0.9, 0.4], [1.3, -0.5]])
def test_the_likelihood_of_a_mixture(x64, x):
    """log p_0(x_0) = log p_T(x_T) + int div v dt, Runge-Kutta at 1e-8: SciPy's density of the mixture to 1e-6."""
    sigma, T = CLOCKS["t"], 5.0
    rates = heat.with_log_prob(heat.flow(jax.grad(smoothed(sigma)), sigma))
    flat = lambda y, t: jnp.concatenate([*map(jnp.atleast_1d, rates((y[:2], y[2]), t))])
    end = solve(flat, np.array([*x, 0.0]), 0.0, T, 1e-8)
    target = Mixture(WEIGHTS, MEANS, VARIANCES[:, None, None] * np.eye(2))
    got = np.log(target.density(end[:2], sigma=T)) - end[2]
    np.testing.assert_allclose(got, np.log(target.density(np.array(x))), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["VP", "SubVP", "Cosine", "Rectified"])
def test_a_factor_turns_heat_into_every_probability_flow(x64, name):
    """sigma / alpha for the clock, alpha for the factor: the flow of `samplers.ode`, which knows posteriors alone."""
    schedule = getattr(schedules, name)()
    target = analytic.gaussian_mixture(WEIGHTS, MEANS, VARIANCES)
    ratio = lambda t: schedule(t)[1] / schedule(t)[0]
    flow = heat.rescale(heat.flow(jax.grad(smoothed(ratio)), ratio), lambda t: schedule(t)[0])
    for t in (0.05, 0.4, 0.9):
        for y in ([0.5, 0.2], [-1.0, 1.5]):
            expected = ode.velocity(target.denoiser(schedule), jnp.asarray(y), t)
            np.testing.assert_allclose(flow(jnp.asarray(y), t), expected, rtol=1e-10)
