"""Pairs (x, y) of a bridge: what judges samples that were made from endpoints."""

from typing import Any

from diffjax.method import Drawn, Section
from diffjax.metrics.judges import endpoint_error, labels_read, two_samples


def judge(drawn: Drawn, dataset: Any) -> list[Section]:
    """Judges samples without a gate: they lie near the very held-out examples whose endpoints they were given."""
    return [*two_samples(drawn, dataset), *endpoint_error(drawn, dataset)]


def judge_labelled(drawn: Drawn, dataset: Any) -> list[Section]:
    """Judges as `judge`, and digits by the labels that are read of them too."""
    distances, *error = judge(drawn, dataset)
    return [distances, *labels_read(drawn, dataset), *error]
