"""Couplings: transport against enumeration, linear programming and closed forms."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from diffjax import couplings
from diffjax.processes import Gaussian
from diffjax.schedules import Rectified

RNG = np.random.default_rng(0)
KEYS = jax.random.split(jax.random.key(0), 64)
ASSIGN, DISTANCES = jax.jit(couplings.assignment), jax.jit(couplings.squared_distances)
SINKHORN = jax.jit(couplings.sinkhorn, static_argnames="iterations")


def pairs(n, d=2, seed=0):
    return np.random.default_rng(seed).normal(size=(2, n, d)).astype(np.float32)


# The assignment.


@pytest.mark.parametrize("n", [1, 2, 6])
def test_the_assignment_is_the_best_of_all_permutations(n):
    x0, z = pairs(n, seed=n)
    got = np.asarray(ASSIGN(DISTANCES(x0, z)))
    cost = lambda p: sum(((x0[i] - z[j]) ** 2).sum() for i, j in enumerate(p))
    assert tuple(got) == min(itertools.permutations(range(n)), key=cost)


@pytest.mark.parametrize("n", [17, 64])
@pytest.mark.parametrize("kind", ["normal", "integers", "zeros", "products"])
def test_the_assignment_costs_what_scipys_does(kind, n, x64):
    """Ties leave the permutation open, not its cost; negative costs are as good as others."""
    rng = np.random.default_rng(n)
    cost = {
        "normal": lambda: rng.normal(size=(n, n)),
        "integers": lambda: rng.integers(0, 4, (n, n)).astype(float),
        "zeros": lambda: np.zeros((n, n)),
        "products": lambda: np.outer(np.arange(n), np.arange(n)) + rng.uniform(size=(n, n)),
    }[kind]()
    got = np.asarray(ASSIGN(jnp.asarray(cost)))
    np.testing.assert_array_equal(np.sort(got), np.arange(n))
    rows, columns = optimize.linear_sum_assignment(cost)
    assert cost[rows, got].sum() == pytest.approx(cost[rows, columns].sum(), abs=1e-10)


def test_in_one_dimension_the_assignment_sorts():
    x0, _ = pairs(64, 1)
    _, paired = map(np.asarray, couplings.exact(Gaussian(Rectified()))(KEYS, x0))  # not compiled: the same bits
    _, drawn = map(np.asarray, couplings.independent(Gaussian(Rectified()))(KEYS, x0))
    np.testing.assert_array_equal(np.sort(paired[:, 0]), np.sort(drawn[:, 0]))
    order = np.argsort(x0[:, 0])
    assert np.all(np.diff(paired[order, 0]) > 0)


def test_an_assignment_is_one_to_one():
    with pytest.raises(ValueError, match=r"shape \(3, 4\), expected \(n, n\); where the numbers differ, take sinkhorn"):
        couplings.assignment(jnp.zeros((3, 4)))


# Sinkhorn.

A, B = np.asarray([0.1, 0.4, 0.5]), np.asarray([0.25, 0.05, 0.3, 0.4])
COST = RNG.uniform(size=(3, 4))


def plan(cost, epsilon, *masses, **options):
    return np.exp(np.asarray(SINKHORN(cost, epsilon, *masses, **options)))


@pytest.mark.parametrize("epsilon", [0.03, 0.3, 3.0])
def test_the_plan_has_its_marginals_and_the_form_of_the_entropic_optimum(epsilon, x64):
    P = plan(COST, epsilon, A, B, iterations=100_000, tolerance=1e-13)
    np.testing.assert_allclose(P.sum(1), A, rtol=1e-12)
    np.testing.assert_allclose(P.sum(0), B, rtol=1e-10)
    duals = epsilon * np.log(P) + COST  # f_i + g_j up to constants: no interaction between rows and columns
    np.testing.assert_allclose(duals - duals[:1] - duals[:, :1] + duals[0, 0], 0, atol=1e-10)


def test_two_by_two_in_closed_form(x64):
    """Equal masses: P = [[p, q], [q, p]] / 2 with p / q = exp((C_01 + C_10 - C_00 - C_11) / (2 epsilon))."""
    cost, epsilon = np.asarray([[0.1, 0.9], [0.4, 0.3]]), 0.5
    ratio = np.exp((0.9 + 0.4 - 0.1 - 0.3) / (2 * epsilon))
    p = ratio / (1 + ratio)
    expected = np.asarray([[p, 1 - p], [1 - p, p]]) / 2
    np.testing.assert_allclose(plan(cost, epsilon, tolerance=1e-14), expected, rtol=1e-12)


def test_without_entropy_it_is_the_linear_program(x64):
    """The cost of the entropic plan exceeds the least by at most epsilon log(n m), and falls to it."""
    rows = np.kron(np.eye(3), np.ones(4)), np.kron(np.ones(3), np.eye(4))
    least = optimize.linprog(COST.ravel(), A_eq=np.concatenate(rows), b_eq=np.concatenate([A, B])).fun
    excess = [
        (plan(COST, epsilon, A, B, iterations=100_000, tolerance=1e-12) * COST).sum() - least
        for epsilon in (0.1, 0.01, 0.003)
    ]
    assert excess[0] > excess[1] > excess[2] > -1e-12
    assert excess[2] < 1e-4
    x0, z = pairs(5, seed=3)
    cost = np.asarray(DISTANCES(x0, z))
    P = plan(cost, 0.01, iterations=100_000, tolerance=1e-8)
    np.testing.assert_array_equal(P.argmax(1), ASSIGN(cost))
    np.testing.assert_allclose(P.max(1), 0.2, rtol=1e-3)


def test_without_cost_the_plan_is_independent_and_empty_masses_stay_empty(x64):
    np.testing.assert_allclose(plan(np.zeros((3, 4)), 0.1, A, B), np.outer(A, B), rtol=1e-12)
    P = plan(COST, 0.1, np.asarray([0.0, 0.4, 0.6]), B)
    np.testing.assert_array_equal(P[0], 0)
    assert np.all(np.isfinite(P))


def test_costs_of_any_size_are_safe_in_float32():
    P = plan((1e4 * COST).astype(np.float32), 1.0, iterations=3000)
    assert np.all(np.isfinite(P))
    np.testing.assert_allclose(P.sum(1), 1 / 3, rtol=1e-3)


def test_squared_distances_are_those_of_numpy(x64):
    x0, z = RNG.normal(size=(4, 3, 2)), RNG.normal(size=(5, 3, 2))
    expected = ((x0[:, None] - z[None]) ** 2).sum((2, 3))
    np.testing.assert_allclose(DISTANCES(x0, z), expected, rtol=1e-12)


def test_pairs_are_drawn_from_the_rows_of_the_plan():
    """Three points far from each other but near two noises each: over many keys the shares are those of the plan."""
    x0 = np.asarray([[-1.0], [0.0], [1.0]], np.float32)
    process = Gaussian(Rectified(), lambda key, shape: jnp.full(shape, jax.random.bits(key) % 3, float))
    couple = jax.jit(jax.vmap(couplings.entropic(process, 0.4), in_axes=(0, None)))
    keys = jax.random.split(jax.random.key(1), (1500, 3))
    draw = jax.jit(jax.vmap(couplings.independent(process), in_axes=(0, None)))
    drawn, taken = (np.asarray(one(keys, x0)[1])[..., 0] for one in (draw, couple))
    values = np.unique(drawn, axis=0)
    assert len(values) == 27
    for value in values:
        here = np.all(drawn == value, 1)
        cost = (x0 - value[None]) ** 2
        if len(set(value)) < 3:
            continue
        P = 3 * plan(cost, 0.4 * cost.mean())
        for i in range(3):
            shares = [np.mean(taken[here, i] == v) for v in value]
            np.testing.assert_allclose(shares, P[i], atol=4 * np.sqrt(0.25 / here.sum()))


BAD = {
    "unbalanced": (dict(a=A, b=2 * B), "unbalanced: a sums to 1, b to 2"),
    "negative": (dict(a=np.asarray([-0.1, 0.6, 0.5]), b=B), "expected masses >= 0"),
    "empty": (dict(a=np.zeros(3), b=B), "not all 0"),
    "shapes": (dict(a=B, b=A), r"shapes \(4,\) and \(3,\) for a cost of shape \(3, 4\)"),
    "epsilon": (dict(epsilon=0.0), r"epsilon is 0\.0, expected a positive"),
    "iterations": (dict(iterations=0), "iterations is 0, expected an integer >= 1"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_transport_problems(case):
    options, match = BAD[case]
    with pytest.raises(ValueError, match=match):
        couplings.sinkhorn(jnp.asarray(COST, jnp.float32), **{"epsilon": 0.1, **options})
