"""What the posterior's variance is worth to a few-step solver, on the ideal denoiser, where it is known.

In x = x_0 + n eps, n = sigma / alpha, a flow goes x' = x - D by log n, D(x, n) = E[x_0 | x] (dx/dn = (x - D) / n). A
solver that knows D' along the flow steps by a polynomial through D, its earlier values, and D':

    none        D and its earlier values alone
    scalar      D' = -v (x - D) / n^2, v the mean of the posterior's variances
    entries     the same by v of each entry
    covariance  the same by the whole covariance: exact for Gaussian data (D' = (dD/dx) x' + dD/dlog n, and the last is
                -2 (dD/dx) x' there)
    exact       D' itself, which is of third moments: the posterior's mean of (x_0 - D) (g - E g), g the slope of a
                point's log weight

Each may choose its grid (tan of even angles, a power of them), its history and its polynomial's variable on the walks
that it is judged on. The table's errors are root mean squares in standard deviations, as in `study.py`.

    python experiments/nfe/variance.py --out=OUT [--smoke]

Writes OUT/variance.md.
"""

import argparse
import itertools
from functools import partial
from pathlib import Path

import common
import jax
import jax.numpy as jnp
import numpy as np
from fit import training_digits

KINDS = ("none", "scalar", "entries", "covariance", "exact")
SEED = 2011


def main() -> None:
    """Writes the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", required=True)
    parser.add_argument("--smoke", action="store_true")
    args = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    found = measured(
        *((32, (5,), (1.0,), (1.0,)) if args.smoke else (384, (5, 6, 8, 10), (0.5, 0.7, 1.0), (0.5, 0.75, 1.0, 1.25)))
    )
    lines = [f"| NFE | {' | '.join(KINDS)} |", "|---" * (1 + len(KINDS)) + "|"]
    lines += [f"| {nfe} | {' | '.join(f'{row[kind]:.4f}' for kind in KINDS)} |" for nfe, row in found.items()]
    Path(args.out).mkdir(parents=True, exist_ok=True)
    (Path(args.out) / "variance.md").write_text(text := "\n".join(lines) + "\n")
    print(text, end="")


def measured(
    n: int, nfes: tuple[int, ...], scales: tuple[float, ...], powers: tuple[float, ...]
) -> dict[int, dict[str, float]]:
    """The least error of each kind over grids, histories and variables, by evaluations, of n walks."""
    of, points = common.target(common.IDEAL, training_digits()), training_digits()[:600].reshape(600, -1)
    start = common.starts(SEED, n, of.shape)
    ends = common.reference(of, start).reshape(n, -1)
    alpha, sigma = (float(a) for a in common.SCHEDULE(common.SCHEDULE.t_max))
    look, x, most = partial(posterior, jnp.asarray(points, float)), start.reshape(n, -1) / alpha, sigma / alpha
    found: dict[int, dict[str, float]] = {}
    for nfe in nfes:
        found[nfe] = {}
        for kind in KINDS:
            errors = []
            for scale, power, history, by_log in itertools.product(scales, powers, (0, 1, 2), (True, False)):
                angles = np.arctan(most / scale) * (1 - np.arange(nfe) / nfe) ** power
                levels = [most, *scale * np.tan(angles[1:]), 0.0]
                errors.append(common.error(walked(look, x, levels, kind, history, by_log), ends))
            found[nfe][kind] = float(np.nanmin(errors))
    return found


@jax.jit
def posterior(points: jax.Array, x: jax.Array, n: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
    """D (N, d), and D' by log n of each kind, of the law of `points` (M, d) at x (N, d)."""
    square = jnp.sum(x**2, 1)[:, None] - 2 * x @ points.T + jnp.sum(points**2, 1)[None]
    weight = jax.nn.softmax(-square / (2 * n**2), axis=1)
    mean = weight @ points
    away, variance = x - mean, weight @ points**2 - mean**2
    along = away @ points.T
    centred = along - jnp.sum(weight * along, 1, keepdims=True)
    slope = square / n**2 - (jnp.sum(x * away, 1, keepdims=True) - along) / n**2
    slopes = {
        "scalar": -jnp.mean(variance, 1, keepdims=True) * away / n**2,
        "entries": -variance * away / n**2,
        "covariance": -((weight * centred) @ points) / n**2,
        "exact": (weight * (slope - jnp.sum(weight * slope, 1, keepdims=True))) @ points,
    }
    return mean, slopes


def walked(look: partial, x: jax.Array, levels: list[float], kind: str, history: int, by_log: bool) -> jax.Array:
    """Where x ends, the last step at D, by D of `history` earlier levels and by D' of this one."""
    seen: list[tuple[float, jax.Array]] = []
    for n, s in itertools.pairwise(levels):
        mean, slopes = look(x, n)
        seen = [(n, mean), *seen[:history]]
        if s == 0:
            return mean
        values = [mean for _, mean in seen] + ([] if kind == "none" else [slopes[kind]])
        weights = step_weights([n for n, _ in seen], s, kind != "none", by_log)
        x = s / n * x + sum(w * value for w, value in zip(weights, values))
    raise AssertionError


def step_weights(levels: list[float], s: float, sloped: bool, by_log: bool) -> np.ndarray:
    """Weights of D at `levels` (the first is where the step begins), then of D' by log n at the first, in
    s int_s^n D(u) / u^2 du: of the polynomial through them, in log u or in u over n."""
    n, order = levels[0], np.arange(len(levels) + sloped)
    place = (lambda u: np.log(u / n)) if by_log else (lambda u: u / n - 1)
    rows = [place(np.float64(u)) ** order for u in levels]
    rows += [(order == 1).astype(float)] if sloped else []  # the place's slope by log u is 1 where u = n
    nodes, mass = np.polynomial.legendre.leggauss(40)
    inverse = (1 / s - 1 / n) / 2 * nodes + (1 / s + 1 / n) / 2
    integral = s * (1 / s - 1 / n) / 2 * (mass @ place(1 / inverse)[:, None] ** order)
    return np.linalg.solve(np.stack(rows).T, integral)


if __name__ == "__main__":
    main()
