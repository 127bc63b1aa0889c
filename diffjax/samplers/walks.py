"""Walks of a sampler row by row, and the gradient of a loss of their ends by the rows, from the last one back.

With s_{i+1} = step(s_i, theta_i) and a loss L of the end, the pull on a state is g_n = dL/ds_n, g_i = (ds_{i+1}/ds_i)^T
g_{i+1}, and dL/dtheta_i = (ds_{i+1}/dtheta_i)^T g_{i+1}. Each step is a program of its own, forwards and back, so that
one compile serves every number of evaluations; all states are kept.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from diffjax.samplers import principal
from diffjax.samplers.base import Sampler
from diffjax.types import Array, Denoiser, PyTree


def states(sampler: Sampler, rows: PyTree, model: Denoiser, x: Array) -> list[PyTree]:
    """Walks from starts (n, *shape), and gives the states before each row and after the last.

    Each step is a program of its own: one is compiled for all rows of a sampler and all its walks, and on a CPU the
    convolutions of a network are slow in a loop of XLA's.
    """
    begin = lambda x: sampler.init(x)  # a NamedTuple cannot be traced itself
    found = [jax.vmap(begin, out_axes=axis_of(jax.eval_shape(begin, x[0])))(x)]
    for i in range(len(rows.t)):
        found.append(_on(sampler.step, model, found[-1], row(rows, i)))
    return found


def walked(sampler: Sampler, rows: PyTree, model: Denoiser, x: Array) -> Array:
    """Finds where walks from starts (n, *shape) end."""
    return _ended(sampler.final, model, states(sampler, rows, model, x)[-1])


def pulled(sampler: Sampler, rows: PyTree, model: Denoiser, x: Array, loss: Any) -> tuple[Array, PyTree]:
    """Computes a loss of the ends of walks, and its gradient by their rows, from the last one back."""
    along = states(sampler, rows, model, x)
    end, back = jax.vjp(lambda state: _ended(sampler.final, model, state), along[-1])
    value, slope = jax.value_and_grad(loss)(end)
    (pull,), found = back(slope), []
    for i in reversed(range(len(rows.t))):
        pull, by_row = _back(sampler.step, model, along[i], row(rows, i), pull)
        found.append(by_row)
    return value, jax.tree.map(lambda *parts: jnp.stack(parts), *found[::-1])


def axis_of(state: PyTree) -> Any:
    """Tells which axis of a state counts the walks; the axes of the data are one matrix for all of them."""
    return principal.State(0, 0, None) if isinstance(state, principal.State) else 0  # pyright: ignore


def row(rows: PyTree, i: int) -> PyTree:
    """Gives one row of the rows of a sampler."""
    return jax.tree.map(lambda a: a[i], rows)


@partial(jax.jit, static_argnums=0)
def _on(step: Any, model: Denoiser, state: PyTree, row: PyTree) -> PyTree:
    along = axis_of(state)
    return jax.vmap(lambda state: step(model, jax.random.key(0), state, row), (along,), along)(state)


@partial(jax.jit, static_argnums=0)
def _back(step: Any, model: Denoiser, state: PyTree, row: PyTree, pull: PyTree) -> tuple[PyTree, PyTree]:
    return jax.vjp(lambda state, row: _on(step, model, state, row), state, row)[1](pull)


@partial(jax.jit, static_argnums=0)
def _ended(final: Any, model: Denoiser, state: PyTree) -> Array:
    return jax.vmap(lambda state: final(model, state), (axis_of(state),))(state)
