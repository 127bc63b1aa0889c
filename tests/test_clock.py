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
from diffjax.methods import evaluation
from diffjax.runs import build_run
from diffjax.schedules import EDM, VDM, VP

RNG = np.random.default_rng(0)
BENT = Monotone(np.float64(-1.0), RNG.normal(-8, 4, 9), RNG.normal(0, 1, 9), RNG.normal(2.5, 0.5, 9))
STEEP = Monotone(np.float64(-4.0), np.asarray([-2.0, 1.0]), np.asarray([0.0, 2.0]), np.asarray([2.0, 6.0]))
U = np.concatenate([np.geomspace(1e-6, 1e-2, 30), np.linspace(0.02, 1, 50)])

# One program each, for every clock and every schedule of a kind.
read = jax.jit(lambda clock, u: clock(u))
back = jax.jit(lambda clock, v: clock.inverse(v))
amplitudes = jax.jit(lambda schedule, t: schedule(t))
rates = jax.jit(calculus.rates)
slope = jax.jit(lambda clock, u: jax.vmap(jax.grad(clock))(u))
round_trip = jax.jit(lambda schedule, t: calculus.time_of(schedule, calculus.log_snr(schedule, t)))


def by_hand(clock, u):
    """The definition, in long floats, with its cancellation."""
    a, b, c, k = (np.asarray(leaf, np.longdouble) for leaf in (clock.a, clock.b, clock.c, clock.k))
    sigmoid = lambda z: 1 / (1 + np.exp(-z))
    rise = lambda u: np.exp(a) * u + (np.exp(c) * (sigmoid(np.exp(k) * u[..., None] + b) - sigmoid(b))).sum(-1)
    return rise(np.asarray(u, np.longdouble)) / rise(np.ones(1, np.longdouble))


@pytest.mark.parametrize("clock", [BENT, STEEP, Monotone.near_identity(5)], ids=["bent", "steep", "new"])
def test_a_clock_is_its_definition_and_keeps_its_digits(clock, x64):
    v = np.asarray(read(clock, U))
    np.testing.assert_allclose(v, by_hand(clock, U).astype(float), rtol=1e-9)
    assert np.all(np.diff(v) > 0)
    assert read(clock, 0.0) == 0
    assert read(clock, 1.0) == 1
    np.testing.assert_allclose(back(clock, v), U, rtol=1e-7, atol=1e-15)


@pytest.mark.parametrize("clock", [BENT, STEEP], ids=["bent", "steep"])
def test_float32_keeps_six_digits_near_the_start(clock):
    narrow, u = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), clock), U.astype(np.float32)
    wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), narrow)
    np.testing.assert_allclose(read(narrow, u), by_hand(wide, u).astype(float), rtol=2e-6)


def test_a_new_clock_is_nearly_even():
    np.testing.assert_allclose(read(Monotone.near_identity(), U), U, atol=0.02)


def test_the_inverse_has_the_derivatives_of_an_inverse(x64):
    v, h = 0.3, 1e-6
    by_v, by_clock = jax.jit(lambda clock, v: (jax.grad(clock.inverse)(v), jax.grad(lambda c: c.inverse(v))(clock)))(
        BENT, v
    )
    assert float(by_v) == pytest.approx(1 / float(slope(BENT, np.asarray(back(BENT, v))[None])[0]), rel=1e-9)
    moved = lambda d: float(back(Monotone(BENT.a, BENT.b, BENT.c, BENT.k + d), v))
    by_steps = (moved(h) - moved(-h)) / (2 * h)
    assert np.asarray(by_clock.k).sum() == pytest.approx(by_steps, rel=1e-5)


@pytest.mark.parametrize("base", [VDM(), VP(), EDM(t_max=3.0)], ids=repr)
def test_a_warped_schedule_is_the_base_by_another_clock(base, x64):
    warped, u = Warped(base, BENT), np.linspace(0.05, 0.95, 7)
    t, v = base.t_max * u, np.asarray(read(BENT, u))
    np.testing.assert_allclose(amplitudes(warped, t), amplitudes(base, base.t_max * v), rtol=1e-12)
    np.testing.assert_allclose(round_trip(warped, t), t, rtol=1e-8)
    for got, expected in zip(rates(warped, t), rates(base, base.t_max * v)):
        np.testing.assert_allclose(got, np.asarray(expected) * np.asarray(slope(BENT, u)), rtol=1e-9)
    calculus.check(warped)


def test_samplers_walk_a_warped_schedule_as_the_base_on_the_warped_grid(x64):
    """One process: DDIM's steps know the amplitudes alone, whatever the clock calls their times."""
    mixture = analytic.gaussian_mixture([0.4, 0.6], [[-1.0], [0.7]], [0.1, 0.2])
    base, u = VP(), np.linspace(1, 0, 8)
    walk, ends = jax.jit(lambda sample, *given: sample(*given)), []
    for schedule, ts in ((Warped(base, BENT), u), (base, np.asarray(read(BENT, u)))):
        sample = samplers.sampling_fn(samplers.ancestral.ddim(schedule), ts)
        ends.append(walk(sample, mixture.denoiser(schedule), jax.random.key(0), np.asarray([0.8])))
    np.testing.assert_allclose(ends[0], ends[1], rtol=1e-12)
    second = grids.uniform(Warped(base, BENT), 5, t_min=0.0)[1]
    np.testing.assert_allclose(amplitudes(base, read(BENT, second))[0], amplitudes(base, read(BENT, 0.8))[0])


def curve(v, xp=jnp):
    """A loss that is large at both ends, as a bound is."""
    return 0.2 + 3 * xp.exp(-20 * v) + xp.exp(10 * (v - 1))


@jax.jit
def second_moment(clock):
    """E[(v' L)^2] over even u, differentiable through v itself: what a pathwise estimate would follow."""
    nodes, weights = np.polynomial.legendre.leggauss(400)
    u = jnp.asarray((nodes + 1) / 2)
    v, slope = jax.jvp(clock, (u,), (jnp.ones_like(u),))
    return jnp.sum(jnp.asarray(weights / 2) * (slope * curve(v)) ** 2)


def test_the_gradient_needs_no_derivative_of_the_loss(x64):
    u = (np.arange(20_000) + 0.5) / 20_000
    got = jax.jit(lambda clock, u: jax.grad(_log_variance)(clock, u, curve(clock(u))))(BENT, u)
    expected = jax.jit(jax.grad(lambda clock: jnp.log(second_moment(clock))))(BENT)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected)):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-8)
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected)) > 0.1


def test_whatever_the_clock_the_weighted_loss_has_the_mean_of_even_times(x64):
    prepare = losses.prepare.learned(VDM(), features=9)
    memory = prepare.init()._replace(clock=BENT)
    chosen = jax.jit(prepare.apply)(memory, jax.random.key(0), Example(np.zeros((20_000, 1)))).chosen
    mean = quad(curve, 0, 1, args=(np,))[0]
    assert np.mean(chosen["weight"] * curve(np.asarray(chosen["t"]), np)) == pytest.approx(mean, rel=1e-3)


def noisy(params, keys, example, index, size):
    """An example's loss, whose square root of second moment is `curve` of its time."""
    value = curve(example.chosen["t"]) * jax.random.rademacher(keys.example, (), jnp.float32) + 0 * params
    return example.chosen["weight"] * value, {"t01": example.chosen["t"], "unweighted": value}


def test_the_clock_learns_to_make_every_loss_equally_large():
    """The least second moment is that of v' ~ 1 / L: the square of the integral of L (Cauchy and Schwarz)."""
    prepare, emas = losses.prepare.learned(VDM(), 8, learning_rate=1e-2, t_min=0.0), ema.warm_up([])
    method, optimizer = training.loss_method(noisy, prepare), optax.sgd(0.1)
    steps = jax.jit(training.make_steps(training.make_step(method, optimizer, emas)))
    state = training.init_state(jnp.zeros(()), optimizer, emas, jax.random.key(0), method)
    best = quad(curve, 0, 1, args=(np,))[0] ** 2
    assert second_moment(state.memory.clock) > 1.9 * best
    state, _ = steps(state, Example(np.zeros((1000, 64, 1), np.float32)))
    assert second_moment(state.memory.clock) < 1.01 * best
    learned = prepare.schedule(state.memory)
    assert isinstance(learned, Warped)
    calculus.check(learned)


@pytest.mark.slow
def test_a_run_is_sampled_and_judged_by_the_clock_that_it_has_learned(tmp_path):
    moons = ["data.name=moons", "model.name=MLP", "model.width=16", "model.depth=1"]
    short = [
        "data.n=300",
        "data.held_out=100",
        "train.steps=20",
        "train.sample_every=1000",
        "eval.samples=40",
        "prepare.learning_rate=0.05",
    ]
    results = train.run(runs.load("configs/vdm.py:tiny", [*moons, *short]), tmp_path / "run")
    run = runs.open(tmp_path / "run")
    schedule, memory = run.method.parts.schedule, run.state.memory
    assert isinstance(schedule, Warped)
    assert isinstance(schedule.base, VDM)
    new = Monotone.near_identity()
    assert np.abs(np.asarray(read(schedule.clock, U)) - np.asarray(read(new, U))).max() > 1e-3, "it has moved"
    assert results["loss_by_time"] == evaluation.loss_by_time(run)
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
