"""What is at hand: names of the package, the line that opens a command, short names of samplers, words of a draw."""

import inspect
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import optax
import pytest
from own_objects import SMALL, VP, denoising, trainer

import diffjax
from diffjax import bounds, denoisers, diagnosis, grids, methods, samplers, specs
from diffjax import main as command_line
from diffjax.config import ConfigError, maker, spec
from diffjax.denoisers import guidance

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", diffjax.__all__)
def test_each_name_of_the_package_is_there(name):
    assert getattr(diffjax, name) is not None
    assert name in dir(diffjax)


def test_a_name_brings_its_own_part_alone():
    code = "import sys, diffjax; print('jax' in sys.modules); diffjax.schedules; print('diffjax.runs' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.split() == ["False", "False"], done.stderr


def test_a_name_that_there_is_not_has_a_nearest():
    with pytest.raises(AttributeError, match=r"^diffjax has no 'Trainr': nearest is 'Trainer'"):
        _ = diffjax.Trainr


# --- the line that opens a command


def test_the_line_names_device_jax_memory_and_folder(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    diffjax.doctor()
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"diffjax {diffjax.__version__}, jax ")
    assert "(tested)" in line
    assert f"{bounds.written(bounds.at_hand())}, runs in {tmp_path / 'runs'}" in line


def test_it_opens_a_command(capsys):
    flags = ["data.name=moons", "model.name=MLP", "model.width=8", "model.depth=1"]
    words = [f"--config.{flag}" for flag in flags]
    assert command_line.main(["--mode=show", "--config=configs/vpsde.py:tiny", *words]) == 0
    assert capsys.readouterr().out.startswith("diffjax ")


def test_the_options_that_a_config_leaves_out_are_shown(capsys):
    """With their defaults, by the group that sets them; those that it says are in the config above."""
    flags = ["data.name=moons", "data.n=200", "model.name=MLP", "model.width=8", "model.depth=1", "sampler.name=heun"]
    words = [f"--config.{flag}" for flag in flags]
    assert command_line.main(["--mode=show", "--config=configs/vpsde.py:tiny", *words]) == 0
    lines = capsys.readouterr().out.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("defaults "))
    shown = {line.split()[0]: line.split(maxsplit=1)[1] for line in lines[at + 1 : lines.index("", at)]}
    fields = {"data": ("held_out=2000", "noise=0.05", "seed=0"), "schedule": ("t_max=1.0",)}
    own = ("classes=None", "dropout=0.0", "embedding=positional", "outputs=1", "condition=0", "gap=0", "dtype=float32")
    assert shown["model"].split(", ") == list(own)
    for group, expected in fields.items():
        assert shown[group].split(", ") == list(expected)
    defaults = inspect.signature(samplers.heun.edm).parameters
    assert [text.partition("=")[0] for text in shown["sampler"].split(", ")] == list(defaults)[1:]
    assert "prepare" not in shown  # "nothing" has no options


def test_what_is_built_is_noted_while_it_is_looked_for_alone():
    with specs.noted() as book:
        maker(samplers, spec("ddim", eta=0.5), 1)
    maker(samplers, spec("heun"), 1)
    assert [dict(one) for one, _ in book] == [{"name": "ddim", "eta": 0.5}] * 2
    with specs.noted() as called:  # with one argument, which is no option then, whatever its default
        maker(SimpleNamespace(f=lambda first=0, second=(1, 2): None), spec("f"), 1)
    assert called[-1] == ({"name": "f"}, {"second": (1, 2)})
    assert specs.unsaid({"sampler": spec("ddim", eta=0.5), "seed": 0, "grid": spec("other")}, book) == {}
    assert specs.unsaid({"sampler": spec("heun")}, [({"name": "heun"}, {"a": (1, None), "b": "x"})]) == {
        "sampler": "a=(1, None), b=x"
    }


@pytest.mark.parametrize(
    ("version", "tested"),
    [("0.7.1", False), ("0.7.2", True), ("0.10.2", True), ("0.12.0.1", True), ("0.12.3", True), ("0.13.0", False)],
)
def test_which_jax_is_tested(version, tested):
    assert diagnosis.is_tested(version) == tested


def test_the_oldest_that_is_tested_is_that_of_the_constraints():
    assert f"jax=={diagnosis.TESTED[0]} " in (ROOT / "constraints/oldest.txt").read_text()
    assert f"newest jax {diagnosis.TESTED[1]} " in (ROOT / "pyproject.toml").read_text()


def test_memory_is_a_devices_own():
    device = lambda **stats: SimpleNamespace(platform="gpu", memory_stats=lambda: stats)
    assert diagnosis.memory(device(bytes_limit=7)) == 7
    assert diagnosis.memory(device()) == bounds.at_hand()


@pytest.mark.parametrize(
    ("there", "platform", "chosen", "expected"),
    [
        ("/dev/nvidia0", "cpu", None, ["a GPU is in this machine and not in use; for it: pip install 'diffjax[cuda]'"]),
        ("/dev/nvidia0", "cpu", "cpu", ["a GPU is in this machine and not in use; JAX_PLATFORMS=cpu hides it"]),
        ("/dev/vfio/0", "cpu", None, ["a TPU is in this machine and not in use; for it: pip install 'diffjax[tpu]'"]),
        ("/dev/nvidia0", "gpu", None, []),
        ("", "cpu", None, []),
    ],
)
def test_what_to_do_where_a_device_is_not_in_use(there, platform, chosen, expected, monkeypatch):
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    if chosen:
        monkeypatch.setenv("JAX_PLATFORMS", chosen)
    assert diagnosis.hints(platform, lambda path: path == there) == expected


# --- short names


@pytest.mark.parametrize(
    ("short", "full"),
    [
        ("ddim", "ancestral.ddim"),
        ("dpmpp_2m", "multistep.dpmpp_2m"),
        ("heun", "heun.edm"),
        ("heun.edm", "heun.edm"),
        ("probability_flow", "ode.probability_flow"),
    ],
)
def test_a_module_may_be_left_out_where_one_alone_has_the_member(short, full):
    made = maker(samplers, spec(short), 1)
    assert made.spec["name"] == full
    assert made.func is maker(samplers, spec(full), 1).func


def test_a_name_of_several_modules_is_refused_with_all_of_them():
    with pytest.raises(ConfigError, match=r"'adams' may be any of multistep\.adams, principal\.adams, trigflow\.adams"):
        maker(samplers, spec("adams"), 1)
    assert specs.in_full(grids, "karras") == "karras"


# --- words of a draw


@pytest.fixture(scope="module")
def run():
    return trainer(denoising(condition=methods.Condition({"label": np.int32(2)}, 0.1))).train(10)


def test_words_are_the_parts_that_they_name(run):
    grid = partial(run.method.parts.grid, n=3)
    parts = dict(sampler=samplers.multistep.dpmpp_2m, grid=grid, guidance=partial(guidance.classifier_free, w=2.0))
    expected = run.draw(4, label=1, **parts)
    found = run.draw(4, label=1, sampler="dpmpp_2m", nfe=3, guidance=2)
    np.testing.assert_array_equal(found, expected)
    assert np.abs(found - run.draw(4, label=1, sampler="dpmpp_2m", nfe=3)).max() > 1e-4


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (dict(sampler="dpmp_2m"), "nearest is 'multistep.dpmpp_2m'"),
        (dict(sampler="adams"), "may be any of"),
        (dict(nfe=0), "expected an integer >= 1"),
        (dict(nef=3), "nearest is 'nfe'"),
        (dict(guidance="classifier_fre", label=1), "nearest is 'classifier_free'"),
    ],
)
def test_slips_are_one_line(run, words, match):
    with pytest.raises(ValueError, match=match) as error:
        run.draw(2, **words)
    assert "\n" not in str(error.value)


def test_guidance_needs_a_network_that_knows_no_condition():
    untrained = diffjax.Trainer(
        methods.denoising(denoising().parts.network, VP, denoisers.V()), SMALL, optimizer=optax.sgd(0.1), batch_size=8
    )
    with pytest.raises(ConfigError, match=r"guidance=2\.0 needs a network that was trained without its condition too"):
        untrained.sample(2, label=1, guidance=2.0)
