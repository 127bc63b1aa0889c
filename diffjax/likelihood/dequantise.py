"""From a density to a codelength: what is added to data on a lattice, and what that costs.

Data of L levels evenly in [-1, 1] has the spacing delta = 2 / (L - 1). A density p gives it no probability; noise
turns it into x ~ q(x | x_0), and for any noise and decoder P(x_0 | x) (variational dequantisation, Ho et al. 2019)

    -log P(x_0) <= E[-log p(x) + cost],    cost = log q(x | x_0) - log P(x_0 | x).

    uniform    x = x_0 + u, u uniform within half a spacing: no other level could have given x, cost = -d log delta
    gaussian   x = x_t = alpha x_0 + sigma z, the noise that the model itself was trained on at the time t where its
               density is taken, and the decoder that knows x_t alone (Kingma et al. 2021, section 3.2)

Bits per dimension are (cost - log p) / (d log 2): with uniform noise -log2 p / d plus the constant log2((L - 1) / 2),
which is 3 for the 17 levels of scikit-learn's digits and 6.9944 for bytes (papers that scale bytes by 128 say 7).
A model that has only ever seen the lattice has learned it: its density between the levels falls without end as t_min
does, and uniform noise costs as much. The Gaussian noise never leaves what the model knows.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from diffjax.losses.variational import check_levels
from diffjax.samplers.precision import widened
from diffjax.types import Array, Key, Schedule


class Dequantised(NamedTuple):
    """A dequantised example: where the density is to be taken, and the cost of that; both float32 or finer.

    Attributes:
        x: of x_0's shape.
        cost: a scalar, in nats.
    """

    x: Array
    cost: Array


def uniform(key: Key, x0: Array, levels: int) -> Dequantised:
    """Adds noise over the bin of half width 1 / (levels - 1) around each value.

    Raises:
        ValueError: if levels < 2.
    """
    check_levels(levels)
    x0 = widened(x0, "x_0")
    half = 1 / (levels - 1)
    u = jax.random.uniform(key, x0.shape, x0.dtype, -half, half)
    return Dequantised(x0 + u, jnp.asarray(-x0.size * math.log(2 * half), x0.dtype))  # (dequantise.1)


def gaussian(key: Key, x0: Array, levels: int, schedule: Schedule, t: Any) -> Dequantised:
    """Draws x_t itself: q = N(alpha x_0, sigma^2), and P(x_0 | x_t) in proportion to it over all grey levels.

    Raises:
        ValueError: if levels < 2.
    """
    check_levels(levels)
    x0 = widened(x0, "x_0")
    alpha, sigma = (jnp.asarray(a, x0.dtype) for a in schedule(t))
    z = jax.random.normal(key, x0.shape, x0.dtype)
    # The cost is the log of the sum of N(x_t; alpha l, sigma^2) over all levels l: q(x_t | x_0) itself cancels.
    lattice = jnp.linspace(-1, 1, levels, dtype=x0.dtype).reshape(-1, *[1] * x0.ndim)
    away = (alpha / sigma) * (x0[None] - lattice) + z[None]
    total = jax.nn.logsumexp(-0.5 * away**2, axis=0) - jnp.log(sigma) - 0.5 * math.log(2 * math.pi)  # (dequantise.2)
    return Dequantised(alpha * x0 + sigma * z, jnp.sum(total))


def bits(log_p: Array, cost: Any, dimensions: int) -> Array:
    """Converts a log density in nats to bits per dimension; cost = 0 for data that is continuous."""
    return (cost - log_p) / (dimensions * math.log(2))  # (dequantise.3)
