"""Functions and nnx modules as networks: gradients by hand, training as by themselves, state refused."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from diffjax import models

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)


def squared_error(net, params, x, c, label, z):
    return jnp.mean((jax.vmap(net.apply, (None, 0, 0, 0))(params, x, c, label) - z) ** 2)


def test_from_function_gives_the_gradient_by_hand():
    """F = w x + c b: the gradient of the mean square is written out in float64."""
    start = {"w": jnp.asarray(0.3), "b": jnp.array([1.0, -2.0])}
    net = models.from_function(lambda p, x, c, label: p["w"] * x + c * p["b"], start)
    x, z = (jnp.asarray(RNG.normal(size=(4, 2)), jnp.float32) for _ in range(2))
    c, label = jnp.array([0.5, -1.0, 2.0, 0.0]), jnp.zeros(4, jnp.int32)
    params = net.init(KEY, x[0], c[0])
    gradient = jax.grad(lambda p: squared_error(net, p, x, c, label, z))(params)
    x, z, c = (np.asarray(a, np.float64) for a in (x, z, c))
    residual = 0.3 * x + c[:, None] * np.array([1.0, -2.0]) - z
    np.testing.assert_allclose(gradient["w"], (2 * residual * x).mean(), rtol=1e-5)
    np.testing.assert_allclose(gradient["b"], (2 * residual * c[:, None]).sum(0) / 8, rtol=1e-5)


def test_first_parameters_survive_donation():
    update = jax.jit(lambda p: p + 1, donate_argnums=0)
    params = jnp.asarray(2.0)
    net = models.from_function(lambda p, x, c, label: p * x, params)
    for _ in range(2):
        updated = update(params)
        assert (float(updated), params.is_deleted()) == (3.0, True)
        params = net.init(KEY, jnp.ones(2), jnp.asarray(0.0))
    assert float(params) == 2.0


class Plain(nnx.Module):
    """Two dense layers, with the log-SNR beside x."""

    def __init__(self, rngs, dropout=0.0, stream=None):
        self.first, self.last = nnx.Linear(3, 8, rngs=rngs), nnx.Linear(8, 2, rngs=rngs)
        self.dropout = nnx.Dropout(dropout, rngs=stream)

    def __call__(self, x, c, label=None, rngs=None):
        h = jnp.tanh(self.first(jnp.concatenate([x, c[None]])))
        return self.last(self.dropout(h, rngs=rngs, deterministic=rngs is None))


def test_from_nnx_trains_like_the_module_itself():
    """Three optimizer-free steps through the pair and by `nnx.grad` on the module: the same parameters."""
    module = Plain(nnx.Rngs(0))
    net = models.from_nnx(module)
    x, z = (jnp.asarray(RNG.normal(size=(4, 2)), jnp.float32) for _ in range(2))
    c, label = jnp.array([0.5, -1.0, 2.0, 0.0]), jnp.zeros(4, jnp.int32)
    params = models.init(net, KEY, (2,))
    assert set(params) == {"first/bias", "first/kernel", "last/bias", "last/kernel"}

    def direct(module):
        return jnp.mean((jnp.stack([module(*args) for args in zip(x, c)]) - z) ** 2)

    for _ in range(3):
        gradient = jax.jit(jax.grad(lambda p: squared_error(net, p, x, c, label, z)))(params)
        params = jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient)
        reference = nnx.grad(direct)(module)
        nnx.update(module, jax.tree.map(lambda p, g: p - 0.1 * g, nnx.state(module, nnx.Param), reference))
    for layer, leaf in itertools.product(("first", "last"), ("kernel", "bias")):
        expected = getattr(getattr(module, layer), leaf)[...]
        np.testing.assert_allclose(params[f"{layer}/{leaf}"], expected, rtol=1e-5, atol=1e-7)
    start = models.init(net, KEY, (2,))["first/kernel"]
    assert np.abs(params["first/kernel"] - start).max() > 1e-3  # the adapter kept its own copy of the start


def test_from_nnx_dropout_takes_its_key_from_the_call():
    def call(module, x, c, label, train, key):
        return module(x, c, label, rngs=nnx.Rngs(dropout=key) if train else None)

    net = models.from_nnx(Plain(nnx.Rngs(0), dropout=0.5), call)
    params = models.init(net, KEY, (2,))
    args = (params, jnp.ones(2), jnp.asarray(0.5))
    trained = [net.apply(*args, train=True, key=jax.random.key(i)) for i in (0, 1, 0)]
    assert np.abs(trained[0] - trained[1]).max() > 1e-3
    np.testing.assert_array_equal(trained[0], trained[2])
    np.testing.assert_array_equal(net.apply(*args), models.from_nnx(Plain(nnx.Rngs(0))).apply(*args))


def test_from_nnx_refuses_state_that_would_never_advance():
    with pytest.raises(ValueError, match=r"Plain keeps state beside its parameters \(dropout/rngs"):
        models.from_nnx(Plain(nnx.Rngs(0), dropout=0.5, stream=nnx.Rngs(1)))
