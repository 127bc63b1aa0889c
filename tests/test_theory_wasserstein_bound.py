"""W2 <= score matching, where both sides are known: equality on the line, a strict case, and the wrong sign.

The numbers are closed forms. Fields A x and B x over [0, 1] from N(0, I): x_0 = exp(-A) x_1, so that for diagonal A, B
W2^2 = sum_i (exp(-a_i) - exp(-b_i))^2, and E |f - g|^2 = sum_i (a_i - b_i)^2 exp(2 a_i (t - 1)).
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, linalg

from diffjax import schedules
from diffjax.theory import generator
from diffjax.theory import wasserstein_bound as wb

RULE = wb.gauss_legendre(1.0)


def bound(f, g, xs, rule, *prior):
    """The bound as one program."""
    return jax.tree.map(np.asarray, jax.jit(lambda xs, *prior: wb.bound(f, g, xs, rule, *prior))(xs, *prior))


assemble = jax.jit(lambda errors, constants: wb.assemble(RULE, errors, constants))


def points(mean, covs):
    """Cubature points for the covariance at each time."""
    return jax.jit(jax.vmap(wb.cubature, (None, 0)))(np.asarray(mean), np.asarray(covs))


@jax.jit
def of_fields(a, b, xs, prior):
    """The bound of linear fields."""
    return wb.bound(lambda x, t: a @ x, lambda x, t: b @ x, xs, RULE, prior)


def linear_case(a, b, prior_scale=1.0):
    """The bound of the diagonal fields, and W2; q starts from N(0, prior_scale^2 I)."""
    a, b = np.asarray(a), np.asarray(b)
    xs = points(np.zeros(len(a)), [np.diag(np.exp(2 * a * (t - 1))) for t in RULE.ts])
    prior = np.sqrt(len(a)) * abs(prior_scale - 1)
    result = jax.tree.map(np.asarray, of_fields(np.diag(a), np.diag(b), xs, prior))
    return result, np.sqrt(np.sum((np.exp(-a) - prior_scale * np.exp(-b)) ** 2))


def test_equality_on_the_line(x64):
    result, distance = linear_case([0.8], [0.2])
    np.testing.assert_allclose(distance, 0.3694017890, atol=5e-11)
    np.testing.assert_allclose(result.total, distance, rtol=1e-13)
    np.testing.assert_allclose(result.lipschitz, -0.2, rtol=1e-14)
    np.testing.assert_allclose(result.growth, np.exp(-0.2 * RULE.ts), rtol=1e-14)
    np.testing.assert_allclose(result.errors, 0.6 * np.exp(0.8 * (RULE.ts - 1)), rtol=1e-14)


def test_equality_with_two_priors(x64):
    """A wider prior adds I_T W2(p_T, q_T), and on the line nothing is lost as long as both push the same way."""
    result, distance = linear_case([0.8], [0.2], prior_scale=1.3)
    np.testing.assert_allclose(result.prior, 0.3 * np.exp(-0.2), rtol=1e-13)
    np.testing.assert_allclose(result.total, distance, rtol=1e-13)
    result, distance = linear_case([0.8], [0.2], prior_scale=0.7)
    assert result.total > distance + 0.1


def test_a_strict_case_in_two_dimensions(x64):
    a, b = np.array([-0.4, 0.8]), np.array([0.6, 0.2])
    result, distance = linear_case(a, b)
    error = lambda t: np.sqrt(np.sum((a - b) ** 2 * np.exp(2 * a * (t - 1))))
    expected = integrate.quad(lambda t: np.exp(-0.2 * t) * error(t), 0, 1, epsabs=1e-13)[0]  # max(-b) = -0.2
    np.testing.assert_allclose(result.total, expected, rtol=1e-12)
    np.testing.assert_allclose([distance, result.total], [1.0128, 1.1874], atol=5e-5)


def test_the_wrong_sign_is_no_bound(x64):
    """The constant of g in place of that of -g: 'bounds' a distance of 1.3728 by 0.6964."""
    a, b = 0.8, -0.6
    result, distance = linear_case([a], [b])
    wrong = assemble(result.errors, np.full(len(RULE.ts), b))
    closed = (a - b) * np.exp(-a) * np.expm1(a + b) / (a + b)
    np.testing.assert_allclose([distance, wrong.total], [1.3728, 0.6964], atol=5e-5)
    np.testing.assert_allclose(wrong.total, closed, rtol=1e-13)
    np.testing.assert_allclose(result.total, distance, rtol=1e-13)
    assert wrong.total < distance <= result.total * (1 + 1e-12)


def test_equality_for_a_scaled_score(x64):
    """VP with int beta = 5, data N(0, 1/4), s_theta = 1.1 s: both flows are scalings of one prior.

    x_0 / x_T = sqrt(v / V_T) exp(-(d / 2) int beta / V dt), and int beta / V dt = B + log(V_T / v).
    """
    v, delta, B = 0.25, 0.1, 5.0
    schedule = schedules.VP(beta_min=B, beta_max=B)
    var = lambda t: v * jnp.exp(-B * t) + 1 - jnp.exp(-B * t)
    sde = generator.forward(schedule)
    flow = lambda scale: generator.probability_flow(sde, lambda x, t: -scale * x / var(t))
    rule = wb.gauss_legendre(1.0, 24)  # no point at t = 0, where the rates of a schedule are not defined
    variance = lambda t: v * np.exp(-B * t) - np.expm1(-B * t)
    result = bound(flow(1.0), flow(1 + delta), points([0.0], variance(rule.ts)[:, None, None]), rule)
    distance = np.sqrt(v) * -np.expm1(-delta / 2 * (B + np.log(variance(1.0) / v)))
    np.testing.assert_allclose(distance, 0.13658454, atol=5e-9)
    np.testing.assert_allclose(result.total, distance, rtol=1e-9)
    # The inner term is score matching: g^2 / 2 times the root of E |s - s_theta|^2 = delta^2 / V.
    np.testing.assert_allclose(result.errors, B / 2 * delta / np.sqrt(variance(rule.ts)), rtol=1e-10)


def test_the_reverse_sde(x64):
    """The same score under the drifts of the SDE: variances by SciPy; the bound holds, here strictly."""
    v, delta, B = 0.25, 0.1, 5.0
    var = lambda t: v * np.exp(-B * t) - np.expm1(-B * t)
    rule = wb.gauss_legendre(1.0, 24)
    drift = lambda scale: lambda x, t: -B / 2 * x + scale * B * x / (v * jnp.exp(-B * t) - jnp.expm1(-B * t))
    result = bound(drift(1.0), drift(1 + delta), points([0.0], var(rule.ts)[:, None, None]), rule)
    back = lambda r, V: 2 * (B / 2 - (1 + delta) * B / var(1 - r)) * V + B
    spread = integrate.solve_ivp(back, (0, 1), [var(1.0)], "DOP853", rtol=1e-12, atol=1e-13).y[0, -1]
    distance = abs(np.sqrt(v) - np.sqrt(spread))
    growth = lambda t: np.exp(integrate.quad(lambda s: B / 2 - (1 + delta) * B / var(s), 0, t, epsabs=1e-12)[0])
    expected = integrate.quad(lambda t: growth(t) * B * delta / np.sqrt(var(t)), 0, 1, epsabs=1e-11)[0]
    np.testing.assert_allclose(result.total, expected, rtol=1e-9)
    assert distance < result.total < 3 * distance


def test_fields_that_are_not_linear(x64):
    """A pitchfork f = sin(2 x) and its model off by a bump; one prior. W2 is the quantiles', both maps rising."""
    f, g = (lambda t, x: np.sin(2 * x)), (lambda t, x: np.sin(2 * x) + 0.3 * t * np.cos(x))
    nodes, weights = np.polynomial.legendre.leggauss(200)
    z, weights = 8 * nodes, weights * np.exp(-((8 * nodes) ** 2) / 2)
    weights = weights / weights.sum()
    times = np.append(RULE.ts[::-1], 0.0)
    true, model = (integrate.solve_ivp(h, (1, 0), z, "DOP853", times, rtol=1e-10, atol=1e-12).y for h in (f, g))
    assert np.all(np.diff(true[:, -1]) > 0)
    assert np.all(np.diff(model[:, -1]) > 0)
    distance = np.sqrt(weights @ (true[:, -1] - model[:, -1]) ** 2)
    along = true[:, -2::-1].T  # (n, 200): p_t at the rule's times, weighted by the prior
    errors = np.sqrt(np.square(0.3 * RULE.ts[:, None] * np.cos(along)) @ weights)
    domain = np.linspace(-np.pi, np.pi, 2001)  # -g' over a period is its supremum over the line
    constants = np.max(-2 * np.cos(2 * domain) + 0.3 * RULE.ts[:, None] * np.sin(domain), 1)
    result = assemble(errors, constants)
    assert 0.05 < distance < result.total
    negated = lambda x, t: -jnp.sin(2 * x) - 0.3 * t * jnp.cos(x)
    got = jax.jit(jax.vmap(lambda x: wb.one_sided_lipschitz(negated, x, RULE.ts[3])))(domain[:, None])
    np.testing.assert_allclose(np.max(got), constants[3], rtol=1e-12)


def test_bound_averages_and_maximises_over_samples(x64):
    """E over the points by the mean of squares, L by their maximum, by hand on two points."""
    f, g = (lambda x, t: x**2), (lambda x, t: t * x)
    rule = wb.gauss_legendre(1.0, 3)
    xs = np.broadcast_to(np.array([[1.0], [3.0]]), (3, 2, 1))
    result = bound(f, g, xs, rule)
    np.testing.assert_allclose(result.errors, np.sqrt(((1 - rule.ts) ** 2 + (9 - 3 * rule.ts) ** 2) / 2), rtol=1e-14)
    np.testing.assert_allclose(result.lipschitz, -rule.ts, rtol=1e-14)
    bent = bound(f, lambda x, t: -(x**2), xs, rule)
    np.testing.assert_allclose(bent.lipschitz, 6.0)  # the steeper of the two


def test_the_constant_of_a_shear_is_not_its_eigenvalue(x64):
    """A = [[0, 4], [0, 0]]: eigenvalues 0, constant 2, that of -A too. The definition, over random pairs."""
    A = np.array([[0.0, 4.0], [0.0, 0.0]])
    for sign in (1, -1):
        got = jax.jit(lambda x, s=sign: wb.one_sided_lipschitz(lambda x, t: s * A @ x, x, 0.0))(np.zeros(2))
        np.testing.assert_allclose(got, 2.0, rtol=1e-14)
    gaps = np.random.default_rng(0).normal(size=(4000, 2))
    slopes = np.einsum("ni,ij,nj->n", gaps, A, gaps) / np.sum(gaps**2, 1)
    assert 1.999 < slopes.max() <= 2.0
    contraction = jax.jit(lambda x: wb.one_sided_lipschitz(lambda x, t: -np.array([1.0, 3.0]) * x, x, 0.0))(np.zeros(2))
    np.testing.assert_allclose(contraction, -1.0)


def test_the_rule_integrates_polynomials(x64):
    """Weights to degree 2 n - 1, running integrals to degree n - 1, on an interval of its own."""
    rule = wb.gauss_legendre(2.5, 6, t_min=0.5)
    for k in range(12):
        np.testing.assert_allclose(rule.weights @ rule.ts**k, (2.5 ** (k + 1) - 0.5 ** (k + 1)) / (k + 1), rtol=1e-13)
    for k in range(6):
        np.testing.assert_allclose(
            rule.cumulative @ rule.ts**k, (rule.ts ** (k + 1) - 0.5 ** (k + 1)) / (k + 1), rtol=1e-12
        )
    one = wb.gauss_legendre(2.0, 1)
    np.testing.assert_allclose(one.cumulative, [[1.0]], rtol=1e-15)


def test_cubature_has_the_moments(x64):
    mean, cov = np.array([1.0, -2.0, 0.5]), np.array([[0.5, 0.1, 0.0], [0.1, 0.9, -0.2], [0.0, -0.2, 0.3]])
    drawn = np.asarray(jax.jit(wb.cubature)(mean, cov))
    assert drawn.shape == (6, 3)
    np.testing.assert_allclose(drawn.mean(0), mean, rtol=1e-14)
    np.testing.assert_allclose(np.cov(drawn.T, bias=True), cov, atol=1e-14)
    A = np.array([[0.3, 1.0, 0.0], [0.0, -1.0, 2.0]])
    expected = np.sum((A @ mean) ** 2) + np.trace(A @ cov @ A.T)  # E |A x|^2
    np.testing.assert_allclose(np.mean(np.sum((drawn @ A.T) ** 2, 1)), expected, rtol=1e-13)


def test_a_full_matrix_case_against_scipy(x64):
    """Fields that do not commute: Gaussian W2 by SciPy's matrix square root below the bound by its quadrature."""
    A, B = np.array([[0.5, 0.8], [-0.3, 0.2]]), np.array([[0.4, 0.5], [-0.6, 0.3]])
    cov = lambda M, t: linalg.expm(M * (t - 1)) @ linalg.expm(M * (t - 1)).T
    result = of_fields(A, B, points(np.zeros(2), [cov(A, t) for t in RULE.ts]), 0.0)
    L = np.linalg.eigvalsh(-(B + B.T) / 2)[-1]
    rms = lambda t: np.sqrt(np.trace((A - B) @ cov(A, t) @ (A - B).T))
    expected = integrate.quad(lambda t: np.exp(L * t) * rms(t), 0, 1, epsabs=1e-13)[0]
    np.testing.assert_allclose(result.total, expected, rtol=1e-11)
    P, Q = cov(A, 0), cov(B, 0)
    root = linalg.sqrtm(P)
    distance = np.sqrt(np.trace(P + Q - 2 * linalg.sqrtm(root @ Q @ root)).real)
    assert 0.1 < distance < result.total


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: wb.gauss_legendre(0.0), "t_min = 0.0, t_max = 0.0"),
        (lambda: wb.gauss_legendre(1.0, 0), "points = 0, expected t_min < t_max and points >= 1"),
        (
            lambda: wb.bound(lambda x, t: x, lambda x, t: x, jnp.zeros((3, 2, 1)), RULE),
            r"\(3, 2, 1\), expected \(16, N",
        ),
        (lambda: wb.bound(lambda x, t: x, lambda x, t: x, jnp.zeros((16, 1)), RULE), r"xs has shape \(16, 1\)"),
        (lambda: wb.bound(lambda x, t: x, lambda x, t: x, jnp.zeros((16, 2, 1)), RULE, -1.0), "distance is -1.0"),
    ],
)
def test_bad_input_is_one_line(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
