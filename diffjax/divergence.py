"""The divergence of a vector field, div f = tr J with J = df/dx, along directions v whose mean outer product is I:

    tr J = E[v' J v].

    exact        sqrt(d) times the d unit vectors: their mean is the trace itself, at d products J v
    hutchinson   independent signs (Hutchinson 1989): unbiased, of variance 2 sum_{i != j} S_ij^2, S = (J + J') / 2
    gaussian     standard normal (Song et al. 2021, eq. 40 allows both): unbiased, of variance 2 sum_ij S_ij^2

A product J v is forward mode: one direction makes an evaluation cost twice the field, K of them K + 1 times.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from diffjax.types import Array, Key


def exact(key: Key | None, x: Array, count: int | None = None) -> Array:
    """Makes the scaled basis as directions (d, *shape), d entries of x: the exact trace; key and count are not used."""
    size = int(np.prod(x.shape))
    return (np.sqrt(size).astype(x.dtype) * jnp.eye(size, dtype=x.dtype)).reshape(size, *x.shape)


def hutchinson(key: Key, x: Array, count: int = 1) -> Array:
    """Draws random signs as directions, (count, *shape) (Hutchinson 1989)."""
    return jax.random.rademacher(key, (count, *x.shape), x.dtype)


def gaussian(key: Key, x: Array, count: int = 1) -> Array:
    """Draws standard normal directions, (count, *shape)."""
    return jax.random.normal(key, (count, *x.shape), x.dtype)


DIRECTIONS = {"hutchinson": hutchinson, "gaussian": gaussian, "exact": exact}


def with_value(field: Callable[[Array], Array], x: Array, directions: Array) -> tuple[Array, Array]:
    """Computes (f(x), div f(x)) by one evaluation of f and one product for each of the directions (K, *shape)."""
    value, products = products_along(field, x, directions)
    return value, jnp.mean(products)  # (likelihood.3)


def products_along(field: Callable[[Array], Array], x: Array, directions: Array) -> tuple[Array, Array]:
    """Computes (f(x), v' J v for each of the directions, (K,)).

    Raises:
        ValueError: for a field that does not keep x's shape, or directions of another shape.
    """
    value, push = jax.linearize(field, x)
    if value.shape != x.shape or directions.shape[1:] != x.shape:
        raise ValueError(
            f"Got a field of shape {value.shape} and directions {directions.shape} at x of shape {x.shape}, expected "
            f"{x.shape} and (K, {', '.join(map(str, x.shape))})."
        )
    return value, jax.vmap(lambda v: jnp.vdot(v, push(v), precision="highest"))(directions)
