"""Strict mode: losses, gradients, parameters and samples are the same bytes on 1, 2, 4 and 8 devices.

Each child process is pinned to one core and has 8 devices, of which it makes meshes of several sizes.
"""

import os
import socket
import sys
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_parallel as small
from run_command import UNET, core, environment

from diffjax import cluster, data, draws, parallel, runs, schedules, strict, training
from diffjax.config import ConfigError
from diffjax.losses import learned
from diffjax.method import Example, Turn, per_example
from diffjax.types import Prepare

SHARDS = 8


def leaves(state, window):
    """Names and arrays of the state and of every step's metrics."""
    state = state._replace(key=jax.random.key_data(state.key))
    found = jax.tree_util.tree_leaves_with_path({"state": state, "metrics": training.stack(window)})
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in found}


def walk(mesh, method, optimizer, emas, state, batches, k=1, shards=SHARDS, **words):
    """State and metrics after a few steps, k in a dispatch, of shards or of none (0)."""
    shards = strict.virtual(mesh, shards or None, len(jax.tree.leaves(batches)[0][0]))
    step = training.make_step(method, optimizer, emas, across=shards, **words)
    compiled = parallel.compile_step(training.make_steps(step), mesh=mesh, leading=1)
    state, window, mine = parallel.replicate(mesh, state), [], jax.process_index()
    for i in range(0, len(jax.tree.leaves(batches)[0]), k):
        width = len(jax.tree.leaves(batches)[0][0]) // jax.process_count()
        own = slice(mine * width, (mine + 1) * width)
        placed = parallel.shard_batch(mesh, jax.tree.map(lambda a: a[i : i + k, own], batches), 1)  # noqa: B023
        state, metrics = compiled(state, placed)
        window.append(jax.device_get(metrics))
    return jax.device_get(state), window


def coupled():
    """Two turns: losses of single examples, and such as compare all of the batch."""

    def against(params, key, batch, index, size, gather=lambda tree: tree):
        everyone = gather(batch["x"] @ params["w"])
        return ((batch["x"] @ params["w"] - everyone.mean(0, keepdims=True)) ** 2).mean(-1), {}

    nothing = small.training.loss_method(small.loss_fn)
    return nothing._replace(turns=(Turn(per_example(small.loss_fn)), Turn(against, coupled=True)))


def attending(params, keys, example, index, global_size):
    """The denoiser's loss, and one of five tokens that attend to each other: quotients whose divisors recur."""
    loss, logged = small.loss_fn(params, keys, example, index, global_size)
    tokens = example["x"][:, None] * params["w"]
    mixed = jax.nn.softmax(tokens @ tokens.T) @ tokens
    return loss + jnp.mean((mixed - params["b"][None]) ** 2), logged


def quotients():
    """Attention, and a hook that learns a clock: both divide by what other places divide by as well."""
    hook = learned.learned(schedules.VDM(-7.0, 7.0), features=8)

    def apply(memory, key, batch):
        chosen = hook.apply(memory, key, Example(batch["x"])).chosen
        return {"x": batch["x"] + (chosen["t"] * chosen["weight"])[:, None]}

    return training.loss_method(attending, Prepare(hook.init, apply, hook.update))


METHODS = {
    "alone": lambda: training.loss_method(small.loss_fn),
    "quotients": quotients,
    "prepared": lambda: training.loss_method(small.loss_fn, small.shuffled()),
    "coupled": coupled,
}


def mlp(mesh, name="alone", **words):
    """The denoiser of `test_parallel`, with a hook that shuffles the batch, or with a turn of coupled losses."""
    params, batches, optimizer, schedule, emas = small.problem()
    method = METHODS[name]()
    state = training.init_state(params, optimizer, emas, jax.random.key(3), method)
    return walk(mesh, method, optimizer, emas, state, batches, learning_rate=schedule, **words)


DIT = ("model.name=DiT", "model.width=32", "model.depth=1", "model.heads=2")


def network(mesh, k=1, of=UNET, steps=2, **words):
    """A network of the package on digits: the tiny recipe, of batches of 16."""
    built = runs.build_run(runs.load("configs/vpsde.py:tiny", [*of, "train.batch_size=16"]))
    batches = [data.batch_at(built.data.train, 16, 0, i) for i in range(steps)]
    stack = jax.tree.map(lambda *rows: np.stack(rows), *batches)
    state = runs.run.init_state(built)
    return walk(mesh, built.method, built.optimizer, built.ema, state, stack, k, **words)


# What the child processes run: `python this_file NAME OUT ...`


def trajectories(out):
    """MLP: strict on four meshes, the ordinary step on two; samples by the trained parameters."""
    found = {}
    for devices in (1, 2, 4, 8):
        mesh = parallel.mesh(data=devices)
        runs_ = {"k1": {}}
        if devices in (1, 8):  # the hook sees the whole batch, which XLA then keeps whole: no ordinary step for it
            runs_ |= {"k2": {"name": "prepared", "k": 2}, "plain": {"shards": 0}}
        if devices in (1, 4):
            runs_ |= {"coupled": {"name": "coupled"}}
        if devices in (1, 2):
            runs_ |= {"quotients": {"name": "quotients"}}
        for name, words in runs_.items():
            state, window = mlp(mesh, **words)
            found |= {f"{name}/{devices}/{key}": leaf for key, leaf in leaves(state, window).items()}
            if name == "k1":
                draw = lambda w, key: jnp.tanh(jax.random.normal(key, (5,)) @ w["w"] + w["b"]) @ w["out"]
                keys = jax.random.split(jax.random.key(0), 9)
                drawn = parallel.map_chunks(jax.vmap(draw, in_axes=(None, 0)), 2, mesh, strict=True)(state.params, keys)
                found[f"samples/{devices}/x"] = drawn
    np.savez(out, **found, **sums())


def networks(out):
    """A U-Net on two meshes, one and two steps in a dispatch."""
    found = {}
    for devices in (1, 4):
        for k in (1, 2):
            state, window = network(parallel.mesh(data=devices), k)
            found |= {f"k{k}/{devices}/{key}": leaf for key, leaf in leaves(state, window).items()}
    np.savez(out, **found)


def transformers(out):
    """A DiT on four meshes, for so many steps that all of its parameters have gradients."""
    found = {devices: leaves(*network(parallel.mesh(data=devices), of=DIT, steps=4)) for devices in (1, 2, 4, 8)}
    np.savez(out, **{f"{devices}/{key}": leaf for devices, of_one in found.items() for key, leaf in of_one.items()})


def drawings(out):
    """Samples of a run of EDM's, at its first parameters moved at random, on three meshes."""
    built = runs.build_run(runs.load("configs/edm.py:tiny"))
    rng, state = np.random.default_rng(0), jax.device_get(runs.run.init_state(built)._replace(key=0))
    move = lambda a: (a + 0.05 * rng.normal(size=np.shape(a))).astype(a.dtype)
    run = runs.Run(built.method, built.data, built.ema, built.settings, state)
    params, seeds = jax.tree.map(move, run.params), np.arange(8)
    draw = lambda n: draws.drawer(built.method, built.data.shape, 4, parallel.mesh(data=n))
    np.savez(out, **{f"{n}/x": draw(n)(params, seeds, run.given(seeds)) for n in (1, 2, 4)})


def processes(out, port, process):
    """Two processes of four devices; the first one writes."""
    cluster.join(f"localhost:{port}", 2, int(process))
    found = leaves(*mlp(parallel.mesh()))
    if process == "0":
        np.savez(out, **found)
    cluster.part()


def sums():
    """Sums of 8 vectors by the tree, of which each device has its share, on four meshes."""
    rows, found = np.random.default_rng(0).normal(size=(SHARDS, 37)).astype(np.float32), {}
    for devices in (1, 2, 4, 8):
        mesh = parallel.mesh(data=devices)
        shards = strict.Shards(SHARDS, mesh)

        def total(rows, shards=shards):
            sums, _ = strict._summed(lambda row: ((row,), row[:1]), rows, rows.shape[0])
            return shards._over_devices(sums[0])

        P = jax.sharding.PartitionSpec
        over = jax.shard_map(total, mesh=mesh, in_specs=P(parallel.AXIS), out_specs=P(), check_vma=False)
        found[f"sum/{devices}"] = jax.jit(over)(rows)
    return {"sum/rows": rows, **found}


# The tests


def spawn(name, *args, devices=8):
    command = [sys.executable, __file__, name, *map(str, args)]
    pipes = {"stdout": small.subprocess.PIPE, "stderr": small.subprocess.STDOUT, "text": True}
    return small.subprocess.Popen(command, env=environment(devices, pinned=True), **pipes)


def ran(path, name):
    out = path / f"{name}.npz"
    return small.finish(spawn(name, out), out=out)


def of(arrays, prefix):
    return {name.removeprefix(prefix): leaf for name, leaf in arrays.items() if name.startswith(prefix)}


def differing(one, other):
    assert one.keys() == other.keys()
    assert one
    return [name for name in one if one[name].tobytes() != other[name].tobytes()]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return ran(tmp_path_factory.mktemp("strict"), "trajectories")


PAIRS = [("k1", 1, 2), ("k1", 1, 4), ("k1", 1, 8), ("k2", 1, 8), ("coupled", 1, 4), ("quotients", 1, 2)]


@pytest.mark.parametrize(("name", "one", "other"), [*PAIRS, *(("samples", 1, n) for n in (2, 4, 8))])
def test_every_number_is_the_same_bytes(trained, name, one, other):
    """State (parameters, averages, optimizer) and metrics of every step; samples of the trained parameters."""
    first = of(trained, f"{name}/{one}/")
    assert len(first) > 20 or name == "samples"
    assert differing(first, of(trained, f"{name}/{other}/")) == []


def test_ordinary_steps_agree_to_rounding_and_not_to_the_bit(trained):
    one, other = of(trained, "plain/1/"), of(trained, "plain/8/")
    assert differing(one, other)
    for name, leaf in one.items():
        np.testing.assert_allclose(other[name], leaf, rtol=1e-5, atol=1e-5, err_msg=name)


def test_strict_steps_are_ordinary_steps_to_rounding(trained):
    one, other = of(trained, "plain/1/"), of(trained, "k1/8/")
    for name, leaf in one.items():
        np.testing.assert_allclose(other[name], leaf, rtol=1e-5, atol=1e-5, err_msg=name)
    moved = trained["k1/8/['state'].params['w']"] - small.problem()[0]["w"]
    assert np.abs(moved).max() > 1e-3


def test_the_sum_is_the_tree_of_pairs(trained):
    """Bit for bit NumPy's sum in pairs of float32, and to rounding that of float64; in a row it has other bits."""
    found = of(trained, "sum/")
    rows = found.pop("rows")
    pairs = rows
    while len(pairs) > 1:
        pairs = pairs[::2] + pairs[1::2]
    row = np.zeros(37, np.float32)
    for one in rows:
        row = row + one
    assert (row != pairs[0]).any()
    assert sorted(found) == ["1", "2", "4", "8"]
    for devices, got in found.items():
        assert got.tobytes() == pairs[0].tobytes(), devices
        np.testing.assert_allclose(got, rows.astype(np.float64).sum(0), rtol=1e-5, atol=1e-6)


def test_numbers_of_a_strict_step_become_arguments():
    """Two learning rates, one program, as of ordinary steps."""
    texts = []
    for rate in (0.01, 0.03):
        params, batches, _, _, emas = small.problem()
        optimizer = small.build_optimizer({"name": "adam", "learning_rate": rate}, 100)[0]
        shards = strict.virtual(parallel.mesh(data=1), SHARDS, small.BATCH)
        step = training.make_steps(training.make_step(METHODS["prepared"](), optimizer, emas, across=shards))
        state = training.init_state(params, optimizer, emas, jax.random.key(3), METHODS["prepared"]())
        lifted, numbers = step.lift(state, batches)
        assert (
            np.isclose([float(x) for x in numbers if np.ndim(x) == 0], -rate).any()
            or np.isclose([float(x) for x in numbers if np.ndim(x) == 0], rate).any()
        )
        texts.append(jax.jit(lifted).lower(numbers, state, batches).as_text())
    assert texts[0] == texts[1]


def test_held_gives_back_what_it_was_given():
    tree = {"x": jnp.array([0.0, -0.0, jnp.nan, 1.5]), "n": jnp.arange(3), "b": jnp.array([True, False])}
    tree |= {"key": jax.random.key(7), "none": jnp.zeros((0, 2)), "u": jnp.arange(2, dtype=jnp.uint8)}
    got = jax.jit(strict.held)(tree)
    assert (jax.random.key_data(got.pop("key")) == jax.random.key_data(tree.pop("key"))).all()
    for name, leaf in tree.items():
        assert got[name].dtype == leaf.dtype
        assert np.asarray(got[name]).tobytes() == np.asarray(leaf).tobytes(), name
    assert strict.held({}) == {}


def test_packed_numbers_come_back():
    tree = {"a": jnp.ones((2, 3)), "b": jnp.arange(4.0).astype(jnp.bfloat16), "c": jnp.float32(5)}
    vectors = strict.pack(tree)
    assert [vector.shape for vector in vectors] == [(11,)]
    back = strict.unpack(vectors, tree)
    jax.tree.map(lambda got, want: np.testing.assert_array_equal(got, want.astype(jnp.float32)), back, tree)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ({"count": -8}, "train.shards is -8, expected an integer >= 1"),
        ({"count": 6}, "train.shards is 6, expected a power of two"),
        ({"count": 8, "batch_size": 12}, "batch_size is 12, expected a multiple of 8, the shards"),
        ({"count": 8, "accumulate": 4}, "train.shards is 8, but train.accumulate is 4: leave it at 1"),
        ({"count": 8, "backend": "pmap"}, "train.backend is 'pmap': strict steps are for 'jit'"),
    ],
)
def test_bad_input(words, text):
    with pytest.raises(ConfigError, match=text):
        strict.virtual(parallel.mesh(data=1), **{"batch_size": 16, **words}, error=ConfigError)


def test_refuses_devices_that_do_not_divide_the_shards_and_other_axes():
    abstract = lambda *sizes: jax.sharding.AbstractMesh(sizes, (parallel.AXIS, "fsdp")[: len(sizes)])
    for sizes, text in (
        ((3,), "multiple of the number of devices, 3"),
        ((2, 2), "needs train.fsdp and train.tensor to be 1"),
    ):
        with pytest.raises(ValueError, match=text):
            strict.virtual(abstract(*sizes), 8, 48)
    assert strict.virtual(abstract(3), None, 48) is None
    method, (_, _, optimizer, _, emas) = METHODS["prepared"](), small.problem()
    shards = strict.virtual(parallel.mesh(data=1), 8, 16)
    with pytest.raises(ValueError, match="expected None and 1"):
        training.make_step(method, optimizer, emas, axis_name=parallel.AXIS, across=shards)


@pytest.mark.slow
def test_a_network_is_the_same_bytes(tmp_path):
    found = ran(tmp_path, "networks")
    for k in (1, 2):
        assert differing(of(found, f"k{k}/1/"), of(found, f"k{k}/4/")) == []


@pytest.mark.slow
def test_a_transformer_is_the_same_bytes(tmp_path):
    found = ran(tmp_path, "transformers")
    for devices in (2, 4, 8):
        assert differing(of(found, "1/"), of(found, f"{devices}/")) == [], devices


@pytest.mark.slow
def test_samples_are_the_same_bytes(tmp_path):
    found = ran(tmp_path, "drawings")
    assert np.isfinite(found["1/x"]).all()
    for devices in (2, 4):
        assert differing(of(found, "1/"), of(found, f"{devices}/")) == [], devices


@pytest.mark.slow
def test_two_processes_are_one(tmp_path, trained):
    with socket.socket() as s:
        s.bind(("localhost", 0))
        port = s.getsockname()[1]
    out = tmp_path / "out.npz"
    got = small.finish(*(spawn("processes", out, port, process, devices=4) for process in range(2)), out=out)
    assert differing(of(trained, "k1/8/"), got) == []


@pytest.mark.slow
def test_runs_on_one_and_on_four_devices_keep_the_same_bytes(tmp_path):
    out = tmp_path / "out.npz"
    found = small.finish(spawn("kept", out, tmp_path), out=out)
    assert differing(of(found, "1/"), of(found, "4/")) == []


def kept(out, folder):
    """The parameters, averages and optimizer state of checkpoints of runs on one and on four devices."""
    found = {}
    for devices in (1, 4):
        size = ["train.batch_size=16", "train.steps=4", "train.sample_every=4", "checkpoint.every=4"]
        changes = [
            *size,
            "train.log_every=2",
            "learning_rate.warmup_steps=0",
            "train.shards=8",
            f"train.devices={devices}",
            "train.steps_per_dispatch=1",
        ]
        workdir = Path(folder) / str(devices)
        built = runs.build_run(runs.load("configs/vpsde.py:tiny", [*UNET, *changes]))
        objects = {"optimizer": built.optimizer, "ema": built.ema, "learning_rate": built.learning_rate}
        workdir = Path(folder) / str(devices)
        with runs.Trainer(built.method, built.data, **objects, settings=built.settings, workdir=workdir) as trainer:
            trainer.train()
        state = runs.run.saved_state(built, workdir).state
        state = state._replace(key=jax.random.key_data(state.key))
        found |= {f"{devices}/{i}": leaf for i, leaf in enumerate(jax.tree.leaves(state))}
    np.savez(out, **found)


if __name__ == "__main__":
    warnings.simplefilter("error")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core()})
    jax.config.update("jax_numpy_rank_promotion", "raise")
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    globals()[sys.argv[1]](*sys.argv[2:])
