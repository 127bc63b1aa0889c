"""Judges samples in a feature space: distances to held-out data, and to statistics in a file, each beside its floor.

Two floors: the same number for training data in the place of the samples, and the mean that theory gives for two
samples of one law, which is known before any sample is (`frechet.floor`, `neighbours.covered`; 0 for the kernel
distance, 1 for density). What n samples cannot say is left out with a word. Images are first clipped to [-1, 1] and
rounded to the grey levels of the data, as images in a file are.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from diffjax.method import Drawn, Section, left_out
from diffjax.metrics import features, frechet, gate, kid, manifold, neighbours, statistics
from diffjax.metrics.features import Features
from diffjax.metrics.judges import Judge
from diffjax.metrics.statistics import Statistics

MOST = 10_000  # examples of each whose moments are compared
PAIRS = 2000  # those whose neighbours are looked for
K = manifold.K
COLUMNS = ("value", "floor", "expected", "gaussian")


class Measure(NamedTuple):
    """Numbers of fake beside real features: their names, what n samples of d features must be, and how they are found.

    Attributes:
        check: (n, d) -> nothing; a ValueError says why so few samples cannot tell.
        found: (real, fake) -> a number for each name.
        expected: (Gaussian of real data, n) -> the mean of each for equal laws, None where that depends on the law.
        most: samples that are looked at.
    """

    names: tuple[str, ...]
    check: Callable[[int, int], None]
    found: Callable[[np.ndarray, np.ndarray], tuple[float, ...]]
    expected: Callable[[frechet.Gaussian, int], tuple[float | None, ...]]
    most: int = MOST


FRECHET = "Frechet distance"
MEASURES = (
    Measure(
        (FRECHET,),
        frechet.check_size,
        lambda real, fake: (frechet.frechet(fake, real),),
        lambda law, n: (frechet.floor(law, n, n),),
    ),
    Measure(
        (f"{FRECHET}, n to infinity",),
        frechet.check_line,
        lambda real, fake: (frechet.infinity(fake, real),),
        lambda law, n: (0.0,),
    ),
    Measure(
        ("KID", "KID, standard error"),
        kid.check_size,
        lambda real, fake: kid.estimate(fake, real),
        lambda law, n: (0.0, None),
    ),
    Measure(
        tuple(f"{name}, k = {K}" for name in manifold.Manifold._fields),
        lambda n, d: manifold.check_size(n),
        manifold.manifold,
        lambda law, n: (None, None, 1.0, neighbours.covered(n, n, K)),
        PAIRS,
    ),
)


def asked(
    name: str | None, options: dict[str, Any], reference: str | None, shape: tuple[int, ...]
) -> tuple[Judge | None, list[str]]:
    """Makes the judge that a command line asks for, None where it asks for none; and the words that name its report.

    Args:
        name, options: of the feature space (`features.of`).
        reference: a file of statistics.
        shape: of one image of the data.

    Raises:
        ValueError: for a space that there is not, or that makes no features of these images; a file that is none, or
            is of another space, or of another number of features; options or a reference without a space.
    """
    if name is None:
        if options or reference:
            what = f"--reference={reference}" if reference else f"--features.{next(iter(options))}"
            raise ValueError(f"{what} needs --features, such as --features=pixels: {_names()}.")
        return None, []
    space = features.of(name, **options)
    space.check((1, *shape))
    # Two images that nobody drew: what would fail after all samples fails before the first.
    found = space.of(np.random.default_rng(0).uniform(-1, 1, (2, *shape)))
    words = [f"features={name}", *(f"{key}={value}" for key, value in options.items())]
    if reference is None:
        return judge(space), words
    read, file = statistics.read(reference, space), Path(reference).name
    read.check_features(found, f"The statistics in {file}")
    return judge(space, read, file), [*words, f"reference={file}"]


def _names() -> str:
    return f"it may be {', '.join(features.__all__)}, or your own package.module:function"


def judge(space: Features, reference: Statistics | None = None, file: str = "a file") -> Judge:
    """Makes the judge of samples in a feature space: (drawn, data set) -> sections.

    Args:
        reference: moments that samples are held against, beside those of held-out data.
        file: where the reference is from.

    Raises:
        ValueError: for a reference of another space.
    """
    if reference is not None:
        reference.check(space, f"The statistics in {file}")

    def judged(drawn: Drawn, dataset: Any) -> list[Section]:
        clouds = {name: space.of(part) for name, part in _images(drawn, dataset).items()}
        rows, left = compared(clouds)
        untold = ""
        if reference is not None:
            reference.check_features(clouds["value"], f"The statistics in {file}")
            found, why = beside(clouds, reference, file)
            rows, left = rows | found, left | why
            untold = "" if reference.fingerprint is not None else _untold(file)
        told = {"space": space.name, "fingerprint": space.fingerprint, "preprocessing": space.preprocessing}
        text = f"""
## Features: {space.name}

{clouds["real"].shape[1]} features, fingerprint {space.fingerprint}; preprocessing: {space.preprocessing}.

{table(rows)}
n samples beside n held-out examples. Floor: training examples in the place of the samples; expected: the mean of two
samples of one law, as theory has it.{_moments_alone(space)}{untold}
"""
        return [Section({"features": {**told, "metrics": rows}}, text), *([left_out(left)] if left else [])]

    return judged


def _untold(file: str) -> str:
    return f" {file} does not say of which space its moments are: that it is this one is not checked."


def _moments_alone(space: Features) -> str:
    """Says what the Gaussian fit is where features are the examples themselves: their moments are all it has."""
    if space.name != "pixels":
        return ""
    return (
        " In pixels the Gaussian fit has the data's own mean and covariance, all that a Frechet distance looks at: "
        "there it is a second floor, and no baseline."
    )


def compared(clouds: dict[str, np.ndarray]) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Measures features "value", "floor" and "gaussian" beside "real" ones, each (.., d), at equal numbers.

    Returns:
        Metric -> {"n", "expected", and a number for each cloud}; and metric -> why it is left out.
    """
    real, rows, left = clouds["real"], {}, {}
    d = real.shape[1]
    for measure in MEASURES:
        n = min(*map(len, clouds.values()), measure.most)
        try:
            measure.check(n, d)
        except ValueError as error:
            left.update(dict.fromkeys(measure.names, f"{error}"))
            continue
        expected = measure.expected(frechet.fit(real), n)
        found = {name: measure.found(real[:n], cloud[:n]) for name, cloud in clouds.items() if name != "real"}
        for at, name in enumerate(measure.names):
            rows[name] = {"n": n, "expected": expected[at], **{column: row[at] for column, row in found.items()}}
    return rows, left


def beside(
    clouds: dict[str, np.ndarray], reference: Statistics, file: str
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Measures the Frechet distance of all samples to the moments in a file; its floor is that of held-out data."""
    name, law, m = f"{FRECHET} to {file}", reference.gaussian, reference.n
    fakes = {"value": clouds["value"], "floor": clouds["real"], "gaussian": clouds["gaussian"]}
    n, d = len(fakes["value"]), len(law.mean)
    try:
        frechet.check_size(n, d)
        if m is not None:
            frechet.check_size(m, d, f"images of {file}")
    except ValueError as error:
        return {}, {name: f"{error}"}
    found = {column: frechet.distance(frechet.fit(fake), law) for column, fake in fakes.items() if len(fake) > d}
    expected = None if m is None else frechet.floor(law, n, m)
    return {name: {"n": n, "expected": expected, **found}}, {}


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Formats metrics in Markdown, one row each."""
    cell = lambda value: "-" if value is None else f"{value:.4f}"
    head = ["| metric | n | value | floor | expected | Gaussian fit |", "|---|---|---|---|---|---|"]
    body = [
        f"| {k} | {row['n']} | {' | '.join(cell(row.get(column)) for column in COLUMNS)} |" for k, row in rows.items()
    ]
    return "\n".join([*head, *body, ""])


def _images(drawn: Drawn, dataset: Any) -> dict[str, np.ndarray]:
    """Gathers the samples, real examples, and their floor and baseline, as files would hold them."""
    real, train = dataset.some("held_out", MOST).x, dataset.some("train", MOST).x
    labelled = "label" in drawn.given  # samples have the labels of held-out examples: so has their floor
    n = min(len(drawn.x), len(real), len(train))
    floor = dataset.alike(drawn.given["label"][:n]).x if labelled else train[:n]
    gaussian = gate.fit_gaussian(train, n, np.random.default_rng(0))
    levels = dataset.levels
    return {
        "real": real,
        **{name: kept(x, levels) for name, x in {"value": drawn.x, "floor": floor, "gaussian": gaussian}.items()},
    }


def kept(images: np.ndarray, levels: int | None) -> np.ndarray:
    """Clips images to [-1, 1] and rounds them to so many grey levels, as a file keeps them; None: as they are."""
    if levels is None:
        return np.asarray(images)
    return np.round((np.clip(images, -1, 1) + 1) / 2 * (levels - 1)) / (levels - 1) * 2 - 1
