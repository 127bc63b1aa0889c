"""Which axis of a leaf is split over which devices, and that training and sampling are equal however they are split."""

import re
import subprocess
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P
from run_command import environment

from diffjax import denoisers, ema, grids, methods, models, moving, parallel, processes, schedules, sharding, training
from diffjax.config import ConfigError

BATCH, STEPS = 16, 3
WAYS = {  # (fsdp, tensor) of eight devices, and parts of a batch
    "data": (1, 1, 1),
    "data x fsdp": (4, 1, 1),
    "fsdp": (8, 1, 1),
    "all three": (2, 2, 1),
    "in parts": (4, 1, 2),
}
OF_DIT = (2, 2, 1, None, "jit", "DiT")


# What the child processes run: `python this_file NAME OUT ...`


def drawn(init, shape, scale=0.1):
    """Parameters of a network that are none of them 0, so that every gradient is of some size."""
    like = jax.eval_shape(init, jax.random.key(0), jnp.zeros(shape), jnp.zeros(()))
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: jnp.asarray(scale * rng.normal(size=leaf.shape), jnp.float32), like)


def two_layers():
    """A network of vectors (128,), which says how it is split: its second layer has entries that a head would have."""
    rng = np.random.default_rng(2)
    sizes = {"in": (128, 256), "bias": (256,), "back": (256, 128)}
    params = {name: 0.05 * rng.normal(size=size).astype(np.float32) for name, size in sizes.items()}
    apply = lambda params, x, c, given: jnp.tanh(x @ params["in"] + jnp.tanh(c) * params["bias"]) @ params["back"]
    return models.from_function(apply, params)._replace(tensor=RULES)


RULES = ((r"(^|/)in$", -1, 4), (r"(^|/)bias$", -1, 1), (r"(^|/)back$", -2, 1))
NETS = {
    "layers": (two_layers(), (128,)),
    "DiT": (models.of(models.DiT(depth=1, width=96, heads=4, features=32)), (8, 8, 1)),
}


def problem(kind="layers"):
    """(method, optimizer, averages, first state): moments of adam, an average, a key."""
    net, shape = NETS[kind]

    def loss_fn(params, keys, example, index, size):
        t01 = (jnp.asarray(index, float) / size + jax.random.uniform(keys.step)) % 1.0
        noise = jax.random.normal(keys.example, shape)
        return jnp.mean((net.apply(params, example["x"] + noise, 4 * t01 - 2) - noise) ** 2), {"t01": t01}

    method, optimizer, emas = training.loss_method(loss_fn), optax.adam(1e-3, eps=1e-4), ema.warm_up([0.9])
    params = drawn(net.init, shape)
    return method, optimizer, emas, training.init_state(params, optimizer, emas, jax.random.key(3))


def batches(kind="layers"):
    return np.random.default_rng(0).normal(size=(STEPS, BATCH, *NETS[kind][1])).astype(np.float32)


def leaves_of(state):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(state._replace(key=jax.random.key_data(state.key)))]


def pieces(tree):
    """Bytes of a tree's leaves on each device: the most that one has."""
    found = dict.fromkeys(jax.devices(), 0)
    for leaf in jax.tree.leaves(tree):
        for shard in leaf.addressable_shards:
            found[shard.device] += shard.data.nbytes
    return max(found.values())


def train(fsdp=1, tensor=1, parts=1, data=None, backend="jit", kind="layers"):
    """(the state's leaves, losses, and what `looked_at` takes) after some steps."""
    mesh = parallel.mesh(data=data, fsdp=fsdp, tensor=tensor)
    method, optimizer, emas, state = problem(kind)
    rules = NETS[kind][0].tensor
    split = sharding.shardings(state, mesh, rules, state.params) if fsdp * tensor > 1 else None
    axis, gather = parallel.AXIS if backend == "pmap" else None, sharding.gathering(split)
    step = training.make_step(method, optimizer, emas, accumulate=parts, axis_name=axis, gather=gather)
    state = parallel.place(mesh, state, split)
    compiled, losses = parallel.compile_step(step, backend, mesh, shardings=split), []
    for x in batches(kind):
        old = state
        state, metrics = compiled(state, parallel.shard_batch(mesh, {"x": x}))
        losses.append(float(metrics["loss"]))
        assert {leaf.is_deleted() for leaf in jax.tree.leaves(old.params)} == {bool(parallel.donating(0))}, "donation"
    for leaf, where in zip(jax.tree.leaves(state), jax.tree.leaves(split), strict=split is not None):
        assert leaf.sharding.is_equivalent_to(where, leaf.ndim)
    return leaves_of(parallel.to_host(state)), losses, state, step, split, mesh


def looked_at(state, step, split, mesh):
    """A compiled step: bytes of its arguments, and of what it gives back in them, the largest argument, its text."""
    every, of_batch = parallel.replicated(mesh), parallel.sharded(mesh)
    of_state = every if split is None else split
    made = jax.jit(step, donate_argnums=0, in_shardings=(of_state, of_batch), out_shardings=(of_state, every))
    program = made.lower(state, {"x": batches()[0]}).compile()
    memory, text = program.memory_analysis(), program.as_text()
    entry = text.split("ENTRY")[1].split("\n")
    sizes = [line.split("f32[")[1].split("]")[0] for line in entry if " parameter(" in line and "f32[" in line]
    largest = max(int(np.prod([int(n) for n in size.split(",") if n])) for size in sizes)
    return memory.argument_size_in_bytes, memory.alias_size_in_bytes, largest, *moves(text)


def moves(text):
    """Counts collectives of a program that put parameters together, and those that move examples."""
    kinds = [re.search(r" = \S+ (all-gather|all-to-all|collective-permute)\(", line) for line in text.split("\n")]
    names = [kind[1] for kind in kinds if kind]
    return names.count("all-gather"), len(names) - names.count("all-gather")


def several(out):
    """Every way of eight devices; what is said of bad ones; samples of parameters that are split."""
    one = (1, 1, 1, 1)
    ways = {**WAYS, "one": one, "pmap": (1, 1, 1, None, "pmap"), "one DiT": (*one, "jit", "DiT"), "DiT": OF_DIT}
    found = {}
    for name, way in ways.items():
        leaves, losses, *rest = train(*way)
        found |= {f"{name}/{i:03}": leaf for i, leaf in enumerate(leaves)} | {f"{name}/losses": losses}
        if name in ("data", "fsdp", "all three"):
            found[f"memory of {name}"] = [pieces(rest[0]._replace(key=())), *looked_at(*rest)]
    found |= samples() | {"refused": refusals()}
    np.savez(out, **found)


def samples():
    """ddim's of a DiT, of whole and of split parameters, and the bytes that a device's program takes of them."""
    (net, shape), jit, seen = NETS["DiT"], jax.jit, []
    grid = lambda schedule: grids.log_snr(schedule, n=5)
    method = methods.denoising(net, processes.Gaussian(schedules.VP()), denoisers.V(), grid=grid)
    params, mesh = drawn(net.init, shape), parallel.mesh(fsdp=4, tensor=2)
    split = parallel.place(mesh, params, sharding.shardings(params, mesh, net.tensor))

    def spy(function, **options):
        compiled = jit(function, **options)
        return lambda *args: seen.append((compiled, args)) or compiled(*args)

    one = lambda shared, key: method.draw(*shared, key, {})
    jax.jit = spy
    chunked = parallel.map_chunks(jax.vmap(one, in_axes=(None, 0)), 2, parallel.mesh(data=2))
    jax.jit = jit
    request, keys = method.plan(shape, None), jax.random.split(jax.random.key(4), 5)
    whole, parted = chunked((params, request), keys), chunked((split, request), keys)
    memory = [compiled.lower(*args).compile().memory_analysis() for compiled, args in (seen[0], seen[-1])]
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    taken = [size, *(program.argument_size_in_bytes for program in memory)]
    devices = lambda tree: {len(leaf.sharding.device_set) for leaf in jax.tree.leaves(moving.local(tree))}
    replicated = parallel.replicate(mesh, {"x": jnp.ones(3), "key": jax.random.key(0)})
    assert devices(replicated) == {1}
    assert max(devices(split)) == 8
    return {"samples/whole": whole, "samples/split": parted, "bytes of samples": taken}


def refusals():
    """What is said of eight devices that fsdp, tensor or the batch do not go with."""
    choose = lambda batch, fsdp, tensor, backend="jit": parallel.chosen(
        None, batch, 1, ConfigError, fsdp, tensor, backend
    )
    mesh, params = parallel.mesh(fsdp=2, tensor=2), {"w": jnp.zeros((4, 4))}
    halves = jax.device_put(params, jax.NamedSharding(mesh, P("fsdp")))
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
        lambda: parallel.map_chunks(lambda shared, rows: rows, 1, strict=True)(halves, np.zeros(3)),
    ]
    said = []
    for call in calls:
        try:
            call()
        except ValueError as error:
            said.append(f"{type(error).__name__}: {error}")
    assert choose(4, 2, 2) == jax.devices()
    return said


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


def test_a_networks_rules_hold_for_whatever_has_its_parameters_shapes():
    """Averages and moments go as their parameters; factored moments, of other shapes, do not."""
    params = shapes({"in": ((8, 16), ()), "back": ((16, 8), ()), "other": ((8, 8), ())})
    factored = shapes({"in": ((8,), ()), "back": ((16,), ())})
    state = {"params": params, "ema": {"0.9": params}, "moments": ({"mu": params}, factored), "key": jax.random.key(0)}
    found = sharding.specs(state, {"data": 2, "fsdp": 2, "tensor": 2}, RULES[::2], params, least=64)
    one = {"in": P("fsdp", "tensor"), "back": P("tensor", "fsdp"), "other": P(None, "fsdp")}
    whole = {"in": P(), "back": P()}
    assert found == {"params": one, "ema": {"0.9": one}, "moments": ({"mu": one}, whole), "key": P()}


@pytest.mark.parametrize(
    ("rules", "tensor", "match"),
    [
        ((), 2, r"^train\.tensor is 2, but this network does not say how it is split .*models\.DiT and models\.JiT"),
        (((r"up$", -1, 1),), 2, r"^The rule 'up\$' for tensor splits no parameter; there are back, in\.$"),
        (RULES[::2], 8, r"^train\.tensor is 8, expected a divisor of the 4 heads of in \(model\.heads\)\.$"),
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
    args = (jax.random.key(0), jnp.zeros((8, 8, 1)), jnp.zeros(()))
    found = sharding.split_axes(jax.eval_shape(net.init, *args), net.tensor, 2)
    names = {name: leaf for name, leaf in sharding.named(jax.eval_shape(net.init, *args)) if "block" in name}
    expected = {
        name: -1 for name in names if name.endswith((*COLUMNS, *(c.replace("kernel", "bias") for c in COLUMNS)))
    }
    expected |= {name: -2 for name in names if name.endswith(ROWS)}
    assert found == expected
    assert len(found) >= (6 if "scan" in options else 12)
    with pytest.raises(ValueError, match=r"train\.tensor is 8, expected a divisor of the 4 heads of"):
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


def spawn(devices, name, *args, file=__file__):
    command = [sys.executable, file, name, *map(str, args)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, env=environment(devices), **pipes)


def finish(*children):
    """Waits for all of them; what they said where one failed."""
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


@pytest.mark.parametrize("name", [*WAYS, "pmap", "DiT"])
def test_training_is_equal_however_it_is_split(found, name):
    """Losses, parameters, averages, moments, key and counters after three steps, against one device."""
    one, split = unpack(found, "one DiT" if name == "DiT" else "one"), unpack(found, name)
    assert len(one) == len(split) >= 18
    for got, expected in zip(split, one, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
    first = leaves_of(problem("DiT" if name == "DiT" else "layers")[3])
    assert np.abs(one[1] - first[1]).max() > 1e-3, "it has not moved"


def test_a_state_that_is_split_takes_its_part_of_the_memory(found):
    """Of each program: what a device holds, its arguments, what is given back in place, the largest argument."""
    state = problem()[3]._replace(key=())
    size = lambda least: sum(leaf.nbytes for leaf in jax.tree.leaves(state) if leaf.size >= least)
    whole, large, kernel = size(0), size(sharding.LEAST), 128 * 256
    held = {"data": whole, "fsdp": whole - large + large / 8, "all three": 0}
    held["all three"] = large / 4 + 4 * 4 * 256 / 2 + (whole - large - 4 * 4 * 256)  # four biases, split over tensor
    for name, parts, largest in (("data", 8, kernel), ("fsdp", 8, kernel // 8), ("all three", 4, kernel // 4)):
        has, arguments, alias, most, gathers, others = found[f"memory of {name}"]
        assert has == held[name]
        assert has <= alias <= arguments <= has + BATCH * 128 * 4 / parts + 64
        assert most == max(largest, 256 if name == "fsdp" else 0, BATCH * 128 // parts)
        assert gathers == (0 if name == "data" else 2), "each kernel is put together once"
        assert others == 0, "examples stay where they are"


def test_samples_of_parameters_that_are_split(found):
    whole = found["samples/whole"]
    assert whole.shape == (5, 8, 8, 1)
    assert whole.std(0).min() > 0.05
    np.testing.assert_allclose(found["samples/split"], whole, rtol=1e-5, atol=1e-5)
    size, of_whole, of_split = found["bytes of samples"]
    assert size <= of_whole
    assert of_split < 0.4 * size


def test_devices_that_do_not_go_with_it_are_refused(found):
    expected = [
        "ConfigError: train.fsdp x train.tensor is 3 x 1, expected a divisor of 8, the devices, such as",
        "ConfigError: train.batch_size is 12, expected a multiple of 8, the devices.",
        "ConfigError: train.batch_size is 6, expected a multiple of 8 devices / train.tensor = 2, x train.accumulate",
        "ConfigError: train.backend is 'pmap' with train.fsdp x train.tensor = 8 x 1, expected 1 x 1",
        "ValueError: train.backend is 'pmap' with train.fsdp x train.tensor = 2 x 2, expected 1 x 1",
        "ValueError: Got fsdp x tensor = 3 x 1, expected a divisor of 8, the devices.",
        "ValueError: Got data = 2 x fsdp = 4 x tensor = 2 devices, expected 1 to 8, those that there are.",
        "ValueError: Got a batch of shape (6, 2), expected axis 0 to be a multiple of 4, 8 devices / tensor = 2.",
        "ValueError: train.tensor is 2, but this network does not say how it is split over devices",
        "ValueError: Got split parameters for strict rows: set train.shards=0, or train.fsdp=train.tensor=1.",
    ]
    assert len(found["refused"]) == len(expected)
    for said, begins in zip(found["refused"], expected, strict=True):
        assert said.startswith(begins)


def child(functions):
    """Runs what a child process was started for, as strictly as tests run."""
    warnings.simplefilter("error")
    jax.config.update("jax_numpy_rank_promotion", "raise")
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    functions[sys.argv[1]](*sys.argv[2:])


if __name__ == "__main__":
    child(globals())
