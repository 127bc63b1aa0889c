"""SN- and NPR-DPM: the minimisers of their losses by quadrature, and the variances that are made of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_forms import VP as VP_FORM
from closed_forms import amplitudes

from diffjax import analytic, chains, denoisers, losses, models, processes
from diffjax.denoisers import variance
from diffjax.schedules import EDM, VP

SCHEDULE = VP()
T = 0.732  # with noise and signal of one size
TARGETS = {"eps": denoisers.Eps(), "v": denoisers.V(), "x0": denoisers.X0(), "edm": denoisers.EDM(0.6)}
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(60)


coefficients = jax.jit(lambda target, t: target(SCHEDULE, t))


def mixture():
    return analytic.gaussian_mixture([0.3, 0.7], [[-0.6], [0.5]], [0.04, 0.02])


def exact(target, t, off=lambda F: F):
    """x -> (F, u of npr, u of sn): F what `off` makes of the exact one, the others the means of the squares given x."""
    alpha, sigma = amplitudes(VP_FORM, t)
    a, b = (float(c) for c in coefficients(target, t))
    slope = a - b * alpha / sigma  # F* = slope x_0 + b x_t / sigma

    denoise = mixture().denoiser(SCHEDULE, with_var=True)

    def at(x):
        mean, var = denoise(x, t)
        best = slope * mean + b * x / sigma
        F = off(best)
        return F, slope**2 * var + (best - F) ** 2, slope**2 * var + best**2

    return at


def net_of(at, target, t, change=lambda x: 0.0, which=1):
    """What the network says, from what it sees."""
    alpha, sigma = amplitudes(VP_FORM, t)
    scale = float(np.hypot(sigma, alpha * target.sigma_data))

    def net(x_in, c):
        said = at(x_in * scale)
        return jnp.concatenate([said[0], said[which] + change(x_in)], -1)

    return net


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize(("loss", "which"), [(losses.npr, 1), (losses.sn, 2)])
def test_the_means_of_the_squares_are_stationary_in_every_direction(loss, which, name, x64):
    """The gradient of the expected loss for u + c_0 + c_1 x + c_2 x^2, by quadrature over x_0 and z."""
    target, process = TARGETS[name], processes.Gaussian(SCHEDULE)
    at = exact(target, T, off=lambda F: 1.2 * F + 0.1)
    x0s = np.concatenate([m + np.sqrt(v) * NODES for m, v in ((-0.6, 0.04), (0.5, 0.02))])
    mass = np.concatenate([w * WEIGHTS for w in (0.3, 0.7)])
    grid, z = (a.reshape(-1, 1) for a in np.meshgrid(x0s, NODES, indexing="ij"))
    share = np.outer(mass, WEIGHTS).reshape(-1) / (2 * np.pi)

    def expected(c):
        net = net_of(at, target, T, lambda x: c[0] + c[1] * x + c[2] * x**2, which)
        return jnp.sum(share * jax.vmap(lambda x0, z: loss(net, process, target, x0, z, T))(grid, z))

    slopes = jax.jit(lambda c: (jax.grad(expected)(c), jax.hessian(expected)(c)))
    gradient, curvature = map(np.asarray, slopes(np.zeros(3)))
    np.testing.assert_allclose(gradient / np.diag(curvature), 0, atol=1e-9)
    assert abs(np.asarray(slopes(np.array([0.1, 0.0, 0.0]))[0])[0]) > 0.01


@pytest.mark.parametrize("name", TARGETS)
def test_for_the_exact_mean_both_are_the_posterior_variance(name, x64):
    target = TARGETS[name]
    at = exact(target, T)
    npr = variance.npr(net_of(at, target, T, which=1), SCHEDULE, target)
    sn = variance.sn(net_of(at, target, T, which=2), SCHEDULE, target)
    want = mixture().denoiser(SCHEDULE, with_var=True)
    *said, expected = jax.jit(lambda x, t: (npr(x, t), sn(x, t), want(x, t)))(np.array([0.37]), T)
    for found in said:
        np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_for_another_mean_npr_is_the_square_of_what_is_missed_and_sn_is_not(x64):
    """METHODS' case: N(0, 1/4), eps off by 1.2 eps + 0.1. The least Gaussian KL there is at 0.8277, not at 0.2448."""
    alpha2 = 0.0778
    t = float(SCHEDULE.inverse(np.log(alpha2 / (1 - alpha2))))
    alpha, sigma = amplitudes(VP_FORM, t)
    total = alpha2 / 4 + sigma**2
    best = lambda x: sigma / total * x
    unknown = alpha2 / 4 / total  # Var[z | x_t]

    def net(which, x, c):
        F = 1.2 * best(x) + 0.1
        u = unknown + ((best(x) - F) ** 2 if which == "npr" else best(x) ** 2)
        return jnp.concatenate([F, u], -1)

    xs, share = np.sqrt(total) * NODES, WEIGHTS / np.sqrt(2 * np.pi)
    npr = variance.npr(lambda x, c: net("npr", x, c), SCHEDULE, TARGETS["eps"], most=1e9)
    var = np.asarray(jax.jit(jax.vmap(lambda x: npr(x, t).var[0]))(xs[:, None]))
    assert np.sum(share * var) == pytest.approx(0.8277, abs=5e-5)
    assert sigma**2 / 4 / total == pytest.approx(0.2448, abs=5e-5)
    missed = (sigma / alpha) ** 2 * (unknown + (0.2 * best(xs) + 0.1) ** 2)
    np.testing.assert_allclose(var, missed, rtol=1e-9)
    squared = variance.sn(lambda x, c: net("sn", x, c), SCHEDULE, TARGETS["eps"], most=1e9)
    found = jax.jit(squared)(np.ones(1), t).var
    assert np.asarray(found) == [0]  # 1.2 eps is more than the square's mean: negative, clipped


def test_variances_stay_between_zero_and_the_most():
    for u, want in ((-3.0, 0.0), (50.0, 1.0)):
        net = lambda x, c: jnp.concatenate([x, jnp.full_like(x, u)], -1)  # noqa: B023
        assert np.asarray(jax.jit(variance.npr(net, SCHEDULE, TARGETS["v"]))(np.ones(1), T).var) == [want]
    with pytest.raises(ValueError, match="most = 0, expected a positive number"):
        variance.sn(net, SCHEDULE, TARGETS["v"], most=0)


def test_a_network_of_one_map_is_refused():
    process, one = processes.Gaussian(EDM()), lambda x, c: x
    x = jnp.ones(3)
    for call in (
        lambda: variance.npr(one, EDM(), TARGETS["edm"])(x, 1.0),
        lambda: losses.npr(one, process, TARGETS["edm"], x, x, 1.0),
        lambda: losses.sn(one, process, TARGETS["edm"], x, x, 1.0),
    ):
        with pytest.raises(ValueError, match=r"expected \(6,\): 2 map\(s\) per channel"):
            call()


def test_the_second_map_adds_less_than_three_percent_to_an_evaluation():
    """By XLA's count, on the digits' network."""
    flops = []
    for outputs in (1, 2):
        network = models.network(models.UNet(channels=16, outputs=outputs))
        shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((8, 8, 1)), jnp.zeros(()))
        compiled = jax.jit(network.apply).lower(shapes, jnp.zeros((8, 8, 1)), jnp.zeros(())).compile()
        flops.append(compiled.cost_analysis()["flops"])
    assert 1 < flops[1] / flops[0] < 1.03


def test_in_ddpms_step_the_variance_is_beta_tilde_and_gamma_squared_times_it(x64):
    """One step on a chain, its spread over many keys against sqrt(beta_tilde + gamma^2 var)."""
    from diffjax import samplers

    ts = [0.8, 0.3, 0.0]
    denoise = variance.npr(net_of(exact(TARGETS["v"], 0.8), TARGETS["v"], 0.8), SCHEDULE, TARGETS["v"])
    walk = samplers.sampling_fn(samplers.ancestral.ddpm(SCHEDULE), ts, trace=lambda x: x)
    x = np.array([0.2])
    first = jax.jit(jax.vmap(lambda key: walk(denoise, key, x)[1][0]))
    firsts = np.asarray(first(jax.random.split(jax.random.key(0), 20_000)))
    (a, s), (b, m) = (amplitudes(VP_FORM, t) for t in ts[:2])
    share = 1 - (a / s * m / b) ** 2
    want = m**2 * share + (b * share) ** 2 * float(np.asarray(jax.jit(denoise)(x, 0.8).var)[0])
    assert firsts.var() == pytest.approx(want, rel=0.03)
    assert chains.chain(SCHEDULE, ts).gain[0] == pytest.approx((b / m) ** 2 - (a / s) ** 2)
