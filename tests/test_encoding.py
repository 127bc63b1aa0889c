"""Encoding against the exact flow upwards, round trips and their order, and interpolation."""

import jax
import numpy as np
import pytest
from closed_forms import amplitudes
from oracles.mixture import Mixture
from samplers_table import SETTINGS
from scipy import stats

from diffjax import analytic, grids
from diffjax.samplers import ancestral, encoding, heun, multistep, ode, sampling_fn, sde
from diffjax.schedules import VP

TARGET = Mixture((0.3, 0.7), (-0.6, 0.5), (0.16, 0.09))
X = np.array([-1.2, -0.4, 0.2, 0.9])
SAMPLERS = {
    "ddim": (ancestral.ddim, 1),
    "pf_euler": (lambda s: sde.euler_maruyama(s, churn=0.0), 1),
    "adams_2": (lambda s: multistep.adams(s, 2), 2),
    "heun": (heun.edm, 2),
}


def model(schedule):
    return analytic.gaussian_mixture(*TARGET).denoiser(schedule)


@jax.jit
def run(sample, denoise, x):
    return jax.vmap(lambda x: sample(denoise, jax.random.key(0), x))(x)


def grid(schedule, n):
    return grids.log_snr(schedule, n, t_max=0.6, t_min=0.05, zero=False)


def encoded(make, n, setting="vp"):
    schedule, form, *_ = SETTINGS[setting]
    ts = grid(schedule, n)
    code = run(encoding.encoding_fn(make(schedule), ts), model(schedule), X)
    exact = TARGET.transport(X, amplitudes(form, ts[-1]), amplitudes(form, ts[0]))
    return np.asarray(code), exact, ts


@pytest.mark.parametrize("name", SAMPLERS)
def test_encoding_converges_to_the_flow_upwards(name, x64):
    """The quantile map between the marginals, at the sampler's order."""
    make, order = SAMPLERS[name]
    errors = [np.abs(np.subtract(*encoded(make, n)[:2])).max() for n in (80, 160)]
    assert np.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.2)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_round_trip_comes_back_to_the_order_of_the_sampler(name, x64):
    make, order = SAMPLERS[name]
    schedule, errors = SETTINGS["vp"].schedule, []
    for n in (80, 160):
        code, _, ts = encoded(make, n)
        back = run(sampling_fn(make(schedule), ts), model(schedule), code)
        errors.append(np.abs(np.asarray(back) - X).max())
    assert errors[-1] > 1e-9  # the two do not cancel by construction
    assert np.log2(errors[0] / errors[1]) > order - 0.2


def test_ddim_encodes_by_the_published_step(x64):
    """x_s / alpha_s = x_t / alpha_t + (n_s - n_t) eps(x_t, t), one step, by hand."""
    form = SETTINGS["vp"].form
    code, _, ts = encoded(ancestral.ddim, 1)
    (a, sig), (a_s, sig_s) = amplitudes(form, ts[1]), amplitudes(form, ts[0])
    eps = (X - a * TARGET.denoise(X, a, sig)) / sig
    np.testing.assert_allclose(code, a_s * (X / a + (sig_s / a_s - sig / a) * eps), rtol=1e-12)


def test_the_adaptive_flow_encodes_and_decodes_to_its_tolerance(x64):
    schedule, form, *_ = SETTINGS["vp"]
    sampler, ts = ode.probability_flow(schedule, rtol=1e-9, atol=1e-9), np.array([0.6, 0.05])
    code = run(encoding.encoding_fn(sampler, ts), model(schedule), X)
    np.testing.assert_allclose(code, TARGET.transport(X, *(amplitudes(form, t) for t in ts[::-1])), atol=1e-7)
    np.testing.assert_allclose(run(sampling_fn(sampler, ts), model(schedule), code), X, atol=1e-7)


@pytest.mark.parametrize(
    "sampler",
    [ancestral.ddpm(VP()), sde.euler_maruyama(VP()), heun.edm(VP(), churn=4.0), multistep.adams(VP(), 2, tau=0.5)],
)
def test_samplers_that_add_noise_do_not_encode(sampler):
    with pytest.raises(ValueError, match="adds noise"):
        encoding.encoding_fn(sampler, grid(VP(), 5))


def test_encoding_does_not_start_at_the_data():
    with pytest.raises(ValueError, match="zero=False"):
        encoding.encoding_fn(ancestral.ddim(VP()), grids.log_snr(VP(), 5))


def test_encoding_checks_its_grid():
    with pytest.raises(ValueError, match="decrease strictly"):
        encoding.encoding_fn(ancestral.ddim(VP()), grid(VP(), 5)[::-1])


def test_mix_keeps_the_normal_law_and_a_line_does_not():
    """METHODS 4: the straight line's variance at the middle is a half."""
    a, b = np.random.default_rng(0).standard_normal((2, 200_000), np.float32)
    mix = jax.jit(encoding.mix)
    for weight in (0.0, 0.25, 0.5, 1.0):
        between = np.asarray(mix(a, b, weight))
        assert stats.kstest(between, "norm").pvalue > 1e-3
    assert np.var((a + b) / 2) == pytest.approx(0.5, abs=0.01)
    np.testing.assert_allclose(mix(a, b, 1.0), b, atol=1e-6)


def test_slerp_runs_along_the_great_circle(x64):
    """In the plane: the angle grows evenly, and the length stays that of both ends."""
    start, turn = 0.3, 1.1
    slerp = jax.jit(encoding.slerp)
    circle = lambda angle: 2.0 * np.asarray([[np.cos(angle)], [np.sin(angle)]])
    for weight in (0.0, 0.2, 0.5, 1.0):
        between = slerp(circle(start), circle(start + turn), weight)
        np.testing.assert_allclose(between, circle(start + weight * turn), rtol=1e-12)
