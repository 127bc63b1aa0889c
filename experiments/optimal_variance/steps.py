"""Few steps with and without the optimal variance: DDPM and DDIM against their analytic versions, on a trained network.

    python -m diffjax.main --config=configs/vpsde.py --workdir=runs/vp
    python experiments/optimal_variance/steps.py --workdir=runs/vp --out=runs/vp/optimal_variance [--smoke]

The second moments are those of the training digits, one noise each, at the times of each grid, kept beside the
checkpoints. Writes results.json and table.md: Frechet distance and coverage of 891 samples, the gate's floors beside
them. OUT is a sweep's folder: what is there is not drawn again.
"""

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from diffjax import ending, grids, runs, sweeps
from diffjax.denoisers import moments as measured
from diffjax.metrics import gate

DDPM, DDIM = {"sampler.name": "ancestral.ddpm"}, {"sampler.name": "ancestral.ddim", "sampler.eta": 0.0}
ANALYTIC = lambda estimate: {"denoiser.name": "analytic", "denoiser.estimate": estimate}
METHODS = {  # name -> what is evaluated
    "DDPM, small": {**DDPM, "denoiser.name": "mean"},
    "DDPM, large": {**DDPM, "denoiser.name": "large"},
    "analytic DDPM (noise)": {**DDPM, **ANALYTIC("noise")},
    "analytic DDPM (error)": {**DDPM, **ANALYTIC("error")},
    "analytic DDPM (error per pixel)": {**DDPM, **ANALYTIC("entries")},
    "DDIM": {**DDIM, "denoiser.name": "mean"},
    "analytic DDIM (error)": {**DDIM, **ANALYTIC("error")},
    "analytic DDIM (error per pixel)": {**DDIM, **ANALYTIC("entries")},
}


def main() -> None:
    """One row per method, one column per number of evaluations."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--smoke", action="store_true", help="one length, fewer samples")
    args = parser.parse_args()
    run, lengths, count = runs.open(args.workdir), (5,) if args.smoke else (5, 10, 25, 50), 297 if args.smoke else 891
    run.parts("guided_denoiser", "This study")
    train = run.data.train.gather(np.arange(len(run.data.train))).x
    grid = {"grid.name": "log_snr", "grid.t_min": 1e-3, "eval.samples": count, "sample.chunk": 99}
    points = []
    for n in lengths:
        own = {"analytic": {"denoiser.moments": measure(run, n, train)}, "large": {"denoiser.v": float(np.var(train))}}
        points += [{**grid, "grid.n": n, **how, **own.get(how["denoiser.name"], {})} for how in METHODS.values()]
    sweep = sweeps.Sweep(args.workdir, {}, evaluate=points, root=args.out, measure=judged).run()
    rows = sweep.table(["frechet", "coverage", "gate", "frechet floor", "coverage floor"]).rows
    results: dict[str, Any] = {name: {} for name in METHODS}
    for row, (n, name) in zip(rows, itertools.product(lengths, METHODS)):
        results[name][n] = {part: row[part] for part in ("frechet", "coverage", "gate")}
    results["floor"] = {part: rows[0][f"{part} floor"] for part in ("frechet", "coverage")}
    Path(args.out, "results.json").write_text(json.dumps(results, indent=1))
    Path(args.out, "table.md").write_text(table(results, lengths))


def measure(run: runs.Run, n: int, train: np.ndarray) -> str:
    """Writes the second moments at the times of a grid; gives the file."""
    plain, of = run.denoiser({"label": np.int32(0)}), run.method.parts  # 0 is read by a network that has labels
    ts = grids.log_snr(of.schedule, n, t_min=1e-3)[:-1]
    path = run.workdir / f"moments-{run.step}-{n}.npz"
    measured.save(path, measured.measure(lambda example: plain, of.process, jax.random.key(4), {"x": train}, ts))
    return str(path)


def judged(run: runs.Run) -> dict[str, Any]:
    """The gate's Frechet distance and coverage, and their floors."""
    train, held_out = (part.gather(np.arange(len(part))).x for part in (run.data.train, run.data.held_out))
    report = gate.evaluate_digits(run.draw(run.settings.samples), train, held_out)
    frechet, coverage = (report.as_dict()[name] for name in ("Frechet distance", "coverage, k = 5"))
    floors = {"frechet floor": frechet["floor"], "coverage floor": coverage["floor"]}
    return {"frechet": frechet["value"], "coverage": coverage["value"], "gate": report.passed, **floors}


def table(results: dict, lengths: tuple[int, ...]) -> str:
    """Markdown: Frechet distance / coverage; in bold what passes the gate."""
    lines = ["| method | " + " | ".join(f"{n} steps" for n in lengths) + " |", "|---" * (len(lengths) + 1) + "|"]
    for name, rows in results.items():
        if name != "floor":
            cells = [f"{rows[n]['frechet']:.2f} / {rows[n]['coverage']:.3f}" for n in lengths]
            cells = [f"**{cell}**" if rows[n]["gate"] else cell for cell, n in zip(cells, lengths)]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    floor = results["floor"]
    lines.append(f"| floor | {floor['frechet']:.2f} / {floor['coverage']:.3f}" + " |" * len(lengths))
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    ending.script(main)
