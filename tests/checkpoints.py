"""Checkpoints of a state with a leaf of every dtype: how the tests make, save, restore and compare them."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from diffjax.checkpoint import Checkpoints

CONFIG = {"model": {"width": 32, "dims": (1, 2)}, "rate": 0.1, "name": "digits", "none": None}


class State(NamedTuple):
    """Shaped as a training state is, with a leaf of every dtype in its parameters."""

    step: Any
    params: Any
    ema: Any
    opt_state: Any
    key: Any


def make(k, size=64):
    """The state of step k: a function of k alone, by NumPy."""
    rng = np.random.default_rng(k)
    draw = lambda dtype, *shape: rng.standard_normal(shape).astype(dtype)
    weights = lambda: {"kernel": draw(np.float32, 8, size), "bias": draw(jnp.bfloat16, 8)}
    params = {
        "dense": weights(),
        "half": draw(np.float16, 3),
        "mask": rng.standard_normal(5) > 0,
        "bytes": rng.integers(-128, 128, 6).astype(np.int8),
        "words": rng.integers(0, 2**32, 3).astype(np.uint32),
        "scalar": np.float32(k / 3),
    }
    adam = optax.ScaleByAdamState(np.int32(k), weights(), weights())
    key = jax.random.wrap_key_data(np.array([k, 7], np.uint32))
    state = jax.tree.map(jnp.asarray, State(np.int32(k), params, (weights(), weights()), (optax.EmptyState(), adam), 0))
    return state._replace(key=key)


ABSTRACT = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), make(0))


def bits(x):
    is_key = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(x) if is_key else x).tobytes()


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b)):
        name = jax.tree_util.keystr(path)
        assert (name, x.shape, x.dtype) == (name, y.shape, y.dtype)
        assert bits(x) == bits(y), name


def save(directory, steps, **options):
    with Checkpoints(directory, **{"keep": 9, **options}) as checkpoints:
        for k in steps:
            assert checkpoints.save(k, make(k), metrics={"loss": 1.0 / k}, config=CONFIG)


def restore(directory, target=ABSTRACT, step=None):
    """(result of restore, lines reported)"""
    lines = []
    with Checkpoints(directory, create=False, report=lines.append) as checkpoints:
        return checkpoints.restore(target, step), lines
