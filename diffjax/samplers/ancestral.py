"""DDPM and DDIM (Song, Meng, Ermon 2020, eq. 12; kexue 9181 (7), 9271 (10)): one family, indexed by eta.

    x_s = alpha_s m + k (x_t - alpha_t m) + noise,   k = sqrt(sigma_s^2 - nu^2) / sigma_t,   m = E[x_0 | x_t],
    nu = eta sigma_s sqrt(1 - (alpha_t sigma_s / (alpha_s sigma_t))^2)        (kexue 9181 (14), on any grid).

It keeps the marginals alpha x_0 + sigma z for every schedule, variance preserving or not (kexue 9181 (3)): of the noise
z in x_t, a part nu / sigma_s is replaced by new noise, whatever nu <= sigma_s is (kexue 9262 (13)). eta = 1 is DDPM's
ancestral sampling with the posterior variance (kexue 9164 (10)). eta = 0 is DDIM (kexue 9181 (12)). DDIM is one step
of Euler's method for d(x / alpha) = eps d(sigma / alpha) (kexue 9181 (17), 9228 (15)).

If the denoiser knows Var[x_0 | x_t], the reverse variance is nu^2 + (alpha_s - k alpha_t)^2 Var[x_0 | x_t]:
Analytic-DPM and Analytic-DDIM (Bao et al. 2022, theorem 1; kexue 9245 (4)), and SN-/NPR-DPM with their own variances.
"""

import numpy as np

from diffjax.calculus import amplitudes, log_alphas
from diffjax.samplers.base import Linear, Sampler, linear_step
from diffjax.types import Schedule

__all__ = ["ddim", "ddpm", "resampled"]  # what a config may name


def ddim(schedule: Schedule, eta: float = 0.0) -> Sampler:
    """Samples by DDIM, or with more noise: one evaluation a step, order 1.

    Args:
        eta: strength of the noise, in [0, 1].

    Raises:
        ValueError: if eta is outside [0, 1].
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta is {eta}, expected a number in [0, 1] (0: DDIM, 1: DDPM).")

    def plan(ts: np.ndarray) -> Linear:
        (alpha, sigma) = amplitudes(schedule, ts)
        (alpha_t, alpha_s), (sigma_t, sigma_s) = (alpha[:-1], alpha[1:]), (sigma[:-1], sigma[1:])
        # Up the grid, as an encoder walks, to alpha = 0 the change is infinite: 0 times it is no number.
        # (ancestral.2)
        # (ddim.3)
        change = log_snr_change(alpha, sigma, log_alphas(schedule, ts, alpha)) if eta else 0.0
        noise_var = (eta * sigma_s) ** 2 * -np.expm1(change) if eta else np.zeros_like(sigma_s)
        k = np.sqrt(sigma_s**2 - noise_var) / sigma_t  # (ddim.2)
        mean = alpha_s - k * alpha_t  # (ddim.1)
        # No noise on the step that arrives at data: what is wanted there is the mean, not another draw.
        return Linear(ts[:-1], k, mean, noise_var, np.where(sigma_s > 0, mean, 0.0))

    return Sampler(linear_step, plan, schedule=schedule, order=1)


def ddpm(schedule: Schedule) -> Sampler:
    """Samples by DDPM with the posterior ('small') variance (Ho et al. 2020, eq. 7): `ddim` at eta = 1."""
    return ddim(schedule, eta=1.0)  # (ancestral.1)


def resampled(schedule: Schedule) -> Sampler:
    """Samples x_s = alpha_s m + sigma_s z at every step: all the noise is new, the most there can be (kexue 9262 (8)).

    DDIM's family beyond eta = 1: DBIM's first step (Zheng et al. 2024, section 4.2), where x_t carries nothing, and the
    sampling of consistency models (Song et al. 2023, algorithm 1). It has no order: with the mean alone in place of a
    draw of x_0, more steps do not lead to the data's law.
    """

    def plan(ts: np.ndarray) -> Linear:
        alpha, sigma = amplitudes(schedule, ts[1:])
        return Linear(ts[:-1], np.zeros_like(alpha), alpha, sigma**2, np.where(sigma > 0, alpha, 0.0))

    return Sampler(linear_step, plan, schedule=schedule)


def log_snr_change(alpha: np.ndarray, sigma: np.ndarray, log_alpha: np.ndarray | None = None) -> np.ndarray:
    """Computes log SNR_t - log SNR_s, which is negative; -inf where alpha_t = 0 or sigma_s = 0.

    Args:
        log_alpha: of `calculus.log_alphas`, where alpha may be too small for its precision.
    """
    with np.errstate(divide="ignore"):
        log_snr = 2 * ((np.log(alpha) if log_alpha is None else log_alpha) - np.log(sigma))
    return log_snr[:-1] - log_snr[1:]
