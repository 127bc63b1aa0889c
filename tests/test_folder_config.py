"""configs/folder.py: a path and a size suffice; what the images decide stands in the run's config, and stays."""

import json

import pytest
from image_files import fill, paint

from diffjax import config as configs
from diffjax import data, derived, main, models, runs
from diffjax.config import ConfigError
from diffjax.runs import build_run
from diffjax.runs import workdir as files

TREES = {
    "no folders": ([f"{i}.png" for i in range(12)], None),
    "one class": ([f"cat/{i}.png" for i in range(12)], 1),
    "three classes": ([f"{name}/{i}.png" for name in ("ant", "bee", "cat") for i in range(6)], 3),
}


def made(root, size, *more, tree="three classes", mode="RGB"):
    names, _ = TREES[tree]
    fill(root, names, size=(20, 14), mode=mode)
    paint(root / names[0], 99, size=(9, 31), mode=mode)  # unequal sizes
    asked = [f"data.path={root}", *([] if size is None else [f"data.size={size}"]), *more]
    return runs.load("configs/folder.py:tiny", asked)


@pytest.mark.parametrize("tree", TREES)
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_classes_and_colour_are_those_of_the_images(tmp_path, tree, mode):
    built = build_run(made(tmp_path, 8, tree=tree, mode=mode))
    assert built.data.shape == (8, 8, {"L": 1, "RGB": 3}[mode])
    assert built.config.model.classes == TREES[tree][1] == built.data.classes
    assert ("label" in (built.method.asks or ())) is (TREES[tree][1] is not None)


@pytest.mark.parametrize(
    ("size", "multipliers", "attention"),
    [
        (8, (1, 2), (4,)),
        (16, (1, 2, 2), (8, 4)),
        (24, (1, 2, 2), (12, 6)),
        (32, (1, 2, 2, 2), (16, 8, 4)),
        (64, (1, 2, 2, 2), (16, 8)),
        (256, (1, 1, 2, 2, 4, 4), (16, 8)),
    ],
)
def test_levels_and_attention_follow_the_size(size, multipliers, attention):
    found = models.UNet.of_data((size, size, 3), None)
    assert (found["multipliers"], found["attention"]) == (multipliers, attention)
    heights = [size // 2**i for i in range(len(multipliers))]
    assert all(h * 2**i == size for i, h in enumerate(heights))
    assert set(attention) <= set(heights[1:])


@pytest.mark.parametrize("size", [24, 64])
def test_runs_of_other_sizes_are_built(tmp_path, size):
    built = build_run(made(tmp_path, size))
    assert built.data.shape == (size, size, 3)
    assert built.config.model.multipliers == models.UNet.of_data(built.data.shape, 3)["multipliers"]


def test_a_number_goes_before_the_data_and_no_other_config_is_changed(tmp_path):
    config = made(tmp_path, 8, "model.classes=5", "model.multipliers=(1, 1)", "model.attention=()")
    built = build_run(config)
    assert (built.config.model.classes, built.config.model.multipliers) == (5, (1, 1))
    plain = runs.load("configs/vpsde.py:tiny", [])
    assert derived.fields(plain) == []
    assert derived.fields(runs.load("configs/vpsde.py:tiny", ["data.name=npz", "data.path=a", "data.x=data"])) == []
    assert derived.resolved(plain, models, lambda: pytest.fail("nothing is read"))[0] is plain


@pytest.mark.parametrize("decoder", ["GridDecoder", "Decoder", "Perceptron"])
def test_the_shape_of_a_decoder_follows_the_data(decoder):
    config = runs.load("configs/latents.py:tiny", ["decoder.shape=data"])
    assert derived.fields(config) == [("decoder", "shape")]
    with config.unlocked():
        config.decoder = configs.spec(decoder, shape="data")
    resolved, dataset = derived.resolved(runs.build.complete(config), models, data.digits)
    assert resolved.decoder.shape == dataset.shape == (8, 8, 1)


def test_the_word_is_refused_where_no_network_is():
    config = runs.load("configs/vpsde.py:tiny", ["grid.n=data"])
    with pytest.raises(ConfigError, match=r"^grid asks for an option by the data, which is for networks; "):
        build_run(config)


@pytest.mark.slow
def test_a_run_trains_moves_and_goes_on(tmp_path, capsys):
    """Its config holds numbers; a start that says "data" again goes on with those, whatever the folder holds now."""
    made(tmp_path / "photos", 8, tree="one class")
    run, more = tmp_path / "run", [f"--config.data.path={tmp_path / 'photos'}", "--config.train.steps=10"]
    command = ["--config=configs/folder.py:tiny", *more, f"--workdir={run}", "--config.train.sample_every=10"]
    assert main.main(command) == 0
    saved = json.loads((run / "config.json").read_text())["model"]
    assert (saved["classes"], saved["multipliers"], saved["attention"]) == (1, [1, 2], [4])
    assert json.loads((run / "labels.json").read_text()) == {"0": "cat"}
    run.rename(tmp_path / "moved")
    assert runs.open(tmp_path / "moved").draw(2).shape == (2, 8, 8, 3)
    asked = runs.load("configs/folder.py:tiny", [f"data.path={tmp_path / 'photos'}"])
    whole = runs.build.complete(asked)
    joined = derived.kept(whole, files.read_config(tmp_path / "moved"))
    assert (joined.model.classes, joined.model.multipliers) == (1, (1, 2))


BAD = {
    "no path": (lambda root: runs.load("configs/folder.py:tiny", []), "needs path=, a folder of images or a zip"),
    "nowhere": (lambda root: runs.load("configs/folder.py:tiny", [f"data.path={root}/x"]), "no folder or zip"),
    "no images": (lambda root: runs.load("configs/folder.py:tiny", [f"data.path={root}"]), "holds no image"),
    "odd": (lambda root: made(root, 31), "halves examples, which 31x31 cannot be: .* such as data.size=32"),
    "small": (lambda root: made(root, 4), "4x4 cannot be: .* such as data.size=8"),
    "another option": (
        lambda root: made(root, 8, "model.dropout=data"),
        "model.dropout is 'data', but data decides mul",
    ),
    "another network": (lambda root: made(root, 8, "model.name=MLP", "model.width=data"), "models.MLP derives none"),
    "channels": (lambda root: made(root, 8, "data.channels=2"), "channels is 2, expected 1, 3 or 4"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line(tmp_path, name):
    make, match = BAD[name]
    with pytest.raises(ConfigError, match=match) as error:
        build_run(make(tmp_path))
    assert "\n" not in str(error.value)


def test_words_of_a_command_replace_the_word(tmp_path):
    config = runs.load("configs/folder.py:tiny", ["data.path=2020", "model.classes=3", "model.attention=4,8"])
    assert (config.data.path, config.model.classes, config.model.attention) == ("2020", 3, (4, 8))
    assert config.model.multipliers == configs.DERIVED
