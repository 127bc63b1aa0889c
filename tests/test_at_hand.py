"""What is at hand: names of the package, the line that opens a command, short names of samplers, words of a draw."""

import inspect
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from own_objects import SMALL, denoising, trainer

import diffjax
from diffjax import bounds, data, diagnosis, grids, methods, models, samplers, specs
from diffjax import main as command_line
from diffjax.config import ConfigError, maker, spec
from diffjax.denoisers import guidance
from diffjax.runs import checks

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
        (dict(w=3.0), "draw knows no 'w': give guidance=3.0, a scale"),
        (dict(guidance="classifier_fre", label=1), "nearest is 'classifier_free'"),
    ],
)
def test_slips_are_one_line(run, words, match):
    with pytest.raises(ValueError, match=match) as error:
        run.draw(2, **words)
    assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def never_hidden():
    """A run whose network always saw its label."""
    return trainer(denoising()).run()


def of_ones_own(branch, given, hidden):
    return guidance.extrapolated(branch(given), branch(hidden), 2.0)


GUIDES = {
    "a number": 2.0,
    "by its name": {"name": "classifier_free", "w": 2.0},
    "a function": partial(guidance.classifier_free, w=2.0),
    "one's own": of_ones_own,
    "one that looks": lambda branch, given, hidden: branch({**given, "label": hidden["label"]}),
}


@pytest.mark.parametrize("name", GUIDES)
def test_guidance_needs_a_network_that_knows_no_condition(never_hidden, name):
    how, x = GUIDES[name], np.zeros((1, 2), np.float32)
    calls = (
        lambda: never_hidden.draw(2, label=1, guidance=how),
        lambda: never_hidden.edit(x, 0.5, guidance=how),
        lambda: never_hidden.restore(x[0], lambda x: x, guidance=how),
    )
    for call in calls:
        with pytest.raises(
            ConfigError, match=r"guidance(=2\.0)? needs a network that was trained without its condition"
        ):
            call()


def test_a_trainer_with_guidance_needs_it_too():
    with pytest.raises(ConfigError, match="needs a network that was trained without its condition too"):
        trainer(denoising(guidance=partial(guidance.classifier_free, w=2.0)))
    with pytest.raises(ConfigError, match="needs a network that was trained without its condition too"):
        trainer(denoising(guidance=of_ones_own, condition=methods.Condition({"label": 2})))  # of which none was hidden


def test_guidance_that_looks_at_no_condition_is_free(never_hidden):
    """By a potential, say; and of weight 1, which is the conditional model."""
    plain = never_hidden.draw(2, label=1, nfe=3)
    for how in (lambda branch, given, hidden: branch(given), partial(guidance.classifier_free, w=1.0)):
        np.testing.assert_array_equal(never_hidden.draw(2, label=1, nfe=3, guidance=how), plain)


def test_guidance_by_a_function_of_ones_own_is_that_by_a_number(run):
    np.testing.assert_allclose(
        run.draw(2, label=1, nfe=3, guidance=of_ones_own), run.draw(2, label=1, nfe=3, guidance=2.0), atol=1e-5
    )


# --- labels


def test_the_label_of_none_is_there_where_training_hid_one(run, never_hidden):
    x = np.zeros((1, 2), np.float32)
    calls = (
        lambda run, label: run.draw(1, label=label, nfe=2),
        lambda run, label: run.edit(x, 0.5, label=label, nfe=2),
        lambda run, label: run.restore(x[0], lambda x: x, label=label, nfe=2),
        lambda run, label: run.denoiser(label=label),
        lambda run, label: run.given([0], label=label),
    )
    for call in calls:
        call(run, 2)
        call(never_hidden, 1)
        for wrong, match in (
            (run, "label is 3, expected 0 to 1, or 2 for no label"),
            (never_hidden, "label is 3, exp"),
        ):
            with pytest.raises(ConfigError, match=match):
                call(wrong, 3)
        with pytest.raises(ConfigError, match="label is 2, expected 0 to 1; no number stands for no label"):
            call(never_hidden, 2)
        with pytest.raises(ConfigError, match="label is -1"):
            call(run, -1)


def test_a_setting_of_a_label_is_one_that_there_is():
    for label, match in ((2, "label is 2, expected 0 to 1; no number"), (-1, "label is -1"), ("a", "no class names")):
        with pytest.raises(ConfigError, match=match):
            trainer(denoising(), label=label)
    x = data.arrays(np.zeros((20, 2), np.float32))
    network = models.from_function(lambda params, x, c, given: x * params, np.ones(2, np.float32), reads=())
    with pytest.raises(ConfigError, match="label is 1, but this run reads no label"):
        trainer(denoising(network), x, label=1)


def test_a_network_of_more_or_fewer_classes_than_the_data_is_said_or_refused():
    own = lambda classes: denoising(models.of(models.MLP(width=8, depth=1, classes=classes)))
    lines = checks.remarks(own(5), SMALL)
    assert any(line.startswith("the model has 5 classes, arrays has 2: the others have no training") for line in lines)
    assert not checks.remarks(own(2), SMALL)
    with pytest.raises(ConfigError, match=r"model\.classes is 1, but arrays has 2 labels: set it to 2"):
        trainer(own(1))
    many = data.arrays(np.zeros((40, 2), np.float32), label=np.arange(40) % 5)
    with pytest.raises(ConfigError, match=r"Label 2 stands for none, but arrays has labels 0 to 4: .* last one, 5"):
        trainer(denoising(condition=methods.Condition({"label": 2}, 0.1)), many)


def test_labels_that_count_from_one_are_said():
    x = np.random.default_rng(0).normal(size=(80, 2)).astype(np.float32)
    told = lambda label: data.remarks(data.arrays(x, label=label), True)
    (line,) = told(1 + np.arange(80) % 8)
    assert "labels count from 1, 1 to 8, and are read as 9 classes, 0 to 8: no training example has label 0" in line
    assert line.endswith("subtract 1 for 8 classes")
    assert told(np.arange(80) % 8) == []
    (gap,) = told(2 * (np.arange(80) % 4) + 1)
    assert "no training example has label 0, 2, 4, 6 (of 0 to 7)" in gap
