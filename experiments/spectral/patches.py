"""The power of sampled photograph patches per radial frequency, over that of training patches.

    python -m diffjax.main --config=configs/heat.py:patches --workdir=runs/patches
    python experiments/spectral/patches.py --workdir=runs/patches --out=runs/patches/spectrum [--smoke]

Power is the mean square of orthonormal DCT coefficients over patches and colours; frequency (i, j) belongs to the ring
of the integer next to its length. Rows: as many training patches (floor); samples with the run's noise, and with
sqrt 2 sigma; walks from blurred training patches, as published; held-out patches, of other places in the photographs;
training patches with their pixels in a random order (negative control). Writes results.json and table.md.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import scipy.fft
from heat import from_images

from diffjax import ending, runs, samplers

COUNT = 512


def main() -> None:
    """Draws, measures, writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--smoke", action="store_true", help="few patches")
    args = parser.parse_args()
    run, out, rng = runs.open(args.workdir), Path(args.out), np.random.default_rng(0)
    run.parts("schedule", "This study")
    count = 16 if args.smoke else COUNT
    train, held_out = (part.gather(np.arange(len(part))).x for part in (run.data.train, run.data.held_out))
    mixed = rng.permuted(train[:5000].reshape(-1, train[0].size // 3, 3), axis=1).reshape(-1, *train.shape[1:])
    sets = {
        f"{count} training patches (floor)": train[rng.permutation(len(train))[:count]],
        "samples": run.draw(count),
        "samples, delta = sqrt 2 sigma": run.draw(
            count, sampler=lambda schedule: samplers.heat.dissipation(schedule, "fixed_point")
        ),
        "from blurred training patches": from_images(run, train[rng.permutation(len(train))[:count]]),
        "held-out patches": held_out,
        "training patches, pixels in a random order": mixed,
    }
    truth = spectrum(train)
    table = {name: (spectrum(np.asarray(x)) / truth).tolist() for name, x in sets.items()}
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.json").write_text(json.dumps({"step": run.step, "samples": count, "rows": table}, indent=1))
    rings = range(len(truth))
    lines = ["| ring | " + " | ".join(map(str, rings)) + " |", "|---" * (len(truth) + 1) + "|"]
    lines += [f"| {name} | " + " | ".join(f"{v:.2f}" for v in row) + " |" for name, row in table.items()]
    (out / "table.md").write_text("\n".join([*lines, ""]))
    print("\n".join(lines))


def spectrum(x: np.ndarray) -> np.ndarray:
    """Measures the power per ring of patches (n, side, side, colours); the last ring has all of the corner."""
    side = x.shape[1]
    power = (scipy.fft.dctn(x.astype(np.float64), axes=(1, 2), norm="ortho") ** 2).mean((0, 3))
    ring = np.minimum(np.rint(np.hypot(*np.indices(power.shape))).astype(int), side - 1)
    return np.bincount(ring.ravel(), power.ravel()) / np.bincount(ring.ravel())


if __name__ == "__main__":
    ending.script(main)
