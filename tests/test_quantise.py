"""Quantised codes: gradients, Lloyd's step and restarts of a table; the rounding, entropies and indices of FSQ."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from diffjax import quantise

pytestmark = pytest.mark.usefixtures("x64")
rounded, index, values = (jax.jit(f, static_argnums=1) for f in (quantise.rounded, quantise.index, quantise.values))
slope = jax.jit(jax.grad(lambda h, levels: quantise.rounded(h, levels).sum()), static_argnums=1)


def test_gradients_of_a_quantised_vector_by_hand():
    """Loss (w . z_q)^2 with w = (2, 3): at e_1 = (1, 0) w . e = 2, so that the gradient is 2 * 2 * (2, 3)."""
    w, z, table = np.array([2.0, 3.0]), np.array([0.8, 0.1]), np.eye(2)

    def loss(z, table):
        e = table[quantise.nearest(z, table)]
        return (w @ quantise.straight_through(z, e)) ** 2

    at_z, at_table = jax.jit(jax.grad(loss, (0, 1)))(z, table)
    np.testing.assert_allclose(at_z, [8, 12])
    np.testing.assert_array_equal(at_table, 0)  # none reaches the table
    own = lambda part: jax.jit(jax.grad(part, (0, 1)))(z, table[0])
    np.testing.assert_allclose(own(quantise.commitment), [[-0.2, 0.1], [0, 0]], atol=1e-15)  # 2 (z - e) / 2 entries
    np.testing.assert_allclose(own(quantise.codebook), [[0, 0], [0.2, -0.1]], atol=1e-15)


def test_the_gradient_of_the_codebook_is_its_residual():
    """2 (n_k e_k - sum of z) / (n d): the mean over n vectors of d entries."""
    rng = np.random.default_rng(1)
    z, table = rng.normal(size=(8, 2)), rng.normal(size=(4, 2))
    k = np.linalg.norm(z[:, None] - table, axis=-1).argmin(-1)
    mean = lambda table: jax.vmap(quantise.codebook)(z, table[k]).mean()
    expected = [2 * ((k == i).sum() * table[i] - z[k == i].sum(0)) / z.size for i in range(4)]
    np.testing.assert_allclose(jax.jit(jax.grad(mean))(jnp.asarray(table)), expected, atol=1e-15)


def test_nearest_is_a_search_and_keeps_long_vectors_apart():
    """In float32 |z|^2 - 2 z e + |e|^2 of vectors near 1e4 does not tell steps of 1e-1; differences do."""
    rng = np.random.default_rng(0)
    z, table = rng.normal(size=(3, 5, 4)), rng.normal(size=(7, 4))
    expected, nearest = np.linalg.norm(z[..., None, :] - table, axis=-1).argmin(-1), jax.jit(quantise.nearest)
    np.testing.assert_array_equal(nearest(z, table), expected)
    far = (1e4 + 0.1 * np.arange(8)[:, None] * np.ones((8, 4))).astype(np.float32)
    np.testing.assert_array_equal(nearest(far, far), np.arange(8))


def test_running_means_are_lloyds_step_and_its_average():
    rng = np.random.default_rng(2)
    z, table = rng.normal(size=(60, 3)), rng.normal(size=(4, 3))
    k = np.linalg.norm(z[:, None] - table, axis=-1).argmin(-1)

    @jax.jit
    def step(before, decay):
        return quantise.moved(before, quantise.counted(z, quantise.nearest(z, table), 4), decay).table

    lloyd = np.stack([z[k == i].mean(0) for i in range(4)])
    before = quantise.Running(np.full(4, 0.25), 0.25 * table)
    np.testing.assert_allclose(step(before, 0.0), lloyd, rtol=1e-12)
    n = np.bincount(k, minlength=4) / 60
    mixed = (0.9 * 0.25 * table + 0.1 * n[:, None] * lloyd) / (0.9 * 0.25 + 0.1 * n)[:, None]
    np.testing.assert_allclose(step(before, 0.9), mixed, rtol=1e-12)


def test_a_code_that_nobody_uses_keeps_its_vector():
    """At once (decay 0), and after so many updates that its share would be 0."""
    z, table = np.zeros((6, 2)), np.array([[0.0, 0.0], [10.0, 10.0]])
    running = quantise.Running(np.full(2, 0.5), 0.5 * table)
    move = jax.jit(lambda running, decay: quantise.moved(running, quantise.counted(z, np.zeros(6, int), 2), decay))
    np.testing.assert_allclose(move(running, 0.0).table, table, rtol=1e-12)
    for _ in range(400):
        running = move(running, 0.9)
    np.testing.assert_allclose(running.table, table, rtol=1e-9)


def test_what_is_not_finite_has_no_code():
    h = np.array([[0.2, 1.0], [np.nan, 0.0], [0.0, np.inf]])
    np.testing.assert_array_equal(quantise.nearest(h, np.array([[5.0, 5.0], [0.0, 1.0]])), [1, -1, -1])
    codes = quantise.index(quantise.rounded(jnp.asarray(h), (3, 3)), (3, 3))
    assert codes[0] >= 0
    assert codes[1] == -1  # an infinite channel is at its end


def test_dead_codes_are_put_on_different_vectors_of_the_batch():
    z = np.arange(12.0).reshape(6, 2)
    running = quantise.Running(np.array([0.5, 0.01, 0.49, 0.0]), np.ones((4, 2)))
    restarted = lambda *args: jax.device_get(jax.jit(quantise.restarted)(*args))
    found = restarted(jax.random.key(0), running, z, 0.1)  # below 0.1 / 4
    np.testing.assert_array_equal(found.share, [0.5, 0.25, 0.49, 0.25])
    np.testing.assert_array_equal(found.total[[0, 2]], 1)
    chosen = {tuple(row) for row in 4 * found.total[[1, 3]]}
    assert len(chosen) == 2
    assert chosen <= {tuple(row) for row in z}
    few = restarted(jax.random.key(0), running._replace(share=np.zeros(4)), z[:2], 0.1)
    assert {tuple(row) for row in 4 * few.total} == {tuple(row) for row in z[:2]}


def test_use_of_codes_of_the_worked_example():
    """k = 0 1 3 1 0 3 3 0: shares 3/8, 2/8, 0, 3/8, of perplexity 2.951152."""
    shares = np.bincount([0, 1, 3, 1, 0, 3, 3, 0], minlength=4) / 8
    assert 2 ** quantise.entropy(shares) == pytest.approx(2.951152, abs=1e-6)
    assert quantise.entropy([0.5, 0.25, 0.25, 0.0]) == 1.5


def edges(levels):
    """The h at which the code of a channel changes, by NumPy: tanh(h + s) = (j + 1/2 + o) / H."""
    half, offset = (levels - 1) * (1 - 1e-3) / 2, 0.0 if levels % 2 else 0.5
    inner = np.arange(-(levels // 2), levels - levels // 2 - 1) + 0.5
    return np.arctanh((inner + offset) / half) - np.arctanh(offset / half)


@pytest.mark.parametrize(("levels", "nats"), [(5, 1.597306), (8, 2.055916)])
def test_channels_change_at_their_edges_and_have_the_entropy_of_their_bins(levels, nats):
    at = edges(levels)
    code = lambda h: np.asarray(rounded(h[:, None], (levels,)))[:, 0] * (levels // 2)
    below, above, zero = np.split(code(np.concatenate([at - 1e-9, at + 1e-9, [0.0]])), [len(at), 2 * len(at)])
    np.testing.assert_allclose(below, np.arange(levels - 1) - levels // 2, atol=1e-12)
    np.testing.assert_allclose(above - below, 1, atol=1e-12)
    assert zero == 0  # the shift inverts tanh
    p = np.diff([0, *scipy.stats.norm.cdf(at), 1])
    assert -np.sum(p * np.log(p)) == pytest.approx(nats, abs=1e-6)
    assert quantise.entropy(p) * np.log(2) == pytest.approx(nats, abs=1e-6)


@pytest.mark.parametrize(("levels", "gap"), [(8, 4e-6), (4, 3e-4)])
def test_the_published_shift_is_another_one(levels, gap):
    of = quantise.constants((levels,))
    assert of.shift[0] == pytest.approx(np.arctanh(of.offset[0] / of.half[0]), rel=1e-15)
    assert abs(np.tan(of.offset[0] / of.half[0]) - of.shift[0]) == pytest.approx(gap, rel=0.5)
    assert quantise.constants((2,)).offset[0] > quantise.constants((2,)).half[0]  # and there is none at 2


def test_a_binary_channel_is_a_sign_whose_two_halves_are_equally_probable():
    h = np.array([[-3.0], [-1e-9], [1e-9], [2.0]])
    np.testing.assert_array_equal(rounded(h, (2,))[:, 0], [-1, -1, 1, 1])
    np.testing.assert_array_equal(index(rounded(h, (2,)), (2,)), [0, 0, 1, 1])
    np.testing.assert_allclose(slope(h, (2,)), 1 - np.tanh(h) ** 2, rtol=1e-12)


def test_the_slope_is_that_of_the_smooth_part():
    h, levels = np.random.default_rng(0).normal(size=(9, 3)), (8, 5, 4)
    half, offset = (np.array(levels) - 1) * 0.999 / 2, np.array([0.5, 0, 0.5])
    expected = half * (1 - np.tanh(h + np.arctanh(offset / half)) ** 2) / [4, 2, 2]
    np.testing.assert_allclose(slope(h, levels), expected, rtol=1e-12)


@pytest.mark.parametrize("levels", [(8, 5), (2, 3, 4), (8, 6, 5)])
def test_every_code_is_reached_once_and_numbered_both_ways(levels):
    middle = [np.concatenate([[-9.0], (e[1:] + e[:-1]) / 2, [9.0]]) if len(e) else np.array([-1.0, 1.0])
              for e in (edges(L) if L > 2 else [] for L in levels)]  # fmt: skip
    grid = np.stack(list(itertools.product(*middle)))
    reached = rounded(grid, levels)
    number = np.asarray(index(reached, levels))
    assert sorted(number) == list(range(np.prod(levels)))
    by_hand = sum(np.array([int(np.searchsorted(m, v)) for v in grid[:, i]]) * int(np.prod(levels[:i]))
                  for i, m in enumerate(middle))  # fmt: skip
    np.testing.assert_array_equal(number, by_hand)
    np.testing.assert_allclose(values(number, levels), reached, atol=1e-7)


def test_the_published_sizes():
    for levels, codes in (((8, 5, 5, 5), 1000), ((8, 8, 8, 5, 5, 5), 64_000)):
        top = np.array([(L - 1 - L // 2) / (L // 2) for L in levels])
        assert int(index(top, levels)) == codes - 1


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        ((), r"levels = \(\): expected the number of levels of each channel, such as \(8, 6, 5\)\."),
        ((8, 1), r"levels\[1\] is 1, expected an integer >= 2\."),
        ((8, 2.5), r"levels\[1\] is 2\.5, expected an integer >= 2\."),
        ((4096, 4097), r"levels = \(4096, 4097\) make 16,781,312 codes, expected at most 16,777,216\."),
    ],
)
def test_refuses_levels_that_are_none(levels, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        quantise.check_levels(levels)
