"""Langevin kernels, predictor-corrector samplers, and annealed Langevin dynamics.

A kernel stays at one noise level and makes x forget where it came from (Song & Ermon 2019, eq. 4):

    x <- x + h score + sqrt(2 h) z,    score = (alpha E[x_0 | x] - x) / sigma^2.

Its step h follows one of these rules; `strength` is r in the first two and eps in the others:

    snr      h = 2 a_i (r |z| / |score|)^2         Song et al. 2021, algorithms 4 and 5
    ald      h = 2 a_i (r sigma_i)^2               their public code's `ald` corrector: `snr` at |score| = |z| / sigma
    ncsn     h = eps sigma_i^2 / (2 sigma_L^2)     Song & Ermon 2019, algorithm 1: x + (a/2) score + sqrt(a) z, a = 2 h
    ncsnv2   h = eps sigma_i^2 / sigma_L^2         Song & Ermon 2020: the same eps makes twice the step

sigma_L is the grid's last noise level, and a_i = (alpha_i / alpha_{i+1})^2 is DDPM's 1 - beta_i of the step that the
grid takes from time i towards data, 1 for VE. (The public code looks it up in a table that its sub-VP does not have.)

Deviation: the norms of `snr` are those of one example. The public code averages them over the batch (and over devices),
so that a sample there depends on its neighbours.

Every kernel step and every predictor step is one row and one evaluation. A rule that does not look at the score makes
the kernel linear: its rows are `Linear`, and it shares the compile of all linear samplers. A row of `snr` is a `Linear`
one and a Langevin step beside it, one of which does nothing: one formula, no branch.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffjax import host
from diffjax.calculus import amplitudes, need_scalar
from diffjax.samplers import ancestral, predictor, sde
from diffjax.samplers.base import Linear, Sampler, linear_step, std, then_mean
from diffjax.types import Array, Denoiser, Key, Schedule

__all__ = ["annealed", "predictor_corrector"]  # what a config may name

PREDICTORS: dict[str, Callable[[Schedule], Sampler]] = {
    "reverse_diffusion": predictor.reverse_diffusion,
    "ancestral": predictor.ancestral,
    "euler_maruyama": sde.euler_maruyama,
    "ddpm": ancestral.ddpm,
    "ddim": ancestral.ddim,
}
RULES: dict[str, Callable[..., np.ndarray]] = {  # (strength, a, sigma) -> h
    "snr": lambda r, a, sigma: np.zeros_like(sigma),  # known at run time only
    "ald": lambda r, a, sigma: 2 * a * (r * sigma) ** 2,  # (langevin.3)
    "ncsn": lambda eps, a, sigma: eps / 2 * (sigma / sigma[-1]) ** 2,  # (langevin.4)
    "ncsnv2": lambda eps, a, sigma: eps * (sigma / sigma[-1]) ** 2,  # (langevin.5)
}


class KernelRow(NamedTuple):
    """The coefficients of `base.Linear`, and of a Langevin step beside it, h = 2 (noise_ratio |z| / |score|)^2."""

    t: Any
    x: Any
    mean: Any
    noise_var: Any
    spread: Any
    alpha: Any
    sigma: Any
    noise_ratio: Any


def predictor_corrector(
    schedule: Schedule,
    predictor: str | None = "reverse_diffusion",
    rule: str = "snr",
    strength: float = 0.16,
    corrections: int = 1,
    denoise: bool = True,
) -> Sampler:
    """Takes kernel steps at a time of the grid, then a predictor step to the next (Song et al. 2021, algorithm 1).

    As in their code, and unlike algorithm 1, the first time of the grid is corrected too; so is the last, if it has
    noise. A grid of N steps costs N + corrections (N or N + 1) + (1 if a last mean is taken) evaluations.

    Args:
        predictor: one of `PREDICTORS`; None never steps, the next noise level is just assumed.
        rule: one of `RULES`.
        strength: r (their `snr`), in (0, 1), or eps, in units of x^2.
        corrections: kernel steps per time; 0 is the predictor alone.
        denoise: end with E[x_0 | x] at the grid's last time, one more evaluation, if that time has noise.

    Raises:
        ValueError: for an unknown name, a strength or a count out of range, or (at planning) a step so large that
            the kernel diverges, or, without a predictor, a grid that touches a time without noise.
    """
    for what, name, known in (("predictor", predictor, (*PREDICTORS, None)), ("step rule", rule, tuple(RULES))):
        if name not in known:
            raise ValueError(f"There is no {what} {name!r}; there is {', '.join(map(str, known))}.")
    if not 0 < strength < (1 if rule in ("snr", "ald") else np.inf):
        raise ValueError(f"strength is {strength}, expected 0 < r < 1 for snr and ald, eps > 0 for ncsn and ncsnv2.")
    corrections = host.check_int("corrections", corrections, 0, most=2**20)
    move = None if predictor is None else PREDICTORS[predictor](schedule)

    def plan(ts: np.ndarray) -> Linear | KernelRow:
        alpha, sigma = amplitudes(schedule, [*ts, 0.0])
        if alpha.ndim > 1:
            need_scalar(schedule, "A Langevin kernel")
        noisy = int(np.sum(sigma[:-1] > 0))  # all times of the grid, or all but the last
        if move is None and noisy < len(ts):
            raise ValueError(
                f"There is no score at t = {ts[-1]:g}, where sigma = 0; end the ladder above it "
                "(--config.grid.zero=False)."
            )
        kept = (alpha[:-1] / alpha[1:])[:noisy] ** 2
        kernel = _kernel(ts[:noisy], alpha[:noisy], sigma[:noisy], RULES[rule](strength, kept, sigma[:noisy]))
        steps = move.plan(ts) if move else Linear(*np.zeros((5, 0)))
        # Row j of the kernel stands before row j of the predictor, `corrections` times.
        order = np.argsort(np.r_[np.repeat(np.arange(noisy), corrections), 0.5 + np.arange(len(steps.t))])
        place = lambda at, between: np.r_[np.repeat(at, corrections), between][order]
        rows = Linear(*map(place, kernel, steps))
        if denoise:
            rows = then_mean(rows, ts[-1], sigma[len(ts) - 1])
        if rule != "snr":
            return rows
        ratio = place(strength * np.sqrt(kept), np.zeros_like(steps.t))
        last = np.full(len(rows.t) - len(ratio), len(ts) - 1)  # the row of a last mean
        at = np.r_[place(np.arange(noisy), np.arange(len(steps.t))), last].astype(int)
        return KernelRow(*rows, alpha[at], sigma[at], np.append(ratio, np.zeros(len(last))))

    order = None if corrections or move is None else move.order  # a kernel's error stays however short the steps are
    return Sampler(snr_step if rule == "snr" else linear_step, plan, schedule=schedule, order=order)


def annealed(
    schedule: Schedule, eps: float = 2e-5, steps: int = 100, convention: str = "ncsn", denoise: bool = False
) -> Sampler:
    """Anneals Langevin dynamics: `steps` kernel steps at every time of the grid, which is the ladder (`grids.ladder`).

    The defaults are NCSN's (Song & Ermon 2019, section 5). NCSNv2's for CIFAR-10 in [0, 1] are eps = 6.2e-6, 5 steps,
    "ncsnv2" and denoise (Song & Ermon 2020, section 5). eps scales with sigma_L^2: `theory.ladders.step_size`.

    Raises:
        ValueError: as `predictor_corrector`; for steps below 1 or another convention.
    """
    if convention not in (known := ("ncsn", "ncsnv2")):
        raise ValueError(f"There is no step convention {convention!r}; there is {', '.join(known)}.")
    return predictor_corrector(schedule, None, convention, eps, host.check_int("steps", steps, most=2**20), denoise)


def _kernel(ts: np.ndarray, alpha: np.ndarray, sigma: np.ndarray, h: np.ndarray) -> Linear:
    """Plans x + h score + sqrt(2 h) z, for steps h that are known beforehand."""
    pull = h / sigma**2
    if np.any(bad := ~(pull < 2)):
        i = np.flatnonzero(bad)[0]
        raise ValueError(
            f"The Langevin step at t = {ts[i]:g} is {pull[i]:.3g} sigma^2, expected less than 2 sigma^2, where it "
            "diverges; lower the strength (eps)."
        )
    return Linear(ts, 1 - pull, pull * alpha, 2 * h, np.zeros_like(h))  # (langevin.1)


def snr_step(model: Denoiser, key: Key, x: Array, row: KernelRow) -> Array:
    """Walks along one row: a kernel step or a predictor step, whichever the row has coefficients for."""
    mean, var = model(x, row.t)
    z = jax.random.normal(key, x.shape, x.dtype)
    score = (row.alpha * mean - x) / row.sigma**2
    length = jnp.sum(score**2)
    h = 2 * row.noise_ratio**2 * jnp.sum(z**2) / jnp.where(length > 0, length, jnp.inf)  # (langevin.2)
    return row.x * x + row.mean * mean + h * score + std(row.noise_var + row.spread**2 * var + 2 * h) * z
