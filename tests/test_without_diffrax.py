"""Without the extra `ode`: all but the solver of the probability flow works, and what needs it says so in one line."""

import json
import re
import sys

import pytest
from test_runs import SMALL

from diffjax import likelihood
from diffjax import main as command_line
from diffjax.processes import Gaussian
from diffjax.samplers import ode
from diffjax.schedules import VP

MISSING = r"needs diffrax, which is not installed: pip install 'diffjax\[ode\]'; .*'lineax<0\.1\.1'\.$"
BROUGHT = ["diffrax", "equinox", "jaxtyping", "lineax", "optimistix"]  # by the extra alone


@pytest.fixture
def no_diffrax(monkeypatch):
    """A None in sys.modules is an import that fails; tests/test_import.py sees that no module needs one of them."""
    for name in BROUGHT:
        monkeypatch.setitem(sys.modules, name, None)


def test_the_default_config_trains_and_reports_and_its_likelihood_is_refused_in_one_line(no_diffrax, tmp_path, capsys):
    small = [f"--config.{text}" for text in SMALL]
    assert command_line.main(["--config=configs/vpsde.py:tiny", f"--workdir={tmp_path}", *small]) == 0
    assert (tmp_path / "report.md").exists()
    assert json.loads((tmp_path / "eval.json").read_text())["step"] == 20
    capsys.readouterr()
    assert command_line.main(["--mode=likelihood", f"--workdir={tmp_path}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(MISSING, line)


def test_a_command_refuses_before_it_looks_for_data(no_diffrax, tmp_path, capsys):
    data = ["--config.data.name=npz", f"--config.data.path={tmp_path}/nothing.npz"]
    sampler = ["--config.sampler.name=ode.probability_flow", "--config.grid.zero=False"]
    assert command_line.main(["--config=configs/vpsde.py:tiny", *data, *sampler, f"--workdir={tmp_path}/run"]) == 2
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
