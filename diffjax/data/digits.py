"""scikit-learn's 1797 real 8 x 8 handwritten digits (Alpaydin & Kaynak 1998), which need no network.

17 grey levels, 0 .. 16, become x = level / 8 - 1. The split is a rule, not a random stream: in the order in which they
are published, the images of one class go to the held-out part whenever the running total of 297 / 1797 of them passes
an integer. So both parts hold every class in proportion, and writers are spread over both.

`digit_tokens` has the levels themselves, as tokens. A run sees tokens u; judges, pictures and files see the pixels
x = scale u - 1 of them, so that the gate and all its figures are those of `digits`.
"""

import hashlib
from functools import partial

import numpy as np

from diffjax.data.source import Arrays, Dataset, fingerprint
from diffjax.data.units import Units
from diffjax.method import Drawn, Section
from diffjax.metrics.judges import digit_gate

HELD_OUT, LEVELS = 297, 17


def digits() -> Dataset:
    """Loads 1500 training and 297 held-out digits: x (8, 8, 1) in [-1, 1], labels 0 .. 9."""
    levels, label, held_out = _levels()
    x = (levels.astype(np.float32) / 8 - 1)[..., None]
    parts = [Arrays(x[part], label[part]) for part in (~held_out, held_out)]
    digest = hashlib.sha256(levels.tobytes() + label.tobytes() + held_out.tobytes()).hexdigest()[:16]
    return Dataset(
        "digits",
        train=parts[0],
        held_out=parts[1],
        shape=(8, 8, 1),
        classes=10,
        levels=LEVELS,
        fingerprint=digest,
        judge=digit_gate,
        least=(HELD_OUT, "the gate compares with as many held-out digits"),
        mixed=True,
    )


def digit_tokens(bins: int = LEVELS, permuted: bool = False, shuffled: bool = False) -> Dataset:
    """Loads the digits of `digits` as tokens 0 .. bins - 1, int32 (8, 8, 1), labels 0 .. 9, in the same two parts.

    The other values than the defaults are controls. With 256 bins a level is the nearest of 256 grey values, of which
    17 occur: log p is that of levels. With `permuted` the places of all digits change in one way, so that neighbours
    are far apart and no information is lost. With `shuffled` each place takes its token from another digit of its part:
    each place keeps its law, and nothing depends on anything, so that no bound is under the entropy of the marginals.

    Raises:
        ValueError: for bins other than 17 or 256, or both controls of the places at once.
    """
    if isinstance(bins, bool) or bins not in (LEVELS, 256):
        raise ValueError(f"digit_tokens: bins is {bins!r}, expected 17, the levels, or 256, grey values of 8 bits.")
    if permuted and shuffled:
        raise ValueError(
            "digit_tokens: got permuted and shuffled; expected one of them: shuffled places have no order."
        )
    levels, label, held_out = _levels()
    tokens = np.rint(levels * ((bins - 1) / (LEVELS - 1))).astype(np.int32).reshape(-1, 64)
    order = np.argsort(np.random.Philox(key=64).random_raw(64)) if permuted else np.arange(64)
    parts = [tokens[part][:, order] for part in (~held_out, held_out)]
    if shuffled:
        parts = [shuffled_places(x, stream) for stream, x in enumerate(parts)]
    train, held = (Arrays(x.reshape(-1, 8, 8, 1), label[part]) for x, part in zip(parts, (~held_out, held_out)))
    return Dataset(
        "digit_tokens",
        train=train,
        held_out=held,
        shape=(8, 8, 1),
        classes=10,
        levels=None,
        fingerprint=fingerprint(train.x, train.labels, held.x, held.labels),
        judge=None if shuffled else partial(_judge, np.argsort(order)) if permuted else digit_gate,
        least=(HELD_OUT, "the gate compares with as many held-out digits"),
        mixed=True,
        units=Units(np.asarray(-1.0), np.asarray(2.0 / (bins - 1)), -1.0, 1.0),
    )


def shuffled_places(x: np.ndarray, seed: int = 0) -> np.ndarray:
    """Shuffles each place of examples (N, L) on its own over the examples: a product of the places' marginals."""
    words = np.random.Philox(key=np.asarray([2**32, seed], np.uint64)).random_raw(x.size).reshape(x.shape)
    return np.take_along_axis(x, np.argsort(words, axis=0, kind="stable"), 0)


def _judge(back: np.ndarray, drawn: Drawn, dataset: Dataset) -> list[Section]:
    """Judges digits whose places were permuted: all are put back, back (64,), before the gate looks at them."""
    put = lambda x: np.asarray(x).reshape(len(x), 64)[:, back].reshape(-1, 8, 8, 1)
    parts = {}
    for name in ("train", "held_out"):
        part = getattr(dataset, name)
        whole = part.gather(np.arange(len(part)))
        parts[name] = Arrays(put(whole.x), whole.given["label"])
    return digit_gate(drawn._replace(x=put(drawn.x)), dataset._replace(**parts))


def _levels() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Loads the published levels (1797, 8, 8) uint8, their labels, and the marks of those that are held out."""
    from sklearn.datasets import load_digits

    pixels, label = load_digits(return_X_y=True)
    label = np.asarray(label, np.int32)
    return np.asarray(pixels, np.uint8).reshape(-1, 8, 8), label, _stratified(label)


def _stratified(label: np.ndarray) -> np.ndarray:
    """Marks which examples are held out, (N,) bool: every class in proportion, exactly HELD_OUT in all."""
    order = np.argsort(label, kind="stable")  # class after class, each in its published order
    total = np.arange(1, len(label) + 1) * HELD_OUT // len(label)
    held_out = np.zeros(len(label), bool)
    held_out[order] = np.diff(total, prepend=0) > 0
    return held_out
