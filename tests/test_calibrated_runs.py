"""A calibrated table in a run: loaded by name, refused for other parameters, grids and lengths; the study's seeds."""

import importlib.util
import itertools
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import run_command
import scipy.integrate
import scipy.stats

from diffjax import denoisers, draws, grids, methods, models, processes
from diffjax.samplers import fitted, multistep
from diffjax.samplers.base import rows_of
from diffjax.schedules import VP

FOLDER = run_command.ROOT / "experiments" / "nfe"


def script(name, *args):
    """(exit status, output) of a script of the study."""
    command = [sys.executable, str(FOLDER / f"{name}.py"), *args]
    done = subprocess.run(command, env=run_command.environment(), capture_output=True, text=True, timeout=1800)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def saved(tmp_path):
    """A method that draws by a saved table, its file, and the parameters that this is for."""
    network = models.from_function(lambda params, x, c, given: params["w"] * x, {"w": jnp.float32(0.5)}, reads=())
    plain = methods.denoising(network, processes.Gaussian(VP()), denoisers.X0())
    params, path = {"w": jnp.float32(0.5)}, tmp_path / "table.npz"
    ts, sampler = np.array([1.0, 0.4, 0.0]), multistep.adams(VP(), 2)
    rows = rows_of(sampler, ts)
    model = plain.parts.mean_denoiser(params, {})
    fitted.save(path, VP(), model, (3,), {2: (ts, sampler, rows._replace(x=1.1 * rows.x))})
    by = dict(sampler=partial(fitted.table, file=path), grid=partial(grids.calibrated, n=2, file=path))
    return plain.parts._replace(**by).method(), path, params, 1.1 * rows.x, rows


def test_a_draw_walks_by_the_table_of_its_model(saved):
    """By NumPy, of x_T as the process draws it."""
    method, _, params, x_weights, rows = saved
    drawn = draws.drawer(method, (3,), 2)(params, [4], {})
    key = jax.random.split(jax.random.key(np.uint32(4)))[0]
    x, ys = np.asarray(VP()(1.0)[1] * jax.random.normal(key, (3,))), np.zeros((2, 3))
    for k in range(2):
        ys = np.stack([0.5 * x, ys[0]])
        x = x_weights[k] * x + rows.ys[k] @ ys
    np.testing.assert_allclose(drawn[0], x, rtol=1e-4)


def test_a_draw_of_other_parameters_is_refused_before_it_is_traced(saved):
    method, *_ = saved
    draw = draws.drawer(method, (3,), 2)
    with pytest.raises(ValueError, match=r"calibrated on another model: .* differ by"):
        draw({"w": jnp.float32(0.51)}, [4], {})


def test_a_number_of_steps_that_was_not_calibrated_is_refused(saved):
    method, path, *_ = saved
    other = method.parts._replace(grid=partial(grids.calibrated, n=3, file=path)).method()
    with pytest.raises(ValueError, match=r"has no table of 3 evaluations, but of 2: set --nfe"):
        draws.drawer(other, (3,), 2)
    other = method.parts._replace(grid=partial(grids.uniform, n=2)).method()
    with pytest.raises(ValueError, match=r"none that .* was calibrated on: take grids\.calibrated"):
        draws.drawer(other, (3,), 2)


@pytest.fixture
def study(monkeypatch):
    """The study's modules, as a script would find them."""
    monkeypatch.syspath_prepend(FOLDER)
    names = {path.stem for path in FOLDER.glob("*.py")}
    for name in names & set(sys.modules):
        monkeypatch.delitem(sys.modules, name)
    spec = importlib.util.spec_from_file_location("study", FOLDER / "study.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "study", module)
    spec.loader.exec_module(module)
    yield module
    for name in names:
        sys.modules.pop(name, None)


def test_what_is_calibrated_on_is_not_tested_on(study):
    calibrate, common = study.calibrate, study.common
    assert not set(study.SEEDS) & set(calibrate.SEEDS)
    assert len({*study.SEEDS, *calibrate.SEEDS}) == len(study.SEEDS) + len(calibrate.SEEDS)
    first = [float(common.starts(seed, 1, (1,))[0, 0]) for seed in (*study.SEEDS, *calibrate.SEEDS)]
    assert len(set(first)) == len(first)


def test_equal_seeds_are_refused(study, monkeypatch):
    monkeypatch.setattr(study.calibrate, "SEEDS", (11, 1012))
    with pytest.raises(ValueError, match=r"The seeds \{11\} are both calibrated on and tested on"):
        study.calibrated_walks("mixture, 2-D", "iPNDM 3", 5, True)


def test_the_table_of_the_study_names_the_best_of_each_kind(study):
    rows = [
        dict(title="a", nfe=5, sampler="iPNDM 3", miss=0.2, grid="g"),
        dict(title="a", nfe=5, sampler="UniPC-3", miss=0.4, grid="h"),
        dict(title="a", nfe=5, sampler="UniPC-3, calibrated", miss=0.1, grid="i"),
        dict(title="a", nfe=5, sampler="principal Adams 2", miss=0.15, grid="j"),
        dict(title="a", nfe=5, sampler="principal Adams 2, calibrated", miss=0.05, grid="k"),
        dict(title="a", nfe=5, sampler="iPNDM 3, calibrated", miss=None, grid=None),
    ]
    cells = study.beside(rows).splitlines()[2]
    assert cells == (
        "| a | 5 | iPNDM 3 (g) 0.2000 | UniPC-3 (i) 0.1000 | principal Adams 2 (j) 0.1500 | "
        "principal Adams 2 (k) 0.0500 | 0.25 | 0.50 |"
    )
    rows += [
        dict(title="a", nfe=5, sampler=f"UniPC-3 along axes, {how}", miss=miss, grid="l")
        for how, miss in (("calibrated", 0.04), ("by heart", 0.02))
    ]
    assert (
        study.beside(rows)
        .splitlines()[2]
        .endswith("| UniPC-3 along axes (l) 0.0400 | 0.20 | 0.40 | 0.0200 (0.10, 0.20) |")
    )


@pytest.mark.slow
def test_a_run_is_calibrated_and_drawn_by_name(tmp_path):
    """The smoke mode from end to end: calibrate, sample, and the two refusals, of another checkpoint and length."""
    run, table = tmp_path / "run", tmp_path / "table.npz"
    status, output = run_command.run("--config=configs/vpsde.py:tiny", f"--workdir={run}")
    assert status == 0, output
    arguments = [f"--workdir={run}", "--nfe=3", f"--out={table}", "--smoke"]
    status, output = script("calibrate", *arguments)
    assert status == 0, output
    assert "3 evaluations: " in output
    by = ["--sampler=fitted.table", f"--config.sampler.file={table}", "--config.grid.name=calibrated"]
    by = ["--mode=sample", f"--workdir={run}", "--seeds=0-3", *by, f"--config.grid.file={table}"]
    status, output = run_command.run(*by, "--nfe=3")
    assert status == 0, output
    status, output = run_command.run(*by, "--nfe=3", "--step=30")
    assert status != 0, output
    assert "calibrated on another model" in output
    status, output = run_command.run(*by, "--nfe=4")
    assert status != 0, output
    assert "has no table of 4 evaluations, but of 3" in output


@pytest.mark.slow
def test_the_study_calibrates_in_smoke_mode(tmp_path):
    of = ("iPNDM 3", "principal Adams 2, calibrated", "UniPC-3 along axes, calibrated", "UniPC-3 along axes, by heart")
    arguments = ["--calibrate", "--targets=mixture, 2-D", "--nfes=5", f"--out={tmp_path}", "--smoke"]
    arguments.append(f"--samplers={';'.join(of)}")
    status, output = script("study", *arguments)
    assert status == 0, output
    head, _, row = (tmp_path / "table.md").read_text().splitlines()
    assert head.endswith("| by heart |")
    assert row.startswith("| mixture, 2-D | 5 | iPNDM 3 (")
    assert row.count("|") == head.count("|")


@pytest.mark.slow
def test_basins_are_measured_in_smoke_mode(tmp_path):
    """A smaller push loses no more walks, up to one of 64; no solver keeps what all of them lose."""
    status, output = script("basins", f"--out={tmp_path}", "--smoke")
    assert status == 0, output
    pushes, lost = ([line.split("|")[1:-1] for line in part.splitlines() if line.startswith("|")][2:]
                    for part in (tmp_path / "table.md").read_text().split("\n\n"))  # fmt: skip
    for row in pushes:
        shares = [float(cell.split(",")[0]) for cell in row[1:-1]]
        assert all(small <= large + 1 / 64 for large, small in itertools.pairwise(shares))
    assert all(0 <= float(every) <= float(own) <= 1 for *_, own, _, every in lost)
    assert len(lost) == 10


@pytest.mark.slow
def test_the_variance_is_tried_in_smoke_mode(tmp_path):
    """The slope of the ideal denoiser along its flow, by differences; and a row for one number of evaluations."""
    status, output = script("variance", f"--out={tmp_path}", "--smoke")
    assert status == 0, output
    head, _, row = (tmp_path / "variance.md").read_text().splitlines()
    found = dict(zip(head.split("|")[2:-1], map(float, row.split("|")[2:-1])))
    assert found[" exact "] < found[" covariance "]
    assert all(0 < value < 1 for value in found.values())


def test_the_ideal_denoisers_slope_is_its_difference_and_a_gaussians_that_of_the_covariance(x64, monkeypatch):
    """D' along dx = (x - D) dlog n; of points that are near to a Gaussian's quantiles the covariance says it too."""
    monkeypatch.syspath_prepend(FOLDER)
    from variance import posterior

    points = np.random.default_rng(0).normal(size=(7, 3))
    x, n, e = np.random.default_rng(1).normal(size=(4, 3)), 0.8, 1e-5
    mean, slopes = posterior(points, x, n)
    ahead, behind = (posterior(points, x + s * (x - mean), n * np.exp(s))[0] for s in (e, -e))
    np.testing.assert_allclose(slopes["exact"], (ahead - behind) / (2 * e), rtol=1e-8, atol=1e-10)
    normal = scipy.stats.norm.ppf((np.arange(20000) + 0.5) / 20000)[:, None]
    mean, slopes = posterior(normal, np.array([[0.3]]), 0.8)
    expected = -0.3 * 0.64 / 1.64 / 1.64  # C = 1: D = x / (1 + n^2), D' = -C (x - D) / (C + n^2)
    for kind in slopes:
        np.testing.assert_allclose(slopes[kind], expected, rtol=2e-3)


@pytest.mark.parametrize("by_log", [True, False])
def test_a_step_by_a_slope_is_exact_for_a_polynomial(by_log, monkeypatch):
    """D = 2 + 3 y + y^2, y = log(u / n) or u / n - 1, through two values and the slope at the first."""
    monkeypatch.syspath_prepend(FOLDER)
    from variance import step_weights

    n, s = 0.7, 0.4
    place = (lambda u: np.log(u / n)) if by_log else (lambda u: u / n - 1)
    value = lambda u: 2 + 3 * place(u) + place(u) ** 2
    exact = s * scipy.integrate.quad(lambda u: value(u) / u**2, s, n)[0]
    weights = step_weights([n, 1.1], s, True, by_log)
    np.testing.assert_allclose(weights @ [value(n), value(1.1), 3.0], exact, rtol=1e-9)
