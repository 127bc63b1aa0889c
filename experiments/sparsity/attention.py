"""How many patches each head attends to, over the noise level and depth, of a run whose network has attention.

    python -m diffjax.main --config=configs/dit.py --workdir=runs/dit
    python experiments/sparsity/attention.py --workdir=runs/dit --out=runs/dit/sparsity [--smoke]

The rows of attention (`models.attention_rows`) of held-out digits at ten log-SNRs; of each row the effective number of
tokens 1 / sum a^2 (`metrics.sparsity`), averaged over queries and digits. Beside it the network at its initialisation,
whose rows are nearly even (baseline), and the trained network on digits whose pixels are in another order, one for all
(control: what is left are habits of position). Writes results.json, table.md, figure.png.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from diffjax import ending, models, runs
from diffjax.calculus import time_of
from diffjax.data import blank
from diffjax.metrics import sparsity

LEVELS = np.linspace(-8.0, 8.0, 10)  # log-SNRs


def main() -> None:
    """Reads rows of attention, and writes their effective numbers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--smoke", action="store_true", help="two digits, two levels")
    args = parser.parse_args()
    run, out = runs.open(args.workdir), Path(args.out)
    run.parts("mean_denoiser", "This study")
    levels, count = (LEVELS[[2, 7]], 2) if args.smoke else (LEVELS, 32)
    truth = run.data.some("held_out", count)
    flat = truth.x.reshape(len(truth.x), -1)
    order = np.random.default_rng(0).permutation(flat.shape[1])
    shuffled = flat[:, order].reshape(truth.x.shape)
    first = jax.jit(run.method.init)(jax.random.key(0), blank(run.data))
    tried = {"trained": (run.params, truth.x), "untrained": (first, truth.x), "shuffled": (run.params, shuffled)}
    found = {
        name: [numbers(run, params, x, truth.given, level) for level in levels] for name, (params, x) in tried.items()
    }
    out.mkdir(parents=True, exist_ok=True)
    results = {"log-SNR": levels.tolist(), "digits": count, "effective number of tokens": found}
    (out / "results.json").write_text(json.dumps(results, indent=1))
    (out / "table.md").write_text(table(levels, found))
    figure(levels, found, out / "figure.png")
    print(table(levels, found))


def numbers(run: runs.Run, params: Any, x0: np.ndarray, given: dict, level: float) -> dict[str, list[float]]:
    """Computes the effective number of tokens at a log-SNR: layer -> its heads, averaged over queries and examples."""
    of = run.method.parts
    t = np.float32(time_of(of.schedule, np.float32(level)))
    totals: dict[str, Any] = {}
    for i, x in enumerate(x0):
        told = {name: values[i] for name, values in given.items() if of.needs is None or name in of.needs}
        z = of.process.noise(jax.random.fold_in(jax.random.key(1), i), x)
        rows = models.attention_rows(of.mean_denoiser(params, told), of.process.corrupt(x, z, t), t)
        for layer, a in rows.items():
            totals[layer] = totals.get(layer, 0) + sparsity.effective(a).mean(-1) / len(x0)
    return {layer: heads.tolist() for layer, heads in totals.items()}


def table(levels: np.ndarray, found: dict[str, list[dict]]) -> str:
    """Formats as Markdown the mean over heads, and the least and largest head."""
    lines = [
        f"| network | layer | {' | '.join(f'{level:.1f}' for level in levels)} |",
        "|---" * (len(levels) + 2) + "|",
    ]
    for name, rows in found.items():
        for layer in rows[0]:
            heads = [np.asarray(row[layer]) for row in rows]
            cells = (f"{a.mean():.2f} ({a.min():.1f} to {a.max():.1f})" for a in heads)
            lines.append(f"| {name} | {layer} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def figure(levels: np.ndarray, found: dict[str, list[dict]], path: Path) -> None:
    """Draws a panel for each network, a line for each layer, over the log-SNR."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(11, 3.2), layout="constrained")
    panels = drawing.subplots(1, len(found), sharey=True)
    for ax, (name, rows) in zip(panels, found.items()):
        for layer in rows[0]:
            ax.plot(levels, [np.mean(row[layer]) for row in rows], "o-", ms=3, label=layer)
        ax.set(title=name, xlabel="log-SNR")
    panels[0].set_ylabel("effective number of tokens")
    panels[0].legend(fontsize=8)
    drawing.savefig(path, dpi=110)


if __name__ == "__main__":
    ending.script(main)
