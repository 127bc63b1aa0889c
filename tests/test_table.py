"""Programs on linear forms against the same programs on numbers, and what planning refuses."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_forms import amplitudes
from oracles.mixture import Mixture
from rows import HostModel, walk
from samplers_table import SETTINGS, grid

from diffjax import analytic
from diffjax.samplers import sampling_fn, table, trigflow
from diffjax.schedules import VP, Rectified

TARGET = Mixture((0.3, 0.7), (-0.6, 0.5), (0.04, 0.02))
X = np.linspace(-1.5, 1.5, 5)
pytestmark = pytest.mark.usefixtures("x64")


class Numbers:
    """What a program sees when it is run on numbers."""

    def __init__(self, ts, form, start, keeps, noise):
        self.levels = [table.Level(float(t), *map(float, amplitudes(form, t))) for t in ts]
        self.form, self.start, self.keeps, self.noise, self.count = form, start, keeps, noise, 0

    def evaluate(self, x, level):
        self.count += 1
        y_x, y_mean = self.keeps(level)
        return y_x * x + y_mean * TARGET.denoise(x, level.alpha, level.sigma)

    def normal(self):
        return self.noise[self.count - 1]

    def level_of(self, t):
        return table.Level(t, *map(float, amplitudes(self.form, t)))


def multistep(walk):
    """Weights that mean nothing, over three evaluations."""
    x, past = walk.start, []
    for i, (now, then) in enumerate(pairwise(walk.levels)):
        past = [walk.evaluate(x, now), *past][:3]
        x = 0.9 * then.sigma * x + sum((0.3 + 0.1 * i) / (j + 1) * y for j, y in enumerate(past))
    return x


def stages(walk):
    """Three evaluations a step, one of them between the levels, the second from the first's start."""
    x = walk.start
    for now, then in pairwise(walk.levels):
        first = walk.evaluate(x, now)
        second = walk.evaluate(0.7 * x - 0.2 * first, walk.level_of((now.t + then.t) / 2))
        third = walk.evaluate(0.5 * x + 0.1 * first + 0.3 * second, now)
        x = 0.8 * x + 0.5 * first - 0.25 * second + 0.125 * third
    return x


def noisy(walk):
    """Noise before a second evaluation, and at the end of the step."""
    x = walk.start
    for now, then in pairwise(walk.levels):
        x = 0.5 * x + walk.evaluate(x, now) + 0.3 * walk.normal()
        x = 0.9 * x - 0.2 * walk.evaluate(x, then) + then.sigma * walk.normal()
    return x


@pytest.mark.parametrize("keeps", [table.mean, table.eps])
@pytest.mark.parametrize(
    ("program", "per_step", "random"), [(multistep, 1, False), (stages, 3, False), (noisy, 2, True)]
)
def test_rows_do_what_the_program_says(program, per_step, random, keeps):
    schedule, form, *_ = SETTINGS["vp"]
    ts = grid("vp", 6, zero=False)
    noise = np.random.default_rng(0).standard_normal((6 * per_step, X.size))
    made = table.sampler(schedule, program, 3, order=1, keeps=keeps, random=random, evaluations=lambda n: per_step * n)
    got, _ = walk(made, ts, HostModel(TARGET.denoise, form), X, noise)
    expected = program(Numbers(ts, form, X, keeps, noise))
    np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-12)


def test_a_history_that_is_too_short_is_found_at_planning():
    with pytest.raises(ValueError, match="announce a longer history"):
        sampling_fn(table.sampler(VP(), multistep, 2, order=1), grid("vp", 6))


def test_more_evaluations_than_announced_are_found_at_planning():
    with pytest.raises(ValueError, match="evaluations that it announced"):
        sampling_fn(table.sampler(VP(), stages, 3, order=1), grid("vp", 6))


def test_extrapolating_noise_from_pure_noise_is_refused():
    with pytest.raises(ValueError, match="alpha is 0"):
        sampling_fn(table.sampler(Rectified(), multistep, 3, order=1, keeps=table.eps), [1.0, 0.5, 0.1])


def test_level_at_is_the_level_of_its_lambda_or_an_error():
    found = table.Walk(VP(), grid("vp", 2), 2, False).level_at(0.3)
    assert np.log(found.alpha / found.sigma) == pytest.approx(0.3, abs=1e-12)
    with pytest.raises(ValueError, match="does not reach"):
        table.Walk(SETTINGS["table_linear"].schedule, grid("table_linear", 2), 2, False).level_at(-8.0)


# TrigFlow.


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("setting", ["vp", "edm", "rectified"])
def test_trigflow_is_exact_on_gaussian_data_of_its_scale(order, setting):
    """F = 0 there: whatever the grid, down to the data itself."""
    schedule, form, *_ = SETTINGS[setting]
    target = Mixture((1.0,), (0.0,), (0.49,))
    ts = grid(setting, 3)
    sampler = trigflow.adams(schedule, order, sigma_data=0.7)
    got, _ = walk(sampler, ts, HostModel(target.denoise, form), X, np.zeros((3, 5)))
    np.testing.assert_allclose(got, target.transport(X, amplitudes(form, ts[0]), (1.0, 0.0)), rtol=1e-10)


def test_trigflow_follows_its_own_equation():
    """Adams-Bashforth of order 2 with unequal steps on dr / dphi = -F, F from EDM's preconditioning, in NumPy."""
    s, ts = 0.6, np.array([5.0, 2.0, 0.7, 0.2])
    f = lambda u, n: (TARGET.denoise(u, 1.0, n) - s**2 / (n**2 + s**2) * u) * np.hypot(n, s) / (n * s)
    phi, r, before = np.arctan(ts / s), X / np.hypot(ts[0], s), None
    for i in range(3):
        slope, h = -f(r * np.hypot(ts[i], s), ts[i]), phi[i + 1] - phi[i]
        weight = 0.0 if before is None else h / (2 * (phi[i] - phi[i - 1]))
        r = r + h * ((1 + weight) * slope - weight * (0 if before is None else before))
        before = slope
    schedule, form, *_ = SETTINGS["edm"]
    sampler = trigflow.adams(schedule, 2, sigma_data=s)
    got, _ = walk(sampler, ts, HostModel(TARGET.denoise, form), X, np.zeros((3, 5)))
    np.testing.assert_allclose(got, r * np.hypot(ts[-1], s), rtol=1e-12)


@pytest.mark.parametrize(("options", "message"), [((5,), "1, 2, 3 or 4"), ((2, 0.0), "sigma_data is 0.0")])
def test_trigflow_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        trigflow.adams(VP(), *options)


def test_gradients_reach_the_coefficients():
    """What experiments/nfe/fit.py descends: rows are leaves. Against central differences."""
    schedule = VP()
    rows = sampling_fn(trigflow.adams(schedule), grid("vp", 3)).args[0]
    model = analytic.gaussian_mixture(*TARGET).denoiser(schedule)

    @jax.jit
    def loss(rows):
        def end(x):
            one = lambda state, row: (table.step(model, jax.random.key(0), state, row), None)
            return jax.lax.scan(one, table.Init(2)(x), rows)[0].x

        return jnp.sum(jax.vmap(end)(jnp.asarray(X)) ** 2)

    grads, h = jax.grad(loss)(rows), 1e-6
    for field, at in (("ys", (1, 0)), ("t", (1,)), ("x", (2,)), ("y_mean", (0,))):
        column = getattr(rows, field)
        ends = [float(loss(rows._replace(**{field: column.at[at].add(sign * h)}))) for sign in (1, -1)]
        assert float(getattr(grads, field)[at]) == pytest.approx((ends[0] - ends[1]) / (2 * h), rel=1e-5)
