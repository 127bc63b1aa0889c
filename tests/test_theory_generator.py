"""Ito's formula, the generator and its adjoint, and the reversals, against algebra, moments and quadrature."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from diffjax import schedules
from diffjax.theory import generator, linear
from diffjax.theory.generator import SDE

# dx = -theta x dt + sqrt(1 + x^2) dw: D' = 2 x. Its stationary law solves 2 f p = (D p)': p ~ (1 + x^2)^(-theta - 1).
THETA = 1.6
STUDENT = SDE(lambda x, t: -THETA * x, lambda x, t: jnp.sqrt(1 + x**2)[:, None])
# Geometric Brownian motion, dx = mu x dt + s x dw from 1: log x_t ~ N((mu - s^2 / 2) t, s^2 t).
MU, VOL = 0.3, 0.8
GEOMETRIC = SDE(lambda x, t: MU * x, lambda x, t: VOL * x[:, None])

FORWARD_VP = generator.forward(schedules.VP())  # whose noise depends on t

F = np.array([[-0.7, 1.3], [-0.4, -0.2]])
L = np.array([[0.8, 0.0, 0.1], [0.5, -0.6, 0.2]])  # three noises, correlated in x
U = np.array([0.5, -1.0])
MEAN, COV = np.array([1.0, -2.0]), np.array([[0.5, 0.1], [0.1, 0.9]])


def ito(sde, phi, x, t):
    """Ito's formula as one program."""
    return jax.jit(lambda x, t: generator.ito(sde, phi, x, t))(x, t)


def fields(sde, x, t):
    """Drift and diffusion as one program."""
    return map(np.asarray, jax.jit(lambda x, t: (sde.drift(x, t), sde.diffusion(x, t)))(x, t))


def lognormal(x, t):
    z = (jnp.log(x[0]) - (MU - VOL**2 / 2) * t) / (VOL * jnp.sqrt(t))
    return -0.5 * z**2 - jnp.log(x[0] * VOL * jnp.sqrt(2 * np.pi * t))


def gaussian(mean, cov):
    """log N(mean, cov) as a function of x, by the textbook."""
    inverse, volume = np.linalg.inv(cov), np.linalg.slogdet(2 * np.pi * cov)[1]
    return lambda x: -0.5 * (x - mean) @ inverse @ (x - mean) - 0.5 * volume


def test_itos_formula_for_the_logarithm(x64):
    """d log x = (mu - s^2 / 2) dt + s dw; with t: d(t log x) = (log x + t (mu - s^2 / 2)) dt + t s dw."""
    x = np.array([1.7])
    got = ito(GEOMETRIC, lambda x, t: t * jnp.log(x[0]), x, 0.4)
    np.testing.assert_allclose(got.drift, np.log(1.7) + 0.4 * (MU - VOL**2 / 2), rtol=1e-14)
    np.testing.assert_allclose(got.diffusion, [0.4 * VOL], rtol=1e-14)


def test_itos_formula_for_products_and_vectors(x64):
    """d(x_1 x_2) has the cross variation (L L^T)_12; a linear map keeps the SDE; any shape of phi goes."""
    sde, x = linear.linear_sde(F, L, U), np.array([0.6, -1.1])
    f = F @ x + U
    outer = ito(sde, lambda x, t: jnp.outer(x, x), x, 0.0)
    np.testing.assert_allclose(outer.drift, np.outer(f, x) + np.outer(x, f) + L @ L.T, rtol=1e-14)
    assert outer.diffusion.shape == (2, 2, 3)
    np.testing.assert_allclose(np.asarray(outer.diffusion)[0, 1], L[0] * x[1] + x[0] * L[1], rtol=1e-14)
    turn = np.array([[1.0, 2.0], [0.0, -1.0], [3.0, 1.0]])
    mapped = ito(sde, lambda x, t: turn @ x, x, 0.0)
    np.testing.assert_allclose(mapped.drift, turn @ f, rtol=1e-14)
    np.testing.assert_allclose(mapped.diffusion, turn @ L, rtol=1e-14)


def test_without_noise_itos_formula_is_the_chain_rule(x64):
    spin = lambda x, t: jnp.array([-x[1], x[0]])
    got = ito(generator.ode(spin), lambda x, t: t * x[0] ** 2, np.array([0.6, -1.1]), 0.5)
    np.testing.assert_allclose(got.drift, 0.6**2 + 0.5 * 2 * 0.6 * 1.1, rtol=1e-14)
    assert got.diffusion.shape == (0,)


def test_generator_of_a_test_function_by_hand(x64):
    """phi = exp(a . x): L phi = (a . f + |L^T a|^2 / 2) phi."""
    a, x, sde = np.array([0.4, -0.9]), np.array([0.6, -1.1]), linear.linear_sde(F, L, U)
    got = jax.jit(lambda x: generator.generator(sde, lambda x: jnp.exp(a @ x), x, 0.0))(x)
    np.testing.assert_allclose(got, (a @ (F @ x + U) + 0.5 * np.sum((L.T @ a) ** 2)) * np.exp(a @ x), rtol=1e-13)


def test_the_adjoint_is_the_adjoint(x64):
    """int p L phi = int phi L* p over the line, for a G that depends on x and t: trapezoid, spectral here."""
    sde = SDE(lambda x, t: t - jnp.sin(x), lambda x, t: jnp.stack([1 + 0.3 * jnp.cos(x), t * jnp.tanh(x)], 1))
    p = lambda x: jnp.exp(-0.5 * jnp.sum(x**2)) * (1 + 0.2 * x[0])
    phi = lambda x: jnp.cos(1.3 * x[0]) + 0.1 * x[0] ** 3
    xs = np.linspace(-13, 13, 1601)[:, None]
    at = lambda x: (p(x) * generator.generator(sde, phi, x, 0.7), phi(x) * generator.adjoint(sde, p, x, 0.7))
    left, right = (np.sum(values) for values in jax.jit(jax.vmap(at))(xs))
    np.testing.assert_allclose(left, right, rtol=1e-11)
    assert abs(left) > 1


def test_the_adjoint_gives_the_rate_of_a_density(x64):
    """d_t p of the lognormal, differentiated in t, is L* p: x stays inside the second derivative."""
    p = lambda x, t: jnp.exp(lognormal(x, t))
    at = lambda x: (generator.adjoint(GEOMETRIC, lambda x: p(x, 0.7), x, 0.7), jax.grad(p, 1)(x, 0.7))
    got, rate = jax.jit(jax.vmap(at))(np.array([[0.4], [1.0], [2.3]]))
    np.testing.assert_allclose(got, rate, rtol=1e-11)


def test_a_stationary_law_has_no_flux(x64):
    """On the line J = 0; p is Student's t with 2 theta + 1 degrees of freedom, scaled, by SciPy too."""
    p = lambda x: (1 + x[0] ** 2) ** (-THETA - 1)
    law = stats.t(2 * THETA + 1, scale=1 / np.sqrt(2 * THETA + 1))
    xs = np.array([[-2.0], [0.3], [1.5]])
    np.testing.assert_allclose(p(xs.T) / p(np.zeros(1)), law.pdf(xs[:, 0]) / law.pdf(0), rtol=1e-12)
    for vanishes in (generator.flux, generator.adjoint):
        at = jax.jit(jax.vmap(lambda x, f=vanishes: f(STUDENT, p, x, 0.0)))
        np.testing.assert_allclose(at(xs), 0, atol=1e-14)


def test_flux_circulates_where_detailed_balance_fails(x64):
    """At stationarity J / p = (F + D P^-1 / 2)(x - m): not 0 here, though its divergence is."""
    sde = linear.linear_sde(F, L, U)
    mean, cov = map(np.asarray, jax.jit(linear.LinearSDE.stationary)(sde))
    log_p, x = gaussian(mean, cov), np.array([0.6, -1.1])
    p = lambda x: jnp.exp(log_p(x))
    circulation = (F + 0.5 * L @ L.T @ np.linalg.inv(cov)) @ (x - mean)
    at = jax.jit(lambda x: (generator.flux(sde, p, x, 0.0) / p(x), generator.adjoint(sde, p, x, 0.0)))
    velocity, rate = at(x)
    np.testing.assert_allclose(velocity, circulation, rtol=1e-11)
    assert np.abs(circulation).max() > 0.1
    np.testing.assert_allclose(rate, 0, atol=1e-13)


def test_a_stationary_reversible_process_is_its_own_reversal(x64):
    score = lambda x, t: -2 * (THETA + 1) * x / (1 + x**2)
    back = generator.time_reversal(STUDENT, score, 1.0)
    both = jax.jit(
        lambda x: [(back.drift(x, 0.2), back.diffusion(x, 0.2)), (STUDENT.drift(x, 0.8), STUDENT.diffusion(x, 0.8))]
    )
    for x in (np.array([-2.0]), np.array([0.3])):
        for found, expected in zip(*both(x)):
            np.testing.assert_allclose(found, expected, rtol=1e-13)


@pytest.mark.parametrize("churn", [0.0, np.sqrt(0.5), 1.0, np.sqrt(2.0)])
def test_every_reversal_carries_the_density_back(x64, churn):
    """Geometric motion, whose noise depends on x: L* of the reversal is - d_t p, for sigma^2 / g^2 = 0, 1/2, 1, 2."""
    T, r = 1.1, 0.4
    back = generator.time_reversal(GEOMETRIC, jax.grad(lognormal), T, churn)
    p = lambda x, t: jnp.exp(lognormal(x, t))
    at = lambda x: (generator.adjoint(back, lambda x: p(x, T - r), x, r), -jax.grad(p, 1)(x, T - r))
    got, rate = jax.jit(jax.vmap(at))(np.array([[0.4], [1.0], [2.3]]))
    np.testing.assert_allclose(got, rate, rtol=1e-10)


@pytest.mark.parametrize("churn", [1.0, 0.6])
def test_the_reversal_runs_its_noise_backwards(x64, churn):
    """VP's g(t)^2 is beta(t) = 0.1 + 19.9 t: at r = 0.3 of the way back it is beta(0.7), and the drift that of t = 0.7.

    For N(0, 1) data the score is -x at every t.
    """
    back = generator.time_reversal(FORWARD_VP, lambda x, t: -x, 1.0, churn)
    x, beta = np.array([0.4, -1.0]), 0.1 + 19.9 * 0.7
    drift, diffusion = fields(back, x, 0.3)
    np.testing.assert_allclose(diffusion, churn * np.sqrt(beta) * np.eye(2), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(drift, beta / 2 * x - (1 + churn**2) / 2 * beta * x, rtol=1e-12)


def test_the_family_ends_at_the_data(x64):
    """dx = -x dt + sqrt(2) dw for 3 units from N(0, 1/4), back in N Euler steps with sigma^2 / g^2 = 0, 1/2, 1, 2.

    Variances by their own recursion: 0.2504, 0.2505, 0.2507, 0.2511 for N = 4000, and half that far off for 8000.
    """
    T, var = 3.0, lambda t: 1 - 0.75 * jnp.exp(-2 * t)
    sde = SDE(lambda x, t: -x, lambda x, t: jnp.full((1, 1), np.sqrt(2)))

    def end(churn2, n):
        back = generator.time_reversal(sde, lambda x, t: -x / var(t), T, np.sqrt(churn2))
        at = lambda r: (back.drift(jnp.ones(1), r)[0], back.diffusion(jnp.ones(1), r)[0, 0] ** 2)
        slopes, noises = map(np.asarray, jax.jit(jax.vmap(at))(np.arange(n) * (T / n)))
        v = 1 - 0.75 * np.exp(-2 * T)
        for slope, noise in zip(slopes, noises):
            v = (1 + slope * T / n) ** 2 * v + noise * T / n
        return v

    ends = np.array([end(churn2, 4000) for churn2 in (0.0, 0.5, 1.0, 2.0)])
    np.testing.assert_allclose(ends, [0.2504, 0.2505, 0.2507, 0.2511], atol=5e-5)
    np.testing.assert_allclose((ends[2] - 0.25) / (end(1.0, 8000) - 0.25), 2, rtol=0.01)


@pytest.mark.parametrize("churn", [0.0, 0.5, 1.0, 1.4])
def test_linear_reversals_retrace_the_moments(x64, churn):
    """The reversal is linear too: its moment rates are those of the forward SDE, negated (matrix L, off-diagonal D)."""
    sde = linear.linear_sde(F, L, U)
    law = jax.jit(lambda law: sde.discretize(0.6).push(law))(linear.Moments(MEAN, COV))
    score = lambda x, t: -jnp.linalg.solve(law.cov, x - law.mean)  # at t = 0.6, where it is looked at
    back = generator.time_reversal(sde, score, 1.0, churn)

    @jax.jit
    def rates(law):
        slope, offset = jax.jacfwd(back.drift)(law.mean, 0.4), back.drift(jnp.zeros(2), 0.4)
        return linear.linear_sde(slope, back.diffusion(law.mean, 0.4), offset).moment_rates(law)

    got = rates(law)
    m, P = np.asarray(law.mean), np.asarray(law.cov)
    np.testing.assert_allclose(got.mean, -(F @ m + U), atol=1e-13)
    np.testing.assert_allclose(got.cov, -(F @ P + P @ F.T + L @ L.T), atol=1e-13)


def test_reversing_twice(x64):
    """Proper reversals undo each other; strengths c, d leave f - (1 - (c d)^2) / 2 D score, c d G (kexue 9228)."""
    score = lambda x, t: -x * (1 + t)
    sde, x = linear.linear_sde(F, L, U), np.array([0.6, -1.1])
    back_score = lambda x, r: score(x, 1.0 - r)

    def twice(c, d):
        return generator.time_reversal(generator.time_reversal(sde, score, 1.0, c), back_score, 1.0, d)

    np.testing.assert_allclose(next(fields(twice(1.0, 1.0), x, 0.3)), F @ x + U, rtol=1e-13)
    family = F @ x + U - 0.5 * (1 - 0.6**2) * L @ L.T @ score(x, 0.3)
    drift, diffusion = fields(twice(1.2, 0.5), x, 0.3)
    np.testing.assert_allclose(drift, family, rtol=1e-13)
    np.testing.assert_allclose(diffusion, 0.6 * L, rtol=1e-13)


def test_probability_flow_is_the_reversal_without_noise(x64):
    flow = generator.probability_flow(GEOMETRIC, jax.grad(lognormal))
    back = generator.time_reversal(GEOMETRIC, jax.grad(lognormal), 1.0, 0.0)
    x = np.array([1.7])
    drift, diffusion = fields(back, x, 0.3)
    velocity = np.asarray(jax.jit(flow)(x, 0.7))
    np.testing.assert_allclose(drift, -velocity, rtol=1e-13)
    assert not np.any(diffusion)
    # log x = (mu - s^2 / 2) t + s sqrt(t) z with z held: the quantile's own velocity.
    z = (np.log(1.7) - (MU - VOL**2 / 2) * 0.7) / (VOL * np.sqrt(0.7))
    np.testing.assert_allclose(velocity, [1.7 * (MU - VOL**2 / 2 + VOL * z / (2 * np.sqrt(0.7)))], rtol=1e-12)


def test_forward_sdes_of_schedules(x64):
    """VP: f = -beta / 2, g^2 = beta."""
    x = np.array([0.6, -1.1])
    beta = 0.1 + 19.9 * 0.3
    drift, diffusion = fields(FORWARD_VP, x, 0.3)
    np.testing.assert_allclose(drift, -0.5 * beta * x, rtol=1e-12)
    np.testing.assert_allclose(diffusion, np.sqrt(beta) * np.eye(2), rtol=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: generator.ito(STUDENT, lambda x, t: x, jnp.zeros((2, 3)), 0.0), r"x has shape \(2, 3\)"),
        (lambda: generator.ito(STUDENT._replace(drift=lambda x, t: x[:1]), lambda x, t: x, jnp.zeros(2), 0.0),
         r"drift \(1,\).*expected \(2,\), \(2, k\)"),
        (lambda: generator.flux(STUDENT._replace(diffusion=lambda x, t: x), jnp.sum, jnp.zeros(2), 0.0),
         r"diffusion \(2,\) at x \(2,\)"),
        (lambda: generator.time_reversal(STUDENT, lambda x, t: x, 1.0, -0.1), "churn is -0.1, expected"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
