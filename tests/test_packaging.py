"""The package list, the configs inside the wheel, and the README's commands."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from diffjax import config, methods

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_package_is_listed():
    found = {".".join(p.parent.relative_to(ROOT).parts) for p in (ROOT / "diffjax").rglob("*.py")}
    assert found | {"diffjax.configs"} == set(PROJECT["tool"]["setuptools"]["packages"])


def test_data_files_are_listed():
    files = {
        p.relative_to(ROOT) for p in (ROOT / "diffjax").rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc")
    }
    listed = PROJECT["tool"]["setuptools"]["package-data"]
    matched = {
        f
        for package, globs in listed.items()
        for g in globs
        for f in (p.relative_to(ROOT) for p in (ROOT / package.replace(".", "/")).glob(g))
    }
    assert files == matched


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.py")), ids=lambda p: p.stem)
def test_every_config_loads_and_says_its_command(path):
    text = path.read_text()
    commands = re.findall(r"--config=(configs/\S+)", text)
    names = [config.load(command).name for command in commands]  # a run to start from may be another's
    assert any(name.startswith(path.stem) for name in names), "the docstring gives the command"


def test_the_oldest_set_is_the_floors():
    """What constraints/oldest.txt installs are the lowest versions that pyproject.toml allows of jax and its kin."""
    lines = (ROOT / "constraints" / "oldest.txt").read_text().splitlines()
    pins = dict(re.findall(r"([\w-]+)==([\d.]+)", "\n".join(lines)))
    asked = {r.name: r.specifier for r in map(Requirement, PROJECT["project"]["dependencies"])}
    for name in ("jax", "flax", "optax", "orbax-checkpoint"):
        assert f">={pins[name]}" in str(asked[name]).split(",")


def test_the_tests_bring_every_extra_that_is_tested():
    extras = PROJECT["project"]["optional-dependencies"]
    brought = set().union(*(r.extras for r in map(Requirement, extras["test"]) if r.name == PROJECT["project"]["name"]))
    # Accelerators; wandb is a fake in the tests, and PyTorch a peer of benchmarks alone.
    assert brought == set(extras) - {"test", "cuda", "tpu", "tpu-aot", "wandb", "benchmarks"}


def test_ci_runs_the_readmes_test_command():
    readme = (ROOT / "README.md").read_text()
    block = re.search(r"<!-- test command -->\n```bash\n(.+?)\n```", readme)
    assert block
    assert "pytest" in block[1]
    assert "README.md" in (ROOT / ".ci" / "run").read_text()


def test_every_file_of_the_table_of_methods_is_there():
    """Files in diffjax/, configs and studies from the root, tests in tests/."""
    rows = re.findall(r"^\| (.+) \| (.+) \| (.+) \| (.+) \|$", (ROOT / "docs" / "methods.md").read_text(), re.MULTILINE)
    assert len(rows) > 50
    ticked = lambda cell: re.findall(r"`([^`]+)`", cell)
    for _, files, calls, tests in (row for row in rows if row[1] != "file"):  # each table has a head
        named = [ROOT / "diffjax" / name for name in ticked(files)] + [ROOT / "tests" / name for name in ticked(tests)]
        named += [
            ROOT / name.partition(":")[0] for name in ticked(calls) if name.startswith(("configs/", "experiments/"))
        ]
        assert not [str(path.relative_to(ROOT)) for path in named if not path.exists()]
        assert ticked(files)
        assert ticked(tests)


def test_every_method_of_a_file_of_its_own_and_every_config_has_a_row():
    table = (ROOT / "docs" / "methods.md").read_text()
    homes = ("samplers", "processes", "likelihood", "theory")
    shared = {"__init__", "base", "table", "quadrature", "precision", "gaussian"}  # what others are made of
    files = [path for home in homes for path in (ROOT / "diffjax" / home).glob("*.py") if path.stem not in shared]
    families = [ROOT / "diffjax" / "methods" / f"{name.partition('.')[0]}.py" for name in methods.__all__]
    named = {str(path.relative_to(ROOT / "diffjax")) for path in [*files, *families]} - {"methods/denoising.py"}
    named |= {str(path.relative_to(ROOT)) for path in (ROOT / "configs").glob("*.py")}
    assert not {name for name in named if f"`{name}" not in table}


def test_the_worked_diff_is_what_is_there():
    """Every added line of docs/adding.md stands in its file, and what it shows of the tests in one of them."""
    text = (ROOT / "docs" / "adding.md").read_text()
    (diff,) = re.findall(r"```diff\n(.*?)```", text, re.DOTALL)
    files = re.findall(r"^\+\+\+ b/(\S+)\n((?:\+(?!\+\+).*\n)+)", diff, re.MULTILINE)
    assert sum(len(lines.splitlines()) + 1 for _, lines in files) == len(diff.splitlines())
    for name, lines in files:
        there = (ROOT / name).read_text().splitlines()
        assert not [line for line in lines.splitlines() if line[1:] not in there]
    tests = [path.read_text() for path in (ROOT / "tests").rglob("*.py")]
    shown = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(shown) == 3
    assert all(any(block in test for test in tests) for block in shown)
