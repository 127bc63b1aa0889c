"""Guidance against Bayes' rule, closed forms of guided flows, and the formulas of one step."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, special

from diffjax import analytic, calculus, denoisers, grids, models, samplers, schedules
from diffjax.denoisers import guidance
from diffjax.processes import Gaussian
from diffjax.schedules import EDM, VP, Cosine, Rectified
from diffjax.types import Posterior, Schedule, pytree

MEANS, SPREADS = [[-1.0, 0.2], [0.8, 0.5], [0.1, -1.2]], [0.05, 0.1, 0.2]
X = np.asarray([[0.3, -0.7], [2.0, 0.4], [-1.1, 0.1]])

# One program for all denoisers of a kind and a shape; `combined` takes numbers as they are.
posterior = jax.jit(lambda denoise, x, t: denoise(x, t))
combined = jax.jit(guidance.combine)
walked = jax.jit(lambda sample, denoise, key, x: sample(denoise, key, x))


def amplitudes(schedule, t):
    """(alpha, sigma) as floats."""
    (alpha,), (sigma,) = calculus.amplitudes(schedule, [t])
    return float(alpha), float(sigma)


def whole(schedule):
    """The exact denoiser, in the precision of the test."""
    return analytic.gaussian_mixture([0.5, 0.3, 0.2], MEANS, SPREADS).denoiser(schedule)


def first(schedule):
    """The same of the class of the first two components."""
    return analytic.gaussian_mixture([0.5, 0.3], MEANS[:2], SPREADS[:2]).denoiser(schedule)


def log_posterior(schedule):
    """log p(class | x_t) up to a constant, by Bayes: the ratio of two densities, written out."""

    def density(x, t, weights, means, spreads):
        alpha, sigma = schedule(t)
        total = 0.0
        for w, m, v in zip(weights, means, spreads):
            var = alpha**2 * v + sigma**2
            total += w / var * jnp.exp(-0.5 * jnp.sum((x - alpha * jnp.asarray(m)) ** 2) / var)
        return total

    return lambda x, t: jnp.log(
        density(x, t, [0.5, 0.3], MEANS[:2], SPREADS[:2]) / density(x, t, [0.5, 0.3, 0.2], MEANS, SPREADS)
    )


@functools.cache
def guided_both_ways(schedule):
    """(w, x, t) -> the means without and with a classifier: one program for every strength."""
    cond, uncond = first(schedule), whole(schedule)

    def means(w, x, t):
        free = guidance.extrapolated(cond, uncond, w)
        classifier = guidance.tilted(uncond, log_posterior(schedule), w)
        return free(x, t).mean, classifier(x, t).mean

    return jax.jit(jax.vmap(means, (None, 0, 0)))


@pytest.mark.parametrize("w", [0.0, 1.0, 2.5, -1.0])
@pytest.mark.parametrize("schedule", [VP(), EDM(t_max=5.0), Rectified(t_max=0.98)], ids=lambda s: type(s).__name__)
def test_exact_branches_are_guided_as_by_the_bayes_classifier(schedule, w, x64):
    """Equivalence E8."""
    got, expected = guided_both_ways(schedule)(w, np.repeat(X, 3, 0), np.asarray([0.1, 0.5, 0.9] * 3))
    np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-12)


V, R2, Y = 1.0, 0.5, 1.5


def gaussian_likelihood(schedule):
    """log p(y | x_t) for x_0 ~ N(0, V), y = x_0 + N(0, R2): Gaussian with the moments of x_0 given x_t."""

    def potential(x, t):
        alpha, sigma = schedule(t)
        share = V / (alpha**2 * V + sigma**2)
        mean, var = alpha * share * x, sigma**2 * share
        return jnp.sum(-0.5 * (Y - mean) ** 2 / (var + R2) - 0.5 * jnp.log(var + R2))

    return potential


LIKELIHOOD = gaussian_likelihood(EDM())  # one function, so that every strength is one program


@jax.jit
def flow(sample, denoise, x):
    ends = jax.vmap(lambda x: sample(denoise, jax.random.key(0), x))(x)
    return [ends[0, 0], ends[1, 0]]


@functools.cache
def guided_flow(w):
    """Mean and standard deviation of the flow's end, by the library: it is affine, so that two points tell."""
    schedule = EDM()
    denoise = analytic.gaussian_mixture([1.0], [[0.0]], [V]).denoiser(schedule)
    guided = guidance.tilted(denoise, LIKELIHOOD, w)
    sample = samplers.sampling_fn(samplers.heun.edm(schedule), grids.karras(schedule, 400, t_min=1e-4))
    ends = flow(sample, guided, np.asarray([[0.0], [80.0]]))
    return float(ends[0]), float(ends[1]) - float(ends[0])


def solved_flow(w):
    """The same by SciPy, from dx / dsigma = -sigma score."""

    def slope(s, x):
        gain = V / (V + s**2)
        return s * (x / (V + s**2) - w * gain * (Y - gain * x) / (gain * s**2 + R2))

    low, high = (integrate.solve_ivp(slope, (80, 0), [x], rtol=1e-10, atol=1e-12).y[0, -1] for x in (0.0, 80.0))
    return low, high - low


@pytest.mark.parametrize("w", [1.0, 3.0])
def test_the_guided_flow_of_a_gaussian(w, x64):
    """At full strength it samples the conditional; its closed form for sigma_max without bound is near at 80."""
    mean, std = guided_flow(w)
    assert (mean, std) == pytest.approx(solved_flow(w), rel=5e-4)
    conditional = V * R2 / (V + R2)
    assert std == pytest.approx(V ** ((1 - w) / 2) * conditional ** (w / 2), rel=1e-3)
    if w == 1:
        assert mean == pytest.approx(V * Y / (V + R2), rel=1e-2)


def test_guidance_is_not_tempering(x64):
    """p(x) p(y | x)^3 is what y with the variance r^2 / 3 would give; the flow ends elsewhere, and narrower."""
    mean, std = guided_flow(3.0)
    tempered = 1 / (1 / V + 3 / R2)
    assert (tempered * 3 * Y / R2, np.sqrt(tempered)) == pytest.approx((1.286, 0.378), abs=1e-3)
    assert (mean, std) == pytest.approx((1.66, 0.1925), abs=1e-2)


def test_one_is_off_to_the_bit():
    cond, uncond = 10 * np.random.default_rng(0).standard_normal((2, 10_000), np.float32)
    assert np.asarray(combined(cond, uncond, np.float32(1.0), np.float32(0.0))).tobytes() == cond.tobytes()
    branches = {True: first(VP()), False: whole(VP())}
    assert guidance.classifier_free(branches.get, True, False, 1.0) is branches[True]


@pytest.fixture(scope="module")
def network():
    """Label -> denoiser of a small conditional U-Net with random parameters; label 3 is none."""
    net = models.network(models.UNet(channels=8, multipliers=(1,), attention=(8,), classes=3))
    params = models.init(net, jax.random.key(0), (8, 8, 1), {"label": np.int32(0)})
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: np.asarray(leaf) + 0.1 * rng.standard_normal(leaf.shape).astype(np.float32), params
    )

    def branch(label):
        apply = lambda params, label, x, c: net.apply(params, x, c, {"label": label})
        return denoisers.denoiser(jax.tree_util.Partial(apply, params, label), VP(), denoisers.V())

    return branch


def test_one_fused_evaluation_is_two(network):
    x, label, null = np.random.default_rng(5).standard_normal((8, 8, 1), np.float32), np.int32(1), np.int32(3)
    fused = guidance.classifier_free(network, label, null, 2.5)
    apart = guidance.extrapolated(network(label), network(null), 2.5)
    means = jax.jit(lambda x, t: [denoise(x, t).mean for denoise in (fused, apart, network(label))])
    got, expected, plain = map(np.asarray, means(x, np.float32(0.4)))
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
    assert np.abs(expected - plain).max() > 1e-2
    assert calculus.same(fused.schedule, VP())


def test_the_fused_evaluation_costs_twice_the_network(network):
    """Counted by the compiler."""
    x, label, null = np.zeros((8, 8, 1), np.float32), np.int32(1), np.int32(3)
    count = lambda denoise: jax.jit(lambda x: denoise(x, np.float32(0.4)).mean).lower(x).compile().cost_analysis()
    plain, fused = (count(d)["flops"] for d in (network(label), guidance.classifier_free(network, label, null, 2.5)))
    assert fused <= 2.02 * plain


def test_combining_means_noises_velocities_or_scores_is_the_same(x64):
    schedule, t, w, x = VP(), 0.4, 3.0, X[0]
    alpha, sigma = amplitudes(schedule, t)
    cond, uncond = (np.asarray(posterior(d(schedule), x, t).mean) for d in (first, whole))
    got = combined(cond, uncond, w)
    spaces = {
        "eps": (lambda m: (x - alpha * m) / sigma, lambda e: (x - sigma * e) / alpha),
        "v": (lambda m: (alpha * x - m) / sigma, lambda v: alpha * x - sigma * v),
        "score": (lambda m: (alpha * m - x) / sigma**2, lambda s: (x + sigma**2 * s) / alpha),
    }
    for there, back in spaces.values():
        np.testing.assert_allclose(back(np.asarray(combined(there(cond), there(uncond), w))), got, rtol=1e-12)


def test_the_interval_is_one_of_noise_levels(x64):
    schedule = VP()
    cond, uncond = first(schedule), whole(schedule)
    limited = guidance.extrapolated(cond, uncond, 4.0, low=0.3, high=2.0)
    always = guidance.extrapolated(cond, uncond, 4.0)
    inverse = jax.jit(calculus.time_of)
    for level, acts in ((0.1, False), (0.31, True), (1.0, True), (1.9, True), (3.0, False)):
        t = inverse(schedule, -2 * np.log(level))
        expected = always if acts else cond
        np.testing.assert_array_equal(posterior(limited, X[0], t).mean, posterior(expected, X[0], t).mean)


def test_rescaling_gives_the_spread_of_the_conditional_mean_back():
    cond, uncond = np.random.default_rng(1).standard_normal((2, 6, 6, 1), np.float32) + np.float32(0.5)
    guided = cond + 6 * (cond - uncond)
    assert np.std(combined(cond, uncond, 7.0, 1.0)) == pytest.approx(np.std(cond), rel=1e-5)
    half = guided * (0.5 + 0.5 * np.std(cond) / np.std(guided))
    np.testing.assert_allclose(combined(cond, uncond, 7.0, 0.5), half, rtol=1e-5)
    flat = np.ones((6, 6, 1), np.float32)  # no spread to give back: the guided mean stays
    np.testing.assert_array_equal(combined(2 * flat, flat, 3.0, 0.7), 4 * flat)


def test_the_shifted_mean_of_a_step_moves_by_its_variance_times_the_gradient(x64):
    """As published: x_s moves by w Var[x_s | x_t] c for a potential c x, whatever its size (the tilted Gaussian)."""
    schedule, (t, s), w, c = VP(), (0.6, 0.45), 1.7, np.asarray([0.4, -2.0])
    x, potential = X[0], lambda x, t: jnp.vdot(c, x)
    (a, n), (b, m) = (amplitudes(schedule, time) for time in (t, s))
    share = 1 - (a / n * m / b) ** 2
    for var in (0.0, 0.2):
        denoise = Made(VP(), var)
        guided = guidance.mean_shift(denoise, potential, [t, s], w)
        sample = samplers.sampling_fn(samplers.ancestral.ddpm(schedule), [t, s])
        ends = [np.asarray(walked(sample, model, jax.random.key(3), x)) for model in (guided, denoise)]
        moved = ends[0] - ends[1]
        variance = m**2 * share + (b * share) ** 2 * var
        np.testing.assert_allclose(moved, w * variance * c, rtol=1e-9)
    last = guidance.mean_shift(Made(VP(), 0.0), potential, [t, 0.0], w)
    np.testing.assert_allclose(posterior(last, x, t).mean, 0.3 * x, rtol=1e-12)  # without variance nothing moves


@pytree
class Made:
    """A denoiser of nothing in particular."""

    schedule: Schedule
    var: float

    def __call__(self, x, t):
        return Posterior(0.3 * x, self.var)


@pytree
class Still:
    """The denoiser whose step from t to s leaves x where it is."""

    schedule: schedules.VP
    gain: float

    def __call__(self, x, t):
        return Posterior(self.gain * x)


def test_the_first_order_shift_misses_a_quadratic_tilt_by_the_square_of_the_strength(x64):
    """N(x, S) exp(-w |x_s - y|^2 / 2) has the mean (x + S w y) / (1 + S w): what is missed falls by 4 as w halves."""
    (t, s), x, y, errors = (0.6, 0.45), X[0], np.asarray([2.0, 1.0]), []
    (a, n), (b, m) = (amplitudes(VP(), time) for time in (t, s))
    share = 1 - (a / n * m / b) ** 2
    spread, kept = m**2 * share, (b - b * share) / a
    sample = samplers.sampling_fn(samplers.ancestral.ddpm(VP()), [t, s])
    still = Still(VP(), (1 - kept) / (b * share))
    potential = lambda x, t: -0.5 * jnp.sum((x - y) ** 2)
    unmoved = np.asarray(walked(sample, still, jax.random.key(0), x))
    for w in (0.2, 0.1, 0.05):
        guided = guidance.mean_shift(still, potential, [t, s], w)
        shift = np.asarray(walked(sample, guided, jax.random.key(0), x)) - unmoved
        errors.append(np.abs(shift - spread * w * (y - x) / (1 + spread * w)).max())
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.1)
    assert errors[1] / errors[2] == pytest.approx(4, rel=0.05)


def test_potentials_add(x64):
    schedule, denoise, x = VP(), whole(VP()), X[1]
    one, two = (lambda x, t: -jnp.sum(x**4) * t), (lambda x, t: jnp.sum(jnp.sin(x)))
    nested = guidance.tilted(guidance.tilted(denoise, one, 2.0), two, 0.5)
    summed = guidance.tilted(denoise, lambda x, t: 2.0 * one(x, t) + 0.5 * two(x, t))
    of_nested, of_summed, plain = (np.asarray(posterior(d, x, 0.3).mean) for d in (nested, summed, denoise))
    np.testing.assert_allclose(of_nested, of_summed, rtol=1e-12)
    alpha, sigma = amplitudes(schedule, 0.3)
    by_hand = plain + sigma**2 / alpha * (-8 * x**3 * 0.3 + 0.5 * np.cos(x))
    np.testing.assert_allclose(of_nested, by_hand, rtol=1e-12)


def test_at_the_prediction_the_gradient_passes_through_the_denoiser(x64):
    """Of Gaussian data the mean is g x, so that the gradient at x is g times that at the mean."""
    schedule, t, x = VP(), 0.4, X[0]
    alpha, sigma = amplitudes(schedule, t)
    denoise = analytic.gaussian_mixture([1.0], [[0.0, 0.0]], [V]).denoiser(schedule)
    gain = alpha * V / (alpha**2 * V + sigma**2)
    guided = guidance.tilted_by_prediction(denoise, lambda m, t: -jnp.sum((m - Y) ** 2), 0.7)
    expected = gain * x + 0.7 * sigma**2 / alpha * gain * -2 * (gain * x - Y)
    found = posterior(guided, x, t)
    np.testing.assert_allclose(found.mean, expected, rtol=1e-10)
    np.testing.assert_allclose(found.var, posterior(denoise, x, t).var)


def test_a_classifier_is_a_log_probability_at_the_scale_that_its_network_sees(x64):
    """Against SciPy: a linear network of x at unit variance and of the log-SNR."""
    rng, schedule, t = np.random.default_rng(0), EDM(), 1.5
    weights, x, z = rng.standard_normal((3, 2)), X[0], rng.standard_normal(2)
    net = jax.tree_util.Partial(lambda w, x, c: w @ x + c * np.asarray([0.1, 0.0, -0.2]), weights)
    classifier = denoisers.Classifier(net, schedule, np.int32(2), sigma_data=0.5)

    @jax.jit
    def of(classifier, x, z, t):
        shifted = guidance.tilted(Made(schedule, 0.0), classifier, 2.0)(x, t).mean
        loss = denoisers.cross_entropy(classifier, Gaussian(schedule), x, z, t)
        return classifier(x, t), shifted, classifier(x + 1.5 * z, t), loss

    own, shifted, noised, loss = map(np.asarray, of(classifier, x, z, t))
    logits = weights @ X[0] / np.hypot(1.5, 0.5) - 2 * np.log(1.5) * np.asarray([0.1, 0, -0.2])
    assert own == pytest.approx(special.log_softmax(logits)[2], rel=1e-12)
    probabilities = special.softmax(logits)
    gradient = (weights[2] - probabilities @ weights) / np.hypot(1.5, 0.5)
    np.testing.assert_allclose(shifted - 0.3 * x, 2.0 * 1.5**2 * gradient, rtol=1e-10)
    assert loss == -noised


def test_the_classifier_network():
    """It starts without an opinion, and each kind of mistake is named."""
    net = models.network(models.Classifier(classes=4, channels=8, multipliers=(1,), attention=()))
    params = models.init(net, jax.random.key(0), (4, 4, 1))
    logits = jax.jit(net.apply)(params, np.ones((4, 4, 1), np.float32), np.float32(0.3))
    np.testing.assert_array_equal(logits, np.zeros(4))
    usual, stated = models.Classifier(4), models.Classifier(4, 32, (1, 2), 1, (4,), 0.0)
    made = [
        jax.eval_shape(models.network(m).init, jax.random.key(0), np.zeros((8, 8, 1)), 0.0) for m in (usual, stated)
    ]
    assert made[0] == made[1]
    with pytest.raises(ValueError, match="classes = 0"):
        models.Classifier(classes=0)
    with pytest.raises(ValueError, match=r"multiples of 2, got \(5, 5, 1\)"):
        models.init(models.network(models.Classifier(classes=4)), jax.random.key(0), (5, 5, 1))


def test_guided_denoisers_are_arguments_of_jit():
    """Another strength is no retrace."""
    traces = []

    @jax.jit
    def mean(denoise, x):
        traces.append(1)
        return denoise(x, 0.5).mean

    cond, uncond = first(VP()), whole(VP())
    for w in (1.5, 2.0, 3.0):
        mean(guidance.extrapolated(cond, uncond, w), X[0].astype(np.float32))
    assert len(traces) == 1


BAD = {
    "other schedule": (
        lambda: guidance.extrapolated(first(VP()), whole(VP(beta_max=10.0)), 2.0),
        "must agree on what x_t is",
    ),
    "classifier of another schedule": (
        lambda: guidance.tilted(first(VP()), Made(VP(beta_max=10.0), 0.0)),
        "Made was made for VP",
    ),
    "scale": (
        lambda: guidance.tilted(first(VP()), log_posterior(VP()), np.nan),
        "w is nan, expected a finite",
    ),
    "interval": (
        lambda: guidance.extrapolated(first(VP()), whole(VP()), 2.0, low=3.0, high=1.0),
        "from 3.0 to 1.0, expected 0 <= low < high",
    ),
    "two schedules": (
        lambda: guidance.extrapolated(first(VP()), Made(EDM(), 0.0), 2.0),
        r"Made was made for EDM\(.*\), but the denoiser for VP\(",
    ),
    "rescale": (
        lambda: guidance.extrapolated(first(VP()), whole(VP()), 2.0, rescale=1.5),
        r"rescale is 1\.5, expected a number in \[0, 1\]",
    ),
    "no signal at the end": (
        lambda: guidance.tilted(first(Cosine()), log_posterior(Cosine())),
        "alpha is 0 at the end of Cosine",
    ),
    "grid": (
        lambda: guidance.mean_shift(first(VP()), log_posterior(VP()), [0.1, 0.5]),
        "decreas",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
    call, match = BAD[name]
    with pytest.raises(ValueError, match=match):
        call()
