"""Side networks: they begin at the base to the bit, their gradients at the first step, what they keep and merge."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from diffjax import finetune, models
from diffjax.models import side
from diffjax.models.side import low_rank, rungs

KEY, RNG = jax.random.key(0), np.random.default_rng(0)
X, C = RNG.normal(size=(8, 8, 1)).astype(np.float32), np.float32(0.3)
GIVEN = {"label": np.int32(1), "hint": RNG.normal(size=(8, 8, 2)).astype(np.float32)}
TOLD = {"classes": 3, "hint": 2}
DIT = models.DiT(depth=2, width=12, heads=2)  # no activation has the shape of a kernel
UNET = models.UNet(channels=4, multipliers=(1, 2), attention=(4,))
MAKERS = {
    "lora": lambda base, **told: side.lora(base, rank=1, **told),
    "adapter": lambda base, **told: side.adapter(base, width=3, **told),
    "prefix": lambda base, **told: side.prefix(base, tokens=3, **told),
    "ladder": lambda base, **told: side.ladder(base, width=5, **told),
    "control": side.control,
}
# What is zero at first: the rest of a side has no effect and no gradient before it has moved.
LATER = {"lora": "/B$", "adapter": "/out$", "prefix": "/gate$", "ladder": "/up$", "control": "/(zeros|copy)/"}
BASES = {"dit": DIT, "unet": UNET}


def drawn(tree, scale=0.3, seed=1):
    """Leaves of these shapes, away from their initialisation; nothing is compiled for them."""
    draw = np.random.default_rng(seed).normal
    return jax.tree.map(lambda leaf: np.asarray(scale * draw(size=leaf.shape), leaf.dtype), tree)


def shapes(net, given=GIVEN, x=X):
    return jax.eval_shape(net.init, KEY, x, C, given)


def first(net, name, given=GIVEN):
    """What `init` gives with a trained base: parameters that begin at zero are zero, all others drawn."""
    params = drawn(shapes(net, given))
    zero = finetune.trained(params["side"], f"(^|/){LATER[name].strip('/')}")
    own = jax.tree.map(lambda leaf, at: np.zeros_like(leaf) if at else leaf, params["side"], zero)
    told = {name: np.zeros_like(own[name]) for name in ("label", "hint") if name in own}
    return {"base": params["base"], "side": own | told}


def paths(tree):
    return {
        jax.tree_util.keystr(p, simple=True, separator="/"): v for p, v in jax.tree_util.tree_leaves_with_path(tree)
    }


SLOW = [pytest.param(of, name, marks=[pytest.mark.slow] * (of == "unet")) for of in BASES for name in MAKERS]


@pytest.mark.parametrize(("of", "name"), SLOW)
def test_a_side_begins_at_the_base_to_the_bit(of, name):
    """Whatever its other parameters are, and for every label and hint; moved, it says something of both."""
    net = MAKERS[name](BASES[of], **TOLD)
    params = first(net, name)
    with jax.disable_jit():
        base = models.of(BASES[of]).apply(params["base"], X, C)
        np.testing.assert_array_equal(net.apply(params, X, C, GIVEN), base)
        moved = {"base": params["base"], "side": drawn(params["side"], seed=2)}
        one = np.asarray(net.apply(moved, X, C, GIVEN))
        assert np.abs(one - base).max() > 1e-4
        for other in ({**GIVEN, "label": np.int32(2)}, {**GIVEN, "hint": -GIVEN["hint"]}):
            assert np.any(net.apply(moved, X, C, other) != one)  # what is not read changes no bit
        none = net.apply(moved, X, C, {**GIVEN, "label": np.int32(3)})  # the row of no label
        np.testing.assert_array_equal(none, net.apply(moved, X, C, {"hint": GIVEN["hint"]}))


@pytest.mark.parametrize("name", [n if n == "control" else pytest.param(n, marks=pytest.mark.slow) for n in MAKERS])
def test_init_draws_what_is_not_zero_at_first(name):
    base = models.DiT(depth=1, width=8, heads=2)
    with jax.disable_jit():
        got = MAKERS[name](base, **TOLD).init(KEY, X, C, GIVEN)
        alone = models.of(base).init(KEY, X, C)
    jax.tree.map(np.testing.assert_array_equal, got["base"], alone)  # by the same key
    zero = finetune.trained(got["side"], f"{LATER[name].strip('/')}|^label$|^hint$")
    for path, at in paths(zero).items():
        leaf = paths(got["side"])[path]
        told = any(part in path for part in ("block/", "gate"))  # blocks and gates of a ladder have zeros of their own
        assert not at or not np.any(leaf), path
        assert at or told or np.any(leaf), path


@pytest.mark.parametrize("name", MAKERS)
def test_gradients_at_the_first_step(name):
    """What is zero at first has a gradient, and nothing else of the side but what the base itself is told; the base
    has none, even where all parameters are differentiated."""
    net = MAKERS[name](models.DiT(depth=1, width=8, heads=2), **TOLD)
    params = first(net, name)
    w = RNG.normal(size=X.shape).astype(np.float32)
    loss = lambda params: jnp.sum(w * net.apply(params, X, C, GIVEN))
    with jax.disable_jit():
        found = paths(jax.grad(loss)(params))
        params["side"] = drawn(params["side"], seed=3)
        later = paths(jax.grad(loss)(params))
    hears = ("side/label", "side/hint") if name in ("lora", "adapter", "prefix") else ()
    starts = re.compile("^side/(ladder/up$|control/zeros/|lora/.*/B$|adapters/.*/out$|prefixes/.*/gate$)")
    for path, leaf in found.items():
        assert np.any(leaf) == (path in hears or bool(starts.search(path))), path
    for path, leaf in later.items():
        assert np.any(leaf) == path.startswith("side/"), path


def products(jaxpr):
    """(shapes of the operands, shape of the result) of every product, at any depth."""
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            yield tuple(v.aval.shape for v in eqn.invars), eqn.outvars[0].aval.shape
        for value in eqn.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from products(inner)


def kernels(base):
    return {leaf.shape for path, leaf in paths(base).items() if path.endswith("kernel")}


def back(net, params, given=GIVEN):
    """The traced gradient of the side's parameters."""
    loss = lambda own: jnp.sum(net.apply({**params, "side": own}, X, C, given) ** 2)
    return list(products(jax.make_jaxpr(jax.grad(loss))(params["side"]).jaxpr))


@pytest.mark.parametrize("name", MAKERS)
def test_no_gradient_of_the_base_is_traced(name):
    """No product has the shape of one of its kernels; a whole fine-tuning has one for each shape."""
    net = MAKERS[name](DIT)
    params = shapes(net, {})
    params = {"base": drawn(params["base"]), "side": params["side"]}
    of_kernels = kernels(params["base"])
    turned = of_kernels | {shape[::-1] for shape in of_kernels}
    made = {out for _, out in back(net, params, {})}
    if name != "control":  # whose copy has the base's shapes
        assert not made & turned
    of = models.of(DIT)
    loss = lambda own: jnp.sum(of.apply(own, X, C) ** 2)
    whole = {out for _, out in products(jax.make_jaxpr(jax.grad(loss))(params["base"]).jaxpr)}
    assert all({shape, shape[::-1]} & whole for shape in of_kernels)


def test_nothing_goes_back_through_the_base_of_a_ladder():
    """Each kernel of a tapped block is in one product, that of the way there; in LoRA's, in two."""
    counts = {}
    for name in ("ladder", "lora"):
        net = MAKERS[name](DIT)
        params = shapes(net, {})
        base = params["base"]
        used = [shapes for shapes, _ in back(net, {"base": drawn(base), "side": params["side"]}, {})]
        shape = base["block_0"]["up"]["kernel"].shape
        counts[name] = sum(shape in pair for pair in used)
    assert counts == {"ladder": 2, "lora": 4}  # two blocks


def kept(net, whole=False):
    """Bytes per example that the way back keeps, as the difference of two batches; whole: all is differentiated."""
    params = shapes(net, {})

    def size(n):
        x, c = np.zeros((n, *X.shape), np.float32), np.zeros(n, np.float32)
        if whole:
            return models.residual_bytes(lambda own: net.apply(own, x, c), params)
        base = drawn(params["base"])
        return models.residual_bytes(lambda own: net.apply({"base": base, "side": own}, x, c), params["side"])

    return size(3) - size(2)


def test_what_the_way_back_keeps():
    """A ladder of as many taps keeps as much whatever the depth, all else the more the deeper: LoRA less than a whole
    fine-tuning, a ladder less by far."""
    deep = lambda depth: models.DiT(depth=depth, width=16, heads=2)
    whole = kept(models.of(deep(4)), whole=True)
    lora = [kept(side.lora(deep(depth), where="qkv$")) for depth in (2, 4)]
    taps = [kept(side.ladder(deep(depth), width=4)) for depth in (2, 4)]
    assert kept(side.ladder(deep(4), width=4, where="block_(1|3)$")) == taps[0]
    assert lora[1] - lora[0] > taps[1] - taps[0] > 0
    assert whole > lora[1] > taps[1]
    assert kept(side.ladder(deep(2), width=4), whole=True) == taps[0]  # of base and side: the base is stopped


class Linear(nn.Module):
    """x W, no more."""

    width: int

    @nn.compact
    def __call__(self, x, c):
        return nn.Dense(self.width, use_bias=False, name="dense")(x)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_a_change_of_rank_r_is_reached_by_least_squares(rank):
    """From A as it is drawn, B, then A, each by least squares on x -> x (W + dW): exact from the rank of dW on; below,
    what is left is the tail of the singular values (Eckart & Young 1936), data being white."""
    rng = np.random.default_rng(rank)
    x = np.linalg.qr(rng.normal(size=(9, 5)))[0]
    W, dW = rng.normal(size=(5, 4)), rng.normal(size=(5, 2)) @ rng.normal(size=(2, 4))
    net = side.lora(Linear(4), rank=rank, where="dense", gamma=3.0)
    factor = 3.0 / rank
    A = rng.normal(size=(5, rank))
    for _ in range(200 if rank < 2 else 1):
        B = np.linalg.lstsq(factor * x @ A, x @ dW, rcond=None)[0]
        A = np.linalg.lstsq(B.T, (dW / factor).T, rcond=None)[0].T
    change = {"lora": {"dense": {"A": np.float32(A), "B": np.float32(B)}}}
    params = {"base": {"dense": {"kernel": np.float32(W)}}, "side": change}
    assert jax.tree.map(np.shape, shapes(net, {}, x[0].astype(np.float32))) == jax.tree.map(np.shape, params)
    left = np.linalg.svd(dW)[1][rank:]
    got = np.asarray(net.apply(params, x.astype(np.float32), np.zeros(9, np.float32)))
    np.testing.assert_allclose(np.linalg.norm(got - x @ (W + dW)), np.linalg.norm(left), atol=2e-5)
    merged = side.merged(net, params)["dense"]["kernel"]
    np.testing.assert_allclose(merged, W + factor * A @ B, atol=1e-5)


def test_scales_and_merging_in_float32():
    """gamma / sqrt(r) is sqrt(r) times gamma / r; in bfloat16 a change of 2^-10 of a weight would be lost."""
    base = {"dense": {"kernel": jnp.ones((5, 4), jnp.bfloat16)}}
    change = {"dense": {"A": np.full((5, 3), 2.0**-5, np.float32), "B": np.full((3, 4), 2.0**-5, np.float32)}}
    for stabilised, s in ((False, 2.0 / 3), (True, 2.0 / np.sqrt(3))):
        net = side.lora(Linear(4), rank=3, where="dense", gamma=2.0, stabilised=stabilised)
        kernel = side.merged(net, {"base": base, "side": {"lora": change}})["dense"]["kernel"]
        assert kernel.dtype == jnp.float32
        np.testing.assert_allclose(kernel, 1 + s * 3 * 2.0**-10, rtol=1e-7)
        assert low_rank.scale(3, 2.0, stabilised) == pytest.approx(s)


@pytest.mark.parametrize("of", [pytest.param("unet", marks=pytest.mark.slow), "dit"])
def test_merged_is_unmerged(of):
    """Convolutions, dense layers and the table of labels, which goes into a base with classes."""
    net = side.lora(BASES[of], rank=2, where="(qkv|conv_0|conv_1|down_1/skip|up)$", classes=3)
    given = {"label": np.int32(2)}
    params = drawn(shapes(net, given))
    with jax.disable_jit():
        alone = models.of(BASES[of].clone(classes=3)).apply(side.merged(net, params), X, C, given)
        np.testing.assert_allclose(net.apply(params, X, C, given), alone, atol=2e-5, rtol=1e-4)
        assert np.abs(alone - models.of(BASES[of]).apply(params["base"], X, C)).max() > 1e-2


def test_gates_of_a_ladder():
    """g = 1 ignores the state below, g = 0 what is read: exactly, since sigmoid(10 a) is 0 or 1 in float32 there."""
    read, before = RNG.normal(size=(2, 5)).astype(np.float32)
    np.testing.assert_array_equal(rungs.climb(jnp.float32(20), read, before), read)
    np.testing.assert_array_equal(rungs.climb(jnp.float32(-20), read, before), before)
    np.testing.assert_allclose(rungs.climb(jnp.float32(0.0), read, before), (read + before) / 2, rtol=1e-6)
    np.testing.assert_allclose(rungs.climb(jnp.float32(0.1), read, read - 1), read - 1 / (1 + np.e), rtol=1e-5)


def test_a_run_without_a_side_is_taken_over_as_the_base():
    net = side.lora(DIT, rank=1, classes=3)
    params = drawn(shapes(net))
    old = drawn(shapes(models.of(DIT), {}), seed=7)
    got = finetune.take_over(params, old)
    jax.tree.map(np.testing.assert_array_equal, got, {"base": old, "side": params["side"]})
    jax.tree.map(np.testing.assert_array_equal, finetune.take_over(params, got), got)  # of a run with the side
    for other, match in (
        (models.DiT(depth=3, width=12, heads=2), "Only the one it starts from has the parameter block_2/"),
        (models.DiT(depth=1, width=12, heads=2), "Only this network's base has the parameter block_1/"),
        (models.DiT(depth=2, width=16, heads=2), "has shape"),
    ):
        with pytest.raises(ValueError, match=match):
            finetune.take_over(params, shapes(models.of(other), {}))


def test_a_frozen_base_is_told_no_more_than_the_run_it_starts_from():
    """A table of zeros in the base would stay zero: no label would act, without a word."""
    of = lambda **options: models.DiT(depth=1, width=12, heads=2, **options)
    plain = shapes(models.of(of()), {})
    for told, match in (
        ({"classes": 3}, "set model.classes, not model.base.classes"),
        ({"gap": 5}, "leave model.base.gap out"),
        ({"augment": 4}, "leave model.base.augment out"),
    ):
        params = shapes(side.lora(of(**told), rank=1), {})
        before = shapes(side.lora(of(), rank=1), {})  # of a run with the side as well
        for old in (plain, {**before, "side": params["side"]}):
            with pytest.raises(ValueError, match=f"the run it starts from has none, .*{match}") as found:
                jax.eval_shape(finetune.take_over, params, old)
            assert "\n" not in str(found.value)
        alike = shapes(models.of(of(**told)), {})
        assert jax.tree.leaves(jax.eval_shape(finetune.take_over, params, alike)["base"]) == jax.tree.leaves(alike)


def test_a_side_net_is_without_what_its_base_may_be_without():
    """The base's own label and text, and the side's label where the base takes none."""
    base = models.DiT(depth=1, width=12, heads=2, classes=4, text=(5, 3))
    whole, net = models.of(base), side.lora(base, rank=1)
    assert (net.text, net.classes, set(net.none)) == ((5, 3), 4, {"label", "text"})
    jax.tree.map(np.testing.assert_array_equal, dict(net.none), dict(whole.none))
    assert int(side.lora(DIT, classes=3).none["label"]) == 3
    assert (side.lora(DIT).none, side.lora(DIT).text) == ({}, ())


def test_a_label_that_there_is_not_is_nan():
    """As of a network's own table (nn.Embed), and not the label of the last row."""
    net = side.lora(models.DiT(depth=1, width=8, heads=2), rank=1, classes=3)
    params = drawn(shapes(net))
    with jax.disable_jit():
        assert np.isnan(net.apply(params, X, C, {"label": np.int32(4)})).all()
        assert np.isfinite(net.apply(params, X, C, {"label": np.int32(3)})).all()


def test_parameters_of_another_network_are_refused():
    net, given = side.lora(DIT, rank=2, classes=3), {"label": np.int32(1)}
    params = shapes(net)
    for other, match in (
        (side.lora(DIT, rank=1, classes=3), r"block_0/out/A has shape \(12, 1\), expected \(12, 2\)"),
        (side.lora(UNET, rank=2, classes=3), "of another base or side: only the network has base/block_0/"),
        (side.lora(DIT, rank=2), "of another base or side: only the network has side/label"),
        (side.adapter(DIT, classes=3), "the network has no side/adapters/"),
    ):
        with pytest.raises(ValueError, match=match) as found:
            jax.eval_shape(net.apply, shapes(other, {}), X, C, given)
        assert "\n" not in str(found.value)
    assert jax.eval_shape(net.apply, params, np.stack([X, X]), np.stack([C, C]), {"label": np.zeros(2, int)}).ndim == 4


def test_a_ladder_leaves_a_text_encoder_alone():
    """Its tokens are no places of x; by `where` they are tapped, and then refused where the sizes go by no factor 2."""
    base = models.DiT(depth=2, width=12, heads=2, text=(7, 5))
    found = [path for path, _ in side.base.chosen(side.base.sites(base, X.shape), "", rungs_tap, "block").items()]
    assert any(path.startswith("told/") for path in found)
    rungs_of = shapes(side.ladder(base, width=4), {})["side"]["ladder"]
    assert sorted(rungs_of) == ["rung_00", "rung_01", "up"]
    with pytest.raises(ValueError, match=r"JiT's prefix\) tap blocks on one side of that, by `where`"):
        shapes(side.ladder(base, width=4, where=""), {})


def rungs_tap(site):
    return isinstance(site.module, rungs.Block)


DEEP = models.UNet(channels=4, multipliers=(1, 1, 1), attention=())


def told_wrongly(net):
    jax.eval_shape(net.apply, shapes(net), X, C, {"hint": X})


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: side.lora(DIT, rank=0), "rank is 0, expected an integer of at least 1"),
        (lambda: shapes(side.lora(DIT, rank=13)), r"rank is 13, but the kernel of block_0/qkv is a matrix of 12 x 36"),
        (lambda: shapes(side.lora(UNET, rank=5, where="conv_in")), r"conv_in is a matrix of 9 x 4: expected at most 4"),
        (lambda: shapes(side.lora(DIT, where="qvk")), r"'qvk', which no kernel of this base has in its path; it has"),
        (lambda: shapes(side.lora(DIT, where="(")), r"where is '\(', expected a regular expression"),
        (lambda: side.lora(DIT, gamma=0.0), "gamma is 0.0"),
        (lambda: side.adapter(DIT, width=0), "width = 0: expected a positive integer"),
        (lambda: shapes(side.adapter(DIT, where="^encode")), r"'\^encode', which no layer of this base"),
        (
            lambda: shapes(side.prefix(models.UNet(attention=()))),
            "^This base has no attention, which this kind of side net acts on",
        ),
        (lambda: shapes(side.ladder(models.MLP(width=4, depth=1))), "^This base has no block, which this kind"),
        (lambda: shapes(side.adapter(Linear(4))), "^No layer of this base is called as .*; it has dense: give where="),
        (lambda: shapes(side.control(Linear(4))), "^No layer of this base is called as .*; it has dense: give where="),
        (lambda: shapes(side.lora(Linear(4))), "^No kernel of this base is called as .*; it has dense: give where="),
        (lambda: shapes(side.lora(Linear(4), 1, "dense", classes=3)), "told of a label: .* call the layer for it so"),
        (lambda: shapes(side.ladder(DEEP, where="encode_(0|2)_0$")), r"encode_2_0 has \(2, 2\) places, the tap before"),
        (lambda: side.merged(side.adapter(DIT), {}), "Only a side that adds to kernels"),
        (lambda: side.lora(models.of(DIT)), "The base of a side net is Network, expected a linen module"),
        (lambda: side.lora(models.DiT(scan=True)), "scan=True, which hides its layers"),
        (lambda: side.lora({"name": "DIT"}), "There is no model 'DIT' as the base of a side net"),
        (lambda: side.lora({"name": "DiT", "hight": 2}), "DiT cannot be made of"),
        (lambda: side.lora(models.DiT(classes=3), classes=4), "classes = 4 of the side net, but its base has 3"),
        (lambda: side.lora(DIT, stabilised="no"), "stabilised is 'no', expected True or False"),
        (lambda: side.ladder(DIT, 8, 3), "where is 3, expected a regular expression on paths"),
        (lambda: side.lora(DIT, where=["qkv"]), r"where is \['qkv'\], expected a regular"),
        (lambda: told_wrongly(side.lora(DIT, **TOLD)), r"hint has shape \(8, 8, 1\), expected \(8, 8, 2\)"),
    ],
)
def test_mistakes_are_one_line(make, match):
    with pytest.raises(ValueError, match=match) as found:
        make()
    assert "\n" not in str(found.value)
