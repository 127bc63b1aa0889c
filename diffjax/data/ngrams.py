"""n-grams with Witten-Bell interpolation: what counting alone knows of text, the floor of any model of it.

Of a context h of n - 1 tokens let c(h) count how often it was followed, and T(h) the kinds of tokens that followed it.
With h' the context without its first token (Witten & Bell 1991, method C; Chen & Goodman 1999, eq. 13)

    P_n(v | h) = [c(h v) + T(h) P_(n-1)(v | h')] / [c(h) + T(h)],     P_0(v) = 1 / V,

and P_(n-1) where h was never seen. It is a mixture: with probability c(h) / (c(h) + T(h)) the token is one that
followed h, drawn from those occurrences, otherwise one of the shorter context. `draw` does so.
"""

import copy

import numpy as np

from diffjax import host


class WittenBell:
    """The counts of all n-grams, n = 1 .. order, of a text.

    Args:
        text: (N,) integers 0 .. vocabulary - 1.
        vocabulary: V.
        order: the largest n.

    Raises:
        ValueError: for tokens outside the vocabulary, a text shorter than the order, or an order whose n-grams have no
            number of 63 bits, V^n > 2^63.
    """

    def __init__(self, text: np.ndarray, vocabulary: int, order: int):
        host.check_int("vocabulary", vocabulary)
        host.check_int("order", order)
        text = _checked(text, vocabulary)
        if text.ndim != 1 or len(text) < order:
            raise ValueError(f"n-grams up to n = {order} take a text of as many tokens, got one of shape {text.shape}.")
        if order > (most := largest(vocabulary)):
            raise ValueError(f"n is {order}, expected at most {most} for {vocabulary} tokens: V^n numbers an n-gram.")
        self.vocabulary, self.order = vocabulary, order
        self.grams = [np.unique(_codes(text, n, vocabulary), return_counts=True) for n in range(1, order + 1)]
        self.ends = [np.cumsum(counts) for _, counts in self.grams]  # occurrences of all n-grams up to this one

    def upto(self, order: int) -> "WittenBell":
        """Gives the model of a smaller order, of the same counts."""
        other = copy.copy(self)
        other.order = host.check_int("order", order, most=self.order)
        return other

    def probs(self, contexts: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """Computes P(token | context), (m,), of tokens (m,) after contexts (m, k); of the last order - 1 of k."""
        found = np.full(len(tokens), 1 / self.vocabulary)
        for n in range(1, min(self.order, contexts.shape[1] + 1) + 1):
            context = _number(contexts[:, contexts.shape[1] - n + 1 :], self.vocabulary)
            count, kinds, _ = self._after(n, context)
            gram = self._at(n, context * self.vocabulary + tokens)
            found = (gram + kinds * found) / np.maximum(count + kinds, 1) + (count == 0) * found  # (ngrams.1)
        return found

    def draw(self, n: int, length: int, seed: int = 0) -> np.ndarray:
        """Draws n texts (n, length) int32, token after token; the first ones from the contexts that there are."""
        rng = np.random.Generator(np.random.Philox(key=seed))
        x = np.zeros((n, length), np.int64)
        for place in range(length):
            token, left = rng.integers(self.vocabulary, size=n), np.ones(n, bool)
            for order in range(min(self.order, place + 1), 0, -1):
                count, kinds, first = self._after(order, _number(x[:, place - order + 1 : place], self.vocabulary))
                here = left & (rng.random(n) * (count + kinds) < count)
                nth = first + np.floor(rng.random(n) * count).astype(np.int64)
                at = np.searchsorted(self.ends[order - 1], nth, side="right")
                token = np.where(here, self.grams[order - 1][0][np.minimum(at, len(self.ends[order - 1]) - 1)], token)
                left &= ~here
            x[:, place] = token % self.vocabulary
        return x.astype(np.int32)

    def _after(self, n: int, context: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Counts c(h) and T(h) of contexts by number, and the occurrences of n-grams before them."""
        codes, ends = self.grams[n - 1][0], np.concatenate([[0], self.ends[n - 1]])
        low, high = (np.searchsorted(codes, (context + more) * self.vocabulary) for more in (0, 1))
        return ends[high] - ends[low], high - low, ends[low]

    def _at(self, n: int, gram: np.ndarray) -> np.ndarray:
        """Counts n-grams by number."""
        codes, counts = self.grams[n - 1]
        at = np.minimum(np.searchsorted(codes, gram), len(codes) - 1)
        return np.where(codes[at] == gram, counts[at], 0)


def cross_entropy(model: WittenBell, texts: np.ndarray) -> float:
    """Computes the mean of -log P over all tokens of texts (m, L), in nats; a text begins without a context.

    Raises:
        ValueError: for tokens outside the vocabulary.
    """
    texts = _checked(texts, model.vocabulary)
    m, length = texts.shape
    known = min(model.order, length) - 1
    heads = [-np.log(model.probs(texts[:, :place], texts[:, place])).sum() for place in range(known)]
    whole = np.lib.stride_tricks.sliding_window_view(texts, known + 1, axis=1).reshape(-1, known + 1)
    return float((sum(heads) - np.log(model.probs(whole[:, :-1], whole[:, -1])).sum()) / (m * length))


def largest(vocabulary: int) -> int:
    """Finds the largest n for which V^(n + 1) <= 2^63, so that one context more has a number of 63 bits too."""
    n = 1
    while vocabulary ** (n + 2) <= 2**63 and n < 62:
        n += 1
    return n


def _number(grams: np.ndarray, vocabulary: int) -> np.ndarray:
    """Numbers n-grams (m, n), the first token most significant: (m,) int64."""
    return grams @ (vocabulary ** np.arange(grams.shape[1], dtype=np.int64)[::-1])


def _codes(text: np.ndarray, n: int, vocabulary: int) -> np.ndarray:
    """Numbers all n-grams of a text in their order."""
    return _number(np.lib.stride_tricks.sliding_window_view(text, n), vocabulary)


def _checked(text: np.ndarray, vocabulary: int) -> np.ndarray:
    text = np.asarray(text)
    if not np.issubdtype(text.dtype, np.integer) or not text.size or text.min() < 0 or text.max() >= vocabulary:
        raise ValueError(
            f"The text is {text.dtype} of shape {text.shape}, expected integers 0 .. {vocabulary - 1}, some at least."
        )
    return text.astype(np.int64)
