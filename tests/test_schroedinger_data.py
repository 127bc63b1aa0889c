"""Two data sets, their couplings by batch, what judges a walk between them, and the recipe."""

import json
import runpy
import sys
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import run_command
from scipy import optimize
from scipy.spatial.distance import cdist
from twice import judged

from diffjax import config as C
from diffjax import data, losses, processes, runs
from diffjax import main as command_line
from diffjax.losses.pairing import METHODS
from diffjax.method import Drawn, Example
from diffjax.schedules import EDM, VP
from diffjax.theory import schroedinger as theory

TINY = "configs/schroedinger.py:tiny"
SMALL = dict(n=300, held_out=40)
FLAT = data.arrays(np.eye(9))


def pairer(process, method):
    """A pairing, (x, y, seed, given) -> the endpoints that a batch gets; one program for all batches of a shape."""
    apply = jax.jit(losses.prepare.pairing(process, method).apply)

    def paired(x, y, seed=0, given=None):
        batch = apply((), jax.random.key(seed), Example(x, {**(given or {}), "y": y}))
        np.testing.assert_array_equal(batch.x, x)
        return np.asarray(batch.given["y"])

    return paired


def paired(process, method, *batch, **given):
    """The endpoints that one batch gets."""
    return pairer(process, method)(*batch, **given)


def points(n, d=2, seed=0):
    return np.random.default_rng(seed).normal(size=(2, n, d)).astype(np.float32)


# Pairings.


def test_exact_pairs_are_scipy_s_assignment_of_what_the_reference_carries():
    x, y = points(24)
    process = processes.schroedinger(VP(0.1, 2.1))
    cost = cdist(float(process.carried(1.0)) * x, y, "sqeuclidean")
    np.testing.assert_array_equal(paired(process, "exact", x, y), y[optimize.linear_sum_assignment(cost)[1]])


def test_with_little_noise_sinkhorn_pairs_as_the_assignment_and_with_much_independently():
    order = np.random.default_rng(0).permutation(12)
    x, y = np.arange(12, dtype=np.float32)[:, None], (np.arange(12, dtype=np.float32)[:, None] + 0.2)[order]
    near, far = (processes.schroedinger(EDM(s)) for s in (0.1, 1e3))
    np.testing.assert_array_equal(paired(near, "sinkhorn", x, y), x + np.float32(0.2))  # a line's assignment sorts
    pair = pairer(far, "sinkhorn")
    taken = np.concatenate([pair(x, y, seed) for seed in range(40)])
    counts = (taken == y.T).sum(0)
    assert counts.sum() == 480
    assert counts.std() < 3 * np.sqrt(40)  # 40 of each in the mean
    assert np.abs(np.corrcoef(np.tile(x[:, 0], 40), taken[:, 0])[0, 1]) < 0.15


@pytest.mark.parametrize(
    ("schedule", "alpha", "epsilon"),
    [(EDM(np.sqrt(0.5)), 1.0, 0.5), (VP(0.1, 2.1), np.exp(-0.55), -np.expm1(-1.1))],
    ids=["edm", "vp"],
)
def test_sinkhorn_s_pairs_of_normal_points_have_the_exact_bridge_s_correlation(schedule, alpha, epsilon):
    """On a line, variance 1 and 2.25, of what the reference carries and y: in 8 batches of n = 256, by plan and draw.

    Standard errors are (1 - r^2) / sqrt(8 n), 0.012 at most, and a batch falls short by some 2 / n.
    """
    pair, found = pairer(processes.schroedinger(schedule), "sinkhorn"), []
    for seed in range(8):
        x, y = points(256, 1, seed)
        found.append(np.corrcoef(x[:, 0], pair(x, 1.5 * y, seed)[:, 0])[0, 1])
    one = np.eye(1)
    exact = theory.gaussian([0], alpha**2 * one, [0], 2.25 * one, epsilon).cross[0, 0] / (1.5 * alpha)
    assert np.mean(found) == pytest.approx(exact, abs=0.04)
    # Off its diagonal the precision of the pair is -1 / epsilon.
    assert 1.5 * alpha * (1 - exact**2) / exact == pytest.approx(epsilon)


def test_sinkhorn_says_what_its_columns_lack():
    """One round on two points, by hand; and where the rounds suffice it is below the tolerance."""
    x, y = np.float32([[0.0], [1.0]]), np.float32([[0.0], [3.0]])
    process, kernel = processes.schroedinger(EDM(1.0)), np.exp(-((x - y.T) ** 2) / 2)
    g = 1 / (0.5 * kernel.sum(1))
    v = 1 / (0.5 * g @ kernel)
    plan = 0.25 * v * kernel / (0.5 * kernel @ v)[:, None]
    for rounds, off in ((1, np.abs(plan.sum(0) - 0.5).sum()), (1000, 0)):
        prepare = losses.prepare.pairing(process, "sinkhorn", iterations=rounds)
        found = jax.jit(prepare.apply)((), jax.random.key(0), Example(x, {"y": y})).chosen["logged"]["unbalance"]
        np.testing.assert_allclose(found, [off, off], atol=1e-6 if rounds == 1 else 1e-4)
    assert np.abs(plan.sum(0) - 0.5).sum() > 0.01


def test_independent_pairs_are_a_permutation_and_other_steps_have_others():
    x, y = points(32)
    pair = pairer(processes.schroedinger(EDM(1.0)), "independent")
    one, two = (pair(x, y, seed) for seed in (0, 1))
    for found in (one, two):
        np.testing.assert_array_equal(np.sort(found, 0), np.sort(y, 0))
    assert not np.array_equal(one, two)


def test_a_label_that_the_network_reads_keeps_the_law_of_its_endpoints():
    x, y = points(24)
    label = np.arange(24) % 2
    y[label == 1] += 100  # who takes from the other label is seen
    label_of = {"label": label}
    for method in METHODS:
        pair = pairer(processes.schroedinger(EDM(1.0)), method)
        np.testing.assert_array_equal(pair(x, y, given=label_of)[:, 0] > 50, label == 1)
        if method == "independent":
            free = [pair(x, y, seed, label_of) for seed in range(20)]
            np.testing.assert_array_equal(np.sort(free[0], 0), np.sort(y, 0))
            assert len({found[0, 0] for found in free}) > 5  # of the twelve of its label; nine or ten in the mean


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: losses.prepare.pairing(processes.bridge(EDM(1.0))), "Bridge has pairs that belong together, which"),
        (lambda: losses.prepare.pairing(processes.schroedinger(EDM(1.0), True)), "has endpoints that it draws itself"),
        (lambda: losses.prepare.pairing(processes.schroedinger(EDM(1.0)), "exakt"), "no pairing 'exakt': .*exact"),
        (lambda: losses.prepare.pairing(processes.schroedinger(EDM(1.0)), iterations=0), "iterations is 0"),
        (lambda: data.between("moon"), "no data set 'moon' to go between: .*moons"),
        (lambda: data.between(pairs="nowhere.npz", **SMALL), "'nowhere.npz' holds no pairs .There is no file"),
        (lambda: data.crossed(data.moons(**SMALL), data.digits()), r"moons has examples of shape \(2,\), digits of"),
        (lambda: data.crossed(data.digit_tokens(), data.moons()), "digit.tokens is not real numbers held in memory"),
        (
            lambda: data.between(end=np.zeros((9, 2))),
            "Got ndarray as the data set to go between, expected a name",
        ),
        (lambda: data.hinted(np.zeros(9)), "Got ndarray as the data set to draw the edges of, expected a name"),
        (lambda: data.pairs(["digits"]), "Got list as the data set to degrade, expected a name"),
        (lambda: data.shuffled(["digits"]), "Got list as the data set to shuffle the conditions of, expected a name"),
        (
            lambda: data.between("a.npz"),
            "no data set 'a.npz' to go between: .*or its spec: spec.'npz', path=",
        ),
        (lambda: data.between(data.moons(), data.moons(), n=3), "n is of toys by name; a spec has options of its own"),
        (
            lambda: data.crossed(np.zeros((9, 2)), data.moons()),
            "Got ndarray as a data set to go between, expected data",
        ),
        (
            lambda: data.crossed(data.moons(), data.moons(), np.zeros((9, 2))),
            "pairs is of type ndarray, expected an",
        ),
        (lambda: data.crossed(FLAT._replace(flip=True), FLAT), "arrays mirrors its images at random: set flip=False"),
        (
            lambda: data.crossed(FLAT, data.standardize(FLAT, "whole")),
            "arrays has units of its own: set standard",
        ),
        (lambda: data.crossed(data.arrays(np.eye(9), y=np.eye(9)), FLAT), "arrays has y for each example already"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


# Data.


def test_two_data_sets_meet_as_independent_draws():
    found, moons = data.between(**SMALL), data.moons(**SMALL)
    batch = found.train.gather(np.arange(300))
    np.testing.assert_array_equal(batch.x, moons.train.gather(np.arange(300)).x)
    np.testing.assert_array_equal(
        batch.given["y"], data.eight_gaussians(seed=1, **SMALL).train.gather(np.arange(300)).x
    )
    assert set(batch.given) == {"y"}
    own = data.between("moons", "moons", **SMALL).train.gather(np.arange(300))
    assert not np.array_equal(own.x, own.given["y"])
    assert found.fingerprint != data.between("moons", "moons", **SMALL).fingerprint


def walked(n=50, **options):
    """Pairs as a walk makes them: x are training examples of moons, y were walked to."""
    x = data.moons(**(SMALL | options)).train.gather(np.arange(n)).x
    return x, points(n)[1]


def test_pairs_of_a_walk_are_trained_on_and_never_parted(tmp_path):
    x, y = walked()
    np.savez(tmp_path / "pairs.npz", x=x, y=y)
    path = str(tmp_path / "pairs.npz")
    free, arrays = data.between(**SMALL), data.between(pairs=(x.astype(np.float64), y), **SMALL)
    found = data.between(pairs=path, **SMALL)
    assert arrays.fingerprint == found.fingerprint
    batch = found.train.gather(np.arange(50))
    np.testing.assert_array_equal(np.stack([batch.x, batch.given["y"]]), [x, y])
    for part in (found, free):
        np.testing.assert_array_equal(part.held_out.gather(np.arange(40)).x, free.held_out.gather(np.arange(40)).x)
    with pytest.raises(ValueError, match=r"pairs were made by a walk, and prepare.pairing would part them"):
        runs.build_run(runs.load(TINY, [f"data.pairs={path}"]))
    built = runs.build_run(runs.load(TINY, [f"data.pairs={path}", "prepare.name=nothing"]))
    assert len(built.data.train) == 50
    np.savez(tmp_path / "pairs.npz", x=x, y=y[:, :1])
    with pytest.raises(ValueError, match=r"x has shape \(50, 2\) and y \(50, 1\), expected \(N, 2\)"):
        data.between(pairs=path, **SMALL)


def test_pairs_of_the_other_half_are_refused(tmp_path):
    """By their names, and without names, or where both sets have one, by what their x are."""
    x, y = walked()
    path = tmp_path / "pairs.npz"
    np.savez(path, x=x, y=y, end="moons", start="eight_gaussians")
    found = data.between("moons", "eight_gaussians", pairs=str(path), **SMALL)
    np.testing.assert_array_equal(found.train.gather(np.arange(50)).x, x)
    for names, said in (
        (("eight_gaussians", "moons"), "whose end is moons, expected eight_gaussians"),
        (("moons", "spirals"), "whose start is eight_gaussians, expected spirals"),
    ):
        with pytest.raises(ValueError, match=said) as caught:
            data.between(*names, pairs=str(path), **SMALL)
        assert "\n" not in str(caught.value)
    # Of toys the other half draws its end by another seed than the half that has walked.
    np.savez(path, x=walked(seed=1)[0], y=y, end="moons", start="eight_gaussians")
    assert len(data.between("moons", "eight_gaussians", pairs=str(path), **SMALL).train) == 50
    np.savez(path, x=walked(seed=1)[0], y=y)
    with pytest.raises(ValueError, match="x of pair 0 is no training example of moons"):
        data.between("moons", "eight_gaussians", pairs=str(path), **SMALL)
    one, other = (data.arrays(part) for part in points(60))
    true = one.train.gather(np.arange(9)).x
    assert len(data.crossed(one, other, (true, true + 1)).train) == 9
    with pytest.raises(ValueError, match="all are endpoints, of arrays: the pairs are of the other half"):
        data.crossed(other, one, (true, true + 1))
    with pytest.raises(ValueError, match="pairs: x of pair 8 is no training example of arrays, expected so of each"):
        data.crossed(one, other, (np.concatenate([true[:8], true[8:] + 1]), true))


def test_data_sets_of_one_s_own_meet_by_their_specs(tmp_path):
    """Of a sorted longer one, examples from all of it are taken; the half of the command is that of Python."""
    x, y = np.linspace(-1, 1, 100)[:, None], np.linspace(-1, 1, 20)[:, None]
    parts = {}
    for name, part in (("end", x), ("start", y)):
        np.savez(tmp_path / f"{name}.npz", x=part)
        parts[name] = {"name": "npz", "path": str(tmp_path / f"{name}.npz"), "label": None, "held_out": 0.1}
    found = data.between(**parts)
    assert (found.name, found.shape, len(found.train)) == ("end from start", (1,), 18)
    seen = found.train.gather(np.arange(18))
    assert np.isin(seen.x, x.astype(np.float32)).all()
    assert seen.x.min() < -0.5 < 0.5 < seen.x.max()
    whole = [data.npz(**{key: value for key, value in spec.items() if key != "name"}) for spec in parts.values()]
    assert found.fingerprint == data.between(*whole).fingerprint == data.crossed(*whole).fingerprint
    flags = [f"data.{part}.{key}={value}" for part, of in parts.items() for key, value in of.items() if key == "path"]
    config = runs.load("configs/schroedinger.py:own", flags)
    assert runs.build_run(config).data.fingerprint == found.fingerprint
    end, start = data.ends(**{name: config.data[name].to_dict() for name in ("end", "start")})
    assert (end.name, start.name) == ("end", "start")


def test_what_is_known_of_an_example_stays_with_it():
    a, b = points(60)
    label = np.arange(60) % 3
    one, other = data.arrays(a, label=label), data.arrays(b)
    found = data.crossed(one, other)
    own = {row.tobytes(): kind for row, kind in zip(a, label)}
    for part in (found.train, found.held_out):
        batch = part.gather(np.arange(len(part)))
        assert [own[row.tobytes()] for row in batch.x] == batch.given["label"].tolist()
    assert (found.classes, found.unread) == (3, ())  # of arrays: a run that does not read it is refused
    with pytest.raises(ValueError, match="arrays gives label of its examples, but nobody reads what is known"):
        data.crossed(other, one)
    true = one.train.gather(np.arange(9)).x
    assert set(data.crossed(one, other, (true, true)).held_out.gather(np.arange(1)).given) == {"y"}


def test_the_judge_says_how_far_samples_were_carried():
    dataset = data.between(**SMALL)
    real = dataset.held_out.gather(np.arange(40))
    y = np.float64(real.given["y"])
    sections = dataset.judge(Drawn(real.x + 0.5, {"y": real.given["y"]}), dataset)
    found = sections[-1].results["metrics"]["transport cost"]
    assert found["value"] == pytest.approx(np.mean(np.sum((real.x + 0.5 - y) ** 2, 1)), rel=1e-6)
    cost = cdist(y, real.x, "sqeuclidean")
    assert found["least"] == pytest.approx(cost[optimize.linear_sum_assignment(cost)].mean(), rel=1e-6)
    assert found["independent"] == pytest.approx(cost.mean(), rel=1e-6)
    assert f"{found['value']:.4f}" in sections[-1].text
    assert "exact W2" in sections[0].results["metrics"]


# The recipe.


@pytest.mark.parametrize("variant", ["moons", "gaussians", "sinkhorn", "tiny"])
def test_the_recipes_build_and_their_targets_fit_their_data(variant):
    built = runs.build_run(runs.load(f"configs/schroedinger.py:{variant}"))
    assert built.method.asks == ("y",)
    batch = built.data.train.gather(np.arange(len(built.data.train)))
    target = built.method.parts.target
    for of, part in ((target.sigma_0, batch.x), (target.sigma_T, batch.given["y"])):
        assert np.sqrt(np.mean(part**2)) == pytest.approx(of, rel=0.02)


def test_later_turns_begin_from_pairs():
    for variant in ("moons_again", "gaussians_again"):
        config = runs.load(f"configs/schroedinger.py:{variant}")
        assert (config.data.pairs, config.prepare.name) == ("pairs.npz", "nothing")
        with pytest.raises(C.ConfigError, match=r"'pairs\.npz' holds no pairs"):
            runs.build_run(config)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["sampler.name=ancestral.ddim"], "not add the noise of the reverse SDE"),
        (["model.condition=2"], "reads y, which Schroedinger hides"),
        (["process.name=bridge"], "Bridge has pairs that belong together"),
        (["process.from_noise=True"], "endpoints that it draws itself"),
        (["process.from_noise=True", "prepare.name=nothing"], "has endpoints, but process.from_noise draws them"),
        (["target.name=Eps"], "Eps-prediction does not determine x_0 .* predict DDBM"),
        (["data.start=spiral"], "no data set 'spiral' to go between"),
        (["denoiser.name=large"], "only the reverse SDE is right"),
    ],
)
def test_refusals_come_before_anything_runs(overrides, message):
    with pytest.raises(C.ConfigError, match=message) as caught:
        runs.build_run(runs.load(TINY, overrides))
    assert "\n" not in str(caught.value)


def script(monkeypatch, name, *args):
    """Runs a script of the study, as `python experiments/schroedinger/name args` would."""
    monkeypatch.setattr(sys, "argv", [name, *map(str, args)])
    runpy.run_path(str(run_command.ROOT / "experiments" / "schroedinger" / name), run_name="__main__")


@pytest.mark.slow
def test_it_trains_is_judged_and_hands_its_pairs_on(tmp_path, monkeypatch, capsys):
    """A first turn, its pairs, the other half on them, and the table of both."""
    one, other, pairs = tmp_path / "one", tmp_path / "other", tmp_path / "pairs.npz"
    found = judged(TINY, one)
    assert found["samples"] == 256
    cost = found["metrics"]["transport cost"]
    assert 0 < cost["least"] < cost["independent"]
    assert cost["value"] > 0
    report = (one / "report.md").read_text()
    for said in (
        "Transport cost",
        "the held-out loss is that of independent pairs",
        "it would know y, which the network",
    ):
        assert said in report
    assert found["loss_by_time"]["Gaussian fit"]["mean"] is None
    assert json.loads((one / "config.json").read_text())["process"]["name"] == "schroedinger"
    script(monkeypatch, "pairs.py", f"--workdir={one}", f"--out={pairs}", "--n=300")
    made = np.load(pairs)
    np.testing.assert_array_equal(made["x"], data.eight_gaussians(2000, 400, seed=1).train.x[:300])
    assert made["y"].shape == (300, 2)
    assert (str(made["end"]), str(made["start"])) == ("eight_gaussians", "moons")
    assert "300 pairs" in capsys.readouterr().out
    halves = ["data.end=eight_gaussians", "data.start=moons", f"data.pairs={pairs}", "prepare.name=nothing"]
    flags = [f"--config.{flag}" for flag in [*halves, f"train.start={one}"]]
    assert command_line.main([f"--config={TINY}", f"--workdir={other}", *flags]) == 0
    script(monkeypatch, "table.py", one, other, f"--out={tmp_path}", "--n=200")
    table = json.loads((tmp_path / "results.json").read_text())
    assert set(table) == {"one", "other"}
    for row in table.values():
        assert all(np.isfinite(value) and value > 0 for value in row.values())
        assert row["optimal"] < row["entropic"] < row["independent"]
    assert table["one"]["W2"] != table["other"]["W2"]


@pytest.mark.parametrize(
    ("process", "name", "message"),
    [
        (processes.schroedinger(VP(0.1, 2.1)), "between", r"alpha_T is 0\.5769.*, expected 1, or the other half has"),
        (processes.schroedinger(EDM(0.5)), "moons", "here is no half of a Schroedinger bridge: configs/"),
        (processes.bridge(EDM(0.5)), "between", "here is no half of a Schroedinger bridge"),
    ],
)
def test_pairs_of_another_reference_are_refused(process, name, message, monkeypatch):
    """A VP half ends at alpha = exp(-0.55): the half on its pairs would have another reference."""
    parts = SimpleNamespace(process=process)
    run = SimpleNamespace(config=C.recipe(), method=SimpleNamespace(parts=parts))
    run.config.data = C.spec(name)
    monkeypatch.setattr(runs, "open", lambda workdir, overrides: run)
    with pytest.raises(SystemExit, match=message):
        script(monkeypatch, "pairs.py", "--workdir=here", "--out=nowhere.npz")


def test_no_pairs_are_refused(monkeypatch):
    with pytest.raises(SystemExit, match="--n is 0, expected 1 or more"):
        script(monkeypatch, "pairs.py", "--workdir=here", "--out=nowhere.npz", "--n=0")
