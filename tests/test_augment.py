"""The augmentation against SciPy's resampling, its label against the published one, and how the network is told."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from diffjax import config as C
from diffjax import losses, models, runs
from diffjax.data import augment
from diffjax.data.augment import TRANSFORMS, Drawn
from diffjax.method import Example, Keys
from diffjax.methods.evaluation import validation
from diffjax.models import layers
from diffjax.runs import build_run
from diffjax.runs.run import abstract_state

NOTHING = dict(x_flip=0.0, y_flip=0.0, scale=0.0, angle=0.0, stretch=0.0, axis=0.0, shift=(0.0, 0.0))
X = np.random.default_rng(0).normal(size=(8, 12, 3)).astype(np.float32)


APPLY = jax.jit(augment.apply)


def drawn(dtype=np.float32, **changes):
    return Drawn(**{name: np.asarray(value, dtype) for name, value in {**NOTHING, **changes}.items()})


def scaling(x, y):
    return np.diag([x, y, 1.0])


def turning(angle):
    return np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])


def translating(x, y):
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1.0]])


def published(x, x_flip, y_flip, scale, angle, stretch, axis, shift):
    """The inverse of the published pipeline as homogeneous matrices, then SciPy's linear interpolation."""
    x = x[:, ::-1] if x_flip else x
    x = x[::-1] if y_flip else x
    height, width, _ = x.shape
    size, ratio = 2 ** (0.2 * scale), 2 ** (0.2 * stretch)
    back = scaling(1 / size, 1 / size) @ turning(angle)
    back = back @ turning(-axis) @ scaling(1 / ratio, ratio) @ turning(axis)
    back = back @ translating(-shift[0] * width / 8, -shift[1] * height / 8)
    centre = translating((width - 1) / 2, (height - 1) / 2)
    rows, columns = np.mgrid[:height, :width]
    points = np.stack([columns.ravel(), rows.ravel(), np.ones(height * width)])
    source = (centre @ back @ np.linalg.inv(centre) @ points)[:2]
    channels = [ndimage.map_coordinates(c, source[::-1], order=1, mode="mirror") for c in np.moveaxis(x, -1, 0)]
    return np.stack(channels, -1).reshape(x.shape)


CASES = {
    "x-flip": dict(x_flip=1.0),
    "y-flip": dict(y_flip=1.0),
    "larger": dict(scale=1.7),
    "smaller": dict(scale=-2.2),
    "turned": dict(angle=0.6),
    "turned back": dict(angle=-2.9),
    "wider": dict(stretch=1.5),
    "stretched along a diagonal": dict(stretch=-1.1, axis=0.9),
    "shifted": dict(shift=(1.3, -0.4)),
    "far": dict(shift=(-9.3, 11.2)),
    "all": dict(x_flip=1.0, y_flip=1.0, scale=0.7, angle=2.0, stretch=0.8, axis=-2.5, shift=(0.5, 0.8)),
}


@pytest.mark.parametrize("case", CASES)
def test_transform_is_the_published_one(case, x64):
    """In float64: a rounded coordinate may fall on the other side of a pixel."""
    x = X.astype(np.float64)
    got = APPLY(drawn(np.float64, **CASES[case]), x)
    expected = published(x, **{**NOTHING, **CASES[case]})
    assert np.abs(expected - x).max() > 0.5, "it does something"
    np.testing.assert_allclose(got, expected, atol=1e-12)
    np.testing.assert_allclose(APPLY(drawn(**CASES[case]), X), expected, atol=2e-4)


def test_flips_move_pixels_and_touch_none():
    np.testing.assert_array_equal(APPLY(drawn(x_flip=1), X), X[:, ::-1])
    np.testing.assert_array_equal(APPLY(drawn(y_flip=1), X), X[::-1])
    np.testing.assert_array_equal(APPLY(drawn(x_flip=1, y_flip=1), X), X[::-1, ::-1])


def test_quarter_turns_and_whole_pixels_are_permutations():
    square = X[:, :8]
    np.testing.assert_allclose(APPLY(drawn(angle=np.pi), square), square[::-1, ::-1], atol=1e-5)
    # y runs down: what is at p comes from its place a quarter turn clockwise.
    np.testing.assert_allclose(APPLY(drawn(angle=np.pi / 2), square), np.rot90(square), atol=1e-5)
    right = np.asarray(APPLY(drawn(shift=(1.0, 0.0)), square))  # an eighth of 8 pixels
    np.testing.assert_allclose(right[:, 1:], square[:, :-1], atol=1e-6)
    np.testing.assert_allclose(right[:, 0], square[:, 1], atol=1e-6)  # by reflection about the first column
    down = np.asarray(APPLY(drawn(shift=(0.0, 2.0)), square))
    np.testing.assert_allclose(down[2:], square[:-2], atol=1e-6)


@pytest.mark.parametrize("change", [dict(scale=0.8), dict(angle=0.4), dict(stretch=0.9, axis=0.7)])
def test_the_opposite_parameters_undo_a_transform(change, x64):
    opposite = {name: value if name == "axis" else -value for name, value in change.items()}
    backwards = jax.jit(augment.backwards, static_argnums=(1, 2))
    (there, _), (back, _) = (backwards(drawn(**c), 8, 12) for c in (change, opposite))
    np.testing.assert_allclose(np.asarray(there, float) @ np.asarray(back, float), np.eye(2), atol=1e-6)
    rows, columns = np.mgrid[:32, :32] / 32
    x = np.sin(3 * rows + 2 * columns)[..., None]  # each resampling loses up to |x''| / (8 x 32^2)
    once = np.asarray(APPLY(drawn(**change), x))
    twice = np.asarray(APPLY(drawn(**opposite), once))
    np.testing.assert_allclose(twice[10:22, 10:22], x[10:22, 10:22], atol=5e-3)
    assert np.abs(once - x)[10:22, 10:22].max() > 0.05


def test_label():
    d = dict(x_flip=1.0, y_flip=0.0, scale=-0.3, angle=2.1, stretch=0.8, axis=-0.5, shift=(0.2, -1.4))
    angle, axis = (np.cos(2.1) - 1, np.sin(2.1)), (0.8 * np.cos(-0.5), 0.8 * np.sin(-0.5))
    label = jax.jit(augment.label)
    np.testing.assert_allclose(label(drawn(**d)), [1, 0, -0.3, *angle, *axis, 0.2, -1.4], rtol=1e-6)
    np.testing.assert_array_equal(label(drawn()), np.zeros(9))


def batch(n, seed=0, **options):
    rule = augment.geometric(**options)

    @jax.jit
    def of_all(key, x):
        keys = jax.random.split(key, n)
        return keys, *jax.vmap(rule, in_axes=(0, None))(keys, x)

    return of_all(jax.random.key(seed), X)


def test_probability_0_is_the_identity_bit_for_bit():
    x = np.array(X)
    x[0, 0] = [-0.0, 1e-42, 3e38]
    rule = jax.jit(augment.geometric(probability=0.0, x_flip=0.0))
    for seed in range(20):
        got, label = rule(jax.random.key(seed), x)
        assert np.asarray(got).tobytes() == x.tobytes()
        np.testing.assert_array_equal(label, np.zeros(9))


def test_what_is_not_labelled_is_not_touched():
    _, x, label = batch(400)
    untouched = ~np.asarray(label).any(1)
    assert 0.15 < untouched.mean() < 0.45  # 0.5 x 0.94 x 0.88^4 = 0.28
    assert all(image.tobytes() == X.tobytes() for image in np.asarray(x)[untouched])
    assert all(image.tobytes() != X.tobytes() for image in np.asarray(x)[~untouched])


def test_label_says_what_was_done():
    """From the label alone, the published transform gives the image."""
    _, x, label = batch(60, probability=0.5)
    for image, entries in zip(np.asarray(x), np.asarray(label, np.float64)):
        x_flip, y_flip, scale, cos, sin, a, b, *shift = entries
        stretch, axis = np.hypot(a, b), np.arctan2(b, a)  # a negative stretch at r is a positive one at r + pi: not so
        options = [(stretch, axis), (-stretch, axis + np.pi)]
        angle = np.arctan2(sin, cos + 1)
        found = [published(X, x_flip, y_flip, scale, angle, s, r, shift) for s, r in options]
        assert min(np.abs(image - expected).max() for expected in found) < 1e-3


def test_one_example_is_that_of_the_batch():
    keys, *made = batch(6, probability=0.7)
    x, label = (np.asarray(array) for array in made)
    alone = jax.jit(augment.geometric(probability=0.7))
    for i, key in enumerate(keys):
        image, entries = alone(key, X)
        np.testing.assert_allclose(image, x[i], atol=1e-5)
        np.testing.assert_allclose(entries, label[i], rtol=1e-6)
        np.testing.assert_array_equal(alone(key, X)[0], image)
    assert len({image.tobytes() for image in x}) == 6


def test_frequencies_and_laws():
    """Over 20,000 draws; bounds are five standard errors."""
    n, p = 20_000, 0.12
    one = jax.vmap(lambda key: augment.draw(key, [1.0, p, p, p, p, p]))
    d = jax.device_get(jax.jit(lambda key: one(jax.random.split(key, n)))(jax.random.key(3)))
    share = lambda values, expected: abs(np.mean(np.asarray(values) != 0) - expected) < 5 * np.sqrt(expected / n)
    assert share(d.x_flip, 0.5)
    assert share(d.y_flip, p / 2)
    for values in (d.scale, d.angle, d.stretch, d.shift[:, 0], d.shift[:, 1]):
        assert share(values, p)
    assert share(d.axis, p / 2)
    drawn_ones = lambda values: np.asarray(values)[np.asarray(values) != 0]
    for values, std in ((d.scale, 1), (d.stretch, 1), (d.shift[:, 0], 1), (d.angle, np.pi / 3**0.5)):
        values = drawn_ones(values)
        assert abs(values.mean()) < 5 * std / np.sqrt(len(values))
        assert abs(values.std() / std - 1) < 5 / np.sqrt(len(values))
    assert abs(np.corrcoef(np.asarray(d.shift)[np.asarray(d.shift).any(1)].T)[0, 1]) < 0.11, "two numbers, not one"


@pytest.mark.parametrize(("i", "name"), list(enumerate(TRANSFORMS)))
def test_one_transform_alone(i, name):
    entries = [(0,), (1,), (2,), (3, 4), (5, 6), (7, 8)]
    rule = augment.geometric(probability=1.0, transforms=(name,))
    one = jax.vmap(lambda key: rule(key, jnp.asarray(X))[1])
    label = jax.jit(lambda key: one(jax.random.split(key, 30)))(jax.random.key(0))
    used = np.flatnonzero(np.asarray(label).any(0))
    assert set(used) == set(entries[i])


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (dict(probability=-0.1), r"probability is -0\.1, expected a probability in \[0, 1\]"),
        (dict(probability=1.5), r"probability is 1\.5"),
        (dict(probability=float("nan")), "probability is nan"),
        (dict(x_flip=2.0), r"x_flip is 2\.0"),
        (dict(transforms=("spin",)), "no transform 'spin'; there are x_flip, y_flip"),
    ],
)
def test_refuses(options, match):
    with pytest.raises(ValueError, match=match):
        augment.geometric(**options)


def test_refuses_what_is_no_image():
    with pytest.raises(ValueError, match=r"images \(H, W, C\); the examples have shape \(2,\)"):
        augment.geometric()(jax.random.key(0), jnp.zeros(2))


def test_network_takes_the_label_as_one_linear_layer_without_bias():
    told, untold = layers.Embedding(16, features=8, augment=9), layers.Embedding(16, features=8)
    c, a = np.float32(0.3), np.arange(9, dtype=np.float32) / 9
    params = jax.device_get(jax.jit(told.init)(jax.random.key(0), c))["params"]
    kernel = params.pop("augment")["kernel"]
    assert kernel.shape == (9, 8)
    features = np.asarray(jax.jit(layers.positional, static_argnums=1)(c, 8)) + a @ kernel
    dense = lambda name, x: x @ params[name]["kernel"] + params[name]["bias"]
    silu = lambda x: x / (1 + np.exp(-x))
    expected = silu(dense("noise_1", silu(dense("noise_0", features))))
    variables = {"params": {**params, "augment": {"kernel": kernel}}}
    apply = jax.jit(told.apply)
    np.testing.assert_allclose(apply(variables, c, None, a), expected, rtol=1e-5, atol=1e-6)
    without = jax.jit(untold.apply)({"params": params}, c)
    for nothing in (None, np.zeros(9, np.float32)):
        np.testing.assert_array_equal(apply(variables, c, None, nothing), without)
    with pytest.raises(ValueError, match=r"label of shape \(9,\), but the network has augment = 0"):
        untold.apply({"params": params}, c, None, a)


def test_network_refuses_a_length_that_is_none():
    with pytest.raises(ValueError, match="augment = -1"):
        models.UNet(augment=-1)


TINY = "configs/edm.py:tiny"


@pytest.mark.slow  # a U-Net is trained
def test_training_sees_augmented_images_and_says_so_evaluation_does_not():
    """The loss of the altered image and its label at the same noise, made of the pieces."""
    small = ["model.channels=4", "model.multipliers=(1,)", "model.attention=()"]
    built = build_run(runs.load(TINY, ["augment.probability=1.0", *small]))
    of = built.method.parts
    rng = np.random.default_rng(1)
    draw = lambda leaf: 0.3 * rng.normal(size=leaf.shape).astype(leaf.dtype)
    params = jax.tree.map(draw, abstract_state(built).params)
    batch, key = Example(np.asarray(built.data.train.gather(np.arange(1)).x)), jax.random.key(5)
    plain = batch.x[0]

    @jax.jit
    def pieces(key, plain):
        shared, base = jax.random.split(key)
        own = jax.random.fold_in(base, 0)
        t = of.times(of.schedule)(Keys(shared, own), 0, 1)
        z = of.process.noise(jax.random.split(jax.random.fold_in(own, 1))[0], plain)
        return t, z, *of.augment(jax.random.fold_in(own, 2), plain)

    t, z, x, label = jax.device_get(pieces(key, plain))
    assert np.abs(x - plain).max() > 0.1

    @jax.jit
    def expected(x, told):
        net = lambda x, c: of.network.apply(params, x, c, told)
        return losses.regression(net, of.process, of.target, x, z, t)

    both = built.method.turns[0].losses, validation(of, of.mean_denoiser)
    run = jax.jit(lambda params: [losses_of(params, key, batch, jnp.arange(1), 1)[0][0] for losses_of in both])
    train, held_out = jax.device_get(run(params))
    np.testing.assert_allclose(train, expected(x, {"augment": label}), rtol=1e-5)
    np.testing.assert_allclose(held_out, expected(plain, {"augment": np.zeros(9, np.float32)}), rtol=1e-5)
    assert abs(train - held_out) > 1e-3
    assert abs(train - expected(x, {"augment": np.zeros(9, np.float32)})) > 1e-4, "the label matters"


@pytest.mark.parametrize(
    ("override", "match"),
    [
        ("model.augment=0", "a label of 9 entries, but model.augment is 0; set model.augment=9"),
        ("augment.probability=1.2", r"expected a probability in \[0, 1\]"),
        ("augment.name=geometry", "data.augment has no 'geometry': nearest is 'geometric'"),
        ("data.name=moons", "images"),
    ],
)
def test_config_mistakes(override, match):
    with pytest.raises(C.ConfigError, match=match):
        build_run(runs.load(TINY, [override]))
