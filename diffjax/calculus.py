"""What follows from a schedule, whichever it is: log-SNR, the SDE's rates, inverses, and what only a flow allows.

Every function takes the schedule first and reads nothing but what `types.Schedule` states. `amplitudes` is the host's
float64 view, of which plans are made.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffjax import host
from diffjax.types import Array, Derived, Invertible, Remaining, Schedule, pytree, real


@pytree
class FlowOnly:
    """A schedule with alpha and sigma of a base schedule, for families whose x_t given x_0 is not Gaussian.

    Their flow dx/dt = alpha' E[x_0 | x] + sigma' E[z | x] is as exact as ever, which is all that deterministic samplers
    use. Whatever takes (x - alpha E[x_0 | x]) / sigma^2 for minus the score, or adds Gaussian noise, is wrong here and
    refuses (`need_gaussian`): stochastic samplers (`samplers.sampling_fn`), the score target, guidance by a gradient,
    posterior variances by Tweedie's formula, variational bounds.

    Attributes:
        base: the schedule whose alpha and sigma are meant.
    """

    base: Schedule

    @property
    def t_max(self) -> Any:
        """The end of the base schedule's domain."""
        return self.base.t_max

    def __call__(self, t: Any) -> tuple[Array, Array]:
        """Computes (alpha_t, sigma_t) of the base schedule."""
        return self.base(t)

    def inverse(self, log_snr: Any) -> Array:
        """Finds the time of a log-SNR; the base schedule needs an inverse."""
        return time_of(self.base, log_snr)


def flow_only(schedule: Any) -> bool:
    """Tells whether a schedule, or one inside it (by another clock, say), is a `FlowOnly`."""
    while isinstance(schedule, Derived) and not isinstance(schedule, FlowOnly):
        schedule = schedule.base
    return isinstance(schedule, FlowOnly)


def need_gaussian(schedule: Any, what: str, instead: str) -> None:
    """Refuses a schedule on which only the flow is right, for what needs Gaussian noise.

    Args:
        what: the beginning of the message: what needs Gaussian noise, and why.
        instead: what to do.

    Raises:
        ValueError: for a `FlowOnly` schedule.
    """
    if flow_only(schedule):
        raise ValueError(f"{what}, but the process is not Gaussian, so that only its flow is right; {instead}.")


def check(schedule: Schedule, points: int = 257) -> None:
    """Checks a schedule on the host, before anything is traced, at `points` times.

    Raises:
        ValueError: unless alpha and sigma are finite and not negative on [0, t_max], and log-SNR falls strictly; where
            both are 0 at t_max (a bridge) the fall ends before.
    """
    end, name = float(schedule.t_max), type(schedule).__name__
    if not 0 < end < np.inf:
        raise ValueError(f"{name} ends at t_max = {end}, expected a positive number.")
    ts = np.linspace(0, end, points)
    with np.errstate(all="ignore"):
        alpha, sigma = amplitudes(schedule, ts)
    bad = np.flatnonzero(~(np.isfinite(alpha) & np.isfinite(sigma) & (alpha >= 0) & (sigma >= 0)))
    if bad.size:
        i = bad[0]
        raise ValueError(
            f"{name} has alpha = {alpha[i]:g}, sigma = {sigma[i]:g} at t = {ts[i]:g}, expected finite numbers >= 0; "
            f"it was given {schedule}."
        )
    inside = points - 1 if alpha[-1] == sigma[-1] == 0 else points
    rising = np.flatnonzero(~(sigma[1:inside] * alpha[: inside - 1] > sigma[: inside - 1] * alpha[1:inside]))
    if rising.size:
        i = rising[0]
        raise ValueError(
            f"{name} destroys nothing between t = {ts[i]:g} and {ts[i + 1]:g}: log-SNR must fall strictly; "
            f"it was given {schedule}."
        )


def log_snr(schedule: Schedule, t: Any) -> Array:
    """Computes log(alpha^2 / sigma^2), twice DPM-Solver's lambda; infinite where alpha or sigma is 0."""
    alpha, sigma = schedule(t)
    return 2 * (jnp.log(alpha) - jnp.log(sigma))


def remaining(schedule: Schedule, t: Any) -> Array:
    """Computes by how much log-SNR still falls from t to t_max: 0 there, infinite at sigma_t = 0.

    A schedule's own `remaining(t)` has full relative precision near t_max too; without one it is a plain difference.
    """
    if isinstance(schedule, Remaining):
        return schedule.remaining(t)
    return log_snr(schedule, t) - log_snr(schedule, schedule.t_max)


def rates(schedule: Schedule, t: Any) -> tuple[Array, Array]:
    """Computes the rates (f, g^2) of dx = f x dt + g dw with a schedule's marginals, each of t's shape.

    Defined for sigma > 0 (most sigma leave 0 with infinite slope). Infinite where alpha = 0; write the probability-flow
    ODE as alpha' x_0 + sigma' z there (`derivatives`).

    f = alpha'/alpha and g^2 = alpha^2 (sigma^2/alpha^2)' (kexue 9209 (21)).
    """
    (alpha, sigma), (d_alpha, d_sigma) = derivatives(schedule, t)
    f = d_alpha / alpha
    return f, 2 * sigma * (d_sigma - f * sigma)


def unit_variance(schedule: Schedule, t: Any, v: Any = 1.0) -> Array:
    """Computes Var[x_0 | x_t] for N(0, v) data: a scalar in the units of v."""
    alpha, sigma = schedule(t)
    return sigma**2 * v / (alpha**2 * v + sigma**2)  # (ddpm-recipe.2)


def derivatives(schedule: Schedule, t: Any) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Computes ((alpha, sigma), (alpha', sigma')) at t, by forward-mode differentiation."""
    t = real(t)
    return jax.jvp(schedule, (t,), (jnp.ones_like(t),))


def time_of(schedule: Schedule, log_snr: Any) -> Array:
    """Finds the time at which the schedule has the log-SNR `log_snr`.

    Raises:
        ValueError: if the schedule has no inverse.
    """
    if not isinstance(schedule, Invertible):
        raise ValueError(
            f"{type(schedule).__name__} has no inverse log-SNR; give it an `inverse(log_snr) -> t` method."
        )
    return schedule.inverse(log_snr)


def amplitudes(schedule: Schedule, ts: Any) -> tuple[np.ndarray, np.ndarray]:
    """Computes (alpha, sigma) at host times ts (N,), each (N,) float64: what plans are made of."""
    return host.along(amplitudes_at, schedule, ts)


def amplitudes_at(schedule: Schedule, t: Any) -> tuple[Array, Array]:
    """Computes (alpha, sigma) of a schedule at t, as a function of both, for `host.along`."""
    return schedule(t)


def same(a: Any, b: Any) -> Any:
    """Tells whether two schedules are one, by class and float32 numbers; a traced scalar if either is being traced."""
    if type(a) is not type(b) or jax.tree.structure(a) != jax.tree.structure(b):
        return False
    xp = np if host.concrete(a, b) else jnp
    pairs = list(zip(jax.tree.leaves(a), jax.tree.leaves(b)))
    if any(np.shape(x) != np.shape(y) for x, y in pairs):
        return False
    equal = [xp.all(xp.asarray(x, np.float32) == xp.asarray(y, np.float32)) for x, y in pairs]
    return xp.all(xp.asarray(equal)) if equal else True
