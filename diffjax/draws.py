"""One sample per seed: the same whatever the number of seeds, of devices, or the order they are asked in."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

from diffjax import activity, parallel
from diffjax.method import Method
from diffjax.types import PyTree


def visible(state: Any) -> Any:
    """Looks at the x of a sampler's state: what is kept of a walk."""
    return getattr(state, "x", state)


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
        with activity.doing(f"drawing {len(keys)} samples"):
            return chunked((params, request), (keys, given))

    return draw
