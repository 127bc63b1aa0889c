"""Power-function averages, and averages of any other width after the run (Karras et al. 2024, section 3, appendix C).

    average_t = average_{t-1} + r_t (params_t - average_{t-1}),    r_t = 1 - (1 - 1/t)^(gamma + 1)

gives params_k the weight (k^(gamma+1) - (k-1)^(gamma+1)) / t^(gamma+1): the integral over (k-1, k] of the profile
(gamma + 1) tau^gamma / t^(gamma+1) on [0, t] (eqs. 121, 127). The parameters before the first update weigh nothing. The
profile's standard deviation over t is its width (eq. 123), between 0 and that of the plain mean, 1 / sqrt(12):

    width = sqrt((gamma + 1) / (gamma + 3)) / (gamma + 2).

Averages of two widths or more, stored now and then, make the average of any width: the combination whose profile is
nearest to the wanted one in least squares (algorithm 3). Since all widths are stored together, combinations of their
profiles are just those functions that, between one storing and the next, are any combination of the powers tau^gamma:
the problem falls apart, for each interval, into one of as many unknowns as there are widths. That is how it is solved
here, in float64, without the nearly singular matrix of all inner products.

The error falls with the number S of storings as S^-2 for the profile and S^-4 for parameters that move smoothly: over
4096 updates, widths 0.02 to 0.15 from 0.05 and 0.1 are exact to 1e-6 with 256 storings of a smooth course, 1024 of a
random walk, 2048 of white noise. Keep between half the narrowest tracked width and twice the widest: beyond, weights of
both signs amplify what single precision rounds (14 times at 0.03, 250 times at 0.01), and the first interval shows.
"""

from collections.abc import Sequence
from functools import partial

import jax.numpy as jnp
import numpy as np

from diffjax.ema.base import Ema, from_rates
from diffjax.types import Array

WIDEST = 12**-0.5
NODES = 24  # of Gauss and Legendre, for each interval between two storings


def power(widths: Sequence[float] = (0.05, 0.1)) -> Ema:
    """Makes one average for each width, named by it ("0.05"); `combine` makes those of other widths.

    Raises:
        ValueError: if a width is outside (0, 0.2886) or given twice, or there is none.
    """
    try:
        numbers = [float(width) for width in widths]
    except (TypeError, ValueError):
        raise ValueError(f"Got EMA widths {widths!r}, expected numbers such as (0.05, 0.1).") from None
    named = {str(width): exponent(width) for width in numbers}
    if not named or len(named) < len(widths):
        raise ValueError(f"Got EMA widths {tuple(widths)}, expected one or more, each of them once.")

    def combine(name: str, counts: Sequence[int]) -> dict[str, np.ndarray]:
        try:
            width = float(name)
        except ValueError:
            raise ValueError(f"Got EMA {name!r}, expected a width such as {next(iter(named))}.") from None
        return dict(zip(named, combination(counts, list(named.values()), exponent(width)).T))

    return from_rates({name: partial(_rate, gamma) for name, gamma in named.items()}, combine)


def exponent(width: float) -> float:
    """Finds gamma > 0 of a width: the largest root of (gamma + 2)^2 (gamma + 3) width^2 = gamma + 1 (eq. 126).

    Raises:
        ValueError: for a width outside (0, 1 / sqrt(12)).
    """
    if not 0 < width < WIDEST:
        raise ValueError(f"Got an EMA width of {width}, expected a number between 0 and {WIDEST:.4f}, such as 0.05.")
    inverse = float(width) ** -2
    return float(np.roots([1, 7, 16 - inverse, 12 - inverse]).real.max())  # (power-ema.3)


def width_of(gamma: float) -> float:
    """Computes the standard deviation of the profile over the length of the run (eq. 123)."""
    return float(np.sqrt((gamma + 1) / (gamma + 3)) / (gamma + 2))  # (power-ema.2)


def combination(counts: Sequence[int], exponents: Sequence[float], wanted: float) -> np.ndarray:
    """Computes what each stored average weighs in the one with exponent `wanted` after counts[-1] updates.

    Args:
        counts: (S,) rising numbers of updates after which averages were stored.
        exponents: (W,) of those averages.

    Returns:
        (S, W) float64; the sum is 1, so that what does not move is kept exactly.

    Raises:
        ValueError: unless counts are positive and rise.
    """
    ends, gammas = np.asarray(counts, np.float64), np.asarray(exponents, np.float64)
    if not (ends.ndim == 1 and ends.size and ends[0] > 0 and np.all(np.diff(ends) > 0)):
        raise ValueError(f"Got averages stored after {list(counts)} updates, expected rising positive numbers.")
    # On the interval that ends at t_j, tau^wanted ~ sum_a fit[j, a] tau^gamma_a, in units of t_j.
    fit = np.stack([_fit(start / end, gammas, wanted) for start, end in zip([0.0, *ends[:-1]], ends)])
    height = (wanted + 1) / ends[-1] * (ends / ends[-1]) ** wanted  # of the wanted profile at t_j
    jump = height[:, None] * fit
    # The stored profile (gamma + 1) tau^gamma / t_j^(gamma + 1) ends at t_j: it carries what the fit loses there.
    jump[:-1] -= jump[1:] * (ends[:-1, None] / ends[1:, None]) ** gammas
    weights = jump * ends[:, None] / (gammas + 1)
    return weights / weights.sum()


def _fit(start: float, gammas: np.ndarray, wanted: float) -> np.ndarray:
    """Fits the powers u^gamma to u^wanted on [start, 1], in least squares: their weights (W,)."""
    node, weight = np.polynomial.legendre.leggauss(NODES)
    u = start + (1 - start) * (node + 1) / 2
    scale = np.sqrt(weight)
    return np.linalg.lstsq(u[:, None] ** gammas * scale[:, None], u**wanted * scale, rcond=None)[0]  # (power-ema.4)


def _rate(gamma: float, count: Array | int) -> Array:
    # log1p(-1) = -inf at the first update: rate 1.
    return -jnp.expm1((gamma + 1) * jnp.log1p(-1 / (1 + jnp.asarray(count, float))))  # (power-ema.1)
