"""Estimate and correct: DDIM's family through it, exact laws of joint draws, tokens, renewed noise, what it refuses."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rows
from closed_forms import amplitudes
from enumerated import ancestral as enumerated_ancestral
from enumerated import kl, total_variation, unified_law
from samplers_table import SETTINGS, grid, state_x
from scipy import stats
from token_process import Exact, Replacing, Tally

from diffjax import analytic, calculus, grids, processes
from diffjax.methods.planning import planned_sampler
from diffjax.samplers import ancestral, bridging_fn, encoding_fn, sampling_fn, unified
from diffjax.samplers.unified import Row
from diffjax.schedules import EDM, VP, Cosine, Rectified
from diffjax.types import Categorical, Posterior, pytree, static

exact = pytest.mark.usefixtures("x64")
KEY = jax.random.key(0)
of_mean = functools.partial(unified, estimate="mean")


def gaussian(schedule):
    return processes.Gaussian(schedule)


def mixture(schedule):
    """The exact denoiser of two points with some width."""
    return analytic.gaussian_mixture([0.3, 0.7], [[-0.6, 0.2], [0.5, -0.4]], [0.04, 0.02]).denoiser(schedule)


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


# The theorem: a joint draw of x_0 leaves every marginal as it is.


LAWS = {  # data, pi
    "mask": (unified_law(3, 3, 1, 0, 7), [0.0, 0.0, 0.0, 1.0]),
    "uniform": (unified_law(3, 2, 1, 0, 7), [1 / 3] * 3),
    "biased, with a mask": (unified_law(2, 2, 1, 1, 7), [0.5, 0.2, 0.3]),
}


def chain(name, n, share, joint=True):
    """(the laws of x_s after every step, the tally) of the sampler's own step, on every outcome; n even steps."""
    p, law = LAWS[name]
    tally = Tally(p, law, np.linspace(0, 1, n + 1), joint)
    now, found = np.prod(tally.law[tally.x], -1), []
    for i in range(n):
        now = tally.step(unified(tally, share), now, i, Row(i, i + 1, share))
        found.append(now)
    return found, tally


def data(tally, law):
    """What a law of states says of the tokens of data."""
    law = np.asarray(law).reshape((tally.states,) * tally.length)
    assert law.sum() == pytest.approx(1, abs=1e-12)
    return law[(slice(tally.vocabulary),) * tally.length]


JOINT = list(itertools.product(LAWS, (1, 2, 3), (0.0, 0.3, 1.0)))
HEAVY = [case for case in JOINT if case[:2] == ("mask", 3)]  # a million outcomes


@pytest.mark.parametrize(
    ("name", "n", "share"), [pytest.param(*case, marks=pytest.mark.slow if case in HEAVY else ()) for case in JOINT]
)
def test_a_joint_draw_leaves_every_marginal_exact(name, n, share):
    """At every share and number of steps, one included; at every step, not at the last alone."""
    found, tally = chain(name, n, share)
    for i, law in enumerate(found):
        expected = np.bincount(tally.number(tally.moved(i + 1)).ravel(), weights(tally), len(tally.x))
        np.testing.assert_allclose(law, expected, atol=1e-12)  # sums of up to a million terms
    np.testing.assert_allclose(data(tally, found[-1]), tally.p, atol=1e-12)
    verbs = {0.0: ["model", "invert"], 1.0: ["model"]}.get(share, ["model", "invert", "renew"])
    assert tally.told == [*((verb, share if verb == "renew" else n - 1) for verb in verbs), ("corrupt", n)]


def weights(tally):
    """p(x_0) q(z) of every pair."""
    return (tally.p0[:, None] * tally.q_place.prod(-1)).ravel()


def test_a_draw_place_by_place_does_not():
    """Two steps: one law for all shares, for the last step arrives where all noise is gone. One is the marginals'."""
    two = [data(tally, found[-1]) for found, tally in (chain("mask", 2, share, False) for share in (0.0, 0.5, 1.0))]
    np.testing.assert_allclose(two[1:], np.stack([two[0]] * 2), atol=1e-15)
    p = LAWS["mask"][0]
    assert kl(p, two[0]) == pytest.approx(0.0350595, abs=5.1e-8)
    one = data(chain("mask", 1, 0.0, False)[1], chain("mask", 1, 0.0, False)[0][-1])
    marginals = [p.sum(tuple(j for j in range(3) if j != i)) for i in range(3)]
    np.testing.assert_allclose(one, np.einsum("i,j,k->ijk", *marginals), atol=1e-15)


def test_kept_masks_are_ancestral_steps():
    """Against the chain that opens hidden tokens with probability 1 - s / t, enumerated."""
    found, tally = chain("mask", 3, 0.0, False)
    np.testing.assert_allclose(data(tally, found[-1]), enumerated_ancestral(tally.p, 3), atol=1e-15)


def test_with_three_steps_the_share_matters():
    laws = [data(tally, found[-1]) for found, tally in (chain("uniform", 3, share, False) for share in (0.0, 0.5))]
    assert total_variation(*laws) > 1e-3


# Tokens, as arrays.


def tokens(law=(0.5, 0.2, 0.3)):
    p = unified_law(2, 2, 1, 1, 7)
    process = Replacing(Rectified(), np.asarray(law), 2)
    return p, process, Exact(p, process)


batched = jax.jit(lambda sample, model, keys, x: jax.vmap(sample, (None, 0, 0))(model, keys, x))


def test_walks_of_tokens_have_the_enumerated_law():
    """int32 in the walk, and back in the integers that were given; a share of another number is no new program."""
    p, process, model = tokens()
    count, ts = 8000, np.linspace(1, 0, 3)
    keys = jax.random.split(KEY, count)
    x = jax.vmap(lambda key: process.prior(key, (2,)))(jax.random.split(jax.random.key(1), count))
    for share in (0.3, 0.8):
        before = batched._cache_size()
        found = np.asarray(batched(sampling_fn(unified(process, share), ts), model, keys, x.astype(jnp.uint8)))
        assert batched._cache_size() - before == (share == 0.3)
        assert found.dtype == np.uint8
        laws, tally = chain("biased, with a mask", 2, share, joint=False)
        expected = data(tally, laws[-1])
        seen = np.bincount(2 * found[:, 0] + found[:, 1], minlength=4)
        assert stats.chisquare(seen, count * expected.ravel()).pvalue > 1e-3
        assert stats.chisquare(seen, count * p.ravel()).pvalue < 1e-3  # it can tell


@exact
def test_tokens_walk_with_numbers_of_the_default_precision():
    _, process, model = tokens()
    seen = []

    class Noted:
        schedule = process.schedule

        def __call__(self, x, t):
            seen.append((x.dtype, t.dtype))
            return Categorical(model(x, t).logits.astype(jnp.bfloat16))

    sample = sampling_fn(unified(process), [1.0, 0.5, 0.0], trace=state_x)
    x, path = sample(Noted(), KEY, np.array([2, 2]))
    assert seen == [(jnp.int32, jnp.float64)]
    assert (x.dtype, path.dtype, path.shape) == (jnp.int64, jnp.int32, (2, 2))
    np.testing.assert_array_equal(path[-1], x)


def test_tokens_of_a_model_of_another_schedule_are_none():
    _, process, model = tokens()
    sample = sampling_fn(unified(process), [0.9, 0.5, 0.0], max_rows=5)
    keys, x = jax.random.split(KEY, 3), jnp.full((3, 2), 2)
    other = Exact(model.p, Replacing(Rectified(t_max=0.95), process.law, 2))
    assert np.all(np.asarray(batched(sample, other, keys, x)) == -1)
    assert np.all(np.asarray(batched(sample, model, keys, x)) >= 0)


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


# What is refused.


class Blurred(processes.Unconditional):
    """No pytree, neither `invert` nor `renew`; noise that is put on an average."""

    schedule = VP()

    def noise(self, key, x0):
        """Normal numbers."""
        return jax.random.normal(key, x0.shape)

    def corrupt(self, x0, z, t):
        """Data, averaged, and noise."""
        alpha, sigma = self.schedule(t)
        return alpha * ((1 - t) * x0 + t * x0.mean()) + sigma * z


class Found(Blurred):
    """Its noise can be found again."""

    def invert(self, key, x0, x, t):
        """The noise in x."""
        return (x - self.corrupt(x0, 0.0, t)) / self.schedule(t)[1]


@pytree
class Quarters:
    """Four steps, each of which puts in as much noise."""

    t_max: float = 4.0
    steps: int = static(default=4)

    def __call__(self, t):
        """(alpha, sigma)."""
        return 1 - t / 4, t / 4


class Counted(Found):
    """Its times are counts."""

    counts, schedule = 4, Quarters()


def test_a_process_of_ones_own_needs_no_pytree():
    """The average first, then the noise: one step with the mean lands on it exactly."""
    model = lambda x, t: Posterior(jnp.array([0.2, 0.4]))
    model.schedule = Blurred.schedule
    for process, share in ((Blurred(), 1.0), (Found(), 0.0)):
        sample = sampling_fn(unified(process, share), [1.0, 0.0])
        np.testing.assert_allclose(jax.jit(lambda s: s(model, KEY, jnp.ones(2)))(sample), [0.2, 0.4], rtol=1e-6)


def test_counts_are_whole_all_the_way():
    """Evenly so, on fewer steps than counts too."""
    ts = grids.counts(Counted.schedule)
    np.testing.assert_array_equal(ts, [4, 3, 2, 1, 0])
    np.testing.assert_array_equal(grids.counts(Counted.schedule, 3), [4, 3, 1, 0])
    found = unified(Counted()).plan(ts)
    np.testing.assert_array_equal(found.t, ts[:-1])
    np.testing.assert_array_equal(found.s, ts[1:])


PROCESS = gaussian(VP())
FLOW = processes.poisson(EDM(), 3)
REFUSED = [
    (lambda: unified(PROCESS, 1.5), r"share is 1\.5, expected a number in \[0, 1\]"),
    (lambda: unified(PROCESS, -0.1), r"share is -0\.1"),
    (lambda: unified(PROCESS, np.nan), "share is nan"),
    (lambda: unified(PROCESS, True), "share is True"),
    (lambda: unified(PROCESS, "0.5"), "share is '0.5'"),
    (lambda: unified(PROCESS, eta=2.0), r"eta is 2\.0, expected a number in \[0, 1\]"),
    (lambda: unified(PROCESS, 0.5, eta=0.5), r"Got share = 0\.5 and eta = 0\.5, expected one of them"),
    (lambda: unified(PROCESS, estimate="mode"), "estimate is 'mode', expected 'sample' or 'mean'"),
    (lambda: unified(VP()), r"Got VP as the process.* such as processes\.Gaussian\(VP\(\)\)"),
    (lambda: unified(Blurred), r"Got the class Blurred, expected an object of it: Blurred\(\)"),
    (lambda: unified(Blurred()), "Blurred has no `invert`.* share = 1 remains"),
    (lambda: unified(Blurred(), 0.5), "Blurred has no `invert`.* share = 1 remains"),
    (lambda: unified(Found(), 0.5), r"Found has no `renew`.*\(share = 0\).*\(share = 1\)"),
    (lambda: unified(Found(), eta=0.5), r"eta = 0\.5 is DDIM's.*which Found has not; give a share"),
    (lambda: unified(tokens()[1], estimate="mean"), "tokens of Replacing have no mean; take estimate='sample'"),
    (lambda: unified(tokens()[1], eta=0.5), "which Replacing has not; give a share"),
    (lambda: unified(FLOW, 0.5, "mean"), r"adds new noise \(share or eta = 0\.5\) to a mean.*not Gaussian.*share=0"),
    (lambda: unified(FLOW, eta=1.0, estimate="mean"), r"share or eta = 1\) to a mean.*not Gaussian"),
    (lambda: sampling_fn(unified(PROCESS), [1.0, 2.0, 0.0]), "must decrease strictly"),
    (
        lambda: sampling_fn(unified(Counted()), [4.0, 2.5, 0.0]),
        r"Counted counts from 4 .* t = 2\.5; take grids\.counts",
    ),
    (lambda: grids.counts(VP()), "VP runs from 0 to t_max = 1, times that count nothing"),
    (lambda: grids.counts(EDM()), "EDM runs from 0 to t_max = 80, times that count nothing"),
    (lambda: grids.counts(Counted.schedule, 5), "number of steps is 5, expected at most 4"),
    (lambda: unified(PROCESS).plan(np.array([0.0, 0.5])), "starts at t = 0, where Gaussian has no noise to find again"),
    (lambda: encoding_fn(unified(PROCESS, 0.5), [1.0, 0.5, 0.1]), r"the flow alone, but share or eta is 0\.5; set it"),
    (lambda: encoding_fn(unified(PROCESS, 1.0), [1.0, 0.5, 0.1]), "the flow alone, but share or eta is 1; set it"),
]


@pytest.mark.parametrize(("make", "message"), REFUSED)
def test_bad_parameters_and_grids_are_refused(make, message):
    with pytest.raises(ValueError, match=message) as error:
        make()
    assert "\n" not in str(error.value)


@pytree
class Lost(processes.Gaussian):
    """A process whose corrupt makes another shape, or another kind, of data."""

    kind: str = static(default="shape")

    def corrupt(self, x0, z, t):
        """Wrong."""
        return z[:1] if self.kind == "shape" else z.astype(jnp.int32)


def unnamed(x, t):
    """A model of no schedule."""
    return Categorical(jnp.zeros((2, 3)))


RUN = [
    (unified(PROCESS)._replace(schedule=None), unnamed, np.array([1, 2]), "x_T is of int32, expected real numbers"),
    (ancestral.ddim(VP()), mixture(VP()), np.array([1, 2]), "x_T is of int32, expected real numbers"),
    (unified(tokens()[1]), tokens()[2], np.zeros(2, np.float32), "x_T is of float32, expected integers"),
    (of_mean(PROCESS)._replace(schedule=None), unnamed, np.zeros(2, np.float32), "Categorical, which has no mean"),
    (unified(FLOW), mixture(FLOW.schedule), np.zeros(2, np.float32), "normal law, but the process is not Ga"),
    (unified(Lost(VP())), mixture(VP()), np.zeros(2, np.float32), r"x_s of float32 \(1,\) from .* \(2,\)"),
    (unified(Lost(VP(), kind="i")), mixture(VP()), np.zeros(2, np.float32), "makes x_s of int32"),
    (
        unified(processes.Gaussian(VP(), jax.random.laplace), 0.5),
        mixture(VP()),
        np.zeros(2, np.float32),
        "noise law laplace is not kept by a sum of two draws",
    ),
]


@pytest.mark.parametrize(("sampler", "model", "x", "message"), RUN)
def test_what_is_known_only_where_it_runs_is_refused_in_one_line(sampler, model, x, message):
    with pytest.raises(ValueError, match=message) as error:
        sampling_fn(sampler, [1.0, 0.5, 0.0])(model, KEY, x)
    assert "\n" not in str(error.value)


def test_flows_of_other_noise_are_walked_with_the_mean():
    """Poisson's, at share 0: as DDIM walks it."""
    ts, model, x = grids.karras(EDM(), 5), mixture(FLOW.schedule), jnp.array([3.0, -2.0])
    assert calculus.flow_only(FLOW.schedule)
    walk = jax.jit(lambda sample: sample(model, KEY, x))
    found, expected = (walk(sampling_fn(s, ts)) for s in (of_mean(FLOW), ancestral.ddim(FLOW.schedule)))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
