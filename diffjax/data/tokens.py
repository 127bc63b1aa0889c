"""Short sequences of tokens whose joint law is known: every conditional and every distance can be enumerated.

The joint of `length` places with `vocabulary` tokens each is one draw of the flat Dirichlet law over all
vocabulary^length sequences, a function of the seed alone: nothing in it is independent of anything. Both the joint and
the examples are made of counter-based random words (Philox), the same on every NumPy, and the first n examples of a
larger set are the set of n.
"""

import math
from functools import partial

import numpy as np

from diffjax.data.source import Arrays, Dataset, in_memory
from diffjax.method import Drawn, Section

MOST = 100_000  # sequences that are enumerated
MOST_DRAWN = 10**7
FLOORS = 16  # draws of the joint that the floor is the mean of


def joint(length: int = 3, vocabulary: int = 3, seed: int = 0) -> np.ndarray:
    """Makes the probabilities of all sequences, (vocabulary,) * length, float64: normalised exponential draws."""
    exponential = -np.log1p(-_uniform(seed, 0, vocabulary**length))
    return (exponential / exponential.sum()).reshape((vocabulary,) * length)


def tokens(length: int = 3, vocabulary: int = 3, n: int = 100_000, held_out: int = 10_000, seed: int = 0) -> Dataset:
    """Draws n sequences (length,) of int32 tokens 0 .. vocabulary - 1 from `joint`, and held-out ones besides.

    Raises:
        ValueError: for counts under 1, a vocabulary under 2, or more than 100 000 sequences to enumerate.
    """
    for option, value, least in (
        ("length", length, 1),
        ("vocabulary", vocabulary, 2),
        ("n", n, 1),
        ("held_out", held_out, 1),
    ):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"tokens: {option} is {value!r}, expected an integer >= {least}.")
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**64:
        raise ValueError(f"tokens: seed is {seed!r}, expected an integer from 0 to 2**64 - 1.")
    if length * math.log(vocabulary) > math.log(MOST) + 1e-9:  # the power itself may have a billion digits
        count = vocabulary**length if length * math.log10(vocabulary) < 30 else "more than 10^30"
        raise ValueError(
            f"tokens: {length} places of {vocabulary} tokens are {count} sequences, expected at most {MOST}."
        )
    for option, value in (("n", n), ("held_out", held_out)):
        if value > MOST_DRAWN:
            raise ValueError(f"tokens: {option} is {value}, expected at most {MOST_DRAWN}.")
    law = joint(length, vocabulary, seed)
    parts = [Arrays(_draw(law, _uniform(seed, stream, size))) for stream, size in ((1, n), (2, held_out))]
    dataset = in_memory("tokens", *parts, classes=None)
    return dataset._replace(judge=partial(judge, law), mixed=True)


def judge(law: np.ndarray, drawn: Drawn, dataset: Dataset) -> list[Section]:
    """Measures the total variation between `law` and the samples' frequencies, beside its floor and baseline.

    The floor is what as many samples of the law itself have, the baseline a product of the law's marginals. The gate is
    twice the floor.
    """
    x = np.asarray(drawn.x)
    found = total_variation(frequencies(x, law.shape), law)
    rng = np.random.Generator(np.random.Philox(key=0))
    floors = rng.multinomial(len(x), law.ravel(), FLOORS) / len(x)
    floor = float(np.mean([total_variation(f.reshape(law.shape), law) for f in floors]))
    product = total_variation(product_of_marginals(law), law)
    entropy = float(-(law[law > 0] * np.log(law[law > 0])).sum() / law.ndim)
    text = (
        f"Total variation of {len(x)} samples from the joint law of {law.size} sequences: {found:.4f}; as many samples "
        f"of the law itself: {floor:.4f}; the product of its marginals: {product:.4f}.\n"
        f"Gate, twice the floor: {'pass' if found <= 2 * floor else 'fail'}. Entropy of the law: {entropy:.4f} nats "
        "per token.\n"
    )
    results = {"total_variation": found, "floor": floor, "product_of_marginals": product, "entropy": entropy}
    return [Section({"tokens": results}, text, passed=found <= 2 * floor)]


def frequencies(x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Counts the shares of all sequences of this shape in x (n, length); IndexError for a token outside its range."""
    counts = np.zeros(shape)
    np.add.at(counts, tuple(np.asarray(x).T), 1)
    return counts / len(x)


def product_of_marginals(law: np.ndarray) -> np.ndarray:
    """Computes the law of independent places with the marginals of `law`, of its shape."""
    product = np.ones(())
    for place in range(law.ndim):
        marginal = law.sum(tuple(axis for axis in range(law.ndim) if axis != place))
        product = product[..., None] * marginal
    return product


def total_variation(p: np.ndarray, q: np.ndarray) -> float:
    """Computes half the sum of |p - q|."""
    return float(0.5 * np.abs(p - q).sum())


def _uniform(seed: int, stream: int, n: int) -> np.ndarray:
    words = np.random.Philox(key=np.asarray([seed, stream], np.uint64)).random_raw(n)
    return (words >> np.uint64(11)) * 2.0**-53


def _draw(law: np.ndarray, u: np.ndarray) -> np.ndarray:
    index = np.minimum(np.searchsorted(law.ravel().cumsum(), u, side="right"), law.size - 1)
    return np.stack(np.unravel_index(index, law.shape), -1).astype(np.int32)
