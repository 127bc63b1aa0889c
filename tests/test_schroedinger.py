"""Schroedinger bridges in closed form: between Gaussians, on a line, on tables; Sinkhorn's grid is a second opinion."""

from itertools import pairwise

import numpy as np
import pytest
from scipy import integrate, linalg, optimize, special

from diffjax.theory import schroedinger as theory

EPSILON = 0.3
LAWS = (  # means and covariances that do not commute
    np.array([0.3, -1.0]),
    np.array([[1.0, 0.5], [0.5, 0.7]]),
    np.array([-0.4, 0.2]),
    np.array([[0.4, -0.3], [-0.3, 1.2]]),
)
LINE = (np.array([0.4]), np.array([[0.5]]), np.array([-0.3]), np.array([[1.3]]))
BRIDGE, FREE = theory.gaussian(*LAWS, EPSILON), theory.independent(*LAWS)


# The static bridge.


@pytest.mark.parametrize("epsilon", [0.01, 0.3, 7.0])
def test_the_closed_form_solves_schroedinger_s_system(epsilon):
    """The precision of (x_0, x_1) is free on its diagonal blocks and -I / epsilon off them: f(x) R(y | x) g(y)."""
    pair = theory.gaussian(*LAWS, epsilon)
    precision = np.linalg.inv(pair.cov)
    np.testing.assert_allclose(precision[:2, 2:], -np.eye(2) / epsilon, atol=1e-9 / epsilon**2)
    assert np.linalg.eigvalsh(pair.cov)[0] > 0


def test_no_other_coupling_costs_less():
    """E|x - y|^2 / 2 + epsilon KL(pi | p x q) at C and at C + a small matrix, in 20 directions."""
    rng = np.random.default_rng(0)

    def objective(cross):
        pair = BRIDGE._replace(cross=cross)
        return pair.cost / 2 + EPSILON * theory.divergence(pair, FREE)

    least = objective(BRIDGE.cross)
    for direction in rng.normal(size=(20, 2, 2)):
        assert objective(BRIDGE.cross + 1e-3 * direction) > least
        slope = objective(BRIDGE.cross + 1e-5 * direction) - objective(BRIDGE.cross - 1e-5 * direction)
        assert abs(slope) / 2e-5 < 1e-7


def sinkhorn(epsilon, size=240, turns=3000):
    """Sinkhorn's plan between two normal laws on a line, on a fine grid; with its grids, and the potential g of y."""
    (m0,), ((s0,),), (m1,), ((s1,),) = LINE
    x, y = (m + np.sqrt(s) * np.linspace(-7, 7, size) for m, s in ((m0, s0), (m1, s1)))
    p, q = (np.exp(-((grid - m) ** 2) / (2 * s)) for grid, m, s in ((x, m0, s0), (y, m1, s1)))
    p, q = p / p.sum(), q / q.sum()
    cost, f, g = (x[:, None] - y) ** 2 / (2 * epsilon), np.zeros(size), np.zeros(size)
    for _ in range(turns):
        f = np.log(p) - special.logsumexp(g - cost, axis=1)
        new = np.log(q) - special.logsumexp(f[:, None] - cost, axis=0)
        done, g = np.abs(new - g).max() < 1e-13, new
        if done:
            break
    return x, y, np.exp(f[:, None] + g - cost), g


@pytest.mark.parametrize("epsilon", [0.3, 2.0])
def test_sinkhorn_on_a_fine_grid_agrees(epsilon):
    """The covariance, and at t = 0.3 the variance of x_t, E[x_0 | x_t] and the drift epsilon d log phi / dx."""
    pair = theory.gaussian(*LINE, epsilon)
    x, y, plan, g = sinkhorn(epsilon)
    cross = plan.ravel() @ np.outer(x - 0.4, y + 0.3).ravel()
    assert cross == pytest.approx(pair.cross[0, 0], abs=1e-9)
    t, at = 0.3, 0.9
    mean, noise = (1 - t) * x[:, None] + t * y, epsilon * t * (1 - t)
    v = plan.ravel() @ (mean.ravel() - (0.7 * 0.4 - 0.3 * 0.3)) ** 2 + noise
    assert v == pytest.approx(theory.marginal(pair, t, epsilon)[1][0, 0], abs=1e-9)
    weight = plan * np.exp(-((at - mean) ** 2) / (2 * noise))
    K, k, Q = theory.posterior(pair, t, epsilon)
    found = (weight.sum(1) @ x) / weight.sum()
    assert found == pytest.approx((K * at + k)[0, 0], abs=1e-8)
    assert (weight.sum(1) @ x**2) / weight.sum() - found**2 == pytest.approx(Q[0, 0], abs=1e-8)
    # phi(x, t) = int R(y | x_t = x) g(y) dy up to a constant; R's own drift is 0.
    log = lambda at: special.logsumexp(g - (y - at) ** 2 / (2 * epsilon * (1 - t)))
    F, f = theory.forward(pair, t, epsilon)
    assert epsilon * (log(at + 1e-4) - log(at - 1e-4)) / 2e-4 == pytest.approx(F[0, 0] * at + f[0], abs=1e-6)


def test_without_noise_it_is_monge_s_map_and_with_much_it_is_independent():
    mean0, S0, mean1, S1 = LAWS
    root = linalg.sqrtm(S0)
    monge = np.linalg.solve(root, linalg.sqrtm(root @ S1 @ root)) @ np.linalg.inv(root)
    near = theory.gaussian(*LAWS, 1e-7)
    np.testing.assert_allclose(near.cross, S0 @ monge, atol=1e-6)
    bures = np.sum((mean0 - mean1) ** 2) + np.trace(S0 + S1 - 2 * linalg.sqrtm(root @ S1 @ root))
    assert near.cost == pytest.approx(bures, abs=1e-6)
    far = theory.gaussian(*LAWS, 1e4)
    np.testing.assert_allclose(far.cross, S0 @ S1 / 1e4, atol=1e-7)
    assert far.cost == pytest.approx(FREE.cost, abs=1e-3)


def test_a_large_epsilon_leaves_the_leading_term():
    """C epsilon -> S_0 S_1, off by 1 / epsilon of it: no digit is lost to a difference of two large numbers."""
    S0, S1 = LAWS[1], LAWS[3]
    for epsilon in (1e6, 1e9, 1e12):
        C = theory.gaussian(*LAWS, epsilon).cross
        np.testing.assert_allclose(C * epsilon, S0 @ S1, atol=1e-9 + 1e2 / epsilon)


# Markovian fitting.


@pytest.mark.parametrize("pair", [BRIDGE, FREE, theory.gaussian(*LAWS, 2.0)], ids=["bridge", "free", "another"])
def test_the_projection_keeps_the_marginals(pair):
    """V' = F V + V F' + epsilon and m' = F m + f, by central differences; F is finite where it is divided by 1 - t."""
    for t in (1e-6, 0.2, 0.7, 1 - 1e-6):
        (m, V), (F, f), h = theory.marginal(pair, t, EPSILON), theory.forward(pair, t, EPSILON), 5e-7
        (m_1, V_1), (m_0, V_0) = (theory.marginal(pair, t + s, EPSILON) for s in (h, -h))
        np.testing.assert_allclose((V_1 - V_0) / (2 * h), F @ V + V @ F.T + EPSILON * np.eye(2), atol=1e-8)
        np.testing.assert_allclose((m_1 - m_0) / (2 * h), F @ m + f, atol=1e-8)


def test_the_drift_is_that_of_the_mean_end():
    """Forward (E[x_1 | x_t] - x) / (1 - t), backward (E[x_0 | x_t] - x) / t; their sum is epsilon times the score."""
    for pair in (BRIDGE, FREE):
        for t in (0.1, 0.5, 0.9):
            mean, V = theory.marginal(pair, t, EPSILON)
            K, k, _ = theory.posterior(pair, t, EPSILON)
            L, last, _ = theory.posterior(pair.swapped, 1 - t, EPSILON)
            F, f = theory.forward(pair, t, EPSILON)
            np.testing.assert_allclose(F, (L - np.eye(2)) / (1 - t), atol=1e-12)
            np.testing.assert_allclose(f, last / (1 - t), atol=1e-12)
            np.testing.assert_allclose(F + (K - np.eye(2)) / t, -EPSILON * np.linalg.inv(V), atol=1e-11)
            np.testing.assert_allclose(f + k / t, EPSILON * np.linalg.solve(V, mean), atol=1e-11)


def test_on_a_line_the_projection_has_a_second_closed_form():
    """F = (v' - epsilon) / 2 v, so that Phi_1 = sqrt(v_1 / v_0) exp(-epsilon / 2 int dt / v_t)."""
    pair = theory.independent(*LINE)
    v = lambda t: theory.marginal(pair, t, EPSILON)[1][0, 0]
    inside = integrate.quad(lambda t: 1 / v(t), 0, 1, epsabs=1e-13)[0]
    expected = np.sqrt(0.5 * 1.3) * np.exp(-EPSILON / 2 * inside)
    assert theory.projected(pair, EPSILON).cross[0, 0] == pytest.approx(expected, abs=1e-10)


def test_the_bridge_alone_is_left_where_it_was():
    np.testing.assert_allclose(theory.projected(BRIDGE, EPSILON).cross, BRIDGE.cross, atol=1e-9)
    assert np.abs(theory.projected(FREE, EPSILON).cross - FREE.cross).max() > 0.1
    assert np.abs(theory.projected(BRIDGE, 1.5 * EPSILON).cross - BRIDGE.cross).max() > 0.01


@pytest.mark.parametrize("first", [FREE, theory.gaussian(*LAWS, 1e-3)], ids=["free", "nearly Monge's"])
def test_markovian_fitting_converges_and_kl_falls(first):
    """From either side; KL of path laws is that of the pairs, since all have the bridges of one reference."""
    pair, kls = first, [theory.divergence(first, BRIDGE)]
    for _ in range(20):
        pair = theory.projected(pair, EPSILON, 64)
        kls.append(theory.divergence(pair, BRIDGE))
        np.testing.assert_allclose(theory.marginal(pair, 1.0, EPSILON)[1], LAWS[3], atol=1e-12)
    assert all(after < before for before, after in pairwise(kls) if before > 1e-10)
    assert kls[-1] < 1e-5 * kls[0]
    np.testing.assert_allclose(pair.cross, BRIDGE.cross, atol=5e-3)


def test_pythagoras_at_the_markovian_projection():
    """KL(Pi | P*) = KL(Pi | M) + KL(M | P*) for the projection M of Pi, each by Girsanov's integral of drifts.

    Pi's own drift, given where it began, is the mean of the bridge's: its distance to M's is what x_0 says of x_1.
    """
    S1, S0, C = FREE.cov1, FREE.cov0, FREE.cross

    def first(t):
        """E|E[x_1 | x_0, x_t] - E[x_1 | x_t]|^2 / (1 - t)^2: a difference of two conditional variances."""
        given = S1 - C.T @ np.linalg.solve(S0, C)  # of x_1 given x_0; then given t x_1 + noise too
        both = given - t**2 * given @ np.linalg.solve(t**2 * given + EPSILON * t * (1 - t) * np.eye(2), given)
        alone = theory.posterior(FREE.swapped, 1 - t, EPSILON)[2]
        return np.trace(alone - both) / (1 - t) ** 2

    def second(t):
        """E|(F - F*) x + f - f*|^2 under M, whose marginals are those of Pi."""
        mean, V = theory.marginal(FREE, t, EPSILON)
        F, f = (one - other for one, other in zip(theory.forward(FREE, t, EPSILON), theory.forward(BRIDGE, t, EPSILON)))
        away = F @ mean + f
        return np.trace(F @ V @ F.T) + away @ away

    parts = [integrate.quad(part, 0, 1 - 1e-7, epsabs=1e-8)[0] / (2 * EPSILON) for part in (first, second)]
    assert sum(parts) == pytest.approx(theory.divergence(FREE, BRIDGE), abs=1e-5)
    moved = theory.projected(FREE, EPSILON)
    assert 0 < theory.divergence(moved, BRIDGE) < parts[1]  # the next reciprocal projection takes some more


# Proportional fitting.


def test_proportional_fitting_converges_to_the_same_bridge():
    """From the reference; every half turn has one marginal, a KL to the bridge that falls, and the right precision."""
    pair, kls = theory.reference(*LAWS[:2], EPSILON), []
    for _ in range(60):
        pair = theory.fit_end(pair, *LAWS[2:])
        kls.append(theory.divergence(BRIDGE, pair))
        np.testing.assert_allclose(np.linalg.inv(pair.cov)[:2, 2:], -np.eye(2) / EPSILON, rtol=1e-7, atol=1e-7)
        pair = theory.fit_start(pair, *LAWS[:2])
        np.testing.assert_allclose(pair.cov0, LAWS[1], atol=1e-12)
        kls.append(theory.divergence(BRIDGE, pair))
    assert all(after < before for before, after in pairwise(kls) if before > 1e-10)
    np.testing.assert_allclose(pair.cross, BRIDGE.cross, atol=1e-12)
    np.testing.assert_allclose(pair.mean1, BRIDGE.mean1, atol=1e-8)


def test_on_a_table_it_is_sinkhorn_s_iteration():
    """Against the dual problem, solved by a general optimiser, and against the potentials' form."""
    rng = np.random.default_rng(1)
    cost, a, b = rng.uniform(size=(3, 4)), np.array([0.2, 0.3, 0.5]), np.array([0.4, 0.1, 0.3, 0.2])
    kernel = np.exp(-cost / 0.2)
    table = kernel
    for _ in range(200):
        table = theory.fit_table(theory.fit_table(table, a, 0), b, 1)
    np.testing.assert_allclose(table.sum(1), a, atol=1e-12)
    np.testing.assert_allclose(table.sum(0), b, atol=1e-12)

    def dual(v):
        return np.sum(np.exp(v[:3, None] + v[3:]) * kernel) - v[:3] @ a - v[3:] @ b

    v = optimize.minimize(dual, np.zeros(7), tol=1e-14, method="BFGS", options={"gtol": 1e-10}).x
    np.testing.assert_allclose(table, np.exp(v[:3, None] + v[3:]) * kernel, atol=1e-8)
    with pytest.raises(ValueError, match="no mass at 1 of axis 0"):
        theory.fit_table([[1.0, 1.0], [0.0, 0.0]], [0.5, 0.5], 0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: theory.gaussian(*LAWS, 0.0), "epsilon is 0.0, expected a positive number; the limit 0 is optimal"),
        (
            lambda: theory.gaussian(LAWS[0], -LAWS[1], *LAWS[2:], 1.0),
            "covariance of x_0 is not symmetric with positive",
        ),
        (lambda: theory.gaussian(LAWS[0][:1], *LAWS[1:], 1.0), r"mean of shape \(1,\) and a covariance of shape"),
        (lambda: theory.gaussian(*LINE[:2], *LAWS[2:], 1.0), r"means have shapes \(1,\) and \(2,\)"),
        (lambda: theory.fit_table(np.ones((2, 3)), np.ones(3), 0), r"mass of shape \(3,\) for axis 0 of a table"),
        (lambda: theory.fit_table(-np.ones((2, 2)), np.ones(2), 0), "table holds a number that is negative"),
        (lambda: theory.fit_table(np.ones((2, 2)), [1.0, np.nan], 0), "mass holds a number that is negative or not"),
        (lambda: theory.fit_end(FREE, np.zeros(3), np.eye(3)), r"mean of shape \(3,\), that of the pair \(2,\)"),
        (lambda: theory.gaussian([np.nan, 0], *LAWS[1:], 1.0), "law of x_0 holds numbers that are not finite"),
        (lambda: theory.gaussian(*LAWS[:3], np.full((2, 2), np.nan), 1.0), "law of x_1 holds numbers that are not"),
        (lambda: theory.projected(FREE, 1.0, steps=0), "steps is 0"),
        (lambda: theory.projected(FREE, -1.0), "epsilon is -1.0, expected a positive number"),
        (lambda: theory.reference(*LAWS[:2], 0.0), "epsilon is 0.0, expected a positive number"),
        (lambda: theory.forward(FREE, 1.1, 1.0), "t is 1.1, expected a time of the reference, from 0 to 1"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
