"""Every published sampler through one call: (denoise, form, ts, x, z, knots) -> x after every evaluation or step.

denoise is `(x, alpha, sigma) -> E[x_0 | x]`, form the schedule's closed form, ts the grid, x the start. z[i] is the
noise of evaluation i; knots counts the steps of a chain, whose rates jump between them (0: the schedule is no chain).
"""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
from closed_forms import amplitudes

from oracles import steps
from oracles.walks import Journal

Path = Callable[..., Any]


def stepwise(step, levels, x, z) -> list:
    """x after every `step(i, now, then, x, z_i)` over the levels."""
    out = []
    for i, (now, then) in enumerate(itertools.pairwise(levels)):
        x = step(i, now, then, x, z[i])
        out.append(x)
    return out


def of_levels(rule: Callable, **options) -> Path:
    """The path of a rule (denoise, now, then, x, z, **options) between pairs (alpha, sigma)."""

    def path(denoise, form, ts, x, z, knots=0):
        levels = list(zip(*amplitudes(form, ts)))
        return stepwise(lambda i, *step: rule(denoise, *step, **options), levels, x, z)

    return path


def of_sde(churn: float) -> Path:
    """Euler-Maruyama's path with noise of `churn` g."""

    def path(denoise, form, ts, x, z, knots=0):
        # A chain's rates are constant on each of its steps: at t = 1 they are those of the step that ends there.
        inside = 1 - 1e-12 if knots else 1
        f, g2 = (np.float64(rate) for rate in form.rates(inside * ts[:-1].astype(np.longdouble)))
        step = lambda i, now, then, x, z: steps.sde_step(
            denoise, now, x, z, ts[i + 1] - ts[i], f[i], g2[i], churn=churn
        )
        return stepwise(step, list(zip(*amplitudes(form, ts))), x, z)

    return path


def of_edm(churn: float = 0.0, s_min: float = 0.0, s_max: float = np.inf, s_noise: float = 1.0) -> Path:
    """Karras et al.'s path, x after every whole step: two evaluations, of which the first draws the noise."""

    def path(denoise, form, ts, x, z, knots=0):
        alpha, sigma = amplitudes(form, ts)
        n = sigma / alpha
        gamma = np.where((n >= s_min) & (n <= s_max), min(churn / (len(n) - 1), np.sqrt(2) - 1), 0)
        step = lambda i, now, then, u, z: steps.edm_step(denoise, now, then, u, z, gamma[i], s_noise)
        return alpha[1:, None] * np.array(stepwise(step, n, x / alpha[0], z[::2]))

    return path


def of_multistep(update: Callable, order: int, tau2: float = 0.0, lower_final: bool = False, **options) -> Path:
    """The path of a rule for the data term of a multistep method in log(alpha / sigma)."""

    def path(denoise, form, ts, x, z, knots=0):
        rule = lambda *past: update(*past, **options)
        return steps.multistep(rule, denoise, *amplitudes(form, ts), x, order, lower_final, tau2, z)

    return path


def of_intervals(walk: Callable, **options) -> Path:
    """The path of a `walks` sampler that notes x at the end of every interval of two evaluations."""

    def path(denoise, form, ts, x, z, knots=0):
        return walk(Journal(denoise, z), form, ts, x, **options)

    return path


def of_walk(walk: Callable, knotted: bool = False, **options) -> Path:
    """The path of a `walks` sampler; knotted: it integrates over t, and so is told of a chain's steps."""

    def path(denoise, form, ts, x, z, knots=0):
        ask = Journal(denoise, z)
        return ask.path(walk(ask, form, ts, x, **options, **({"knots": knots} if knotted else {})))

    return path
