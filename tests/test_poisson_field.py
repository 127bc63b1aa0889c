"""PFGM as published: the batch field, its bias, the perturbation and its constants."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from poisson_points import PAIR, SHARES, by_hand
from scipy import stats

from diffjax import losses
from diffjax.schedules import EDM

KEY, N_DRAWS = jax.random.key(0), 200_000
RNG = np.random.default_rng(0)


def test_the_batch_field_on_all_data_is_exact(x64):
    points, x, z = RNG.normal(size=(7, 2, 2)), jnp.asarray(RNG.normal(size=(2, 2))), 0.6
    field = losses.poisson.batch_field(x, z, jnp.asarray(points), gamma=0.0)
    expected = by_hand(points.reshape(7, 4), np.full(7, 1 / 7), np.asarray(x).ravel(), z, EDM(), 1.0)
    np.testing.assert_allclose(field.mean(x, z).ravel(), expected, rtol=1e-10)
    assert float(jnp.sum(field.x**2) + field.z**2) == pytest.approx(4)  # sqrt(N) long, to data
    pulled = losses.poisson.batch_field(x, z, jnp.asarray(points))
    length = np.sqrt(((np.asarray(x).ravel() - expected) ** 2).sum() + z**2)
    np.testing.assert_allclose(pulled.x / field.x, length / (length + 5), rtol=1e-10)
    np.testing.assert_allclose(pulled.mean(x, z), field.mean(x, z), rtol=1e-10)
    assert float(pulled.z) < 0


def test_the_batch_field_does_not_overflow_in_many_dimensions():
    sources = jnp.asarray(RNG.normal(size=(5, 3072)), jnp.float32)
    field = losses.poisson.batch_field(sources[2] + 0.01, 0.05, sources)
    np.testing.assert_allclose(field.mean(sources[2] + 0.01, 0.05), sources[2], atol=1e-5)
    far = losses.poisson.batch_field(1e4 * sources[0], 1e4, sources)
    assert all(np.all(np.isfinite(leaf)) for leaf in far)


def test_the_batch_field_is_biased_by_one_over_the_batch(x64):
    """All batches of B draws from the pair, by their binomial law; the leading term by the delta method."""
    x, z = 0.9, 0.7
    u = SHARES, 1 / (z**2 + (x - PAIR) ** 2)  # N + 1 = 2
    whole = (u[0] * u[1]) @ PAIR / (u[0] @ u[1])

    def bias(size):
        k = np.arange(size + 1)
        sources = jnp.asarray(np.where(np.arange(size)[None] < k[:, None], *PAIR))[..., None]
        mean = jax.vmap(lambda s: losses.poisson.batch_field(jnp.asarray([x]), z, s).mean(jnp.asarray([x]), z))(sources)
        return float(stats.binom(size, 0.4).pmf(k) @ np.asarray(mean)[:, 0] - whole)

    # E[A / W] - a / w = (a var W / w^3 - cov(A, W) / w^2) / B of one draw's A = u x_i, W = u
    w, a = u[0] @ u[1], (u[0] * u[1]) @ PAIR
    var, cov = u[0] @ (u[1] - w) ** 2, u[0] @ ((u[1] - w) * (u[1] * PAIR - a))
    leading = a * var / w**3 - cov / w**2
    assert abs(leading) > 0.05
    for size, slack in ((32, 0.06), (128, 0.02), (512, 0.01)):
        assert bias(size) * size == pytest.approx(leading, rel=slack)


def test_the_published_perturbation_is_the_kernel_inside_and_not_at_its_ends():
    """|x - x_0| / z given z against the Beta law: within noise for z in the middle, far off for the largest z."""
    draw = jax.jit(jax.vmap(lambda key: losses.poisson.perturb(key, jnp.zeros(2))))
    x, z = (np.asarray(a, np.float64) for a in draw(jax.random.split(KEY, N_DRAWS)))
    share = (x**2).sum(1) / ((x**2).sum(1) + z**2)

    def distance(part):
        return stats.kstest(share[part], stats.beta(1, 0.5).cdf).statistic * np.sqrt(part.sum())

    assert distance((z > 0.1) & (z < 1)) < 2.2
    assert distance(z > 60) > 10


def test_the_published_constants():
    """z_max = 43.4 from tau = 0.03, M = 291, sigma = 0.01; the rule for M inverts by hand."""
    assert losses.poisson.z_max() == pytest.approx(43.4, abs=0.05)
    M = losses.poisson.most_for(largest_norm=30.0, n=3072)
    np.testing.assert_allclose(1.03 ** ((M - 1) / 0.75), 900 / (2 * np.sqrt(3072) * 1e-4))
