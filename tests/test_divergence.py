"""The trace of a Jacobian by directions: exact along the basis, unbiased along random ones, with the known variance."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax import divergence

RNG = np.random.default_rng(4)
A = RNG.normal(size=(6, 6))


def field(x):
    """Not linear, not symmetric; its Jacobian is A + diag(cos x)."""
    return (jnp.asarray(A) @ x.ravel()).reshape(x.shape) + jnp.sin(x)


X = jnp.asarray(RNG.normal(size=(2, 3)))
TRACE = np.trace(A) + np.cos(np.asarray(X)).sum()


def test_the_basis_gives_the_trace_itself(x64):
    x = jnp.asarray(X, jnp.float64)
    value, trace = divergence.with_value(field, x, divergence.exact(None, x))
    np.testing.assert_allclose(value, (A @ np.ravel(x)).reshape(2, 3) + np.sin(x), rtol=1e-12)
    np.testing.assert_allclose(trace, np.trace(A) + np.cos(np.asarray(x)).sum(), rtol=1e-12)


def test_signs_by_enumeration(x64):
    """All 2^6 of them: the mean is the trace, the variance 2 sum_{i != j} S_ij^2."""
    x = jnp.asarray(X, jnp.float64)
    signs = jnp.asarray(list(itertools.product([-1.0, 1.0], repeat=6))).reshape(-1, 2, 3)
    _, products = divergence.products_along(field, x, signs)
    symmetric = (A + A.T) / 2
    off = 2 * (np.sum(symmetric**2) - np.sum(np.diag(symmetric) ** 2))
    np.testing.assert_allclose(np.mean(products), np.trace(A) + np.cos(np.asarray(x)).sum(), rtol=1e-12)
    np.testing.assert_allclose(np.var(products), off, rtol=1e-12)


@pytest.mark.parametrize("kind", ["hutchinson", "gaussian"])
def test_random_directions_have_their_law_and_their_variance(kind):
    """Gaussian ones pay for the diagonal too."""
    directions = divergence.DIRECTIONS[kind](jax.random.key(0), X, 40_000)
    assert directions.shape == (40_000, 2, 3)
    flat = np.asarray(directions).reshape(-1, 6)
    np.testing.assert_allclose(flat.T @ flat / len(flat), np.eye(6), atol=0.03)
    assert (kind == "hutchinson") == set(np.unique(flat)).issubset({-1.0, 1.0})
    _, products = divergence.products_along(field, X, directions)
    symmetric = (A + A.T) / 2 + np.diag(np.cos(np.asarray(X)).ravel())
    kept = np.ones((6, 6)) - (np.eye(6) if kind == "hutchinson" else 0)
    variance = 2 * np.sum(kept * symmetric**2)
    assert np.mean(products) == pytest.approx(TRACE, abs=4 * np.sqrt(variance / 40_000))
    assert np.var(products) == pytest.approx(variance, rel=0.05)


def test_several_directions_are_averaged(x64):
    x, directions = jnp.asarray(X, jnp.float64), jnp.asarray(RNG.normal(size=(3, 2, 3)))
    jacobian = A + np.diag(np.cos(np.asarray(x)).ravel())
    expected = np.mean([v @ jacobian @ v for v in np.asarray(directions).reshape(3, 6)])
    np.testing.assert_allclose(divergence.with_value(field, x, directions)[1], expected, rtol=1e-12)


def multiplications(jaxpr):
    """Of all products of matrices, inner programs included."""
    found = 0
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            (contracted, _), _ = eqn.params["dimension_numbers"]
            found += eqn.outvars[0].aval.size * int(np.prod([eqn.invars[0].aval.shape[i] for i in contracted]))
        found += sum(multiplications(inner.jaxpr) for inner in eqn.params.values() if hasattr(inner, "jaxpr"))
    return found


@pytest.mark.parametrize(("kind", "count", "evaluations"), [("hutchinson", 1, 2), ("gaussian", 3, 4), ("exact", 1, 7)])
def test_one_direction_costs_two_evaluations(kind, count, evaluations):
    """In products of matrices, which is what a network costs; the products' own v' J v are d more for each."""
    network = lambda x: jnp.tanh(jnp.ones((6, 90)) @ jnp.tanh(jnp.ones((90, 6)) @ x))
    x = jnp.ones(6)
    once = multiplications(jax.make_jaxpr(network)(x).jaxpr)
    directions = divergence.DIRECTIONS[kind](jax.random.key(0), x, count)
    both = jax.make_jaxpr(lambda x: divergence.with_value(network, x, directions))(x).jaxpr
    assert once == 2 * 540
    assert multiplications(both) == evaluations * once + 6 * len(directions)


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"directions \(1, 6\) at x of shape \(2, 3\)"):
        divergence.with_value(field, X, jnp.ones((1, 6)))
    with pytest.raises(ValueError, match=r"field of shape \(\)"):
        divergence.with_value(jnp.sum, X, jnp.ones((1, 2, 3)))
