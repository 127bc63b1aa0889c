"""What pip would do to Colab's image: the built wheel, resolved against the package index, moves none of its pins.

A stand-in is a virtual environment that holds the metadata, and no code, of the pins of constraints/oldest.txt and of
all that they bring, as the index states it. pip takes them as installed, and keeps or moves them by its own rules.

For another Python, `--python-version` chooses the wheels and what Requires-Python allows, but pip evaluates markers for
the Python that runs it; hence the requirements of the outcome are read once more under the markers of that Python.
"""

import email.message
import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
CONSTRAINTS = ROOT / "constraints"
LINES = [line.split("#")[0].strip() for line in (CONSTRAINTS / "oldest.txt").read_text().splitlines()]
PINS = dict(line.split("==") for line in LINES if "==" in line)
PYTHONS = ["3.11", "3.13"]  # where the suite runs on the oldest set, and Colab's

pytestmark = pytest.mark.slow


class Tools(NamedTuple):
    """What the tests resolve with: a pip that resolves for another Python, and wheels that the index does not have."""

    pip: Path
    wheels: Path
    own: Path

    def run(self, *args, python=None):
        """pip's stdout; an assertion with its stderr where it fails."""
        chosen = [] if python is None else ["--python", str(python)]
        command = [sys.executable, "-m", "pip", *chosen, *map(str, args)]
        environment = {**os.environ, "PYTHONPATH": str(self.pip)}
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def resolve(self, *args, python, version):
        """Metadata by name of what `pip install` would put into this environment, were its Python of that version."""
        only = ["--python-version", version, "--only-binary=:all:", "--find-links", self.wheels]
        report = self.run("install", "--dry-run", "--quiet", "--report=-", *only, *args, python=python)
        found = [item["metadata"] for item in json.loads(report)["install"]]
        return {canonicalize_name(metadata["name"]): metadata for metadata in found}


class Image(NamedTuple):
    """A stand-in for Colab's image: its interpreter, the Python it stands for, and what it has, metadata by name."""

    python: Path
    version: str
    installed: dict


@pytest.fixture(scope="module")
def tools(tmp_path_factory):
    """A newer pip, the wheel of promise, which the index has as a source only, and this library's own; or a skip."""
    folder = tmp_path_factory.mktemp("tools")
    get = [sys.executable, "-m", "pip", "install", "--quiet", "--retries=0", "--target", folder / "pip", "pip>=24.2"]
    done = subprocess.run(get, capture_output=True, text=True, timeout=300)
    if done.returncode:
        pytest.skip(f"the package index cannot be reached: {done.stderr.strip().splitlines()[-1]}")
    source = folder / "source"
    for name in ("diffjax", "configs"):
        shutil.copytree(ROOT / name, source / name)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    tools = Tools(folder / "pip", folder / "wheels", folder / "own")
    tools.run("wheel", "--quiet", "--no-deps", "--wheel-dir", tools.wheels, "promise==2.3")
    tools.run("wheel", "--quiet", "--no-deps", "--wheel-dir", tools.own, source)
    return tools


@pytest.fixture(scope="module", params=PYTHONS)
def image(request, tools, tmp_path_factory):
    """The stand-in for one Python."""
    folder = tmp_path_factory.mktemp("image")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    pins = [f"{name}=={version}" for name, version in PINS.items()]
    installed = tools.resolve("--ignore-installed", *pins, python=python, version=request.param)
    (site,) = folder.glob("lib/python*/site-packages")
    for metadata in installed.values():
        write_metadata(site, metadata)
    return Image(python, request.param, installed)


def write_metadata(site, metadata):
    """Writes the .dist-info of a package that pip is to take as installed."""
    folder = site / f"{metadata['name'].replace('-', '_')}-{metadata['version']}.dist-info"
    folder.mkdir()
    text = email.message.Message()
    for field in ("metadata_version", "name", "version", "requires_python", "requires_dist", "provides_extra"):
        for value in [metadata[field]] if isinstance(metadata.get(field), str) else metadata.get(field, []):
            text[field.replace("_", "-").title()] = value
    (folder / "METADATA").write_text(str(text))
    (folder / "INSTALLER").write_text("pip\n")


def moved(found):
    """{pin: version} of the pins that would be installed anew."""
    return {name: found[name]["version"] for name in PINS if name in found}


def unmet(found, version, extra):
    """(package, requirement) of what these packages want of the pins, on that Python, and do not get."""
    python = {"python_version": version, "python_full_version": f"{version}.0"}
    wants = [(name, Requirement(text)) for name, of in found.items() for text in of.get("requires_dist", [])]
    return [
        (name, str(want))
        for name, want in wants
        if (want.marker is None or want.marker.evaluate(python | {"extra": extra if name == "diffjax" else ""}))
        and canonicalize_name(want.name) in PINS
        and not want.specifier.contains(PINS[canonicalize_name(want.name)])
    ]


@pytest.mark.parametrize(
    ("extra", "constraints"), [("", []), *((extra, ["-c", CONSTRAINTS / "colab.txt"]) for extra in ("ode", "mnist"))]
)
def test_the_wheel_moves_no_pin_of_colab(tools, image, extra, constraints):
    (wheel,) = tools.own.glob("*.whl")
    asked = f"diffjax[{extra}] @ {wheel.as_uri()}" if extra else wheel
    found = tools.resolve(asked, *constraints, python=image.python, version=image.version)
    assert "diffjax" in found
    assert ("diffrax" in found) == (extra == "ode")
    assert ("mlxtend" in found) == (extra == "mnist")
    assert moved(found) == {}
    assert unmet(image.installed | found, image.version, extra) == []


def test_a_package_that_wants_a_newer_jax_is_seen_to_move_it(tools, image):
    """lineax 0.1.1 wants jax >= 0.10: what colab.txt keeps out."""
    found = tools.resolve("lineax==0.1.1", python=image.python, version=image.version)
    assert {"jax", "jaxlib"} <= moved(found).keys()
    assert ("lineax", "jax>=0.10.0") in unmet(image.installed | {"lineax": found["lineax"]}, image.version, "")
