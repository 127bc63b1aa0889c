"""Feature spaces and their metrics, against closed forms, triple sums, and laws whose distances are known."""

import itertools
import json

import numpy as np
import pytest

from diffjax import data
from diffjax.metrics import digits as classifier
from diffjax.metrics import features, frechet, kid, manifold, neighbours


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def clouds(rng):
    """The two clouds whose numbers stand below: y is wider and moved."""
    x = rng.normal(size=(200, 4))
    return x, 1.1 * rng.normal(size=(200, 4)) + 0.2


def kernel(a, b):
    return (a @ b / len(a) + 1) ** 3


def test_kid_is_its_sums(clouds):
    """Loops over pairs; and the number that an independent derivation of these clouds gave."""
    x, y = clouds
    assert kid.kid(x, y) == pytest.approx(0.285600, abs=5e-7)
    a, b = x[:7], y[:5]
    pairs = lambda c: np.mean([kernel(c[i], c[j]) for i, j in itertools.permutations(range(len(c)), 2)])
    across = np.mean([kernel(p, q) for p in a for q in b])
    assert kid.kid(a, b) == pytest.approx(pairs(a) + pairs(b) - 2 * across, rel=1e-12)
    linear = kid.kid(a, b, degree=1)  # of degree 1: |mean x - mean y|^2 / d, less what the variances add
    gap = np.sum((a.mean(0) - b.mean(0)) ** 2) - np.trace(np.cov(a.T)) / 7 - np.trace(np.cov(b.T)) / 5
    assert linear == pytest.approx(gap / 4, rel=1e-9)


def test_kid_is_the_same_in_blocks(clouds, monkeypatch):
    whole = kid.kid(*clouds)
    monkeypatch.setattr(kid, "BLOCK", 17)
    assert kid.kid(*clouds) == pytest.approx(whole, rel=1e-12)


HOLED = np.where(np.arange(12).reshape(4, 3) % 7 == 4, np.nan, 1.0)  # rows 1 and 3


def test_the_error_of_kid_is_its_jackknife(rng):
    """By leaving each sample out, one distance each, of unlike numbers; beside the value itself."""
    x, y = rng.normal(size=(7, 3)), 0.5 + rng.normal(size=(5, 3))
    spread = 0.0
    for left in (
        [kid.kid(np.delete(x, i, 0), y) for i in range(7)],
        [kid.kid(x, np.delete(y, i, 0)) for i in range(5)],
    ):
        spread += (len(left) - 1) / len(left) * np.sum((np.asarray(left) - np.mean(left)) ** 2)
    assert kid.estimate(x, y) == pytest.approx((kid.kid(x, y), spread**0.5), rel=1e-12)


@pytest.mark.parametrize(("shift", "low", "high"), [(0.0, 1.25, 1.6), (0.5, 0.9, 1.15)])
def test_the_error_of_kid_is_the_spread_of_many(rng, shift, low, high):
    """For laws that are apart; for equal ones it is 2^1/2 of that, since only the second order is left."""
    draw = lambda: kid.estimate(rng.normal(size=(60, 3)), shift + rng.normal(size=(60, 3)))
    values, errors = np.asarray([draw() for _ in range(800)]).T
    assert low < np.sqrt(np.mean(errors**2)) / np.std(values) < high


def test_kid_of_equal_laws_is_0_in_the_mean_and_may_be_negative(rng):
    found = [kid.kid(rng.normal(size=(40, 3)), rng.normal(size=(40, 3))) for _ in range(300)]
    assert abs(np.mean(found)) < 4 * np.std(found) / np.sqrt(300)
    assert np.min(found) < 0


def test_numbers_of_the_two_clouds(clouds):
    """Each derived elsewhere, with other code."""
    x, y = clouds
    assert frechet.frechet(y, x) == pytest.approx(0.307942, abs=5e-7)
    found = manifold.manifold(x, y, 5)
    assert found == pytest.approx((0.93, 0.965, 0.87, 0.965), abs=1e-12)
    assert found.coverage == neighbours.coverage(x, y, 5)


def test_manifold_is_its_definition(rng):
    """Loops over balls, closed, of k = 2 neighbours; two of the points coincide."""
    real, fake, k = rng.normal(size=(12, 2)), rng.normal(size=(9, 2)) + 0.8, 2
    fake[0] = real[0]
    far = lambda a, b: np.sqrt(np.sum((a - b) ** 2))
    radius = lambda cloud, i: np.sort([far(cloud[i], q) for j, q in enumerate(cloud) if j != i])[k - 1]
    inside = np.array([[far(p, q) <= radius(real, i) for q in fake] for i, p in enumerate(real)])
    other = np.array([[far(p, q) <= radius(fake, j) for j, q in enumerate(fake)] for p in real])
    expected = (inside.any(0).mean(), other.any(1).mean(), inside.sum() / (k * 9), inside.any(1).mean())
    assert manifold.manifold(real, fake, k) == pytest.approx(expected, abs=1e-12)


def test_manifold_of_many_features_is_that_of_few(rng):
    """400 features, of which all but four are 0: other sums, and no other numbers."""
    real, fake = rng.normal(size=(2, 60, 4))
    wide = lambda cloud: np.concatenate([cloud, np.zeros((60, 396))], 1)
    assert manifold.manifold(wide(real), wide(fake)) == manifold.manifold(real, fake)


def test_coverage_and_density_of_equal_laws(rng):
    """Coverage of N = M = 50 at k = 5 is .97334 for every continuous law, and density 1."""
    assert neighbours.covered(50, 50) == pytest.approx(0.97334, abs=5e-6)
    assert neighbours.covered(10**7, 10**7) == pytest.approx(1 - 2.0**-5, abs=1e-6)
    assert neighbours.covered(7, 11, 1) == pytest.approx(1 - 6 / 17)  # the nearest of 17 others is real
    found = np.array([manifold.manifold(*rng.exponential(size=(2, 50, 3))) for _ in range(400)])
    spread = found.std(0) / np.sqrt(400)
    assert abs(found[:, 3].mean() - 0.97334) < 4 * spread[3]
    assert abs(found[:, 2].mean() - 1) < 4 * spread[2]


def test_the_floor_of_the_frechet_distance(rng):
    """d = 8, unit variances, n = 500: .104; and two samples of an uneven law, n unlike m, to second order."""
    unit = frechet.Gaussian(np.zeros(8), np.eye(8))
    assert frechet.floor(unit, 500, 500) == pytest.approx(0.104)
    assert frechet.floor(unit, 500) == pytest.approx(0.052)
    assert frechet.size_for(unit, 0.104) == 500
    scale = np.array([2.0, 1.0, 0.3, 0.0])
    law = frechet.Gaussian(np.ones(4), np.diag(scale**2))
    draw = lambda n: rng.normal(size=(n, 4)) * scale + 1
    found = [frechet.frechet(draw(400), draw(250)) for _ in range(400)]
    expected, error = frechet.floor(law, 400, 250), np.std(found) / 20
    assert abs(np.mean(found) - expected) < 4 * error + 0.02 * expected
    against = [frechet.distance(frechet.fit(draw(400)), law) for _ in range(400)]
    assert abs(np.mean(against) - frechet.floor(law, 400)) < 4 * np.std(against) / 20 + 0.02 * expected
    with pytest.raises(ValueError, match="1 and inf have no covariance"):
        frechet.floor(law, 1)


def test_the_floor_on_digits_is_near_what_chunks_of_them_measure():
    """In the classifier's features 6.74 is predicted, of chunks of 297; training chunks measure some 7 % less."""
    digits, space = data.digits(), features.digits()
    train, held_out = (space.of(digits.some(part, 2000).x) for part in ("train", "held_out"))
    assert held_out.shape == (297, 48)
    predicted = frechet.floor(frechet.fit(held_out), 297, 297)
    measured = np.mean([frechet.frechet(train[i : i + 297], held_out) for i in range(0, 1485, 297)])
    assert 0.8 < measured / predicted < 1.1
    assert predicted == pytest.approx(6.74, abs=0.15)


def test_the_distance_at_infinity_has_no_bias(rng):
    """True distance .72: samples of 500 say .82 in the mean, the line a + b / n .72."""
    true = frechet.Gaussian(np.full(8, 0.3), np.eye(8))
    law = frechet.Gaussian(np.zeros(8), np.eye(8))
    assert frechet.distance(true, law) == pytest.approx(0.72)
    shift = np.array([0.3, 0]).reshape(2, 1, 1)
    pools = [rng.normal(size=(2, 1500, 8)) + shift for _ in range(40)]
    found = [frechet.infinity(x, y, points=6, seed=i) for i, (x, y) in enumerate(pools)]
    assert np.mean(found) == pytest.approx(0.72, abs=4 * np.std(found) / np.sqrt(40))
    of_500 = [frechet.frechet(x[:500], y[:500]) for x, y in pools]
    assert np.mean(of_500) == pytest.approx(0.82, abs=4 * np.std(of_500) / np.sqrt(40))
    against = [frechet.infinity(x, law, points=6) for x, _ in pools]
    assert np.mean(against) == pytest.approx(0.72, abs=4 * np.std(against) / np.sqrt(40))
    with pytest.raises(ValueError, match=r"expected at least 80 samples, .* got 79"):
        frechet.infinity(pools[0][0][:79], law)


def test_distances_do_not_turn_and_scale_with_the_square(clouds, rng):
    x, y = clouds
    turn = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    assert frechet.frechet(x @ turn, y @ turn) == pytest.approx(frechet.frechet(x, y), rel=1e-10)
    assert frechet.frechet(3 * x, 3 * y) == pytest.approx(9 * frechet.frechet(x, y), rel=1e-10)
    assert kid.kid(x @ turn, y @ turn) == pytest.approx(kid.kid(x, y), rel=1e-10)
    assert manifold.manifold(3 * x @ turn, 3 * y @ turn) == manifold.manifold(x, y)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: kid.kid(np.ones((1, 3)), np.ones((4, 3))), "expected .n, d. and .m, d. with n, m >= 2"),
        (lambda: kid.kid(np.ones((4, 3)), np.ones((4, 2))), "expected .n, d. and .m, d."),
        (
            lambda: kid.check_size(2),
            "2 samples have no standard error of a distance between pairs: expected at least 3",
        ),
        (lambda: kid.kid(np.ones((4, 3)), HOLED), "features y: row 1 of 4 is not finite, and 1 more"),
        (lambda: frechet.frechet(HOLED, np.ones((4, 3))), "features: row 1 of 4 is not finite, and 1 more"),
        (lambda: kid.estimate(np.ones((2, 3)), np.ones((4, 3))), "with n, m >= 3"),
        (lambda: frechet.distance(np.eye(3), np.eye(3)), r"got ndarray; of two arrays it is frechet\(x, y\)"),  # pyright: ignore
        (lambda: manifold.manifold(np.eye(5), np.eye(5), 5), "expected 1 <= k < 5, the number of real samples"),
        (lambda: manifold.manifold(np.eye(9), np.eye(9)[:4], 5), "expected 1 <= k < 4, the number of fake samples"),
        (lambda: manifold.check_size(5), "5 samples have no 5-th neighbour each: expected at least 6"),
        (lambda: frechet.check_size(1280, 1280), "1280 samples have no full covariance of 1280 features"),
        (lambda: frechet.check_line(12799, 1280), "expected at least 12800 samples"),
        (lambda: frechet.size_for(frechet.Gaussian(np.zeros(1), np.eye(1)), 0.0), "wanted floor is 0.0"),
        (lambda: features.of("pixls"), "nearest is 'pixels'"),
        (lambda: features.of("pixels", size=3), "has no option 'size'"),
        (lambda: features.of("nowhere.there:f"), "nowhere.there:f cannot be imported"),
        (lambda: features.of("numpy:ravel", size=3), "has no option 'size'"),
        (lambda: features.of("math:sqrt"), "no source to know it by: give it an attribute fingerprint"),
        (lambda: features.efficientnet_lite0(size=112 + 1), "expected a multiple of 32"),
        (
            lambda: features.digits().of(np.zeros((2, 8, 8))),
            r"digits takes images \(n, 8, 8, 1\), n >= 1, got \(2, 8, 8\)",
        ),
        (lambda: features.digits().of(np.zeros((0, 8, 8, 1))), "got .0, 8, 8, 1."),
        (lambda: features.pixels().of(np.array([[0.0], [np.nan], [np.inf]])), "Image 1 of 3 is not finite, and 1 more"),
    ],
)
def test_bad_input_is_refused_in_a_line(call, words):
    with pytest.raises(ValueError, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)


def mean_and_size(images):
    """A space of one's own: two features."""
    assert images.dtype == np.float32
    return np.stack([images.mean((1, 2, 3)), np.abs(images).max((1, 2, 3))], 1)


def flat(images):
    return images.mean((1, 2, 3))


def infinite(images):
    return 1 / images.reshape(len(images), -1)


def test_spaces_of_ones_own(rng):
    images = rng.uniform(-1, 1, size=(70, 4, 4, 1))
    space = features.of(f"{__name__}:mean_and_size")
    np.testing.assert_allclose(space.of(images), mean_and_size(images.astype(np.float32)), rtol=1e-6)
    assert len(space.fingerprint) == 16
    assert space.fingerprint != features.of(f"{__name__}:flat").fingerprint
    with pytest.raises(ValueError, match=r"flat makes \(70,\) of 70 images, expected \(70, d\)"):
        features.of(f"{__name__}:flat").of(images)
    images[66] = 0
    with np.errstate(divide="ignore"), pytest.raises(ValueError, match="infinite the feature of image 66 of 70"):
        features.of(f"{__name__}:infinite").of(images)
    mean_and_size.fingerprint, mean_and_size.shape = "mine, version 2", (4, 4, 1)
    try:
        assert features.of(f"{__name__}:mean_and_size").fingerprint == "mine, version 2"
        with pytest.raises(ValueError, match=r"takes images \(n, 4, 4, 1\)"):
            features.of(f"{__name__}:mean_and_size").of(images[:, :2])
    finally:
        del mean_and_size.fingerprint, mean_and_size.shape


def test_the_spaces_that_are_here(rng):
    images = rng.uniform(-1, 1, size=(130, 8, 8, 1))
    np.testing.assert_array_equal(features.pixels().of(images), images.astype(np.float32).reshape(130, -1))
    found = features.digits().of(images)
    np.testing.assert_allclose(found, classifier.read(images).features, rtol=1e-5, atol=1e-5)
    assert found.dtype == np.float64
    large = rng.uniform(-1, 1, size=(3, 28, 28, 1))
    np.testing.assert_allclose(
        features.of("mnist").of(large), classifier.MNIST.read(large).features, rtol=1e-5, atol=1e-5
    )
    named = [features.of(name) for name in ("pixels", "digits", "mnist")]
    assert json.dumps([space.said for space in named]).count("preprocessing: none") == 3
    assert len({space.fingerprint for space in named}) == 3
