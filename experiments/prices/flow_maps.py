"""The price of tricks in training flow maps: where each moves the minimiser, in standard deviations of the posterior.

    python experiments/prices/flow_maps.py --out=OUT [--smoke]

Data .3 N(-e_1, .25^2 I) + .7 N(e_1, .25^2 I) in R^d, whose velocity, map and posterior are known; no network, no
sample: (a) adaptive weights, (b) normalised tangents and tangent warm-up, (c) pseudo-Huber distances of consistency
training (distances.py), (d) sampling of pairs with a network of limited capacity (capacity.py), (e) the variance of
MeanFlow's residual. Writes results.json, table.md and figure.png.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import capacity
import distances
import numpy as np
import robust
from scipy.special import log_ndtr, ndtr, ndtri
from scipy.stats import norm

TARGET = robust.Target(np.array([0.3, 0.7]), np.array([-1.0, 1.0]), 0.25)
TURNED = TARGET._replace(path=robust.ANGLE)
DIMENSIONS, POWERS = (1, 2, 8, 64, 1024), (0.0, 0.5, 0.75, 1.0)
QUANTILES = np.array([0.05, 0.15, 0.25, 0.35, 0.5, 0.65, 0.8, 0.95])
TIMES, ANGLES = (0.3, 0.5, 0.7, 0.9, 1.0), (0.3, 0.6, 0.9, 1.2, 1.5)


def points(target: robust.Target, t: float) -> np.ndarray:
    """The eight quantiles of p_t along e_1."""
    return target.quantile((np.log(QUANTILES), np.log1p(-QUANTILES)), t)


def summary(shifts: list) -> dict[str, float]:
    """The median and the largest of the sizes of shifts."""
    sizes = np.abs(np.concatenate(shifts))
    return {"median": float(np.median(sizes)), "worst": float(sizes.max())}


def minority(field: Callable, span: float, steps: int, zooms: int = 2) -> float:
    """The mass of noise N(0, 1) that a flow along e_1 takes below 0, where the mode of weight .3 is.

    33 walks of Runge and Kutta's fourth order at once from t = span to 0; then again between the two that part.
    """
    low, high = 0.01, 0.4
    for _ in range(zooms):
        q = np.linspace(low, high, 33)
        x, h = ndtri(q), span / steps
        for i in range(steps):
            t = span - i * h
            k1 = field(x, t)
            k2 = field(x - h / 2 * k1, t - h / 2)
            k3 = field(x - h / 2 * k2, t - h / 2)
            k4 = field(x - h * k3, t - h)
            x = x - h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        last = int(np.sum(x < 0)) - 1
        if not 0 <= last < 32:
            raise ValueError(f"{last + 1} of 33 walks end below 0, expected some and not all: widen the bracket")
        low, high = q[last], q[last + 1]
    return float((low + high) / 2)


# (a) adaptive weights (|e|^2 + .01)^-p on the diagonal.


def adaptive(steps: int, zooms: int) -> dict[str, Any]:
    """Shift and mass of the minority mode by p and d, and the law for many dimensions beside it."""
    found: dict[str, Any] = {}
    for p in POWERS:
        weight, rows = robust.adaptive(p, 0.01), {}
        for d in DIMENSIONS:
            shifts = [robust.shift(TARGET.posterior(points(TARGET, t), t), weight, d) for t in TIMES]
            field = lambda x, t, w=weight, d=d: robust.settled(TARGET.posterior(x, t), w, d, scan=24)
            rows[str(d)] = {**summary(shifts), "mass": minority(field, 1.0, steps, zooms)}
        found[f"p = {p:g}"] = rows
    law = TARGET.posterior(0.1, 0.7)
    rows = {}
    for d in (64, 1024, 16384):
        exact = float(robust.shift(law, robust.adaptive(1.0, 0.01), d))
        many = float(-law.skewness() * law.std**2 / (d * law.var))  # -p skewness std^2 / (d tau^2)
        rows[str(d)] = {"exact": exact, "leading": many}
    found["many dimensions, x = .1, t = .7, p = 1"] = rows
    return found


# (b) tangents.


def tangent(d: int, c: float, steps: int, zooms: int) -> dict[str, Any]:
    """Shift of the velocity that g / (|g| + c) takes for the mean one, its tangent held at the exact map."""
    weight = robust.normalised(c)

    def law(x: np.ndarray, t: float) -> tuple[robust.Posterior, tuple]:
        _, slope, other = TURNED.jump(x, t, 0.0)
        return TURNED.posterior(x, t), (np.cos(t) * slope, np.cos(t) * other)

    def shifts(t: float) -> np.ndarray:
        posterior, slopes = law(points(TURNED, t), t)
        return robust.shift(posterior, weight, d, slopes)

    def field(x: np.ndarray, t: float) -> np.ndarray:
        posterior, slopes = law(x, t)
        return robust.settled(posterior, weight, d, slopes, scan=24)

    return {**summary([shifts(t) for t in ANGLES]), "mass": minority(field, np.pi / 2, steps, zooms)}


def distilled() -> dict[str, float]:
    """The largest shift where a teacher gives the velocity: its law given x_t is one point."""
    found = {}
    for name, weight in (("p = 1", robust.adaptive(1.0, 0.01)), ("g / (|g| + .1)", robust.normalised(0.1))):
        shifts = []
        for t in TIMES:
            v = TARGET.posterior(points(TARGET, t), t).mean
            law = robust.Posterior(np.ones((len(v), 1)), v[:, None], 0.0)
            shifts += [robust.shift(law, weight, d) for d in DIMENSIONS]
        found[name] = summary(shifts)["worst"]
    return found


def warmed(rho: float, t: float, u: np.ndarray, target: robust.Target = TURNED, nodes: int = 200) -> np.ndarray:
    """f of the points u (in quantiles of N(0, 1)) of p_t, at the fixed point of sCM's tangent with rho <= 1 kept.

    E[g] = 0 is cos t (v - F) = rho sin t (x + dF/dt) along the flow. For f = cos t x - sin t F, where D - f is
    sin t (F - v), that is df/dt = k cot t (D - f), k = 1 / rho - 1: f is the mean of D(x_s, s) along the path, with
    sin s / sin t of the law of U^(1/k). rho = 1 is D(x_0, 0) = x_0, the consistency function; rho = 0 is D(x_t, t).
    """
    k = 1 / rho - 1 if rho > 0 else np.inf
    y, weights = np.polynomial.legendre.leggauss(nodes)
    shares = ((y + 1) / 2) ** (1 / k) if k > 0 else np.zeros(nodes)
    f = np.zeros(np.shape(u))
    for share, weight in zip(shares, weights / 2, strict=True):
        s = np.arcsin(share * np.sin(t))
        x = target.quantile((log_ndtr(u), log_ndtr(-u)), s)
        f += weight * (np.cos(s) * x - np.sin(s) * target.posterior(x, s).mean)  # D = cos s x - sin s v
    return f


def warm_up(nodes: int) -> dict[str, Any]:
    """One step's law at the end by rho: rms shift over the data's spread, mass below 0, mass between the modes."""
    u = np.linspace(-6, 6, 401)
    weights = norm.pdf(u) * (u[1] - u[0])
    truth = TURNED.quantile((log_ndtr(u), log_ndtr(-u)), 0.0)
    spread = np.sqrt(weights @ (truth - weights @ truth) ** 2)
    found = {}
    for rho in (0.0, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0):
        f = warmed(rho, np.pi / 2, u, nodes=nodes)
        at = lambda level, f=f: float(ndtr(np.interp(level, f, u))) if f[0] < level < f[-1] else float(f[-1] <= level)
        found[f"{rho:g}"] = {
            "shift": float(np.sqrt(weights @ (f - truth) ** 2) / spread),
            "std": float(np.sqrt(weights @ (f - weights @ f) ** 2) / spread),
            "below 0": at(0.0),
            "between": at(0.5) - at(-0.5),
        }
    return found


# (d) sampling of pairs: an unrestricted network; capacity.py has limited ones.


def unrestricted() -> float:
    """The largest shift, over random weights of pairs, of a network with a number for every (x, t, r) that is drawn.

    One-hot features on eight quantiles at all times and pairs; descent under w(t, r) starts at 0 and each weight is
    positive, so that the normal equations are solved: diag(w) (F - E[v_c | x_t]) = 0.
    """
    rng, shifts = np.random.default_rng(0), []
    for t in TIMES:
        law = TARGET.posterior(points(TARGET, t), t)
        w = rng.uniform(0.01, 100.0, law.mean.shape)
        F = np.linalg.solve(np.diag(w), w * law.mean)
        shifts.append((F - law.mean) / law.std)
    return summary(shifts)["worst"]


# (e) the variance of MeanFlow's residual over improved MeanFlow's.


def variance_ratio(target: robust.Target, t: float, r: float, d: int, nodes: int = 4001) -> dict[str, float]:
    """E|dX/dx (v_c - v)|^2 / E|v_c - v|^2 at the exact map, its part along e_1, and the largest slope there.

    Integrated over X = X_{t -> r}(x), where the slope is largest: p_t(x) dx = p_r(X) dX.
    """
    X = np.linspace(-1.0, 1.0, nodes) * (np.abs(target.means).max() + 9 * np.sqrt(target.variance(r)))
    x = target.quantile(target.log_tails(X, r), t)
    log_p, log_q = target.log_density(x, t), target.log_density(X, r)
    std2, h = target.posterior(x, t).std ** 2, X[1] - X[0]
    own = h * np.sum(np.exp(2 * log_p - log_q) * std2)  # slope^2 p_r
    plain = h * np.sum(np.exp(log_q) * std2)
    tau2 = target.posterior(0.0, t).var
    other = (d - 1) * tau2 * target.variance(r) / target.variance(t)
    slope = float(np.exp((log_p - log_q).max()))
    return {"ratio": float((own + other) / (plain + (d - 1) * tau2)), "along": float(own / plain), "slope": slope}


def variances(nodes: int) -> dict[str, Any]:
    """By the spread of the modes, the pair of times and d."""
    found: dict[str, Any] = {}
    for s in (0.5, 0.25, 0.15):
        for t, r in ((1.0, 0.0), (0.9, 0.1), (0.7, 0.2), (0.5, 0.3)):
            rows = {str(d): variance_ratio(TARGET._replace(s=s), t, r, d, nodes) for d in DIMENSIONS}
            found[f"std {s}, {t:g} to {r:g}"] = rows
    return found


def measured(smoke: bool) -> dict[str, Any]:
    """All prices, by name."""
    steps, zooms = (6, 1) if smoke else (20, 2)
    dimensions = DIMENSIONS[:2] if smoke else DIMENSIONS
    constants = {"c = .1": lambda d: 0.1, "c = .1 sqrt(d)": lambda d: 0.1 * np.sqrt(d)}
    tangents = {n: {str(d): tangent(d, of(d), steps, zooms) for d in dimensions} for n, of in constants.items()}
    return {
        "adaptive": adaptive(steps, zooms),
        "tangent": tangents,
        "distilled": distilled(),
        "warm-up": warm_up(20 if smoke else 200),
        "levels": distances.levels(smoke, DIMENSIONS),
        "pairs": {**capacity.limited(TARGET, 40 if smoke else 400), "unrestricted": unrestricted()},
        "variance": variances(401 if smoke else 4001),
    }


def table(results: dict[str, Any]) -> str:
    """Markdown: one table for each price."""
    lines: list[str] = []

    def add(head: tuple, rows: dict[str, Any], cell: Callable) -> None:
        lines.extend([f"| {' | '.join(map(str, head))} |", "|---" * len(head) + "|"])
        lines.extend(f"| {name} | {' | '.join(cell(v) for v in row.values())} |" for name, row in rows.items())
        lines.append("")

    both, mass = (lambda v: f"{v['median']:.3f} / {v['worst']:.3f}"), (lambda v: f"{v['mass']:.4f}")
    weights = dict(results["adaptive"])
    many = weights.pop("many dimensions, x = .1, t = .7, p = 1")
    for name, rows in (("adaptive weight", weights), ("normalised tangent", results["tangent"])):
        head = [f"d = {d}" for d in next(iter(rows.values()))]
        add((f"{name}, shift: median / worst", *head), rows, both)
        add((f"{name}, mass of the mode of weight .3", *head), rows, mass)
    add(("d; x = .1, t = .7, p = 1", "shift", "-p skewness std^2 / (d tau^2)"), many, "{:.6f}".format)
    add(("distilled", "shift"), {n: {"": v} for n, v in results["distilled"].items()}, str)
    number = "{:.4f}".format
    add(("rho", "shift", "std over data's", "below 0", "within .5 of 0"), results["warm-up"], number)
    line, planes = results["levels"]["line"], results["levels"]["dimensions"]
    head = [f"N = {N}" for N in next(iter(line.values()))]
    add(("distance, rms", *head), line, lambda v: f"{v['rms']:.5f}")
    add(("distance, share below 0", *head), line, lambda v: f"{v['share']:.4f}")
    rows = {f"{c}, N = {N}": row for c, by in planes.items() for N, row in by.items()}
    add(("distance, rms", *(f"d = {d}" for d in next(iter(rows.values())))), rows, lambda v: f"{v['rms']:.5f}")
    add(("degree in t", *next(iter(results["pairs"]["degree"].values()))), results["pairs"]["degree"], number)
    add(("pairs", "std of one step", "mean", "below 0"), results["pairs"]["one step"], number)
    lines += [f"A number for every (x, t): {results['pairs']['unrestricted']:.1e}", ""]
    ratios = results["variance"]
    add(("variance", *(f"d = {d}" for d in DIMENSIONS)), ratios, lambda v: f"{v['ratio']:.4g}")
    return "\n".join(lines)


def figure(results: dict[str, Any], path: Path) -> None:
    """Shift by dimension of weights and tangents, and error by levels of distances."""
    from diffjax.plots import style

    drawing = style.figure(style.WIDTH, 260)
    height, at = 180, (45, 345, 655)
    left = style.axes(drawing, (at[0], 45, 150, height), xscale="log", yscale="log", xlabel="dimension")
    middle = style.axes(drawing, (at[1], 45, 150, height), xscale="log", ylim=(0.08, 0.33), xlabel="dimension")
    right = style.axes(drawing, (at[2], 45, 140, height), xscale="log", yscale="log", xlabel="levels N")
    weights = {n: rows for n, rows in results["adaptive"].items() if n.startswith("p = ") and n != "p = 0"}
    curves = {**weights, **{f"tangent, c{n[6:]}": rows for n, rows in results["tangent"].items()}}
    ends: tuple[list, list, list] = ([], [], [])
    for i, (name, rows) in enumerate(curves.items()):
        color, x = style.ACCENT if name == "p = 1" else style.GREYS[i % 3], [int(d) for d in rows]
        for k, (axes, what) in enumerate(((left, "median"), (middle, "mass"))):
            y = [row[what] for row in rows.values()]
            axes.plot(x, y, "--" if "tangent" in name else "-", color=color, lw=1.2)
            ends[k].append((name, x[-1], y[-1], color))
    for i, (name, rows) in enumerate(results["levels"]["line"].items()):
        color, x = style.ACCENT if i == 3 else style.GREYS[min(i, 2)], [int(N) for N in rows]
        y = [row["rms"] for row in rows.values()]
        right.plot(x, y, ":" if name == "c to 0" else "-", color=color, lw=1.2)
        ends[2].append((name, x[-1], y[-1], color))
    right.set_xticks(x, list(map(str, x)))
    right.set_xticks([], minor=True)
    right.set_yticks([0.05, 0.1, 0.2], ["0.05", "0.1", "0.2"])
    right.set_yticks([], minor=True)
    titles = ("shift, standard deviations", "mass of the mode of weight 0.3", "rms error of one step")
    for axes, named, x, title in zip((left, middle, right), ends, at, titles, strict=True):
        style.name_ends(axes, named)
        style.write(drawing, x - 30, 236, title)
    style.save(drawing, path)


def main() -> None:
    """Computes all tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--smoke", action="store_true", help="fewer steps, levels and nodes")
    args = parser.parse_args()
    results = measured(args.smoke)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "results.json").write_text(json.dumps(results, indent=1))
    (args.out / "table.md").write_text(table(results))
    figure(results, args.out / "figure.png")
    print(table(results))


if __name__ == "__main__":
    main()
