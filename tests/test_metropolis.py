"""Metropolis-corrected Langevin and Hamiltonian steps against NumPy, closed forms and an exact product of mixtures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax import analytic, denoisers, grids
from diffjax.denoisers import Eps, composition
from diffjax.samplers import metropolis, nfe, sampling_fn
from diffjax.schedules import EDM, VE, VP
from diffjax.types import pytree

exact = pytest.mark.usefixtures("x64")
N = 400


@pytree
class Well:
    """E = x^4 / 4 - x^2 at every level: a double well."""

    schedule: object

    def energy_gradient(self, x, t):
        return jnp.sum(x**4 / 4 - x**2), x**3 - 2 * x


ENERGY, SLOPE = lambda x: x**4 / 4 - x**2, lambda x: x**3 - 2 * x


@exact
@pytest.mark.parametrize("leapfrog", [1, 3])
def test_moves_and_tests_are_the_published_ones(leapfrog):
    """Each proposal, and whether it is taken, by the formulas of MALA (L = 1) and of HMC in NumPy, for many x."""
    schedule, step = EDM(), 0.3
    sampler = metropolis.hmc(schedule, step, leapfrog, steps=1, denoise=False)
    rows = sampler.plan(np.asarray([0.9, 0.8]))
    h = step * 0.9**2
    np.testing.assert_allclose(rows.step[: leapfrog + 1], [0.0] + [np.sqrt(2 * h)] * leapfrog, rtol=1e-14)
    x = np.random.default_rng(0).normal(size=N) * 1.5
    keys = jax.vmap(lambda i: jax.random.split(jax.random.fold_in(jax.random.key(3), i), leapfrog + 1))(jnp.arange(N))

    @jax.jit
    @jax.vmap
    def walk(x, keys):
        state = metropolis.start(x)
        for i in range(leapfrog + 1):
            row = jax.tree.map(lambda a, i=i: jnp.asarray(a[i]), rows)
            state = metropolis.metropolis_step(Well(schedule), keys[i], state, row)
        split = jax.random.split(keys[1])[0]
        test = jax.random.split(keys[leapfrog])[1]
        return state, jax.random.normal(split, (), float), jax.random.uniform(test, (), float)

    state, z, u = jax.tree.map(np.asarray, walk(jnp.asarray(x), keys))
    if leapfrog == 1:
        moved = x - h * SLOPE(x) + np.sqrt(2 * h) * z
        back, forth = x - moved + h * SLOPE(moved), moved - x + h * SLOPE(x)
        log_ratio = ENERGY(x) - ENERGY(moved) + (forth**2 - back**2) / (4 * h)
    else:
        moved, r, delta = x, z, np.sqrt(2 * h)
        for _ in range(leapfrog):
            r = r - delta / 2 * SLOPE(moved)
            moved = moved + delta * r
            r = r - delta / 2 * SLOPE(moved)
        log_ratio = ENERGY(x) + z**2 / 2 - ENERGY(moved) - r**2 / 2
    taken = np.log(u) < log_ratio
    assert 20 < taken.sum() < N - 20
    np.testing.assert_array_equal(state.accepted, taken)
    np.testing.assert_allclose(state.x, np.where(taken, moved, x), rtol=1e-11)
    np.testing.assert_allclose(state.at.E, ENERGY(np.where(taken, moved, x)), rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(state.at.gradient, SLOPE(np.where(taken, moved, x)), rtol=1e-9, atol=1e-11)


FIRST = ((0.4, 0.6), (-1.0, 1.2), (0.3, 0.2))
SECOND = ((0.7, 0.3), (-0.5, 1.0), (0.4, 0.5))
SCHEDULE = EDM()
TS = np.asarray([0.3001, 0.3])
CHAINS = 3000
walks = jax.jit(
    lambda sample, model, keys, x: jax.vmap(sample, in_axes=(None, 0, 0))(model, keys, x), donate_argnums=()
)


def mixture(of, schedule=SCHEDULE):
    weights, means, variances = (np.asarray(a) for a in of)
    return analytic.gaussian_mixture(weights, means[:, None], variances).denoiser(schedule)


def density(of, x, sigma):
    weights, means, variances = (np.asarray(a)[:, None] for a in of)
    total = variances + sigma**2
    return np.sum(weights * np.exp(-((x - means) ** 2) / 2 / total) / np.sqrt(total), 0)


def draw(sampler, model, seed=0, trace=None):
    keys = jax.random.split(jax.random.key(seed), CHAINS)
    return walks(sampling_fn(sampler, TS, trace), model, keys, jax.random.normal(keys[0], (CHAINS, 1)))


accepted = lambda state: state.accepted


def test_a_product_is_sampled_exactly_and_without_the_test_it_is_not():
    """The law of long chains at one level, over bins; h = .27 is large enough to see what the test corrects."""
    model = composition.product(mixture(FIRST), mixture(SECOND))
    edges = np.linspace(-3, 3, 25)
    fine = np.linspace(-3, 3, 24 * 40 + 1)
    middle = (fine[1:] + fine[:-1]) / 2
    p = (density(FIRST, middle, 0.3) * density(SECOND, middle, 0.3)).reshape(24, 40).sum(1)
    p = p / p.sum()
    noise = np.sum(np.sqrt(2 * p / np.pi / CHAINS)) / 2  # of the total variation of as many exact draws

    def total_variation(correct):
        sampler = metropolis.mala(SCHEDULE, step=1.9, steps=40, denoise=False, correct=correct)
        x, taken = draw(sampler, model, trace=accepted)
        q = np.histogram(np.asarray(x), edges)[0] / CHAINS
        return np.abs(p - q).sum() / 2, np.mean(taken[:, -1]) / 80

    right, rate = total_variation(True)
    wrong, all_of_them = total_variation(False)
    assert right < 1.6 * noise < 0.05
    assert 0.5 < rate < 0.95
    assert all_of_them == 1
    assert wrong > 3 * right


@pytest.mark.parametrize(("h", "rate"), [(0.1, 0.992883), (0.5, 0.920833), (1.0, 0.783653)])
def test_mean_acceptance_on_a_gaussian(h, rate):
    """1 + (2 / pi) arcsin(rho) on N(0, 1), from exact draws: x_t of data of variance 1 - sigma^2."""
    rho = -(h**2) / np.sqrt((2 + h**2) ** 2 - 4 * (1 - h) ** 2)
    np.testing.assert_allclose(1 + 2 / np.pi * np.arcsin(rho), rate, atol=5e-7)
    model = mixture(((1.0,), (0.0,), (1 - 0.3**2,)))
    sampler = metropolis.mala(SCHEDULE, step=h / 0.09 if h < 0.18 else 1.9, steps=40, denoise=False)
    rows = sampler.plan(TS)
    rows = rows._replace(step=np.where(rows.step > 0, np.sqrt(2 * h), 0))  # beyond what data's scale allows
    sampler = sampler._replace(plan=lambda ts: rows)
    _, taken = draw(sampler, model, trace=accepted)
    np.testing.assert_allclose(np.mean(taken[:, -1]) / 80, rate, atol=4 * np.sqrt(rate * (1 - rate) / CHAINS / 40))


def test_a_level_costs_its_evaluations_and_the_last_mean_none():
    schedule, ts = VE(), grids.ladder(VE(), 5)
    for denoise in (False, True):
        assert nfe(sampling_fn(metropolis.mala(schedule, 0.3, 7, denoise), ts)) == 5 * 8
        assert nfe(sampling_fn(metropolis.hmc(schedule, 0.1, 3, 2, denoise), ts)) == 5 * 7
    rows, raw = (metropolis.mala(VP(), 0.3, 2, denoise).plan(np.asarray([0.9, 0.2])) for denoise in (True, False))
    alpha, sigma = (float(a) for a in VP()(0.2))
    np.testing.assert_allclose([rows.scale[-1], rows.shrink[-1]], [1 / alpha, sigma**2], rtol=1e-5)
    assert np.all(raw.scale == 1)
    assert np.all(raw.shrink == 0)


def test_the_last_mean_is_tweedies():
    """The same draws, moved by the mean at the last level."""
    model = mixture(FIRST)
    raw, mean = (
        draw(metropolis.mala(SCHEDULE, 1.0, 40, denoise), model, trace=accepted)[0] for denoise in (False, True)
    )
    expected = jax.vmap(lambda x: model(x, 0.3).mean)(raw)
    np.testing.assert_allclose(mean, expected, rtol=1e-4, atol=1e-5)


PLAIN = denoisers.denoiser(lambda x, c: x, EDM(), Eps())
REFUSED = {
    "step": (lambda: metropolis.mala(VP(), 2.0), "step is 2.0 sigma.2, expected 0 < step < 2"),
    "nothing": (lambda: metropolis.mala(VP(), 0.0), "expected 0 < step < 2"),
    "leapfrog": (lambda: metropolis.hmc(VP(), leapfrog=0), "leapfrog"),
    "steps": (lambda: metropolis.mala(VP(), steps=0), "steps"),
    "zero": (
        lambda: sampling_fn(metropolis.mala(VP()), grids.uniform(VP(), 3)),
        r"no energy at t = 0.*grid.zero=False",
    ),
    "no signal": (lambda: metropolis.mala(Flat()).plan(np.asarray([1.0, 0.5])), "alpha = 0; start below"),
    "no energy": (
        lambda: sampling_fn(metropolis.mala(SCHEDULE), TS)(PLAIN, jax.random.key(0), jnp.zeros(2)),
        "accepts by an energy, but NetworkDenoiser knows none; a network that is no gradient",
    ),
}


@pytree
class Flat:
    """alpha = 1 - t."""

    t_max: float = 1.0

    def __call__(self, t):
        return 1 - t, jnp.ones_like(t)


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_one_line(name):
    call, line = REFUSED[name]
    with pytest.raises(ValueError, match=line) as error:
        call()
    assert "\n" not in str(error.value)
