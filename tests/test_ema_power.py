"""Power-function averages against explicit weights, and reconstruction against averaging the trajectory itself."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, optimize

from diffjax import ema
from diffjax.ema.power_function import combination, exponent, width_of

TRACKED = (0.05, 0.1)


def profile(gamma, n):
    """The weight of each of n parameters: (k / n)^(gamma + 1) grows by it at k."""
    return np.diff((np.arange(n + 1) / n) ** (gamma + 1))


@functools.cache
def trajectories(n):
    """What training does to a parameter: four smooth courses, four random walks, four courses of white noise."""
    rng, k = np.random.default_rng(0), np.arange(1, n + 1) / n
    smooth = np.stack([np.exp(-3 * k), np.sin(5 * k) + 2, k**0.5, k**3], 1)
    walk = 1 + np.cumsum(rng.normal(size=(n, 4)), 0) / np.sqrt(n)
    return {"smooth": smooth, "walk": walk, "noise": 1 + rng.normal(size=(n, 4))}


@pytest.mark.parametrize("gamma", [0.0, 1.0, 6.94, 16.97, 200.0])
def test_width_is_the_profiles_standard_deviation(gamma):
    density = lambda u: (gamma + 1) * u**gamma
    mean, second = (integrate.quad(lambda u, k=k: u**k * density(u), 0, 1, epsabs=1e-13)[0] for k in (1, 2))
    np.testing.assert_allclose(width_of(gamma), np.sqrt(second - mean**2), rtol=1e-7)


@pytest.mark.parametrize("width", [0.001, 0.05, 0.1, 0.25, 0.2886])
def test_exponent_has_that_width(width):
    root = optimize.brentq(lambda g: np.sqrt((g + 1) / (g + 2) ** 2 / (g + 3)) - width, 0, 2000, xtol=1e-13, rtol=1e-14)
    np.testing.assert_allclose(exponent(width), root, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(width_of(exponent(width)), width, rtol=1e-12)


@pytest.mark.parametrize("n", [1, 2, 9, 200])
def test_average_is_the_explicit_weighted_sum(x64, n):
    path = np.random.default_rng(1).normal(size=(n + 1, 3))
    rule = ema.power(TRACKED)
    update = jax.jit(rule.update)
    state = rule.init(jnp.asarray(path[0]))
    for params in path[1:]:
        state = update(state, params)
    for width in TRACKED:
        w = profile(exponent(width), n)
        np.testing.assert_allclose(w.sum(), 1, rtol=1e-14)
        np.testing.assert_allclose(state.averages[str(width)], w @ path[1:], rtol=1e-13, atol=1e-14)
        decay = (n / (n + 1)) ** (exponent(width) + 1)
        np.testing.assert_allclose(rule.decays(state)[str(width)], decay, rtol=1e-13, atol=1e-15)


def test_rates_keep_their_precision_in_float32():
    rule = ema.power([0.1])
    state = rule.init(jnp.float32(0))._replace(count=jnp.int32(3_000_000 - 1))
    expected = -np.expm1((exponent(0.1) + 1) * np.log1p(-1 / 3e6))
    np.testing.assert_allclose(rule.update(state, jnp.float32(1)).averages["0.1"], expected, rtol=1e-6)


def storing(n, storings):
    """The counts at which averages are stored."""
    return np.linspace(0, n, storings + 1)[1:].astype(int)


@functools.cache
def stored(course, n, storings, tracked=TRACKED):
    """(S, W, 4): the tracked averages of a course of n steps after each of the counts, by their explicit weights."""
    path, counts = trajectories(n)[course], storing(n, storings)
    return np.stack([[profile(exponent(w), c) @ path[:c] for w in tracked] for c in counts])


def error(course, storings, width, n=2048, columns=slice(None)):
    """Of the reconstruction, relative to the average of the trajectory itself."""
    path = trajectories(n)[course][:, columns]
    weights = combination(storing(n, storings), [exponent(w) for w in TRACKED], exponent(width))
    got = np.einsum("sw,swd->d", weights, stored(course, n, storings)[:, :, columns])
    expected = profile(exponent(width), n) @ path
    return np.abs(got - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize("width", [0.02, 0.03, 0.075, 0.15])
def test_reconstruction_is_the_average_of_the_trajectory(width):
    """Narrower, between and wider than what was tracked; 1e-6 with 256 storings of a smooth course."""
    assert error("smooth", 256, width) < 1e-6
    assert error("walk", 512, width) < 1e-6
    assert error("noise", 1024, width) < 1e-6


def test_error_falls_with_the_fourth_power_of_the_number_of_storings():
    found = [error("smooth", storings, 0.075, columns=[0, 1, 3]) for storings in (16, 32, 64, 128)]
    np.testing.assert_allclose(np.log2(np.divide(found[:-1], found[1:])), 4, atol=0.2)


@pytest.mark.parametrize("width", [0.03, 0.075, 0.2])
@pytest.mark.parametrize("counts", [[1000], [200, 1000], [100, 300, 350, 700, 800, 1000]])
def test_combination_is_the_published_least_squares_fit(width, counts):
    """Algorithm 3: the inner products of all profiles, the linear system of all storings, the sum made 1."""
    wanted, tracked = exponent(width), [exponent(w) for w in TRACKED]
    all_profiles = [(g, t) for t in counts for g in tracked]

    def inner(a, b):  # of (g + 1) tau^g / t^(g + 1) on [0, t], on a common clock of length 1
        (g, t), (h, s) = (a[0], a[1] / counts[-1]), (b[0], b[1] / counts[-1])
        first = min(t, s)
        return (g + 1) * (h + 1) * first ** (g + h + 1) / (t ** (g + 1) * s ** (h + 1) * (g + h + 1))

    gram = np.array([[inner(a, b) for b in all_profiles] for a in all_profiles])
    expected = np.linalg.solve(gram, [inner(a, (wanted, counts[-1])) for a in all_profiles])
    got = combination(counts, tracked, wanted)
    np.testing.assert_allclose(got.ravel(), expected / expected.sum(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("tracked", [(0.05,), (0.05, 0.1), (0.02, 0.08, 0.2)])
def test_a_tracked_width_is_the_last_storing_itself(tracked):
    counts, gammas = [10, 40, 50, 75], [exponent(w) for w in tracked]
    for i, gamma in enumerate(gammas):
        expected = np.zeros((4, len(tracked)))
        expected[-1, i] = 1
        np.testing.assert_allclose(combination(counts, gammas, gamma), expected, atol=1e-9)


def test_weights_sum_to_one_and_stay_small():
    """What single precision rounds in a stored average stays what it is."""
    counts = np.arange(1, 401) * 1000
    for width in (0.03, 0.075, 0.2):
        weights = combination(counts, [exponent(w) for w in TRACKED], exponent(width))
        np.testing.assert_allclose(weights.sum(), 1, rtol=1e-12)
        assert np.abs(weights).sum() < 20


def test_a_rule_combines_by_name():
    weights = ema.power(TRACKED).combine("0.075", [5, 10])
    expected = combination([5, 10], [exponent(w) for w in TRACKED], exponent(0.075))
    np.testing.assert_array_equal(np.stack([weights["0.05"], weights["0.1"]], 1), expected)
    assert ema.warm_up([0.9]).combine is None


def test_compiles_and_owns_its_buffers():
    params = {"w": jnp.ones(3, jnp.bfloat16)}
    rule = ema.power(TRACKED)
    state = jax.jit(rule.update)(jax.jit(rule.init)(params), params)
    assert {leaf.dtype for leaf in jax.tree.leaves(state.averages)} == {jnp.dtype("float32")}
    assert int(state.count) == 1


@pytest.mark.parametrize("widths", [[0.0], [-0.1], [0.2887], [0.05, 0.5], [float("nan")]])
def test_refuses_widths_out_of_range(widths):
    with pytest.raises(ValueError, match=r"expected a number between 0 and 0\.2887"):
        ema.power(widths)


def test_refuses_what_is_no_list_of_widths():
    with pytest.raises(ValueError, match="each of them once"):
        ema.power([0.1, 0.10])
    with pytest.raises(ValueError, match="one or more"):
        ema.power([])
    with pytest.raises(ValueError, match=r"'wide', expected a width such as 0\.05"):
        ema.power(TRACKED).combine("wide", [1])


@pytest.mark.parametrize("counts", [[], [0, 5], [5, 5], [7, 3]])
def test_refuses_counts_that_do_not_rise(counts):
    with pytest.raises(ValueError, match="rising positive numbers"):
        combination(counts, [1.0, 2.0], 1.5)
