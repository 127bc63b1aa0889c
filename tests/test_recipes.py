"""Every recipe of configs/ builds, and its tiny one is run by some test."""

from pathlib import Path

import image_files
import pytest
import test_captioned
import test_cifar10

from diffjax import runs
from diffjax.runs import build_run

CONFIGS = [path.stem for path in sorted((Path(__file__).parents[1] / "configs").glob("*.py"))]
PUBLISHED = ("cifar10.py:gpu", "cifar10.py:gpu_ddpmpp", "photos.py:gpu")  # for accelerators, as is captioned.py:gpu
PUBLISHED += ("captioned.py:text_gpu", "captioned.py:two_scales", "captioned.py:untold")  # or built by their tiny one
ONLY_BUILT = ("guidance", "ncsn", "subvp", "ve")  # tiny ones that no test runs


@pytest.mark.parametrize(
    "name",
    [f"{name}.py" for name in CONFIGS]
    + [f"{name}.py:tiny" for name in ONLY_BUILT]
    + [
        "captioned.py:gpu",
        "captioned.py:text_tiny",
        *(pytest.param(name, marks=pytest.mark.slow) for name in PUBLISHED),
    ],
)
def test_every_config_builds(name, tmp_path):
    """Every name and option in it exists, and its sampler can be planned on its grid."""
    image_files.fill(tmp_path, ["a/1.png", "a/2.png", "b/1.png", "b/2.png"])
    config = runs.load(f"configs/{name}")
    if config.data.name == "folder":
        config.data.path = str(tmp_path)
    if config.data.name == "cifar10":
        test_cifar10.write_folder(tmp_path / "batches", test_cifar10.records())
        with config.unlocked():
            config.data.update(dict(path=str(tmp_path / "batches"), per_batch=7))
    if config.data.name == "captioned":
        test_captioned.write(tmp_path / "captioned", test_captioned.entries())
        with config.unlocked():
            config.data.update(dict(path=str(tmp_path / "captioned"), label="category"))
    assert build_run(config).data.shape


@pytest.mark.parametrize("name", CONFIGS)
def test_a_tiny_config_is_run_by_a_test_or_built(name):
    tests = [path.read_text() for path in Path(__file__).parent.glob("test_*.py")]
    assert (name in ONLY_BUILT) != any(f"configs/{name}.py:tiny" in text for text in tests)
