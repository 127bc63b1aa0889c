"""Linear SDEs against closed forms, SciPy's quadrature and ODE solvers; the properties of the Wiener process."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, linalg, stats

from diffjax import calculus, schedules
from diffjax.theory import linear

F = np.array([[-0.7, 1.3, 0.0], [-0.4, -0.2, 0.5], [0.1, 0.0, -1.1]])
L = np.array([[0.8, 0.0], [0.3, -0.6], [0.0, 0.2]])
U = np.array([0.5, -1.0, 0.25])
MEAN, COV = np.array([1.0, -2.0, 0.3]), np.array([[0.5, 0.1, 0.0], [0.1, 0.9, -0.2], [0.0, -0.2, 0.3]])


discretize, stationary = jax.jit(linear.LinearSDE.discretize), jax.jit(linear.LinearSDE.stationary)
moment_rates, push = jax.jit(linear.LinearSDE.moment_rates), jax.jit(linear.Transition.push)


def close(got, expected, atol=1e-12):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=atol), tuple(got), tuple(expected))


def by_quadrature(F, L, u, dt):
    """A, b, Q of the definition: SciPy's exponential under 60 Gauss-Legendre points."""
    nodes, weights = np.polynomial.legendre.leggauss(60)
    pushed = [linalg.expm(F * r) for r in dt * (nodes + 1) / 2]
    b = sum(w * E @ u for w, E in zip(weights, pushed)) * dt / 2
    return linalg.expm(F * dt), b, sum(w * E @ L @ L.T @ E.T for w, E in zip(weights, pushed)) * dt / 2


@pytest.mark.parametrize("dt", [0.0, 1e-3, 0.4, 2.5])
def test_van_loan_is_the_integral(x64, dt):
    close(discretize(linear.linear_sde(F, L, U), dt), by_quadrature(F, L, U, dt))


@pytest.mark.parametrize("t", [0.6, 0.5 / 1.7, 0.51 / 1.7])  # on both sides of where the step is first halved
def test_ornstein_uhlenbeck_in_closed_form(x64, t):
    """dx = -k (x - c) dt + g dw: mean c + (m - c) e^-kt, variance g^2 / 2k + (v - g^2 / 2k) e^-2kt."""
    k, c, g, m, v = 1.7, 0.4, 0.9, -2.0, 0.3
    sde = linear.linear_sde([[-k]], [[g]], [k * c])
    law = push(discretize(sde, t), linear.Moments(np.array([m]), np.array([[v]])))
    stay = g**2 / (2 * k)
    close(law, ([c + (m - c) * np.exp(-k * t)], [[stay + (v - stay) * np.exp(-2 * k * t)]]), 1e-14)
    close(stationary(sde), ([c], [[stay]]), 1e-14)


def test_moments_solve_their_odes(x64):
    """The transition pushes moments where SciPy's Runge-Kutta takes dm/dt = F m + u, dP/dt = F P + P F^T + L L^T."""

    def textbook(t, y):
        m, P = y[:3], y[3:].reshape(3, 3)
        return np.concatenate([F @ m + U, (F @ P + P @ F.T + L @ L.T).ravel()])

    solution = integrate.solve_ivp(
        textbook, (0, 1.5), np.concatenate([MEAN, COV.ravel()]), "DOP853", rtol=1e-12, atol=1e-13
    )
    sde, law = linear.linear_sde(F, L, U), linear.Moments(MEAN, COV)
    close(push(discretize(sde, 1.5), law), (solution.y[:3, -1], solution.y[3:, -1].reshape(3, 3)), 1e-10)
    rates = np.concatenate([np.ravel(a) for a in moment_rates(sde, law)])
    np.testing.assert_allclose(rates, textbook(0, np.concatenate([MEAN, COV.ravel()])), rtol=0, atol=1e-14)


def test_the_transition_is_differentiable_in_the_step(x64):
    """d/dt of the pushed moments is `moment_rates`, forwards and backwards, also beyond one time constant."""
    sde, start = linear.linear_sde(F, L, U), linear.Moments(MEAN, COV)
    at = lambda t: sde.discretize(t).push(start)
    for slopes in (jax.jit(jax.jacfwd(at))(3.0), jax.jit(jax.jacrev(at))(3.0)):
        close(slopes, moment_rates(sde, jax.jit(at)(3.0)))


def test_transitions_compose(x64):
    """Psi(t, u) Psi(u, s) = Psi(t, s), and the noise adds up to that of the whole step."""
    sde = linear.linear_sde(F, L, U)
    first, then, whole = (discretize(sde, dt) for dt in (0.35, 1.15, 1.5))
    close(jax.jit(linear.compose)(first, then), by_quadrature(F, L, U, 1.5))
    assert np.abs(np.asarray(first.Q) + np.asarray(then.Q) - np.asarray(whole.Q)).max() > 0.1


def test_a_stiff_system_keeps_its_digits(x64):
    """Rates 1 and 400 over 5 units: one exponential of the whole step holds exp(2000). Q from the eigenbasis of F."""
    basis, rates = np.array([[1.0, 0.6], [0.2, 1.0]]), np.array([-1.0, -400.0])
    stiff, noise = basis @ np.diag(rates) @ np.linalg.inv(basis), np.eye(2)
    inner = np.linalg.inv(basis) @ noise @ np.linalg.inv(basis).T
    both = rates[:, None] + rates[None]
    cov = basis @ (inner * np.expm1(both * 5.0) / both) @ basis.T
    got = discretize(linear.linear_sde(stiff, noise), 5.0)
    np.testing.assert_allclose(got.Q, cov, rtol=1e-11)
    np.testing.assert_allclose(got.A, basis @ np.diag(np.exp(5 * rates)) @ np.linalg.inv(basis), atol=1e-13)


def test_float32_is_enough():
    close(discretize(linear.linear_sde(F, L, U), 2.5), by_quadrature(F, L, U, 2.5), 3e-6)


def test_the_stationary_law_is_lyapunovs_and_the_limit(x64):
    sde = linear.linear_sde(F, L, U)
    law = stationary(sde)
    close(law, (np.linalg.solve(F, -U), linalg.solve_continuous_lyapunov(F, -L @ L.T)))
    far = discretize(sde, 200.0)
    close(push(far, linear.Moments(MEAN, COV)), law)
    np.testing.assert_allclose(far.A, 0, atol=1e-15)


@pytest.mark.parametrize("name", ["VP", "SubVP", "VE", "Cosine"])
def test_schedules_are_scalar_linear_sdes(x64, name):
    """x_t = alpha x_0 + sigma z moves by F = f I, L = g I: f, g^2 recovered from (alpha, sigma), by differences."""
    schedule, t, h = getattr(schedules, name)(), 0.4, 1e-5

    amplitudes = jax.jit(schedule)

    def marginal(t):
        alpha, sigma = map(float, amplitudes(t))
        return alpha * MEAN, alpha**2 * COV + sigma**2 * np.eye(3)

    f, g2 = map(float, jax.jit(calculus.rates)(schedule, t))
    sde = linear.linear_sde(f * np.eye(3), np.sqrt(g2) * np.eye(3))
    slopes = [(ahead - behind) / (2 * h) for ahead, behind in zip(marginal(t + h), marginal(t - h))]
    scale = max(np.abs(s).max() for s in slopes)
    close(moment_rates(sde, linear.Moments(*marginal(t))), slopes, 1e-7 * scale)


def test_euler_maruyama_has_weak_order_one(x64):
    """The errors of mean and variance halve with the step, from the recursion itself: no sampling."""
    sde, start = linear.linear_sde(F, L, U), linear.Moments(MEAN, COV)
    exact = push(discretize(sde, 1.0), start)

    def errors(n):
        A, b, Q = map(np.asarray, jax.jit(linear.euler_maruyama)(sde, 1.0 / n))
        mean, cov = start
        for _ in range(n):
            mean, cov = A @ mean + b, A @ cov @ A.T + Q
        return np.array([np.abs(a - b).max() for a, b in zip((mean, cov), exact)])

    np.testing.assert_allclose(np.log2(errors(128) / errors(256)), 1, atol=0.03)


def test_euler_maruyama_has_strong_order_one_for_additive_noise(x64):
    """E (x - x_EM)^2 in closed form: both paths, and what w did in the step, are one linear SDE (x, w).

    dx = -k x dt + g dw. Over a step, (noise of x, dw) has covariance g (1 - e^-kh) / k off its diagonal.
    """
    k, g = 1.7, 0.9
    pair = linear.linear_sde([[-k, 0.0], [0.0, 0.0]], [[g], [1.0]])

    def error(n):
        h, gap = 1.0 / n, np.zeros((2, 2))
        Q = np.asarray(discretize(pair, h).Q)
        np.testing.assert_allclose(Q[0, 1], g * -np.expm1(-k * h) / k, rtol=1e-12)
        np.testing.assert_allclose(Q[1, 1], h, rtol=1e-12)
        mix = np.array([[1.0, 0.0], [0.0, g]])  # the noise of the pair (exact, Euler-Maruyama)
        for _ in range(n):
            A = np.diag([np.exp(-k * h), 1 - k * h])
            gap = A @ gap @ A.T + mix @ Q @ mix.T
        return np.sqrt(gap[0, 0] + gap[1, 1] - 2 * gap[0, 1])

    assert abs(np.log2(error(128) / error(256)) - 1) < 0.02


PATHS, TS = 10000, np.array([0.0, 0.1, 0.3, 0.9, 1.0])


@pytest.fixture(scope="module")
def wiener_paths():
    sde = linear.wiener(2)
    walk = jax.jit(jax.vmap(lambda key: linear.sample_path(sde, key, jnp.zeros(2), TS)))
    return np.asarray(walk(jax.random.split(jax.random.key(3), PATHS)), np.float64)


def test_the_wiener_process_in_closed_form(x64):
    """Stationary increments N(0, dt I); scaling: w_(c t) has the law of sqrt(c) w_t."""
    sde = linear.wiener(2)
    short, long = discretize(sde, 0.7), discretize(sde, 2.1)
    close(short, (np.eye(2), np.zeros(2), 0.7 * np.eye(2)), 1e-15)
    close([3 * np.asarray(short.Q)], [long.Q], 1e-15)


def test_wiener_increments_are_independent_gaussians(wiener_paths):
    assert not wiener_paths[:, 0].any()
    scaled = np.diff(wiener_paths, axis=1) / np.sqrt(np.diff(TS))[None, :, None]
    for i in range(4):
        for axis in range(2):
            assert stats.kstest(scaled[:, i, axis], "norm").pvalue > 1e-4
    flat = scaled.reshape(PATHS, -1)
    # Uncorrelated, and so are the squares, as independent ones are: entries of standard deviation 1 / sqrt(n).
    for column in (flat, flat**2):
        correlation = np.corrcoef(column.T) - np.eye(8)
        assert np.abs(correlation).max() < 5 / np.sqrt(PATHS)


def test_wiener_covariance_is_the_earlier_time(wiener_paths):
    w = wiener_paths[:, 1:, 0]
    expected = np.minimum(TS[1:, None], TS[None, 1:])
    spread = np.sqrt((np.outer(TS[1:], TS[1:]) + expected**2) / PATHS)  # Isserlis
    assert np.all(np.abs(w.T @ w / PATHS - expected) < 5 * spread)


def test_the_brownian_bridge(wiener_paths):
    """w_s - (s / t) w_t is independent of w_t, of variance s (t - s) / t."""
    s, t = TS[2], TS[4]
    bridge = wiener_paths[:, 2] - s / t * wiener_paths[:, 4]
    var = s * (t - s) / t
    assert np.abs((bridge**2).mean(0) - var).max() < 5 * var * np.sqrt(2 / PATHS)
    assert np.abs((bridge * wiener_paths[:, 4]).mean(0)).max() < 5 * np.sqrt(var * t / PATHS)


def test_quadratic_variation_is_time_and_total_variation_diverges():
    """sum (dw)^2 -> T with standard deviation T sqrt(2 / n); sum |dw| = sqrt(2 n T / pi) without bound."""
    T, finest = 2.0, 1024
    ts = np.linspace(0, T, finest + 1)
    walk = jax.jit(lambda key, x: linear.sample_path(linear.wiener(1), key, x, ts))
    path = np.asarray(walk(jax.random.key(0), np.zeros(1)), np.float64)
    for n in (64, finest):
        steps = np.diff(path[:: finest // n, 0])
        assert abs(np.sum(steps**2) - T) < 5 * T * np.sqrt(2 / n)
        assert abs(np.abs(steps).sum() / np.sqrt(2 * n * T / np.pi) - 1) < 5 * np.sqrt((np.pi / 2 - 1) / n)


def test_paths_have_the_exact_law_whatever_the_spacing():
    """Steps of 0.1 to 0.8 end with the moments of 1.5; noise of rank 2 in 3 dimensions, then of rank 1 for ever."""
    sde = linear.linear_sde(F, L, U)
    m, P = by_quadrature(F, L, U, 1.5)[1:]
    m = m + linalg.expm(1.5 * F) @ MEAN
    ts = np.array([0.0, 0.1, 0.2, 0.7, 1.5])
    walk = jax.jit(jax.vmap(lambda key: linear.sample_path(sde, key, jnp.asarray(MEAN, float), ts)))
    ends = np.asarray(walk(jax.random.split(jax.random.key(5), PATHS)))[:, -1]
    assert np.all(np.abs(ends.mean(0) - m) < 5 * np.sqrt(np.diag(P) / PATHS))
    spread = np.sqrt((P**2 + np.outer(np.diag(P), np.diag(P))) / PATHS)
    assert np.all(np.abs(np.cov(ends.T) - P) < 5 * spread)
    single = linear.linear_sde(np.diag([-1.0, -1.0]), np.array([[1.0], [2.0]]))  # noise along one line, Q singular
    walk = jax.jit(lambda key, x: linear.sample_path(single, key, x, np.array([0.0, 0.5, 1.0])))
    x = np.asarray(walk(jax.random.key(0), np.zeros(2)))
    np.testing.assert_allclose(x[:, 1], 2 * x[:, 0], atol=1e-6)
    assert np.all(np.abs(x[1:, 0]) > 1e-3)


def test_one_compile_serves_every_linear_sde():
    traces = []

    @jax.jit
    def run(sde, dt):
        traces.append(1)
        return sde.discretize(dt).Q, sde.stationary().cov

    for scale in (1.0, 1.5):
        run(linear.linear_sde(scale * F, L), scale)
    assert len(traces) == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: linear.linear_sde(F[:2], L), r"F \(2, 3\), L \(3, 2\)"),
        (lambda: linear.linear_sde(F, L[:2]), r"L \(2, 2\).*expected \(d, d\), \(d, k\), \(d,\)"),
        (lambda: linear.linear_sde(F, L[:, 0]), r"L \(3,\)"),
        (lambda: linear.linear_sde(F, L, U[:2]), r"u \(2,\)"),
        (lambda: linear.linear_sde(np.full((3, 3), np.nan), L), "not finite"),
        (lambda: linear.linear_sde(F, L).discretize(-0.1), "dt is -0.1, expected a number >= 0"),
        (lambda: linear.wiener(2).stationary(), "real part 0, expected all negative"),
        (lambda: linear.linear_sde(-F, L).stationary(), "no stationary law"),
        (lambda: linear.sample_path(linear.wiener(1), jax.random.key(0), jnp.zeros(1), [0.0, 1.0, 0.5]), "rising"),
        (lambda: linear.sample_path(linear.wiener(1), jax.random.key(0), jnp.zeros(1), [0.0]), "at least two"),
    ],
)
def test_bad_input_is_one_line(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
