"""Without the extra `ode`: all but the solver of the probability flow works, and what needs it says so in one line."""

import json
import re
import subprocess
import sys

import pytest
import run_command

from diffjax import likelihood
from diffjax import main as command_line
from diffjax.processes import Gaussian
from diffjax.samplers import ode
from diffjax.schedules import VP

MISSING = r"needs diffrax, which is not installed: pip install 'diffjax\[ode\]'; .*'lineax<0\.1\.1'\.$"
BROUGHT = ["diffrax", "equinox", "jaxtyping", "lineax", "optimistix"]  # by the extra alone
SMALL = ["data.name=moons", "data.n=300", "data.held_out=32", "model.name=MLP", "model.width=16", "model.depth=1"]
SHORT = ["train.steps=10", "train.sample_every=10", "checkpoint.every=10", "grid.n=8", "eval.samples=64"]

# A None in sys.modules is an import that fails; tests/test_import.py sees that no module needs one of them.
BLOCKED = """
import sys
sys.modules.update(dict.fromkeys({brought!r}))
from diffjax import main
sys.exit(max(main.main(args) for args in {commands!r}))
"""


@pytest.fixture
def no_diffrax(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffrax", None)


def test_the_default_config_trains_and_reports_and_its_likelihood_is_refused_in_one_line(tmp_path):
    """In a process of its own that finds none of what the extra brings."""
    small = [f"--config.{text}" for text in (*SMALL, *SHORT)]
    train = ["--config=configs/vpsde.py:tiny", f"--workdir={tmp_path}", *small]
    code = BLOCKED.format(brought=BROUGHT, commands=[train, ["--mode=likelihood", f"--workdir={tmp_path}"]])
    options = {"capture_output": True, "text": True, "timeout": 600}
    done = subprocess.run([sys.executable, "-c", code], cwd=run_command.ROOT, env=run_command.environment(), **options)
    assert done.returncode == 2, done.stderr  # the training's is 0
    (line,) = done.stderr.splitlines()
    assert re.search(MISSING, line)
    assert (tmp_path / "report.md").exists()
    assert json.loads((tmp_path / "eval.json").read_text())["step"] == 10


@pytest.mark.parametrize(
    "args",
    [
        ["--mode=likelihood", "--workdir={folder}/nowhere"],
        [
            "--config=configs/vpsde.py:tiny",
            "--config.data.name=npz",
            "--config.data.path={folder}/nothing.npz",
            "--config.sampler.name=ode.probability_flow",
            "--config.grid.zero=False",
            "--workdir={folder}/run",
        ],
    ],
    ids=["likelihood", "sampler"],
)
def test_a_command_refuses_before_it_looks_for_a_run_or_data(no_diffrax, tmp_path, args, capsys):
    assert command_line.main([arg.format(folder=tmp_path) for arg in args]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(MISSING, line), line
    assert list(tmp_path.iterdir()) == []


def test_a_sampler_and_a_density_refuse_where_they_are_made(no_diffrax):
    with pytest.raises(ValueError, match=MISSING):
        ode.probability_flow(VP())
    with pytest.raises(ValueError, match=MISSING):
        likelihood.ode([1.0, 0.1], Gaussian(VP()))


def test_a_mistake_in_the_solvers_name_is_said_first(no_diffrax):
    with pytest.raises(ValueError, match="no adaptive ODE solver 'Tsit6'"):
        ode.probability_flow(VP(), "Tsit6")
