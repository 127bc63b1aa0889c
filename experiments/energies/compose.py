"""Two digit models at once: a 3 above a 7 that share two rows of pixels, by corrected steps and by summed scores.

    python -m diffjax.main --config=configs/energy.py --workdir=runs/energy
    python experiments/energies/compose.py --workdir=runs/energy --out=runs/energy/compose [--smoke]

An image of 14 x 8 pixels has two windows of 8 x 8. The energy of the whole is that of the upper window under the model
of one label plus that of the lower under another's: a product of two laws that agree on the rows they share. Every way
is judged by the digits' classifier, window by window, and by the energy at the last level. Writes results.json,
table.md and figure.png.
"""

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffjax import ending, grids, runs
from diffjax.denoisers import composition
from diffjax.metrics import digits
from diffjax.plots import style
from diffjax.samplers import ancestral, metropolis, nfe, sampling_fn
from diffjax.types import pytree, static

UPPER, LOWER, SHARED = 3, 7, 2
SIDE = 8
TALL = 2 * SIDE - SHARED


@pytree
class Window(composition.Composition):
    """The denoiser of an image by one window of it: the energy of its rows, none of the others.

    Attributes:
        parts: the denoiser of images of 8 x 8 pixels, with an energy, alone.
        top: the window's first row.
    """

    parts: tuple[Any, ...]
    top: int = static()

    def energy_gradient(self, x: jax.Array, t: Any) -> tuple[jax.Array, jax.Array]:
        """E of the window, and its gradient, zero in the other rows."""
        E, gradient = self.parts[0].energy_gradient(x[self.top : self.top + SIDE], t)
        return E, jnp.pad(gradient, ((self.top, TALL - SIDE - self.top), (0, 0), (0, 0)))


def measures(x: np.ndarray, energies: np.ndarray) -> dict[str, float]:
    """Shares of samples whose windows are read as asked, and the energy of both."""
    read = [np.asarray(digits.read(x[:, top : top + SIDE]).logits).argmax(-1) for top in (0, TALL - SIDE)]
    right = [read[0] == UPPER, read[1] == LOWER]
    return {
        "upper": float(right[0].mean()),
        "lower": float(right[1].mean()),
        "both": float((right[0] & right[1]).mean()),
        "energy": float(np.mean(energies)),
    }


def pasted(run: runs.Run, count: int) -> np.ndarray:
    """The control that composes nothing: two samples of the run, one below the other, the upper on top."""
    upper, lower = (run.draw(range(n, n + count), label=label) for n, label in ((0, UPPER), (count, LOWER)))
    return np.concatenate([upper, lower[:, SHARED:]], 1)


def main() -> None:
    """Draws by every way, judges."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--smoke", action="store_true", help="few samples, levels and steps")
    args = parser.parse_args()
    run, out = runs.open(args.workdir), Path(args.out)
    run.parts("plain_denoiser", "This study")
    count, levels, steps = (8, 3, 2) if args.smoke else (128, 25, 10)
    parts, params = run.method.parts, run.params
    schedule = parts.schedule
    window = lambda label, top: Window((parts.plain_denoiser(params, {"label": jnp.int32(label)}),), top)
    both = composition.product(window(UPPER, 0), window(LOWER, TALL - SIDE))
    ladder = grids.log_snr(schedule, levels - 1, t_min=1e-3, zero=False)
    walk = jax.jit(lambda sample, keys, x: jax.vmap(partial(sample, both))(keys, x))
    last = jax.jit(jax.vmap(lambda x: both.energy(schedule(ladder[-1])[0] * x, ladder[-1])))
    keys = jax.random.split(jax.random.key(0), count)
    noise = jax.vmap(partial(jax.random.normal, shape=(TALL, SIDE, 1)))(keys)
    accepted = lambda state: state.accepted
    mala = partial(metropolis.mala, schedule, steps=steps)
    ways = {
        "sum of scores, DDIM": (ancestral.ddim(schedule), grids.log_snr(schedule, 8 * levels), None),
        "sum of scores, SDE": (ancestral.ddim(schedule, eta=1.0), grids.log_snr(schedule, 8 * levels), None),
        "unadjusted, 10 h": (mala(0.9, correct=False), ladder, accepted),
        "unadjusted, h": (mala(0.09, correct=False), ladder, accepted),
        "corrected, h": (mala(0.09), ladder, accepted),
        "corrected, 4 h": (mala(0.36), ladder, accepted),
    }
    rows, drawn = {}, {"pasted": pasted(run, count)}
    rows["pasted"] = {**measures(drawn["pasted"], last(drawn["pasted"])), "evaluations": 40, "acceptance": None}
    for name, (sampler, ts, trace) in ways.items():
        sample = sampling_fn(sampler, ts, trace)
        found = walk(sample, keys, float(schedule(ts[0])[1]) * noise)
        x, taken = found if trace else (found, None)
        drawn[name] = np.asarray(x)
        rate = None if taken is None else float(np.mean(taken[:, -1]) / (levels * steps))
        rows[name] = {**measures(drawn[name], last(x)), "evaluations": nfe(sample), "acceptance": rate}
        print(name, rows[name], flush=True)
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.json").write_text(json.dumps(rows, indent=1))
    (out / "table.md").write_text(table(rows))
    figure(drawn, out / "figure.png")


def table(rows: dict[str, Any]) -> str:
    """Markdown: one row for each way."""
    lines = ["| way | evaluations | upper is 3 | lower is 7 | both | energy | acceptance |", "|---" * 7 + "|"]
    for name, row in rows.items():
        shares = " | ".join(f"{row[key]:.3f}" for key in ("upper", "lower", "both"))
        rate = "-" if row["acceptance"] is None else f"{row['acceptance']:.3f}"
        lines.append(f"| {name} | {row['evaluations']} | {shares} | {row['energy']:.1f} | {rate} |")
    return "\n".join(lines) + "\n"


def figure(drawn: dict[str, np.ndarray], path: Path) -> None:
    """Eight samples of each way, a row each."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(7.0, 1.15 * len(drawn)), layout="constrained", dpi=110)
    for axes, (name, x) in zip(np.atleast_1d(drawing.subplots(len(drawn), 1)), drawn.items()):
        images = np.pad(np.clip(x[:8, :, :, 0], -1, 1), ((0, 0), (0, 0), (0, 2)), constant_values=-1)
        axes.imshow(np.concatenate(list(images), 1), cmap="gray", vmin=-1, vmax=1, aspect="auto")
        axes.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)
        axes.set_xticks([])
        axes.set_yticks([])
    style.save(drawing, path)


if __name__ == "__main__":
    ending.script(main)
