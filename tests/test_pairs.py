"""Pairs for bridges: degradations of data sets, photographs in patches, and bad input."""

import numpy as np
import pytest
from scipy import ndimage

from diffjax import data
from diffjax.data.pairs import Pairs, paired


def test_the_degradations():
    x = data.digits().train.gather(np.arange(5)).x
    low = data.pairs("digits", "average", factor=2)
    assert low.name == "digits"
    batch = low.train.gather(np.arange(5))
    np.testing.assert_array_equal(batch.x, x)
    np.testing.assert_allclose(
        batch.given["y"][:, 2:4, 4:6], x[:, 2:4, 4:6].mean((1, 2), keepdims=True) * np.ones((2, 2, 1))
    )
    blurred = data.pairs("digits", "blur", sigma=0.7).train.gather(np.arange(5)).given["y"]
    expected = ndimage.gaussian_filter(x, (0, 0.7, 0.7, 0), mode="reflect", truncate=7)
    np.testing.assert_allclose(blurred, expected, atol=1e-5)
    assert len({data.pairs("digits", "blur", sigma=s).fingerprint for s in (0.7, 0.8)}) == 2


def test_photos_are_colour_patches_apart():
    photos = data.photos(size=16, stride=16)
    train, held_out = (np.asarray(part.x) for part in (photos.train, photos.held_out))  # pyright: ignore
    assert (train.shape, held_out.shape) == ((2 * 26 * 32, 16, 16, 3), (2 * 26 * 8, 16, 16, 3))
    x = photos.train.gather(np.arange(100)).x
    assert (x.dtype, x.min() >= -1, x.max() <= 1) == (np.float32, True, True)
    from sklearn.datasets import load_sample_images

    for image in load_sample_images().images:
        for part, patch in ((train, image[16:32, 16:32]), (held_out, image[:16, 512:528])):
            assert np.sum(np.all(part == patch, (1, 2, 3))) == 1
    corners = [image[16 * i : 16 * (i + 1), 512:528] for image in load_sample_images().images for i in range(26)]
    first = [np.any([np.array_equal(x, corner) for x in held_out[:104]]) for corner in corners]
    assert 3 <= sum(first[:26]) <= 23  # the first of them are of both photographs and of all rows
    assert 3 <= sum(first[26:]) <= 23


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: data.pairs("digits", "erase"), "no degradation 'erase'; there are average, blur"),
        (
            lambda: data.pairs("digits", "average", factor=3),
            "factor is 3, expected a positive integer that divides 8 x 8",
        ),
        (lambda: data.pairs("digits", "blur", sigma=0.0), "sigma is 0.0"),
        (lambda: paired(data.moons(), "blur"), r"shape \(2,\), expected images"),
        (lambda: data.pairs("digit", "blur"), "no data set 'digit'.*nearest is 'digits'"),
        (lambda: Pairs(data.digits().train, lambda x: x[:, :4]), r"shape \(4, 8, 1\), expected .*\(8, 8, 1\)"),
        (lambda: data.photos(size=200), "size is 200, expected at most 128"),
        (lambda: data.photos(stride=0), "stride is 0, expected a positive integer"),
    ],
)
def test_bad_input_is_one_line(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
