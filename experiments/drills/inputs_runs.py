"""Hostile workdirs and files beside a run, and what is asked of one."""

import os
import random
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from crafted import SAMPLE, TABLES, TRAIN, Input, changed_json, flipped, header, pickled, trained, zipped


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
    record = lambda change: lambda at, _: changed_json(at / "10/info/metadata", change)
    yield of("none", lambda at, _: shutil.rmtree(at))
    yield of("empty", lambda at, _: shutil.rmtree(at / "10"))
    yield of("all files empty", lambda at, _: [p.write_bytes(b"") for p in files(at)])
    yield of("all files noise", lambda at, rng: [p.write_bytes(rng.randbytes(500)) for p in files(at)])
    yield of("flipped bytes", lambda at, rng: [p.write_bytes(flipped(p.read_bytes(), rng)) for p in large(at)])
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
    edit = lambda change: lambda work: changed_json(work / "config.json", change)
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
            "a pickle that runs": lambda folder, rng: pickled(folder / "in.npz"),
            "objects": lambda folder, rng: np.savez(folder / "in.npz", **dict.fromkeys(TABLES, np.full(3, None))),
            "scalars": lambda folder, rng: np.savez(folder / "in.npz", **dict.fromkeys(TABLES, np.float64(1))),
            "NaN": lambda folder, rng: np.savez(folder / "in.npz", **dict.fromkeys(TABLES, np.full((3, 3), np.nan))),
            "text": lambda folder, rng: np.savez(folder / "in.npz", **dict.fromkeys(TABLES, np.full(3, "a"))),
            "nothing in them": lambda folder, rng: np.savez(folder / "in.npz", **dict.fromkeys(TABLES, np.ones(0))),
            "huge": lambda folder, rng: zipped(folder / "in.npz", {f"{table}.npy": huge for table in TABLES}),
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
        "--config.sampler.name": ("os.system", "adams", "__class__", "ancestral.ddim.__init__", "../x"),
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
