"""What only Gaussian noise allows is refused where the flow alone is right, and would be wrong there."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from poisson_points import PAIR, SHARES, exact
from samplers_table import KINDS, SAMPLERS

from diffjax import analytic, clock, denoisers, grids, likelihood, losses, samplers
from diffjax.calculus import FlowOnly
from diffjax.denoisers import guidance, inverse, moments, optimal, variance
from diffjax.denoisers.flow import flow
from diffjax.losses import score_matching
from diffjax.processes import poisson
from diffjax.samplers import ancestral, heun, langevin, sampling_fn
from diffjax.schedules import EDM
from diffjax.theory import characteristics, constructions, generator
from diffjax.types import Posterior

KEY, N_DRAWS = jax.random.key(0), 200_000
RNG = np.random.default_rng(0)


def test_churn_would_be_wrong():
    """The refusal is not pedantry: past it, EDM's churn puts 0.70 of the mass on a point of weight 0.60, D = 1."""
    process, n = poisson(EDM(80.0), 1.0), 4000
    marginal = constructions.marginal(characteristics.Affine(process), PAIR[:, None], SHARES)
    unwrapped = flow(marginal.velocity, EDM(80.0))
    keys = jax.random.split(KEY, n)
    start = jax.jit(jax.vmap(lambda key: marginal.sample(key, 80.0)))(keys)
    share = {}
    for churn in (0.0, 40.0):
        walk = sampling_fn(heun.edm(EDM(80.0), churn=churn), grids.karras(EDM(80.0), 80))
        share[churn] = np.mean(np.asarray(jax.jit(jax.vmap(lambda k, x: walk(unwrapped, k, x)))(keys, start)) > 0.5)  # noqa: B023
    assert share[0.0] == pytest.approx(0.60, abs=0.02)
    assert share[40.0] == pytest.approx(0.70, abs=0.025)


FLOW = poisson(EDM(20.0), 4.0).schedule
NET = lambda x, c: x
SEEN = inverse.observe(lambda x: x[:1], jnp.zeros(1), (2,), 0.1)


def flow_denoiser():
    return denoisers.denoiser(NET, FLOW, denoisers.EDM())


REFUSED = {
    "churn": lambda: sampling_fn(heun.edm(FLOW, churn=1.0), grids.karras(EDM(20.0), 5)),
    "eta": lambda: sampling_fn(samplers.ancestral.ddim(FLOW, eta=0.5), grids.karras(EDM(20.0), 5)),
    "SDE": lambda: sampling_fn(samplers.sde.euler_maruyama(FLOW), grids.karras(EDM(20.0), 5, zero=False)),
    "Langevin": lambda: sampling_fn(
        samplers.langevin.predictor_corrector(FLOW, "ddim", "snr", 1e-5), grids.karras(EDM(20.0), 5)
    ),
    "score": lambda: denoisers.denoiser(NET, FLOW, denoisers.Score()),
    "large": lambda: variance.large(NET, FLOW, denoisers.EDM()),
    "learned range": lambda: variance.learned_range(NET, FLOW, denoisers.EDM(), None),
    "jacobian": lambda: optimal.jacobian(flow_denoiser()),
    "tilted": lambda: guidance.tilted(flow_denoiser(), lambda x, t: x.sum()),
    "tilted by prediction": lambda: guidance.tilted_by_prediction(flow_denoiser(), lambda x, t: x.sum()),
    "mean shift": lambda: guidance.mean_shift(flow_denoiser(), lambda x, t: x.sum(), [1.0, 0.0]),
    "DPS": lambda: inverse.dps(flow_denoiser(), SEEN),
    "PiGDM": lambda: inverse.pigdm(flow_denoiser(), SEEN),
    "TMPD": lambda: inverse.tmpd(flow_denoiser(), SEEN),
    "bound": lambda: likelihood.elbo(grids.karras(EDM(20.0), 5), FLOW),
    "loss of the bound": lambda: losses.hybrid(
        lambda x, c: jnp.concatenate([x, x]), poisson(EDM(20.0), 4.0), denoisers.EDM(), jnp.ones(2), jnp.ones(2), 1.0
    ),
    "denoising score": lambda: score_matching.denoising(NET, poisson(EDM(), 4.0), jnp.ones(2), jnp.ones(2), 1.0),
    "gap": lambda: score_matching.gap(Posterior(jnp.ones(2), jnp.ones(2)), FLOW, 1.0),
    "reverse SDE": lambda: generator.forward(FLOW),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_only_gaussian_noise_allows_refuses(name):
    with pytest.raises(ValueError, match=r"not Gaussian|Gaussian noise, but") as caught:
        REFUSED[name]()
    assert "\n" not in str(caught.value)


def test_tweedies_covariance_would_be_wrong_and_measured_errors_are_right(x64):
    """sigma^2 d mean / d x against the variance by hand; `error` and `spread` of the exact mean agree."""
    process, x, t = poisson(EDM(), 1.0), 0.5, 0.8
    denoise = exact(process)
    mean, slope = map(float, jax.jit(jax.value_and_grad(lambda x: denoise(x[None], t).mean[0]))(x))
    slope *= t**2
    variance_by_hand = (mean + 1) * (2 - mean)  # of a law on {-1, 2}
    assert abs(slope / variance_by_hand - 1) > 0.2
    data = {"x": RNG.choice(PAIR, 20_000, p=SHARES)[:, None]}
    found = moments.measure(lambda example: denoise, process, KEY, data, [t], batch=20_000)
    assert found.error[0] == pytest.approx(found.spread[0], rel=0.04)
    assert np.isnan(found.noise[0])
    with pytest.raises(ValueError, match="finite"):
        optimal.tabulated(denoise, [t], found.noise)


def test_no_noise_comes_in_by_a_posterior_variance():
    """DDIM adds what a denoiser knows of Var[x_0 | x_t] even at eta = 0: not here."""
    plain, ts = flow_denoiser(), grids.karras(EDM(20.0), 5)
    walk = sampling_fn(samplers.ancestral.ddim(FLOW), ts)
    with_var = optimal.tabulated(plain, ts[:-1], np.full(5, 0.3))
    means = guidance.extrapolated(plain, flow_denoiser(), 2.0)  # a combination of flows, no score: allowed
    walks = jax.jit(lambda x: [walk(denoise, KEY, x) for denoise in (with_var, plain, means)])
    with_var, plain, means = walks(np.ones(2, np.float32))
    np.testing.assert_array_equal(with_var, plain)
    assert np.all(np.isfinite(means))


# Every sampler.


TARGET = analytic.gaussian_mixture([0.3, 0.7], [[-0.6, 0.2], [0.5, -0.4]], [0.04, 0.02])
run = jax.jit(lambda sample, denoise, x: sample(denoise, KEY, x))


@pytest.mark.parametrize("name", SAMPLERS)
def test_where_only_the_flow_is_right_samplers_that_add_noise_refuse_and_the_others_do_the_same(name):
    plain, wrapped = EDM(20.0), FlowOnly(EDM(20.0))
    ts = grids.karras(plain, 6)
    if not SAMPLERS[name].deterministic:
        with pytest.raises(ValueError, match=r"adds .*noise.*, but the process is not Gaussian"):
            sampling_fn(SAMPLERS[name].make(wrapped), ts)
        return
    samples = [sampling_fn(SAMPLERS[name].make(schedule), ts) for schedule in (plain, wrapped)]
    jax.tree.map(np.testing.assert_array_equal, *(sample.args[0] for sample in samples))  # the rows
    if name in KINDS:
        found = [run(sample, TARGET.denoiser(sample.args[1]), np.ones(2, np.float32)) for sample in samples]
        np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("rule", ["snr", "ald", "ncsn"])
def test_langevin_kernels_and_the_score_target_refuse_there_too(rule):
    schedule = FlowOnly(EDM(20.0))
    sampler = langevin.predictor_corrector(schedule, "ddim", rule, 1e-5)
    with pytest.raises(ValueError, match="adds Gaussian noise"):
        sampling_fn(sampler, grids.karras(schedule, 6))
    warped = clock.Warped(schedule, clock.Monotone.near_identity(4))
    with pytest.raises(ValueError, match="adds Gaussian noise"):
        sampling_fn(ancestral.ddpm(warped), [10.0, 1.0, 0.0])
    with pytest.raises(ValueError, match="predict X0, Eps, V or EDM"):
        denoisers.denoiser(lambda x, c: x, schedule, denoisers.Score())
