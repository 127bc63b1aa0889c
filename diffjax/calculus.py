"""What follows from a schedule, whichever it is: log-SNR, the SDE's rates, inverses, and what only a flow allows.

Every function takes the schedule first and reads nothing but what `types.Schedule` states. `amplitudes` is the host's
float64 view, of which plans are made.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffjax import host
from diffjax.types import Array, Derived, Exponential, Invertible, Remaining, Schedule, Telling, as_pytree, pytree, real


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


@pytree
class Clock(FlowOnly):
    """The times of a process whose x_t is no alpha x_0 + sigma z: a degradation's, which has no flow by a schedule.

    Its log-SNR only tells a network the time. What refuses a `FlowOnly` refuses it too, and so does every sampler that
    is made of a schedule (`samplers.sampling_fn`): `samplers.unified`, made of the process, remains.
    """


def clock_only(schedule: Any) -> bool:
    """Tells whether a schedule, or one inside it, is a `Clock`."""
    while isinstance(schedule, Derived) and not isinstance(schedule, Clock):
        schedule = schedule.base
    return isinstance(schedule, Clock)


def flow_only(schedule: Any) -> bool:
    """Tells whether a schedule, or one inside it (by another clock, say), is a `FlowOnly`."""
    while isinstance(schedule, Derived) and not isinstance(schedule, FlowOnly):
        schedule = schedule.base
    return isinstance(schedule, FlowOnly)


class SDEOnly:
    """Mixin of a schedule whose denoiser is right in the reverse SDE alone, with all of that SDE's noise.

    So it is where a Markov process was fitted to pairs (x_0, x_T) that no forward process made
    (`processes.schroedinger`): E[x_0 | x_t] is the drift of the reverse SDE, but (x - alpha E[x_0 | x_t]) / sigma^2 is
    not minus a score, so that the flow, and every noise between none and all, has other laws. Samplers of another noise
    refuse (`samplers.sampling_fn`), and so does whatever needs Gaussian noise (`need_gaussian`).
    """


def sde_only(schedule: Any) -> bool:
    """Tells whether a schedule, or one inside it, is an `SDEOnly`."""
    while isinstance(schedule, Derived) and not isinstance(schedule, SDEOnly):
        schedule = schedule.base
    return isinstance(schedule, SDEOnly)


def need_gaussian(schedule: Any, what: str, instead: str) -> None:
    """Refuses a schedule on which only the flow is right, or only the reverse SDE, for what needs Gaussian noise.

    Args:
        what: the beginning of the message: what needs Gaussian noise, and why.
        instead: what to do, where the flow is right.

    Raises:
        ValueError: for a `FlowOnly` or an `SDEOnly` schedule.
    """
    if flow_only(schedule):
        raise ValueError(f"{what}, but the process is not Gaussian, so that only its flow is right; {instead}.")
    if sde_only(schedule):
        raise ValueError(f"{what}, but x_t given x_0 is not Gaussian, so that only the reverse SDE is right; {_MEAN}.")


_MEAN = "take the mean alone (denoiser.name=mean, guidance.name=none) and sampler.name=ancestral.ddpm"


def check(schedule: Schedule, points: int = 257) -> None:
    """Checks a schedule on the host, before anything is traced, at `points` times.

    Raises:
        ValueError: unless alpha and sigma are finite and not negative on [0, t_max], and log-SNR falls strictly; where
            both are 0 at t_max (a bridge) the fall ends before. Of a schedule per frequency log-SNR may stand still, or
            fall by less than it can be told, at some of them.
    """
    end, name = float(schedule.t_max), type(schedule).__name__
    if not 0 < end < np.inf:
        raise ValueError(f"{name} ends at t_max = {end}, expected a positive number.")
    ts = np.linspace(0, end, points)
    with np.errstate(all="ignore"):
        alpha, sigma = np.broadcast_arrays(*amplitudes(schedule, ts))
    bad = np.argwhere(~(np.isfinite(alpha) & np.isfinite(sigma) & (alpha >= 0) & (sigma >= 0)))
    if bad.size:
        i, at = bad[0][0], tuple(bad[0])
        raise ValueError(
            f"{name} has alpha = {alpha[at]:g}, sigma = {sigma[at]:g} at t = {ts[i]:g}{_place(at)}, expected finite "
            f"numbers >= 0; it was given {schedule}."
        )
    inside = points - 1 if not np.any(alpha[-1]) and not np.any(sigma[-1]) else points
    before, after = sigma[: inside - 1] * alpha[1:inside], sigma[1:inside] * alpha[: inside - 1]
    falls = after > before if alpha.ndim == 1 else (after >= before * (1 - 1e-9)) & _some(after > before)
    rising = np.argwhere(~falls)
    if rising.size:
        i = rising[0][0]
        raise ValueError(
            f"{name} destroys nothing between t = {ts[i]:g} and {ts[i + 1]:g}{_place(rising[0])}: log-SNR must fall "
            f"strictly; it was given {schedule}."
        )


def _place(at: Any) -> str:
    """Names the frequency of an index (time, *frequency), where there is one."""
    return f" at the frequency {tuple(map(int, at[1:]))}" if len(at) > 1 else ""


def _some(true: np.ndarray) -> np.ndarray:
    """Tells for each time whether it is true at some frequency, (N, 1, ...)."""
    return np.asarray(true.any(tuple(range(1, true.ndim)), keepdims=True))


SERVE = (
    "of the samplers ancestral.ddim, ddpm and resampled, heat.dissipation and momentum, sde.euler_maruyama, heun.edm "
    "without churn and ode.probability_flow serve, of the grids uniform, linspace, trailing, leading, quadratic and "
    "of_base"
)


def axes(schedule: Schedule) -> tuple[int, ...]:
    """Finds the shape of alpha: () of a schedule with one log-SNR at a time, (H, W, 1) of one per frequency."""
    host.need_object(schedule)
    time = jax.ShapeDtypeStruct((), jnp.result_type(float))
    return jax.eval_shape(amplitudes_at, as_pytree(schedule), time)[0].shape


def need_scalar(schedule: Schedule, what: str) -> None:
    """Refuses a schedule whose amplitudes have an axis, for what needs one log-SNR at a time.

    Args:
        what: the beginning of the message: what needs it.

    Raises:
        ValueError: naming what serves.
    """
    if shape := axes(schedule):
        raise ValueError(
            f"{what} needs one log-SNR at a time, but {type(schedule).__name__} has amplitudes of shape {shape}, one "
            f"for each frequency; {SERVE}."
        )


def told(schedule: Schedule, t: Any) -> Array:
    """Computes the scalar by which a network knows the time: log-SNR, or what the schedule states (`types.Telling`).

    Raises:
        ValueError: for a schedule with a log-SNR per frequency that states none.
    """
    if isinstance(schedule, Telling):
        return schedule.told(t)
    found = log_snr(schedule, t)
    if found.ndim > jnp.ndim(t):
        raise ValueError(
            f"{type(schedule).__name__} has log-SNRs of shape {found.shape}, and a network is told one number: give "
            "it a method told(t)."
        )
    return found


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
    if isinstance(schedule, Exponential):
        f = jax.jvp(schedule.log_signal, (real(t),), (jnp.ones_like(real(t)),))[1]
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
        need_scalar(schedule, "The time of a log-SNR")
        raise ValueError(
            f"{type(schedule).__name__} has no inverse log-SNR; give it an `inverse(log_snr) -> t` method."
        )
    return schedule.inverse(log_snr)


def amplitudes(schedule: Schedule, ts: Any) -> tuple[np.ndarray, np.ndarray]:
    """Computes (alpha, sigma) at host times ts (N,), float64: what plans are made of.

    Each is (N,); of a schedule per frequency (N, H, W, 1) and (N, 1, 1, 1).
    """
    return host.along(amplitudes_at, schedule, ts)


def log_alphas(schedule: Schedule, ts: Any, alpha: np.ndarray) -> np.ndarray:
    """Computes log(alpha) at host times ts (N,), float64, of alpha's shape: from alpha, unless the schedule has better.

    Where alpha is 0 it is -inf, unless the schedule states the exponent (`types.Exponential`).
    """
    if isinstance(schedule, Exponential):
        return host.along(_log_alpha_at, schedule, ts)
    with np.errstate(divide="ignore"):
        return np.log(alpha)


def _log_alpha_at(schedule: Exponential, t: Any) -> Array:
    return schedule.log_signal(t)


def over(ts: Any, like: np.ndarray) -> np.ndarray:
    """Gives numbers (N,) the trailing axes of `like` (N, ...), against which they broadcast."""
    return np.reshape(ts, (len(ts), *(1,) * (np.ndim(like) - 1)))


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
