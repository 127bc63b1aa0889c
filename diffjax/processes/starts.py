"""What a walk of a cold process begins with: D_1 of a draw of one of these laws (`processes.cold`).

fit        N(mean, covariance) of examples, mean + sum of n_k axes_k; or of the mean of an example alone, by channel
examples   one of given examples, as published: the walk has what they show, and no more
"""

from numbers import Real
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffjax.types import Array, Key, as_pytree, pytree


@pytree
class Fit:
    """A normal law of examples, mean + sum of n_k axes_k, n_k standard normal; `fitted` makes one.

    Attributes:
        mean: of an example's shape, or a scalar, of all entries.
        axes: (k, *shape); or a scalar, of one axis for each channel, even over the places.
    """

    mean: Any
    axes: Any

    def __call__(self, key: Key, shape: tuple[int, ...]) -> Array:
        """Draws one example of the fitted normal law, of this shape."""
        axes = jnp.asarray(self.axes, float)
        mean = jnp.asarray(self.mean, axes.dtype)
        if axes.ndim == 0:
            even = (1,) * (len(shape) - 1) + tuple(shape[-1:])
            return jnp.broadcast_to(mean + axes * jax.random.normal(key, even, axes.dtype), shape)
        return mean + jnp.tensordot(jax.random.normal(key, axes.shape[:1], axes.dtype), axes, 1, precision="highest")


@pytree
class Examples:
    """A draw of given examples (n, *shape)."""

    x: Array

    def __call__(self, key: Key, shape: tuple[int, ...]) -> Array:
        """Draws one example; raises a ValueError for another shape."""
        if self.x.shape[1:] != tuple(shape):
            raise ValueError(f"cold.examples has examples of shape {self.x.shape[1:]}, expected {tuple(shape)}.")
        return self.x[jax.random.randint(key, (), 0, len(self.x))]


def fit(x: Any) -> Fit:
    """Fits the normal law with mean and covariance of examples (n, *shape), n > 1; of linear D_1 that of D_1(x) too.

    Raises:
        ValueError: for examples of which there is no covariance.
    """
    x = checked(x, "fitted", 2).astype(np.float64)
    mean, flat = x.mean(0), (x - x.mean(0)).reshape(len(x), -1)
    _, scale, axes = np.linalg.svd(flat / np.sqrt(len(x)), full_matrices=False)
    axes = (scale[:, None] * axes)[scale > 1e-7 * max(scale[0], 1e-30)].reshape(-1, *mean.shape)
    return Fit(jnp.asarray(mean, jnp.float32), jnp.asarray(axes, jnp.float32))


def examples(x: Any) -> Examples:
    """Makes the start from given examples (n, *shape): D_1 of one of them, as published. What it makes is theirs."""
    return Examples(jnp.asarray(checked(x, "examples", 1), jnp.float32))


def start(given: Any) -> Any:
    """Gives a start as a pytree; None: there is none; (mean, std) is that of the mean of an example, by channel."""
    if given is None or callable(given):
        return None if given is None else as_pytree(given)
    pair = isinstance(given, tuple | list) and len(given) == 2 and all(np.ndim(a) == 0 for a in given)
    if not pair or not all(isinstance(a, Real) and np.isfinite(float(a)) for a in given) or given[1] < 0:
        got = f"an array of shape {np.shape(given)}" if isinstance(given, np.ndarray | jax.Array) else repr(given)
        raise ValueError(
            f"start is {got}, expected (mean, std) of an example's mean, a function of (key, shape), or "
            "cold.examples(x)."
        )
    return Fit(float(given[0]), float(given[1]))


def checked(x: Any, name: str, least: int) -> np.ndarray:
    """Gives examples (n, *shape) as an array; raises a ValueError for fewer than `least`, or what is not finite."""
    try:
        x = np.asarray(x)
    except ValueError as error:  # of rows of several lengths, such as a data set's splits
        raise ValueError(f"cold.{name} takes examples (n, *shape) as one array, got {type(x).__name__}.") from error
    if x.ndim < 2 or len(x) < least or x.dtype.kind not in "biuf" or not np.isfinite(x).all():
        raise ValueError(
            f"cold.{name} takes examples (n, *shape), n >= {least}, all finite; got {x.dtype} of shape {x.shape}."
        )
    return x
