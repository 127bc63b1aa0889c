"""Experiments are scripts on the library and on `diffjax.runs`: they import, and answer --help, without running."""

import ast
import importlib.util
import json
import math
import os
import re
import runpy
import subprocess
import sys
from functools import cache

import numpy as np
import pytest
import run_command
from test_layers import imports

from diffjax import ending, host

FOLDER = run_command.ROOT / "experiments"
FILES = sorted(
    path for path in FOLDER.rglob("*.py") if not path.with_suffix(".ipynb").exists()
)  # no twins of notebooks
SHARED = (
    "capacity",
    "common",
    "counting",
    "crafted",
    "distances",
    "first_cell",
    "gpu_features",
    "gpu_packing",
    "gpu_rows",
    "gpu_trace",
    "gpu_twins",
    "inputs",
    "inputs_data",
    "inputs_weights",
    "inputs_runs",
    "mutants",
    "rates",
    "robust",
)  # imported, never called
name_of = lambda path: f"{path.parent.name}/{path.stem}"


@pytest.fixture
def alone(monkeypatch):
    """As `python path` would start it: the script's own folder first, no other folder's modules of an equal name."""

    def start(path, *args):
        beside = {p.stem for p in FILES}
        for name in beside & set(sys.modules):
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.syspath_prepend(path.parent)
        monkeypatch.setattr(sys, "argv", [str(path), *args])
        before = set(sys.modules)
        try:
            return runpy.run_path(str(path), run_name="__main__" if args else "imported")
        finally:
            for name in beside & (set(sys.modules) - before):
                del sys.modules[name]

    return start


def missing(text):
    """The parts of diffjax that a script names in its imports, also inside functions, and that there are not."""
    for name in sorted(n for n in imports(ast.parse(text)) if n.split(".")[0] == "diffjax"):
        module, _, member = name.rpartition(".")
        try:
            if not module or not hasattr(importlib.import_module(module), member):
                importlib.import_module(name)
        except ModuleNotFoundError:
            yield name


def test_there_are_experiments():
    assert len(FILES) >= 20
    assert {path.stem for path in FILES} >= {*SHARED, "scales", "study", "train_step"}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_an_experiment_imports_the_library_and_no_command(path):
    text = path.read_text()
    above = [name for name in imports(ast.parse(text)) if name.startswith(("diffjax.commands", "diffjax.main"))]
    assert not above, f"{path} imports {above}; runs are opened, built and trained by diffjax.runs"
    assert not list(missing(text))


def test_the_check_of_names_sees_what_is_not_there():
    text = "import diffjax\nfrom diffjax import runs, nope\ndef f():\n    from diffjax.commands.sample import restore"
    assert list(missing(text)) == ["diffjax.commands.sample.restore", "diffjax.nope"]


@pytest.mark.parametrize("path", [p for p in FILES if p.stem not in SHARED], ids=name_of)
def test_an_experiment_says_how_it_is_called(path, alone, capsys):
    with pytest.raises(SystemExit) as end:
        alone(path, "--help")
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: {path.name}")


@pytest.mark.parametrize("path", [p for p in FILES if p.stem in SHARED], ids=name_of)
def test_what_experiments_share_imports(path, alone):
    assert alone(path)["__name__"] == "imported"


@pytest.mark.parametrize("path", [p for p in FILES if p.stem not in SHARED], ids=name_of)
def test_an_experiment_runs_only_as_a_script(path, alone, capsys):
    """What an import would run is nothing: constants are made, `main` is not called."""
    assert callable(alone(path)["main"])
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("path", [p for p in FILES if "runs.open(" in p.read_text()], ids=name_of)
def test_an_experiment_that_opens_a_run_ends_in_a_line(path):
    """What is asked of a wrong run or of none is no fault of the program; drills look at how commands end."""
    ends = path.read_text().endswith('if __name__ == "__main__":\n    ending.script(main)\n')
    assert ends or path.stem in SHARED or path.parent.name == "drills"


def test_a_run_that_is_not_there_is_a_line(alone, tmp_path, capsys):
    path = FOLDER / "schroedinger" / "pairs.py"
    with pytest.raises(SystemExit) as end:
        alone(path, f"--workdir={tmp_path / 'nope'}", f"--out={tmp_path / 'pairs.npz'}")
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"error: {tmp_path / 'nope'} holds no run (it is not there): give a run's workdir, or weights file."


@pytest.mark.parametrize(
    ("main", "status", "said"),
    [
        (lambda: host.check_int("n", 0), 2, "error: n is 0, expected an integer >= 1."),
        (lambda: os.stat("/nowhere/there"), 1, "error: No such file or directory: /nowhere/there"),
    ],
)
def test_a_script_ends_in_a_line(main, status, said, capsys):
    with pytest.raises(SystemExit) as end:
        ending.script(main)
    assert (end.value.code, capsys.readouterr().err) == (status, f"{said}\n")


@pytest.mark.parametrize("main", [lambda: int("x"), lambda: {}["x"], lambda: np.zeros(2).reshape(3)])
def test_a_fault_of_a_script_keeps_its_trace(main):
    with pytest.raises((ValueError, KeyError)):
        ending.script(main)


TINY_RUNS = {  # what a study is of -> a tiny run that is of something else, and what is said of it
    "sparsity/latents": ("vpsde", r"is a run of Denoising: give one of configs/autoencoder\.py"),
    "finetune/reward": ("vpsde", r"was trained with prepare\.name=nothing: it has no reward"),
    "infomax/spaces": ("vpsde", r"trains no features of examples"),
    "hubness/starts": ("autoencoder", r"is a run of Autoencoder: this chooses x_T of a sampler's walk"),
    "bridges/compare": ("autoencoder", "This study needs a method with a schedule"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY_RUNS)
def test_a_run_of_another_kind_is_a_line(name, trained, tmp_path):
    of, said = TINY_RUNS[name]
    command = [sys.executable, str(FOLDER / f"{name}.py"), f"--workdir={trained(of)}", f"--out={tmp_path / 'out'}"]
    done = subprocess.run(command, env=run_command.environment(), capture_output=True, text=True, timeout=600)
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr
    assert re.search(said, done.stderr.splitlines()[-1])


def test_a_mutant_is_one_point_of_the_text(alone):
    """The mutants of five lines, written out; texts, annotations and what is raised are left alone."""
    text = """def f(x: int | None = 2, y="é") -> int | None:
    if not 0 < x:
        raise ValueError(f"{x + 1}")
    return jnp.sin(x) ** 2 - g(x, y)
"""
    (path,) = (path for path in FILES if path.stem == "mutants")
    made = alone(path)["mutants"](text)
    assert [(m.before, m.after) for m in made] == [
        ("2", "3"),
        ("not 0 < x", "0 < x"),
        ("0", "1"),
        ("0 < x", "0 <= x"),
        ("jnp.sin(x)", "jnp.cos(x)"),
        ("jnp.sin(x) ** 2", "jnp.sin(x) * 2"),
        ("jnp.sin(x) ** 2 - g(x, y)", "jnp.sin(x) ** 2 + g(x, y)"),
        ("2", "3"),
        ("g(x, y)", "g(y, x)"),
    ]
    for mutant in made:
        damaged = mutant.applied(text)
        assert damaged == text.replace(text[mutant.start :], f"({mutant.after}){text[mutant.end :]}")
        ast.parse(damaged)


# How each is tried out: the tiny run that it looks at, its arguments, the JSON that it writes (None: that it prints).
# Those of a GPU are tried in tests/test_gpu_scripts.py.
SMOKE = {
    "benchmarks/import_time": (None, "--smoke", None),
    "benchmarks/input_rates": (None, "--smoke", None),
    "benchmarks/judging": (None, "--smoke", None),
    "benchmarks/likelihood_cost": (None, "--smoke", None),
    "benchmarks/networks": (None, "--smoke", None),
    "benchmarks/sampler_overhead": (None, "--smoke", None),
    "benchmarks/same_bits": (None, "--smoke", None),
    "benchmarks/same_recipes": (None, "--smoke", None),
    "benchmarks/save_stall": (None, "--smoke", None),
    "benchmarks/slices": (None, "--smoke", None),
    "benchmarks/train_step": (None, "--smoke", None),
    "benchmarks/versus_torch": (None, "--smoke", None),
    "bridges/compare": ("bridge", "--workdir={run} --out={out} --smoke", "results.json"),
    "energies/compose": ("energy", "--workdir={run} --out={out} --smoke", "results.json"),
    "flows/trajectories": (None, "--out={out}.png --steps=100", None),
    "finetune/counts": (None, "--out={out} --smoke", "results.json"),
    "gan_dynamics/draw": (None, "--out={out}.png --smoke", None),
    "guidance/scales": ("guidance", "--workdir={run} --out={out} --smoke", "results.json"),
    "hubness/starts": ("vpsde", "--workdir={run} --out={out} --smoke", "results.json"),
    "infomax/spaces": ("infomax", "--workdir={run} --out={out} --smoke", "results.json"),
    "interpolation/interpolate": ("vpsde", "--workdir={run} --out={out}.png --steps=10,20", None),
    "inverse/digits": ("vpsde", "--workdir={run} --out={out} --smoke", "results.json"),
    "optimal_variance/steps": ("vpsde", "--workdir={run} --out={out} --smoke", "results.json"),
    "optimizers/digits": (None, "--out={out} --smoke", "results.json"),
    "matching/gaussians": ("matching", "--runs={run} --out={out}", "results.json"),
    "metrics/damages": (None, "--out={out} --smoke", "results.json"),
    "prices/matching": (None, "--out={out} --smoke", "results.json"),
    "prices/flow_maps": (None, "--out={out} --smoke", "results.json"),
    "prices/langevin": (None, "--out={out} --smoke", "results.json"),
    "prices/tokens": (None, "--out={out} --smoke", "results.json"),
    "sparsity/attention": ("dit", "--workdir={run} --out={out} --smoke", "results.json"),
    "sparsity/latents": ("autoencoder", "--workdir={run} --out={out} --smoke", "results.json"),
    "wasserstein_bound/training": (None, "--out={out} --smoke", "results.json"),
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a config's tiny run, trained once."""
    folder = tmp_path_factory.mktemp("runs")

    @cache
    def run(name):
        status, output = run_command.run(f"--config=configs/{name}.py:tiny", f"--workdir={folder / name}")
        assert status == 0, output
        return folder / name

    return run


def script(name, *args):
    """What an experiment prints; it has to end well."""
    command = [sys.executable, str(FOLDER / f"{name}.py"), *args]
    done = subprocess.run(command, env=run_command.environment(), capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def numbers(tree):
    """All numbers of what JSON holds."""
    if isinstance(tree, dict | list):
        for part in tree.values() if isinstance(tree, dict) else tree:
            yield from numbers(part)
    elif isinstance(tree, int | float):
        yield tree


@pytest.mark.slow
@pytest.mark.parametrize("name", SMOKE)
def test_an_experiment_measures_finite_numbers(name, trained, tmp_path):
    of, args, file = SMOKE[name]
    if name == "benchmarks/versus_torch" and importlib.util.find_spec("torch") is None:
        pytest.skip("PyTorch comes with the extra benchmarks alone")
    out = tmp_path / "out"
    printed = script(name, *args.format(run=of and trained(of), out=out).split())
    found = list(numbers(json.loads((out / file).read_text() if file else printed.splitlines()[-1])))
    assert found
    assert all(map(math.isfinite, found))


@pytest.mark.slow
def test_what_a_reward_reaches(trained, tmp_path):
    """The study itself, on a short run: the law that should be reached is known, whatever the run does."""
    run, base = tmp_path / "run", trained("points")
    small = ["model.base.width=16", "model.base.depth=1", "data.n=2000", "data.held_out=400", "train.steps=20"]
    small += ["train.sample_every=20", "eval.samples=64", f"train.start={base}"]
    flags = [f"--config.{change}" for change in small]
    status, output = run_command.run("--config=configs/finetune.py:points", *flags, f"--workdir={run}")
    assert status == 0, output
    script("finetune/reward", f"--workdir={run}", f"--base={base}", f"--out={tmp_path / 'out'}", "--smoke")
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    shares = np.exp(2 * np.cos(np.pi / 4 * (np.arange(8) - 1)))  # r / beta = x + y at sqrt(2) (cos a, sin a)
    np.testing.assert_allclose(found["shares"]["p*"], shares / shares.sum(), rtol=1e-3)
    assert found["total variation"]["data"] > 0.4 > found["total variation"]["floor: draws of p*"]
    assert 0.3 < found["effective"] < 0.6
    assert all(map(math.isfinite, numbers(found)))


@pytest.mark.slow
def test_hostile_inputs_are_refused():
    """The drill itself, on two inputs of each kind that needs no run: it ends with status 0 where none gets through."""
    kinds = [
        line.split("|")[1].strip() for line in script("drills/hostile", "--smoke").splitlines() if "| 2 | 2 |" in line
    ]
    assert kinds == ["sizes", "configs", "npz", "images", "tfds"]


@pytest.mark.slow
def test_pairs_are_the_flow_of_their_noise(trained, tmp_path):
    """Pair i is what the command line draws of seed i, beside the noise that this draw began with."""
    run, n = trained("rectified"), 64
    script("flows/pairs", f"--workdir={run}", f"--out={tmp_path / 'pairs.npz'}", f"--n={n}")
    pairs = np.load(tmp_path / "pairs.npz")
    status, output = run_command.run(
        "--mode=sample", f"--workdir={run}", f"--seeds=0-{n - 1}", f"--out={tmp_path / 'drawn'}"
    )
    assert status == 0, output
    np.testing.assert_array_equal(pairs["x"], np.load(tmp_path / "drawn" / "samples.npz")["x"])
    assert pairs["z"].shape == pairs["x"].shape
    assert abs(pairs["z"].std() - 1) < 0.05  # of n 64 entries; 0.011 is one standard deviation
    table = script("flows/steps", str(run), "--steps=1").splitlines()
    assert len(table) == 3
    assert table[-1].startswith("| rectified | ")
