"""One sample per seed: the same whatever the number of seeds, of devices, or the order they are asked in."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

from diffjax import activity, host, parallel
from diffjax.method import Method
from diffjax.types import PyTree


def visible(state: Any) -> Any:
    """Looks at the x of a sampler's state: what is kept of a walk."""
    return getattr(state, "x", state)


def check_words(words: Iterable[str], names: Iterable[str], parts: Any) -> None:
    """Checks the words of a draw.

    Args:
        names: of what samples are given.
        parts: of the method: `drawn_by` lists what a draw may change, `meant` says what other words stand for.

    Raises:
        ValueError: for a word that is neither, naming the nearest, or the word that was meant.
    """
    fields = getattr(parts, "drawn_by", ())
    for name in words:
        if name not in (*names, *fields):
            own = getattr(parts, "meant", {}).get(name)
            meant = host.nearest(name, [*names, *fields]) if own is None else f"give {own}"
            raise ValueError(f"draw knows no {name!r}: {meant}.")


def drawer(
    method: Method,
    shape: tuple[int, ...],
    chunk: int,
    mesh: Any = None,
    trace: Callable | None = None,
    strict: bool = False,
) -> Callable[[PyTree, Iterable[int], dict], Any]:
    """Makes `draw(params, seeds, given) -> (n, *shape)` on the host, compiled once.

    Args:
        trace: as `Method.plan` takes it; then what is drawn may be (samples, trajectory).
        strict: samples have the same bytes on any number of devices, slower (`parallel.map_chunks`).

    `draw` raises a ValueError, before anything is traced, for parameters other than those that the method's sampler is
    fitted to (`Sampler.fitted_to`).
    """
    one = lambda shared, own: method.draw(*shared, *own)
    chunked = parallel.map_chunks(jax.vmap(one, in_axes=(None, 0)), chunk, mesh, strict)
    request = method.plan(shape, trace)
    check = getattr(method.parts, "check_model", None)

    def draw(params: PyTree, seeds: Iterable[int], given: dict) -> Any:
        if check is not None:
            check(params, request, jax.tree.map(lambda of_each: of_each[0], given))
        keys = jax.vmap(jax.random.key)(np.asarray(list(seeds), np.uint32))
        with activity.doing(f"drawing {len(keys)} samples"):
            return chunked((params, request), (keys, given))

    return draw
