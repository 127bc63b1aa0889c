"""Published samplers of several evaluations a step, of middle nodes and of correctors in float64 NumPy.

Those of one evaluation a step stand in `steps.py`. No library code in here. A sampler is a function of a `Journal`,
which keeps the points where the model was asked: what a trajectory of single evaluations is compared with.
"""

import itertools
from math import factorial
from typing import Any, NamedTuple

import numpy as np
from closed_forms import Form, amplitudes, wide
from numpy.polynomial import Polynomial
from scipy import optimize


class Level(NamedTuple):
    """A time and its amplitudes."""

    t: Any
    alpha: Any
    sigma: Any

    @property
    def lam(self):
        """log(alpha / sigma)."""
        return np.log(self.alpha) - np.log(self.sigma)

    @property
    def n(self):
        """The noise of x / alpha."""
        return self.sigma / self.alpha


class Journal:
    """A denoiser that keeps where it was asked; `normal()` is the noise of the row of the last question."""

    def __init__(self, denoise, z=None):
        self.denoise, self.z, self.xs = denoise, z, []

    def mean(self, x, at: Level):
        """E[x_0 | x_t = x]."""
        self.xs.append(x)
        return self.denoise(x, at.alpha, at.sigma)

    def eps(self, x, at: Level):
        """E[z | x_t = x]."""
        return (x - at.alpha * self.mean(x, at)) / at.sigma

    def normal(self):
        assert self.z is not None
        return self.z[len(self.xs) - 1]

    def path(self, end) -> list:
        """x after every evaluation: where the next one was made, and at last the result."""
        return [*self.xs[1:], end]


def levels(form: Form, ts) -> list[Level]:
    """The levels of times."""
    return [Level(*map(np.float64, level)) for level in zip(ts, *amplitudes(form, ts))]


def level_of(form: Form, t) -> Level:
    return levels(form, [t])[0]


def level_at(form: Form, lam, now: Level, then: Level) -> Level:
    """The level between two others that has this log(alpha / sigma)."""
    end = then.t if then.sigma else 1e-12 * now.t
    t = optimize.brentq(lambda t: level_of(form, t).lam - lam, end, now.t, xtol=1e-300, rtol=1e-15)
    return level_of(form, t)


def transfer(x, eps, now: Level, then: Level):
    """DDIM with a given noise (Liu et al. 2022, eq. 11, for any amplitudes)."""
    return then.alpha * (x - now.sigma * eps) / now.alpha + then.sigma * eps


# Single-step solvers. A step to sigma = 0 or from alpha = 0, which lie at no finite lambda, is DDIM's.


def dpm_solver_2(ask: Journal, form: Form, ts, x, r=0.5):
    """Lu et al. 2022a, algorithm 4 (algorithm 1 is r = 1/2)."""
    for now, then in itertools.pairwise(levels(form, ts)):
        eps = ask.eps(x, now)
        if then.sigma == 0:
            x = transfer(x, eps, now, then)
            continue
        h = then.lam - now.lam
        mid = level_at(form, now.lam + r * h, now, then)
        u = mid.alpha / now.alpha * x - mid.sigma * np.expm1(r * h) * eps
        change = ask.eps(u, mid) - eps
        x = then.alpha / now.alpha * x - then.sigma * np.expm1(h) * (eps + change / (2 * r))
    return x


def dpm_solver_3(ask: Journal, form: Form, ts, x, r1=1 / 3, r2=2 / 3):
    """Lu et al. 2022a, algorithm 2."""
    for now, then in itertools.pairwise(levels(form, ts)):
        eps = ask.eps(x, now)
        if then.sigma == 0:
            x = transfer(x, eps, now, then)
            continue
        h = then.lam - now.lam
        first, second = (level_at(form, now.lam + r * h, now, then) for r in (r1, r2))
        u = first.alpha / now.alpha * x - first.sigma * np.expm1(r1 * h) * eps
        d1 = ask.eps(u, first) - eps
        u = second.alpha / now.alpha * x - second.sigma * np.expm1(r2 * h) * eps
        u = u - second.sigma * r2 / r1 * (np.expm1(r2 * h) / (r2 * h) - 1) * d1
        d2 = ask.eps(u, second) - eps
        x = then.alpha / now.alpha * x - then.sigma * (np.expm1(h) * eps + (np.expm1(h) / h - 1) / r2 * d2)
    return x


def dpmpp_2s(ask: Journal, form: Form, ts, x, r=0.5):
    """Lu et al. 2022b, algorithm 1."""
    for now, then in itertools.pairwise(levels(form, ts)):
        mean = ask.mean(x, now)
        if now.alpha == 0 or then.sigma == 0:
            x = then.sigma / now.sigma * x + then.alpha * mean
            continue
        h = then.lam - now.lam
        mid = level_at(form, now.lam + r * h, now, then)
        u = mid.sigma / now.sigma * x - mid.alpha * np.expm1(-r * h) * mean
        mixed = (1 - 1 / (2 * r)) * mean + 1 / (2 * r) * ask.mean(u, mid)
        x = then.sigma / now.sigma * x - then.alpha * np.expm1(-h) * mixed
    return x


# Multistep methods on the noise.


def tab_deis(ask: Journal, form: Form, ts, x, order: int, knots=0):
    """Zhang & Chen 2023, eq. 14 and 15: the integral of Psi G G^T L^-T / 2 times a polynomial in t through the noises.

    Here Psi = alpha_s / alpha, G G^T = g^2 and L = sigma.
    """
    past = []
    for now, then in itertools.pairwise(levels(form, ts)):
        past = [(now.t, ask.eps(x, now)), *past][:order]
        tau, weights = quadrature(then.t, now.t, knots)
        alpha, sigma = form.amplitudes(tau)
        weights = -weights * (then.alpha / alpha) * form.rates(tau)[1] / (2 * sigma)
        x = then.alpha / now.alpha * x
        for j, (node, eps) in enumerate(past):
            others = [other for i, (other, _) in enumerate(past) if i != j]
            basis = np.prod([(tau - other) / (node - other) for other in others], axis=0) * np.ones_like(tau)
            x = x + float(np.sum(weights * basis)) * eps
    return x


def quadrature(s, t, knots=0):
    """Gauss-Legendre of (s, t) in the root of tau, where sigma is smooth at 0; between knots, and finer towards t."""
    parts = np.concatenate([np.linspace(0, 1, 33), 1 - 0.5 ** np.arange(6, 31)])
    first, last = np.sqrt(wide(s)), np.sqrt(wide(t))
    edges = np.concatenate([first + parts * (last - first), np.sqrt(np.arange(knots, dtype=wide) / max(knots, 1))])
    edges = np.unique(np.clip(edges, first, last))
    u, w = np.polynomial.legendre.leggauss(14)
    half = np.diff(edges)[:, None] / 2
    roots = edges[:-1, None] + half * (u + 1)
    return roots.ravel() ** 2, (2 * roots * half * w).ravel()


def lms(ask: Journal, form: Form, ts, x, order: int):
    """The linear multistep method of k-diffusion: the polynomial through the last slopes (x - E[x_0 | x]) / n, in n."""
    past = []
    for now, then in itertools.pairwise(levels(form, ts)):
        past = [(now.n, ask.eps(x, now)), *past][:order]
        step, total = then.n - now.n, x / now.alpha
        nodes = [(n - now.n) / step for n, _ in past]
        for j, (_, eps) in enumerate(past):
            others = [node for i, node in enumerate(nodes) if i != j]
            antiderivative = (Polynomial.fromroots(others) if others else Polynomial([1.0])).integ()
            weight = antiderivative(1.0) / np.prod([nodes[j] - node for node in others])
            total = total + step * weight * eps
        x = then.alpha * total
    return x


ADAMS_BASHFORTH = {
    1: (1.0,),
    2: (3 / 2, -1 / 2),
    3: (23 / 12, -16 / 12, 5 / 12),
    4: (55 / 24, -59 / 24, 37 / 24, -9 / 24),
}


def ipndm(ask: Journal, form: Form, ts, x, order: int):
    """Zhang & Chen 2023, appendix: the multistep half of PNDM, started at order 1."""
    past = []
    for now, then in itertools.pairwise(levels(form, ts)):
        past = [ask.eps(x, now), *past][:order]
        x = transfer(x, sum(c * eps for c, eps in zip(ADAMS_BASHFORTH[len(past)], past)), now, then)
    return x


def pndm(ask: Journal, form: Form, ts, x):
    """F-PNDM (Liu et al. 2022, algorithm 2 with eq. 12 and 13); a Runge-Kutta step to sigma = 0 is DDIM's."""
    past = []
    for now, then in itertools.pairwise(levels(form, ts)):
        eps = ask.eps(x, now)
        past = [eps, *past][:4]
        if len(past) == 4:
            eps = (55 * past[0] - 59 * past[1] + 37 * past[2] - 9 * past[3]) / 24
        elif then.sigma > 0:
            mid = level_of(form, (now.t + then.t) / 2)
            second = ask.eps(transfer(x, eps, now, mid), mid)
            third = ask.eps(transfer(x, second, now, mid), mid)
            fourth = ask.eps(transfer(x, third, now, then), then)
            eps = (eps + 2 * second + 2 * third + fourth) / 6
        x = transfer(x, eps, now, then)
    return x


def pndm_cost(n: int, zero: bool) -> int:
    """Evaluations of a walk of n steps: four in each of the first three, but for one that arrives at sigma = 0."""
    return n + 3 * min(3, n - zero)


# UniPC.


def unipc(ask: Journal, form: Form, ts, x, order: int, variant: str, lower_final=True):
    """Zhao et al. 2023, algorithms 7 and 8 in the data prediction, with the two simplified cases of the public code.

    The corrected x of the paper is not where the model is asked: that is the predicted one. An evaluation at alpha = 0
    serves its own step only, which has no corrector; the step to sigma = 0 is DDIM's.
    """
    grid, past = levels(form, ts), []
    mean = ask.mean(x, grid[0])
    for i, (now, then) in enumerate(itertools.pairwise(grid)):
        last = i == len(grid) - 2
        if now.alpha == 0 or then.sigma == 0:
            x = then.sigma / now.sigma * x + (then.alpha - now.alpha * then.sigma / now.sigma) * mean
            past, mean = [] if now.alpha == 0 else past, mean if last else ask.mean(x, then)
            continue
        past = [(now.lam, mean), *past][:order]
        used = past[: len(grid) - 1 - i] if lower_final else past
        predicted = unipc_update(x, used, now, then, variant)
        if last:
            return predicted
        mean = ask.mean(predicted, then)
        x = unipc_update(x, used, now, then, variant, mean)
    return x


def unipc_update(x, past, now: Level, then: Level, variant: str, new=None):
    """UniP, and UniC if the evaluation at the new point is given."""
    h = then.lam - now.lam
    hh, mean = -h, past[0][1]
    r = [(lam - now.lam) / h for lam, _ in past[1:]] + ([] if new is None else [1.0])
    differences = [m - mean for _, m in past[1:]] + ([] if new is None else [new - mean])
    plain = then.sigma / now.sigma * x - then.alpha * np.expm1(hh) * mean
    if not r:
        return plain
    b_h = np.expm1(hh) if variant == "bh2" else hh
    if len(r) == 1 and variant != "exact":  # UniP-2 and UniC-1
        rho = [0.5]
    else:
        z, phi = wide(hh), np.expm1(wide(hh)) / wide(hh)  # h phi_1
        right = []
        for k in range(1, len(r) + 1):
            phi = (phi - 1 / wide(factorial(k))) / z  # phi_{k+1}
            right.append(float(z * phi * factorial(k) / b_h))
        rho = np.linalg.solve([np.power(r, k) for k in range(len(r))], right)
    return plain - then.alpha * b_h * sum(c * d / node for c, d, node in zip(rho, differences, r))


# Restart.


def restart(ask: Journal, form: Form, ts, x, intervals, rho=7.0):
    """Xu et al. 2023, algorithm 1, and its public code: [levels of an interval, repeats, lowest, highest noise].

    Returns:
        x at the end of every interval. The noise of a restart is that of the row of the next question.
    """
    grid = levels(form, ts)
    noise = np.array([level.n for level in grid])
    starts = {int(np.argmin(np.abs(noise - low))): (count, repeats, high) for count, repeats, low, high in intervals}
    u, path = x / grid[0].alpha, []
    for i in range(1, len(grid)):
        u = heun(ask, u, grid[i - 1], grid[i])
        path.append(grid[i].alpha * u)
        count, repeats, high = starts.get(i, (0, 0, 0.0))
        for _ in range(repeats):
            low = grid[i].n
            u = u + np.sqrt(high**2 - low**2) * ask.z[len(ask.xs)]
            ns = (high ** (1 / rho) + np.arange(count) / (count - 1) * (low ** (1 / rho) - high ** (1 / rho))) ** rho
            inner = [level_at(form, -np.log(n), grid[0], grid[i]) for n in ns[:-1]]
            for now, then in itertools.pairwise([*inner, grid[i]]):
                u = heun(ask, u, now, then)
                path.append(then.alpha * u)
    return path


def heun(ask: Journal, u, now: Level, then: Level):
    """Karras et al. 2022, algorithm 1, on u = x / alpha."""
    d = ask.eps(now.alpha * u, now)
    if then.sigma == 0:
        return u + (then.n - now.n) * d
    euler = u + (then.n - now.n) * d
    return u + (then.n - now.n) * (d + ask.eps(then.alpha * euler, then)) / 2


# Beyond the data's Gaussian fit, for data taken for N(0, c) in every entry.


def principal(ask: Journal, form: Form, ts, x, order: int, c: float):
    """Predict with p values, correct with p + 1: d(x / rho) / dphi = -y / s, rho^2 = sigma^2 + c alpha^2."""
    grid, s, past, last = levels(form, ts), np.sqrt(c), [], None
    rho = lambda level: np.hypot(level.sigma, s * level.alpha)
    angle = lambda level: np.arctan2(level.sigma, s * level.alpha)
    r = x / rho(grid[0])
    for now, then in itertools.pairwise(grid):
        at = rho(now) * r
        beyond = ask.mean(at, now) - c * now.alpha / rho(now) ** 2 * at
        past = [(angle(now), beyond * rho(now) / now.sigma), *past][: order + 1]
        if last is not None:
            r = last - polynomial_integral(past, past[1][0], angle(now)) / s
        last, r = r, r - polynomial_integral(past[:order], angle(now), angle(then)) / s
    return rho(grid[-1]) * r


def polynomial_integral(points, start, end):
    """Of the polynomial through (node, value) from start to end."""
    total = 0.0
    for j, (node, value) in enumerate(points):
        others = [other - start for i, (other, _) in enumerate(points) if i != j]
        antiderivative = (Polynomial.fromroots(others) if others else Polynomial([1.0])).integ()
        total = total + antiderivative(end - start) / np.prod([node - start - other for other in others]) * value
    return total
