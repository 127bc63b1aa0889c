"""Green functions and characteristics: residuals, laws, what they do to finite data, the example of kexue 9379."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, optimize, special, stats

from diffjax import analytic, grids, processes, samplers, schedules
from diffjax.calculus import FlowOnly
from diffjax.samplers import heun, sampling_fn
from diffjax.schedules import EDM, VP, Rectified
from diffjax.theory import characteristics, constructions, generator, green, heat, residuals

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
SIGMA = lambda t: 0.3 * t**2 + t  # of the heat equation's flow


def turn(angle):
    return jnp.array([[jnp.cos(angle), -jnp.sin(angle)], [jnp.sin(angle), jnp.cos(angle)]])


def bent():
    """Curved trajectories in the plane with a logistic prior: x = x_0 + t R(1 - t) (x_T - x_0)."""
    return characteristics.Characteristics(
        phi=lambda x, x0, t: x0 + turn(t - 1) @ (x - x0) / t,
        path=lambda x_T, x0, t: x0 + t * turn(1 - t) @ (x_T - x0),
        log_prior=lambda x: jnp.sum(jax.scipy.stats.logistic.logpdf(x)),
        prior=jax.random.logistic,
    )


MADE = {
    "space-time, d = 1": (green.SpaceTimeIsotropic(), 1),
    "space-time, d = 3": (green.SpaceTimeIsotropic(), 3),
    "space, d = 3": (green.SpaceIsotropic(SIGMA), 3),
    "tanh, d = 1": (green.tanh(), 1),
    "tanh, d = 3": (green.tanh(), 3),
    "exponential, d = 2": (green.exponential(), 2),
    "exponential, d = 3": (green.exponential(), 3),
    "straight, Gaussian": (characteristics.Affine(processes.Gaussian(Rectified())), 3),
    "straight, Student-t": (characteristics.Affine(processes.poisson(Rectified(), 3.0)), 2),
    "straight, uniform": (characteristics.uniform(-9.0, 9.0), 2),
    "affine": (characteristics.Affine(processes.Gaussian(VP())), 2),
    "bent": (bent(), 2),
}

# Constructions are pytrees: one program each for all constructions of a kind, at the tests' points and times.


@jax.jit
def one(construction, x, x0, t):
    """(log p_t(x | x_0), f_t(x | x_0))."""
    return construction.log_density(x, x0, t), construction.velocity(x, x0, t)


@jax.jit
def mixed(marginal, x, t):
    """(log p_t(x), v(x, t)), and what must vanish if they belong together."""
    residual = residuals.continuity(marginal.log_prob, marginal.velocity, x, t)
    return marginal.log_prob(x, t), marginal.velocity(x, t), residual


@functools.partial(jax.jit, static_argnums=3)
def draws(construction, x0, t, n):
    return jax.vmap(lambda key: construction.sample(key, x0, t))(jax.random.split(KEY, n))


@jax.jit
def flown(denoise, x, t):
    """(dx/dt of the probability flow, E[x_0 | x_t = x])."""
    return samplers.ode.velocity(denoise, x, t), denoise(x, t).mean


walked = jax.jit(lambda walk, denoise, x: jax.vmap(lambda x: walk(denoise, KEY, x))(x))

# One point.


@pytest.mark.parametrize("name", MADE)
def test_density_and_velocity_belong_together(name, x64):
    """The continuity residual, and the divergence of (p, p f) in space and time, vanish; a wrong velocity's do not."""
    construction, d = MADE[name]

    def charge(tx, x0):
        t, x = tx[0], tx[1:]
        p = jnp.exp(construction.log_density(x, x0, t))
        return jnp.concatenate([p[None], p * construction.velocity(x, x0, t)])

    @jax.jit
    def both(x, x0, t):
        tx = jnp.concatenate([t[None], x])
        div = residuals.divergence(lambda tx, _: charge(tx, x0), tx, 0.0)
        wrong = residuals.continuity(
            lambda x, t: construction.log_density(x, x0, t),
            lambda x, t: 1.1 * construction.velocity(x, x0, t) + 0.1 * x,
            x,
            t,
        )
        return constructions.residual(construction, x, x0, t), div, wrong

    worst = 0.0
    for _ in range(6):
        x, x0, t = RNG.normal(size=d), RNG.normal(size=d), RNG.uniform(0.3, 0.9)
        residual, div, wrong = both(jnp.asarray(x), jnp.asarray(x0), jnp.asarray(t))
        assert abs(residual) < 1e-11
        assert abs(div) < 1e-11
        worst = max(worst, abs(float(wrong)))
    assert worst > 0.05


@pytest.mark.parametrize("name", ["space-time, d = 3", "tanh, d = 3", "exponential, d = 2", "space, d = 3"])
def test_the_density_has_mass_one(name, x64):
    construction, d = MADE[name]
    area = 2 * np.pi ** (d / 2) / special.gamma(d / 2)
    density = lambda r: np.exp(float(one(construction, r * np.eye(d)[0], np.zeros(d), 0.7)[0]))
    mass = integrate.quad(lambda r: density(r) * area * r ** (d - 1), 0, np.inf)[0]
    assert mass == pytest.approx(1, abs=1e-7)


PSI = {
    "space-time": (green.SpaceTimeIsotropic(), lambda r, t, d: special.betainc(d / 2, 0.5, r**2 / (r**2 + t**2))),
    "space": (green.SpaceIsotropic(SIGMA), lambda r, t, d: special.gammainc(d / 2, r**2 / (2 * SIGMA(t) ** 2))),
    "tanh": (green.tanh(), lambda r, t, d: np.tanh(r / t)),
    "exponential": (green.exponential(), lambda r, t, d: -np.expm1(-r / t)),
}


@pytest.mark.parametrize("d", [1, 2, 3])
@pytest.mark.parametrize("name", PSI)
def test_the_velocity_is_that_of_the_law_of_the_distance(name, d, x64):
    """-(x - x_0) r^-d d_t int phi r^(d-1) dr over phi, by differences of the distribution function of r."""
    construction, psi = PSI[name]
    t, h = 0.6, 1e-6
    for r in (0.2, 0.9, 2.0):
        by_time = (psi(r, t + h, d) - psi(r, t - h, d)) / (2 * h)
        by_r = (psi(r + h, t, d) - psi(r - h, t, d)) / (2 * h)
        direction = RNG.normal(size=d)
        direction /= np.linalg.norm(direction)
        x0 = RNG.normal(size=d)
        log_density, got = one(construction, x0 + r * direction, x0, t)
        np.testing.assert_allclose(got, -by_time / by_r * direction, rtol=1e-6)
        area = 2 * np.pi ** (d / 2) / special.gamma(d / 2)
        np.testing.assert_allclose(np.exp(log_density), by_r / area * r ** (1 - d), rtol=1e-6)


@pytest.mark.parametrize("d", [1, 3])
@pytest.mark.parametrize("name", PSI)
def test_drawn_distances_have_their_law(name, d):
    """Kolmogorov's distance below its 1e-4 quantile, directions even."""
    construction, psi = PSI[name]
    x0, t, n = np.linspace(-0.5, 1.5, d, dtype=np.float32), 0.6, 50_000
    away = np.asarray(draws(construction, x0, t, n), np.float64) - x0
    r = np.linalg.norm(away, axis=1)
    assert stats.kstest(r, lambda r: psi(r, t, d)).statistic < 2.2 / np.sqrt(n)
    assert np.abs((away / r[:, None]).mean(0)).max() < 5 / np.sqrt(n)


def test_a_charge_is_all_at_its_place_at_the_start():
    """psi_t(r) -> 1 as t -> 0, at any r > 0."""
    for _, psi in PSI.values():
        assert psi(0.01, 1e-5, 2) > 0.999


@pytest.mark.parametrize("make", [green.tanh, green.exponential])
def test_laws_of_r_over_t_go_straight_however_far(make):
    """In float32, where psi is 1 to rounding from r = 9 t on."""
    for r in (1e-3, 1.0, 30.0, 1e4):
        x = np.asarray([0.6 * r, -0.8 * r], np.float32)
        log_density, velocity = one(make(), x, np.zeros(2, np.float32), 1.0)
        np.testing.assert_allclose(velocity, x, rtol=1e-5)
        assert np.isfinite(log_density)


def test_characteristics_draw_along_their_trajectories(x64):
    """phi of a draw is the prior's; along a path phi stays and the path's own speed is f; affine is a special case."""
    x_T, x0, t = np.asarray([0.4, -2.0]), np.asarray([1.0, 0.3]), 0.6
    curved = bent()

    @jax.jit
    def along(x_T, x0, t):
        x, speed = jax.jvp(lambda t: curved.path(x_T, x0, t), (t,), (jnp.ones(()),))
        drawn = curved.phi(curved.sample(KEY, x0, t), x0, t)
        return x, speed, curved.phi(x, x0, t), curved.velocity(x, x0, t), drawn, curved.prior(KEY, (2,))

    x, speed, phi, velocity, drawn, prior = along(x_T, x0, t)
    np.testing.assert_allclose(phi, x_T, rtol=1e-12)
    np.testing.assert_allclose(velocity, speed, rtol=1e-12)
    np.testing.assert_allclose(drawn, prior, rtol=1e-12)
    straight = characteristics.Characteristics(
        lambda x, x0, t: (x - (1 - t) * x0) / t,
        lambda x_T, x0, t: (1 - t) * x0 + t * x_T,
        lambda x: jnp.sum(jax.scipy.stats.norm.logpdf(x)),
        jax.random.normal,
    )
    affine, x = characteristics.Affine(processes.Gaussian(Rectified())), np.asarray(x)
    of_straight, of_affine = one(straight, x, x0, t), one(affine, x, x0, t)
    np.testing.assert_allclose(of_straight[1], (x - x0) / t, rtol=1e-12)
    np.testing.assert_allclose(of_affine[1], (x - x0) / t, rtol=1e-12)
    np.testing.assert_allclose(of_affine[0], of_straight[0], rtol=1e-12)
    np.testing.assert_array_equal(draws(affine, x0, t, 1), draws(straight, x0, t, 1))


# Finite data.


@pytest.mark.parametrize(
    "name", ["space-time, d = 3", "tanh, d = 3", "straight, Student-t", "straight, uniform", "bent"]
)
def test_the_marginal_belongs_together_and_is_the_mean(name, x64):
    construction, d = MADE[name]
    points, weights = RNG.normal(size=(4, d)), RNG.dirichlet(np.ones(4))
    marginal, t = constructions.marginal(construction, points, weights), 0.7
    for _ in range(3):
        x = RNG.normal(size=d)
        log_p, velocity, residual = mixed(marginal, x, t)
        each, f = (np.asarray(a) for a in zip(*(one(construction, x, point, t) for point in points)))
        p = np.exp(each)
        assert abs(residual) < 1e-10
        np.testing.assert_allclose(np.exp(log_p), weights @ p, rtol=1e-10)
        np.testing.assert_allclose(velocity, (weights * p) @ f / (weights @ p), rtol=1e-9)


def test_the_space_time_isotropic_field_by_hand_is_the_poisson_flow(x64):
    """f = sum w_i (x - x_i) / t with w ~ (t^2 + r^2)^(-(d + 1) / 2)."""
    points, x, t = RNG.normal(size=(5, 3)), RNG.normal(size=3), 0.4
    w = (t**2 + ((x - points) ** 2).sum(1)) ** -2.0
    expected = (w / w.sum()) @ (x - points) / t
    flow = characteristics.Affine(processes.poisson(EDM(), 1.0))
    for construction in (green.SpaceTimeIsotropic(), flow):
        marginal = constructions.marginal(construction, points)
        np.testing.assert_allclose(mixed(marginal, x, t)[1], expected, rtol=1e-11)
    log_density = lambda c: one(c, x, points[0], t)[0]
    np.testing.assert_allclose(log_density(green.SpaceTimeIsotropic()), log_density(flow), rtol=1e-11)


def test_space_isotropic_data_flow_by_the_heat_equation(x64):
    points, x, t = RNG.normal(size=(5, 2)), RNG.normal(size=2), 0.7
    data = analytic.empirical(points)

    @jax.jit
    def by_heat(x, t):
        score = lambda x, t: data.score(x, 1.0, SIGMA(t))
        return data.log_prob(x, 1.0, SIGMA(t)), heat.flow(score, SIGMA)(x, t)

    log_p, velocity, _ = mixed(constructions.marginal(green.SpaceIsotropic(SIGMA), points), x, t)
    expected = by_heat(x, t)
    np.testing.assert_allclose(velocity, expected[1], rtol=1e-10)
    np.testing.assert_allclose(log_p, expected[0], rtol=1e-10)


def test_affine_characteristics_are_the_probability_flow(x64):
    """With sigma = sqrt(1 - alpha^2) and a Gaussian: VP's, both as velocity and as denoiser."""
    points, x, t = RNG.normal(size=(5, 2)), RNG.normal(size=2), 0.4
    denoise = analytic.empirical(points).denoiser(VP())
    marginal = constructions.marginal(characteristics.Affine(processes.Gaussian(VP())), points)
    velocity, mean = flown(denoise, x, t)
    np.testing.assert_allclose(mixed(marginal, x, t)[1], velocity, rtol=1e-8)
    np.testing.assert_allclose(flown(marginal.denoiser(VP()), x, t)[1], mean, rtol=1e-8)


@pytest.mark.parametrize("schedule", [EDM(1.0), Rectified(), VP()], ids=["edm", "rectified", "vp"])
def test_any_velocity_is_a_denoiser_under_any_clock(schedule, x64):
    x, t = np.asarray([0.3, 2.0]), 0.6
    denoise = constructions.denoiser(lambda x, t: jnp.sin(x) * t - 1, schedule)
    velocity, mean = flown(denoise, x, t)
    expected = np.sin(x) * t - 1
    np.testing.assert_allclose(velocity, expected, rtol=1e-12)
    if not isinstance(schedule, VP):
        np.testing.assert_allclose(mean, x - t * expected, rtol=1e-12)
    assert denoise.schedule == FlowOnly(schedule)
    with pytest.raises(ValueError, match="adds Gaussian noise"):
        sampling_fn(samplers.ancestral.ddpm(denoise.schedule), [0.9, 0.1])


def test_regression_finds_the_marginal_velocity(x64):
    """E[(f(x_t | x_0) - v(x_t)) h(x_t)] = 0, and the loss is the mean square of f - v."""
    points, weights, t, n = np.array([[-1.0], [0.5]]), np.array([0.3, 0.7]), 0.8, 40_000
    construction = green.exponential()
    marginal = constructions.marginal(construction, points, weights)

    @jax.jit
    @jax.vmap
    def pair(key, x0):
        x = construction.sample(key, x0, t)
        miss = construction.velocity(x, x0, t) - marginal.velocity(x, t)
        return x[0], miss[0], constructions.regression(marginal.velocity, construction, key, x0, t)

    x0 = RNG.choice(points[:, 0], n, p=weights)[:, None]
    x, miss, loss = (np.asarray(a) for a in pair(jax.random.split(KEY, n), x0))
    for h in (1.0, np.tanh(x), np.cos(x)):
        assert abs(np.mean(h * miss)) < 4.5 * np.std(h * miss) / np.sqrt(n)
    np.testing.assert_allclose(loss.mean(), np.mean(miss**2), rtol=1e-10)


@pytest.mark.parametrize("name", ["tanh", "exponential", "space"])
def test_the_flow_keeps_quantiles_and_divides_the_mass_as_the_data(name, x64):
    """In 1-D from t = 20, by a sampler of the library."""
    construction, psi = PSI[name]
    points, weights = np.array([-1.0, 2.0]), np.array([0.4, 0.6])
    cdf = lambda x, t: weights @ (0.5 + 0.5 * np.sign(x - points) * psi(np.abs(x - points), t, 1))
    q = np.append(np.linspace(0.02, 0.98, 25), [0.39, 0.41])
    start = [optimize.brentq(lambda x: cdf(x, 20.0) - p, -5e3, 5e3, xtol=1e-12) for p in q]  # noqa: B023
    denoise = constructions.marginal(construction, points[:, None], weights).denoiser(EDM(20.0))
    sampler = samplers.ode.probability_flow(denoise.schedule, "Dopri8", rtol=1e-9, atol=1e-11)
    walk = sampling_fn(sampler, np.array([20.0, 0.05]))
    end = np.asarray(walked(walk, denoise, np.asarray(start)[:, None]))[:, 0]
    np.testing.assert_allclose([cdf(x, 0.05) for x in end], q, atol=1e-6)
    np.testing.assert_array_equal(end > 0.5, q > 0.4)


def test_the_example_of_the_post(x64):
    """Points 0.5, 0.5, 1.2, 1.7 and a uniform prior on [0, 2] (kexue 9379): 1/2, 1/4, 1/4 of an even grid.

    An independent integration gave .49987, .25006, .24981.
    """
    marginal = constructions.marginal(characteristics.uniform(0.0, 2.0), [[0.5], [0.5], [1.2], [1.7]])
    denoise, n = marginal.denoiser(EDM(1.0)), 2000
    x = ((np.arange(n) + 0.5) / n * 2)[:, None]
    sampler = samplers.ode.probability_flow(denoise.schedule, rtol=1e-6, atol=1e-8)
    walk = sampling_fn(sampler, np.array([1.0, 1e-3]))
    end = np.asarray(walked(walk, denoise, x))
    places = np.array([0.5, 1.2, 1.7])
    nearest = np.abs(end - places[None]).argmin(1)
    assert np.abs(end[:, 0] - places[nearest]).max() < 2e-3
    share = np.bincount(nearest) / n
    np.testing.assert_allclose(share, [0.5, 0.25, 0.25], atol=1.01 / n)
    np.testing.assert_allclose(share, [0.49987, 0.25006, 0.24981], atol=1.01 / n)


def test_two_dimensions_by_ordinary_samplers():
    """Heun from the exact law at T: the points have their shares under every construction, within sampling error."""
    points, weights, n = np.array([[1.0, 0.0], [-1.0, 0.5], [0.0, -1.0]]), np.array([0.5, 0.3, 0.2]), 4000
    for construction in (green.SpaceTimeIsotropic(), green.tanh(), green.exponential()):
        marginal = constructions.marginal(construction, points, weights)
        denoise = marginal.denoiser(EDM(30.0))
        walk = sampling_fn(heun.edm(denoise.schedule), grids.karras(EDM(30.0), 40))

        @jax.jit
        @jax.vmap
        def ends(key, marginal=marginal, walk=walk, denoise=denoise):
            return walk(denoise, key, marginal.sample(key, 30.0))

        end = np.asarray(ends(jax.random.split(KEY, n)))
        nearest = np.linalg.norm(end[:, None] - points[None], axis=2).argmin(1)
        assert np.median(np.linalg.norm(end - points[nearest], axis=1)) < 1e-2
        spread = np.sqrt(weights * (1 - weights) / n)
        assert np.all(np.abs(np.bincount(nearest) / n - weights) < 4.5 * spread)


def test_a_step_over_the_edge_of_the_support_comes_back(x64):
    """Where no trajectory goes: towards the nearest point, not NaN."""
    marginal = constructions.marginal(characteristics.uniform(0.0, 2.0), [[0.5], [1.7]])
    of = lambda x: mixed(marginal, np.asarray([x]), 0.1)  # at t = 0.1 the two reach [0.45, 0.65] and [1.53, 1.73]
    assert of(1.1)[0] == -np.inf
    np.testing.assert_allclose(of(1.09)[1], [5.9], rtol=1e-9)
    np.testing.assert_allclose(of(1.11)[1], [-5.9], rtol=1e-9)


# Bad input.


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (
            lambda: constructions.marginal(characteristics.uniform(0, 2), [[0.5], [3.0]]),
            r"no mass at data point \[3\.\]",
        ),
        (lambda: constructions.marginal(green.tanh(), [0.5, 3.0]), r"points of shape \(2,\), expected finite points"),
        (lambda: constructions.marginal(green.tanh(), [[0.5]], [1.0, 2.0]), "expected 1 numbers >= 0"),
        (lambda: constructions.marginal(green.tanh(), [[0.5], [1.0]], [-1.0, 2.0]), "expected 2 numbers >= 0"),
        (lambda: characteristics.uniform(2.0, 1.0), r"on \[2\.0, 1\.0\], expected finite low < high"),
        (lambda: generator.forward(FlowOnly(VP())), "not Gaussian"),
        (
            lambda: constructions.marginal(
                characteristics.Affine(processes.Gaussian(schedules.VP(), jax.random.laplace)), [[0.5]]
            ),
            "laplace has no density",
        ),
    ],
)
def test_bad_input_is_one_line(call, match):
    with pytest.raises(ValueError, match=match) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_a_point_without_weight_needs_no_support():
    """It may lie where the prior has no mass, and changes neither law nor velocity."""
    prior, x, t = characteristics.uniform(0.0, 2.0), np.asarray([0.55], np.float32), 0.1
    both, alone = constructions.marginal(prior, [[0.5], [3.0]], [1.0, 0.0]), constructions.marginal(prior, [[0.5]])
    of_both, of_alone = mixed(both, x, t), mixed(alone, x, t)
    assert np.isfinite(of_alone[0])
    np.testing.assert_allclose(of_both[0], of_alone[0], rtol=1e-6)
    np.testing.assert_allclose(of_both[1], of_alone[1], rtol=1e-6)
