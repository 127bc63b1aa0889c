"""Inverse problems against exact conditionals of Gaussians and mixtures, and against the equations solved by NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax import analytic, calculus, grids, samplers
from diffjax.denoisers import inverse, optimal
from diffjax.schedules import EDM, VP

RNG = np.random.default_rng(0)
A = RNG.standard_normal((2, 4))
MEAN, V, R = RNG.standard_normal(4), 0.6, 0.3
Y = A @ MEAN + np.asarray([0.5, -0.8])
X = RNG.standard_normal(4)
TIMES = (0.1, 0.5, 0.9)


def gaussian(schedule, with_var=False):
    return analytic.gaussian_mixture([1.0], [MEAN], [V]).denoiser(schedule, with_var)


def operator(x):
    return jnp.asarray(A) @ x


def seen(noise=R, y=Y):
    return inverse.observe(operator, jnp.asarray(y), (4,), noise)


# One program for all denoisers of a kind, at any time.
mean_of = jax.jit(lambda denoise, x, t: denoise(x, t).mean)
walked = jax.jit(lambda sample, denoise, keys, x: jax.vmap(lambda key, x: sample(denoise, key, x))(keys, x))


def amplitudes(schedule, t):
    (alpha,), (sigma,) = calculus.amplitudes(schedule, [t])
    return float(alpha), float(sigma)


def conditional(mean, cov, x, alpha, sigma, y, noise):
    """E[x_0 | x_t, y] of x_0 ~ N(mean, cov): regression on both at once."""
    both = np.concatenate([alpha * np.eye(4), A])
    law = both @ cov @ both.T + np.diag([sigma**2] * 4 + [noise**2] * 2)
    return mean + cov @ both.T @ np.linalg.solve(law, np.concatenate([x, y]) - both @ mean)


@pytest.mark.parametrize("t", TIMES)
@pytest.mark.parametrize("schedule", [VP(), EDM(t_max=3.0)], ids=lambda s: type(s).__name__)
def test_of_gaussian_data_conditioning_is_exact(schedule, t, x64):
    """With the posterior's variance, whatever the operator."""
    alpha, sigma = amplitudes(schedule, t)
    expected = conditional(MEAN, V * np.eye(4), X, alpha, sigma, Y, R)
    for denoise in (
        inverse.tmpd(gaussian(schedule, with_var=True), seen()),
        inverse.tmpd(optimal.jacobian(gaussian(schedule)), seen()),
        inverse.pigdm(gaussian(schedule), seen(), v=V),
    ):
        np.testing.assert_allclose(mean_of(denoise, X, t), expected, rtol=1e-9)


@pytest.mark.parametrize("t", TIMES)
def test_the_equations(t, x64):
    """diffpir by its minimisation, dps by the gradient of its potential, replacement by the pseudo-inverse."""
    schedule = VP()
    alpha, sigma = amplitudes(schedule, t)
    mean = np.asarray(mean_of(gaussian(schedule), X, t))
    strength = 2.5
    weight = strength * alpha**2 / sigma**2
    proximal = np.linalg.solve(A.T @ A / R**2 + weight * np.eye(4), A.T @ Y / R**2 + weight * mean)
    found = mean_of(inverse.diffpir(gaussian(schedule), seen(), strength), X, t)
    np.testing.assert_allclose(found, proximal, rtol=1e-8)
    gain = alpha * V / (alpha**2 * V + sigma**2)  # d mean / d x_t
    guided = mean + 0.7 * sigma**2 / alpha * gain * A.T @ (Y - A @ mean) / R**2
    np.testing.assert_allclose(mean_of(inverse.dps(gaussian(schedule), seen(), 0.7), X, t), guided, rtol=1e-9)
    replaced = mean + np.linalg.pinv(A) @ (Y - A @ mean)
    np.testing.assert_allclose(mean_of(inverse.replacement(gaussian(schedule), seen()), X, t), replaced, rtol=1e-8)


def test_a_walk_keeps_the_pixels_that_are_known(x64):
    """Inpainting: entries 0 and 2 end at what was seen, random sampler or not."""
    mask, y = np.asarray([0, 2]), jnp.asarray([0.3, -1.2])
    known = inverse.observe(lambda x: x[mask], y, (4,))
    schedule = VP()
    denoise = inverse.replacement(gaussian(schedule), known)
    for sampler in (samplers.ancestral.ddim(schedule), samplers.ancestral.ddpm(schedule)):
        sample = samplers.sampling_fn(sampler, grids.log_snr(schedule, 10))  # both are one program
        ends = walked(sample, denoise, jax.random.split(jax.random.key(0), 1), X[None])
        np.testing.assert_allclose(np.asarray(ends)[0, mask], y, rtol=1e-10)


@pytest.mark.slow  # a law of thousands of walks
def test_langevin_corrections_make_replacement_exact(x64):
    """x_0 seen, x_1 not: mean and variance of x_1 over 1000 walks against Bayes' rule; more corrections, less bias."""
    w, m, schedule = np.array([0.4, 0.6]), np.array([[-1.0, -0.8], [0.9, 1.0]]), EDM(t_max=20.0)
    cov, y = np.array([[[0.2, 0.15], [0.15, 0.2]], [[0.2, -0.1], [-0.1, 0.2]]]), 0.1
    share = w * np.exp(-0.5 * (y - m[:, 0]) ** 2 / cov[:, 0, 0]) / np.sqrt(cov[:, 0, 0])
    share /= share.sum()
    means = m[:, 1] + cov[:, 0, 1] / cov[:, 0, 0] * (y - m[:, 0])
    mean = share @ means
    var = share @ (cov[:, 1, 1] - cov[:, 0, 1] ** 2 / cov[:, 0, 0] + means**2) - mean**2
    seen_first = inverse.observe(lambda x: x[:1], jnp.asarray([y]), (2,))
    denoise = inverse.replacement(analytic.gaussian_mixture(w, m, cov).denoiser(schedule), seen_first)
    x, keys = 20 * RNG.standard_normal((1000, 2)), jax.random.split(jax.random.key(1), 1000)
    bias, spread = [], []
    for corrections in (0, 4, 64):
        sampler = samplers.ancestral.ddim(schedule, eta=1.0)
        if corrections:
            sampler = samplers.langevin.predictor_corrector(schedule, "reverse_diffusion", "ald", 0.5, corrections)
        sample = samplers.sampling_fn(sampler, grids.karras(schedule, 40, t_min=0.01))
        ends = np.asarray(walked(sample, denoise, keys, x))
        np.testing.assert_allclose(ends[:, 0], y, atol=1e-9)
        bias.append(abs(ends[:, 1].mean() - mean))
        spread.append(abs(ends[:, 1].var() - var))
    assert bias[0] > 0.5 > bias[1] > 0.2 > 0.08 > bias[2]
    assert spread[0] > 0.2 > spread[1] > 0.1 > 0.05 > spread[2]


def _block_means(x):
    return x.reshape(2, 2, 2, 2, 3).mean((1, 3))


OPERATORS = {  # of images (4, 4, 3), and their matrices entry by entry
    "inpainting": (lambda x: x[:, 2:], [[(i, j, c, 1.0)] for i in range(4) for j in (2, 3) for c in range(3)]),
    "super-resolution": (
        _block_means,
        [
            [(2 * i + a, 2 * j + b, c, 0.25) for a in (0, 1) for b in (0, 1)]
            for i in (0, 1)
            for j in (0, 1)
            for c in range(3)
        ],
    ),
    "deblurring": (
        lambda x: (x[:-1] + x[1:]) / 2,
        [[(i, j, c, 0.5), (i + 1, j, c, 0.5)] for i in range(3) for j in range(4) for c in range(3)],
    ),
    "colour": (lambda x: x.mean(-1), [[(i, j, c, 1 / 3) for c in range(3)] for i in range(4) for j in range(4)]),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_every_problem_is_solved_exactly_on_gaussian_images(name, x64):
    """TMPD against regression on x_t and y at once, for a full covariance of 48 entries."""
    operator, rows = OPERATORS[name]
    matrix = np.zeros((len(rows), 48))
    for k, row in enumerate(rows):
        for i, j, c, weight in row:
            matrix[k, np.ravel_multi_index((i, j, c), (4, 4, 3))] = weight
    rng = np.random.default_rng(3)
    root = 0.3 * rng.standard_normal((48, 60)) / np.sqrt(60)
    cov, mean, x = root @ root.T + 0.05 * np.eye(48), rng.standard_normal(48), rng.standard_normal(48)
    y = matrix @ mean + 0.3 * rng.standard_normal(len(rows))
    schedule, t = VP(), 0.4
    alpha, sigma = amplitudes(schedule, t)
    both = np.concatenate([alpha * np.eye(48), matrix])
    law = both @ cov @ both.T + np.diag([sigma**2] * 48 + [R**2] * len(rows))
    expected = mean + cov @ both.T @ np.linalg.solve(law, np.concatenate([x, y]) - both @ mean)
    prior = analytic.gaussian_mixture([1.0], [mean.reshape(4, 4, 3)], [cov]).denoiser(schedule)
    observed = y.reshape(jax.eval_shape(operator, jax.ShapeDtypeStruct((4, 4, 3), float)).shape)
    observation = inverse.observe(operator, observed, (4, 4, 3), R)
    got = mean_of(inverse.tmpd(prior, observation, 60), x.reshape(4, 4, 3), t)
    np.testing.assert_allclose(np.ravel(got), expected, rtol=1e-7, atol=1e-9)


WEIGHTS, MEANS, SPREAD = np.asarray([0.4, 0.6]), RNG.standard_normal((2, 4)), 0.15


def exact_conditional():
    """Mean and covariance of p(x_0 | y) of the mixture, by Bayes' rule component by component."""
    law = SPREAD * A @ A.T + R**2 * np.eye(2)
    gain = SPREAD * A.T @ np.linalg.inv(law)
    miss = Y - MEANS @ A.T
    logits = np.log(WEIGHTS) - 0.5 * np.einsum("ki,ij,kj->k", miss, np.linalg.inv(law), miss)
    share = np.exp(logits - logits.max())
    share /= share.sum()
    means = MEANS + miss @ gain.T
    mean = share @ means
    spread = SPREAD * np.eye(4) - gain @ A * SPREAD
    return mean, spread + np.einsum("k,ki,kj->ij", share, means - mean, means - mean)


def test_samples_of_a_mixture_follow_its_conditional(x64):
    """Mean and covariance of 2000 walks, over the exact ones: tmpd is near, pigdm thrice as far, the prior further."""
    schedule = EDM(t_max=20.0)
    prior = analytic.gaussian_mixture(WEIGHTS, MEANS, [SPREAD] * 2).denoiser(schedule)
    mean, covariance = exact_conditional()
    sample = samplers.sampling_fn(samplers.ancestral.ddim(schedule, eta=1.0), grids.karras(schedule, 40))
    x = 20 * np.random.default_rng(0).standard_normal((2000, 4))
    keys = jax.random.split(jax.random.key(1), 2000)
    off = {}
    for name, denoise in {
        "prior": prior,
        "diagonal": inverse.diagonal(optimal.jacobian(prior), seen()),
        "pigdm": inverse.pigdm(prior, seen()),
        "tmpd": inverse.tmpd(prior, seen()),
    }.items():
        ends = np.asarray(walked(sample, denoise, keys, x))
        off_mean = np.linalg.norm(ends.mean(0) - mean) / np.sqrt(np.trace(covariance))
        off[name] = off_mean, np.linalg.norm(np.cov(ends.T) - covariance) / np.linalg.norm(covariance)
    assert off["tmpd"][0] < 0.2
    assert off["tmpd"][1] < 0.45
    assert all(3 * near < far for near, far in zip(off["tmpd"], off["pigdm"]))
    assert all(far > 1 for far in off["prior"])


BAD = {
    "shape": (lambda: inverse.observe(lambda x: x[:2], jnp.zeros(3), (4,)), r"makes \(2,\) of an example \(4,\)"),
    "noise": (lambda: inverse.observe(lambda x: x, jnp.zeros(4), (4,), -1.0), "expected a standard deviation >= 0"),
    "not linear": (
        lambda: inverse.observe(lambda x: x + 1, jnp.zeros(4), (4,)),
        "is not linear: of zero it makes up to 1",
    ),
    "dps without noise": (lambda: inverse.dps(gaussian(VP()), seen(0.0)), "DPS divides by the noise"),
    "iterations": (lambda: inverse.tmpd(gaussian(VP()), seen(), 0), "iterations is 0, expected an integer >= 1"),
    "strength": (lambda: inverse.diffpir(gaussian(VP()), seen(), 0.0), "strength is 0.0, expected a positive"),
    "v": (lambda: inverse.pigdm(gaussian(VP()), seen(), v=-1.0), "v is -1.0, expected a positive"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name, x64):
    call, match = BAD[name]
    with pytest.raises(ValueError, match=match):
        call()
