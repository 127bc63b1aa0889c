"""Which axis of a leaf is split over which devices, and that training and sampling are equal however they are split."""

import json
import os
import socket
import subprocess
import sys
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P
from run_command import environment

from diffjax import data, denoisers, ema, methods, models, parallel, processes, runs, schedules, sharding, training
from diffjax.config import ConfigError

SHAPE, BATCH, STEPS = (8, 8, 1), 16, 3
WAYS = {  # (fsdp, tensor) of eight devices, and parts of a batch
    "data": (1, 1, 1),
    "data x fsdp": (4, 1, 1),
    "fsdp": (8, 1, 1),
    "all three": (2, 2, 1),
    "in parts": (4, 1, 2),
}


# What the child processes run: `python this_file NAME OUT ...`


def network(**options):
    """A DiT whose parameters are none of them 0, so that every gradient is of some size."""
    net = models.of(models.DiT(depth=1, width=96, heads=4, features=32, **options))

    def init(key, *args):
        leaves, tree = jax.tree.flatten(net.init(key, *args))
        keys = jax.random.split(jax.random.fold_in(key, 1), len(leaves))
        noisy = [leaf + 0.05 * jax.random.normal(k, leaf.shape) for leaf, k in zip(leaves, keys, strict=True)]
        return jax.tree.unflatten(tree, noisy)

    return net._replace(init=init)


NET = network()


def loss_fn(params, keys, example, index, size):
    t01 = (jnp.asarray(index, float) / size + jax.random.uniform(keys.step)) % 1.0
    noise = jax.random.normal(keys.example, SHAPE)
    return jnp.mean((NET.apply(params, example["x"] + noise, 4 * t01 - 2) - noise) ** 2), {"t01": t01}


def problem():
    """(method, optimizer, averages, first state): moments of adam, an average, a key."""
    method, optimizer, emas = training.loss_method(loss_fn), optax.adam(1e-3, eps=1e-4), ema.warm_up([0.9])
    params = NET.init(jax.random.key(0), jnp.zeros(SHAPE), jnp.zeros(()))
    return method, optimizer, emas, training.init_state(params, optimizer, emas, jax.random.key(3))


def batches():
    return np.random.default_rng(0).normal(size=(STEPS, BATCH, *SHAPE)).astype(np.float32)


def leaves_of(state):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(state._replace(key=jax.random.key_data(state.key)))]


def pieces(tree):
    """Bytes of a tree's leaves on each device: the most that one has."""
    found = dict.fromkeys(jax.devices(), 0)
    for leaf in jax.tree.leaves(tree):
        for shard in leaf.addressable_shards:
            found[shard.device] += shard.data.nbytes
    return max(found.values())


def train(fsdp=1, tensor=1, parts=1, data=None, backend="jit"):
    """((state's leaves, losses), and what the compiled step says of its memory)."""
    mesh = parallel.mesh(data=data, fsdp=fsdp, tensor=tensor)
    method, optimizer, emas, state = problem()
    split = None
    if fsdp * tensor > 1:
        split = sharding.shardings(state, mesh, NET.tensor, state.params)
    axis = parallel.AXIS if backend == "pmap" else None
    gather = sharding.gathering(split)
    step = training.make_step(method, optimizer, emas, accumulate=parts, axis_name=axis, gather=gather)
    state = parallel.place(mesh, state, split)
    compiled, losses = parallel.compile_step(step, backend, mesh, shardings=split), []
    for x in batches():
        old = state
        state, metrics = compiled(state, parallel.shard_batch(mesh, {"x": x}))
        losses.append(float(metrics["loss"]))
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(old.params)), "the old state was not donated"
    if split is not None:
        jax.tree.map(lambda leaf, where: leaf.sharding.is_equivalent_to(where, leaf.ndim) or 1 / 0, state, split)
    return leaves_of(parallel.to_host(state)), losses, state, step, split, mesh


def looked_at(state, step, split, mesh):
    """A compiled step: bytes of its arguments and of what it gives back in them, and the largest argument."""
    every, of_batch = parallel.replicated(mesh), parallel.sharded(mesh)
    of_state = every if split is None else split
    made = jax.jit(step, donate_argnums=0, in_shardings=(of_state, of_batch), out_shardings=(of_state, every))
    program = made.lower(state, {"x": batches()[0]}).compile()
    memory, entry = program.memory_analysis(), program.as_text().split("ENTRY")[1].split("\n")
    sizes = [line.split("f32[")[1].split("]")[0] for line in entry if " parameter(" in line and "f32[" in line]
    largest = max(int(np.prod([int(n) for n in size.split(",") if n])) for size in sizes)
    return memory.argument_size_in_bytes, memory.alias_size_in_bytes, largest


def several(out):
    """Every way of eight devices; what is said of bad ones; samples of parameters that are split."""
    found = {}
    for name, way in {**WAYS, "one": (1, 1, 1, 1), "pmap": (1, 1, 1, None, "pmap")}.items():
        leaves, losses, *rest = train(*way)
        found |= {f"{name}/{i:03}": leaf for i, leaf in enumerate(leaves)} | {f"{name}/losses": losses}
        if name in ("data", "fsdp", "all three"):
            found[f"memory of {name}"] = [pieces(rest[0]._replace(key=())), *looked_at(*rest)]
    found |= samples() | {"refused": refusals()}
    np.savez(out, **found)


def samples():
    """ddim's, of whole and of split parameters, and the bytes that a device's program takes of them."""
    made, jit = {}, jax.jit
    method = methods.denoising(network(), processes.Gaussian(schedules.VP()), denoisers.V())
    draw = lambda mesh: _drawer(method, mesh)
    params = NET.init(jax.random.key(0), jnp.zeros(SHAPE), jnp.zeros(()))
    made["samples/whole"] = draw(parallel.mesh())(params, range(20), {})
    for name, (fsdp, tensor) in {"fsdp": (8, 1), "both": (2, 2)}.items():
        mesh = parallel.mesh(fsdp=fsdp, tensor=tensor)
        split = parallel.place(mesh, params, sharding.shardings(params, mesh, NET.tensor))
        seen = []

        def spy(function, seen=seen, **options):
            compiled = jit(function, **options)
            return lambda *args: seen.append(compiled.lower(*args).compile().memory_analysis()) or compiled(*args)

        jax.jit = spy
        drawn = draw(mesh)
        jax.jit = jit
        made[f"samples/{name}"] = drawn(split, range(20), {})
        made[f"bytes of {name}"] = [
            seen[0].argument_size_in_bytes,
            sum(leaf.nbytes for leaf in jax.tree.leaves(params)),
        ]
    return made


def _drawer(method, mesh):
    from diffjax import draws, grids

    method = method.parts._replace(grid=lambda schedule: grids.log_snr(schedule, n=5)).method()
    return draws.drawer(method, SHAPE, 2, mesh)


def refusals():
    """What is said of eight devices that fsdp, tensor or the batch do not go with."""
    choose = lambda batch, fsdp, tensor, backend="jit": parallel.chosen(
        None, batch, 1, ConfigError, fsdp, tensor, backend
    )
    mesh, params = parallel.mesh(fsdp=2, tensor=2), {"w": jnp.zeros((4, 4))}
    calls = [
        lambda: choose(24, 3, 1),
        lambda: choose(12, 4, 1),
        lambda: choose(6, 2, 2),
        lambda: choose(16, 8, 1, "pmap"),
        lambda: parallel.compile_step(lambda s, b: (s, b), "pmap", mesh),
        lambda: parallel.mesh(fsdp=3),
        lambda: parallel.mesh(data=2, fsdp=4, tensor=2),
        lambda: parallel.shard_batch(mesh, np.zeros((6, 2))),
        lambda: sharding.shardings(params, mesh),
    ]
    said = []
    for call in calls:
        try:
            call()
        except ValueError as error:
            said.append(f"{type(error).__name__}: {error}")
    assert choose(4, 2, 2) == jax.devices()
    return said


def trainer(workdir=None, **options):
    x = np.random.default_rng(5).normal(size=(64, *SHAPE)).astype(np.float32)
    method = methods.denoising(network(), processes.Gaussian(schedules.VP()), denoisers.V())
    fixed = {"batch_size": BATCH, "log_every": 1, "sample_every": 100, "checkpoint_every": 2, "ema": "0.9"}
    return runs.Trainer(
        method, data.arrays(x), optimizer=optax.adam(1e-3, eps=1e-4), workdir=workdir, **{**fixed, **options}
    )


def resumed(out, folder):
    """A run of fsdp = 4 goes on split otherwise, and elsewhere; what it is then, and what it draws."""
    found, ways = {}, [(dict(fsdp=4), 2), (dict(fsdp=1), 4), (dict(fsdp=2, tensor=2), 6), (dict(devices=1), 7)]
    runs.Trainer._show = lambda *_: None
    for name, parts in {"split": ways, "whole": [({}, 7)]}.items():
        for options, steps in parts:
            with trainer(Path(folder) / name, **options) as made:
                found[f"{name}/began at {steps}"] = made.step
                run = made.train(steps)
                if "tensor" in options:
                    found["split/parameter"] = pieces(run.params), sum(x.nbytes for x in jax.tree.leaves(run.params))
                    found["drawn/split"] = run.draw(4, nfe=5)
                    host = run._replace(state=parallel.to_host(run.state))
                    found["drawn/whole"] = host.draw(4, nfe=5)
        found |= {f"{name}/{i:03}": leaf for i, leaf in enumerate(leaves_of(run.state))}
    np.savez(out, **found)


def two_processes(out, port, process):
    """Two processes of two devices each share one state; each gives the whole of it."""
    parallel.initialize_distributed(f"localhost:{port}", 2, int(process))
    mesh = parallel.mesh(fsdp=4)
    method, optimizer, emas, state = problem()
    split = sharding.shardings(state, mesh, (), state.params)
    gather = sharding.gathering(split)
    compiled = parallel.compile_step(
        training.make_step(method, optimizer, emas, gather=gather), mesh=mesh, shardings=split
    )
    state, half = parallel.place(mesh, state, split), BATCH // 2
    for x in batches():
        mine = x[half * int(process) :][:half]
        state, _ = compiled(state, parallel.shard_batch(mesh, {"x": mine}))
    whole = leaves_of(parallel.to_host(state))
    np.savez(f"{out}{process}.npz", *whole)


# The tests


TREE = {  # name -> (shape, axes for fsdp = 4 and tensor = 1 from 64 elements on)
    "kernel": ((8, 16), (None, "fsdp")),  # the larger axis
    "tall": ((16, 8), ("fsdp", None)),
    "square": ((8, 8), (None, "fsdp")),  # of equal ones the last
    "odd": ((8, 18), ("fsdp", None)),  # 4 does not divide 18
    "prime": ((9, 11), ()),  # it divides none
    "small": ((7, 8), ()),  # 56 elements
    "stack": ((3, 8, 16), (None, None, "fsdp")),
    "bias": ((64,), ("fsdp",)),
    "scalar": ((), ()),
}


def shapes(tree):
    return {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, (shape, _) in tree.items()}


def test_the_largest_axis_that_devices_divide_is_split():
    found = sharding.specs(shapes(TREE), {"data": 2, "fsdp": 4}, least=64)
    assert found == {name: P(*axes) for name, (_, axes) in TREE.items()}
    assert set(sharding.specs(shapes(TREE), {"data": 8}, least=1).values()) == {P()}
    default = {name: (shape, ()) for name, shape in (("at", (128, 128)), ("below", (128, 127)))}
    assert sharding.specs(shapes(default), {"fsdp": 4}) == {"at": P(None, "fsdp"), "below": P()}


RULES = ((r"(^|/)in$", -1, 4), (r"(^|/)back$", -2, 1))


def test_a_networks_rules_hold_for_whatever_has_its_parameters_shapes():
    """Averages and moments go as their parameters; factored moments, of other shapes, do not."""
    params = shapes({"in": ((8, 16), ()), "back": ((16, 8), ()), "other": ((8, 8), ())})
    factored = shapes({"in": ((8,), ()), "back": ((16,), ())})
    state = {"params": params, "ema": {"0.9": params}, "moments": ({"mu": params}, factored), "key": jax.random.key(0)}
    found = sharding.specs(state, {"data": 2, "fsdp": 2, "tensor": 2}, RULES, params, least=64)
    one = {"in": P("fsdp", "tensor"), "back": P("tensor", "fsdp"), "other": P(None, "fsdp")}
    whole = {"in": P(), "back": P()}
    assert found == {"params": one, "ema": {"0.9": one}, "moments": ({"mu": one}, whole), "key": P()}


@pytest.mark.parametrize(
    ("rules", "tensor", "match"),
    [
        ((), 2, r"^tensor = 2, but this network does not say how it is split .*models\.DiT and models\.JiT"),
        (((r"up$", -1, 1),), 2, r"^The rule 'up\$' for tensor splits no parameter; there are in, back\.$"),
        (RULES, 8, r"^tensor = 8 does not divide the 4 heads of in, which stay whole\.$"),
        (((r"in$", -1, 1),), 3, r"^tensor = 3 does not divide axis -1 of in, of shape \(8, 16\)\.$"),
        (((r"in$", -3, 1),), 2, r"^tensor = 2 does not divide axis -3 of in"),
    ],
)
def test_rules_that_do_not_fit(rules, tensor, match):
    params = shapes({"in": ((8, 16), ()), "back": ((16, 8), ())})
    with pytest.raises(ValueError, match=match):
        sharding.specs(params, {"fsdp": 1, "tensor": tensor}, rules)


COLUMNS, ROWS = ("qkv/kernel", "up/kernel", "cross/query/kernel", "cross/told/kernel"), ("out/kernel", "down/kernel")


@pytest.mark.parametrize("options", [{}, {"scan": True}, {"text": (9, 4), "mlp": "swiglu"}], ids=str)
def test_what_a_transformer_splits(options):
    """Of each block, stacked or not, columns and then rows; nothing of what stands outside of blocks."""
    net = models.network(models.DiT(depth=2, width=48, heads=4, **options))
    args = (jax.random.key(0), jnp.zeros(SHAPE), jnp.zeros(()))
    found = sharding.split_axes(jax.eval_shape(net.init, *args), net.tensor, 2)
    names = {name: leaf for name, leaf in sharding.named(jax.eval_shape(net.init, *args)) if "block" in name}
    expected = {
        name: -1 for name in names if name.endswith((*COLUMNS, *(c.replace("kernel", "bias") for c in COLUMNS)))
    }
    expected |= {name: -2 for name in names if name.endswith(ROWS)}
    assert found == expected
    assert len(found) >= (6 if "scan" in options else 12)
    with pytest.raises(ValueError, match=r"tensor = 8 does not divide the 4 heads of"):
        sharding.split_axes(jax.eval_shape(net.init, *args), net.tensor, 8)


def test_the_networks_that_the_error_names_are_those_that_say():
    say = [name for name in models.__all__ if hasattr(getattr(models, name), "tensor")]
    assert say == ["DiT", "JiT"]


def test_a_tree_comes_back_from_where_it_was_put():
    mesh = parallel.mesh(data=1, fsdp=1, tensor=1)
    tree = {"x": np.arange(6.0, dtype=np.float32).reshape(2, 3), "key": jax.random.key(7), "n": jnp.int32(3)}
    where = jax.tree.map(lambda _: parallel.replicated(mesh), tree)
    for placed in (parallel.place(mesh, tree, where), parallel.place(mesh, tree)):
        back = parallel.to_host(placed)
        assert isinstance(back["x"], np.ndarray)
        np.testing.assert_array_equal(back["x"], tree["x"])
        assert jax.random.key_data(back["key"]).tolist() == jax.random.key_data(tree["key"]).tolist()
        assert back["key"].dtype == tree["key"].dtype
        assert int(back["n"]) == 3


def spawn(devices, name, *args):
    command = [sys.executable, __file__, name, *map(str, args)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, env=environment(devices), **pipes)


def finish(*children):
    try:
        texts = [child.communicate(timeout=400)[0] for child in children]
    finally:
        for child in children:
            child.kill()
            child.communicate()
    assert [child.returncode for child in children] == [0] * len(children), "\n".join(texts)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    out = tmp_path_factory.mktemp("several") / "out.npz"
    finish(spawn(8, "several", out))
    return dict(np.load(out))


def unpack(arrays, name):
    return [arrays[key] for key in sorted(arrays) if key.startswith(f"{name}/")]


@pytest.mark.parametrize("name", [*WAYS, "pmap"])
def test_training_is_equal_however_it_is_split(found, name):
    """Losses, parameters, averages, moments, key and counters after three steps, against one device."""
    one, split = unpack(found, "one"), unpack(found, name)
    assert len(one) == len(split) > 60
    for got, expected in zip(split, one, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
    first = leaves_of(problem()[3])
    assert max(np.abs(a - b).max() for a, b in zip(one[1:40], first[1:40], strict=True)) > 1e-3, "it has not moved"


def test_a_state_that_is_split_takes_its_part_of_the_memory(found):
    """Of each program: what a device holds, its arguments, what is given back in place, the largest argument."""
    state = problem()[3]
    whole = sum(leaf.nbytes for leaf in jax.tree.leaves(state._replace(key=())))
    own = BATCH * np.prod(SHAPE) * 4
    small = sum(leaf.nbytes for leaf in jax.tree.leaves(state._replace(key=())) if leaf.size < sharding.LEAST)
    held, arguments, alias, largest = found["memory of data"]
    assert held == whole
    assert whole < arguments <= whole + own / 8 + 64
    assert largest == max(leaf.size for leaf in jax.tree.leaves(state.params))
    held, arguments, alias, largest = found["memory of fsdp"]
    assert held == small + (whole - small) / 8 < 0.25 * whole
    assert held <= alias <= arguments <= held + own / 8 + 64
    assert largest < sharding.LEAST
    held, arguments, alias, largest = found["memory of all three"]
    assert held <= alias <= arguments <= held + own / 4 + 64
    assert held < whole / 2


def test_samples_of_parameters_that_are_split(found):
    whole = found["samples/whole"]
    assert whole.shape == (20, *SHAPE)
    assert whole.std(0).min() > 0.1
    for name, share in (("fsdp", 0.3), ("both", 0.5)):
        np.testing.assert_allclose(found[f"samples/{name}"], whole, rtol=1e-5, atol=1e-5)
        taken, of_parameters = found[f"bytes of {name}"]
        assert taken < share * of_parameters


def test_devices_that_do_not_go_with_it_are_refused(found):
    expected = [
        "ConfigError: train.fsdp x train.tensor is 3 x 1, expected a divisor of 8, the devices: set train.devices",
        "ConfigError: train.batch_size is 12, expected a multiple of 8, the devices.",
        "ConfigError: train.batch_size is 6, expected a multiple of 8 devices / train.tensor = 2, x train.accumulate = 1",
        "ConfigError: Got backend 'pmap' with fsdp x tensor = 8 x 1, expected 1 x 1",
        "ValueError: Got backend 'pmap' with fsdp x tensor = 2 x 2, expected 1 x 1",
        "ValueError: Got fsdp x tensor = 3 x 1, expected a divisor of 8, the devices.",
        "ValueError: Got data = 2 x fsdp = 4 x tensor = 2 devices, expected 1 to 8, those that there are.",
        "ValueError: Got a batch of shape (6, 2), expected axis 0 to be a multiple of 4, 8 devices / tensor = 2.",
        "ValueError: tensor = 2, but this network does not say how it is split over devices",
    ]
    assert len(found["refused"]) == len(expected)
    for said, begins in zip(found["refused"], expected, strict=True):
        assert said.startswith(begins)


def test_a_run_goes_on_split_otherwise(tmp_path):
    """fsdp 4, then whole, then fsdp 2 x tensor 2, then on one device: what it is had it always been whole."""
    out = tmp_path / "out.npz"
    finish(spawn(8, "resumed", out, tmp_path))
    found = dict(np.load(out))
    assert [int(found[f"split/began at {n}"]) for n in (2, 4, 6, 7)] == [0, 2, 4, 6]
    split, whole = (
        {k: v for k, v in found.items() if k[:6] == f"{n}/" and k[6:].isdecimal()} for n in ("split", "whole")
    )
    assert len(split) == len(whole) > 60
    for got, expected in zip(split.values(), whole.values(), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
    lines = {n: (tmp_path / n / "metrics.jsonl").read_text().splitlines() for n in ("split", "whole")}
    losses = {n: [json.loads(line)["loss"] for line in lines[n]] for n in lines}
    assert len(losses["whole"]) == 7
    np.testing.assert_allclose(losses["split"], losses["whole"], rtol=1e-5)
    assert found["split/parameter"][0] < 0.5 * found["split/parameter"][1]
    np.testing.assert_allclose(found["drawn/split"], found["drawn/whole"], rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_two_processes_share_one_state(tmp_path):
    with socket.socket() as s:
        s.bind(("localhost", 0))
        port = s.getsockname()[1]
    finish(*[spawn(2, "two_processes", tmp_path / "out", port, process) for process in range(2)])
    one = train(data=1)[0]
    for process in range(2):
        found = np.load(tmp_path / f"out{process}.npz")
        for i, expected in enumerate(one):
            np.testing.assert_allclose(found[f"arr_{i}"], expected, rtol=1e-5, atol=1e-5)


if __name__ == "__main__":
    warnings.simplefilter("error")
    jax.config.update("jax_numpy_rank_promotion", "raise")
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    globals()[sys.argv[1]](*sys.argv[2:])
