"""w(t) |x_0 - G(x_t)|: how well x_0 is restored, in units of x_0 (Bansal et al. 2022; kexue 9271, q Laplace).

G is the denoiser of the network, whatever it predicts. With L1 its optimum is the median of each entry given x_t, with
L2 the mean, which is `regression` of the target X0.
"""

from typing import Any

import jax.numpy as jnp

from diffjax.denoisers.targets import Target
from diffjax.losses.regression import predicted
from diffjax.losses.weights import Weight, unit
from diffjax.types import Array, Network, Process

_UNIT = unit()


def restoration(
    net: Network,
    process: Process,
    target: Target,
    x0: Array,
    z: Any,
    t: Any,
    weight: Weight = _UNIT,
    norm: int = 1,
) -> Array:
    """Weights the error of the restored example: a scalar, averaged over x_0's entries.

    Args:
        net: (x_in, c) -> F, of x_0's shape.
        x0, z: data, and a draw of the process's noise.
        t: scalar time.
        weight: (schedule, target, t) -> scalar, in units of x_0^norm.
        norm: 1 for absolute errors, 2 for squared ones.

    Raises:
        ValueError: for another norm; if F has another shape than x_0.
    """
    if norm not in (1, 2):
        raise ValueError(f"norm is {norm!r}, expected 1 (absolute errors, the median) or 2 (squares, the mean).")
    x, F = predicted(net, process, target, x0, z, t)
    missed = x0 - target.mean(process.schedule, x, F, t)
    errors = jnp.abs(missed) if norm == 1 else missed**2
    return jnp.mean(weight(process.schedule, target, t) * errors)  # (cold.7)
