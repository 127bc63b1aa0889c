"""PFGM's training as published (Xu et al. 2022, algorithms 1 and 2; kexue 9305): a field estimated on a large batch.

At (x, z), z > 0 the extra coordinate, sources x_i at z = 0 pull with weights w_i ~ |(x, z) - (x_i, 0)|^-(N + 1):

    E = sum w_i ((x_i, 0) - (x, z)),    target sqrt(N) E / (|E| + gamma),    dx/dz = E_x / E_z
            (kexue 9305 (8, 12, 4)),

for the weights' unknown factor cancels in the direction. On the whole data set that is exact. On a part of it the
quotient of two means is biased, by O(1 / batch). The regression of `losses.regression` on `processes.poisson` with
D = 1 has no bias and needs no batch: its targets are the single points' own, (x_t - x_0) / z (kexue 9370).
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffjax import host
from diffjax.types import Array, Key


class Field(NamedTuple):
    """A vector in N + 1 dimensions, or what a network says of it: towards data, of any length."""

    x: Array
    z: Array

    def mean(self, x: Array, z: Any) -> Array:
        """Computes E[x_0 | x_t = x] of the flow dx/dz = E_x / E_z: x - z E_x / E_z, of x's shape."""
        return x - z * self.x / self.z  # (pfgm.3)


def batch_field(x: Array, z: Any, sources: Array, gamma: Any = 5.0) -> Field:
    """Computes the published target at one point.

    Args:
        x: of any shape, N entries.
        z: the extra coordinate, > 0.
        sources: (B, *x.shape), the large batch; the points' own originals among them.
        gamma: added to the length of E, so that the target is small far from data's scale.

    Raises:
        ValueError: for sources of other shapes, or z <= 0.
    """
    if sources.shape[1:] != x.shape or not len(sources):
        raise ValueError(f"Got sources of shape {sources.shape} for x of shape {x.shape}, expected (B, *x.shape).")
    if host.concrete(z) and not z > 0:
        raise ValueError(f"The extra coordinate is z = {z}, expected a positive number.")
    n, axes = x.size, tuple(range(1, sources.ndim))
    # Powers N + 1 of distances overflow: their logarithms do not.
    log_distance = 0.5 * jnp.log(z**2 + jnp.sum((sources - x[None]) ** 2, axes))
    weights = jax.nn.softmax(-(n + 1) * log_distance)  # (pfgm.1)
    pull, rise = jnp.tensordot(weights, sources, 1, precision="highest") - x, -jnp.asarray(z, x.dtype)
    factor = math.sqrt(n) / (jnp.sqrt(jnp.sum(pull**2) + rise**2) + gamma)  # (pfgm.2)
    return Field(factor * pull, factor * rise)


def perturb(key: Key, x0: Array, tau: Any = 0.03, most: Any = 291.0, sigma: Any = 0.01) -> tuple[Array, Array]:
    """Draws (x, z): x = x_0 + |e_x| (1 + tau)^m u, z = |e_z| (1 + tau)^m (kexue 9305 (11)).

    e is from N(0, sigma^2 I), m from U[0, most], u uniform on the unit sphere. Given z that is the kernel of
    `processes.poisson` with D = 1 only where the scale is log-uniform around it: not near the ends of z, where
    |e_x| / |e_z| is not independent of z.

    Args:
        tau, most, sigma: CIFAR-10's by default; `most_for` has the rule.
    """
    key_m, key_x, key_z, key_u = jax.random.split(key, 4)
    scale = sigma * (1 + tau) ** jax.random.uniform(key_m, (), maxval=most)
    length = jnp.sqrt(jnp.sum(jax.random.normal(key_x, x0.shape, x0.dtype) ** 2))
    u = jax.random.normal(key_u, x0.shape, x0.dtype)
    z = scale * jnp.abs(jax.random.normal(key_z, (), x0.dtype))
    return x0 + scale * length * u / jnp.sqrt(jnp.sum(u**2)), z  # (pfgm.4)


def most_for(largest_norm: float, n: int, tau: float = 0.03, sigma: float = 0.01) -> float:
    """Computes M for data of N entries: 0.75 log(max |x|^2 / (2 sqrt(N) sigma^2)) / log(1 + tau) + 1.

    Raises:
        ValueError: unless all are positive.
    """
    if not (largest_norm > 0 and n >= 1 and tau > 0 and sigma > 0):
        raise ValueError(f"Got max |x| = {largest_norm}, N = {n}, tau = {tau}, sigma = {sigma}, expected all positive.")
    return float(0.75 * np.log(largest_norm**2 / (2 * np.sqrt(n) * sigma**2)) / np.log1p(tau) + 1)


def z_max(tau: float = 0.03, most: float = 291.0, sigma: float = 0.01) -> float:
    """Computes where sampling starts: sqrt(2 / pi) sigma (1 + tau)^M, the mean of z at the largest scale."""
    return float(np.sqrt(2 / np.pi) * sigma * (1 + tau) ** most)
