"""--mode=edit and --mode=restore on colour patches of photographs: files, lines, inputs of one's own, and misuse."""

import json
import re

import image_files
import numpy as np
import pytest
from run_command import UNET

from diffjax import data, main, runs
from diffjax.commands import edit, restore

PATCHES = [
    "data.name=photos",
    "data.size=8",
    "data.stride=32",
    "train.steps=2",
    "learning_rate.warmup_steps=1",
    "train.log_every=2",
]
FEW = ["train.sample_every=2", "eval.samples=16", "sample.chunk=4", "train.batch_size=8", "grid.n=3"]
SAMPLER = ["sampler.name=ancestral.ddim"]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "colour"
    built = runs.build_run(runs.load("configs/vpsde.py:tiny", [*PATCHES, *UNET, *FEW]))
    with runs.Trainer(**built._asdict(), workdir=path) as trainer:
        trainer.train()
    return str(path)


def files(folder):
    with np.load(folder / "samples.npz") as found:
        return dict(found), (folder / "grid.png").stat().st_size


def test_edit_leaves_files_and_says_what_it_did(workdir, tmp_path, capsys):
    asked = [f"--workdir={workdir}", "--strength=0.5", "--seeds=2,0", f"--out={tmp_path / 'out'}"]
    assert main.main(["--mode=edit", *asked]) == 0
    found, size = files(tmp_path / "out")
    dataset = data.photos(8, 32)
    np.testing.assert_array_equal(found["inputs"], dataset.held_out.gather(dataset.usable[[2, 0]]).x)
    assert (found["outputs"].shape, found["seeds"].tolist(), size > 500) == ((2, 8, 8, 3), [2, 0], True)
    line = capsys.readouterr().out.splitlines()[-1]
    far = np.sqrt(np.mean((found["outputs"] - found["inputs"]).astype(np.float64) ** 2))
    assert re.search(
        r"2 examples noised to t = 0\.5 of 1 \(sigma / alpha = [\d.]+\) and walked back in \d evaluations", line
    )
    assert f"{far:.4g} (PSNR" in line
    np.testing.assert_array_equal(edit.run(workdir, 0.5, [0], out=tmp_path / "one").x, found["outputs"][1:])


def test_strength_zero_and_one(workdir, tmp_path):
    unchanged = edit.run(workdir, 0.0, "0-1", out=tmp_path / "zero")
    np.testing.assert_array_equal(files(tmp_path / "zero")[0]["inputs"], unchanged.x)
    whole = edit.run(workdir, 1.0, "0-1", out=tmp_path / "one")
    np.testing.assert_array_equal(whole.x, runs.open(workdir).draw([0, 1]))


def test_restore_leaves_files_and_says_how_well_it_agrees(workdir, tmp_path, capsys):
    asked = [f"--workdir={workdir}", "--operator=inpaint", "--operator.box=2,6,2,6", "--seeds=0-2", "--noise=0.1"]
    assert main.main(["--mode=restore", *asked, "--by=diffpir", "--by.strength=2.0", f"--out={tmp_path}"]) == 0
    found, size = files(tmp_path)
    hidden = np.ones((8, 8), bool)
    hidden[2:6, 2:6] = False
    seen, noise = found["outputs"][:, hidden] - found["y"], found["y"] - found["inputs"][:, hidden]
    rms = lambda a: np.sqrt(np.mean(a.astype(np.float64) ** 2))
    line = capsys.readouterr().out.splitlines()[-1]
    assert f"A x - y {rms(seen):.3g}"[:-1] in line
    assert f"(of the inputs {rms(noise):.3g}"[:-1] in line
    assert rms(noise) == pytest.approx(0.1, rel=0.2)
    assert (str(found["operator"]), size > 500) == ("inpaint box=(2, 6, 2, 6)", True)
    assert line.startswith("inpaint, box=(2, 6, 2, 6) by diffpir: 3 examples in 3 evaluations each")


@pytest.mark.slow
def test_colours_and_sharpness_are_restored(workdir, tmp_path):
    np.save(tmp_path / "kernel.npy", np.ones((2, 2)) / 4)
    for operator in ("grey", {"name": "convolve", "kernel": str(tmp_path / "kernel.npy")}):
        found = restore.run(workdir, operator, "0-1", by="diffpir", out=tmp_path / str(operator)[:5], overrides=SAMPLER)
        assert np.isfinite(found.x).all()


def test_inputs_of_ones_own(workdir, tmp_path):
    """A folder, one array, one image: read as pixels, one seed each, or one for all of them."""
    pixels = image_files.fill(tmp_path / "own", ["b.png", "a.png"], size=(8, 8))
    edit.run(workdir, 0.2, "5,6,7", source=str(tmp_path / "own"), out=tmp_path / "folder")
    found = files(tmp_path / "folder")[0]
    np.testing.assert_allclose((found["inputs"][0] + 1) * 127.5, pixels["a.png"], atol=1e-4)
    assert found["seeds"].tolist() == [5, 6]
    edit.run(workdir, 0.2, "5,6,7", source=str(tmp_path / "own" / "b.png"), out=tmp_path / "image")
    one = files(tmp_path / "image")[0]
    assert np.ptp(one["inputs"], 0).max() == 0
    assert np.abs(np.diff(one["outputs"], axis=0)).max() > 1e-3
    np.save(tmp_path / "x.npy", np.stack([pixels["a.png"], pixels["b.png"]]))
    edit.run(workdir, 0.2, "5,6", source=str(tmp_path / "x.npy"), out=tmp_path / "array")
    np.testing.assert_array_equal(files(tmp_path / "array")[0]["outputs"], found["outputs"])


def test_of_one_input_without_seeds_there_is_a_handful(workdir, tmp_path, capsys):
    image_files.fill(tmp_path / "own", ["a.png", "b.png"], size=(8, 8))
    asked = ["--mode=edit", f"--workdir={workdir}", "--strength=0.2", f"--out={tmp_path / 'one'}"]
    assert main.main([*asked, f"--input={tmp_path / 'own' / 'a.png'}"]) == 0
    assert files(tmp_path / "one")[0]["seeds"].tolist() == [*range(8)]
    assert "one input, 8 results of it: seeds 0-7 (--seeds=0 for one)" in capsys.readouterr().out.splitlines()
    own, of = tmp_path / "own", runs.open(workdir)
    for path, seeds, expected in [(own, None, 2), (own / "a.png", [*range(64)], 64), (None, None, 64)]:
        x, numbers, _ = data.shown_to(of.method, of.data, seeds, path)
        assert (len(x), numbers) == (expected, [*range(expected)])
    assert capsys.readouterr().out == ""


def test_files_that_are_no_images_are_named_together(workdir, tmp_path, capsys):
    image_files.fill(tmp_path, ["a.png"], size=(8, 8))
    for name in ("b.png", "c.png"):
        (tmp_path / name).write_text("x")
    assert main.main(["--mode=edit", f"--workdir={workdir}", "--strength=0.2", f"--input={tmp_path}"]) == 2
    assert re.search(r"2 files cannot be used: '.*b\.png' .*; '.*c\.png' .*Mend them", capsys.readouterr().err)


def test_a_folder_reads_inputs_as_its_own_images(tmp_path):
    image_files.fill(tmp_path / "own", [f"{i}.png" for i in range(20)], size=(12, 9))
    image_files.paint(tmp_path / "other.png", size=(30, 20), mode="L")
    fitted = data.inputs(data.folder(str(tmp_path / "own"), size=8), tmp_path / "other.png", 1)
    assert fitted.shape == (1, 8, 8, 3)
    assert np.ptp(fitted, -1).max() == 0  # grey, in three channels
    with pytest.raises(ValueError, match=r"other.png' is 30 x 20 pixels, expected 12 x 9"):
        data.inputs(data.folder(str(tmp_path / "own")), tmp_path / "other.png", 1)


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """Files that are no inputs of colour patches 8 x 8."""
    path = tmp_path_factory.mktemp("own")
    image_files.paint(path / "large.png", size=(9, 8))
    image_files.fill(path / "many", [f"{i}.png" for i in range(3)], size=(8, 8))
    (path / "empty").mkdir()
    (path / "x.txt").write_text("x")
    (path / "x.png").write_text("x")
    np.save(path / "grey.npy", np.zeros((2, 8, 8, 1), np.float32))
    np.save(path / "whole.npy", np.zeros((8, 8, 3), int))
    np.save(path / "nan.npy", np.full((8, 8, 3), np.nan))
    np.save(path / "levels.npy", np.linspace(0, 255, 192).reshape(8, 8, 3))
    return path


MISUSE = {
    "no strength": (["--mode=edit"], "needs --strength"),
    "nan": (["--mode=edit", "--strength=nan"], "strength is nan"),
    "no operator": (["--mode=restore"], "needs --operator: it has blur, convolve, downsample, grey, inpaint"),
    "operator": (["--mode=restore", "--operator=inpant"], "nearest is 'inpaint'"),
    "by": (["--mode=restore", "--operator=grey", "--by=tmdp"], "nearest is 'tmpd'"),
    "by's option": (["--mode=restore", "--operator=grey", "--by=tmpd", "--by.step=2"], "no option 'step'"),
    "noise": (["--mode=restore", "--operator=grey", "--noise=-1"], "noise is -1.0"),
    "no value": (["--mode=restore", "--operator=blur", "--operator.sigma"], "'sigma' has no value"),
    "foreign": (["--mode=sample", "--strength=0.5"], "--strength is for --mode=edit, not for --mode=sample"),
    "foreign options": (["--mode=edit", "--strength=1", "--by.w=1"], "--by is for --mode=restore"),
    "nowhere": (["--mode=edit", "--strength=1", "--input={}/nowhere"], "no folder or zip"),
    "size": (["--mode=edit", "--strength=1", "--input={}/large.png"], "is 9 x 8 pixels, expected 8 x 8"),
    "too many": (["--mode=edit", "--strength=1", "--input={}/many", "--seeds=0-1"], "--seeds=0-2"),
    "empty": (["--mode=edit", "--strength=1", "--input={}/empty"], "holds none of .png"),
    "text": (["--mode=edit", "--strength=1", "--input={}/x.txt"], "is none of .png"),
    "no image": (["--mode=edit", "--strength=1", "--input={}/x.png"], "cannot be read as an image"),
    "channels": (["--mode=edit", "--strength=1", "--input={}/grey.npy"], r"has shape \(2, 8, 8, 1\), expected one"),
    "integers": (["--mode=edit", "--strength=1", "--input={}/whole.npy"], "holds int64, expected uint8"),
    "levels": (
        ["--mode=restore", "--operator=grey", "--input={}/levels.npy"],
        r"levels.npy' spans \[0, 255\], but photos",
    ),
    "not finite": (["--mode=edit", "--strength=1", "--input={}/nan.npy"], "not finite"),
}


@pytest.mark.parametrize("name", MISUSE)
def test_misuse_is_one_line_before_anything_is_written(name, workdir, own, tmp_path, capsys):
    asked, match = MISUSE[name]
    asked = [text.format(own) for text in asked]
    assert main.main([*asked, f"--workdir={workdir}", f"--out={tmp_path / 'out'}"]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("diffjax ")]
    assert len(lines) == 1
    assert re.search(match, lines[0])
    assert not (tmp_path / "out").exists()


def test_what_is_known_of_a_held_out_example_is_its_own(tmp_path):
    """Its label, unless the run's settings name one."""
    dataset = data.arrays(np.zeros((20, 2), np.float32), label=np.arange(20) % 4)
    method = runs.assemble(network={"name": "MLP", "width": 8, "depth": 1, "classes": 4}, target={"name": "V"})
    x, seeds, given = data.shown_to(method, dataset, [1, 0])
    np.testing.assert_array_equal(given["label"], dataset.held_out.gather(dataset.usable[[1, 0]]).given["label"])
    assert (len(x), seeds) == (2, [1, 0])
    assert data.shown_to(method, dataset, [1, 0], label=3)[2] == {}
    assert json.dumps(seeds)
