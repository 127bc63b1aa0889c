"""Recipes whose parts have exact tests of their own, at a small size: trained and judged, or resumed to the byte."""

import json
import shutil

import numpy as np
import pytest
import test_captioned
from twice import assert_trains_and_resumes

from diffjax import main as command_line
from diffjax import runs

TINY = (
    "configs/blurring.py:tiny",
    "configs/cifar10.py:tiny",
    "configs/dit.py:tiny",
    "configs/editing.py:tiny",
    "configs/energy.py:tiny",
    "configs/heat.py:tiny",
    "configs/mnist.py:tiny",
    "configs/photos.py:tiny",
)


@pytest.mark.slow
@pytest.mark.parametrize("config", TINY)
def test_a_recipe_trains_and_is_judged(config, tmp_path):
    assert command_line.main([f"--config={config}", f"--workdir={tmp_path}"]) == 0
    assert json.loads((tmp_path / "eval.json").read_text())["step"] == runs.load(config).train.steps


@pytest.mark.slow
def test_captioned_images_are_trained_and_judged(tmp_path):
    told = [
        {"image": f"{n}.png", "name": f"image {n}", "category": ("round", "square")[n % 2], "base": True}
        for n in range(48)
    ]
    test_captioned.write(tmp_path / "a", told, size=(8, 8))
    args = [f"--config.data.path={tmp_path / 'a'}", "--config.data.label=category", "--config.eval.samples=8"]
    assert command_line.main(["--config=configs/captioned.py:tiny", *args, f"--workdir={tmp_path / 'run'}"]) == 0
    assert "step" in json.loads((tmp_path / "run/eval.json").read_text())


@pytest.mark.slow
def test_captions_are_told_judged_and_drawn_by_a_users_words(tmp_path, capsys):
    """Two conditions with two scales; words and vocabulary are the run's own where the data are gone."""
    told = [
        {
            "image": f"{n}.png",
            "name": f"{('red', 'blue')[n % 2]} thing {n}",
            "category": ("round", "square")[n % 3 == 0],
        }
        for n in range(96)
    ]
    test_captioned.write(tmp_path / "a", [{**one, "base": True} for one in told], size=(8, 8))
    args = [f"--config.data.path={tmp_path / 'a'}", "--config.data.held_out=0.3"]
    run = [f"--workdir={tmp_path / 'run'}"]
    assert command_line.main(["--config=configs/captioned.py:text_tiny", *args, *run]) == 0
    found = json.loads((tmp_path / "run/eval.json").read_text())
    assert {"value", "floor", "control"} <= set(found["metrics"]["attribute AUC"])
    assert (tmp_path / "run/figures/nearest.png").exists()
    shutil.move(tmp_path / "a", tmp_path / "b")
    opened = runs.open(tmp_path / "run")
    drawn = opened.draw(2, text="red thing", label="round")
    np.testing.assert_array_equal(drawn, opened.draw(2, text=opened.data.vocabulary.tokens("red thing"), label="round"))
    assert np.abs(drawn - opened.draw(2, text="blue thing", label="round")).max() > 0
    capsys.readouterr()
    sample = ["--mode=sample", *run, "--seeds=0-1", "--config.sample.label=round"]
    assert command_line.main([*sample, "--config.sample.text=red thing"]) == 0
    assert command_line.main([*sample, "--config.sample.text=read thing"]) != 0
    assert "'read', which is none of the" in capsys.readouterr().err


# Trained and judged by their own tests.
RESUMED = ("autoencoder", "coupling_flow", "flow_map", "infomax", "masked", "points")


@pytest.mark.slow  # test_generators resumes by the command in every run, test_trainer and test_resume in other ways
@pytest.mark.parametrize("name", RESUMED)
def test_a_recipe_is_resumed_to_the_byte(name, tmp_path, capsys):
    assert_trains_and_resumes(f"configs/{name}.py:tiny", tmp_path, capsys)
