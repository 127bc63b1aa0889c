"""Training that starts from another run: what is taken over, what stands still, and the commands on the way."""

import contextlib
import dataclasses
import io
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from unjudged import without_samples

from diffjax import data, finetune, methods, models, processes, runs, schedules
from diffjax import main as command_line
from diffjax.commands import sample, train
from diffjax.config import ConfigError, beside
from diffjax.denoisers import Eps, V, moments
from diffjax.methods import parts
from diffjax.runs import build_run
from diffjax.runs import run as of_runs
from diffjax.samplers import principal

X, CLOCK = np.random.default_rng(1).normal(size=(8, 8, 1)).astype(np.float32), np.float32(0.3)


def unet(outputs, **options):
    network = models.network(models.UNet(channels=4, multipliers=(1,), attention=(), outputs=outputs, **options))
    shapes = jax.eval_shape(network.init, jax.random.key(0), X, CLOCK)
    draw = np.random.default_rng(outputs).normal
    return network, jax.tree.map(lambda leaf: np.asarray(0.3 * draw(size=leaf.shape), leaf.dtype), shapes)


@pytest.mark.parametrize("patch", [1, 2])
def test_a_network_with_one_more_map_keeps_the_first(patch):
    (one, old), (two, new) = unet(1, patch=patch), unet(2, patch=patch)
    grown = finetune.take_over(new, old)
    F, u = np.split(np.asarray(jax.jit(two.apply)(grown, X, CLOCK)), 2, -1)
    np.testing.assert_allclose(F, jax.jit(one.apply)(old, X, CLOCK), atol=1e-5)
    np.testing.assert_array_equal(
        grown["conv_out"]["kernel"][..., patch**2 :], new["conv_out"]["kernel"][..., patch**2 :]
    )
    assert np.abs(u).max() > 1e-3


def test_only_what_is_named_moves_and_has_a_gradient():
    _, params = unet(1)
    loss = lambda params: sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(finetune.freeze(params, "conv_out/b")))
    gradient = jax.device_get(jax.jit(jax.grad(loss))(params))
    optimizer = finetune.frozen(optax.adamw(0.1, weight_decay=0.5), "conv_out/b")
    with jax.numpy_dtype_promotion("standard"):
        updates = jax.jit(lambda g, p: optimizer.update(g, optimizer.init(p), p)[0])(gradient, params)
    moved = {
        jax.tree_util.keystr(path): bool(np.any(leaf)) for path, leaf in jax.tree_util.tree_leaves_with_path(updates)
    }
    assert [path for path, moves in moved.items() if moves] == ["['conv_out']['bias']"]
    assert np.all(gradient["conv_out"]["kernel"] == 0)
    np.testing.assert_array_equal(gradient["conv_out"]["bias"], 2 * params["conv_out"]["bias"])
    assert finetune.freeze(params, None) is params


def test_networks_that_are_not_alike_are_refused():
    params = {"a": jnp.zeros((2, 3)), "b": jnp.zeros(())}
    for given, match in (
        ({"a": jnp.zeros((2, 3))}, "Only this network has the parameter b"),
        ({**params, "c": jnp.zeros(1)}, "Only the one it starts from has the parameter c"),
        ({**params, "a": jnp.zeros((1, 3))}, r"a has shape \(2, 3\), in the network it starts from \(1, 3\)"),
        ({**params, "a": jnp.zeros((2, 4))}, "only the outputs of the last layer may grow"),
        ({**params, "b": jnp.zeros(1)}, r"b has shape \(\)"),
    ):
        with pytest.raises(ValueError, match=match):
            finetune.take_over(params, given)
    with pytest.raises(ValueError, match=r"'conv_in', which no parameter's path has; they begin with a, b"):
        finetune.trained(params, "conv_in")
    with pytest.raises(ValueError, match="expected a regular expression"):
        finetune.trained(params, "(")


MLP = [
    "data.name=moons",
    "data.n=1000",
    "data.held_out=200",
    "model.name=MLP",
    "model.width=16",
    "model.depth=1",
]  # compiles in no time
SMALL = [*MLP, "train.steps=10", "train.batch_size=8", "train.sample_every=10", "eval.samples=100"]


@pytest.fixture(scope="module")
def run_of_v(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "v"
    with pytest.MonkeyPatch.context() as patch:  # its evaluation is not what is tested
        without_samples(patch)
        train.run(runs.load("configs/vpsde.py:tiny", ["target.name=V", *SMALL]), workdir)
    return workdir


def test_a_head_is_trained_on_a_frozen_network(run_of_v, tmp_path, monkeypatch):
    without_samples(monkeypatch)
    changes = [*SMALL, "model.outputs=2", "train.only=^out/", f"train.start={run_of_v}"]
    train.run(runs.load("configs/variance.py:tiny", changes), tmp_path / "npr")
    old, new = runs.open(run_of_v), runs.open(tmp_path / "npr")
    given, got = old.params, new.params
    x = np.float32([0.3, -0.8])
    apply_of = lambda run: jax.jit(run.method.parts.network.apply)
    F, u = np.split(np.asarray(apply_of(new)(got, x, CLOCK)), 2, -1)
    np.testing.assert_allclose(F, apply_of(old)(given, x, CLOCK), atol=1e-6)
    assert np.abs(u).max() > 1e-4
    still = {**got, "out": given["out"]}
    jax.tree.map(np.testing.assert_array_equal, still, given)


SIDE = ["model.base.name=MLP", "model.base.width=16", "model.base.depth=1", "model.where=^dense", "model.classes=2"]


def test_a_side_learns_classes_beside_a_frozen_network(run_of_v, tmp_path, monkeypatch):
    """By its config: the base is that of the run, to the bit; what moves is the side, its table of labels too."""
    without_samples(monkeypatch)
    changes = [change for change in SMALL if not change.startswith("model.")] + SIDE
    train.run(runs.load("configs/finetune.py:tiny", [*changes, f"train.start={run_of_v}"]), tmp_path / "side")
    old, new = runs.open(run_of_v), runs.open(tmp_path / "side")
    jax.tree.map(np.testing.assert_array_equal, new.params["base"], old.params)
    assert np.abs(new.params["side"]["label"][:2]).max() > 0
    assert np.abs(new.params["side"]["lora"]["dense_0_0"]["B"]).max() > 0
    x, given = np.float32([0.3, -0.8]), {"label": np.int32(1)}
    F = jax.jit(new.method.parts.network.apply)(new.params, x, CLOCK, given)
    whole = models.network(models.MLP(width=16, depth=1, classes=2))
    merged = models.side.merged(new.method.parts.network, new.params)
    np.testing.assert_allclose(F, jax.jit(whole.apply)(merged, x, CLOCK, given), atol=5e-7)
    # Ten steps of a warm-up move F by some 2e-5, forty times what base and side are off by when merged.
    assert np.abs(F - jax.jit(old.method.parts.network.apply)(old.params, x, CLOCK)).max() > 5e-6


def test_a_side_net_without_a_run_or_all_trained_is_refused(run_of_v):
    """Before there is a workdir: a base of no run is random, and weight decay would move a stopped one."""
    small = [change for change in SMALL if not change.startswith("model.")] + SIDE

    def begun(start, only):
        config = runs.load("configs/finetune.py:tiny", small)
        config.train.update(dict(start=start, only=only))
        return of_runs.starting(build_run(config))

    for start, only, match in (
        (None, "^side/", r"a base and a side \(lora, s = 4\), but train.start is None"),
        (None, None, "but train.start is None"),
        (str(run_of_v), None, "but train.only is None: .*train.only=.side/"),
    ):
        with pytest.raises(ConfigError, match=match) as found:
            begun(start, only)
        assert "\n" not in str(found.value)
    assert set(begun(str(run_of_v), "^side/")) == {"start"}
    assert of_runs.starting(build_run(runs.load("configs/vpsde.py:tiny", SMALL))) == {}
    finetune.check_side(SimpleNamespace(side="lora"), {"start": "of a run with it", "only": None}, ("student",))


def objects(network, **options):
    """A Trainer of objects on the plane: nothing of a config."""
    x = np.random.default_rng(0).normal(size=(64, 2)).astype(np.float32)
    method = methods.denoising(network, processes.Gaussian(schedules.VP()), V())
    return runs.Trainer(method, data.arrays(x), optimizer=optax.adam(1e-2), batch_size=8, **options)


MODULE = models.MLP(width=8, depth=1)
sided = lambda **options: objects(models.side.lora(MODULE, rank=2, where="^dense"), **options)


def test_a_side_in_python_begins_at_a_run_of_ones_own(tmp_path):
    """A run, a function of the first parameters, and a run that has begun, which needs no start."""
    base = objects(models.of(MODULE)).train(3)
    with pytest.raises(ConfigError, match=r"a base and a side \(lora, s = 2\), but start is None: give start="):
        sided(workdir=tmp_path / "none")
    assert not (tmp_path / "none").exists()
    for start in (base, lambda params: {**params, "base": base.params}):
        run = sided(start=start, workdir=tmp_path / f"{callable(start)}").train(4)
        jax.tree.map(np.testing.assert_array_equal, run.params["base"], base.params)
        assert np.abs(run.params["side"]["lora"]["dense_0_0"]["B"]).max() > 0
    assert sided(workdir=tmp_path / "True").step == 4


def test_a_trainer_begins_where_its_config_says_or_at_a_path(run_of_v):
    changes = [change for change in SMALL if not change.startswith("model.")] + SIDE
    built = build_run(runs.load("configs/finetune.py:tiny", [*changes, f"train.start={run_of_v}"]))._asdict()
    old = runs.open(run_of_v).params
    for given in ({}, {"start": run_of_v}, {"start": str(run_of_v), "config": None}):
        got = runs.Trainer(**{**built, **given}).state.params["base"]
        jax.tree.map(np.testing.assert_array_equal, got, old)


@pytest.mark.parametrize(
    ("start", "match"),
    [
        (3, "start is of type int, expected a run, its workdir or weights file, or a function"),
        (lambda: 0, r"start is no function of one argument \(too many positional arguments\), expected a run"),
        (
            lambda params: params["base"],
            "start gives no base/dense_0_0/bias, but the network has base/dense_0_0/bias of",
        ),
        ("nowhere", "nowhere holds no run"),
    ],
)
def test_a_start_of_another_kind_is_refused_in_one_line(start, match):
    with pytest.raises(ConfigError, match=match) as found:
        sided(start=start)
    assert "\n" not in str(found.value)


def test_labels_of_the_base_itself_are_dropped_in_a_side_net():
    """model.classes is None: the base's own label is what training may be without, so guidance has its network."""
    small = [change for change in SMALL if not change.startswith("model.")] + SIDE[:-1]
    told = [*small, "model.base.classes=2", "model.classes=None", "train.label_dropout=0.1"]
    told += ["guidance.name=classifier_free"]
    method = build_run(runs.load("configs/finetune.py:tiny", told)).method
    assert (method.parts.condition.share, int(method.parts.condition.none["label"])) == (0.1, 2)


RECIPES = beside(Path(__file__).parents[1] / "configs" / "__init__.py", "finetune.py").VARIANTS


WIDE = ("tiny_control", "tiny_edges")  # the copied encoder of a small network is half of it and more
QUICK = ("lora", "edges", "points")  # one of each base and data; the others take as long


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in RECIPES])
def test_recipe_begins_at_the_run_of_its_base(name):
    """By shapes: what the network reads the data gives, the side is small, and the base is the network of the run that
    it begins from, of whose sizes it is a copy."""
    config = runs.load(f"configs/finetune.py:{name}")
    small = "vpsde.py:tiny" if name.startswith("tiny") else "vpsde.py"
    of = {"dit": "dit.py", "points": "points.py"}.get(name, small)
    method, data = build_run(config).method, build_run(config).data
    example = jax.tree.map(lambda leaf: leaf[0], data.train.gather(np.arange(1)))
    assert set(method.asks) <= set(example.given)
    start = build_run(runs.load(f"configs/{of}", [] if of in ("dit.py", "points.py") else ["target.name=V"])).method
    assert start.parts.target == method.parts.target
    old = jax.eval_shape(start.init, jax.random.key(0), example)
    params = jax.eval_shape(method.init, jax.random.key(0), example)
    got = jax.eval_shape(finetune.take_over, params, old)
    assert jax.tree.structure(got) == jax.tree.structure(params)
    mask = jax.tree.leaves(finetune.trained(params, config.train.only))
    sizes = [(leaf.size, moves) for leaf, moves in zip(jax.tree.leaves(params), mask)]
    share = sum(size for size, moves in sizes if moves) / sum(size for size, _ in sizes)
    assert share == 1 if name == "whole" else 0 < share < (0.6 if name in WIDE else 0.5)


SMALL_SIDES = {
    "configs/finetune.py:tiny_adapters": "adapters",
    "configs/finetune.py:tiny_prefix": "prefixes",
    "configs/finetune.py:tiny_ladder": "ladder",
    "configs/finetune.py:tiny_control": "control",
    "configs/finetune.py:tiny_edges": "control",
}


@pytest.fixture(scope="module")
def small_base(tmp_path_factory):
    """A run of three steps of `vpsde.py:tiny` with target V."""
    workdir = tmp_path_factory.mktemp("small") / "v"
    built = build_run(runs.load("configs/vpsde.py:tiny", ["target.name=V"]))
    with runs.Trainer(**built._asdict(), workdir=workdir) as trainer:
        trainer.train(3)  # the first has the rate 0, and the last layer is 0 until it moves
    return workdir


@pytest.mark.slow
@pytest.mark.parametrize("config", SMALL_SIDES)
def test_a_small_side_takes_steps_beside_its_base(config, small_base):
    """Three, the first of rate 0: what begins at zero moves; the base is that of the run, to the bit."""
    built = build_run(runs.load(config, [f"train.start={small_base}"]))
    run = runs.Trainer(**built._asdict()).train(3)
    jax.tree.map(np.testing.assert_array_equal, run.params["base"], runs.open(small_base).params)
    first = runs.Trainer(**built._asdict()).state.params["side"][SMALL_SIDES[config]]
    moved = jax.tree.map(lambda a, b: np.any(np.asarray(a) != b), run.state.params["side"][SMALL_SIDES[config]], first)
    assert any(jax.tree.leaves(moved))


def test_classes_begin_at_zero_in_a_network_that_had_none():
    of = lambda classes: models.network(models.MLP(width=4, depth=1, classes=classes))
    shapes = [jax.eval_shape(of(classes).init, jax.random.key(0), X[0, 0], CLOCK) for classes in (None, 3)]
    draw = np.random.default_rng(0).normal
    old, new = (jax.tree.map(lambda leaf: np.asarray(draw(size=leaf.shape), leaf.dtype), tree) for tree in shapes)
    got = finetune.take_over(new, old)
    assert not np.any(got["embedding"].pop("label")["embedding"])
    jax.tree.map(np.testing.assert_array_equal, got, old)


@pytest.fixture(scope="module")
def kept(run_of_v, tmp_path_factory):
    """Where --mode=moments left its files, and what it printed."""
    folder, printed = tmp_path_factory.mktemp("moments"), io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert command_line.main(["--mode=moments", f"--workdir={run_of_v}", f"--out={folder}"]) == 0
    return folder, printed.getvalue()


@pytest.mark.slow  # test_optimal has the moments
def test_moments_are_kept_and_sampled_with(run_of_v, kept, tmp_path, capsys):
    """The command, and a run sampled with what it wrote; without the file the error names the command."""
    folder, printed = kept
    assert "--config.denoiser.name=analytic" in printed
    found = moments.load(folder / "moments.npz")
    assert found.entries.shape == (100, 2)
    assert np.all(np.diff(found.error[:-1]) <= 0.1)  # less is missed where there is less noise
    drawn = [
        sample.run(
            run_of_v, range(4), nfe=3, out=tmp_path / name, overrides=[f"denoiser.{change}" for change in changes]
        )
        for name, changes in {
            "plain": ["name=mean"],
            "analytic": ["name=analytic", f"moments={folder / 'moments.npz'}"],
        }.items()
    ]
    assert np.abs(drawn[0] - drawn[1]).max() > 1e-2
    flags = ["--mode=sample", f"--workdir={run_of_v}", "--config.denoiser.name=analytic"]
    assert command_line.main(flags) == 2
    assert "denoisers.variance.analytic also needs moments" in capsys.readouterr().err
    assert command_line.main([*flags, "--config.denoiser.moments=nowhere.npz"]) == 2
    assert "nowhere.npz' holds no second moments" in capsys.readouterr().err


def test_axes_are_kept_and_sampled_with(run_of_v, kept, tmp_path, capsys):
    """The moments of the training points; without the file, an error; with it, samples."""
    folder, printed = kept
    assert f"--config.sampler.axes={folder / 'axes.npz'}" in printed
    axes, train = principal.Axes.load(folder / "axes.npz"), runs.open(run_of_v).data.train
    np.testing.assert_allclose(axes.basis @ axes.mean, train.gather(np.arange(len(train))).x.mean(0), atol=1e-5)
    assert f"sigma_data={1.3 * np.sqrt(np.mean(axes.variances)):.2g}" in printed
    flags = ["--mode=sample", f"--workdir={run_of_v}", "--seeds=0-3", "--sampler=principal.adams", "--nfe=4"]
    flags += ["--config.grid.name=angle", f"--out={tmp_path / 'drawn'}"]
    assert command_line.main(flags) == 2
    assert "The axes are of type NoneType, expected" in capsys.readouterr().err
    flags += [f"--config.sampler.axes={folder / 'axes.npz'}"]
    assert command_line.main(flags) == 0
    assert command_line.main([*flags, "--config.grid.n=5"]) == 2
    assert "--nfe and --config.grid.n are two names of one thing" in capsys.readouterr().err


def test_parts_are_compared_as_objects():
    """A default that is said is the one that is not; another class, schedule or option of a process is refused."""
    of = lambda process, target: SimpleNamespace(process=process, target=target)
    gaussian = processes.Gaussian(schedules.VP())
    parts.need_alike(of(gaussian, V()), of(processes.Gaussian(schedules.VP()), V(sigma_data=1.0)))
    for process, target, said in (
        (gaussian, V(sigma_data=0.5), r"target is V\(.*1.0\); this one's is V\(.*0.5\)"),
        (gaussian, Eps(), r"target is V\(.*this one's is Eps\("),
        (processes.Gaussian(schedules.Cosine()), V(), r"process is Gaussian on VP.*Gaussian on Cosine"),
        (processes.bridge(schedules.VP()), V(), r"process is Gaussian on VP.*Bridge on"),
        (dataclasses.replace(gaussian, law=lambda key, x: x), V(), "on VP.* is that with other options"),
    ):
        with pytest.raises(ValueError, match=said):
            parts.need_alike(of(gaussian, V()), of(process, target))
    with pytest.raises(ValueError, match=r"it has no process \(SimpleNamespace: .*: give a run whose process is G"):
        parts.need_alike(SimpleNamespace(), of(gaussian, V()))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        (["train.only=^out/"], "set train.start to the workdir of the run"),
        (["train.start=nowhere"], "nowhere holds no run"),
        (
            ["train.start={run}", "train.only=^out/"],
            r"cannot start from .*stay as they are, whose target is V\(.*; this one's is Eps\(",
        ),
        (["train.start={run}", "model.width=8"], "cannot start from .*: The parameter .* has shape"),
        (["denoiser.name=npr"], "denoiser.npr reads a second map of the network, which losses.npr trains; this run's"),
        (["train.start={run}", "train.only=uot"], "no parameter's path has; they begin with dense_0_0"),
    ],
)
def test_mistakes_are_one_line(run_of_v, tmp_path, changes, match, capsys):
    flags = [f"--config.{change.format(run=run_of_v)}" for change in (*SMALL, *changes)]
    assert command_line.main(["--config=configs/vpsde.py:tiny", f"--workdir={tmp_path / 'other'}", *flags]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    import re

    assert re.search(match, lines[0]), lines[0]
