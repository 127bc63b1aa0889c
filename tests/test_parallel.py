"""The same numbers on 1 and 8 devices, under both backends; each set of devices is a process of its own."""

import os
import platform
import resource
import socket
import subprocess
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from run_command import core, environment

from diffjax import cluster, ema, parallel, training
from diffjax.across import Across
from diffjax.optimizers import build_optimizer
from diffjax.types import Prepare

BATCH, STEPS = 16, 4
# k: several steps in one dispatch; parts: each batch in two parts; mapped: each device adds up its own parts first
RUNS = {1: ("jit", "pmap-k"), 8: ("jit", "jit-k", "pmap", "jit-parts", "jit-mapped", "pmap-parts")}


# What the child processes run: `python this_file NAME OUT ...`


def loss_fn(params, keys, example, index, global_size):
    """A small denoiser: noise of the example's own, stratified times, weights and biases, a nonlinearity."""
    t01 = (jnp.asarray(index, float) / global_size + jax.random.uniform(keys.step)) % 1.0
    noise = jax.random.normal(keys.example, example["x"].shape)
    hidden = jnp.tanh((example["x"] + t01 * noise) @ params["w"] + params["b"])
    return jnp.mean((hidden @ params["out"] - noise) ** 2), {"t01": t01, "norm": jnp.abs(hidden).mean()}


def shuffled():
    """A batch-level hook: it rolls the whole batch by a random amount and remembers losses in their order."""

    def apply(memory, key, batch):
        return {"x": jnp.roll(batch["x"], jax.random.randint(key, (), 0, BATCH), 0) + 0.1 * memory["last"].mean()}

    def update(memory, losses, logged):
        return {"last": losses * logged["norm"], "count": memory["count"] + 1}

    return Prepare(lambda: {"last": jnp.zeros(BATCH), "count": jnp.zeros((), jnp.int32)}, apply, update)


def problem():
    rng = np.random.default_rng(0)
    normal = lambda *shape: rng.normal(size=shape).astype(np.float32)
    params = {"w": 0.5 * normal(5, 32), "b": normal(32), "out": 0.2 * normal(32, 5)}
    batches = {"x": normal(STEPS, BATCH, 5)}
    spec = {"name": "adam", "learning_rate": 0.01, "clip_norm": 1.0, "schedule": "cosine"}
    return params, batches, *build_optimizer(spec, 100), ema.warm_up([0.9, 0.999])


def train(mode, mesh):
    """The final state's leaves, and each step's metrics, after STEPS steps on one logical state."""
    backend, _, how = mode.partition("-")
    params, batches, optimizer, schedule, emas = problem()
    axis_name = parallel.AXIS if backend == "pmap" else None
    words = {"learning_rate": schedule, "axis_name": axis_name, "accumulate": 2 if how in ("parts", "mapped") else 1}
    words["across"] = Across(parallel.AXIS, mesh=mesh) if how == "mapped" else None
    step = training.make_step(training.loss_method(loss_fn, shuffled()), optimizer, emas, **words)
    state = parallel.replicate(
        mesh, training.init_state(params, optimizer, emas, jax.random.key(3), training.loss_method(loss_fn, shuffled()))
    )
    if how == "k":
        run, leading, feeds = training.make_steps(step), 1, [{"x": x} for x in np.split(batches["x"], 2)]
    else:
        run, leading, feeds = step, 0, [{"x": x} for x in batches["x"]]
    compiled = parallel.compile_step(run, backend, mesh, leading=leading)
    window = []
    for i, feed in enumerate(feeds):
        old = state
        if i == 0:
            state, metrics = compiled(state, feed)
        else:
            placed = parallel.shard_batch(mesh, feed, leading)
            with jax.transfer_guard("disallow"):  # a step moves nothing between host and device
                state, metrics = compiled(state, placed)
        assert {leaf.is_deleted() for leaf in jax.tree.leaves(old.params)} == {bool(parallel.donating(0))}, "donation"
        window.append(jax.device_get(metrics))
    state = state._replace(key=jax.random.key_data(state.key))
    return [np.asarray(leaf) for leaf in jax.tree.leaves((state, training.stack(window)))]


def moves(mesh, parts):
    """Counts the collectives of a step that take examples to another device."""
    params, batches, optimizer, _, emas = problem()
    state = parallel.replicate(mesh, training.init_state(params, optimizer, emas, jax.random.key(3)))
    step = training.make_step(training.loss_method(loss_fn), optimizer, emas, accumulate=parts)
    text = jax.jit(step).lower(state, parallel.shard_batch(mesh, {"x": batches["x"][0]})).compile().as_text()
    return sum(text.count(name) for name in ("all-to-all", "collective-permute", "all-gather"))


def refusals(mesh):
    """What is said of a batch of twelve."""
    calls = [
        lambda x: parallel.shard_batch(mesh, x),
        lambda x: parallel.compile_step(lambda s, b: (s, b), "jit", mesh)(jnp.zeros(()), x),
        lambda x: parallel.compile_step(lambda s, b: (s, b), "pmap", mesh)(jnp.zeros(()), x),
    ]
    said = []
    for call in calls:
        with pytest.raises(ValueError, match="shape") as error:
            call(np.zeros((12, 2), np.float32))
        said.append(str(error.value))
    return said


def trajectories(out, data):
    mesh = parallel.mesh(data=int(data))
    leaves = {f"{mode}/{i:02}": leaf for mode in RUNS[int(data)] for i, leaf in enumerate(train(mode, mesh))}
    np.savez(out, moves=[moves(mesh, parts) for parts in (1, 2)], refused=refusals(mesh), **leaves)


def conv_chain(kernel, key):
    """One sample of a noisy chain of convolutions: what a sampler does, small."""

    def step(x, k):
        x = jax.lax.conv_general_dilated(x[None], kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))[0]
        return jnp.tanh(x + 0.3 * jax.random.normal(k, x.shape)), None

    return jax.lax.scan(step, jax.random.normal(key, (8, 8, 8)), jax.random.split(key, 5))[0]


def chunks(out, *meshes):
    """Samples of 1, 7 and 64 keys on meshes of the given sizes, and how often the program was traced."""
    traces, results = [], {}
    kernel = np.random.default_rng(1).normal(size=(3, 3, 8, 8)).astype(np.float32) / 8

    def batched(kernel, keys):
        traces.append(keys.shape)
        return jax.vmap(conv_chain, in_axes=(None, 0))(kernel, keys)

    for data in map(int, meshes):
        sample = parallel.map_chunks(batched, 4, parallel.mesh(data=data))
        keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(jax.random.key(5), jnp.arange(64))
        for n in (1, 7, 64):
            results[f"{data}/{n}"] = sample(kernel, keys[:n])
    assert traces == [(4,)] * len(meshes), f"traced {traces}"
    np.savez(out, **results)


def two_processes(out, port, process):
    """Two processes of two devices each train and sample together; the first one writes."""
    cluster.join(f"localhost:{port}", 2, int(process))
    with pytest.raises(ValueError, match="join once"):
        cluster.join(f"localhost:{port}", 2, int(process))
    mesh = parallel.mesh()
    assert (mesh.devices.size, len(mesh.local_devices)) == (4, 2)
    params, batches, optimizer, _, emas = problem()
    half = slice(8 * int(process), 8 * int(process) + 8)
    state = parallel.replicate(mesh, training.init_state(params, optimizer, emas, jax.random.key(3)))
    compiled = parallel.compile_step(training.make_step(training.loss_method(loss_fn), optimizer, emas), mesh=mesh)
    for x in batches["x"]:
        state, _ = compiled(state, parallel.shard_batch(mesh, {"x": x[half]}))
    kernel = np.random.default_rng(1).normal(size=(3, 3, 8, 8)).astype(np.float32) / 8
    keys = jax.random.split(jax.random.key(0), 7)
    samples = parallel.map_chunks(jax.vmap(conv_chain, in_axes=(None, 0)), 2, mesh)(kernel, keys)
    if process == "0":
        np.savez(out, samples=samples, **jax.device_get(state.params))
    cluster.part()


# The tests


def spawn(devices, name, *args, one_core=False):
    env = {**environment(devices, pinned=one_core), "ONE_CORE": str(int(one_core))}
    command = [sys.executable, __file__, name, *map(str, args)]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(*children, out):
    """Waits for all of them, then reads what they wrote."""
    try:
        texts = [child.communicate(timeout=300)[0] for child in children]
    finally:
        for child in children:
            child.kill()
            child.communicate()
    assert [child.returncode for child in children] == [0] * len(children), "\n".join(texts)
    return dict(np.load(out))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("trained") / "out.npz"
    eight = finish(spawn(8, "trajectories", out, 8), out=out)
    mesh = parallel.mesh(data=1)
    return {
        1: {mode: train(mode, mesh) for mode in RUNS[1]},
        8: {mode: unpack(eight, mode) for mode in RUNS[8]} | {"moves": eight["moves"], "refused": eight["refused"]},
    }


def unpack(arrays, mode):
    return [arrays[name] for name in sorted(arrays) if name.startswith(mode + "/")]


@pytest.mark.parametrize(("devices", "mode"), [(devices, mode) for devices, modes in RUNS.items() for mode in modes])
def test_one_trajectory_on_any_devices_under_any_backend(trained, devices, mode):
    """State and metrics of every step. The order of the sum over the batch is all that may differ."""
    reference = trained[1]["jit"]
    assert len(trained[devices][mode]) == len(reference) > 20
    for got, expected in zip(trained[devices][mode], reference, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
        assert got.dtype == expected.dtype


def test_parts_of_a_batch_leave_examples_on_their_devices(trained):
    assert trained[8]["moves"].tolist() == [0, 0]


def test_training_moved(trained):
    params, *_ = problem()
    final = [leaf for leaf in trained[1]["jit"] if leaf.shape == (5, 32)]
    assert all(np.abs(leaf - params["w"]).max() > 1e-3 for leaf in final[:1])


def faults(out):
    """Pages that the kernel has to clear while 40 MB are taken and given back ten times; what a child process runs."""

    def counted():
        for turn in range(12):
            if turn == 2:
                before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            block = bytearray(40_000_000)
            block[::4096] = bytes(len(block[::4096]))
            del block
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    np.savez(out, before=counted(), kept=parallel.keep_memory(), after=counted())


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_memory_that_was_given_back_is_there_for_the_next_step(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith("MALLOC_")]:
        monkeypatch.delenv(name)
    out = tmp_path / "out.npz"
    found = finish(spawn(1, "faults", out), out=out)
    assert found["kept"]
    assert found["before"] > 50_000
    assert found["after"] < 1000


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_memory_is_as_the_environment_says(monkeypatch):
    monkeypatch.setenv("MALLOC_ARENA_MAX", "1")
    assert not parallel.keep_memory.__wrapped__()  # it is asked once in a process


def test_samples_depend_on_neither_count_nor_devices(tmp_path):
    """Bit for bit on one core: 1, 7, 64 samples; 1, 2, 8 devices, in one process and in several."""
    meshes = {1: [1], 8: [1, 2, 8]}
    outs = {devices: tmp_path / f"{devices}.npz" for devices in meshes}
    results = {}
    for devices, out in outs.items():  # one after the other: each is pinned to the same core
        arrays = finish(spawn(devices, "chunks", out, *meshes[devices], one_core=True), out=out)
        results |= {f"{devices}:{name}": value for name, value in arrays.items()}
    reference = results["1:1/64"]
    assert reference.shape == (64, 8, 8, 8)
    assert len(np.unique(reference[:, 0, 0, 0])) == 64
    assert len(results) == 12
    for name, value in results.items():
        n = int(name.split("/")[1])
        np.testing.assert_array_equal(value, reference[:n], err_msg=name)


def test_chunks_hold_trees_pad_the_tail_and_drop_it():
    seen = []

    def batched(shared, rows):
        seen.append(rows["x"].shape)
        return {"y": rows["x"] * shared, "n": rows["n"] + 1}

    run = parallel.map_chunks(batched, 4, parallel.mesh(data=1))
    for n in (1, 3, 4, 5, 11):
        x = np.arange(n * 2, dtype=np.float32).reshape(n, 2)
        out = run(jnp.float32(3), {"x": x, "n": np.arange(n)})
        np.testing.assert_array_equal(out["y"], 3 * x)
        np.testing.assert_array_equal(out["n"], np.arange(1, n + 1))
    assert seen == [(4, 2)]


@pytest.mark.parametrize("rows", [np.zeros((0, 2)), {"a": np.zeros(3), "b": np.zeros(4)}])
def test_chunks_refuse_no_rows_and_rows_of_several_lengths(rows):
    run = parallel.map_chunks(lambda shared, rows: rows, 4)
    with pytest.raises(ValueError, match="rows of lengths"):
        run((), rows)


def test_compiles_once_and_keeps_the_state_unless_asked():
    traces = []

    def step(state, batch):
        traces.append(1)
        return state + batch.sum(), {}

    for backend in parallel.BACKENDS:
        compiled = parallel.compile_step(step, backend, parallel.mesh(data=1), donate=False)
        first = state = parallel.replicate(parallel.mesh(data=1), jnp.float32(0))
        for k in range(3):
            state, _ = compiled(state, np.full(4, k, np.float32))
        assert float(state) == 12
        assert float(first) == 0
    assert len(traces) == 2


def test_shard_batch_puts_each_leaf_where_it_belongs():
    mesh = parallel.mesh(data=1)
    batch = {
        "x": np.arange(12.0, dtype=np.float32).reshape(2, 3, 2),
        "label": np.arange(6, dtype=np.int32).reshape(2, 3),
    }
    for leading in (0, 1):
        placed = parallel.shard_batch(mesh, batch, leading)
        jax.tree.map(np.testing.assert_array_equal, placed, batch)
        assert {leaf.sharding for leaf in jax.tree.leaves(placed)} == {parallel.sharded(mesh, leading)}
    assert parallel.sharded(mesh, 1).spec == jax.sharding.PartitionSpec(None, "data")


def test_axes_are_auto_so_that_constraints_are_allowed():
    assert parallel.mesh().axis_types == (jax.sharding.AxisType.Auto,)


def test_bad_input():
    with pytest.raises(ValueError, match="data = 99 devices, expected 1 to"):
        parallel.mesh(data=99)
    with pytest.raises(ValueError, match="data = 0"):
        parallel.mesh(data=0)
    with pytest.raises(ValueError, match="backend 'xmap', expected one of jit, pmap"):
        parallel.compile_step(lambda s, b: (s, b), "xmap")
    with pytest.raises(ValueError, match="chunk = 0"):
        parallel.map_chunks(lambda s, r: r, 0)
    with pytest.raises(ValueError, match=r"shape \(3,\), expected axis 1"):
        parallel.shard_batch(parallel.mesh(), np.zeros(3), leading=1)


def test_refuses_a_batch_that_the_devices_do_not_divide(trained):
    """On eight devices, by both backends and by `shard_batch`, before anything runs."""
    said = trained[8]["refused"]
    assert len(said) == 3
    for text in said:
        assert "shape (12, 2), expected axis 0 to be a multiple of 8" in text


@pytest.mark.slow
def test_two_processes_train_and_sample_as_one(tmp_path):
    with socket.socket() as s:
        s.bind(("localhost", 0))
        port = s.getsockname()[1]
    out = tmp_path / "out.npz"
    children = [spawn(2, "two_processes", out, port, process) for process in range(2)]
    results = finish(*children, out=out)
    params, batches, optimizer, _, emas = problem()
    state = training.init_state(params, optimizer, emas, jax.random.key(3))
    step = jax.jit(training.make_step(training.loss_method(loss_fn), optimizer, emas))
    for x in batches["x"]:
        state, _ = step(state, {"x": x})
    for name, leaf in state.params.items():
        np.testing.assert_allclose(results[name], leaf, rtol=1e-5, atol=1e-5)
    kernel = np.random.default_rng(1).normal(size=(3, 3, 8, 8)).astype(np.float32) / 8
    expected = jax.vmap(conv_chain, in_axes=(None, 0))(kernel, jax.random.split(jax.random.key(0), 7))
    np.testing.assert_allclose(results["samples"], expected, atol=1e-5)


if __name__ == "__main__":
    warnings.simplefilter("error")
    if os.environ["ONE_CORE"] == "1" and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core()})
    jax.config.update("jax_numpy_rank_promotion", "raise")
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    globals()[sys.argv[1]](*sys.argv[2:])
