"""What a linear probe reads of captioned samples: whether they show the words that they were asked for.

An attribute is a word of the captions, or a class. A ridge regression from the pixels of training images to "its
caption has this word" gives every image a score, and the area under the curve

    AUC = P(score of an image with the word > score of one without) + P(equal) / 2

is 1 where scores tell the two apart and 1/2 where they say nothing, whatever their scale and however rare the word. It
is computed of samples by the captions that they were given, and stands beside two others: of the held-out images with
those captions, which are real (the floor), and of the samples by the caption of another each (the control: 1/2, as of
samples that were told nothing). The probe is fitted to training images, which it reads better than any others: copies
of them, and samples that are clearer than photographs, may read better than the floor, so that beside it stands how
near samples are to training images.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np

from diffjax.method import Drawn, Figure, Section, left_out
from diffjax.metrics import neighbours
from diffjax.metrics.judges import two_samples

MOST = 2000  # training images that the probe learns from, and that are looked through for copies
COMMON = 0.01  # of the training images that have to show an attribute; three at least, as of the samples
FEW = 3
SHOWN = 16  # samples of the picture
LEAST = (32, "words are read of samples that have them and of samples that have not")


def auc(scores: np.ndarray, has: np.ndarray) -> float:
    """Computes P(score with > score without) + P(equal) / 2 of scores (n,) and `has` (n,) bool.

    Raises:
        ValueError: where all or none have it.
    """
    mine, others = scores[has], scores[~has]
    if not len(mine) or not len(others):
        raise ValueError(f"{len(mine)} of {len(scores)} have the attribute, expected some with it and some without.")
    above = mine[:, None] - others
    return float(np.mean((above > 0) + 0.5 * (above == 0)))  # (text.7)


class Probe:
    """Ridge regressions from examples to attributes, all by one matrix.

    Args:
        x: (n, ...) examples.
        has: (n, k) bool, which of them has which attribute.
        ridge: of the mean square of the centred examples: what is added to the diagonal of their inner products.
    """

    def __init__(self, x: np.ndarray, has: np.ndarray, ridge: float = 1.0):
        rows = np.asarray(x, np.float64).reshape(len(x), -1)
        self.mean = rows.mean(0)
        rows = rows - self.mean
        inner = rows @ rows.T
        inner[np.diag_indices(len(rows))] += ridge * max(np.trace(inner) / len(rows), 1e-12)
        # The mean of `has` drops out: centred rows are orthogonal to a constant.
        self.weights = rows.T @ np.linalg.solve(inner, has.astype(np.float64))

    def scores(self, x: np.ndarray) -> np.ndarray:
        """Computes the scores (m, k) of examples (m, ...)."""
        return (np.asarray(x, np.float64).reshape(len(x), -1) - self.mean) @ self.weights


def has_words(texts: Iterable[str], words: Iterable[str]) -> np.ndarray:
    """Marks which texts (n) have which words (k), (n, k) bool."""
    found, words = [set(text.split()) for text in texts], list(words)
    return np.asarray([[word in text for word in words] for text in found]).reshape(len(found), len(words))


def judge(drawn: Drawn, dataset: Any) -> list[Section]:
    """Judges samples of captions: by distances, by what a probe reads of them, and by how near training images are.

    Samples that were given no text are read by the captions of the held-out examples that they stand for: what no
    network knows of them.
    """
    return [*two_samples(drawn, dataset), *read(drawn, dataset), *copies(drawn, dataset)]


def read(drawn: Drawn, dataset: Any) -> list[Section]:
    """Measures how well a probe reads words and classes of samples, of real images, and by captions of others."""
    train, real = dataset.some("train", MOST), _held_out(drawn, dataset)
    asked = _asked(drawn, real)
    if not {"text", "label"} & set(asked):
        return [left_out({"attributes": "samples were given neither words nor a class"})]
    of = lambda given: np.concatenate([part for part in (_words(given, asked, dataset), _classes(given, asked, dataset))
                                       if part is not None], 1)  # fmt: skip
    seen, own, wanted = (of(given) for given in (train.given, real.given, asked))
    names = [*(dataset.vocabulary.words if "text" in asked else ()), *(dataset.names or () if "label" in asked else ())]
    names = np.asarray(names)
    enough = lambda has, least: (has.sum(0) >= least) & ((~has).sum(0) >= least)
    common = enough(seen, max(FEW, COMMON * len(seen))) & enough(wanted, FEW) & enough(own, FEW)
    if not common.any():
        return [left_out({"attributes": f"no word is in {FEW} of {len(wanted)} captions that is common in training"})]
    probe = Probe(train.x, seen[:, common])
    scores, floor = probe.scores(drawn.x), probe.scores(real.x)
    order = np.argsort(np.random.Philox(key=0).random_raw(len(wanted)), kind="stable")
    other = np.empty_like(order)
    other[order] = np.roll(order, 1)  # of another sample, never its own
    each = lambda scores, has: np.asarray([auc(scores[:, k], has[:, k]) for k in range(common.sum())])
    found = {
        "value": each(scores, wanted[:, common]),
        "floor": each(floor, own[:, common]),
        "control": each(scores, wanted[other][:, common]),
    }
    metrics = {"attribute AUC": {column: float(value.mean()) for column, value in found.items()}}
    texts = map(dataset.vocabulary.text, asked.get("text", np.zeros((len(wanted), 1), int)))
    known = np.asarray(["?" not in text.split() for text in texts])
    metrics |= _combinations(known, scores, floor, wanted[:, common], own[:, common])
    rows = "".join(
        f"| {name} | {np.sum(wanted[:, common], 0)[k]} | " + " | ".join(f"{found[c][k]:.3f}" for c in found) + " |\n"
        for k, name in enumerate(names[common])
    )
    means = "".join(
        f"| {name} | {row.get('captions', len(wanted))} | "
        + " | ".join(f"{row[column]:.3f}" if column in row else "-" for column in found)
        + " |\n"
        for name, row in metrics.items()
    )
    text = f"""
### Words that a probe reads

| attribute | captions | samples | real images | control |
|---|---|---|---|---|
{rows}{means}
AUC of a ridge regression on pixels of {len(train.x)} training images: 1 where it tells samples with a word from the
others, 0.5 where it does not. Control: the caption of another sample.
"""
    return [Section({"metrics": metrics}, text)]


def copies(drawn: Drawn, dataset: Any) -> list[Section]:
    """Measures how near samples are to training images, and shows them beside the nearest ones."""
    train, real = dataset.some("train", MOST).x, _held_out(drawn, dataset)
    near = neighbours.distances(drawn.x, train)
    fresh = neighbours.nearest(real.x, train)
    share = neighbours.copied_share(drawn.x, train, real.x, near=(near.min(1), fresh))
    found = {"value": share, "floor": 0.01}
    ratio = float(np.median(near.min(1)) / max(np.median(fresh), 1e-12))
    held_out = "the held-out image whose caption it was given" if _stands(drawn, real) else "some held-out image"
    text = f"""
### Beside training images

{share:.4f} of the samples are nearer to a training image than all but a hundredth of the held-out images are; their
median distance is {ratio:.4f} of that of held-out images.

![nearest](figures/nearest.png)

*Samples, the training image nearest to each, and {held_out}.*
"""
    shown = lambda x: dataset.shown(np.asarray(x)[:SHOWN])
    groups = {"samples": shown(drawn.x), "nearest training": shown(train[near.argmin(1)]), "held out": shown(real.x)}
    metrics = {"copied share": found, "train-neighbour ratio": {"value": ratio, "floor": 1.0}}
    return [Section({"metrics": metrics}, text, (Figure("nearest", "samples", (groups, 4)),))]


def _combinations(
    known: np.ndarray, scores: np.ndarray, floor: np.ndarray, wanted: np.ndarray, own: np.ndarray
) -> dict[str, dict[str, float]]:
    """The mean AUC of the samples whose captions have no unknown word: words of training, in a new combination."""
    both = lambda has: has[known].any(0) & ~has[known].all(0)
    at = np.flatnonzero(both(wanted) & both(own)) if known.any() else np.zeros(0, int)
    if not at.size or known.all():
        return {}
    mean = lambda scores, has: float(np.mean([auc(scores[known, k], has[known, k]) for k in at]))
    row = {"value": mean(scores, wanted), "floor": mean(floor, own), "captions": int(known.sum())}
    return {"attribute AUC, new combinations": row}


def _held_out(drawn: Drawn, dataset: Any) -> Any:
    """The held-out examples that samples stand for: those that an evaluation follows, by seed."""
    seeds = np.arange(len(drawn.x)) if drawn.seeds is None else np.asarray(drawn.seeds)
    return dataset.held_out.gather(dataset.places("held_out", int(seeds.max()) + 1)[seeds])


def _stands(drawn: Drawn, real: Any) -> bool:
    """Tells whether samples were given what held-out examples are, and not words or a class of a user's own."""
    return all(np.array_equal(part, real.given[name]) for name, part in drawn.given.items() if name in real.given)


def _asked(drawn: Drawn, real: Any) -> dict[str, Any]:
    """What each sample should show: what it was given, and of the example that it stands for what it was not told."""
    return {**(real.given if _stands(drawn, real) else {}), **drawn.given}


def _words(given: dict[str, Any], asked: dict[str, Any], dataset: Any) -> np.ndarray | None:
    if "text" not in asked:
        return None
    return has_words(map(dataset.vocabulary.text, given["text"]), dataset.vocabulary.words)


def _classes(given: dict[str, Any], asked: dict[str, Any], dataset: Any) -> np.ndarray | None:
    if "label" not in asked or not dataset.names:
        return None
    return given["label"][:, None] == np.arange(len(dataset.names))
