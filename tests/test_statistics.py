"""Files of reference statistics: EDM's format, what ours adds, and what is refused."""

import re

import numpy as np
import pytest

from diffjax import data
from diffjax.metrics import features, frechet, statistics

IMAGES = np.random.default_rng(0).uniform(-1, 1, size=(150, 3, 3, 1)).astype(np.float32)
PIXELS = features.pixels()


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "stats.npz"
    statistics.write(path, statistics.measure(PIXELS, IMAGES))
    return path


def test_moments_in_one_pass_are_those_of_numpy(file):
    """Also far from 0, where sums of squares alone would lose them, and of a source of data."""
    moved = statistics.measure(
        features.pixels()._replace(apply=lambda x: x.reshape(len(x), -1).astype(float) + 1e6), IMAGES
    )
    flat = IMAGES.reshape(150, -1).astype(np.float64)
    for found, shift in ((statistics.read(file), 0), (moved, 1e6)):
        np.testing.assert_allclose(found.gaussian.mean, flat.mean(0) + shift, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(
            found.gaussian.cov, np.cov(flat.T), rtol=1e-8 if shift else 1e-12, atol=1e-8 if shift else 1e-14
        )
        assert found.n == 150
    digits = data.digits()
    of = statistics.measure(features.digits(), digits.held_out)
    expected = frechet.fit(features.digits().of(digits.held_out.gather(np.arange(297)).x))
    np.testing.assert_allclose(of.gaussian.cov, expected.cov, rtol=1e-9, atol=1e-9)
    assert (of.n, of.features) == (297, "digits")


def test_a_file_says_its_space_and_is_edms_format(file):
    found = statistics.read(file, PIXELS)
    assert found[1:] == (150, "pixels", PIXELS.fingerprint, "none")
    with np.load(file, allow_pickle=False) as arrays:
        assert set(arrays.files) == {"mu", "sigma", "n", "features", "fingerprint", "preprocessing"}
        assert arrays["mu"].dtype == arrays["sigma"].dtype == np.float64
    assert not file.with_name("stats.npz.part").exists()


@pytest.mark.parametrize("change", [{"name": "digits"}, {"fingerprint": "0" * 16}, {"preprocessing": "to 96 x 96"}])
def test_another_space_is_refused(file, change):
    other = PIXELS._replace(**change)
    words = f"{re.escape(str(file))} are of the space pixels .*, expected .*{next(iter(change.values()))}"
    with pytest.raises(ValueError, match=words):
        statistics.read(file, other)


def test_a_file_without_its_space_is_read_with_a_warning(tmp_path):
    path = tmp_path / "cifar10-32x32.npz"
    np.savez(path, mu=np.zeros(3), sigma=np.eye(3))
    with pytest.warns(UserWarning, match="does not say n, features, fingerprint, preprocessing"):
        found = statistics.read(path, PIXELS)
    assert found.n is None
    found.check_features(np.zeros((4, 3)))
    with pytest.raises(ValueError, match="are of 3 features, and the space has 4"):
        found.check_features(np.zeros((4, 4)))
    again = tmp_path / "again.npz"
    statistics.write(again, found)
    with np.load(again) as arrays:
        assert set(arrays.files) == {"mu", "sigma"}


GOOD = {"mu": np.zeros(3), "sigma": np.eye(3)}


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        (
            {"mu": np.zeros(3)},
            r"has no array 'sigma', expected arrays mu \(d,\) and sigma \(d, d\)",
        ),
        ({**GOOD, "sigma": np.eye(4)}, r"mu of shape \(3,\) and sigma of shape \(4, 4\)"),
        ({**GOOD, "mu": np.zeros((3, 1))}, r"mu of shape \(3, 1\)"),
        ({**GOOD, "mu": np.full(3, np.nan)}, "mu is float64 of shape .3,., expected finite numbers"),
        ({**GOOD, "mu": np.zeros(3, int)}, "mu is int64"),
        ({**GOOD, "mu": np.array([{}, 1, 2], object)}, "holds Python objects"),
        ({**GOOD, "sigma": np.triu(np.ones((3, 3)))}, "no covariance"),
        ({**GOOD, "sigma": np.diag([1.0, 1.0, -0.1])}, "negative eigenvalue"),
        ({**GOOD, "n": np.array(1)}, "n = 1, expected an integer >= 2"),
        ({**GOOD, "n": np.array(2.5)}, "n = 2.5"),
        ({**GOOD, "features": np.array(3)}, "features is int64 of shape .., expected a short text"),
        ({**GOOD, "features": np.array("x" * 2000)}, "expected a short text"),
    ],
)
def test_bad_files_are_refused(tmp_path, arrays, words):
    path = tmp_path / "a.npz"
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match=words) as caught:
        statistics.read(path)
    assert str(path) in str(caught.value)


def test_pickles_and_other_files_are_refused(tmp_path):
    for name, words in (("a.pkl", "is a pickle, which is never loaded"), ("b.npz", "not an .npz file")):
        (tmp_path / name).write_bytes(b"\x80\x04.")
        with pytest.raises(ValueError, match=words):
            statistics.read(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        statistics.read(tmp_path / "none.npz")


@pytest.mark.parametrize("n", [0, 1, 9])
def test_too_few_images_have_no_covariance(n):
    with pytest.raises(
        ValueError, match="no image, expected" if n == 0 else f"{n} images have no full covariance of 9"
    ):
        statistics.measure(PIXELS, IMAGES[:n])


def test_a_whole_data_set_is_asked_for_its_part():
    with pytest.raises(ValueError, match=r"Got a whole data set \(digits\), expected images or one part of it"):
        statistics.measure(features.digits(), data.digits())
