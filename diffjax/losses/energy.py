"""Regression of an energy's gradient on the noise: denoising score matching of a scalar (kexue 7038; Du et al. 2023).

    w(t) |F - z|^2,    F = de/dx_in = sigma grad E(x_t, t).

It is `regression` of the first of two maps: nothing trains the second, which is the scalar that the first is the
gradient of. With E told the level, E(., t) = -log p_t + C(t) is the only minimiser.
"""

from typing import Any

from diffjax.denoisers.targets import Target, split_maps
from diffjax.losses.regression import regression
from diffjax.losses.weights import Weight, unit
from diffjax.types import Array, Network, Process

_UNIT = unit()


def energy(
    net: Network, process: Process, target: Target, x0: Array, z: Array, t: Any, weight: Weight = _UNIT
) -> Array:
    """Weights the squared error of the gradient on one example: a scalar, averaged over x_0's entries.

    Args: as of `regression`; the network has two maps, F and e (`models.scalar.energy`).

    Raises:
        ValueError: for a network of one map, which is no energy's.
    """
    return regression(lambda x, c: split_maps(net(x, c), x, 2)[0], process, target, x0, z, t, weight)


vars(energy)["of_energies"] = True  # `methods.kinds` asks whether the network is one
