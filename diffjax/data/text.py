"""Text as windows of characters: Python's own documentation, which needs no network, or a file of one's own.

The text is cut once: its last tenth is held out. Tokens are the most frequent symbols of the training part, the last
token stands for every other symbol. Training examples are the windows at all places, held-out ones lie side by side.

Samples are judged by their words: of the runs of letters that a window does not cut, the share that are words of the
training part. Held-out text is the ceiling of that share, n-gram samples the baseline; beside it stand the bits per
character of n-grams, which a bound on -log p(x) of a window is held against.
"""

import re
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from diffjax import host
from diffjax.data import ngrams
from diffjax.data.digits import shuffled_places
from diffjax.data.source import Dataset, fingerprint
from diffjax.method import Drawn, Example, Section

OTHER = "\ufffd"  # how the token of all other symbols is shown
ORDERS, DRAWN = (1, 2, 3, 4, 5, 6), (1, 3, 5)  # n of the n-grams: counted, and drawn from
COUNTED = 2**22  # training symbols, at most, that n-grams are counted of
LARGEST = 2**28  # bytes of a file
SHOWN = 8  # samples in a report
LONG = 4  # letters: of shorter runs many are words by chance
LETTERS = re.compile("[A-Za-z]+")


class Windows:
    """A source of windows (length,) of a text (N,) of int32 tokens, one at each `stride`-th place."""

    labels = None

    def __init__(self, tokens: np.ndarray, length: int, stride: int = 1):
        self.tokens, self.length, self.stride = tokens, length, stride

    def __len__(self) -> int:
        """The number of windows."""
        return (len(self.tokens) - self.length) // self.stride + 1

    def gather(self, indices: np.ndarray) -> Example:
        """Gathers the windows at `indices` (B,)."""
        return Example(self.tokens[np.asarray(indices)[:, None] * self.stride + np.arange(self.length)])


class Text:
    """What a text's judge knows: its symbols, both parts as tokens, and what is counted of them once asked for.

    Attributes:
        symbols: what each token but the last stands for.
        train, held_out: (N,) int32 tokens.
        name: which text it is.
    """

    def __init__(self, symbols: str, train: np.ndarray, held_out: np.ndarray, name: str):
        self.symbols, self.train, self.held_out, self.name = symbols, train, held_out, name

    def read(self, x: np.ndarray) -> list[str]:
        """Reads tokens (n, L) as n texts."""
        points = np.frombuffer((self.symbols + OTHER).encode("utf-32-le"), "<u4")  # text of NumPy's loses a NUL
        return [row.tobytes().decode("utf-32-le") for row in points[np.minimum(x, len(self.symbols))]]

    @cached_property
    def words(self) -> frozenset[str]:
        """The runs of letters of the training part."""
        return frozenset(LETTERS.findall(self.read(self.train[None])[0]))

    @cached_property
    def counts(self) -> ngrams.WittenBell:
        """The n-grams of the training part."""
        vocabulary = len(self.symbols) + 1
        return ngrams.WittenBell(self.train[:COUNTED], vocabulary, min(ORDERS[-1], ngrams.largest(vocabulary)))

    @cached_property
    def bits(self) -> dict[int, float]:
        """Bits per character of the held-out part under n-grams, by n."""
        of = lambda n: ngrams.cross_entropy(self.counts.upto(n), self.held_out[None, :COUNTED])
        return {n: of(n) / float(np.log(2)) for n in ORDERS if n <= self.counts.order}

    def share(self, x: np.ndarray, least: int = 1) -> float | None:
        """Computes the share of words among the runs of `least` letters or more in windows (n, L); None without any."""
        runs = [run for window in self.read(x) for run in whole_runs(window) if len(run) >= least]
        return sum(run in self.words for run in runs) / len(runs) if runs else None


def text(
    path: str | None = None, length: int = 64, symbols: int = 128, most: int | None = None, shuffled: bool = False
) -> Dataset:
    """Makes a data set of the windows of a text: x (length,) int32 tokens 0 .. symbols - 1.

    Args:
        path: of a UTF-8 file; None: the topics of Python's documentation (`pydoc_data.topics`), which differ a little
            between versions of Python, keys sorted, joined by newlines.
        length: characters of a window.
        symbols: V, of which V - 1 are the most frequent symbols of the training part and the last all others.
        most: the first so many characters alone; None: all.
        shuffled: the negative control, the characters of each part in a random order: their frequencies stay, and
            nothing else. Samples are judged by the text itself all the same.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for numbers out of range, a file that is not UTF-8 or too large, or a text whose last tenth is
            shorter than a window.
    """
    host.check_int("text: length", length)
    host.check_int("text: symbols", symbols, 2, most=2**20)
    if most is not None:
        host.check_int("text: most", most)
    whole, name = documentation() if path is None else read_file(path)
    if most is not None and most < len(whole):
        whole, name = whole[:most], f"{name}, the first {most:,} of {len(whole):,} characters (data.most)"
    cut = len(whole) - len(whole) // 10
    if len(whole) - cut < length:
        raise ValueError(
            f"text: {name} has {len(whole):,} characters, of which the last tenth is held out; windows of length "
            f"{length} take {10 * length:,} at least."
        )
    points = np.frombuffer(whole.encode("utf-32-le"), np.uint32)
    kinds, counts = np.unique(points[:cut], return_counts=True)
    kept = np.sort(kinds[np.argsort(-counts, kind="stable")][: symbols - 1])
    at = np.minimum(np.searchsorted(kept, points), len(kept) - 1)
    tokens = np.where(kept[at] == points, at, symbols - 1).astype(np.int32)
    parts = [tokens[:cut], tokens[cut:]]
    known = Text(
        kept.astype("<u4").tobytes().decode("utf-32-le") + OTHER * (symbols - 1 - len(kept)), parts[0], parts[1], name
    )
    if shuffled:
        parts = [shuffled_places(part[:, None], stream)[:, 0] for stream, part in enumerate(parts)]
    return Dataset(
        "text",
        train=Windows(parts[0], length),
        held_out=Windows(parts[1], length, length),
        shape=(length,),
        classes=None,
        levels=None,
        fingerprint=fingerprint(*parts, length, symbols),
        judge=partial(judge, known),
    )


def documentation() -> tuple[str, str]:
    """Reads the topics of Python's documentation, and says which text that is."""
    from pydoc_data import topics

    return "\n".join(topics.topics[key] for key in sorted(topics.topics)), "pydoc_data.topics"


def read_file(path: str) -> tuple[str, str]:
    """Reads a UTF-8 file, and says which text that is.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for a file that is not UTF-8, or larger than 256 MiB.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise FileNotFoundError(f"There is no file {path!r}; expected a text in UTF-8, or path=None.")
    if (size := file.stat().st_size) > LARGEST:
        raise ValueError(f"{file} has {size:,} bytes, expected at most {LARGEST:,}: cut it.")
    try:
        return file.read_bytes().decode(), str(file)
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 at byte {error.start}: convert it, by iconv for one.") from error


def whole_runs(window: str) -> list[str]:
    """Finds the runs of letters of a window that its ends do not cut."""
    found = LETTERS.finditer(window)
    return [run.group() for run in found if run.start() > 0 and run.end() < len(window)]


def judge(known: Text, drawn: Drawn, dataset: Dataset) -> list[Section]:
    """Measures the share of words among the samples' runs of letters, beside held-out text and n-gram samples."""
    x = np.asarray(drawn.x)
    length = x.shape[1]
    real = Windows(known.held_out, length, length)
    seen = {"samples": x, "held out": real.gather(np.arange(len(real))).x}
    for n in DRAWN:
        if n <= known.counts.order:
            seen[f"{n}-grams"] = known.counts.upto(n).draw(max(len(x), 64), length)
    found = {name: known.share(part) for name, part in seen.items()}
    long = {name: known.share(part, LONG) for name, part in seen.items()}
    shown = lambda value: "-" if value is None else f"{value:.3f}"
    rows = [f"| {name} | {shown(share)} | {shown(long[name])} |" for name, share in found.items()]
    bits = ", ".join(f"{value:.3f}" for value in known.bits.values())
    letters = "\n".join(f"    {one!r}" for one in known.read(x[:SHOWN]))
    lines = [
        f"{known.name}: {len(known.train):,} training and {len(known.held_out):,} held-out characters.\n",
        f"| runs of letters of | share that are words of the training text | of {LONG} letters and more |",
        "|---|---|---|",
        *rows,
        f"\nHeld-out bits per character of n-grams, n = 1 .. {known.counts.order}: {bits}.\n\n{letters}\n",
    ]
    results = {"words": found, "long_words": long, "ngram_bits": {str(n): value for n, value in known.bits.items()}}
    metric = {"share of words": {"value": found["samples"], "floor": found["held out"]}}
    return [Section({"text": results, "metrics": metric}, "\n".join(lines))]
