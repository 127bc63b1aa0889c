"""Losses of flow maps by the Eulerian identity, d/dt X_{t -> r}(x_t) = 0 along the flow: one jvp of the network.

    meanflow   v and tangent of the example: F - sg F*                    (Geng et al. 2025a, algorithm 1)
    improved   v of the example, tangent of the network                   (Geng et al. 2025b)
    pixel      the improved loss on the velocity of a network of x_0      (pixel MeanFlow)
    scm        meanflow to r = 0 alone, weighted by cos^2 of the angle    (Lu & Song 2024, eq. 6 to 8)

The residual of meanflow has the noise of v_c times the map's Jacobian: e = -dX/dx (v_c - v) at the exact map, which is
huge where modes part; that of improved is -(v_c - v). With a teacher v and tangent are the teacher's, and e is 0 there.
In units of a regression's cost (forward 1 of 3): meanflow and scm 4/3; improved, and all with a teacher, 5/3.
"""

import jax.numpy as jnp

from diffjax import host
from diffjax.denoisers.flow_map import TwoTime
from diffjax.denoisers.targets import Velocity
from diffjax.losses import flow_map
from diffjax.losses.flow_map import Rule, Way, needing, settled, stop, velocity
from diffjax.types import Array

__all__ = ["improved", "meanflow", "pixel", "scm"]  # what a config may name


def meanflow(power: float = 0.0, floor: float = 1e-2, w: float = 1.0, kappa: float = 0.0) -> Rule:
    """Makes MeanFlow's loss: F - sg F*, v the example's, or the teacher's (Geng et al. 2025, eq. 10, 11).

    Args:
        power, floor: of the adaptive weight (`flow_map.settled`): 0 is off, 1 published, and moves the minimum.
        w, kappa: guidance inside, of scale w / (1 - kappa) (eq. 19); w = 1, kappa = 0 is off.

    Raises:
        ValueError: for a number out of its range.
    """
    flow_map.check_power(power, floor)
    flow_map.check_guidance(w, kappa)

    @needing(derivative=True, hidden=(w, kappa) != (1, 0))
    def loss(flow: TwoTime, way: Way, teacher: TwoTime | None = None) -> tuple[Array, Array]:
        ends = flow_map.guided(flow, way, w, kappa) if teacher is None else stop(teacher.ends(way.x, way.t))
        F, aim = flow_map.eulerian(flow, way.x, way.t, way.r, velocity(flow, ends, way.t))
        return settled(F - aim, power, floor)

    return loss


def improved(power: float = 0.0, floor: float = 1e-2, w: float = 1.0) -> Rule:
    """Makes improved MeanFlow's loss: v the example's, the derivative along the network's own velocity.

    On Rectified with Velocity that is |u + (t - r) sg(du/dt) - v_c|^2 (Geng et al. 2025b). The tangent is the diagonal
    u(x, t, t), by an evaluation of its own: the paper's second head is not here. With a teacher this is `meanflow`.

    Args:
        power, floor: as for `meanflow`.
        w: guidance inside, of scale w, by the network's own guided field; 1 is off. The network is not told w.

    Raises:
        ValueError: for a number out of its range.
    """
    flow_map.check_power(power, floor)
    flow_map.check_guidance(w)
    taught = meanflow(power, floor)

    @needing(derivative=True, hidden=w != 1)
    def loss(flow: TwoTime, way: Way, teacher: TwoTime | None = None) -> tuple[Array, Array]:
        if teacher is not None:
            return taught(flow, way, teacher)
        of = lambda ends: velocity(flow, ends, way.t)
        v, own = of(flow_map.corrected(flow, way, w)), of(flow.ends(way.x, way.t))
        F, aim = flow_map.eulerian(flow, way.x, way.t, way.r, v, own)
        return settled(F - aim, power, floor)

    return loss


def pixel(power: float = 0.0, floor: float = 1e-2, w: float = 1.0, least: float = 0.05) -> Rule:
    """Makes the improved loss of the velocity that a network of x_0 says, (x - m) / t on Rectified.

    Args:
        power, floor, w: as for `improved`.
        least: sigma below which that velocity's error is multiplied by sigma / least, as published; 0 for none.

    Raises:
        ValueError: for a number out of its range.
    """
    if not 0 <= least < 1:
        raise ValueError(f"Got least = {least!r}, expected a number of sigma in [0, 1): 0.05 as published.")
    inner = improved(power, floor, w)

    @needing(derivative=True, hidden=w != 1, velocity=True)
    def loss(flow: TwoTime, way: Way, teacher: TwoTime | None = None) -> tuple[Array, Array]:
        sigma = flow.schedule(way.t)[1]
        value, error = inner(flow.recast(Velocity()), way, teacher)
        return (sigma / jnp.maximum(sigma, least)) ** 2 * value if least else value, error

    return loss


def scm(normalise: float = 0.0, warm_up: int = 0, sigma_data: float = 0.5) -> Rule:
    """Makes the continuous consistency loss, of the way to r = 0: |F - sg(F + g)|^2, g = cos^2(theta) (F* - F).

    theta = arctan(sigma / (alpha sigma_data)) is TrigFlow's angle; F* of the EDM target is that of TrigFlow with the
    other sign. way.r is passed over. The learned weight e^{w(t)} is not here, nor the prior weight 1 / sigma, which the
    law of the times can have. With the EDM target weights are the paper's; an error of another target has other units.

    Args:
        normalise: c of g / (|g| + c), |g| of the sum over entries; 0 is off, 0.1 / sigma_data published, where g is
            sigma_data times this one. From scratch it moves the minimum; with a teacher, whose g is 0 at the exact map,
            it does not.
        warm_up: updates in which F* is reached from the diagonal's aim, linearly (published: 10000); 0: at once.
        sigma_data: the data's standard deviation.

    Raises:
        ValueError: for a number out of its range.
    """
    flow_map.check_positive_or_zero("normalise", normalise)
    host.check_int("warm_up", warm_up, 0)
    host.check_positive("sigma_data", sigma_data)

    @needing(derivative=True, counted=warm_up > 0, data=True)
    def loss(flow: TwoTime, way: Way, teacher: TwoTime | None = None) -> tuple[Array, Array]:
        t = way.t
        ends = way.ends if teacher is None else stop(teacher.ends(way.x, t))
        F, aim = flow_map.eulerian(flow, way.x, t, jnp.zeros_like(t), velocity(flow, ends, t))
        if warm_up:
            share = jnp.minimum(jnp.asarray(way.step, F.dtype) / warm_up, 1.0)
            first = flow_map.regressed(flow, ends, t)
            aim = first + share * (aim - first)
        alpha, sigma = flow.schedule(t)
        weight = (alpha * sigma_data) ** 2 / (sigma**2 + (alpha * sigma_data) ** 2)
        g = stop(weight * (aim - F))  # (flow-maps.2)
        step = g / (jnp.sqrt(jnp.sum(g**2)) + normalise) if normalise else g
        return jnp.mean((F - stop(F + step)) ** 2), jnp.mean(g**2)

    return loss
