"""The reverse variances of DDPM and iDDPM, as what a network knows of Var[x_0 | x_t].

The reverse variance of `ancestral.ddpm` is beta_tilde (1 + gain var) (`chains`), with var = Var[x_0 | x_t]:

    small          var = 0: right for data that is one point (Ho et al. 2020, section 3.2; kexue 9164 (16))
    large          var = sigma^2 v / (alpha^2 v + sigma^2): right for N(0, v) data; v = 1 gives beta_t on a variance-
                   preserving chain (kexue 9164 (18))
    learned range  log(1 + gain var) = frac log(1 + gain large), frac = (u + 1) / 2, u a second map of the network: the
                   log of the variance goes from beta_tilde to beta_t, those of the very steps that are walked
                   (Nichol & Dhariwal 2021, eq. 15)

Each function is what a config names: (net, schedule, target, chain) -> denoiser, `chain` being that of the grid to be
walked. `clip` confines the mean (`clipping`).
"""

from typing import Any

import jax.numpy as jnp

from diffjax.calculus import need_gaussian, unit_variance
from diffjax.chains import Chain
from diffjax.denoisers.clipping import clipped
from diffjax.denoisers.energy import energy
from diffjax.denoisers.heads import npr, sn
from diffjax.denoisers.optimal import analytic
from diffjax.denoisers.targets import NetworkDenoiser, Target, denoiser, split_maps
from diffjax.denoisers.wrapper import Wrapper
from diffjax.types import Array, Denoiser, Network, Posterior, Schedule, pytree

__all__ = ["analytic", "energy", "large", "learned_range", "mean", "npr", "small", "sn"]  # what a config may name

Clip = tuple[float, float] | None
TRAINED_BY = {
    "energy": ("energy",),
    "learned_range": ("hybrid", "variational"),
    "npr": ("npr",),
    "sn": ("sn",),
}  # losses of the second map
_INSTEAD = "take denoiser.name=mean: deterministic samplers use no variance"


def mean(net: Network, schedule: Schedule, target: Target, chain: Chain | None = None, *, clip: Clip = None):
    """Makes a network's denoiser without a variance, for DDIM, the ODE samplers, and DDPM's small one; on any grid."""
    return clipped(denoiser(net, schedule, target), clip)


def small(net: Network, schedule: Schedule, target: Target, chain: Chain, *, clip: Clip = None) -> Denoiser:
    """Makes a network's denoiser without a variance but the chain's `floor` on the step that arrives at data.

    The samples are those of `mean`; the variational bound, which needs p(x_0 | x_t) there, is finite.
    """
    return clipped(Small(denoiser(net, schedule, target), chain), clip)


def large(
    net: Network, schedule: Schedule, target: Target, chain: Chain | None = None, *, v: float = 1.0, clip: Clip = None
) -> Denoiser:
    """Makes a network's denoiser with the posterior variance of N(0, v) data, on any grid.

    Raises:
        ValueError: unless v is a positive number and the process Gaussian.
    """
    need_gaussian(schedule, "This is the variance of p(x_0 | x_t) under Gaussian noise", _INSTEAD)
    if not 0 < v < float("inf"):
        raise ValueError(f"The variance of the data is v = {v}, expected a positive number.")
    return clipped(Large(denoiser(net, schedule, target), v), clip)


def learned_range(net: Network, schedule: Schedule, target: Target, chain: Chain, *, clip: Clip = None) -> Denoiser:
    """Makes the denoiser of a network of two maps, F and u; trained by `losses.hybrid` or `losses.variational`.

    Raises:
        ValueError: if the process is not Gaussian; when called, if the network has one map only.
    """
    need_gaussian(schedule, "The range of variances is that of Gaussian noise", _INSTEAD)
    return clipped(LearnedRange(denoiser(net, schedule, target), chain), clip)


@pytree
class Small(Wrapper):
    """A denoiser with no variance but the chain's floor on its last step.

    Attributes:
        denoise: whose mean is kept.
        chain: the chain that is walked.
    """

    denoise: Denoiser
    chain: Chain

    def __call__(self, x: Array, t: Any) -> Posterior:
        """Computes mean and variance, which is NaN at a time outside the chain."""
        gain = self.chain.gain_at(t)
        var = jnp.where(jnp.isinf(gain), jnp.asarray(self.chain.floor, gain.dtype), 0.0 * gain)  # (ddpm-recipe.1)
        return Posterior(self.denoise(x, t).mean, var)


@pytree
class Large(Wrapper):
    """A denoiser with the posterior variance of N(0, v) data.

    Attributes:
        denoise: whose mean is kept.
        v: variance of the data, in squared units of x_0.
    """

    denoise: Denoiser
    v: float = 1.0

    def __call__(self, x: Array, t: Any) -> Posterior:
        """Computes the mean of `denoise`, and the variance of N(0, v) data given x_t."""
        return Posterior(self.denoise(x, t).mean, unit_variance(self.schedule, t, self.v))


@pytree
class LearnedRange(Wrapper):
    """A network's denoiser whose second map says where between two variances its own lies.

    The published network does not confine u to [-1, 1]. Beyond, var is extrapolated and may be negative, but the
    reverse variance of `ancestral.ddpm` along this chain stays positive; at eta < 1 a negative one counts as 0.

    Attributes:
        denoise: of a network with two maps.
        chain: the chain that is walked.
    """

    denoise: NetworkDenoiser
    chain: Chain

    def __call__(self, x: Array, t: Any) -> Posterior:
        """Computes mean and variance, which is NaN at a time outside the chain."""
        F, u = split_maps(self.denoise.predict(x, t), x, 2)
        return Posterior(self.denoise.mean(x, F, t), self.var(u, t))

    def var(self, u: Array, t: Any) -> Array:
        """Computes the variance that u stands for; on the step that arrives at data, between `floor` and large."""
        gain, most, frac = self.chain.gain_at(t), unit_variance(self.schedule, t), (u + 1) / 2
        arrives = jnp.isinf(gain)
        finite = jnp.where(arrives, 1.0, gain)
        inside = jnp.expm1(frac * jnp.log1p(finite * most)) / finite  # (iddpm.1)
        floor = jnp.asarray(self.chain.floor, gain.dtype)
        last = jnp.exp(frac * jnp.log(most) + (1 - frac) * jnp.log(floor))
        return jnp.where(arrives, last, inside)
