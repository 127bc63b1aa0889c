"""The losses of the variances that `denoisers.heads` reads (Bao et al. 2022b; kexue 9246).

    npr   |u - (F* - F)^2|^2,  F held fixed        sn   |u - F*^2|^2

Their minimisers are the means of those squares given x_t. F is not trained by them; train it first, and then these with
`train.start` at that run and `train.only` at the last layer.
"""

from typing import Any

import jax
import jax.numpy as jnp

from diffjax.calculus import need_gaussian, need_scalar
from diffjax.denoisers.targets import Target, inputs, split_maps
from diffjax.losses.weights import Weight, unit
from diffjax.processes.gaussian import Gaussian
from diffjax.types import Array, Network

_UNIT = unit()


def npr(net: Network, process: Gaussian, target: Target, x0: Array, z: Array, t: Any, weight: Weight = _UNIT) -> Array:
    """Regresses the second map u on the squared residual (F* - F)^2 of one example (kexue 9246 (13)): a scalar, a mean.

    Args: as of `regression`; the network has two maps, F and u.

    Raises:
        ValueError: for a network of one map, or a process that is not Gaussian.
    """
    F, u, F_star = _parts(net, process, target, x0, z, t)
    return weight(process.schedule, target, t) * jnp.mean((u - (F_star - F) ** 2) ** 2)  # (heads.1)


def sn(net: Network, process: Gaussian, target: Target, x0: Array, z: Array, t: Any, weight: Weight = _UNIT) -> Array:
    """Regresses the second map u on the squared target F*^2 of one example: a scalar, averaged over entries.

    Args: as of `regression`; the network has two maps, F and u.

    Raises:
        ValueError: for a network of one map.
    """
    _, u, F_star = _parts(net, process, target, x0, z, t)
    return weight(process.schedule, target, t) * jnp.mean((u - F_star**2) ** 2)  # (heads.2)


def _parts(net: Network, process: Gaussian, target: Target, x0: Array, z: Array, t: Any) -> tuple[Array, Array, Array]:
    """Evaluates the network at x_t: (F without its gradient, u, F*), each of x_0's shape."""
    need_scalar(process.schedule, "A second map of the network")
    need_gaussian(process.schedule, "The posterior's variance is learned", "deterministic samplers use none")
    a, b = target(process.schedule, t)
    F, u = split_maps(net(*inputs(process.schedule, target, process.corrupt(x0, z, t), t)), x0, 2)
    return jax.lax.stop_gradient(F), u, a * x0 + b * z + target.offset(process.schedule, t)
