"""Test settings: no silent broadcasting or promotion anywhere, warnings are errors, the CPU is the device."""

import gc
import os

import compiled

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = compiled.xla_flags(*compiled.flags())  # before the first program: XLA reads them once

import jax
import pytest
import run_command

from diffjax import host

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_cpu_enable_async_dispatch", False)  # small programs end sooner than another thread begins
for name, value in compiled.settings(run_command.cores()).items():
    jax.config.update(name, value)


# The collector walks all traces and programs that a worker has made: a second each time, a twentieth of the suite.
gc.set_threshold(100_000, 50, 100)


@pytest.fixture
def x64():
    """float64 throughout the test: what exact comparisons need."""
    with host.enable_x64(True):
        yield


# The longest files, begun first: the two workers then end together. The first two start processes of their own.
LONGEST = ("test_resume", "test_commands", "test_clock", "test_likelihood_command", "test_snapshots", "test_parallel")


def pytest_collection_modifyitems(items):
    """Keeps the order within a file."""
    rank = {f"{name}.py": place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(LONGEST)))
