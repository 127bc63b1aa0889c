"""Optimal variances: against exact posteriors, for means that are wrong too, and in what they do to short chains."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax import analytic, calculus, chains, denoisers, grids, samplers, schedules
from diffjax.denoisers import moments as measured
from diffjax.denoisers import optimal
from diffjax.processes import Gaussian
from diffjax.schedules import VP, Tabulated
from diffjax.types import Posterior, pytree

TABLE = Tabulated.linear()
V = 0.25

# One program for all denoisers of a kind, at any time.
posterior = jax.jit(lambda denoise, x, t: denoise(x, t))
walked = jax.jit(lambda sample, denoise, key, x: sample(denoise, key, x))


@pytree
class Linear:
    """The exact mean of N(0, V) data, its noise prediction times `scale` plus `shift`."""

    schedule: schedules.Tabulated
    scale: float = 1.0
    shift: float = 0.0

    def __call__(self, x, t):
        alpha, sigma = self.schedule(t)
        eps = sigma * x / (alpha**2 * V + sigma**2)
        return Posterior((x - sigma * (self.scale * eps + self.shift)) / alpha)


def posterior_variance(t):
    alpha, sigma = calculus.amplitudes(TABLE, np.atleast_1d(t))
    return sigma**2 * V / (alpha**2 * V + sigma**2)


@pytest.fixture
def examples():
    """Data N(0, V): 40 000 numbers whose mean and variance are those of the law."""
    x = np.random.default_rng(0).standard_normal((4000, 10))
    return {"x": np.sqrt(V) * (x - x.mean(0)) / x.std(0)}


TS = np.asarray([0.8, 0.4, 0.15, 0.05])


def test_of_an_exact_mean_all_estimates_are_the_posteriors_variance(examples, x64):
    found = measured.measure(lambda example: Linear(TABLE), Gaussian(TABLE), jax.random.key(0), examples, TS)
    exact = posterior_variance(TS)
    np.testing.assert_allclose(found.error, exact, rtol=0.03)
    np.testing.assert_allclose(found.spread, exact, rtol=0.03)
    alpha, sigma = calculus.amplitudes(TABLE, TS)
    np.testing.assert_allclose(found.noise, exact, atol=float(np.max(0.03 * (sigma / alpha) ** 2)))
    np.testing.assert_array_equal(found.ts, TS)


def test_entries_keep_their_own_variances(x64):
    """Of independent entries with variances 0.1 and 1."""
    v, rng = np.asarray([0.1, 1.0]), np.random.default_rng(1)
    mixture = analytic.gaussian_mixture([1.0], [[0.0, 0.0]], [np.diag(v)])
    examples = {"x": np.sqrt(v) * rng.standard_normal((20_000, 2))}
    denoise = lambda example: mixture.denoiser(TABLE)
    found = measured.measure(denoise, Gaussian(TABLE), jax.random.key(0), examples, TS[:2])
    alpha, sigma = (a[:, None] for a in calculus.amplitudes(TABLE, TS[:2]))
    np.testing.assert_allclose(found.entries, sigma**2 * v / (alpha**2 * v + sigma**2), rtol=0.04)
    np.testing.assert_allclose(found.error, found.entries.mean(1), rtol=1e-12)
    var = posterior(optimal.tabulated(Linear(TABLE), found.ts, found.entries), np.ones(2), TS[1]).var
    np.testing.assert_allclose(var, np.clip(found.entries[1], 0, 1), rtol=1e-12)


def test_of_a_wrong_mean_the_error_alone_is_right(examples, x64):
    """eps_hat = 1.2 eps* + 0.1: the best variance grows by sigma^2 / alpha^2 (0.2^2 E eps*^2 + 0.1^2)."""
    denoise = lambda example: Linear(TABLE, 1.2, 0.1)
    found = measured.measure(denoise, Gaussian(TABLE), jax.random.key(0), examples, TS)
    alpha, sigma = calculus.amplitudes(TABLE, TS)
    squared = sigma**2 / (alpha**2 * V + sigma**2)  # E eps*^2
    best = posterior_variance(TS) + (sigma / alpha) ** 2 * (0.04 * squared + 0.01)
    np.testing.assert_allclose(found.error, best, rtol=0.04)
    assert found.noise[0] < 0 < 5 * best[0]


def std_of_samples(sampler, ts, denoise):
    """20 000 entries at once, from the exact law at the start."""
    alpha, sigma = calculus.amplitudes(TABLE, ts[:1])
    x = np.random.default_rng(1).standard_normal(20_000) * np.sqrt(alpha**2 * V + sigma**2)
    return np.std(walked(samplers.sampling_fn(sampler, ts), denoise, jax.random.key(2), x))


@pytest.mark.parametrize("steps", [5, 25, 100])
def test_every_number_of_steps_keeps_the_standard_deviation(steps, x64):
    """Analytic-DDPM, -DDIM and between; DDIM without the variance loses it: 0.225 at 5 steps."""
    ts = grids.linspace(TABLE, steps)
    exact = optimal.tabulated(Linear(TABLE), ts[:-1], posterior_variance(ts[:-1]))
    for eta in (0.0, 0.5, 1.0):
        assert std_of_samples(samplers.ancestral.ddim(TABLE, eta=eta), ts, exact) == pytest.approx(0.5, rel=0.015)
    bare = std_of_samples(samplers.ancestral.ddim(TABLE), ts, Linear(TABLE))
    assert bare == pytest.approx(0.225, abs=0.005) if steps == 5 else bare < 0.495


def test_the_bounds_gap_by_the_choice_of_variance(x64):
    """Of 10 and 50 steps for data of variance 0.25: the sum over steps of (log(s2 / best) + best / s2 - 1) / 2."""
    for steps, large, small in ((10, 0.102, 454.6), (50, 0.022, 29.0)):
        alpha, sigma = calculus.amplitudes(TABLE, grids.linspace(TABLE, steps)[:-1])
        kept = (alpha[:-1] / alpha[1:]) ** 2
        noise_small = sigma[1:] ** 2 * (1 - kept) / sigma[:-1] ** 2
        gamma = alpha[1:] * (1 - kept) / sigma[:-1] ** 2
        best = noise_small + gamma**2 * posterior_variance(grids.linspace(TABLE, steps)[:-2])
        gap = lambda s2: np.sum(0.5 * (np.log(s2 / best) + best / s2 - 1))  # noqa: B023
        assert gap(1 - kept) == pytest.approx(large, abs=6e-4)
        assert gap(noise_small) == pytest.approx(small, rel=2e-3)
        gain = chains.chain(TABLE, grids.linspace(TABLE, steps)).gain[:-1]
        reverse = noise_small * (1 + gain * posterior_variance(grids.linspace(TABLE, steps)[:-2]))
        np.testing.assert_allclose(reverse, best, rtol=1e-8)  # what samplers make of the posterior's variance


@pytest.mark.parametrize("steps", [2, 4, 7, 8])
def test_the_optimal_trajectory_is_the_best_of_all(steps, x64):
    """By enumeration of every subset, with costs from the definition: log of the variance over beta_tilde."""
    ts = grids.linspace(TABLE, 8)
    var = posterior_variance(ts[:-1]) * np.asarray([1, 0.2, 3, 1, 0.5, 2, 1, 1])
    alpha, sigma = calculus.amplitudes(TABLE, ts)

    def cost(path):
        total = 0.0
        for t, s in itertools.pairwise(path):
            kept = (alpha[t] / alpha[s]) ** 2
            least = sigma[s] ** 2 * (1 - kept) / sigma[t] ** 2
            gamma = alpha[s] * (1 - kept) / sigma[t] ** 2
            total += 0.5 * np.log((least + gamma**2 * var[t]) / least)
        return total

    paths = [(0, *middle, 7) for middle in itertools.combinations(range(1, 7), steps - 2)]
    found = chains.tightest(TABLE, ts, var, steps)
    np.testing.assert_array_equal(found, ts[[*min(paths, key=cost), 8]])
    assert len(found) == steps + 1


MIXTURE = ([0.3, 0.7], [[-1.0, 0.3, 0.0], [0.8, 0.0, -0.5]], [np.diag([0.1, 0.3, 0.2]), 0.2 * np.eye(3) + 0.05])


def test_the_denoisers_derivative_is_the_posteriors_variance(x64):
    """Of a mixture in 3-D; per entry and for each x, exactly and by probes."""
    schedule, mixture, x = VP(), analytic.gaussian_mixture(*MIXTURE), np.asarray([0.2, -0.3, 0.1])
    covariance = jax.jit(lambda x, t: mixture.covariance(x, *schedule(t)))
    probed = optimal.jacobian(mixture.denoiser(schedule), jax.random.key(0), probes=4000)
    for t in (0.1, 0.4, 0.8):
        exact = np.diag(np.asarray(covariance(x, t)))
        found = posterior(optimal.jacobian(mixture.denoiser(schedule)), x, t)
        np.testing.assert_allclose(found.var, exact, rtol=1e-9)
        np.testing.assert_allclose(found.mean, posterior(mixture.denoiser(schedule), x, t).mean, rtol=1e-12)
        guess = posterior(probed, x, t).var
        np.testing.assert_allclose(guess, exact, rtol=0.1, atol=0.02 * exact.max())
    assert len(np.unique(np.round(exact, 6))) == 3


@pytree
class Affine:
    """The exact mean of centred Gaussian data at one time."""

    schedule: schedules.VP
    gain: np.ndarray

    def __call__(self, x, t):
        return Posterior(jnp.matmul(self.gain, x, precision="highest"))


def gaussian_of(spectrum, seed=0):
    """N(0, C) with these eigenvalues, its denoiser and the diagonal of Cov[x_0 | x_t] at t = 0.4, by NumPy."""
    d = len(spectrum)
    basis = np.linalg.qr(np.random.default_rng(seed).normal(size=(d, d)))[0]
    cov = basis @ np.diag(spectrum) @ basis.T
    (alpha,), (sigma,) = calculus.amplitudes(VP(), [0.4])
    gain = alpha * cov @ np.linalg.inv(alpha**2 * cov + sigma**2 * np.eye(d))
    return Affine(VP(), gain), np.diag(cov - alpha * gain @ cov)


def test_a_covariance_of_low_rank_is_found_exactly_by_a_sketch_of_that_rank(x64):
    denoise, want = gaussian_of([0.5, 0.2, 0.1, 0, 0, 0, 0, 0])
    x = np.random.default_rng(1).normal(size=8)
    sketch = jax.jit(lambda key: [optimal.jacobian(denoise, key, rank=rank)(x, 0.4).var for rank in (3, 2)])
    for seed in range(5):
        found, loose = map(np.asarray, sketch(jax.random.key(seed)))
        np.testing.assert_allclose(found, want, rtol=1e-9)
        assert np.abs(loose - want).max() > 1e-4


def test_the_sketch_is_unbiased_and_beats_as_many_probes_where_the_spectrum_falls(x64):
    denoise, want = gaussian_of(0.5 * 0.25 ** np.arange(12))
    x = np.random.default_rng(1).normal(size=12)
    keys = jax.random.split(jax.random.key(0), 2000)

    @jax.jit
    @jax.vmap
    def draw(key):
        _, push = jax.linearize(lambda x: denoise(x, 0.4).mean, jnp.asarray(x))
        ways = (dict(probes=1, rank=3), dict(probes=7, rank=0))
        return [optimal.jacobian(denoise, key, **way)._estimate(push, jnp.asarray(x)) for way in ways]

    (alpha,), (sigma,) = calculus.amplitudes(VP(), [0.4])
    sketched, probed = (sigma**2 / alpha * np.asarray(found) for found in draw(keys))
    for found in (sketched, probed):
        np.testing.assert_allclose(found.mean(0), want, atol=4 * found.std(0).max() / np.sqrt(len(keys)))
    assert np.mean((sketched - want) ** 2) < 0.25 * np.mean((probed - want) ** 2)


def test_variances_are_clipped(x64):
    denoise = optimal.tabulated(Linear(TABLE), [0.5, 0.3, 0.1], [3.0, -1.0, 0.2])
    var = lambda t: float(posterior(denoise, np.ones(2), t).var)
    assert [var(t) for t in (0.5, 0.3, 0.1)] == [1.0, 0.0, 0.2]
    assert np.isnan(var(0.2)), "a time that was not measured"


def test_a_kept_table_is_read_off_between_its_levels(tmp_path, x64):
    """The posterior variance of N(0, V) is smooth in log-SNR: 40 levels give it to 4e-3 on any grid."""
    schedule, target = VP(), denoisers.Eps()
    ts = grids.log_snr(schedule, 39, t_min=1e-3, zero=False)
    alpha, sigma = calculus.amplitudes(schedule, ts)
    exact = lambda alpha, sigma: sigma**2 * V / (alpha**2 * V + sigma**2)
    entries = np.stack([exact(alpha, sigma), np.full(40, 3.0)], 1)
    found = measured.SecondMoments(ts, entries, exact(alpha, sigma), -np.ones(40), np.ones(40))
    measured.save(tmp_path / "moments.npz", found)
    kept = {"moments": tmp_path / "moments.npz"}
    net = lambda x, c: 0.3 * x
    make = lambda **options: denoisers.variance.analytic(net, schedule, target, **{**kept, **options})
    for t in (1e-3, *grids.uniform(schedule, 7, t_min=0.002, zero=False)):
        a, s = calculus.amplitudes(schedule, [t])
        assert float(posterior(make(), np.ones(2), t).var) == pytest.approx(float(exact(a, s)[0]), rel=4e-3)
    both = posterior(make(estimate="entries"), np.ones(2), ts[5]).var
    np.testing.assert_allclose(both, [entries[5, 0], 1.0], rtol=1e-9)
    assert float(posterior(make(estimate="noise"), np.ones(2), 0.5).var) == 0
    plain = posterior(denoisers.denoiser(net, schedule, target), np.ones(2), 0.5).mean
    np.testing.assert_array_equal(posterior(make(), np.ones(2), 0.5).mean, plain)
    (tmp_path / "other.npz").write_bytes(b"PK")
    for options, match in (
        (dict(estimate="errors"), "no estimate 'errors'; there is entries, error, noise, spread"),
        (dict(moments=tmp_path / "none.npz"), "holds no second moments .*--mode=moments"),
        (dict(moments=tmp_path / "other.npz"), "holds no second moments"),
    ):
        with pytest.raises(ValueError, match=match):
            make(**options)


BAD = {
    "no examples": (
        lambda: measured.measure(
            lambda e: Linear(TABLE), Gaussian(TABLE), jax.random.key(0), {"x": np.zeros((0, 2))}, TS
        ),
        "needs? examples; got none",
    ),
    "no noise": (
        lambda: measured.measure(
            lambda e: Linear(TABLE), Gaussian(TABLE), jax.random.key(0), {"x": np.zeros((1, 2))}, [0.5, 0.0]
        ),
        "At t = 0 there is no signal or no noise",
    ),
    "lengths": (lambda: optimal.tabulated(Linear(TABLE), [0.5, 0.1], [1.0]), r"\(1,\) variances for \(2,\) times"),
    "not finite": (lambda: optimal.tabulated(Linear(TABLE), [0.5], [np.nan]), "finite"),
    "probes": (lambda: optimal.jacobian(Linear(TABLE), jax.random.key(0), 0), "probes is 0, expected an integer >= 1"),
    "rank": (lambda: optimal.jacobian(Linear(TABLE), jax.random.key(0), 1, -1), "rank is -1, expected an integer >= 0"),
    "no key": (lambda: optimal.jacobian(Linear(TABLE), rank=2), "rank is 2, but without a key"),
    "steps": (
        lambda: chains.tightest(TABLE, grids.linspace(TABLE, 4), np.ones(4), 5),
        "steps is 5, expected an integer from 2 to 4",
    ),
    "variances": (
        lambda: chains.tightest(TABLE, grids.linspace(TABLE, 4), np.ones(3), 2),
        r"5 times and variances of shape \(3,\)",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
    call, match = BAD[name]
    with pytest.raises(ValueError, match=match):
        call()
