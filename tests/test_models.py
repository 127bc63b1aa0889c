"""Networks against themselves batched, at initialisation, in other precisions, and on bad input."""

import functools
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from diffjax import models

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
LOG_SNRS = np.float32([-np.inf, -3.0, 0.5, np.inf])

SMALL = {"channels": 8, "multipliers": (1, 2), "attention": (4,)}
TINY = {"channels": 8, "multipliers": (1,), "attention": (4,)}
NETS = {
    "mlp": (models.MLP(16, 2, classes=3), (5,)),
    "mlp bfloat16": (models.MLP(16, 2, classes=3, dtype="bfloat16"), (5,)),
    "unet": (models.UNet(**SMALL, classes=3), (8, 8, 1)),
    "unet oblong, rich": (
        models.UNet(8, (1, 2), 1, (8,), 4, 3, 0.3, 0.5**0.5, embedding="fourier", remat=True),
        (8, 12, 3),
    ),
    "dit": (models.DiT(depth=1, width=16, heads=2, classes=3), (4, 4, 1)),
    "jit, scan, bfloat16": (
        models.JiT(depth=2, width=16, heads=2, classes=3, scan=True, remat=True, dtype="bfloat16"),
        (4, 6, 2),
    ),
    "unet patch bfloat16": (models.UNet(**TINY, classes=3, patch=2, dtype="bfloat16"), (8, 8, 2)),
}
ALL = pytest.mark.parametrize("name", NETS)


def compiled(fn, *args):
    """`fn` for arguments of these shapes."""
    return jax.jit(fn).lower(*args).compile()


def noise_like(module, shape):
    """Parameters away from their initialisation, where the output is zero; nothing is compiled for them."""
    shapes = jax.eval_shape(models.network(module).init, KEY, jnp.zeros(shape), jnp.zeros(()))
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: np.asarray(0.3 * rng.normal(size=leaf.shape), leaf.dtype), shapes)


@functools.cache
def perturbed(name):
    """(apply, params) of a net in the table; `apply` is compiled once, for `batch`."""
    module, shape = NETS[name]
    params = noise_like(module, shape)
    return compiled(models.network(module).apply, params, *batch(shape)), params


def batch(shape, n=4):
    given = {"label": np.int32([0, 2, 3, 1])[:n]}
    return np.random.default_rng(2).normal(size=(n, *shape)).astype(np.float32), LOG_SNRS[:n], given


@pytest.mark.parametrize("name", ["mlp bfloat16", "unet"])
def test_zero_at_init_with_float32_parameters(name):
    module, shape = NETS[name]
    params = jax.device_get(models.init(models.network(module), KEY, shape))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype("float32")}
    assert len({float(np.std(leaf)) for leaf in jax.tree.leaves(params)}) > 4  # and not zero everywhere
    out = perturbed(name)[0](params, *batch(shape))
    assert (out.shape, out.dtype) == ((4, *shape), jnp.float32)
    np.testing.assert_array_equal(out, 0)


@ALL
def test_vmap_is_the_batched_network_at_equal_flops(name):
    module, shape = NETS[name]
    apply, params = perturbed(name)
    args = (params, *batch(shape))
    mapped = compiled(jax.vmap(models.network(module).apply, (None, 0, 0, 0)), *args)
    out = mapped(*args)
    assert (out.shape, out.dtype) == (args[1].shape, jnp.float32)
    assert np.all(np.isfinite(out))  # at infinite log-SNR too
    assert np.abs(out).max() > 0.1
    apart = 3e-2 if "bfloat16" in name else 1e-6  # bfloat16 has 8 bits, and rounds a last bit of float32 either way
    np.testing.assert_allclose(out, apply(*args), rtol=apart, atol=apart)
    # XLA counts what it has rewritten: conversions of bfloat16 and small sums come out one way or the other.
    rel = 5e-2 if "bfloat16" in name else 1e-3
    assert mapped.cost_analysis()["flops"] == pytest.approx(apply.cost_analysis()["flops"], rel=rel)


def equations(jaxpr):
    """All equations, those of inner jaxprs included."""
    for eqn in jaxpr.eqns:
        yield eqn
        for value in eqn.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


def primitives(fn, *args):
    return list(equations(jax.make_jaxpr(fn)(*args).jaxpr))


def test_vmapped_convolutions_stay_one_convolution_each():
    module, shape = NETS["unet"]
    x, c, given = batch(shape)
    apply, params = models.network(module).apply, perturbed("unet")[1]
    found = primitives(jax.vmap(apply, (None, 0, 0, 0)), params, x, c, given)
    convolutions = [eqn for eqn in found if eqn.primitive.name == "conv_general_dilated"]
    assert len(convolutions) == 2 + 2 * (1 + 1 + 1 + 2 + 2 + 1 + 2)  # the ends; encode, down, encode, middle, ...
    assert {eqn.params["feature_group_count"] for eqn in convolutions} == {1}
    assert {eqn.params["batch_group_count"] for eqn in convolutions} == {1}


@ALL
def test_examples_do_not_mix(name):
    apply, params = perturbed(name)
    x, c, given = batch(NETS[name][1])
    moved = x + np.float32(np.arange(4) == 1).reshape(4, *[1] * (x.ndim - 1))
    out, other = (np.asarray(apply(params, batch, c, given)) for batch in (x, moved))
    np.testing.assert_array_equal(out[[0, 2, 3]], other[[0, 2, 3]])
    assert np.abs(out[1] - other[1]).max() > 1e-3


@ALL
def test_output_depends_on_log_snr_and_label(name):
    apply, params = perturbed(name)
    x = np.broadcast_to(batch(NETS[name][1])[0][:1], (4, *NETS[name][1]))
    same = {"label": np.full(4, 1, np.int32)}
    by_c = np.asarray(apply(params, x, LOG_SNRS, same))
    by_label = np.asarray(apply(params, x, np.full(4, 0.5, np.float32), {"label": np.arange(4, dtype=np.int32)}))
    for outputs in (by_c, by_label):
        assert min(np.abs(a - b).max() for a, b in itertools.combinations(outputs, 2)) > 1e-3
    np.testing.assert_array_equal(by_c[2], by_label[1])
    clipped = apply(params, x, np.float32([-20.0, -1e30, 1e30, 20.0]), same)
    np.testing.assert_array_equal(clipped, by_c[[0, 0, 3, 3]])


def test_label_none_is_the_row_after_the_classes():
    apply, params = perturbed("mlp")
    x, c, _ = batch((5,))
    unlabelled = jax.jit(models.network(NETS["mlp"][0]).apply)(params, x, c)
    np.testing.assert_allclose(unlabelled, apply(params, x, c, {"label": np.full(4, 3, np.int32)}), atol=1e-6)


def test_a_label_out_of_range_is_not_clamped():
    apply, params = perturbed("mlp")
    out = apply(params, np.ones((4, 5), np.float32), np.zeros(4, np.float32), {"label": np.int32([4, 3, 99, 0])})
    np.testing.assert_array_equal(np.isnan(out).all(1), [True, False, True, False])


@pytest.mark.parametrize(("module", "shape"), [(models.MLP(16, 1), (5,)), (models.UNet(**TINY), (4, 4, 1))])
def test_dropout_in_training_only(module, shape):
    params = noise_like(module, shape)
    net = models.network(module.clone(dropout=0.5))
    x, c = np.ones(shape, np.float32), np.float32(0.5)
    dropped = compiled(lambda params, key: net.apply(params, x, c, train=True, key=key), params, KEY)
    trained = [np.asarray(dropped(params, jax.random.key(i))) for i in (0, 1, 0)]
    assert np.abs(trained[0] - trained[1]).max() > 1e-3
    np.testing.assert_array_equal(trained[0], trained[2])
    plain = models.network(module).apply
    assert str(jax.make_jaxpr(net.apply)(params, x, c)) == str(jax.make_jaxpr(plain)(params, x, c))


@pytest.mark.slow  # a deep network, compiled twice
def test_remat_changes_memory_not_values():
    shape = (4, 4, 1)
    params = noise_like(models.UNet(4, (1,)), shape)
    x, c, _ = batch(shape)

    def loss(remat):
        net = models.network(models.UNet(4, (1,), remat=remat))
        return lambda params: jnp.mean(net.apply(params, x, c) ** 2)

    kept, recomputed = (compiled(jax.grad(loss(remat)), params)(params) for remat in (False, True))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), kept, recomputed)
    names = [eqn.primitive.name for eqn in primitives(loss(True), params)]
    assert sum("remat" in name or "checkpoint" in name for name in names) == 1 + 2 + 2 + 3  # blocks, attentions


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_compute_dtype_is_that_of_the_convolutions(dtype):
    module, shape = models.UNet(**TINY, dtype=dtype), (4, 4, 1)
    found = primitives(
        models.network(module).apply, noise_like(module, shape), np.ones(shape, np.float32), np.float32(0)
    )
    dtypes = [str(e.outvars[0].aval.dtype) for e in found if e.primitive.name == "conv_general_dilated"]
    assert dtypes == [dtype] * 11 + ["float32"]  # the output is float32 always


def test_bfloat16_is_close_to_float32():
    module, shape = NETS["unet patch bfloat16"]
    apply, params = perturbed("unet patch bfloat16")
    low, exact = apply(params, *batch(shape)), models.network(module.clone(dtype="float32")).apply
    exact = jax.jit(exact)(params, *batch(shape))
    assert 1e-4 < np.linalg.norm(low - exact) / np.linalg.norm(exact) < 0.1


def test_unet_of_symmetric_kernels_commutes_with_rotations():
    """Adding up every kernel over the quarter turns makes the whole U-Net commute with a quarter turn of the image."""
    module, shape = models.UNet(8, (1, 2), attention=()), (8, 8, 1)
    quarter = functools.partial(np.rot90, axes=(0, 1))
    turn = lambda k: sum(quarter(k, i) for i in range(4)) / 2 if k.ndim == 4 else k
    params = jax.tree.map(turn, noise_like(module, shape))
    x, c = batch(shape)[0][0], np.float32(0.5)
    apply = compiled(models.network(module).apply, params, x, c)
    out, turned = (np.asarray(apply(params, image, c)) for image in (x, quarter(x)))
    np.testing.assert_allclose(quarter(out), turned, atol=1e-4)
    assert np.abs(out - turned).max() > 0.01


BAD = [
    (lambda: models.UNet(8, (1, 2, 2)), (10, 10, 1), "image 10x10 is not divisible by 4, the U-Net's total stride"),
    (lambda: models.UNet(8, (1, 2), patch=2), (8, 6, 1), "image 8x6 is not divisible by 4"),
    (lambda: models.UNet(8), (16, 16, 1), r"attention at \[4\].*heights \[16, 8\]"),
    (lambda: models.UNet(8), (8,), r"takes images \(H, W, C\), sequences \(L, C\) .*, got shape \(8,\)"),
    (lambda: models.UNet(8, attention=()), (7, 1), "example 7 is not divisible by 2"),
    (lambda: models.UNet(8, attention=(6,)), (8, 6, 6, 1), r"attention at \[6\]: .* a 8x6x6 example have heights"),
    (lambda: models.UNet(8, head_width=5), (8, 8, 1), "head_width = 5 does not divide the 16 channels"),
    (lambda: models.UNet(0), (8, 8, 1), "channels = 0: expected a positive integer"),
    (lambda: models.UNet(8, ()), (8, 8, 1), r"multipliers = \(\)"),
    (lambda: models.UNet(8, (1, -2)), (8, 8, 1), r"multipliers\[1\] = -2"),
    (lambda: models.UNet(8, dtype="float16"), (8, 8, 1), "dtype = 'float16' is unknown; choose from float32, bfloat16"),
    (lambda: models.UNet(8, dropout=1.0), (8, 8, 1), "dropout = 1.0: expected a probability"),
    (lambda: models.MLP(8, embedding="sine"), (2,), "embedding = 'sine' is unknown; choose from positional, fourier"),
    (lambda: models.MLP(8, depth=1.5), (2,), "depth = 1.5"),
    (lambda: models.MLP(8, classes=0), (2,), "classes = 0"),
    (lambda: models.MLP(8), (), r"takes vectors \(d,\), or \(L, C\), ..., got \(\)"),
]


@pytest.mark.parametrize(("make", "shape", "message"), BAD)
def test_bad_input_is_one_readable_line(make, shape, message):
    with pytest.raises(ValueError, match=message) as error:
        models.init(models.network(make()), KEY, shape)
    assert "\n" not in str(error.value)


def test_a_network_ignores_names_that_it_does_not_read():
    """That nobody reads a name is said where data and method meet (`runs.checks.check_read`)."""
    x, c, text = np.ones(2, np.float32), np.float32(0.3), np.ones(4, np.float32)
    plain, told = models.network(models.MLP(8)), models.network(models.MLP(8, classes=3))
    assert (plain.reads, told.reads) == ((), ("label",))
    for network, changes in ((plain, False), (told, True)):
        params = jax.device_get(jax.jit(network.init)(KEY, x, c, {"label": np.int32(0), "text": text}))
        params = jax.tree.map(lambda a: a + np.linspace(0.0, 0.1, a.size, dtype=a.dtype).reshape(a.shape), params)
        apply = jax.jit(network.apply)
        F = [np.asarray(apply(params, x, c, {"label": np.int32(i), "text": text * np.float32(i)})) for i in (0, 2)]
        assert bool(np.abs(F[0] - F[1]).max() > 1e-4) is changes


def test_a_module_is_traced_once_whoever_calls_its_network():
    """In a loss, batched and differentiated, in a walk and alone; each mode has a trace of its own."""
    seen = []

    class Seen(nn.Module):
        @nn.compact
        def __call__(self, x, c, train=False):
            seen.append(train)
            return nn.Dense(x.size)(x)

    net = models.of(Seen())
    x, c, keys = jnp.ones(3), jnp.float32(0), jax.random.split(KEY, 4)
    params = jax.eval_shape(net.init, KEY, x, c)
    assert seen == [False]
    jax.eval_shape(lambda key: net.init(key, x, c), KEY)
    loss = lambda p, x, key: net.apply(p, x, c, train=True, key=key).sum()
    jax.eval_shape(jax.grad(lambda p: jax.vmap(loss, (None, 0, 0))(p, jnp.ones((4, 3)), keys).sum()), params)
    jax.eval_shape(lambda p: jax.lax.scan(lambda x, _: (net.apply(p, x, c), None), x, None, 5), params)
    jax.eval_shape(lambda p: net.apply(p, x, c), params)
    assert seen == [False, True, False]


def test_linen_modules_with_running_statistics_are_refused():
    class Running(nn.Module):
        @nn.compact
        def __call__(self, x, c, label=None, train=False):
            return nn.BatchNorm(use_running_average=not train)(x)

    with pytest.raises(ValueError, match=r"Running keeps state beside its parameters \(batch_stats\)"):
        models.init(models.network(Running()), KEY, (2,))


def test_parameter_table_counts_every_number():
    params = {"b": {"kernel": jnp.zeros((3, 4)), "bias": jnp.zeros(4)}, "a": jax.ShapeDtypeStruct((), jnp.bfloat16)}
    rows = models.parameter_table(params)
    assert rows == [
        ("a", (), "bfloat16", 1),
        ("b/bias", (4,), "float32", 4),
        ("b/kernel", (3, 4), "float32", 12),
    ]
    text = models.format_table(rows).splitlines()
    assert text[1].split() == ["a", "scalar", "bfloat16", "1"]
    assert text[-1].split() == ["total", "17"]
    assert len({len(line) for line in text}) == 1


@pytest.mark.parametrize(("shape", "of"), [((3,), None), ((2, 4), ()), ((3,), (2, 2, 1))])
def test_perceptron_is_that_of_numpy(shape, of):
    net = models.network(models.Perceptron(of, width=5, depth=2))
    x = np.random.default_rng(0).normal(size=(6, *shape)).astype(np.float32)
    params = jax.device_get(jax.jit(net.init)(KEY, x[0], np.float32(0)))
    layers_of = [
        {k: np.asarray(v, np.float64) for k, v in params[name].items()} for name in ("dense_0", "dense_1", "out")
    ]
    h = x.reshape(6, -1).astype(np.float64)
    for i, layer in enumerate(layers_of):
        h = h @ layer["kernel"] + layer["bias"]
        h = h / (1 + np.exp(-h)) if i < 2 else h
    expected = h.reshape(6, *(shape if of is None else of))
    apply = jax.jit(net.apply)
    one = np.stack([apply(params, row, np.float32(0)) for row in x])
    np.testing.assert_allclose(one, expected, atol=1e-5)
    np.testing.assert_allclose(apply(params, x, np.zeros(6, np.float32)), expected, atol=1e-5)
    assert net.reads == ()


def test_perceptron_without_hidden_layers_is_affine_and_counts_are_checked():
    affine = models.network(models.Perceptron((4,), depth=0))
    params = jax.eval_shape(affine.init, KEY, np.zeros(3, np.float32), np.float32(0))
    assert {name: part["kernel"].shape for name, part in params.items()} == {"out": (3, 4)}
    for options, message in (
        (dict(width=0), "width = 0: expected a positive integer"),
        (dict(depth=-1), "depth = -1: expected a positive integer"),
        (dict(shape=(2, 0)), "shape[1] = 0: expected a positive integer"),
        (dict(dtype="int8"), "dtype = 'int8' is unknown"),
        (dict(weights="he"), "weights = 'he' is unknown; choose from glorot, lecun"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            models.Perceptron(**options)


@pytest.mark.parametrize(("weights", "variance"), [("glorot", 2 / (2 + 2000)), ("lecun", 1 / 2)])
def test_the_first_weights_of_a_perceptron_have_the_variance_that_is_said(weights, variance):
    net = models.network(models.Perceptron((1,), width=2000, depth=1, weights=weights))
    params = jax.device_get(net.init(KEY, np.zeros(2, np.float32), np.float32(0)))
    first, last = (params[name]["kernel"] for name in ("dense_0", "out"))
    assert np.var(first) == pytest.approx(variance, rel=0.1)  # 4000 entries: 2 to 3 % of the variance
    assert np.var(last) == pytest.approx(2 / 2001 if weights == "glorot" else 1 / 2000, rel=0.15)


def test_mlp_parameter_count():
    width, depth, d, classes = 16, 2, 5, 3
    embedding = (128 * width + width) + (width * width + width) + (classes + 1) * width
    block = (width * 2 * width + 2 * width) + 2 * (width * width + width)
    total = embedding + (d * width + width) + depth * block + 2 * width + (width * d + d)
    rows = models.parameter_table(models.init(models.network(models.MLP(width, depth, classes)), KEY, (d,)))
    assert sum(row.count for row in rows) == total
