"""What fine-tuning to a reward reaches, beside what it should: p*(x) = p(x) exp(r(x) / beta) / Z, p the training data.

    python experiments/finetune/reward.py --workdir=RUN [--base=BASE] --out=OUT [--smoke]

RUN is of configs/finetune.py:reward or :points, BASE the run that it began from. Samples of both are held against the
data and p*: the mean and the standard deviation of r, and of eight Gaussians how many samples fall to each, p* being a
mixture in closed form (`theory.tilting`). Floors are those of as many draws of p*. Writes table.md and results.json.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from diffjax import analytic, ending, runs
from diffjax.losses.reward import function
from diffjax.theory import tilting

CIRCLE = np.sqrt(2) * np.stack([np.cos(np.pi / 4 * np.arange(8)), np.sin(np.pi / 4 * np.arange(8))], 1)  # data.toys


def expected(r: np.ndarray, beta: float, batch: int) -> dict[str, Any]:
    """Computes what batches of the data see: weights of p*, their effective number, and weights biased by 1 / n."""
    w = np.exp((r - r.max()) / beta)
    w = w / w.mean()
    effective = 1 / np.mean(w**2)
    biased = w * (1 + (1 / effective - w) / batch)  # of first order in 1 / batch (`losses.reward`)
    return {"weights": w / len(w), "effective": effective, "biased": biased / biased.sum()}


def moments(r: np.ndarray, weights: np.ndarray | None = None) -> dict[str, float]:
    """Computes the mean and the standard deviation of r under weights."""
    mean = np.average(r, weights=weights)
    return {"mean": float(mean), "std": float(np.sqrt(np.average((r - mean) ** 2, weights=weights)))}


def shares(x: np.ndarray) -> np.ndarray:
    """Counts how many of the points are nearest to each of the eight means."""
    return np.bincount(np.linalg.norm(x[:, None] - CIRCLE, axis=-1).argmin(1), minlength=8) / len(x)


def main() -> None:
    """Draws samples, compares their rewards, and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--base")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--smoke", action="store_true", help="few samples")
    args = parser.parse_args()
    run, count = runs.open(args.workdir), 64 if args.smoke else 2000
    config: Any = run.config
    if config.prepare.name != "reward":
        said = (
            f"prepare.name={config.prepare.name}: it has no reward; give one of configs/finetune.py:reward or :points"
        )
        raise SystemExit(f"error: {args.workdir} was trained with {said}.")
    base = runs.open(args.base) if args.base else None  # refused before anything is drawn
    of, beta, batch = config.prepare.of, config.prepare.beta, config.train.batch_size
    reward = lambda x: np.asarray(jax.vmap(function(of))(x), np.float64)
    data = run.data.train.gather(np.arange(len(run.data.train))).x
    want = expected(reward(data), beta, batch)
    drawn = {"samples": run.draw(range(count))}
    drawn |= {"samples of the base": base.draw(range(count))} if base is not None else {}
    at = np.random.default_rng(0).choice(len(data), count, p=want["weights"])
    drawn["floor: draws of p*"] = data[at]
    rows = {
        "data": moments(reward(data)),
        "p*": moments(reward(data), want["weights"]),
        f"p*, as batches of {batch} see it": moments(reward(data), want["biased"]),
        **{name: moments(reward(x)) for name, x in drawn.items()},
    }
    lines = [f"r = {of}, beta = {beta:g}; {want['effective']:.3f} of a batch's examples count.\n"]
    lines += ["| law | mean of r | std of r |", "|---|---|---|"]
    lines += [f"| {name} | {row['mean']:.4f} | {row['std']:.4f} |" for name, row in rows.items()]
    found: dict[str, Any] = {"effective": want["effective"], "rewards": rows}
    if config.data.name == "eight_gaussians" and of == "mean":
        plain = analytic.gaussian_mixture(np.full(8, 1 / 8), CIRCLE, np.full(8, config.data.get("noise", 0.1) ** 2))
        exact = np.exp(np.asarray(tilting.tilted(plain, np.full(2, 0.5 / beta))[0].log_weights, np.float64))
        far = lambda q: float(np.abs(q - exact).sum() / 2)
        found["shares"] = {"p*": exact.tolist(), **{name: shares(x).tolist() for name, x in drawn.items()}}
        found["total variation"] = {"data": far(shares(data)), **{name: far(shares(x)) for name, x in drawn.items()}}
        lines += ["", "| shares of the eight Gaussians | total variation from p*, closed form |", "|---|---|"]
        lines += [f"| {name} | {value:.4f} |" for name, value in found["total variation"].items()]
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "table.md").write_text("\n".join(lines) + "\n")
    (args.out / "results.json").write_text(json.dumps(found, indent=1))
    print("\n".join(lines))


if __name__ == "__main__":
    ending.script(main)
