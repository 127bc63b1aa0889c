"""n random points in a sector (kexue 9324): a law known in rationals, for draws by seed and what they estimate.

n points on a circle lie in a sector of the angle theta where the largest gap between neighbours is at least x = 1 -
theta / 2 pi of the circle. Of n gaps, which sum to 1, those that are >= x are counted by inclusion and exclusion:

    P = sum_{k >= 1, k x < 1} (-1)^(k - 1) C(n, k) (1 - k x)^(n - 1),    n (theta / 2 pi)^(n - 1) for theta <= pi.

Beyond pi that last formula is no probability: it is 1.54 at n = 3, theta = 4.5. The sum cancels: it is taken in
`Fraction`s.
"""

from fractions import Fraction
from math import comb

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax import draws
from diffjax.method import Method, keys_of

MOST = 5
CASES = [(4, Fraction(1, 2)), (5, Fraction(1, 4)), (4, Fraction(3, 5)), (3, Fraction(4, 5))]  # n, theta / 2 pi
WORTH = [Fraction(1, 2), Fraction(5, 256), Fraction(102, 125), Fraction(1)]


def probability(n, theta):
    """P by inclusion and exclusion; theta: the angle over 2 pi, a Fraction."""
    x = 1 - theta
    terms = ((-1) ** (k - 1) * comb(n, k) * (1 - k * x) ** (n - 1) for k in range(1, n + 1) if k * x < 1)
    return sum(terms, Fraction(0))


def draw(params, request, key, given):
    """Whether params.n points lie in a sector of params.theta: points beyond the n-th stand on the first."""
    at = jax.random.uniform(key, (MOST,))
    at = jnp.sort(jnp.where(jnp.arange(MOST) < params["n"], at, at[0]))
    gaps = jnp.append(jnp.diff(at), 1 - at[-1] + at[0])
    return (gaps.max() >= 1 - params["theta"]).astype(jnp.float32)


METHOD = Method(lambda key, example: {}, (), draw)
DRAWER = draws.drawer(METHOD, (), 1 << 15)


def drawn(n, theta, seeds, drawer=DRAWER):
    return np.asarray(drawer({"n": np.int32(n), "theta": np.float32(theta)}, seeds, {}), np.float64)


def test_the_law_in_rationals():
    assert [probability(*case) for case in CASES] == WORTH
    for n in range(2, 9):
        for theta in (Fraction(1, 7), Fraction(1, 3), Fraction(1, 2)):
            assert probability(n, theta) == n * theta ** (n - 1)
        assert probability(n, Fraction(n - 1, n)) == 1  # some gap is at least 1 / n
    assert probability(2, Fraction(5, 8)) == 1 < 2 * Fraction(5, 8)
    assert probability(3, Fraction(5, 8)) == 3 * Fraction(5, 8) ** 2 - 3 * Fraction(1, 4) ** 2


@pytest.mark.parametrize("case", CASES)
def test_an_estimate_lies_within_its_standard_errors(case):
    """Four of them, 65,536 draws."""
    found, p = drawn(*case, range(1 << 16)), float(probability(*case))
    error = np.sqrt(p * (1 - p) / len(found))
    assert abs(found.mean() - p) <= 4 * error
    assert abs(found.std() / np.sqrt(len(found)) - error) <= 0.1 * error


def test_four_standard_errors_fail_as_seldom_as_they_should():
    """1,000 estimates of 200 draws each, seeds that follow each other: below 1 %, and as wide as independent draws."""
    (n, theta), p = CASES[2], float(WORTH[2])
    means = drawn(n, theta, range(200_000)).reshape(1000, 200).mean(1)
    error = np.sqrt(p * (1 - p) / 200)
    assert np.mean(np.abs(means - p) > 4 * error) < 0.01
    assert means.std() == pytest.approx(error, rel=0.09)  # four standard errors of a standard deviation
    assert abs(np.corrcoef(means[:-1], means[1:])[0, 1]) < 0.13


def test_a_seed_has_one_draw_whatever_the_chunk():
    seeds = [*range(3, 60), 7, 100_000]
    whole = drawn(5, 0.5, seeds)
    assert 0 < whole.mean() < 1
    assert whole[4] == whole[57]  # seed 7 twice
    for chunk in (1, 8, 64):
        np.testing.assert_array_equal(drawn(5, 0.5, seeds, draws.drawer(METHOD, (), chunk)), whole)
    np.testing.assert_array_equal(drawn(5, 0.5, seeds[::-1])[::-1], whole)


def test_keys_by_place_are_those_of_the_whole_batch():
    whole = keys_of(jax.random.key(0), jnp.arange(12))
    parts = [keys_of(jax.random.key(0), jnp.arange(i, i + 4)) for i in (0, 4, 8)]
    bits = jax.random.key_data
    np.testing.assert_array_equal(np.concatenate([bits(part.example) for part in parts]), bits(whole.example))
    assert all(np.array_equal(bits(part.step), bits(whole.step)) for part in parts)
    assert len(np.unique(bits(whole.example), axis=0)) == 12
