"""NCSNv2's rules by SciPy, by definition and at the published figures; the ladder in grids, times, loss and configs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rows import laws
from scipy import stats
from scipy.spatial import distance

from diffjax import calculus, config, grids, losses
from diffjax.data import digits
from diffjax.denoisers import Eps, Score
from diffjax.losses import times, weights
from diffjax.processes import Gaussian
from diffjax.samplers import langevin
from diffjax.schedules import EDM, VE
from diffjax.theory import ladders
from diffjax.training import Keys

CIFAR = {"sigma_1": 50.0, "sigma_L": 0.01, "count": 232}
X, Z = np.random.default_rng(3).normal(size=(2, 3, 2))


def test_cifar_settings_have_the_published_overlap_and_variance():
    """Song & Ermon 2020: 0.567 of the mass, and 1.055 in place of 1."""
    gamma = ladders.ratio_of(**CIFAR)
    assert gamma == pytest.approx(5000 ** (1 / 231), rel=1e-14)
    shift = np.sqrt(2 * 3072) * (gamma - 1)
    phi = stats.norm.cdf(shift + 3 * gamma) - stats.norm.cdf(shift - 3 * gamma)
    assert ladders.overlap(gamma, 3072) == pytest.approx(phi, rel=1e-12)
    assert phi == pytest.approx(0.567, abs=5e-4)
    assert ladders.settled_variance(6.2e-6, 0.01, gamma, 5) == pytest.approx(1.055, abs=5e-4)


def test_the_published_eps_is_the_best_one():
    """By a fine scan of the paper's own expression, whose smallest value lies at 6.2e-6 to two digits."""
    gamma = ladders.ratio_of(**CIFAR)
    found = ladders.step_size(0.01, gamma, 5)
    assert f"{found:.1e}" == "6.2e-06"
    eps = np.geomspace(1e-7, 1e-4, 20_001)[:-1]
    e = eps / 0.01**2
    share = 2 * eps / (0.01**2 - 0.01**2 * (1 - e) ** 2)
    variance = (1 - e) ** 10 * (gamma**2 - share) + share
    assert found == pytest.approx(eps[variance.argmin()], rel=1e-3)
    assert ladders.settled_variance(found, 0.01, gamma, 5) == pytest.approx(variance.min(), rel=1e-7)


@pytest.mark.parametrize("steps", [1, 5, 40])
def test_settled_variance_is_that_of_the_sampler(steps, x64):
    """On one point: the law after the last level of NCSNv2's walk, from the level above."""
    gamma, sigma_L, eps = 1.7, 0.03, 2e-4
    sampler = langevin.annealed(EDM(), eps, steps, "ncsnv2")
    start = (gamma * sigma_L) ** 2
    _, variances = laws(sampler, np.array([gamma * sigma_L, sigma_L]), 0.4, 0.0, var=start)
    above = variances[steps - 1]  # where the first level left it, not quite gamma^2 sigma_L^2
    got = ladders.settled_variance(eps, sigma_L, np.sqrt(above) / sigma_L, steps)
    assert got * sigma_L**2 == pytest.approx(variances[-1], rel=1e-12)


@pytest.mark.parametrize("dim", [5, 64, 784, 3072, 196_608])
def test_ratio_is_the_root_of_its_criterion(dim):
    gamma = ladders.ratio(dim)
    shift = np.sqrt(2 * dim) * (gamma - 1)
    assert stats.norm.cdf(shift + 3 * gamma) - stats.norm.cdf(shift - 3 * gamma) == pytest.approx(0.5, abs=1e-10)
    assert ladders.ratio(dim, 0.6) < gamma


def test_overlap_counts_radii_within_three_sigmas_of_the_level_above():
    """|x| of N(0, s^2 I) is about N(sqrt(D) s, s^2 / 2); at s = 1 and gamma, by counting."""
    dim, gamma = 400, 1.1
    radii = np.sqrt(np.random.default_rng(0).chisquare(dim, 200_000))
    share = np.mean(np.abs(radii - np.sqrt(dim) * gamma) < 3 * gamma / np.sqrt(2))
    assert ladders.overlap(gamma, dim) == pytest.approx(share, abs=0.02)
    assert 0.2 < share < 0.8


def test_largest_distance_is_scipys():
    x = np.random.default_rng(0).normal(size=(57, 4, 3)) + 100
    for block in (1, 10, 1024):
        assert ladders.largest_distance(x, block) == pytest.approx(distance.pdist(x.reshape(57, -1)).max(), rel=1e-12)


def test_levels_count_both_ends():
    assert ladders.levels(50.0, 0.01, ladders.ratio_of(**CIFAR)) == 232
    assert ladders.levels(8.0, 1.0, 2.0) == 4
    assert ladders.levels(8.1, 1.0, 2.0) == 5
    assert ladders.ratio_of(8.0, 1.0, 4) == pytest.approx(2.0, rel=1e-15)


BAD = [
    (lambda: ladders.ratio_of(50.0, 0.01, 1), "levels = 1, expected .* at least 2 levels"),
    (lambda: ladders.ratio_of(0.01, 50.0, 10), "expected sigma_1 > sigma_L > 0"),
    (lambda: ladders.levels(50.0, 0.01, 1.0), r"ratio = 1\.0, expected .* a ratio > 1"),
    (lambda: ladders.levels(50.0, 0.0, 1.5), r"sigma_L = 0\.0"),
    (lambda: ladders.overlap(0.9, 64), r"ratio = 0\.9, dim = 64, expected a ratio > 1"),
    (lambda: ladders.ratio(64, 1.0), r"share = 1\.0, dim = 64, expected a share in \(0, 1\)"),
    (lambda: ladders.ratio(4), "dim = 4, expected a share .* dim >= 5"),
    (lambda: ladders.step_size(0.01, 1.0, 5), "expected sigma_L > 0, a ratio > 1 and steps >= 1"),
    (lambda: ladders.step_size(0.01, 1.1, 0), "steps = 0"),
    (lambda: ladders.settled_variance(3e-4, 0.01, 1.1, 5), r"expected 0 < eps < 2 sigma_L\^2"),
    (lambda: ladders.largest_distance(np.ones((1, 3))), "Got 1 examples, expected two or more"),
    (lambda: ladders.largest_distance([[0.0], [np.nan]]), "of finite values"),
    (lambda: grids.ladder(VE(), 1), "number of noise levels is 1, expected an integer >= 2"),
    (lambda: times.ladder(VE(), 1), "number of noise levels is 1"),
]


@pytest.mark.parametrize(("make", "message"), BAD)
def test_bad_input_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# The ladder elsewhere.


def test_the_ladder_of_ve_is_geometric():
    ts = grids.ladder(VE(), 10)
    _, sigma = calculus.amplitudes(VE(), ts)
    np.testing.assert_allclose(sigma, np.geomspace(50, 0.01, 10), rtol=1e-12)
    assert (ts[0], ts[-1]) == (1.0, 0.0)


def test_training_times_are_the_ladders_and_equally_likely():
    n, levels, schedule = 20_000, 5, VE(sigma_max=3.0)
    law, key = times.ladder(schedule, levels), jax.random.key(0)
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(n))
    ts = np.asarray(jax.vmap(lambda k, i: law(Keys(key, k), i, n))(keys, jnp.arange(n)))
    values, counts = np.unique(ts, return_counts=True)
    np.testing.assert_allclose(values, [0, 0.25, 0.5, 0.75, 1], atol=1e-7)
    assert stats.chisquare(counts).pvalue > 0.01


@pytest.mark.parametrize("sigma", [0.01, 0.3, 20.0])
def test_regression_is_the_loss_of_ncsn(sigma, x64):
    """1/2 sigma^2 |s(x + sigma z) + (x~ - x) / sigma^2|^2 (Song & Ermon 2019, eqs. 5 and 6), for a sum over D entries.

    By the score itself with weight `simple`, and by NCSNv2's s = -F / sigma with F = Eps and no weight.
    """
    net = lambda x, c: jnp.sin(2 * x) + 0.1 * c * jnp.cos(x) - 0.3
    noisy = X + sigma * Z
    x_in, c = noisy / np.sqrt(1 + sigma**2), -2 * np.log(sigma)
    s = np.sin(2 * x_in) + 0.1 * c * np.cos(x_in) - 0.3
    loss = lambda s: sigma**2 / 2 * np.sum((s + (noisy - X) / sigma**2) ** 2)
    args = Gaussian(EDM()), jnp.asarray(X), jnp.asarray(Z), sigma
    score = losses.regression(net, args[0], Score(), *args[1:], weights.simple())
    np.testing.assert_allclose(score, loss(s) * 2 / X.size, rtol=1e-9)
    eps = losses.regression(net, args[0], Eps(), *args[1:])
    np.testing.assert_allclose(eps, loss(-s / sigma) * 2 / X.size, rtol=1e-9)


def test_the_score_of_a_mixture_minimises_that_loss(x64):
    """At the exact score the derivative along any perturbation is 0; by Gauss-Hermite quadrature over x_0 and z."""
    w, m, v, sigma = np.array([0.3, 0.7]), np.array([-0.6, 0.5]), np.array([0.16, 0.25]), 0.7
    nodes, mass = np.polynomial.hermite_e.hermegauss(40)
    mass = mass / mass.sum()
    x0 = (m[:, None, None] + np.sqrt(v)[:, None, None] * nodes[:, None]) + 0 * nodes
    z = 0 * x0 + nodes
    mass = w[:, None, None] * mass[:, None] * mass
    x0, z, mass = (jnp.asarray(a.ravel()) for a in (x0, z, mass))

    def score(x):
        density = w * stats.norm.pdf(np.asarray(x)[..., None], m, np.sqrt(v + sigma**2))
        return np.sum(density * (m - np.asarray(x)[..., None]) / (v + sigma**2), -1) / density.sum(-1)

    exact = jnp.asarray(score(x0 + sigma * z))

    def expected_loss(size, bump):
        one = lambda x0, z, s: losses.regression(
            lambda x, c: s + size * bump(x), Gaussian(EDM()), Score(), x0, z, sigma, weights.simple()
        )
        return mass @ jax.vmap(one)(x0, z, exact)

    for bump in (jnp.sin, jnp.ones_like, lambda x: x**3, lambda x: jnp.exp(-((x - 0.3) ** 2))):
        slope, curve = jax.grad(expected_loss)(0.0, bump), jax.grad(jax.grad(expected_loss))(0.0, bump)
        assert abs(slope) < 1e-7 * curve
    assert abs(jax.grad(expected_loss)(0.1, jnp.sin)) > 1e-3


# The configs follow the rules.


def test_the_configs_of_the_digits_follow_the_rules():
    dataset = digits()
    x = dataset.train.gather(np.arange(len(dataset.train))).x
    distance = ladders.largest_distance(x)
    assert distance == pytest.approx(9.63, abs=5e-3)
    for name in ("ve", "ncsn"):
        recipe = config.load(f"configs/{name}.py")
        assert recipe.schedule.sigma_max == np.ceil(distance)
    assert recipe.grid.n == recipe.times.levels == ladders.levels(10.0, 0.01, ladders.ratio(64)) == 24
    gamma = ladders.ratio_of(10.0, 0.01, 24)
    assert recipe.sampler.eps == pytest.approx(ladders.step_size(0.01, gamma, recipe.sampler.steps), rel=0.01)
