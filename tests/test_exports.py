"""Weights files of runs: they draw alike where there is no run and no data, and what is wrong with one is one line."""

import json
import os
import shutil
import subprocess
import sys
from functools import partial

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from image_files import fill
from own_objects import pulled, two_players
from run_command import UNET, environment
from safetensors import numpy as library

from diffjax import data, disk, exports, runs, standalone, weights
from diffjax import main as command_line
from diffjax.commands import export, train
from diffjax.config import ConfigError
from diffjax.runs import run as of_runs

TINY = "configs/vpsde.py:tiny"
SMALL = ["model.name=MLP", "model.width=8", "model.depth=1", "target.name=V", "sample.chunk=4"]
PHOTOS = [*UNET, "target.name=V", "sample.chunk=4", "data.name=folder", "model.classes=3", "eval.samples=4"]
NAMES = ("cat", "dog", "flower")


def moved(state, noise=0.3):
    """A state whose averages are others than its parameters, and in which no layer is zero."""
    rng = np.random.default_rng(0)
    other = lambda leaf: leaf + jnp.asarray(noise * rng.normal(size=leaf.shape), leaf.dtype)
    return state._replace(ema=state.ema._replace(averages=jax.tree.map(other, state.ema.averages)))


def settled(config):
    """A run that no step was trained of."""
    built = runs.build_run(config)
    return of_runs.of(built, moved(of_runs.init_state(built)))


@pytest.fixture(scope="module")
def folder_run(tmp_path_factory):
    """A workdir on a folder of three classes, untrained, and its export; what it drew; the folder is gone."""
    root = tmp_path_factory.mktemp("weights")
    fill(root / "photos", [f"{name}/{i}.png" for name in NAMES for i in range(5)])
    built = runs.build_run(runs.load(TINY, [*PHOTOS, f"data.path={root / 'photos'}"]))
    with runs.Trainer(**built._asdict(), workdir=root / "run") as trainer:
        trainer.state = moved(trainer.state)
        trainer._save()
    drawn = runs.open(root / "run").draw(6), runs.open(root / "run").draw(3, label="dog")
    export.run(root / "run", root / "out", compiled=True)
    (root / "photos").rename(root / "away")
    return root, drawn


# Runs.


@pytest.mark.slow  # two more processes
def test_a_process_without_data_and_run_draws_alike(folder_run, tmp_path):
    """The workdir, moved, and the file: data gone, another working directory, nothing of the process that trained."""
    root, (drawn, dogs) = folder_run
    moved = tmp_path / "elsewhere"
    shutil.copytree(root / "run", moved / "run")
    shutil.copy(root / "out/model.safetensors", moved / "any name")
    code = """if True:
        import sys, numpy as np, diffjax
        for path in sys.argv[1:]:
            run = diffjax.open(path)
            assert run.step == 0 and run.data.names == ("cat", "dog", "flower") and run.data.shape == (4, 4, 3)
            x = run.denoiser(label="flower")(np.zeros((4, 4, 3), np.float32), np.float32(0.3)).mean
            np.savez(path + ".npz", all=run.draw(6), dogs=run.draw(3, label="dog"), ones=run.draw(3, label=1), x=x)
    """
    options = dict(cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False)
    done = subprocess.run([sys.executable, "-c", code, str(moved / "run"), str(moved / "any name")], **options)
    assert done.returncode == 0, done.stderr
    assert "the data are not here, their card is" in done.stdout
    assert str(root / "photos") in done.stdout
    for name in ("run", "any name"):
        with np.load(moved / f"{name}.npz") as found:
            np.testing.assert_array_equal(found["all"], drawn)
            np.testing.assert_array_equal(found["dogs"], dogs)
            np.testing.assert_array_equal(found["ones"], dogs)
            assert found["x"].shape == (4, 4, 3)
    assert not np.array_equal(drawn[:3], dogs)


def test_what_needs_examples_says_that_they_are_not_here(folder_run, tmp_path, capsys):
    root, _ = folder_run
    for path in (root / "run", root / "out/model.safetensors"):
        before = sorted(root.rglob("*"))
        assert command_line.main(["--mode=eval", f"--workdir={path}", f"--out={tmp_path / 'eval'}"]) == 2
        line = capsys.readouterr().err.splitlines()[-1]
        assert line.startswith("error: This needs examples of the data, which are not here: ")
        assert ("photos" in line) == (path.name == "run")
        assert sorted(root.rglob("*")) == before
        assert not (tmp_path / "eval").exists()
        with pytest.raises(ConfigError, match="nearest is 'dog'"):
            runs.open(path).draw(1, label="doge")


def test_a_file_is_sampled_by_the_command(folder_run, tmp_path, capsys):
    root, (drawn, _) = folder_run
    shutil.copy(root / "out/model.safetensors", tmp_path)
    assert command_line.main(["--mode=sample", f"--workdir={tmp_path / 'model.safetensors'}", "--seeds=0-5"]) == 0
    assert f"in {tmp_path / 'samples' / 'seeds'}" in capsys.readouterr().out
    with np.load(tmp_path / "samples/seeds/samples.npz") as found:
        np.testing.assert_array_equal(found["x"], drawn)


def test_an_older_workdir_needs_its_data(folder_run, tmp_path):
    root, _ = folder_run
    shutil.copytree(root / "run", tmp_path / "run")
    (tmp_path / "run/data.json").unlink()
    with pytest.raises(ConfigError, match="photos"):
        runs.open(tmp_path / "run")


def test_data_that_changed_are_named_and_a_card_is_written_once(folder_run, tmp_path, capsys):
    root, _ = folder_run
    kept = root / "run" / "data.json"
    dataset = data.moons(n=50)
    assert data.here_or_kept(lambda: dataset, root / "run") is dataset
    assert "is not what the run was trained on" in capsys.readouterr().out
    shutil.copy(kept, tmp_path)
    kept, before = tmp_path / "data.json", (tmp_path / "data.json").stat().st_mtime_ns
    data.keep_card(tmp_path, data.of_card(disk.read_json(kept), "x", "gone"))
    assert kept.stat().st_mtime_ns == before
    data.keep_card(tmp_path, dataset)
    assert disk.read_json(kept)["name"] == "moons"


@pytest.mark.parametrize(
    "how", ["entries", *(pytest.param(how, marks=pytest.mark.slow) for how in ("channels", "whole"))]
)
def test_units_go_with_the_file(tmp_path, how):
    """What is drawn is in the data's units, of numbers that differ in every last digit."""
    x = 100 + np.random.default_rng(0).normal(size=(40, 2)) * [3.0, 1 / 7]
    np.savez(tmp_path / "x.npz", x=x)
    words = [*SMALL, "data.name=npz", f"data.path={tmp_path / 'x.npz'}", "data.label=None", f"data.standardize={how}"]
    run = settled(runs.load(TINY, [*words, "eval.samples=4"]))
    run.export(tmp_path / "w.safetensors")
    (tmp_path / "x.npz").unlink()
    found = runs.open(tmp_path / "w.safetensors")
    np.testing.assert_array_equal(found.draw(5), run.draw(5))
    np.testing.assert_array_equal(found.data.shown(np.zeros((1, 2))), run.data.shown(np.zeros((1, 2))))
    u = run._replace(data=run.data._replace(units=None)).draw(5).astype(np.float64)
    by_hand = run.data.units.mean + run.data.units.scale * u
    np.testing.assert_allclose(found.draw(5), by_hand, rtol=1e-6)


OTHERS = {
    "players": ("monoflow", []),
    "tokens": ("masked", []),
    "memory": ("vdm", [*SMALL, "data.name=moons", "weight.name=unit", "denoiser.name=mean", "data.n=200"]),
    "flow map": ("flow_map", []),
    "autoencoder": ("autoencoder", []),
    "coupling flow": ("coupling_flow", []),
}


@pytest.mark.parametrize("kind", [pytest.param(k, marks=[pytest.mark.slow] * (i > 0)) for i, k in enumerate(OTHERS)])
def test_every_method_draws_from_its_file_as_from_its_run(tmp_path, kind):
    name, words = OTHERS[kind]
    run = settled(runs.load(f"configs/{name}.py:tiny", [*words, "sample.chunk=4"]))
    if jax.tree.leaves(run.state.memory):
        bent = lambda leaf: leaf + jnp.asarray(0.3, leaf.dtype) if leaf.dtype == jnp.float32 else leaf
        run = of_runs.of(runs.build_run(run.config), run.state._replace(memory=jax.tree.map(bent, run.state.memory)))
    run.export(tmp_path / "w.safetensors")
    found = runs.open(tmp_path / "w.safetensors")
    np.testing.assert_array_equal(found.draw(4), run.draw(4))
    names = set(weights.header(tmp_path / "w.safetensors").entries)
    assert any(name.startswith("memory/") for name in names) == (kind == "memory")
    if kind == "players":
        assert {name.split("/")[0] for name in names} == {"generator"}


def test_a_bridge_without_data_is_told_its_endpoints(tmp_path):
    words = [*UNET, "sample.chunk=4", "grid.n=3"]
    run = settled(runs.load("configs/bridge.py:tiny", words))
    run.export(tmp_path / "w.safetensors")
    found = runs.open(tmp_path / "w.safetensors")
    with pytest.raises(ConfigError, match=r"not here: .*holds weights alone, no data. Give y=\.\.\. for each sample"):
        found.draw(3)
    y = run.given(range(3))["y"]
    np.testing.assert_array_equal(found.draw(3, y=y), run.draw(3))


def test_a_run_of_objects_gives_its_parameters(tmp_path):
    run = pulled(steps=2, log_every=2, ema="0.5").run()
    run = run._replace(state=run.state._replace(ema=run.state.ema._replace(averages={"0.5": {"m": jnp.arange(2.0)}})))
    run.export(tmp_path / "w.safetensors")
    with pytest.raises(ConfigError, match=r"run of objects, .*exports.parameters, .*w.safetensors"):
        runs.open(tmp_path / "w.safetensors")
    other = pulled(steps=2, log_every=2, start=partial(exports.parameters, tmp_path / "w.safetensors"))
    np.testing.assert_array_equal(other.state.params["m"], [0.0, 1.0])
    params = two_players().init(jax.random.key(0), None)
    with pytest.raises(ConfigError, match="has no parameter 'critic/c'"):
        exports.parameters(tmp_path / "w.safetensors", params)


def test_training_starts_from_a_file(folder_run, tmp_path, capsys):
    root, _ = folder_run
    file = root / "out/model.safetensors"
    start = [*PHOTOS, f"data.path={root / 'away'}", f"train.start={file}"]
    built = runs.build_run(runs.load(TINY, start))
    begun = runs.Trainer(**built._asdict()).state.params
    assert f"starting from {file}, step 0" in capsys.readouterr().out
    jax.tree.map(np.testing.assert_array_equal, begun, runs.open(root / "run").params)
    for more, words in (
        (["model.channels=8"], r"cannot start from .*kernel has shape \(.*\), in the network it starts from \("),
        (["model.blocks=2"], "Only this network has the parameter"),
        (["train.carry=state"], "is a file, expected the workdir of a training run"),
        (["train.only=conv_out", "target.name=Eps"], "whose target is"),
        (["train.start=nothere.safetensors"], "holds no run"),
    ):
        with pytest.raises(ConfigError, match=words):
            train.run(runs.load(TINY, [*start, *more]), tmp_path / "refused")


def test_what_is_asked_of_a_file_is_what_it_holds(folder_run, tmp_path, capsys):
    root, _ = folder_run
    file = root / "out/model.safetensors"
    for options, words in (
        (dict(step=1), "step is 1, but .* holds 0 alone"),
        (dict(overrides=["sample.ema=0.5"]), "sample.ema is '0.5'"),
        (dict(overrides=["train.steps=5"]), "would change a trained run"),
        (dict(overrides=["train.tensor=2"]), "a weights file, .* is read whole: leave train.fsdp and train.tensor out"),
        (dict(overrides=["sampler.name=heum"]), "nearest is 'heun"),
    ):
        with pytest.raises(ConfigError, match=words):
            runs.open(file, **options)
    assert not np.array_equal(runs.open(file, overrides=["grid.n=3"]).draw(2), runs.open(file).draw(2))
    for mode in ("replay", "train", "show"):
        words = ["--step=1"] if mode == "replay" else []
        assert command_line.main([f"--mode={mode}", f"--workdir={file}", *words]) == 2
        assert "is a file, expected" in capsys.readouterr().err
    out = tmp_path / "again"
    assert command_line.main(["--mode=export", f"--workdir={file}", f"--out={out}", "--nfe=3"]) == 0
    assert runs.open(out / "model.safetensors").config.grid.n == 3


# The compiled sampler.


def test_the_sampler_runs_where_diffjax_is_not(folder_run, tmp_path):
    """The lines of sampler.md, in a process that cannot import diffjax: samples to the bit."""
    root, (drawn, dogs) = folder_run
    text = (root / "out/sampler.md").read_text()
    lines = [line[4:] for line in text.splitlines() if line.startswith("    ")]
    program = "\n".join(lines).replace("...", "np.int32([0, 1, 2, 0])")
    code = f"import sys\nsys.modules['diffjax'] = None\n{program}\nnp.save('x.npy', x)\n"
    code += "given = {'label': np.int32([1, 1, 1, 1])}\nnp.save('dogs.npy', draw(seeds, given))\n"
    for name in ("sampler.jaxexport", "sampler.md"):
        shutil.copy(root / "out" / name, tmp_path)
    env = {name: value for name, value in environment().items() if name != "PYTHONPATH"}
    options = dict(cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    done = subprocess.run([sys.executable, "-c", code], **options)
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), drawn[:4])
    np.testing.assert_array_equal(np.load(tmp_path / "dogs.npy")[:3], dogs)
    assert "cpu, cuda, tpu" in text
    assert f"{(root / 'out/sampler.jaxexport').stat().st_size:,} bytes" in text


def test_a_compiled_sampler_has_the_datas_units(tmp_path):
    x = 100 + np.random.default_rng(0).normal(size=(40, 2)) * [3.0, 1 / 7]
    np.savez(tmp_path / "x.npz", x=x)
    words = [*SMALL, "data.name=npz", f"data.path={tmp_path / 'x.npz'}", "data.label=None", "data.standardize=entries"]
    run = settled(runs.load(TINY, [*words, "eval.samples=4"]))
    standalone.write(tmp_path, run.method, run.params, run.data, 4)
    draw = jax.export.deserialize(bytearray((tmp_path / "sampler.jaxexport").read_bytes())).call
    np.testing.assert_allclose(draw(np.arange(4, dtype=np.uint32), {}), run.draw(4), rtol=1e-6)


def test_where_flatbuffers_is_missing_one_line_says_so(folder_run, tmp_path, monkeypatch, capsys):
    root, _ = folder_run
    monkeypatch.setitem(sys.modules, "flatbuffers", None)
    words = ["--mode=export", f"--workdir={root / 'run'}", f"--out={tmp_path / 'x'}", "--compiled"]
    assert command_line.main(words) == 2
    assert "needs flatbuffers: pip install 'diffjax[compiled]'" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


# Files that lie of their run.


def changed(file, path, change=lambda facts: None, arrays=lambda found: found):
    """A copy of a weights file whose facts, or arrays, are others, of right form: the library writes it."""
    found = library.load_file(file)
    texts = weights.header(file).texts
    facts = json.loads(texts["diffjax"])
    facts = change(facts) or facts
    text = facts if isinstance(facts, str) else json.dumps(facts)
    library.save_file(arrays(found), path, {"diffjax": text})


def deep(levels):
    return {"name": deep(levels - 1)} if levels else {}


FACTS = {
    "a newer format": (lambda f: f.update(format=2), "has format 2, expected 1 at most: it is of a newer diffjax"),
    "a format of text": (lambda f: f.update(format="1"), "has format 1, expected"),
    "no facts": (lambda f: f.clear(), "has format 0"),
    "no JSON": (lambda f: "{", "is no JSON"),
    "a step below 0": (lambda f: f.update(step=-1), "step in its header is -1"),
    "a step of many digits": (lambda f: f.update(step=10**1000), "step in its header"),
    "no config": (lambda f: f.pop("config") and None, "config in its header is None, expected dict"),
    "a config of nothing": (lambda f: f.update(config={}), "expected float32 of shape"),
    "a config that is deep": (lambda f: f["config"].update(model=deep(50)), "nested deeper than"),
    "a config of another group": (lambda f: f["config"].update(evil={}), "group 'evil' that nobody reads"),
    "a config of a module": (
        lambda f: f["config"].update(model={"name": "os:system", "command": "touch EXECUTED"}),
        "names code to be imported and called, os:system",
    ),
    "a config of a dotted module": (
        lambda f: f["config"]["model"].update(name="os.system"),
        "models has no 'os.system'",
    ),
    "a huge network": (lambda f: f["config"]["model"].update(channels=10**9), "memory|channels"),
    "steps that are a list": (lambda f: f["config"]["train"].update(steps=[1]), "train.steps"),
    "another network": (
        lambda f: f["config"]["model"].update(channels=8),
        r"is float32 of shape \(.*\), expected float32",
    ),
    "a deeper network": (lambda f: f["config"]["model"].update(blocks=3), "has no parameter"),
    "another average": (lambda f: f.update(ema="0.5"), "sample.ema is '0.999', but .* holds '0.5'"),
    "no data": (lambda f: f.update(data=None), "card of the data has format 0"),
    "a newer card": (lambda f: f["data"].update(format=9), "card of the data has format 9"),
    "a card without x": (lambda f: f["data"].pop("x") and None, "it lacks 'x'"),
    "a huge example": (lambda f: f["data"]["x"].update(shape=[10**9, 10**9]), "expected at most"),
    "an example of no axes": (lambda f: f["data"]["x"].update(shape=[]), r"\(\)|axes|shape"),
    "an example of objects": (lambda f: f["data"]["x"].update(dtype="object"), "dtype object"),
    "a negative example": (lambda f: f["data"]["x"].update(shape=[-4, 4, 3]), "expected a list of a few integers"),
    "another example": (lambda f: f["data"]["x"].update(shape=[4, 4, 1]), r"is float32 of shape|kernel|expected"),
    "classes without number": (lambda f: f["data"].update(classes=10**12), "classes is"),
    "names of other classes": (lambda f: f["data"].update(names=["a"]), "1 names of 3 classes"),
    "a name that is a list": (lambda f: f["data"].update(names=[["a"], "b", "c"]), "name of a class"),
    "names that are text": (lambda f: f["data"].update(names="abc"), "expected a list of texts"),
    "labels beyond the classes": (lambda f: f["data"].update(labels=[0, 7]), "labels are"),
    "labels that fall": (lambda f: f["data"].update(labels=[1, 0]), "labels are"),
    "units without scale": (lambda f: f["data"].update(units={"mean": 0, "range": [0, 1]}), "it lacks 'scale'"),
    "units of 0": (lambda f: f["data"].update(units={"mean": 0, "scale": 0, "range": [0, 1]}), "scale positive"),
    "units of no number": (
        lambda f: f["data"].update(units={"mean": float("nan"), "scale": 1, "range": [0, 1]}),
        "have to be finite",
    ),
}


@pytest.mark.parametrize("what", FACTS)
def test_a_header_that_lies_of_its_run_is_refused_in_one_line(folder_run, tmp_path, monkeypatch, what):
    monkeypatch.chdir(tmp_path)
    change, words = FACTS[what]
    changed(folder_run[0] / "out/model.safetensors", tmp_path / "w.safetensors", change)
    with pytest.raises(ConfigError, match=words) as caught:
        runs.open(tmp_path / "w.safetensors")
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 1600
    assert os.listdir(tmp_path) == ["w.safetensors"]


def test_arrays_that_are_others_are_refused(folder_run, tmp_path):
    file, path = folder_run[0] / "out/model.safetensors", tmp_path / "w.safetensors"
    first = next(iter(library.load_file(file)))
    for arrays, words in (
        (lambda a: {**a, "more": np.zeros(1)}, "'more' is no parameter of this network"),
        (lambda a: {k: v for k, v in a.items() if k != first}, f"has no parameter '{first}'"),
        (lambda a: {**a, first: a[first].astype(np.float16)}, f"{first} is float16 of shape"),
        (lambda a: {**a, first: a[first][..., None]}, f"{first} is float32 of shape"),
        (lambda a: {**a, first: a[first] * np.nan}, f"{first} holds numbers that are not finite"),
    ):
        changed(file, path, arrays=arrays)
        with pytest.raises(ConfigError, match=words):
            runs.open(path)
    content = bytearray(file.read_bytes())
    content[-2] ^= 1  # a bit of the last number
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="is damaged: its numbers are not those that were written"):
        runs.open(path)
    changed(file, path)  # without a digest there is nothing to hold them against
    np.testing.assert_array_equal(runs.open(path).draw(2), runs.open(file).draw(2))


@pytest.mark.parametrize("content", ["{", "[]", '{"format": 9}', '{"format": 1, "x": []}'])
def test_a_card_that_is_damaged_is_named(folder_run, tmp_path, content):
    shutil.copytree(folder_run[0] / "run", tmp_path / "run")
    (tmp_path / "run/data.json").write_text(content)
    with pytest.raises(ConfigError, match=r"data\.json"):
        runs.open(tmp_path / "run")
