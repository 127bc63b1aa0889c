"""The inputs of `hostile.py`, kind by kind: each a command, and what makes the files that it meets."""

import json
import os
import random
import re
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

SMALL = tuple(
    f"--config.{text}"
    for text in (
        *("data.name=moons", "model.name=MLP", "model.width=16", "model.depth=1", "target.name=V"),
        *("train.steps=10", "train.log_every=10", "train.sample_every=10", "checkpoint.every=10"),
        *("eval.samples=64", "grid.n=4", "learning_rate.warmup_steps=2", "sample.chunk=16"),
    )
)
TRAIN = ("--config=configs/vpsde.py:tiny", *SMALL, "--workdir=work")
SAMPLE = ("--mode=sample", "--workdir=work", "--out=out", "--seeds=0-3")
OWN = "from diffjax.config import *\ndef get_config(v):\n c = recipe()\n c.{}\n return c"  # a config file
Make = Callable[[Path, random.Random], Any]


class Input(NamedTuple):
    """A hostile input.

    Attributes:
        kind: a row of the table.
        what: it is.
        args: of the command, run in the folder that `make` filled.
        says: a regular expression that the error has to hold: the field or the file.
        make: puts files into the folder.
    """

    kind: str
    what: str
    args: tuple[str, ...]
    says: str
    make: Make | None = None


def flags(_: Path) -> Iterator[Input]:
    """What is typed without --config.field."""
    of = lambda says, *args, base=(): Input("flags", " ".join(args)[:60], (*base, *args), says)
    yield of("--workdir", "--mode=sample")
    yield of("mode", "--mode=trian")
    yield of("unknown argument", "--worksdir=x", base=TRAIN)
    yield of("nothere", "--mode=sample", "--workdir=nothere")
    yield of("--config", "--mode=train")
    for text in (
        "",
        "-",
        "-1",
        "5-2",
        "3-",
        "1,,2",
        "a",
        "0x10",
        "1e3",
        "1.5",
        "٣",
        "0-٣",
        "²",
        "4294967296",
        "0-4294967295",
        "0-99999999",
        "9" * 5000,
        "0-" + "9" * 5000,
        "0;1",
        "1 2",
        "\0",
    ):
        yield Input("flags", f"seeds {text[:12]!r}", (*SAMPLE[:3], f"--seeds={text}"), "seeds", trained)
    for text in ("0", "-1", "x", "1.5", "9" * 5000, "10000000000", "2000000000"):
        yield Input("flags", f"nfe {text[:12]}", (*SAMPLE, f"--nfe={text}"), "nfe|number of steps", trained)
    for text in ("-1", "7", "9" * 5000, "nan", str(2**63)):
        yield Input("flags", f"step {text[:12]}", (*SAMPLE, f"--step={text}"), "step", trained)
    for text in ("os.system", "ancestral.__class__", "ancestral", "x" * 5000, "", "ancestral.ddim\0", "..", "\udcff"):
        yield Input("flags", f"sampler {text[:20]!r}", (*SAMPLE, f"--sampler={text}"), "sampler", trained)
    file = lambda folder, _: (trained(folder, _), (folder / "file").write_text("x"))
    for text in (
        "file",
        "file/x",
        "/proc/x",
        "/dev/null/x",
        "/dev/full",
        "a\0b",
        "n" * 300,
        "d/" * 3000 + "x",
        "work/checkpoints",
        "work/checkpoints/10/state",
        "work/config.json/x",
        "\udcff\0",
    ):
        yield Input(
            "flags",
            f"out {text[:20]!r}",
            (*SAMPLE[:2], "--seeds=0-3", f"--out={text}"),
            "out|" + re.escape(text[:20]),
            file,
        )
    for text in ("file", "/proc/x", "/dev/null", "/dev/null/x", "a\0b", "n" * 300, "in"):
        full = lambda folder, _: ((folder / "file").write_text("x"), (folder / "in").mkdir(), (folder / "in/x").touch())
        yield Input(
            "flags",
            f"workdir {text[:20]!r}",
            (*TRAIN[:-1], f"--workdir={text}"),
            "workdir|" + re.escape(text[:20]),
            full,
        )


def configs(_: Path) -> Iterator[Input]:
    """The file of --config; it is a program of the user's own, so that its place and its result are looked at."""
    for text in (
        "nothere.py",
        "configs/vpsed.py",
        "configs/vpsde.py:tyni",
        "configs",
        "",
        ":",
        "/dev/null",
        "/dev/zero",
        "/dev/full",
        "c" * 5000 + ".py",
        "c\0.py",
        "configs/vpsde.py:\0",
        "\udcff.py",
        "configs/vpsde.py:" + "v" * 5000,
        "../" * 2000 + "x.py",
        "configs/vpsde.py:__class__",
        "data.npz",
        "fifo.py",
    ):
        make = lambda folder, _: (np.savez(folder / "data.npz", x=np.ones(3)), os.mkfifo(folder / "fifo.py"))
        yield Input("configs", f"path {text[:20]!r}", (f"--config={text}", "--workdir=work"), "config", make)
    for what, text in {
        "empty": "",
        "no ConfigDict": "VARIANTS = {'a': dict}",
        "no variants": "VARIANTS = {}",
        "variants a list": "VARIANTS = [1]",
        "variants None": "VARIANTS = None",
        "variant no function": "VARIANTS = {'a': 3}",
        "None": "def get_config(v): return None",
        "syntax": "def (",
        "raises": "def get_config(v): raise KeyError('x')",
        "no such import": "import nothere",
        "bytes": "\0\0\0",
        "unknown group": OWN.format("modle = spec('MLP')"),
        "group a number": OWN.format("model = 3"),
        "name a number": OWN.format("model = spec(3)"),
        "wrong type": OWN.format("train.steps = '10'"),
        "deep": "x = " + "(" * 3000 + ")" * 3000,
    }.items():
        write = lambda folder, _, text=text: (folder / "own.py").write_text(text)
        yield Input("configs", what, ("--config=own.py", "--workdir=work"), "own.py|config|modle|steps|model", write)


def overrides(_: Path) -> Iterator[Input]:
    """Values of --config.field: sizes without bound, other types, names of other things, odd characters."""
    of = lambda text, says=None: Input(
        "overrides", text[:60], (*TRAIN, f"--config.{text}"), says or re.escape(text.partition("=")[0])
    )
    huge = {
        "grid.n": (10**7, 10**9, 10**23),
        "train.batch_size": (10**9, 10**12, 10**30),
        "train.steps": (2**31, 10**23),
        "model.width": (10**6, 10**11, 10**30),
        "model.depth": (10**5, 10**9),
        "sample.chunk": (10**9, 10**12),
        "eval.samples": (10**9, 10**12),
        "eval.time_bins": (10**9, 10**12),
        "train.steps_per_dispatch": (10**9,),
        "checkpoint.every": (0, -1),
        "checkpoint.keep": (0, -5),
        "checkpoint.best": (-1,),
        "train.log_every": (0,),
        "train.devices": (0, 9, 10**12),
        "seed": (-1, 2**32, 10**30),
        "learning_rate.warmup_steps": (-1, 10**30),
        "data.n": (0, -1, 10**9, 10**12, 10**30),
        "data.held_out": (0, 10**12),
        "data.seed": (-1, 10**30),
        "data.noise": ("nan", "inf", "-1", "x"),
        "learning_rate.peak": ("nan", "inf", "-1", "x"),
        "train.clip_norm": ("nan", "-1", "0"),
        "train.label_dropout": ("1", "nan", "-0.5"),
        "sample.label": (3, "cat", 10**30),
        "schedule.beta_max": ("nan", "inf", "-1", "1e308"),
        "grid.t_min": ("nan", "-1", "2", "1e-400"),
        "times.t_min": ("nan", "2"),
        "checkpoint.snapshot_every": (0, -1, 10**30),
        "model.classes": (10**12, -1),
        "train.start": ("nothere", "a\0b"),
        "train.only": ("(", "a" * 5000),
        "optimizer.name": ("nothere", "os.system", "adam\0"),
        "model.name": ("os", "__class__", "UNet.__call__", "x" * 5000, ""),
        "data.name": ("os.system", "npz.__globals__", "folder"),
        "ema.decays": ("()", "(2.0,)", "('a',)", "nan"),
        "sample.ema": ("0.5", "x"),
        "train.loggers": ("('x',)", "3"),
        "train.backend": ("tpu",),
        "train.nonfinite": ("ignore",),
    }
    for field, values in huge.items():
        for value in values:
            says = {
                "ema.decays": "ema|decay",
                "schedule.beta_max": "beta|schedule",
                "grid.t_min": "t_min|log-SNR",
                "grid.n": "steps",
            }
            says |= {"learning_rate.peak": "learning_rate", "train.start": "no run", "optimizer.name": "optimizer"}
            says |= {"model.name": "models|UNet", "data.name": "data|npz"}
            yield of(f"{field}={value}", says.get(field, field.rpartition(".")[2]))
    for text in (
        "train.steps",
        "train.steps=",
        "train.steps=[",
        "train.steps=1e9",
        "train.steps=" + "9" * 5000,
        "train.steps=" + "(" * 500,
        "train.steps=__import__('os').system('touch EXECUTED')",
        "loss.weight=unit",
        "=3",
        ".=3",
        "..=1",
        "train=3",
        "train..steps=3",
        "train.steps.x=3",
        "__class__=3",
        "train.__class__=3",
        "model.__init__=3",
        "a\0b=3",
        "n" * 5000 + "=1",
        "model." + "n" * 300 + "=1",
        "model.width={'a':1}",
        "model.width=" + "[" * 200 + "]" * 200,
        "model.width='\ud800'",
        "sampler.eta=" + "x" * 300,
        "model.width=-16",
        "model.width=0",
        "model.width=True",
        "model.width=16.5",
        "model.depth=-1",
        "grid.n=0",
        "grid.n=-4",
        "grid.n=True",
        "grid.n=4.0",
    ):
        words = "train|config|field|override|model|grid|loss|sampler|MLP|eta|width|depth|steps"
        yield of(text, words)
    for text in (
        "sampler.eta=nan",
        "sampler.eta=" + "9" * 5000,
        "grid.n=1000000000",
        "eval.samples=1000000000000",
        "sample.label=99",
        "train.steps=20",
        "sampler.name=../x",
        "sampler.name=" + "y" * 300,
        "sample.chunk=1000000000000",
    ):
        says = text.partition("=")[0].rpartition(".")[2] + "|sampler|change"
        yield Input(
            "overrides", f"sample: {text[:40]}", (*SAMPLE[:2], "--seeds=0-3", f"--config.{text}"), says, trained
        )


TABLES = ("ts", "error", "entries", "noise", "spread", "mean", "variances", "axes")  # of moments.npz, axes.npz


def header(shape: Any, kind: str = "<f4") -> bytes:
    """The header of a .npy file."""
    text = f"{{'descr': {kind!r}, 'fortran_order': False, 'shape': {shape}}}\n".encode()
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text


def npz(_: Path) -> Iterator[Input]:
    """Files of arrays."""
    of = lambda what, make, *args, says="in.npz": Input(
        "npz", what, (*TRAIN[:1], "--config.data.name=npz", "--config.data.path=in.npz", *TRAIN[2:], *args), says, make
    )
    arrays = lambda **named: lambda folder, _: np.savez(folder / "in.npz", **named)
    plain = np.random.default_rng(0).normal(size=(100, 2)).astype(np.float32)
    nolabel = "--config.data.label=None"
    yield of("no such file", None, nolabel)
    yield of("no label", arrays(x=plain))
    for what, data in {
        "empty": b"",
        "text": b"hello",
        "zip of nothing": b"PK\5\6" + bytes(18),
        "html": b"<html>",
    }.items():
        yield of(what, lambda folder, _, data=data: (folder / "in.npz").write_bytes(data), nolabel)
    yield of("noise", lambda folder, rng: (folder / "in.npz").write_bytes(rng.randbytes(5000)), nolabel)
    yield of("one array", lambda folder, _: np.save((folder / "in.npz").open("wb"), plain), nolabel)
    yield of("objects", arrays(x=np.asarray([{}, []], object)), nolabel)
    yield of("a pickle that runs", arrays(x=np.asarray([_Evil()], object)), nolabel)
    yield of("ragged", arrays(x=np.asarray([[1], [1, 2]], object)), nolabel)
    for what, x in {
        "no example": plain[:0],
        "no entry": plain[:, :0],
        "one example": plain[:1],
        "scalar": np.float32(3),
        "five axes": np.ones((2,) * 5),
        "complex": plain.astype(np.complex64),
        "text": np.asarray([["a"]] * 9),
        "dates": np.zeros((9, 2), "M8[s]"),
        "bool": plain > 0,
        "NaN": np.full((50, 2), np.nan),
        "infinite": np.full((50, 2), np.inf),
        "float64 beyond float32": np.full((50, 2), 1e300),
        "void": np.zeros(9, "V7"),
        "records": np.zeros(9, [("a", "f4")]),
        "images beyond 1": np.full((50, 4, 4, 3), 300.0),
        "int64": np.ones((50, 2), int),
        "channels first": np.zeros((50, 3, 8, 8), np.uint8),
    }.items():
        yield of(what, arrays(x=x), nolabel)
    for what, y in {
        "negative": -np.ones(100, int),
        "too large": np.full(100, 2**31),
        "too few": np.ones(99, int),
        "floats": np.ones(100),
        "two axes": np.ones((100, 2), int),
        "objects": np.full(100, None),
        "text": np.full(100, "a"),
    }.items():
        yield of(f"labels: {what}", arrays(x=plain, label=y))
    for what, data in {
        "huge shape": header((10**12, 2)),
        "shape beyond 64 bit": header((10**30, 10**30)),
        "negative shape": header((-5, 2)),
        "not a shape": header("'a'"),
        "code as shape": header("__import__('os').system('touch EXECUTED')"),
        "deep header": header("(" * 5000 + ")" * 5000),
        "no magic": b"hello",
        "version 9": b"\x93NUMPY\x09\0",
        "empty": b"",
        "header cut": header((9, 2))[:20],
        "objects": header((9,), "|O"),
        "unknown dtype": header((9,), "<q9"),
        "float shape": header("(9.5, 2)"),
        "true shape": header("(True, 2)"),
    }.items():
        yield of(f"header: {what}", lambda folder, _, data=data: _zip(folder / "in.npz", {"x.npy": data}), nolabel)
    bomb = lambda folder, _: _zip(folder / "in.npz", {"x.npy": header((2**31, 2)) + bytes(2**27)})
    yield of("bomb", bomb, nolabel)
    yield of("no .npy member", lambda folder, _: _zip(folder / "in.npz", {"x": b"hello"}), nolabel)
    yield of("cut", lambda folder, rng: _cut(folder / "in.npz", rng, plain), nolabel)
    yield of("flipped", lambda folder, rng: _flip(folder / "in.npz", rng, plain), nolabel)
    yield of("a folder", lambda folder, _: (folder / "in.npz").mkdir(), nolabel)
    yield of("a FIFO", lambda folder, _: os.mkfifo(folder / "in.npz"), nolabel)
    yield of("a path with NUL", None, nolabel, "--config.data.path=a\0b", says="data|path")
    yield of("a path of 5000", None, nolabel, "--config.data.path=" + "p" * 5000, says="p" * 20)
    for option in (
        "held_out=2.0",
        "held_out=nan",
        "held_out=-1.0",
        "standardize=rows",
        "most_gib=nan",
        "most_gib=-1.0",
        "x=3",
        "x=../../x",
        "flip=true",
    ):
        yield of(option, arrays(x=plain), nolabel, f"--config.data.{option}", says=option.partition("=")[0] + "|in.npz")


def images(_: Path) -> Iterator[Input]:
    """Folders and zips of images."""
    of = lambda what, make, *args, says="in", path="in": Input(
        "images",
        what,
        (*TRAIN[:1], "--config.data.name=folder", f"--config.data.path={path}", *TRAIN[2:], *args),
        says,
        make,
    )
    yield of("no such folder", None)
    yield of("empty", lambda folder, _: (folder / "in").mkdir())
    size = "--config.data.size=8"
    one = lambda name, data: lambda folder, rng: (_pictures(folder, rng), (folder / "in" / name).write_bytes(data))
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"
    good = png(8, 8)
    for what, data in {
        "an EPS": eps,
        "text": b"hello",
        "nothing": b"",
        "html": b"<html></html>",
        "svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "cut": good[:40],
        "flipped": good[:44] + b"\xff\xff" + good[46:],
        "100k x 100k": png(100_000, 100_000, b""),
        "30k x 30k": png(30_000, 30_000, b""),
        "12k x 12k": png(12_000, 12_000, zlib.compress(bytes(36_001 * 12_000), 9)),
        "0 x 0": png(0, 0, b""),
        "other size": png(9, 9),
        "negative": png(2**31, 8, b""),
        "text bomb": good[:33] + _chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**28))) + good[33:],
        "a pickle": b"\x80\4cos\nsystem\n(S'touch EXECUTED'\ntR.",
        "16 bit": png(8, 8, zlib.compress(bytes(49 * 8)), 16),
    }.items():
        yield of(what, one("bad.png", data), *([] if what == "other size" else [size]), says="bad.png")
    yield of(
        "noise",
        lambda folder, rng: (_pictures(folder, rng), (folder / "in/bad.png").write_bytes(rng.randbytes(999))),
        size,
        says="bad.png",
    )
    yield of(
        "flat and sorted",
        lambda folder, rng: (
            _pictures(folder, rng),
            (folder / "in/a").mkdir(),
            (folder / "in/a/x.png").write_bytes(good),
        ),
        size,
    )
    # What is no file is passed over; the MLP then refuses the pictures.
    yield of("a FIFO", lambda folder, rng: (_pictures(folder, rng), os.mkfifo(folder / "in/bad.png")), size, says="MLP")
    yield of(
        "a link to nothing",
        lambda folder, rng: (_pictures(folder, rng), (folder / "in/bad.png").symlink_to("nothere")),
        size,
        says="bad.png",
    )
    yield of(
        "a link to /dev/zero",
        lambda folder, rng: (_pictures(folder, rng), (folder / "in/bad.png").symlink_to("/dev/zero")),
        size,
        says="bad.png",
    )
    yield of("labels no JSON", one("dataset.json", b"{"), size, says="dataset.json")
    yield of("labels deep", one("dataset.json", b"[" * 100_000), size, says="dataset.json")
    yield of("labels missing", one("dataset.json", b'{"labels": []}'), size, says="dataset.json")
    yield of("labels huge", one("dataset.json", b'{"labels": [["0.png", 99999999999999]]}'), size, says="dataset.json")
    for option in (
        "size=0",
        "size=-1",
        "size=100000",
        "size=10000000000000",
        "channels=2",
        "held_out=7.0",
        "background=(1,2)",
        "label=x",
        "y=nothere",
        "size=8.5",
    ):
        yield of(
            option,
            lambda folder, rng: _pictures(folder, rng),
            size,
            f"--config.data.{option}",
            says=option.partition("=")[0],
        )
    packed = lambda members: lambda folder, _: _zip(folder / "in.zip", members)
    for what, members in {
        "zip: nothing": {},
        "zip: above itself": {"../../x.png": b"hello"},
        "zip: absolute": {"/etc/x.png": b"hello"},
        "zip: bomb": {"x.png": bytes(2**29)},
        "zip: bad image": {"x.png": b"hello"},
    }.items():
        more = {f"{n}.png": good for n in range(9)} if members else {}
        yield of(what, packed({**more, **members}), size, path="in.zip", says="in.zip|MLP")
    yield of(
        "zip: cut",
        lambda folder, _: (folder / "in.zip").write_bytes(b"PK\3\4" + bytes(40)),
        size,
        path="in.zip",
        says="in.zip",
    )
    yield of("zip: text", lambda folder, _: (folder / "in.zip").write_text("hello"), size, path="in.zip", says="in.zip")
    yield of("path with NUL", None, size, path="a\0b", says="path|folder")
    yield of("path of 5000", None, size, path="p" * 5000, says="p" * 20)


def tfds(shared: Path) -> Iterator[Input]:
    """Prepared data sets of TensorFlow Datasets."""
    args = (
        *TRAIN[:1],
        "--config.data.name=tfds",
        "--config.data.data_dir=.",
        "--config.data.dataset=pictures",
        *TRAIN[2:],
    )

    def of(what: str, change: Callable[[Path], Any], *more: str, says: str = "pictures") -> Input:
        make = lambda folder, _: (
            shutil.copytree(shared / "pictures", folder / "pictures"),
            change(folder / "pictures/1.0.0"),
        )
        return Input("tfds", what, (*args, *more), says, make)

    def edit(name: str, change: Callable[[dict], Any]) -> Callable[[Path], Any]:
        def do(folder: Path) -> None:
            told = json.loads((folder / name).read_text())
            change(told)
            (folder / name).write_text(json.dumps(told))

        return do

    info, features, evil = "dataset_info.json", "features.json", "evilmod.X"
    yield of("a class of its own", edit(features, lambda t: t.update(pythonClassName=evil)), says=features)
    yield of(
        "an inner class",
        edit(features, lambda t: t["featuresDict"]["features"]["label"].update(pythonClassName=evil)),
        says=features,
    )
    yield of("os.system", edit(features, lambda t: t.update(pythonClassName="os.system")), says=features)
    for name in (info, features):
        for what, text in {
            "empty": "",
            "cut": '{"a": ',
            "list": "[1]",
            "number": "3",
            "deep": "[" * 100_000,
            "no UTF-8": "\udcff",
            "object": "{}",
        }.items():
            yield of(
                f"{name}: {what}", lambda f, n=name, t=text: (f / n).write_bytes(t.encode(errors="surrogateescape"))
            )
        yield of(f"{name}: missing", lambda f, n=name: (f / n).unlink())
        yield of(f"{name}: a folder", lambda f, n=name: ((f / n).unlink(), (f / n).mkdir()))
    shard = lambda value: edit(info, lambda t: t["splits"][0].update(shardLengths=[value]))
    for value in ("1000000000000", "-1", "x", "9" * 5000, "٣"):
        yield of(f"shard of {value[:12]}", shard(value))
    for value in ("../../x", "/etc/passwd", "a\0b", "", 3):
        yield of(f"split named {value!r}", edit(info, lambda t, v=value: t["splits"][0].update(name=v)))
    for value in ("../../{SHARD_X_OF_Y}", "/etc/{SHARD_X_OF_Y}", "{0.__class__}", "{", 3):
        yield of(f"template {value!r}", edit(info, lambda t, v=value: t["splits"][0].update(filepathTemplate=v)))
    for what, data in {
        "cut": lambda b: b[: len(b) // 2],
        "empty": lambda b: b"",
        "flipped": lambda b: b[:100] + bytes(64) + b[164:],
    }.items():
        yield of(
            f"records {what}", lambda f, d=data: [p.write_bytes(d(p.read_bytes())) for p in f.glob("*array_record*")]
        )
    yield of("records missing", lambda f: [p.unlink() for p in f.glob("*array_record*")])
    for option in (
        "dataset=nothere",
        "dataset=../pictures",
        "dataset=pictures:9.9.9",
        "dataset=a\0b",
        "dataset=" + "d" * 5000,
        "train=nothere",
        "train=train[",
        "train=train[:0]",
        "held_out=train",
        "image=nothere",
        "label=image",
        "data_dir=nothere",
        "dataset=**/*",
        "train=" + "9" * 5000,
    ):
        yield of(
            option[:40],
            lambda f: None,
            f"--config.data.{option}",
            says=option.partition("=")[0] + "|pictures|split|" + re.escape(option.partition("=")[2][:20]),
        )


def checkpoints(_: Path) -> Iterator[Input]:
    """Checkpoints of a trained run, every one of them damaged."""

    def of(what: str, change: Callable[[Path, random.Random], Any], says: str = "checkpoint|step 10") -> Input:
        return Input(
            "checkpoints",
            what,
            SAMPLE,
            says,
            lambda folder, rng: (trained(folder, rng), change(folder / "work/checkpoints", rng)),
        )

    files = lambda at: [p for p in sorted((at / "10").rglob("*")) if p.is_file()]
    large = lambda at: [p for p in files(at) if p.stat().st_size > 300]
    record = lambda change: lambda at, _: _json(at / "10/info/metadata", change)
    yield of("none", lambda at, _: shutil.rmtree(at))
    yield of("empty", lambda at, _: shutil.rmtree(at / "10"))
    yield of("all files empty", lambda at, _: [p.write_bytes(b"") for p in files(at)])
    yield of("all files noise", lambda at, rng: [p.write_bytes(rng.randbytes(500)) for p in files(at)])
    yield of("flipped bytes", lambda at, rng: [p.write_bytes(_flipped(p.read_bytes(), rng)) for p in large(at)])
    yield of("cut", lambda at, _: [p.write_bytes(p.read_bytes()[: p.stat().st_size // 2]) for p in files(at)])
    yield of("another number", lambda at, _: (at / "10").rename(at / "35"), "step|35")
    yield of("no state", lambda at, _: shutil.rmtree(at / "10/state"))
    yield of("no record", lambda at, _: shutil.rmtree(at / "10/info"))
    yield of("a file", lambda at, _: (shutil.rmtree(at), at.write_text("x")))
    yield of("a step that is a file", lambda at, _: (shutil.rmtree(at / "10"), (at / "10").write_text("x")))
    yield of("a step of 300 digits", lambda at, _: (at / "10").rename(at / ("9" * 200)), "step|999")
    yield of("a step in Arabic digits", lambda at, _: (at / "10").rename(at / "١٠"))
    yield of("record: deep", lambda at, _: (at / "10/info/metadata").write_text("[" * 100_000))
    yield of("record: list", lambda at, _: (at / "10/info/metadata").write_text("[1]"))
    yield of("record: empty object", lambda at, _: (at / "10/info/metadata").write_text("{}"))
    yield of("record: other step", record(lambda t: t.update(step=11)))
    yield of("record: step text", record(lambda t: t.update(step="10")))
    yield of("record: leaves list", record(lambda t: t.update(leaves=[1])))
    yield of("record: leaves none", record(lambda t: t.update(leaves={})))
    yield of("record: metrics text", record(lambda t: t.update(metrics="x")))
    yield of(
        "record: 10000 digits", lambda at, _: (at / "10/info/metadata").write_text('{"step": ' + "9" * 10_000 + "}")
    )
    yield of("metadata: empty object", lambda at, _: (at / "10/state/_METADATA").write_text("{}"))
    yield of("a link to nothing", lambda at, _: (shutil.rmtree(at / "10"), (at / "10").symlink_to("nothere")))
    yield of("a loop of links", lambda at, _: (shutil.rmtree(at / "10"), (at / "10").symlink_to("10")))


def workdirs(_: Path) -> Iterator[Input]:
    """Other files of a workdir."""

    def of(what: str, change: Callable[[Path], Any], *args: str, says: str = r"config\.json") -> Input:
        return Input(
            "workdirs", what, args or SAMPLE, says, lambda folder, rng: (trained(folder, rng), change(folder / "work"))
        )

    write = lambda text: lambda work: (work / "config.json").write_bytes(text.encode(errors="surrogateescape"))
    for what, text in {
        "empty": "",
        "list": "[1, 2]",
        "number": "3",
        "text": '"a"',
        "null": "null",
        "deep": '{"a":' * 100_000,
        "no UTF-8": "\udcff",
        "dotted key": '{"a.b": 3}',
        "class": '{"__class__": 3}',
        "digits": '{"a": ' + "9" * 10_000 + "}",
        "NaN": '{"train": NaN}',
        "nothing": "{}",
        "twice": '{"a": 1, "a": 2}',
        "NUL": "\0",
        "lone surrogate": '{"\\ud800": 1}',
    }.items():
        yield of(f"config: {what}", write(text), says="config|train|checkpoints")
    edit = lambda change: lambda work: _json(work / "config.json", change)
    for what, change in {
        "train a number": lambda t: t.update(train=3),
        "steps text": lambda t: t["train"].update(steps="10"),
        "steps true": lambda t: t["train"].update(steps=True),
        "steps list": lambda t: t["train"].update(steps=[1]),
        "model null": lambda t: t.update(model=None),
        "model list": lambda t: t.update(model=[1, 2]),
        "name a number": lambda t: t["model"].update(name=3),
        "name of code": lambda t: t["model"].update(name="os.system"),
        "no model": lambda t: t.pop("model"),
        "width 10^11": lambda t: t["model"].update(width=10**11),
        "width 10^400": lambda t: t["model"].update(width=10**400),
        "grid 10^9": lambda t: t["grid"].update(n=10**9),
        "chunk 10^12": lambda t: t["sample"].update(chunk=10**12),
        "unknown group": lambda t: t.update(modle={}),
        "objects": lambda t: t.update(objects={}),
        "name a list": lambda t: t.update(name=["x"]),
        "decays text": lambda t: t["ema"].update(decays="x"),
        "data null": lambda t: t.update(data=None),
        "method text": lambda t: t.update(method="os.system"),
        "method a number": lambda t: t.update(method=3),
        "keep 10^30": lambda t: t["checkpoint"].update(keep=-1),
        "label list": lambda t: t["sample"].update(label=[1]),
        "sampler deep": lambda t: t["sampler"].update(eta={"a": {"b": {"c": 1}}}),
        "devices text": lambda t: t["train"].update(devices="x"),
    }.items():
        yield of(
            f"config: {what}",
            edit(change),
            says="config|train|model|grid|chunk|sample|ema|data|method|modle|objects|keep|sampler|devices|name|U-Net|width|steps|decays|option",
        )
    yield of("config a folder", lambda work: ((work / "config.json").unlink(), (work / "config.json").mkdir()))
    yield of("config a FIFO", lambda work: ((work / "config.json").unlink(), os.mkfifo(work / "config.json")))
    yield of(
        "config /dev/zero",
        lambda work: ((work / "config.json").unlink(), (work / "config.json").symlink_to("/dev/zero")),
    )
    yield of(
        "config a loop",
        lambda work: ((work / "config.json").unlink(), (work / "config.json").symlink_to("config.json")),
    )
    yield of("config gone", lambda work: (work / "config.json").unlink(), *TRAIN)
    yield of(
        "samples a file",
        lambda work: (
            (work / "samples").exists() and shutil.rmtree(work / "samples"),
            (work / "samples").write_text("x"),
        ),
        *SAMPLE[:2],
        says="samples",
    )
    yield of(
        "metrics a folder",
        lambda work: ((work / "metrics.jsonl").unlink(), (work / "metrics.jsonl").mkdir()),
        *TRAIN,
        "--config.train.steps=20",
        says="metrics|config",
    )
    yield of(
        "lock a folder",
        lambda work: ((work / ".lock").unlink(missing_ok=True), (work / ".lock").mkdir()),
        *TRAIN,
        says="lock",
    )
    yield of(
        "lock a FIFO",
        lambda work: ((work / ".lock").unlink(missing_ok=True), os.mkfifo(work / ".lock")),
        *TRAIN,
        says="lock",
    )
    yield of(
        "metrics a FIFO",
        lambda work: ((work / "metrics.jsonl").unlink(), os.mkfifo(work / "metrics.jsonl")),
        *TRAIN,
        says="metrics",
    )
    yield of("another run", lambda work: None, *TRAIN, "--config.seed=5", says="another config")


def sizes(_: Path) -> Iterator[Input]:
    """Numbers of other methods, data and samplers, all too large for any machine."""

    def of(config: str, *texts: str, says: str = "") -> Input:
        last = texts[-1].partition("=")[0].rpartition(".")[2]
        return Input(
            "sizes",
            f"{config}: {' '.join(texts)}"[:70],
            (f"--config=configs/{config}.py:tiny", *(f"--config.{text}" for text in texts), "--workdir=work"),
            says or {"length": "places", "vocabulary": "vocabulary|places"}.get(last, last),
        )

    huge = 10**11
    for config, field in (
        ("masked", "method.vocabulary"),
        ("masked", "method.steps"),
        ("masked", "model.vocabulary"),
        ("masked", "model.size"),
        ("masked", "data.length"),
        ("masked", "data.vocabulary"),
        ("masked", "data.n"),
        ("masked", "data.held_out"),
        ("monoflow", "method.critics"),
        ("monoflow", "method.latent"),
        ("monoflow", "generator.width"),
        ("monoflow", "critic.depth"),
        ("coupling_flow", "method.layers"),
        ("coupling_flow", "model.depth"),
        ("autoencoder", "encoder.width"),
        ("flow_map", "method.steps"),
        ("flow_map", "model.gap"),
        ("vpsde", "model.channels"),
        ("vpsde", "model.blocks"),
        ("vpsde", "model.outputs"),
        ("vpsde", "model.patch"),
        ("vpsde", "model.head_width"),
        ("vpsde", "model.condition"),
        ("vpsde", "model.augment"),
    ):
        yield of(config, f"{field}={huge}")
    yield of("coupling_flow", f"model.shape=({huge},)", says=r"shape\[0\]")
    for text in (f"(1, {huge})", str((2,) * 40), str((1,) * 5000), "(0,)", "()", "(1, -2)"):
        yield of("vpsde", f"model.multipliers={text}", says="multipliers|stride|divisible|parameters|level")
    for name in ("linear", "cosine", "kexue"):
        yield of("vpsde", f"schedule.name=Tabulated.{name}", f"schedule.steps={huge}")
    yield of("vpsde", "grid.name=sections", "grid.n='" + "9" * 3000 + "'", says="sections")
    yield of("vpsde", "grid.name=sections", "grid.n='ddim" + "9" * 30 + "'", says="sections")
    for name in ("trailing", "leading", "linspace", "quadratic", "iddpm"):
        yield of("vpsde", f"grid.name={name}", "grid.n=5", f"grid.steps={huge}", says="chain")
    yield of("vpsde", "times.name=chain", f"times.steps={huge}", says="chain|steps")
    yield of("vpsde", "prepare.name=importance", f"prepare.steps={huge}")
    yield of("vpsde", "prepare.name=importance", f"prepare.history={huge}", says="history|steps")
    yield of("vpsde", "sampler.name=langevin.predictor_corrector", f"sampler.corrections={huge}")
    yield of("vpsde", "sampler.name=multistep.adams", f"sampler.order={huge}")
    yield of("vpsde", "sampler.name=deis.tab", f"sampler.order={huge}")
    yield of("vpsde", f"ema.decays={tuple(0.9 + i / 1e5 for i in range(9000))}", says="EMA|network|averages|sample.ema")
    yield of("rectified", "prepare.name=optimal_transport", "prepare.method=sinkhorn", f"prepare.iterations={huge}")
    yield of("bridge", f"data.factor={huge}")
    yield of("vpsde", "denoiser.name=jacobian", f"denoiser.probes={huge}", says="probes|jacobian")


def files(_: Path) -> Iterator[Input]:
    """Files beside a run that a config names."""

    def of(what: str, change: Callable[[Path, random.Random], Any], *args: str, says: str) -> Input:
        make = lambda folder, rng: (trained(folder, rng), change(folder, rng))
        return Input("files", what, (*SAMPLE, *args), says, make)

    uses = {
        "moments": ("--config.denoiser.name=analytic", "--config.denoiser.moments=in.npz"),
        "axes": ("--config.sampler.name=principal.adams", "--config.sampler.axes=in.npz"),
    }
    huge = header((10**12, 2))
    for name, args in uses.items():
        for what, change in {
            "none": lambda folder, rng: None,
            "empty": lambda folder, rng: (folder / "in.npz").write_bytes(b""),
            "noise": lambda folder, rng: (folder / "in.npz").write_bytes(rng.randbytes(3000)),
            "other": lambda folder, rng: np.savez(folder / "in.npz", x=np.ones(3)),
            "a pickle that runs": lambda folder, rng: _pickled(folder / "in.npz"),
            "objects": lambda folder, rng: np.savez(folder / "in.npz", **dict.fromkeys(TABLES, np.full(3, None))),
            "scalars": lambda folder, rng: np.savez(folder / "in.npz", **dict.fromkeys(TABLES, np.float64(1))),
            "NaN": lambda folder, rng: np.savez(folder / "in.npz", **dict.fromkeys(TABLES, np.full((3, 3), np.nan))),
            "text": lambda folder, rng: np.savez(folder / "in.npz", **dict.fromkeys(TABLES, np.full(3, "a"))),
            "nothing in them": lambda folder, rng: np.savez(folder / "in.npz", **dict.fromkeys(TABLES, np.ones(0))),
            "huge": lambda folder, rng: _zip(folder / "in.npz", {f"{table}.npy": huge for table in TABLES}),
            "a folder": lambda folder, rng: (folder / "in.npz").mkdir(),
            "a FIFO": lambda folder, rng: os.mkfifo(folder / "in.npz"),
        }.items():
            if (name, what) != ("axes", "scalars"):  # which are axes of one length
                yield of(f"{name}: {what}", change, *args, says=r"in\.npz")
        for path in ("a\0b", "p" * 5000, "/dev/zero"):
            at = (args[0], args[1].replace("in.npz", path))
            says = re.escape(path[:5].replace("\0", "\\x00"))
            yield of(f"{name}: path {path[:20]!r}", lambda folder, rng: None, *at, says=says)


def modes(_: Path) -> Iterator[Input]:
    """What eval, likelihood and moments are asked for, of a trained run."""
    huge = 10**12
    values = {
        "--config.grid.n": (0, -1, 10**9, 10**30, "nan"),
        "--config.grid.t_min": ("nan", "-1", "2"),
        "--config.eval.samples": (0, -1, 10**9, huge, "nan"),
        "--config.eval.time_bins": (0, 10**9, huge),
        "--config.sample.chunk": (0, huge),
        "--config.sample.ema": ("nan", "0.5", "'" + "9" * 3000 + "'"),
        "--config.sampler.eta": ("nan", "2", "inf"),
        "--config.train.steps": (10**9,),
        "--config.sampler.name": ("os.system", "ode", "__class__", "ancestral.ddim.__init__", "../x"),
        "--config.denoiser.name": ("nothing", "analytic"),
        "--config.guidance.name": ("classifier_free",),
        "--sampler": ("os.system", "ancestral", ""),
        "--nfe": (0, -5, 10**9, 10**30),
        "--step": (-1, 7, 10**30),
        "--out": ("/proc/x", "/dev/null", "a" * 5000, "a\0b", "work/checkpoints"),
    }
    others = {"nfe": "number of steps", "name": "'|samplers|guidance", "sampler": "'|samplers", "ema": "EMA|ema"}
    for mode in ("eval", "likelihood", "moments"):
        for flag, tried in values.items():
            for value in tried:
                args = (f"--mode={mode}", "--workdir=work", f"{flag}={value}")
                says = flag.rpartition(".")[2].lstrip("-")
                yield Input("modes", " ".join(args)[:60], args, others.get(says, says), trained)


KINDS = {
    f.__name__: f for f in (sizes, modes, files, flags, configs, overrides, npz, images, tfds, checkpoints, workdirs)
}


# How they are made.


class _Evil:
    def __reduce__(self):
        return os.system, ("touch EXECUTED",)


def trained(folder: Path, _: random.Random) -> None:
    """Puts the trained run into a folder."""
    shutil.copytree(folder.parents[1] / "run", folder / "work")


def _zip(path: Path, members: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def _pickled(path: Path) -> None:
    np.savez(path, **dict.fromkeys(TABLES, np.asarray([_Evil()], object)))


def _cut(path: Path, rng: random.Random, x: np.ndarray) -> None:
    np.savez(path, x=x)
    path.write_bytes(path.read_bytes()[: rng.randrange(100, 700)])


def _flipped(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data) // 3, len(data) // 2)
    return data[:at] + bytes(b ^ 0xFF for b in data[at : at + 8]) + data[at + 8 :]


def _flip(path: Path, rng: random.Random, x: np.ndarray) -> None:
    np.savez(path, x=x)
    path.write_bytes(_flipped(path.read_bytes(), rng))


def _json(path: Path, change: Callable[[dict], Any]) -> None:
    told = json.loads(path.read_text())
    change(told)
    path.write_text(json.dumps(told))


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(width: int, height: int, packed: bytes | None = None, depth: int = 8) -> bytes:
    """A PNG of zeros, or of this compressed content."""
    body = zlib.compress(bytes((3 * width + 1) * height)) if packed is None else packed
    header = struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", body) + _chunk(b"IEND", b"")


def _pictures(folder: Path, _: random.Random) -> None:
    (folder / "in").mkdir()
    for n in range(30):
        (folder / f"in/{n}.png").write_bytes(png(8, 8))
