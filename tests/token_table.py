"""Processes of tokens under test, and means of their losses over all x_t: what the tests of tokens share."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from enumerated import known, unified_law

from diffjax.processes import categorical as processes
from diffjax.schedules import Rectified

A, B = unified_law(3, 3, 1, 0, 7), unified_law(3, 2, 1, 0, 7)
PROCESSES = {
    "masked": lambda V: processes.masked(Rectified(), V),
    "uniform": lambda V: processes.uniform(Rectified(), V),
    "mixed": lambda V: processes.mixed(Rectified(), V),
    "gidd": lambda V: processes.gidd(Rectified(), V),
    "levels": lambda V: processes.levels(Rectified(), V),
    "gaussian": lambda V: processes.gaussian(Rectified(), V, steps=8, beta_min=0.1, beta_max=0.8),
}
SLOW = {"mixed", "gaussian", "levels"}
RATED = [name for name in PROCESSES if name != "gaussian"]  # a chain of whole steps has no rates


def each(names, slow=SLOW):
    """The names as parameters; what another name shows too is for the long suite."""
    return [pytest.param(name, marks=[pytest.mark.slow] if name in slow else []) for name in names]


@functools.cache
def kernel(name, V):
    """The program t -> (V, K), the law of x_t for each x_0."""
    process = PROCESSES[name](V)
    return jax.jit(lambda t: process.spread(jnp.eye(V), t))


def states(process, length):
    return np.array(list(itertools.product(range(process.states), repeat=length)), np.int32)


def sequences(p):
    return states(processes.uniform(Rectified(), p.shape[0]), p.ndim)


def at(x):
    """A noise of replacement that puts x in the place of every x_0."""
    return processes.Replaced(jnp.full(x.shape, -1.0), x)


class Arriving:
    """A process whose corruption arrives at the noise itself, so that a loss can be asked at every x_t."""

    def __init__(self, process):
        self.process = process

    def __getattr__(self, name):
        return getattr(self.process, name)

    def corrupt(self, x0, z, t):
        return z


def means(name, p, loss, target, table, ts, **options):
    """The mean over x_t of a loss of every x_0 at each time, (times, sequences); the network is a table of log laws.

    Args:
        table: (times, states, L, width), what the network says at the times and states.
    """
    process, V = PROCESSES[name](p.shape[0]), p.shape[0]
    xs, x0s = states(process, p.ndim), sequences(p)

    @jax.jit
    def one_time(t, rows):
        net = lambda x, c, row: row
        value = lambda x0, x, row: loss(lambda x, c: net(x, c, row), Arriving(process), target, x0, x, t, **options)
        values = jax.vmap(jax.vmap(value, (None, 0, 0)), (0, None, None))(x0s, xs, rows)
        chance = jnp.prod(process.spread(jnp.eye(V), t)[x0s[:, None], xs[None]], -1)
        return jnp.sum(jnp.where(chance > 0, chance * values, 0.0), 1)

    return np.stack([one_time(t, jnp.asarray(rows)) for t, rows in zip(ts, table)])


def table(name, p, ts, without):
    V = p.shape[0]
    laws = [known(p, np.asarray(kernel(name, V)(t)), without).reshape(-1, p.ndim, V) for t in ts]
    with np.errstate(divide="ignore"):
        return np.log(np.stack(laws))


STEP = 0.125
NODES = np.pi * np.sinh(STEP * np.arange(-26, 27))  # tanh-sinh: t from 1e-18 on, and as near to 1
TIMES = 1 / (1 + np.exp(-NODES))
WEIGHTS = STEP * np.pi * np.cosh(STEP * np.arange(-26, 27)) * TIMES * (1 / (1 + np.exp(NODES)))
