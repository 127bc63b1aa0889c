"""Densities that solve their equations in closed form leave nothing; what is left of the others is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax import schedules
from diffjax.theory import generator, linear, residuals
from diffjax.theory.generator import SDE

WEIGHTS, MEANS, VARIANCES = np.array([0.3, 0.7]), np.array([[-1.0, 0.5], [1.5, -0.2]]), np.array([0.05, 0.2])
POINTS = np.array([[0.0, 0.0], [-0.9, 0.4], [1.0, 1.0], [3.0, -2.0]])
F = np.array([[-0.7, 1.3], [-0.4, -0.2]])
L = np.array([[0.8, 0.0, 0.1], [0.5, -0.6, 0.2]])
U = np.array([0.5, -1.0])


def vp_mixture(x, t):
    """log p_t of two modes under VP, from beta's integral: the test's own formula."""
    B = 0.1 * t + 19.9 * t**2 / 2
    total = jnp.exp(-B) * VARIANCES + 1 - jnp.exp(-B)
    offset = x[None] - jnp.exp(-B / 2) * MEANS
    return jax.nn.logsumexp(np.log(WEIGHTS) - 0.5 * jnp.sum(offset**2, 1) / total - jnp.log(2 * np.pi * total))


def fokker_planck(log_p, sde, x, t):
    return jax.jit(lambda x, t: residuals.fokker_planck(log_p, sde, x, t))(x, t)


def test_a_mixture_under_vp_solves_both_equations(x64):
    """Fokker-Planck with f, g^2 of VP, continuity with its probability flow: rounding of rates of 1 to 20."""
    sde = generator.forward(schedules.VP())
    flow = lambda y, s: -0.5 * (0.1 + 19.9 * s) * (y + jax.grad(vp_mixture)(y, s))

    @jax.jit
    @jax.vmap
    def at(x, t):
        scale = (0.1 + 19.9 * t) * (1 + jnp.sum(jax.grad(vp_mixture)(x, t) ** 2))
        pair = residuals.fokker_planck(vp_mixture, sde, x, t), residuals.continuity(vp_mixture, flow, x, t)
        return jnp.stack(pair) / scale

    left = at(np.tile(POINTS, (3, 1)), np.repeat([0.05, 0.3, 0.9], 4))
    assert np.abs(left).max() < 1e-13


def test_residuals_far_out_where_the_density_underflows(x64):
    x, sde = np.array([60.0, -40.0]), generator.forward(schedules.VP())
    log_p, slope = map(np.asarray, jax.jit(jax.value_and_grad(vp_mixture))(x, 0.3))
    assert np.exp(log_p) == 0
    scale = 6.0 * np.sum(slope**2)
    assert abs(fokker_planck(vp_mixture, sde, x, 0.3)) < 1e-13 * scale


def test_what_is_left_of_a_wrong_field(x64):
    """A constant wind c leaves c . grad log p; the divergence-free spin around the mean of a round Gaussian leaves 0;
    noise g^2 (1 + e) in place of g^2 leaves - e g^2 / 2 Laplace p / p."""
    x, t, wind = np.array([1.0, 1.0]), 0.3, np.array([0.3, -0.2])
    flow = generator.probability_flow(generator.forward(schedules.VP()), jax.grad(vp_mixture))
    slope = np.asarray(jax.jit(jax.grad(vp_mixture))(x, t))
    blown = jax.jit(lambda x, t: residuals.continuity(vp_mixture, lambda y, s: flow(y, s) + wind, x, t))(x, t)
    np.testing.assert_allclose(blown, wind @ slope, rtol=1e-11)
    spin = lambda y, s: jnp.array([-y[1], y[0]])
    still = jax.jit(lambda x, t: residuals.continuity(lambda y, s: -0.5 * jnp.sum(y**2), spin, x, t))
    np.testing.assert_allclose(still(x, t), 0, atol=1e-15)
    beta = 0.1 + 19.9 * t
    loud = SDE(lambda y, s: -0.5 * beta * y, lambda y, s: jnp.sqrt(1.1 * beta) * jnp.eye(2))
    density = lambda y: jnp.exp(vp_mixture(y, t))
    curvature, p = map(np.asarray, jax.jit(lambda x: (jax.hessian(density)(x), density(x)))(x))
    laplace = np.trace(curvature) / p
    np.testing.assert_allclose(fokker_planck(vp_mixture, loud, x, t), -0.1 * beta / 2 * laplace, rtol=1e-10)


def test_noise_that_depends_on_the_place(x64):
    """Lognormal law of dx = mu x dt + s x dw. Stratonovich's drift mu x - s^2 x / 2 is not Ito's: it leaves
    - div(s^2 x p / 2) / p."""
    mu, s, t = 0.3, 0.8, 0.7

    def log_p(x, t):
        z = (jnp.log(x[0]) - (mu - s**2 / 2) * t) / (s * jnp.sqrt(t))
        return -0.5 * z**2 - jnp.log(x[0] * jnp.sqrt(t))

    ito, noise = lambda x, t: mu * x, lambda x, t: s * x[:, None]

    @jax.jit
    @jax.vmap
    def left(x):
        wrong = SDE(lambda x, t: (mu - s**2 / 2) * x, noise)
        both = (residuals.fokker_planck(log_p, sde, x, t) for sde in (SDE(ito, noise), wrong))
        return *both, x[0] * jax.grad(log_p)(x, t)[0]

    right, wrong, slope = map(np.asarray, left(np.array([[0.4], [1.0], [2.3]])))
    np.testing.assert_allclose(right, 0, atol=1e-12)
    np.testing.assert_allclose(wrong, -(s**2) / 2 * (1 + slope), rtol=1e-10)


def test_the_gaussian_law_of_a_linear_sde_with_correlated_noise(x64):
    """m(t), P(t) of off-diagonal G solve dP/dt of Fokker-Planck; P without its off-diagonal noise does not."""
    start = linear.Moments(np.array([1.0, -2.0]), np.array([[0.5, 0.1], [0.1, 0.9]]))

    def law_of(sde):
        def log_p(x, t):
            mean, cov = sde.discretize(t).push(start)
            return -0.5 * (x - mean) @ jnp.linalg.solve(cov, x - mean) - 0.5 * jnp.linalg.slogdet(cov)[1]

        return log_p

    sde, x = linear.linear_sde(F, L, U), np.array([0.6, -1.1])
    np.testing.assert_allclose(fokker_planck(law_of(sde), sde, x, 0.6), 0, atol=1e-12)
    apart = linear.linear_sde(F, np.diag(np.sqrt(np.sum(L**2, 1))), U)  # the same variances, uncorrelated
    assert abs(fokker_planck(law_of(sde), apart, x, 0.6)) > 0.05


def test_two_derivations_of_fokker_planck_agree(x64):
    """(d_t p - L* p) / p by the adjoint, for a density that solves nothing and a G of both x and t."""
    sde = SDE(lambda x, t: jnp.sin(x) * t, lambda x, t: jnp.array([[1 + 0.2 * x[1], t], [0.3 * x[0] ** 2, 0.5]]))
    log_p = lambda x, t: -0.5 * jnp.sum(x**2) * (1 + t) + jnp.cos(x[0] - x[1])
    p, x, t = (lambda x, t: jnp.exp(log_p(x, t))), np.array([0.6, -1.1]), 0.4
    direct = lambda x, t: (jax.grad(p, 1)(x, t) - generator.adjoint(sde, lambda y: p(y, t), x, t)) / p(x, t)
    np.testing.assert_allclose(fokker_planck(log_p, sde, x, t), jax.jit(direct)(x, t), rtol=1e-12)


K, CENTRE, NOISE, M0, V0 = 1.7, 0.4, 0.9, -2.0, 0.3  # dx = -K (x - CENTRE) dt + NOISE dw from N(M0, V0)
OU = SDE(lambda x, t: -K * (x - CENTRE), lambda x, t: jnp.full((1, 1), NOISE))


def ou_moments(t):
    stay = NOISE**2 / (2 * K)
    return CENTRE + (M0 - CENTRE) * np.exp(-K * t), stay + (V0 - stay) * np.exp(-2 * K * t)


def ou_rates(t):
    m, v = ou_moments(t)
    return -K * (m - CENTRE), -2 * K * v + NOISE**2


# d/dt E phi(x_t) from the moments alone: E x = m, E x^2 = m^2 + v, E cos(k x) = cos(k m) exp(-k^2 v / 2).
WEAK = {
    "x": (lambda x: x[0], lambda m, v, dm, dv: dm),
    "x^2": (lambda x: x[0] ** 2, lambda m, v, dm, dv: 2 * m * dm + dv),
    "cos 3x": (
        lambda x: jnp.cos(3 * x[0]),
        lambda m, v, dm, dv: np.exp(-4.5 * v) * (-3 * dm * np.sin(3 * m) - 4.5 * dv * np.cos(3 * m)),
    ),
}


@pytest.mark.parametrize("name", WEAK)
@pytest.mark.parametrize("t", [0.0, 0.5, 2.0])
def test_the_weak_form_on_ornstein_uhlenbeck(x64, name, t):
    """d/dt E phi = E L phi, the expectation by Gauss-Hermite."""
    phi, rate = WEAK[name]
    m, v = ou_moments(t)
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    at = jax.jit(jax.vmap(lambda x: generator.generator(OU, phi, x, t)))
    values = np.asarray(at((m + np.sqrt(v) * nodes)[:, None]))
    np.testing.assert_allclose(weights @ values / np.sqrt(2 * np.pi), rate(m, v, *ou_rates(t)), atol=1e-12)


def test_the_weak_form_of_the_second_moment_is_the_covariance_equation(x64):
    """phi = (x - m)(x - m)^T, off-diagonal G: E L phi = F P + P F^T + L L^T, exact over points with these moments."""
    P, m = np.array([[0.5, 0.1], [0.1, 0.9]]), np.array([1.0, -2.0])
    root = np.linalg.cholesky(P) * np.sqrt(2)
    points = m + np.concatenate([root.T, -root.T])
    sde = linear.linear_sde(F, L, U)
    at = jax.jit(jax.vmap(lambda x: generator.generator(sde, lambda y: jnp.outer(y - m, y - m), x, 0.0)))
    np.testing.assert_allclose(np.mean(at(points), 0), F @ P + P @ F.T + L @ L.T, atol=1e-14)


TS = np.linspace(0.0, 1.0, 33)


def test_dynkins_formula_from_samples():
    """0 within 4.5 standard errors for three test functions at once; a drift 10 % too strong is caught."""
    sde, n = linear.linear_sde([[-K]], [[NOISE]], [K * CENTRE]), 8000
    phi = lambda x, t: jnp.stack([x[0], x[0] ** 2, jnp.cos(3 * x[0]) * jnp.exp(-t)])

    @jax.jit
    @jax.vmap
    def run(key):
        key_0, key = jax.random.split(key)
        x = linear.sample_path(sde, key, M0 + np.sqrt(V0) * jax.random.normal(key_0, (1,)), TS)
        wrong = linear.linear_sde([[-1.1 * K]], [[NOISE]], [1.1 * K * CENTRE])
        return residuals.weak(sde, phi, x, TS), residuals.weak(wrong, phi, x, TS)

    right, wrong = (np.asarray(a) for a in run(jax.random.split(jax.random.key(0), n)))
    error = right.std(0) / np.sqrt(n)
    h2 = (TS[1] - TS[0]) ** 2  # the trapezoid's own error is below this times the curvature, some units here
    assert np.all(np.abs(right.mean(0)) < 4.5 * error + 2 * h2)
    assert np.all(np.abs(wrong.mean(0))[:2] > 10 * error[:2])
    np.testing.assert_allclose(right[:, 0].std(), NOISE, rtol=0.05)  # the martingale of phi = x is g w_1


def test_along_an_ode_the_weak_form_holds_on_each_path(x64):
    """x = (cos t, sin t) under the spin, phi with t: the trapezoid's error alone, of second order."""
    spin = generator.ode(lambda x, t: jnp.array([-x[1], x[0]]))
    phi = lambda x, t: x[0] ** 3 * t + x[1]

    def error(n):
        ts = np.linspace(0.3, 1.3, n + 1)
        return abs(float(jax.jit(lambda xs: residuals.weak(spin, phi, xs, ts))(np.stack([np.cos(ts), np.sin(ts)], 1))))

    assert error(64) < 1e-3
    assert abs(np.log2(error(64) / error(128)) - 2) < 0.01


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: residuals.weak(OU, jnp.sum, jnp.zeros(3), np.zeros(3)), r"xs \(3,\).*\(K, d\)"),
        (lambda: residuals.weak(OU, jnp.sum, jnp.zeros((3, 1)), np.zeros(2)), r"ts \(2,\)"),
        (lambda: residuals.weak(OU, jnp.sum, jnp.zeros((1, 1)), np.zeros(1)), "K >= 2"),
        (lambda: residuals.fokker_planck(lambda x, t: -jnp.sum(x**2), OU, jnp.zeros((1, 1)), 0.1), "vector"),
        (lambda: residuals.fokker_planck(lambda x, t: -jnp.sum(x**2), OU, jnp.zeros(2), 0.1), r"diffusion \(1, 1\)"),
    ],
)
def test_bad_input_is_one_line(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
