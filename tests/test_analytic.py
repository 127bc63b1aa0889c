"""Solved targets against SciPy, Bayes' rule by matrix inversion, quadrature, enumeration and Tweedie's formulas."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_forms import Mixture
from scipy import integrate, stats
from scipy.special import logsumexp

from diffjax.analytic import empirical, gaussian_mixture
from diffjax.schedules import EDM, VE, VP, Cosine, Rectified, SubVP, Tabulated


def mixture(d, full, components=3, seed=0):
    """A random mixture in d dimensions: (ours in float64 under x64, the reference)."""
    rng = np.random.default_rng(seed + 10 * d + full)
    weights, means = rng.uniform(0.2, 1, components), rng.normal(size=(components, d))
    roots = 0.7 * rng.normal(size=(components, d, d))
    variances = rng.uniform(0.05, 0.8, components)
    covariances = roots @ roots.transpose(0, 2, 1) + 0.02 * np.eye(d) if full else variances[:, None, None] * np.eye(d)
    reference = Mixture(weights / weights.sum(), means, covariances)
    return gaussian_mixture(weights, means, covariances if full else variances), reference


MIXTURES = [(1, False), (1, True), (2, True), (5, False), (5, True)]
every_mixture = pytest.mark.parametrize(("d", "full"), MIXTURES)
NOISES = [(1.0, 0.01), (0.8, 0.6), (0.3, 1.4), (1.0, 7.0), (0.0, 1.0)]
every_noise = pytest.mark.parametrize(("alpha", "sigma"), NOISES)


class Answers(NamedTuple):
    log_prob: Any
    score: Any
    gradient: Any
    mean: Any
    var: Any
    covariance: Any


@jax.jit
def answers(target, x, alpha, sigma):
    """All that a target says of x, and the gradient of its log density."""
    given = x, alpha, sigma
    log_prob, gradient = jax.value_and_grad(target.log_prob)(*given)
    return Answers(log_prob, target.score(*given), gradient, *target.posterior(*given), target.covariance(*given))


hessian = jax.jit(lambda target, x, alpha, sigma: jax.hessian(target.log_prob)(x, alpha, sigma))


def point(d, alpha, sigma, seed=4):
    return np.random.default_rng(seed).normal(size=d) * np.sqrt(alpha**2 + sigma**2)


@every_mixture
@every_noise
def test_density_and_posterior_are_scipys(d, full, alpha, sigma, x64):
    """multivariate_normal, and Bayes' rule for jointly Gaussian vectors."""
    target, reference = mixture(d, full)
    x = point(d, alpha, sigma)
    got = answers(target, x, alpha, sigma)
    mean, covariance = reference.posterior(x, alpha, sigma)
    assert got.log_prob.shape == ()
    np.testing.assert_allclose(got.log_prob, np.log(reference.density(x, alpha, sigma)), rtol=1e-9)
    np.testing.assert_allclose(got.mean, mean, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(got.var, np.diag(covariance), rtol=1e-7, atol=1e-10)
    np.testing.assert_allclose(got.covariance, covariance, rtol=1e-7, atol=1e-10)


@every_mixture
def test_score_is_the_gradient_and_tweedie_holds(d, full, x64):
    """E[x_0 | x] = (x + sigma^2 score) / alpha, Cov = sigma^2 / alpha^2 (I + sigma^2 Hessian)."""
    target, reference = mixture(d, full)
    alpha, sigma, h = 0.8, 0.6, 1e-5
    x = point(d, alpha, sigma)
    got, curved = jax.tree.map(np.asarray, tuple(f(target, x, alpha, sigma) for f in (answers, hessian)))
    log_density = lambda x: np.log(reference.density(x, alpha, sigma))
    slopes = [(log_density(x + h * e) - log_density(x - h * e)) / (2 * h) for e in np.eye(d)]
    np.testing.assert_allclose(got.score, slopes, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(got.score, got.gradient, rtol=1e-9, atol=1e-12)
    mean, covariance = reference.posterior(x, alpha, sigma)
    np.testing.assert_allclose((x + sigma**2 * got.score) / alpha, mean, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(sigma**2 / alpha**2 * (np.eye(d) + sigma**2 * curved), covariance, atol=1e-9)


def test_a_mixture_without_noise_is_the_data(x64):
    target, reference = mixture(2, True)
    x = point(2, 1, 0)
    (log_prob, gradient), score = jax.jit(lambda x: (jax.value_and_grad(target.log_prob)(x), target.score(x)))(x)
    np.testing.assert_allclose(log_prob, np.log(reference.density(x)), rtol=1e-9)
    np.testing.assert_allclose(score, gradient, rtol=1e-9)


@pytest.mark.parametrize("x", [-2.5, 0.1, 3.0])
def test_posterior_by_quadrature(x, x64):
    target, reference = mixture(1, False)
    alpha, sigma = 0.7, 0.5
    normal = lambda x, mean, var: np.exp(-0.5 * (x - mean) ** 2 / var) / np.sqrt(2 * np.pi * var)
    prior = lambda x0: reference.weights @ normal(x0, reference.means[:, 0], reference.covariances[:, 0, 0])
    joint = lambda x0, k: x0**k * prior(x0) * normal(x, alpha * x0, sigma**2)
    mass, first, second = (integrate.quad(joint, -8, 8, args=(k,), epsabs=1e-13, limit=200)[0] for k in range(3))
    got = answers(target, np.asarray([x]), alpha, sigma)
    np.testing.assert_allclose(got.mean, [first / mass], rtol=1e-8)
    np.testing.assert_allclose(got.var, [second / mass - (first / mass) ** 2], rtol=1e-7)
    np.testing.assert_allclose(got.log_prob, np.log(mass), rtol=1e-8)


def test_the_ends_of_the_noise(x64):
    """Without noise x_0 is x / alpha; without signal it is the prior: mean and covariance of the mixture."""
    target, reference = mixture(2, True)
    x = np.asarray([0.4, -0.9])
    clean, noise = answers(target, x, 0.5, 0.0), answers(target, x, 0.0, 1.0)
    np.testing.assert_allclose(clean.mean, 2 * x, rtol=1e-9)
    np.testing.assert_allclose(clean.var, 0, atol=1e-12)
    mean = reference.weights @ reference.means
    second = np.einsum("k,kij->ij", reference.weights, reference.covariances)
    second += np.einsum("k,ki,kj->ij", reference.weights, reference.means, reference.means)
    np.testing.assert_allclose(noise.mean, mean, rtol=1e-9)
    np.testing.assert_allclose(noise.covariance, second - np.outer(mean, mean), rtol=1e-9)


@pytest.mark.parametrize("shape", [(), (3,), (2, 2, 1)])
@pytest.mark.parametrize("full", [False, True])
def test_examples_of_any_shape(shape, full, x64):
    d = int(np.prod(shape))
    _, reference = mixture(d, full)
    covariances = reference.covariances if full else reference.covariances[:, 0, 0]
    target = gaussian_mixture(3 * reference.weights, reference.means.reshape(3, *shape), covariances)
    x = point(d, 0.6, 0.8)
    mean, covariance = reference.posterior(x, 0.6, 0.8)
    got = jax.tree.map(np.asarray, answers(target, x.reshape(shape), 0.6, 0.8))
    assert got.mean.shape == got.var.shape == got.score.shape == shape
    np.testing.assert_allclose(got.mean.reshape(-1), mean, rtol=1e-8)
    np.testing.assert_allclose(got.var.reshape(-1), np.diag(covariance), rtol=1e-8)
    np.testing.assert_allclose(got.score.reshape(-1), (0.6 * mean - x) / 0.64, rtol=1e-8)
    assert jax.eval_shape(lambda key: target.sample(key, 5), jax.random.key(0)).shape == (5, *shape)


@pytest.mark.parametrize("full", [False, True])
def test_samples_have_the_moments_of_the_mixture(full):
    target, reference = mixture(2, full)
    n = 40000
    x = np.asarray(jax.jit(lambda key: target.sample(key, n))(jax.random.key(1)), float)
    mean = reference.weights @ reference.means
    second = np.einsum("k,kij->ij", reference.weights, reference.covariances)
    covariance = second + np.einsum("k,ki,kj->ij", reference.weights, *2 * (reference.means - mean,))
    assert np.all(np.abs(x.mean(0) - mean) < 4 * np.sqrt(np.diag(covariance) / n))
    np.testing.assert_allclose(np.cov(x.T), covariance, atol=0.04)
    cdf = lambda v: (
        reference.weights
        @ [stats.norm(m[0], np.sqrt(c[0, 0])).cdf(v) for m, c in zip(reference.means, reference.covariances)]
    )
    assert stats.kstest(x[:4000, 0], cdf).pvalue > 0.01


amplitudes = jax.jit(lambda schedule, t: schedule(t))
evaluate = jax.jit(lambda denoise, x, t: denoise(x, t))
SCHEDULES = [VP(), SubVP(), VE(), EDM(), Cosine(), Rectified(), Tabulated.linear()]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_denoisers_under_every_schedule(schedule, x64):
    target, reference = mixture(2, True)
    data = np.random.default_rng(0).normal(size=(7, 2))
    exact, ideal = target.denoiser(schedule, with_var=True), empirical(data, 3).denoiser(schedule, with_var=True)
    assert exact.schedule is ideal.schedule is schedule
    for t in np.asarray([0.01, 0.4, 0.93]) * schedule.t_max:
        alpha, sigma = map(float, amplitudes(schedule, t))
        x = point(2, alpha, sigma)
        expected = reference.posterior(x, alpha, sigma), brute_force(data, x, alpha, sigma)[1:]
        for denoise, (mean, covariance) in zip((exact, ideal), expected):
            got = evaluate(denoise, x, t)
            np.testing.assert_allclose(got.mean, mean, rtol=1e-8, atol=1e-10)
            np.testing.assert_allclose(got.var, np.diag(covariance), rtol=1e-7, atol=1e-10)
    assert evaluate(target.denoiser(schedule), np.ones(2), 0.5).var == 0.0  # the variance is given if asked for


def test_denoisers_are_pytrees_and_vmap():
    target, _ = mixture(2, True)
    traces = []

    @jax.jit
    def batch(denoise, x, t):
        traces.append(None)
        return jax.vmap(denoise)(x, t)

    x, t = np.float32([[0.1, 0.2], [1.0, -1.0], [2.0, 0.3]]), np.float32([0.1, 0.5, 1.0])
    for denoise in (target.denoiser(VP(), True), target.denoiser(VP(beta_max=10.0), True)):
        got = jax.tree.map(np.asarray, batch(denoise, x, t))
        for i in range(3):
            alone = evaluate(denoise, x[i], t[i])
            np.testing.assert_allclose(got.mean[i], alone.mean, rtol=2e-5, atol=1e-6)
            np.testing.assert_allclose(got.var[i], alone.var, rtol=1e-4, atol=1e-6)
        assert got.mean.dtype == got.var.dtype == jnp.float32
    assert len(traces) == 1


def test_a_component_of_no_weight_is_absent(x64):
    one = gaussian_mixture([1.0], [[0.5, 0.5]], [0.3])
    two = gaussian_mixture([2.0, 0.0], [[0.5, 0.5], [9.0, 9.0]], [0.3, 0.1])
    x = np.asarray([4.0, 4.0])
    for a, b in zip(answers(one, x, 0.9, 0.4), answers(two, x, 0.9, 0.4)):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0.5, 0.5], [[0.0], [1.0]], [1.0, -0.1]), "negative eigenvalue -0.1"),
        (([0.5, -0.5], [[0.0], [1.0]], [1.0, 1.0]), "non-negative"),
        (([0.0, 0.0], [[0.0], [1.0]], [1.0, 1.0]), "not all 0"),
        (([0.5, np.nan], [[0.0], [1.0]], [1.0, 1.0]), "non-negative"),
        (([0.5, np.inf], [[0.0], [1.0]], [1.0, 1.0]), "non-negative"),
        (([1.0], [[0.0], [1.0]], [1.0, 1.0]), r"weights have shape \(1,\), expected \(2,\)"),
        (([0.5, 0.5], [[0.0], [1.0]], [1.0]), r"covariances have shape \(1,\), expected \(2,\) or \(2, 1, 1\)"),
        (([1.0], [[0.0, 1.0]], [[[1.0, 0.5], [0.0, 1.0]]]), "not symmetric"),
        (([1.0], [[0.0, 1.0]], [[[1.0, 2.0], [2.0, 1.0]]]), "negative eigenvalue -1"),
        (([1.0], [[0.0, np.nan]], [1.0]), "finite means"),
        (([1.0], [[0.0, 1.0]], [np.nan]), "finite covariances"),
        (([1.0], 0.0, [1.0]), r"means of shape \(\)"),
        (([], np.zeros((0, 2)), []), "weights have shape"),
    ],
)
def test_bad_mixtures_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        gaussian_mixture(*arguments)


def brute_force(data, x, alpha, sigma):
    """(log density, mean, covariance) of the empirical mixture: one softmax over all points."""
    flat = data.reshape(len(data), -1)
    logits = -0.5 * np.sum((x.reshape(-1) - alpha * flat) ** 2, axis=1) / sigma**2
    share = np.exp(logits - logsumexp(logits))
    mean = share @ flat
    log_density = logsumexp(logits) - np.log(len(flat)) - flat.shape[1] / 2 * np.log(2 * np.pi * sigma**2)
    return log_density, mean, np.einsum("n,ni,nj->ij", share, *2 * (flat - mean,))


@pytest.mark.parametrize("block", [1, 4, 7, 10, 64])
def test_empirical_is_a_softmax_whatever_the_block(block, x64):
    data = np.random.default_rng(8).normal(size=(10, 2, 3, 1))
    target = empirical(data, block)
    for alpha, sigma in ((1.0, 0.05), (0.7, 0.7), (0.2, 3.0), (0.0, 1.0)):
        x = point(6, alpha, sigma, seed=9).reshape(2, 3, 1)
        log_density, mean, covariance = brute_force(data, x, alpha, sigma)
        got = jax.tree.map(np.asarray, answers(target, x, alpha, sigma))
        np.testing.assert_allclose(got.log_prob, log_density, rtol=1e-10)
        assert got.mean.shape == got.var.shape == got.score.shape == (2, 3, 1)
        np.testing.assert_allclose(got.mean.reshape(-1), mean, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(got.var.reshape(-1), np.diag(covariance), rtol=1e-8, atol=1e-12)
        np.testing.assert_allclose(got.covariance, covariance, rtol=1e-8, atol=1e-12)
        score = (alpha * mean - x.reshape(-1)) / sigma**2
        np.testing.assert_allclose(got.score.reshape(-1), score, rtol=1e-9, atol=1e-10)
        np.testing.assert_allclose(got.gradient, got.score, rtol=1e-9, atol=1e-10)


def test_empirical_is_a_mixture_of_points(x64):
    """The two targets, coded apart, agree where both exist; second-order Tweedie holds."""
    data = np.random.default_rng(1).normal(size=(6, 2))
    points, mixed = empirical(data, 4), gaussian_mixture(np.ones(6), data, np.zeros(6))
    x, alpha, sigma = np.asarray([0.3, -0.2]), 0.8, 0.6
    one, other = (answers(target, x, alpha, sigma) for target in (points, mixed))
    for a, b in zip(one, other):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)
    tweedie = sigma**2 / alpha**2 * (np.eye(2) + sigma**2 * np.asarray(hessian(points, x, alpha, sigma)))
    np.testing.assert_allclose(one.covariance, tweedie, rtol=1e-9, atol=1e-12)


def test_padding_is_never_drawn_and_every_point_is():
    data = np.arange(10.0)[:, None]
    drawn = np.asarray(jax.jit(lambda key: empirical(data, 8).sample(key, 5000))(jax.random.key(0)))[:, 0]
    assert stats.chisquare(np.bincount(drawn.astype(int), minlength=10)).pvalue > 0.01
    of_shape = jax.eval_shape(lambda key: empirical(np.zeros((4, 2, 3)), 3).sample(key, 7), jax.random.key(0))
    assert of_shape.shape == (7, 2, 3)


def test_far_away_and_almost_without_noise_nothing_overflows():
    """The nearest point takes all: 1e9 standard deviations away, in float32."""
    data = np.asarray([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    target = empirical(data, 2)
    for x, sigma, nearest in (
        ([0.9, 0.2], 1e-6, [1, 0]),
        ([1e3, 0.0], 1e-6, [1, 0]),
        ([-1.0, 4e5], 1e-3, [0, 1]),
        ([0.1, 0.1], 1e-12, [0, 0]),
    ):
        got = answers(target, np.float32(x), 1.0, sigma)
        np.testing.assert_allclose(got.mean, nearest, atol=1e-6)
        np.testing.assert_allclose(got.var, 0, atol=1e-6)
        assert all(np.all(np.isfinite(answer)) for answer in got)
    narrow = gaussian_mixture([0.5, 0.5], [[0.0, 0.0], [1.0, 0.0]], [1e-4, 1e-4])
    assert all(np.all(np.isfinite(answer)) for answer in answers(narrow, np.float32([1e3, 0.0]), 1.0, 1e-3))


def largest(jaxpr):
    """The largest number of elements of anything computed on the way, loops included."""
    sizes = [int(np.prod(v.aval.shape)) for e in jaxpr.eqns for v in e.outvars if hasattr(v.aval, "shape")]
    inner = [getattr(p, "jaxpr", p) for e in jaxpr.eqns for p in e.params.values()]
    return max(sizes + [largest(p) for p in inner if hasattr(p, "eqns")], default=0)


def test_memory_is_bounded_by_the_block():
    n, d, block = 1024, 6, 32
    target = empirical(np.random.default_rng(0).normal(size=(n, d)), block)
    size = lambda method: largest(
        jax.make_jaxpr(lambda t, x: getattr(t, method)(x, 0.8, 0.6))(target, jnp.ones(d)).jaxpr
    )
    for method in ("posterior", "score", "log_prob"):
        assert 0 < size(method) <= block * d
    assert size("covariance") <= block * d * d
    whole = jax.make_jaxpr(lambda x: jnp.sum((target.data.reshape(n, d) - x[None]) ** 2, 1))(jnp.ones(d)).jaxpr
    assert largest(whole) == n * d  # the measure sees what it should


def test_empirical_vmaps_in_float32():
    data = np.random.default_rng(5).integers(0, 256, size=(9, 2, 2, 1)).astype(np.uint8)
    target = empirical(data, 4)
    x, t = np.full((3, 2, 2, 1), 100.0, np.float32), np.float32([5.0, 20.0, 80.0])
    got = jax.tree.map(np.asarray, jax.jit(jax.vmap(target.denoiser(EDM(), with_var=True)))(x, t))
    assert got.mean.dtype == jnp.float32
    for i in range(3):
        _, mean, covariance = brute_force(data.astype(float), x[i].astype(float), 1.0, float(t[i]))
        np.testing.assert_allclose(got.mean[i].reshape(-1), mean, rtol=1e-4)
        np.testing.assert_allclose(got.var[i].reshape(-1), np.diag(covariance), rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize(
    ("data", "block"), [(np.zeros((0, 2)), 4), (np.zeros((3, 2)), 0), (np.zeros((3, 2)), -1), (np.zeros(3), 2)]
)
def test_bad_data_sets_are_refused(data, block):
    with pytest.raises(ValueError, match=r"expected \(N, \*shape\) with N >= 1, block >= 1"):
        empirical(data, block)
