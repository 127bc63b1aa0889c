"""Frechet distance and coverage of digits runs against the number of Euler steps: what straightening buys.

    python experiments/flows/steps.py runs/rectified-... runs/rectified-optimal_transport-... runs/rectified-reflow-...

One Markdown row per run; bold passes the gate. All are judged against scikit-learn's real digits, reflow too.
--picture=FILE.png shows the first number of steps of every run beside held-out digits.
"""

import argparse
from functools import partial
from pathlib import Path

import numpy as np

from diffjax import data, ending, grids, plots, runs, samplers
from diffjax.metrics import gate

SHOWN = 64


def main() -> None:
    """The table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workdirs", nargs="+")
    parser.add_argument("--steps", default="1,2,5,10,40")
    parser.add_argument("--picture")
    args = parser.parse_args()
    dataset, steps = data.digits(), [int(n) for n in args.steps.split(",")]
    train, held_out = (part.gather(np.arange(len(part))).x for part in (dataset.train, dataset.held_out))
    print("| run | " + " | ".join(f"{n} step" + "s" * (n > 1) for n in steps) + " |")
    print("|---" * (len(steps) + 1) + "|")
    shown = {}
    for workdir in args.workdirs:
        run, name, cells = runs.open(workdir), Path(workdir).name, []
        run.parts("schedule", "This study")
        for n in steps:
            samples = run.draw(1024, sampler=samplers.ancestral.ddim, grid=partial(grids.uniform, n=n, t_min=0.0))
            if n == steps[0]:
                shown[f"{name}, {n} step" + "s" * (n > 1)] = samples[:SHOWN]
            report = gate.evaluate_digits(samples, train, held_out)
            found = report.as_dict()
            cell = f"{found['Frechet distance']['value']:.2f} / {found['coverage, k = 5']['value']:.3f}"
            cells.append(f"**{cell}**" if report.passed else cell)
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    if args.picture:
        plots.samples(args.picture, {**shown, "held out": held_out[:SHOWN]})


if __name__ == "__main__":
    ending.script(main)
