"""TFDS metadata that names code, files elsewhere, or false numbers; records that other decoders would open."""

import json
import os
import shutil

import numpy as np
import pytest

from diffjax import data

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of tensorflow_datasets itself

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\nshowpage\n%%EOF\n"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """`pictures`: PNGs with class names, and a second picture that is an EPS in each record; `eps`: EPS pictures."""
    import tensorflow_datasets as tfds

    root = tmp_path_factory.mktemp("tfds")
    tfds.disable_progress_bar()

    class Base(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            one = lambda: tfds.features.Image(shape=(4, 4, 3))
            label = tfds.features.ClassLabel(names=["cat", "dog"])
            features = {"image": one(), "other": one(), "label": label}
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(0, 6), "test": self._generate_examples(6, 9)}

        def _generate_examples(self, start, stop):
            for i in range(start, stop):
                yield i, {"image": str(root / self.file.format(i)), "other": str(root / "bad.png"), "label": i % 2}

    class Pictures(Base, skip_registration=True):
        file = "{}.png"

    class Eps(Base, skip_registration=True):
        file = "bad.png"

    from PIL import Image

    (root / "bad.png").write_bytes(EPS)
    for i in range(9):
        Image.fromarray(np.full((4, 4, 3), i, np.uint8)).save(root / f"{i}.png")
    for cls in (Pictures, Eps):
        cls(data_dir=str(root), file_format="array_record").download_and_prepare()
    return root


@pytest.fixture
def copy(prepared, tmp_path, monkeypatch):
    """A copy of `pictures` to be damaged, beside a module that leaves a mark when it is imported."""
    shutil.copytree(prepared / "pictures", tmp_path / "pictures")
    (tmp_path / "evilmod.py").write_text(f"open({str(tmp_path / 'EXECUTED')!r}, 'w')\nclass X: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "pictures/1.0.0"


def edit(file, change):
    told = json.loads(file.read_text())
    file.write_text(json.dumps(change(told) or told))


def read(folder, **options):
    return data.tfds("pictures", str(folder.parent.parent), **options)


def test_class_names_come_with_the_data_and_only_what_is_asked_for_is_decoded(prepared):
    for in_memory in (True, False):
        d = read(prepared / "pictures/1.0.0", in_memory=in_memory)
        assert d.names == ("cat", "dog")
        batch = d.train.gather(np.arange(6))
        values = np.rint((batch.x[:, 0, 0, 0] + 1) * 127.5).astype(int)
        assert sorted(values) == list(range(6))
        np.testing.assert_array_equal(batch.given["label"], values % 2)


def test_a_record_of_another_format_starts_no_program(prepared, tmp_path, monkeypatch):
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path / 'EXECUTED'}\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(ValueError, match=r"eps.1\.0\.0: train\[0\]' cannot be read as an image: it is none of PNG"):
        data.tfds("eps", str(prepared))
    assert not (tmp_path / "EXECUTED").exists()


EVIL = "evilmod.X"
TREES = {
    "top": lambda t: t.update(pythonClassName=EVIL),
    "inner": lambda t: t["featuresDict"]["features"]["label"].update(pythonClassName=EVIL),
    "snake": lambda t: t["featuresDict"]["features"]["label"].update(python_class_name=EVIL),
    "before 4.0": lambda t: {"type": EVIL, "content": {}},
    "before 4.0, inner": lambda t: {
        "type": t["pythonClassName"], "content": {"image": {"type": EVIL, "content": "{}"}}},
    "in text": lambda t: {
        "pythonClassName": t["pythonClassName"],
        "jsonFeature": {"json": json.dumps({"a": {"type": EVIL, "content": {}}})}},
    "TFDS's own module": lambda t: t.update(pythonClassName="tensorflow_datasets.core.dataset_builder.DatasetBuilder"),
    "a prefix": lambda t: t.update(pythonClassName="tensorflow_datasets.core.features.evilmod.X"),
    "os": lambda t: t.update(pythonClassName="os.system"),
}  # fmt: skip


@pytest.mark.parametrize("case", TREES)
def test_a_description_may_name_tfdss_own_features_alone(copy, case):
    edit(copy / "features.json", TREES[case])
    with pytest.raises(ValueError, match=r"features\.json names the class '.*', which is none of TFDS's own") as caught:
        read(copy)
    assert "\n" not in str(caught.value)
    assert not (copy.parent.parent / "EXECUTED").exists()


def test_the_module_that_a_set_was_made_by_is_not_imported(copy):
    edit(copy / "dataset_info.json", lambda t: t.update(moduleName="evilmod"))
    assert len(read(copy).train) == 6
    assert len(data.tfds("pictures", ".").train) == 6  # the working directory, where Python would find the module
    assert not (copy.parent.parent / "EXECUTED").exists()


def first(key, value):
    return lambda told: told["splits"][0].update({key: value})


def as_tensor(told):
    shape = {"dimensions": ["4", "4", "3"]}
    told["featuresDict"]["features"]["image"] = {
        "pythonClassName": "tensorflow_datasets.core.features.tensor_feature.Tensor",
        "tensor": {"shape": shape, "dtype": "uint8", "encoding": "none"},
    }


def record(folder):
    return next(folder.glob("*-train.array_record-*"))


def flipped(content, at):
    return content[: at.start] + bytes(b ^ 0xFF for b in content[at]) + content[at.stop :]


DAMAGE = {
    "info torn": (lambda f: (f / "dataset_info.json").write_text("{"), r"dataset_info\.json cannot be read as JSON"),
    "info empty": (lambda f: (f / "dataset_info.json").write_text(""), r"dataset_info\.json cannot be read as JSON"),
    "info a list": (lambda f: (f / "dataset_info.json").write_text("[1]"), "is no description of a data set"),
    "info other": (lambda f: edit(f / "dataset_info.json", lambda t: {"x": 1}), "TFDS cannot read"),
    "no features": (lambda f: (f / "features.json").unlink(), r"features\.json cannot be read as JSON"),
    "features deep": (lambda f: (f / "features.json").write_text("[" * 10**5), r"features\.json cannot be read"),
    "features bytes": (lambda f: (f / "features.json").write_bytes(b"\xff"), r"features\.json cannot be read"),
    "features a path": (
        lambda f: edit(f / "features.json", lambda t: t["featuresDict"]["features"].update({"../x": {}})),
        r"has a feature '\.\./x', a path",
    ),
    "features other": (lambda f: edit(f / "features.json", as_tensor), r"train\[0\] is no example of these features"),
    "record gone": (lambda f: record(f).unlink(), r"split 'train' lacks 'pictures-train\.array_record"),
    "record cut": (lambda f: record(f).write_bytes(record(f).read_bytes()[:-9]), "is no array_record file, or a trunc"),
    "record text": (lambda f: record(f).write_text("hello"), "is no array_record file"),
    "too long": (
        lambda f: edit(f / "dataset_info.json", first("shardLengths", ["1000000000000"])),
        r"array_record-\S+ holds 6 examples, but dataset_info\.json says 1000000000000",
    ),
    "negative": (lambda f: edit(f / "dataset_info.json", first("shardLengths", ["-6"])), "expected counts"),
    "digits": (lambda f: edit(f / "dataset_info.json", first("shardLengths", ["9" * 5000])), "expected counts"),
    "Arabic digits": (lambda f: edit(f / "dataset_info.json", first("shardLengths", ["\u0666"])), "expected counts"),
    "template": (
        lambda f: edit(f / "dataset_info.json", first("filepathTemplate", "{0.__class__}")),
        "files of split 'train' cannot be told",
    ),
    "record flipped": (
        lambda f: record(f).write_bytes(flipped(record(f).read_bytes(), slice(100, 164))),
        "train cannot be read .*hash mismatch",
    ),
    "absolute": (
        lambda f: edit(f / "dataset_info.json", first("filepathTemplate", "/etc/{DATASET}")),
        "lies at '/etc/.*', outside of the data set",
    ),
    "above": (
        lambda f: edit(f / "dataset_info.json", first("filepathTemplate", "../../{DATASET}-{SPLIT}.{FILEFORMAT}")),
        "outside of the data set",
    ),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_named_in_one_line(copy, case):
    damage, message = DAMAGE[case]
    damage(copy)
    with pytest.raises(ValueError, match=message) as caught:
        read(copy)
    assert str(copy) in str(caught.value)
    assert "prepare the data set again" in str(caught.value) or "expected counts" in str(caught.value)
    assert "\n" not in str(caught.value)
