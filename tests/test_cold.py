"""Cold processes: their degradations against SciPy, both samplers in closed form, laws of z."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.fft
from scipy import stats

from diffjax import denoisers, grids, losses
from diffjax.calculus import Clock, FlowOnly
from diffjax.processes import cold, heat
from diffjax.processes.degradations import GROWTH
from diffjax.samplers import ancestral, sampling_fn, unified
from diffjax.schedules import VP, Rectified, Still
from diffjax.types import Posterior, pytree

RNG = np.random.default_rng(0)
KEY = jax.random.key(0)
CLOCK = Clock(Rectified())
IMAGE = RNG.normal(size=(8, 8, 2))
LINE = RNG.normal(size=(8, 1))


@jax.jit
def walked(walk, model, x):
    return walk(model, KEY, x)


@pytree
class Wrong:
    """A denoiser that is wrong in a way that depends on x and t."""

    schedule: object

    def __call__(self, x, t):
        return Posterior(jnp.tanh(x + 0.3) + 0.2 * t)


def wrong(x, t):
    return np.tanh(x + 0.3) + 0.2 * t


# Degradations.


def blurred(x, t, width):
    """By SciPy's cosines, over all axes but the last."""
    axes = tuple(range(x.ndim - 1))
    tau = 0.5 * (width * (np.exp(4 * t) - 1) / (np.exp(4) - 1)) ** 2
    rates = sum(np.meshgrid(*((np.pi * np.arange(n) / n) ** 2 for n in x.shape[:-1]), indexing="ij"))
    u = scipy.fft.dctn(x, axes=axes, norm="ortho") * np.exp(-rates * tau)[..., None]
    return scipy.fft.idctn(u, axes=axes, norm="ortho")


def means(x, size):
    return x.reshape(8 // size, size, 8 // size, size, -1).mean((1, 3))


def copied(x, size):
    return np.repeat(np.repeat(means(x, size), size, 0), size, 1)


def interpolated(x, size):
    """Straight lines between the middles of blocks, first down, then across."""
    small, at = means(x, size), np.arange(size / 2 - 0.5, 8, size)
    along = lambda a, axis: np.apply_along_axis(lambda v: np.interp(np.arange(8), at, v), axis, a)
    return along(along(small, 0), 1)


@pytest.mark.parametrize("t", [0.0, 0.2, 0.7, 1.0])
def test_the_blur_is_heat_with_mirrors(t, x64):
    np.testing.assert_allclose(cold.Blur(3.0)(IMAGE, t), blurred(IMAGE, t, 3.0), atol=1e-13)
    np.testing.assert_allclose(cold.Blur()(LINE, t), blurred(LINE, t, 8.0), atol=1e-13)


@pytest.mark.parametrize(("lines", "level"), [(False, copied), (True, interpolated)])
def test_blocks_are_means_mixed_between_two_sizes(lines, level, x64):
    """Sizes 1, 2, 4, 8 at t = 0, 1/3, 2/3, 1."""
    for j, size in enumerate((1, 2, 4, 8)):
        np.testing.assert_allclose(cold.Blocks(2, lines)(IMAGE, j / 3), level(IMAGE, size), atol=1e-14)
    between = 0.25 * level(IMAGE, 2) + 0.75 * level(IMAGE, 4)
    np.testing.assert_allclose(cold.Blocks(2, lines)(IMAGE, 1.75 / 3), between, atol=1e-14)
    np.testing.assert_allclose(cold.Blocks(2, lines)(IMAGE, 1.0), np.broadcast_to(IMAGE.mean((0, 1)), (8, 8, 2)))


def test_blocks_grow_while_they_divide_the_sides():
    assert cold.block_sizes((28, 28), 2) == [(1, 1), (2, 2), (4, 4), (28, 28)]
    assert cold.block_sizes((12, 6), 3) == [(1, 1), (3, 3), (12, 6)]
    assert cold.block_sizes((7,), 2) == [(1,), (7,)]


# Both samplers.


@pytest.mark.parametrize("make", [cold.blur, cold.downsample])
@pytest.mark.parametrize("share", [0.0, 1.0])
def test_improved_and_naive_are_bansals_algorithms(make, share, x64):
    process, ts = make(), np.asarray([1.0, 0.8, 0.45, 0.1, 0.0])
    degrade = lambda x, t: np.asarray(process.degrade(x, t))
    x = IMAGE
    for t, s in pairwise(ts):
        x0 = wrong(x, t)
        x = degrade(x0, s) if share else x + degrade(x0, s) - degrade(x0, t)
    walk = sampling_fn(unified(process, share, estimate="mean"), ts)
    np.testing.assert_allclose(walked(walk, Wrong(process.schedule), IMAGE), x, atol=1e-12)


def test_the_error_of_the_improved_sampler_telescopes(x64):
    """x_end - x_0 = sum of (D_s - D_t)(x0_t - x_0) for linear D_t, whatever the estimates are."""
    process, ts = cold.blur(width=4.0), np.asarray([1.0, 0.7, 0.4, 0.2, 0.0])
    walk = sampling_fn(unified(process, estimate="mean"), ts, trace=lambda state: state.x)
    start = blurred(IMAGE, 1.0, 4.0)
    end, seen = walked(walk, Wrong(process.schedule), start)
    errors = [wrong(x, t) - IMAGE for x, t in zip([start, *np.asarray(seen)[:-1]], ts)]
    total = sum(blurred(e, s, 4.0) - blurred(e, t, 4.0) for e, (t, s) in zip(errors, pairwise(ts)))
    np.testing.assert_allclose(np.asarray(end) - IMAGE, total, atol=1e-12)


@pytree
class Once:
    """The right estimate, x_0 = 0, but at one time, where it misses every frequency by one."""

    schedule: object
    at: object
    missed: object

    def __call__(self, x, t):
        return Posterior(jnp.where(jnp.abs(t - self.at) < 1e-9, self.missed, 0.0))


@pytest.mark.parametrize(
    ("steps", "expected"), [(10, (0, 0.0815, 0.1344, 0.4233)), (100, (0, 0.00777, 0.0354, 0.3781))]
)
def test_independent_errors_average_but_of_high_frequencies(steps, expected, x64):
    """Unit errors on eight places, w from 4 to 1/2 in N geometric steps, then 0; variance of frequencies 0, 1, 3, 7."""
    widths = np.geomspace(4.0, 0.5, steps)
    ts = np.append(np.log1p(widths / 8 * np.expm1(GROWTH)) / GROWTH, 0.0)
    missed = scipy.fft.idct(np.ones(8), norm="ortho")[:, None]
    process, found = cold.blur(), {}
    for share in (0.0, 1.0):
        walk = sampling_fn(unified(process, share, estimate="mean"), ts)
        ends = jax.jit(jax.vmap(lambda at: walk(Once(CLOCK, at, missed), KEY, jnp.zeros((8, 1)))))(ts[:-1])  # noqa: B023
        found[share] = (scipy.fft.dct(np.asarray(ends)[..., 0], norm="ortho") ** 2).sum(0)[[0, 1, 3, 7]]
    np.testing.assert_allclose(found[0.0], expected, atol=6e-5)
    np.testing.assert_allclose(found[1.0], 1.0, atol=1e-12)  # naive: the last estimate's error, whole


def test_the_improved_sampler_is_exact_for_any_estimate_only_where_what_is_added_knows_no_x0(x64):
    added, ts = RNG.normal(size=(3,)), grids.uniform(Rectified(), 7, t_min=0.0)
    x0 = np.asarray([0.4, -1.0, 2.0])
    ends = {}
    for name, degrade in {"of its own": lambda x, t: x + t * added, "of x_0": lambda x, t: (1 - 0.9 * t) * x}.items():
        process = cold.of(degrade, shape=(3,))
        walk = sampling_fn(unified(process, estimate="mean"), ts)
        ends[name] = walked(walk, Wrong(process.schedule), np.asarray(degrade(x0, 1.0)))
    np.testing.assert_allclose(ends["of its own"], x0, atol=1e-12)
    assert np.abs(ends["of x_0"] - x0).max() > 0.1


@pytree
class Grown:
    """The width of `cold.Blur` as a damping of spectral schedules."""

    width_1: float
    d_min: float = 0.0

    def width(self, t):
        return self.width_1 * jnp.expm1(GROWTH * t) / jnp.expm1(GROWTH)


def test_a_blur_with_noise_is_heat_dissipation_and_its_improved_step_ddim(x64):
    """Two codes of one process: cosines and alpha_k in `heat`, D_t in pixels here; both end with the mean at t = 0."""
    ts = np.asarray([1.0, 0.6, 0.3, 0.0])
    process = cold.blur(width=3.0, std=0.2)
    walk = sampling_fn(unified(process, estimate="mean"), ts)
    own = walked(walk, Wrong(process.schedule), IMAGE[..., :1])
    other = heat.Spectral(heat.spectral(Still(0.2), Grown(3.0), (8, 8)))
    model = lambda u, t: Posterior(other.enter(Wrong(None)(other.leave(u), t).mean))
    model = samplers_model(other.schedule, model)
    found = other.leave(walked(sampling_fn(ancestral.ddim(other.schedule), ts), model, other.enter(IMAGE[..., :1])))
    np.testing.assert_allclose(own, found, atol=1e-12)


def samplers_model(schedule, function):
    @pytree
    class Model:
        schedule: object

        def __call__(self, x, t):
            return function(x, t)

    return Model(schedule)


def test_mixing_on_straight_lines_is_the_flow_between_two_sets(x64):
    """Bansal et al.'s improved step of it is DDIM's."""
    images = RNG.normal(size=(5, 4))
    process, ts = cold.mix(images=images), grids.uniform(Rectified(), 6, t_min=0.0)
    model = Wrong(process.schedule)
    improved = walked(sampling_fn(unified(process, estimate="mean"), ts), model, images[0])
    flow = walked(sampling_fn(ancestral.ddim(FlowOnly(Rectified())), ts), model, images[0])
    np.testing.assert_allclose(improved, flow, atol=1e-12)


def test_masked_places_are_opened_once_and_kept():
    """From all grey, with the estimate 1 + t: a place shows the estimate of the step that opened it, to the end."""
    process, ts = cold.masked(grey=0.0), np.linspace(1.0, 0.0, 6)
    model = samplers_model(CLOCK, lambda x, t: Posterior(jnp.full_like(x, 1.0) + t))
    walk = sampling_fn(unified(process, estimate="mean"), ts, trace=lambda state: state.x)
    end, seen = (np.asarray(a) for a in walked(walk, model, jnp.zeros((40, 40, 2))))
    assert np.array_equal(end[..., 0], end[..., 1])
    np.testing.assert_allclose(np.unique(end), [1.2, 1.4, 1.6, 1.8, 2.0], rtol=1e-6)
    for before, after in pairwise(seen):
        np.testing.assert_array_equal(after[before != 0], before[before != 0])
    hidden = (seen[:, :, :, 0] == 0).mean((1, 2))
    assert np.all(np.abs(hidden - ts[1:]) < 4 * np.sqrt(0.25 / 1600))


# Laws of z.


def test_the_noise_of_a_mask_is_found_again_with_its_law():
    """corrupt(x_0, invert(x_0, x_t)) is x_t; u is uniform below t where hidden, above where shown."""
    process, t, x0 = cold.masked(grey=0.25), 0.3, jnp.asarray(RNG.normal(size=(100, 100, 1)), jnp.float32)
    z = process.noise(KEY, x0)
    x = process.corrupt(x0, z, t)
    again = jax.jit(process.invert)(jax.random.key(1), x0, x, t)
    np.testing.assert_array_equal(process.corrupt(x0, again, t), x)
    u, hidden = np.asarray(again.u), np.asarray(x == 0.25)
    assert np.mean(hidden) == pytest.approx(t, abs=4 * np.sqrt(0.21 / 1e4))
    assert stats.kstest(u[hidden] / t, "uniform").pvalue > 1e-4
    assert stats.kstest((u[~hidden] - t) / (1 - t), "uniform").pvalue > 1e-4
    assert not np.array_equal(u, np.asarray(z.u))


def test_a_mask_under_noise_is_found_by_its_likelihoods():
    """P(hidden | x_0, x_t) by Bayes, of two channels: N(x; grey, s^2) against N(x; x_0, s^2), prior t."""
    process, t, s = cold.masked(grey=0.0, std=0.5), 0.4, 0.5
    x0, x = np.asarray([0.6, -0.3]), np.asarray([0.5, 0.1])
    by = lambda mean: stats.norm.pdf(x, mean, s).prod()
    expected = t * by(0.0) / (t * by(0.0) + (1 - t) * by(x0))
    many = lambda a: jnp.broadcast_to(jnp.asarray(a, jnp.float32), (200, 100, 2))
    z = jax.jit(process.invert)(KEY, many(x0), many(x), t)
    hidden = np.asarray(z.u) < t
    assert hidden.mean() == pytest.approx(expected, abs=4 * np.sqrt(0.25 / 2e4))
    left = np.where(hidden, x, x - x0)
    np.testing.assert_allclose(z.z, left, atol=1e-6)


renewed = jax.jit(lambda process, key, z: process.renew(key, z, 0.6))


def test_renewed_noise_keeps_its_law():
    """share = 0.6 of N(0, 0.3^2): variance 0.09, correlation 0.8; of masks and lists of images the share of draws."""
    process, x0 = cold.blur(std=0.3), jnp.zeros((100, 100, 1))
    z = process.noise(KEY, x0)
    new = renewed(process, jax.random.key(1), z)
    assert float(jnp.var(new)) == pytest.approx(0.09, abs=4 * 0.09 * np.sqrt(2 / 1e4))
    assert float(jnp.mean(z * new)) / 0.09 == pytest.approx(0.8, abs=0.05)
    assert float(jnp.abs(renewed(cold.blur(), KEY, z) - 0.8 * z).max()) < 1e-6  # s = 0: nothing is drawn
    mask = cold.masked()
    before = mask.noise(KEY, x0)
    after = renewed(mask, jax.random.key(1), before)
    assert np.mean(np.asarray(before.u != after.u)) == pytest.approx(0.6, abs=0.02)
    assert stats.kstest(np.ravel(after.u), "uniform").pvalue > 1e-4
    mix = cold.mix(images=np.arange(10.0)[:, None])
    keys = jax.random.split(KEY, 10_000)
    others = np.asarray(jax.jit(jax.vmap(lambda key: mix.renew(key, jnp.asarray([3.0]), 0.6)))(keys))[:, 0]
    assert np.mean(others != 3) == pytest.approx(0.54, abs=0.02)
    assert np.mean(others[others != 3]) == pytest.approx(42 / 9, abs=0.2)


def test_there_is_no_noise_at_data_and_what_an_estimate_missed_stays():
    z, x0 = jnp.ones((8, 8, 1)), jnp.zeros((8, 8, 1))
    corrupted = jax.jit(lambda process, t: process.corrupt(x0, z, t))
    assert float(corrupted(cold.blur(std=0.1), 0.0).max()) == 0.0
    assert float(corrupted(cold.blur(), 0.0).min()) == 1.0
    assert float(corrupted(cold.blur(std=0.1), 0.5).min()) == 1.0


def test_the_fitted_start_has_mean_and_covariance_of_degraded_data():
    x = RNG.normal(size=(50, 4, 1)) @ np.ones((1, 1)) + RNG.normal(size=(50, 1, 1))
    process = cold.fitted(cold.of(cold.Blur(1.5), shape=(4, 1), std=0.2, extra=0.1), x)
    drawn = jax.jit(jax.vmap(lambda key: process.prior(key, (4, 1))))(jax.random.split(KEY, 40_000))[..., 0]
    wanted = np.asarray([blurred(one, 1.0, 1.5)[:, 0] for one in x])
    covariance = np.cov(wanted.T, bias=True) + 0.05 * np.eye(4)
    np.testing.assert_allclose(np.mean(drawn, 0), wanted.mean(0), atol=0.03)
    np.testing.assert_allclose(np.cov(np.asarray(drawn).T), covariance, atol=0.04)


def test_starts_of_two_numbers_and_of_examples():
    keys = jax.random.split(KEY, 5000)
    even = cold.pixelate(start=(0.5, 0.2))
    drawn = np.asarray(jax.jit(jax.vmap(lambda key: even.prior(key, (8, 8, 3))))(keys))
    np.testing.assert_allclose(drawn, np.broadcast_to(drawn[:, :1, :1], drawn.shape), atol=1e-6)
    np.testing.assert_allclose(drawn[:, 0, 0].mean(0), 0.5, atol=0.015)
    np.testing.assert_allclose(np.cov(drawn[:, 0, 0].T), 0.04 * np.eye(3), atol=0.004)
    x = np.asarray(RNG.normal(size=(3, 8, 8, 1)), np.float32)
    given = cold.blur(width=2.0, start=cold.examples(x))
    found = np.asarray(jax.jit(lambda: given.prior(KEY, (8, 8, 1)))())
    assert min(np.abs(found - blurred(one, 1.0, 2.0)).max() for one in x) < 1e-5


# The loss.


@pytest.mark.parametrize(("norm", "best"), [(1, np.median), (2, np.mean)])
def test_restoration_is_least_at_the_median_or_the_mean(norm, best, x64):
    x = jnp.asarray(RNG.exponential(size=(101, 1)))
    process, guesses = cold.of(lambda x, t: (1 - t) * x, shape=(1,)), jnp.linspace(0.0, 3.0, 3001)
    loss = lambda guess, x0: losses.restoration(
        lambda x, c: jnp.full_like(x, guess), process, denoisers.X0(), x0, jnp.zeros(1), 0.5, norm=norm
    )
    found = np.asarray(jax.jit(jax.vmap(lambda g: jnp.mean(jax.vmap(lambda x0: loss(g, x0))(x))))(guesses))
    expected = (np.abs(np.asarray(x)[None, :, 0] - np.asarray(guesses)[:, None]) ** norm).mean(1)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert float(guesses[found.argmin()]) == pytest.approx(float(best(np.asarray(x))), abs=2e-3)


def test_restoration_measures_x0_whatever_is_predicted():
    """|x_0 - G| with G = (x_t - sigma F) / alpha of an eps-prediction; squares of an X0-prediction are `regression`."""
    x0, z = jnp.asarray([1.0, -2.0]), jnp.asarray([0.3, 0.8])
    process, net, t = cold.mix(VP(), np.zeros((1, 2))), lambda x, c: 0.5 * x, 0.3
    alpha, sigma = (float(a) for a in VP()(t))
    x = alpha * np.asarray(x0) + sigma * np.asarray(z)
    scaled = x / np.hypot(sigma, alpha)
    found = losses.restoration(net, process, denoisers.Eps(), x0, z, t)
    assert float(found) == pytest.approx(np.abs(np.asarray(x0) - (x - sigma * 0.5 * scaled) / alpha).mean(), rel=1e-5)
    parts = (net, process, denoisers.X0(), x0, z, t)
    assert float(losses.restoration(*parts, norm=2)) == pytest.approx(float(losses.regression(*parts)), rel=1e-6)


@pytest.mark.parametrize("process", [cold.blur(std=0.1), cold.masked(std=0.1)], ids=["blur", "masked"])
def test_every_target_that_determines_x0_does_so_here(process, x64):
    """Regression's own F, exact: its mean is x_0, and its loss 0. V of a Gaussian's ends gives errors of 1.8."""
    x0, z, schedule = jnp.asarray(IMAGE), process.noise(KEY, jnp.asarray(IMAGE)), process.schedule
    for target in (denoisers.X0(), denoisers.V(), denoisers.EDM(), denoisers.Velocity()):
        for t in (0.1, 0.5, 0.9):
            x, (a, b) = process.corrupt(x0, z, t), target(schedule, t)
            F = a * x0 + b * process.ends(x0, z, t)[1]
            np.testing.assert_allclose(target.mean(schedule, x, F, t), x0, atol=1e-12)
            assert losses.regression(lambda x, c: F, process, target, x0, z, t) < 1e-24  # noqa: B023
