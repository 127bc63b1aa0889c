"""Pursuit curve (kexue 1045; Bouguer 1732): an ODE that ends at an event, with the exact time of it.

A pursuer at speed k v runs from the distance D straight at a target that crosses at speed v. With x the distance to the
target's line, separation and arc are

    rho = (x^(1 - 1/k) D^(1/k) + x^(1 + 1/k) D^(-1/k)) / 2,    s = int_0^x rho / u du,    time (s(D) - s(x)) / k v,

capture at D k / (v (k^2 - 1)). An event at the separation epsilon comes earlier, by epsilon / (v (k - 1)) to first
order: an event is compared with the exact time *to epsilon*.

What is tried is what `samplers.ode` builds on, diffrax's adaptive Tsit5, with an event: a level of a norm.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

diffrax = pytest.importorskip("diffrax")
import optimistix  # noqa: E402  # comes with diffrax

pytestmark = [pytest.mark.usefixtures("x64"), pytest.mark.slow]  # a program of an adaptive solver
RTOL = 1e-9


def until(field, level, start, t_max, args):
    """Integrates d state / dt = field(state, args) until level(state, args) is 0: (time, state, whether it was)."""
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
    field = lambda r, args: -args[0] * r / jnp.linalg.norm(r) - jnp.array([0.0, 1.0])
    level = lambda r, args: jnp.linalg.norm(r) - args[1]
    return until(field, level, jnp.array([D, 0.0]), t_max, (k, eps))


def exact(k, D, eps):
    """The time until the separation is eps: from rho(x) = eps, whose root is sought in log x."""
    rho = lambda x: (x ** (1 - 1 / k) * D ** (1 / k) + x ** (1 + 1 / k) * D ** (-1 / k)) / 2
    s = lambda x: (D ** (1 / k) * x ** (1 - 1 / k) / (1 - 1 / k) + D ** (-1 / k) * x ** (1 + 1 / k) / (1 + 1 / k)) / 2
    x = np.exp(optimize.brentq(lambda u: np.log(rho(np.exp(u)) / eps), -600, np.log(D), xtol=1e-14))
    return (s(D) - s(x)) / k


@pytest.mark.parametrize(("k", "D", "eps"), [(2.0, 1.0, 1e-6), (1.5, 1.0, 1e-3), (3.0, 2.5, 1e-2)])
def test_the_event_comes_at_the_exact_time_to_its_level(k, D, eps):
    time, r, caught = chase(k, D, eps, 20.0)
    assert bool(caught)
    assert float(time) == pytest.approx(exact(k, D, eps), rel=10 * RTOL)
    assert float(jnp.linalg.norm(r)) == pytest.approx(eps, rel=1e-5)
    capture = D * k / (k**2 - 1)
    assert capture - float(time) == pytest.approx(eps / (k - 1), rel=0.05)


def test_two_numbers_of_the_section():
    assert exact(2.0, 1.0, 1e-6) == pytest.approx(0.6666656667, abs=5e-11)
    assert exact(1.5, 1.0, 1e-3) == pytest.approx(1.198, abs=2e-5)


def test_without_an_event_the_walk_ends_at_its_time_and_says_so():
    """Equally fast, the pursuer comes up to D / 2 behind: rho + (distance along the line) = D for ever."""
    time, r, caught = chase(1.0, 1.0, 0.4, 6.0)
    assert not bool(caught)
    assert float(time) == 6.0
    assert float(jnp.linalg.norm(r)) == pytest.approx(0.5, abs=1e-4)
    assert float(jnp.linalg.norm(r) - r[1]) == pytest.approx(1.0, abs=1e-7)
