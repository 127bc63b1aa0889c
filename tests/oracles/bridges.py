"""Published bridges in float64 NumPy: the kernel, and the updates of DBIM and DDBM in x_t = A y + B x_0 + C z.

A denoiser is a function (x_t, t) -> E[x_0 | x_t, y]; form is the base's, which ends at `end`.
"""

import itertools

import numpy as np
from closed_forms import wide


def kernel(form, t, end):
    """(A, B, C) as published, in extended precision: r = SNR_T / SNR_t."""
    (alpha, sigma), (alpha_T, sigma_T) = form.amplitudes(wide(t)), form.amplitudes(wide(end))
    r = (alpha_T / sigma_T) ** 2 / (alpha / sigma) ** 2 if sigma else wide(0)
    return r * alpha / alpha_T, alpha * (1 - r), sigma * np.sqrt(1 - r)


def kernels(form, end, ts):
    """A, B and C at each of the times."""
    return np.transpose([[float(c) for c in kernel(form, t, end)] for t in np.asarray(ts)])


def dbim(form, end, ts, denoise, y, eta, noise):
    """Zheng et al. 2024, eq. 8 and 15: x after every step; noise[0] is the booting noise. No noise at the end."""
    out, x = [], y
    for i, (t, s) in enumerate(itertools.pairwise(ts)):
        A, B, C = kernels(form, end, [s])[:, 0]
        mean = denoise(x, t)
        if i == 0:
            x = A * y + B * mean + C * noise[0]
        else:
            A_t, B_t, C_t = kernels(form, end, [t])[:, 0]
            (alpha_t, sigma_t), (alpha, sigma) = ((float(c) for c in form.amplitudes(wide(v))) for v in (t, s))
            rho = eta * sigma * np.sqrt(1 - (sigma / alpha) ** 2 / (sigma_t / alpha_t) ** 2)
            eps = (x - A_t * y - B_t * mean) / C_t
            x = A * y + B * mean + np.sqrt(C**2 - rho**2) * eps + rho * noise[i]
        out.append(x)
    return out


def dbim_order(form, end, ts, denoise, y, order, noise):
    """Zheng et al. 2024, section 4.3: orders 2 and 3 in lambda = log(B / C), lower orders at the start."""
    A, B, C = kernels(form, end, ts[1:])
    lam, x = np.log(B / C), A[0] * y + B[0] * denoise(y, ts[0]) + C[0] * noise[0]
    means, out = [], [x]
    for i in range(len(A) - 1):
        means = [denoise(x, ts[1 + i]), *means]
        h = lam[i + 1] - lam[i]
        total = -np.expm1(-h) * means[0]
        if i >= 1:
            h_1 = lam[i] - lam[i - 1]
            d_1 = (means[0] - means[1]) / h_1
            slope = d_1
            if i >= 2 and order == 3:
                h_2 = lam[i - 1] - lam[i - 2]
                d_2 = (means[1] - means[2]) / h_2
                slope = (d_1 * (2 * h_1 + h_2) - d_2 * h_1) / (h_1 + h_2)
                total = total + (h**2 / 2 - h + 1 - np.exp(-h)) * 2 * (d_1 - d_2) / (h_1 + h_2)
            total = total + (np.exp(-h) + h - 1) * slope
        x = C[i + 1] / C[i] * x + y * (A[i + 1] - A[i] * C[i + 1] / C[i]) + C[i + 1] * np.exp(lam[i + 1]) * total
        out.append(x)
    return out


def ddbm(form, end, ts, denoise, y, x, noise, ratio=0.33):
    """Zheng et al. 2023, algorithm 1, in x: f - g^2 (s - h) by Euler-Maruyama, f - g^2 (s / 2 - h) by Heun."""

    def drift(x, t, half):
        A, B, C = kernel(form, t, end)
        (alpha, sigma), (alpha_T, sigma_T) = form.amplitudes(wide(t)), form.amplitudes(wide(end))
        f, g2 = form.rates(wide(t))
        score = -(x - A * y - B * denoise(x, t)) / C**2
        ratio = alpha_T / alpha
        h = ratio * (y - ratio * x) / (sigma_T**2 - ratio**2 * sigma**2)
        return np.asarray(f * x - g2 * ((0.5 if half else 1) * score - h), float), float(g2)

    out = []
    for i, (t, s) in enumerate(itertools.pairwise(ts)):
        middle = t + ratio * (s - t)
        d, g2 = drift(x, t, False)
        x = x + d * (middle - t) + np.sqrt(g2 * (t - middle)) * noise[i]
        d, _ = drift(x, middle, True)
        ahead = x + d * (s - middle)
        x = x + (s - middle) / 2 * (d + drift(ahead, s, True)[0]) if s > 0 else ahead
        out.append(x)
    return np.stack(out)
