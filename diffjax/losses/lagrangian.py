"""Losses of flow maps by the Lagrangian identity, d/dr X_{t -> r}(x) = v(X, r): a jvp in one scalar, none in x.

    self_distillation   v is the network's own where X lands; its diagonal is regressed where r = t (Boffi et al. 2025)
    terminal            the diagonal is regressed at (x_r, r) of every example beside it       (TVM, Zhou et al. 2025b)

With a teacher v is the teacher's, on which the diagonal is regressed where r = t, and both are flow map distillation
(Boffi et al. 2024). Unlike the Eulerian ones they go to 0 off the diagonal. Cost: 7/3 of a regression off the diagonal;
terminal 10/3.
"""

from collections.abc import Callable

import jax.numpy as jnp

from diffjax import calculus
from diffjax.denoisers.flow_map import TwoTime, angle, shares
from diffjax.losses import flow_map
from diffjax.losses.flow_map import Rule, Way, needing, on_diagonal
from diffjax.types import Array

__all__ = ["self_distillation", "terminal"]  # what a config may name


def self_distillation(by_time: bool = False) -> Rule:
    """Makes the Lagrangian loss, with v the network's own where it lands and the example's where r = t.

    Args:
        by_time: whether the residual is that of dX/dr in the schedule's clock, as published; it is infinite at r = 0
            where sigma' is. Rectified: the other times sqrt(alpha^2 + sigma^2) at t over that at r, in (0.7, 1.42).
    """

    @needing(landing=True, derivative=True)
    def loss(flow: TwoTime, way: Way, teacher: TwoTime | None = None) -> tuple[Array, Array]:
        known = teacher.ends if teacher is not None else lambda x, r: on_diagonal(way, way.ends, flow.ends(x, r))
        error = jnp.mean(_residual(flow, way, known, by_time) ** 2)
        return error, error

    return loss


def terminal(by_time: bool = False) -> Rule:
    """Makes terminal velocity matching's loss: the Lagrangian one where r < t, and the regression at (x_r, r).

    Args:
        by_time: as for `self_distillation`; it is of the first term.
    """
    taught = self_distillation(by_time)

    @needing(landing=True, derivative=True)
    def loss(flow: TwoTime, way: Way, teacher: TwoTime | None = None) -> tuple[Array, Array]:
        if teacher is not None:
            return taught(flow, way, teacher)
        off = jnp.mean(_residual(flow, way, flow.ends, by_time) ** 2)
        ends = way.process.ends(way.x0, way.z, way.r)
        d = flow.predict(way.seen(way.r), way.r, way.r) - flow_map.regressed(flow, ends, way.r)
        total = jnp.where(way.r < way.t, off, 0.0) + jnp.mean(d**2)
        return total, total

    return loss


def _residual(flow: TwoTime, way: Way, known: Callable, by_time: bool) -> Array:
    e = flow_map.lagrangian(flow, way.x, way.t, way.r, known)
    return e * rate(flow, way.t, way.r) if by_time else e


def rate(flow: TwoTime, t: Array, r: Array) -> Array:
    """Computes the factor from e, the error of F, to that of dX/dr in the schedule's clock."""
    (_, c_m), (_, c_z) = shares(flow.schedule, flow.target, t)
    now = angle(flow.schedule, t)
    (alpha, sigma), (fall, rise) = calculus.derivatives(flow.schedule, r)
    return (-jnp.sin(now) * c_m + jnp.cos(now) * c_z) * (alpha * rise - sigma * fall) / jnp.hypot(alpha, sigma)
