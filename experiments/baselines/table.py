"""Autoencoder, flow and GAN beside diffusion on digits: one table of the gate's numbers and of bits per dimension.

    python experiments/baselines/table.py vae=runs/autoencoder-... flow=runs/coupling_flow-... gan=runs/matching-...

One Markdown row for each run and way to draw of it: those of `WAYS` that its parts know, at its last state, and at the
best held-out one where its checkpoints are ranked by it. Bold passes the gate.
"""

import argparse
from typing import Any

import numpy as np

from diffjax import data, ending, runs
from diffjax.checkpoint import Checkpoints
from diffjax.metrics import gate

SAMPLES = 1024
WAYS = ({}, {"noisy": True}, {"temperature": 0.8})  # words of a draw; those that a run does not know are left out
JUDGED = ("Frechet distance", "1-NN accuracy, real", "1-NN accuracy, fake", "coverage, k = 5", "train-neighbour ratio")
LAST = "rarest class, of its share"


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", metavar="NAME=WORKDIR")
    parser.add_argument("--seeds", type=int, default=SAMPLES)
    args = parser.parse_args()
    dataset = data.digits()
    train, held_out = (part.gather(np.arange(len(part))).x for part in (dataset.train, dataset.held_out))
    print("| model | step | Frechet | 1-NN real / fake | coverage | ratio | rarest | bits, held out | train |")
    print("|---" * 9 + "|")
    floor = None
    for named in args.runs:
        name, _, workdir = named.partition("=")
        for step in steps(workdir):
            run = runs.open(workdir, step=step)
            bits = measured(run)
            for words in ways(run):
                report = gate.evaluate_digits(run.draw(args.seeds, **words), train, held_out)
                floor = floor or report.as_dict()
                said = ", ".join([name, *(f"{key} = {value}" for key, value in words.items())])
                print(row(said, step or run.step, report, bits), flush=True)
    for name in ("floor", "gaussian"):
        cells = [f"{floor[key][name]:.3f}" for key in (*JUDGED, LAST)] if floor else []
        print(f"| {name} | | {cells[0]} | {cells[1]} / {cells[2]} | {' | '.join(cells[3:])} | | |")


def ways(run: Any) -> list[dict[str, Any]]:
    """Lists the words by which a run's parts draw."""
    known = getattr(run.method.parts, "drawn_by", ())
    return [words for words in WAYS if set(words) <= set(known)]


def steps(workdir: str) -> list[int | None]:
    """Lists the states to look at: the last (None), and before it the one that held-out data ranks first."""
    if runs.open(workdir).settings.best_by == "loss":
        return [None]
    with Checkpoints(f"{workdir}/checkpoints", create=False, best_metric="held_out") as checkpoints:
        best, last = checkpoints.best, checkpoints.latest
    return [None] if best == last else [best, None]


def measured(run: Any) -> dict[str, float]:
    """Measures bits per dimension by part; {} of a run that has none."""
    try:
        found = run.parts("likelihood", "Bits").likelihood(run).results
    except ValueError as error:  # a GAN's says why
        print(f"<!-- {error} -->", flush=True)
        return {}
    return {part: numbers["bits"] for part, numbers in found.get("bits", {}).items()}


def row(name: str, step: int, report: Any, bits: dict[str, float]) -> str:
    """Writes one row of the table."""
    found = {key: metric["value"] for key, metric in report.as_dict().items()}
    frechet = f"{found[JUDGED[0]]:.2f}"
    cells = [f"**{frechet}**" if report.passed else frechet, f"{found[JUDGED[1]]:.3f} / {found[JUDGED[2]]:.3f}"]
    cells += [f"{found[key]:.3f}" for key in (*JUDGED[3:], LAST)]
    cells += [f"{bits[part]:.3f}" if bits else "none" for part in ("held out", "train")]
    return f"| {name} | {step} | {' | '.join(cells)} |"


if __name__ == "__main__":
    ending.script(main)
