"""Langevin kernels, predictor-corrector and annealing against the papers' algorithms and on exact laws."""

import closed_forms as forms
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_forms import amplitudes
from oracles.mixture import Mixture
from rows import HostModel, laws, walk
from samplers_table import SETTINGS

from diffjax import analytic, grids
from diffjax.samplers import ancestral, langevin, nfe, predictor, sampling_fn, sde
from diffjax.schedules import EDM, VE, VP, Cosine, Tabulated
from diffjax.types import Posterior, pytree, static

exact = pytest.mark.usefixtures("x64")
TARGET = Mixture((0.3, 0.7), (-0.6, 0.5), (0.04, 0.02))
X = np.linspace(-1.5, 1.5, 5)
batched = jax.jit(lambda sample, model, keys, x: jax.vmap(sample, in_axes=(None, 0, 0))(model, keys, x))


def score(x, alpha, sigma):
    return (alpha * TARGET.denoise(x, alpha, sigma) - x) / sigma**2


def snr_step(g, z, r, a=1.0):
    """Song et al. 2021, algorithms 4 (a = 1) and 5 (a = alpha_i), line 3, for one example."""
    return 2 * a * (r * np.linalg.norm(z) / np.linalg.norm(g)) ** 2


# Whole trajectories, in the papers' variables.


def ve_algorithm(sigmas, x, z, r, corrections):
    """Algorithms 2 and 4 on sigma_1 < ... < sigma_N, corrector first as in the public code, x_0 without noise."""
    z, path = iter(z), []
    for i in reversed(range(len(sigmas))):
        for _ in range(corrections):
            noise, g = next(z), score(x, 1.0, sigmas[i])
            h = snr_step(g, noise, r)
            x = x + h * g + np.sqrt(2 * h) * noise
            path.append(x)
        below = sigmas[i - 1] if i else 0.0
        noise = next(z) if i else 0.0
        gap = sigmas[i] ** 2 - below**2
        x = x + gap * score(x, 1.0, sigmas[i]) + np.sqrt(gap) * noise
        path.append(x)
    return np.array(path)


@exact
@pytest.mark.parametrize("corrections", [0, 2])
def test_ve_predictor_corrector_is_the_published_one(corrections):
    """The published last step, to sigma = 0 without noise, is the final mean."""
    levels, schedule = 6, VE()
    sampler = langevin.predictor_corrector(schedule, strength=0.2, corrections=corrections)
    ts = grids.ladder(schedule, levels)
    z = np.random.default_rng(0).standard_normal((levels * (corrections + 1), X.size))
    _, path = walk(sampler, ts, HostModel(TARGET.denoise, forms.VE), 50 * X, z)
    sigmas = np.geomspace(0.01, 50, levels)
    np.testing.assert_allclose(path, ve_algorithm(sigmas, 50 * X, z, 0.2, corrections), rtol=1e-11, atol=1e-13)


def vp_algorithm(betas, x, z, r, corrections, predict):
    """Algorithms 3 and 5, with alpha_i = 1 - beta_i in the corrector, corrector first; no noise on the last step."""
    z, path = iter(z), []
    bars = np.cumprod(1 - betas)
    for i in reversed(range(len(betas))):
        s = lambda x, i=i: score(x, np.sqrt(bars[i]), np.sqrt(1 - bars[i]))
        for _ in range(corrections):
            noise, g = next(z), s(x)
            h = snr_step(g, noise, r, 1 - betas[i])
            x = x + h * g + np.sqrt(2 * h) * noise
            path.append(x)
        noise = next(z) if i else 0.0
        x = predict(x, s(x), betas[i]) + np.sqrt(betas[i]) * noise
        path.append(x)
    return np.array(path)


VP_RULES = {
    "reverse_diffusion": lambda x, s, beta: (2 - np.sqrt(1 - beta)) * x + beta * s,
    "ancestral": lambda x, s, beta: (x + beta * s) / np.sqrt(1 - beta),
}


@exact
@pytest.mark.parametrize("name", VP_RULES)
@pytest.mark.parametrize("corrections", [0, 2])
def test_vp_predictor_corrector_is_the_published_one(name, corrections):
    steps = 6
    betas = np.linspace(0.1, 20, steps) / (4 * steps)
    schedule = Tabulated.from_betas(betas)
    sampler = langevin.predictor_corrector(schedule, name, strength=0.16, corrections=corrections)
    z = np.random.default_rng(1).standard_normal((steps * (corrections + 1), X.size))
    model = HostModel(TARGET.denoise, forms.chain(betas))
    _, path = walk(sampler, grids.trailing(schedule, steps, steps=steps), model, X, z)
    expected = vp_algorithm(betas, X, z, 0.16, corrections, VP_RULES[name])
    np.testing.assert_allclose(path, expected, rtol=1e-11, atol=1e-13)


def ncsn(sigmas, x, z, eps, steps, convention):
    """Song & Ermon 2019, algorithm 1, or 2020, algorithm 1, without the last denoising; sigmas fall."""
    z, path = iter(z), []
    for sigma in sigmas:
        a = eps * sigma**2 / sigmas[-1] ** 2
        for _ in range(steps):
            noise, s = next(z), score(x, 1.0, sigma)
            x = x + (a / 2 * s + np.sqrt(a) * noise if convention == "ncsn" else a * s + np.sqrt(2 * a) * noise)
            path.append(x)
    return np.array(path)


@exact
@pytest.mark.parametrize("convention", ["ncsn", "ncsnv2"])
@pytest.mark.parametrize("denoise", [False, True])
def test_annealed_langevin_is_the_published_one_and_corrector_only(convention, denoise):
    """Equivalence E10: the corrector alone, along VE's ladder."""
    schedule, levels, steps, eps = VE(sigma_max=2.0), 5, 3, 2e-5
    ts = grids.ladder(schedule, levels)
    form = SETTINGS["ve"].form._replace(amplitudes=lambda t: (np.ones_like(t), np.longdouble("0.01") * 200**t))
    model = HostModel(TARGET.denoise, form)
    z = np.random.default_rng(2).standard_normal((levels * steps + 1, X.size))
    _, path = walk(langevin.annealed(schedule, eps, steps, convention, denoise), ts, model, 2 * X, z)
    sigmas = np.geomspace(2.0, 0.01, levels)
    expected = ncsn(sigmas, 2 * X, z, eps, steps, convention)
    if denoise:  # Song & Ermon 2020, algorithm 1, line 9
        expected = np.append(expected, [expected[-1] + sigmas[-1] ** 2 * score(expected[-1], 1.0, sigmas[-1])], 0)
    np.testing.assert_allclose(path, expected, rtol=1e-11, atol=1e-13)
    alone = langevin.predictor_corrector(schedule, None, convention, eps, steps, denoise)
    np.testing.assert_array_equal(walk(alone, ts, model, 2 * X, z)[1], path)


@exact
@pytest.mark.parametrize("name", ["vp", "sub_vp", "ve", "edm"])
def test_ald_is_the_public_codes_rule(name):
    """h = 2 a_i (r std)^2, a_i by the levels of the grid; every time with noise is corrected, the last one too."""
    schedule, form, *_ = SETTINGS[name]
    ts = np.array([0.9, 0.5, 0.2]) * float(schedule.t_max)
    alpha, sigma = amplitudes(form, np.append(ts, 0.0))
    z = np.random.default_rng(3).standard_normal((6, X.size))
    sampler = langevin.predictor_corrector(schedule, None, "ald", 0.3, corrections=2, denoise=False)
    _, path = walk(sampler, ts, HostModel(TARGET.denoise, form), X, z)
    x, expected = X, []
    for row, noise in enumerate(z):
        i = row // 2
        h = 2 * (alpha[i] / alpha[i + 1]) ** 2 * (0.3 * sigma[i]) ** 2
        x = x + h * score(x, alpha[i], sigma[i]) + np.sqrt(2 * h) * noise
        expected.append(x)
    np.testing.assert_allclose(path, expected, rtol=1e-11, atol=1e-13)


# Exact laws on a Gaussian.


@exact
@pytest.mark.parametrize("convention", ["ncsn", "ncsnv2"])
def test_annealing_is_an_ar_1_recursion(convention):
    """In closed form per level: m + q^k (m_0 - m), and q^(2k) (v_0 - w) + w with ULA's w = V / (1 - h / (2 V))."""
    schedule, levels, steps, eps, m, v = VE(sigma_max=3.0), 9, 6, 3e-5, 0.7, 0.25
    means, variances = laws(
        langevin.annealed(schedule, eps, steps, convention), grids.ladder(schedule, levels), m, v, mean=0.0, var=9.0
    )
    mean, var, expected = 0.0, 9.0, []
    for sigma in np.geomspace(3.0, 0.01, levels):
        total = v + sigma**2
        h = eps * sigma**2 / 0.01**2 / (2 if convention == "ncsn" else 1)
        q, w, k = 1 - h / total, total / (1 - h / (2 * total)), np.arange(1, steps + 1)
        expected += zip(m + q**k * (mean - m), q ** (2 * k) * (var - w) + w)
        mean, var = expected[-1]
    np.testing.assert_allclose(np.stack([means, variances], 1), expected, rtol=1e-12)


@exact
def test_langevin_overshoots_the_variance_as_theory_says():
    """v / (1 - h / (2 v)) of x + h score + sqrt(2 h) z on N(0, v): 0.7538 at v = 0.7, h = 0.1."""
    schedule = EDM()
    sigma = np.array([0.5, 0.4])
    h, data = 0.1, 0.7 - 0.25
    sampler = langevin.annealed(schedule, h * 0.4**2 / 0.5**2, 300, "ncsnv2")
    means, variances = laws(sampler, sigma, 0.3, data, mean=5.0, var=9.0)
    assert variances[299] == pytest.approx(0.7 / (1 - 0.1 / 1.4), rel=1e-12)
    assert variances[299] == pytest.approx(0.7538, abs=5e-5)
    assert means[299] == pytest.approx(0.3, rel=1e-12)


@exact
@pytest.mark.parametrize("setting", ["vp", "sub_vp", "ve", "edm"])
def test_the_law_of_predictor_corrector(setting):
    """Mean and variance on N(m, v) through both kinds of rows, by hand."""
    schedule, form, *_ = SETTINGS[setting]
    m, v, r = 0.7, 0.25, 0.16
    ts = grids.karras(schedule, 8)
    sampler = langevin.predictor_corrector(schedule, "reverse_diffusion", "ald", r, corrections=2)
    means, variances = laws(sampler, ts, m, v)
    alpha, sigma = amplitudes(form, np.append(ts, 0.0))
    total = alpha**2 * v + sigma**2
    state, expected = (alpha[0] * m, total[0]), []

    def after(i, scale, pull, noise_var):
        """x <- scale x + pull score + noise, where score = (alpha_i m - x) / total_i."""
        kept = scale - pull / total[i]
        expected.append((kept * state[0] + pull / total[i] * alpha[i] * m, kept**2 * state[1] + noise_var))
        return expected[-1]

    for i in range(len(ts)):
        kept = alpha[i] / alpha[i + 1]
        h = 2 * kept**2 * (r * sigma[i]) ** 2
        for _ in range(2 if h else 0):
            state = after(i, 1.0, h, 2 * h)
        if i + 1 < len(ts):
            fresh = sigma[i] ** 2 - (kept * sigma[i + 1]) ** 2
            state = after(i, 2 - kept, fresh, fresh * (sigma[i + 1] > 0))
        elif sigma[i]:  # VE ends with noise: the last mean
            state = after(i, 1 / alpha[i], sigma[i] ** 2 / alpha[i], 0.0)
    np.testing.assert_allclose(np.stack([means, variances], 1), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["vp", "sub_vp", "ve", "edm"])
def test_the_snr_corrector_settles_at_its_own_law(name):
    """On N(0, V) in many dimensions: at variance w of x, h = 2 a r^2 V^2 / w; w = V / (1 - h / (2 V)) = V (1 + a r^2).

    Under sub-VP too, where the public code's corrector fails for want of a table.
    """
    schedule, form, *_ = SETTINGS[name]
    ts, d, r = np.array([0.25, 0.24]) * float(schedule.t_max), 40_000, 0.5
    model = analytic.gaussian_mixture([1.0], np.zeros((1, d)), [0.25]).denoiser(schedule)
    sample = sampling_fn(langevin.predictor_corrector(schedule, None, "snr", r, 30), ts, trace=lambda x: x.var())
    (alpha, after), (sigma, _) = amplitudes(form, ts)
    total = alpha**2 * 0.25 + sigma**2
    x = np.float32(np.sqrt(total)) * np.random.default_rng(0).standard_normal(d, np.float32)
    variances = np.asarray(jax.jit(sample)(model, jax.random.key(1), x)[1])
    assert variances[29] == pytest.approx(total * (1 + (r * alpha / after) ** 2), rel=4 * np.sqrt(2 / d))


# What a walk promises.


walked = jax.jit(lambda sample, model, x: sample(model, jax.random.key(0), x))
final_x = lambda sampler, ts, model: walked(sampling_fn(sampler, ts), model, np.full(3, 0.3, np.float32))


ENDINGS = {
    "euler_maruyama": lambda schedule, denoise: sde.euler_maruyama(schedule, denoise=denoise),
    "reverse_diffusion": lambda schedule, denoise: predictor.reverse_diffusion(schedule, denoise),
    "ancestral": lambda schedule, denoise: predictor.ancestral(schedule, denoise),
    "snr": lambda schedule, denoise: langevin.predictor_corrector(schedule, denoise=denoise),
    "annealed": lambda schedule, denoise: langevin.annealed(schedule, 1e-3, 2, denoise=denoise),
}


@pytest.mark.parametrize("name", ENDINGS)
def test_the_last_mean_is_one_more_evaluation(name):
    """Tweedie's formula at the last time of the grid; nothing where that has no noise."""
    schedule = VP()
    model = analytic.gaussian_mixture([0.3, 0.7], [[-0.6] * 3, [0.5] * 3], [0.04, 0.02]).denoiser(schedule)
    ts = np.array([0.9, 0.5, 0.2])
    plain, denoised = (ENDINGS[name](schedule, denoise) for denoise in (False, True))
    assert nfe(sampling_fn(denoised, ts)) == nfe(sampling_fn(plain, ts)) + 1
    x = final_x(plain, ts, model)
    mean = jax.jit(lambda model, x: model(x, 0.2).mean)(model, x)
    np.testing.assert_allclose(final_x(denoised, ts, model), mean, rtol=1e-5)
    if name != "annealed":
        assert nfe(sampling_fn(denoised, np.append(ts, 0.0))) == nfe(sampling_fn(plain, np.append(ts, 0.0)))


def test_evaluations_are_rows():
    ve, vp = VE(), VP()
    corrected = langevin.predictor_corrector(ve, corrections=2)
    assert nfe(sampling_fn(corrected, grids.ladder(ve, 10))) == 9 + 2 * 10 + 1
    assert nfe(sampling_fn(langevin.predictor_corrector(vp, corrections=2), grids.karras(vp, 10))) == 10 + 2 * 10
    assert nfe(sampling_fn(langevin.annealed(ve, 2e-5, 100), grids.ladder(ve, 10))) == 1000


def test_without_corrections_the_predictor_is_left():
    schedule, ts = VP(), grids.karras(VP(), 6)
    for name, make in langevin.PREDICTORS.items():
        rows = langevin.predictor_corrector(schedule, name, "ald", corrections=0).plan(ts)
        np.testing.assert_array_equal(np.stack(rows), np.stack(make(schedule).plan(ts)))


@pytest.mark.parametrize("rule", ["snr", "ald"])
def test_an_example_does_not_depend_on_the_batch(rule):
    """To the bit: the norms of the snr rule are the example's own."""
    schedule = VP()
    sample = sampling_fn(langevin.predictor_corrector(schedule, rule=rule), grids.karras(schedule, 10))
    model = analytic.gaussian_mixture([0.3, 0.7], [[-0.6] * 3, [0.5] * 3], [0.04, 0.02]).denoiser(schedule)
    keys, x = jax.random.split(jax.random.key(0), 8), np.random.default_rng(1).standard_normal((8, 3), np.float32)
    whole = np.asarray(batched(sample, model, keys, x))
    others = np.asarray(batched(sample, model, keys, np.concatenate([x[:4], 30 * x[4:]])))
    np.testing.assert_array_equal(others[:4], whole[:4])
    assert np.all(np.isfinite(whole))
    np.testing.assert_allclose(jax.jit(sample)(model, keys[2], x[2]), whole[2], atol=1e-5)


class Calls(list):
    """A list that is part of a pytree's structure."""

    __hash__ = object.__hash__

    def __eq__(self, other):
        return self is other


@pytree
class Counting:
    """A denoiser that counts its traces."""

    schedule: object
    calls: Calls = static()

    def __call__(self, x, t):
        """A smooth function of x."""
        self.calls.append(1)
        return Posterior(jnp.tanh(x))


def test_strengths_predictors_and_schedules_share_one_compile():
    """A rule that does not look at the score shares it with every linear sampler of as many rows."""
    a, b = VP(), VP(beta_max=15.0)
    snr = [
        (langevin.predictor_corrector(a), grids.karras(a, 5)),
        (langevin.predictor_corrector(b, "ddpm", "snr", 0.3), grids.karras(b, 5)),
        (langevin.predictor_corrector(a, None, "snr", 0.1, corrections=3), grids.uniform(a, 2, zero=False)),
    ]
    linear = [
        (ancestral.ddim(a), grids.karras(a, 8)),
        (predictor.reverse_diffusion(b), grids.karras(b, 8)),
        (langevin.predictor_corrector(a, "euler_maruyama", "ald"), grids.karras(a, 4)),
        (langevin.annealed(b, 1e-4, 2, denoise=False), grids.uniform(b, 3, zero=False)),
    ]
    keys = jax.random.split(jax.random.key(0), 3)
    for runs, rows in ((snr, 10), (linear, 8)):
        calls, run = Calls(), jax.jit(lambda *args: jax.vmap(args[0], in_axes=(None, 0, 0))(*args[1:]))
        for i, (sampler, ts) in enumerate(runs):
            sample = sampling_fn(sampler, ts)
            assert nfe(sample) == rows
            before = len(calls)
            run(sample, Counting(sampler.schedule, calls), keys, np.ones((3, 2), np.float32))
            assert (len(calls) > before) == (i == 0)


def test_where_the_score_is_0_nothing_moves_and_gradients_are_finite():
    """The snr step would be infinite there."""
    schedule = EDM()

    def value(x, shift):
        model = lambda x, t: Posterior(x + shift)
        model.schedule = schedule
        return jnp.sum(sampling_fn(sampler, np.array([2.0, 1.0]))(model, jax.random.key(0), x) ** 2)

    sampler = langevin.predictor_corrector(schedule, None, denoise=False)
    x, both = np.asarray([1.0, -2.0], np.float32), jax.jit(jax.value_and_grad(value, argnums=(0, 1)))
    assert both(x, 0.0)[0] == 5.0
    assert all(np.all(np.isfinite(g)) for shift in (0.0, 0.1) for g in both(x, shift)[1])


def test_padded_rows_change_nothing():
    schedule = VE()
    sampler, ts = langevin.predictor_corrector(schedule), grids.ladder(schedule, 4)
    model = analytic.gaussian_mixture([1.0], [[0.3, 0.1]], [0.2]).denoiser(schedule)
    plain, padded = (walked(sampling_fn(sampler, ts, max_rows=n), model, np.ones(2, np.float32)) for n in (None, 20))
    np.testing.assert_allclose(padded, plain, rtol=1e-5)


# Bad input.

CORRECTED, ANNEALED = langevin.predictor_corrector, langevin.annealed
BAD = [
    (lambda: CORRECTED(VP(), rule="srn"), "no step rule 'srn'; there is snr, ald, ncsn, ncsnv2"),
    (lambda: CORRECTED(VP(), "euler"), "no predictor 'euler'; there is reverse_diffusion, .*, None"),
    (lambda: ANNEALED(VE(), convention="v2"), "no step convention 'v2'; there is ncsn, ncsnv2"),
    (lambda: ANNEALED(VE(), convention="snr"), "no step convention 'snr'"),
    (lambda: CORRECTED(VP(), strength=0.0), r"strength is 0\.0, expected 0 < r < 1"),
    (lambda: CORRECTED(VP(), strength=-0.1), r"strength is -0\.1"),
    (lambda: CORRECTED(VP(), rule="ald", strength=1.0), r"strength is 1\.0"),
    (lambda: CORRECTED(VP(), strength=np.nan), "strength is nan"),
    (lambda: ANNEALED(VE(), eps=0.0), r"strength is 0\.0, .*eps > 0"),
    (lambda: CORRECTED(VP(), corrections=-1), "corrections is -1, expected an integer >= 0"),
    (lambda: CORRECTED(VP(), corrections=1.5), r"corrections is 1\.5"),
    (lambda: ANNEALED(VE(), steps=0), "steps is 0, expected an integer >= 1"),
    (lambda: ANNEALED(VE(), steps=True), "steps is True"),
    (lambda: sampling_fn(ANNEALED(EDM()), [2.0, 1.0, 0.0]), "no score at t = 0, where sigma = 0; end the ladder above"),
    (lambda: sampling_fn(CORRECTED(VP(), None), [1.0, 0.0]), "no score at t = 0"),
    (
        lambda: sampling_fn(ANNEALED(VE(), eps=5e-4), [1.0, 0.0]),
        r"step at t = 1 is 2\.5 sigma\^2, expected less than 2",
    ),
    (lambda: sampling_fn(predictor.ancestral(Cosine()), [1.0, 0.5]), "cannot be reversed from alpha = 0 at t = 1"),
    (lambda: sampling_fn(predictor.reverse_diffusion(Cosine()), [1.0, 0.5]), "start the grid below it"),
    (lambda: sampling_fn(CORRECTED(Cosine()), [1.0, 0.5]), "cannot be reversed from alpha = 0"),
]


@pytest.mark.parametrize(("make", "message"), BAD)
def test_bad_input_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
