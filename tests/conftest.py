"""Test settings: no silent broadcasting or promotion anywhere, warnings are errors, the CPU is the device."""

import gc
import os
import signal

import compiled

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("DIFFJAX_SILENCE", "off")  # what is said after some seconds is no part of what tests read
os.environ["XLA_FLAGS"] = compiled.xla_flags(*compiled.flags())  # before the first program: XLA reads them once

import jax
import pytest
import rows
import run_command

from diffjax import host, parallel
from diffjax.methods import evaluation
from diffjax.plots import style

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_cpu_enable_async_dispatch", False)  # small programs end sooner than another thread begins
for name, value in compiled.settings(run_command.cores()).items():
    jax.config.update(name, value)


parallel.keep_memory()
# A suite that was started in the background ignores them, as would the commands that it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
# The collector walks all traces and programs that a worker has made: a second each time, a twentieth of the suite.
gc.set_threshold(100_000, 50, 100)


@pytest.fixture
def x64():
    """float64 throughout the test: what exact comparisons need."""
    with host.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def levels_once():
    """Levels are looked up once for all samplers of a module; `test_planning` and `test_host` have plans without it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(host, "along", rows.remembered(host.along))
        yield


@pytest.fixture(scope="module", autouse=True)
def quick_reports(request):
    """Reports with two passes over the data for the loss by time, not sixteen, and with plain pictures.

    A module that asks for more has WHOLE_REPORTS = True.
    """
    with pytest.MonkeyPatch.context() as patch:
        if not getattr(request.module, "WHOLE_REPORTS", False):
            patch.setattr(evaluation, "REPEATS", 2)
            patch.setattr(style, "LAYOUT", {"layout": "none", "dpi": 40})
        yield


# The longest files, begun first: the two workers then end together. The first three start processes of their own.
LONGEST = ("test_resume", "test_notebooks", "test_commands", "test_clock")
LONGEST += ("test_likelihood_command", "test_snapshots", "test_parallel")


def pytest_collection_modifyitems(items):
    """Keeps the order within a file."""
    rank = {f"{name}.py": place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(LONGEST)))
