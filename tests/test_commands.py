"""The commands as functions and as a command line: a whole tiny run, what it leaves, and every way to misuse it."""

import json
import re
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from run_command import UNET, environment, one_core, run

from diffjax import config as C
from diffjax import main as command_line
from diffjax import runs, training
from diffjax.commands import sample, show, train
from diffjax.logs import Log
from diffjax.runs import build_run, report
from diffjax.runs import workdir as files

TINY = "configs/vpsde.py:tiny"
RUN = [*UNET, "train.loggers=('tensorboard',)"]
MOONS = ["data.name=moons", "model.name=MLP", "model.width=16", "model.depth=1"]


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory):
    """A finished run and what train.run returned."""
    workdir = tmp_path_factory.mktemp("runs") / "tiny"
    return workdir, train.run(runs.load(TINY, RUN), workdir)


@pytest.fixture(scope="module")
def plane_run(tmp_path_factory):
    """A finished run of an MLP on points of the plane, whose label it reads, and what train.run returned."""
    workdir = tmp_path_factory.mktemp("runs") / "plane"
    config = runs.load(TINY, [*MOONS, "model.classes=2", "train.steps=10", "train.sample_every=10"])
    return workdir, train.run(config, workdir)


@pytest.fixture(scope="module")
def evaluated_again(tiny_run):
    """The folder of another evaluation of the tiny run, by another sampler, and the run's report before it."""
    workdir, _ = tiny_run
    before = (workdir / "report.md").read_bytes()
    assert command_line.main(["--mode=eval", f"--workdir={workdir}", "--sampler=heun.edm", "--nfe=3"]) == 0
    return workdir / "eval" / "sampler.name=heun.edm,grid.n=3", before


def test_a_run_leaves_what_the_readme_promises(tiny_run):
    workdir, results = tiny_run
    for name in ("config.json", "command.txt", "env.json", "metrics.jsonl", "report.md", "results.json", "eval.json"):
        assert (workdir / name).stat().st_size > 0, name
    for name in ("samples", "filmstrip", "loss_by_time", "schedule", "training"):
        assert (workdir / "figures" / f"{name}.png").stat().st_size > 1000, name
    assert {p.name for p in (workdir / "samples").iterdir()} == {"step_0000020.png", "step_0000040.png"}
    assert any((workdir / "tensorboard").iterdir())
    assert results["status"] == "done"
    assert results == json.loads((workdir / "results.json").read_text())
    assert results["gate"] is False, "forty steps make no digits"
    assert "**FAIL**" in (workdir / "report.md").read_text()


def test_metrics_are_json_lines_with_every_promised_field(tiny_run):
    lines = [json.loads(line) for line in (tiny_run[0] / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [10, 20, 30, 40]
    for line in lines:
        assert line.keys() >= {
            "loss",
            "loss_by_time",
            "grad_norm",
            "param_norm",
            "update_norm",
            "learning_rate",
            "ema_decay",
        }
        assert line["timing"].keys() == {"steps_per_s", "images_per_s", "compile_s"}
        assert len(line["loss_by_time"]) == 10
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert lines[0]["timing"]["compile_s"] > 0


def test_wandb_is_told_the_config_the_steps_and_the_end(tmp_path, monkeypatch):
    """Its package is not needed: what matters is what is called."""
    told = []
    run = SimpleNamespace(log=lambda values, step: told.append((step, values)), finish=lambda: told.append("finished"))
    module = SimpleNamespace(init=lambda **options: told.append(options) or run)
    monkeypatch.setitem(sys.modules, "wandb", module)
    with Log(tmp_path, 20, 0, ("wandb",), {"seed": 3}) as log:
        log.write(10, {"loss": 0.5, "loss_by_time": [1.0, None], "timing": {"steps_per_s": 2}})
    assert told[0] == {"dir": str(tmp_path), "config": {"seed": 3}, "resume": "allow", "id": tmp_path.name}
    assert told[1:] == [(10, {"loss": 0.5, "loss_by_time/0": 1.0, "timing/steps_per_s": 2.0}), "finished"]


def test_a_logger_that_is_not_installed_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(C.ConfigError, match=r"pip install diffjax\[wandb\]"):
        Log(tmp_path, 20, 0, ("wandb",), {})


@pytest.fixture
def evaluated(monkeypatch):
    """The folders that were to be evaluated, which takes seconds and is tested above."""
    folders = []
    monkeypatch.setattr(report, "evaluate", lambda run, out, *_, **told: folders.append(out) or {})
    return folders


def test_finished_run_started_again_does_no_step(tiny_run, evaluated, capsys):
    workdir, _ = tiny_run
    before = (workdir / "metrics.jsonl").read_bytes()
    train.run(runs.load(TINY, RUN), workdir)
    assert evaluated == [workdir]
    assert "all 40 steps are trained" in capsys.readouterr().out
    assert (workdir / "metrics.jsonl").read_bytes() == before


def test_sample_writes_one_file_per_seed(tiny_run, tmp_path):
    examples = sample.run(tiny_run[0], "3,5-6", out=tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"seed_3.png", "seed_5.png", "seed_6.png", "grid.png", "samples.npz"}
    saved = np.load(tmp_path / "samples.npz")
    np.testing.assert_array_equal(saved["seeds"], [3, 5, 6])
    np.testing.assert_array_equal(saved["x"], examples)
    assert np.ptp(examples, axis=0).max() > 0, "seeds differ"


@pytest.mark.parametrize("name", ["multistep.adams", "ancestral.ddpm"])
def test_sample_with_another_sampler_and_length(plane_run, tmp_path, name):
    examples = sample.run(plane_run[0], [0, 1], out=tmp_path, sampler=name, nfe=3)
    assert examples.shape == (2, 2)
    assert np.isfinite(examples).all()


@pytest.mark.slow  # `test_parallel` shows it of chunks, in a process for each number of devices
def test_samples_of_a_seed_have_the_same_bits_for_any_batch_and_device_count(tiny_run, tmp_path):
    """1, 7 and 64 seeds on 1 and 8 forced devices of a process on one core."""
    script = (
        "import functools, sys, numpy; from diffjax import parallel, runs\n"
        "run, mesh, found = runs.open(sys.argv[1]), parallel.mesh, {}\n"
        "for devices in (1, 8):\n"
        "    parallel.mesh = functools.partial(mesh, data=devices)\n"
        "    draw = run.drawer()\n"
        "    for n in (1, 7, 64):\n"
        "        found[f'{devices} devices, {n} seeds'] = draw(run.params, range(n), run.given(range(n)))\n"
        "numpy.savez(sys.argv[2], **found)"
    )
    command = [*one_core(), sys.executable, "-c", script, str(tiny_run[0]), str(tmp_path / "found.npz")]
    done = subprocess.run(command, env=environment(8, pinned=True), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = dict(np.load(tmp_path / "found.npz"))
    whole = found["1 devices, 64 seeds"]
    assert [len(x) for x in found.values()] == 2 * [1, 7, 64]
    for what, x in found.items():
        assert x.tobytes() == whole[: len(x)].tobytes(), what


def test_eval_runs_from_the_workdir_alone(tiny_run, evaluated_again):
    again = json.loads((evaluated_again[0] / "eval.json").read_text())
    assert again["metrics"].keys() == tiny_run[1]["metrics"].keys()
    losses = again["loss_by_time"]
    assert losses["Gaussian fit"]["mean"] < losses["held out"]["mean"], "forty steps do not beat a Gaussian fit"


def test_eval_in_a_feature_space_has_a_folder_of_its_own(tiny_run, evaluated, capsys):
    assert command_line.main(["--mode=eval", f"--workdir={tiny_run[0]}", "--features=pixels", "--nfe=3"]) == 0
    assert evaluated == [tiny_run[0] / "eval" / "features=pixels,grid.n=3"]
    for words, said in (
        (["--mode=eval", "--features=pixels", "--reference=nowhere.npz"], "no file 'nowhere.npz'"),
        (["--mode=sample", "--features=pixels"], "--features is for --mode=eval, not for --mode=sample"),
    ):
        assert command_line.main([f"--workdir={tiny_run[0]}", *words]) == 2
        assert said in capsys.readouterr().err


def test_eval_of_another_sampler_leaves_the_runs_report(tiny_run, evaluated_again):
    folder, before = evaluated_again
    assert "heun.edm on the" in (folder / "report.md").read_text()
    assert (folder / "figures" / "samples.png").exists()
    assert (tiny_run[0] / "report.md").read_bytes() == before


def test_show_counts_parameters_and_batches(capsys):
    """Of a U-Net too in `test_bridge_commands`."""
    costs = show.run(runs.load(TINY, MOONS))
    printed = capsys.readouterr().out
    assert costs["shapes"] == {"x": (32, 2)}
    assert costs["nfe"] == 5
    # 3 layers of width 16 and the embedding, 2 per multiply-add and more; a step is 3 forward passes of 32 points
    assert 2 * (128 * 16 + 16 * 16) < costs["evaluation_flops"] < costs["flops"] / 32 < 5 * costs["evaluation_flops"]
    assert f"5 evaluations per sample, {costs['evaluation_flops'] / 1e6:.2f} MFLOP each" in printed
    assert re.search(r"\nin/kernel +2x16 +float32 +32\n", printed)
    assert "10000 train, 2000 held out" in printed


def test_points_of_the_plane_train_an_mlp(plane_run):
    _, results = plane_run
    assert results["gate"] is None
    assert results["metrics"]["exact W2"]["floor"] < results["metrics"]["exact W2"]["value"]


def test_conditional_model_trains_and_samples_by_label(plane_run):
    run = runs.open(plane_run[0])
    assert run.given([0, 1])["label"].tolist() == [0, 1]
    assert sample.run(plane_run[0], [0, 1]).shape == (2, 2)


@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_non_finite_updates(tmp_path, policy, capsys):
    changes = ["learning_rate.peak=1e38", "learning_rate.warmup_steps=0", f"train.nonfinite={policy}"]
    config = runs.load(TINY, [*changes, *MOONS])
    if policy == "stop":
        with pytest.raises(training.NonFiniteError, match=r"is inf at step 0 \(in steps 0 to 9\)"):
            train.run(config, tmp_path / "run")
        assert json.loads((tmp_path / "run" / "results.json").read_text())["status"] == "nonfinite"
    else:
        with pytest.raises(training.NonFiniteError, match=r"is inf at step 0, and no step from 0 to 9 was finite"):
            train.run(config, tmp_path / "run")
        results = json.loads((tmp_path / "run" / "results.json").read_text())
        assert (results["status"], results["step"]) == ("nonfinite", 0)


FLAGS = [f"--config.{text}" for text in MOONS]
MISTAKES = {
    "no config": ([], "needs --config"),
    "unknown config": (["--config=configs/vpsd.py"], "nearest is 'configs/vpsde.py'"),
    "unknown variant": (["--config=configs/vpsde.py:tny"], "nearest is 'tiny'"),
    "unknown field": ([f"--config={TINY}", "--config.train.stpes=3"], "nearest is 'steps'"),
    "unknown option": ([f"--config={TINY}", "--config.model.chanels=3"], "nearest is 'channels'"),
    "wrong type": ([f"--config={TINY}", "--config.seed=abc"], "expected an integer"),
    "wrong type, spaced": ([f"--config={TINY}", "--config.seed", "abc"], "expected an integer"),
    "unknown sampler": ([f"--config={TINY}", "--config.sampler.name=ancestral.ddmp"], "nearest is 'dd"),
    "unknown schedule": ([f"--config={TINY}", "--config.schedule.name=VPP"], "nearest is 'VP'"),
    "unknown data": ([f"--config={TINY}", "--config.data.name=digit"], "nearest is 'digits'"),
    "unknown optimizer": ([f"--config={TINY}", "--config.optimizer.name=admw"], "adamw"),
    "unknown logger": ([f"--config={TINY}", "--config.train.loggers=tensorbord"], "nearest is 'tensorboard'"),
    "unknown EMA": ([f"--config={TINY}", "--config.sample.ema=0.99"], "0.999"),
    "eta": (
        [f"--config={TINY}", "--config.sampler.name=ancestral.ddim", "--config.sampler.eta=1.5"],
        r"expected a number in \[0, 1\]",
    ),
    "negative steps": ([f"--config={TINY}", "--config.train.steps=-20"], "expected an integer >= 1"),
    "a sampler of several families": ([f"--config={TINY}", "--config.sampler.name=adams"], "multistep.adams, princ"),
    "a helper as a sampler": ([f"--config={TINY}", "--config.sampler.name=nfe"], "samplers has no 'nfe'"),
    "a setting without its group": (
        ["--text=red"],
        "argument '--text=red': nearest is --config.sample.text; conf",
    ),
    "a group without its field": (["--model=UNet"], "nearest is --config.model.name"),
    "a mistyped flag": (["--wrkdir=x"], "nearest is --workdir"),
    "a flag of nothing": (["--zzzz"], "unknown argument '--zzzz'; config fields are written --config.field=value"),
    "a config without its folder": (["--config=vpsde"], "nearest is 'configs/vpsde.py'"),
    "misplaced rate": (
        [f"--config={TINY}", "--config.optimizer.learning_rate=1"],
        "set learning_rate.peak",
    ),
    "guidance without labels": ([f"--config={TINY}", "--config.guidance.name=classifier_free"], "set model.classes"),
    "guidance, labels never hidden": (
        [f"--config={TINY}", "--config.model.classes=10", "--config.guidance.name=classifier_free"],
        "trained without label too: set train.label_dropout",
    ),
    "fewer classes than labels": ([f"--config={TINY}", "--config.model.classes=7"], "digits has 10 labels"),
    "label out of range": (
        [f"--config={TINY}", "--config.model.classes=10", "--config.sample.label=11"],
        "expected 0 to 9; no number stands for no label",
    ),
    "label dropout": ([f"--config={TINY}", "--config.train.label_dropout=1.0"], r"a share in \[0, 1\)"),
    "negative seed": ([f"--config={TINY}", "--config.seed=-1"], r"expected an integer in \[0, 2\^32\)"),
    "no grid steps": ([f"--config={TINY}", "--config.grid.n=0"], "expected an integer >= 1"),
    "uneven dispatch": (
        [f"--config={TINY}", "--config.train.steps=41", "--config.train.steps_per_dispatch=2"],
        "not a multiple",
    ),
    "a mistake after a new name": (
        [f"--config={TINY}", "--config.model.name=MLP", "--config.model.width=0"],
        "width = 0",
    ),
    "indivisible image": ([f"--config={TINY}", "--config.model.multipliers=1,1,1,1,1"], "not divisible"),
    "eps where alpha is 0": ([f"--config={TINY}", "--config.schedule.name=Cosine"], "predict V, X0 or EDM"),
    "unknown flag": (["--frobnicate=1"], "unknown argument"),
    "unknown mode": (["--mode=dream"], "invalid choice: 'dream'"),
    "too many devices": ([f"--config={TINY}", *FLAGS, "--config.train.devices=99"], "expected 1 to"),
    "missing data": (["--config=configs/vpsde.py:cifar10"], "diffjax.data.prepare cifar10"),
    "sample, no workdir": (["--mode=sample"], "needs --workdir"),
    "sample, no run": (["--mode=sample", "--workdir=nowhere"], "holds no run"),
    "eval, no run": (["--mode=eval", "--workdir=nowhere"], "holds no run"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_one_line_and_touch_nothing(mistake, tmp_path, monkeypatch, capsys):
    arguments, match = MISTAKES[mistake]
    monkeypatch.chdir(tmp_path)
    try:
        status = command_line.main(arguments)
    except SystemExit as error:
        status = error.code
    lines = capsys.readouterr().err.splitlines()
    assert status == 2
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert re.search(match, lines[0]), lines[0]
    assert list(tmp_path.iterdir()) == [], "nothing was written"


@pytest.mark.parametrize("seeds", ["", "a", "3-1", "1,,2", "-1", "1-", "0-3-5", "4294967296", "1.5", "0-5000000000"])
def test_malformed_seeds(tiny_run, tmp_path, seeds, capsys):
    assert (
        command_line.main(["--mode=sample", f"--workdir={tiny_run[0]}", f"--seeds={seeds}", f"--out={tmp_path}/o"]) == 2
    )
    assert "seeds" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("flags", "match"),
    [
        (["--sampler=nope"], "samplers has no 'nope'"),
        (["--sampler=ancestral"], "is a module"),
        (["--nfe=0"], "expected an integer >= 1"),
        (["--step=35"], "it holds 30, 40|no step 35"),
        (["--config.train.steps=80"], "only sampler, grid, denoiser, guidance, sample, eval"),
        ([f"--config={TINY}"], "reads the config of --workdir: leave --config"),
        (["--mode=train", "--config.train.steps=80"], "--config.learning_rate.extend=stretch"),
        (["--mode=train", "--config.seed=1"], r"seed: 0 -> 1\), which is fixed once a run has begun"),
    ],
)
def test_mistakes_about_a_run(tiny_run, flags, match, capsys):
    assert command_line.main(["--mode=sample", f"--workdir={tiny_run[0]}", *flags]) == 2
    assert re.search(match, capsys.readouterr().err)


def test_a_start_that_was_refused_does_not_hold_the_workdir(tmp_path, capsys):
    """Without a step there is nothing to lose: the corrected command takes the folder over."""
    workdir = tmp_path / "run"
    flags = [f"--config={TINY}", *FLAGS, f"--workdir={workdir}"]
    assert command_line.main([*flags, "--config.train.start=nowhere"]) == 2
    assert "nowhere holds no run" in capsys.readouterr().err
    assert not workdir.exists()
    files.prepare(workdir, runs.load(TINY))
    files.prepare(workdir, runs.load(TINY, ["seed=1"]))
    assert files.read_config(workdir).seed == 1
    (workdir / "metrics.jsonl").write_text('{"step": 10}\n')
    with pytest.raises(C.ConfigError, match="another config"):
        files.prepare(workdir, runs.load(TINY))


def test_every_environment_of_a_run_is_kept(tmp_path, monkeypatch):
    for commit in ("a", "b", "b", "c"):
        monkeypatch.setattr(files, "environment", lambda commit=commit: {"commit": commit})
        files.prepare(tmp_path / "run", runs.load(TINY))
    kept = json.loads((tmp_path / "run" / "env.json").read_text())
    assert kept == {"commit": "c", "earlier": [{"commit": "a"}, {"commit": "b"}]}


def test_out_is_a_folder(tiny_run, tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    status = command_line.main(["--mode=sample", f"--workdir={tiny_run[0]}", f"--out={tmp_path / 'notes.txt'}"])
    assert (status, (tmp_path / "notes.txt").read_text()) == (2, "mine")
    assert "is a file, expected a folder" in capsys.readouterr().err


def test_another_samplers_images_have_a_folder_of_their_own(tiny_run, capsys):
    assert command_line.main(["--mode=sample", f"--workdir={tiny_run[0]}", "--seeds=0-1", "--nfe=3"]) == 0
    assert "2 samples of EMA 0.999 by ancestral.ddim, eta = 1.0, n = 3" in capsys.readouterr().out
    assert (tiny_run[0] / "samples" / "grid.n=3" / "seed_1.png").exists()


def test_a_folder_of_something_else_is_left_alone(tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("years of work")
    assert command_line.main([f"--config={TINY}", *FLAGS, f"--workdir={tmp_path}"]) == 2
    assert "is not empty" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_the_published_cosine_table_works_with_eps():
    config = runs.load(TINY, [*MOONS, "schedule.name=Tabulated.cosine", "schedule.steps=1000"])
    assert build_run(config).method.parts.schedule.steps == 1000


def test_the_networks_of_equal_models_are_one():
    """Whose traces are kept: a run of a model that was built before is built soon."""
    of = lambda *more: build_run(runs.load(TINY, [*MOONS, *more])).method.parts.network
    assert of() is of("seed=1")
    assert of() is not of("model.width=8")


def test_the_command_line_in_a_process_of_its_own():
    """One that ends well is in `test_resume`."""
    status, output = run(f"--config={TINY}", "--config.train.stpes=3")
    assert status == 2
    assert output.count("\n") == 1
