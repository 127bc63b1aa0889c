"""Configs: loading, typed overrides, `build`, and every way to get them wrong in one readable line."""

import json

import numpy as np
import pytest
from ml_collections import ConfigDict

from diffjax import config as C
from diffjax import grids, losses, models, runs, samplers, schedules, specs

VPSDE = "configs/vpsde.py"


@pytest.fixture
def recipe(tmp_path):
    """A config file with one field of each kind."""
    path = tmp_path / "recipe.py"
    path.write_text(
        "from ml_collections import ConfigDict, config_dict\n"
        "def get_config(variant):\n"
        "    return ConfigDict(dict(whole=1, real=0.5, flag=False, text='a', none=None,\n"
        "        hole=config_dict.placeholder(int), group=dict(inner=dict(deep=3)),\n"
        "        pair=(1, 2), spec=dict(name='VP', beta_min=0.1), variant=variant or 'plain'))\n"
    )
    return str(path)


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        ("whole=7", "whole", 7),
        ("real=2", "real", 2.0),
        ("real=1e-3", "real", 1e-3),
        ("real=inf", "real", float("inf")),
        ("flag=true", "flag", True),
        ("flag=False", "flag", False),
        ("text=3", "text", "3"),
        ("text=a=b", "text", "a=b"),
        ("none=4", "none", 4),
        ("hole=4", "hole", 4),
        ("hole=None", "hole", None),
        ("pair=3,4,5", "pair", (3, 4, 5)),
        ("pair=(3,)", "pair", (3,)),
        ("pair=7", "pair", (7,)),
        ("spec.beta_min=3", "spec.beta_min", 3.0),
        ("spec.beta_max=3.5", "spec.beta_max", 3.5),
        ("spec.beta_min=None", "spec.beta_min", None),
        ("group.inner.deep=-1", "group.inner.deep", -1),
    ],
)
def test_override_reads_the_value_as_the_fields_type(recipe, text, field, value):
    config = C.load(recipe, [text])
    for part in field.split("."):
        config = config[part]
    assert config == value
    assert type(config) is type(value)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("whle=7", "no field 'whle'.*nearest is 'whole'"),
        ("group.iner.deep=7", "'iner' is not in config.group; nearest is 'inner'"),
        ("group.inner.dep=7", "'dep' is not in config.group.inner; nearest is 'deep'"),
        ("whole.x=7", "no field 'whole.x'"),
        ("whole=a", "'whole' got 'a', expected an integer, such as 1"),
        ("whole=1.5", "expected an integer"),
        ("whole=True", "expected an integer"),
        ("whole=None", "expected an integer"),
        ("real=abc", "expected a number"),
        ("flag=1", "expected true or false"),
        ("pair=1,b", "expected a tuple of int"),
        ("group=3", "is a group of fields"),
        ("spec=3", "is a group of fields"),
        ("whole", "has no value"),
    ],
)
def test_override_errors_are_one_line(recipe, text, match):
    with pytest.raises(C.ConfigError, match=match) as error:
        C.load(recipe, [text])
    assert "\n" not in str(error.value)


def test_a_new_name_drops_the_options_of_the_old_one_whatever_the_order(recipe):
    config = C.load(recipe, ["spec.s=0.02", "spec.name=Cosine"])
    assert config.spec.to_dict() == {"name": "Cosine", "s": 0.02}


def test_configs_are_locked_and_know_their_name(recipe):
    config = C.load(recipe + ":big")
    assert (config.name, config.variant) == ("recipe-big", "big")
    with pytest.raises((AttributeError, KeyError)):
        config.fresh = 1


@pytest.mark.parametrize(
    ("path", "match"),
    [
        ("configs/vpsd.py", "no config file 'configs/vpsd.py': nearest is 'configs/vpsde.py'"),
        ("nowhere/vpsde.py", "no config file"),
        (f"{VPSDE}:cifar", "no variant 'cifar': nearest is 'cifar10'"),
    ],
)
def test_missing_file_and_unknown_variant(path, match):
    with pytest.raises(C.ConfigError, match=match):
        C.load(path)


def test_shipped_configs_are_found_from_any_directory_and_a_local_file_wins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert C.load(VPSDE).schedule.name == "VP"
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "vpsde.py").write_text(
        "from ml_collections import ConfigDict\ndef get_config(v): return ConfigDict(dict(mine=1))\n"
    )
    assert C.load(VPSDE).mine == 1


@pytest.mark.parametrize("body", ["x = 1", "def get_config(v): return {}"])
def test_a_file_that_is_no_config(tmp_path, body):
    (tmp_path / "bad.py").write_text(body)
    with pytest.raises(C.ConfigError, match="get_config"):
        C.load(str(tmp_path / "bad.py"))


def test_json_round_trip_keeps_tuples_and_none(recipe):
    config = C.load(recipe, ["pair=3,4"])
    back = C.from_json(C.to_json(config))
    assert back.pair == (3, 4)
    assert back.none is None
    assert C.differences(config, back) == []
    assert C.differences(config, C.load(recipe, ["spec.beta_min=0.2"])) == [
        "pair: [3, 4] -> [1, 2]",
        "spec.beta_min: 0.1 -> 0.2",
    ]
    assert json.loads(C.to_json(config))["pair"] == [3, 4]


def test_what_another_name_drops_is_listed():
    """A group that keeps its name drops nothing, nor does one whose new name was given the option again."""
    before = C.load(VPSDE, ["model.name=UNet", "model.channels=8", "model.classes=2"])
    after = C.load(VPSDE, ["model.name=DiT", "model.classes=2", "schedule.beta_max=10.0"])
    (line,) = C.dropped(before, after)
    assert line.startswith("model.name=DiT leaves the recipe's options of UNet out: attention=(4,), ")
    assert "channels=8" in line
    assert "classes" not in line
    assert C.dropped(before, before) == []


def test_build_calls_what_the_name_says():
    assert C.build(schedules, {"name": "VP", "beta_max": 10.0}) == schedules.VP(beta_max=10.0)
    assert C.build(schedules, ConfigDict({"name": "Tabulated.linear", "steps": 100})).steps == 100
    assert isinstance(C.build(samplers, {"name": "ancestral.ddim", "eta": 1.0}, schedules.VP()), samplers.Sampler)
    ts = C.build(grids, {"name": "uniform", "n": 4, "t_min": 0.2, "zero": False}, schedules.VP())
    np.testing.assert_allclose(ts, [1, 0.8, 0.6, 0.4, 0.2])


@pytest.mark.parametrize(
    ("namespace", "spec", "match"),
    [
        (schedules, {"name": "VPP"}, "schedules has no 'VPP': nearest is 'VP'; it has Cosine, Counted, EDM"),
        (schedules, {"name": "log_snr"}, "has no 'log_snr'"),
        (schedules, {"name": "Tabulated.linar"}, "nearest is 'linear'"),
        (schedules, {"name": "np"}, "has no 'np'"),
        (schedules, {"name": "__doc__"}, "has no"),
        (schedules, {"name": "VP", "beta_mx": 1}, "schedules.VP has no option 'beta_mx': nearest is 'beta_max'"),
        (schedules, {"beta_max": 1}, "needs a 'name'"),
        (samplers, {"name": "ancestral.nope"}, "samplers.ancestral has no 'ancestral.nope'"),
        (samplers, {"name": "ancestral"}, "is a module, name one of its members"),
        (samplers, {"name": "ancestral.ddim", "etta": 1}, "nearest is 'eta'"),
        (losses.times, {"name": "unifrm"}, "nearest is 'uniform'"),
    ],
)
def test_build_errors_name_the_alternatives(namespace, spec, match):
    with pytest.raises(C.ConfigError, match=match) as error:
        C.build(namespace, spec, *([schedules.VP()] if namespace is not schedules else []))
    assert "\n" not in str(error.value)


def test_missing_arguments_are_named():
    with pytest.raises(C.ConfigError, match=r"karras also needs n"):
        C.build(grids, {"name": "karras"}, schedules.VP())
    with pytest.raises(C.ConfigError, match=r"Tabulated also needs log_alpha"):
        C.build(schedules, {"name": "Tabulated"})


def test_a_config_without_a_group_has_its_default():
    config = runs.load(f"{VPSDE}:tiny")
    with config.unlocked():
        del config.prepare
    built = runs.build_run(config)
    assert built.config.prepare.to_dict() == {"name": "nothing"}
    assert built.method.prepare is None


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ("eval.samples=0", "eval.samples is 0"),
        ("eval.samples=8", "at least 297: the gate"),
        ("eval.time_bins=0", "eval.time_bins is 0"),
        ("sample.chunk=-4", "sample.chunk is -4"),
        ("checkpoint.every=0", "checkpoint.every is 0"),
        ("sampler.name=restart.restart;sampler.intervals=3", "expected tuples"),
    ],
)
def test_what_is_used_late_is_refused_early(change, match):
    with pytest.raises(C.ConfigError, match=match):
        runs.build_run(runs.load(f"{VPSDE}:tiny", change.split(";")))


@pytest.mark.parametrize(("text", "value"), [("false", False), ("False", False), ("true", True), ("TRUE", True)])
def test_true_and_false_are_read_of_an_option_that_the_recipe_leaves_out(text, value):
    config = runs.load("configs/dit.py", [f"model.urpe={text}"])
    assert config.model.urpe is value
    assert runs.load("configs/folder.py", [f"data.flip={text}"]).data.flip is value


@pytest.mark.parametrize("text", ["no", "off", "0.0.0"])
def test_a_text_is_neither_true_nor_false(text):
    config = runs.load("configs/dit.py", [f"model.urpe={text}"])
    with pytest.raises(C.ConfigError, match=f"models.DiT: urpe is '{text}', expected true or false"):
        specs.build(models, config.model)
