"""Distances of samples, against SciPy's matrix square root, closed forms, and loops over definitions."""

from itertools import permutations

import numpy as np
import pytest
from scipy.linalg import sqrtm
from scipy.stats import norm

from diffjax.metrics import frechet, neighbours, wasserstein


@pytest.fixture
def rng():
    return np.random.default_rng(3)


def test_frechet_is_the_textbook_formula_with_sqrtm(rng):
    x = rng.normal(size=(200, 7)) @ rng.normal(size=(7, 7))
    y = rng.normal(size=(90, 7)) @ rng.normal(size=(7, 7)) + 0.3
    a, b = np.cov(x.T), np.cov(y.T)
    expected = np.sum((x.mean(0) - y.mean(0)) ** 2) + np.trace(a + b - 2 * sqrtm(a @ b).real)
    assert frechet.frechet(x, y) == pytest.approx(expected, rel=1e-10)
    assert frechet.frechet(y, x) == pytest.approx(expected, rel=1e-10)


def test_frechet_of_commuting_and_singular_gaussians(rng):
    """For diagonal covariances d^2 = |m1 - m2|^2 + sum (s1 - s2)^2, also when some deviations are 0."""
    s1, s2, gap = np.array([0.0, 1.0, 2.5]), np.array([0.7, 0.0, 1.5]), np.array([1.0, -2.0, 0.5])
    p, q = frechet.Gaussian(np.zeros(3), np.diag(s1**2)), frechet.Gaussian(gap, np.diag(s2**2))
    assert frechet.distance(p, q) == pytest.approx(np.sum(gap**2) + np.sum((s1 - s2) ** 2), rel=1e-7)
    x = rng.normal(size=(5, 12))  # fewer samples than dimensions
    assert 0 <= frechet.frechet(x, x) < 1e-7
    assert frechet.frechet(x, x + 0.25) == pytest.approx(12 / 16, rel=1e-6)


def test_frechet_of_one_feature(rng):
    x, y = rng.normal(size=(50, 1)), 3 * rng.normal(size=(60, 1)) + 1
    expected = (x.mean() - y.mean()) ** 2 + (x.std(ddof=1) - y.std(ddof=1)) ** 2
    assert frechet.frechet(x, y) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(("x", "y"), [(np.zeros((1, 3)), np.ones((4, 3))), (np.zeros(4), np.ones(4))])
def test_frechet_refuses_clouds_without_a_covariance(x, y):
    with pytest.raises(ValueError, match="expected \\(n, d\\) with n >= 2"):
        frechet.frechet(x, y)


def test_frechet_refuses_unequal_dimensions(rng):
    with pytest.raises(ValueError, match="3 and of 4 dimensions"):
        frechet.frechet(rng.normal(size=(9, 3)), rng.normal(size=(9, 4)))


def test_exact_w2_in_one_dimension_is_sorting(rng):
    x, y = rng.normal(size=(40, 1)), rng.exponential(size=(40, 1))
    expected = np.sqrt(np.mean((np.sort(x[:, 0]) - np.sort(y[:, 0])) ** 2))
    assert wasserstein.exact(x, y) == pytest.approx(expected, rel=1e-12)
    assert wasserstein.sliced(x, y, projections=3) == pytest.approx(expected, rel=1e-12)  # directions are +-1


def test_exact_w2_is_the_best_permutation(rng):
    x, y = rng.normal(size=(6, 2, 2)), rng.normal(size=(6, 2, 2))
    costs = [np.mean(np.sum((x - y[list(p)]) ** 2, axis=(1, 2))) for p in permutations(range(6))]
    assert wasserstein.exact(x, y) == pytest.approx(np.sqrt(min(costs)), rel=1e-12)


def test_exact_w2_of_gaussian_quantiles_is_the_closed_form():
    """W2(N(0, 1), N(m, s^2))^2 = m^2 + (s - 1)^2; 500 quantiles of each miss it by a per cent at most."""
    z = norm.ppf((np.arange(500) + 0.5) / 500)[:, None]
    assert wasserstein.exact(z, 0.7 + 1.8 * z[::-1]) == pytest.approx(np.hypot(0.7, 0.8), rel=0.01)


def test_sliced_w2_of_a_translation(rng):
    """A shift v moves each projection by v . theta, and E (v . theta)^2 = |v|^2 / d."""
    x, v = rng.normal(size=(30, 5)), np.array([1.0, 2.0, 0.0, -1.0, 0.5])
    assert wasserstein.exact(x, x + v) == pytest.approx(np.linalg.norm(v), rel=1e-9)
    assert wasserstein.sliced(x, x + v, projections=4000) == pytest.approx(np.linalg.norm(v) / np.sqrt(5), rel=0.03)


def test_sliced_w2_has_fixed_directions(rng):
    x, y = rng.normal(size=(20, 3)), rng.normal(size=(20, 3)) + 1
    assert wasserstein.sliced(x, y) == wasserstein.sliced(x, y)
    assert wasserstein.sliced(x, y) != wasserstein.sliced(x, y, seed=1)


@pytest.mark.parametrize("distance", [wasserstein.exact, wasserstein.sliced])
def test_w2_refuses_unequal_samples(distance, rng):
    with pytest.raises(ValueError, match=r"\(5, 2\) and \(6, 2\)"):
        distance(rng.normal(size=(5, 2)), rng.normal(size=(6, 2)))
    with pytest.raises(ValueError, match="n >= 1"):
        distance(np.zeros((0, 2)), np.zeros((0, 2)))


def test_sliced_w2_refuses_no_projections(rng):
    with pytest.raises(ValueError, match="projections = 0"):
        wasserstein.sliced(np.zeros((2, 2)), np.ones((2, 2)), projections=0)


def _loop_accuracy(real, fake):
    """The definition, one sample at a time (no ties)."""
    points, right = [(p, True) for p in real] + [(p, False) for p in fake], {True: [], False: []}
    for i, (p, label) in enumerate(points):
        others = [(np.linalg.norm(p - q), other) for j, (q, other) in enumerate(points) if j != i]
        right[label].append(min(others)[1] == label)
    return np.mean(right[True]), np.mean(right[False])


def test_two_sample_accuracy_is_its_definition(rng):
    real, fake = rng.normal(size=(25, 2)), rng.normal(size=(25, 2)) * 0.4 + 0.3
    found = neighbours.two_sample_accuracy(real, fake)
    assert found == pytest.approx(_loop_accuracy(real, fake))
    assert found[0] != found[1]  # so that swapping them would be seen


def test_two_sample_accuracy_at_its_ends(rng):
    real = rng.normal(size=(30, 4))
    assert neighbours.two_sample_accuracy(real, real + 100) == (1.0, 1.0)
    assert neighbours.two_sample_accuracy(real, real + 1e-9) == (0.0, 0.0)  # copies of the real ones
    collapsed = np.zeros((30, 4)) + real[0] + 1e-3
    assert neighbours.two_sample_accuracy(real, collapsed)[1] == 1.0


def test_two_sample_accuracy_splits_ties():
    """Every point has two others at distance 0 or 1, one of each kind."""
    square = np.array([[0.0, 0.0], [1.0, 1.0]]), np.array([[0.0, 1.0], [1.0, 0.0]])
    assert neighbours.two_sample_accuracy(*square) == (0.0, 0.0)
    line = np.zeros((2, 1)), np.zeros((2, 1))  # one own, two foreign, all at distance 0
    assert neighbours.two_sample_accuracy(*line) == pytest.approx((1 / 3, 1 / 3))


def test_two_sample_accuracy_refuses_unequal_numbers(rng):
    with pytest.raises(ValueError, match="4 real and 5 fake"):
        neighbours.two_sample_accuracy(np.zeros((4, 2)), np.zeros((5, 2)))


@pytest.mark.parametrize("k", [1, 3, 5])
def test_coverage_is_its_definition(rng, k):
    real, fake = rng.normal(size=(40, 2)), rng.normal(size=(15, 2)) + 0.8
    inside = []
    for i, p in enumerate(real):
        radius = sorted(np.linalg.norm(p - q) for j, q in enumerate(real) if j != i)[k - 1]
        inside.append(any(np.linalg.norm(p - q) <= radius for q in fake))
    assert neighbours.coverage(real, fake, k) == pytest.approx(np.mean(inside))
    assert 0 < np.mean(inside) < 1


def test_coverage_of_equal_laws(rng):
    """1 - 2^-k in the limit of many samples (Naeem et al. 2020, eq. 11 at equal numbers)."""
    found = [neighbours.coverage(*rng.normal(size=(2, 300, 3)), k=2) for _ in range(10)]
    assert np.mean(found) == pytest.approx(0.75, abs=0.03)


@pytest.mark.parametrize("k", [0, 4, 9])
def test_coverage_refuses_impossible_k(k):
    with pytest.raises(ValueError, match=f"k = {k}; expected 1 <= k < 4"):
        neighbours.coverage(np.zeros((4, 2)), np.zeros((4, 2)), k)


def test_train_neighbour_ratio_is_its_definition(rng):
    train, held_out, fake = rng.normal(size=(30, 3)), rng.normal(size=(11, 3)), rng.normal(size=(9, 3)) * 2
    nearest = lambda samples: np.median([min(np.linalg.norm(p - q) for q in train) for p in samples])
    expected = nearest(fake) / nearest(held_out)
    assert neighbours.train_neighbour_ratio(fake, train, held_out) == pytest.approx(expected, rel=1e-12)
    assert neighbours.train_neighbour_ratio(train[:9], train, held_out) == 0.0
    with pytest.raises(ValueError, match="the split leaks"):
        neighbours.train_neighbour_ratio(fake, train, train[:4])


def test_copied_share_counts_copies(rng):
    """1 % of fresh samples come nearer than the 1 % quantile; a third of copies adds a third."""
    train, held_out, fake = rng.uniform(size=(200, 4)), rng.uniform(size=(5000, 4)), rng.uniform(size=(6000, 4))
    assert neighbours.copied_share(fake, train, held_out) == pytest.approx(0.01, abs=0.006)
    assert neighbours.copied_share(fake, train, held_out, quantile=0.3) == pytest.approx(0.3, abs=0.03)
    fake[::3] = train[rng.integers(200, size=2000)]
    assert neighbours.copied_share(fake, train, held_out) == pytest.approx(1 / 3 + 0.01 * 2 / 3, abs=0.006)
    with pytest.raises(ValueError, match=r"quantile = 1\.5"):
        neighbours.copied_share(fake, train, held_out, quantile=1.5)


def test_neighbours_refuse_other_dimensions():
    with pytest.raises(ValueError, match=r"\(3, 2\) and \(3, 4\)"):
        neighbours.distances(np.zeros((3, 2)), np.zeros((3, 4)))
    with pytest.raises(ValueError, match="n, m >= 1"):
        neighbours.distances(np.zeros((0, 2)), np.zeros((3, 2)))
