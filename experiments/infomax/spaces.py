"""What the features of Deep InfoMax see of damaged digits, beside the classifier's, an untrained network's, and pixels.

    python -m diffjax.main --config=configs/infomax.py --workdir=runs/infomax
    python experiments/infomax/spaces.py --workdir=runs/infomax --out=runs/infomax/spaces [--smoke]

The Frechet distance of 297 training digits, damaged, to the 297 held-out ones, as a multiple of the space's own floor,
the distance of as many undamaged digits (a mean over five chunks): units of two spaces are not compared. Last a linear
probe, logistic regression of the class on training features, read on held-out ones. The untrained network is the
baseline of whatever is learned. Writes results.json and table.md.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from scipy import ndimage

from diffjax import ending, runs
from diffjax.data import blank
from diffjax.metrics import features, frechet, gate, spaces

CHUNKS = 5


def main() -> None:
    """Damages, measures, writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--smoke", action="store_true", help="one chunk for the floor")
    args = parser.parse_args()
    run, out = runs.open(args.workdir), Path(args.out)
    own, classifier = features.learned(run), features.digits()
    classifier.check((1, *run.data.shape))
    train, real = run.data.some("train", 10_000), run.data.some("held_out", 10_000)
    first = jax.jit(run.method.init)(jax.random.key(0), blank(run.data))
    bare = run._replace(state=run.state._replace(ema=run.state.ema._replace(averages={run.settings.ema: first})))
    tried = {
        "classifier": classifier,
        "InfoMax": own,
        "untrained": features.learned(bare),
        "pixels": features.pixels(),
    }
    n = len(real.x)
    order = np.random.default_rng(0).permutation(len(train.x))
    chunks = [train.x[part] for part in np.split(order[: CHUNKS * n], CHUNKS)][: 1 if args.smoke else None]
    sets = damaged(chunks[0], train, n, run.data.levels)
    found = {name: measured(space, real, train, chunks, sets) for name, space in tried.items()}
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.json").write_text(json.dumps({"n": n, "spaces": found}, indent=1))
    (out / "table.md").write_text(table(found))
    print(table(found))


def damaged(x: np.ndarray, train: Any, n: int, levels: int | None) -> dict[str, np.ndarray]:
    """Name -> n damaged digits, in the grey levels of the data where the damage is no small noise."""
    rng = np.random.default_rng(1)
    others = train.x[np.asarray(train.given["label"]) != 8]
    return {
        "noise .1": x + 0.1 * rng.standard_normal(x.shape).astype(np.float32),
        "noise .2": x + 0.2 * rng.standard_normal(x.shape).astype(np.float32),
        "blur": ndimage.gaussian_filter(x, (0, 0.7, 0.7, 0)),
        "fade .9": np.float32(0.9) * x,
        "no eights": others[rng.permutation(len(others))[:n]],
        "one Gaussian": spaces.kept(gate.fit_gaussian(train.x, n, rng), levels),
    }


def measured(
    space: Any, real: Any, train: Any, chunks: list[np.ndarray], sets: dict[str, np.ndarray]
) -> dict[str, Any]:
    """The floor, by theory and measured, multiples of it, and the accuracy of a linear probe."""
    truth, known = space.of(real.x), space.of(train.x)
    floor = float(np.mean([frechet.frechet(space.of(chunk), truth) for chunk in chunks]))
    row = {"floor": floor, "floor, theory": frechet.floor(frechet.fit(known), len(truth), len(chunks[0]))}
    row |= {name: frechet.frechet(space.of(x), truth) / floor for name, x in sets.items()}
    labels = [np.asarray(part.given["label"]) for part in (train, real)]
    return row | {"linear probe": probe(known, labels[0], truth, labels[1])}


def probe(x: np.ndarray, label: np.ndarray, held_out: np.ndarray, own: np.ndarray) -> float:
    """The accuracy of logistic regression on standardised features."""
    from sklearn.linear_model import LogisticRegression

    mean, std = x.mean(0), x.std(0) + 1e-9
    fitted = LogisticRegression(max_iter=500).fit((x - mean) / std, label)
    return float(np.mean(fitted.predict((held_out - mean) / std) == own))


def table(found: dict[str, dict[str, float]]) -> str:
    """Markdown: one row for each space, multiples of its own floor."""
    names = list(next(iter(found.values())))
    lines = [f"| space | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    lines += [f"| {space} | {' | '.join(f'{row[name]:.3g}' for name in names)} |" for space, row in found.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    ending.script(main)
