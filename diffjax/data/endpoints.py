"""Pairs (x, y) of a bridge: what judges samples that were made from endpoints."""

from typing import Any

from diffjax.method import Drawn, Section
from diffjax.metrics.judges import Gated, endpoint_error, labels_read, transported, two_samples


def judge(drawn: Drawn, dataset: Any) -> list[Section]:
    """Judges samples without a gate: they lie near the very held-out examples whose endpoints they were given."""
    return [*two_samples(drawn, dataset), *endpoint_error(drawn, dataset)]


def judge_transported(drawn: Drawn, dataset: Any) -> list[Section]:
    """Judges samples whose endpoints belong to no example: by distances, and by how far they were carried."""
    return [*two_samples(drawn, dataset), *transported(drawn, dataset)]


def judge_labelled(own: Gated, drawn: Drawn, dataset: Any) -> list[Section]:
    """Judges as `judge`, and by the labels that the classifier of the data's own gate reads of samples."""
    distances, *error = judge(drawn, dataset)
    return [distances, *labels_read(drawn, dataset, own.of.network), *error]
