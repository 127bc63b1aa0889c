"""Ito's calculus for dx = f(x, t) dt + G(x, t) dw: one example x (d,), noise of k dimensions, D = G G^T.

    dphi(x, t) = (d_t phi + L phi) dt + (G^T grad phi) . dw         Ito's formula
    L phi      = f . grad phi + tr(D grad grad phi) / 2             the generator
    L* p       = - div J,    J = f p - div(D p) / 2                 its adjoint: Fokker-Planck is d_t p = L* p
                                                                    (kexue 9228 (10))

(Sarkka & Solin 2019, chapters 4 and 5; kexue 9461 gets all three from test functions). div of a matrix is taken along
its rows: sum_j d_j D_ij. With the score grad log p_t of its marginals the SDE has an ODE with the same marginals, and a
whole family of reversals (Anderson 1982; Song et al. 2021, appendix A; kexue 9209 (8), 9228 (13)).
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from diffjax import calculus
from diffjax.types import Array, Schedule

Field = Callable[[Array, Any], Array]  # (x (d,), t) -> (d,): a drift, a velocity, a score


class Dynamics(Protocol):
    """An SDE as what has a drift and a diffusion: `SDE`, `linear.LinearSDE`, `doob.Pinned`."""

    @property
    def drift(self) -> Field:
        """The drift, a function (x (d,), t) -> f, (d,)."""
        ...

    @property
    def diffusion(self) -> Callable[[Array, Any], Array]:
        """The diffusion, a function (x (d,), t) -> G, (d, k)."""
        ...


class SDE(NamedTuple):
    """The SDE dx = drift(x, t) dt + diffusion(x, t) dw, in Ito's sense."""

    drift: Field
    diffusion: Callable[[Array, Any], Array]


class Ito(NamedTuple):
    """The coefficients of y = phi(x, t): a drift of y's shape, a diffusion of y's shape and a last axis k."""

    drift: Array
    diffusion: Array


def forward(schedule: Schedule) -> SDE:
    """Makes the SDE dx = f x dt + g dw with a schedule's marginals (`calculus.rates`), on 0 < t where alpha > 0.

    Raises:
        ValueError: for a process that is not Gaussian.
    """
    calculus.need_gaussian(schedule, "This SDE has Gaussian marginals", "its flow is `samplers.ode.velocity`")

    def diffusion(x: Array, t: Any) -> Array:
        return jnp.sqrt(calculus.rates(schedule, t)[1]) * jnp.eye(len(x), dtype=x.dtype)

    return SDE(lambda x, t: calculus.rates(schedule, t)[0] * x, diffusion)


def ode(velocity: Field) -> SDE:
    """Makes the SDE dx = velocity dt, which has no noise: k = 0."""
    return SDE(velocity, lambda x, t: jnp.zeros((len(x), 0), x.dtype))


def ito(sde: Dynamics, phi: Callable[[Array, Any], Array], x: Array, t: Any) -> Ito:
    """Computes drift and diffusion of y = phi(x, t) at (x, t), by Ito's formula.

    Args:
        phi: (x (d,), t) -> an array of any shape, twice differentiable.

    Raises:
        ValueError: if x, drift or diffusion are not (d,), (d,), (d, k).
    """
    f, G = _at(sde, x, t)
    t = jnp.asarray(t, x.dtype)
    _, rate = jax.jvp(phi, (x, t), (f, jnp.ones_like(t)))

    def along(v: Array) -> tuple[Array, Array]:
        return jax.jvp(lambda y: jax.jvp(lambda z: phi(z, t), (y,), (v,))[1], (x,), (v,))

    if G.shape[1] == 0:
        return Ito(rate, jnp.zeros((*rate.shape, 0), rate.dtype))
    slope, curvature = jax.vmap(along, in_axes=1, out_axes=-1)(G)
    return Ito(rate + 0.5 * curvature.sum(-1), slope)  # (ito.1)


def generator(sde: Dynamics, phi: Callable[[Array], Array], x: Array, t: Any) -> Array:
    """Computes L phi at (x, t), of phi's shape: the mean rate of change of phi(x_t) for a phi without t.

    Raises:
        ValueError: as `ito`.
    """
    return ito(sde, lambda y, _: phi(y), x, t).drift


def flux(sde: Dynamics, p: Callable[[Array], Array], x: Array, t: Any) -> Array:
    """Computes the flow of probability through x, J = f p - div(D p) / 2, (d,).

    Args:
        p: (d,) -> (), the density at time t.

    Raises:
        ValueError: as `ito`.
    """
    f, _ = _at(sde, x, t)
    return f * p(x) - 0.5 * _row_divergence(lambda y: _spread(sde, y, t) * p(y), x)  # (ito.2)


def adjoint(sde: Dynamics, p: Callable[[Array], Array], x: Array, t: Any) -> Array:
    """Computes L* p at (x, t), a scalar: d_t p by the Fokker-Planck equation. A G that depends on x stays inside.

    Raises:
        ValueError: as `ito`.
    """
    return -jnp.trace(jax.jacfwd(lambda y: flux(sde, p, y, t))(x))


def probability_flow(sde: Dynamics, score: Field) -> Field:
    """Makes f - div(D) / 2 - D score / 2: the velocity of an ODE with the SDE's marginals (kexue 9228 (14))."""
    return lambda x, t: _at(sde, x, t)[0] - 0.5 * _osmosis(sde, score, x, t)


def time_reversal(sde: Dynamics, score: Field, t_max: Any, churn: float = 1.0) -> SDE:
    """Makes the SDE of y_r = x_(t_max - r), r from 0 to t_max.

    Its drift is -f + (1 + churn^2) / 2 (div D + D score), its noise churn G.

    Args:
        score: grad log p_t of the SDE's marginals, t the SDE's own time.
        churn: 1 is the time reversal proper, whose paths have the law of the SDE's; every other strength has the same
            marginals alone, 0 is the probability flow.

    Raises:
        ValueError: if churn is negative.
    """
    if not 0 <= churn < np.inf:
        raise ValueError(f"churn is {churn}, expected a finite number >= 0 (0: probability flow, 1: the reversal).")

    def drift(y: Array, r: Any) -> Array:
        t = t_max - r
        return -_at(sde, y, t)[0] + 0.5 * (1 + churn**2) * _osmosis(sde, score, y, t)  # (ito.4)

    return SDE(drift, lambda y, r: churn * sde.diffusion(y, t_max - r))


def _osmosis(sde: Dynamics, score: Field, x: Array, t: Any) -> Array:
    """Computes div D + D score = div(D p) / p, (d,)."""
    # (ito.3): the flow goes against half of it
    return _row_divergence(lambda y: _spread(sde, y, t), x) + jnp.matmul(
        _spread(sde, x, t), score(x, t), precision="highest"
    )


def _spread(sde: Dynamics, x: Array, t: Any) -> Array:
    G = sde.diffusion(x, t)
    return jnp.matmul(G, G.T, precision="highest")


def _row_divergence(matrix: Callable[[Array], Array], x: Array) -> Array:
    return jnp.einsum("ijj->i", jax.jacfwd(matrix)(x))


def _at(sde: Dynamics, x: Array, t: Any) -> tuple[Array, Array]:
    if jnp.ndim(x) != 1:
        raise ValueError(f"x has shape {jnp.shape(x)}, expected one example as a vector (d,); vmap batches.")
    f, G = sde.drift(x, t), sde.diffusion(x, t)
    if f.shape != x.shape or G.ndim != 2 or len(G) != len(x):
        d = len(x)
        raise ValueError(f"Got a drift {f.shape} and a diffusion {G.shape} at x {x.shape}, expected ({d},), ({d}, k).")
    return f, G
