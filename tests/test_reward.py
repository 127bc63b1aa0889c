"""Fine-tuning to a reward: the weighted loss is least at the tilted mixture's denoiser, by quadrature."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffjax import analytic, data, denoisers, losses, methods, models, processes, runs, schedules
from diffjax.denoisers import guidance
from diffjax.losses import reward as rewards
from diffjax.method import Example
from diffjax.theory import tilting

WEIGHTS, MEANS, VARIANCES = np.array([0.3, 0.7]), np.array([-1.0, 1.5]), np.array([0.2, 0.5])
LINE = analytic.gaussian_mixture(WEIGHTS, MEANS[:, None], VARIANCES)
G, H = 0.8, 0.6
POINTS = np.linspace(-12, 12, 20001)  # h = 0.0012: the trapezium is exact to round-off for these Gaussians


def density(x):
    each = np.exp(-((x[:, None] - MEANS) ** 2) / (2 * VARIANCES)) / np.sqrt(2 * np.pi * VARIANCES)
    return each @ WEIGHTS


@pytest.mark.parametrize("h", [0.0, H, -0.9])
def test_the_tilted_mixture_is_the_product(h):
    """Density and Z by quadrature; at H = -0.9 the reward grows, but less than each component falls: 0.9 < 1 / 0.5."""
    made, log_z = tilting.tilted(LINE, [G], [[h]])
    product = density(POINTS) * np.exp(G * POINTS - h * POINTS**2 / 2)
    z = np.trapezoid(product, POINTS)
    np.testing.assert_allclose(log_z, np.log(z), rtol=1e-6)
    got = np.exp(jax.vmap(made.log_prob)(jnp.asarray(POINTS[::500, None], jnp.float32)))
    np.testing.assert_allclose(got, product[::500] / z, rtol=2e-4, atol=1e-7)


def test_the_tilted_mixture_in_three_dimensions():
    """Against the ratio of log densities at points, which is g x - x H x / 2 - log Z: the same number at each."""
    rng = np.random.default_rng(0)
    square = lambda: (lambda a: a @ a.T / 3 + 0.1 * np.eye(3))(rng.normal(size=(3, 3)))
    mixture = analytic.gaussian_mixture([0.2, 0.8], rng.normal(size=(2, 3)), np.stack([square(), square()]))
    g, h = rng.normal(size=3), 0.3 * square()
    made, log_z = tilting.tilted(mixture, g, h)
    for x in rng.normal(size=(4, 3)).astype(np.float32):
        ratio = made.log_prob(x) - mixture.log_prob(x)
        np.testing.assert_allclose(ratio, g @ x - x @ h @ x / 2 - log_z, atol=2e-4)


@pytest.mark.parametrize("t", [0.15, 0.5])
def test_the_weighted_loss_is_least_at_the_tilted_denoiser(t):
    """E[w x_0 | x_t] / E[w | x_t] by quadrature over x_0, w = exp(r / beta); and so is the h-transform's guidance."""
    schedule, beta = schedules.VP(), 0.5
    made, _ = tilting.tilted(LINE, [G / beta], [[H / beta]])
    alpha, sigma = map(float, schedule(np.float32(t)))
    w = np.exp((G * POINTS - H * POINTS**2 / 2) / beta)
    denoise, base = made.denoiser(schedule), LINE.denoiser(schedule)

    def log_h(x, t):  # log E[w | x_t]
        alpha, sigma = schedule(t)
        like = -((x - alpha * POINTS[::20].astype(np.float32)) ** 2) / (2 * sigma**2)
        prior = np.log(density(POINTS[::20]) + 1e-30).astype(np.float32)
        tilt = np.log(w[::20]).astype(np.float32)
        return jax.nn.logsumexp(like + prior + tilt) - jax.nn.logsumexp(like + prior)

    guided = guidance.tilted(base, log_h)
    for x_t in (-1.0, 0.2, 1.7):
        law = w * density(POINTS) * np.exp(-((x_t - alpha * POINTS) ** 2) / (2 * sigma**2))
        least = np.sum(law * POINTS) / np.sum(law)
        x = np.float32([x_t])
        np.testing.assert_allclose(denoise(x, np.float32(t)).mean, [least], atol=2e-4)
        np.testing.assert_allclose(guided(x, np.float32(t)).mean, [least], atol=2e-3)
        assert abs(float(base(x, np.float32(t)).mean[0]) - least) > 0.05  # what has to be learned


@pytest.mark.parametrize("n", [1, 2, 4])
def test_weights_of_a_batch_and_their_bias(n):
    """By enumeration of batches from three points: the law that the loss sees is p* up to 1 / n, p at n = 1."""
    p, r, beta = np.array([0.5, 0.3, 0.2]), np.array([0.0, 0.7, -0.4]), 0.5
    aim = p * np.exp(r / beta) / np.sum(p * np.exp(r / beta))
    seen = np.zeros(3)
    for batch in itertools.product(range(3), repeat=n):
        w = np.asarray(rewards.weights(np.float32(r[list(batch)]), np.float32(beta)))
        np.testing.assert_allclose(w.mean(), 1, rtol=1e-6)
        np.add.at(seen, list(batch), np.prod(p[list(batch)]) * w / n)
    distance = lambda q: np.abs(q - aim).sum() / 2
    np.testing.assert_allclose(seen.sum(), 1, rtol=1e-5)
    if n == 1:
        np.testing.assert_allclose(seen, p, rtol=1e-5)
    else:
        # The first term of the expansion of 1 / mean w: q_i = p*_i (1 + (E[w^2] / E[w]^2 - w_i / E[w]) / n).
        w = np.exp(r / beta)
        one = p @ w
        first = aim * (1 + (p @ w**2 / one**2 - w / one) / n)
        assert np.abs(seen - first).sum() / 2 < 0.6 / n**2
        assert distance(seen) < (0.75 if n == 2 else 0.4) * distance(p)


def test_prepared_weights_are_of_the_examples():
    x = np.random.default_rng(0).normal(size=(5, 2, 2, 1)).astype(np.float32)
    for of, r in (("mean", x.mean((1, 2, 3))), ("dark", -x.mean((1, 2, 3))), (lambda x: x[0, 0, 0], x[:, 0, 0, 0])):
        prepare = losses.prepare.reward(schedules.VP(), of=of, beta=0.3)
        batch = prepare.apply(prepare.init(), jax.random.key(0), Example(x, {"label": np.arange(5)}))
        want = np.exp(np.float64(r) / 0.3)
        np.testing.assert_allclose(batch.chosen["weight"], want / want.mean(), rtol=1e-5)
        np.testing.assert_array_equal(batch.given["label"], np.arange(5))
        assert jax.tree.leaves(prepare.update(prepare.init(), x, {})) == []
        got = rewards.effective(np.float32(r), 0.3)
        np.testing.assert_allclose(got, want.sum() ** 2 / (want**2).sum(), rtol=1e-5)
    assert float(rewards.effective(np.zeros(7, np.float32), 0.3)) == pytest.approx(7)


def prepared(of):
    prepare = losses.prepare.reward(schedules.VP(), of=of)
    return prepare.apply((), jax.random.key(0), Example(np.ones((5, 2, 2, 1), np.float32), {}))


def test_a_reward_that_is_not_finite_is_named_before_training():
    """log x of a quarter of the points is nan: said by the Trainer, not of the learning rate at step 0."""
    x = np.float32([[-1.0, 1.0], [2.0, 1.0], [3.0, -1.0], [4.0, 1.0]])

    def trainer(of):
        prepare = lambda schedule: rewards.reward(schedule, of=of, beta=1.0)
        net = models.of(models.MLP(width=4, depth=1))
        method = methods.denoising(net, processes.Gaussian(schedules.VP()), denoisers.V(), prepare=prepare)
        return runs.Trainer(method, data.arrays(np.tile(x, (16, 1))), optimizer=optax.adam(1e-3), batch_size=4)

    with pytest.raises(ValueError, match=r"The reward is nan for \d+ of the \d+ training examples .*expected a finite"):
        trainer(lambda x: jnp.log(x[0]))
    with pytest.raises(ValueError, match="The method fails on one example"):
        trainer(lambda x: x.nope)
    assert trainer(lambda x: jnp.log(x[0] + 2)).step == 0


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: prepared(lambda x: x.mean(-1)), r"reward of one example is of shape \(2, 2\), expected a scalar"),
        (lambda: prepared(lambda x: (x.mean(), x.sum())), "reward of one example is a tuple, expected a scalar"),
        (lambda: losses.prepare.reward(schedules.VP(), beta=0.0), "beta is 0.0, expected a positive number"),
        (lambda: losses.prepare.reward(schedules.VP(), of="meen"), "There is no reward 'meen'.*mean"),
        (lambda: tilting.tilted(LINE, [1.0, 2.0]), r"g has shape \(2,\)"),
        (lambda: tilting.tilted(LINE, [1.0], [[-2.5]]), "grows faster than a component"),
        (lambda: tilting.tilted(LINE, [1.0], [[-2.0]]), "grows faster than a component"),  # I + C H = 0, C = 1 / 2
        (lambda: tilting.tilted(LINE, [np.nan]), "g or H holds numbers that are not finite"),
        (lambda: tilting.tilted(LINE, [1.0], [[np.inf]]), "g or H holds numbers that are not finite"),
        (lambda: tilting.tilted(analytic.fitted_gaussian(np.eye(3)[:2]), [1.0] * 3), "fewer axes than entries"),
    ],
)
def test_mistakes_are_one_line(make, match):
    with pytest.raises(ValueError, match=match) as found:
        make()
    assert "\n" not in str(found.value)
