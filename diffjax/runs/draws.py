"""One sample per seed: the same whatever the number of seeds, of devices, or the order they are asked in."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

from diffjax import data, parallel
from diffjax.config import ConfigError, nearest
from diffjax.data import Dataset
from diffjax.method import Example, Method
from diffjax.types import PyTree


def asked(method: Method, dataset: Dataset) -> tuple[str, ...]:
    """Names of `given` that the method draws with: what it reads, or all that data brings."""
    return tuple(data.blank(dataset).given) if method.asks is None else method.asks


def given_of(method: Method, dataset: Dataset, seeds: Any, label: Any = None) -> dict[str, np.ndarray]:
    """Makes what the samples of these seeds are given, of what the method asks for.

    A label alone is `label`, or else seed mod classes; anything else is that of held-out example seed mod their number.
    """
    seeds = np.asarray(seeds, np.uint32)
    names = asked(method, dataset)
    if set(names) <= {"label"}:
        label = data.class_of(dataset, label)
        labels = seeds % (dataset.classes or 1) if label is None else np.full(len(seeds), label)
        return {name: labels.astype(np.int32) for name in names}
    found = held_out(dataset, seeds).given
    return {name: found[name] for name in names}


def told(method: Method, dataset: Dataset, seeds: Any, words: dict[str, Any], label: Any) -> dict[str, np.ndarray]:
    """Makes what these samples are given, with what a user says of it in the place of what the seeds stand for.

    Args:
        words: name -> one value for all samples, or one for each (n, ...).

    Raises:
        ConfigError: for a name that the method does not read, a shape that is none of the two, or a label out of range.
    """
    names, first = asked(method, dataset), data.blank(dataset).given
    for name in words:
        if name not in names:
            raise ConfigError(f"Nobody reads {name!r} of what is given: {nearest(name, names)}.")
    given = given_of(method, dataset, seeds, label)
    for name, value in data.numbered(dataset, words).items():
        given[name] = data.fitting(name, value, first[name], len(seeds))
    classes, labels = dataset.classes, given.get("label", np.zeros(0))
    if classes is not None and labels.size and not (labels.min() >= 0 and labels.max() <= classes):
        raise ConfigError(
            f"label is {labels.min()} to {labels.max()}, expected 0 to {classes - 1}, or {classes} for no label."
        )
    return given


def held_out(dataset: Dataset, seeds: Any) -> Example:
    """Gathers the held-out examples that seeds stand for."""
    return dataset.held_out.gather(np.asarray(seeds) % len(dataset.held_out))


def drawer(
    method: Method, shape: tuple[int, ...], chunk: int, mesh: Any = None, trace: Callable | None = None
) -> Callable[[PyTree, Iterable[int], dict], Any]:
    """Makes `draw(params, seeds, given) -> (n, *shape)` on the host, compiled once.

    Args:
        trace: as `Method.plan` takes it; then what is drawn may be (samples, trajectory).
    """
    one = lambda shared, own: method.draw(*shared, *own)
    chunked = parallel.map_chunks(jax.vmap(one, in_axes=(None, 0)), chunk, mesh)
    request = method.plan(shape, trace)

    def draw(params: PyTree, seeds: Iterable[int], given: dict) -> Any:
        keys = jax.vmap(jax.random.key)(np.asarray(list(seeds), np.uint32))
        return chunked((params, request), (keys, given))

    return draw
