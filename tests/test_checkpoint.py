"""What was saved comes back bit for bit or not at all: round trips, targets, saving, retention, refusals."""

import concurrent.futures
import json
import resource
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checkpoints import ABSTRACT, CONFIG, assert_same, make, restore, save

from diffjax.checkpoint import Checkpoints, Info


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
        concurrent.futures.wait([checkpoints._writer._job])
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


def test_runs_of_one_process_save_at_once(tmp_path):
    """As trainings side by side do: each save is that of its own run."""
    states = [{"x": jnp.full(50, i), "y": jnp.arange(3) + i} for i in range(4)]
    savers = [Checkpoints(tmp_path / str(i)) for i in range(4)]
    for step in (1, 2, 3):
        for saver, state in zip(savers, states):
            saver.save(step, state, metrics={}, config={})
    for saver, state in zip(savers, states):
        assert saver.latest == 3
        assert_same(saver.restore(state).state, state)
        saver.close()


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
