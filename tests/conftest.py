"""Test settings: no silent broadcasting or promotion anywhere, warnings are errors, the CPU is the device."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest

from diffjax import host

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")


@pytest.fixture
def x64():
    """float64 throughout the test: what exact comparisons need."""
    with host.enable_x64(True):
        yield
