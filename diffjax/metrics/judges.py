"""What samples are held against, as sections of an evaluation: (drawn, data set) -> sections.

Every number stands beside its floor, the same number for training data, and beside a Gaussian fitted to that.
"""

import sys
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from diffjax import activity
from diffjax.method import OF_TRAINING, Drawn, Section, attempt, left_out, metrics_of
from diffjax.metrics import digits, gate, neighbours, wasserstein
from diffjax.metrics.classifier import Classifier

Judge = Callable[[Drawn, Any], list[Section]]  # (samples, their data set) -> sections
MOST = 2000  # examples that metrics between all pairs look at
TRIED = {"train": 32, "held_out": 12}  # examples of a trial
NEEDS = {  # metrics between as many samples as examples: the fewest of each
    "1-NN accuracy, real": 2,
    "1-NN accuracy, fake": 2,
    "coverage, k = 5": 6,
    "exact W2": 1,
    "sliced W2": 1,
}
NO_FRECHET = (
    "No Frechet distance: it compares what a classifier sees, and there is one for the gate of the shipped digits, and "
    "one for MNIST's (all ten classes, without endpoints); these distances are between the examples themselves."
)


@activity.doing("judging samples")
def judged(drawn: Drawn, dataset: Any, also: Judge | None = None) -> list[Section]:
    """Judges samples as their data set says; those that are not finite are counted, named, and judged no further.

    A gate is not passed with any of these. Nor is an evaluation lost with its judge: what fails is left out.

    Args:
        also: a judge beside that of the data set.
    """
    judges = {"the judge": dataset.judge or two_samples, **({"the features": also} if also else {})}
    told = lambda drawn: [
        *(part for name, judge in judges.items() for part in attempt(name, lambda: judge(drawn, dataset))),  # noqa: B023
        *outside(drawn, dataset),
    ]
    bad = broken(drawn.x)
    if not bad.any():
        return told(drawn)
    at = np.flatnonzero(~bad)
    found = {"count": int(bad.sum()), "of": len(bad), "seeds": np.flatnonzero(bad)[:64].tolist()}
    counted = Section({"nonfinite": found}, f"**{said(drawn.x)}.** What follows is of the others.\n\n", passed=False)
    if not at.size:
        return [counted, left_out({"the judge": "no sample is finite"})]
    pick = lambda part: np.asarray(part)[at]
    rest = Drawn(pick(drawn.x), {name: pick(part) for name, part in drawn.given.items()}, seeds=at)
    return [counted, *told(rest)]


def broken(x: Any) -> np.ndarray:
    """Marks the samples (n, ...) that hold a number which is not finite, (n,)."""
    return ~np.isfinite(x).reshape(len(x), -1).all(1)


def said(x: Any, seeds: Any = None) -> str:
    """Says how many samples (n, ...) are not finite, and of which seeds (default 0, 1, ...); "" if all are finite."""
    bad = np.flatnonzero(broken(x))
    named = [int(seed) for seed in (bad if seeds is None else np.asarray(seeds)[bad])]
    shown = ", ".join(map(str, named[:8])) + (" ..." if len(named) > 8 else "")
    return f"{len(bad)} of {len(x)} samples are not finite: seeds {shown}" if named else ""


def status(results: dict[str, Any]) -> int:
    """Makes the exit status of an evaluation, 1 and a line on stderr where samples are not finite."""
    found = results.get("nonfinite")
    if found:
        print(f"error: {found['count']} of {found['of']} samples are not finite", file=sys.stderr)
    return int(bool(found))


def outside(drawn: Drawn, dataset: Any) -> list[Section]:
    """Counts samples that leave the range of the training data by more than its width: diverged, though finite."""
    if not np.issubdtype(np.asarray(drawn.x).dtype, np.floating):
        return []
    train = dataset.some("train", MOST).x
    low, high = float(train.min()), float(train.max())
    far = np.abs(drawn.x - (low + high) / 2).reshape(len(drawn.x), -1).max(1) > 1.5 * max(high - low, 1e-12)
    if not far.any():
        return []
    text = (
        f"\n{far.sum()} of {len(far)} samples leave the data's range [{low:.4g}, {high:.4g}] by more than its width.\n"
    )
    return [Section({"outside": {"count": int(far.sum()), "of": len(far)}}, text)]


def two_samples(drawn: Drawn, dataset: Any) -> list[Section]:
    """Judges samples by distances to held-out data, without a gate; what too few examples do not allow is left out."""
    samples, train, held_out = drawn.x, dataset.some("train", MOST).x, dataset.some("held_out", MOST).x
    n = min(len(samples), len(held_out), len(train))
    left = {name: f"needs {fewest} of each, there are {n}" for name, fewest in NEEDS.items() if n < fewest}
    labelled = "label" in drawn.given  # samples have the labels of held-out examples: so has their floor
    fakes = {"value": samples, "floor": dataset.alike(drawn.given["label"][:n]).x if labelled else train}
    try:
        fakes["gaussian"] = gate.fit_gaussian(train, n, np.random.default_rng(0))
    except (ValueError, MemoryError) as error:
        left["Gaussian fit"] = str(error)
    measured = compared({column: fake[:n] for column, fake in fakes.items()}, held_out[:n])
    metrics = {name: {column: found[name] for column, found in measured.items()} for name in NEEDS if name not in left}
    cells = lambda row: " | ".join(
        "-" if row.get(c) is None else f"{row[c]:.4f}" for c in ("value", "floor", "gaussian")
    )
    rows = [f"| {name} | {cells(row)} |" for name, row in metrics.items()]
    head = ["| metric | value | floor | Gaussian fit |", "|---|---|---|---|"]
    text = "\n".join([*head, *rows, "", f"At n = {n}; there is no gate for this. {NO_FRECHET}", ""])
    return [Section({"metrics": metrics}, text), *([left_out(left)] if left else [])]


def compared(fakes: dict[str, np.ndarray], real: np.ndarray) -> dict[str, dict[str, float]]:
    """Measures the `distances` of each from the same real examples; wide ones are projected once, all together."""
    if np.size(real[0]) <= neighbours.WIDE:
        return {column: distances(fake, real) for column, fake in fakes.items()}
    along, *each = wasserstein.projected([real, *fakes.values()])
    return {column: distances(fake, real, (own, along)) for (column, fake), own in zip(fakes.items(), each)}


def distances(fake: np.ndarray, real: np.ndarray, along: Any = None) -> dict[str, float]:
    """Measures how far two samples (n, ...) of equal size are apart, by name: what so many examples allow (`NEEDS`)."""
    n, joint = len(real), neighbours.joint_distances(real, fake)
    wide = np.size(real[0]) > neighbours.WIDE
    accuracy = lambda i: neighbours.two_sample_accuracy(real, fake, joint)[i]
    measures = {
        "1-NN accuracy, real": lambda: accuracy(0),
        "1-NN accuracy, fake": lambda: accuracy(1),
        "coverage, k = 5": lambda: neighbours.coverage(real, fake, 5, joint),
        "exact W2": lambda: wasserstein.exact(fake, real, joint[n:, :n] if wide else None),
        "sliced W2": lambda: wasserstein.sliced(fake, real, along=along),
    }
    return {name: measure() for name, measure in measures.items() if n >= NEEDS[name]}


def trial(dataset: Any) -> dict[str, str]:
    """Tries the judge before a run, on held-out examples in the place of samples: what it will leave out, and why.

    As many examples as `TRIED` says, and those that the judge needs at least (`Dataset.least`).
    """
    if isinstance(_plain(dataset.judge), Gated):  # of shipped data alone, whose number and shape are known
        return {}
    return {name: why for part in _tried(dataset) for name, why in part.results.get("left_out", {}).items()}


def names(dataset: Any, given: Iterable[str]) -> list[str]:
    """Lists the metrics that an evaluation has of this data, by a trial of its judge.

    Args:
        given: names of what samples are given.
    """
    if isinstance(_plain(dataset.judge), Gated) and len(dataset.present) == digits.CLASSES:
        return [*gate.NAMES, *(["class accuracy"] if "label" in given else [])]
    return [name for part in _tried(dataset, given) for name in part.results.get("metrics", {})]


def _tried(dataset: Any, given: Iterable[str] | None = None) -> list[Section]:
    least = max(dataset.least[0], TRIED["held_out"])
    small = dataset.cut(max(TRIED["train"], 2 * least), least)
    examples = small.held_out.gather(np.arange(max(least, len(small.held_out))) % len(small.held_out))
    own = examples.given if given is None else {name: examples.given[name] for name in given if name in examples.given}
    return judged(Drawn(examples.x, own), small)


class Gated:
    """The judge of digits by a gate; and, where they were asked for, of their labels by its classifier.

    Args:
        of: the gate.
    """

    def __init__(self, of: gate.Gate):
        self.of = of

    def __call__(self, drawn: Drawn, dataset: Any) -> list[Section]:
        """Judges samples: without a gate where the data set lacks a class, since its bounds are those of all ten."""
        if len(dataset.present) < digits.CLASSES:
            return [*two_samples(drawn, dataset), *labels_read(drawn, dataset, self.of.network)]
        train, held_out = (self._part(dataset, part) for part in ("train", "held_out"))
        report = gate.evaluate(self.of, drawn.x, train, held_out)
        verdict = Section({"metrics": report.as_dict()}, report.table(), passed=report.passed)
        return [verdict, *labels_read(drawn, dataset, self.of.network)]

    def _part(self, dataset: Any, part: str) -> np.ndarray:
        return dataset.some(part, len(getattr(dataset, part))).x


class Floored:
    """The judge of decoded samples: what a judge says of them, and beside it what it says of decoded training examples.

    The latter have what the codec alone costs, and are no bound: decoded draws may be nearer to held-out data. What
    compares with training examples (`OF_TRAINING`) says nothing of decoded training examples, and is left out.

    Args:
        plain: the judge of the data itself; None: distances between two samples.
        trip: examples (n, *shape) -> what is decoded of their codes.
    """

    def __init__(self, plain: Judge | None, trip: Callable[[Any], Any]):
        self.plain, self.trip = plain, trip

    def __call__(self, drawn: Drawn, dataset: Any) -> list[Section]:
        """Judges samples, and as many decoded training examples."""
        judge, n = self.plain or two_samples, len(drawn.x)
        own = judge(drawn, dataset)
        train = dataset.train.gather(dataset.places("train", n))
        told = {name: part for name, part in train.given.items() if name in drawn.given}
        found = metrics_of(judge(Drawn(self.trip(train.x), told), dataset), OF_TRAINING)
        mine = metrics_of(own)
        each = {name: (mine[name], found[name]) for name in found if name in mine}
        rows = "".join(f"| {name} | {value:.4f} | {floor:.4f} |\n" for name, (value, floor) in each.items())
        text = f"\n### Beside the codec\n\n| metric | samples | decoded training examples |\n|---|---|---|\n{rows}"
        return [*own, Section({"decoded": found}, text)]


def _plain(judge: Judge | None) -> Judge | None:
    return judge.plain if isinstance(judge, Floored) else judge


digit_gate, mnist_gate = Gated(gate.DIGITS), Gated(gate.MNIST)


def labels_read(drawn: Drawn, dataset: Any, network: Classifier) -> list[Section]:
    """Counts how often a classifier reads the label that an image was asked for, and a real one's own."""
    if "label" not in drawn.given:
        return []
    held_out = dataset.held_out.gather(np.arange(len(dataset.held_out)))
    share = lambda images, labels: float(np.mean(network.read(images).logits.argmax(-1) == labels))
    found = {"value": share(drawn.x, drawn.given["label"]), "floor": share(held_out.x, held_out.given["label"])}
    text = (
        f"\nThe classifier reads the label asked for in {found['value']:.3f} of the samples; "
        f"in {found['floor']:.3f} of real digits their own.\n"
    )
    return [Section({"metrics": {"class accuracy": found}}, text)]


def endpoint_error(drawn: Drawn, dataset: Any) -> list[Section]:
    """Measures squared errors to the held-out examples whose endpoints "y" the samples, by seed, were given."""
    if "y" not in drawn.given:
        return []
    seeds = np.arange(len(drawn.x)) if drawn.seeds is None else drawn.seeds
    x = dataset.held_out.gather(dataset.places("held_out", int(seeds.max()) + 1)[seeds]).x
    error = lambda other: float(np.mean((other - x) ** 2))
    found = {"value": error(drawn.x), "endpoint": error(drawn.given["y"])}
    text = (
        f"\nMean squared error to the held-out example that the endpoint was made of: {found['value']:.4f}; "
        f"of the endpoint itself {found['endpoint']:.4f}.\n"
    )
    return [Section({"metrics": {"squared error": found}}, text)]


def transported(drawn: Drawn, dataset: Any) -> list[Section]:
    """Measures the mean |x - y|^2 between samples and the endpoints "y" they began at.

    Beside it the least that any map needs between as many held-out examples and endpoints, by an assignment, and what
    independent pairs of the two have.
    """
    if "y" not in drawn.given:
        return []
    y, x = (np.asarray(part, np.float64).reshape(len(part), -1) for part in (drawn.given["y"], drawn.x))
    real = np.asarray(dataset.some("held_out", MOST).x, np.float64)
    real = real.reshape(len(real), -1)
    n, norm = min(len(real), len(y)), lambda part: np.mean(np.sum(part**2, 1))
    found = {
        "value": float(norm(x - y)),
        "least": wasserstein.exact(y[:n], real[:n]) ** 2,
        "independent": float(norm(real) + norm(y) - 2 * real.mean(0) @ y.mean(0)),
    }
    text = (
        f"\nTransport cost, the mean squared distance of a sample from its endpoint: {found['value']:.4f}; the least "
        f"between {n} endpoints and held-out examples {found['least']:.4f}, of independent ones "
        f"{found['independent']:.4f}. Held-out endpoints belong to no example: the held-out loss is that of independent"
        " pairs, whatever those of training are.\n"
    )
    return [Section({"metrics": {"transport cost": found}}, text)]
