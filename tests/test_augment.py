"""The augmentation against SciPy's resampling, its label against the published one, and how the network is told."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from scipy import ndimage

from diffjax import config as C
from diffjax import losses, models, runs
from diffjax.data import augment
from diffjax.data.augment import TRANSFORMS, Drawn
from diffjax.method import Example, Keys
from diffjax.methods.evaluation import validation
from diffjax.models import layers
from diffjax.runs import build_run
from diffjax.runs.run import init_state

NOTHING = dict(x_flip=0.0, y_flip=0.0, scale=0.0, angle=0.0, stretch=0.0, axis=0.0, shift=(0.0, 0.0))
X = np.random.default_rng(0).normal(size=(8, 12, 3)).astype(np.float32)


def drawn(**changes):
    return Drawn(**{name: jnp.asarray(value, jnp.float32) for name, value in {**NOTHING, **changes}.items()})


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
    d = Drawn(**{name: jnp.asarray(value) for name, value in {**NOTHING, **CASES[case]}.items()})
    got = augment.apply(d, jnp.asarray(x))
    expected = published(x, **{**NOTHING, **CASES[case]})
    assert np.abs(expected - x).max() > 0.5, "it does something"
    np.testing.assert_allclose(got, expected, atol=1e-12)
    np.testing.assert_allclose(augment.apply(drawn(**CASES[case]), jnp.asarray(X)), expected, atol=2e-4)


def test_flips_move_pixels_and_touch_none():
    np.testing.assert_array_equal(augment.apply(drawn(x_flip=1), jnp.asarray(X)), X[:, ::-1])
    np.testing.assert_array_equal(augment.apply(drawn(y_flip=1), jnp.asarray(X)), X[::-1])
    np.testing.assert_array_equal(augment.apply(drawn(x_flip=1, y_flip=1), jnp.asarray(X)), X[::-1, ::-1])


def test_quarter_turns_and_whole_pixels_are_permutations():
    square = jnp.asarray(X[:, :8])
    np.testing.assert_allclose(augment.apply(drawn(angle=np.pi), square), square[::-1, ::-1], atol=1e-5)
    # y runs down: what is at p comes from its place a quarter turn clockwise.
    np.testing.assert_allclose(augment.apply(drawn(angle=np.pi / 2), square), np.rot90(square), atol=1e-5)
    right = augment.apply(drawn(shift=(1.0, 0.0)), square)  # an eighth of 8 pixels
    np.testing.assert_allclose(right[:, 1:], square[:, :-1], atol=1e-6)
    np.testing.assert_allclose(right[:, 0], square[:, 1], atol=1e-6)  # by reflection about the first column
    down = augment.apply(drawn(shift=(0.0, 2.0)), square)
    np.testing.assert_allclose(down[2:], square[:-2], atol=1e-6)


@pytest.mark.parametrize("change", [dict(scale=0.8), dict(angle=0.4), dict(stretch=0.9, axis=0.7)])
def test_the_opposite_parameters_undo_a_transform(change, x64):
    opposite = {name: value if name == "axis" else -value for name, value in change.items()}
    (there, _), (back, _) = (augment.backwards(drawn(**c), 8, 12) for c in (change, opposite))
    np.testing.assert_allclose(np.asarray(there, float) @ np.asarray(back, float), np.eye(2), atol=1e-6)
    rows, columns = np.mgrid[:32, :32] / 32
    x = jnp.asarray(np.sin(3 * rows + 2 * columns)[..., None])  # each resampling loses up to |x''| / (8 x 32^2)
    twice = augment.apply(drawn(**opposite), augment.apply(drawn(**change), x))
    np.testing.assert_allclose(twice[10:22, 10:22], x[10:22, 10:22], atol=5e-3)
    assert np.abs(augment.apply(drawn(**change), x) - x)[10:22, 10:22].max() > 0.05


def test_label():
    d = dict(x_flip=1.0, y_flip=0.0, scale=-0.3, angle=2.1, stretch=0.8, axis=-0.5, shift=(0.2, -1.4))
    angle, axis = (np.cos(2.1) - 1, np.sin(2.1)), (0.8 * np.cos(-0.5), 0.8 * np.sin(-0.5))
    np.testing.assert_allclose(augment.label(drawn(**d)), [1, 0, -0.3, *angle, *axis, 0.2, -1.4], rtol=1e-6)
    np.testing.assert_array_equal(augment.label(drawn()), np.zeros(9))


def batch(n, seed=0, **options):
    keys = jax.random.split(jax.random.key(seed), n)
    x = jnp.broadcast_to(jnp.asarray(X), (n, *X.shape))
    return keys, *jax.jit(jax.vmap(augment.geometric(**options)))(keys, x)


def test_probability_0_is_the_identity_bit_for_bit():
    x = np.array(X)
    x[0, 0] = [-0.0, 1e-42, 3e38]
    rule = jax.jit(augment.geometric(probability=0.0, x_flip=0.0))
    for seed in range(20):
        got, label = rule(jax.random.key(seed), jnp.asarray(x))
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
    keys, x, label = batch(6, probability=0.7)
    alone = jax.jit(augment.geometric(probability=0.7))
    for i, key in enumerate(keys):
        image, entries = alone(key, jnp.asarray(X))
        np.testing.assert_allclose(image, x[i], atol=1e-5)
        np.testing.assert_allclose(entries, label[i], rtol=1e-6)
        np.testing.assert_array_equal(alone(key, jnp.asarray(X))[0], image)
    assert len({image.tobytes() for image in np.asarray(x)}) == 6


def test_frequencies_and_laws():
    """Over 20,000 draws; bounds are five standard errors."""
    n, p = 20_000, 0.12
    keys = jax.random.split(jax.random.key(3), n)
    d = jax.jit(jax.vmap(lambda key: augment.draw(key, [1.0, p, p, p, p, p])))(keys)
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
    label = jax.jit(jax.vmap(lambda key: rule(key, jnp.asarray(X))[1]))(jax.random.split(jax.random.key(0), 30))
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
    c, a = jnp.float32(0.3), jnp.arange(9.0) / 9
    params = told.init(jax.random.key(0), c)["params"]
    kernel = params.pop("augment")["kernel"]
    assert kernel.shape == (9, 8)
    features = layers.positional(c, 8) + a @ kernel
    dense = lambda name, x: x @ params[name]["kernel"] + params[name]["bias"]
    expected = nn.silu(dense("noise_1", nn.silu(dense("noise_0", features))))
    variables = {"params": {**params, "augment": {"kernel": kernel}}}
    np.testing.assert_allclose(told.apply(variables, c, None, a), expected, rtol=1e-5, atol=1e-6)
    without = untold.apply({"params": params}, c)
    for nothing in (None, jnp.zeros(9)):
        np.testing.assert_array_equal(told.apply(variables, c, None, nothing), without)
    with pytest.raises(ValueError, match=r"label of shape \(9,\), but the network has augment = 0"):
        untold.apply({"params": params}, c, None, a)


def test_network_refuses_a_length_that_is_none():
    with pytest.raises(ValueError, match="augment = -1"):
        models.UNet(augment=-1)


TINY = "configs/edm.py:tiny"


def test_training_sees_augmented_images_and_says_so_evaluation_does_not():
    """The loss of the altered image and its label at the same noise, made of the pieces."""
    small = ["model.channels=4", "model.multipliers=(1,)", "model.attention=()"]
    built = build_run(runs.load(TINY, ["augment.probability=1.0", *small]))
    of = built.method.parts
    noise = lambda p: p + 0.1 * jax.random.normal(jax.random.key(1), p.shape)
    params = jax.jit(lambda params: jax.tree.map(noise, params))(init_state(built).params)
    batch, key = Example(jnp.asarray(built.data.train.gather(np.arange(1)).x)), jax.random.key(5)
    plain, (shared, base) = batch.x[0], jax.random.split(key)
    own = jax.random.fold_in(base, 0)
    t = of.times(of.schedule)(Keys(shared, own), 0, 1)
    z = of.process.noise(jax.random.split(jax.random.fold_in(own, 1))[0], plain)
    x, label = jax.jit(of.augment)(jax.random.fold_in(own, 2), plain)
    assert np.abs(x - plain).max() > 0.1

    @jax.jit
    def expected(x, told):
        net = lambda x, c: of.network.apply(params, x, c, told)
        return losses.regression(net, of.process, of.target, x, z, t)

    both = built.method.turns[0].losses, validation(of, of.mean_denoiser)
    run = jax.jit(lambda params: [losses_of(params, key, batch, jnp.arange(1), 1)[0][0] for losses_of in both])
    train, held_out = run(params)
    np.testing.assert_allclose(train, expected(x, {"augment": label}), rtol=1e-5)
    np.testing.assert_allclose(held_out, expected(plain, {"augment": jnp.zeros(9)}), rtol=1e-5)
    assert abs(train - held_out) > 1e-3
    assert abs(train - expected(x, {"augment": jnp.zeros(9)})) > 1e-4, "the label matters"


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
