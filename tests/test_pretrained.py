"""Published weights: files that lie are refused in one line, all faults are said at once, a run comes out."""

import json
import pickle
import re
import struct
from typing import Any

import flax.serialization
import jax
import jax.numpy as jnp
import msgpack
import numpy as np
import pytest
from oracles import transformers, unets
from safetensors.numpy import save_file

import diffjax
from diffjax import config, denoisers, models, pretrained, published, runs, schedules
from diffjax.pretrained import ddpm, dit, files, folder, maps
from diffjax.pretrained.__main__ import main

SIZES = ("model.channels=8", "model.multipliers=1,2", "model.blocks=1", "grid.n=2")
GROUPS = ("model.groups=2",)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """(safetensors of a small DDPM, its arrays, msgpack of a training state with a small network of consistency)."""
    place, x = tmp_path_factory.mktemp("weights"), np.zeros((3, 8, 8))
    named, song = unets.Weights(0), unets.Weights(1)
    unets.diffusers(named, x, 0, (8, 16), 1, (1,), groups=2)
    arrays = {name: array.astype(np.float32) for name, array in named.items()}
    save_file(arrays, place / "ddpm.safetensors", {"format": "pt"})
    unets.ncsnpp(song, x, 0.0, 8, (1, 2), 1, (1,), fir=False, pyramid=False, fourier=False)
    extra = {"sigmas": np.zeros(1000, np.float32)}
    save_file({f"module.{n}": a.astype(np.float32) for n, a in {**song, **extra}.items()}, place / "vp.safetensors")
    return place, arrays


def refused(path, text):
    with pytest.raises(config.ConfigError, match=re.escape(text)) as caught:
        files.open_file(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1600


class Bomb:
    def __reduce__(self):
        return (print, ("executed",))


def test_a_pickle_is_never_loaded(tmp_path, capsys):
    """In both layouts of PyTorch, and in a numpy object array."""
    for protocol in (2, 3, 4, 5):
        (tmp_path / "a.pth").write_bytes(pickle.dumps({"w": Bomb()}, protocol))
        refused(tmp_path / "a.pth", "runs code when it is loaded, and never is: where you trust it, write its")
    np.savez(tmp_path / "zip.npz", w=np.asarray([Bomb()], object))
    refused(tmp_path / "zip.npz", "a zip, as PyTorch's .pth and .pt are")
    assert "executed" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"\x89HDF\r\n\x1a\n" + bytes(30), "HDF5, expected .safetensors"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer to a file that Git LFS has not fetched"),
        (b"", "is no file of weights"),
        (b"hello, these are no weights", "is no file of weights, expected .safetensors or Flax's msgpack"),
    ],
)
def test_what_is_no_file_of_weights(tmp_path, content, text):
    (tmp_path / "x.bin").write_bytes(content)
    refused(tmp_path / "x.bin", text)


def test_a_file_that_is_not_there_or_a_folder(tmp_path):
    refused(tmp_path / "none.safetensors", "There is no file")
    refused(tmp_path, "is a folder, expected a file of weights")


def lying(header, data=bytes(16), length=None):
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


F32 = lambda shape, begin, end: {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (lying({"a": F32([4], 0, 16)}, length=2**62), "its header would have 4,611,686,018,427,387,904 bytes"),
        (lying({"a": F32([4], 0, 16), "b": F32([4], 16, 32)}), "'b' ends beyond the file"),
        (lying({"a": F32([4], 0, 16), "b": F32([2], 8, 16)}), "'b' overlaps 'a'"),
        (lying({"a": F32([2], 8, 16)}), "leaves a gap behind 'the header'"),
        (lying({"a": F32([3], 0, 16)}), "another number of bytes than its data_offsets"),
        (lying({"a": F32([2**40, 2**40], 0, 16)}), "another number of bytes than its data_offsets"),
        (lying({"a": {**F32([4], 0, 16), "dtype": "F8_E4M3"}}), "'a' has dtype 'F8_E4M3', expected one of F64"),
        (lying({"a": F32([-4], 0, 16)}), "expected a few integers >= 0"),
        (lying({"a": F32([4], 0, 16)}, bytes(20)), "4 bytes more than its header says"),
        (lying({"a": "x"}), "has no dtype, shape and data_offsets"),
        (b"\x20" + bytes(7) + b"{" + b"[" * 31, "is no JSON"),
    ],
)
def test_a_header_that_lies(tmp_path, content, text):
    (tmp_path / "x.safetensors").write_bytes(content)
    refused(tmp_path / "x.safetensors", text)


def packed(code, data):
    return msgpack.packb({"params": {"a": {"kernel": msgpack.ExtType(code, data)}}})


triple = lambda shape, kind, content: msgpack.packb((shape, kind, content), use_bin_type=True)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (flax.serialization.to_bytes({"params": {"a": np.zeros(9)}})[:-3], "is no whole msgpack of Flax"),
        (b"\x81\xa1a\xdf\xff\xff\xff\xff", "is no whole msgpack of Flax"),  # a map of four thousand million entries
        (b"\x81\xa1a" * 3000, "is no whole msgpack of Flax"),
        (packed(5, b"x"), "a/kernel is of msgpack's extension type 5, expected 1"),
        (packed(2, b"x"), "a/kernel is of msgpack's extension type 2, expected 1"),
        (packed(1, b"\xc1"), "a/kernel is no array of Flax"),
        (
            packed(1, triple([4], "float32", bytes(15))),
            "a/kernel is float32 of shape (4,), which is not what its bytes",
        ),
        (packed(1, triple([-4], "float32", bytes(16))), "which is not what its bytes are"),
        (packed(1, triple([2**62], "float32", bytes(16))), "which is not what its bytes are"),
        (packed(1, triple([1], "object", bytes(8))), "a/kernel is no array of Flax"),
        (packed(1, triple([2], "V4", bytes(8))), "a/kernel is no array of Flax"),
        (msgpack.packb({"params": {3: {}}}), "expected text"),
    ],
)
def test_a_msgpack_that_lies(tmp_path, content, text):
    (tmp_path / "checkpoint_80").write_bytes(content)
    refused(tmp_path / "checkpoint_80", text)


def test_numbers_that_are_not_finite_are_refused(tmp_path):
    bad = np.asarray([1.0, np.nan], np.float32)
    (tmp_path / "state").write_bytes(flax.serialization.to_bytes({"params": {"a": bad}}))
    save_file({"a": bad}, tmp_path / "a.safetensors")
    for name in ("state", "a.safetensors"):
        with pytest.raises(ValueError, match="a holds numbers that are not finite"):
            files.open_file(tmp_path / name).entries["a"].read()


def test_the_average_of_a_training_state_is_read(tmp_path):
    """What samples are made with; optimizer, counters and random state beside it are passed over."""
    state = {"step": 3, "opt_state": {"0": {"mu": np.ones(3)}}, "params": {"a": np.zeros(2)}, "params_ema": {}}
    state["params_ema"] = {
        "b": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3), "half": jnp.ones(2, jnp.bfloat16)}
    }
    (tmp_path / "state").write_bytes(flax.serialization.to_bytes(state))
    file = files.open_file(tmp_path / "state")
    assert {name: (entry.shape, entry.dtype) for name, entry in file.entries.items()} == {
        "b/kernel": ((2, 3), "float32"),
        "b/half": ((2,), "bfloat16"),
    }
    np.testing.assert_array_equal(file.entries["b/kernel"].read(), np.arange(6).reshape(2, 3))


def small_ddpm():
    """The network of the fixture's first file, and the leaves of its parameters."""
    module = models.PublishedUNet.preset("ddpm", channels=8, multipliers=(1, 2), blocks=1, groups=2)
    key, x = jax.random.key(0), jnp.zeros((8, 8, 3), jnp.float32)
    return ddpm.leaves(module, jax.eval_shape(models.of(module).init, key, x, jnp.float32(0)))


def test_all_faults_are_said_at_once(weights, tmp_path):
    broken = dict(weights[1])
    broken["time_embeding.linear_1.weight"] = broken.pop("time_embedding.linear_1.weight")
    del broken["conv_out.bias"]
    broken["conv_in.weight"] = broken["conv_in.weight"][:4]
    broken["conv_norm_out.bias"] = broken["conv_norm_out.bias"].astype(np.int32)
    save_file(broken, tmp_path / "broken.safetensors")
    with pytest.raises(pretrained.WeightsError) as caught:
        maps.check(files.open_file(tmp_path / "broken.safetensors"), small_ddpm(), "DDPM")
    assert {(fault.kind, fault.name) for fault in caught.value.faults} == {
        ("missing", "time_embedding.linear_1.weight"),
        ("missing", "conv_out.bias"),
        ("unexpected", "time_embeding.linear_1.weight"),
        ("other", "conv_in.weight"),
        ("other", "conv_norm_out.bias"),
    }
    text = str(caught.value)
    for part in (
        "2 missing (",
        "1 not wanted (time_embeding.linear_1.weight (nearest is time_embedding.linear_1.weight))",
        "conv_in.weight is of shape (4, 3, 3, 3), expected (8, 3, 3, 3)",
        "conv_norm_out.bias is int32, expected real numbers",
    ):
        assert part in text
    assert "\n" not in text


def test_weights_of_another_network_say_which(weights, monkeypatch):
    """A family whose names begin as the file's do is held against it by name and shape."""
    small = pretrained.FAMILIES["ddpm-cifar10"]

    def own():
        made = small.config()
        made.model.update(dict(channels=8, multipliers=(1, 2), blocks=1, groups=2))
        return made

    known = {"ddpm-cifar10": small._replace(config=own), "score-sde-vp": pretrained.FAMILIES["score-sde-vp"]}
    monkeypatch.setattr(folder, "FAMILIES", known)
    file = files.open_file(weights[0] / "ddpm.safetensors")
    assert folder._hint("score-sde-vp", file) == " It looks like ddpm-cifar10, of which it has 100% by name and shape."
    assert folder._hint("ddpm-cifar10", file) == ""


def test_the_positions_in_a_file_of_dit_have_to_be_the_sines_of_this_library(tmp_path):
    """The oracle's table, where the axis that comes last has the first half of the entries, is taken; any other not."""
    net = models.DiT(preset="tiny", width=16, patch=2)
    own = transformers.positions(3, 16)  # of 6 x 6 places in patches of 2

    def of(table):
        save_file({"pos_embed": table.astype(np.float32)}, tmp_path / "x.safetensors")
        file = files.open_file(tmp_path / "x.safetensors")
        maps.check_computed(file, dit.positions(net, (6, 6, 4)), "DiT")

    of(own[None])
    with pytest.raises(pretrained.WeightsError, match=r"pos_embed differs by 0\.0003 from the table that DiT computes"):
        of((own + 3e-4)[None])
    with pytest.raises(pretrained.WeightsError, match="pos_embed differs"):  # the other axis first
        of(own.reshape(3, 3, 16).swapaxes(0, 1).reshape(1, 9, 16))
    with pytest.raises(pretrained.WeightsError, match=r"pos_embed is of shape \(1, 4, 16\), expected \(9, 16\)"):
        of(own[None, :4])


def test_names_of_another_network_have_no_nearest(tmp_path):
    """Of a file that has next to nothing of a network; and what is missing stands in the order of numbers."""
    save_file({"conv_in.weigth": np.zeros((3,), np.float32)}, tmp_path / "x.safetensors")
    with pytest.raises(pretrained.WeightsError, match=r"1 not wanted \(conv_in.weigth\)"):
        maps.check(files.open_file(tmp_path / "x.safetensors"), small_ddpm(), "DDPM")
    blocks = {f"block_{i}/bias": maps.leaf((f"b{i}",), (3,)) for i in range(12)}
    found = maps.problems(files.open_file(tmp_path / "x.safetensors"), dict(sorted(blocks.items())))
    assert [fault.name for fault in found if fault.kind == "missing"] == [f"b{i}" for i in range(12)]


@pytest.mark.slow
def test_a_run_of_another_network_is_refused_before_anything_is_written(weights, tmp_path, capsys):
    flags = [f"--config.{text}" for text in SIZES]
    status = main(["score-sde-vp", str(weights[0] / "ddpm.safetensors"), f"--out={tmp_path / 'run'}", *flags])
    (line,) = capsys.readouterr().err.splitlines()
    assert status == 2
    assert "does not hold the weights of DDPM++ under the VP-SDE" in line
    assert not (tmp_path / "run").exists()


def status_of(arguments):
    """Mistakes of flags leave by SystemExit, as those of any parser."""
    try:
        return main(arguments)
    except SystemExit as left:
        return left.code


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["ddpm-cifar"], "There are no published weights 'ddpm-cifar': nearest is 'ddpm-cifar10'"),
        (["ddpm-cifar10"], "ddpm-cifar10 needs a FILE, the weights"),
        (["ddpm-cifar10", "FILE"], "ddpm-cifar10 needs --out=FOLDER"),
        (["ddpm-cifar10", "none", "--out=OUT"], "There is no file 'none'"),
        (["ddpm-cifar10", "FILE", "--out=OUT", "--steps=3"], "unknown argument '--steps=3'"),
        (["ddpm-cifar10", "FILE", "--out=OUT", "--seeds=a"], "cannot read 'a'"),
        (
            ["ddpm-cifar10", "FILE", "--out=OUT", "--config.model.chanels=8"],
            "no attribute 'chanels': nearest is",
        ),
        (["ddpm-cifar10", "FILE", "--out=FULL"], "is there and not empty: give a new folder"),
        (["consistency-cifar10", "FILE", "--out=OUT"], "is safetensors, but consistency-cifar10 is read from msgpack"),
    ],
)
def test_mistakes_are_one_line(weights, tmp_path, monkeypatch, capsys, arguments, text):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("mine")
    known = {name: pretrained.FAMILIES[name] for name in ("ddpm-cifar10", "consistency-cifar10")}
    monkeypatch.setattr(folder, "FAMILIES", known)
    monkeypatch.setattr(folder, "_hint", lambda name, file: "")
    words = {"FILE": str(weights[0] / "ddpm.safetensors"), "OUT": str(tmp_path / "out"), "FULL": str(tmp_path / "full")}
    given = [re.sub("FILE|OUT|FULL", lambda found: words[found[0]], argument) for argument in arguments]
    assert status_of(given) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert text in line


def test_the_list_of_families(capsys):
    assert main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(pretrained.FAMILIES)


def build(name, **changes):
    made, family = folder.config_of(name), pretrained.FAMILIES[name]
    with made.unlocked():
        made.model.update(changes)
    return runs.build_run(made, lambda make: folder._card(family, name, made))


@pytest.mark.parametrize(
    "name",
    [name if name.startswith("sit") else pytest.param(name, marks=pytest.mark.slow) for name in pretrained.FAMILIES],
)
def test_every_recipe_is_one_that_builds(name):
    """With a small network: schedule, target, loss, denoiser, sampler, grid and the card of the data go together."""
    small = dict(depth=1, width=8, heads=2) if "it-" in name else dict(channels=8, multipliers=(1, 2), blocks=1)
    small |= {} if "it-" in name else {"attention": (1,)}
    built = build(name, **small)
    assert built.data.shape == pretrained.FAMILIES[name].shape
    assert built.method.plan(built.data.shape).start.shape == ()


@pytest.mark.slow
@pytest.mark.parametrize("name", pretrained.FAMILIES)
def test_every_recipe_builds_at_its_size(name):
    assert build(name).data.shape == pretrained.FAMILIES[name].shape


def test_a_file_becomes_a_run_of_its_parameters(weights, tmp_path, capsys):
    """PyTorch's tensors with DataParallel's prefix and a buffer; opened again, without data and a word on it."""
    out = folder.convert("score-sde-vp", weights[0] / "vp.safetensors", tmp_path / "run", SIZES)
    run = runs.open(out)
    assert (run.step, run.name, run.data.shape) == (0, "score-sde-vp", (32, 32, 3))
    assert "not here" not in capsys.readouterr().out
    file = files.open_file(weights[0] / "vp.safetensors")
    kernel = file.entries["module.all_modules.2.weight"].read()
    np.testing.assert_array_equal(run.params["conv_in"]["kernel"], kernel.transpose(2, 3, 1, 0))
    np.testing.assert_array_equal(run.state.params["conv_in"]["kernel"], run.params["conv_in"]["kernel"])
    schedule = run.method.parts.schedule
    np.testing.assert_allclose(schedule(0.5), schedules.VP(0.1, 20.0)(0.5))


@pytest.mark.slow
def test_one_command_draws(weights, tmp_path, capsys):
    """A picture per seed; another command draws the samples again, and another sampler others."""
    flags = [f"--config.{text}" for text in (*SIZES, *GROUPS, "sample.chunk=2")]
    out = tmp_path / "run"
    file = str(weights[0] / "ddpm.safetensors")
    assert main(["ddpm-cifar10", file, f"--out={out}", "--seeds=0-1", *flags]) == 0
    assert {path.name for path in (out / "samples" / "seeds").iterdir()} >= {"seed_0.png", "seed_1.png", "samples.npz"}
    x = np.load(out / "samples" / "seeds" / "samples.npz")["x"]
    run = diffjax.open(out)
    np.testing.assert_array_equal(run.draw(2), x)
    assert np.abs(x).max() <= 1.0 + 1e-6  # the published sampler confines x_0
    assert not np.array_equal(run.draw(2, sampler="ancestral.ddpm"), x)
    assert "parameters" in capsys.readouterr().out


def test_the_package_is_also_the_function_that_it_was(monkeypatch):
    monkeypatch.setattr(published, "pretrained", lambda source, **options: (source, options))
    assert diffjax.pretrained is pretrained
    called: Any = diffjax.pretrained
    assert called("hf:owner/name", sha256="0") == ("hf:owner/name", {"sha256": "0"})


def test_the_target_of_consistency_models():
    """f = c_skip x + c_out F is the published preconditioning; a x_0 + b z is what F has to be; f(x, least) = x."""
    target, schedule, e, d = denoisers.Consistency(0.5, 0.002), schedules.EDM(80.0), 0.002, 0.5
    for sigma in (0.01, 0.5, 80.0):
        skip, out = (float(value) for value in target.skip_out(schedule, sigma))
        np.testing.assert_allclose(skip, d**2 / ((sigma - e) ** 2 + d**2), rtol=1e-5)
        np.testing.assert_allclose(out, d * (sigma - e) / np.sqrt(sigma**2 + d**2), rtol=1e-5)
        a, b = (float(value) for value in target(schedule, sigma))
        for x0, z in ((1.3, -0.4), (-0.2, 2.0)):
            np.testing.assert_allclose(skip * (x0 + sigma * z) + out * (a * x0 + b * z), x0, rtol=2e-3, atol=2e-4)
        x_in, c = target.inputs(schedule, jnp.float32(3.0), sigma)
        np.testing.assert_allclose(float(x_in), 3.0 / np.sqrt(sigma**2 + d**2), rtol=1e-6)
        np.testing.assert_allclose(float(c), -2 * np.log(sigma), rtol=1e-5)
    assert [float(value) for value in target.skip_out(schedule, e)] == [1.0, 0.0]
    assert [float(value) for value in target.skip_out(schedule, 0.0)] == [1.0, 0.0]


def test_one_step_of_a_consistency_model_is_f():
    """From sigma = 80 the walk of one step, as its recipe has it, is f(80 z, 80); the network gives 1/4 everywhere."""
    made = folder.config_of("consistency-cifar10")
    net = models.from_function(lambda params, x, c, given: jnp.full(x.shape, 0.25), {})
    parts = {name: made[name] for name in ("schedule", "target", "sampler", "grid")}
    method = runs.assemble(network=net, **parts)
    found = method.draw({}, method.plan((4, 4, 3)), jax.random.key(0), {})
    x = 80 * jax.random.normal(jax.random.split(jax.random.key(0))[0], (4, 4, 3))
    d, level = 0.5, 80.0
    skip, out = d**2 / ((level - 0.002) ** 2 + d**2), d * (level - 0.002) / np.hypot(level, d)
    np.testing.assert_allclose(found, skip * np.asarray(x, np.float64) + out * 0.25, rtol=1e-5, atol=1e-6)


def test_a_map_that_makes_another_shape_is_the_maps_fault(weights):
    """`fill` holds what it made against the network: a wrong turn is no fault of the file."""
    file = files.open_file(weights[0] / "ddpm.safetensors")
    shape = file.entries["conv_in.weight"].shape
    wrong = {"kernel": maps.Leaf((("conv_in.weight",),), (shape,), lambda array: array)}
    with pytest.raises(ValueError, match=r"kernel became .* the map is wrong"):
        maps.fill(file, wrong, {"kernel": jax.ShapeDtypeStruct((3, 3, 3, 8), jnp.float32)})
