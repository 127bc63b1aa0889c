"""Score matching bounds the Wasserstein distance (Kwon, Fan & Lee 2022; kexue 9467 has the proof for ODEs).

Let dx/dt = f move p_t, dx/dt = g move q_t, both integrated from T down to 0. Then

    W2(p_0, q_0) <= int_0^T I_t (E_{p_t} |f - g|^2)^(1/2) dt + I_T W2(p_T, q_T),    I_t = exp int_0^t L_s ds
                    (kexue 9467 (20)),

L_s the one-sided Lipschitz constant of the NEGATED field, the one that runs towards data:

    (x - y) . (-g(x) + g(y)) <= L_s |x - y|^2.

With that of g itself it is no bound. The expectation is over the true p_t, never the model's. Two probability flows
differ by g_t^2 / 2 (grad log p - s): the inner term is score matching. For the reverse SDE, whose noise coupled paths
share, the drifts f - g_t^2 score take the place of the flows, and g_t^2 that of g_t^2 / 2 (kexue 9467 (1)).

The integrals run over Gauss-Legendre points, exact to rounding with a few points where the integrands are smooth.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.polynomial import legendre

from diffjax import host
from diffjax.theory.generator import Field
from diffjax.types import Array


class Rule(NamedTuple):
    """A quadrature on [0, T] in float64.

    Attributes:
        ts: (n,), rising.
        weights: (n,): int_0^T h = weights @ h(ts).
        cumulative: (n, n): int_0^{ts[i]} h = (cumulative @ h(ts))[i].
    """

    ts: np.ndarray
    weights: np.ndarray
    cumulative: np.ndarray


class Bound(NamedTuple):
    """The parts of the bound on W2(p_0, q_0).

    Attributes:
        errors: (n,), (E |f - g|^2)^(1/2) at the times of the rule, in units of x / time.
        lipschitz: (n,), L_t of the negated model field, in 1 / time.
        growth: (n,), I_t, without a unit.
        fields: the integral, in units of x: what the fields differ by.
        prior: I_T W2(p_T, q_T), in units of x: what the priors differ by.
    """

    errors: Array
    lipschitz: Array
    growth: Array
    fields: Array
    prior: Array

    @property
    def total(self) -> Array:
        """The bound itself: not below W2(p_0, q_0)."""
        return self.fields + self.prior


def gauss_legendre(t_max: float, points: int = 16, t_min: float = 0.0) -> Rule:
    """Makes the Gauss-Legendre rule of this many points; from t_min, for fields that are singular at 0.

    Raises:
        ValueError: unless t_min < t_max and points >= 1.
    """
    if not (t_min < t_max < np.inf and points >= 1):
        raise ValueError(
            f"Got t_min = {t_min}, t_max = {t_max}, points = {points}, expected t_min < t_max and points >= 1."
        )
    nodes, weights = legendre.leggauss(points)
    half = 0.5 * (t_max - t_min)
    # h = sum_k c_k P_k with c_k = (k + 1/2) sum_j w_j P_k(x_j) h_j, and int_-1^x P_k = (P_k+1 - P_k-1) / (2k + 1)
    basis = legendre.legvander(nodes, points)
    lower = np.concatenate([np.full((points, 1), -1.0), basis[:, : points - 1]], axis=1)  # for k = 0: x + 1
    integrals = (basis[:, 1:] - lower) / (2 * np.arange(points) + 1)
    to_coefficients = ((np.arange(points) + 0.5) * basis[:, :points] * weights[:, None]).T
    return Rule(t_min + half * (nodes + 1), half * weights, half * integrals @ to_coefficients)


def one_sided_lipschitz(field: Field, x: Array, t: Any) -> Array:
    """Computes the largest eigenvalue, perhaps negative, of the symmetric part of the field's Jacobian at x (d,).

    Its supremum over a convex domain is the one-sided Lipschitz constant there; for an affine field any x tells it. The
    maximum over samples is an estimate from below.
    """
    jacobian = jax.jacfwd(field)(x, t)
    return jnp.linalg.eigvalsh(0.5 * (jacobian + jacobian.T))[-1]  # (wasserstein-bound.2)


def cubature(mean: Any, cov: Any) -> Array:
    """Makes (2 d, d) points, mean +- sqrt(d) times the columns of a root of cov, that have just these moments.

    Averages over them are the Gaussian's own for polynomials of degree 3: `bound` is exact for affine fields.
    """
    mean, cov = jnp.asarray(mean, float), jnp.asarray(cov, float)
    values, vectors = jnp.linalg.eigh(cov)
    steps = (vectors * jnp.sqrt(len(mean) * jnp.maximum(values, 0))[None]).T
    return mean[None] + jnp.concatenate([steps, -steps])


def bound(truth: Field, model: Field, xs: Array, rule: Rule, prior_distance: Any = 0.0) -> Bound:
    """Computes the bound from points of p_t.

    Args:
        truth: f, whose flow has the marginals p_t.
        model: g; L_t is the maximum over the points, an estimate from below unless the field is affine.
        xs: (n, N, d), N points of p_t at each time of the rule: samples, or `cubature` of a Gaussian.
        rule: `gauss_legendre`.
        prior_distance: W2(p_T, q_T).

    Raises:
        ValueError: if xs does not have one row per time, or the distance is negative.
    """
    if xs.ndim != 3 or len(xs) != len(rule.ts):
        raise ValueError(f"xs has shape {xs.shape}, expected ({len(rule.ts)}, N, d): points at each time of the rule.")
    if host.concrete(prior_distance) and not 0 <= float(prior_distance) < np.inf:
        raise ValueError(f"prior_distance is {prior_distance}, expected a finite number >= 0.")
    negated = lambda x, t: -model(x, t)

    def at(x: Array, t: Array) -> tuple[Array, Array]:
        return jnp.sum((truth(x, t) - model(x, t)) ** 2), one_sided_lipschitz(negated, x, t)

    ts = jnp.asarray(rule.ts, xs.dtype)
    squares, constants = jax.vmap(jax.vmap(at, in_axes=(0, None)))(xs, ts)
    return assemble(rule, jnp.sqrt(squares.mean(1)), constants.max(1), prior_distance)


def assemble(rule: Rule, errors: Array, lipschitz: Array, prior_distance: Any = 0.0) -> Bound:
    """Assembles the bound from errors and Lipschitz constants (n,) at the times of the rule: `Bound` says which."""
    weights, cumulative = (jnp.asarray(a, errors.dtype) for a in (rule.weights, rule.cumulative))
    with jax.default_matmul_precision("highest"):
        growth = jnp.exp(cumulative @ lipschitz)  # (wasserstein-bound.1)
        return Bound(
            errors, lipschitz, growth, weights @ (growth * errors), jnp.exp(weights @ lipschitz) * prior_distance
        )
