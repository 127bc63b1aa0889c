"""Relative positions cannot count (kexue 9105): what a constant image may come out as, by a network's positions."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax import data, denoisers, methods, models, processes, schedules
from diffjax.models import blocks, layers, places

SHAPE = (4, 4, 1)
APART = np.arange(5)[:, None] - np.arange(5)


def test_rows_of_equal_tokens_by_hand(x64):
    """n = 5 tokens of value 1, logits -0.3 |i - j|: C = 1 gives rows of 1, C = 1 + (i - j) / 2 n counts."""
    # A bias is a logit of queries and keys: q_i = e_i sqrt(D), k_j = the j-th column of the bias.
    bias = -0.3 * np.abs(APART)
    q, k, v = np.eye(5)[:, None] * np.sqrt(5), bias.T[:, None], np.ones((5, 1, 1))
    run = lambda factors: np.asarray(layers.attention(*map(jnp.asarray, (q, k, v)), factors=factors)).ravel()
    np.testing.assert_allclose(run(None), 1, rtol=1e-15)
    counted = run(jnp.asarray(1 + 0.5 * APART / 5)[None])
    np.testing.assert_allclose(counted, [0.857779, 0.932577, 1, 1.067423, 1.142221], atol=5e-7)


def net(positions, **options):
    return models.DiT(depth=2, width=16, heads=2, positions=positions, **options)


def random(module):
    """Parameters away from their initialisation, the table's too."""
    shapes = jax.eval_shape(models.network(module).init, jax.random.key(0), jnp.zeros(SHAPE), jnp.zeros(()))
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: np.asarray(0.3 * rng.normal(size=leaf.shape), leaf.dtype), shapes)


def spread(module):
    """The largest difference between patches of the answer to a constant image, and the largest entry."""
    out = models.network(module).apply(random(module), 0.7 * np.ones(SHAPE, np.float32), np.float32(0.3))
    patches = np.asarray(places.space_to_depth(out, module.patch)).reshape(-1, module.patch**2)
    return np.ptp(patches, axis=0).max(), np.abs(patches).max()


def biased(q, k, v, mask=None, factors=None):
    """Attention with a bias of the offset added to its logits: what relative positions other than rotary do."""
    logits = jnp.einsum("...qhd,...khd->...hqk", q, k) / np.sqrt(q.shape[-1])
    i = np.arange(q.shape[-3])
    logits += layers.of_rank(jnp.asarray(np.sin(i[:, None] - i), logits.dtype), logits.ndim)  # any function of i - j
    return jnp.einsum("...hqk,...khd->...qhd", jax.nn.softmax(logits, -1), v)


@pytest.mark.parametrize(
    ("positions", "options", "tells"),
    [
        ("none", {}, False),
        ("rotary", {}, False),
        ("bias", {}, False),
        ("none", {"urpe": True}, True),
        ("rotary", {"urpe": True}, True),
        ("sincos", {}, True),
        ("learned", {}, True),
        ("rotary", {"prefix": 2, "prefix_from": 1}, True),  # its tokens are not rotated
    ],
)
def test_who_tells_the_places_of_a_constant_image_apart(positions, options, tells, monkeypatch):
    if positions == "bias":
        monkeypatch.setattr(layers, "attention", biased)
    module = net("none" if positions == "bias" else positions, **options)
    apart, size = spread(module)
    assert size > 0.1
    assert (apart > 1e-3 * size) if tells else (apart < 1e-5 * size)
    assert module.tells_places == models.network(module).tells_places == tells


def test_a_table_of_ones_is_attention_without_one_bit_for_bit():
    """The multiplication by C = 1 is exact, and C begins there."""
    plain, told = net("rotary"), net("rotary", urpe=True)
    params = random(told)
    ones = {
        name: {**part, "table": np.ones_like(part["table"])} if "table" in part else part
        for name, part in params.items()
    }
    bare = {name: {k: v for k, v in part.items() if k != "table"} for name, part in params.items()}
    x, c = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32), np.float32(0.3)
    nets = [models.network(net).apply for net in (told, plain, told)]
    out, bare_out, other = jax.jit(lambda *p: [f(each, x, c) for f, each in zip(nets, p)])(ones, bare, params)
    np.testing.assert_array_equal(out, bare_out)
    assert np.abs(out - other).max() > 1e-3
    block = blocks.Block(2, table=(2, 2))
    first = jax.jit(lambda key: block.init(key, jnp.ones((4, 16)), jnp.ones(16))["params"]["table"])(jax.random.key(0))
    np.testing.assert_array_equal(first, np.ones((2, 3, 3)))


def run(process, positions):
    method = methods.denoising(models.network(net(positions)), process, denoisers.X0())
    return [
        line
        for line in method.parts.remarks(
            data.arrays(np.random.default_rng(0).normal(size=(60, *SHAPE)).astype(np.float32))
        )
        if "relative" in line
    ]


def test_a_constant_start_is_remarked():
    """Of heat without noise, and a grey image whose places open; not where the start has noise, or places are told."""
    still = processes.heat.dissipation(schedules.Still(0.1), (4, 4), w_max=40.0, mean=(((2.0,),),))
    quiet = dataclasses.replace(still, schedule=dataclasses.replace(still.schedule, base=schedules.Still(1e-9)))
    gaussian = processes.Gaussian(schedules.Rectified())
    for process, positions, count in (
        (processes.cold.masked(), "rotary", 1),
        (processes.cold.masked(), "sincos", 0),
        (quiet, "none", 1),
        (still, "rotary", 0),
        (gaussian, "rotary", 0),
    ):
        found = run(process, positions)
        assert len(found) == count, (process, found)
    assert "positions=sincos, or urpe=true" in run(processes.cold.masked(), "rotary")[0]


def test_the_fused_kernel_has_no_table():
    with pytest.raises(ValueError, match="urpe multiplies the softmax, which a fused kernel does not show"):
        net("none", urpe=True, kernel="fused")
