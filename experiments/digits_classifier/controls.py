"""Holds real and spoilt digits to a gate (`diffjax.metrics.gate`): what passes, what fails, and by which metric.

    python experiments/digits_classifier/controls.py [--of=mnist] [--genuine=3]

The fakes are made from two chunks of training digits and judged with the others as the training set, so that what they
are made from does not give them away as copies. One Markdown row for each: values over their bounds in bold.
"""

import argparse
from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage

from diffjax import data
from diffjax.metrics import gate

SHOWN = (
    "Frechet distance",
    "1-NN accuracy, real",
    "1-NN accuracy, fake",
    "coverage, k = 5",
    "train-neighbour ratio",
    "copied share",
    "rarest class, of its share",
)


class Parts(NamedTuple):
    """Training digits that fakes are made from with their labels, the other training digits, and held-out ones."""

    x: np.ndarray
    label: np.ndarray
    train: np.ndarray
    held_out: np.ndarray


def parts(dataset: Any, seed: int = 11, chunks: int = 2, n: int | None = None) -> Parts:
    """The parts of a data set for `chunks` chunks of fakes; n: held-out digits, default all."""
    train, held_out = (source.gather(np.arange(len(source))) for source in (dataset.train, dataset.held_out))
    n = len(held_out.x) if n is None else n
    rng = np.random.default_rng(seed)
    order, out = rng.permutation(len(train.x)), rng.permutation(len(held_out.x))[:n]
    used, kept = order[: chunks * n], order[chunks * n :]
    return Parts(train.x[used], train.given["label"][used], train.x[kept], held_out.x[out])


def _class_gaussians(p: Parts, rng: Any) -> np.ndarray:
    draws = lambda kind: gate.fit_gaussian(p.x[p.label == kind], int(np.sum(p.label == kind)), rng)
    return np.concatenate([draws(kind) for kind in range(10)])


def _zoomed(p: Parts, rng: Any) -> np.ndarray:
    """Shrinks images by 0.85 about their middle."""
    middle = (p.x.shape[1] - 1) / 2
    how = dict(offset=middle * (1 - 1 / 0.85), order=1, cval=-1.0)
    return np.stack([ndimage.affine_transform(image[..., 0], np.eye(2) / 0.85, **how) for image in p.x])[..., None]


def _copied(share: float) -> Any:
    def copies(p: Parts, rng: Any) -> np.ndarray:
        count = int(share * len(p.x))
        return np.concatenate([p.train[:count], p.x[count:]])

    return copies


def blurred(p: Parts, width: float) -> np.ndarray:
    """Images under a Gaussian of this standard deviation in pixels, black outside."""
    return ndimage.gaussian_filter(p.x, (0, width, width, 0), mode="constant", cval=-1.0)


CONTROLS = {
    "class means": lambda p, rng: np.stack([p.x[p.label == kind].mean(0) for kind in range(10)])[p.label],
    "one Gaussian": lambda p, rng: gate.fit_gaussian(p.x, len(p.x), rng),
    "one Gaussian per class": _class_gaussians,
    "blurred, 0.7 pixels": lambda p, rng: blurred(p, 0.7),
    "blurred, 1 pixel": lambda p, rng: blurred(p, 1.0),
    "shrunk by 0.85 towards grey": lambda p, rng: 0.85 * p.x,
    "shrunk by 0.85 towards black": lambda p, rng: 0.85 * (p.x + 1) - 1,
    "shrunk by 0.85 in size": _zoomed,
    "noise 0.2": lambda p, rng: p.x + 0.2 * rng.standard_normal(p.x.shape),
    "no zeros": lambda p, rng: p.x[p.label != 0],
    "no ones": lambda p, rng: p.x[p.label != 1],
    "no eights": lambda p, rng: p.x[p.label != 8],
    "copies, 0.15 of them": _copied(0.15),
    "copies": _copied(1.0),
}
MILD = {"noise 0.1": lambda p, rng: p.x + 0.1 * rng.standard_normal(p.x.shape)}  # passes the gate of MNIST


def row(name: str, report: gate.Report) -> str:
    """One Markdown row of a report."""
    found = {metric.name: metric for metric in report.metrics}
    bold = lambda metric: f"**{metric.value:.3f}**" if metric.passed is False else f"{metric.value:.3f}"
    return " | ".join([f"| {name}", *(bold(found[metric]) for metric in SHOWN), f"{report.chunks} |"])


def main():
    """Print the floor, the Gaussian fit, real digits and the controls."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--of", choices=("digits", "mnist"), default="digits")
    parser.add_argument("--genuine", type=int, default=3, help="draws of real digits")
    args = parser.parse_args()
    dataset, of = getattr(data, args.of)(), {"digits": gate.DIGITS, "mnist": gate.MNIST}[args.of]
    measured: dict[Any, dict[str, float]] = {}
    measure = gate._measure

    def remembered(network, *arrays):  # the floor and the Gaussian's draws are those of every control
        key = tuple(hash(array.tobytes()) for array in arrays)
        if key not in measured:
            measured[key] = measure(network, *arrays)
        return measured[key]

    gate._measure = remembered
    print(" | ".join(["| fakes", *SHOWN, "chunks |"]))
    print("|---" * (len(SHOWN) + 2) + "|")
    judged = lambda p, fake: gate.evaluate(of, fake, p.train, p.held_out)
    for seed in range(args.genuine):
        p = parts(dataset, 11 + seed)
        report = judged(p, p.x)
        if not seed:
            found = {metric.name: metric for metric in report.metrics}
            for name, column in (("floor", "floor"), ("Gaussian fit", "gaussian")):
                values = [f"{getattr(found[metric], column):.3f}" for metric in SHOWN]
                print(" | ".join([f"| {name}", *values, "|"]))
        print(row(f"real digits, {seed}", report), flush=True)
    p = parts(dataset)
    for name, control in {**CONTROLS, **MILD}.items():
        print(row(name, judged(p, control(p, np.random.default_rng(5)))), flush=True)


if __name__ == "__main__":
    main()
