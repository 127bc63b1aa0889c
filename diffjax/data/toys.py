"""Two-dimensional toys: points (2,) of roughly unit scale, in the shapes that the literature plots.

Each is drawn from counter-based random words (Philox), a row of four per point: the same on every NumPy, and the first
n points of a larger set are the set of n. The held-out part is an independent draw of the same law. `noise` is the
standard deviation of the Gaussian added to each coordinate.
"""

from collections.abc import Callable

import numpy as np

from diffjax import host
from diffjax.data.source import Arrays, Dataset, in_memory

MOST = 10**7  # points: 600 MB while they are drawn
Draw = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray | None]]  # u, v (n,) -> (n, 2) points, labels


def moons(n: int = 10_000, held_out: int = 2_000, noise: float = 0.05, seed: int = 0) -> Dataset:
    """Draws two interleaved half circles of radius 1, centred on the origin; the label is the moon."""

    def draw(u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        lower, angle = u >= 0.5, np.pi * v
        sign = np.where(lower, -1, 1)
        x = np.stack([sign * (np.cos(angle) - 0.5), sign * (np.sin(angle) - 0.25)], 1)
        return x, lower

    return _dataset("moons", draw, 2, n, held_out, noise, seed)


def eight_gaussians(n: int = 10_000, held_out: int = 2_000, noise: float = 0.1, seed: int = 0) -> Dataset:
    """Draws from eight Gaussians of standard deviation `noise` on a circle of radius sqrt 2; the label says which."""

    def draw(u: np.ndarray, _: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        component = np.floor(8 * u)
        return np.sqrt(2) * _circle(2 * np.pi * component / 8), component  # (points.1)

    return _dataset("eight_gaussians", draw, 8, n, held_out, noise, seed)


def modes(
    n: int = 50_000,
    held_out: int = 2_000,
    weights: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4),
    radius: float = 1.4,
    noise: float = 0.35,
    seed: int = 0,
) -> Dataset:
    """Draws from Gaussians of these weights and standard deviation `noise` on a circle; the label is the component.

    Component k of K stands at the angle 2 pi k / K; the weights add up to 1.
    """
    if not len(weights) or min(weights) < 0 or abs(sum(weights) - 1) > 1e-9:
        raise ValueError(f"modes: weights are {tuple(weights)!r}, expected numbers, 0 or more, that add up to 1.")
    if not 0 <= radius < np.inf:
        raise ValueError(f"modes: radius is {radius!r}, expected a number, 0 or more.")

    def draw(u: np.ndarray, _: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        component = np.searchsorted(np.cumsum(weights)[:-1], u, side="right")
        return radius * _circle(2 * np.pi * component / len(weights)), component

    return _dataset("modes", draw, len(weights), n, held_out, noise, seed)


def checkerboard(n: int = 10_000, held_out: int = 2_000, noise: float = 0.0, seed: int = 0) -> Dataset:
    """Draws points uniform on the dark squares of a 4 x 4 board over [-sqrt 3, sqrt 3]^2: variance 1 each way."""

    def draw(u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, None]:
        x, y = 4 * u, 4 * v  # one of two dark squares of column floor(x), and a height in it
        y = 2 * np.floor(y / 2) + (y % 2) / 2 + np.floor(x) % 2  # (points.2)
        return np.sqrt(3) * (np.stack([x, y], 1) / 2 - 1), None

    return _dataset("checkerboard", draw, None, n, held_out, noise, seed)


def spirals(n: int = 10_000, held_out: int = 2_000, noise: float = 0.05, seed: int = 0) -> Dataset:
    """Draws two opposite Archimedean arms of one and a half turns and radius up to 2; the label is the arm."""

    def draw(u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        second, radius = u >= 0.5, np.sqrt(v)[:, None]
        arm = 2 * radius * _circle(3 * np.pi * radius[:, 0])
        return np.where(second[:, None], -arm, arm), second

    return _dataset("spirals", draw, 2, n, held_out, noise, seed)


def swiss_roll(n: int = 10_000, held_out: int = 2_000, noise: float = 0.03, seed: int = 0) -> Dataset:
    """Draws an Archimedean arm, its angles uniform on [1.5 pi, 4.5 pi], of mean square norm 2 before the noise."""

    def draw(u: np.ndarray, _: np.ndarray) -> tuple[np.ndarray, None]:
        turns = 1 + 2 * u
        return turns[:, None] / np.sqrt(13 / 6) * _circle(1.5 * np.pi * turns), None  # E turns^2 = 13 / 3

    return _dataset("swiss_roll", draw, None, n, held_out, noise, seed)


def _circle(angle: np.ndarray) -> np.ndarray:
    return np.stack([np.cos(angle), np.sin(angle)], 1)


def _dataset(name: str, draw: Draw, classes: int | None, n: int, held_out: int, noise: float, seed: int) -> Dataset:
    for option, value in [("n", n), ("held_out", held_out)]:
        if not host.is_int(value, 1):
            raise ValueError(f"{name}: {option} is {value!r}, expected a positive integer.")
        host.check_int(f"{name}: {option}", value, most=MOST)
    if not 0 <= noise < np.inf:
        raise ValueError(f"{name}: noise is {noise!r}, expected a standard deviation, 0 or more.")
    if not (host.is_int(seed, 0) and seed < 2**64):
        raise ValueError(f"{name}: seed is {seed!r}, expected an integer from 0 to 2**64 - 1.")
    parts = [_points(draw, size, noise, seed, stream) for stream, size in enumerate((n, held_out))]
    return in_memory(name, *parts, classes=classes)._replace(mixed=True)


def _points(draw: Draw, n: int, noise: float, seed: int, stream: int) -> Arrays:
    words = np.random.Philox(key=np.asarray([seed, stream], np.uint64)).random_raw(4 * n).reshape(n, 4)
    u, v, radial, angular = (words >> np.uint64(11)).T * 2.0**-53  # uniform on [0, 1)
    x, label = draw(u, v)
    gaussian = np.sqrt(-2 * np.log1p(-radial))[:, None] * _circle(2 * np.pi * angular)  # Box & Muller 1958
    return Arrays(x + noise * gaussian, None if label is None else label.astype(np.int32))
