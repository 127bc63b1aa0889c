"""What the pages say is so: the tutorial runs, the diffs of extending.md apply and pass, names and figures exist."""

import importlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import diffjax
from diffjax import main

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


@pytest.fixture(autouse=True, scope="module")
def as_users_run_it():
    """optax's own Adam multiplies integer counts by floats, which the tests' strict promotion refuses."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="module")
def tutorial():
    """What the blocks of docs/tutorial.md leave behind, run one after the other in one namespace."""
    names = {"__name__": "tutorial"}
    for block in re.findall(r"```python\n(.*?)```", (DOCS / "tutorial.md").read_text(), re.DOTALL):
        exec(compile(block, "docs/tutorial.md", "exec"), names)
    return names


def test_the_tutorials_walks_err_as_their_order_says(tutorial):
    """DDIM is of order one: its error halves from 10 steps to 20 and to 40, up to a tenth; iPNDM's falls faster."""
    errors = tutorial["errors"]
    for n in (10, 20):
        assert errors["DDIM", 2 * n] / errors["DDIM", n] == pytest.approx(0.5, abs=0.05)
        assert errors["iPNDM", 2 * n] / errors["iPNDM", n] < 0.3
    assert errors["iPNDM", 10] < errors["DDIM", 10] / 4


def test_the_tutorials_score_is_that_of_the_mixture(tutorial):
    """By the density of the eight Gaussians in float64, its gradient by a difference quotient."""
    alpha, sigma = float(tutorial["alpha"]), float(tutorial["sigma"])
    means = alpha * np.stack([np.cos(np.pi / 4 * np.arange(8)), np.sin(np.pi / 4 * np.arange(8))], 1)
    log_density = lambda x: np.log(np.exp(-((x - means) ** 2).sum(1) / (2 * (0.02 * alpha**2 + sigma**2))).sum())
    x, h = np.array([0.4, 0.1]), 1e-5
    score = [(log_density(x + h * e) - log_density(x - h * e)) / (2 * h) for e in np.eye(2)]
    assert np.allclose(tutorial["by_mean"], score, atol=1e-4)


def test_the_tutorials_samples_are_moons(tutorial):
    """Every sample lies within five standard deviations of noise, and what 1500 steps leave, of one of the two arcs."""
    angles = np.linspace(0, np.pi, 500)
    arc = np.stack([np.cos(angles) - 0.5, np.sin(angles) - 0.25], 1)
    arcs = np.concatenate([arc, -arc])
    gaps = np.linalg.norm(tutorial["samples"][:, None] - arcs, axis=-1).min(1)
    assert np.quantile(gaps, 0.9) < 5 * 0.05
    assert tutorial["distance"] < 1.5 * tutorial["floor"]


def test_the_tutorial_says_what_it_prints(tutorial):
    text = (DOCS / "tutorial.md").read_text()
    assert f"alpha {tutorial['alpha']:.3f}, sigma {tutorial['sigma']:.3f}" in text
    said = re.findall(r"training data ([\d.]+), a Gaussian ([\d.]+)", text)[-1]  # of data alone, to the digit
    assert said == (f"{tutorial['floor']:.3f}", f"{tutorial['baseline']:.3f}")


# The dictionary


def found(dotted):
    """The object diffjax.dotted, packages imported on the way."""
    at = diffjax
    for part in dotted.split("."):
        at = getattr(at, part) if hasattr(at, part) else importlib.import_module(f"{at.__name__}.{part}")
    return at


def names_of_ours():
    """What stands between backticks in the second column, flags apart."""
    rows = re.findall(r"^\| (.+?) \| (.+?) \|", (DOCS / "dictionary.md").read_text(), re.MULTILINE)
    return sorted({name for row in rows for name in re.findall(r"`([^`]+)`", row[1]) if not name.startswith("--")})


def test_the_dictionary_is_one():
    assert len(names_of_ours()) > 70


@pytest.mark.parametrize("name", names_of_ours())
def test_a_name_of_the_dictionary_exists(name):
    assert found(name) is not None


def test_flags_of_the_dictionary_exist():
    flags = set(re.findall(r"`--(\w+)[=`]", (DOCS / "dictionary.md").read_text())) - {"config"}
    known = {flag.lstrip("-") for action in main.parser()._actions for flag in action.option_strings}
    assert flags
    assert not flags - known


# How to choose: its figures are those of the study


def test_the_figures_of_the_choice_are_those_of_the_study():
    study = (ROOT / "experiments" / "nfe" / "README.md").read_text()
    rows = re.findall(r"^\| digits, (V|Eps)-network \| (\d+) \| [^|]+ \| ([\d.]+) \| ([\d.]+)", study, re.MULTILINE)
    assert len(rows) == 12
    for name in ("choose.md", "zh/choose.md"):
        text = (DOCS / name).read_text()
        for kind in ("v", "eps"):
            (line,) = re.findall(rf"^\| {kind}[- ](?:network|网络) \| (.+) \|$", text, re.MULTILINE)
            best = [float(best) for k, _, best, _ in rows if k.lower() == kind]
            assert [float(cell) for cell in line.split(" | ")] == pytest.approx(best, abs=0.00051)
        ours = {int(n): float(error) for k, n, _, error in rows if k == "V"}
        assert f"{ours[5]:.3f}" in text
        assert f"{ours[10]:.3f}" in text


# Hardware: what its table says of itself


def test_the_states_of_the_table_are_those_of_their_parameters():
    """Parameters, two moments of Adam and one average, or two, in float32."""
    rows = re.findall(
        r"\| ([\d,]+) \| (\d+) \| [\d.]+ \| ([\d.]+) MiB \| ([\d.]+) MiB \|", (DOCS / "hardware.md").read_text()
    )
    assert len(rows) > 6
    for parameters, _, state, _ in rows:
        copies = float(state) * 2**20 / (4 * int(parameters.replace(",", "")))
        assert min(abs(copies - 4), abs(copies - 5)) < 0.1, parameters


def test_batches_fit_the_memory_that_they_are_said_to():
    """Nine tenths of a device's memory hold the state and 181 MiB an image, and less than 1.6 times as many images."""
    rows = re.findall(r"^\| (\d+) GiB[^|]*\| batch (\d+)", (DOCS / "hardware.md").read_text(), re.MULTILINE)
    assert len(rows) == 4
    for memory, batch in rows:
        room = (0.9 * 1024 * int(memory) - 1015.6) / 181
        assert int(batch) <= room < 1.6 * int(batch)


# Extending: the diffs


def hunks(diff):
    """(file, what was there, what is there now) of each hunk; what was there is None for a new file."""
    for old, name, body in re.findall(
        r"^--- (\S+)\n\+\+\+ b/(\S+)\n((?:[ +@-].*\n|\n)+?)(?=^--- |\Z)", diff, re.MULTILINE
    ):
        for hunk in re.split(r"^@@.*\n", body, flags=re.MULTILINE)[1:]:
            yield name, None if old == "/dev/null" else side(hunk, "-"), side(hunk, "+")


def side(hunk, mark):
    """The lines of a hunk before it ("-") or after it ("+")."""
    return "".join(f"{line[1:]}\n" for line in hunk.splitlines() if line[:1] in ("", " ", mark))


def applied(folder):
    """Applies every diff of docs/extending.md to the tree in a folder; gives the names of the files that it changed."""
    changed = []
    for diff in re.findall(r"^```diff\n(.*?)^```", (DOCS / "extending.md").read_text(), re.DOTALL | re.MULTILINE):
        for name, was, now in hunks(diff):
            path = folder / name
            if was is None:
                assert not path.exists(), f"{name} is there already"
                path.write_text(now)
            else:
                text = f"\n{path.read_text()}"
                assert text.count(f"\n{was}") == 1, f"{name} has these lines {text.count(was)} times:\n{was}"
                path.write_text(text.replace(f"\n{was}", f"\n{now}", 1)[1:])
            changed.append(name)
    return changed


@pytest.fixture(scope="module")
def extended(tmp_path_factory):
    """A copy of the tree with all five additions of docs/extending.md."""
    folder = tmp_path_factory.mktemp("extended") / "tree"
    inside = shutil.ignore_patterns("__pycache__")
    for name in ("diffjax", "configs", "constraints", "docs", "experiments", "tests", ".ci"):
        shutil.copytree(ROOT / name, folder / name, ignore=inside)
    for path in (*ROOT.glob("*.md"), ROOT / "pyproject.toml"):
        shutil.copy(path, folder)
    changed = applied(folder)
    assert len(set(changed)) > 15
    return folder


def pytest_in(folder, *words):
    """Runs pytest in a copy of the tree, on its own library."""
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    command = [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow  # a suite of its own; that the diffs apply, and are formatted, is held below
def test_the_additions_pass_their_tests(extended):
    """Those of the denoiser, the process and the method whole; the rows that schedule and sampler add to tables."""
    files = ("mirrored", "offset", "diagonal", "schedules", "packaging", "layers", "rows", "samplers_input")
    chosen = "shifted or two_stage or mirrored or offset or diagonal or packaging or layers or expected"
    done = pytest_in(extended, *(f"tests/test_{name}.py" for name in files), "-k", chosen)
    assert done.returncode == 0, done.stdout[-3000:]
    assert int(re.findall(r"(\d+) passed", done.stdout)[0]) > 100


def test_the_additions_are_formatted(extended):
    for words in (["check", "--no-cache"], ["format", "--no-cache", "--check"]):
        command = [sys.executable, "-m", "ruff", *words]
        done = subprocess.run(command, cwd=extended, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-2000:]


@pytest.mark.slow
def test_the_samplers_row_brings_its_tests(extended):
    names = ("identities", "order", "planning", "rows", "samplers_contract", "samplers_law")
    done = pytest_in(extended, *(f"tests/test_{name}.py" for name in names), "-k", "two_stage", "-m", "")
    assert done.returncode == 0, done.stdout[-3000:]
    assert int(re.findall(r"(\d+) passed", done.stdout)[0]) > 65  # "some 70"
