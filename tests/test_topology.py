"""Slices of TPUs by name: what is refused in one line, the table of chips, the roofline; slow: compiled for slices."""

import functools
import importlib.util
import re
from types import SimpleNamespace

import jax
import optax
import pytest
import run_command

from diffjax import collectives, data, ema, host, main, parallel, roofline, runs, slices, topology, training
from diffjax.collectives import Collective
from diffjax.runs.run import abstract_state
from diffjax.runs.settings import Settings
from diffjax.topology import CHIPS

HERE = importlib.util.find_spec("libtpu") is not None and jax.__version_info__ >= topology.OLDEST


@pytest.fixture
def ready(monkeypatch):
    """A process whose jax and libtpu are as they should be, and whose environment is its own."""
    monkeypatch.setattr(jax, "__version_info__", (0, 10, 2))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(topology, "os", SimpleNamespace(environ={"TPU_WORKER_HOSTNAMES": "mine"}))
    return topology.os.environ


REFUSED = {
    "": "expected a kind of TPU and the sides of a slice",
    "v5e": "expected a kind of TPU and the sides of a slice",
    "v5e:": "such as v5e:4x4",
    "v5e:4": "expected a kind of TPU and the sides of a slice",
    "v5e:0x4": "expected a kind of TPU and the sides of a slice",
    "v5e:4x-4": "expected a kind of TPU and the sides of a slice",
    "v5litepod-16": "expected a kind of TPU and the sides of a slice",
    "v5e:4x4x4": "slices of v5e have 2 sides",
    "v5p:4x4": "slices of v5p have 3 sides",
    "v6e:32x32": "1024 chips, but slices of v6e have at most 256",
    "v9:99999x99999": "but slices of v9 have at most 10000",
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_name_of_no_slice(name, ready):
    with pytest.raises(ValueError, match=re.escape(REFUSED[name])) as refused:
        topology.check(name)
    assert "\n" not in str(refused.value)
    assert repr(name) in str(refused.value)
    assert ready == {"TPU_WORKER_HOSTNAMES": "mine"}  # what is refused changes nothing


@pytest.mark.parametrize("name", ["v5e:4x4", "v5e:16x16", "v5p:2x2x1", "v4:4x4x8_twisted", "tpu7x:2x2x1"])
def test_the_compiler_finds_its_environment(name, ready):
    topology.check(name)
    assert ready == {**topology.ENVIRONMENT, "TPU_WORKER_HOSTNAMES": "mine"}  # a variable that is set stays


def test_an_old_jax(ready, monkeypatch):
    monkeypatch.setattr(jax, "__version_info__", (0, 9, 2))
    with pytest.raises(ValueError, match=r"--topology needs jax 0\.10 or newer.*pip install -U 'diffjax\[tpu-aot\]'"):
        topology.check("v5e:4x4")


def test_no_compiler(ready, monkeypatch, capsys):
    """By the command itself, which reads neither data nor network for it."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(runs, "build_run", None)
    assert main.main(["--mode=show", "--config=configs/vpsde.py:tiny", "--topology=v5e:4x4"]) == 2
    said = capsys.readouterr()
    assert said.err == (
        "error: --topology needs libtpu, the compiler of TPUs: pip install 'diffjax[tpu-aot]'; no TPU is needed.\n"
    )
    assert said.out == ""


def test_topology_is_for_show_alone(capsys):
    assert main.main(["--config=configs/vpsde.py:tiny", "--topology=v5e:4x4"]) == 2
    assert capsys.readouterr().err == "error: --topology is for --mode=show, not for --mode=train.\n"


def test_the_table_of_chips():
    """Beside what is published of whole pods: peak of bfloat16, and bytes a second that their all-reduce has."""
    pods = {"v4": 1.1e18, "v5e": 50.63e15, "v6e": 234.9e15}
    for name, flops in pods.items():
        assert CHIPS[name].most * CHIPS[name].flops == pytest.approx(flops, rel=0.03)
    for name, rate in {"v5e": 51.2e12, "v6e": 102.4e12}.items():
        assert CHIPS[name].most * CHIPS[name].link == pytest.approx(rate, rel=1e-6)
    assert CHIPS["v5p"].link == 2 * CHIPS["v4"].link
    assert all(chip.name == name for name, chip in CHIPS.items())


def costs(flops=2e12, accessed=4e9, arrays=(25, 10**6), devices=16, calls=1, **options):
    found = [Collective("all-reduce", (("f32", arrays), ("f32", ())), devices, float(calls))]
    memory = dict(argument=30, output=20, alias=15, temp=7, peak=42)
    known = dict(xla_flops=flops, bytes=accessed, memory=memory, found=found, calls=calls, params=25 * 10**6)
    return roofline.Costs(devices, flops, **{**known, **options})


def test_the_roofline():
    least = roofline.bound(costs(), CHIPS["v5e"])
    assert least.compute == pytest.approx(2 / 197)
    assert least.memory == pytest.approx(4 / 819)
    assert least.links == pytest.approx(2 * 15 / 16 * 0.1 / 200)
    assert (least.by, least.seconds) == ("compute", least.compute)
    assert roofline.bound(costs(accessed=16e9), CHIPS["v5e"]).by == "memory"
    wide = roofline.bound(costs(arrays=(1000, 10**6), calls=3), CHIPS["v5e"])  # of one step of three
    assert (wide.by, wide.links) == ("links", pytest.approx(2 * 15 / 16 * 4 / 200))
    core = roofline.bound(costs(), CHIPS["v4"], 2)  # which has half of its chip
    assert core.compute == pytest.approx(2 * 2 / 275)


@pytest.mark.parametrize(("peak", "expected"), [({}, 30 + 20 - 15 + 7), ({"peak_memory_in_bytes": 33}, 33)])
def test_what_is_read_of_a_program(peak, expected):
    sizes = dict(argument_size_in_bytes=30, output_size_in_bytes=20, alias_size_in_bytes=15, temp_size_in_bytes=7)
    text = "HloModule m, num_partitions=4\n\nENTRY %main (p: f32[9]) -> f32[9] {\n  %r = f32[9]{0} all-reduce(%p)\n}\n"
    compiled = SimpleNamespace(
        as_text=lambda: text,
        cost_analysis=lambda: {"flops": 10.0, "bytes accessed": 40.0},
        memory_analysis=lambda: SimpleNamespace(**sizes, **peak),
    )
    read = roofline.costs(compiled, 44.0, 4, 9, 2)
    assert (read.flops, read.xla_flops, read.bytes, read.params, read.calls) == (11.0, 10.0, 40.0, 9, 2)
    assert read.memory == dict(argument=30, output=20, alias=15, temp=7, peak=expected)
    assert read.found == [Collective("all-reduce", (("f32", (9,)),), 4, 1.0)]
    assert not read.looped


def test_what_is_said_of_a_slice():
    devices = [None] * 16
    text = "\n".join(roofline.lines(costs(), topology.Slice("v5e:4x4", devices, 16, CHIPS["v5e"]), 256))
    assert "v5e:4x4, 16 chips" in text
    assert "2000.000 GFLOP, 4000.0 MB accessed a step\n" in text
    assert "no time is measured" in text
    assert "all-reduce 1 in the program, 100.000 MB a step\n" in text
    assert "gradients  1 collective, 25,000,000 numbers a step, scalars apart, of 25,000,000 parameters\n" in text
    rate = 256 / (2 / 197)
    assert f"{rate / 16:,.0f} images/s a chip, {rate:,.0f} in all" in text
    looped = "\n".join(roofline.lines(costs(xla_flops=1e12), topology.Slice("v9:2x2", devices, 16, None), 256))
    assert "a step or more: XLA counts a loop's body once\n" in looped
    assert looped.endswith("only of v4, v5e, v5p, v6e")


def test_a_step_that_does_not_fit_is_one_line():
    said = (
        "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm.\n\n"
        "Total hbm usage (243.13G) exceeds available HBM (15.75G)\n  and a table of it"
    )

    class Lowered:
        def compile(self):
            raise jax.errors.JaxRuntimeError(said)

    with pytest.raises(ValueError, match=r"\(243\.13G\) exceeds available HBM \(15\.75G\); lower train") as refused:
        topology.compiled(Lowered())
    assert "\n" not in str(refused.value)


def test_a_batch_that_the_devices_do_not_divide():
    with pytest.raises(ValueError, match=r"train\.batch_size is 24, expected a multiple of 16, the devices\."):
        parallel.check_size(24, 16)
    with pytest.raises(ValueError, match=r"24, expected a multiple of 8 devices x train\.accumulate = 2\."):
        parallel.check_size(24, 8, 2)


def test_choices_by_platform_are_those_of_the_slice():
    """A step in two parts is unrolled on CPUs, and a loop where it is traced for a TPU, on this same CPU."""

    def unrolled():
        optimizer, emas, method = optax.sgd(0.1), ema.warm_up([0.9]), training.loss_method(lambda p, *_: (p**2, {}))
        step = training.make_step(method, optimizer, emas, accumulate=2)
        state = training.init_state(jax.numpy.ones(()), optimizer, emas, jax.random.key(0), method)
        text = str(jax.make_jaxpr(step)(state, {"x": jax.numpy.ones((4, 1))}))
        return [int(n) for n in re.findall(r"unroll=(\d+)", text)]

    assert 2 in unrolled()
    with host.tracing_for("tpu"):
        assert host.platform() == "tpu"
        assert 2 not in unrolled()
    assert host.platform() == jax.default_backend()


@pytest.mark.parametrize(("words", "said"), [({"backend": "pmap"}, "backend is 'pmap'"), ({"devices": 2}, "is 2, exp")])
def test_a_run_that_a_slice_is_not_compiled_for(words, said, monkeypatch):
    where = topology.Slice("v5e:2x2", [None] * 4, 4, CHIPS["v5e"])
    monkeypatch.setattr(topology, "described", lambda name: where)
    with pytest.raises(ValueError, match=said):
        slices.compiled("v5e:2x2", None, None, None, None, Settings(**words))


# Slow, and where the compiler is: `pip install -e ".[tpu-aot]"`.


def on_slices(names, *changes):
    """What a step of a small transformer, four examples a chip, costs on these slices."""
    found = []
    for name in names:
        chips = len(topology.described(name).devices)
        built = runs.build_run(runs.load("configs/dit.py:digits", [*changes, f"train.batch_size={4 * chips}"]))
        parts = built.method, built.optimizer, built.ema
        make = functools.partial(training.make_step, *parts, accumulate=built.settings.accumulate)
        like = lambda leaf: jax.ShapeDtypeStruct((4 * chips, *leaf.shape), leaf.dtype)  # noqa: B023
        batch = jax.tree.map(like, data.blank(built.data)._replace(given={}))
        found.append(slices.compiled(name, make, built.method, abstract_state(built), batch, built.settings).costs)
    return found


@pytest.mark.slow
@pytest.mark.skipif(not HERE, reason="libtpu comes with the extra tpu-aot alone")
def test_a_split_state_takes_a_share_of_a_chip():
    """Parameters, average and moments of a transformer of 64-wide blocks; small leaves stay whole on every chip."""
    whole, split = (on_slices(("v5e:4x4",), "model.width=128", f"train.fsdp={n}")[0] for n in (1, 4))
    assert 0.25 <= split.memory["argument"] / whole.memory["argument"] < 0.4
    kinds = collectives.summary(split.found, split.calls)
    assert kinds["all-gather"]["number"] > 0


@pytest.mark.slow
@pytest.mark.skipif(not HERE, reason="libtpu comes with the extra tpu-aot alone")
def test_described_slices_sum_gradients_once():
    rows = on_slices(("v5e:2x2", "v5e:4x4", "v5e:16x16"))
    assert [row.devices for row in rows] == [4, 16, 256]
    sums = [collectives.gradients(row.found, row.params) for row in rows]
    assert len({one.number for one in sums}) == 1
    for row, one in zip(rows, sums, strict=True):
        assert one.entries == pytest.approx(row.params, rel=0.01)
        assert one.bytes == pytest.approx(4 * row.params, rel=0.01)
        assert row.flops == pytest.approx(rows[0].flops, rel=0.05)  # the update, which all make, counts as split
        assert row.xla_flops == pytest.approx(rows[0].xla_flops, rel=0.01)
        assert {part.kind for part in row.found} == {"all-reduce"}
        assert {part.group for part in row.found} == {row.devices}


@pytest.mark.slow
@pytest.mark.skipif(not HERE, reason="libtpu comes with the extra tpu-aot alone")
def test_sums_inside_loops_are_counted_as_often_as_they_run():
    """Of five steps of a dispatch and four scanned blocks, whose gradients are summed one block at a time."""
    (row,) = on_slices(("v5e:4x4",), "model.scan=true", "train.steps_per_dispatch=5")
    assert row.looped
    assert any(one.times > 5 for one in row.found)
    summed = collectives.gradients(row.found, row.params)
    assert summed.entries / row.calls == pytest.approx(row.params, rel=0.01)
    assert summed.bytes / row.calls == pytest.approx(4 * row.params, rel=0.01)


@pytest.mark.slow
@pytest.mark.skipif(not HERE, reason="libtpu comes with the extra tpu-aot alone")
@pytest.mark.parametrize("name", ["v5e:3x3", "v9:2x2"])
def test_a_slice_that_the_compiler_refuses(name):
    with pytest.raises(ValueError, match=r"which libtpu refuses: .*; expected such as v5e:4x4") as refused:
        topology.described(name)
    assert "\n" not in str(refused.value)


@pytest.mark.slow
@pytest.mark.skipif(not HERE, reason="libtpu comes with the extra tpu-aot alone")
def test_show_on_a_slice():
    command = ("--mode=show", "--config=configs/dit.py:tiny", "--topology=v5e:2x2")
    status, output = run_command.run(*command)
    assert status == 0, output
    parameters = re.search(r"\ntotal +([\d,]+)\n", output)[1]
    assert re.search(rf"\ngradients +\d collectives?, [\d,]+ numbers a step, .* of {parameters} parameters\n", output)
    assert re.search(r"\ntopology +v5e:2x2, 4 chips, compiled for, not run", output)
    status, output = run_command.run(*command, "--config.train.batch_size=6")
    assert status == 2
    assert output.splitlines()[-1] == "error: train.batch_size is 6, expected a multiple of 4, the devices."
