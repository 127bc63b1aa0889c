"""How sparse the latents of an autoencoder are, beside the Gaussian that they are drawn from, and which are unused.

    python -m diffjax.main --config=configs/autoencoder.py:perceptron --workdir=runs/ae
    python experiments/sparsity/latents.py --workdir=runs/ae --out=runs/ae/sparsity [--smoke]

Of held-out examples: the evenness over channels (`metrics.sparsity`) of draws of q(z | x), of its mean, and of the
network at its initialisation, beside the mean for independent normal entries, which is what the decoder is given where
samples are drawn. Then the divergence of each channel in nats: how many are unused (below 0.01), and the effective
number of channels, e^H of their shares. A linear autoencoder of this s^2 and beta would use those principal axes whose
variance is above beta s^2, and no others: counted beside. Writes results.json, table.md.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffjax import ending, runs
from diffjax.data import blank
from diffjax.methods.autoencoder import Autoencoder
from diffjax.metrics import sparsity

UNUSED = 0.01  # nats


def main() -> None:
    """Encodes data, and writes how even the latents are."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--smoke", action="store_true", help="16 examples")
    args = parser.parse_args()
    run, out = runs.open(args.workdir), Path(args.out)
    if not isinstance(run.method.parts, Autoencoder):
        kind = type(run.method.parts).__name__
        raise SystemExit(f"error: {args.workdir} is a run of {kind}: give one of configs/autoencoder.py.")
    truth = run.data.some("held_out", 16 if args.smoke else 2000)
    first = jax.jit(run.method.init)(jax.random.key(0), blank(run.data))
    found = {name: measured(run, params, truth) for name, params in (("trained", run.params), ("untrained", first))}
    found["trained"]["linear"] = linear(run)
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.json").write_text(json.dumps(found, indent=1))
    (out / "table.md").write_text(table(found))
    print(table(found))


def measured(run: runs.Run, params: Any, truth: Any) -> dict[str, Any]:
    """Computes the evenness of draws and means, its standard error, and the channels by their divergence."""
    of, names = run.method.parts, run.method.asks
    given = {name: a for name, a in truth.given.items() if names is None or name in names}
    code = jax.jit(jax.vmap(of.encode, in_axes=(None, 0, 0)))(params, jnp.asarray(truth.x), given)
    mean, var = (np.asarray(a, np.float64).reshape(len(truth.x), -1) for a in code)
    z = mean + np.sqrt(var) * np.random.default_rng(0).normal(size=mean.shape)
    own = sparsity.evenness(z)
    rate = (mean**2 + var - 1 - np.log(var)).mean(0) / 2
    return {
        "draws": float(own.mean()),
        "standard error": float(own.std() / np.sqrt(len(own))),
        "means": float(sparsity.evenness(mean).mean()),
        "normal": sparsity.gaussian(mean.shape[1]),
        "channels": mean.shape[1],
        "unused": int((rate < UNUSED).sum()),
        "effective": float(sparsity.effective(rate, 1.0)),
    }


def linear(run: runs.Run) -> int:
    """Counts the principal axes of the training data whose variance is above beta s^2.

    For a gain w, u = w^2 + beta s^2, the best encoder leaves beta / 2 (l / u + log u) of an axis of variance l: its
    least is at u = l, or at w = 0 where l is smaller than beta s^2.
    """
    x = run.data.some("train", 2000).x
    rows = x.reshape(len(x), -1).astype(np.float64)
    of, params = run.method.parts, run.params
    s2 = of.std**2 if of.std is not None else float(np.mean(of.floor**2 + np.exp(2 * np.asarray(params["log_std"]))))
    return int((np.linalg.eigvalsh(np.cov(rows.T)) > of.beta * s2).sum())


def table(found: dict[str, dict[str, Any]]) -> str:
    """Formats the measures as Markdown."""
    lines = ["| network | S of draws (normal entries) | S of means | unused of channels (used if linear) | e^H |"]
    lines.append("|---|---|---|---|---|")
    for name, row in found.items():
        cells = f"{row['draws']:.4f} +- {row['standard error']:.4f} ({row['normal']:.4f}) | {row['means']:.4f}"
        used = f"{row['unused']} of {row['channels']} ({row.get('linear', '-')})"
        lines.append(f"| {name} | {cells} | {used} | {row['effective']:.2f} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    ending.script(main)
