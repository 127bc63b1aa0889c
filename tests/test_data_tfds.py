"""TensorFlow Datasets without TensorFlow: what is prepared here is read back pixel by pixel."""

import io
import json
import os
import pickle
import re
import struct
import subprocess
import sys
import tarfile
import time
from types import SimpleNamespace

import numpy as np
import pytest
import run_command

from diffjax import data
from diffjax.data import prepare

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of tensorflow_datasets itself


# --- a small real builder made from the digits ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """scikit-learn's digits as TFDS data sets: `pixels` in tensors, `pictures` in PNG files of two shards."""
    from PIL import Image
    from sklearn.datasets import load_digits

    raw, root = load_digits(), tmp_path_factory.mktemp("tfds")
    pixels, labels = (raw.images * 15).astype(np.uint8)[..., None], raw.target
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()

    class Base(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.2.0")
        feature: object = None
        encode = staticmethod(lambda image: image)

        def _info(self):
            features = {"image": self.feature, "label": tfds.features.ClassLabel(num_classes=10), "writer": np.int32}
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(0, 1500), "test": self._generate_examples(1500, 1797)}

        def _generate_examples(self, start, stop):
            for i in range(start, stop):
                yield f"{i:04d}", {"image": self.encode(pixels[i]), "label": int(labels[i]), "writer": i}

    class Pixels(Base, skip_registration=True):
        feature = tfds.features.Tensor(shape=(8, 8, 1), dtype=np.uint8)

    class Pictures(Base, skip_registration=True):
        feature = tfds.features.Image(shape=(8, 8, 1))
        encode = staticmethod(lambda image: Image.fromarray(image[..., 0]))

    class Varied(Base, skip_registration=True):
        feature = tfds.features.Image(shape=(None, None, 1))
        encode = staticmethod(Pictures.encode)

    config = tfds.download.DownloadConfig(num_shards=2)
    for cls in (Pixels, Pictures, Varied):
        cls(data_dir=str(root), file_format="array_record").download_and_prepare(download_config=config)
    return SimpleNamespace(root=str(root), pixels=pixels, labels=labels)


def same_set(part, pixels, labels):
    """`part` holds these images with these labels, in some order: TFDS shuffles as it writes."""
    batch = part.gather(np.arange(len(part)))
    assert (batch.x.dtype, batch.given["label"].dtype) == (np.float32, np.int32)
    read = np.rint((batch.x + 1) * 127.5).astype(np.uint8)
    np.testing.assert_allclose(read / 127.5 - 1, batch.x, atol=1e-6)
    key = lambda x, label: sorted(x[i].tobytes() + bytes([label[i]]) for i in range(len(x)))
    assert key(read, batch.given["label"]) == key(pixels, labels)


@pytest.mark.parametrize("in_memory", [True, False, None])
@pytest.mark.parametrize("name", ["pixels", "pictures:1.2.0"])
def test_digits_through_tfds_are_the_digits(prepared, name, in_memory):
    d = data.tfds(name, prepared.root, in_memory=in_memory, flip=True)
    assert (d.shape, d.classes, d.levels, d.flip) == ((8, 8, 1), 10, 256, True)
    assert isinstance(d.train, data.Records if in_memory is False else data.Arrays)
    same_set(d.train, prepared.pixels[:1500], prepared.labels[:1500])
    same_set(d.held_out, prepared.pixels[1500:], prepared.labels[1500:])
    assert "tensorflow" not in sys.modules


@pytest.mark.parametrize("threads", [1, 5])
def test_record_files_give_the_batches_of_memory(prepared, threads):
    memory, files = (data.tfds("pictures", prepared.root, in_memory=kept).train for kept in (True, False))
    files.threads = threads
    for step in (0, 46, 10_000):  # 46 crosses into the second epoch
        a, b = (data.batch_at(part, 32, 5, step, flip=True) for part in (memory, files))
        np.testing.assert_array_equal(a.x, b.x)
        np.testing.assert_array_equal(a.given["label"], b.given["label"])
    with data.Batches(files, 32, 5, 46, steps_per_dispatch=2, flip=True, put=lambda x: x) as stream:
        np.testing.assert_array_equal(next(stream).x[1], data.batch_at(memory, 32, 5, 47, flip=True).x)


@pytest.mark.slow
def test_training_from_record_files_is_training_from_memory(prepared, tmp_path):
    """By the command of the README, on one core: every logged loss and gradient norm is the same number."""
    logged = []
    for kept in ("False", "True"):
        options = {"name": "tfds", "dataset": "pictures", "data_dir": prepared.root, "in_memory": kept}
        flags = [f"--config.data.{name}={value}" for name, value in options.items()]
        flags += ["--config.train.steps=20", f"--workdir={tmp_path / kept}"]
        status, output = run_command.run("--config=configs/vpsde.py:tiny", *flags, pinned=True)
        assert status == 0, output
        rows = map(json.loads, (tmp_path / kept / "metrics.jsonl").read_text().splitlines())
        logged.append([(row["step"], row["loss"], row["grad_norm"]) for row in rows if "loss" in row])
    assert len(logged[0]) == 2
    assert logged[0] == logged[1]


def test_parts_of_splits_are_disjoint_and_named_in_the_fingerprint(prepared):
    read = lambda **options: data.tfds("pixels", prepared.root, **options)
    d = read(train="train[:90%]", held_out="train[90%:]", label=None)
    assert (len(d.train), len(d.held_out), d.classes) == (1350, 150, None)
    assert d.train.gather(np.arange(2))[1:] == ({}, {})
    rows = [part.gather(np.arange(len(part))).x for part in (d.train, d.held_out)]
    key = lambda x: sorted(image.tobytes() for image in x)
    expected = prepared.pixels[:1500].astype(np.float32) / 127.5 - 1
    assert key(np.concatenate(rows)) == key(expected)
    for kept in (True, False):
        prints = {read(in_memory=kept, **o).fingerprint for o in [{}, {}, {"train": "test", "held_out": "train"}]}
        assert len(prints) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset": "pixel"}, "nearest is 'pixels'"),
        ({"dataset": "pixels:1.0.0"}, "no prepared data set 'pixels:1.0.0'"),
        ({"train": "trian"}, "nearest is 'train'"),
        ({"held_out": "train[90%:]"}, "share examples"),
        ({"held_out": "train[frac]"}, r"no split 'train\[frac\]'"),
        ({"held_out": "test[:0]"}, r"'test\[:0\]' .* holds no example"),
        ({"image": "img"}, "has image, label, writer"),
        ({"image": "writer"}, "dtype int32"),
        ({"label": "writer"}, "no class label"),
        ({"dataset": "varied"}, "varied shape"),
    ],
)
def test_tfds_refuses_in_one_line(prepared, options, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        data.tfds(**{"dataset": "pixels", "data_dir": prepared.root, **options})
    assert "\n" not in str(caught.value)


def test_another_file_format_is_refused_by_name(prepared, tmp_path):
    source, copy = f"{prepared.root}/pixels/1.2.0", tmp_path / "pixels/1.2.0"
    copy.mkdir(parents=True)
    for name in ("dataset_info.json", "features.json"):
        with open(f"{source}/{name}") as file:
            (copy / name).write_text(file.read().replace('"array_record"', '"tfrecord"'))
    with pytest.raises(ValueError, match=r"prepared as tfrecord.*--file_format=array_record"):
        data.tfds("pixels", str(tmp_path))


def test_newest_version_is_the_largest_number(tmp_path):
    from diffjax.data.tfds import find

    for version in ("1.9.0", "1.10.0", "2.0.0.incompleteXY", "incomplete.AB_3.0.0"):
        (tmp_path / "set/config" / version).mkdir(parents=True)
        (tmp_path / "set/config" / version / "dataset_info.json").touch()
    (tmp_path / "set/config/4.0.0").mkdir()  # without a description: not prepared to its end
    assert find("set/config", tmp_path).name == "1.10.0"
    assert find("set/config:1.9.0", tmp_path).name == "1.9.0"
    with pytest.raises(FileNotFoundError, match="set/config"):
        find("set/confg", tmp_path)


def test_missing_cifar10_lists_the_ways_to_get_it_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    began = time.monotonic()
    with pytest.raises(FileNotFoundError) as caught:
        data.tfds("cifar10")
    assert time.monotonic() - began < 2
    message = str(caught.value)
    for way in ("diffjax.data.prepare cifar10 --from=cifar-10-python.tar.gz", "tfds build cifar10", "data.data_dir",
                "data.name=npz", "data.name=folder"):  # fmt: skip
        assert way in message
    assert "\n" not in message


# --- the CIFAR-10 archive ---------------------------------------------------------------------------------------------


def python2_pickle(pixels, labels, title=b"training batch"):
    """The bytes that Python 2 and NumPy 1 wrote into the published archive, opcode by opcode."""
    text = lambda b: b"U" + bytes([len(b)]) + b
    number = lambda n: b"J" + struct.pack("<i", n)
    n, width = pixels.shape
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n" + number(0) + b"\x85" + text(b"b") + b"\x87R"
    dtype = (
        b"cnumpy\ndtype\n" + text(b"u1") + b"K\x00K\x01\x87R(K\x03" + text(b"|") + b"NNN" + 2 * number(-1) + b"K\x00tb"
    )
    content = b"T" + struct.pack("<i", pixels.size) + pixels.tobytes()
    array += b"(K\x01" + number(n) + number(width) + b"\x86" + dtype + b"\x89" + content + b"tb"
    items = b"".join(b"K" + bytes([label]) for label in labels)
    batch = text(b"batch_label") + text(title) + text(b"labels") + b"](" + items + b"e" + text(b"data") + array
    return b"\x80\x02}(" + batch + b"u."


def write_archive(path, per_batch, change=lambda name, content: content):
    """A fake cifar-10-python.tar.gz of random images with the real one's members; {member: (pixels, labels)}."""
    rng, batches = np.random.default_rng(per_batch), {}
    members = {"batches.meta": b"not read", "readme.html": b"<html>"}
    for name in ("data_batch_4", "test_batch", "data_batch_3", "data_batch_2", "data_batch_5", "data_batch_1"):
        pixels = rng.integers(0, 256, (per_batch, 3072), dtype=np.uint8)
        batches[name] = (pixels, rng.integers(0, 10, per_batch))
        members[name] = python2_pickle(*batches[name])
    with tarfile.open(path, "w:gz", compresslevel=1) as tar:
        for name, content in members.items():
            content = change(name, content)
            if content is not None:
                info = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return batches


def check_prepared(data_dir, batches):
    """Every image read through `data.tfds` is the archive's: row 0 of the red plane first, and so on."""
    d = data.tfds("cifar10", str(data_dir))
    assert (d.shape, d.classes, d.levels, d.name) == ((32, 32, 3), 10, 256, "cifar10")
    for part, names in [(d.train, [f"data_batch_{i}" for i in range(1, 6)]), (d.held_out, ["test_batch"])]:
        pixels, labels = (np.concatenate([batches[name][i] for name in names]) for i in range(2))
        images = np.empty((len(pixels), 32, 32, 3), np.uint8)
        for channel in range(3):
            images[..., channel] = pixels[:, 1024 * channel : 1024 * (channel + 1)].reshape(-1, 32, 32)
        same_set(part, images, labels)


def test_reduced_archive_is_prepared_pixel_by_pixel(tmp_path):
    batches = write_archive(tmp_path / "a.tar.gz", 30)
    in_order = np.concatenate([batches[f"data_batch_{i}"][1] for i in range(1, 6)])  # whatever the archive's order is
    np.testing.assert_array_equal(prepare.read_cifar10(tmp_path / "a.tar.gz", 30)["train"].label, in_order)
    folder = prepare.prepare_cifar10(tmp_path / "a.tar.gz", tmp_path / "tfds", per_batch=30)
    assert folder == tmp_path / "tfds/cifar10/3.0.2"
    check_prepared(tmp_path / "tfds", batches)
    assert "tensorflow" not in sys.modules
    stamp = {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}
    with pytest.raises(FileExistsError, match="there already; remove it"):
        prepare.prepare_cifar10(tmp_path / "a.tar.gz", tmp_path / "tfds", per_batch=30)
    assert stamp == {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}


def test_order_on_disk_is_that_of_tfds(tmp_path):
    """TFDS sorts by a keyed hash of the example's number, so a set that TFDS prepared gives the same batches."""
    from tensorflow_datasets.core.hashing import Hasher

    batches = write_archive(tmp_path / "a.tar.gz", 6)
    prepare.prepare_cifar10(tmp_path / "a.tar.gz", tmp_path / "tfds", per_batch=6)
    pixels = np.concatenate([batches[f"data_batch_{i}"][0] for i in range(1, 6)]).reshape(30, 3, 32, 32)
    order = sorted(range(30), key=Hasher("train").hash_key)
    x = data.tfds("cifar10", str(tmp_path / "tfds")).train.gather(np.arange(30)).x
    np.testing.assert_allclose(x, pixels[order].transpose(0, 2, 3, 1) / 127.5 - 1, atol=1e-6)


def test_tfds_itself_reads_what_was_prepared(tmp_path):
    """As its own "cifar10": name, version, features; in a process of its own, since TFDS then loads its builder."""
    batches = write_archive(tmp_path / "a.tar.gz", 4)
    prepare.prepare_cifar10(tmp_path / "a.tar.gz", tmp_path / "tfds", per_batch=4)
    code = (
        "import sys, tensorflow_datasets as tfds, numpy as np\n"
        f"source = tfds.data_source('cifar10', data_dir={str(tmp_path / 'tfds')!r}, split='test')\n"
        "rows = sorted(source, key=lambda row: row['id'])\n"
        "np.savez(sys.argv[1], image=[r['image'] for r in rows], label=[r['label'] for r in rows])\n"
        "assert rows[3]['id'] == b'test_00003' and 'tensorflow' not in sys.modules\n"
        "assert source.dataset_info.features['label'].int2str(9) == 'truck'\n"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "read.npz"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "read.npz") as read:
        np.testing.assert_array_equal(read["image"].transpose(0, 3, 1, 2).reshape(4, 3072), batches["test_batch"][0])
        np.testing.assert_array_equal(read["label"], batches["test_batch"][1])


@pytest.mark.slow
def test_full_archive_by_the_command_line(tmp_path):
    batches = write_archive(tmp_path / "cifar-10-python.tar.gz", 10_000)
    command = [sys.executable, "-m", "diffjax.data.prepare", "cifar10", f"--from={tmp_path}/cifar-10-python.tar.gz"]
    done = subprocess.run(command, env={**os.environ, "TFDS_DATA_DIR": str(tmp_path)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"wrote {tmp_path}/cifar10/3.0.2" in done.stdout
    check_prepared(tmp_path, batches)


def test_archive_rewritten_by_python_3_is_read_too(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (5, 3072), dtype=np.uint8)
    again = lambda name, content: (
        pickle.dumps({b"data": images, b"labels": [3] * 5}, protocol=4 if "test" in name else 2)
        if "_batch" in name
        else content
    )
    write_archive(tmp_path / "a.tar.gz", 5, again)
    splits = prepare.read_cifar10(tmp_path / "a.tar.gz", per_batch=5)
    np.testing.assert_array_equal(splits["test"].image.transpose(0, 3, 1, 2).reshape(5, 3072), images)
    assert splits["train"].label.tolist() == [3] * 25


class Evil:
    def __reduce__(self):
        return (os.system, ("touch pwned",))


def bad_batch(kind):
    pixels, labels = np.zeros((5, 3072), np.uint8), [0, 1, 2, 3, 4]
    return {
        "missing": None,
        "cut": python2_pickle(pixels, labels)[:900],
        "empty": b"",
        "evil": pickle.dumps({b"data": Evil(), b"labels": labels}, 2),
        "label": python2_pickle(pixels, [0, 1, 2, 3, 10]),
        "few": python2_pickle(pixels[:4], labels[:4]),
        "unpaired": python2_pickle(pixels, labels[:4]),
        "wide": python2_pickle(np.zeros((5, 3073), np.uint8), labels),
        "cifar100": python2_pickle(pixels, labels).replace(b"U\x06labels", b"U\x0bfine_labels"),
        "floats": pickle.dumps({b"data": pixels.astype(float), b"labels": labels}, 2),
        "list": pickle.dumps([1, 2]),
        "columns": python2_pickle(pixels, labels).replace(b"\x89T", b"\x88T"),
        "stateless": python2_pickle(pixels, labels).replace(b"\x89T", b"\x89\x89T"),
        "short": python2_pickle(pixels, labels).replace(
            struct.pack("<i", 3072) + b"\x86", struct.pack("<i", 3071) + b"\x86"
        ),
    }[kind]


@pytest.mark.parametrize(
    ("kind", "message"),
    [("missing", "has no cifar-10-batches-py/data_batch_2"), ("cut", r"data_batch_2 is damaged: .* It is not a batch"),
     ("empty", "data_batch_2 is damaged"), ("evil", r"'(posix|nt)\.system' is refused"),
     ("label", r"in \[0, 10\], expected 5 integers"), ("few", r"shape \(4, 3072\).*expected"),
     ("unpaired", r"labels are int64 of shape \(4,\)"), ("wide", r"\(5, 3073\)"),
     ("cifar100", "no 'data' and 'labels'"),
     ("floats", "dtype 'f8', expected bytes"), ("list", "no 'data' and 'labels'"), ("short", "not a batch"),
     ("columns", "no shape and bytes, row after row"), ("stateless", "has not five parts")],
)  # fmt: skip
def test_another_or_damaged_archive_is_refused_before_anything_is_written(tmp_path, kind, message, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = bad_batch(kind)
    write_archive("a.tar.gz", 5, lambda name, real: content if name == "data_batch_2" else real)
    with pytest.raises(ValueError, match=message) as caught:
        prepare.prepare_cifar10("a.tar.gz", "tfds", per_batch=5)
    assert "\n" not in str(caught.value)
    assert [file.name for file in tmp_path.iterdir()] == ["a.tar.gz"]  # no data set, and nothing that evil touched


@pytest.mark.parametrize("kept", [0, 50, 0.5, 0.999])
def test_truncated_archive(tmp_path, capsys, kept):
    write_archive(tmp_path / "a.tar.gz", 5)
    whole = (tmp_path / "a.tar.gz").read_bytes()
    (tmp_path / "cut.tar.gz").write_bytes(whole[: int(kept * len(whole)) if kept < 1 else kept])
    with pytest.raises(ValueError, match=r"cut\.tar\.gz"):
        prepare.prepare_cifar10(tmp_path / "cut.tar.gz", tmp_path, per_batch=5)
    assert prepare.main(["cifar10", f"--from={tmp_path}/cut.tar.gz", f"--data_dir={tmp_path}"]) == 2
    assert re.fullmatch(r"error: .*cut\.tar\.gz.*\n", capsys.readouterr().err)
    assert not (tmp_path / "cifar10").exists()


def test_command_line_names_what_is_missing_or_unknown(tmp_path, capsys):
    assert prepare.main(["cifar10", f"--from={tmp_path}/none.tar.gz"]) == 2
    assert "no archive" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        prepare.main(["cifar11", "--from=a"])
    assert "cifar10" in capsys.readouterr().err


def test_failure_while_writing_leaves_nothing_that_looks_complete(tmp_path, monkeypatch):
    write_archive(tmp_path / "a.tar.gz", 5)
    splits = prepare.read_cifar10(tmp_path / "a.tar.gz", per_batch=5)
    broken = {**splits, "test": prepare.Split(splits["test"].image, np.asarray([0, 1, 2, 3, 77]))}  # no such class
    monkeypatch.setattr(prepare, "read_cifar10", lambda *_: broken)
    with pytest.raises(ValueError, match="77"):
        prepare.prepare_cifar10(tmp_path / "a.tar.gz", tmp_path / "tfds", per_batch=5)
    with pytest.raises(FileNotFoundError, match="no prepared data set"):
        data.tfds("cifar10", str(tmp_path / "tfds"))
    monkeypatch.undo()
    prepare.prepare_cifar10(tmp_path / "a.tar.gz", tmp_path / "tfds", per_batch=5)  # and the way is free
    assert len(data.tfds("cifar10", str(tmp_path / "tfds")).train) == 25
