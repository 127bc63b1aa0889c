"""What the tests of estimate and correct share: a process of numbers and one of tokens, their exact models."""

import functools

import jax
import numpy as np
import pytest
from enumerated import unified_law
from token_process import Exact, Replacing

from diffjax import analytic, processes
from diffjax.samplers import unified
from diffjax.schedules import Rectified

exact = pytest.mark.usefixtures("x64")
KEY = jax.random.key(0)
of_mean = functools.partial(unified, estimate="mean")


def gaussian(schedule):
    return processes.Gaussian(schedule)


def mixture(schedule):
    """The exact denoiser of two points with some width."""
    return analytic.gaussian_mixture([0.3, 0.7], [[-0.6, 0.2], [0.5, -0.4]], [0.04, 0.02]).denoiser(schedule)


def tokens(law=(0.5, 0.2, 0.3)):
    p = unified_law(2, 2, 1, 1, 7)
    process = Replacing(Rectified(), np.asarray(law), 2)
    return p, process, Exact(p, process)


batched = jax.jit(lambda sample, model, keys, x: jax.vmap(sample, (None, 0, 0))(model, keys, x))
