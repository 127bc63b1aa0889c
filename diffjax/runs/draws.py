"""One sample per seed: the same whatever the number of seeds, of devices, or the order they are asked in."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

from diffjax import data, parallel
from diffjax.data import Dataset
from diffjax.method import Method
from diffjax.types import PyTree


def given_of(method: Method, dataset: Dataset, seeds: Any, label: int | None = None) -> dict[str, np.ndarray]:
    """What the samples of these seeds are given, of what the method asks for.

    A label alone is `label`, or else seed mod classes; anything else is that of held-out example seed mod their number.
    """
    seeds = np.asarray(seeds, np.uint32)
    names = asked(method, dataset)
    if set(names) <= {"label"}:
        labels = seeds % (dataset.classes or 1) if label is None else np.full(len(seeds), label)
        return {name: labels.astype(np.int32) for name in names}
    found = held_out(dataset, seeds)
    return {name: found[name] for name in names}


def asked(method: Method, dataset: Dataset) -> tuple[str, ...]:
    """The names in `given` that the method draws with, of those that data has."""
    brought = data.blank(dataset).given
    return tuple(name for name in (brought if method.asks is None else method.asks) if name in brought)


def held_out(dataset: Dataset, seeds: Any) -> dict[str, np.ndarray]:
    """The held-out examples that seeds stand for."""
    return dataset.held_out.gather(np.asarray(seeds) % len(dataset.held_out))


def drawer(
    method: Method, shape: tuple[int, ...], chunk: int, mesh: Any = None, trace: Callable | None = None
) -> Callable[[PyTree, Iterable[int], dict], Any]:
    """`draw(params, seeds, given) -> (n, *shape)` on the host, compiled once; with `trace`, (samples, trajectory)."""
    one = lambda shared, own: method.draw(*shared, *own)
    chunked = parallel.map_chunks(jax.vmap(one, in_axes=(None, 0)), chunk, mesh)
    request = method.plan(shape, trace)

    def draw(params: PyTree, seeds: Iterable[int], given: dict) -> Any:
        keys = jax.vmap(jax.random.key)(np.asarray(list(seeds), np.uint32))
        return chunked((params, request), (keys, given))

    return draw
