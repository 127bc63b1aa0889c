"""Eight Gaussians by generators that follow a field: modes found, their shares and widths, beside floor and controls.

    python experiments/matching/gaussians.py --runs=runs/classifier,runs/kernel --out=OUT

The controls show that the measure sees what goes wrong: one point of data repeated (a collapsed generator), data of
five modes alone (one that drops modes), and a Gaussian fit. Writes table.md and results.json.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from diffjax import data, ending, runs

STD, RADIUS, COUNT = 0.1, np.sqrt(2), 4000
ANGLES = 2 * np.pi * np.arange(8) / 8
CENTRES = RADIUS * np.stack([np.cos(ANGLES), np.sin(ANGLES)], 1)


def measures(x: np.ndarray) -> dict[str, float]:
    """Shares of eight modes, of points (n, 2) within three standard deviations of one.

    Returns:
        near: the share of points that are so near to some mode; least: the smallest mode's share, times 8; tv: total
        variation of the modes' shares among such points and 1/8; width: their root mean square distance to the centre
        on an axis, over that of data, 1 without the cut; modes: how many have a share above 1/16.
    """
    apart = np.linalg.norm(x[:, None] - CENTRES, axis=-1)
    mode, near = apart.argmin(1), apart.min(1) < 3 * STD
    shares = np.bincount(mode[near], minlength=8) / len(x)
    among = shares / max(shares.sum(), 1e-12)
    cut = 1 - 4.5 * np.exp(-4.5) / (1 - np.exp(-4.5))  # E of r^2 / 2 STD^2 within 3 STD of a Gaussian in the plane
    width = np.sqrt(np.mean(apart.min(1)[near] ** 2) / 2 / cut) / STD if near.any() else np.nan
    found = {"near": near.mean(), "least": 8 * shares.min(), "tv": 0.5 * np.abs(among - 1 / 8).sum(), "width": width}
    return {**{name: float(value) for name, value in found.items()}, "modes": int(np.sum(shares > 1 / 16))}


def controls(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Samples (n, 2) whose measures are known: data itself, and three that went wrong."""
    toy = data.eight_gaussians(n=2 * COUNT)
    drawn = toy.train.gather(np.arange(2 * COUNT))
    x, label = np.asarray(drawn.x, np.float64), np.asarray(drawn.given["label"])
    return {
        "data": x[:COUNT],
        "collapsed": np.tile(x[:1], (COUNT, 1)),
        "five modes of eight": x[label < 5][:COUNT],
        "Gaussian fit": rng.multivariate_normal(x.mean(0), np.cov(x.T), COUNT),
    }


def main() -> None:
    """Writes the table of runs and controls."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", default="", help="workdirs, with commas between")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    samples = controls(np.random.default_rng(0))
    for folder in filter(None, args.runs.split(",")):
        samples[Path(folder).name] = np.asarray(runs.open(folder).draw(COUNT, given={}), np.float64)
    found = {name: measures(x) for name, x in samples.items()}
    lines = [
        "| samples | near a mode | least share x 8 | total variation | width | modes |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in found.items():
        cells = (f"{row[key]:.3f}" for key in ("near", "least", "tv", "width"))
        lines.append(f"| {name} | {' | '.join(cells)} | {row['modes']} |")
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "table.md").write_text("\n".join(lines) + "\n")
    (args.out / "results.json").write_text(json.dumps(found, indent=1))
    print("\n".join(lines))


if __name__ == "__main__":
    ending.script(main)
