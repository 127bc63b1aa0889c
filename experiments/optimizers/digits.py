"""The gradient-descent family on digits: held-out loss after a short run, each at the best of its learning rates.

    python experiments/optimizers/digits.py --out=OUT [--workers=2] [--smoke]

Four rates each, and where the best is the first or the last of them, threes of it beyond, until it is neither. OUT is a
sweep's folder: what is there is not run again.

The network, data, times and loss of configs/vpsde.py (a smaller network), 600 steps of batch 128, the rate falling
along half a cosine after 30 steps of warm-up, gradients clipped at norm 1; the loss is that of the parameters' moving
average on all held-out digits, eight noises each. A step that is not finite changes nothing, so that a rate may be too
large; a run of none that is finite has an infinite loss. Writes results.json and table.md.
"""

import argparse
import json
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffjax import runs, sweeps

STEPS = 600
FAMILY: dict[str, tuple[dict[str, Any], tuple[float, ...]]] = {  # name -> (options, learning rates)
    "sgd": ({}, (0.03, 0.1, 0.3, 1.0)),
    "sgd, momentum 0.9": ({"momentum": 0.9}, (0.01, 0.03, 0.1, 0.3)),
    "sgd, nesterov 0.9": ({"momentum": 0.9, "nesterov": True}, (0.01, 0.03, 0.1, 0.3)),
    "adagrad": ({}, (0.01, 0.03, 0.1, 0.3)),
    "adadelta": ({}, (0.3, 1.0, 3.0, 10.0)),
    "rmsprop": ({}, (3e-4, 1e-3, 3e-3, 1e-2)),
    "adam": ({}, (1e-3, 3e-3, 1e-2, 3e-2)),
    "nadam": ({}, (1e-3, 3e-3, 1e-2, 3e-2)),
    "amsgrad": ({}, (1e-3, 3e-3, 1e-2, 3e-2)),
    "adamw": ({"weight_decay": 0.01, "mask_1d": True}, (1e-3, 3e-3, 1e-2, 3e-2)),
    "lion": ({}, (1e-4, 3e-4, 1e-3, 3e-3)),
    "lamb": ({"mask_1d": True}, (3e-3, 1e-2, 3e-2, 0.1)),
    "contrib.muon": ({}, (3e-3, 1e-2, 3e-2, 0.1)),
}


def main() -> None:
    """Trains each, keeps the best rate."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--smoke", action="store_true", help="two optimizers, one rate, few steps")
    args = parser.parse_args()
    rates = {title: list(rates) for title, (_, rates) in FAMILY.items()}
    if args.smoke:
        rates = {title: found[:1] for title, found in list(rates.items())[:2]}
    while True:
        grid = sweeps.chain(*(points(title, found, 20 if args.smoke else STEPS) for title, found in rates.items()))
        sweep = sweeps.Sweep("configs/vpsde.py", grid, root=args.out, measure=held_out_loss).run(args.workers)
        results = best_of(sweep.table("loss").rows, rates)
        more = {title: beyond(row["of"]) for title, row in results.items()}
        if args.smoke or not any(more.values()):
            break
        rates = {title: [*found, *([more[title]] if more[title] else [])] for title, found in rates.items()}
    Path(args.out, "results.json").write_text(json.dumps(results, indent=1))
    Path(args.out, "table.md").write_text(table(results))


def points(title: str, rates: list[float], steps: int) -> list[dict[str, str]]:
    """The grid of one optimizer."""
    small = {"model.channels": 8, "model.multipliers": [(1, 1)], "model.attention": [()], "train.batch_size": 128}
    every = dict.fromkeys(("train.steps", "train.log_every", "train.sample_every", "checkpoint.every"), steps)
    optimizer = {"optimizer.name": title.split(",")[0]}
    optimizer |= {f"optimizer.{name}": value for name, value in FAMILY[title][0].items()}
    rate = {"learning_rate.warmup_steps": steps // 20, "learning_rate.peak": rates}
    return sweeps.product({**small, **every, **optimizer, **rate, "train.nonfinite": "skip"})


def held_out_loss(run: runs.Run) -> dict[str, float]:
    """The mean loss of held-out digits, of the same noises and times for all."""
    held_out, (turn,) = run.data.held_out, run.method.turns
    batch = jax.tree.map(lambda part: jnp.asarray(np.repeat(part, 8, 0)), held_out.gather(np.arange(len(held_out))))
    index, key = jnp.arange(len(batch.x)), jax.random.key(1)
    losses = jax.jit(lambda params: turn.losses(params, key, batch, index, len(index))[0].mean())
    return {"loss": float(losses(run.params))}


def best_of(rows: list[dict[str, Any]], rates: dict[str, list[float]]) -> dict[str, Any]:
    """The best rate of each optimizer, whose rows come in the order of its points."""
    if wrong := [row["error"] or row["status"] for row in rows if row["status"] not in ("done", "nonfinite")]:
        raise SystemExit(f"{len(wrong)} runs have no loss yet: {wrong[0]}")
    left, results = iter(rows), {}
    for title, tried in rates.items():
        of = {rate: math.inf if (loss := next(left)["loss"]) is None else loss for rate in tried}
        best = min(of, key=lambda rate: of[rate] if math.isfinite(of[rate]) else math.inf)
        results[title] = {"best": best, "loss": of[best], "of": of}
    return results


def beyond(found: dict[float, float]) -> float | None:
    """The next rate to try, where the best is an end of those tried; None where it has worse ones on both sides."""
    best = min(found, key=lambda rate: found[rate] if math.isfinite(found[rate]) else math.inf)
    if best == max(found):
        return float(f"{3 * best:.1g}") if f"{best:e}"[0] != "3" else float(f"{best / 0.3:.1g}")
    return float(f"{best / 3:.1g}") if best == min(found) else None


def table(results: dict[str, Any]) -> str:
    """Markdown, the least loss first."""
    lines = ["| optimizer | learning rate | held-out loss |", "|---|---|---|"]
    for title, row in sorted(results.items(), key=lambda item: item[1]["loss"]):
        lines.append(f"| {title} | {row['best']:g} | {row['loss']:.4f} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
