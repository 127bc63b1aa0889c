"""w(t) |F - (a x_0 + b z + offset)|^2: plain regression in network space, for every parameterisation.

With unit weight this is L_simple for eps (Ho et al. 2020, eq. 14; kexue 9164 (12) without its factor). That is
denoising score matching weighted by sigma^2 (kexue 9209 (23)). It is EDM's lambda(sigma) for EDM (Karras et al. 2022,
eq. 8), and conditional flow matching for the velocity (Lipman et al. 2023), along any path: x_0 and z are then the ends
of its tangent (`processes.path`).
"""

from typing import Any

import jax.numpy as jnp

from diffjax.denoisers.targets import Target, inputs
from diffjax.losses.weights import Weight, unit
from diffjax.types import Array, Network, Process

_UNIT = unit()


def regression(
    net: Network, process: Process, target: Target, x0: Array, z: Array, t: Any, weight: Weight = _UNIT
) -> Array:
    """Weights the squared error of the network on one example: a scalar, averaged over x_0's entries.

    Args:
        net: (x_in, c) -> F, of x_0's shape.
        x0, z: data and the noise that the coupling gave it, of one shape.
        t: scalar time.
        weight: (schedule, target, t) -> scalar, or one for each frequency, in network space (`losses.weights`).

    Raises:
        ValueError: if F has another shape: a second map that nothing would train.
    """
    a, b = target(process.schedule, t)
    _, prediction = predicted(net, process, target, x0, z, t)
    x0, z = process.ends(x0, z, t)
    offset = target.offset(process.schedule, t)
    squares = (prediction - a * x0 - b * z - offset) ** 2
    return jnp.mean(weight(process.schedule, target, t) * squares)  # (targets.1)


def predicted(net: Network, process: Process, target: Target, x0: Array, z: Any, t: Any) -> tuple[Array, Array]:
    """Computes x_t, and the network's F there, both of x_0's shape; arguments and errors as `regression`."""
    x = process.corrupt(x0, z, t)
    prediction = net(*inputs(process.schedule, target, x, t))
    if prediction.shape != x0.shape:
        raise ValueError(
            f"The network gives shape {prediction.shape} for x of shape {x0.shape}, expected the same; for a second "
            "map (`outputs`) train with losses.hybrid or losses.variational."
        )
    return x, prediction
