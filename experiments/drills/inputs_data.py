"""Hostile data: arrays, images, prepared TFDS data sets."""

import json
import os
import re
import shutil
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from crafted import TRAIN, Input, _Evil, chunk, cut, flip, header, pictures, png, zipped


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
        yield of(f"header: {what}", lambda folder, _, data=data: zipped(folder / "in.npz", {"x.npy": data}), nolabel)
    bomb = lambda folder, _: zipped(folder / "in.npz", {"x.npy": header((2**31, 2)) + bytes(2**27)})
    yield of("bomb", bomb, nolabel)
    yield of("no .npy member", lambda folder, _: zipped(folder / "in.npz", {"x": b"hello"}), nolabel)
    yield of("cut", lambda folder, rng: cut(folder / "in.npz", rng, plain), nolabel)
    yield of("flipped", lambda folder, rng: flip(folder / "in.npz", rng, plain), nolabel)
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
    one = lambda name, data: lambda folder, rng: (pictures(folder, rng), (folder / "in" / name).write_bytes(data))
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
        "text bomb": good[:33] + chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**28))) + good[33:],
        "a pickle": b"\x80\4cos\nsystem\n(S'touch EXECUTED'\ntR.",
        "16 bit": png(8, 8, zlib.compress(bytes(49 * 8)), 16),
    }.items():
        yield of(what, one("bad.png", data), *([] if what == "other size" else [size]), says="bad.png")
    yield of(
        "noise",
        lambda folder, rng: (pictures(folder, rng), (folder / "in/bad.png").write_bytes(rng.randbytes(999))),
        size,
        says="bad.png",
    )
    yield of(
        "flat and sorted",
        lambda folder, rng: (
            pictures(folder, rng),
            (folder / "in/a").mkdir(),
            (folder / "in/a/x.png").write_bytes(good),
        ),
        size,
    )
    # What is no file is passed over; the MLP then refuses the pictures.
    yield of("a FIFO", lambda folder, rng: (pictures(folder, rng), os.mkfifo(folder / "in/bad.png")), size, says="MLP")
    yield of(
        "a link to nothing",
        lambda folder, rng: (pictures(folder, rng), (folder / "in/bad.png").symlink_to("nothere")),
        size,
        says="bad.png",
    )
    yield of(
        "a link to /dev/zero",
        lambda folder, rng: (pictures(folder, rng), (folder / "in/bad.png").symlink_to("/dev/zero")),
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
            lambda folder, rng: pictures(folder, rng),
            size,
            f"--config.data.{option}",
            says=option.partition("=")[0],
        )
    packed = lambda members: lambda folder, _: zipped(folder / "in.zip", members)
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
