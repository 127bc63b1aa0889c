"""What a generator of single points descends against the best critic of all (Sun, Fang & Schwing 2020; R3GAN 2024).

Data and fakes are points; the critic is any function of a point, and what is left of its objective is the generator's:

    V(fakes) = sup_D mean over pairs (x, y) of n log sigmoid(D(x) - D(y)),    n pairs for each data point

    separable    (x, none) and (none, y): the ordinary GAN, whose logit stands alone; n = 2
    fixed        (x_i, y_i): a relativistic critic that sees the same two together for ever; n = 1
    all          (x_i, y_j): a relativistic critic on fresh batches, which is what is trained; n = 1

A term whose points differ can be brought to 0 by a critic that is large enough, unless a circle of pairs leads back:
x -> y -> ... -> x. So V is 0 of fakes that hit no data, and each circle has a maximum of its own (`value`).
Two fakes that both sit on one of two data points: with `separable` and `all` V rises when one of them leaves, so that
the collapse is a local minimum; with `fixed` it does not, if the fake that leaves is the other point's.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np

Pairs = list[tuple[Hashable, Hashable]]
NONE = object()  # stands in a pair for a point where the critic is 0


def _separable(data: Sequence, fakes: Sequence) -> Pairs:
    return [(x, NONE) for x in data] + [(NONE, y) for y in fakes]


PAIRINGS: dict[str, tuple[Callable[[Sequence, Sequence], Pairs], float]] = {  # pairs, and their weight together
    "all": (lambda data, fakes: [(x, y) for x in data for y in fakes], 1.0),
    "fixed": (lambda data, fakes: list(zip(data, fakes)), 1.0),
    "separable": (_separable, 2.0),
}


def value(data: Sequence[Hashable], fakes: Sequence[Hashable], pairing: str = "separable") -> float:
    """Computes V, what the generator descends when it is against the best critic: a number <= 0.

    Args:
        data, fakes: names of the points; equal names are one point. Equally many.
        pairing: of `PAIRINGS`.

    Raises:
        ValueError: for another pairing, no points, or other numbers of data and of fakes.
    """
    from scipy.optimize import minimize
    from scipy.sparse.csgraph import connected_components

    if pairing not in PAIRINGS:
        raise ValueError(f"Got the pairing {pairing!r}, expected one of {', '.join(PAIRINGS)}.")
    if not data or len(data) != len(fakes):
        raise ValueError(f"Got {len(data)} data points and {len(fakes)} fakes, expected equally many, at least one.")
    make, whole = PAIRINGS[pairing]
    pairs = make(data, fakes)
    names = list(dict.fromkeys(point for pair in pairs for point in pair))
    ends = np.array([[names.index(point) for point in pair] for pair in pairs])
    graph = np.zeros((len(names), len(names)), int)
    graph[ends[:, 0], ends[:, 1]] = 1
    circle = connected_components(graph, connection="strong")[1]
    left, right = ends[circle[ends[:, 0]] == circle[ends[:, 1]]].T  # all other pairs tend to 0
    weight = whole / len(pairs)

    def lost(critic: np.ndarray) -> tuple[float, np.ndarray]:
        gap = critic[left] - critic[right]
        slope = weight / (1 + np.exp(gap))
        down = np.bincount(right, slope, len(names)) - np.bincount(left, slope, len(names))
        return weight * np.logaddexp(0, -gap).sum(), down  # (gan-dynamics.6)

    best: Any = minimize(lost, np.zeros(len(names)), jac=True, method="BFGS", options={"gtol": 1e-10})
    return 0.0 - float(best.fun)
