"""DDPM's and iDDPM's configs: their recipes, whole tiny runs, and what they refuse."""

import re
import shutil

import jax
import numpy as np
import pytest
from run_command import UNET
from unjudged import without_samples

from diffjax import config as C
from diffjax import main as command_line
from diffjax import models, runs
from diffjax.commands import sample, train
from diffjax.methods import bound
from diffjax.runs import build_run
from diffjax.runs.run import abstract_state, init_state, of

MOONS = ["data.name=moons", "model.name=MLP", "model.width=16", "model.depth=1"]  # a network that compiles in no time


def test_the_digits_recipes_keep_vpsdes_network_and_training():
    base = runs.load("configs/vpsde.py")
    for name in ("ddpm.py", "ddpm.py:kexue", "ddpm.py:cosine", "iddpm.py", "iddpm.py:vlb"):
        config = runs.load(f"configs/{name}")
        for group in ("data", "target", "optimizer", "learning_rate", "ema", "train", "checkpoint", "eval"):
            assert config[group] == base[group], (name, group)
        expected = {**base.model.to_dict(), **({"outputs": 2} if "iddpm" in name else {})}
        assert config.model.to_dict() == expected


@pytest.mark.parametrize("name", ["ddpm.py:kexue", "iddpm.py"])
def test_the_digits_recipes_build(name):
    """With a small network; their own is that of configs/vpsde.py, which `test_commands` builds."""
    schedule = build_run(runs.load(f"configs/{name}", UNET)).method.parts.schedule
    assert schedule.steps == 1000
    end = schedule(1.0)[0]
    assert 0 < end < 0.01


def test_the_published_recipes():
    """Ho et al.'s appendix B and Nichol & Dhariwal's CIFAR-10 command, as far as METHODS has them verified."""
    ddpm, iddpm = runs.load("configs/ddpm.py:cifar10"), runs.load("configs/iddpm.py:cifar10")
    assert (ddpm.schedule.name, ddpm.schedule.steps, ddpm.grid.n) == ("Tabulated.linear", 1000, 1000)
    assert (ddpm.model.dropout, ddpm.train.clip_norm, ddpm.train.batch_size) == (0.1, 1.0, 128)
    rate = ddpm.learning_rate
    assert (rate.peak, rate.schedule, rate.warmup_steps, rate.extend, rate.plans) == (2e-4, "constant", 5000, None, ())
    assert ddpm.ema.decays == iddpm.ema.decays == (0.9999,)
    assert (iddpm.schedule.name, iddpm.schedule.steps, iddpm.grid.n) == ("Tabulated.cosine", 4000, "4000")
    assert (iddpm.model.dropout, iddpm.learning_rate.peak, iddpm.loss.vlb_weight) == (0.3, 1e-4, 0.001)
    assert (iddpm.loss.levels, iddpm.model.outputs) == (256, 2)


SHORT = ["train.steps=10", "train.sample_every=10", "eval.samples=100", "checkpoint.every=5"]


@pytest.fixture(scope="module")
def vlb_run(tmp_path_factory):
    """L_vlb with importance-sampled times on a chain short enough for every time to be seen ten times: 320 draws."""
    workdir = tmp_path_factory.mktemp("runs") / "vlb"
    chain = ["schedule.name=Tabulated.cosine", "schedule.steps=8", "grid.steps=8", "prepare.name=importance"]
    loss = ["loss.name=variational", "loss.levels=None", "model.outputs=2"]
    config = runs.load("configs/iddpm.py:tiny", [*MOONS, *SHORT, *chain, *loss])
    with pytest.MonkeyPatch.context() as patch:  # its evaluation is not what is tested
        without_samples(patch)
        train.run(config, workdir)
    return workdir, config


@pytest.mark.slow  # test_importance has its memory in steps
def test_importance_sampling_trains_and_its_memory_is_saved(vlb_run):
    state = runs.open(vlb_run[0]).state
    assert state.memory.squares.shape == (8, 10)
    assert int(state.memory.count.sum()) == 10 * 32
    assert (state.memory.count >= 10).all()
    seen = np.sqrt(state.memory.squares.mean(1))
    assert seen.max() > 2 * seen.min() > 0


@pytest.mark.slow  # of the same run
def test_a_run_resumed_in_its_middle_remembers_the_losses(vlb_run, tmp_path, monkeypatch):
    """From the checkpoint at step 5 on, to the same bytes."""
    without_samples(monkeypatch)
    workdir, config = vlb_run
    shutil.copytree(workdir, tmp_path / "again")
    shutil.rmtree(tmp_path / "again" / "checkpoints" / "10")
    train.run(config, tmp_path / "again")
    one, two = (runs.open(folder).state for folder in (workdir, tmp_path / "again"))
    for a, b in zip(jax.tree.leaves((one.memory, one.params)), jax.tree.leaves((two.memory, two.params)), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
    assert int(two.memory.count.sum()) == 320


@pytest.mark.slow
def test_a_trained_run_samples_with_any_variance(vlb_run):
    """Small ones as none; a clip is obeyed; the learned one is neither of the ends."""
    run = runs.open(vlb_run[0])
    learned = run.draw(2)
    large, small, mean = (run.draw(2, denoiser=C.spec(name)) for name in ("large", "small", "mean"))
    np.testing.assert_array_equal(small, mean)
    assert min(np.abs(learned - other).max() for other in (large, small)) > 1e-3
    clipped = sample.run(vlb_run[0], [0, 1], overrides=["denoiser.name=large", "denoiser.clip=-0.25,0.25"])
    assert np.abs(clipped).max() <= 0.25


def test_the_report_bounds_the_codelength():
    built = build_run(runs.load("configs/iddpm.py:tiny", UNET))
    run = of(built, init_state(built))
    section = bound.section(run)
    bits, text = section.results["bits_per_dimension"], section.text
    for name in ("held out", "train"):
        assert bits[name]["total"] == pytest.approx(sum(bits[name][p] for p in bound.PARTS[:-1]))
    assert 1 < bits["histograms"] < np.log2(17) < bits["held out"]["total"] < np.inf, "it has learned nothing yet"
    assert text.splitlines()[-1].startswith(f"| total | {bits['held out']['total']:.3f} | {bits['train']['total']:.3f}")
    assert section == ({"bits_per_dimension": bits}, bound.table(bits), (), None)
    plain = build_run(runs.load("configs/ddpm.py:tiny", [*UNET, "denoiser.name=mean"]))
    unbound = of(plain, abstract_state(plain))  # nothing is computed where there is no variance
    assert bound.measure(unbound, plain.method.parts, unbound.params) is None
    assert bound.table(None) == ""


def test_histograms_are_counted_pixel_by_pixel():
    """Two pixels of three levels, four examples: 3 / 7 twice for the first pixel, 5 / 7 and 1 / 7 for the other."""
    train = np.asarray([[-1, 1], [-1, 1], [0, 1], [0, 1]], np.float32)
    held_out = np.asarray([[-1, 1], [0, -1]], np.float32)
    expected = -(2 * np.log2(3 / 7) + np.log2(5 / 7) + np.log2(1 / 7)) / 4
    assert bound.histograms(train, held_out, 3) == pytest.approx(expected)


MISTAKES = {
    "one map": (["iddpm.py:tiny", "--config.model.outputs=1"], r"2 map\(s\) per channel .*`outputs`"),
    "two maps, one trained": (["ddpm.py:tiny", "--config.model.outputs=2"], "for a second map"),
    "clip": (["ddpm.py:tiny", "--config.denoiser.clip=1.0,-1.0"], "low < high"),
    "levels": (["iddpm.py:tiny", "--config.loss.levels=1"], "levels = 1, expected an integer >= 2"),
    "times off the chain": (["iddpm.py:tiny", "--config.times.name=uniform"], "none of the 1000 times"),
    "times of another chain": (["iddpm.py:tiny", "--config.times.steps=999"], "none of the 1000 times"),
    "importance of another chain": (
        ["iddpm.py:tiny", "--config.prepare.name=importance", "--config.prepare.steps=999"],
        "none of the 1000 times",
    ),
    "unknown denoiser": (
        ["ddpm.py:tiny", "--config.denoiser.name=sigma_large"],
        "it has analytic, energy, large",
    ),
    "unknown loss": (["ddpm.py:tiny", "--config.loss.name=hybird"], "nearest is 'hybrid'"),
    "unknown option": (["iddpm.py:tiny", "--config.loss.vlb_wieght=1"], "nearest is 'vlb_weight'"),
    "unknown preparation": (["ddpm.py:tiny", "--config.prepare.name=nothign"], "nearest is 'nothing'"),
    "sections": (["iddpm.py:tiny", "--config.grid.n=10;20"], "expected counts such as"),
    "no chain": (["ddpm.py:tiny", "--config.schedule.steps=0"], "expected an integer >= 1"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_one_line_and_touch_nothing(mistake, tmp_path, monkeypatch, capsys):
    (config, *arguments), match = MISTAKES[mistake]
    monkeypatch.chdir(tmp_path)
    assert command_line.main([f"--config=configs/{config}", *arguments]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert re.search(match, lines[0]), lines[0]
    assert list(tmp_path.iterdir()) == []


def test_a_config_may_start_from_its_neighbour_or_from_the_packages(tmp_path):
    """A copy alone in a folder starts from ours; beside a file of that name, from that one."""
    source = "from diffjax.config import beside\nget_config = lambda variant: beside(__file__, 'vpsde.py').tiny()\n"
    (tmp_path / "mine.py").write_text(source)
    path = str(tmp_path / "mine.py")
    assert C.load(path).train == C.load("configs/vpsde.py:tiny").train
    (tmp_path / "vpsde.py").write_text(
        "from ml_collections import ConfigDict\n\ntiny = lambda: ConfigDict(dict(a=3))\n"
    )
    assert C.load(path).a == 3
    (tmp_path / "lost.py").write_text(source.replace("vpsde", "vpsd"))
    with pytest.raises(C.ConfigError, match="nearest is 'configs/vpsde\\.py'"):
        C.load(str(tmp_path / "lost.py"))


def test_recipes_are_fresh_each_time():
    one = runs.load("configs/ddpm.py:tiny")
    with one.unlocked():
        one.train.steps = 77
    assert runs.load("configs/ddpm.py:tiny").train.steps == 40


def test_networks_return_their_maps_one_after_the_other():
    """The U-Net with patches: the last layer's bias, laid out by hand; the MLP: its shape."""
    unet = models.UNet(channels=8, multipliers=(1,), attention=(), patch=2, outputs=2)
    x, c = np.ones((4, 4, 3), np.float32), np.float32(0)
    shapes = jax.eval_shape(models.network(unet).init, jax.random.key(0), x, c)
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
    assert params["conv_out"]["bias"].shape == (24,)
    params["conv_out"]["bias"] = np.arange(24, dtype=np.float32)
    F = np.asarray(jax.jit(models.network(unet).apply)(params, x, c))
    for i, j, one, channel in np.ndindex(4, 4, 2, 3):
        assert F[i, j, 3 * one + channel] == 12 * one + 6 * (i % 2) + 3 * (j % 2) + channel
    mlp, x = models.network(models.MLP(8, 1, outputs=3)), x[0, 0]
    assert jax.eval_shape(lambda: mlp.apply(mlp.init(jax.random.key(0), x, c), x, c)).shape == (9,)
    for bad in (0, 1.5, True):
        for net in (models.MLP, models.UNet):
            with pytest.raises(ValueError, match=r"outputs = .*expected a positive integer"):
                net(outputs=bad)
