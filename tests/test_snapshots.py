"""Averages stored along a run: what they hold, what is made of them, and that neither kills nor damage change it."""

import os
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from unjudged import without_samples

from diffjax import config as C
from diffjax import data, runs, snapshots, training
from diffjax.commands import sample, show, train
from diffjax.ema.power_function import exponent
from diffjax.logs import Log
from diffjax.method import Example
from diffjax.runs import build_run
from diffjax.runs.run import abstract_state
from diffjax.samplers import nfe

OVERRIDES = ["model.name=MLP", "model.width=8", "model.depth=1", "data.name=moons", "augment.name=none"]
OVERRIDES += ["target.sigma_data=1.0", "train.batch_size=8", "eval.samples=20", "eval.time_bins=2"]
OVERRIDES += ["optimizer.name=sgd", "learning_rate.peak=0.1", "sampler.name=ancestral.ddim"]


def load(*overrides):
    return runs.load("configs/edm.py:tiny", [*OVERRIDES, *overrides])


@pytest.fixture(scope="module", autouse=True)
def unjudged():
    """Runs end with their training: what their samples are worth is not what is tested."""
    with pytest.MonkeyPatch.context() as patch:
        without_samples(patch)
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of 40 steps that stores its averages every 4 of them."""
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    train.run(load(), workdir)
    return workdir


def contents(workdir: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((workdir / "ema").iterdir())}


def trajectory(steps: int):
    """The parameters after every step, from the run's own step function, and its averages at the end."""
    trainer, path = runs.Trainer(**build_run(load())._asdict()), []
    with data.Batches(trainer.data.train, 8, trainer.settings.seed) as batches:
        for _, batch in zip(range(steps), batches):
            trainer.state, _ = trainer.steps(trainer.state, batch)
            path.append(jax.device_get(trainer.state.params))
    return path, trainer.state


def test_every_fourth_step_is_stored(whole):
    assert snapshots.steps(whole) == list(range(4, 41, 4))
    with np.load(whole / "ema" / "00000012.npz") as stored:
        assert stored[".count"] == 12
        names = set(stored.files)
    state = runs.open(whole).state
    assert names == {jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(state.ema)}


def test_what_is_made_of_them_is_the_average_of_the_run(whole):
    """Of the parameters after each of 40 steps; ten storings leave an error that 40 would not."""
    run = runs.open(whole, overrides=["sample.ema=0.075"])
    state, (path, replayed) = run.state, trajectory(40)
    np.testing.assert_array_equal(*(np.asarray(jax.tree.leaves(s.params)[0]) for s in (state, replayed)))
    made = run.params
    for width, average in (("0.05", state.ema.averages["0.05"]), ("0.1", state.ema.averages["0.1"]), ("0.075", made)):
        w = np.diff((np.arange(41) / 40) ** (exponent(float(width)) + 1))
        for leaf, *course in zip(jax.tree.leaves(average), *map(jax.tree.leaves, path)):
            course = np.asarray(course, np.float64)
            expected = np.tensordot(w, course, 1)
            moved = np.abs(course - course[-1]).max() + 1e-6
            np.testing.assert_allclose(leaf, expected, atol=(1e-3 if width == "0.075" else 1e-5) * moved + 1e-6)
    other = jax.tree.leaves(state.ema.averages["0.05"])
    assert max(np.abs(a - b).max() for a, b in zip(jax.tree.leaves(made), other)) > 1e-4, "another average"


def test_sample_takes_a_width_that_was_not_tracked(whole, tmp_path):
    points = [sample.run(whole, [0, 1], out=tmp_path, overrides=[f"sample.ema={width}"]) for width in ("0.05", "0.08")]
    assert np.isfinite(points).all()
    assert np.abs(points[0] - points[1]).max() > 0


def test_an_older_checkpoint_is_served_from_what_was_stored_by_then(whole):
    run = runs.open(whole, step=30, overrides=["sample.ema=0.075"])
    assert run.step == 30
    parts = [k for k in snapshots.steps(whole) if k <= 30]
    assert parts[-1] == 28
    np.testing.assert_array_equal(*(jax.tree.leaves(p)[0] for p in (run.params, _without_later(run, whole))))


def _without_later(run, workdir):
    copy = workdir.parent / "early"
    shutil.copytree(workdir, copy)
    for path in (copy / "ema").glob("*.npz"):
        if int(path.stem) > 30:
            path.unlink()
    return run._replace(workdir=copy).params


def killed_at(workdir: Path, monkeypatch, step: int):
    """Runs until the process would have died in `snapshots.write` of a step, with half a file on the disk."""
    write = snapshots.write

    def die(where, at, state):
        if at == step:
            (where / "ema" / f"{at:08d}.npz.part").write_bytes(b"half")
            raise KeyboardInterrupt
        write(where, at, state)

    with monkeypatch.context() as patch:
        patch.setattr(snapshots, "write", die)
        with pytest.raises(KeyboardInterrupt):
            train.run(load(), workdir)


def test_killed_runs_lose_and_repeat_nothing(whole, tmp_path, monkeypatch):
    """Killed while storing steps 24 and 36, each later than the last checkpoint: the files are those of one run."""
    workdir = tmp_path / "killed"
    for step in (24, 36):
        killed_at(workdir, monkeypatch, step)
        assert snapshots.steps(workdir) == list(range(4, step, 4))
    assert "resuming at step 30" in _resume(workdir, monkeypatch)
    assert contents(workdir) == contents(whole)


def _resume(workdir, monkeypatch):
    said = []
    monkeypatch.setattr(Log, "say", lambda self, text: said.append(text))
    train.run(load(), workdir)
    return "\n".join(said)


def test_damage_is_found_and_named(whole, tmp_path):
    workdir = tmp_path / "damaged"
    shutil.copytree(whole, workdir)
    path = workdir / "ema" / "00000020.npz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    run = runs.open(workdir, overrides=["sample.ema=0.075"])
    for damaged in (bytes(content), content[:100], b""):
        path.write_bytes(damaged)
        with pytest.raises(C.ConfigError, match=r"00000020\.npz is damaged"):
            _ = run.params
    huge = {".count": np.int32(20), **{f".averages['{rate}']['w']": np.zeros(10**6) for rate in ("0.05", "0.1")}}
    for put in (path.mkdir, lambda: os.mkfifo(path), lambda: np.savez(path, **huge)):
        path.unlink(missing_ok=True)
        put()  # a pipe would be waited for
        with pytest.raises(C.ConfigError, match=r"00000020\.npz is damaged"):
            _ = run.params
        if path.is_dir():
            path.rmdir()
    path.write_bytes(b"")
    with pytest.raises(C.ConfigError, match=r"00000020\.npz is damaged"):
        sample.run(workdir, [0], out=tmp_path, overrides=["sample.ema=0.075"])
    path.unlink()
    sample.run(workdir, [0], out=tmp_path, overrides=["sample.ema=0.075"])


def test_without_stored_averages_nothing_is_made(whole, tmp_path):
    workdir = tmp_path / "bare"
    shutil.copytree(whole, workdir)
    shutil.rmtree(workdir / "ema")
    with pytest.raises(C.ConfigError, match=r"no averages stored until step 40.*tracked: 0\.05, 0\.1"):
        sample.run(workdir, [0], out=tmp_path, overrides=["sample.ema=0.075"])
    sample.run(workdir, [0], out=tmp_path)


@pytest.mark.parametrize(
    ("overrides", "match"),
    [
        (["sample.ema=0.3"], r"EMA width of 0\.3, expected a number between 0 and 0\.2887"),
        (["sample.ema=narrow"], "'narrow', expected a width such as"),
        (["ema.widths=(0.1, 0.4)"], r"EMA width of 0\.4"),
        (["sample.ema=0.075", "checkpoint.snapshot_every=30"], r"train with checkpoint\.snapshot_every <= .*; got 30"),
        (["checkpoint.snapshot_every=0"], "snapshot_every is 0, expected a multiple"),
        (["ema.name=half_life", "ema.updates=10.0", "sample.ema=half_life"], "half_life makes nothing of snapshots"),
    ],
)
def test_config_mistakes(overrides, match):
    with pytest.raises(C.ConfigError, match=match):
        build_run(load(*overrides))


def test_other_averages_are_still_named_as_before():
    with pytest.raises(C.ConfigError, match=r"sample\.ema is '0\.99': nearest is '0\.999'; it has 0\.999"):
        build_run(runs.load("configs/vpsde.py:tiny", ["sample.ema=0.99"]))


def test_the_published_recipe_in_figures():
    """Karras et al. 2022, appendix F, on CIFAR-10; only the data is missing."""
    config = runs.load("configs/edm.py:cifar10")
    train_, batch = config.train, config.train.batch_size
    assert batch == 512
    assert train_.steps * batch == pytest.approx(200e6, rel=1e-4)
    assert config.learning_rate.peak == 1e-3
    assert config.learning_rate.warmup_steps * batch == pytest.approx(10e6, rel=1e-4)
    assert config.ema.updates * batch == 500_000
    assert config.ema.ramp == 0.05
    assert (config.model.dropout, config.augment.probability, config.target.sigma_data) == (0.13, 0.12, 0.5)
    assert (config.times.mean, config.times.std) == (-1.2, 1.2)
    with pytest.raises(C.ConfigError, match=r"diffjax\.data\.prepare cifar10"):
        show.run(config)


@pytest.mark.slow
def test_the_published_recipe_trains_on_images_of_that_size(tmp_path):
    """Every shape of a training step, on stand-in images; nothing is computed."""
    path = tmp_path / "images.npz"
    np.savez(path, x=np.zeros((20, 32, 32, 3), np.uint8))
    config = runs.load("configs/edm.py:cifar10", ["data.name=npz", f"data.path={path}", "data.label=None"])
    built = build_run(config)
    step = training.make_step(built.method, built.optimizer, built.ema)
    batch = Example(jax.ShapeDtypeStruct((512, 32, 32, 3), np.float32))
    state, metrics = jax.eval_shape(step, abstract_state(built), batch)
    assert state.params["embedding"]["augment"]["kernel"].shape == (9, 128)
    assert 50e6 < sum(leaf.size for leaf in jax.tree.leaves(state.params)) < 70e6
    assert metrics["loss"].shape == ()
    assert nfe(built.method.plan(built.data.shape).walk) == 35


def test_a_file_in_the_folders_place_is_named(whole, tmp_path):
    (tmp_path / "ema").write_text("a file")
    with pytest.raises(C.ConfigError, match="ema is no folder, expected that of the stored averages"):
        snapshots.write(tmp_path, 4, runs.open(whole).state.ema)
