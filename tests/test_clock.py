"""Learned clocks: the monotone network, schedules by another clock, and the descent on the variance of the loss."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.integrate import quad

from diffjax import analytic, calculus, ema, grids, losses, runs, samplers, training
from diffjax.clock import Monotone, Warped
from diffjax.commands import train
from diffjax.losses.learned import _log_variance
from diffjax.method import Example
from diffjax.runs import build_run, report
from diffjax.schedules import EDM, VDM, VP

RNG = np.random.default_rng(0)
BENT = Monotone(np.float64(-1.0), RNG.normal(-8, 4, 9), RNG.normal(0, 1, 9), RNG.normal(2.5, 0.5, 9))
STEEP = Monotone(np.float64(-4.0), np.asarray([-2.0, 1.0]), np.asarray([0.0, 2.0]), np.asarray([2.0, 6.0]))
U = np.concatenate([np.geomspace(1e-6, 1e-2, 30), np.linspace(0.02, 1, 50)])


def by_hand(clock, u):
    """The definition, in long floats, with its cancellation."""
    a, b, c, k = (np.asarray(leaf, np.longdouble) for leaf in (clock.a, clock.b, clock.c, clock.k))
    sigmoid = lambda z: 1 / (1 + np.exp(-z))
    rise = lambda u: np.exp(a) * u + (np.exp(c) * (sigmoid(np.exp(k) * u[..., None] + b) - sigmoid(b))).sum(-1)
    return rise(np.asarray(u, np.longdouble)) / rise(np.ones(1, np.longdouble))


@pytest.mark.parametrize("clock", [BENT, STEEP, Monotone.near_identity(5)], ids=["bent", "steep", "new"])
def test_a_clock_is_its_definition_and_keeps_its_digits(clock, x64):
    v = np.asarray(clock(U))
    np.testing.assert_allclose(v, by_hand(clock, U).astype(float), rtol=1e-9)
    assert np.all(np.diff(v) > 0)
    assert clock(0.0) == 0
    assert clock(1.0) == 1
    np.testing.assert_allclose(clock.inverse(v), U, rtol=1e-7, atol=1e-15)


@pytest.mark.parametrize("clock", [BENT, STEEP], ids=["bent", "steep"])
def test_float32_keeps_six_digits_near_the_start(clock):
    narrow, u = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), clock), U.astype(np.float32)
    wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), narrow)
    np.testing.assert_allclose(narrow(u), by_hand(wide, u).astype(float), rtol=2e-6)


def test_a_new_clock_is_nearly_even():
    np.testing.assert_allclose(Monotone.near_identity()(U), U, atol=0.02)


def test_the_inverse_has_the_derivatives_of_an_inverse(x64):
    v, h = 0.3, 1e-6
    slope = jax.grad(lambda u: BENT(u))(BENT.inverse(v))
    assert float(jax.grad(BENT.inverse)(v)) == pytest.approx(1 / float(slope), rel=1e-9)
    moved = lambda d: Monotone(BENT.a, BENT.b, BENT.c, BENT.k + d).inverse(v)
    by_steps = (moved(h) - moved(-h)) / (2 * h)
    assert jax.grad(lambda clock: clock.inverse(v))(BENT).k.sum() == pytest.approx(float(by_steps), rel=1e-5)


@pytest.mark.parametrize("base", [VDM(), VP(), EDM(t_max=3.0)], ids=repr)
def test_a_warped_schedule_is_the_base_by_another_clock(base, x64):
    warped, u = Warped(base, BENT), np.linspace(0.05, 0.95, 7)
    t, v = base.t_max * u, np.asarray(BENT(u))
    np.testing.assert_allclose(np.stack(warped(t)), np.stack(base(base.t_max * v)), rtol=1e-12)
    np.testing.assert_allclose(calculus.time_of(warped, calculus.log_snr(warped, t)), t, rtol=1e-8)
    slope = jax.vmap(jax.grad(lambda u: BENT(u)))(u)
    for got, expected in zip(calculus.rates(warped, t), calculus.rates(base, base.t_max * v)):
        np.testing.assert_allclose(got, expected * slope, rtol=1e-9)
    calculus.check(warped)


def test_samplers_walk_a_warped_schedule_as_the_base_on_the_warped_grid(x64):
    """One process: DDIM's steps know the amplitudes alone, whatever the clock calls their times."""
    mixture = analytic.gaussian_mixture([0.4, 0.6], [[-1.0], [0.7]], [0.1, 0.2])
    base, u = VP(), np.linspace(1, 0, 8)
    ends = []
    for schedule, ts in ((Warped(base, BENT), u), (base, np.asarray(BENT(u)))):
        sample = samplers.sampling_fn(samplers.ancestral.ddim(schedule), ts)
        ends.append(sample(mixture.denoiser(schedule), jax.random.key(0), jnp.asarray([0.8])))
    np.testing.assert_allclose(ends[0], ends[1], rtol=1e-12)
    np.testing.assert_allclose(base(BENT(grids.uniform(Warped(base, BENT), 5, t_min=0.0)[1]))[0], base(BENT(0.8))[0])


def curve(v):
    """A loss that is large at both ends, as a bound is."""
    return 0.2 + 3 * jnp.exp(-20 * v) + jnp.exp(10 * (v - 1))


def second_moment(clock):
    """E[(v' L)^2] over even u, differentiable through v itself: what a pathwise estimate would follow."""
    nodes, weights = np.polynomial.legendre.leggauss(400)
    u = jnp.asarray((nodes + 1) / 2)
    v, slope = jax.jvp(clock, (u,), (jnp.ones_like(u),))
    return jnp.sum(jnp.asarray(weights / 2) * (slope * curve(v)) ** 2)


def test_the_gradient_needs_no_derivative_of_the_loss(x64):
    u = jnp.asarray((np.arange(20_000) + 0.5) / 20_000)
    got = jax.grad(_log_variance)(BENT, u, curve(BENT(u)))
    expected = jax.grad(lambda clock: jnp.log(second_moment(clock)))(BENT)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected)):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-8)
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(expected)) > 0.1


def test_whatever_the_clock_the_weighted_loss_has_the_mean_of_even_times(x64):
    prepare = losses.prepare.learned(VDM(), features=9)
    memory = prepare.init()._replace(clock=BENT)
    chosen = prepare.apply(memory, jax.random.key(0), Example(jnp.zeros((20_000, 1)))).chosen
    mean = quad(lambda v: float(curve(v)), 0, 1)[0]
    assert float(jnp.mean(chosen["weight"] * curve(chosen["t"]))) == pytest.approx(mean, rel=1e-3)


def noisy(params, keys, example, index, size):
    """An example's loss, whose square root of second moment is `curve` of its time."""
    value = curve(example.chosen["t"]) * jax.random.rademacher(keys.example, (), jnp.float32) + 0 * params
    return example.chosen["weight"] * value, {"t01": example.chosen["t"], "unweighted": value}


def test_the_clock_learns_to_make_every_loss_equally_large():
    """The least second moment is that of v' ~ 1 / L: the square of the integral of L (Cauchy and Schwarz)."""
    prepare, emas = losses.prepare.learned(VDM(), learning_rate=1e-2, t_min=0.0), ema.warm_up([])
    steps = jax.jit(training.make_steps(training.make_step(training.loss_method(noisy, prepare), optax.sgd(0.1), emas)))
    state = training.init_state(
        jnp.zeros(()), optax.sgd(0.1), emas, jax.random.key(0), training.loss_method(noisy, prepare)
    )
    best = quad(lambda v: float(curve(v)), 0, 1)[0] ** 2
    assert second_moment(state.memory.clock) > 1.9 * best
    state, _ = steps(state, Example(jnp.zeros((1500, 128, 1))))
    assert second_moment(state.memory.clock) < 1.03 * best
    learned = prepare.schedule(state.memory)
    assert isinstance(learned, Warped)
    calculus.check(learned)


def test_a_run_is_sampled_and_judged_by_the_clock_that_it_has_learned(tmp_path):
    moons = ["data.name=moons", "model.name=MLP", "model.width=16", "model.depth=1"]
    short = ["train.steps=20", "train.sample_every=20", "eval.samples=100", "prepare.learning_rate=0.05"]
    results = train.run(runs.load("configs/vdm.py:tiny", [*moons, *short]), tmp_path / "run")
    run = runs.open(tmp_path / "run")
    schedule, memory = run.method.parts.schedule, run.state.memory
    assert isinstance(schedule, Warped)
    assert isinstance(schedule.base, VDM)
    new = Monotone.near_identity()
    assert np.abs(np.asarray(schedule.clock(U) - new(U))).max() > 1e-3, "it has moved"
    assert results["loss_by_time"] == report.evaluate(run, tmp_path / "run")["loss_by_time"]
    method = build_run(run.config).method
    assert isinstance(method.parts.schedule, VDM)
    again = method.learned(memory).parts.schedule
    assert calculus.same(again, schedule), "what is learned starts from the config's schedule each time"


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"features": 0}, "features is 0, expected an integer >= 1"),
        ({"learning_rate": 0.0}, r"learning_rate is 0\.0, expected a positive"),
        ({"t_min": 1.0}, r"t_min is 1\.0, expected 0 <= t_min < t_max"),
    ],
)
def test_bad_options(options, match):
    with pytest.raises(ValueError, match=match):
        losses.prepare.learned(VDM(), **options)
