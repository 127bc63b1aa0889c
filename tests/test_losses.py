"""The regression loss is the published objectives, weights are their algebra, times follow their laws."""

import functools
from typing import NamedTuple

import closed_forms as forms
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_forms import wide
from scipy import stats

from diffjax import couplings, losses
from diffjax.denoisers import EDM, X0, Eps, Score, V, Velocity
from diffjax.losses import times, weights
from diffjax.processes import Gaussian
from diffjax.schedules import EDM as EDMSchedule
from diffjax.schedules import VE, VP, Cosine, Rectified, SubVP, Tabulated

X, Z = np.random.default_rng(3).normal(size=(2, 3, 2))


def net(x, c):
    """Any function of the input and the log-SNR."""
    return jnp.sin(2 * x) + 0.1 * c * jnp.cos(x) - 0.3


def numpy_net(x, c):
    return np.sin(2 * x) + 0.1 * c * np.cos(x) - 0.3


# One program for all times of a process and a target.
regression = jax.jit(losses.regression, static_argnums=(0, 6))


def vp(t):
    kept = np.exp(-(0.1 * t + 9.95 * t**2))
    return np.sqrt(kept), np.sqrt(1 - kept)


@pytest.mark.parametrize("t", [1e-3, 0.2, 0.77, 1.0])
def test_eps_is_l_simple(t, x64):
    """|z - eps(alpha x_0 + sigma z)|^2 (Ho et al. 2020, eq. 14), as a mean over entries."""
    alpha, sigma = vp(t)
    eps = numpy_net(alpha * X + sigma * Z, np.log(alpha**2 / sigma**2))
    got = regression(net, Gaussian(VP()), Eps(), X, Z, t)
    assert got.shape == ()
    np.testing.assert_allclose(got, np.mean((Z - eps) ** 2), rtol=1e-9)


def scaled_net(x, c):
    """-sigma net(x, c): on VP, sigma^2 = sigmoid(-c)."""
    return -jnp.sqrt(jax.nn.sigmoid(-c)) * net(x, c)


@pytest.mark.parametrize("t", [1e-3, 0.2, 0.77])
def test_score_is_denoising_score_matching(t, x64):
    """|s(x_t) - grad log p(x_t | x_0)|^2, and sigma^2 times it is the eps loss with s = -eps / sigma."""
    alpha, sigma = vp(t)
    x_t = alpha * X + sigma * Z
    score = numpy_net(x_t, np.log(alpha**2 / sigma**2))
    expected = np.mean((score - (alpha * X - x_t) / sigma**2) ** 2)
    got = regression(net, Gaussian(VP()), Score(), X, Z, t)
    np.testing.assert_allclose(got, expected, rtol=1e-9)
    as_eps = regression(scaled_net, Gaussian(VP()), Eps(), X, Z, t)
    np.testing.assert_allclose(as_eps, sigma**2 * expected, rtol=1e-9)


EDM_WEIGHTS = {sd: weights.edm(sd) for sd in (0.5, 1.2)}


@pytest.mark.parametrize("sigma", [0.002, 0.3, 5.0])
@pytest.mark.parametrize("sd", [0.5, 1.2])
def test_edm_is_karras_weighted_denoising(sigma, sd, x64):
    """lambda(sigma) |D(y + n; sigma) - y|^2 with the preconditioned D (Karras et al. 2022, eqs. 2, 7)."""
    noisy, total = X + sigma * Z, sigma**2 + sd**2
    output = numpy_net(noisy / np.sqrt(total), -2 * np.log(sigma))
    denoised = sd**2 / total * noisy + sigma * sd / np.sqrt(total) * output
    expected = total / (sigma * sd) ** 2 * np.mean((denoised - X) ** 2)
    args = net, Gaussian(EDMSchedule()), EDM(sd), X, Z, sigma
    np.testing.assert_allclose(regression(*args), expected, rtol=1e-8)
    np.testing.assert_allclose(regression(*args, EDM_WEIGHTS[sd]), expected, rtol=1e-8)


@pytest.mark.parametrize("t", [0.1, 0.5, 0.93])
def test_velocity_is_flow_matching(t, x64):
    """|v((1 - t) x_0 + t z) - (z - x_0)|^2 (Liu et al. 2022; Lipman et al. 2023)."""
    scale = np.sqrt((1 - t) ** 2 + t**2)
    v = numpy_net(((1 - t) * X + t * Z) / scale, 2 * np.log((1 - t) / t))
    got = regression(net, Gaussian(Rectified()), Velocity(), X, Z, t)
    np.testing.assert_allclose(got, np.mean((v - (Z - X)) ** 2), rtol=1e-9)


def test_a_batch_is_a_vmap():
    loss = lambda x0, z, t: regression(net, Gaussian(VP()), V(), x0, z, t)
    x0, z, t = X.astype(np.float32), Z.astype(np.float32), np.asarray([0.1, 0.5, 0.9], np.float32)
    each = [loss(x0[i], z[i], t[i]) for i in range(3)]
    got = jax.jit(jax.vmap(loss))(x0, z, t)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, np.stack(each), rtol=1e-5)


SCHEDULES = [
    (VP(), forms.VP),
    (SubVP(), forms.SUB_VP),
    (VE(), forms.VE),
    (EDMSchedule(), forms.EDM),
    (Cosine(), forms.COSINE),
    (Rectified(), forms.RECTIFIED),
]


def snr_slope(form, t):
    """-d SNR/dt by central differences in extended precision."""
    h = t * wide("1e-6")
    low, high = ((a / s) ** 2 for a, s in (form.amplitudes(t - h), form.amplitudes(t + h)))
    return (low - high) / (2 * h)


def speed(form, t, floor):
    """The squared velocity of an error of 1 in x_0 at fixed x_t, by differences: z moves by -alpha / sigma for it."""
    h, (alpha, sigma) = t * wide("1e-6"), form.amplitudes(t)
    moved = [a - s * alpha / sigma for a, s in (form.amplitudes(t - h), form.amplitudes(t + h))]
    return ((moved[1] - moved[0]) / (2 * h)) ** 2 * min(1, sigma / wide(floor) if floor != "0" else 1) ** 2


WEIGHTS = {  # name: (weight, what it is on the error of x_0: (SNR, form, t) -> number)
    "simple": (weights.simple(), lambda snr, form, t: snr),
    "likelihood": (weights.likelihood(), lambda snr, form, t: snr_slope(form, t)),
    "min_snr": (weights.min_snr(), lambda snr, form, t: min(snr, 5)),
    "min_snr_2": (weights.min_snr(0.7), lambda snr, form, t: min(snr, wide("0.7"))),
    "edm": (weights.edm(0.4), lambda snr, form, t: (1 / snr + wide("0.16")) / (1 / snr * wide("0.16"))),
    "p2": (weights.p2(), lambda snr, form, t: snr / (1 + snr)),
    "p2_half": (weights.p2(0.5, 2.0), lambda snr, form, t: snr / np.sqrt(2 + snr)),
    "velocity": (weights.velocity(), lambda snr, form, t: speed(form, t, "0.05")),
    "velocity, plain": (weights.velocity(0.0), lambda snr, form, t: speed(form, t, "0")),
}
OUT = {  # target: error of x_0 per error of F, from alpha, sigma and slopes
    X0(): lambda form, t: wide(1),
    Eps(): lambda form, t: form.amplitudes(t)[1] / form.amplitudes(t)[0],
    V(): lambda form, t: form.amplitudes(t)[1] / sum(p**2 for p in form.amplitudes(t)),
    EDM(0.8): lambda form, t: 1 / np.sqrt(wide("0.8") ** -2 + (form.amplitudes(t)[0] / form.amplitudes(t)[1]) ** 2),
    Score(): lambda form, t: form.amplitudes(t)[1] ** 2 / form.amplitudes(t)[0],
    Velocity(): lambda form, t: (
        1 / (forms.slopes(form, t)[1] * form.amplitudes(t)[0] / form.amplitudes(t)[1] - forms.slopes(form, t)[0])
    ),
}


def weighed(name, schedule, ts):
    """One weight of every target, (targets, times); not compiled as a whole, so that all share their few operations."""
    weight, _ = WEIGHTS[name]
    return np.stack([np.broadcast_to(weight(schedule, target, ts), ts.shape) for target in OUT])


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize(("schedule", "form"), SCHEDULES, ids=lambda s: type(s).__name__)
def test_weights_are_those_of_the_x0_error(name, schedule, form, x64):
    """Whatever F is, w |F - F_hat|^2 is the source's weight times |x_0 - x_0_hat|^2."""
    ts = np.asarray([1e-5, 0.02, 0.31, 0.6, 0.9]) * schedule.t_max
    found = weighed(name, schedule, ts)
    for i, t in enumerate(ts):
        alpha, sigma = form.amplitudes(wide(t))
        for k, out in enumerate(OUT.values()):
            expected = WEIGHTS[name][1]((alpha / sigma) ** 2, form, wide(t)) * out(form, wide(t)) ** 2
            np.testing.assert_allclose(found[k, i], float(expected), rtol=1e-6)


def test_weights_in_their_sources_own_terms(x64):
    """L_simple and P2 are stated on eps, the likelihood weight on the score: 1, 1 / (k + SNR)^gamma, g^2."""
    of = [
        (weights.simple(), Eps()),
        (weights.p2(1.5, 2.0), Eps()),
        (weights.likelihood(), Score()),
        (weights.likelihood(), X0()),
        (weights.simple(), V()),
    ]
    found = jax.jit(lambda t: [weight(VP(), target, t) for weight, target in of])
    for t in (0.01, 0.4, 0.9):
        alpha, sigma = vp(t)
        snr, beta = (alpha / sigma) ** 2, 0.1 + 19.9 * t
        simple, p2, score, x0, v = found(t)
        np.testing.assert_allclose(simple, 1, rtol=1e-12)
        np.testing.assert_allclose(p2, (2 + snr) ** -1.5, rtol=1e-9)
        np.testing.assert_allclose(score, beta, rtol=1e-9)
        np.testing.assert_allclose(x0, beta * alpha**2 / sigma**4, rtol=1e-9)
        np.testing.assert_allclose(v, alpha**2, rtol=1e-9)  # |v|^2 = (SNR + 1) |x_0|^2
        assert weights.unit()(VP(), V(), t) == 1


def test_float32_weights_hold_at_the_smallest_training_time():
    ts = np.full(5, 1e-5, np.float32)
    for name, (_, on_x0) in WEIGHTS.items():
        alpha, sigma = forms.VP.amplitudes(wide(1e-5))
        expected = float(on_x0((alpha / sigma) ** 2, forms.VP, wide(1e-5)))
        found = weighed(name, VP(), ts)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found[0, 0], expected, rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("bad", [0, -1.0, np.nan, np.inf])
def test_bad_weights_are_refused(bad):
    for make in (weights.min_snr, weights.edm, weights.p2, lambda k: weights.p2(1.0, k)):
        with pytest.raises(ValueError, match="expected a positive number"):
            make(bad)
    if bad:
        with pytest.raises(ValueError, match=r"floor is .*, expected a number >= 0, of sigma"):
            weights.velocity(bad)


@jax.jit
@jax.value_and_grad
def affine_loss(parameters, schedule, target, x0, z, mass, t):
    """The mean loss of a network F = parameters[0] x + parameters[1]."""
    affine = lambda x, c: parameters[0] * x + parameters[1]
    return mass @ jax.vmap(lambda x0, z: losses.regression(affine, Gaussian(schedule), target, x0, z, t))(x0, z)


@pytest.mark.parametrize(("schedule", "t"), [(VP(), 0.3), (SubVP(), 0.4), (EDMSchedule(), 1.5), (Rectified(), 0.6)])
@pytest.mark.parametrize("target", OUT, ids=lambda target: type(target).__name__)
def test_the_minimiser_is_the_posterior_mean(schedule, t, target, x64):
    """Gaussian data N(m, v): the best F is affine in x_t. Its gradient is 0, and its loss is Var[F | x_t]."""
    m, v = 0.7, 0.25
    nodes, mass = np.polynomial.hermite_e.hermegauss(4)  # exact for these quadratics
    mass = np.outer(mass, mass).ravel() / mass.sum() ** 2
    x0, z = (m + np.sqrt(v) * nodes).repeat(4), np.tile(nodes, 4)
    form = {VP: forms.VP, SubVP: forms.SUB_VP, EDMSchedule: forms.EDM, Rectified: forms.RECTIFIED}[type(schedule)]
    alpha, sigma = (float(p) for p in form.amplitudes(wide(t)))
    total = alpha**2 * v + sigma**2
    gain, rest = alpha * v / total, v * sigma**2 / total  # E[x_0 | x] = m + gain (x - alpha m), Var[x_0 | x]
    out = float(OUT[target](form, wide(t)))
    x_t = alpha * x0 + sigma * z
    a, b = (float(p) for p in target(schedule, t))
    mean_x0 = m + gain * (x_t - alpha * m)
    best = a * mean_x0 + b * (x_t - alpha * mean_x0) / sigma

    scale = np.sqrt(alpha**2 * target.sigma_data**2 + sigma**2)
    slope, offset = np.polyfit(x_t / scale, best, 1)

    value, gradient = affine_loss(np.asarray([slope, offset]), schedule, target, x0, z, mass, t)
    np.testing.assert_allclose(gradient, 0, atol=1e-8 * max(1, abs(a), abs(b)) ** 2)
    np.testing.assert_allclose(value, rest / out**2, rtol=1e-8)
    _, elsewhere = affine_loss(np.asarray([slope + 0.1, offset]), schedule, target, x0, z, mass, t)
    assert np.linalg.norm(elsewhere) > 1e-3


class Keys(NamedTuple):
    step: jax.Array
    example: jax.Array


@functools.partial(jax.jit, static_argnums=(0, 1))
def _draw(law, n, seed):
    key = jax.random.key(seed)
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(n))
    return jax.vmap(lambda k, i: law(Keys(key, k), i, n))(keys, jnp.arange(n))


def draw(law, n, seed=0):
    """One batch of n times."""
    return np.asarray(_draw(law, n, seed))


def test_uniform_times_are_uniform():
    ts = draw(times.uniform(VP()), 4000)
    assert ts.dtype == np.float32
    assert ts.min() >= 1e-5
    assert ts.max() <= 1
    assert stats.kstest(ts, stats.uniform(1e-5, 1 - 1e-5).cdf).pvalue > 0.01
    ts = draw(times.uniform(EDMSchedule(t_max=8.0), t_min=2.0), 4000, seed=1)
    assert stats.kstest(ts, stats.uniform(2.0, 6.0).cdf).pvalue > 0.01
    assert abs(np.corrcoef(ts[1:], ts[:-1])[0, 1]) < 0.05


@pytest.mark.parametrize("n", [1, 2, 7, 64, 1000])
def test_a_stratified_batch_has_one_time_per_stratum(n):
    low, high = 0.25, 0.9
    ts = draw(times.stratified(VP(t_max=high), t_min=low), n, seed=n)
    place = np.sort((ts - low) / (high - low))
    assert 0 <= place[0] <= 1 / n
    np.testing.assert_allclose(np.diff(place), 1 / n, atol=1e-5)


@pytest.mark.parametrize("index", [0, 3, 7])
def test_each_stratified_time_is_uniform(index):
    law = times.stratified(VP(), t_min=0.1)
    keys = jax.random.split(jax.random.key(5), 3000)
    ts = jax.jit(jax.vmap(lambda key, i: law(Keys(key, key), i, 8), in_axes=(0, None)))(keys, index)
    assert stats.kstest(np.asarray(ts), stats.uniform(0.1, 0.9).cdf).pvalue > 0.01


def test_stratified_times_ignore_the_examples_own_key():
    law = times.stratified(VP())
    of = jax.jit(lambda step, example: law(Keys(jax.random.key(step), jax.random.key(example)), 2, 8))
    assert of(1, 2) == of(1, 3) != of(9, 2)


@pytest.mark.parametrize("schedule", [EDMSchedule(), VP(), Rectified(), Cosine(), Tabulated.linear()], ids=str)
def test_log_normal_times_have_a_log_normal_noise_to_signal_ratio(schedule):
    mean, std = -0.8, 0.9
    ts = draw(times.log_normal(schedule, mean, std), 4000)
    alpha, sigma = (np.asarray(p, float) for p in jax.jit(jax.vmap(schedule))(ts))
    assert stats.kstest(sigma / alpha, stats.lognorm(s=std, scale=np.exp(mean)).cdf).pvalue > 0.01


def test_log_normal_defaults_are_karras():
    ts = draw(times.log_normal(EDMSchedule()), 4000, seed=2)
    assert stats.kstest(ts, stats.lognorm(s=1.2, scale=np.exp(-1.2)).cdf).pvalue > 0.01


def test_log_normal_times_stay_on_the_schedule():
    """VE starts at sigma = 0.01: 0.23 % of Karras's law lies below, and belongs to no time of it."""
    ts = draw(times.log_normal(VE()), 20000)
    assert ts.min() == 0
    np.testing.assert_allclose(np.mean(ts == 0), stats.norm(-1.2, 1.2).cdf(np.log(0.01)), atol=1.5e-3)
    assert draw(times.log_normal(EDMSchedule(t_max=0.5)), 500).max() == 0.5


@pytest.mark.parametrize("make", [times.uniform, times.stratified])
@pytest.mark.parametrize("t_min", [-0.1, 1.0, 2.0, np.nan])
def test_bad_time_ranges_are_refused(make, t_min):
    with pytest.raises(ValueError, match=r"expected 0 <= t_min < t_max = 1\.0"):
        make(VP(), t_min=t_min)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 0.0), (0.0, -1.0), (np.nan, 1.0), (0.0, np.inf)])
def test_bad_log_normal_laws_are_refused(mean, std):
    with pytest.raises(ValueError, match="expected finite numbers with std > 0"):
        times.log_normal(VP(), mean, std)


def test_independent_coupling_draws_each_z_from_its_own_key():
    couple = couplings.independent(Gaussian(VP()))
    noise = jax.jit(lambda keys, x0: couple(keys, x0)[1])
    keys = jax.random.split(jax.random.key(0), 5000)
    x0 = np.linspace(-1, 1, 10_000, dtype=np.float32).reshape(5000, 2)
    z = np.asarray(noise(keys, x0))
    assert z.shape == x0.shape
    assert z.dtype == np.float32
    assert stats.kstest(z.ravel(), stats.norm.cdf).pvalue > 0.01
    assert np.abs(np.corrcoef(x0[:, 0], z.T)[0, 1:]).max() < 0.05
    two = x0[:2]
    same, again = couple(keys[3:5], two)
    assert same is two
    np.testing.assert_array_equal(again, z[3:5])  # neither batch size nor place nor data matter


def heavy(key, shape):
    return jax.random.t(key, 5.0, shape)


def test_the_noise_law_is_a_field_of_the_process():
    process = Gaussian(Rectified(), heavy)
    noise = jax.jit(lambda keys, x0: couplings.independent(process)(keys, x0)[1])
    z = noise(jax.random.split(jax.random.key(1), 4000), np.zeros((4000, 1), np.float32))
    assert stats.kstest(np.asarray(z).ravel(), stats.t(5).cdf).pvalue > 0.01


def test_the_process_corrupts_and_starts_as_it_says():
    process = Gaussian(VP())
    alpha, sigma = vp(0.4)
    x_t = jax.jit(process.corrupt)(X.astype(np.float32), Z.astype(np.float32), 0.4)
    np.testing.assert_allclose(x_t, alpha * X + sigma * Z, rtol=1e-5, atol=1e-6)
    key, prior = jax.random.key(2), jax.jit(lambda process, key, t: process.prior(key, (4000,), t))
    for schedule, t, std in ((EDMSchedule(), None, 80.0), (EDMSchedule(), 3.0, 3.0), (VP(), 0.4, vp(0.4)[1])):
        x_T = np.asarray(prior(Gaussian(schedule), key, t))
        assert stats.kstest(x_T, stats.norm(0, std).cdf).pvalue > 0.01
