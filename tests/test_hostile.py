"""Hostile inputs on the command line: one line that names the file or the field, nothing written, nothing run.

The drill `experiments/drills/hostile.py` has some five hundred of them, each a command; here are those that were once
answered by a traceback, by nobody's name, or not at all.
"""

import json
import os
import re
import struct
import warnings
import zipfile
import zlib

import image_files
import numpy as np
import pytest

from diffjax import config as C
from diffjax import data, disk, ema, host, lock, optimizers, runs
from diffjax import main as command_line
from diffjax.commands import sample
from diffjax.data import images, names, units
from diffjax.denoisers import moments
from diffjax.runs.run import read_config
from diffjax.samplers import principal

TINY = "--config=configs/vpsde.py:tiny"
SMALL = ["data.name=moons", "data.n=200", "data.held_out=100", "model.name=MLP", "model.width=8", "model.depth=1"]
SMALL += ["target.name=V", "eval.samples=64"]
LONG = "n" * 5000


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys):
    """`refused(words, *args)`: the command ends with status 2 and one line that these words are found in."""
    monkeypatch.chdir(tmp_path)

    def refused(words, *args):
        before = sorted(tmp_path.rglob("*"))
        try:
            status = command_line.main([str(arg) for arg in args])
        except SystemExit as end:
            status = end.code
        said = capsys.readouterr()
        lines = said.err.splitlines()
        assert status == 2
        assert len(lines) == 1
        assert lines[0].startswith("error: ")
        assert len(lines[0]) < 1600
        assert re.search(words, lines[0]), lines[0]
        assert "Traceback" not in said.out
        assert sorted(tmp_path.rglob("*")) == before, "something was written"

    return refused


# Flags.


@pytest.mark.parametrize(
    "seeds", ["\u0663", "0-\u0663", "\u00b2", "9" * 5000, "0-" + "9" * 5000, "\0"], ids=lambda s: ascii(s)[:12]
)
def test_seeds_are_numbers_in_ascii_digits_of_a_length_that_can_be_read(seeds):
    with pytest.raises(C.ConfigError, match=r"seeds .*expected numbers and ranges|is too large") as caught:
        sample.parse_seeds(seeds)
    assert len(str(caught.value)) <= host.LINE


@pytest.mark.parametrize(
    ("flag", "path", "words"),
    [
        ("--out", "file", "--out='file' cannot be a folder: .*is a file, expected a folder"),
        ("--out", "file/x", "--out='file/x' cannot be a folder: .*is a file"),
        ("--out", "/dev/null/x", "--out='/dev/null/x' cannot be a folder: /dev/null is a file"),
        ("--out", "/proc/nothere", "--out='/proc/nothere' cannot be a folder: No such file"),
        ("--out", "a\0b", r"--out='a\\x00b' cannot be a folder: .*null"),
        ("--out", LONG, "--out='nnn.* cannot be a folder: File name too long"),
        ("--out", "nothere/" + "n" * 300, "--out='nothere/nnn.* cannot be a folder: File name too long"),
        ("--out", "loop/x", "--out='loop/x' cannot be a folder: Too many levels"),
        ("--out", "W/checkpoints", "--out='W/checkpoints' is in W/checkpoints, which a run keeps"),
        ("--out", "W/x/../checkpoints/10/state", "is in W/checkpoints, which a run keeps"),
        ("--out", "W/ema", "is in W/ema, which a run keeps"),
        ("--workdir", "file/x", "--workdir='file/x' cannot be a folder"),
        ("--workdir", "a\0b", r"--workdir='a\\x00b' cannot be a folder"),
        ("--workdir", LONG, "--workdir='nnn.* cannot be a folder"),
    ],
    ids=lambda value: ascii(value)[:30],
)
def test_folders_that_cannot_be_made_are_refused_before_anything_is_computed(refused, tmp_path, flag, path, words):
    (tmp_path / "file").write_text("x")
    (tmp_path / "loop").symlink_to("loop")
    mode = ("--mode=sample", "--workdir=W") if flag == "--out" else (TINY,)
    refused(words, *mode, f"{flag}={path}")


@pytest.mark.parametrize("path", [LONG, "a\0b"])
def test_a_run_under_a_name_that_no_folder_has_is_not_there(refused, path):
    refused("holds no run", "--mode=sample", f"--workdir={path}")


def test_a_folder_that_can_be_made_leaves_nothing_behind(tmp_path):
    disk.check_folder("--out", tmp_path / "a" / "b" / "c")
    disk.check_folder("--out", tmp_path, kept=(tmp_path / "checkpoints",))
    disk.check_folder("--out", tmp_path / "checkpoints2", kept=(tmp_path / "checkpoints",))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_there_is_not_touched_and_one_without_rights_is_refused(tmp_path, monkeypatch):
    before = tmp_path.stat().st_mtime_ns
    disk.check_folder("--out", tmp_path)
    assert tmp_path.stat().st_mtime_ns == before
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may do anything
    with pytest.raises(ValueError, match="cannot be a folder: Permission denied"):
        disk.check_folder("--out", tmp_path)


def test_the_folder_of_samples_is_looked_at_before_they_are_drawn(tmp_path, monkeypatch):
    (tmp_path / "samples").write_text("x")
    monkeypatch.setattr(runs, "open", lambda *args, **words: None)  # it has no draw
    with pytest.raises(C.ConfigError, match=r"samples' cannot be a folder|samples/seeds' cannot be a folder"):
        sample.run(tmp_path, "0-3")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("grid.n=5,sampler.name=a/b", "grid.n=5,sampler.name=a_b"),
        ("features=yours:space", "features=yours_space"),
        ("a\0b\nc\ud800", "a_b_c_"),
        ("\u00e9" * 100, "\u00e9" * 100),
    ],
)
def test_the_name_of_a_file_is_the_text_where_that_can_be_one(text, name):
    assert disk.file_name(text) == name


def test_long_texts_that_differ_at_the_end_are_files_of_two_names(tmp_path):
    names = [disk.file_name("x" * 5000 + end) for end in "ab"] + [disk.file_name("\u00e9" * 5000)]
    assert len(set(names)) == 3
    for name in names:
        (tmp_path / name).mkdir()
    assert max(len(os.fsencode(name)) for name in names) <= 200


def test_an_error_is_one_printable_line_whatever_it_quotes():
    said = str(C.ConfigError("a\nb\tc\0\x1b[31m" + "x" * 9000 + " the end"))
    assert said.startswith(r"a b\tc\x00\x1b[31mxxx")
    assert said.endswith("xxx the end")
    assert said.isprintable()
    assert len(said) < 1600
    assert host.one_line("\u00e9 \u4e2d") == "\u00e9 \u4e2d"


@pytest.mark.parametrize("args", [["--nfe=" + "9" * 5000], ["--" + LONG], ["--mode=" + LONG]])
def test_a_long_argument_is_quoted_in_part(refused, args):
    refused(r" \.\.\. ", *args)


# Config files: programs of the user's own.

PROGRAMS = {
    "no text": ("\0\0", "own.py.*: .*null"),
    "syntax": ("x = 1\ndef (\n", "own.py, line 2: SyntaxError: invalid syntax"),
    "raises": ("def get_config(v):\n    raise KeyError('x')\n", "own.py, line 2: KeyError: 'x'"),
    "no such module": ("import nothere\n", "own.py, line 1: ModuleNotFoundError: No module named 'nothere'"),
    "a list": ("VARIANTS = [1]", r"own.py: VARIANTS is \[1\], expected a table: name -> function"),
    "empty": ("VARIANTS = {}", r"own.py: VARIANTS is \{\}, expected a table"),
    "no function": ("VARIANTS = {'a': 3}", "own.py: TypeError: 'int' object is not callable"),
    "deep": ("x = " + "(" * 3000 + ")" * 3000, "own.py, line 1: SyntaxError: too many nested parentheses"),
}


@pytest.mark.parametrize("case", PROGRAMS)
def test_what_is_wrong_with_a_config_file_is_one_line_with_the_place(refused, tmp_path, case):
    program, words = PROGRAMS[case]
    (tmp_path / "own.py").write_text(program)
    refused(words, "--config=own.py", "--workdir=W")


@pytest.mark.parametrize(
    ("path", "words"),
    [
        (f"{LONG}.py", "There is no config file 'nnn"),
        ("../" * 2000 + "x.py", "There is no config file"),
        ("a\0.py", r"There is no config file 'a\\x00.py'"),
        (f"configs/vpsde.py:{LONG}", "has no variant 'nnn"),
        ("data.npz", r"data.npz is no Python file; a config's name ends in \.py"),
    ],
    ids=lambda value: ascii(value)[:20],
)
def test_a_config_that_is_no_file_of_python_is_refused(refused, tmp_path, path, words):
    np.savez(tmp_path / "data.npz", x=np.ones(3))
    refused(words, f"--config={path}", "--workdir=W")


# Overrides, and the config of a run that somebody else may have written.


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("loss.weight=unit", "losses.regression has no option 'weight'"),
        ("checkpoint.best=-1", "checkpoint.best is -1, expected an integer >= 0"),
        ("learning_rate.peak=inf", "Got learning_rate = inf, expected a positive number"),
        ("ema.decays=('a',)", r"Got EMA decays \('a',\), expected numbers|expected a tuple of float"),
    ],
)
def test_values_that_nobody_takes_are_refused_by_name(text, words):
    with pytest.raises(C.ConfigError, match=words):
        runs.build_run(runs.load("configs/vpsde.py:tiny", [*SMALL, text]))


@pytest.mark.parametrize("make", [ema.warm_up, ema.power])
@pytest.mark.parametrize("value", ["x", (None,), ("0.9", "b")])
def test_averages_of_no_numbers_are_refused(make, value):
    with pytest.raises(ValueError, match=r"Got EMA .*, expected numbers"):
        make(value)


def test_a_learning_rate_is_a_finite_number():
    for peak in (np.inf, np.nan, 0.0):
        with pytest.raises(ValueError, match=r"Got learning_rate = .*, expected a positive number"):
            optimizers.build_optimizer({"name": "adam", "learning_rate": peak}, 10)


CONFIGS = {
    "a key with a dot": (lambda t: t.update({"a.b": 3}), r"config\.json is no config: .*a\.b"),
    "a key of Python's": (lambda t: t.update({"__class__": 3}), r"config\.json is no config: .*__class__"),
    "model null": (lambda t: t.update(model=None), "The group model is None, expected fields"),
    "data null": (lambda t: t.update(data=None), "The group data is None, expected fields"),
    "method text": (lambda t: t.update(method="os.system"), "Got 'os.system' where methods needs a spec"),
    "method a number": (lambda t: t.update(method=3), "Got 3 where methods needs a spec"),
    "name a list": (lambda t: t.update(name=["x"]), r"name is \('x',\), expected text"),
    "seed text": (lambda t: t.update(seed="1"), "seed is '1', expected an integer"),
    "decays text": (lambda t: t["ema"].update(decays="x"), "Got EMA decays 'x', expected numbers"),
    "eta an object": (lambda t: t["sampler"].update(eta={"a": 1}), "An option of the config is of a type that nobody"),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_a_config_json_of_other_types_is_refused_by_field(tmp_path, case):
    change, words = CONFIGS[case]
    told = json.loads(C.to_json(runs.load("configs/vpsde.py:tiny", SMALL)))
    change(told)
    (tmp_path / "config.json").write_text(json.dumps(told))
    with pytest.raises(C.ConfigError, match=words):
        runs.build_run(read_config(tmp_path))


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo], ids=["folder", "FIFO"])
def test_a_lock_that_is_no_file_is_named(tmp_path, make):
    make(tmp_path / lock.NAME)
    with pytest.raises(lock.HeldError, match=r"\.lock is no file, so that the folder cannot be locked"):
        lock.take(tmp_path)


# Data.


@pytest.mark.parametrize("path", [LONG, "a\0b"])
def test_data_under_a_name_that_no_file_has_is_not_there(path):
    for make, words in ((data.npz, "There is no file"), (data.folder, "There is no folder or zip")):
        with pytest.raises(FileNotFoundError, match=words):
            make(path)
    with pytest.raises(FileNotFoundError, match="There is no prepared data set"):
        data.tfds(path, "nothere")


def test_numbers_beyond_float32_are_refused_before_they_are_infinite(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.full((50, 2), 1e300))
    with pytest.raises(ValueError, match=r"a\.npz: .*numbers of size 1e\+300, expected"):  # a warning fails a test
        data.npz(str(tmp_path / "a.npz"), label=None)


@pytest.mark.parametrize("most", [float("nan"), 0.0, -1.0, float("inf")])
def test_a_bound_that_is_no_number_bounds_nothing_and_is_refused(tmp_path, most):
    np.savez(tmp_path / "a.npz", x=np.zeros((50, 2)))
    with pytest.raises(ValueError, match=r"npz: most_gib is .*, expected a positive number"):
        data.npz(str(tmp_path / "a.npz"), label=None, most_gib=most)


TABLES = ("ts", "entries", "error", "noise", "spread", "mean", "variances", "basis")
HUGE = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000, 2)}\n"
WRONG = {
    "none": (lambda path: None, "There is no file"),
    "empty": (lambda path: path.touch(), "is not an .npz file"),
    "a folder": (os.mkdir, "There is no file"),
    "a FIFO": (os.mkfifo, "There is no file"),
    "other": (lambda path: np.savez(path, x=np.ones(3)), "has no array"),
    "objects": (lambda path: np.savez(path, **dict.fromkeys(TABLES, np.full(3, None))), "Python objects"),
    "text": (lambda path: np.savez(path, **dict.fromkeys(TABLES, np.full(3, "a"))), "expected floating-point"),
    "nothing": (lambda path: np.savez(path, **dict.fromkeys(TABLES, np.ones(0))), "expected floating-point"),
    "NaN": (lambda path: np.savez(path, **dict.fromkeys(TABLES, np.full((3, 3), np.nan))), "not finite"),
}


@pytest.mark.parametrize("case", [*WRONG, "huge"])
@pytest.mark.parametrize("load", [moments.load, principal.Axes.load], ids=["moments", "axes"])
def test_tables_beside_a_run_are_read_as_carefully_as_data(tmp_path, load, case):
    """By one reader (`members`): header first, nothing unpickled, no waiting for a pipe; the file is named."""
    path = tmp_path / "in.npz"
    make, words = WRONG.get(case, (None, "its header says"))
    if make is None:
        with zipfile.ZipFile(path, "w") as archive:
            for name in TABLES:
                archive.writestr(f"{name}.npy", b"\x93NUMPY\1\0" + struct.pack("<H", len(HUGE)) + HUGE)
    else:
        make(path)
    with pytest.raises(ValueError, match=f"in.npz' holds no (axes|second moments) .*{words}.*--mode=moments") as caught:
        load(path)
    assert "\n" not in str(caught.value)


def test_moments_of_unlike_lengths_are_refused(tmp_path):
    arrays = dict.fromkeys(TABLES, np.ones(3)) | {"error": np.ones(4)}
    np.savez(tmp_path / "in.npz", **arrays)
    with pytest.raises(ValueError, match=r"in\.npz' holds no second moments \(got .*'error': \(4,\)"):
        moments.load(tmp_path / "in.npz")
    np.savez(tmp_path / "in.npz", **dict.fromkeys(TABLES, np.ones(3)) | {"noise": np.full(3, np.nan)})
    assert np.isnan(moments.load(tmp_path / "in.npz").noise).all()  # as it is where the process is not Gaussian


@pytest.mark.parametrize("damage", ["cut", "scale"])
def test_units_of_a_run_that_are_damaged_are_named(tmp_path, damage):
    dataset = data.standardize(data.arrays(np.random.default_rng(0).normal(size=(50, 2))), "entries")
    assert units.keep(dataset, tmp_path) == ""
    file = tmp_path / "units.npz"
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:100])
    else:
        np.savez(file, **{**dataset.units._asdict(), "scale": np.zeros(2)})
    with pytest.raises(ValueError, match=r"units\.npz.* holds no units of a run's data"):
        units.kept_units(dataset, tmp_path)
    assert "holds no units" in units.keep(dataset, tmp_path)


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo], ids=["folder", "FIFO"])
def test_names_of_classes_that_are_no_file_are_no_names(tmp_path, make):
    make(tmp_path / names.FILE)
    names.keep_names(tmp_path, data.arrays(np.ones((9, 2))))


def chunk(name, body):
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


@pytest.mark.parametrize("behind", [False, True], ids=["before the pixels", "behind them"])
def test_text_in_a_png_that_unpacks_without_end_is_refused_by_the_files_name(tmp_path, behind):
    picture, text = image_files.png("RGB", 8), chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**22)))
    at = len(picture) - 12 if behind else 33  # before the chunk that ends it; after its header
    image_files.fill(tmp_path, [f"{n}.png" for n in range(20)])
    (tmp_path / "bad.png").write_bytes(picture[:at] + text + picture[at:])
    with pytest.raises(ValueError, match=r"bad\.png' cannot be read as an image: Decompressed data too large"):
        data.folder(str(tmp_path), size=4)


def test_a_large_picture_is_refused_in_one_line_without_pillows_warning(refused, tmp_path):
    (tmp_path / "in").mkdir()
    for n in range(20):
        (tmp_path / f"in/{n}.png").write_bytes(image_files.png("RGB", 8))
    header = struct.pack(">IIBBBBB", 12_000, 12_000, 8, 2, 0, 0, 0)
    large = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    (tmp_path / "in/bad.png").write_bytes(large)
    flags = ("--config.data.name=folder", "--config.data.path=in", "--config.data.size=4")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        images._pillow.cache_clear()
        refused("bad.png' has 12000 x 12000 pixels, expected at most", TINY, *flags, "--workdir=W")
