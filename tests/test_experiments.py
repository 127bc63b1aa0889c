"""Experiments are scripts on the library and on `diffjax.runs`: they import, and answer --help, without running."""

import ast
import importlib
import runpy
import sys
from pathlib import Path

import pytest
from test_layers import imports

FILES = sorted((Path(__file__).resolve().parents[1] / "experiments").rglob("*.py"))
SHARED = ("common", "counting")  # what the scripts of one folder import of each other, and nobody calls
name_of = lambda path: f"{path.parent.name}/{path.stem}"


@pytest.fixture
def alone(monkeypatch):
    """As `python path` would start it: the script's own folder first, no other folder's modules of an equal name."""

    def start(path, *args):
        beside = {p.stem for p in FILES}
        for name in beside & set(sys.modules):
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.syspath_prepend(path.parent)
        monkeypatch.setattr(sys, "argv", [str(path), *args])
        before = set(sys.modules)
        try:
            return runpy.run_path(str(path), run_name="__main__" if args else "imported")
        finally:
            for name in beside & (set(sys.modules) - before):
                del sys.modules[name]

    return start


def missing(text):
    """The parts of diffjax that a script names in its imports, also inside functions, and that there are not."""
    for name in sorted(n for n in imports(ast.parse(text)) if n.split(".")[0] == "diffjax"):
        module, _, member = name.rpartition(".")
        try:
            if not module or not hasattr(importlib.import_module(module), member):
                importlib.import_module(name)
        except ModuleNotFoundError:
            yield name


def test_there_are_experiments():
    assert len(FILES) >= 20
    assert {path.stem for path in FILES} >= {*SHARED, "scales", "study", "train_step"}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_an_experiment_imports_the_library_and_no_command(path):
    text = path.read_text()
    above = [name for name in imports(ast.parse(text)) if name.startswith(("diffjax.commands", "diffjax.main"))]
    assert not above, f"{path} imports {above}; runs are opened, built and trained by diffjax.runs"
    assert not list(missing(text))


def test_the_check_of_names_sees_what_is_not_there():
    text = "import diffjax\nfrom diffjax import runs, nope\ndef f():\n    from diffjax.commands.sample import restore"
    assert list(missing(text)) == ["diffjax.commands.sample.restore", "diffjax.nope"]


@pytest.mark.parametrize("path", [p for p in FILES if p.stem not in SHARED], ids=name_of)
def test_an_experiment_says_how_it_is_called(path, alone, capsys):
    with pytest.raises(SystemExit) as end:
        alone(path, "--help")
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: {path.name}")


@pytest.mark.parametrize("path", [p for p in FILES if p.stem in SHARED], ids=name_of)
def test_what_experiments_share_imports(path, alone):
    assert alone(path)["__name__"] == "imported"


@pytest.mark.parametrize("path", [p for p in FILES if p.stem not in SHARED], ids=name_of)
def test_an_experiment_runs_only_as_a_script(path, alone, capsys):
    """What an import would run is nothing: constants are made, `main` is not called."""
    assert callable(alone(path)["main"])
    assert capsys.readouterr().out == ""
