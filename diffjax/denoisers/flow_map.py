"""The map of a flow from one time to another, X_{t -> r}(x), made of a network that is told both.

Along dx/dt = alpha' D + sigma' Z, with D = E[x_0 | x_t] and Z = E[z | x_t], one law holds maps together:
X_{q -> r} X_{t -> q} = X_{t -> r}, and X_{t -> t} = x. A network's F of any target (a, b) at t says two ends, m and Z,

    x = alpha_t m + sigma_t Z,    F = a m + b Z,    X_{t -> r}(x) = alpha_r m + sigma_r Z = A x + B F,

a step of DDIM whose x_0 is told where the step goes. For r = t, m is D and F the F of one time; for r = 0 on a schedule
with sigma_0 = 0, m is the end of the flow. Written as the way from x, with F's share c of m and of Z,

    A = 1 + (alpha_r - alpha_t) skip_m + (sigma_r - sigma_t) skip_Z,
    B = (alpha_r - alpha_t) c_m + (sigma_r - sigma_t) c_Z,

A is 1 and B is 0 at r = t to the last bit, for every schedule and target: the boundary condition needs no further
factor. Rectified with Velocity has (1, r - t), F the mean velocity (Geng et al. 2025, eq. 3); EDM with EDM at r = 0 has
EDM's (c_skip, c_out) (Song et al. 2023, eq. 5); VP with V has the cosine and minus the sine of the angle
between (Lu & Song 2024).

Two times are told as one and a distance. c is the log-SNR of t, as for every network; the gap is psi(phi_t) -
psi(phi_r), psi(phi) = (phi, cos 2j phi, sin 2j phi; j = 1 .. 8) of the angle phi = arctan(sigma / alpha), which is
smooth and finite at both ends, where a second log-SNR would be infinite (r = 0 always is). The gap is 0 for r = t, and
enters without a bias: on the diagonal the network is one of one time to the last bit, so a network of one time may be
its start and every sampler takes its diagonal. It is signed: r > t is told apart. Where the derivative is taken by t
the network wants `embedding="angle"`: features of the log-SNR wave hundreds of times between t = 0.9 and 1.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from diffjax import calculus
from diffjax.denoisers.targets import Target, check_target
from diffjax.types import Array, Denoiser, Posterior, Schedule, as_pytree, pytree

WAVES = 8
GAP = 1 + 2 * WAVES  # entries of given["gap"]
END = 19.9  # networks clip the log-SNR at 20

Ends = tuple[Array, Array]  # (x_0, z), or what is known of them: x_t = alpha x_0 + sigma z
Net = Callable[[Array, Array, Array], Array]  # (x_in, log-SNR of t, gap) -> F


def angle(schedule: Schedule, t: Any) -> Array:
    """Computes phi = arctan(sigma / alpha), in [0, pi / 2]."""
    alpha, sigma = schedule(t)
    return jnp.arctan2(sigma, alpha)


def features(phi: Array) -> Array:
    """Computes psi(phi), (GAP,), what a gap is the difference of."""
    waves = 2 * phi * jnp.arange(1, WAVES + 1, dtype=phi.dtype)
    return jnp.concatenate([phi[None], jnp.cos(waves), jnp.sin(waves)])  # (meanflow.4)


def gap(schedule: Schedule, t: Any, r: Any) -> Array:
    """Computes what a network is told of the way from t to r, (GAP,): 0 for r = t."""
    return features(angle(schedule, t)) - features(angle(schedule, r))


def clock(schedule: Schedule, t: Array) -> Array:
    """Computes the log-SNR of the nearest time where it is within +-END, and its slope there: finite at all times."""
    ends = [jnp.asarray(calculus.time_of(schedule, end), t.dtype) for end in (END, -END)]
    inside = jnp.clip(t, ends[0], jnp.minimum(ends[1], schedule.t_max))
    return calculus.log_snr(schedule, t + jax.lax.stop_gradient(inside - t))


def shares(schedule: Schedule, target: Target, t: Any) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    """Computes ((skip, c) of m, (skip, c) of Z): m = skip x + c F, Z = skip x + c F."""
    (alpha, sigma), (a, b) = schedule(t), target(schedule, t)
    return target.skip_out(schedule, t), (-a / (alpha * b - sigma * a), -target.noise_out(schedule, t))


def coefficients(schedule: Schedule, target: Target, t: Any, r: Any) -> tuple[Any, Any]:
    """Computes (A, B) of X_{t -> r}(x) = A x + B F: (1, 0) for r = t."""
    (alpha, sigma), (alpha_r, sigma_r) = schedule(t), schedule(r)
    (skip_m, c_m), (skip_z, c_z) = shares(schedule, target, t)
    fall, rise = alpha_r - alpha, sigma_r - sigma
    return 1 + fall * skip_m + rise * skip_z, fall * c_m + rise * c_z  # (flow-maps.1)


def moved(schedule: Schedule, x: Array, ends: Ends, t: Any, r: Any) -> Array:
    """Computes where x at t is at r if its ends stay: a step of DDIM, and of Euler where the path is straight."""
    (alpha, sigma), (alpha_r, sigma_r) = schedule(t), schedule(r)
    return x + (alpha_r - alpha) * ends[0] + (sigma_r - sigma) * ends[1]


@pytree
class TwoTime:
    """A flow map; called as a denoiser, it is its diagonal, E[x_0 | x_t], for any sampler, likelihood or guidance.

    Attributes:
        net: (x_in, c, gap) -> F for one example, a `jax.tree_util.Partial` over its parameters.
        schedule: what x_t and t refer to.
        target: what `predict` says, F = a m + b Z.
        told: what the network itself predicts, if it is another target: `recast`.
    """

    net: Net
    schedule: Schedule
    target: Target
    told: Target | None = None

    def predict(self, x: Array, t: Any, r: Any) -> Array:
        """Evaluates the network: F of the way from t to r, of x's shape."""
        return self.predict_to(x, t, angle(self.schedule, r))

    def predict_to(self, x: Array, t: Any, phi: Array) -> Array:
        """Evaluates the network: F of the way from t to where the angle is phi."""
        return self._predict(x, t, features(angle(self.schedule, t)) - features(phi))

    def ends(self, x: Array, t: Any, r: Any = None) -> Ends:
        """Computes (m, Z) of the way from t to r, or of the diagonal: (E[x_0 | x_t], E[z | x_t]), each of x's shape."""
        F = self._predict(x, t, jnp.zeros(GAP, x.dtype)) if r is None else self.predict(x, t, r)
        return _ends(self.schedule, self.target, x, F, t)

    def land(self, x: Array, t: Any, r: Any, told: Any = None) -> Array:
        """Computes X_{t -> r}(x).

        Args:
            told: the time that the network is told in the place of r; t makes it a step of Euler, of the diagonal.
        """
        A, B = coefficients(self.schedule, self.target, t, r)
        return A * x + B * self.predict(x, t, r if told is None else told)

    def mean(self, x: Array, t: Any, r: Any = None) -> Array:
        """Computes m(x, t, r), the x_0 of a DDIM step from t to r; of the diagonal E[x_0 | x_t]."""
        return self.ends(x, t, r)[0]

    def __call__(self, x: Array, t: Any) -> Posterior:
        """Computes E[x_0 | x_t = x], the diagonal's; the variance is unknown: 0."""
        return Posterior(self.mean(x, t))

    def at(self, r: Any) -> Denoiser:
        """Makes the denoiser whose mean is m(x, t, r); of r = 0, where sigma_0 = 0, the consistency function."""
        return At(self, r)

    def recast(self, target: Target) -> "TwoTime":
        """Makes the map with F of another target, of the same network."""
        return dataclasses.replace(self, target=target, told=self.told or self.target)

    def _predict(self, x: Array, t: Any, gap: Array) -> Array:
        own = self.told or self.target
        F = self.net(own.inputs(self.schedule, x, t)[0], clock(self.schedule, t), gap)
        if F.shape != x.shape:
            raise ValueError(f"The network gives shape {F.shape} for x of shape {x.shape}, expected the same.")
        if self.told is None:
            return F
        (a, b), (m, z) = self.target(self.schedule, t), _ends(self.schedule, own, x, F, t)
        return a * m + b * z


@pytree
class At:
    """The denoiser of a flow map's way to one time; make one with `TwoTime.at`."""

    flow: TwoTime
    r: Any

    @property
    def schedule(self) -> Schedule:
        """What x_t and t refer to."""
        return self.flow.schedule

    def __call__(self, x: Array, t: Any) -> Posterior:
        """Computes m(x, t, r); its variance is 0: the map is no draw."""
        return Posterior(self.flow.mean(x, t, self.r))


@pytree
class Guided:
    """A flow map under guidance, other + w (flow - other) of their ends: a teacher, say. w = 1 is off.

    Its field has no density whose flow it is; its map is exact as that of an ODE.

    Attributes:
        flow: the map with its condition.
        other: the map without.
        w: the scale.
    """

    flow: TwoTime
    other: TwoTime
    w: Any

    @property
    def schedule(self) -> Schedule:
        """What x_t and t refer to."""
        return self.flow.schedule

    def ends(self, x: Array, t: Any, r: Any = None) -> Ends:
        """Computes (m, Z) of the way from t to r, or of the diagonal."""
        mix = lambda own, other: own + (self.w - 1) * (own - other)
        return jax.tree.map(mix, self.flow.ends(x, t, r), self.other.ends(x, t, r))

    def land(self, x: Array, t: Any, r: Any) -> Array:
        """Computes where the guided ends of the way lead."""
        return moved(self.schedule, x, self.ends(x, t, r), t, r)


def _ends(schedule: Schedule, target: Target, x: Array, F: Array, t: Any) -> Ends:
    m, z = shares(schedule, target, t)
    return m[0] * x + m[1] * F, z[0] * x + z[1] * F


def flow_map(net: Net, schedule: Schedule, target: Target) -> TwoTime:
    """Makes the flow map of a network that is told two times.

    Args:
        net: (x_in, c, gap) -> F for one example.

    Raises:
        ValueError: if the target does not determine x_0 at the schedule's end (Eps where alpha = 0), or does not
            determine z where sigma = 0 (X0): V, Velocity and EDM do both.
    """
    check_target(target, schedule, schedule.t_max)
    return TwoTime(as_pytree(net), schedule, target)
