"""Linear operators against matrices and SciPy, on images, sequences, volumes and vectors; bad words in one line."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import signal

from diffjax import operators

RNG = np.random.default_rng(0)
SHAPES = {"image": (6, 8, 3), "sequence": (8, 2), "volume": (4, 6, 2, 1)}
ALL = pytest.mark.parametrize("kind", SHAPES)


def sample(shape):
    return RNG.normal(size=shape).astype(np.float32)


@ALL
def test_means_of_blocks(kind):
    x = sample(SHAPES[kind])
    places = [range(0, n, 2) for n in x.shape[:-1]]
    y = np.asarray(operators.downsample(x.shape, 2)(x))
    assert y.shape == (*(n // 2 for n in x.shape[:-1]), x.shape[-1])
    for at in np.ndindex(*map(len, places)):
        block = x[tuple(slice(2 * i, 2 * i + 2) for i in at)]
        np.testing.assert_allclose(y[at], block.reshape(-1, x.shape[-1]).mean(0), atol=1e-6)


@ALL
def test_blur_is_a_mean_by_normal_weights(kind):
    """At one place, by its definition; a constant stays, at the edges too."""
    x, sigma = sample(SHAPES[kind]), 0.8
    y = np.asarray(operators.blur(x.shape, sigma)(x))
    at = tuple(n // 3 for n in x.shape[:-1])
    distances = np.stack(np.meshgrid(*map(np.arange, x.shape[:-1]), indexing="ij"), -1) - np.array(at)
    weights = np.exp(-0.5 * (distances**2).sum(-1) / sigma**2)
    np.testing.assert_allclose(y[at], np.tensordot(weights / weights.sum(), x, x.ndim - 1), atol=1e-6)
    np.testing.assert_allclose(operators.blur(x.shape, sigma)(np.ones_like(x)), 1, atol=1e-6)


@ALL
@pytest.mark.parametrize("size", [2, 3])
def test_convolution_is_scipys(kind, size):
    x = sample(SHAPES[kind])
    kernel = RNG.normal(size=tuple(min(size, n) for n in x.shape[:-1]))
    y = np.asarray(operators.convolve(x.shape, kernel)(x))
    for channel in range(x.shape[-1]):
        expected = signal.convolve(x[..., channel], kernel, mode="same", method="direct")
        np.testing.assert_allclose(y[..., channel], expected, atol=1e-5)


def test_luma_is_that_of_pillow():
    from PIL import Image

    pixels = RNG.integers(0, 256, (5, 4, 3), dtype=np.uint8)
    y = np.asarray(operators.grey((5, 4, 3))(pixels / np.float32(127.5) - 1))
    expected = np.asarray(Image.fromarray(pixels).convert("L"))[..., None]
    np.testing.assert_allclose((y + 1) * 127.5, expected, atol=1)


def test_what_is_hidden():
    x = np.arange(4 * 6 * 2, dtype=np.float32).reshape(4, 6, 2)
    shown = np.ones((4, 6), bool)
    shown[1:3, 2:5] = False
    np.testing.assert_array_equal(operators.inpaint(x.shape, box=(1, 3, 2, 5))(x), x[shown])
    np.testing.assert_array_equal(operators.inpaint(x.shape, mask=shown.astype(np.uint8))(x), x[shown])
    middle = np.ones((4, 6), bool)
    middle[1:3, 1:5] = False
    np.testing.assert_array_equal(operators.inpaint(x.shape)(x), x[middle])
    assert operators.inpaint(x.shape, share=0.25)(x).shape == (18, 2)
    assert operators.inpaint((8,), share=0.25)(x[0, 0, 0] + np.arange(8.0)).shape == (6,)
    drawn = [tuple(np.asarray(operators.inpaint(x.shape, share=0.5, seed=seed)(x)).ravel()) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_files_of_masks_and_kernels(tmp_path):
    x = sample((3, 4, 1))
    np.save(tmp_path / "mask.npy", np.array([[1, 0, 1, 1]] * 3)[..., None])
    np.testing.assert_array_equal(
        operators.inpaint(x.shape, mask=str(tmp_path / "mask.npy"))(x), x[:, [0, 2, 3]].reshape(9, 1)
    )
    np.save(tmp_path / "kernel.npy", np.ones((1, 2)) / 2)
    np.testing.assert_allclose(
        operators.convolve(x.shape, str(tmp_path / "kernel.npy"))(x)[:, 1:], (x[:, 1:] + x[:, :-1]) / 2, atol=1e-6
    )
    np.save(tmp_path / "objects.npy", np.array([{}], object))
    with pytest.raises(ValueError, match="holds Python objects"):
        operators.convolve(x.shape, str(tmp_path / "objects.npy"))
    whole = (tmp_path / "mask.npy").read_bytes()
    (tmp_path / "cut.npy").write_bytes(whole[:-3])
    with pytest.raises(ValueError, match=r"is damaged: its header says \(3, 4, 1\)"):
        operators.inpaint(x.shape, mask=str(tmp_path / "cut.npy"))
    with pytest.raises(FileNotFoundError, match="There is no file"):
        operators.inpaint(x.shape, mask="nowhere.npy")


def test_observations_look_like_examples():
    """Shown are: the picture itself, known pixels on grey, blocks, and luma in every channel."""
    x = sample((4, 4, 3))
    show = lambda operator: operators.shown(operator, np.asarray(operator(x))[None], x.shape)[0]
    np.testing.assert_array_equal(show(operators.blur(x.shape)), operators.blur(x.shape)(x))
    hidden = x.copy()
    hidden[1:3, 1:3] = 0
    np.testing.assert_allclose(show(operators.inpaint(x.shape)), hidden, atol=1e-6)
    blocks = x.reshape(2, 2, 2, 2, 3).mean((1, 3)).repeat(2, 0).repeat(2, 1)
    np.testing.assert_allclose(show(operators.downsample(x.shape)), blocks, atol=1e-6)
    luma = (x @ np.float32([0.299, 0.587, 0.114]))[..., None].repeat(3, -1)
    np.testing.assert_allclose(show(operators.grey(x.shape)), luma, atol=1e-6)


@pytest.mark.parametrize("name", operators.__all__)
def test_they_are_linear_and_one_program_takes_them_as_arguments(name):
    shape = (4, 4, 3)
    options = {"convolve": {"kernel": np.ones((2, 2))}}.get(name, {})
    operator = getattr(operators, name)(shape, **options)
    apply = jax.jit(lambda operator, x: operator(x))
    a, b = sample(shape), sample(shape)
    np.testing.assert_allclose(apply(operator, 2 * a - b), 2 * apply(operator, a) - apply(operator, b), atol=1e-5)
    y = jax.linear_transpose(operator, jnp.zeros(shape, jnp.float32))(apply(operator, a))[0]
    assert float(jnp.vdot(y, b)) == pytest.approx(float(jnp.vdot(apply(operator, a), apply(operator, b))), abs=1e-4)


BAD = {
    "two": (lambda: operators.inpaint((4, 4, 1), share=0.5, mask=np.ones((4, 4))), "one of box, share and mask"),
    "share": (lambda: operators.inpaint((4, 4, 1), share=1.0), "share is 1.0, expected a number between 0 and 1"),
    "nothing": (lambda: operators.inpaint((4, 4, 1), share=0.01), "hides nothing"),
    "all": (lambda: operators.inpaint((4, 4, 1), box=(0, 4, 0, 4)), "shows nothing"),
    "box": (lambda: operators.inpaint((4, 8, 1), box=(0, 5, 0, 4)), r"box is \(0, 5, 0, 4\).* such as 1,3,2,6"),
    "edges": (lambda: operators.inpaint((4, 4, 1), box=(0, 2)), r"box is \(0, 2\)"),
    "box of text": (lambda: operators.inpaint((4, 4, 1), box="1:2"), "box is '1:2'"),
    "mask": (lambda: operators.inpaint((4, 4, 1), mask=np.ones((4, 5))), r"the mask is float64 of shape \(4, 5\)"),
    "seed": (lambda: operators.inpaint((4, 4, 1), share=0.5, seed=-1), "seed is -1"),
    "factor": (lambda: operators.downsample((4, 6, 1), 4), r"factor is 4, expected one that divides \(4, 6\)"),
    "no factor": (lambda: operators.downsample((4, 6, 1), 1), "factor is 1, expected an integer >= 2"),
    "sigma": (lambda: operators.blur((4, 4, 1), 0.0), "sigma is 0.0"),
    "kernel": (lambda: operators.convolve((4, 4, 1), np.ones(3)), r"the kernel is float64 of shape \(3,\)"),
    "wide": (lambda: operators.convolve((4, 4, 1), np.ones((5, 1))), "wider than x"),
    "zero": (lambda: operators.convolve((4, 4, 1), np.zeros((2, 2))), "is 0, not finite"),
    "grey": (lambda: operators.grey((4, 4, 1)), "is for colour, 3 channels"),
    "vectors": (lambda: operators.downsample((4,)), "is for examples with places"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
    call, match = BAD[name]
    with pytest.raises(ValueError, match=match):
        call()
