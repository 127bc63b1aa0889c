"""What samples are held against, as sections of an evaluation: (drawn, data set) -> sections.

Every number stands beside its floor, the same number for training data, and beside a Gaussian fitted to that.
"""

from typing import Any

import numpy as np

from diffjax.method import Drawn, Section
from diffjax.metrics import digits, gate, neighbours, wasserstein

MOST = 2000  # examples that metrics between all pairs look at


def two_samples(drawn: Drawn, dataset: Any) -> list[Section]:
    """Judges samples by distances to held-out data; there is no gate."""
    samples, train, held_out = drawn.x, _some(dataset.train), _some(dataset.held_out)
    n = min(len(samples), len(held_out), len(train))
    fakes = {"value": samples, "floor": train, "gaussian": gate.fit_gaussian(train, n, np.random.default_rng(0))}
    measured = {column: distances(fake[:n], held_out[:n]) for column, fake in fakes.items()}
    metrics = {name: {column: measured[column][name] for column in fakes} for name in measured["value"]}
    rows = [f"| {name} | " + " | ".join(f"{row[c]:.4f}" for c in fakes) + " |" for name, row in metrics.items()]
    head = ["| metric | value | floor | Gaussian fit |", "|---|---|---|---|"]
    text = "\n".join([*head, *rows, "", f"At n = {n}; there is no gate for this.", ""])
    return [Section({"metrics": metrics}, text)]


def distances(fake: np.ndarray, real: np.ndarray) -> dict[str, float]:
    """Measures how far two samples (n, ...) of equal size are apart, by name."""
    real_accuracy, fake_accuracy = neighbours.two_sample_accuracy(real, fake)
    return {
        "1-NN accuracy, real": real_accuracy,
        "1-NN accuracy, fake": fake_accuracy,
        "coverage, k = 5": neighbours.coverage(real, fake, 5),
        "exact W2": wasserstein.exact(fake, real),
        "sliced W2": wasserstein.sliced(fake, real),
    }


def digit_gate(drawn: Drawn, dataset: Any) -> list[Section]:
    """Judges digits by the gate; and, where they were asked for, their labels by the evaluation classifier."""
    report = gate.evaluate_digits(drawn.x, _some(dataset.train), _some(dataset.held_out))
    verdict = Section({"metrics": report.as_dict()}, report.table(), passed=report.passed)
    return [verdict, *labels_read(drawn, dataset)]


def labels_read(drawn: Drawn, dataset: Any) -> list[Section]:
    """Counts how often the evaluation classifier reads the label that a digit was asked for, and a real one's own."""
    if "label" not in drawn.given:
        return []
    held_out = dataset.held_out.gather(np.arange(len(dataset.held_out)))
    share = lambda images, labels: float(np.mean(digits.read(images).logits.argmax(-1) == labels))
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
    x = dataset.held_out.gather(np.arange(len(drawn.x)) % len(dataset.held_out)).x
    error = lambda other: float(np.mean((other - x) ** 2))
    found = {"value": error(drawn.x), "endpoint": error(drawn.given["y"])}
    text = (
        f"\nMean squared error to the held-out example that the endpoint was made of: {found['value']:.4f}; "
        f"of the endpoint itself {found['endpoint']:.4f}.\n"
    )
    return [Section({"metrics": {"squared error": found}}, text)]


def _some(source: Any) -> np.ndarray:
    return source.gather(np.arange(min(len(source), MOST))).x
