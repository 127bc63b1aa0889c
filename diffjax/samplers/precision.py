"""In which precision a walk runs: that of x, but float32 at least; rows and what the model says are brought to it.

    x_T, as given               bfloat16, float16      float32      float64
    state, rows, E[x_0 | x]     float32                float32      float64
    x_0, as returned            as x_T                 float32      float64

So whether `jax_enable_x64` is set does not matter to a walk of float32, and a model may answer in any precision: its
bfloat16 is where rounding stays small, for each evaluation is rounded once, but sums over the steps are not. Tokens
are walked with in int32, and given back in the integers that x_T was of.
"""

from typing import Any

import jax
import jax.numpy as jnp

from diffjax.denoisers.wrapper import Wrapper
from diffjax.types import Array, Denoiser, Posterior, PyTree, pytree


def widened(x: Any, what: str = "x_T") -> Array:
    """Converts x to the precision of the state that starts there: its own, but float32 at least.

    Args:
        what: x, by its name in an error.

    Raises:
        ValueError: for an x that is not of real floating-point numbers.
    """
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"{what} is of {x.dtype}, expected real numbers: float32, bfloat16, float16 or float64.")
    return x if jnp.finfo(x.dtype).bits >= 32 else x.astype(jnp.float32)


def whole(x: Any, what: str = "x_T") -> Array:
    """Converts x, tokens, to int32, in which they are walked with.

    Args:
        what: x, by its name in an error.

    Raises:
        ValueError: for an x that is not of integers.
    """
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.integer):
        raise ValueError(f"{what} is of {x.dtype}, expected integers: the process destroys tokens.")
    return x.astype(jnp.int32)


def like(tree: PyTree, x: Array) -> PyTree:
    """Converts floating-point leaves of a tree, such as planned rows, to the precision of x; for tokens, default."""
    dtype = x.dtype if jnp.issubdtype(x.dtype, jnp.floating) else jnp.zeros(()).dtype
    other = lambda leaf: jnp.issubdtype(getattr(leaf, "dtype", bool), jnp.floating) and leaf.dtype != dtype
    return jax.tree.map(lambda leaf: leaf.astype(dtype) if other(leaf) else leaf, tree)


def narrowed(found: Any, x: Any) -> Any:
    """Converts x_0, or the x_0 of (x_0, trajectory), to the precision that x was given in."""
    if isinstance(found, tuple):
        return narrowed(found[0], x), *found[1:]
    dtype = jnp.asarray(x).dtype
    return found if found.dtype == dtype else found.astype(dtype)


@pytree
class Steady(Wrapper):
    """A model that answers in the precision of the x that it is shown.

    Attributes:
        denoise: the model itself, whose every other attribute is reached through this one.
    """

    denoise: Denoiser

    def __call__(self, x: Array, t: Any) -> Any:
        """Evaluates the model at (x, t) and gives its posterior in the precision of x; another kind of law as it is.

        Raises:
            ValueError: for a mean that is not of real floating-point numbers.
        """
        found = self.denoise(x, t)
        if hasattr(found, "sample") and not isinstance(found, Posterior):
            return like(found, x)
        mean, var = found
        if not jnp.issubdtype(jnp.result_type(mean), jnp.floating):
            raise ValueError(
                f"The model gives E[x_0 | x_t] in {jnp.result_type(mean)} for x_t in {x.dtype}, expected real numbers."
            )
        return Posterior(like(mean, x), like(var, x))

    def __getattr__(self, name: str) -> Any:
        if name == "denoise":  # not yet set: a copy in the making
            raise AttributeError(name)
        return getattr(self.denoise, name)
