"""Laws of two times (t, r), r <= t, one example at a time: `(keys, index, batch_size, step) -> (t, r)`.

Keys and index are those of `losses.times`; step is the number of updates made, None where nobody counts, and only the
laws marked `counted` read it. The share of examples with r = t, plain regression, is cut by a key of its own: of the
order of the batch it would be cut along with whatever else is, such as hidden labels.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffjax import calculus, host
from diffjax.losses import progressive, times
from diffjax.method import Keys
from diffjax.types import Array, Schedule

__all__ = ["consistency", "dyadic", "grid", "log_normal", "stratified", "terminal", "uniform"]  # what a config may name

Pairs = Callable[..., tuple[Array, Array]]


def in_order(law: times.Times, same: float, inside: bool = False) -> Pairs:
    """Draws two times of a law of one, the later first; r = t for the share `same`.

    The second has another order of the batch, i -> i stride mod size: of stratified times the pairs are a lattice in
    the square, where one order would give all of them one distance.

    Args:
        inside: whether the law is known to stay in [0, t_max]; if not, `check` looks.

    Raises:
        ValueError: for a share outside [0, 1].
    """
    _check_share("same", same)

    def draw(keys: Keys, index: Array, size: int, step: Any = None) -> tuple[Array, Array]:
        one, other = law(_fold(keys, 0), index, size), law(_fold(keys, 1), index * _stride(size) % size, size)
        t, r = jnp.maximum(one, other), jnp.minimum(one, other)
        return t, jnp.where(jax.random.bernoulli(_fold(keys, 2).example, same), t, r)

    return _marked(draw, same, inside=inside)


def log_normal(schedule: Schedule, mean: float = -0.4, std: float = 1.0, same: float = 0.5) -> Pairs:
    """Draws log(sigma / alpha) of both ~ N(mean, std^2): MeanFlow's law on Rectified, where that is logit t.

    Args:
        same: share of r = t; published 0.75 for MeanFlow, 0.5 for improved MeanFlow.
    """
    return in_order(times.log_normal(schedule, mean, std), same, True)


def uniform(schedule: Schedule, same: float = 0.5, t_min: float = 1e-5, first: float = 0.0) -> Pairs:
    """Draws (t, r) uniformly on the triangle t_min <= r <= t <= t_max (Boffi et al. 2025).

    Args:
        first: share of the pairs with r < t that begin at t_max instead, r uniform: those a single evaluation walks.

    Raises:
        ValueError: for a share outside [0, 1].
    """
    _check_share("first", first)
    law = in_order(times.uniform(schedule, t_min), same, True)
    if first == 0:
        return law
    alone = times.uniform(schedule, t_min)

    def draw(keys: Keys, index: Array, size: int, step: Any = None) -> tuple[Array, Array]:
        t, r = law(keys, index, size, step)
        begins = (r < t) & jax.random.bernoulli(_fold(keys, 3).example, first)
        return jnp.where(begins, schedule.t_max, t), jnp.where(begins, alone(_fold(keys, 4), index, size), r)

    return _marked(draw, same, inside=True)


def stratified(schedule: Schedule, same: float = 0.5, t_min: float = 1e-5) -> Pairs:
    """Draws pairs of two stratified times: each time is uniform, and the pairs of a batch are a lattice."""
    return in_order(times.stratified(schedule, t_min), same, True)


def terminal(schedule: Schedule, mean: float = -0.8, std: float = 1.0, same: float = 0.0) -> Pairs:
    """Draws a gap, logit (t - r) / t_max ~ N(mean, std^2), and t uniform above it.

    The gap's law is terminal velocity matching's; that of t given the gap is ours.

    Raises:
        ValueError: for a std that is not positive, or a share outside [0, 1].
    """
    host.check_positive("std", std)
    _check_finite(mean)
    _check_share("same", same)

    def draw(keys: Keys, index: Array, size: int, step: Any = None) -> tuple[Array, Array]:
        gap = jax.nn.sigmoid(mean + std * jax.random.normal(_fold(keys, 0).example))
        t = gap + (1 - gap) * jax.random.uniform(_fold(keys, 1).example)
        r = jnp.where(jax.random.bernoulli(_fold(keys, 2).example, same), t, jnp.maximum(t - gap, 0.0))
        return schedule.t_max * t, schedule.t_max * r

    return _marked(draw, same)


def dyadic(schedule: Schedule, steps: int = 128, same: float = 0.875) -> Pairs:
    """Draws t - r = 2^-k of t_max, k uniform on 0 .. log2(steps) - 1, t a multiple of it; t uniform where r = t.

    Source: shortcut models (Frans et al. 2024), whose batch is cut by its order; here each example draws its k, so that
    a small batch has all of them in turn.

    Raises:
        ValueError: for steps that are no power of 2, or a share outside [0, 1].
    """
    progressive.check_power_of_two(steps)
    _check_share("same", same)
    depth = int(math.log2(steps))

    def draw(keys: Keys, index: Array, size: int, step: Any = None) -> tuple[Array, Array]:
        u, v = (jax.random.uniform(_fold(keys, n).example) for n in (0, 1))
        cut = 2.0 ** jnp.floor(u * depth)  # 2^k
        place = jnp.floor(v * cut) + 1
        alone = jax.random.bernoulli(_fold(keys, 2).example, same)
        t, r = jnp.where(alone, v, place / cut), jnp.where(alone, v, (place - 1) / cut)
        return schedule.t_max * t, schedule.t_max * r

    return _marked(draw, same, steps=steps)


def grid(schedule: Schedule, n: int) -> Pairs:
    """Draws neighbours of n even steps: t = k / n of t_max, r = (k - 1) / n, k uniform (Salimans & Ho 2022).

    Raises:
        ValueError: unless n is an integer >= 1.
    """
    host.check_int("n", n)

    def draw(keys: Keys, index: Array, size: int, step: Any = None) -> tuple[Array, Array]:
        k = jnp.minimum(jnp.floor(jax.random.uniform(keys.example) * n), n - 1)
        return schedule.t_max * (k + 1) / n, schedule.t_max * k / n

    return _marked(draw, neighbours=True, n=n)


def consistency(
    schedule: Schedule,
    n: int | None = None,
    total: int | None = None,
    first: int = 10,
    last: int = 1280,
    growth: str = "doubled",
    spacing: str = "karras",
    rho: float = 7.0,
    least: float = 0.002,
    most: float = 80.0,
    drawn: str = "uniform",
    mean: float = -1.1,
    std: float = 2.0,
) -> Pairs:
    """Draws neighbours (t_i, t_{i - 1}) of a consistency grid, 0 = t_0 < t_1 < ... < t_N, N fixed or growing.

    The published grid begins at the noise level `least`, where the map is the identity; here 0 is below it.

    Args:
        n: N of a grid that does not grow.
        total: updates K in which it grows, from `first` to `last`, by `growth`: "doubled" (Song & Dhariwal 2023) or
            "squared" (Song et al. 2023, whose first is 2 and last 150).
        spacing: "karras", of the levels sigma / alpha from least to most; "even", of t up to t_max.
        drawn: of i: "uniform", or "log_normal", by N(mean, std^2) of the logarithm of the level (the same paper).

    Raises:
        ValueError: unless one of n and total is given, or for a word or number that is none.
    """
    _check_grid(n, total, first, last, growth, spacing, drawn)
    for name, value in (("rho", rho), ("least", least), ("std", std)):
        host.check_positive(name, value)
    _check_finite(mean)
    begin, end = (_noise(schedule, t) for t in (0.0, float(schedule.t_max)))
    if not begin < least < min(most, end) or most == np.inf:
        raise ValueError(
            f"Got least = {least} and most = {most}, expected levels with least < most, and least between {begin:g} "
            f"and {end:g}, where {type(schedule).__name__} begins and ends."
        )
    most = min(most, end)
    grown = partial(GROWTHS[growth], total=total or 0, first=first, last=last)  # one of n and total is given
    size_at = (lambda step: jnp.asarray(float(n))) if n else grown

    def time(i: Array, N: Array) -> Array:
        """t_i, i = 0 .. N."""
        if spacing == "even":
            return schedule.t_max * i / N
        level = _level((i - 1) / jnp.maximum(N - 1, 1), rho, least, most)
        return jnp.where(i == 0, 0.0, jnp.clip(calculus.time_of(schedule, -2 * jnp.log(level)), 0.0, schedule.t_max))

    def draw(keys: Keys, index: Array, size: int, step: Any = None) -> tuple[Array, Array]:
        N, u = size_at(step), jax.random.uniform(keys.example)
        if drawn == "uniform":
            i = jnp.minimum(jnp.floor(u * N), N - 1) + 1
        else:  # the place in the grid of a level of the law, cut to the grid
            low, high = (jax.scipy.special.ndtr((jnp.log(level) - mean) / std) for level in (least, most))
            level = jnp.exp(mean + std * jax.scipy.special.ndtri(low + (high - low) * u))
            place = (level ** (1 / rho) - least ** (1 / rho)) / (most ** (1 / rho) - least ** (1 / rho))
            i = jnp.clip(jnp.floor(place * (N - 1)), 0, jnp.maximum(N - 2, 0)) + 2
            i = jnp.minimum(i, N)
        return time(i, N), time(i - 1, N)

    return _marked(draw, counted=n is None, neighbours=True)


def _check_grid(n: int | None, total: int | None, first: int, last: int, growth: str, spacing: str, drawn: str) -> None:
    """Raises the ValueErrors of `consistency` for its numbers of steps and its words."""
    if (n is None) == (total is None):
        raise ValueError(f"Got n = {n} and total = {total}, expected one: a fixed grid, or the updates it grows in.")
    for name, value, words in (
        ("growth", growth, tuple(GROWTHS)),
        ("spacing", spacing, ("karras", "even")),
        ("drawn", drawn, ("uniform", "log_normal")),
    ):
        if value not in words:
            raise ValueError(f"Got {name} = {value!r}; {host.nearest(str(value), words)}.")
    sizes = {"n": (n, 1), "total": (total, 1), "first": (first, 2), "last": (last, 2)}
    for name, (value, low) in sizes.items():
        if value is not None:
            host.check_int(name, value, low)
    if last < first:
        raise ValueError(f"Got first = {first} and last = {last}, expected a grid that grows: first <= last.")
    if drawn == "log_normal" and spacing == "even":
        raise ValueError("Got drawn = 'log_normal' with spacing = 'even', expected spacing = 'karras', levels.")


def _noise(schedule: Schedule, t: float) -> float:
    """Computes sigma / alpha at t, which may be infinite."""
    alpha, sigma = (float(a[0]) for a in host.along(calculus.amplitudes_at, schedule, np.asarray([t])))
    return sigma / alpha if alpha else np.inf


def _level(share: Array, rho: float, least: float, most: float) -> Array:
    return (least ** (1 / rho) + share * (most ** (1 / rho) - least ** (1 / rho))) ** rho


def doubled(step: Array, total: int, first: int = 10, last: int = 1280) -> Array:
    """Computes N after `step` of `total` updates: one more than first, 2 first, ... last (Song & Dhariwal 2023)."""
    whole = math.floor(total / (math.log2(math.floor(last / first)) + 1))
    return jnp.minimum(first * 2.0 ** jnp.floor(step / max(whole, 1)), float(last)) + 1


def squared(step: Array, total: int, first: int = 2, last: int = 150) -> Array:
    """Computes N after `step` of `total` updates, whose square grows evenly: first, .. last + 1 (Song et al. 2023)."""
    return jnp.ceil(jnp.sqrt(step / total * ((last + 1) ** 2 - first**2) + first**2) - 1) + 1


GROWTHS = {"doubled": doubled, "squared": squared}


def _marked(draw: Pairs, same: float = 0.0, counted: bool = False, inside: bool = True, **known: Any) -> Pairs:
    vars(draw).update(same=same, counted=counted, inside=inside, **known)
    return draw


def check(draw: Pairs, schedule: Schedule, count: int = 64) -> None:
    """Looks at some pairs of a law of one's own.

    Raises:
        ValueError: for a pair with r > t, or outside [0, t_max]; for something else than a pair.
    """
    if getattr(draw, "inside", False):
        return
    with jax.ensure_compile_time_eval():  # a method may be made where something is traced
        keys = Keys(jax.random.key(0), jax.random.split(jax.random.key(1), count))  # pyright: ignore[reportArgumentType]
        step = (jnp.zeros((), jnp.int32),) if getattr(draw, "counted", False) else ()

        def one(key: Any, i: Array) -> tuple[Array, Array]:
            found = draw(Keys(keys.step, key), i, count, *step)
            if not isinstance(found, tuple) or len(found) != 2:
                raise ValueError(f"The law of pairs gives {type(found).__name__}, expected two times, (t, r).")
            return found

        t, r = map(np.asarray, jax.vmap(one)(keys.example, jnp.arange(count, dtype=jnp.int32)))
    end = float(schedule.t_max)
    if (bad := np.flatnonzero(~((r >= 0) & (r <= t) & (t <= end * (1 + 1e-6))))).size:
        i = bad[0]
        raise ValueError(
            f"The law of pairs gives (t, r) = ({t[i]:g}, {r[i]:g}), expected 0 <= r <= t <= {end:g}: a map goes from t "
            "down to r (pairs.in_order sorts two draws)."
        )


def _fold(keys: Keys, n: int) -> Keys:
    return Keys(jax.random.fold_in(keys.step, n), jax.random.fold_in(keys.example, n))


def _stride(size: int) -> int:
    """The number next to the golden section of a batch's size that has no factor in common with it."""
    return next(n for n in range(max(round(0.618 * size), 1), size + 2) if math.gcd(n, size) == 1)


def _check_finite(mean: float) -> None:
    if not np.isfinite(mean):
        raise ValueError(f"Got mean = {mean!r}, expected a finite number.")


def _check_share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"Got {name} = {value!r}, expected a number in [0, 1].")
