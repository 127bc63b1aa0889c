"""What is read of a compiled program's text: hand-written ones with known answers, and a step's on 2, 4, 8 devices."""

import json
import math
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from run_command import environment

from diffjax import collectives, ema, parallel, strict, training
from diffjax.collectives import Collective
from diffjax.runs.settings import Settings

ADD = """
%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}
"""


def program(*lines, head="num_partitions=8", before=""):
    """The text of a program of these instructions."""
    body = "".join(f"  {line}\n" for line in lines)
    return f"HloModule jit_step, {head}\n{ADD}{before}\nENTRY %main.1 (p: f32[4]) -> f32[4] {{\n{body}}}\n"


def computation(name, *lines, gives="f32[4]"):
    body = "".join(f"  {line}\n" for line in lines)
    return f"\n%{name} (p: f32[4]) -> {gives} {{\n{body}}}\n"


def one(line, **options):
    (found,) = collectives.read(program(line, **options))
    return found


GROUPS = {
    "replica_groups={{0,1,2},{3,4,5}}, ": 3,
    "replica_groups=[2,4]<=[8], ": 4,
    "replica_groups=[4,2]<=[2,4]T(1,0), ": 2,
    "replica_groups=mesh['data'=4,'fsdp'=2] {'data'}, ": 4,
    "replica_groups=mesh['data'=4,'fsdp'=2] {'data','fsdp'}, ": 8,
    "replica_groups=mesh['data'=8] {'data':(1)2}, ": 2,
    "replica_groups=mesh['axis_0'=1,'axis_1'=8,'axis_2'=2], device_ids=([2,8]T(1,0)) {'axis_1'}, ": 8,
    "replica_groups={}, ": 8,
}


@pytest.mark.parametrize("groups", GROUPS)
def test_the_devices_of_a_group(groups):
    found = one(f"%r = f32[4]{{0}} all-reduce(%p), channel_id=1, {groups}to_apply=%add")
    assert found == Collective("all-reduce", (("f32", (4,)),), GROUPS[groups], 1.0, channel=1)


RESULTS = {
    # of a CPU: a tuple, its fifth entry numbered by a comment
    "(f32[16]{0}, s32[3,2]{1,0}, f32[], bf16[7]{0}, /*index=4*/pred[5]{0}) all-reduce(%a, %b)": 64 + 24 + 4 + 14 + 5,
    # of a TPU: tiles and memory spaces in the layout
    "(f32[64]{0:T(128)S(1)}, bf16[8,64]{0,1:T(8,128)(2,1)S(1)}) all-reduce(%a, %b)": 256 + 1024,
    "f32[4,8]{1,0} all-gather(%p), dimensions={0}": 128,
    "((f32[2]{0}, f32[3]{0}), (f32[16]{0}, f32[24]{0})) all-gather-start(%p, %q), dimensions={0}": 160,
    "(f32[2]{0}, f32[16]{0}) all-gather-start(%p), dimensions={0}": 64,
    "(bf16[3,2]{1,0}, f32[6]{0}) all-reduce-start(%p, %q), to_apply=%add": 36,
    "f32[2]{0} reduce-scatter(%p), dimensions={0}, to_apply=%add": 8,
    "(f32[6]{0}, f32[6]{0}, u32[], u32[]) collective-permute-start(%p), source_target_pairs={{0,1}}": 24,
    "f8e4m3fn[10]{0} all-to-all(%p), dimensions={0}": 10,
    "s4[10]{0} collective-permute(%p), source_target_pairs={{0,1}}": 5,
    "c64[2]{0} collective-broadcast(%p)": 16,
}


@pytest.mark.parametrize("line", RESULTS)
def test_the_bytes_of_a_result(line):
    assert one(f"%r = {line}").bytes == RESULTS[line]


def test_a_collective_in_two_halves_is_one():
    lines = (
        "%s = (f32[2]{0}, f32[16]{0}) all-gather-start(%p), dimensions={0}",
        "%d = f32[16]{0} all-gather-done(%s)",
        "%t = f32[4]{0} all-reduce-start(%p), to_apply=%add",
        "%u = f32[4]{0} all-reduce-done(%t)",
        "%v = ((f32[4]{0}), f32[4]{0}, u32[]) async-start(%p), calls=%wrapped",
        "ROOT %w = f32[4]{0} async-done(%v), calls=%wrapped",
    )
    wrapped = computation("wrapped", "ROOT %x = f32[4]{0} all-to-all(%p), dimensions={0}")
    found = collectives.by_kind(collectives.read(program(*lines, before=wrapped)))
    assert {kind: tuple(row) for kind, row in found.items()} == {
        "all-reduce": (1, 1.0, 16.0),
        "all-gather": (1, 1.0, 64.0),
        "all-to-all": (1, 1.0, 16.0),
    }


def test_names_in_metadata_are_no_collectives():
    text = program('ROOT %all-reduce.9 = f32[4]{0} add(%p, %p), metadata={op_name="all-reduce(x) f32[9] all-gather("}')
    assert collectives.read(text) == []


LOOP = "%w = (s32[], f32[4]{0}) while(%t), condition=%until, body=%body"
REDUCE = "%r = f32[4]{0} all-reduce(%p), replica_groups={{0,1}}, to_apply=%add"
UNTIL = (
    "%c = s32[]{:T(128)} constant(6)",
    "%i = s32[]{:T(128)} get-tuple-element(%p), index=0",
    'ROOT %lt = pred[] compare(%i, %c), direction=LT, metadata={op_name="x"}',
)


def test_a_loop_counts_as_often_as_it_runs():
    until = computation("until", *UNTIL, gives="pred[]")
    inner = computation("inner", REDUCE)
    known = LOOP.replace("%body", "%inner") + ', backend_config={"known_trip_count":{"n":"5"},"x":{}}'
    body = computation("body", known, "%g = f32[32]{0} all-gather(%p), dimensions={0}")
    found = collectives.read(program(LOOP, REDUCE, before=until + inner + body))
    assert sorted((row.kind, row.times) for row in found) == [
        ("all-gather", 6.0),
        ("all-reduce", 1.0),
        ("all-reduce", 30.0),
    ]
    assert collectives.by_kind(found)["all-reduce"] == (2, 31.0, 31.0 * 16)
    assert collectives.summary(found, 2)["all-gather"] == {"number": 1, "times": 3.0, "bytes": 3 * 128}


def test_a_loop_of_unknown_length_is_said():
    until = computation("until", "ROOT %done = pred[] custom-call(%p)", gives="pred[]")
    (found,) = collectives.read(program(LOOP, before=until + computation("body", REDUCE)))
    assert math.isnan(found.times)
    empty = computation("body", "%n = f32[4]{0} negate(%p)")
    assert collectives.read(program(LOOP, before=until + empty)) == []


def test_what_is_called_counts_at_each_call():
    part = computation("part", REDUCE)
    calls = ("%a = f32[4]{0} call(%p), to_apply=%part", "%b = f32[4]{0} fusion(%p), kind=kCustom, calls=%part")
    either = "%c = f32[4]{0} conditional(%i, %p, %p), branch_computations={%part, %part}"
    assert len(collectives.read(program(*calls, either, before=part))) == 4


def test_a_fused_scatter_is_a_scatter():
    """On TPUs a reduce-scatter may be a sum of which each device keeps its part, in a fusion of this name."""
    fused = computation("all-reduce-scatter.3", "%r = f32[8,3]{1,0} all-reduce(%p), replica_groups=[1,8]<=[8]")
    found = one("%f = f32[1,3]{1,0} fusion(%p), kind=kCustom, calls=%all-reduce-scatter.3", before=fused)
    assert (found.kind, found.bytes, found.group) == ("reduce-scatter", 12, 8)


def test_fused_scatters_of_one_channel_are_several():
    sums = "%r = f32[8,3]{1,0} all-reduce(%p), channel_id=1, replica_groups=[1,8]<=[8]"
    before = "".join(computation(f"all-reduce-scatter.{i}", sums) for i in (3, 4))
    lines = [f"%f{i} = f32[1,3]{{1,0}} fusion(%p), kind=kCustom, calls=%all-reduce-scatter.{i}" for i in (3, 4)]
    found = collectives.read(program(*lines, before=before))
    assert [(one.kind, one.entries) for one in found] == [("reduce-scatter", 3)] * 2


def test_the_pieces_of_a_fused_gather_are_one():
    """On TPUs a start, what is computed meanwhile and a done are three fusions, each with the gather of one channel."""
    gather = "%g = f32[8]{0} all-gather(%p), channel_id=%n, replica_groups=[1,8]<=[8], dimensions={0}"
    before = "".join(computation(f"piece.{i}", gather.replace("%n", str(i // 3))) for i in range(3, 9))
    lines = [f"%f{i} = f32[8]{{0}} fusion(%p), kind=kCustom, calls=%piece.{i}" for i in range(3, 9)]
    found = collectives.read(program(*lines, before=before))
    assert [(one.kind, one.channel, one.times) for one in found] == [("all-gather", 1, 1.0), ("all-gather", 2, 1.0)]


def ring(n, size):
    """Bytes that a device sends for a sum of n parts by a ring: round after round, one part of `size` / n each."""
    sums = [[{device} for _ in range(n)] for device in range(n)]  # whose addends a device's sum of a part has
    rounds = 0
    for at in range(n - 1):  # the partial sum of a part moves on and takes the next addend
        moved = [sums[device][(device - at) % n] for device in range(n)]
        for device in range(n):
            sums[(device + 1) % n][(device - at) % n] |= moved[device]
        rounds += 1
    whole = [{part for part in range(n) if len(sums[device][part]) == n} for device in range(n)]
    scatter = rounds
    while any(len(have) < n for have in whole):  # whole parts move on
        at = rounds - scatter
        for device in range(n):
            whole[(device + 1) % n].add((device + 1 - at) % n)
        rounds += 1
    return rounds * size / n, scatter * size / n


@pytest.mark.parametrize("n", [2, 4, 8])
def test_what_a_ring_sends(n):
    arrays = (("f32", (64, 8)),)
    both, half = ring(n, 64 * 8 * 4)
    assert Collective("all-reduce", arrays, n, 1.0).sent == both
    assert Collective("all-gather", arrays, n, 1.0).sent == half
    part = (("f32", (64 // n, 8)),)
    assert Collective("reduce-scatter", part, n, 1.0).sent == half
    found = [Collective("all-reduce", arrays, n, 3.0), Collective("collective-permute", arrays, n, 2.0)]
    assert collectives.sent(found) == 3 * both + 2 * 64 * 8 * 4


def test_scalars_are_no_gradients():
    found = [
        Collective("all-reduce", (("f32", (100,)), ("f32", ()), ("f32", (1, 1))), 8, 2.0),
        Collective("all-reduce", (("f32", ()),), 8, 1.0),
    ]
    assert collectives.gradients(found, 100) == (1, 200.0, 800.0)
    halved = [Collective("all-reduce", (("bf16", (90,)),), 8, 1.0), Collective("all-reduce", (("f32", (10,)),), 8, 1.0)]
    assert collectives.gradients(halved, 100) == (2, 100.0, 220.0)
    assert collectives.gradients(halved, 1100)[0] == 1  # 10 of 1100 are no hundredth


def test_a_text_that_is_no_program():
    with pytest.raises(ValueError, match="ENTRY"):
        collectives.read("module @jit_step {}")


# What the child process runs: `python this_file`


def loss_fn(params, keys, example, index, global_size):
    noise = jax.random.normal(keys.example, example["x"].shape)
    hidden = jnp.tanh((example["x"] + noise) @ params["w"] + params["b"])
    return jnp.mean((hidden @ params["out"] - noise) ** 2), {"t01": jnp.asarray(index, jnp.float32) / global_size}


PARAMETERS = 40 * 256 + 256 + 256 * 40


def a_step(**words):
    """A step, its state and one batch of 16."""
    rng = np.random.default_rng(0)
    normal = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    params = {"w": 0.1 * normal(40, 256), "b": normal(256), "out": 0.1 * normal(256, 40)}
    optimizer, emas, method = optax.adam(1e-3), ema.warm_up([0.9]), training.loss_method(loss_fn)
    step = training.make_step(method, optimizer, emas, **words)
    state = training.init_state(params, optimizer, emas, jax.random.key(3), method)
    return step, state, {"x": normal(16, 40)}


def compiled(devices, k, parts=1):
    """The program that k steps of a run on so many devices dispatch."""
    mesh = parallel.mesh(data=devices)
    across = strict.of_settings(mesh, Settings(batch_size=16, accumulate=parts))
    step, state, batch = a_step(accumulate=parts, across=across)
    like = jax.eval_shape(lambda: (state, jax.tree.map(lambda x: jnp.stack([x] * k), batch)))
    return parallel.lower(training.make_steps(step), *like, mesh, leading=1).compile()


def child():
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    rows = []
    for devices, k, parts in ((2, 1, 1), (4, 1, 1), (8, 1, 1), (8, 3, 1), (4, 1, 2), (4, 3, 4)):
        found = collectives.read(compiled(devices, k, parts).as_text())
        groups = sorted({one.group for one in found})
        summed = collectives.gradients(found, PARAMETERS)
        rows.append({"groups": groups, "kinds": sorted({one.kind for one in found}), **summed._asdict()})
    step, state, batch = a_step()
    mesh, steps, stack = parallel.mesh(data=4), training.make_steps(step), {"x": batch["x"][None]}
    state, placed = parallel.replicate(mesh, state), parallel.shard_batch(mesh, stack, 1)
    numbers = [parallel.replicate(mesh, number) for number in steps.lift(state, placed)[1]]
    alone = parallel.lower(steps, state, placed, mesh, donate=False, leading=1).compile()(numbers, state, placed)
    dispatched = parallel.compile_step(steps, "jit", mesh, donate=False, leading=1)(state, placed)
    same = [np.array_equal(*pair) for pair in zip(*map(jax.tree.leaves, (alone[1], dispatched[1])), strict=True)]
    print(json.dumps({"rows": rows, "same": all(same) and len(same) > 5}))


@pytest.fixture(scope="module")
def measured():
    done = subprocess.run([sys.executable, __file__], env=environment(8), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_gradients_are_summed_once_on_any_number_of_devices(measured):
    """In one part or several: a device adds up the gradients of its own parts first."""
    rows = measured["rows"]
    assert [row["groups"] for row in rows] == [[2], [4], [8], [8], [4], [4]]
    assert all(row["kinds"] == ["all-reduce"] for row in rows)
    numbers = {row["number"] for row in rows}
    assert len(numbers) == 1
    assert numbers <= {1, 2, 3}  # one for each array at most
    for row, steps in zip(rows, (1, 1, 1, 3, 1, 3), strict=True):
        assert row["entries"] / steps == pytest.approx(PARAMETERS, rel=0.01)
        assert row["bytes"] / steps == pytest.approx(4 * PARAMETERS, rel=0.01)


def test_what_is_lowered_is_what_is_dispatched(measured):
    assert measured["same"]


if __name__ == "__main__":
    child()
