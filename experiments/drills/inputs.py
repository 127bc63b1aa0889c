"""The inputs of `hostile.py`, kind by kind: each a command, and what makes the files that it meets."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from crafted import OWN, SAMPLE, TRAIN, Input, trained
from inputs_data import images, npz, tfds
from inputs_runs import checkpoints, files, modes, workdirs
from inputs_weights import weights


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


KINDS = {
    f.__name__: f
    for f in (sizes, modes, files, flags, configs, overrides, npz, images, tfds, checkpoints, workdirs, weights)
}
