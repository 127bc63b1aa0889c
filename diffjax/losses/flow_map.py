"""Three residuals of a flow map, of one example: what vanishes at the exact map, and what a network goes down.

X_{q -> r} X_{t -> q} = X_{t -> r} as q tends to t, as q tends to r, and for any q between:

    eulerian     d/dt X_{t -> r}(x_t) = 0 along the flow dx/dt = v(x, t)
    lagrangian   d/dr X_{t -> r}(x) = v(X_{t -> r}(x), r)
    semigroup    X_{t -> r}(x) = X_{q -> r}(X_{t -> q}(x))

(Boffi et al. 2024, 2025). Each is given as an error of F, the network's prediction of the way from t to r, in the
target's own units, X = A x + B F (`denoisers.flow_map`): e = F - F*, with the gradient stopped through F*. On the
diagonal r = t each is F - (a x_0 + b z), the residual of `losses.regression`. With E = A' x + A v + B' F + B dF/dt
along (tangent, 1) the Eulerian one is e = E / B', which no change of the clock t moves.

The published losses are functions of these, `(flow, way, teacher) -> (loss, error)`, made in a file for each family:
`losses.eulerian`, `losses.lagrangian`, `losses.progressive`. With a teacher, a flow map that stands still and whose
diagonal is known, a loss is the distilled one; without, v is the example's own, or the network's. The error is the
mean square of e in most, whatever the loss makes of it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffjax import calculus
from diffjax.denoisers.flow_map import Ends, TwoTime, angle, coefficients, shares
from diffjax.types import Array, Key, Process

stop = jax.lax.stop_gradient
Rule = Callable[..., tuple[Array, Array]]  # (flow, way, teacher) -> (loss, error), of one example


class Way(NamedTuple):
    """What one example shows of the way from t to r: data and noise, and the times.

    Attributes:
        process: what x_t is.
        x0, z: data and the noise that the coupling gave it, of one shape.
        t, r: scalar times, r <= t.
        key: for what a loss draws.
        unseen: the flow map without its condition; None where nothing is ever hidden.
        hidden: whether the condition of this example is.
        step: updates made before this one; None where nobody counts.
    """

    process: Process
    x0: Array
    z: Array
    t: Array
    r: Array
    key: Key | None = None
    unseen: TwoTime | None = None
    hidden: Any = False
    step: Array | None = None

    @property
    def x(self) -> Array:
        """Computes x at the time t, of this pair of data and noise."""
        return self.seen(self.t)

    @property
    def ends(self) -> Ends:
        """The pair that a prediction at t is regressed on."""
        return self.process.ends(self.x0, self.z, self.t)

    def seen(self, t: Any) -> Array:
        """Computes x at another time, of this pair of data and noise."""
        return self.process.corrupt(self.x0, self.z, t)


def needing(**what: bool) -> Callable:
    """Marks a loss with what its method has to bring, which is looked at before anything is traced.

    Args:
        what: teacher: a flow map that stands still; derivative: of the network by x, t or the gap, in float32; landing:
            the network at r = 0; hidden: examples whose condition is; counted: the number of updates made; velocity:
            finite slopes of the schedule; neighbours: pairs that are neighbours of a grid; data: draws that go to data
            at each step, the one way that is taught; grid: draws in the steps of the law.
    """

    def marked(rule: Rule) -> Rule:
        vars(rule).update(needs={name for name, needed in what.items() if needed})
        return rule

    return marked


def velocity(flow: TwoTime, ends: Ends, t: Any) -> Array:
    """Computes dx/dt = alpha' x_0 + sigma' z of ends."""
    fall, rise = calculus.derivatives(flow.schedule, t)[1]
    return fall * ends[0] + rise * ends[1]


def regressed(flow: TwoTime, ends: Ends, t: Any) -> Array:
    """Computes what F on the diagonal is regressed on, a x_0 + b z."""
    a, b = flow.target(flow.schedule, t)
    return a * ends[0] + b * ends[1]


def eulerian(flow: TwoTime, x: Array, t: Array, r: Any, v: Array, tangent: Array | None = None) -> tuple[Array, Array]:
    """Computes F and what it is to be, F* = -(A' x + A v + B dF/dt) / B', the gradient stopped; both of x's shape.

    Where B' is 0, as at a quarter of a circle, F* says nothing and is F.

    Args:
        v: the velocity that the identity is stated with: of the example, or known.
        tangent: the velocity that the network's derivative is taken along; None: v.
    """
    along = stop(v if tangent is None else tangent)
    F, slope = jax.jvp(lambda x, t: flow.predict(x, t, r), (x, t), (along, jnp.ones_like(t)))
    of = lambda t: coefficients(flow.schedule, flow.target, t, r)
    (A, B), (dA, dB) = jax.jvp(of, (t,), (jnp.ones_like(t),))
    still = jnp.abs(dB) <= 16 * jnp.finfo(dB.dtype).eps * jnp.abs(dA)  # 0 but for rounding
    aim = -(dA * x + A * v + B * slope) / jnp.where(still, 1.0, dB)  # (meanflow.1)
    return F, stop(jnp.where(still, F, aim))


def lagrangian(flow: TwoTime, x: Array, t: Array, r: Array, known: Callable[[Array, Array], Ends]) -> Array:
    """Computes e of d/dr X_{t -> r}(x) = v(X, r), of x's shape, by the angle phi of r, finite at both ends.

    Of y = x / sqrt(alpha^2 + sigma^2), dy/dphi = -sin phi D + cos phi Z whatever the schedule, and X has
    y = cos phi m + sin phi Z; e is the difference of both over F's share at r = t. The gradient flows through F and
    dF/dphi, not through where X lands.

    Args:
        known: (X, r) -> the ends there: of a teacher, or of the network's diagonal.
    """
    phi, now = angle(flow.schedule, r), angle(flow.schedule, t)
    (skip_m, c_m), (skip_z, c_z) = shares(flow.schedule, flow.target, t)
    F, slope = jax.jvp(lambda phi: flow.predict_to(x, t, phi), (phi,), (jnp.ones_like(phi),))
    A, B = coefficients(flow.schedule, flow.target, t, r)
    D, Z = stop(known(stop(A * x + B * F), r))
    sin, cos = jnp.sin(phi), jnp.cos(phi)
    turned = -sin * (skip_m * x + c_m * F - D) + cos * (skip_z * x + c_z * F - Z)
    turned = turned + (cos * c_m + sin * c_z) * slope
    return turned / (-jnp.sin(now) * c_m + jnp.cos(now) * c_z)  # (flow-maps.3)


def semigroup(flow: TwoTime, x: Array, t: Array, r: Array, landed: Array, diagonal: Array) -> Array:
    """Computes e = F - (X - A x) / B, of x's shape, for X that two shorter steps landed at; gradients of F alone.

    Args:
        landed: X_{q -> r}(X_{t -> q}(x)), of anybody.
        diagonal: what F is regressed on where r = t, B = 0.
    """
    A, B = coefficients(flow.schedule, flow.target, t, r)
    still = B == 0
    aim = jnp.where(still, diagonal, (landed - A * x) / jnp.where(still, 1.0, B))
    return flow.predict(x, t, r) - stop(aim)  # (flow-maps.4)


def guided(flow: TwoTime, way: Way, w: float, kappa: float = 0.0) -> Ends:
    """Computes ends whose velocity has guidance of scale w / (1 - kappa) inside (Geng et al. 2025, eq. 19).

    v = w v_c + (1 - w - kappa) u(x, t, t, none) + kappa u(x, t, t, y), at whose fixed point E[v] is
    v_none + w / (1 - kappa) (v_y - v_none). w = 1, kappa = 0 is off; an example whose condition is hidden has its own.
    """
    if way.unseen is None or (w == 1 and kappa == 0):
        return way.ends
    none, own = stop(way.unseen.ends(way.x, way.t)), stop(flow.ends(way.x, way.t))
    mix = lambda c, none, own: w * c + (1 - w - kappa) * none + kappa * own  # (flow-maps.5)
    return jax.tree.map(lambda c, *two: jnp.where(way.hidden, c, mix(c, *two)), way.ends, none, own)


def corrected(flow: TwoTime, way: Way, w: float) -> Ends:
    """Computes ends whose velocity has guidance of scale w inside, by the network's own guided field.

    v = v_c + (1 - 1 / w) (u(x, t, t, y) - u(x, t, t, none)) (improved MeanFlow): at the fixed point E[v] is
    v_none + w (v_y - v_none).
    """
    if way.unseen is None or w == 1:
        return way.ends
    none, own = stop(way.unseen.ends(way.x, way.t)), stop(flow.ends(way.x, way.t))
    add = lambda c, none, own: jnp.where(way.hidden, c, c + (1 - 1 / w) * (own - none))  # (flow-maps.6)
    return jax.tree.map(add, way.ends, none, own)


def on_diagonal(way: Way, there: Ends, elsewhere: Ends) -> Ends:
    """Picks ends: those of `there` where r = t, others elsewhere."""
    return jax.tree.map(lambda a, b: jnp.where(way.r == way.t, a, b), there, elsewhere)


def settled(e: Array, power: float = 0.0, floor: float = 1e-2) -> tuple[Array, Array]:
    """Computes (loss, error) of a residual: its mean square, over (|e|^2 + floor)^power, |e|^2 a sum.

    The published power is 1, off is 0. Any power > 0 moves the minimum from the mean of what F is regressed on towards
    its mode, and takes mass from small modes (Geng et al. 2025, eq. 22).
    """
    error = jnp.mean(e**2)
    if not power:
        return error, error
    return stop((jnp.sum(e**2) + floor) ** -power) * error, error  # (meanflow.3)


def check_power(power: float, floor: float) -> None:
    """Raises a ValueError unless 0 <= power <= 4 and floor > 0."""
    if not 0 <= power <= 4:
        raise ValueError(f"Got power = {power!r}, expected a number in [0, 4].")
    if not 0 < floor < np.inf:
        raise ValueError(f"Got floor = {floor!r}, expected a positive number.")


def check_positive_or_zero(name: str, value: float) -> None:
    """Raises a ValueError unless the number is finite and not negative."""
    if not 0 <= value < np.inf:
        raise ValueError(f"Got {name} = {value!r}, expected a number, 0 (off) or more.")


def check_guidance(w: float, kappa: float = 0.0) -> None:
    """Raises a ValueError unless w and kappa are finite, and kappa < 1, where the guided field has a fixed point."""
    if not 0 < w < np.inf:
        raise ValueError(f"Got w = {w!r}, expected a positive number (1: no guidance).")
    if not 0 <= kappa < 1:
        raise ValueError(f"Got kappa = {kappa!r}, expected a number in [0, 1): the scale is w / (1 - kappa).")
