"""DiT and JiT: the network of NumPy, sizes and FLOPs as published, scans, permutations, precisions, bad input."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import dit as oracle

from diffjax import models, runs, specs
from diffjax.models import blocks, dit, layers, places

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
SMALL = {"depth": 2, "width": 16, "heads": 2}
SHAPE = (4, 6, 2)
NETS = {
    "dit": models.DiT(**SMALL, classes=3, outputs=2),
    "jit": models.JiT(**SMALL, classes=3, bottleneck=6, prefix=2, prefix_from=1),
    "urpe": models.DiT(**SMALL, classes=3, positions="learned", urpe=True, prefix=1, condition=2),
}


def noise_like(module, shape=SHAPE):
    """Parameters away from their initialisation; nothing is compiled for them."""
    shapes = jax.eval_shape(models.network(module).init, KEY, jnp.zeros(shape), jnp.zeros(()))
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: np.asarray(0.3 * rng.normal(size=leaf.shape), leaf.dtype), shapes)


def count(module, shape):
    params = jax.eval_shape(models.network(module).init, KEY, jnp.zeros(shape), jnp.zeros(()))
    return sum(leaf.size for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize("name", [pytest.param("urpe", marks=pytest.mark.slow), "dit", "jit"])
def test_network_is_that_of_numpy(name):
    """Two blocks on 2 x 3 patches of two channels, labels, log-SNRs up to infinity; a scan computes as much."""
    module = NETS[name]
    params, x = noise_like(module), np.random.default_rng(2).normal(size=(4, *SHAPE)).astype(np.float32)
    c, label = np.float32([0.0, -3.0, 0.5, np.inf]), np.int32([0, 1, 2, 3])
    y = RNG.normal(size=x.shape).astype(np.float32) if module.condition else None
    given = {"label": label} | ({} if y is None else {"y": y})
    out = jax.jit(models.network(module).apply)(params, x, c, given)
    table = layers.Embedding(16, 3, 256)
    e, own = (np.asarray(a, np.float64) for a in table.apply({"params": params["embedding"]}, c, label, method="apart"))
    np.testing.assert_array_equal(own, params["embedding"]["label"]["embedding"][label])
    size = module.sizes
    options = {f: getattr(module, f) for f in ("patch", "positions", "norm", "mlp", "qk_norm", "urpe", "outputs")}
    options |= {"heads": size.heads, "prefix": size.prefix, "prefix_from": size.prefix_from}
    seen = x if y is None else np.concatenate([x, y], -1)
    expected = [oracle.forward(params, *row, **options, channels=2) for row in zip(seen, e, own)]
    assert (out.shape, out.dtype) == ((4, 4, 6, 2 * module.outputs), jnp.float32)
    np.testing.assert_allclose(out, expected, rtol=1e-3, atol=2e-4)
    assert np.abs(out[0] - out[1]).max() > 1e-2


def test_a_scan_is_the_blocks_one_after_the_other():
    """Two stacks, before and after the label's tokens; stacking and its inverse are views of one network."""
    module = NETS["jit"]
    params, net = noise_like(module), models.network(module.clone(scan=True))
    whole = dit.stacked(params, prefix_from=1)
    shapes = jax.eval_shape(net.init, KEY, jnp.zeros(SHAPE), jnp.zeros(()))
    assert jax.tree.map(lambda a: a.shape, whole) == jax.tree.map(lambda a: a.shape, shapes)
    jax.tree.map(np.testing.assert_array_equal, dit.unstacked(whole), params)
    x, c, given = RNG.normal(size=SHAPE).astype(np.float32), np.float32(0.3), {"label": np.int32(1)}
    plain = jax.jit(models.network(module).apply)(params, x, c, given)
    np.testing.assert_allclose(jax.jit(net.apply)(whole, x, c, given), plain, rtol=1e-5, atol=1e-5)
    deep = noise_like(models.DiT(depth=3, width=16, heads=2), (4, 4, 1))
    one = dit.stacked(deep)
    assert one["blocks_0"]["qkv"]["kernel"].shape == (3, 16, 48)
    np.testing.assert_array_equal(one["blocks_0"]["qkv"]["kernel"][2], deep["block_2"]["qkv"]["kernel"])


@pytest.mark.slow  # gradients, compiled three times
def test_remat_and_scan_change_no_gradient():
    module, x, c = NETS["jit"], RNG.normal(size=SHAPE).astype(np.float32), np.float32(0.3)
    params = noise_like(module)

    def gradient(**options):
        net = models.network(module.clone(**options))
        lay = (lambda p: dit.stacked(p, 1)) if options.get("scan") else lambda p: p
        return jax.jit(jax.grad(lambda p: jnp.sum(net.apply(lay(p), x, c, {"label": 1}) ** 2)))(params)

    plain = gradient()
    for options in ({"remat": True}, {"remat": True, "scan": True}):
        found = gradient(**options)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3), found, plain)


def test_output_is_zero_and_blocks_do_nothing_at_initialisation():
    h, e = RNG.normal(size=(6, 16)).astype(np.float32), np.ones(16, np.float32)

    net, kind = NETS["jit"].clone(depth=1, prefix_from=0), blocks.Block(2, norm="rms", mlp="swiglu", qk_norm=True)

    @jax.jit
    def made(x, h):
        params = net.init(KEY, x, 0.0)["params"]
        return params, net.apply({"params": params}, x, 0.0), kind.apply({"params": params["block_0"]}, h, e)

    params, out, same = made(np.ones(SHAPE, np.float32), h)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype("float32")}
    np.testing.assert_array_equal(out, 0)
    np.testing.assert_array_equal(same, h)


def test_patches_without_positions_are_a_set():
    """Permuting patches permutes the answer, so does a cyclic shift by a patch, not by a pixel; with sincos neither."""
    shape, patches = (8, 8, 1), lambda x: np.asarray(places.space_to_depth(x, 2)).reshape(16, -1)
    back = lambda p: np.asarray(places.depth_to_space(jnp.asarray(p.reshape(4, 4, -1)), 2))
    order = np.random.default_rng(3).permutation(16)
    x = np.random.default_rng(4).normal(size=shape).astype(np.float32)
    for positions, equal in (("none", True), ("sincos", False)):
        module = models.DiT(depth=1, width=16, heads=2, positions=positions)
        params, apply = noise_like(module, shape), jax.jit(models.network(module).apply)
        f = lambda x: np.asarray(apply(params, x, np.float32(0.3)))  # noqa: B023
        apart = np.abs(f(back(patches(x)[order])) - back(patches(f(x))[order])).max()
        rolled = np.abs(f(np.roll(x, 2, 1)) - np.roll(f(x), 2, 1)).max()
        assert (max(apart, rolled) < 1e-5) == equal
        assert equal or min(apart, rolled) > 1e-2
        assert np.abs(f(np.roll(x, 1, 1)) - np.roll(f(x), 1, 1)).max() > 1e-2


def test_normalised_queries_and_keys_bound_the_logits(monkeypatch):
    """|logit| <= sqrt(D) at scale 1, however large the weights; without the norm they are far above."""
    seen = []
    monkeypatch.setattr(layers, "attention", lambda q, k, v, *rest: (seen.append((q, k)), v)[1])
    h, e = RNG.normal(size=(6, 16)).astype(np.float32), np.ones(16, np.float32)
    for qk_norm in (True, False):
        block = blocks.Block(2, qk_norm=qk_norm)
        shapes = jax.eval_shape(block.init, KEY, h, e)["params"]
        params = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), shapes)
        params["qkv"]["kernel"] = RNG.normal(size=(16, 48)).astype(np.float32)
        loud = {**params, "qkv": {**params["qkv"], "kernel": 100 * params["qkv"]["kernel"]}}
        block.apply({"params": loud}, h, e, jnp.asarray(dit.angles((2, 3), 8)))
    largest = [float(np.abs(np.einsum("qhd,khd->hqk", q, k)).max() / np.sqrt(8)) for q, k in (seen[1], seen[3])]
    assert largest[0] <= np.sqrt(8) * (1 + 1e-5)
    assert largest[1] > 100


def dit_parameters(depth, d, patch=2, channels=4, outputs=2, classes=1000):
    """Peebles & Xie 2023, table 1 and section 3.2, layer by layer."""
    block = (3 * d * d + 3 * d) + (d * d + d) + (4 * d * d + 4 * d) + (4 * d * d + d) + (6 * d * d + 6 * d)
    told = (256 * d + d) + (d * d + d) + (classes + 1) * d
    entries = patch**2 * channels
    return (entries * d + d) + told + depth * block + (2 * d * d + 2 * d) + (d * entries * outputs + entries * outputs)


def jit_parameters(depth, d, heads, bottleneck, patch=16, channels=3, classes=1000, prefix=32):
    """Li & He 2025, table of sizes: RMS norms with scales, SwiGLU of two thirds of 4 d."""
    hidden = int(4 * d * 2 / 3)
    attention = (3 * d * d + 3 * d) + (d * d + d) + 2 * (d // heads)
    block = attention + (2 * d * hidden + 2 * hidden) + (hidden * d + d) + 2 * d + (6 * d * d + 6 * d)
    told = (256 * d + d) + (d * d + d) + (classes + 1) * d + prefix * d
    entries = patch**2 * channels
    ends = entries * bottleneck + bottleneck * d + d + d + (2 * d * d + 2 * d) + (d * entries + entries)
    return told + depth * block + ends


PUBLISHED = {  # millions as printed; DiT's with the fixed positions, 256 d
    ("DiT", "S"): (33, dit_parameters(12, 384), 6.06),
    ("DiT", "B"): (130, dit_parameters(12, 768), 23.01),
    ("DiT", "L"): (458, dit_parameters(24, 1024), 80.71),
    ("DiT", "XL"): (675, dit_parameters(28, 1152), 118.64),
    ("JiT", "B"): (131, jit_parameters(12, 768, 12, 128), None),
    ("JiT", "L"): (459, jit_parameters(24, 1024, 16, 128), None),
    ("JiT", "H"): (953, jit_parameters(32, 1280, 16, 256), None),
}


LATER = {("DiT", "B"), ("DiT", "L"), ("JiT", "B"), ("JiT", "L")}  # as the others, and a second of tracing each


def later(key):
    return pytest.param(*key, marks=[pytest.mark.slow] if key in LATER else [])


@pytest.mark.parametrize(("name", "preset"), list(map(later, PUBLISHED)))
def test_parameters_and_flops_are_those_published(name, preset):
    """By the names that a config gives; giga multiply-adds of an evaluation to 1.5 %: norms and softmax are more."""
    millions, formula, giga = PUBLISHED[name, preset]
    options = {"patch": 2, "outputs": 2} if name == "DiT" else {"patch": 16}
    module = specs.build(models, specs.spec(name, preset=preset, classes=1000, scan=True, **options))
    shape = (32, 32, 4) if name == "DiT" else (256, 256, 3)
    found = count(module, shape)
    assert found == formula
    fixed = 256 * module.sizes.width if name == "DiT" else 0
    assert abs((found + fixed) / 1e6 - millions) < 0.6
    if giga is not None:
        net, x, c = models.network(module), jax.ShapeDtypeStruct(shape, jnp.float32), jnp.zeros(())
        params = jax.eval_shape(net.init, KEY, jnp.zeros(shape), c)
        assert models.flops(net.apply, params, x, c) / 2e9 == pytest.approx(giga, rel=0.015)


def test_flops_are_counted_by_hand():
    """2 per multiply-add; a scan counts as often as it runs, a branch as the dearer, a while loop is unknown."""
    a, b = jnp.ones((3, 4)), jnp.ones((4, 5))
    assert models.flops(lambda a, b: a @ b, a, b) == 2 * 3 * 4 * 5
    twice = lambda x: jax.lax.scan(lambda x, _: (x @ jnp.ones((4, 4)), None), x, None, 7)[0]
    assert models.flops(twice, a) == 7 * 2 * 3 * 4 * 4
    either = lambda p, x: jax.lax.cond(p, lambda x: x @ jnp.ones((4, 4)), lambda x: 2 * x, x)
    assert models.flops(either, True, a) == 2 * 3 * 4 * 4
    assert np.isnan(models.flops(lambda x: jax.lax.while_loop(lambda x: x.sum() < 9, lambda x: 2 * x, x), a))
    image, kernel = jnp.ones((1, 5, 5, 2)), jnp.ones((3, 3, 2, 6))
    numbers = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}
    convolve = lambda x, k: jax.lax.conv_general_dilated(x, k, (1, 1), "SAME", **numbers)
    assert models.flops(convolve, image, kernel) == 2 * 25 * 6 * 9 * 2


@pytest.mark.slow  # compiles a training step; test_commands.py looks at the same number of an MLP
def test_show_says_what_a_forward_pass_costs(capsys):
    """Of the tiny recipe: one evaluation is the network's own FLOPs but for the sampler's few."""
    from diffjax.commands import show

    config = runs.load("configs/dit.py:tiny", ["train.batch_size=2"])
    costs, built = show.run(config), runs.build_run(config)
    net, shape = built.method.parts.network, built.data.shape
    params = jax.eval_shape(net.init, KEY, jnp.zeros(shape), jnp.zeros(()))
    forward = models.flops(net.apply, params, jnp.zeros(shape), jnp.zeros(()))
    assert 1 < costs["evaluation_flops"] / forward < 1.05
    printed = capsys.readouterr().out
    assert f"{costs['nfe']} evaluations per sample, {costs['evaluation_flops'] / 1e6:.2f} MFLOP each" in printed
    total = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert re.search(rf"\ntotal +{total:,}\n", printed)


def test_the_fused_kernel_is_attention_in_float32():
    q, k, v = RNG.normal(size=(3, 2, 6, 2, 8)).astype(np.float32)
    mask = np.tri(6, dtype=bool)
    both = lambda *args: (blocks.fused(*args), layers.attention(*args))
    for shape, seen in (((2, 6, 2, 8), None), ((6, 2, 8), jnp.asarray(mask))):
        args = [jnp.asarray(np.resize(a, shape)) for a in (q, k, v)]
        np.testing.assert_allclose(*jax.jit(both)(*args, seen), atol=1e-6)
    module = models.DiT(depth=1, width=16, heads=2)
    params, args = noise_like(module), (np.ones(SHAPE, np.float32), np.float32(0.3))
    nets = [models.network(net) for net in (module, module.clone(kernel="fused"))]
    plain, fast = jax.jit(lambda params: [net.apply(params, *args) for net in nets])(params)
    np.testing.assert_allclose(fast, plain, atol=1e-5)


def test_the_fused_kernels_softmax_is_in_float32_whatever_its_arguments(x64):
    """Which is why exact tests take `layers.attention`."""
    q, k, v = map(jnp.asarray, RNG.normal(size=(3, 5, 2, 4)))
    with jax.numpy_dtype_promotion("standard"):
        apart = float(jnp.abs(blocks.fused(q, k, v) - layers.attention(q, k, v)).max())
    assert 1e-12 < apart < 1e-6


@pytest.mark.skipif(jax.default_backend() != "gpu", reason="cuDNN's kernel runs on GPUs, and there is none here")
def test_the_fused_kernel_is_cudnns_on_a_gpu():
    q, k, v = jnp.asarray(RNG.normal(size=(3, 2, 64, 4, 64)), jnp.bfloat16)
    for run in (blocks.fused, jax.vmap(blocks.fused)):
        assert "cudnn" in jax.jit(run).lower(q, k, v).as_text().lower()
        np.testing.assert_allclose(jax.jit(run)(q, k, v), layers.attention(q, k, v), atol=3e-2)


def test_products_are_of_the_compute_dtype():
    """Sums, norms, rotation, softmax and the output are float32: what bfloat16 rounds there stays in the sample."""
    module = NETS["jit"].clone(dtype="bfloat16")
    x, c = np.ones(SHAPE, np.float32), np.float32(0.3)
    lines = str(jax.make_jaxpr(models.network(module).apply)(noise_like(module), x, c)).splitlines()
    results = [line.split("=")[0] for line in lines if "dot_general" in line]
    assert sum("bf16" in of for of in results) == 2 + 2 * 5  # bottleneck, patch; qkv, values, out, up, down
    for name in (" exp ", " cos ", " sin ", "rsqrt", "reduce_max"):
        assert not any("bf16" in line.split("=")[0] for line in lines if name in line), name


BAD = [
    ({"preset": "M"}, (4, 4, 1), "preset = 'M' is unknown: .*mini"),
    ({"preset": "DiT-B/2"}, (4, 4, 1), "preset = 'DiT-B/2' is unknown: preset=B with patch=2"),
    ({"preset": "DiT-C/2"}, (4, 4, 1), "preset = 'DiT-C/2' is unknown: .*it has B, H"),
    ({"patch": 3}, (8, 4, 1), "patch = 3 does not divide the sides of an example 8x4: take one of 1, 2, 4, or another"),
    ({"heads": 3, "width": 16}, (4, 4, 1), "heads = 3 does not divide the width 16: take one of 1, 2, 4, or another"),
    ({"width": 18, "heads": 3}, (4, 4, 1), "on 2 axes take a width that is a multiple of 4, got 18"),
    ({"width": 18, "heads": 3, "positions": "rotary"}, (4, 4, 1), "heads whose width is a multiple of 4, got 6"),
    ({"positions": "sine"}, (4, 4, 1), "positions = 'sine' is unknown; choose from sincos, rotary, both"),
    ({"norm": "batch"}, (4, 4, 1), "norm = 'batch' is unknown; choose from layer, rms"),
    ({"mlp": "relu"}, (4, 4, 1), "mlp = 'relu' is unknown; choose from gelu, swiglu"),
    ({"kernel": "flash"}, (4, 4, 1), "kernel = 'flash' is unknown; choose from einsum, fused"),
    ({"dtype": "float16"}, (4, 4, 1), "dtype = 'float16' is unknown"),
    ({"depth": 0}, (4, 4, 1), "depth = 0: expected a positive integer"),
    ({"prefix": -1}, (4, 4, 1), "prefix = -1: expected a positive integer"),
    ({"prefix": 2, "prefix_from": 4}, (4, 4, 1), "prefix_from = 4: expected less than depth = 4"),
    ({"classes": 0}, (4, 4, 1), "classes = 0: expected a positive integer"),
    ({"dropout": 1.0}, (4, 4, 1), "dropout = 1.0: expected a probability"),
    ({}, (4,), r"takes images \(H, W, C\), sequences \(L, C\) or volumes .*, got shape \(4,\)"),
]


@pytest.mark.parametrize(("options", "shape", "message"), BAD)
def test_bad_input_is_one_readable_line(options, shape, message):
    with pytest.raises(ValueError, match=message) as error:
        jax.eval_shape(models.network(models.DiT(**options)).init, KEY, jnp.zeros(shape), jnp.zeros(()))
    assert "\n" not in str(error.value)


def test_what_the_data_decides():
    of = models.DiT.of_data
    assert [of(shape, 3)["patch"] for shape in ((8, 8, 1), (28, 28, 1), (32, 32, 3), (64, 64, 3), (256, 256, 3))] == [
        2,
        4,
        4,
        4,
        16,
    ]
    assert of((8, 8, 1), None) == {"patch": 2, "classes": None, "text": ()}
    for shape in ((31, 32, 1), (2,)):
        with pytest.raises(ValueError, match=re.escape(f"finds none for {shape}")):
            of(shape, None)
    assert models.DiT(classes=3, condition=2).reads == {"label": "label", "y": "condition"}


@pytest.mark.slow  # 300 steps in each precision: about a minute of CPU time
def test_bfloat16_learns_digits_as_float32_does():
    """One seed, so that batches, times and noise are the same: the losses of the last steps, and their mean."""
    losses = {}
    for dtype in ("float32", "bfloat16"):
        changes = ["model.depth=2", "model.width=32", "train.steps=300", "train.log_every=50", f"model.dtype={dtype}"]
        config = runs.load("configs/dit.py", [*changes, "train.sample_every=300", "checkpoint.every=300"])
        with runs.Trainer(**runs.build_run(config)._asdict()) as trainer:
            trainer.train()
            losses[dtype] = trainer.loss
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.03)
