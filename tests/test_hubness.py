"""Hubs: neighbours by brute force, what is exact of their number, and the temperature that choosing them is."""

import numpy as np
import pytest
import rows
from closed_forms import Form
from scipy import stats
from scipy.spatial import KDTree

from diffjax import grids
from diffjax.metrics import hubness
from diffjax.samplers import ancestral
from diffjax.schedules import VP


@pytest.fixture(scope="module")
def pool():
    return np.random.default_rng(0).normal(size=(2000, 64))


@pytest.fixture(scope="module")
def found(pool):
    return hubness.counts(pool, 10)


def test_counts_are_those_of_a_tree(monkeypatch):
    """In 3 dimensions, where a tree of SciPy finds neighbours; in blocks of 7 rows as of all."""
    pool = np.random.default_rng(1).normal(size=(100, 3))
    at = KDTree(pool).query(pool, k=5)[1][:, 1:]
    expected = np.bincount(at.ravel(), minlength=100)
    np.testing.assert_array_equal(hubness.counts(pool, 4), expected)
    monkeypatch.setattr(hubness, "ROWS", 7)
    np.testing.assert_array_equal(hubness.counts(pool, 4), expected)
    np.testing.assert_array_equal(hubness.counts(pool.reshape(100, 3, 1), 4), expected)
    assert hubness.counts(pool, 99).tolist() == [99] * 100  # of all others


def test_counts_of_points_on_a_line():
    """0, 1, 3, 7, 15: the nearest of each is the one below, of 0 it is 1."""
    line = np.array([0.0, 1, 3, 7, 15])[:, None]
    assert hubness.counts(line, 1).tolist() == [1, 2, 1, 1, 0]
    assert hubness.hubs(line, 1, most=1).tolist() == [1]
    assert hubness.hubs(line, 1, most=3).tolist() == [0, 1, 2]  # of equal N the first
    assert hubness.hubs(line, 1, least=2).tolist() == [1]
    assert hubness.skewness([1, 2, 1, 1, 0]) == pytest.approx(0)
    assert hubness.skewness([0, 0, 3]) == pytest.approx(stats.skew([0, 0, 3]))


def test_of_equal_distances_the_first_count():
    """The corners of a square with its middle: every corner has the middle, then two at the same distance."""
    square = np.array([[0.0, 0], [2, 0], [0, 2], [2, 2], [1, 1]])
    by_hand = [(4, 1), (4, 0), (4, 0), (4, 1), (0, 1)]
    assert hubness.counts(square, 2).tolist() == np.bincount(np.ravel(by_hand), minlength=5).tolist()
    assert hubness.counts(square, 2).sum() == 10
    corners = np.eye(40)  # of a simplex: all are equally far
    assert hubness.counts(corners, 3).tolist() == [39, 39, 39, 3] + [0] * 36
    pairs = np.repeat(np.arange(4.0), 2)[:, None]  # duplicates are neighbours at distance 0
    assert hubness.counts(pairs, 1).tolist() == [1] * 8


def test_their_sum_is_k_for_each_and_their_order_that_of_the_pool(pool, found):
    assert found.sum() == 20_000
    order = np.random.default_rng(2).permutation(len(pool))
    np.testing.assert_array_equal(hubness.counts(pool[order], 10), found[order])
    kept = hubness.hubs(pool, 10, most=200)
    assert np.all(np.diff(kept) > 0)
    assert found[kept].min() >= np.delete(found, kept).max()
    np.testing.assert_array_equal(hubness.hubs(pool, 10, least=50), np.flatnonzero(found >= 50))


def test_hubs_of_normal_noise_are_short(pool, found):
    """2,000 points in 64 dimensions: figures of another program; in 3 dimensions there are no hubs."""
    assert hubness.skewness(found) == pytest.approx(5.786, abs=5e-4)
    assert hubness.skewness(found) == pytest.approx(stats.skew(found), rel=1e-12)
    assert np.corrcoef(found, np.linalg.norm(pool, axis=1))[0, 1] == pytest.approx(-0.690, abs=5e-4)
    kept = pool[hubness.hubs(pool, 10, most=200)]
    assert np.mean(kept**2) == pytest.approx(0.7259, abs=5e-5)
    assert kept.var(0, ddof=1).mean() == pytest.approx(0.7253, abs=5e-4)
    assert hubness.shrunk(kept, pool) == pytest.approx(0.7253, abs=5e-3)  # the pool's own variance is 1 +- 0.002
    short = pool[hubness.shortest(pool, 200)]
    norms = np.sum(pool**2, -1)
    np.testing.assert_array_equal(np.sort(np.sum(short**2, -1)), np.sort(norms)[:200])
    assert hubness.shrunk(short, pool) < hubness.shrunk(kept, pool) < 0.8
    some = pool[np.random.default_rng(3).choice(2000, 200, replace=False)]
    assert hubness.shrunk(some, pool) == pytest.approx(1, abs=5 * np.sqrt(2 / 200 / 64))
    assert abs(hubness.skewness(hubness.counts(np.random.default_rng(0).normal(size=(2000, 3)), 10))) < 0.5


@pytest.mark.usefixtures("x64")
def test_a_deterministic_sampler_carries_the_kept_covariance_to_its_samples(pool):
    """On N(0, diag l) DDIM multiplies axis i by prod (a_s a l + s_s s) / (a^2 l + s^2): so it does the temperature."""
    lam = np.geomspace(0.01, 4, 64)

    def amplitudes(t):  # of VP, eq. 33 of Song et al. 2021
        log_alpha = -0.25 * t**2 * (20 - 0.1) - 0.5 * t * 0.1
        return np.exp(log_alpha), np.sqrt(-np.expm1(2 * log_alpha))

    sampler, ts = ancestral.ddim(VP()), grids.log_snr(VP(), 10)
    mean = lambda x, alpha, sigma: alpha * lam / (alpha**2 * lam + sigma**2) * x
    kept = pool[hubness.hubs(pool, 10, most=200)]
    noise = np.zeros((len(ts), *kept.shape))
    made = rows.walk(sampler, ts, rows.HostModel(mean, Form(amplitudes, None)), kept, noise)[0]
    alpha, sigma = amplitudes(ts[:, None])
    gain = (alpha[1:] * alpha[:-1] * lam + sigma[1:] * sigma[:-1]) / (alpha[:-1] ** 2 * lam + sigma[:-1] ** 2)
    carried = np.cov(kept.T) * np.outer(gain.prod(0), gain.prod(0))
    np.testing.assert_allclose(np.cov(made.T), carried, rtol=1e-9, atol=1e-12)
    assert hubness.shrunk(made / np.sqrt(lam), pool * gain.prod(0) / np.sqrt(lam)) == pytest.approx(0.725, abs=0.02)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda x: hubness.counts(x, 20), "k = 20 of a pool of 20 points; expected at most 19, all others"),
        (lambda x: hubness.counts(x, 0), "k is 0, expected an integer >= 1"),
        (lambda x: hubness.counts(x * 0, 3), "The pool has 20 points that are all the same"),
        (lambda x: hubness.counts(np.where(x == x[4], np.nan, x), 3), "The pool: row 4 of 20 is not finite"),
        (lambda x: hubness.counts(x[0], 3), r"The pool has shape \(2,\), expected \(n, ...\) with n >= 2 points"),
        (lambda x: hubness.hubs(x, 3), "most = None and least = None: expected one of them"),
        (lambda x: hubness.hubs(x, 3, most=4, least=5), "most = 4 and least = 5: expected one of them"),
        (lambda x: hubness.hubs(x, 3, most=21), "most is 21, expected at most 20"),
        (lambda x: hubness.hubs(x, 3, least=3), "least = 3 is not above k = 3, which is the mean of N"),
        (lambda x: hubness.hubs(x, 3, least=50), "among the 3 nearest of 50 others, the most is"),
        (lambda x: hubness.skewness([2, 2]), "All 2 counts are 2: they have no skewness"),
        (lambda x: hubness.shrunk(x, x[:, :1]), "What is kept has 2 entries each, the pool 1"),
        (lambda x: hubness.shortest(x, 0), "most is 0, expected an integer >= 1"),
    ],
)
def test_bad_input_is_refused_in_a_line(call, match):
    with pytest.raises(ValueError, match=match):
        call(np.random.default_rng(0).normal(size=(20, 2)))
