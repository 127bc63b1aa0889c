"""Encoder and decoder of images: one example as a batch of them, what reaches what, and bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax import models

ZERO = jnp.zeros(())
NETS = {
    "encoder": (models.Encoder(shape=(3,), channels=4), (8, 8, 1), (3,)),
    "critic": (models.Encoder(shape=(), channels=4, multipliers=(1,)), (4, 6, 2), ()),
    "decoder": (models.Decoder(shape=(8, 12, 2), channels=4), (3,), (8, 12, 2)),
    "grid encoder": (models.GridEncoder(features=3, patch=2, channels=4), (8, 12, 2), (2, 3, 3)),
    "grid decoder": (models.GridDecoder(shape=(8, 12, 2), patch=2, channels=4), (2, 3, 3), (8, 12, 2)),
}


@pytest.fixture(scope="module", params=NETS)
def net(request):
    """(network, its parameters moved off their first values, shape of x, shape of F)."""
    module, given, made = NETS[request.param]
    network = models.of(module)
    shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros(given), ZERO)
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda leaf: np.float32(0.3 * rng.normal(size=leaf.shape)), shapes)
    return network, params, given, made


def test_a_batch_is_its_examples_and_every_parameter_and_input_is_used(net):
    network, params, shape, made = net
    x = np.random.default_rng(2).normal(size=(3, *shape)).astype(np.float32)

    @jax.jit
    def looked_at(params, x):
        one = jax.vmap(lambda x: network.apply(params, x, ZERO))(x)
        slopes = jax.grad(lambda params, x: jnp.sum(jnp.sin(network.apply(params, x, jnp.zeros(3)))), (0, 1))(params, x)
        return one, network.apply(params, x, jnp.zeros(3)), slopes

    one, together, slopes = jax.device_get(looked_at(params, x))
    assert one.shape == (3, *made)
    np.testing.assert_allclose(one, together, rtol=2e-4, atol=2e-5)
    for path, slope in jax.tree_util.tree_leaves_with_path(slopes):
        assert np.any(slope != 0), jax.tree_util.keystr(path)
    assert np.all(slopes[1] != 0)


def test_dropout_is_of_training_alone():
    network = models.of(models.Encoder(shape=(2,), channels=4, multipliers=(1,), dropout=0.5))
    x = np.random.default_rng(2).normal(size=(4, 4, 1)).astype(np.float32)
    params = jax.jit(network.init)(jax.random.key(0), x, ZERO)
    train = jax.jit(lambda key: network.apply(params, x, ZERO, {}, train=True, key=key))
    one, same, other = (train(jax.random.key(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert np.any(np.asarray(one) != np.asarray(other))


@pytest.mark.parametrize("make", [models.Encoder, models.Decoder])
def test_refuses_bad_input_in_one_line(make):
    for options, match in (
        ({"channels": 0}, r"channels = 0"),
        ({"multipliers": ()}, r"multipliers = \(\): expected one positive integer per level"),
        ({"blocks": 0}, r"blocks = 0"),
        ({"dropout": 1.5}, r"dropout = 1\.5"),
        ({"dtype": "float16"}, r"dtype = 'float16'"),
        ({"shape": (0,)}, r"shape\[0\] = 0"),
    ):
        with pytest.raises(ValueError, match=match):
            make(**options)
    network = models.of(make(**({"shape": (6, 8, 1)} if make is models.Decoder else {}), multipliers=(1, 1, 1)))
    with pytest.raises(ValueError, match=r"^Got examples of shape \(6, 8, 1\), expected images .* divisible by 4"):
        jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((6, 8, 1)), ZERO)
