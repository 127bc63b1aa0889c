"""Class names: kept with a run, taken for numbers wherever a label is said, written in reports, guarded on return."""

import json

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from image_files import fill

from diffjax import config as C
from diffjax import data, denoisers, methods, models, processes, runs, schedules, summary
from diffjax.main import main
from diffjax.runs import build_run

NAMES = ("cat", "dog", "flower")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two steps of a network that reads the label, on a folder of three classes."""
    root = tmp_path_factory.mktemp("names")
    fill(root / "x", [f"{name}/{i}.png" for name in NAMES for i in range(5)])
    scale = lambda params, x, c, given: params[given["label"]] * x
    network = models.from_function(scale, jnp.arange(4.0), "label")
    method = methods.denoising(network, processes.Gaussian(schedules.VP()), denoisers.V())
    options = dict(steps=2, batch_size=4, log_every=2, sample_every=2, checkpoint_every=2, chunk=4, samples=4)
    dataset = data.folder(str(root / "x"))
    with runs.Trainer(method, dataset, optimizer=optax.sgd(0.0), workdir=root / "run", **options) as trainer:
        return trainer.train()


def test_the_names_stand_in_the_workdir_and_in_the_report(run):
    assert json.loads((run.workdir / "labels.json").read_text()) == {"0": "cat", "1": "dog", "2": "flower"}
    text = summary.text(run, {"step": 2, "samples": 4}, "", [])
    assert "held-out examples of x, classes 0 cat, 1 dog, 2 flower (split " in text


def test_a_name_is_its_number_wherever_a_label_is_said(run):
    told = lambda **words: run.given(range(2), **words)["label"].tolist()
    assert (told(), told(label="flower"), told(label=2), told(label=["dog", "cat"])) == ([0, 1], [2, 2], [2, 2], [1, 0])
    with pytest.raises(ValueError, match="no class of x: nearest is 'dog'"):
        told(label=["cat", "doge"])
    named = run._replace(settings=run.settings._replace(label="dog"))
    np.testing.assert_array_equal(named.given(range(3))["label"], [1, 1, 1])
    x = jnp.ones((4, 4, 3))
    found, wanted = (run.denoiser(label=one)(x, 0.3).mean for one in ("flower", 2))
    np.testing.assert_array_equal(found, wanted)


def test_names_and_numbers_that_are_none(run):
    for label, message in [("flowr", "nearest is 'flower'; it has cat, dog, flower"), (4, "expected 0 to 2; no"),
                           (3, "since training hid none"),
                           (-1, "expected 0 to 2"), (True, "label is True"), (1.0, "label is 1.0")]:  # fmt: skip
        with pytest.raises(ValueError, match=message):
            data.class_of(run.data, label)
    assert [data.class_of(run.data, label) for label in (None, 2, "dog")] == [None, 2, 1]
    with pytest.raises(ValueError, match="moons has no class names: give a number, 0 to 1"):
        data.class_of(data.moons(n=9), "dog")
    with pytest.raises(ValueError, match="swiss_roll has no labels"):
        data.class_of(data.swiss_roll(n=9), "dog")


def test_a_number_that_names_another_class_is_asked_about(tmp_path):
    """Folders 0 to 11 are sorted as text, as everywhere: "10" is class 2, and "2" class 4."""
    fill(tmp_path, [f"{name}/{i}.png" for name in range(12) for i in range(2)])
    d = data.folder(str(tmp_path))
    assert d.names == ("0", "1", "10", "11", "2", "3", "4", "5", "6", "7", "8", "9")
    assert [data.class_of(d, label) for label in ("2", "10", 0, 1)] == [4, 2, 0, 1]
    with pytest.raises(
        ValueError, match="label is 2, but the class named '2' has number 4, class 2 is named '10': give"
    ):
        data.class_of(d, 2)


def test_many_classes_are_counted_in_the_report():
    d = data.moons(n=9)._replace(names=tuple(f"c{i}" for i in range(100)))
    assert data.describe(d).endswith("c18, 19 c19, ... (100 in labels.json)")


def test_names_are_written_before_the_first_step_and_guarded_afterwards(tmp_path):
    moons = data.moons(n=9)
    named, other = (moons._replace(names=names) for names in (("a", "b"), ("b", "a")))
    data.keep_names(tmp_path, named, begun=False)
    data.keep_names(tmp_path, other, begun=False)  # of a start that was refused before its first step
    data.keep_names(tmp_path, other)
    for now in (named, moons):
        with pytest.raises(ValueError, match=r"labels\.json names the classes b, a, but those of moons are"):
            data.keep_names(tmp_path, now)
    (tmp_path / "labels.json").write_text("{torn")  # a record, no part of the state
    data.keep_names(tmp_path, named)
    data.keep_names(tmp_path, moons, begun=False)
    assert not (tmp_path / "labels.json").exists()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Vectors with class names, as TFDS keeps them."""
    import tensorflow_datasets as tfds

    root = tmp_path_factory.mktemp("tfds")
    tfds.disable_progress_bar()

    class Flowers(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            x = tfds.features.Tensor(shape=(2,), dtype=np.float32)
            features = tfds.features.FeaturesDict({"x": x, "label": tfds.features.ClassLabel(names=list(NAMES))})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(0, 60), "test": self._generate_examples(60, 90)}

        def _generate_examples(self, start, stop):
            for i in range(start, stop):
                yield i, {"x": np.float32([i % 3, np.sin(i)]), "label": i % 3}

    Flowers(data_dir=str(root), file_format="array_record").download_and_prepare()
    return root


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of tensorflow_datasets itself
def test_a_run_is_asked_by_name_on_the_command_line(prepared, tmp_path, capsys):
    options = ["data.name=tfds", "data.dataset=flowers", f"data.data_dir={prepared}", "data.image=x", "model.name=MLP",
               "model.width=8", "model.depth=1", "model.classes=3", "train.steps=2", "train.log_every=2",
               "train.sample_every=2", "checkpoint.every=2", "eval.samples=30", "grid.n=2", "sample.chunk=32",
               "learning_rate.warmup_steps=0"]  # fmt: skip
    built = build_run(runs.load("configs/vpsde.py:tiny", options))
    with pytest.raises(C.ConfigError, match="label is 'flour', which is no class of flowers: nearest is 'flower'"):
        build_run(runs.load("configs/vpsde.py:tiny", [*options, "sample.label=flour"]))
    workdir = tmp_path / "run"
    with runs.Trainer(**built._asdict(), workdir=workdir) as trainer:
        trainer.train()
    opened = runs.open(workdir, overrides=["sample.label=flower"])
    assert opened.given([5, 6])["label"].tolist() == [2, 2]
    names = next(prepared.glob("flowers/1.0.0/*labels.txt"))
    names.write_text(names.read_text().replace("dog", "wolf"))
    assert main([f"--workdir={workdir}", "--mode=sample", "--seeds=0"]) == 2
    error = capsys.readouterr().err
    assert "labels.json names the classes cat, dog, flower, but those of flowers are cat, wolf, flower" in error
    assert error.count("\n") == 1
