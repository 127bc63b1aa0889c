"""What draws of times (t, r) do to a network of limited capacity: an affine map of x, exactly solvable.

At the optimum of an unrestricted network the mean of every residual is 0: weights and draws of (t, r) move nothing.
Here u(x, t, r) = a(t) x + b(t) along e_1, a and b polynomials of a degree in t: the fixed point of MeanFlow's loss
depends on moments of (x_t, v_c) alone, which other axes do not enter, in any d. Imported by flow_maps.py.
"""

from typing import Any

import numpy as np
import robust
from scipy.special import log_ndtr, ndtr, ndtri
from scipy.stats import norm


def samplings(n: int) -> dict[str, np.ndarray]:
    """Times in (0, 1) as n quantiles of equal weight, by the name of their law."""
    u = (np.arange(n) + 0.5) / n
    logit = lambda mean: 1 / (1 + np.exp(-mean - ndtri(u)))
    return {"uniform": u, "logit-normal(-.4, 1)": logit(-0.4), "logit-normal(0, 1)": logit(0.0)}


def pairs(v: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(t, r, weights): the larger and the smaller of two draws, in a share of them the same time (the larger) twice."""
    t, r = (a.ravel() for a in (np.maximum.outer(v, v), np.minimum.outer(v, v)))
    weights = np.full(t.size, 1 / t.size)
    return np.concatenate([t, t]), np.concatenate([r, t]), np.concatenate([(1 - share) * weights, share * weights])


def affine(
    target: robust.Target, t: np.ndarray, r: np.ndarray, weights: np.ndarray, degree: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """The fixed point of MeanFlow on u(x, t, r) = a(t) x + b(t), polynomials of t, under weights of the pairs.

    E[w (u - v_c + (t - r) (d u / dt)) (x, 1) t^k] = 0, d u / dt = a v_c + a' x + b': linear in the coefficients, by
    moments of (x_t, v_c) along e_1. r = t is the regression of the velocity. Gives the coefficients of a and of b.
    """
    m, second = target.weights @ target.means, target.s**2 + target.weights @ target.means**2
    x, v, xx, xv = (1 - t) * m, np.full_like(t, -m), (1 - t) ** 2 * second + t**2, t - (1 - t) * second
    k = np.arange(degree + 1)
    powers, slopes = t[:, None] ** k, k * t[:, None] ** np.maximum(k - 1, 0)
    gap = (t - r)[:, None]
    one = lambda moment: moment[:, None]
    at_x = np.concatenate(
        [powers * one(xx) + gap * (powers * one(xv) + slopes * one(xx)), (powers + gap * slopes) * one(x)], 1
    )
    at_1 = np.concatenate([powers * one(x) + gap * (powers * one(v) + slopes * one(x)), powers + gap * slopes], 1)
    rows = lambda moment: np.einsum("n,nk,n...->k...", weights, powers, moment)
    solved = np.linalg.solve(np.concatenate([rows(at_x), rows(at_1)]), np.concatenate([rows(xv), rows(v)]))
    return solved[: degree + 1], solved[degree + 1 :]


def limited(target: robust.Target, n: int) -> dict[str, Any]:
    """How far draws of times move an affine network from what uniform draws give, by its degree in t; one-step laws."""
    drawn, found, u = samplings(n), {}, (np.arange(n) + 0.5) / n
    mean = float(target.weights @ target.means)
    var = float(target.s**2 + target.weights @ target.means**2 - mean**2)
    z = np.linspace(-6, 6, 201)
    spread = []
    for t in u:
        x = target.quantile((log_ndtr(z), log_ndtr(-z)), t)
        spread.append(norm.pdf(z) * (z[1] - z[0]) @ target.posterior(x, t).std ** 2)
    value = np.polynomial.polynomial.polyval
    for degree in (0, 1, 2, 4, 8):
        fits = {name: affine(target, v, v, np.full(n, 1 / n), degree) for name, v in drawn.items()}
        rows = {}
        for name, fit in fits.items():
            da, db = (value(u, a - b) for a, b in zip(fit, fits["uniform"], strict=True))
            moved = (da * (1 - u) * mean + db) ** 2 + da**2 * ((1 - u) ** 2 * var + u**2)
            rows[name] = float(np.sqrt(np.mean(moved) / np.mean(spread)))
        found[str(degree)] = rows
    one = lambda a, b: {"std": abs(1 - a), "mean": -b, "below 0": float(ndtr(b / abs(1 - a)))}  # of x - u(x, 1, 0)
    steps = {
        f"{name}, r = t in {share:g}": one(*(float(c[0]) for c in affine(target, *pairs(v, share))))
        for name, v in samplings(min(n, 100)).items()
        for share in (0.0, 0.5, 0.75)
    }
    truth = {"std": float(np.sqrt(var)), "mean": mean, "below 0": float(np.exp(target.log_tails(0.0, 0.0)[0]))}
    return {"degree": found, "one step": {**steps, "data": truth}}
