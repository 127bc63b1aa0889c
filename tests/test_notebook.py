"""Pictures below a cell: in a notebook's kernel, by a stand-in for IPython, and nowhere else."""

import contextlib
import sys
import types

import pytest

from diffjax import notebook, screen


class ZMQInteractiveShell:
    """The shell of a notebook's kernel."""


class Colab(ZMQInteractiveShell):
    """Colab's."""


class TerminalInteractiveShell:
    """IPython in a terminal."""


@pytest.fixture
def shown(monkeypatch):
    """Makes IPython with a shell of this kind; what it displays is listed."""

    def install(shell):
        seen = []
        whole, display = types.ModuleType("IPython"), types.ModuleType("IPython.display")
        vars(whole).update(get_ipython=lambda: shell, display=display)
        vars(display).update(Image=lambda filename: ("picture", filename), display=seen.append)
        monkeypatch.setitem(sys.modules, "IPython", whole)
        monkeypatch.setitem(sys.modules, "IPython.display", display)
        return seen

    return install


@pytest.mark.parametrize(
    ("shell", "there"),
    [(ZMQInteractiveShell(), True), (Colab(), True), (TerminalInteractiveShell(), False), (None, False)],
)
def test_a_notebook_is_a_kernel_and_no_terminal(shell, there, shown, tmp_path):
    seen, path = shown(shell), tmp_path / "a.png"
    path.write_bytes(b"any")
    assert notebook.is_notebook() is there
    assert notebook.show(path) is there
    assert seen == ([("picture", str(path))] if there else [])


def test_a_file_that_is_not_there_is_not_shown(shown, tmp_path):
    seen = shown(ZMQInteractiveShell())
    assert not notebook.show(tmp_path / "a.png")
    assert seen == []


def test_nothing_is_shown_where_what_is_printed_goes_to_a_file(shown, tmp_path):
    """A sweep's trainings, whose output is in their logs, do not fill the cell with pictures."""
    seen, path = shown(ZMQInteractiveShell()), tmp_path / "a.png"
    path.write_bytes(b"any")
    with (tmp_path / "log.txt").open("w") as log, contextlib.redirect_stdout(log):
        assert not notebook.show(path)
        with screen.guard():  # as a training's is
            assert not notebook.show(path)
    assert seen == []
    assert notebook.show(path)


def test_ipython_is_never_imported_to_find_out(monkeypatch):
    """Not by a script, whether it is installed or not; nor is a module of that name without a shell one."""
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    assert not notebook.is_notebook()
    assert "IPython" not in sys.modules
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    assert not notebook.is_notebook()
