"""How NCSNv2 chooses a ladder of noise levels and the steps of annealed Langevin dynamics (Song & Ermon 2020).

    sigma_1   the largest distance between two examples, so that Langevin crosses between any two     (technique 1)
    ratio     gamma with Phi(sqrt(2 D) (gamma - 1) + 3 gamma) - Phi(sqrt(2 D) (gamma - 1) - 3 gamma) = 1/2:
              the radii of two neighbouring levels overlap in D dimensions                            (technique 2)
    eps, T    on one point and in units of sigma^2, T steps that start at the level above, gamma^2, end at the variance
                  (1 - e)^(2 T) (gamma^2 - s) + s,    s = 2 e / (1 - (1 - e)^2),    e = eps / sigma_L^2,
              which should be 1                                                                       (technique 4)

The ladder itself is the schedule `VE(sigma_L, sigma_1)` on `grids.ladder(schedule, L)`, trained at `times.ladder`.
These are plain numbers, computed on the host. For CIFAR-10's recipe (D = 3072, sigma from 50 to 0.01, L = 232, T = 5)
the overlap is 0.567, and the variance is smallest, 1.055, at the published eps = 6.2e-6.
"""

from typing import Any

import numpy as np


def largest_distance(x: Any, block: int = 1024) -> float:
    """Computes sigma_1: the largest distance between two of the examples x (n, ...).

    Raises:
        ValueError: for fewer than two examples, or a value that is not finite.
    """
    flat = np.asarray(x, np.float64).reshape(len(x), -1)
    if len(flat) < 2 or not np.all(np.isfinite(flat)):
        raise ValueError(f"Got {len(flat)} examples, expected two or more of finite values.")
    flat = flat - flat.mean(0)
    norms = np.sum(flat**2, 1)
    blocks = (slice(i, i + block) for i in range(0, len(flat), block))
    return float(np.sqrt(max(np.max(norms[b, None] + norms - 2 * flat[b] @ flat.T) for b in blocks)))


def overlap(ratio: float, dim: int) -> float:
    """Computes which share of a level's radii lies within three standard deviations of the level above (technique 2).

    Raises:
        ValueError: unless ratio > 1 and dim >= 1.
    """
    from scipy.special import ndtr

    _check(ratio > 1 and dim >= 1, "a ratio > 1 and dim >= 1", ratio=ratio, dim=dim)
    shift = np.sqrt(2 * dim) * (ratio - 1)
    return float(ndtr(shift + 3 * ratio) - ndtr(shift - 3 * ratio))  # (ncsn.1)


def ratio(dim: int, share: float = 0.5) -> float:
    """Finds gamma = sigma_i / sigma_{i+1} at which neighbouring levels of dim numbers overlap by `share`.

    Raises:
        ValueError: unless 0 < share < 1 and dim >= 5, below which neighbours overlap at any ratio.
    """
    from scipy.optimize import brentq

    _check(0 < share < 1 and dim >= 5, "a share in (0, 1) and dim >= 5", share=share, dim=dim)
    root: Any = brentq(lambda gamma: overlap(gamma, dim) - share, 1 + 1e-12, 1e3, xtol=1e-14)
    return float(root)


def levels(sigma_1: float, sigma_L: float, gamma: float) -> int:
    """Counts how many levels lead from sigma_1 down to sigma_L in ratios of at most gamma, both ends included.

    Raises:
        ValueError: unless sigma_1 > sigma_L > 0 and gamma > 1.
    """
    _check(
        0 < sigma_L < sigma_1 < np.inf and 1 < gamma < np.inf,
        "sigma_1 > sigma_L > 0 and a ratio > 1",
        sigma_1=sigma_1,
        sigma_L=sigma_L,
        ratio=gamma,
    )
    return int(np.ceil(np.log(sigma_1 / sigma_L) / np.log(gamma) - 1e-9)) + 1


def ratio_of(sigma_1: float, sigma_L: float, count: int) -> float:
    """Computes gamma of the ladder of `count` levels from sigma_1 to sigma_L.

    Raises:
        ValueError: unless sigma_1 > sigma_L > 0 and count >= 2.
    """
    _check(
        0 < sigma_L < sigma_1 < np.inf and count >= 2,
        "sigma_1 > sigma_L > 0 and at least 2 levels",
        sigma_1=sigma_1,
        sigma_L=sigma_L,
        levels=count,
    )
    return float((sigma_1 / sigma_L) ** (1 / (count - 1)))


def settled_variance(eps: float, sigma_L: float, gamma: float, steps: int) -> float:
    """Computes a level's variance after `steps` steps over sigma_L^2: 1 if they forget the level above (technique 4).

    Raises:
        ValueError: unless 0 < eps < 2 sigma_L^2, gamma > 1 and steps >= 1.
    """
    e = eps / sigma_L**2
    _check(
        0 < e < 2 and gamma > 1 and steps >= 1,
        "0 < eps < 2 sigma_L^2, a ratio > 1 and steps >= 1",
        eps=eps,
        sigma_L=sigma_L,
        ratio=gamma,
        steps=steps,
    )
    settled = 2 / (2 - e)  # s; ULA overshoots
    return float((1 - e) ** (2 * steps) * (gamma**2 - settled) + settled)  # (ncsn.2)


def step_size(sigma_L: float, gamma: float, steps: int) -> float:
    """Finds the eps (NCSNv2's convention) of the smallest settled variance, which itself reaches 1 for no eps.

    Raises:
        ValueError: unless sigma_L > 0, gamma > 1 and steps >= 1.
    """
    from scipy.optimize import minimize_scalar

    _check(
        sigma_L > 0 and gamma > 1 and steps >= 1,
        "sigma_L > 0, a ratio > 1 and steps >= 1",
        sigma_L=sigma_L,
        ratio=gamma,
        steps=steps,
    )
    miss = lambda log_e: settled_variance(np.exp(log_e), 1.0, gamma, steps)
    best: Any = minimize_scalar(miss, bounds=(-20.0, 0.0), method="bounded", options={"xatol": 1e-9})
    return float(np.exp(best.x)) * sigma_L**2


def _check(good: bool, expected: str, **values: Any) -> None:
    if not good:
        raise ValueError(f"Got {', '.join(f'{k} = {v}' for k, v in values.items())}, expected {expected}.")
