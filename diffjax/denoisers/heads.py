"""The optimal variance as a second map of the network (SN-DPM and NPR-DPM, Bao et al. 2022b; kexue 9246).

The network's target is F* = a x_0 + b z, so that x_0 - mean = c_out (F* - F), entry by entry. A second map u of the
same features, trained by squares (`losses.heads`) while all else is frozen, gives Var[x_0 | x_t] at the cost of a
convolution:

    npr   c_out^2 u,          u(x_t) ~ E[(F* - F)^2 | x_t]      around the mean that the network says, right or not
                                                                (kexue 9246 (11))
    sn    c_out^2 (u - F^2),  u(x_t) ~ E[F*^2 | x_t]            the same for the exact mean, and for no other

With eps-prediction these are the published ones. There c_out = sigma / alpha makes much of a small error at the noisy
end, and with x_0-prediction at the clean one; v-prediction, with c_out = sigma, is good at both. Both are confined to
[0, most]: the least that a variance can be, and the most that data in [-1, 1] can have.
"""

from typing import Any

import jax.numpy as jnp

from diffjax.denoisers.clipping import clipped
from diffjax.denoisers.targets import NetworkDenoiser, Target, denoiser, split_maps
from diffjax.denoisers.wrapper import Wrapper
from diffjax.types import Array, Denoiser, Network, Posterior, Schedule, pytree, static

Clip = tuple[float, float] | None


def npr(net: Network, schedule: Schedule, target: Target, chain: Any = None, *, most: float = 1.0, clip: Clip = None):
    """Reads Var[x_0 | x_t] off the second map trained by `losses.npr`: the residual of the noise prediction, squared.

    Args:
        net: (x_in, c) -> F and u, one after the other in the last axis.
        chain: not used: this variance serves any grid.
        most: what the variance is confined to from above; 1 for data in [-1, 1].
        clip: (low, high) of the mean, or None.

    Raises:
        ValueError: unless most > 0; when called, if the network has one map only.
    """
    return _head(net, schedule, target, most, clip, subtract=False)


def sn(net: Network, schedule: Schedule, target: Target, chain: Any = None, *, most: float = 1.0, clip: Clip = None):
    """Reads Var[x_0 | x_t] off the second map trained by `losses.sn`: the mean square of the network's target.

    Args:
        net, chain, most, clip: as for `npr`.

    Raises:
        ValueError: as `npr`.
    """
    return _head(net, schedule, target, most, clip, subtract=True)


def _head(net: Network, schedule: Schedule, target: Target, most: float, clip: Clip, subtract: bool) -> Denoiser:
    if not 0 < most < float("inf"):
        raise ValueError(f"The most that the variance may be is most = {most}, expected a positive number.")
    return clipped(Head(denoiser(net, schedule, target), most, subtract), clip)


@pytree
class Head(Wrapper):
    """A network's denoiser whose variance is its second map, scaled: that of `npr`, or of `sn` where F^2 is subtracted.

    Attributes:
        denoise: of a network with two maps.
        most: the variance is confined to [0, most].
        subtract: F^2 from the map before it is scaled.
    """

    denoise: NetworkDenoiser
    most: Any = 1.0
    subtract: bool = static(default=False)

    def __call__(self, x: Array, t: Any) -> Posterior:
        """Computes mean and variance, entry by entry, in one evaluation."""
        F, u = split_maps(self.denoise.predict(x, t), x, 2)[:2]
        _, c_out = self.denoise.target.skip_out(self.schedule, t)
        square = u - F**2 if self.subtract else u  # (heads.3)
        return Posterior(self.denoise.mean(x, F, t), jnp.clip(c_out**2 * square, 0.0, self.most))  # (heads.4)
