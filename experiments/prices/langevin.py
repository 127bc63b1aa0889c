"""The price of Langevin steps without a test, and of summed scores, in compositions whose law is known.

    python experiments/prices/langevin.py --out=OUT [--smoke]

On a line: the stationary law of a Langevin move as a transition matrix, beside the exact product and negation of two
mixtures, with the Metropolis test and without. In the plane: samples of the product of two rings of Gaussians, which
is a mixture again, by samplers that walk the sum of scores, by unadjusted and by corrected steps. Every energy is
exact: no network. Writes results.json and table.md.
"""

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from diffjax import analytic, grids
from diffjax.denoisers import composition
from diffjax.metrics import wasserstein
from diffjax.samplers import Sampler, ancestral, metropolis, nfe, sampling_fn
from diffjax.schedules import EDM, VE

FIRST = ((0.4, 0.6), (-1.0, 1.2), (0.3, 0.2))
SECOND = ((0.7, 0.3), (-0.5, 1.0), (0.4, 0.5))
STEPS = (0.01, 0.02, 0.05, 0.1)


def line(of: tuple) -> Any:
    """The exact denoiser of a mixture on the line, at sigma = t."""
    weights, means, variances = (np.asarray(a) for a in of)
    return analytic.gaussian_mixture(weights, means[:, None], variances).denoiser(EDM())


def stationary(x: np.ndarray, E: np.ndarray, slope: np.ndarray, h: float, correct: bool) -> tuple[np.ndarray, float]:
    """The stationary law over points x of x - h grad E + sqrt(2 h) z, tested or not, and the mean acceptance."""
    forth = -((x[None] - x[:, None] + h * slope[:, None]) ** 2) / (4 * h)
    proposal = np.exp(forth - forth.max(1, keepdims=True))
    proposal /= proposal.sum(1, keepdims=True)
    log_q = np.log(np.maximum(proposal, 1e-300))
    accept = np.exp(np.minimum(E[:, None] - E[None] + log_q.T - log_q, 0.0)) if correct else np.ones_like(proposal)
    moves = proposal * accept
    moves[np.diag_indices(len(x))] += 1 - moves.sum(1)
    system = np.vstack([(moves.T - np.eye(len(x)))[:-1], np.ones(len(x))])
    law = np.linalg.solve(system, np.r_[np.zeros(len(x) - 1), 1.0])
    return law, float(law @ (proposal * accept).sum(1))


def on_the_line(count: int) -> dict[str, dict[str, Any]]:
    """Total variation from the exact composition, by step, and the acceptance."""
    one, two = line(FIRST), line(SECOND)
    found: dict[str, dict[str, Any]] = {}
    for name, model, end in (
        ("product", composition.product(one, two), 4.0),
        ("negation, gamma = 1/2", composition.negation(one, two, 0.5, (0.3, 0.5)), 5.0),
    ):
        x = np.linspace(-end, end, count)
        E, slope = map(np.asarray, jax.vmap(lambda x, m=model: m.energy_gradient(x[None], 0.0))(x))
        p = np.exp(-(E - E.min()))
        p, slope = p / p.sum(), slope[:, 0]
        rows = {}
        for h in STEPS:
            free, (law, rate) = stationary(x, E, slope, h, False)[0], stationary(x, E, slope, h, True)
            tv = lambda law, p=p: float(np.abs(law - p).sum() / 2)
            rows[str(h)] = {"unadjusted": tv(free), "corrected": tv(law), "acceptance": rate}
        found[name] = rows
    return found


# Two rings in the plane.

ANGLES = np.arange(8) * np.pi / 4
MODES = 2.0 * np.stack([np.cos(ANGLES), np.sin(ANGLES)], 1)
STD = 0.3
LEFT, UP = (np.exp(MODES @ np.asarray(tilt) / 2.5) for tilt in ((-1.0, 0.0), (0.0, 1.0)))


def exact_product() -> tuple[np.ndarray, np.ndarray]:
    """The product of both rings: weights (64,) and means (64, 2) of Gaussians of variance STD^2 / 2."""
    gap = np.sum((MODES[:, None] - MODES[None]) ** 2, -1)
    weights = LEFT[:, None] * UP[None] * np.exp(-gap / (4 * STD**2))
    return (weights / weights.sum()).ravel(), ((MODES[:, None] + MODES[None]) / 2).reshape(-1, 2)


def judged(x: np.ndarray, true: np.ndarray, shares: np.ndarray) -> dict[str, float]:
    """Total variation of mode shares, spread within a mode over the true one, share far from all modes, exact W2."""
    mode, near = nearest(x)
    q = np.bincount(mode[near], minlength=8) / max(near.sum(), 1)
    spread = np.sqrt(np.mean((x - MODES[mode])[near] ** 2)) / (STD / np.sqrt(2))
    return {
        "shares": float(np.abs(q - shares).sum() / 2),
        "spread": float(spread),
        "between": float(1 - near.mean()),
        "w2": float(wasserstein.exact(x, true)),
    }


def nearest(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The nearest mode of each point, and whether it is within 3.5 true standard deviations."""
    gap = np.sqrt(np.sum((x[:, None] - MODES[None]) ** 2, -1))
    return gap.argmin(1), gap.min(1) < 3.5 * STD / np.sqrt(2)


def in_the_plane(count: int, levels: int) -> dict[str, dict[str, float]]:
    """The measures of samples by each way, with evaluations of each factor."""
    schedule = VE(sigma_min=0.02, sigma_max=10.0)
    ring = lambda weights: analytic.gaussian_mixture(weights, MODES, np.full(8, STD**2)).denoiser(schedule)
    model, ladder = composition.product(ring(LEFT), ring(UP)), grids.ladder(schedule, levels)
    rng, (weights, means) = np.random.default_rng(0), exact_product()
    draw = lambda n: means[rng.choice(64, n, p=weights)] + STD / np.sqrt(2) * rng.normal(size=(n, 2))
    true, many = draw(count), draw(200_000)
    mode, near = nearest(many)
    shares = np.bincount(mode[near], minlength=8) / near.sum()
    found = {"as many exact draws": {**judged(draw(count), true, shares), "evaluations": 0, "acceptance": 1.0}}
    walk = jax.jit(lambda sample, model, keys, x: jax.vmap(sample, (None, 0, 0))(model, keys, x))
    ways: dict[str, Sampler] = {
        "sum of scores, flow": ancestral.ddim(schedule),
        "sum of scores, SDE": ancestral.ddim(schedule, eta=1.0),
    }
    for step in (0.05, 0.3, 0.9):
        for correct in (False, True):
            name = f"{'corrected' if correct else 'unadjusted'}, h = {step} sigma^2"
            ways[name] = metropolis.mala(schedule, step, 20, denoise=False, correct=correct)
    ways["HMC, L = 10, h = 0.3 sigma^2"] = metropolis.hmc(schedule, 0.3, 10, 4, denoise=False)
    for name, sampler in ways.items():
        flow = name.startswith("sum")
        ts = grids.ladder(schedule, levels * 20) if flow else ladder
        sample = sampling_fn(sampler, ts, None if flow else (lambda state: state.accepted))
        keys = jax.random.split(jax.random.key(1), count)
        x = 10.0 * jax.vmap(partial(jax.random.normal, shape=(2,)))(keys)
        drawn = walk(sample, model, keys, x)
        x, taken = (drawn, None) if flow else drawn
        moves = levels * (4 if "HMC" in name else 20)
        rate = 1.0 if taken is None else float(np.mean(taken[:, -1]) / moves)
        found[name] = {
            **judged(np.asarray(x, np.float64), true, shares),
            "evaluations": nfe(sample),
            "acceptance": rate,
        }
        print(name, found[name], flush=True)
    return found


def table(results: dict[str, Any]) -> str:
    """Markdown: a table for the line and one for the plane."""
    lines = ["| law | h | unadjusted, TV | corrected, TV | acceptance |", "|---|---|---|---|---|"]
    for name, rows in results["line"].items():
        for h, row in rows.items():
            free, tested, rate = row["unadjusted"], row["corrected"], row["acceptance"]
            lines.append(f"| {name} | {h} | {free:.6f} | {tested:.0e} | {rate:.6f} |")
    titles = "evaluations | W2 | mode shares, TV | spread in a mode | between modes | acceptance"
    lines += ["", f"| way | {titles} |", "|---" * 7 + "|"]
    for name, row in results["plane"].items():
        cells = [f"{row['evaluations']}", *(f"{row[key]:.3f}" for key in ("w2", "shares", "spread", "between"))]
        lines.append(f"| {name} | {' | '.join(cells)} | {row['acceptance']:.3f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Computes both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True)
    parser.add_argument("--smoke", action="store_true", help="few points, samples and levels")
    args = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    results = {
        "line": on_the_line(201 if args.smoke else 1201),
        "plane": in_the_plane(64 if args.smoke else 2048, 3 if args.smoke else 40),
    }
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.json").write_text(json.dumps(results, indent=1))
    (out / "table.md").write_text(table(results))


if __name__ == "__main__":
    main()
