"""Pairs of a trained half of a Schroedinger bridge, for a turn of the other half (Shi et al. 2023, algorithm 1).

    python experiments/schroedinger/pairs.py --workdir=runs/moons-1 --out=pairs.npz [--n=10000] [--nfe=40]

The run walks from the true training points of its start; what it arrives at is the endpoint y of the other half, and
the point that it started from is the example x. Seed i gives pair i. The other half has the reversed reference, which
is of the schedule's own kind where alpha = 1 alone (`EDM`): another schedule is refused.
"""

import argparse

import numpy as np

from diffjax import data, ending, processes, runs


def main() -> None:
    """Writes x (n, ...) and y (n, ...) to an npz file, and of which data sets they are."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--n", type=int, help="at least 1, at most all training points, the default")
    parser.add_argument("--nfe", type=int)
    args = parser.parse_args()
    if args.n is not None and args.n < 1:
        raise SystemExit(f"error: --n is {args.n}, expected 1 or more; without it all training points are walked.")
    run = runs.open(args.workdir, overrides=[] if args.nfe is None else [f"grid.n={args.nfe}"])
    if run.config.data.name != "between" or not isinstance(run.method.parts.process, processes.Schroedinger):
        raise SystemExit(
            f"error: {args.workdir} is no half of a Schroedinger bridge: configs/schroedinger.py trains one."
        )
    if (carried := float(run.method.parts.process.carried(1.0))) != 1:
        raise SystemExit(
            f"error: alpha_T is {carried:g}, expected 1, or the other half has another reference: take EDM."
        )
    options = {name: value for name, value in run.config.data.to_dict().items() if name not in ("name", "pairs")}
    end, true = data.ends(**options)
    start = true.train.gather(np.arange(min(args.n or len(true.train), len(true.train)))).x
    found = run.draw(len(start), given={"y": start})
    # Of the other half: what this one begins from is its end.
    np.savez(args.out, x=start, y=found, end=true.name, start=end.name)
    cost = float(np.mean(np.sum((start - found) ** 2, -1)))
    print(f"{len(start)} pairs in {args.out}, transport cost {cost:.4f}")


if __name__ == "__main__":
    ending.script(main)
