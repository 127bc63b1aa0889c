"""Words of one length, whose law is known: uniform over n words, so that -log p(x) = log n; conditionals are counts.

Given some letters of a word, p(v at place i | those) is the share, among the words that have them, of those with v at
place i. The law is its own training and held-out part: what a network learns of it is held against the exact bound.
"""

import re
from functools import partial

import numpy as np

from diffjax import host
from diffjax.data.digits import shuffled_places
from diffjax.data.source import Arrays, Dataset, in_memory
from diffjax.data.text import documentation, read_file
from diffjax.method import Drawn, Section

LETTERS = 26
SHOWN = 24  # samples in a report


def words(path: str | None = None, length: int = 5, shuffled: bool = False) -> Dataset:
    """Makes the data set of a text's different words of one length: x (length,) int32, letters a .. z as 0 .. 25.

    Words are runs of ASCII letters, in small letters; a list with one word a line is such a text.

    Args:
        path: of a UTF-8 file; None: the topics of Python's documentation, which has some 300 words of 5 letters.
        length: letters of a word.
        shuffled: the negative control: each place takes its letter from another word.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for a length under 1, or a text with fewer than two such words.
    """
    host.check_int("words: length", length, most=1000)
    whole, name = documentation() if path is None else read_file(path)
    found = sorted({run for run in re.findall("[a-z]+", whole.lower()) if len(run) == length})
    if len(found) < 2:
        raise ValueError(f"words: {name} has {len(found)} words of {length} letters a .. z, expected two at least.")
    x = np.frombuffer("".join(found).encode(), np.uint8).reshape(-1, length).astype(np.int32) - ord("a")
    seen = shuffled_places(x) if shuffled else x
    dataset = in_memory("words", Arrays(seen), Arrays(seen), classes=None)
    return dataset._replace(judge=partial(judge, x, name))


def conditionals(law: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Counts p(letter at each place | the letters seen), (length, 26), of words `law` (n, length).

    Args:
        x: (length,) letters, 26 where one is hidden.

    Raises:
        ValueError: where no word has the letters seen.
    """
    fits = law[((law == x) | (x == LETTERS)).all(1)]
    if not len(fits):
        raise ValueError(f"No word has the letters {x.tolist()} (26 is hidden).")
    return (fits[..., None] == np.arange(LETTERS)).mean(0)


def product_share(law: np.ndarray) -> float:
    """Computes the share of words among draws of the product of the places' marginals, exactly."""
    marginals = conditionals(law, np.full(law.shape[1], LETTERS))
    return float(np.prod(np.take_along_axis(marginals[None], law[..., None], -1)[..., 0], 1).sum())


def judge(law: np.ndarray, name: str, drawn: Drawn, dataset: Dataset) -> list[Section]:
    """Counts the samples that are words, and their total variation from the uniform law, beside floor and baseline."""
    x, n = np.asarray(drawn.x), len(law)
    known = {tuple(word): i for i, word in enumerate(law.tolist())}
    at = np.asarray([known.get(tuple(one), n) for one in x.tolist()])
    variation = lambda counts: float(0.5 * np.abs(counts / len(x) - np.append(np.full(n, 1 / n), 0.0)).sum())
    drawn_of_law = np.random.Generator(np.random.Philox(key=0)).multinomial(len(x), np.append(np.full(n, 1 / n), 0.0))
    results = {
        "words": n,
        "share": float(np.mean(at < n)),
        "product_share": product_share(law),
        "total_variation": variation(np.bincount(at, minlength=n + 1)),
        "floor": variation(drawn_of_law),
        "entropy": float(np.log(n) / law.shape[1]),
    }
    shown = " ".join("".join(chr(ord("a") + letter) for letter in one) for one in x[:SHOWN].tolist())
    text = (
        f"{n} words of {law.shape[1]} letters of {name}. Of {len(x)} samples {results['share']:.4f} are words (a "
        f"product of the places' marginals: {results['product_share']:.4f}); total variation from the uniform law "
        f"{results['total_variation']:.4f}, of as many draws of it {results['floor']:.4f}. Entropy of the law: "
        f"{results['entropy']:.4f} nats per letter.\n\n    {shown}\n"
    )
    metric = {"share of words": {"value": results["share"], "floor": 1.0}}
    return [Section({"words": results, "metrics": metric}, text)]
