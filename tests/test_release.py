"""What is released: sdist and wheel built from the tree, the wheel installed and run; versions and notices agree."""

import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import diffjax

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> tuple[Path, Path]:
    """The sdist of what git knows, and the wheel that is made of that sdist."""
    folder = tmp_path_factory.mktemp("release")
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0"):
        if name and (ROOT / name).is_file():
            (folder / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "tree" / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "build", "--outdir", str(folder / "dist"), str(folder / "tree")]
    made = subprocess.run(command, capture_output=True, text=True)
    assert made.returncode == 0, made.stdout[-2000:] + made.stderr[-2000:]
    (sdist,), (wheel,) = (folder / "dist").glob("*.tar.gz"), (folder / "dist").glob("*.whl")
    return sdist, wheel


def test_names_say_the_version(built):
    sdist, wheel = built
    assert sdist.name == f"diffjax-{diffjax.__version__}.tar.gz"
    assert wheel.name == f"diffjax-{diffjax.__version__}-py3-none-any.whl"


def test_the_sdist_is_the_tree(built):
    """Whoever has the sdist can run the tests: every tracked file but git's own is in it."""
    with tarfile.open(built[0]) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout.split(
        "\n"
    )
    assert not {name for name in tracked if name and (ROOT / name).exists()} - inside - {".gitignore"}


def test_the_wheel_has_the_package_its_configs_and_notices_and_no_more(built):
    with zipfile.ZipFile(built[1]) as archive:
        names = archive.namelist()
        (metadata,) = [archive.read(name).decode() for name in names if name.endswith(".dist-info/METADATA")]
    info = f"diffjax-{diffjax.__version__}.dist-info/"
    assert {name.partition("/")[0] for name in names} == {"diffjax", info.rstrip("/")}
    expected = {str(path.relative_to(ROOT)) for path in (ROOT / "diffjax").rglob("*.py")}
    expected |= {f"diffjax/configs/{path.name}" for path in (ROOT / "configs").glob("*.py")}
    expected |= {"diffjax/py.typed", *(f"diffjax/metrics/{name}_classifier.npz" for name in ("digits", "mnist"))}
    assert {name for name in names if not name.startswith(info)} == expected
    assert {f"{info}licenses/LICENSE", f"{info}licenses/NOTICE"} <= set(names)
    assert f"\nVersion: {diffjax.__version__}\n" in metadata


@pytest.mark.slow
def test_the_installed_wheel_runs_in_an_empty_folder(built, tmp_path):
    """Nothing of the checkout is needed: the configs are inside."""
    home, empty = tmp_path / "installed", tmp_path / "empty"
    empty.mkdir()
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(home), str(built[1])]
    subprocess.run(install, check=True, capture_output=True)
    code = "import diffjax; from diffjax import main; print(diffjax.__file__); raise SystemExit(main.main(argv))"
    code = f"argv = ['--mode=show', '--config=configs/vpsde.py:tiny']; {code}"
    environment = {**os.environ, "PYTHONPATH": str(home), "JAX_PLATFORMS": "cpu"}
    run = subprocess.run([sys.executable, "-c", code], cwd=empty, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    assert run.stdout.startswith(str(home / "diffjax"))
    assert "vpsde" in run.stdout
    assert not any(empty.iterdir())


def test_one_version_everywhere():
    cited = (ROOT / "CITATION.cff").read_text()
    newest = re.findall(r"^## \[(\d+\.\d+\.\d+)\] - (\d{4}-\d\d-\d\d)$", (ROOT / "CHANGELOG.md").read_text(), re.M)[0]
    assert PROJECT["version"] == diffjax.__version__ == newest[0]
    assert f"\nversion: {newest[0]}\n" in cited
    assert f"\ndate-released: {newest[1]}\n" in cited


def test_third_party_data_has_its_notice():
    """Every loader of data that others made is named, with its licence."""
    notice = (ROOT / "NOTICE").read_text()
    for loader, name in {"load_digits": "UCI", "load_sample_images": "flower.jpg"}.items():
        assert any(loader in path.read_text() for path in (ROOT / "diffjax" / "data").glob("*.py"))
        assert name in notice
    loaders = {
        word for path in (ROOT / "diffjax").rglob("*.py") for word in re.findall(r"\bload_\w+", path.read_text())
    }
    from_sklearn = {name for name in loaders if hasattr(__import__("sklearn.datasets").datasets, name)}
    assert from_sklearn == {"load_digits", "load_sample_images"}
    assert notice.count("CC BY") == 3
