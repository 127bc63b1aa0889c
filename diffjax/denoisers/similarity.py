"""Similarities as potentials for guidance (Liu et al. 2021, section 3.2): how alike x and a reference are.

    content      the cosine between the features of x and of the reference (kexue 9257 (15))
    structure    minus the squared distance of their feature maps, position by position
    style        minus the squared distance of the Gram matrices of their feature maps: blind to where things are

Each is a function of an encoder `encode(x, t) -> features`, and gives a potential for `guidance.tilted`, whose encoder
must know the noise (kexue 9257 (14)), or for `guidance.tilted_by_prediction`, whose encoder sees clean data.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from diffjax.types import Array, as_pytree

Encoder = Callable[[Array, Any], Array]


def content(encode: Encoder, reference: Array) -> Any:
    """Makes the cosine similarity with the features of the reference, in [-1, 1].

    Args:
        encode: (x, t) -> features (..., C), averaged over all axes but the last before they are compared.
        reference: features of the reference, of that shape.
    """
    return _potential(_cosine, encode, _pool(reference))


def structure(encode: Encoder, reference: Array) -> Any:
    """Makes minus the mean squared distance between feature maps (H, W, C)."""
    return _potential(_distance, encode, reference)


def style(encode: Encoder, reference: Array) -> Any:
    """Makes minus the squared distance between Gram matrices (C, C) of feature maps (..., C), means over positions."""
    return _potential(_gram_distance, encode, _gram(reference))


def _potential(compare: Callable, encode: Encoder, reference: Array) -> jax.tree_util.Partial:
    return jax.tree_util.Partial(compare, as_pytree(encode), reference)


def _cosine(encode: Encoder, reference: Array, x: Array, t: Any) -> Array:
    features = _pool(encode(x, t))
    # (similarity-guidance.1)
    return jnp.vdot(features, reference, precision="highest") / (jnp.linalg.norm(features) * jnp.linalg.norm(reference))


def _distance(encode: Encoder, reference: Array, x: Array, t: Any) -> Array:
    features = encode(x, t)
    if features.shape != reference.shape:
        raise ValueError(f"The encoder gives features of shape {features.shape}, the reference has {reference.shape}.")
    return -jnp.mean((features - reference) ** 2)  # (similarity-guidance.2)


def _gram_distance(encode: Encoder, reference: Array, x: Array, t: Any) -> Array:
    return -jnp.sum((_gram(encode(x, t)) - reference) ** 2)  # (similarity-guidance.3)


def _pool(features: Array) -> Array:
    return jnp.mean(features, axis=tuple(range(features.ndim - 1)))


def _gram(features: Array) -> Array:
    flat = features.reshape(-1, features.shape[-1])
    return jnp.matmul(flat.T, flat, precision="highest") / flat.shape[0]  # (similarity-guidance.4)
