"""Published updates of one evaluation a step in float64 NumPy, from their papers. No library code in here.

Updates are written in the papers' own variables, for `denoise(x, alpha, sigma) = E[x_0 | x_t = x]`. A level is the pair
(alpha, sigma). A trajectory holds x after every step.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

Denoise = Callable[..., Any]  # (x, alpha, sigma) -> E[x_0 | x]
Level = tuple[Any, Any]


def ddim_step(denoise: Denoise, now: Level, then: Level, x, z, eta=0.0, var=0.0):
    """Song et al. 2020, eq. 12 and 16, in noise form; sigma^2 = eta^2 Var[x_s | x_t, x_0] of the forward chain.

    `var` is Var[x_0 | x_t]: Bao et al. 2022, eq. 10 in this notation adds gamma^2 var. No noise is added at the data.
    """
    (a, s), (a_next, s_next) = now, then
    kept = a / a_next  # the forward step is x_t = kept x_s + sqrt(fresh) noise
    fresh = s**2 - kept**2 * s_next**2
    noise = eta**2 * s_next**2 * fresh / s**2
    mean = denoise(x, a, s)
    eps = (x - a * mean) / s
    direction = np.sqrt(np.maximum(s_next**2 - noise, 0))
    gamma = (a_next - a * direction / s) * (s_next > 0)
    return a_next * mean + direction * eps + np.sqrt(noise + gamma**2 * var) * z


def resampled_step(denoise: Denoise, now: Level, then: Level, x, z):
    """Song et al. 2023, algorithm 1: the estimate of x_0, corrupted anew."""
    return then[0] * denoise(x, *now) + then[1] * z


def ddpm_step(denoise: Denoise, now: Level, then: Level, x, z):
    """Ho et al. 2020, eq. 7: the posterior mean and variance of a VP chain with alpha_t = a^2 / a_next^2."""
    (a, s), (a_next, s_next) = now, then
    alpha = (a / a_next) ** 2
    beta = 1 - alpha
    mean = (a_next * beta * denoise(x, a, s) + np.sqrt(alpha) * s_next**2 * x) / s**2
    return mean + np.sqrt(s_next**2 / s**2 * beta) * z


def sde_step(denoise: Denoise, now: Level, x, z, dt, f, g2, churn=1.0):
    """Euler-Maruyama on dx = [f x - (1 + churn^2) / 2 g^2 score] dt + churn g dw, dt < 0 (Song et al. 2021)."""
    score = (now[0] * denoise(x, *now) - x) / now[1] ** 2
    return x + (f * x - (1 + churn**2) / 2 * g2 * score) * dt + churn * np.sqrt(g2 * -dt) * z


def reverse_diffusion_step(denoise: Denoise, now: Level, then: Level, x, z):
    """Song et al. 2021, eq. 46: x_s = x_t - f(x_t) + G^2 score + G z for a chain x_t = x_s + f(x_s) + G z."""
    (a, s), (a_next, s_next) = now, then
    f = (a / a_next - 1) * x
    g2 = s**2 - (a / a_next * s_next) ** 2
    score = (a * denoise(x, a, s) - x) / s**2
    return x - f + g2 * score + np.sqrt(g2) * z * (s_next > 0)


def large_variance_step(denoise: Denoise, now: Level, then: Level, x, z):
    """Ho et al. 2020, algorithm 2 with sigma_t^2 = beta_t, that is Song et al. 2021, eq. 4, for a chain of any kind."""
    (a, s), (a_next, s_next) = now, then
    kept = a / a_next  # the forward step is x_t = kept x_s + sqrt(fresh) noise
    fresh = s**2 - kept**2 * s_next**2
    eps = (x - a * denoise(x, a, s)) / s
    return (x - fresh / s * eps) / kept + np.sqrt(fresh) * z * (s_next > 0)


def edm_step(denoise: Denoise, n: float, n_next: float, x, z, gamma=0.0, s_noise=1.0):
    """Karras et al. 2022, algorithm 2, lines 5 to 11, for alpha = 1 and sigma = t."""
    n_hat = n + gamma * n
    x_hat = x + np.sqrt(n_hat**2 - n**2) * s_noise * z
    d = (x_hat - denoise(x_hat, 1.0, n_hat)) / n_hat
    x = x_hat + (n_next - n_hat) * d
    if n_next == 0:
        return x
    return x_hat + (n_next - n_hat) * (d / 2 + (x - denoise(x, 1.0, n_next)) / n_next / 2)


def multistep(update, denoise: Denoise, alpha, sigma, x, order: int, lower_final=False, tau2=0.0, z=None) -> list:
    """x after every step of `update(lams, means, lam_next) -> data term of x_s / alpha_s`, newest first.

    tau2 is the square of the noise level in units of g (Xue et al. 2023, eq. 11), `eta` of the public SDE samplers.
    Evaluations at alpha = 0 have no place on the lambda axis: they serve their own step only, as does any at sigma = 0.
    """
    lams, means, out = [], [], []
    for i in range(len(alpha) - 1):
        m = denoise(x, alpha[i], sigma[i])
        p = min(order, len(alpha) - 1 - i) if lower_final else order
        kept = 1.0  # e^(-tau2 h)
        if alpha[i] == 0 or sigma[i + 1] == 0:
            data, kept = m, kept if tau2 == 0 else 0.0
        else:
            lam, lam_next = np.log(alpha[i] / sigma[i]), np.log(alpha[i + 1] / sigma[i + 1])
            lams, means, kept = [lam, *lams], [m, *means], np.exp(-tau2 * (lam_next - lam))
            data = update(lams[:p], means[:p], lam_next)
        x = sigma[i + 1] / sigma[i] * kept * x + alpha[i + 1] * data
        if tau2:
            x = x + sigma[i + 1] * np.sqrt(1 - kept**2) * z[i]
        out.append(x)
    return out


def adams(lams, means, lam_next, tau2=0.0):
    """int c e^(c (lam - lam_next)) p(lam) dlam, c = 1 + tau2, p through the evaluations, by Gauss-Legendre.

    Lu et al. 2022b, eq. 8; with tau2, the predictor of SA-Solver (Xue et al. 2023, eq. 14).
    """
    nodes, weights = np.polynomial.legendre.leggauss(60)
    h = lam_next - lams[0]
    lam = lams[0] + h * (nodes + 1) / 2
    total = 0.0
    for j, mean in enumerate(means):
        others = [other for i, other in enumerate(lams) if i != j]
        basis = np.prod([(lam - other) / (lams[j] - other) for other in others], axis=0) * np.ones_like(lam)
        decay = (1 + tau2) * np.exp((1 + tau2) * (lam - lam_next))
        total = total + mean * (h / 2 * np.sum(weights * decay * basis))
    return total


def dpmpp_2m(lams, means, lam_next):
    """Lu et al. 2022b, algorithm 2."""
    h = lam_next - lams[0]
    if len(means) == 1:
        return -np.expm1(-h) * means[0]
    r = (lams[0] - lams[1]) / h
    return -np.expm1(-h) * ((1 + 1 / (2 * r)) * means[0] - 1 / (2 * r) * means[1])


def dpmpp_3m(lams, means, lam_next):
    """The multistep third-order update as its public implementations have it (after Lu et al. 2022b, appendix B)."""
    if len(means) < 3:
        return dpmpp_2m(lams, means, lam_next)
    h = lam_next - lams[0]
    r0, r1 = (lams[0] - lams[1]) / h, (lams[1] - lams[2]) / h
    d1_0, d1_1 = (means[0] - means[1]) / r0, (means[1] - means[2]) / r1
    d1 = d1_0 + r0 / (r0 + r1) * (d1_0 - d1_1)
    d2 = (d1_0 - d1_1) / (r0 + r1)
    decay = np.expm1(-h)
    return -decay * means[0] + (decay / h + 1) * d1 - ((decay + h) / h**2 - 0.5) * d2


def dpmpp_2m_sde(lams, means, lam_next, eta: float, kind: str):
    """SDE-DPM-Solver++(2M) as in k-diffusion: its two rules for the difference of the last two evaluations."""
    h = lam_next - lams[0]
    grown = -np.expm1(-(1 + eta) * h)
    if len(means) == 1:
        return grown * means[0]
    weight = {"midpoint": 0.5 * grown, "heun": 1 - grown / ((1 + eta) * h)}[kind]
    return grown * means[0] + weight * h / (lams[0] - lams[1]) * (means[0] - means[1])


def dpmpp_3m_sde(lams, means, lam_next, eta: float):
    """DPM-Solver++(3M) SDE as in k-diffusion; its second step is the "heun" rule of 2M."""
    if len(means) < 3:
        return dpmpp_2m_sde(lams, means, lam_next, eta, "heun")
    h = lam_next - lams[0]
    grown, big = -np.expm1(-(1 + eta) * h), (1 + eta) * h
    r0, r1 = (lams[0] - lams[1]) / h, (lams[1] - lams[2]) / h
    d1_0, d1_1 = (means[0] - means[1]) / r0, (means[1] - means[2]) / r1
    d1, d2 = d1_0 + (d1_0 - d1_1) * r0 / (r0 + r1), (d1_0 - d1_1) / (r0 + r1)
    phi_2 = 1 - grown / big
    return grown * means[0] + phi_2 * d1 - (phi_2 / big - 0.5) * d2
