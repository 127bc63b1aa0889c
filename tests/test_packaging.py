"""The package list, the configs inside the wheel, and the README's commands."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from diffjax import config

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
    assert brought == set(extras) - {"test", "cuda", "tpu", "wandb"}  # an accelerator; wandb is a fake in the tests


def test_ci_runs_the_readmes_test_command():
    readme = (ROOT / "README.md").read_text()
    block = re.search(r"<!-- test command -->\n```bash\n(.+?)\n```", readme)
    assert block
    assert "pytest" in block[1]
    assert "README.md" in (ROOT / ".ci" / "run").read_text()


def test_no_document_names_a_missing_file():
    for document in ("README.md", "CONTRIBUTING.md"):
        for link in re.findall(r"\]\(([^)#]+)\)", (ROOT / document).read_text()):
            assert link.startswith("http") or (ROOT / link).exists(), f"{document}: {link}"
