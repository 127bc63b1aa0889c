"""What was saved comes back bit for bit or not at all: round trips, kills, damage, retention, topologies, refusals."""

import gc
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffjax.checkpoint import Checkpoints, Info
from diffjax.checksum import checksums

CONFIG = {"model": {"width": 32, "dims": (1, 2)}, "rate": 0.1, "name": "digits", "none": None}


class State(NamedTuple):
    """Shaped as a training state is, with a leaf of every dtype in its parameters."""

    step: Any
    params: Any
    ema: Any
    opt_state: Any
    key: Any


def make(k, size=64):
    """The state of step k: a function of k alone, by NumPy."""
    rng = np.random.default_rng(k)
    draw = lambda dtype, *shape: rng.standard_normal(shape).astype(dtype)
    weights = lambda: {"kernel": draw(np.float32, 8, size), "bias": draw(jnp.bfloat16, 8)}
    params = {
        "dense": weights(),
        "half": draw(np.float16, 3),
        "mask": rng.standard_normal(5) > 0,
        "bytes": rng.integers(-128, 128, 6).astype(np.int8),
        "words": rng.integers(0, 2**32, 3).astype(np.uint32),
        "scalar": np.float32(k / 3),
    }
    adam = optax.ScaleByAdamState(np.int32(k), weights(), weights())
    key = jax.random.wrap_key_data(np.array([k, 7], np.uint32))
    state = jax.tree.map(jnp.asarray, State(np.int32(k), params, (weights(), weights()), (optax.EmptyState(), adam), 0))
    return state._replace(key=key)


ABSTRACT = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), make(0))


def bits(x):
    is_key = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(x) if is_key else x).tobytes()


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b)):
        name = jax.tree_util.keystr(path)
        assert (name, x.shape, x.dtype) == (name, y.shape, y.dtype)
        assert bits(x) == bits(y), name


def save(directory, steps, **options):
    with Checkpoints(directory, **{"keep": 9, **options}) as checkpoints:
        for k in steps:
            assert checkpoints.save(k, make(k), metrics={"loss": 1.0 / k}, config=CONFIG)


def restore(directory, target=ABSTRACT, step=None):
    """(result of restore, lines reported)"""
    lines = []
    with Checkpoints(directory, create=False, report=lines.append) as checkpoints:
        return checkpoints.restore(target, step), lines


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """Steps 10, 20, 30, to be copied, not touched."""
    directory = tmp_path_factory.mktemp("sound") / "checkpoints"
    save(directory, (10, 20, 30))
    return directory


@pytest.fixture
def copy(sound, tmp_path):
    return Path(shutil.copytree(sound, tmp_path / "checkpoints"))


# Round trips


def test_round_trip_of_every_dtype_and_node(sound):
    (step, state, info), lines = restore(sound)
    assert (step, lines) == (30, [])
    assert_same(state, make(30))
    assert info == Info(json.loads(json.dumps(CONFIG)), {"loss": 1 / 30}, ())
    assert jax.random.bits(state.key) == jax.random.bits(make(30).key)


def test_float64(tmp_path, x64):
    state = {"x": jnp.linspace(0, 1, 7), "n": jnp.arange(3)}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, metrics={}, config={})
        assert_same(checkpoints.restore(state).state, state)
    assert state["x"].dtype == jnp.float64


def test_a_given_step(sound):
    (step, state, _), _ = restore(sound, step=10)
    assert step == 10
    assert_same(state, make(10))
    with pytest.raises(ValueError, match=r"no step 15 in .*: it holds 10, 20, 30"):
        restore(sound, step=15)


def test_nothing_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no checkpoints at .*/nowhere: expected the directory that training"):
        restore(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
    assert restore(tmp_path) == (None, [])
    with Checkpoints(tmp_path / "new" / "run") as checkpoints:
        assert (checkpoints.steps(), checkpoints.latest, checkpoints.best) == ([], None, None)


def test_a_save_leaves_the_state_to_be_donated(tmp_path):
    step = jax.jit(lambda x: jax.tree.map(lambda v: v * 1.5 + 1, x), donate_argnums=0)
    x = jax.device_put({"w": np.arange(300_000, dtype=np.float32) % 7, "b": np.ones(5, np.float32)})
    with Checkpoints(tmp_path, keep=99) as checkpoints:
        for k in range(6):
            checkpoints.save(k, x, metrics={}, config={})
            x = step(step(x))
        for k in range(6):
            expected = {"w": np.arange(300_000, dtype=np.float32) % 7, "b": np.ones(5, np.float32)}
            for _ in range(2 * k):
                expected = {name: v * np.float32(1.5) + np.float32(1) for name, v in expected.items()}
            found = checkpoints.restore(x, k).state
            np.testing.assert_allclose(found["w"], expected["w"], rtol=1e-6)
            np.testing.assert_allclose(found["b"], expected["b"], rtol=1e-6)


# Damage


def largest(directory):
    return max((p for p in directory.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def data(step):
    return largest(step / "state" / "ocdbt.process_0" / "d")


def rewrite(path, change):
    path.write_bytes(change(path.read_bytes()))


def flip(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 0x10]) + content[middle + 1 :]


def edit_record(step, change):
    path = step / "info" / "metadata"
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


DAMAGE = {
    "missing data": (lambda p: data(p).unlink(), "cannot read its state"),
    "truncated data": (lambda p: rewrite(data(p), lambda b: b[: len(b) // 2]), "cannot read its state"),
    "no data at all": (lambda p: shutil.rmtree(p / "state"), "incomplete, it lacks state"),
    "empty manifest": (lambda p: (p / "state" / "manifest.ocdbt").write_bytes(b""), "cannot read its state"),
    "flipped manifest": (lambda p: rewrite(p / "state" / "manifest.ocdbt", flip), "cannot read its state"),
    "no leaf metadata": (lambda p: (p / "state" / "_METADATA").unlink(), "cannot read its state"),
    "no step metadata": (lambda p: (p / "_CHECKPOINT_METADATA").unlink(), "incomplete, it lacks _CHECKPOINT_METADATA"),
    "no record": (lambda p: shutil.rmtree(p / "info"), "incomplete, it lacks info"),
    "truncated record": (lambda p: rewrite(p / "info" / "metadata", lambda b: b[:99]), "cannot read its info"),
    "binary record": (lambda p: (p / "info" / "metadata").write_bytes(b"\xff" * 50), "cannot read its info"),
    "changed metric": (lambda p: edit_record(p, lambda r: r["metrics"].update(loss=0.0)), "its record is not what was"),
    "changed shape": (lambda p: edit_record(p, lambda r: r["leaves"][".step"].update(shape=[1])), "its record is not"),
    "an empty directory": (lambda p: [shutil.rmtree(p), p.mkdir()], "incomplete, it lacks"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_step_is_skipped_by_name_in_one_line(copy, kind, capfd, caplog):
    damage, reason = DAMAGE[kind]
    damage(copy / "30")
    (step, state, info), lines = restore(copy)
    assert step == 20
    assert_same(state, make(20))
    (line,) = lines
    assert line.startswith(f"skipped a checkpoint: step 30: {reason}")
    assert "\n" not in line
    assert len(line) < 350
    assert line.endswith(info.skipped)
    gc.collect()  # asyncio complains of an unheard error when its task is collected
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []
    with pytest.raises(ValueError, match=f"^step 30: {reason}"):
        restore(copy, step=30)


def test_flipped_bytes_never_restore(copy):
    """Every one of 60 places in the data file: the step is refused, or restored exactly where the byte is unused."""
    path = data(copy / "30")
    content, refused = path.read_bytes(), 0
    for place in np.linspace(0, len(content) - 1, 60, dtype=int):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0x41]) + content[place + 1 :])
        (step, state, _), _ = restore(copy)
        assert_same(state, make(step))
        refused += step == 20
    assert refused > 40  # which bytes are unused varies with the layout that Orbax chose


def test_wrong_numbers_are_named_by_leaf(copy, tmp_path):
    """A sound data file of another state: only the checksums can tell."""
    other = make(30)
    kernel = np.asarray(other.params["dense"]["kernel"]).copy()
    kernel[2, 1] = np.nextafter(kernel[2, 1], np.float32(9))
    other.params["dense"]["kernel"] = jnp.asarray(kernel)
    with Checkpoints(tmp_path / "other") as checkpoints:
        checkpoints.save(30, other, metrics={}, config={})
    shutil.rmtree(copy / "30" / "state")
    shutil.copytree(tmp_path / "other" / "30" / "state", copy / "30" / "state")
    (step, _, info), _ = restore(copy)
    assert step == 20
    assert info.skipped == ("step 30: .params['dense']['kernel'] (float32[8, 64]) is not what was saved: checksum",)


def test_several_damaged_steps_and_strays(copy):
    data(copy / "30").unlink()
    (copy / "20" / "_CHECKPOINT_METADATA").unlink()
    (copy / "99").mkdir()
    (copy / "notes").mkdir()
    (copy / "40").write_text("a file")
    (step, state, info), lines = restore(copy)
    assert step == 10
    assert_same(state, make(10))
    assert [line.split(":")[0] for line in info.skipped] == ["step 99", "step 30", "step 20"]
    assert len(lines) == 3


def test_when_every_step_is_damaged_there_is_no_fresh_start(copy):
    for k in (10, 20, 30):
        data(copy / str(k)).unlink()
    with pytest.raises(ValueError, match=r"no checkpoint in .* can be restored: step 30: .*; step 20: .*; step 10: "):
        restore(copy)


def test_strays_alone_are_no_checkpoint(tmp_path):
    (tmp_path / "9").mkdir()
    found, lines = restore(tmp_path)
    assert found is None
    assert lines == ["skipped a checkpoint: step 9: incomplete, it lacks state, info, _CHECKPOINT_METADATA"]


def test_a_run_goes_on_past_a_damaged_step(copy):
    rewrite(data(copy / "30"), lambda b: b[:10])
    (copy / "35").mkdir()
    (copy / "35" / "keep me").write_text("a stray")
    (copy / "36").write_text("a stray file")
    lines = []
    with Checkpoints(copy, keep=2, best=0, report=lines.append) as checkpoints:
        assert checkpoints.restore(ABSTRACT).step == 20
        assert checkpoints.latest == 20
        for k in (25, 30, 35, 36):
            assert checkpoints.save(k, make(k), metrics={}, config=CONFIG)
    assert lines[-3:] == [f"{copy}/{k} is no sound checkpoint: set aside as {k}.aside1" for k in (30, 35, 36)]
    (step, state, _), _ = restore(copy)
    assert step == 36
    assert_same(state, make(36))
    assert sorted(p.name for p in copy.iterdir()) == ["30.aside1", "35", "35.aside1", "36", "36.aside1"]
    assert 10 in [p.stat().st_size for p in (copy / "30.aside1").rglob("*")]  # as it was found
    assert (copy / "35.aside1" / "keep me").read_text() == "a stray"
    assert (copy / "36.aside1").read_text() == "a stray file"


# Fit of the target


def with_kernel(kernel):
    return ABSTRACT._replace(params={**ABSTRACT.params, "dense": {**ABSTRACT.params["dense"], "kernel": kernel}})


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (
            with_kernel(jax.ShapeDtypeStruct((8, 64), jnp.bfloat16)),
            r"\['kernel'\] is float32\[8, 64\], expected bfloat16\[8, 64\]$",
        ),
        (
            with_kernel(jax.ShapeDtypeStruct((8, 5), jnp.float32)),
            r"\['kernel'\] is float32\[8, 64\], expected float32\[8, 5\]$",
        ),
        (ABSTRACT._replace(ema=ABSTRACT.ema[:1]), r"\.ema\[1\]\['bias'\] is bfloat16\[8\], expected absent; .*kernel"),
        (ABSTRACT._replace(ema=(*ABSTRACT.ema, ABSTRACT.step)), r"\.ema\[2\] is absent, expected int32\[\]$"),
        (ABSTRACT._replace(key=jax.eval_shape(lambda: jax.random.key(0, impl="rbg"))), r"\.key is key<fry>\[\], exp"),
        (ABSTRACT._replace(opt_state=()), r"; and \d+ more$"),
        (ABSTRACT._asdict(), r"; and \d+ more$"),
        (ABSTRACT._replace(step=3), r"target \.step is int: expected an array or a jax\.ShapeDtypeStruct"),
    ],
)
def test_a_target_that_does_not_fit_is_refused_and_not_walked_past(sound, target, message):
    with pytest.raises(ValueError, match=message) as error:
        restore(sound, target)
    assert "\n" not in str(error.value)


# Saving


def test_what_is_saved_already(copy):
    with Checkpoints(copy) as checkpoints:
        assert not checkpoints.save(30, make(30), metrics={"loss": 9.0}, config={})
        with pytest.raises(ValueError, match=r"cannot save step 30: .* already holds 10, 20, 30"):
            checkpoints.save(30, make(31), metrics={}, config={})
        with pytest.raises(ValueError, match=r"cannot save step 25: .* already holds 10, 20, 30"):
            checkpoints.save(25, make(25), metrics={}, config={})
    (_, state, info), _ = restore(copy)
    assert_same(state, make(30))
    assert info.metrics == {"loss": 1 / 30}


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_non_finite_states_are_refused(tmp_path, value, dtype):
    state = {"a": jnp.ones(3), "b": [jnp.array([1, value, 2, value], dtype)]}
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(ValueError, match=r"refused to save step 7: \['b'\]\[0\] \(\w+\[4\]\) has 2 non-finite"):
            checkpoints.save(7, state, metrics={}, config={})
        assert checkpoints.steps() == []


@pytest.mark.parametrize(
    ("state", "config", "message"),
    [
        ({"n": 3}, {}, r"cannot save step 1: \['n'\] is int, expected an array"),
        ({"x": jnp.ones(2)}, {"f": {1, 2}}, r"cannot save step 1: the config is not JSON \(.*set"),
    ],
)
def test_what_cannot_be_saved(tmp_path, state, config, message):
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(ValueError, match=message):
        checkpoints.save(1, state, metrics={}, config=config)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("options", [{"keep": 0}, {"best": -1}, {"keep_every": 0}])
def test_bad_options(tmp_path, options):
    ((name, value),) = options.items()
    with pytest.raises(ValueError, match=f"{name}={value}: expected an integer of at least {value + 1}"):
        Checkpoints(tmp_path / "new", **options)
    assert not (tmp_path / "new").exists()


def test_a_failed_asynchronous_save_is_heard_of(tmp_path):
    """Files may not grow past 100 kB: the disk is full, as far as the writing thread can tell."""
    noise = jnp.asarray(np.random.default_rng(0).standard_normal(200_000), jnp.float32)
    small, large = {"x": jnp.ones(200_000)}, {"x": noise}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, small, metrics={}, config={})
        checkpoints.wait()
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        try:
            with pytest.raises(OSError, match=r"step 2 was not saved in .*: "):  # noqa: PT012
                checkpoints.save(2, large, metrics={}, config={})
                checkpoints.wait()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert checkpoints.latest == 1
        assert checkpoints.save(2, large, metrics={}, config={})  # there is room again
    (step, state, _), lines = restore(tmp_path, large)
    assert (step, lines) == (2, [])
    assert_same(state, large)


def test_the_error_on_its_way_is_not_hidden_by_a_failed_save(tmp_path):
    lines = []
    with pytest.raises(ZeroDivisionError), Checkpoints(tmp_path / "run", report=lines.append) as checkpoints:  # noqa: PT012
        checkpoints.save(1, {"x": jnp.ones(3)}, metrics={}, config={})
        checkpoints.wait()
        checkpoints.save(2, {"x": jnp.ones(3)}, metrics={}, config={})
        checkpoints._manager.wait_until_finished()
        shutil.rmtree(tmp_path / "run" / "2")
        _ = 1 / 0
    (line,) = lines
    assert line.startswith("step 2 was not saved in")


# Retention


def kept(directory):
    return sorted(int(p.name) for p in directory.iterdir() if p.name.isdigit())


LOSSES = {10: 5.0, 20: 1.0, 30: 4.0, 40: float("nan"), 50: float("inf"), 60: 2.0, 70: 3.0}


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize(
    ("options", "expected", "best"),
    [
        ({}, [20, 60, 70], 20),
        ({"keep": 1, "best": 0}, [70], 70),
        ({"keep": 1, "best": 2}, [20, 60, 70], 20),
        ({"keep": 1, "best": 0, "keep_every": 30}, [30, 60, 70], 60),
        ({"keep": 3, "best": 1, "best_metric": None}, [50, 60, 70], None),
        ({"keep": 1, "best": 1, "best_metric": "other"}, [10, 70], 10),
    ],
)
def test_newest_and_best_are_kept(tmp_path, options, expected, best, restart):
    state = {"x": jnp.zeros(2)}
    (tmp_path / "5").mkdir()  # none of these is the run's own
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "old.orbax-checkpoint-tmp").mkdir()
    runs = [[k] for k in LOSSES] if restart else [list(LOSSES)]
    for steps in runs:
        with Checkpoints(tmp_path, **options) as checkpoints:
            for k in steps:
                checkpoints.save(k, state, metrics={"loss": LOSSES[k], "other": k}, config={})
            found = (checkpoints.latest, checkpoints.best)
    assert kept(tmp_path) == [5, *expected]
    assert found == (70, best)
    strays = sorted(p.name for p in tmp_path.iterdir() if not p.name.isdigit())
    assert strays == ["notes.txt", "old.orbax-checkpoint-tmp"]


def test_only_our_own_leftovers_are_cleared_and_only_by_a_save(copy):
    for name, content in (("40", "state.orbax-checkpoint-tmp"), ("50", "thesis.tex")):
        (copy / f"{name}.orbax-checkpoint-tmp" / content).mkdir(parents=True)
    leftovers = lambda: sorted(p.name for p in copy.iterdir() if "tmp" in p.name)
    restore(copy)
    assert leftovers() == ["40.orbax-checkpoint-tmp", "50.orbax-checkpoint-tmp"]
    save(copy, (35,))
    assert leftovers() == ["50.orbax-checkpoint-tmp"]


def test_metrics_that_are_not_finite_are_left_out(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(
            1, {"x": jnp.ones(2)}, metrics={"a": jnp.float32(0.5), "b": jnp.nan, "c": -jnp.inf, "d": 3}, config={}
        )
        assert checkpoints.restore({"x": jnp.ones(2)}).info.metrics == {"a": 0.5, "d": 3.0}


# Kills and topologies: children of this very file


def child(*args, devices=1, **kwargs):
    env = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
    env["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[1]), env.get("PYTHONPATH", "")])
    return subprocess.Popen([sys.executable, __file__, *map(str, args)], env=env, text=True, **kwargs)


def save_forever(directory):
    """Resumes, then saves step after step as fast as it can, saying which are complete."""
    target = make(0, size=20_000)
    with Checkpoints(directory, keep=2, best=0) as checkpoints:
        found = checkpoints.restore(target)
        step = found.step if found else 0
        while True:
            step += 1
            checkpoints.save(step, make(step, size=20_000), metrics={}, config={})
            print("started", step, flush=True)
            checkpoints.wait()
            print("complete", step, flush=True)


def kill_repeatedly(directory, kills):
    rng, target, complete = random.Random(0), make(0, size=20_000), 0
    for _ in range(kills):
        process = child("save_forever", directory, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        said = process.stdout.readline()  # the first save is under way
        assert said.startswith("started"), process.stderr.read()
        time.sleep(rng.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        out, err = process.communicate()
        assert err == ""
        complete = max([complete, *(int(line.split()[1]) for line in out.splitlines() if "complete" in line)])
        found, lines = restore(directory, target)
        if found is None:
            assert complete == 0
            continue
        assert lines == []
        assert found.step - complete in (0, 1)  # the kill may fall between the commit and its announcement
        assert_same(found.state, make(found.step, size=20_000))
        complete = found.step
    return complete


def test_a_killed_save_leaves_the_last_complete_step(tmp_path):
    assert kill_repeatedly(tmp_path, 5) > 0
    assert sum("orbax-checkpoint-tmp" in p.name for p in tmp_path.iterdir()) <= 1  # the last kill's, no older one's


@pytest.mark.slow
def test_thirty_kills(tmp_path):
    assert kill_repeatedly(tmp_path, 30) > 10


def shard(tree, count):
    """The leaves whose first axis divides are split over `count` devices, the others replicated."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:count]), ("data",))
    spec = lambda x: ("data",) if x.ndim and x.shape[0] % count == 0 else ()
    place = lambda x: jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec(x)))
    return jax.tree.map(lambda x: jax.device_put(x, place(x)), tree)


def on_eight_devices(mine, theirs):
    """Saves sharded; restores onto 8 and onto 4 devices what one device saved; sums under each sharding."""
    assert jax.device_count() == 8
    state = shard(make(30), 8)
    with Checkpoints(mine) as checkpoints:
        checkpoints.save(30, state, metrics={}, config={})
    for count in (8, 4):
        target = shard(make(1), count)
        with Checkpoints(theirs, create=False) as checkpoints:
            found = checkpoints.restore(target).state
        assert_same(found, make(30))
        for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(target)):
            assert x.sharding == y.sharding
    assert len(found.params["dense"]["kernel"].addressable_shards) == 4
    uneven = jax.sharding.NamedSharding(jax.sharding.Mesh(jax.devices(), "data"), jax.sharding.PartitionSpec("data"))
    half = jax.ShapeDtypeStruct((3,), jnp.float16, sharding=uneven)
    with (
        Checkpoints(theirs, create=False) as checkpoints,
        pytest.raises(ValueError, match="partitioned 8 times, but the dim"),
    ):
        checkpoints.restore(target._replace(params={**target.params, "half": half}))  # an error, and no damage
    print(json.dumps([checksums(shard(make(30), count)) for count in (1, 4, 8)]))


def test_another_number_of_devices(sound, tmp_path):
    process = child("on_eight_devices", tmp_path, sound, devices=8, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert err == ""
    (step, state, _), lines = restore(tmp_path)
    assert (step, lines) == (30, [])
    assert_same(state, make(30))
    here = [list(pair) for pair in checksums(make(30))]
    assert json.loads(out) == [here, here, here]


if __name__ == "__main__":
    {"save_forever": save_forever, "on_eight_devices": on_eight_devices}[sys.argv[1]](*sys.argv[2:])
