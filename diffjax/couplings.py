"""Which noise z goes with which data x_0. The one place in training that is about a batch, by nature."""

from collections.abc import Callable

import jax

from diffjax.types import Array, Key, Process

Coupling = Callable[[Key, Array], tuple[Array, Array]]  # (keys (B,), x_0 (B, ...)) -> (x_0, z), both (B, ...)


def independent(process: Process) -> Coupling:
    """z drawn from the process's noise law, independently of x_0 and of the other examples."""

    def couple(keys: Key, x0: Array) -> tuple[Array, Array]:
        return x0, jax.vmap(process.noise)(keys, x0)

    return couple
