"""Pursuit curve and solar furnace (kexue 1045; Bouguer 1732): ODEs with an event, whose time is known exactly.

A pursuer at speed k v runs from the distance D straight at a target that crosses at speed v. With x the distance to the
target's line and p = dy/dx the slope of the pursuer's way, which points at the target, y - v t = x p. So x p' is
-v dt/dx = sqrt(1 + p^2) / k, hence p = sinh(log(x / D) / k), and separation and arc are

    rho = x sqrt(1 + p^2) = (x^(1 - 1/k) D^(1/k) + x^(1 + 1/k) D^(-1/k)) / 2,    s = int_0^x rho / u du,

at the time (s(D) - s(x)) / k v: capture at D k / (v (k^2 - 1)). The level rho = epsilon is reached earlier, by
epsilon / (v (k - 1)) to first order: an event is compared with the exact time *to epsilon*. The mirror that gathers
parallel light at the origin solves y' = (sqrt(x^2 + y^2) - x) / y, y^2 = 2 c x + c^2.

The library has no events. Its own walk, `samplers.ode.probability_flow` on a field by `denoisers.flow`, is stopped at
the exact time and has to stand on the level; diffrax, which it is made of, has to find the time by an event.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, optimize

from diffjax import denoisers
from diffjax.calculus import FlowOnly
from diffjax.samplers import ode, sampling_fn
from diffjax.schedules import Rectified

RTOL = 1e-9
CHASES = [(2.0, 1.0, 1e-6), (1.5, 1.0, 1e-3), (3.0, 2.5, 1e-2)]  # k, D, epsilon; v = 1
AWAY = 0.25  # the time of `Rectified` at which a walk ends: at 0 a flow has no velocity


def rho(k, D, x):
    """The separation at the distance x from the target's line."""
    return (x ** (1 - 1 / k) * D ** (1 / k) + x ** (1 + 1 / k) * D ** (-1 / k)) / 2


def place(k, D, eps):
    """The distance x from the target's line where rho(x) = eps, a root that is sought in log x."""
    if not (k > 1 and 0 < eps < D):
        raise ValueError(f"Got k = {k}, eps = {eps}, D = {D}; a capture needs k > 1 and 0 < eps < D.")
    return np.exp(optimize.brentq(lambda u: np.log(rho(k, D, np.exp(u)) / eps), -600, np.log(D), xtol=1e-14))


def exact(k, D, eps):
    """The time until the separation is eps."""
    x_end = place(k, D, eps)
    s = lambda x: (D ** (1 / k) * x ** (1 - 1 / k) / (1 - 1 / k) + D ** (-1 / k) * x ** (1 + 1 / k) / (1 + 1 / k)) / 2
    return (s(D) - s(x_end)) / k


def towards(k, r):
    """The velocity of the pursuer relative to its target; r (2,) is where it stands, seen from the target."""
    return -k * r / jnp.linalg.norm(r) - jnp.array([0.0, 1.0])


# The exact time; no XLA.


@pytest.mark.parametrize(("k", "D", "eps"), CHASES)
def test_the_exact_time_is_that_of_the_equations_of_motion(k, D, eps):
    """By SciPy, with an event of its own; and the two limits of the text."""
    event = lambda t, r: np.hypot(*r) - eps
    event.terminal = True
    field = lambda t, r: -k * r / np.hypot(*r) - np.array([0.0, 1.0])
    found = integrate.solve_ivp(field, (0, 20), [D, 0.0], "DOP853", events=event, rtol=1e-12, atol=1e-14)
    assert found.t_events[0][0] == pytest.approx(exact(k, D, eps), rel=1e-9)
    assert D * k / (k**2 - 1) - exact(k, D, eps) == pytest.approx(eps / (k - 1), rel=0.05)


def test_two_numbers_and_three_speeds():
    """Equally fast it comes up to D / 2; slower, rho has a minimum, at (x / D)^(2 / k) = (1 - k) / (1 + k)."""
    assert exact(2.0, 1.0, 1e-6) == pytest.approx(0.6666656667, abs=5e-11)
    assert exact(1.5, 1.0, 1e-3) == pytest.approx(1.198, abs=2e-5)
    assert rho(1.0, 0.8, 1e-9) == pytest.approx(0.4)
    k, D = 0.5, 1.3
    least = D * ((1 - k) / (1 + k)) ** (k / 2)
    assert rho(k, D, least) < min(rho(k, D, 0.999 * least), rho(k, D, 1.001 * least))
    for bad in ((2.0, 1.0, 0.0), (1.0, 1.0, 0.1), (2.0, 1.0, 1.0)):
        with pytest.raises(ValueError, match="a capture needs k > 1 and 0 < eps < D"):
            exact(*bad)


# By diffrax.


def until(field, level, start, t_max, args):
    """Integrates d state / dt = field(state, args) until level(state, args) is 0: (time, state, whether it was)."""
    diffrax, optimistix = pytest.importorskip("diffrax"), pytest.importorskip("optimistix")
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(lambda t, state, args: field(state, args)),
        diffrax.Tsit5(),
        0.0,
        t_max,
        None,
        start,
        args,
        stepsize_controller=diffrax.PIDController(RTOL, RTOL),
        event=diffrax.Event(lambda t, y, args, **_: level(y, args), optimistix.Newton(1e-12, 1e-12)),
        max_steps=4096,
    )
    return solution.ts[-1], solution.ys[-1], solution.event_mask


@jax.jit
def chase(k, D, eps, t_max):
    """The pursuer from (D, 0) relative to its target, v = 1."""
    level = lambda r, args: jnp.linalg.norm(r) - args[1]
    return until(lambda r, args: towards(args[0], r), level, jnp.array([D, 0.0]), t_max, (k, eps))


@pytest.mark.slow
@pytest.mark.parametrize(("k", "D", "eps"), CHASES)
def test_the_event_comes_at_the_exact_time_to_its_level(k, D, eps, x64):
    time, r, caught = chase(k, D, eps, 20.0)
    assert bool(caught)
    assert float(time) == pytest.approx(exact(k, D, eps), rel=10 * RTOL)
    assert float(jnp.linalg.norm(r)) == pytest.approx(eps, rel=1e-5)


@pytest.mark.slow
def test_without_an_event_the_walk_ends_at_its_time_and_says_so(x64):
    """Equally fast, the pursuer comes up to D / 2 behind: rho + (distance along the line) = D for ever."""
    time, r, caught = chase(1.0, 1.0, 0.4, 6.0)
    assert not bool(caught)
    assert float(time) == 6.0
    assert float(jnp.linalg.norm(r)) == pytest.approx(0.5, abs=1e-4)
    assert float(jnp.linalg.norm(r) - r[1]) == pytest.approx(1.0, abs=1e-7)


@pytest.mark.slow
def test_the_time_of_the_event_is_differentiable(x64):
    """By D, through the event: k / (k^2 - 1) as eps -> 0; here against differences of the exact time."""
    slope, h = jax.grad(lambda D: chase(2.0, D, 1e-3, 20.0)[0])(1.0), 1e-5
    assert float(slope) == pytest.approx((exact(2.0, 1 + h, 1e-3) - exact(2.0, 1 - h, 1e-3)) / (2 * h), rel=1e-6)
    assert float(slope) == pytest.approx(2 / 3, abs=2e-3)


@pytest.mark.slow
def test_the_mirror_is_a_parabola(x64):
    """From (0, c) until y = 3 c, at x = 4 c; the distance to the focus is x + c: light arrives in one phase."""
    c = 0.8
    field = lambda state, args: jnp.array([1.0, (jnp.hypot(state[0], state[1]) - state[0]) / state[1]])
    go = jax.jit(lambda start: until(field, lambda state, args: state[1] - args, start, 50.0, 3 * c))
    x, (x_again, y), reached = go(jnp.array([0.0, c]))
    assert bool(reached)
    assert (float(x), float(x_again)) == (pytest.approx(4 * c, rel=10 * RTOL), pytest.approx(4 * c, rel=10 * RTOL))
    assert float(y**2) == pytest.approx(2 * c * float(x) + c**2, rel=1e-8)
    assert float(jnp.hypot(x_again, y)) == pytest.approx(float(x) + c, rel=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize(("k", "D", "eps"), CHASES[1:])
def test_the_library_s_walk_stands_on_the_level_at_the_exact_time(k, D, eps, x64):
    """The field runs backwards in the time of `Rectified`, from 1 to AWAY, scaled to the time of the chase."""
    pytest.importorskip("diffrax")
    length = exact(k, D, eps) / (1 - AWAY)
    schedule = FlowOnly(Rectified())
    field = denoisers.flow(jax.tree_util.Partial(lambda args, r, t: -args[1] * towards(args[0], r), (k, length)))
    sample = sampling_fn(ode.probability_flow(schedule, rtol=RTOL, atol=RTOL), np.array([1.0, AWAY]))
    r = jax.jit(lambda sample, field, r: sample(field, jax.random.key(0), r))(sample, field, jnp.array([D, 0.0]))
    x = place(k, D, eps)
    np.testing.assert_allclose(r, [x, x * np.sinh(np.log(x / D) / k)], atol=1e-7)
    assert float(jnp.linalg.norm(r)) == pytest.approx(eps, abs=1e-7)
