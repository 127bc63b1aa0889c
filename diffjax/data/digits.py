"""scikit-learn's 1797 real 8 x 8 handwritten digits (Alpaydin & Kaynak 1998), which need no network.

17 grey levels, 0 .. 16, become x = level / 8 - 1. The split is a rule, not a random stream: in the order in which they
are published, the images of one class go to the held-out part whenever the running total of 297 / 1797 of them passes
an integer. So both parts hold every class in proportion, and writers are spread over both.
"""

import hashlib

import numpy as np

from diffjax.data.source import Arrays, Dataset
from diffjax.metrics.judges import digit_gate

HELD_OUT = 297


def digits() -> Dataset:
    """Loads 1500 training and 297 held-out digits: x (8, 8, 1) in [-1, 1], labels 0 .. 9."""
    from sklearn.datasets import load_digits

    pixels, label = load_digits(return_X_y=True)
    levels, label = np.asarray(pixels, np.uint8).reshape(-1, 8, 8), np.asarray(label, np.int32)
    held_out = _stratified(label)
    x = (levels.astype(np.float32) / 8 - 1)[..., None]
    parts = [Arrays(x[part], label[part]) for part in (~held_out, held_out)]
    digest = hashlib.sha256(levels.tobytes() + label.tobytes() + held_out.tobytes()).hexdigest()[:16]
    return Dataset(
        "digits",
        train=parts[0],
        held_out=parts[1],
        shape=(8, 8, 1),
        classes=10,
        levels=17,
        fingerprint=digest,
        judge=digit_gate,
        least=(HELD_OUT, "the gate compares with as many held-out digits"),
        mixed=True,
    )


def _stratified(label: np.ndarray) -> np.ndarray:
    """Marks which examples are held out, (N,) bool: every class in proportion, exactly HELD_OUT in all."""
    order = np.argsort(label, kind="stable")  # class after class, each in its published order
    total = np.arange(1, len(label) + 1) * HELD_OUT // len(label)
    held_out = np.zeros(len(label), bool)
    held_out[order] = np.diff(total, prepend=0) > 0
    return held_out
