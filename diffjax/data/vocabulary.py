"""The words of captions as tokens, and texts as rows of tokens of one length.

A word is a run of letters and digits, in small letters, so that "RED apple!" is red, apple. Tokens are PADDING, NULL
("no text"), UNKNOWN, and then the words in alphabetical order. A word of a caption that is too rare to be learned is
UNKNOWN; a word of a user that is none of the vocabulary is refused, and so is a text of more words than there are
places: nothing is cut off.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from diffjax import host
from diffjax.types import NULL, PADDING

UNKNOWN, FIRST = 2, 3  # the token of a rare word; that of the first word
SHOWN = 60  # letters of a text in an error
PLACE = "data.json in the workdir, or run.data.vocabulary.words, has all of them"


def words_of(text: str) -> list[str]:
    """Splits a text into words: runs of letters and digits, in small letters."""
    return re.findall(r"[^\W_]+", unicodedata.normalize("NFC", text).lower())


class Vocabulary(NamedTuple):
    """The words that texts are made of, and how many a text has at most.

    Attributes:
        words: in alphabetical order; token FIRST + i is words[i].
        length: places of a text.
    """

    words: tuple[str, ...]
    length: int

    @property
    def sizes(self) -> tuple[int, int]:
        """Tokens, those that are no words among them, and places of a text: the `text` of a network."""
        return FIRST + len(self.words), self.length

    def tokens(self, text: str, rare: bool = False) -> np.ndarray:
        """Makes the tokens (length,) int32 of a text; an empty one is the text that stands for none.

        Args:
            rare: a word that the vocabulary has not is UNKNOWN, and so is a text of signs alone.

        Raises:
            ValueError: for a text of more words than places, or, unless `rare`, a word that the vocabulary has not, or
                a text of signs without a word.
        """
        found, number = words_of(text), {word: FIRST + i for i, word in enumerate(self.words)}
        shown = text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
        if not found and text.strip() and not rare:
            raise ValueError(f"The text {shown!r} has no word, of letters and digits; an empty one stands for no text.")
        if len(found) > self.length:
            raise ValueError(f"The text {shown!r} has {len(found)} words, expected at most {self.length}.")
        if not rare and (strange := [word for word in found if word not in number]):
            raise ValueError(
                f"The text {shown!r} has {strange[0]!r}, which is none of the {len(self.words)} words: "
                f"{host.nearest(strange[0], self.words, PLACE)}."
            )
        row = [number.get(word, UNKNOWN) for word in found] or [UNKNOWN if text.strip() else NULL]
        return np.asarray(row + [PADDING] * (self.length - len(row)), np.int32)

    def text(self, tokens: Any) -> str:
        """Says the words of tokens (length,): "?" for UNKNOWN, "" for no text."""
        row = [int(token) for token in np.asarray(tokens) if token not in (PADDING, NULL)]
        return " ".join("?" if token == UNKNOWN else self.words[token - FIRST] for token in row)

    def rows(self, texts: Any) -> Any:
        """Makes tokens of a text, (length,), or of a list of texts, (n, length); gives anything else as it is.

        None is the text that stands for none, as "" is.
        """
        if texts is None or isinstance(texts, str):
            return self.tokens(texts or "")
        if are_texts(texts):
            return np.stack([self.tokens(str(text or "")) for text in texts])
        return texts


def are_texts(value: Any) -> bool:
    """Tells texts, one or more, of which None is no text, from their tokens, and from a single text."""
    several = isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.ndim == 1)
    return several and len(value) > 0 and all(one is None or isinstance(one, str) for one in value)


def vocabulary_of(texts: Sequence[str], every: Iterable[str], least: int, length: int | None = None) -> Vocabulary:
    """Makes the vocabulary of training captions: their words that stand in `least` or more of them.

    Args:
        every: all captions, held-out ones too, which have to fit into the length.
        length: places of a text; None: as many as the longest caption has words.

    Raises:
        ValueError: for counts that are none, captions of which no word is left, or one that is longer than `length`.
    """
    host.check_int("words", least, 1)
    if length is not None:
        host.check_int("length", length, 1)
    counts = Counter(word for text in texts for word in set(words_of(text)))
    words = tuple(sorted(word for word, count in counts.items() if count >= least))
    if not words:
        raise ValueError(
            f"words is {least}, but no word stands in so many of {len(texts)} captions: take a smaller one."
        )
    longest = max(every, key=lambda text: len(words_of(text)))
    most = len(words_of(longest))
    if length is not None and most > length:
        raise ValueError(f"length is {length}, but the caption {longest[:SHOWN]!r} has {most} words: set it to {most}.")
    return Vocabulary(words, most if length is None else length)


def check(text: Any, sizes: tuple[int, ...], what: str) -> None:
    """Raises a ValueError for tokens (..., L) that a network of texts (V, L) does not have, or a text of padding alone.

    Args:
        what: says whose tokens they are, to begin the message.
    """
    text, (words, length) = np.asarray(text), sizes
    if text.shape[-1:] != (length,):
        raise ValueError(
            f"{what} has {text.shape[-1] if text.ndim else 'no'} places, but the model's texts have {length}: set "
            f"model.text=({words},{text.shape[-1] if text.ndim else 1}), or give texts of {length}."
        )
    if text.size and (text.min() < 0 or text.max() >= words):
        bad = int(text.min() if text.min() < 0 else text.max())
        raise ValueError(f"{what} has token {bad}, but the model knows 0 to {words - 1}.")
    if text.size and not (text != PADDING).any(-1).all():
        raise ValueError(f"{what} has a text of padding alone: no text is token {NULL}, then padding.")
