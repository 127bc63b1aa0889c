"""Without the extra `ode`: everything but the probability flow's solver works, and its absence is one line."""

import subprocess
import sys

import pytest
import run_command

from diffjax import config, likelihood, main, samplers
from diffjax.commands import evaluate
from diffjax.processes import Gaussian
from diffjax.schedules import VP

MISSING = r"needs diffrax, which is not installed: pip install 'diffjax\[ode\]'; .*'lineax<0\.1\.1'\.$"
BROUGHT = ["diffrax", "equinox", "jaxtyping", "lineax", "optimistix"]  # by the extra, and by nothing else
SMALL = ["train.steps=10", "train.sample_every=10", "checkpoint.every=10", "model.width=16", "model.depth=1"]

# As if none of these were installed: a None in sys.modules is an import that fails.
BLOCKED = """
import importlib, pkgutil, sys
sys.modules.update(dict.fromkeys({brought!r}))
import diffjax
for module in pkgutil.walk_packages(diffjax.__path__, "diffjax."):
    if ".configs" not in module.name:
        importlib.import_module(module.name)
from diffjax import main
sys.exit(main.main({args!r}))
"""


@pytest.fixture
def no_diffrax(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffrax", None)


def blocked(*args):
    """The finished command, in a process of its own that imports every module first."""
    code = BLOCKED.format(brought=BROUGHT, args=list(args))
    command = [sys.executable, "-c", code]
    options = {"capture_output": True, "text": True, "timeout": 600}
    return subprocess.run(command, cwd=run_command.ROOT, env=run_command.environment(), **options)


def test_the_default_config_trains_samples_and_reports_and_the_likelihood_is_refused_in_one_line(tmp_path):
    """The run leaves its report; the same run's likelihood is then the one line."""
    small = [f"--config.{text}" for text in ("data.name=moons", "data.n=300", "model.name=MLP", *SMALL, "grid.n=8")]
    done = blocked("--config=configs/vpsde.py:tiny", f"--workdir={tmp_path / 'run'}", *small)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "report.md").exists()
    refused = blocked("--mode=likelihood", f"--workdir={tmp_path / 'run'}")
    assert refused.returncode == 2
    assert len(refused.stderr.splitlines()) == 1
