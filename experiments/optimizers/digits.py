"""The gradient-descent family on digits: held-out loss after a short run, each at the best of its learning rates.

    python experiments/optimizers/digits.py --out=OUT [--smoke]

Four rates each, and where the best is the first or the last of them, threes of it beyond, until it is neither. What
OUT/results.json holds is not run again.

The network, data, times and loss of configs/vpsde.py (a smaller network), 600 steps of batch 128, the rate falling
along half a cosine after 30 steps of warm-up, gradients clipped at norm 1; the loss is that of the parameters' moving
average on all held-out digits, eight noises each. Writes results.json after every optimizer, and table.md.
"""

import argparse
import json
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffjax import optimizers, runs, training
from diffjax.runs.build import Built

STEPS, BATCH = 600, 128
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
    parser.add_argument("--smoke", action="store_true", help="two optimizers, one rate, few steps")
    args = parser.parse_args()
    steps = 20 if args.smoke else STEPS
    small = ["model.channels=8", "model.multipliers=(1,1)", "model.attention=()"]
    built = runs.build_run(runs.load("configs/vpsde.py", [*small, f"train.batch_size={BATCH}"]))
    held_out, out = held_out_loss(built), Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    path = out / "results.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    for title, (options, rates) in list(FAMILY.items())[: 2 if args.smoke else None]:
        spec = dict(name=title.split(",")[0], clip_norm=1.0, schedule="cosine", warmup_steps=steps // 20, **options)
        found = {float(rate): loss for rate, loss in results.get(title, {}).get("of", {}).items()}
        for rate in rates[:1] if args.smoke else rates:
            found[rate] = found.get(rate) or held_out(train(built, {**spec, "learning_rate": rate}, steps))
        while not args.smoke and (rate := beyond(found)):
            found[rate] = held_out(train(built, {**spec, "learning_rate": rate}, steps))
        best = least(found)
        results[title] = {"best": best, "loss": found[best], "of": found}
        print(title, results[title], flush=True)
        path.write_text(json.dumps(results, indent=1))
    (out / "table.md").write_text(table(results))


def least(found: dict[float, float]) -> float:
    """The rate of the least loss; a run that diverged has an infinite one."""
    return min(found, key=lambda rate: found[rate] if math.isfinite(found[rate]) else math.inf)


def beyond(found: dict[float, float]) -> float | None:
    """The next rate to try, where the best is an end of those tried; None where it has worse ones on both sides."""
    best = least(found)
    if best == max(found):
        return float(f"{3 * best:.1g}") if f"{best:e}"[0] != "3" else float(f"{best / 0.3:.1g}")
    return float(f"{best / 3:.1g}") if best == min(found) else None


def train(built: Built, spec: dict[str, Any], steps: int) -> Any:
    """The averaged parameters at the end; steps that are not finite change nothing, so that a rate may be too large.

    None where no step was finite.
    """
    optimizer, _ = optimizers.build_optimizer(spec, steps)
    options = dict(optimizer=optimizer, ema=built.ema, settings=built.settings, nonfinite="skip", log_every=steps)
    try:
        return runs.Trainer(built.method, built.data, **options).train(steps).params
    except training.NonFiniteError:
        return None


def held_out_loss(built: Built) -> Any:
    """params -> the mean loss of held-out digits, the same noises and times for all."""
    held_out, (turn,) = built.data.held_out, built.method.turns
    batch = jax.tree.map(lambda part: jnp.asarray(np.repeat(part, 8, 0)), held_out.gather(np.arange(len(held_out))))
    index, key = jnp.arange(len(batch.x)), jax.random.key(1)
    losses = jax.jit(lambda params: turn.losses(params, key, batch, index, len(index))[0].mean())
    return lambda params: math.inf if params is None else float(losses(params))


def table(results: dict[str, Any]) -> str:
    """Markdown, the least loss first."""
    lines = ["| optimizer | learning rate | held-out loss |", "|---|---|---|"]
    for title, row in sorted(results.items(), key=lambda item: item[1]["loss"]):
        lines.append(f"| {title} | {row['best']:g} | {row['loss']:.4f} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
