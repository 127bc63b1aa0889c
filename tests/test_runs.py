"""Settings of runs: one table of defaults, one place for each, and what configs of earlier days left out."""

import json
from functools import partial

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from diffjax import config as C
from diffjax import data, denoisers, methods, models, processes, runs, samplers, schedules
from diffjax.optimizers import build_optimizer
from diffjax.runs import settings as table
from diffjax.runs.run import read_config
from diffjax.runs.settings import Settings

SMALL = ["data.name=moons", "data.n=200", "model.name=MLP", "model.width=8", "model.depth=1", "train.batch_size=8"]
SMALL += ["train.steps=20", "train.log_every=10", "train.sample_every=20", "checkpoint.every=10", "eval.samples=20"]


@pytest.mark.parametrize("empty", [C.recipe, ConfigDict], ids=["recipe", "nothing"])
def test_an_empty_config_is_a_whole_one(empty):
    """The same as every default said aloud."""
    built = runs.build_run(empty())
    assert built.settings == Settings()
    assert built.config.name == "run"
    assert built.config.to_dict() == table.defaults(table.GROUPS).to_dict()
    assert built.data.name == "digits"
    assert type(built.method.parts.process.schedule).__name__ == "VP"


def test_an_empty_config_takes_a_step():
    config = C.recipe()
    config.model = C.spec("UNet", channels=4, multipliers=(1,), attention=())  # the default's compiles for a minute
    run = runs.Trainer(**runs.build_run(config)._asdict()).train(1)
    assert run.step == 1
    assert int(run.state.skipped) == 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(run.state.params))


def leaves(config, prefix=""):
    """Paths of all fields."""
    found = []
    for name in config:
        inner = isinstance(config[name], ConfigDict)
        found += leaves(config[name], f"{prefix}{name}.") if inner else [prefix + name]
    return found


OTHER = {
    "steps": 30,
    "backend": "pmap",
    "devices": 1,
    "nonfinite": "skip",
    "loggers": ("tensorboard",),
    "snapshot_every": 5,
    "best_by": "held_out",
    "ema": "0.9",
    "label": 1,
    "text": "red",
}  # of the integers the next one


@pytest.mark.parametrize("field", Settings._fields)
def test_every_setting_stands_in_one_place(field):
    path = table.home(field)
    config = table.defaults(table.GROUPS)
    assert leaves(config).count(path) == 1
    value = OTHER[field] if field in OTHER else Settings._field_defaults[field] + 1
    C.override(config.lock(), f"{path}={value}")
    assert table.settings_of(config) == Settings()._replace(**{field: value})


def test_no_field_has_two_readers():
    """The groups of settings hold settings, and besides what the table says of train."""
    homes = [table.home(field) for field in Settings._fields]
    assert len(set(homes)) == len(homes)
    groups = ("seed", "train", "sample", "checkpoint", "eval")
    found = {path for path in leaves(table.defaults(table.GROUPS)) if path.partition(".")[0] in groups}
    assert found == {*homes, *(f"train.{name}" for name in table.GROUPS["train"])}


def test_defaults_are_fresh_each_time():
    one = table.defaults(("model", "train"))
    one.model.name, one.train.clip_norm = "MLP", 7.0
    assert table.defaults(("model", "train")).model.name == "UNet"
    assert table.GROUPS["train"]["clip_norm"] == 1.0


def test_what_a_config_says_is_kept_and_the_rest_completed():
    config = C.recipe()
    config.train.steps, config.grid = 7, C.spec("uniform", n=3)
    whole = C.filled(config, table.defaults(table.GROUPS))
    assert (whole.train.steps, whole.train.batch_size) == (7, 128)
    assert whole.grid.to_dict() == {"name": "uniform", "n": 3}, "a spec is whole: its options are its constructor's"
    assert "batch_size" not in config.train


@pytest.fixture(scope="module")
def older(tmp_path_factory):
    """A run whose config.json is that of days without averages stored along the run, and without a method."""
    workdir = tmp_path_factory.mktemp("runs") / "older"
    config = runs.load("configs/vpsde.py:tiny", [*SMALL, "optimizer.name=sgd"])
    with runs.Trainer(**runs.build_run(config)._asdict(), workdir=workdir) as trainer:
        trainer.train(10)
    saved = json.loads((workdir / "config.json").read_text())
    assert saved["checkpoint"].pop("snapshot_every") is None
    assert "method" not in saved
    (workdir / "config.json").write_text(json.dumps(saved))
    return workdir, config


def test_a_config_of_earlier_days_opens(older):
    run = runs.open(older[0])
    assert (run.step, run.settings.snapshot_every) == (10, None)
    assert run.draw(3).shape == (3, 2)
    assert read_config(older[0]) == runs.build_run(older[1]).config


def test_a_config_of_earlier_days_resumes_and_others_are_refused(older):
    workdir, config = older
    seeded = runs.build_run(runs.load("configs/vpsde.py:tiny", [*SMALL, "optimizer.name=sgd", "seed=1"]))
    with pytest.raises(C.ConfigError, match=r"another config \(seed: 0 -> 1\)"):
        runs.Trainer(**seeded._asdict(), workdir=workdir)
    with runs.Trainer(**runs.build_run(config)._asdict(), workdir=workdir) as trainer:
        assert trainer.step == 10
        assert trainer.train(20).step == 20
    assert "snapshot_every" in json.loads((workdir / "config.json").read_text())["checkpoint"]


def test_a_method_by_name_is_built_of_its_groups():
    """`denoising` said aloud is the default, and an option that no method has is refused."""
    config = runs.load("configs/vpsde.py:tiny", SMALL)
    with config.unlocked():
        config.method = C.spec("denoising")
    built = runs.build_run(config)
    assert isinstance(built.method.parts, methods.Denoising)
    for method, match in (
        (C.spec("denoisin"), "nearest is 'denoising'"),
        (C.spec("denoising", sampler="heun.edm"), r"method has no option 'sampler': set the group sampler of"),
        (C.spec("denoising", steps=3), "methods.denoising has no option 'steps'"),
    ):
        with config.unlocked():
            config.method = method
        with pytest.raises(C.ConfigError, match=match) as error:
            runs.build_run(config)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ("model.name=UNet", "UNet|image"),
        ("model.classes=2", None),
        ("model.condition=2", "only a bridge has endpoints"),
    ],
)
def test_what_the_network_reads_is_held_against_the_data(change, match):
    config = runs.load("configs/vpsde.py:tiny", [*SMALL[2:], "data.name=moons", change])
    if match is None:
        assert runs.build_run(config).method.asks == ("label",)
        return
    with pytest.raises(C.ConfigError, match=match) as error:
        runs.build_run(config)
    assert "\n" not in str(error.value)


MLP, SGD, SHORT = C.spec("MLP", width=8, depth=1), C.spec("sgd", learning_rate=1e-1), dict(steps=4, batch_size=16)
NOISE = np.random.default_rng(0).normal(size=(64, 2)).astype(np.float32)


@pytest.fixture(scope="module")
def trained():
    """A run of specs and objects."""
    process, schedule = C.spec("Gaussian"), schedules.VP(beta_max=15.0)
    method = runs.assemble(network=MLP, process=process, schedule=schedule, target=denoisers.V())
    return runs.Trainer(method, data.arrays(NOISE), optimizer=SGD, **SHORT).train()


def test_specs_and_objects_are_the_same_parts(trained):
    """A method of specs, of objects, or of both, trains to equal bytes."""
    named = {
        "network": MLP,
        "process": C.spec("Gaussian"),
        "schedule": C.spec("VP", beta_max=15.0),
        "target": C.spec("V"),
    }
    objects = {
        "network": models.network(models.MLP(width=8, depth=1)),
        "process": processes.Gaussian(schedules.VP(beta_max=15.0)),
        "target": denoisers.V(),
    }
    ways = [
        {"method": {"name": "denoising", **named}, "optimizer": SGD, "ema": C.spec("warm_up", decays=(0.999,))},
        {"method": methods.denoising(**objects), "optimizer": build_optimizer(dict(SGD), SHORT["steps"])[0]},
    ]
    for way in ways:
        found = runs.Trainer(data=data.arrays(NOISE), **SHORT, **way).train().params
        jax.tree.map(np.testing.assert_array_equal, found, trained.params)
    assert runs.Trainer(data=C.spec("moons", n=32, held_out=8), **ways[0]).data.name == "moons"


def test_a_spec_that_is_none_is_refused():
    with pytest.raises(C.ConfigError, match=r"models has no 'MPL': nearest is 'MLP'"):
        runs.assemble(network=C.spec("MPL"), target=C.spec("V"))
    with pytest.raises(C.ConfigError, match=r"methods\.denoising has no option 'sampelr': nearest is 'sampler'"):
        runs.assemble(network=C.spec("MLP"), sampelr=C.spec("ancestral.ddim"))


MISSPELT = [
    (lambda c: c.train.update(stepz=60), r"no field 'train\.stepz': .*nearest is 'steps'"),
    (lambda c: c.update(modle=C.spec("MLP")), "a group 'modle' that nobody reads: nearest is 'model'"),
    (lambda c: c.update(critic=C.spec("MLP")), "a group 'critic' that nobody reads"),
    (lambda c: c.train.update(steps="60"), "train.steps is '60', expected an integer, such as 2400"),
    (lambda c: c.update(data="moons"), "The group data is 'moons', expected fields"),
    (
        lambda c: c.update(schedule=C.spec("VP", beta_min="abc")),
        "VP: beta_min is 'abc', expected a number, such as 0.1",
    ),
]


@pytest.mark.parametrize(("slip", "match"), MISSPELT)
def test_slips_in_a_config_file_are_refused(slip, match):
    config = C.recipe()
    slip(config)
    with pytest.raises(C.ConfigError, match=match):
        runs.build_run(config)


def test_a_draw_takes_what_a_trained_run_leaves_open(trained):
    """A sampler as a function or a spec; not another target, nor what is neither."""
    by_spec = trained.draw(3, sampler=C.spec("multistep.adams", order=2))
    np.testing.assert_array_equal(by_spec, trained.draw([0, 1, 2], sampler=partial(samplers.multistep.adams, order=2)))
    assert np.abs(by_spec - trained.draw(3)).max() > 1e-4
    for words, match in (
        ({"target": denoisers.Eps()}, "draw knows no 'target'.*it has denoiser, grid, guidance, nfe, sampler"),
        ({"sampler": 3}, "sampler is 3, expected a function"),
        ({"sampler": C.spec("heun.emd")}, "nearest is 'edm'"),
    ):
        with pytest.raises(C.ConfigError, match=match):
            trained.draw(2, **words)
    for seeds in (0, -2, [0.5], [-1], [2**32], 1.5):
        with pytest.raises(
            ValueError, match=r"Got seeds .*expected a number of samples >= 1, or integers in \[0, 2\^32\)"
        ):
            trained.draw(seeds)


def test_conditions_that_hide_nothing_are_refused():
    net = models.network(models.MLP(width=8, depth=1, classes=3))
    parts = (net, processes.Gaussian(schedules.VP()), denoisers.V())
    for condition, match in (
        (methods.Condition({"lable": 3}, 0.1), "hides lable, but the network reads label"),
        (methods.Condition({"label": 3}, 2.0), r"a share of 2\.0"),
        (methods.Condition({}, 0.1), "hides nothing for a share of 0.1"),
    ):
        with pytest.raises(ValueError, match=match):
            methods.denoising(*parts, condition=condition)
    with pytest.raises(ValueError, match="VE destroys nothing"):
        methods.denoising(net, processes.Gaussian(schedules.VE(sigma_min=50.0, sigma_max=0.01)), denoisers.Eps())


@pytest.mark.parametrize("label", [[0.3, 0.7], [-1, 1], [[0], [1]], ["a", "b"]])
def test_labels_are_integers_from_zero(label):
    with pytest.raises(ValueError, match=r"Labels are .*expected integers \(N,\) from 0 on"):
        data.Arrays(np.zeros((2, 2)), label=label)


def test_what_is_given_fits_the_data():
    like = np.zeros(2, np.float32)
    np.testing.assert_array_equal(data.fitting("a", [1, 2], like, 3), [[1, 2]] * 3)
    for value in ([np.nan, 0.0], [0.0, 1.0, 2.0], "text"):
        with pytest.raises(ValueError, match=r"given\['a'\]"):
            data.fitting("a", value, like, 3)
    with pytest.raises(ValueError, match=r"given\['k'\] is 1\.5, expected finite int32 numbers"):
        data.fitting("k", 1.5, np.int32(0), 3)
