"""Dirac-GAN: expectations are closed forms, plain recursions in NumPy, and numbers of an own DOP853 at rtol 1e-12.

At the end `training.make_step` plays them, by the method of GANs as it stands, in turns and both at once.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import signal
from scipy.special import expit

from diffjax import ema, models, training
from diffjax.method import Example
from diffjax.methods.estimates import Critic
from diffjax.methods.generators import Plain
from diffjax.methods.matching import Matching
from diffjax.theory import gan_dynamics as gan
from diffjax.theory import gan_landscape
from diffjax.theory.gan_dynamics import Point

ONE = Point(1.0, 1.0)
RATES = {  # of theta and phi, as functions of u: theta' = a(u) phi, phi' = -b(u) theta
    "saturating": (expit, expit),
    "non_saturating": (lambda u: expit(-u), expit),
    "wgan": (lambda u: 1.0, lambda u: 1.0),
}


def rates(name, theta, phi, r1=0.0, r2=0.0, gp=0.0, centre=0.0):
    """(theta', phi') by the closed form, in NumPy."""
    a, b = RATES[name]
    u = np.sum(theta * phi)
    pull = (r1 + r2) * phi + (2 * gp * (1 - centre / np.linalg.norm(phi)) * phi if gp else 0)
    return a(u) * phi, -b(u) * theta - pull


def recursion(name, start, h, steps, integrator, **penalties):
    """The last point of a plain recursion in NumPy."""
    theta, phi = map(np.asarray, start)
    for _ in range(steps):
        if integrator == "simultaneous":
            v, w = rates(name, theta, phi, **penalties)
            theta, phi = theta + h * v, phi + h * w
        else:
            phi = phi + h * rates(name, theta, phi, **penalties)[1]
            theta = theta + h * rates(name, theta, phi, **penalties)[0]
    return Point(theta, phi)


def norms(orbit):
    return np.sqrt(gan.square(orbit))


def apart(orbit, other):
    """The largest difference of the last point of an orbit from another point."""
    return max(np.abs(x[-1] - y).max() for x, y in zip(orbit, other))


@pytest.mark.parametrize("name", gan.GAMES)
def test_a_games_velocity_is_the_closed_form(name):
    rng = np.random.default_rng(0)
    at = Point(*rng.normal(size=(2, 3)))
    for weights in ({}, {"r1": 0.3, "r2": 0.5}, {"gp": 0.7, "centre": 1.0}, {"gp": 0.7, "r2": 0.1}):
        moved = gan.orbit(gan.game(name, **weights), at, 1.0, 1)
        for x, start, velocity in zip(moved, at, rates(name, *at, **weights)):
            np.testing.assert_allclose(x[1] - start, velocity, atol=1e-11)  # TINY's share


def test_eigenvalues_solve_the_quadratic():
    closed = {0.0: 0.5j, 0.5: -0.25 + 0.4330127j, 1.0: -0.5, 2.0: -0.1339746}
    for gamma, expected in closed.items():
        for penalties in ({"r1": gamma}, {"r1": gamma / 4, "r2": gamma / 4, "gp": gamma / 4}):
            s = gan.eigenvalues(gan.game("non_saturating", **penalties))
            np.testing.assert_allclose(s[-1], expected, atol=5e-8)
            np.testing.assert_allclose(s**2 + gamma * s + 0.25, 0, atol=1e-12)
    flat = gan.eigenvalues(gan.game("wgan", r1=1.0))
    plane = gan.eigenvalues(gan.game("wgan", r1=1.0), Point(np.zeros(2), np.zeros(2)))
    np.testing.assert_allclose(flat, [-0.5 - np.sqrt(0.75) * 1j, -0.5 + np.sqrt(0.75) * 1j], atol=1e-14)
    np.testing.assert_allclose(plane, np.repeat(flat, 2), atol=1e-7)


@pytest.mark.parametrize(
    ("gamma", "most"), [(0.0, 0.0), (0.1, 0.4), (0.5, 2.0), (0.9, 3.6), (2.0, 2 / 1.8660254037844386)]
)
def test_the_penalty_sets_the_largest_step(gamma, most):
    game = gan.game("saturating", r1=gamma)
    np.testing.assert_allclose(gan.largest_step(gan.eigenvalues(game)), most, rtol=1e-12, atol=1e-12)
    assert gan.growth(game, most + 1e-6) > 1
    if gamma:
        assert gan.growth(game, most - 1e-6) < 1


def test_what_a_step_multiplies_the_radius_by():
    game, h = gan.game("wgan"), 0.7
    np.testing.assert_allclose(gan.growth(game, h), np.sqrt(1 + h**2), rtol=1e-14)
    np.testing.assert_allclose(gan.growth(game, h, "rk4"), np.sqrt(1 - h**6 / 72 + h**8 / 576), rtol=1e-14)
    np.testing.assert_allclose(gan.growth(game, h, "alternating"), 1, rtol=1e-14)
    assert gan.growth(game, 2.1, "alternating") > 1.8
    half = gan.game("saturating")  # slope 1/2
    np.testing.assert_allclose(gan.growth(half, h, "rk4"), gan.growth(game, h / 2, "rk4"), rtol=1e-14)


ZERO_SUM = {  # from (1, 1), norms after 4000 steps of .05 and of .5
    "simultaneous": (2.703346, 5.677862),
    "alternating": (1.395678, 1.437630),
    "rk4": (1.4142135, 1.384489),
}


@pytest.mark.parametrize("integrator", ZERO_SUM)
def test_a_zero_sum_orbit_leaves_its_circle_by_the_integrator_alone(integrator):
    for h, expected in zip((0.05, 0.5), ZERO_SUM[integrator]):
        orbit = gan.orbit(gan.game("saturating"), ONE, h, 4000, integrator)
        np.testing.assert_allclose(norms(orbit)[-1], expected, atol=6e-7)
        if integrator != "rk4":
            assert apart(orbit, recursion("saturating", ONE, h, 4000, integrator)) < 1e-9


def test_a_non_saturating_game_converges_slowly_and_cycles_by_its_step_alone():
    ts, game = [0, 20, 200, 2000, 4000], gan.game("non_saturating")
    exact = norms(gan.flow(game, ONE, ts))
    np.testing.assert_allclose(exact[1:3], [0.575593, 0.198354], atol=6e-7)
    np.testing.assert_allclose(exact[4] ** 2 * 4000, 8, rtol=0.02)  # like 8 / tau
    simultaneous, alternating = (
        [norms(gan.orbit(game, ONE, h, 4000, integrator)) for h in (0.05, 0.5)]
        for integrator in ("simultaneous", "alternating")
    )
    np.testing.assert_allclose([simultaneous[0][-1], simultaneous[1][400]], [0.330239, 1.015117], atol=6e-7)
    np.testing.assert_allclose([alternating[0][-1], alternating[1][400]], [0.199022, 0.204516], atol=6e-7)
    assert simultaneous[1][2000:].min() > 0.95  # at tau of 1000 to 2000 a cycle, where the flow's radius is < .1
    assert exact[3] < 0.07
    with_r1 = [norms(gan.flow(gan.game("non_saturating", r1=gamma), ONE, ts))[1] for gamma in (0.1, 0.5, 1.0)]
    np.testing.assert_allclose(with_r1, [0.290871, 0.0105342, 0.00142763], rtol=3e-6)


def test_the_radius_of_a_non_saturating_game_falls_as_said():
    """d |.|^2 / d tau = -2 u tanh(u/2) - 2 gamma phi^2, by differences of the flow."""
    e, gamma = 1e-4, 0.3
    game = gan.game("non_saturating", r1=gamma)
    for start in (Point(1.5, -0.7), ONE):
        found = gan.flow(game, start, [0, 1 - e, 1, 1 + e, 2])
        u, phi = found.theta[2] * found.phi[2], found.phi[2]
        slope = (gan.square(found)[3] - gan.square(found)[1]) / (2 * e)
        np.testing.assert_allclose(slope, -2 * u * np.tanh(u / 2) - 2 * gamma * phi**2, rtol=1e-6)


def test_a_wasserstein_game_in_steps():
    game, start = gan.game("wgan"), Point(1.0, 0.0)
    rk4 = norms(gan.orbit(game, start, 1.0, 1000, "rk4"))[-1]
    np.testing.assert_allclose(rk4, (1 - 1 / 72 + 1 / 576) ** 500, rtol=1e-11)
    np.testing.assert_allclose(rk4, 0.00221254, rtol=2e-6)
    np.testing.assert_allclose(norms(gan.orbit(game, start, 0.1, 1000))[-1], 1.01**500, rtol=1e-11)
    kept = gan.ellipse(gan.orbit(game, start, 0.3, 1000, "alternating"), 0.3)
    assert np.abs(kept - 1).max() < 1e-14
    other = gan.ellipse(gan.orbit(game, start, 0.3, 1000, "alternating"), -0.3)  # that of the other order
    assert np.ptp(other) > 0.1


PLANE = Point([1.0, 0.3], [0.2, -0.7])
area = lambda at: at.theta[:, 0] * at.phi[:, 1] - at.theta[:, 1] * at.phi[:, 0]


def assert_games_in_the_plane(solve, ts, atol):
    """Nothing rotates; centre 0 converges, its area as exp(-2 gp tau); centre 1 ends on circles of radius 1."""
    free, zero, one = (solve(gan.game("wgan", gp=gp, centre=c)) for gp, c in ((0, 0), (1, 0), (1, 1)))
    rotated = np.outer(np.cos(ts), PLANE.theta) + np.outer(np.sin(ts), PLANE.phi)  # theta' = phi, phi' = -theta
    np.testing.assert_allclose(free.theta, rotated, atol=atol)
    np.testing.assert_allclose(area(free), area(free)[0], atol=atol)
    np.testing.assert_allclose(area(zero), area(zero)[0] * np.exp(-2 * ts), atol=atol)
    assert norms(zero)[-1] < 1e-12
    for part in one:
        np.testing.assert_allclose(np.linalg.norm(part[-1]), 1, atol=1e-9)
    late = one.phi[ts > ts[-1] - 6.5]
    assert np.ptp(late[:, 0]) > 1.9  # and goes round on it


def test_wasserstein_games_in_the_plane_in_small_steps():
    ts = 0.01 * np.arange(6001)
    assert_games_in_the_plane(lambda game: gan.orbit(game, PLANE, 0.01, 6000, "rk4"), ts, 1e-8)


@pytest.mark.slow  # two solvers that compile for seconds; the non-saturating game's is in every run
def test_the_flows_of_zero_sum_games():
    ts = np.linspace(0, 60, 601)
    assert_games_in_the_plane(lambda game: gan.flow(game, PLANE, ts), ts, 1e-10)
    found = gan.flow(gan.game("saturating"), ONE, np.linspace(0, 200, 5))
    np.testing.assert_allclose(norms(found), np.sqrt(2), rtol=1e-11)
    assert np.abs(found.theta[1:] - 1).min() > 1e-2  # it does move


@pytest.mark.parametrize(
    ("beta", "omega", "expected"), [(0.999, 0.05, 0.0200081), (0.99, 0.5, 0.0203075), (0.9, 0.05, 0.903525)]
)
def test_an_average_of_a_circle_is_a_smaller_circle(beta, omega, expected):
    circle = np.exp(1j * omega * np.arange(60_000))
    average = signal.lfilter([1 - beta], [1, -beta], circle)
    np.testing.assert_allclose(gan.ema_radius(beta, omega), np.abs(average[-1]), rtol=1e-11)
    np.testing.assert_allclose(gan.ema_radius(beta, omega), expected, rtol=1e-5)


LANDSCAPE = {  # data a, b: no hit, one, both on a, both modes
    "separable": (0, -0.693147, -0.954771, -1.386294),
    "fixed": (0, -0.346574, -0.346574, -0.693147),
    "all": (0, -0.173287, -0.346574, -0.693147),
}


@pytest.mark.parametrize("pairing", LANDSCAPE)
def test_the_landscape_against_the_best_critic(pairing):
    found = [gan_landscape.value("ab", fakes, pairing) for fakes in ("cd", "ad", "aa", "ab")]
    np.testing.assert_allclose(found, LANDSCAPE[pairing], atol=6e-7)
    assert gan_landscape.value("ab", "ba", pairing) == pytest.approx(found[3], abs=1e-9)
    # the separable one in closed form, for any shares: sum of p log(p/(p+q)) + q log(q/(p+q))
    p, q = np.array([2, 1, 0]) / 3, np.array([1, 0, 2]) / 3
    if pairing == "separable":
        p, q = p[p * q > 0], q[p * q > 0]
        closed = np.sum(p * np.log(p / (p + q)) + q * np.log(q / (p + q)))
        np.testing.assert_allclose(gan_landscape.value("aab", "acc", pairing), closed, rtol=1e-9)
    if pairing == "fixed":  # the other fake hits: a circle is not closed; a circle of three is
        assert gan_landscape.value("ab", "ca", pairing) == 0
        np.testing.assert_allclose(gan_landscape.value("abc", "bca", pairing), -np.log(2), rtol=1e-9)


def test_no_critic_of_a_grid_beats_the_best_one():
    """All critics with values -12, ..., 12 on four points: the best of them is near V, and none is above."""
    axis = np.linspace(-12, 12, 25)
    a, b, c, d = np.meshgrid(*[axis] * 4, indexing="ij")
    soft = lambda gap: -np.logaddexp(0, -gap)
    everywhere = (soft(a - a) + soft(a - c) + soft(b - a) + soft(b - c)) / 4
    assert -1e-3 < everywhere.max() - gan_landscape.value("ab", "ac", "all") <= 1e-9
    single = (soft(a) + soft(b) + soft(-a) + soft(-d)) / 2
    assert -1e-3 < single.max() - gan_landscape.value("ab", "ad", "separable") <= 1e-9


# --- played by training.make_step


def played(method, optimizer, rounds, start):
    """The players after `rounds` steps of make_step, on data that is 0."""
    params = {"generator": jnp.asarray([start.theta]), "critic": jnp.asarray([start.phi])}
    emas = ema.warm_up([0.9])
    step = training.make_steps(training.make_step(method, optimizer, emas))
    state = training.init_state(params, optimizer, emas, jax.random.key(0), method)
    batch = Example(np.zeros((rounds, len(method.turns), 1)))
    state = jax.jit(step, donate_argnums=0)(state, batch)[0]
    return Point(*(float(state.params[who][0]) for who in ("generator", "critic")))


PLAYED = {"saturating": (1.852204, 1.102537), "non_saturating": (0.511353, 0.380637)}  # at once, in turns
NAMES = {"saturating": "saturating", "non_saturating": "gan"}  # of h
BOTH = {"generator": optax.sgd(0.1), "critic": optax.sgd(0.1)}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", [pytest.param("saturating", marks=pytest.mark.slow), "non_saturating"])
def test_make_step_plays_the_game(name):
    """500 rounds of the library's own GAN from (1, .5) with h = .1 on data at 0: both at once, and in turns."""
    start = Point(1.0, 0.5)
    generator = Plain(models.from_function(lambda theta, z, c, given: theta + 0 * z, np.ones(1)))
    critic = models.from_function(lambda phi, x, c, given: phi * x, np.ones(1))
    estimate = Critic(critic, NAMES[name])
    for at_once, integrator, expected in zip((True, False), ("simultaneous", "alternating"), PLAYED[name]):
        method = Matching(generator, estimate, simultaneous=at_once).method()
        found = played(method, BOTH, 500, start)
        np.testing.assert_allclose(found, recursion(name, start, 0.1, 500, integrator), atol=1e-14)
        np.testing.assert_allclose(np.hypot(*found), expected, atol=6e-7)


# --- bad input


def test_refuses_bad_input_in_one_line():
    cases = [
        (lambda: gan.game("gan"), r"^Got the game 'gan', expected one of non_saturating, saturating, wgan\.$"),
        (lambda: gan.game("wgan", r1=-0.1), r"^Got r1 = -0\.1, expected a finite number >= 0"),
        (lambda: gan.game("wgan", gp=1, centre=np.nan), r"^Got centre = nan, expected a finite number >= 0"),
        (lambda: gan.orbit(gan.game("wgan"), ONE, 0.0, 1), r"^h is 0\.0, expected a positive number\.$"),
        (lambda: gan.orbit(gan.game("wgan"), ONE, 0.1, 0), r"^steps is 0, expected an integer >= 1\.$"),
        (
            lambda: gan.orbit(gan.game("wgan"), ONE, 0.1, 1, "euler"),
            r"^Got the integrator 'euler', expected one of alternating, rk4, simultaneous; `flow` is exact\.$",
        ),
        (lambda: gan.growth(gan.game("wgan"), -1.0), r"^h is -1\.0, expected a positive number\.$"),
        (
            lambda: gan.flow(gan.game("wgan"), ONE, [1.0, 0.0]),
            r"^Got times \[1\. 0\.\], expected two or more that rise",
        ),
        (lambda: gan.flow(gan.game("wgan"), ONE, [0.0, 1.0], 0), r"^rtol is 0, expected a positive number\.$"),
        (lambda: gan.flow(gan.game("wgan"), Point(1.0, [1.0]), [0, 1]), r"^Got the point \(1\.0, \[1\.0\]\), expected"),
        (lambda: gan.orbit(gan.game("wgan"), Point(1.0, np.inf), 0.1, 1), r"^Got the point \(1\.0, inf\), expected"),
        (
            lambda: gan.eigenvalues(gan.game("wgan", gp=1, centre=1)),
            r"^At phi = 0 the penalty of centre 1\.0 has a kink",
        ),
        (lambda: gan.ema_radius(1.0, 0.1), r"^Got beta = 1\.0, expected a decay in \[0, 1\)\.$"),
        (lambda: gan_landscape.value("ab", "aa", "some"), r"^Got the pairing 'some', expected one of all, fixed, sep"),
        (lambda: gan_landscape.value("ab", "a"), r"^Got 2 data points and 1 fakes, expected equally many"),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=message) as error:
            call()
        assert "\n" not in str(error.value)
