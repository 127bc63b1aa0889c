"""Codecs against linear algebra in NumPy, as arguments of jit, and a model of codes whose samples they read back."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax import codecs, denoisers, methods, models
from diffjax.codecs import Codec
from diffjax.processes import Gaussian
from diffjax.schedules import VP


def examples(n=500, shape=(2, 3)):
    """Gaussian data of decaying spectrum about a mean, (n, *shape) float32."""
    rng = np.random.default_rng(0)
    d = int(np.prod(shape))
    turn = np.linalg.qr(rng.normal(size=(d, d)))[0]
    x = rng.normal(size=(n, d)) * 2.0 ** -np.arange(d) @ turn.T + np.arange(d)
    return x.reshape(n, *shape).astype(np.float32)


def test_principal_codec_is_the_projection_of_the_singular_vectors():
    x = examples()
    codec = codecs.principal(x, 2)
    codes, back = jax.device_get(
        jax.jit(lambda c, x: (jax.vmap(c.encode)(x), jax.vmap(lambda v: c.decode(c.encode(v)))(x)))(codec, x)
    )
    flat = x.reshape(500, 6).astype(np.float64)
    _, _, axes = np.linalg.svd(flat - flat.mean(0), full_matrices=False)
    centred = flat - flat.mean(0)
    np.testing.assert_allclose(np.abs(codes), np.abs(centred @ axes[:2].T), atol=1e-4)
    np.testing.assert_allclose(back.reshape(500, 6), flat.mean(0) + centred @ axes[:2].T @ axes[:2], atol=1e-4)
    assert codec.shape(x[0]) == (2,)
    thin = codecs.principal(x[:4], 3)  # more entries than examples: their span
    np.testing.assert_allclose(jax.vmap(lambda v: thin.decode(thin.encode(v)))(x[:4]), x[:4], atol=1e-5)


def test_standardised_codes_have_unit_moments_and_decode_to_what_they_did():
    x = examples(shape=(4, 4, 2))
    codec = codecs.standardised(codecs.identity(), x)
    codes = np.asarray(jax.vmap(codec.encode)(x), np.float64)
    np.testing.assert_allclose(codes.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(codes.std((0, 1, 2)), 1, rtol=1e-5)
    np.testing.assert_allclose(codes, (x - x.mean((0, 1, 2))) / x.std((0, 1, 2)), atol=1e-4)
    np.testing.assert_allclose(jax.vmap(codec.decode)(codes.astype(np.float32)), x, atol=1e-4)
    assert codec.shape(x[0]) == (4, 4, 2)
    twice = codecs.scaled(codec, 0.5, 2.0)
    np.testing.assert_allclose(twice.encode(x[0]), (codes[0] - 0.5) / 2, atol=1e-5)
    np.testing.assert_allclose(twice.decode(twice.encode(x[0])), x[0], atol=1e-4)


def test_a_codec_is_an_argument_of_jit_whose_numbers_may_change():
    traced = []

    @jax.jit
    def trip(codec, x):
        traced.append(1)
        return codec.decode(codec.encode(x))

    x = examples()
    for part in (x[:100], x[100:]):
        assert trip(codecs.principal(part, 2), x[0]).shape == (2, 3)
    assert len(traced) == 1
    assert not jax.tree.leaves(Codec(lambda x: x, lambda code: code))  # plain functions are constants
    slope = jax.grad(lambda codec, x: codec.encode(x).sum())(codecs.scaled(codecs.identity(), 0.0, 2.0), jnp.ones(3))
    np.testing.assert_allclose(jax.tree.leaves(slope)[1], -3 / 4)  # the derivative of (x - shift) / scale by scale


def test_samples_of_a_model_of_codes_decode_to_samples_of_the_data():
    """Codes of variance 1 have the velocity target 0 for VP: the exact network, and the data's law on those axes."""
    x, n = examples(4000), 8000
    codec = codecs.standardised(codecs.principal(x, 3), x)
    silent = models.from_function(lambda params, x, c, given: 0 * x * params, np.zeros(()))
    method = methods.denoising(silent, Gaussian(VP()), denoisers.V())
    params, request = silent.init(None, None, None), method.plan(codec.shape(x[0]))
    draw = lambda codec, key: codec.decode(method.draw(params, request, key, {}))
    drawn = np.asarray(jax.jit(jax.vmap(draw, (None, 0)))(codec, jax.random.split(jax.random.key(0), n)))
    assert drawn.shape == (n, 2, 3)
    flat, made = (a.reshape(len(a), 6).astype(np.float64) for a in (x, drawn))
    spread, axes = np.linalg.eigh(np.cov(flat.T, bias=True))
    expected = axes[:, 3:] * spread[3:] @ axes[:, 3:].T
    np.testing.assert_allclose(made.mean(0), flat.mean(0), atol=5 * np.sqrt(spread[-1] / n))
    np.testing.assert_allclose(np.cov(made.T), expected, atol=5 * np.sqrt(2 / n) * spread[-1])


def test_bad_input_is_refused_in_a_line():
    x = examples()
    cases = [
        (lambda: codecs.principal(x, 7), r"The size of a code is 7, expected at most 6"),
        (lambda: codecs.principal(x[:4], 4), r"4 examples have 3 principal axes, expected at least 4"),
        (
            lambda: codecs.linear(np.eye(6)[:, :2], np.zeros(5), (2, 3)),
            r"axes \(6, 2\) and mean \(5,\) for examples of",
        ),
        (lambda: codecs.linear(2 * np.eye(6), np.zeros(6), (6,)), r"The axes are no orthonormal columns, by 3"),
        (lambda: codecs.scaled(codecs.identity(), 0.0, np.array([1.0, 0.0])), r"scale of the codes is 0.0 somewhere"),
        (lambda: codecs.standardised(codecs.identity(), x[:1, :1]), r"Entry 0 of the codes is .* for all 1 examples"),
        (
            lambda: codecs.principal(x, 2).shape(np.zeros((3, 2))),
            r"shape \(3, 2\) as codes of \(2,\), but reads them back",
        ),
        (
            lambda: codecs.of(SimpleNamespace(method=methods.Method((), (), ()), params=None)),
            r"\(NoneType\) trains no c",
        ),
    ]
    for call, match in cases:
        with pytest.raises(ValueError, match=match):
            call()
