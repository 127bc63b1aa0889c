"""Flows along paths: closed forms on Gaussian data, the equality with the Gaussian route, coordinates, bad paths.

Data N(M, V0) in one dimension, z standard normal: along (1 - t) x_0 + t z the velocity and its flow are known.
"""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, stats

from diffjax import analytic, calculus, couplings, denoisers, grids, losses, samplers
from diffjax.calculus import FlowOnly
from diffjax.denoisers import EDM, X0, Eps, V, Velocity
from diffjax.processes import Gaussian, path
from diffjax.samplers import ancestral, heun, multistep, ode, sde, unipc
from diffjax.schedules import VP, Cosine, Rectified, Tabulated
from diffjax.theory.straightness import straightness
from diffjax.theory.wasserstein_bound import cubature, gauss_legendre

M, V0 = 0.7, 0.25
Z = np.asarray([[-3.0], [-0.4], [0.0], [1.1], [3.0]])
KEY = jax.random.key(0)

# One program for all denoisers of a kind: they are arguments.
posterior = jax.jit(lambda denoise, x, t: denoise(x, t))
each = jax.jit(lambda denoise, x, t: jax.vmap(lambda x: denoise(x, t))(x))
flows = jax.jit(ode.velocity)
walked = jax.jit(lambda sample, denoise, z: jax.vmap(lambda z: sample(denoise, KEY, z))(z))


pair = jax.jit(lambda path, x0, z, t: (path.velocity(x0, z, t), path.corrupt(x0, z, t), path.ends(x0, z, t)))


def velocity(x, t):
    """E[z - x_0 | x_t = x], by conditioning of jointly Gaussian numbers."""
    total = (1 - t) ** 2 * V0 + t**2
    return -M + (t - (1 - t) * V0) / total * (x - (1 - t) * M)


def straightened(x, t):
    """The velocity of the reflow: x_0 = M + sqrt(V0) z, on whose lines x_t says what z is."""
    z = (x - (1 - t) * M) / ((1 - t) * V0**0.5 + t)
    return z - (M + V0**0.5 * z)


def exact(schedule):
    return analytic.gaussian_mixture([1.0], [[M]], [V0]).denoiser(schedule)


def ends_of(sampler, ts, denoise, z=Z):
    return np.asarray(walked(samplers.sampling_fn(sampler, ts), denoise, np.asarray(z)))


# The velocity is a denoiser, and its flow the map of the laws.


@pytest.mark.parametrize("t", [1e-3, 0.3, 0.9, 1.0])
def test_a_velocity_is_a_denoiser_and_a_denoiser_a_velocity(t, x64):
    denoise = denoisers.flow(velocity)
    means = each(exact(Rectified()), Z, t).mean
    np.testing.assert_allclose(posterior(denoise, Z, t).mean, means, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(flows(denoise, Z, t), velocity(Z, t), rtol=1e-12, atol=1e-11)


@pytest.mark.parametrize("schedule", [VP(), Cosine(t_max=0.999), Rectified()], ids=lambda s: type(s).__name__)
def test_the_flow_of_any_schedule_is_its_denoiser(schedule, x64):
    denoise = denoisers.flow(jax.tree_util.Partial(ode.velocity, exact(schedule)), schedule)
    x = np.asarray([0.4])
    np.testing.assert_allclose(posterior(denoise, x, 0.6).mean, posterior(exact(schedule), x, 0.6).mean, rtol=1e-10)


def test_the_flow_is_the_map_of_gaussians(x64):
    """M + sqrt(V0) z, to 1e-9: the last step, from t = 1e-5, is Euler's, with an error of order 1e-10."""
    sampler = ode.probability_flow(FlowOnly(Rectified()), "Dopri8", rtol=1e-12, atol=1e-12, denoise=True)
    ends = ends_of(sampler, [1.0, 1e-5], denoisers.flow(velocity))
    np.testing.assert_allclose(ends, M + V0**0.5 * Z, rtol=0, atol=1e-9)


def test_ddim_is_eulers_method_on_any_field(x64):
    field = lambda x, t: jnp.sin(3 * x) * t + jnp.cos(x + t)
    ts = np.asarray([1.0, 0.83, 0.5, 0.21, 0.02, 0.0])
    x = Z
    for t, s in pairwise(ts):
        x = x + (s - t) * (np.sin(3 * x) * t + np.cos(x + t))
    ends = ends_of(ancestral.ddim(FlowOnly(Rectified())), ts, denoisers.flow(field))
    np.testing.assert_allclose(ends, x, rtol=1e-12)


@pytest.mark.parametrize("make", [multistep.adams, unipc.unipc, heun.edm], ids=lambda f: f.__module__)
def test_the_other_deterministic_samplers_integrate_a_field_too(make, x64):
    """From below alpha = 0, where Heun's clock ends; x there is known: the flow is affine."""
    schedule, start = FlowOnly(Rectified(t_max=0.98)), 0.98
    x = (1 - start) * M + np.sqrt((1 - start) ** 2 * V0 + start**2) * Z
    ends = ends_of(make(schedule), grids.log_snr(schedule, 300), denoisers.flow(velocity, schedule), x)
    np.testing.assert_allclose(ends, M + V0**0.5 * Z, atol=2e-3)


def test_samplers_that_add_noise_refuse_a_field():
    with pytest.raises(ValueError, match="the process is not Gaussian"):
        samplers.sampling_fn(ancestral.ddpm(FlowOnly(Rectified())), [1.0, 0.5, 0.0])


# Straightness, transport cost, reflow: METHODS 19.


def independent_pairs():
    """Four points whose averages are exact for what is quadratic in (x_0, z)."""
    pairs = cubature([M, 0.0], np.diag([V0, 1.0]))
    return pairs[:, :1], pairs[:, 1:]


def test_straightness_before_and_after_reflow(x64):
    """int Var[z - x_0 | x_t] dt = (pi / 2) sqrt(V0), by hand; no two lines of the reflow cross."""
    before = jax.jit(lambda: straightness(velocity, *independent_pairs(), gauss_legendre(1.0, 40)))()
    assert float(before) == pytest.approx(np.pi / 2 * V0**0.5, abs=1e-9)
    assert float(before) == pytest.approx(0.785398, abs=1e-6)
    after = jax.jit(lambda x0, z: straightness(straightened, x0, z))(M + V0**0.5 * Z, Z)
    assert float(after) < 1e-25


def test_the_transport_cost_falls_by_reflow(x64):
    cost = jax.jit(couplings.transport_cost)
    assert float(cost(*independent_pairs())) == pytest.approx(1.74, abs=1e-12)
    z = cubature([0.0], [[1.0]])
    ts = grids.uniform(Rectified(), 400)
    reflowed = ends_of(multistep.adams(FlowOnly(Rectified())), ts, denoisers.flow(velocity), z)
    assert float(cost(reflowed, z)) == pytest.approx(0.74, abs=1e-4)


def test_one_step_is_enough_after_reflow_and_not_before(x64):
    """From z = 3: E[x_0] = 0.7 in place of 2.2, an error of 1.5; after reflow the end itself."""
    euler = ancestral.ddim(FlowOnly(Rectified()))
    errors = [
        float(ends_of(euler, [1.0, 0.0], denoisers.flow(v), [[3.0]])[0, 0]) - 2.2 for v in (velocity, straightened)
    ]
    assert errors[0] == pytest.approx(-1.5, abs=1e-12)
    assert abs(errors[1]) < 1e-15


def test_reflowed_pairs_keep_the_marginals_and_cost_less(x64):
    """On a mixture: z at normal quantiles flows to the same quantiles of the data, found by bisection."""
    weights, means, spread = [0.3, 0.7], [-1.0, 0.8], 0.3
    share = (np.arange(100) + 0.5) / 100
    cdf = lambda x: sum(w * stats.norm.cdf(x, m, spread) for w, m in zip(weights, means))
    quantiles = [optimize.brentq(lambda x, q=q: cdf(x) - q, -9, 9, xtol=1e-14) for q in share]
    target = analytic.gaussian_mixture(weights, [[m] for m in means], [spread**2] * 2)
    z = stats.norm.ppf(share)[:, None]
    sampler = ode.probability_flow(FlowOnly(Rectified()), "Dopri8", rtol=1e-10, atol=1e-10, denoise=True)
    field = jax.tree_util.Partial(ode.velocity, target.denoiser(Rectified()))
    x0 = ends_of(sampler, [1.0, 1e-5], denoisers.flow(field), z)
    np.testing.assert_allclose(x0[:, 0], quantiles, atol=1e-7)
    independent = np.mean((x0 - z.T) ** 2)  # all pairs
    assert float(jax.jit(couplings.transport_cost)(x0, z)) < independent


def test_straightness_wants_pairs():
    with pytest.raises(ValueError, match="expected one shape"):
        straightness(velocity, np.zeros((3, 1), np.float32), np.zeros((4, 1), np.float32))


# Paths.


def wavy(x0, z, t):
    """Bent, and not linear in x_0 and z."""
    return (1 - t) * x0 + t * z + t * (1 - t) * jnp.sin(x0 * z)


@pytest.mark.parametrize("t", [0.0, 0.2, 0.77, 1.0])
def test_velocity_and_ends_are_those_of_the_tangent(t, x64):
    x0, z = np.random.default_rng(1).normal(size=(2, 3, 2))
    got, corrupted, (start, end) = pair(path.along(wavy, shape=(3, 2)), x0, z, t)
    slope = z - x0 + (1 - 2 * t) * np.sin(x0 * z)
    x = (1 - t) * x0 + t * z + t * (1 - t) * np.sin(x0 * z)
    np.testing.assert_allclose(got, slope, rtol=1e-12)
    np.testing.assert_allclose(corrupted, x, rtol=1e-12)
    np.testing.assert_allclose(start, x - t * slope, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(end, x + (1 - t) * slope, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("t", [0.1, 0.6])
def test_the_variance_preserving_path_is_a_quarter_circle(t, x64):
    x0, z = np.random.default_rng(2).normal(size=(2, 4))
    angle = np.pi * t / 2
    got, corrupted, _ = pair(path.variance_preserving(), x0, z, t)
    np.testing.assert_allclose(got, np.pi / 2 * (np.cos(angle) * z - np.sin(angle) * x0), rtol=1e-12)
    np.testing.assert_allclose(corrupted, np.cos(angle) * x0 + np.sin(angle) * z, rtol=1e-12)


def net(x, c):
    return jnp.sin(2 * x) + 0.1 * c * jnp.cos(x) - 0.3


@pytest.mark.parametrize("target", [X0(0.5), Eps(0.5), V(0.5), Velocity(0.5), EDM(0.5)], ids=lambda t: type(t).__name__)
def test_straight_paths_have_the_gaussian_loss(target, x64):
    x0, z = np.random.default_rng(3).normal(size=(2, 5))
    processes = path.rectified(), Gaussian(Rectified())
    both = jax.jit(lambda x0, z, t: [losses.regression(net, process, target, x0, z, t) for process in processes])
    for t in (1e-3, 0.4, 0.95):
        np.testing.assert_allclose(*both(x0, z, t), rtol=1e-12)


@pytest.mark.parametrize("t", [0.05, 0.5, 0.9])
def test_quarter_circles_have_the_loss_of_their_own_schedule(t, x64):
    """Flow matching along cos, sin by `jax.jvp` is the velocity target on the schedule of that cosine."""
    x0, z = np.random.default_rng(4).normal(size=(2, 5))

    @jax.jit
    def both(x0, z, t):
        field = lambda x: jnp.sin(2 * x) + 0.1 * t * jnp.cos(x)
        scale = jnp.hypot(1 - t, t)  # what the network's input is divided by on `Rectified`; 1 on the circle
        along = losses.regression(lambda x, c: field(scale * x), path.variance_preserving(), Velocity(), x0, z, t)
        own = losses.regression(lambda x, c: field(x), Gaussian(Cosine(s=0.0)), Velocity(), x0, z, t)
        return along, own

    np.testing.assert_allclose(*both(x0, z, t), rtol=1e-12)


def test_quarter_circles_have_the_samples_of_their_own_schedule(x64):
    schedule = Cosine(s=0.0)
    solve = lambda clock: ode.probability_flow(clock, "Dopri8", rtol=1e-11, atol=1e-11)
    own = ends_of(solve(schedule), [1.0, 1e-2], exact(schedule))
    field = jax.tree_util.Partial(ode.velocity, exact(schedule))
    along = ends_of(solve(FlowOnly(Rectified())), [1.0, 1e-2], denoisers.flow(field))
    np.testing.assert_allclose(along, own, rtol=1e-9)


K = 0.8


def bent(x0, z, t):
    return (1 - t) * x0 + t * z + K * jnp.sin(np.pi * t)


def bent_velocity(x, t):
    """That of the straight lines, seen from the moving origin K sin(pi t)."""
    return velocity(x - K * jnp.sin(np.pi * t), t) + K * np.pi * jnp.cos(np.pi * t)


@pytest.mark.parametrize("target", [X0(), Eps(), V(), Velocity(), EDM()], ids=lambda t: type(t).__name__)
def test_every_target_learns_the_velocity_of_a_bent_path(target, x64):
    """The least squares fit of F on (1, x_t), exact for Gaussian pairs, turned into a velocity by the denoiser."""
    process, t = path.along(bent), 0.35
    x0, z = independent_pairs()

    def loss(w):
        one = lambda x0, z: losses.regression(lambda x, c: w[0] + w[1] * x, process, target, x0, z, t)
        return jnp.mean(jax.vmap(one)(x0, z))

    gradients = jax.jit(jax.vmap(jax.grad(loss)))(np.asarray([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))
    base, *columns = np.asarray(gradients)
    w = np.linalg.solve(np.stack(columns, 1) - base[:, None], -base)
    denoise = denoisers.denoiser(lambda x, c: w[0] + w[1] * x, FlowOnly(Rectified(t_max=0.99)), target)
    expected = velocity(Z - K * np.sin(np.pi * t), t) + K * np.pi * np.cos(np.pi * t)
    np.testing.assert_allclose(flows(denoise, Z, t), expected, rtol=1e-10)


def test_the_flow_of_a_bent_path_has_the_same_ends(x64):
    sampler = ode.probability_flow(FlowOnly(Rectified()), "Dopri8", rtol=1e-12, atol=1e-12, denoise=True)
    ends = ends_of(sampler, [1.0, 1e-6], denoisers.flow(bent_velocity))
    np.testing.assert_allclose(ends, M + V0**0.5 * Z, atol=1e-8)


def test_sampling_starts_at_the_noise():
    process = path.variance_preserving()
    prior = jax.jit(lambda t: process.prior(KEY, (5,), t))
    z = np.asarray(prior(np.float32(1.0)))
    np.testing.assert_allclose(z, jax.random.normal(KEY, (5,)), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(prior(0.9), np.sin(0.45 * np.pi) * z, rtol=1e-6)
    assert jax.eval_shape(lambda: process.noise(KEY, jnp.zeros((2, 3)))).shape == (2, 3)


@pytest.mark.parametrize(
    ("phi", "match"),
    [
        (lambda x0, z, t: (1 - t) * x0 + 0.9 * t * z, r"phi_1\(x_0, z\) begins with .* expected z"),
        (lambda x0, z, t: (1 - t) * x0 + t * z + 0.1, r"phi_0\(x_0, z\) begins with .* expected x_0"),
        (lambda x0, z, t: t * x0 + (1 - t) * z, "runs from z to x_0"),
        (lambda x0, z, t: jnp.sum(x0), r"phi_0 has shape \(\) for examples of shape \(4,\)"),
    ],
)
def test_paths_that_do_not_meet_their_ends(phi, match):
    with pytest.raises(ValueError, match=match):
        path.along(phi)


def test_a_path_has_its_own_clock():
    with pytest.raises(ValueError, match="the schedule is VP; give Rectified"):
        path.variance_preserving(VP())
    assert path.rectified(Rectified(t_max=0.999)).schedule.t_max == 0.999


def test_the_bound_is_refused_off_gaussian_processes():
    two, process = lambda x, c: jnp.concatenate([x, x]), path.rectified(Rectified(t_max=0.99))
    with pytest.raises(ValueError, match="the process is not Gaussian"):
        losses.variational(two, process, Eps(), np.zeros(2, np.float32), np.zeros(2, np.float32), 0.99, steps=4)


# Stochastic samplers of a flow, where it is Gaussian.


@pytest.mark.parametrize("churn", [0.0, 0.5, 1.0, 2.0])
def test_the_sde_of_a_velocity_network_keeps_the_marginals(churn, x64):
    """Its exact recursion of mean and variance: at every time of the walk that of (1 - t) x_0 + t z, to order one."""
    schedule = Rectified(t_max=0.99)

    def network(x, c):
        t = jax.nn.sigmoid(-0.5 * c)
        return velocity(x * jnp.hypot(1 - t, t), t)

    denoise = denoisers.denoiser(network, schedule, Velocity())
    affine = jax.jit(jax.vmap(lambda t: denoise(np.asarray([0.0, 1.0]), t).mean))
    law = lambda t: np.asarray([(1 - t) * M, (1 - t) ** 2 * V0 + t**2])

    def worst(n):
        ts = grids.log_snr(schedule, n, t_min=1e-3, zero=False)
        rows, found, errors = sde.euler_maruyama(schedule, churn).plan(ts), law(ts[0]), []
        offset, gain = np.asarray(affine(np.pad(rows.t, (0, 2000 - n), "edge"))).T[:, :n]  # one program for both
        gain = gain - offset
        for i, s in enumerate(ts[1:]):
            mean = rows.x[i] * found[0] + rows.mean[i] * (offset[i] + gain[i] * found[0])
            found = np.asarray([mean, (rows.x[i] + rows.mean[i] * gain[i]) ** 2 * found[1] + rows.noise_var[i]])
            errors.append(np.abs(found - law(s)).max())
        return max(errors), found

    coarse, fine = worst(1000), worst(2000)
    assert coarse[0] / fine[0] == pytest.approx(2, abs=0.05)
    mean, std = 2 * fine[1] - coarse[1]  # without the error of order one
    assert mean == pytest.approx(M, abs=2e-3)
    assert np.sqrt(std) == pytest.approx(V0**0.5, abs=2e-3)


# Coordinates.


def eps_net(x, c):
    return 0.5 * jnp.tanh(x) + 0.02 * c


@pytest.mark.parametrize("t", [0.02, 0.4, 0.9])
def test_an_eps_network_in_rectified_time(t, x64):
    """By hand: r = sigma / alpha = t / (1 - t) names the noise level; on VP alpha = 1 / sqrt(1 + r^2)."""
    rectified = denoisers.run_on(denoisers.denoiser(eps_net, VP(), Eps()), Rectified(t_max=0.99))
    r = t / (1 - t)
    alpha = 1 / np.sqrt(1 + r**2)
    x_vp = Z * (alpha + r * alpha)
    eps = 0.5 * np.tanh(x_vp) - 0.04 * np.log(r)
    x_0 = (x_vp - r * alpha * eps) / alpha
    np.testing.assert_allclose(posterior(rectified, Z, t).mean, x_0, rtol=1e-9)
    np.testing.assert_allclose(flows(rectified, Z, t), eps - x_0, rtol=1e-8)


@pytest.mark.parametrize("t", [0.01, 0.4, 1.0])
def test_there_and_back_is_the_identity(t, x64):
    schedule, denoise = VP(), analytic.gaussian_mixture([0.4, 0.6], [[-1.0], [0.7]], [0.1, 0.2]).denoiser(VP(), True)
    (alpha,), (sigma,) = calculus.amplitudes(schedule, [1.0])
    back = denoisers.run_on(denoisers.run_on(denoise, Rectified(t_max=float(sigma / (alpha + sigma)))), schedule)
    got, expected = (each(d, Z, t) for d in (back, denoise))
    np.testing.assert_allclose(got.mean, expected.mean, rtol=1e-9)
    np.testing.assert_allclose(got.var, expected.var, rtol=1e-8)
    assert back.schedule is schedule


def test_the_vp_path_rescaled_is_the_rectified_path(x64):
    """E4: x / (alpha + sigma), clocked by sigma / (alpha + sigma), after every step of DDIM."""
    mixture = analytic.gaussian_mixture([0.4, 0.6], [[-1.0], [0.7]], [0.1, 0.2])
    ts = grids.log_snr(VP(), 12)
    log_alpha = -0.5 * (0.1 * ts + 9.95 * ts**2)
    alpha, sigma = np.exp(log_alpha), np.sqrt(-np.expm1(2 * log_alpha))
    rectified = Rectified(t_max=float(sigma[0] / (alpha[0] + sigma[0])))
    denoise = mixture.denoiser(VP())
    walks = {}
    for name, schedule, grid, model, start in (
        ("vp", VP(), ts, denoise, 1.0),
        ("line", rectified, sigma / (alpha + sigma), denoisers.run_on(denoise, rectified), alpha[0] + sigma[0]),
    ):
        sample = samplers.sampling_fn(ancestral.ddim(schedule), grid, trace=lambda x: x)
        walks[name] = np.asarray(walked(sample, model, Z / start)[1])
    np.testing.assert_allclose(walks["line"] * (alpha + sigma)[1:, None], walks["vp"], rtol=1e-9)


def test_the_law_is_the_same_whatever_the_process_calls_itself():
    denoise = denoisers.run_on(denoisers.flow(velocity), Cosine(s=0.0))
    assert isinstance(denoise.schedule, FlowOnly)
    ends = ends_of(multistep.adams(denoise.schedule), grids.uniform(Cosine(s=0.0), 300), denoise)
    np.testing.assert_allclose(ends, M + V0**0.5 * Z, atol=2e-3)


def test_more_noise_than_the_denoiser_knows_is_refused():
    with pytest.raises(ValueError, match=r"at sigma / alpha = inf, .* VP knows noise up to 152.*t_max <= 0\.99347"):
        denoisers.run_on(exact(VP()), Rectified())
    with pytest.raises(ValueError, match="has no inverse"):
        denoisers.run_on(exact(lambda t: (1 - t, t)), Rectified())
    denoisers.run_on(exact(Tabulated.linear()), Rectified(t_max=0.99))
