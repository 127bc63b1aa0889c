"""Losses of flow maps by the semigroup, X_{t -> r} = X_{q -> r} X_{t -> q}: two shorter steps teach one, without a jvp.

    shortcut            the network's own legs, down to Euler's steps of its diagonal      (Frans et al. 2024)
    self_distillation   the network's own legs at any q                                    (Boffi et al. 2025)
    distillation        two steps of a teacher                                             (Salimans & Ho 2022)
    consistency         r = 0, way.r the time q next below t: data and noise, or a step of a teacher, lead there
                                                               (Song et al. 2023; Song & Dhariwal 2023)

The first three may reach 0 off the diagonal. The networks of the two legs are those of this step, with the gradient
stopped: the papers take an average of the parameters for shortcut and for the first consistency models. Cost: 5/3 of a
regression; consistency 4/3, or 2 with Heun's step of a teacher.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from diffjax import host
from diffjax.denoisers.flow_map import TwoTime, moved
from diffjax.losses import flow_map
from diffjax.losses.flow_map import Rule, Way, needing, stop
from diffjax.types import Array

__all__ = ["consistency", "distillation", "self_distillation", "shortcut"]  # what a config may name


def shortcut(steps: int = 128) -> Rule:
    """Makes the shortcut loss; its pairs are `pairs.dyadic`, of the same number of steps.

    Legs of 1 / steps are Euler's, of the network's diagonal, or the teacher's: the one-step map that this converges to
    is that of `steps` Euler steps, not the flow's.

    Raises:
        ValueError: for a number of steps that is no power of 2.
    """
    check_power_of_two(steps)

    def loss(flow: TwoTime, way: Way, teacher: TwoTime | None = None) -> tuple[Array, Array]:
        short = way.t - way.r < 3 / steps * flow.schedule.t_max

        def leg(x: Array, t: Array, r: Array) -> Array:
            if teacher is None:
                return flow.land(x, t, r, told=jnp.where(short, t, r))
            return jnp.where(short, moved(flow.schedule, x, teacher.ends(x, t), t, r), flow.land(x, t, r))

        return _squared(_composed(flow, way, teacher, leg, (way.t + way.r) / 2))

    vars(loss).update(steps=steps)  # compared with those of the pairs
    return loss


def self_distillation(at: float | None = 0.5) -> Rule:
    """Makes the progressive self-distillation loss, whose diagonal is a regression on a velocity, of data or teacher.

    Args:
        at: q = r + at (t - r); None: uniform between r and t, a draw for each example.

    Raises:
        ValueError: for an `at` that is not in (0, 1).
    """
    if at is not None and not 0 < at < 1:
        raise ValueError(f"Got at = {at!r}, expected a number in (0, 1), or None for a draw.")

    def loss(flow: TwoTime, way: Way, teacher: TwoTime | None = None) -> tuple[Array, Array]:
        share = at if at is not None else jax.random.uniform(way.key, dtype=way.t.dtype)  # pyright: ignore
        return _squared(_composed(flow, way, teacher, flow.land, way.r + share * (way.t - way.r)))

    return loss


def distillation(mapped: bool = False, snr: str = "truncated") -> Rule:
    """Makes progressive distillation's loss; its pairs are `pairs.grid`, of the student's number of steps.

    Args:
        mapped: whether the teacher's two steps are those of a flow map, a student of before, or DDIM's of its diagonal.
        snr: the weight of x_0's error: truncated, max(SNR, 1); plus_one, SNR + 1 (Salimans & Ho 2022, section 4);
            none, that of F.

    Raises:
        ValueError: for another name of a weight.
    """
    if snr not in SNR:
        raise ValueError(f"Got snr = {snr!r}; {host.nearest(str(snr), SNR)}.")

    @needing(teacher=True, grid=True)
    def loss(flow: TwoTime, way: Way, teacher: TwoTime) -> tuple[Array, Array]:
        leg = teacher.land if mapped else lambda x, t, r: moved(flow.schedule, x, teacher.ends(x, t), t, r)
        _, error = _squared(_composed(flow, way, teacher, leg, (way.t + way.r) / 2))
        c_m = flow.target.skip_out(flow.schedule, way.t)[1]
        return SNR[snr](c_m**2, flow.target.noise_out(flow.schedule, way.t) ** 2) * error, error

    return loss


SNR = {  # of c_m^2 and SNR c_m^2, the squares of the factors from an error of F to those of x_0 and of noise
    "truncated": jnp.maximum,
    "plus_one": jnp.add,
    "none": lambda c_m, c_eps: 1.0,
}


def consistency(huber: float = 0.0, weighted: bool = False, heun: bool = True) -> Rule:
    """Makes the discrete consistency loss between t and q = way.r, neighbours of a grid (`pairs.consistency`).

    X_{t -> 0}(x_t) is regressed on X_{q -> 0}(x_q), of this network with the gradient stopped (improved training); x_q
    is of the example's data and noise, or one step of the teacher's flow from x_t. Without a teacher the minimum is off
    by an order of t - q: refine the grid.

    Args:
        huber: c of the distance sqrt(|d|^2 + c^2) - c, |d|^2 of the sum; 0: the mean square. Published: 0.00054 times
            the root of x's size; under the spread of one step it makes a median, which refining does not mend.
        weighted: whether the loss is over sigma_t - sigma_q.
        heun: of the teacher's step: Heun's, of second order, or Euler's.

    Raises:
        ValueError: for a huber that is negative or not finite.
    """
    flow_map.check_positive_or_zero("huber", huber)

    @needing(landing=True, neighbours=True, data=True)
    def loss(flow: TwoTime, way: Way, teacher: TwoTime | None = None) -> tuple[Array, Array]:
        t, q, end = way.t, way.r, jnp.zeros_like(way.t)
        x_q = way.seen(q) if teacher is None else flow_step(teacher, way.x, t, q, heun)
        apart = flow.land(way.x, t, end) - stop(flow.land(stop(x_q), q, end))  # (flow-maps.7)
        error = jnp.mean(apart**2)
        value = jnp.sqrt(jnp.sum(apart**2) + huber**2) - huber if huber else error
        return (value / (flow.schedule(t)[1] - flow.schedule(q)[1]) if weighted else value), error

    return loss


def flow_step(teacher: TwoTime, x: Array, t: Array, r: Array, heun: bool = True) -> Array:
    """Computes one step of a teacher's flow from t to r, by Heun's rule in (alpha, sigma) or by Euler's (DDIM)."""
    first = teacher.ends(x, t)
    landed = moved(teacher.schedule, x, first, t, r)
    if not heun:
        return landed
    mean = jax.tree.map(lambda a, b: (a + b) / 2, first, teacher.ends(landed, r))
    return moved(teacher.schedule, x, mean, t, r)


def check_power_of_two(steps: int) -> None:
    """Raises a ValueError unless the number of steps is 2, 4, 8, ..."""
    host.check_int("steps", steps, 2)
    if steps & (steps - 1):
        near = 2 ** int(np.floor(np.log2(steps)))
        raise ValueError(
            f"Got steps = {steps}, expected a power of 2 (as {near} or {2 * near}): a step has two halves."
        )


def _composed(flow: TwoTime, way: Way, teacher: TwoTime | None, leg: Callable, q: Array) -> Array:
    """Computes the residual of two legs by way of q; where r = t, the regression on the ends of example or teacher."""
    ends = way.ends if teacher is None else teacher.ends(way.x, way.t)
    landed = leg(leg(way.x, way.t, q), q, way.r)
    return flow_map.semigroup(flow, way.x, way.t, way.r, landed, flow_map.regressed(flow, ends, way.t))


def _squared(e: Array) -> tuple[Array, Array]:
    error = jnp.mean(e**2)
    return error, error
