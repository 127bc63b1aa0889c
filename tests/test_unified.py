"""Estimate and correct: DDIM's family through it, other processes, renewed noise, what it costs, its maker."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rows
from closed_forms import amplitudes
from estimate_correct import KEY, batched, exact, gaussian, mixture, of_mean, tokens
from samplers_table import SETTINGS, grid, state_x
from scipy import stats

from diffjax import analytic, grids, processes
from diffjax.methods.planning import planned_sampler
from diffjax.samplers import ancestral, bridging_fn, sampling_fn, unified
from diffjax.schedules import EDM, VP, Cosine
from diffjax.types import Posterior, pytree

# DDIM's family.


@exact
@pytest.mark.parametrize("eta", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("setting", ["vp", "ve", "rectified_1", "table_cosine"])
def test_rows_come_to_those_of_ddim(setting, eta):
    """x_s = sqrt(1 - share^2) sigma_s z + ..: k, the mean's coefficient and the noise, on 1, 2 and 10 steps."""
    schedule = SETTINGS[setting].schedule
    for n in (1, 2, 10):
        ts = grid(setting, n)
        expected = ancestral.ddim(schedule, eta).plan(ts)
        for sampler in [of_mean(gaussian(schedule), eta=eta)] + [of_mean(gaussian(schedule))] * (eta == 0):
            found = rows.planned(sampler, ts)
            rounding = 1e-14 + 1e-15 / np.maximum(expected.x, 1e-8)  # of sqrt(1 - share^2)
            for name in ("t", "x", "mean", "noise_var"):
                a, b = getattr(found, name), getattr(expected, name)
                assert np.all(np.abs(a - b) <= rounding * np.maximum(b, 1)), name


@exact
def test_all_noise_new_is_resampling():
    schedule = VP()
    ts = grids.uniform(schedule, 7)
    for estimate in ("mean", "sample"):
        found = rows.planned(unified(gaussian(schedule), 1.0, estimate), ts)
        expected = ancestral.resampled(schedule).plan(ts)
        if estimate == "sample":  # of its mean there is none at the end
            expected.spread[-1] = 1.0
        else:
            expected = expected._replace(spread=np.zeros(7))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-15), found, expected)


@exact
def test_the_walk_without_noise_is_that_of_ddim_and_asks_no_key():
    """Of a mixture, in the sampler's own arithmetic."""
    schedule, x = VP(), jnp.array([0.3, -1.0])
    ts, model = grids.karras(schedule, 10), mixture(schedule)
    walk = jax.jit(lambda sample, key: sample(model, key, x))
    found, other = (walk(sampling_fn(of_mean(gaussian(schedule)), ts), key) for key in jax.random.split(KEY))
    np.testing.assert_allclose(found, walk(sampling_fn(ancestral.ddim(schedule), ts), KEY), atol=1e-14)
    np.testing.assert_array_equal(found, other)


@exact
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("setting", ["vp", "cosine_1"])
def test_a_drawn_estimate_adds_the_variance_of_analytic_dpm(setting, eta):
    """(alpha_s - k alpha_t)^2 Var[x_0 | x_t] on every step; the last draws, where Analytic-DPM takes a mean."""
    schedule, ts = SETTINGS[setting].schedule, grid(setting, 6)
    found = rows.planned(unified(gaussian(schedule), eta=eta), ts)
    expected = ancestral.ddim(schedule, eta).plan(ts)
    np.testing.assert_allclose(found.spread[:-1], expected.spread[:-1], atol=1e-14)
    assert (found.spread[-1], expected.spread[-1]) == (pytest.approx(1, rel=1e-14), 0)
    drawn, analytic_dpm = (
        rows.laws(s, ts, 0.7, 0.25, with_var=True)
        for s in (unified(gaussian(schedule), eta=eta), ancestral.ddim(schedule, eta))
    )
    np.testing.assert_allclose(np.array(drawn)[:, :-1], np.array(analytic_dpm)[:, :-1], rtol=1e-12)
    assert (drawn[0][-1], drawn[1][-1]) == pytest.approx((0.7, 0.25), rel=1e-12)


SHARES = {"0": {"share": 0.0}, ".5": {"share": 0.5}, "DDPM": {"eta": 1.0}, "1": {"share": 1.0}}
STD = {  # by the steps, at these shares
    10: (0.428037, 0.415661, 0.388636, 0.308393),
    100: (0.492348, 0.473784, 0.482483, 0.343332),
    1000: (0.499230, 0.481303, 0.498042, 0.351320),
}


def std(n, with_var=False, **options):
    """The standard deviation of samples, exactly: data N(0, .25), amplitudes (cos, sin) of pi t / 2, n even steps."""
    schedule = Cosine(s=0.0)
    sampler = unified(gaussian(schedule), estimate="sample" if with_var else "mean", **options)
    return np.sqrt(rows.laws(sampler, np.linspace(1, 0, n + 1), 0.0, 0.25, var=1.0, with_var=with_var)[1][-1])


@exact
@pytest.mark.parametrize("n", STD)
def test_spread_of_samples_with_the_mean(n):
    """It comes back with more steps at share 0 and at DDPM's, which falls with them; not at a constant share."""
    found = [std(n, **options) for options in SHARES.values()]
    np.testing.assert_allclose(found, STD[n], atol=5.1e-7)
    assert std(1) == 0  # the mean alone, at one step


@exact
@pytest.mark.parametrize("n", [1, 2, 10, 100])
@pytest.mark.parametrize("share", SHARES)
def test_spread_of_samples_with_a_draw(n, share):
    assert std(n, with_var=True, **SHARES[share]) == pytest.approx(0.5, rel=1e-13)


def test_a_posterior_with_a_variance_is_drawn_from():
    """One step from noise, data N(0, .25): by draws the samples are as wide, by means they are one point."""
    schedule, count = Cosine(s=0.0), 4000
    model = analytic.gaussian_mixture([1.0], [[0.0]], [0.25]).denoiser(schedule, with_var=True)
    keys, x = jax.random.split(KEY, count), jax.random.normal(jax.random.key(1), (count, 1))
    drawn, mean = (
        batched(sampling_fn(make(gaussian(schedule)), [1.0, 0.0]), model, keys, x) for make in (unified, of_mean)
    )
    assert stats.kstest(np.asarray(drawn[:, 0], np.float64), stats.norm(0, 0.5).cdf).pvalue > 1e-3
    assert np.abs(mean).max() < 1e-6


def by_hand(n, share):
    """As `std` of the mean, by a recursion on the variance that is written for it."""
    alpha, sigma = amplitudes(SETTINGS["cosine_1"].form, 1.0)[0] * 0, 1.0
    var = 1.0
    for i in range(n):
        s = (1 - (i + 1) / n) * np.pi / 2
        alpha_s, sigma_s = np.cos(s), np.sin(s)
        gain = alpha * 0.25 / (alpha**2 * 0.25 + sigma**2)  # E[x_0 | x] = gain x
        slope = alpha_s * gain + np.sqrt(1 - share**2) * sigma_s * (1 - alpha * gain) / sigma
        var = slope**2 * var + (share * sigma_s) ** 2
        alpha, sigma = alpha_s, sigma_s
    return np.sqrt(var)


@exact
@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 1.0])
def test_spread_of_samples_by_another_recursion(share):
    assert [std(n, share=share) for n in (1, 2, 7)] == pytest.approx([by_hand(n, share) for n in (1, 2, 7)], abs=1e-12)


# Other processes.


def test_a_bridge_is_walked_as_dbim_walks_it(x64):
    """From its endpoint, where nothing is left of noise, too."""
    process = processes.bridge(VP(0.1, 2.1))
    schedule, ts = process.schedule, grids.pinned(process.schedule, 5)
    model, zero = mixture(schedule), jnp.zeros(2)
    found = jax.jit(bridging_fn(of_mean(process, eta=0.0), ts))(model, KEY, zero)
    np.testing.assert_allclose(found, jax.jit(bridging_fn(ancestral.ddim(schedule), ts))(model, KEY, zero), atol=1e-13)


def test_noise_is_found_again_on_every_process(x64):
    """corrupt(x_0, invert(x_0, x_t), t) = x_t, whatever x_0 is."""
    x0, x = jnp.array([0.3, -1.0]), jnp.array([2.0, 0.7])
    made = [gaussian(VP()), processes.bridge(VP(0.1, 2.1)), processes.poisson(EDM(), 3), tokens()[1]]
    for process in made:
        a, b = (jnp.array([0, 1], jnp.int32), jnp.array([2, 1], jnp.int32)) if process is made[-1] else (x0, x)
        back = jax.vmap(lambda t: process.corrupt(a, process.invert(KEY, a, b, t), t))  # noqa: B023
        np.testing.assert_allclose(jax.jit(back)(jnp.array([0.3, 0.8])), np.stack([b, b]), atol=1e-14)


COUNT = 4000


@functools.cache
def renewed(D):
    """{share: (z, z'')} of a Student-t of three entries, or a normal one (D = inf), COUNT of each."""
    process = processes.poisson(EDM(), D)

    def pairs(process, share):
        keys = jax.random.split(jax.random.key(2), (2, COUNT))
        z = jax.vmap(lambda key: process.law(key, (3,)))(keys[0])
        return z, jax.vmap(process.renew, (0, 0, None))(keys[1], z, share)

    pairs = jax.jit(pairs)
    return {share: tuple(map(np.asarray, pairs(process, np.float32(share)))) for share in (0.0, 0.4, 1.0)}


@pytest.mark.parametrize("D", [1.0, pytest.param(4.5, marks=pytest.mark.slow), np.inf])
def test_renewed_noise_keeps_its_law(D):
    """Of an entry, and of the norm: Kolmogorov-Smirnov, at every share; a plain sum of two draws is another law."""
    entry = stats.norm if np.isinf(D) else stats.t(D)
    ratio = lambda z: (z**2).sum(-1) if np.isinf(D) else (z**2).sum(-1) / ((z**2).sum(-1) + D)
    norm = stats.chi2(3) if np.isinf(D) else stats.beta(1.5, D / 2)
    for z, new in renewed(D).values():
        for found in (z, new):
            found = found.astype(np.float64)
            assert stats.kstest(found[:, 0], entry.cdf).pvalue > 1e-3
            assert stats.kstest(ratio(found), norm.cdf).pvalue > 1e-3
    if D < 2:  # of so heavy tails that it shows
        z, other = (pair[0].astype(np.float64) for pair in (renewed(D)[0.0], renewed(D)[1.0]))
        plain = np.sqrt(0.84) * z + 0.4 * other[::-1]
        assert stats.kstest(plain[:, 0], entry.cdf).pvalue < 1e-6


@pytest.mark.parametrize("D", [1.0, pytest.param(4.5, marks=pytest.mark.slow), np.inf])
def test_renewed_noise_is_that_of_before_in_part(D):
    """All of it at share 0, in direction and norm; none at share 1; between them, part of both."""
    kept = {}
    for share, (z, new) in renewed(D).items():
        signs = stats.spearmanr(z[:, 0], new[:, 0]).statistic
        norms = stats.spearmanr((z**2).sum(-1), (new**2).sum(-1)).statistic
        kept[share] = signs, norms
    np.testing.assert_allclose(renewed(D)[0.0][1], renewed(D)[0.0][0], rtol=1e-4)
    assert np.abs(kept[1.0]).max() < 4.5 / np.sqrt(COUNT)
    assert min(kept[0.4]) > 0.5
    assert max(kept[0.4]) < 0.97


@pytree
class Points:
    """The exact posterior of data at -1 and 1, with probabilities .3 and .7, under Student-t noise, as a draw of it."""

    process: object

    @property
    def schedule(self):
        """The schedule of the process."""
        return self.process.schedule

    def __call__(self, x, t):
        """The law over the two points given x_t."""
        alpha, sigma = self.schedule(t)
        logits = [jnp.log(w) + self.process.log_density((x - alpha * m) / sigma) for w, m in ((0.3, -1.0), (0.7, 1.0))]
        return Drawn(jnp.stack(logits))


@pytree
class Drawn:
    """A law over -1 and 1."""

    logits: object

    def sample(self, key):
        """One of the points."""
        return jnp.array([-1.0, 1.0])[jax.random.categorical(key, self.logits)][None]


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_exact_draws_under_heavy_tails_have_the_law_of_data(share):
    """Poisson's noise, D = 2, one entry, two steps from sigma = 2: the theorem without a Gaussian anywhere."""
    process = processes.poisson(EDM(2.0), 2)
    keys = jax.random.split(KEY, (3, COUNT))
    x0 = jnp.where(jax.vmap(jax.random.uniform)(keys[0]) < 0.3, -1.0, 1.0)[:, None]
    x = jax.vmap(lambda key, x0: process.corrupt(x0, process.noise(key, x0), 2.0))(keys[1], x0)
    sample = sampling_fn(unified(process, share), [2.0, 0.6, 0.2], trace=state_x)
    found, path = batched(sample, Points(process), keys[2], x)
    for x, sigma in ((path[:, 0, 0], 0.6), (found[:, 0], 0.2)):
        law = lambda x, s=sigma: 0.3 * stats.t.cdf((x + 1) / s, 2) + 0.7 * stats.t.cdf((x - 1) / s, 2)
        assert stats.kstest(np.asarray(x, np.float64), law).pvalue > 1e-3


# What it costs.


def test_flops_are_those_of_the_evaluations():
    """One forward pass a row, in every correction and with either estimate; at most 1.005 of them by FLOPs."""
    width = 512
    schedule = VP()
    model = lambda x, t: Posterior(jnp.tanh(x @ jnp.ones((width, width))), 0.1)
    model.schedule = schedule
    for options in ({"share": 0.0, "estimate": "mean"}, {"share": 1.0}, {"eta": 1.0}):
        sample = sampling_fn(unified(gaussian(schedule), **options), grids.uniform(schedule, 6))
        text = str(jax.make_jaxpr(lambda key: sample(model, key, jnp.zeros(width)))(KEY))  # noqa: B023
        assert text.count("dot_general") == 1
        assert "length=6" in text


def test_shares_and_numbers_of_a_schedule_share_one_compile():
    run = jax.jit(lambda sample, model, x: sample(model, KEY, x))
    for beta, options, end in ((20.0, {"eta": 0.3}, 1.0), (15.0, {"share": 0.5}, 0.9), (10.0, {"eta": 1.0}, 0.8)):
        schedule = VP(0.1, beta)
        sample = sampling_fn(unified(gaussian(schedule), **options), grids.uniform(schedule, 4, t_max=end))
        run(sample, mixture(schedule), jnp.ones(2))
    assert run._cache_size() == 1


# The maker of a sampler.


def test_a_maker_is_told_the_process_where_it_asks_for_it():
    process = gaussian(VP())
    half = functools.partial(unified, share=0.5)
    assert planned_sampler(half, process).schedule is process.schedule
    assert planned_sampler(half, process).init.args == (process,)
    assert planned_sampler(ancestral.ddpm, process).plan([1.0, 0.5]).t == [1.0]
    assert planned_sampler(lambda schedule: schedule, process) is process.schedule
