"""End law and transport cost of trained halves of a Schroedinger bridge, beside what the exact one has.

    python experiments/schroedinger/table.py runs/schroedinger/moons-* --out=OUT [--n=1000] [--nfe=500]

One Markdown row per run: the exact W2 of its samples from held-out examples, with its floor (training examples), and
the cost E|x - y|^2 beside that of Sinkhorn's plan between as many held-out points with the reference's entropy, of
optimal transport, and of independent pairs.
"""

import argparse
import json
from pathlib import Path

import jax
import numpy as np

from diffjax import couplings, ending, processes, runs
from diffjax.metrics import wasserstein

COLUMNS = ("W2", "floor", "cost", "entropic", "optimal", "independent")


def measured(workdir: str, n: int, nfe: int | None) -> dict[str, float]:
    """Draws n samples of a run from held-out endpoints, and measures them."""
    run = runs.open(workdir, overrides=[] if nfe is None else [f"grid.n={nfe}"])
    if not isinstance(getattr(run.method.parts, "process", None), processes.Schroedinger):
        raise SystemExit(f"error: {workdir} is no half of a Schroedinger bridge: configs/schroedinger.py trains one.")
    held_out, train = (part.gather(np.arange(min(n, len(part)))) for part in (run.data.held_out, run.data.train))
    real, y = held_out.x, held_out.given["y"]
    drawn = run.draw(len(real), given={"y": y})
    process = run.method.parts.process
    between = jax.jit(couplings.squared_distances)(process.carried(real), y)
    plan = np.exp(np.asarray(jax.jit(couplings.sinkhorn)(between, 2 * process.epsilon), np.float64))
    apart = np.asarray(jax.jit(couplings.squared_distances)(real, y), np.float64)
    size = min(len(real), len(train.x))
    return {
        "W2": wasserstein.exact(drawn, real),
        "floor": wasserstein.exact(train.x[:size], real[:size]),
        "cost": float(couplings.transport_cost(drawn, y)),
        "entropic": float((plan / plan.sum() * apart).sum()),
        "optimal": wasserstein.exact(y, real) ** 2,
        "independent": float(apart.mean()),
    }


def main() -> None:
    """The table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workdirs", nargs="+")
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--nfe", type=int, help="steps of a walk; the run's own without it")
    parser.add_argument("--out", help="a folder for results.json")
    args, found = parser.parse_args(), {}
    print("| run | " + " | ".join(COLUMNS) + " |")
    print("|---" * (len(COLUMNS) + 1) + "|")
    for workdir in args.workdirs:
        found[Path(workdir).name] = row = measured(workdir, args.n, args.nfe)
        print(f"| {Path(workdir).name} | " + " | ".join(f"{row[name]:.4f}" for name in COLUMNS) + " |", flush=True)
    if args.out:
        Path(args.out).mkdir(parents=True, exist_ok=True)
        (Path(args.out) / "results.json").write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    ending.script(main)
