"""The two scripts for a GPU machine: their parts on small numbers, and both in smoke mode with the core alone."""

import bz2
import json
import subprocess
import sys
import time

import numpy as np
import pytest
import run_command

FOLDER = run_command.ROOT / "experiments" / "benchmarks"
ABSENT = "ml_collections grain tensorflow_datasets tensorflow matplotlib sklearn orbax clu PIL diffrax safetensors tqdm"
BARE = f"""
import runpy, sys
class Bare:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {ABSENT.split()!r}:
            raise ImportError(f"{{name}} is not on this machine")
sys.meta_path.insert(0, Bare())
sys.path.insert(0, {str(FOLDER)!r})
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture
def parts(monkeypatch):
    """Imports a module of the folder of benchmarks by its name, and forgets it and its siblings afterwards."""
    monkeypatch.syspath_prepend(FOLDER)
    before = set(sys.modules)
    yield __import__
    for path in FOLDER.glob("*.py"):
        if path.stem not in before:
            sys.modules.pop(path.stem, None)


def bare(script, *args):
    """Runs a script where nothing but jax, flax, optax, NumPy and SciPy can be imported: (status, lines, stderr)."""
    command = [sys.executable, "-c", BARE, str(FOLDER / f"{script}.py"), *args]
    done = subprocess.run(command, env=run_command.environment(), capture_output=True, text=True, timeout=900)
    return done.returncode, done.stdout.splitlines(), done.stderr


def lane(pid, tid, process, thread):
    """The events that name a lane."""
    named = {"process_name": ({}, process), "thread_name": ({"tid": tid}, thread)}
    return [{"ph": "M", "pid": pid, **at, "name": n, "args": {"name": name}} for n, (at, name) in named.items()]


def kernel(pid, tid, begin, length):
    """A kernel of a trace, in microseconds."""
    return {"ph": "X", "pid": pid, "tid": tid, "ts": begin, "dur": length, "name": "kernel"}


STREAMS = [
    *lane(1, 7, "/device:GPU:0", "Stream #7(Compute)"),
    *lane(1, 8, "/device:GPU:0", "Stream #8(MemcpyD2D)"),
    *lane(1, 9, "/device:GPU:0", "XLA Modules"),
    *lane(2, 7, "/host:CPU", "tf_XLAEigen/1"),
    *lane(3, 7, "/device:GPU:1", "Stream #7(Compute)"),
]


@pytest.mark.parametrize(
    ("intervals", "length"),
    [([], 0), ([(0, 2), (1, 3)], 3), ([(5, 6), (0, 1)], 2), ([(0, 10), (2, 3), (9, 12)], 12), ([(0, 1), (1, 2)], 2)],
)
def test_the_length_of_a_union(intervals, length, parts):
    assert parts("gpu_trace").union(intervals) == length


def test_the_busy_share_is_that_of_streams_alone(parts):
    """Kernels at 100-140 and 130-160, a copy at 180-200: 80 of 100 microseconds, whatever other lanes say."""
    events = [kernel(1, 7, 100, 40), kernel(1, 7, 130, 30), kernel(1, 8, 180, 20)]
    others = [kernel(1, 9, 0, 1000), kernel(2, 7, 0, 1000), kernel(3, 7, 0, 1), kernel(3, 7, 99, 1)]
    found = parts("gpu_trace").busy({"traceEvents": [*STREAMS, *events, *others]})
    assert (found.kernels, found.lanes) == (3, "streams")
    np.testing.assert_allclose([found.share, found.busy_s, found.wall_s], [0.8, 80e-6, 100e-6], rtol=1e-12)


def test_a_trace_of_a_cpu_has_threads_and_one_of_neither_nothing(parts):
    busy = parts("gpu_trace").busy
    host = [*lane(2, 7, "/host:CPU", "tf_XLAEigen/1"), *lane(2, 1, "/host:CPU", "python")]
    found = busy({"traceEvents": [*host, kernel(2, 7, 0, 1), kernel(2, 7, 3, 1), kernel(2, 1, 0, 9)]})
    assert (found.share, found.lanes) == (0.5, "threads")
    assert busy({"traceEvents": [*lane(2, 1, "/host:CPU", "python"), kernel(2, 1, 0, 9)]}) is None
    assert busy({"traceEvents": STREAMS}) is None


def images(count, height, width, seed=0):
    """Smooth images with noise, uint8, and both ends of the range."""
    rng = np.random.default_rng(seed)
    slope = np.add.outer(np.arange(height), np.arange(width))[None, :, :, None] * rng.uniform(0, 9, (count, 1, 1, 3))
    found = np.clip(slope + rng.normal(0, 4, (count, height, width, 3)), 0, 255).astype(np.uint8)
    found[0], found[-1, ::2] = rng.integers(0, 256, found.shape[1:]), 255
    return found


def test_packed_images_are_those_that_went_in(parts, tmp_path, monkeypatch):
    packing = parts("gpu_packing")
    monkeypatch.setattr(packing, "BLOCK", 4)  # several blocks, the last of them short
    given = {"train": images(9, 6, 5), "held_out": images(1, 3, 8, 1)}
    size = packing.pack(tmp_path / "new" / "a.npz", given)
    assert size == (tmp_path / "new" / "a.npz").stat().st_size
    found = packing.unpack(tmp_path / "new" / "a.npz")
    assert found.keys() == given.keys()
    for name, part in found.items():
        assert part.dtype == np.uint8
        np.testing.assert_array_equal(part, given[name])


def test_smooth_images_are_packed_well(parts, tmp_path):
    """Of a grey slope of its own in each image the predictor leaves next to nothing; bz2 alone sees no repetition."""
    begin, down, right = np.random.default_rng(0).integers(1, 4, (3, 50, 1, 1, 1))
    rows, columns = np.indices((32, 32))[..., None]
    slopes = np.broadcast_to((30 * begin + down * rows + right * columns) % 256, (50, 32, 32, 3)).astype(np.uint8)
    alone = len(bz2.compress(slopes.tobytes()))
    assert parts("gpu_packing").pack(tmp_path / "a.npz", {"train": slopes}) < alone / 2


def test_what_is_too_large_is_refused_and_not_written(parts, tmp_path):
    packing, noise = parts("gpu_packing"), np.random.default_rng(0).integers(0, 256, (64, 16, 16, 3), np.uint8)
    said = r"^64 images take 0\.0[45]\d* MiB, expected at most 0\.02: take about 2[0-9] \(--train=\)\.$"
    with pytest.raises(ValueError, match=said):
        packing.pack(tmp_path / "a.npz", {"train": noise}, 0.02)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match=r"^train is float32 of shape \(2, 3\), expected uint8"):
        packing.pack(tmp_path / "a.npz", {"train": np.zeros((2, 3), np.float32)})
    np.savez(tmp_path / "b.npz", x=noise)
    with pytest.raises(ValueError, match=r"holds no packed images"):
        packing.unpack(tmp_path / "b.npz")


def said(capsys):
    """The lines printed so far, read."""
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_rows_that_no_longer_fit_are_skipped_and_failures_are_said(parts, capsys):
    of = parts("gpu_rows")
    age = time.monotonic() - of.began()
    rows = of.Rows("name", age + 1000.0)
    assert rows.row("a", 10.0, lambda: {"x": 1})["x"] == 1
    assert rows.row("b", 10.0, lambda: 1 / 0) is None
    assert rows.pace == of.FASTEST  # 0 s of 10 were taken
    assert rows.row("c", 2100.0, lambda: {"x": 2}) is None
    rows.forget_pace()
    assert rows.pace == 1.0
    assert rows.close() == 1
    a, b, c, last = said(capsys)
    assert (a["row"], a["x"], b["failed"], c["row"]) == ("a", 1, "ZeroDivisionError: division by zero", "c")
    assert c["skipped"].startswith("needs about 1050 s, 99")
    assert (last["benchmark"], last["rows"]["a"]["x"], last["failed"]) == ("name", 1, {"b": b["failed"]})
    assert last["skipped"] == {"c": c["skipped"]}
    assert last["device"].startswith("cpu")


def test_the_watchdog_closes_in_the_middle_of_a_row(parts, capsys):
    of, ended = parts("gpu_rows"), []
    rows = of.Rows("name", time.monotonic() - of.began() + of.MARGIN + 0.4, end=ended.append)
    assert rows.row("quick", 0.0, lambda: {"x": 1})
    rows.row("long", 0.0, lambda: {"waited": [time.sleep(0.05) for _ in range(200) if not ended]})
    assert rows.close() == 0
    quick, cut, last = said(capsys)
    assert ended == [0]
    assert quick["row"] == "quick"
    assert cut["row"] == "long"
    assert list(last["rows"]) == ["quick"]
    assert last["skipped"] == {"long": cut["skipped"]}


def test_a_budget_has_to_be_more_than_its_margin(parts):
    with pytest.raises(ValueError, match=r"^--budget is 2, expected more than 3 seconds\.$"):
        parts("gpu_rows").Rows("name", 2)


def test_the_beginning_of_a_process_is_read_from_the_system(parts, monkeypatch):
    """Begun 300 s after the machine, which is 1000 s old: 700 s ago. The 20th word after the name is its beginning."""
    of = parts("gpu_rows")
    words = ["R", *map(str, range(4, 22)), str(300 * of.os.sysconf("SC_CLK_TCK")), "23", "24"]
    monkeypatch.setattr(of.Path, "read_text", lambda path: f"17 (a) (name) {' '.join(words)}\n")
    monkeypatch.setattr(of.time, "clock_gettime", lambda clock: 1000.0)
    monkeypatch.setattr(of.time, "monotonic", lambda: 5000.0)
    assert of.began() == 4300.0
    monkeypatch.setattr(of.Path, "read_text", lambda path: "nothing of the kind")
    assert of.began() == 5000.0


@pytest.mark.parametrize(
    ("script", "args", "line"),
    [
        ("gpu_tables", ["--rows=dit_b,nope"], "--rows has 'nope', expected some of dit_b, unet, dit_xl, samplers."),
        ("gpu_cifar10", ["--data=nowhere"], "error: nowhere/cifar10.npz is not there: make it by --pack --from="),
    ],
)
def test_the_scripts_import_no_more_than_the_core_and_refuse_in_a_line(script, args, line):
    status, printed, errors = bare(script, *args)
    assert (status, printed) == (1, [])
    assert errors.splitlines()[-1].startswith(line)
    assert "Traceback" not in errors


@pytest.mark.slow
def test_the_tables_in_smoke_mode():
    status, lines, errors = bare("gpu_tables", "--smoke", "--budget=900")
    assert status == 0, errors[-3000:]
    *rows, last = map(json.loads, lines)
    found = last["rows"]
    assert {row["row"] for row in rows} == {*found, *last["skipped"]}
    assert last["failed"] == {}
    assert last["aims"] == {"share": 0.9, "ours_over_torch": 1.3, "overhead": 1.01}
    for name in ("dit_b einsum", "dit_b fused", "unet"):
        row, rate = found[name], found["rates"]
        by = {"flops": row["gflop"] / rate["tflop_per_s"], "bytes": 1e3 * row["xla_gbyte"] / rate["gbyte_per_s"]}
        assert row["bound"] in by
        np.testing.assert_allclose(row["share"], row["roofline_ms"] / row["step_ms"], atol=2e-4)
        np.testing.assert_allclose(row["images_per_s"], row["batch"] / row["step_ms"] * 1e3, rtol=1e-2)
        assert row["flops_share"] <= row["share"] + 1e-4
    busy = [row["device_busy"] for name, row in found.items() if name.endswith("trace")]
    assert len(busy) == 3
    assert all(0 < share <= 1 for share in busy)
    evaluations = {name: found[f"dit_b {name}"]["evaluations"] for name in ("ddim", "dpmpp_2m", "heun", "euler")}
    assert evaluations == {"ddim": 3, "dpmpp_2m": 3, "heun": 5, "euler": 3}
    for name in evaluations:
        row = found[f"unet {name}"]
        np.testing.assert_allclose(row["overhead"], row["draw_ms"] / row["evaluations"] / row["forward_ms"], rtol=0.02)
    assert set(last["fastest"]) == {"dit_b", "unet", "dit_xl"}


@pytest.mark.slow
def test_cifar10_in_smoke_mode(tmp_path):
    status, lines, errors = bare("gpu_cifar10", "--smoke", "--budget=900", f"--out={tmp_path}")
    assert status == 0, errors[-3000:]
    last = json.loads(lines[-1])
    assert list(last["rows"]) == ["data", "prepare", "floor", "training", "distance"]
    assert (last["skipped"], last["failed"], last["space"]) == ({}, {}, "random_convolutions")
    row, floor = last["rows"]["distance"], last["rows"]["floor"]
    assert {name: row[name] for name in ("floor", "gaussian", "expected")}.items() <= floor.items()
    assert row["frechet"] > 5 * floor["floor"] > 0  # noise of a network that has learned nothing
    assert np.load(tmp_path / "samples.npz")["x"].shape == (40, 8, 8, 3)


@pytest.mark.slow
def test_the_space_of_the_file_is_that_of_the_library(parts):
    """In float64 sums of a hundredth of a feature, as two compilations of the network leave."""
    from diffjax.metrics import features

    of = parts("gpu_features")
    x = images(3, 32, 32)
    space = of.pretrained(of.installed(), 32)
    found = of.computer(space, 2)(x)
    expected = features.efficientnet_lite0(32).of(x / 127.5 - 1)
    assert found.shape == (3, space.d) == (3, 1280)
    np.testing.assert_allclose(found, expected, atol=1e-3)
