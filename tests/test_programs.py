"""Compiled programs on disk: where they are kept, by whose choice, how many, and that no bit depends on them."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest
import run_command
from twice import assert_same_bytes

from diffjax import programs, runs

MLP = ("data.name=moons", "data.n=200", "model.name=MLP", "model.width=16", "model.depth=1", "eval.samples=20")


@pytest.fixture
def unset(monkeypatch):
    """A jax that was told of no folder; what `keep` tells it is taken back."""
    told, updated = jax.config.jax_compilation_cache_dir, {}
    monkeypatch.setattr(programs.compilation_cache, "reset_cache", lambda: updated.update(reset=True))
    monkeypatch.setattr(programs.jax.config, "update", lambda name, value: updated.update({name: value}))
    monkeypatch.setattr(type(jax.config), "jax_compilation_cache_dir", None, raising=False)
    programs._keep.cache_clear()
    yield updated
    monkeypatch.undo()
    programs._keep.cache_clear()
    assert jax.config.jax_compilation_cache_dir == told


@pytest.mark.parametrize("chosen", [True, False])
def test_they_are_in_the_users_folder_or_the_one_that_is_chosen(unset, chosen, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv(programs.VARIABLE, raising=False)
    if chosen:
        monkeypatch.setenv(programs.VARIABLE, str(tmp_path / "mine"))
    assert programs.keep() == []
    folder = Path(unset["jax_compilation_cache_dir"])
    assert folder.is_dir()
    assert folder.parent == (tmp_path / "mine" if chosen else tmp_path / "xdg" / "diffjax")
    assert folder.name == f"jax-{jax.__version__}-{programs.version('jaxlib')}-{programs.machine()}"
    assert unset["reset"]


def test_nothing_is_kept_where_that_is_chosen(unset, monkeypatch):
    monkeypatch.setenv(programs.VARIABLE, "off")
    assert programs.keep() == []
    assert unset == {}


def test_a_folder_that_was_told_to_jax_is_left_alone(monkeypatch, tmp_path):
    """As in this suite."""
    monkeypatch.setenv(programs.VARIABLE, str(tmp_path / "mine"))
    before = jax.config.jax_compilation_cache_dir
    programs._keep.cache_clear()
    assert programs.keep() == []
    assert jax.config.jax_compilation_cache_dir == before
    assert not (tmp_path / "mine").exists()


def test_a_folder_that_cannot_be_is_said(unset, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(programs.VARIABLE, str(tmp_path / "file"))
    (line,) = programs.keep()
    assert line.startswith(f"compiled programs are not kept: {tmp_path / 'file'}: ")
    assert line.endswith("; DIFFJAX_CACHE=FOLDER, or off")
    assert programs.keep() == [], "it is said once"
    assert unset == {}


def test_the_oldest_programs_go_first_and_nothing_else(tmp_path):
    """In a folder that its user has other things in, older ones."""
    mine = [tmp_path / "thesis.tex", tmp_path / "jax-notes" / "a.txt", tmp_path / "other" / "b-cache"]
    for path in mine:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes(1000))
        os.utime(path, (1, 1))
    folder = tmp_path / "jax-0"
    folder.mkdir()
    for age, name in enumerate("cab"):
        (folder / f"{name}-cache").write_bytes(bytes(100))
        os.utime(folder / f"{name}-cache", (1000 + age, 1000 + age))
    assert programs.prune(tmp_path, 300) == 0
    assert programs.prune(tmp_path, 250) == 1
    assert {path.name for path in folder.iterdir()} == {"a-cache", "b-cache"}
    assert programs.prune(tmp_path, 0) == 2
    assert all(path.exists() for path in mine)


def test_other_cores_have_another_folder(monkeypatch):
    here = programs.machine()
    monkeypatch.setattr(programs.os, "sched_getaffinity", lambda pid: set(range(99)), raising=False)
    assert programs.machine() != here


@pytest.mark.slow
def test_a_run_has_the_same_bytes_with_and_without_it(tmp_path):
    """Compiled, compiled and kept, read; a damaged program is said and compiled again."""
    env = run_command.environment(pinned=True)
    env = {name: value for name, value in env.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    fields = [f"--config.{field}" for field in (*MLP, "train.steps=20", "train.log_every=10", "checkpoint.every=10")]
    found = {}
    for name, cache in (
        ("off", "off"),
        ("kept", tmp_path / "c"),
        ("read", tmp_path / "c"),
        ("damaged", tmp_path / "c"),
    ):
        if name == "damaged":
            for path in (tmp_path / "c").rglob("*-cache"):
                path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        command = [*run_command.one_core(), sys.executable, "-m", "diffjax.main", "--config=configs/vpsde.py:tiny"]
        done = subprocess.run(
            [*command, f"--workdir={tmp_path / name}", *fields],
            cwd=run_command.ROOT,
            env={**env, programs.VARIABLE: str(cache)},
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stderr
        assert ("Error reading persistent compilation cache entry" in done.stderr) == (name == "damaged")
        found[name] = runs.open(tmp_path / name).state, (tmp_path / name / "eval.json").read_bytes()
    assert list((tmp_path / "c").rglob("*-cache"))
    for state, evaluated in found.values():
        assert_same_bytes(state, found["off"][0])
        assert evaluated == found["off"][1]
