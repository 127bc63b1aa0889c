"""Consistency training by a distance sqrt(|e|^2 + c^2) - c in N levels: the function it converges to, by recursion.

f_0 is the identity, and f_{n+1}(x) minimises E[sqrt(|f_n(x_n) - m|^2 + c^2) | x_{n+1} = x] over m, x_n = x - v_c / N
with the noise and data of x_{n+1}: rectified, t_n = n / N. Data .4 N(-e_1, .5^2 I) + .6 N(e_1, .5^2 I) in R^d: on the
other axes f_n is a slope, by symmetry, and their noise enters the weight of e_1 alone (robust.py). Imported by
flow_maps.py.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import robust
from scipy.interpolate import CubicSpline
from scipy.special import log_ndtr, ndtr
from scipy.stats import norm

TARGET = robust.Target(np.array([0.4, 0.6]), np.array([-1.0, 1.0]), 0.5)


def trained(N: int, d: int, c: float | None, size: tuple[int, int] = (241, 401)) -> tuple[Callable, float]:
    """The consistency function along e_1 that training with N levels converges to, and its slope on other axes.

    c = None is the squared distance. size: points of x in [-5, 5], and nodes for v_c in each mode.
    """
    x, (u, slope) = np.linspace(-5.0, 5.0, size[0]), (np.linspace(-7.0, 7.0, size[1]), 1.0)
    f: Callable = lambda x: x
    for n in range(1, N + 1):
        t, law = n / N, TARGET.posterior(x, n / N)
        y = f(x[:, None, None] - (law.means[..., None] + np.sqrt(law.var) * u) / N).reshape(len(x), -1)
        chance = (law.weights[..., None] * norm.pdf(u) * (u[1] - u[0])).reshape(len(x), -1)
        if c is None:
            values = np.sum(chance * y, -1)
        else:
            weight = huber_weight(c, d, slope * np.sqrt(law.var) / N)
            descent = lambda m, y=y, p=chance, w=weight: np.sum(p * (m[:, None] - y) * w((m[:, None] - y) ** 2), -1)
            values = robust.root(descent, y.min(-1), y.max(-1), relative=1e-8)
        slope *= 1 - (t - (1 - t) * TARGET.s**2) / TARGET.variance(t) / N
        f = CubicSpline(x, values, bc_type="natural")
    return f, slope


def medians(N: int) -> Callable:
    """The limit c = 0 of `trained` in one dimension: N Euler steps along the median of v_c given x_t, from t = 1 to 0.

    The minimiser is a median, and f_n rises: the median of f_n(x_n) is f_n of the median of x_n.
    """

    def f(x: Any) -> np.ndarray:
        x = np.asarray(x, float)
        for n in range(N, 0, -1):
            law = TARGET.posterior(x, n / N)
            std = np.sqrt(law.var)
            above = lambda v, law=law, std=std: np.sum(law.weights * ndtr((v[..., None] - law.means) / std), -1) - 0.5
            x = x - robust.root(above, law.means.min(-1) - 9 * std, law.means.max(-1) + 9 * std) / N
        return x

    return f


def huber_weight(c: float, d: int, noise: float) -> Callable:
    """E[(q + |r|^2 + c^2)^(-1/2)] as a function of q, r ~ N(0, noise^2 I) on the other d - 1 axes."""
    if d == 1:
        return lambda q: 1 / np.sqrt(q + c**2)
    lam, nu = robust.adaptive(0.5, c**2)
    kernel = nu / c * np.exp(-(d - 1) / 2 * np.log1p(2 * lam * noise**2))
    at = np.linspace(np.log(c**2), np.log(400.0), 1200)
    table = np.log(np.exp(-np.outer(np.exp(at) - c**2, lam)) @ kernel)
    return lambda q: np.exp(np.interp(np.log(q + c**2), at, table))


def judged(f: Callable) -> dict[str, float]:
    """The rms of f - X under p_1, also over the data's spread, and the share of noise sent below 0 (data: .4045)."""
    u = np.linspace(-5, 5, 2001)
    weights = norm.pdf(u) * (u[1] - u[0])
    truth, found = TARGET.quantile((log_ndtr(u), log_ndtr(-u)), 0.0), f(u)
    rms = float(np.sqrt(weights @ (found - truth) ** 2))
    return {"rms": rms, "shift": rms / float(np.sqrt(weights @ (truth - weights @ truth) ** 2)), "share": below(f)}


def below(f: Callable) -> float:
    """The mass of N(0, 1) where a rising f is below 0."""
    return float(ndtr(robust.root(f, np.asarray(-4.0), np.asarray(4.0))))


def levels(smoke: bool, dimensions: tuple[int, ...]) -> dict[str, Any]:
    """By c and the number of levels N in one dimension; by d with c = .00054 sqrt(d), as published, and .03 sqrt(d)."""
    counts = (4, 8) if smoke else (8, 16, 32, 64)
    fine = (61, 101) if smoke else (201, 801)
    name = lambda c: "squared" if c is None else f"c = {c:g}"
    found: dict[str, Any] = {
        "line": {
            name(c): {str(N): judged(trained(N, 1, c, fine)[0]) for N in counts} for c in (None, 1.0, 0.03, 0.00054)
        }
    }
    found["line"]["c to 0"] = {str(N): judged(medians(N)) for N in counts}
    size, last = ((61, 101), counts[-1:]) if smoke else ((161, 201), (8, 32))
    found["dimensions"] = {
        f"c = {c:g} sqrt(d)": {
            str(N): {str(d): judged(trained(N, d, c * np.sqrt(d), size)[0]) for d in dimensions[1:]} for N in last
        }
        for c in (0.03, 0.00054)
    }
    return found
