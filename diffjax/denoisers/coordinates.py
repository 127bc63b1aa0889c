"""A denoiser of one schedule used on another: the same posterior in other coordinates.

x_t of any Gaussian process is known by its direction u = x_t / rho, rho^2 = alpha^2 + sigma^2, and its log-SNR. So with
s the time at which the denoiser's own schedule has the log-SNR that the other one has at t,

    p(x_0 | x_t = x on `schedule`) = p(x_0 | x_s = x rho_s / rho_t on the denoiser's),

exactly. An eps-network of VP is a rectified flow, and back: the VP path divided by alpha + sigma and clocked by
sigma / (alpha + sigma) is the straight one. So no sampler is written again for new coordinates.

Gaussian noise looks the same along any orthonormal axes: with a basis B, B^T x_t = alpha B^T x_0 + sigma B^T z is the
same process on the same schedule (`Along`).
"""

from typing import Any

import jax
import jax.numpy as jnp

from diffjax import host
from diffjax.calculus import FlowOnly, amplitudes, flow_only, log_snr, time_of
from diffjax.types import Array, Denoiser, Posterior, Schedule, pytree, static


@pytree
class RunOn:
    """The denoiser in other coordinates; make one with `run_on`."""

    denoise: Denoiser
    schedule: Schedule

    def __call__(self, x: Array, t: Any) -> Posterior:
        """The posterior of x_0, which no coordinates change."""
        own = self.denoise.schedule
        s = time_of(own, log_snr(self.schedule, t))
        return self.denoise((jnp.hypot(*own(s)) / jnp.hypot(*self.schedule(t))).astype(x.dtype) * x, s)


def run_on(denoise: Denoiser, schedule: Schedule) -> Denoiser:
    """The denoiser as one of `schedule`; `FlowOnly` stays with it.

    Args:
        denoise: its schedule has an inverse log-SNR.
        schedule: of the new coordinates. Where it has less noise than the denoiser's schedule ever has, the time asked
            of the denoiser is before its 0.

    Raises:
        ValueError: if the schedule ends with more noise than the denoiser's, which it then knows nothing of; if the
            latter has no inverse.
    """
    own = denoise.schedule
    time_of(own, jnp.zeros(()))
    if host.concrete(own, schedule):
        (a, s), (a_own, s_own) = (
            (float(v[0]) for v in amplitudes(each, [float(each.t_max)])) for each in (schedule, own)
        )
        if s * a_own > s_own * a * (1 + 1e-6):
            level, last = s / a if a > 0 else float("inf"), _latest(schedule, own)
            raise ValueError(
                f"{type(schedule).__name__} ends at sigma / alpha = {level:.6g}, but the denoiser's "
                f"{type(own).__name__} knows noise up to {s_own / a_own:.6g}; end the schedule earlier, "
                f"t_max <= {last:.6g}."
            )
    if flow_only(own) and not flow_only(schedule):
        schedule = FlowOnly(schedule)
    return RunOn(denoise, schedule)


def _latest(schedule: Schedule, own: Schedule) -> float:
    """The time of `schedule` at which it has the noise that `own` ends with."""
    return float(host.float64(lambda a, b: time_of(a, log_snr(b, b.t_max)), schedule, own))


@pytree
class Along:
    """The denoiser along the columns of an orthonormal basis (d, d); a variance keeps its diagonal there."""

    denoise: Denoiser
    basis: Array
    shape: tuple[int, ...] = static()

    @property
    def schedule(self) -> Schedule:
        """The denoiser's own."""
        return self.denoise.schedule

    def __call__(self, x: Array, t: Any) -> Posterior:
        """The posterior of x_0 along the basis; x: (d,)."""
        mean, var = self.denoise(across(self.basis, x, self.shape), t)
        turned = var if jnp.ndim(var) == 0 else along(self.basis**2, jnp.broadcast_to(var, self.shape))
        return Posterior(along(self.basis, mean), turned)


def along(basis: Array, x: Array) -> Array:
    """B^T x, (d,), of x with d entries."""
    return jnp.matmul(basis.T.astype(x.dtype), x.ravel(), precision=jax.lax.Precision.HIGHEST)


def across(basis: Array, x: Array, shape: tuple[int, ...]) -> Array:
    """B x, of a shape with d entries."""
    return jnp.matmul(basis.astype(x.dtype), x, precision=jax.lax.Precision.HIGHEST).reshape(shape)
