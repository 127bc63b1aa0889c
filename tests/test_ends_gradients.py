"""Derivatives of schedules and weights of losses at the very ends of time, where a root leaves 0 or SNR is infinite."""

import dataclasses

import closed_forms as forms
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax import host, processes
from diffjax.calculus import amplitudes, derivatives
from diffjax.clock import Monotone, Warped
from diffjax.denoisers import DDBM, X0, Eps, V, Velocity
from diffjax.denoisers import EDM as EDMTarget
from diffjax.losses import weights
from diffjax.schedules import EDM, VDM, VE, VP, Cosine, Rectified, SubVP, Tabulated

BETAS = np.linspace(1e-3, 0.2, 8)
SCHEDULES = {
    "vp": VP(),
    "whole numbers": VP(0.1, 20, 1),
    "sub_vp": SubVP(),
    "ve": VE(),
    "vdm": VDM(),
    "edm": EDM(),
    "cosine": Cosine(),
    "rectified": Rectified(),
    "table": Tabulated.from_betas(BETAS),
    "bridge": processes.BridgeSchedule(VP()),
    "bridge of ve": processes.BridgeSchedule(VE()),
    "flow": processes.poisson(VP(), 3.0).schedule,
    "warped": Warped(VP(), Monotone.near_identity(4)),
}


def floats(schedule):
    """The schedule with its numbers as arrays; those that are whole stay."""
    return jax.tree.map(lambda leaf: leaf if isinstance(leaf, int) else np.asarray(leaf, np.float32), schedule)


def ends(schedule):
    return jnp.asarray([0.0, 0.4, 1.0]) * schedule.t_max


@pytest.fixture(scope="module")
def gradients():
    """Of alpha and sigma by every number of every schedule, backwards, at both ends and inside: one compile."""
    schedules = {name: floats(schedule) for name, schedule in SCHEDULES.items()}
    one = lambda schedule, t: jax.jacrev(lambda schedule: jnp.stack(schedule(t)), allow_int=True)(schedule)
    of = lambda schedules: {name: jax.vmap(one, (None, 0))(s, ends(s)) for name, s in schedules.items()}
    found = jax.jit(of)(schedules)
    return {
        name: [np.asarray(leaf) for leaf in jax.tree.leaves(tree) if leaf.dtype != jax.dtypes.float0]
        for name, tree in found.items()
    }


@pytest.mark.parametrize("name", SCHEDULES)
def test_gradients_by_the_numbers_of_a_schedule_are_finite_at_both_ends(name, gradients):
    """And 0 at t = 0 where sigma is: it is whatever the numbers."""
    assert gradients[name]
    for leaf in gradients[name]:
        assert np.isfinite(leaf).all()
        assert np.any(leaf[1]) or leaf.ndim == 2  # t_max is no number of most
    if name not in ("ve", "vdm", "bridge of ve"):
        assert not any(np.any(leaf[0]) for leaf in gradients[name])


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("name", "numbers"), [("vp", ("beta_min", "beta_max")), ("cosine", ("s",))])
def test_gradients_inside_are_those_of_the_formula(name, numbers):
    """By differences of the closed form; near t = 0 they tend to the 0 that is said there."""
    schedule, form = SCHEDULES[name], {"vp": forms.VP, "cosine": forms.COSINE}[name]
    of = lambda number: lambda v, t: jnp.stack(dataclasses.replace(schedule, **{number: v})(t))
    slopes = {number: jax.jit(jax.jacfwd(of(number))) for number in numbers}
    for t in (1e-9, 0.37):
        for number in numbers:
            value, h = forms.wide(getattr(schedule, number)), forms.wide("1e-7")
            change = lambda by: np.stack(form.amplitudes(forms.wide(t), **{number: by}))  # noqa: B023
            expected = np.float64((change(value + h) - change(value - h)) / (2 * h))
            slope = slopes[number](float(value), t)
            if t == 0.37:
                np.testing.assert_allclose(slope, expected, rtol=1e-5, atol=1e-9)
            else:
                assert 0 < np.max(np.abs(slope)) < 1e-3


@pytest.mark.parametrize("schedule", [VP(), Cosine(), Tabulated.from_betas(BETAS)], ids=lambda s: type(s).__name__)
def test_the_slope_in_time_stays_infinite(schedule):
    """What is finite by the numbers must not make the flow's speed at t = 0 look finite."""
    assert jax.jit(derivatives)(schedule, 0.0)[1][1] == np.inf


def test_plans_are_made_inside_a_trace_as_well():
    """Constants there are as concrete as anywhere: the chain of a loss, say."""
    found = jax.jit(lambda x: x * amplitudes(VP(), [1.0, 0.0])[1][1])(np.float32(1))
    assert found == 0.0


def test_mixed_derivatives():
    """d/dbeta_max of beta(t) = -(log alpha^2)' at t = 0.3 is 0.3; of sigma', by differences."""
    schedule, t = VP(), np.float32(0.3)
    slope = lambda b: derivatives(dataclasses.replace(schedule, beta_max=b), t)
    rate = lambda b: -2 * slope(b)[1][0] / slope(b)[0][0]
    found, bend = jax.jit(jax.value_and_grad(rate))(np.float32(20.0))
    assert found == pytest.approx(0.1 + 0.3 * 19.9, rel=1e-5)
    assert bend == pytest.approx(0.3, rel=1e-4)


def test_a_linear_chain_names_its_scaling():
    with pytest.raises(ValueError, match=r"20 steps has betas up to 0\.02 times 1000 / 20 = 1, .* take steps >= 21"):
        Tabulated.linear(20)
    assert Tabulated.linear(21).steps == 21


# Weights.

TARGETS = {"x0": X0(), "eps": Eps(), "v": V(), "velocity": Velocity(), "edm": EDMTarget(0.5)}


def rate2(snr, fall, sigma):
    """((alpha sigma' - sigma alpha') / sigma)^2, of SNR and -d SNR/dt."""
    return (fall * sigma / 2) ** 2 / snr


WEIGHTS = {
    "simple": (weights.simple(), lambda snr, fall, sigma: snr),
    "likelihood": (weights.likelihood(), lambda snr, fall, sigma: fall),
    "min_snr": (weights.min_snr(), lambda snr, fall, sigma: np.minimum(snr, 5)),
    "edm": (weights.edm(), lambda snr, fall, sigma: snr + 4),
    "p2": (weights.p2(), lambda snr, fall, sigma: snr / (1 + snr)),
    "p2, strong": (weights.p2(2.0, 0.5), lambda snr, fall, sigma: snr / (0.5 + snr) ** 2),
    "p2, weak": (weights.p2(0.5), lambda snr, fall, sigma: snr / (1 + snr) ** 0.5),
    "velocity": (
        weights.velocity(),
        lambda snr, fall, sigma: rate2(snr, fall, sigma) * min(1, sigma / forms.wide("0.05")) ** 2,
    ),
    "velocity, plain": (weights.velocity(0.0), lambda snr, fall, sigma: rate2(snr, fall, sigma)),
}
FORMS = {
    "vp": (VP(), forms.VP),
    "cosine": (Cosine(), forms.COSINE),
    "rectified": (Rectified(), forms.RECTIFIED),
    "edm": (EDM(), forms.EDM),
}


INFINITE = {("vp", "velocity", 1), ("cosine", "velocity", 1)}  # F itself, where sigma' is


def textbook(form, weigh, target, t):
    """The weight in x_0 space, of SNR and -d SNR/dt, times c_out^2 of (a, b), in extended precision."""
    (alpha, sigma), (d_alpha, d_sigma) = form.amplitudes(t), forms.slopes(form, t)
    s = forms.wide("0.5")
    a, b = {
        "x0": (1, 0),
        "eps": (0, 1),
        "v": (-sigma, alpha),
        "velocity": (d_alpha, d_sigma),
        "edm": (sigma / (s * np.hypot(sigma, alpha * s)), -alpha * s / np.hypot(sigma, alpha * s)),
    }[target]
    snr, fall = (alpha / sigma) ** 2, 2 * alpha / sigma**3 * (alpha * d_sigma - sigma * d_alpha)
    return weigh(snr, fall, sigma) * (sigma / (alpha * b - sigma * a)) ** 2


@pytest.fixture(scope="module")
def at_the_ends():
    """Every weight of every target on every schedule, at t = 0 and t_max: one compile."""
    with host.enable_x64(True):
        of = lambda ts: {
            (s, w, name): jax.vmap(lambda t: jnp.asarray(weight(schedule, target, t), float) + 0 * t)(  # noqa: B023
                ts * schedule.t_max
            )
            for s, (schedule, _) in FORMS.items()
            for w, (weight, _) in WEIGHTS.items()
            for name, target in TARGETS.items()
        }
        return jax.tree.map(np.asarray, of(jnp.asarray([0.0, 1.0])))


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_at_the_ends_are_their_limits(name, at_the_ends):
    """Finite where the limit is, never no number; the limit is read off the textbook's formula near the end."""
    for setting, (schedule, form) in FORMS.items():
        end = forms.wide(float(schedule.t_max))
        for target in TARGETS:
            found = at_the_ends[setting, name, target]
            for place, sign in ((forms.wide(0), 1), (end, -1)):
                if (setting, target, sign) in INFINITE:
                    continue
                near, nearer = (
                    textbook(form, WEIGHTS[name][1], target, place + sign * forms.wide(h)) for h in (1e-9, 1e-11)
                )
                value = found[0 if sign == 1 else 1]
                if abs(nearer) > 5 * abs(near):
                    assert value == np.inf, (setting, target, place)
                elif abs(nearer) < abs(near) / 5:
                    assert abs(value) < 1e-9, (setting, target, place)
                else:
                    np.testing.assert_allclose(value, float(nearer), rtol=1e-3, err_msg=f"{setting} {target} {place}")


def test_weights_of_a_bridge_and_of_a_target_of_ones_own():
    """DDBM's weight of eps is 1 at t = 0, where x_t is data, and 0 at the endpoint; inside it is SNR c_out^2."""
    schedule, target = processes.BridgeSchedule(VP()), DDBM(0.5, 0.8, 0.1)
    simple = jax.jit(lambda t: weights.simple()(schedule, target, t))
    assert simple(0.0) == pytest.approx(1.0)
    assert simple(1.0) == 0.0
    assert simple(1e-6) == pytest.approx(1.0, rel=1e-2)

    class Own:
        def skip_out(self, schedule, t):
            return 0.0, 2.0

    (alpha,), (sigma,) = amplitudes(VP(), [1.0])
    own = jax.jit(lambda t: weights.simple()(VP(), Own(), t))(1.0)
    assert own == pytest.approx(4 * (alpha / sigma) ** 2)
