"""Confining E[x_0 | x_t] to the range of the data (Ho et al. 2020, code): an option of a denoiser, off by default.

Every sampler here is written in x_0, so that the noise it implies, (x - alpha mean) / sigma, is that of the clipped
mean: Dhariwal & Nichol (2021) recompute it so. The variance stays what the denoiser says, as published.
"""

from typing import Any

import jax.numpy as jnp

from diffjax.calculus import need_scalar
from diffjax.denoisers.wrapper import Wrapper
from diffjax.types import Array, Denoiser, Posterior, pytree


@pytree
class Clipped(Wrapper):
    """A denoiser whose mean is confined to [low, high].

    Attributes:
        denoise: the one that is confined.
        low, high: scalars, in units of x_0.
    """

    denoise: Denoiser
    low: float
    high: float

    def __call__(self, x: Array, t: Any) -> Posterior:
        """Computes the clipped mean; the variance stays that of `denoise`."""
        mean, var = self.denoise(x, t)
        return Posterior(jnp.clip(mean, self.low, self.high), var)  # (ddpm-recipe.3)


def clipped(denoise: Denoiser, clip: tuple[float, float] | None) -> Denoiser:
    """Confines a denoiser's mean to clip = (low, high); None: the denoiser as it is.

    Raises:
        ValueError: unless low < high; for a schedule per frequency, where the mean is not in pixels.
    """
    if clip is None:
        return denoise
    if not (isinstance(clip, tuple | list) and len(clip) == 2 and clip[0] < clip[1]):
        raise ValueError(f"clip is {clip}, expected (low, high) with low < high, such as (-1, 1), or None.")
    need_scalar(denoise.schedule, "Clipping, which looks at pixels,")
    return Clipped(denoise, float(clip[0]), float(clip[1]))
