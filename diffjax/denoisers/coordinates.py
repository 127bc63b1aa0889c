"""A denoiser of one schedule used on another: the same posterior in other coordinates.

x_t of any Gaussian process is known by its direction u = x_t / rho, rho^2 = alpha^2 + sigma^2, and its log-SNR. So with
s the time at which the denoiser's own schedule has the log-SNR that the other one has at t,

    p(x_0 | x_t = x on `schedule`) = p(x_0 | x_s = x rho_s / rho_t on the denoiser's),

exactly. An eps-network of VP is a rectified flow, and back: the VP path divided by alpha + sigma and clocked by
sigma / (alpha + sigma) is the straight one. So no sampler is written again for new coordinates.
"""

from typing import Any

import jax.numpy as jnp

from diffjax import host
from diffjax.calculus import FlowOnly, amplitudes, flow_only, log_snr, sde_only, time_of
from diffjax.spectral import Frequencies as Frequencies
from diffjax.types import Array, Denoiser, Posterior, Schedule, pytree


@pytree
class RunOn:
    """A denoiser used on another schedule; `run_on` makes one.

    Attributes:
        denoise: the denoiser on the schedule that it was made for.
        schedule: of the new coordinates, what x_t and t refer to.
    """

    denoise: Denoiser
    schedule: Schedule

    def __call__(self, x: Array, t: Any) -> Posterior:
        """Computes the posterior of x_0, which no coordinates change."""
        own = self.denoise.schedule
        s = time_of(own, log_snr(self.schedule, t))  # (run-on.1)
        return self.denoise((jnp.hypot(*own(s)) / jnp.hypot(*self.schedule(t))).astype(x.dtype) * x, s)  # (run-on.2)


def run_on(denoise: Denoiser, schedule: Schedule) -> Denoiser:
    """Turns a denoiser of one schedule into one of another; `FlowOnly` stays with it.

    Args:
        denoise: its schedule has an inverse log-SNR.
        schedule: of the new coordinates. Where it has less noise than the denoiser's schedule ever has, the time asked
            of the denoiser is before its 0.

    Raises:
        ValueError: if the schedule ends with more noise than the denoiser's, which it then knows nothing of; if the
            latter has no inverse, or is right in its own reverse SDE alone (`calculus.SDEOnly`).
    """
    own = denoise.schedule
    if sde_only(own):
        raise ValueError(
            f"The denoiser of {type(own).__name__} is right in the reverse SDE of its own schedule alone, got "
            f"{type(schedule).__name__} to run it on: walk on its own, with sampler.name=ancestral.ddpm."
        )
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
    """Finds the time of `schedule` at which it has the noise that `own` ends with."""
    return float(host.float64(lambda a, b: time_of(a, log_snr(b, b.t_max)), schedule, own))
