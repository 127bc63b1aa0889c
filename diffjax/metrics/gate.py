"""The report on generated digits, and the gate that a run must pass: of 8 x 8 digits, and of MNIST's.

Every number is the mean over disjoint chunks of n = len(held_out) samples (297; MNIST 500), each against the held-out
digits. It stands beside the same number for chunks of training digits (its floor: what a perfect generator scores; a
chunk is out of the training set while it plays the fake) and for draws of one Gaussian fitted to the training digits.
Images are first clipped to [-1, 1] and rounded to the data's 17 or 256 grey levels, as images in a file are. Neighbours
and W2 are in pixels; the Frechet distance and the classes are by the classifiers of `digits`.

The bounds of the 8 x 8 digits: twice the floor for the Frechet distance lies between real digits (0.7 to 1.5 x, at two
chunks or more) and the mildest negative control (3.2 x, noise 0.2). The 1-NN accuracies are bounded around their floors
and not around 1/2, since the held-out digits are spread evenly over the data and lie nearer to training digits than to
each other. Copies of a part of the training set show in the copied share alone, a missing class that resembles others
in its share alone. Real digits pass 90 times of 90 at two or three chunks; at one chunk they fail by a rare class 2
times of 60. On MNIST the same bounds let real digits pass at 0.7 x the floor of the Frechet distance and noise of 0.1
at 1.5 x; noise of 0.2 has 4.5 x (`experiments/digits_classifier`).
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from diffjax import host
from diffjax.metrics import digits, frechet, neighbours, wasserstein
from diffjax.metrics.classifier import Classifier

COVERAGE_K = 5
GAUSSIAN_CHUNKS = 3


class Bound(NamedTuple):
    """The bound low <= value <= high; each end is `times` x floor plus a constant (times = 0: whatever the floor)."""

    low: float
    high: float
    times: float = 0.0

    def interval(self, floor: float) -> tuple[float, float]:
        """Computes the interval (low, high) beside this floor."""
        return self.low + self.times * floor, self.high + self.times * floor  # (mnist.2)


BOUNDS = {  # what is judged; the rest is only printed
    "Frechet distance": Bound(-np.inf, 0.0, times=2.0),
    "1-NN accuracy, real": Bound(-0.10, 0.15, times=1.0),
    "1-NN accuracy, fake": Bound(-0.10, 0.15, times=1.0),
    f"coverage, k = {COVERAGE_K}": Bound(0.95, np.inf),
    "train-neighbour ratio": Bound(0.9, 1.15),
    "copied share": Bound(-np.inf, 0.05),
    "rarest class, of its share": Bound(0.5, np.inf),
}


NAMES = (*BOUNDS, "class histogram, total variation", "exact W2", "sliced W2")  # of all metrics, printed ones too


class Gate(NamedTuple):
    """What images of one data set are held to.

    Attributes:
        network: the classifier that reads them.
        levels: their number of grey levels.
        bounds: of the judged metrics, by name.
    """

    network: Classifier
    levels: int
    bounds: dict[str, Bound] = BOUNDS


DIGITS, MNIST = Gate(digits.NETWORK, 17), Gate(digits.MNIST, 256)


class Metric(NamedTuple):
    """A line of the report; `low` and `high` are None where the metric is printed and not judged.

    Attributes:
        name: of the metric.
        value: of the generated digits.
        floor: of training digits in their place, what a perfect generator scores.
        gaussian: of draws of one Gaussian fitted to the training digits.
        low, high: the bounds of the value.
    """

    name: str
    value: float
    floor: float
    gaussian: float
    low: float | None = None
    high: float | None = None

    @property
    def passed(self) -> bool | None:
        """The verdict low <= value <= high; None if the metric is not judged."""
        return None if self.low is None or self.high is None else bool(self.low <= self.value <= self.high)

    @property
    def bound(self) -> str:
        """The interval in words."""
        if self.low is None or self.high is None:
            return ""
        if np.isinf(self.low):
            return f"<= {self.high:.3g}"
        return f">= {self.low:.3g}" if np.isinf(self.high) else f"[{self.low:.3g}, {self.high:.3g}]"


class Report(NamedTuple):
    """The metrics of `chunks` x `n` generated digits."""

    metrics: tuple[Metric, ...]
    n: int
    chunks: int

    @property
    def passed(self) -> bool:
        """The verdict: whether every judged metric keeps its bounds."""
        return all(m.passed is not False for m in self.metrics)

    def as_dict(self) -> dict[str, dict[str, float | str | bool | None]]:
        """Collects plain values for JSON: {metric: {value, floor, gaussian, bound, passed}}."""
        fields = ("value", "floor", "gaussian", "bound", "passed")
        return {m.name: {field: getattr(m, field) for field in fields} for m in self.metrics}

    def table(self) -> str:
        """Formats the report in Markdown, one row per metric, the verdict below."""
        verdict = {True: "pass", False: "**FAIL**", None: "not judged"}
        rows = ["| metric | value | floor | Gaussian fit | bound | |", "|---|---|---|---|---|---|"]
        rows += [
            f"| {m.name} | {m.value:.3f} | {m.floor:.3f} | {m.gaussian:.3f} | {m.bound} | {verdict[m.passed]} |"
            for m in self.metrics
        ]
        failed = [m.name for m in self.metrics if m.passed is False]
        rows += [
            "",
            f"Gate: {'failed by ' + '; '.join(failed) if failed else 'passed'}. Means over {self.chunks} x "
            f"{self.n} samples, each chunk against the same {self.n} held-out digits.",
        ]
        return "\n".join(rows) + "\n"


def judge(report: Report) -> list[tuple[str, float, str, bool]]:
    """Lists the judged metrics as (name, value, bound, passed)."""
    return [(m.name, m.value, m.bound, m.passed) for m in report.metrics if m.passed is not None]


def _shares(logits: np.ndarray) -> np.ndarray:
    return np.bincount(logits.argmax(1), minlength=logits.shape[1]) / len(logits)


def _measure(network: Classifier, fake: np.ndarray, train: np.ndarray, held_out: np.ndarray) -> dict[str, float]:
    """Computes all metrics of one chunk of fakes, as many as held_out."""
    found, expected, shares = network.read(fake), network.read(held_out), _shares(network.read(train).logits)
    near = neighbours.nearest(fake, train), neighbours.nearest(held_out, train)
    real_accuracy, fake_accuracy = neighbours.two_sample_accuracy(held_out, fake)
    found_shares, present = _shares(found.logits), shares > 0
    return {
        "Frechet distance": frechet.frechet(found.features, expected.features),
        "1-NN accuracy, real": real_accuracy,
        "1-NN accuracy, fake": fake_accuracy,
        f"coverage, k = {COVERAGE_K}": neighbours.coverage(held_out, fake, COVERAGE_K),
        "train-neighbour ratio": neighbours.train_neighbour_ratio(fake, train, held_out, near),
        "copied share": neighbours.copied_share(fake, train, held_out, near=near),
        "rarest class, of its share": float((found_shares[present] / shares[present]).min()),
        "class histogram, total variation": float(np.abs(found_shares - shares).sum() / 2),
        "exact W2": wasserstein.exact(fake, held_out),
        "sliced W2": wasserstein.sliced(fake, held_out),
    }


def _mean(measures: list[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([m[name] for m in measures])) for name in measures[0]}


Measure = Callable[[np.ndarray, np.ndarray, np.ndarray], dict[str, float]]


def _fakes(measure: Measure, fake: np.ndarray, train: np.ndarray, held_out: np.ndarray, order: Any) -> dict[str, float]:
    chunks = order[: len(order) // len(held_out) * len(held_out)].reshape(-1, len(held_out))
    return _mean([measure(fake[chunk], train, held_out) for chunk in chunks])


def _floor(measure: Measure, train: np.ndarray, held_out: np.ndarray, order: np.ndarray) -> dict[str, float]:
    n = len(held_out)
    chunks = [slice(start, start + n) for start in range(0, len(train) - n + 1, n)]
    return _mean([measure(train[order[c]], train[np.delete(order, c)], held_out) for c in chunks])


def fit_gaussian(data: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draws `count` examples of the Gaussian with the mean and the full covariance of data (n, ...), in its shape.

    Of d > n entries in float32, as mean + sum over examples i of w_i (x_i - mean) / sqrt(n - 1), w ~ N(0, I): the very
    law, at a cost that is linear in d, where the covariance would be (d, d). ValueError unless n >= 2.
    """
    n, d = len(data), int(np.prod(data.shape[1:]))
    if n < 2:
        raise ValueError(f"a Gaussian is fitted to {n} example; expected at least 2")
    if d <= n:
        flat = data.reshape(n, d).astype(np.float64)
        draws = rng.multivariate_normal(flat.mean(0), np.cov(flat, rowvar=False).reshape(d, d), count, method="eigh")
        return draws.reshape(count, *data.shape[1:])
    weights, found = rng.standard_normal((count, n)) / np.sqrt(n - 1), np.empty((count, d), np.float32)
    for i, (part,) in enumerate(host.blocks(data)):
        mean = part.mean(0)
        found[:, i * host.BLOCK : (i + 1) * host.BLOCK] = mean + weights @ (part - mean)
    return found.reshape(count, *data.shape[1:])


def _images(of: Gate, name: str, images: np.ndarray, least: int) -> np.ndarray:
    images, shape = np.asarray(images, np.float64), of.network.shape
    if images.shape[1:] != shape or len(images) < least:
        expected = f"(m, {', '.join(map(str, shape))}) with m >= {least}"
        raise ValueError(f"{name} has shape {images.shape}; expected {expected}")
    if not np.isfinite(images).all():
        raise ValueError(f"{name}: {np.sum(~np.isfinite(images))} of {images.size} pixels are not finite")
    half = (of.levels - 1) / 2
    return np.round((images.clip(-1, 1) + 1) * half) / half - 1


def evaluate(of: Gate, fake: np.ndarray, train: np.ndarray, held_out: np.ndarray, seed: int = 0) -> Report:
    """Makes the report of a gate on images fake (m, ...) beside training and held-out ones, all in [-1, 1].

    m >= n = len(held_out), len(train) >= 2 n; of m samples the whole chunks of n are used, in an order that, like the
    Gaussian draws, depends on the seed alone. ValueError for other shapes, too few samples, or a non-finite pixel.
    """
    held_out = _images(of, "held_out", held_out, COVERAGE_K + 1)
    n, measure = len(held_out), partial(_measure, of.network)
    train, fake = _images(of, "train", train, 2 * n), _images(of, "fake", fake, n)
    rng = np.random.default_rng(seed)
    values = _fakes(measure, fake, train, held_out, rng.permutation(len(fake)))
    floors = _floor(measure, train, held_out, rng.permutation(len(train)))
    gaussian = _images(of, "gaussian", fit_gaussian(train, GAUSSIAN_CHUNKS * n, rng), n)
    baseline = _fakes(measure, gaussian, train, held_out, np.arange(len(gaussian)))
    bounds = {name: bound.interval(floors[name]) for name, bound in of.bounds.items()}
    metrics = (Metric(k, values[k], floors[k], baseline[k], *bounds.get(k, (None, None))) for k in values)
    return Report(tuple(metrics), n, len(fake) // n)


def evaluate_digits(fake: np.ndarray, train: np.ndarray, held_out: np.ndarray, seed: int = 0) -> Report:
    """Makes the report on 8 x 8 digits fake (m, 8, 8, 1), as `evaluate`."""
    return evaluate(DIGITS, fake, train, held_out, seed)
