"""Sparsity: every axiom as a property of random vectors, closed forms, entropies; rows of attention by NumPy."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from scipy import special, stats

from diffjax import models
from diffjax.metrics import sparsity
from diffjax.models import blocks, layers

PAIRS = [(1.0, 2.0), (0.5, 2.0), (0.5, 1.0), (1.0, np.inf), (0.25, 1.7)]  # q <= 1 <= p: all axioms
OTHERS = [(2.0, 4.0), (0.3, 0.6), (1.5, np.inf)]  # all but Robin Hood's


@pytest.fixture(scope="module")
def x():
    """300 vectors of 6 entries, signed, of many scales; the smallest entries are far from equal."""
    rng = np.random.default_rng(0)
    return rng.choice([-1, 1], (300, 6)) * np.exp(rng.normal(size=(300, 6)) * rng.choice([0.2, 1, 3], (300, 1)))


def by_hand(x, q, p):
    """n^(1/p - 1/q) |x|_q / |x|_p of one vector, by SciPy's norms."""
    norm = lambda r: np.linalg.norm(x, r)
    return len(x) ** ((0 if np.isinf(p) else 1 / p) - 1 / q) * norm(q) / norm(p)


@pytest.mark.parametrize(("q", "p"), [*PAIRS, *OTHERS])
def test_it_is_the_ratio_of_norms_within_its_bounds(x, q, p):
    found = sparsity.evenness(x, q, p)
    np.testing.assert_allclose(found, [by_hand(row, q, p) for row in x], rtol=1e-12)
    least = 6 ** ((0 if np.isinf(p) else 1 / p) - 1 / q)
    assert np.all((found > least) & (found < 1))
    np.testing.assert_allclose(sparsity.evenness([0, -7, 0, 0, 0, 0], q, p), least, rtol=1e-14)
    np.testing.assert_allclose(sparsity.evenness([2.0, -2, 2, 2, -2, -2], q, p), 1, rtol=1e-14)


@pytest.mark.parametrize(("q", "p"), [*PAIRS, *OTHERS])
def test_axioms_that_hold_for_all_exponents(x, q, p):
    """D2 scale, D3 a constant, D4 clones, P1 more of the largest, P2 zeros, by their exact factor."""
    own, of = sparsity.evenness(x, q, p), lambda y: sparsity.evenness(y, q, p)
    np.testing.assert_allclose(of(x * 10.0 ** np.linspace(-200, 200, 300)[:, None]), own, rtol=1e-12)
    assert np.all(of(np.abs(x) + 0.1 * np.abs(x).mean(-1, keepdims=True)) > own)
    np.testing.assert_allclose(of(np.tile(x, (1, 3))), own, rtol=1e-12)
    more = np.where(np.abs(x) == np.abs(x).max(-1, keepdims=True), 1.3 * x, x)
    assert np.all(of(more) < own)
    power = 1 / q - (0 if np.isinf(p) else 1 / p)
    np.testing.assert_allclose(of(np.pad(x, ((0, 0), (0, 4)))), own * 0.6**power, rtol=1e-12)


def robin_hood(x, share):
    """Moves a share of half of the gap between the second largest and the smallest entry of each row."""
    y = np.sort(np.abs(x), -1)
    gift = share * (y[:, -2] - y[:, 0]) / 2
    return y + gift[:, None] * np.eye(6)[0] - gift[:, None] * np.eye(6)[-2]


@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
def test_robin_hood_raises_where_the_exponents_are_on_both_sides_of_one(x, share):
    for q, p in PAIRS:
        change = sparsity.evenness(robin_hood(x, share), q, p) - sparsity.evenness(x, q, p)
        least = 0 if np.isinf(p) else 1e-12  # at q = 1, p = inf neither norm sees a gift of another than the largest
        assert np.all(change > least if (q, p) != (1.0, np.inf) else np.abs(change) < 1e-15)


def test_robin_hood_lowers_elsewhere():
    """Counterexamples in whole numbers: (10, 2, 1) -> (10, 1.5, 1.5) at (2, 4); two large among 10 000 small ones."""
    squares, fourths = [Fraction(a).limit_denominator() for a in (100 + 4 + 1, 100 + 4.5)], [10**4 + 17, 10**4 + 10.125]
    ratio = (squares[1] / squares[0]) ** 2 * Fraction(fourths[0]) / Fraction(fourths[1])  # of S^4
    assert ratio < 1
    before, after = sparsity.evenness([[10, 2, 1], [10, 1.5, 1.5]], 2, 4)
    np.testing.assert_allclose((after / before) ** 4, float(ratio), rtol=1e-12)
    small = np.full(10_000, 1e-6)
    before, after = (sparsity.evenness(np.append(small, pair), 0.3, 0.6) for pair in ([1, 2], [1.5, 1.5]))
    assert after < before - 1e-3


def test_values_of_a_vector():
    """(3, 0, -1, 1/2): sum 9/2, squares 41/4: S^2 = (81/4) / (4 * 41/4) = 81/164, and 81/41 entries."""
    a = [3, 0, -1, 0.5]
    np.testing.assert_allclose(sparsity.evenness(a), np.sqrt(81 / 164), rtol=1e-15)
    np.testing.assert_allclose(sparsity.effective(a), 81 / 41, rtol=1e-15)
    np.testing.assert_allclose([sparsity.evenness(a), sparsity.effective(a)], [0.702782, 1.975610], atol=5e-7)


def test_at_one_and_two_it_is_a_cosine_and_a_coefficient_of_variation(x):
    size = np.abs(x)
    cosine = size.sum(-1) / (np.sqrt(6) * np.linalg.norm(size, axis=-1))
    found = sparsity.evenness(x)
    np.testing.assert_allclose(found, cosine, rtol=1e-13)
    np.testing.assert_allclose(found, (1 + (size.std(-1) / size.mean(-1)) ** 2) ** -0.5, rtol=1e-13)


def test_it_is_an_entropy(x):
    """S = (e^H_r / n)^(1/q - 1/p), r = p / q, of a = |x|^q / sum |x|^q; n S^2 = 1 / sum a^2."""
    a = np.abs(x) / np.abs(x).sum(-1, keepdims=True)
    np.testing.assert_allclose(6 * sparsity.evenness(x) ** 2, 1 / (a**2).sum(-1), rtol=1e-13)
    np.testing.assert_allclose(sparsity.effective(x), 1 / (a**2).sum(-1), rtol=1e-13)
    for q, p in [*PAIRS, *OTHERS]:
        power = 1 / q - (0 if np.isinf(p) else 1 / p)
        number = sparsity.effective(np.abs(x) ** q, p / q)
        np.testing.assert_allclose((number / 6) ** power, sparsity.evenness(x, q, p), rtol=1e-11)


def test_orders_of_the_effective_number(x):
    a = np.abs(x) / np.abs(x).sum(-1, keepdims=True)
    np.testing.assert_allclose(sparsity.effective(x, 1.0), np.exp(stats.entropy(a, axis=-1)), rtol=1e-12)
    near = [sparsity.effective(x, 1 + d) for d in (-1e-6, 1e-6)]
    np.testing.assert_allclose(np.mean(near, 0), sparsity.effective(x, 1.0), rtol=1e-8)
    np.testing.assert_allclose(sparsity.effective(x, np.inf), 1 / a.max(-1), rtol=1e-14)
    np.testing.assert_allclose(sparsity.effective([0.0, 0.3, 0, 0.7, 0], 0.0), 2, rtol=1e-14)
    orders = [sparsity.effective(x, r) for r in (0, 0.5, 1, 2, 3, np.inf)]
    assert np.all(np.diff(orders, axis=0) < 0)
    np.testing.assert_allclose(sparsity.effective(np.ones((2, 9)), 0.7), 9, rtol=1e-13)
    clones = np.tile(x, (1, 4))  # e^H grows fourfold, its share of n stays
    for r in (0.5, 1.0, 2.0):
        np.testing.assert_allclose(sparsity.effective(clones, r), 4 * sparsity.effective(x, r), rtol=1e-12)


def test_orders_and_exponents_beyond_the_range_of_sums():
    """Four equal entries are four at every order, of 2000 equal ones S is 1; and (1, 2) / 3 by its largest entry."""
    for order in (0.0, 1e-3, 1 - 1e-13, 1 + 1e-13, 1 + 1e-9, 2000.0, 1e8):
        np.testing.assert_allclose(sparsity.effective(np.ones(4), order), 4, rtol=1e-7)
    np.testing.assert_allclose(sparsity.effective([1.0, 2.0], 2000.0), 1.5 ** (2000 / 1999), rtol=1e-12)
    np.testing.assert_allclose(sparsity.effective([1.0, 2.0, 0.0], 1 + 1e-10), 3 / 2 ** (2 / 3), rtol=1e-9)
    np.testing.assert_allclose(sparsity.evenness(np.ones(2000), 1e-3, 2e-3), 1, rtol=1e-12)
    np.testing.assert_allclose(sparsity.evenness([0.0, 1.0], 1e-3, 2e-3), 2.0**-500, rtol=1e-11)


def test_what_is_masked_counts_nowhere(x):
    mask = np.random.default_rng(1).random(x.shape) < 0.6
    mask[:, 0] = True
    odd = np.where(mask, x, np.nan)
    for found, one in ((sparsity.evenness, by_hand), (sparsity.effective, lambda row: row.sum() ** 2 / (row**2).sum())):
        options = (1.0, 2.0) if found is sparsity.evenness else ()
        expected = [one(np.abs(row[m]), *options) for row, m in zip(x, mask)]
        np.testing.assert_allclose(found(odd, mask=mask), expected, rtol=1e-12)
    np.testing.assert_array_equal(sparsity.evenness(x, mask=np.arange(6) < 3), sparsity.evenness(x[:, :3]))


def test_mean_of_a_gaussian_latent():
    """By the chi law's density for E|z|_2 where n is small, by its limit, and by draws at n = 64."""
    assert sparsity.gaussian(1) == pytest.approx(1, abs=1e-14)
    assert sparsity.gaussian(2) == pytest.approx(2 / np.sqrt(np.pi) / stats.chi(2).mean() * np.sqrt(2) / np.sqrt(2))
    angles = (np.arange(2000) + 0.5) * np.pi / 4000  # n = 2 by quadrature over the direction alone
    assert sparsity.gaussian(2) == pytest.approx(np.mean(np.cos(angles) + np.sin(angles)) / np.sqrt(2), abs=1e-7)
    for n in (3, 64, 1000):
        expected = np.sqrt(n) * np.sqrt(2 / np.pi) / stats.chi(n).mean()
        assert sparsity.gaussian(n) == pytest.approx(expected, rel=1e-9)
    assert sparsity.gaussian(64) == pytest.approx(0.801007, abs=5e-7)
    assert sparsity.gaussian(10**7) == pytest.approx(np.sqrt(2 / np.pi), rel=1e-7)
    drawn = sparsity.evenness(np.random.default_rng(0).normal(size=(4000, 64)))
    assert abs(drawn.mean() - sparsity.gaussian(64)) < 5 * drawn.std() / np.sqrt(4000)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: sparsity.evenness([1.0, 2], 2, 2), r"q = 2 and p = 2: expected exponents 0 < q < p, such as 1 and 2"),
        (lambda: sparsity.evenness([1.0, 2], -1, 2), "q = -1 and p = 2"),
        (lambda: sparsity.evenness([]), r"array of shape \(0,\), expected vectors \(..., n\) with n >= 1"),
        (lambda: sparsity.evenness([1.0, 2j]), r"entries of type complex128, expected real numbers, such as np\.abs"),
        (lambda: sparsity.effective(np.complex64([1, 2j])), "entries of type complex64, expected real numbers"),
        (lambda: sparsity.evenness(3.0), r"array of shape \(\), expected vectors"),
        (lambda: sparsity.evenness([[1.0, 2], [0, 0]]), "Vector 1 is all 0, neither sparse nor even: leave it out"),
        (lambda: sparsity.evenness([0.0, 0]), "The vector is all 0"),
        (lambda: sparsity.evenness([[[1.0, np.nan]]]), "Vector 0, 0 is not finite"),
        (lambda: sparsity.evenness([1.0, 2], mask=[False, False]), "no entry that counts"),
        (lambda: sparsity.evenness([1.0, 2], mask=[0, 1]), "The mask is int64, expected bool"),
        (lambda: sparsity.effective([1.0, 2], -0.5), "order of the entropy is -0.5, expected 0 or more"),
        (lambda: sparsity.gaussian(0), "n is 0, expected an integer >= 1"),
    ],
)
def test_bad_input_is_refused_in_a_line(call, match):
    with pytest.raises(ValueError, match=match):
        call()


class One(nn.Module):
    """A block with all that its attention may have; its modulation is 0, so that it sees the normalised input."""

    @nn.compact
    def __call__(self, x, c):
        e = jnp.zeros((*x.shape[:-2], 3))
        block = blocks.Block(2, qk_norm=True, table=(4,), name="block")
        return block(x, e, mask=jnp.tril(jnp.ones((4, 4), bool)))


class Told(nn.Module):
    """Four tokens that read three others, of which the last is padding."""

    @nn.compact
    def __call__(self, x, c):
        beside = jnp.broadcast_to(jnp.arange(6.0).reshape(3, 2), (*x.shape[:-2], 3, 2))
        seen = jnp.broadcast_to(jnp.array([True, True, False]), (*x.shape[:-2], 3))
        return blocks.CrossAttention(2, name="read")(x, beside, seen)


def test_rows_of_cross_attention_are_read_too():
    net, rng = models.network(Told()), np.random.default_rng(3)
    x = rng.normal(size=(2, 4, 8)).astype(np.float32)
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32),
                          jax.eval_shape(net.init, jax.random.key(0), x[0], jnp.zeros(())))  # fmt: skip
    rows = models.attention_rows(net.apply, params, x, np.zeros(2, np.float32))
    own = params["read"]
    y = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    q = (y @ own["query"]["kernel"] + own["query"]["bias"]).reshape(2, 4, 2, 4)
    k = (np.arange(6.0).reshape(3, 2) @ own["told"]["kernel"] + own["told"]["bias"])[:, :8].reshape(3, 2, 4)
    logits = np.einsum("bqhd,khd->bhqk", q, k)[..., :2] / 2
    assert list(rows) == ["read"]
    np.testing.assert_allclose(rows["read"][..., :2], special.softmax(logits, -1), atol=2e-6)
    np.testing.assert_array_equal(rows["read"][..., 2], 0)


def test_rows_of_attention_are_those_of_numpy():
    """Two examples of 4 tokens: softmax of q k' / sqrt(D) under a mask, times the factors of offsets."""
    net, rng = models.network(One()), np.random.default_rng(2)
    shapes = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((4, 8)), jnp.zeros(()))
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)["block"]
    params["modulation"] = jax.tree.map(np.zeros_like, params["modulation"])
    x = rng.normal(size=(2, 4, 8)).astype(np.float32)
    rows = models.attention_rows(net.apply, {"block": params}, x, np.zeros(2, np.float32))
    y = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    qkv = y @ params["qkv"]["kernel"] + params["qkv"]["bias"]
    q, k = (np.swapaxes(a.reshape(2, 4, 2, 4), 1, 2) for a in np.split(qkv, 3, -1)[:2])
    scaled = lambda name, a: a / np.sqrt((a**2).mean(-1, keepdims=True) + 1e-6) * params[name]["scale"]
    logits = np.einsum("bhqd,bhkd->bhqk", scaled("norm_q", q), scaled("norm_k", k)) / 2
    expected = special.softmax(np.where(np.tril(np.ones((4, 4))) > 0, logits, -np.inf), -1)
    factors = np.stack([[[of[i - j + 3] for j in range(4)] for i in range(4)] for of in params["table"]])
    assert list(rows) == ["block"]
    np.testing.assert_allclose(rows["block"], expected * factors, atol=2e-6)


class Repeated(nn.Module):
    """One layer of attention in a scan over two, or recomputed."""

    scan: bool

    @nn.compact
    def __call__(self, x, c):
        layer = lambda cls: cls(rank=1, name="layer")
        if not self.scan:
            return layer(nn.remat(layers.SelfAttention))(x)
        step = nn.scan(lambda one, x, _: (one(x), None), variable_axes={"params": 0}, length=2)
        return step(layer(layers.SelfAttention), x, None)[0]


@pytest.mark.parametrize("scan", [True, False])
def test_rows_of_what_is_no_single_evaluation_are_refused(scan):
    x, c = np.zeros((4, 4), np.float32), np.float32(0)
    net = models.network(Repeated(scan))
    leaf = lambda *shape: np.zeros((2,) * scan + shape, np.float32)
    dense = lambda width: {"kernel": leaf(4, width), "bias": leaf(width)}
    params = {"layer": {"norm": {"scale": leaf(4), "bias": leaf(4)}, "qkv": dense(12), "out": dense(4)}}
    with pytest.raises(ValueError, match="layer is evaluated twice, in a scan, under vmap or recomputed; build"):
        models.attention_rows(net.apply, params, x, c)


def test_rows_that_there_are_not_are_refused():
    net, x, c = models.from_function(lambda params, x, c, given: x, {}), np.zeros(2, np.float32), np.float32(0)
    with pytest.raises(ValueError, match="cannot be read: there is none"):
        models.attention_rows(net.apply, {}, x, c)
    with pytest.raises(ValueError, match="these are traced: call it outside jit"):
        jax.eval_shape(lambda x: models.attention_rows(net.apply, {}, x, c), x)
