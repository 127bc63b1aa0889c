"""The library's steps, scanned under `jit`, against the NumPy readers of their rows, which the sampler tests use."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rows
from oracles.mixture import Mixture
from samplers_table import KINDS, SAMPLERS, SETTINGS, grid_for, one_of_a_step, state_x

from diffjax import analytic, grids
from diffjax.samplers import langevin, principal, sampling_fn, table
from diffjax.samplers.base import Linear
from diffjax.samplers.unified import Row as Corrected
from diffjax.schedules import EDM, VP
from diffjax.types import Posterior

pytestmark = pytest.mark.usefixtures("x64")
COUNT, X = 7, np.linspace(-1.5, 1.5, 5)
KEY = jax.random.key(3)


def draws(sampler, count, shape=X.shape):
    """The noise of every row: of the walk's key, folded with the row's index."""
    keys = [rows.key_of_noise(sampler, jax.random.fold_in(KEY, i)) for i in range(count)]
    return [np.asarray(jax.random.normal(key, shape, float)) for key in keys]


def numbers(seed=0):
    """Random columns: (size of a row) -> (COUNT, *size)."""
    rng = np.random.default_rng(seed)
    return lambda *size: rng.standard_normal((COUNT, *size))


def linear_rows():
    """One of them without noise of its own, one without that of x_0, one without any."""
    of, kinds = numbers(), np.arange(COUNT) % 4
    return Linear(of() ** 2, of(), of(), of() ** 2 * (kinds % 2), of() * (kinds // 2))


def table_rows():
    of = numbers()
    return table.Row(of() ** 2, of(), of(), of(), of(3), of())


def heun_rows():
    """Predictors and correctors in no order."""
    of = numbers()
    plain = type(SAMPLERS["heun"].make(EDM()).plan(np.array([2.0, 1.0])))
    corrector = np.array([0, 1, 0, 0, 1, 1, 0]) > 0
    return plain(of() ** 2, of(), 1 + of() ** 2, of(), of(), of(), of(), corrector)


def beyond_rows():
    """Numbers per entry of x."""
    of = numbers()
    d = X.shape
    return principal.AxisRow(of() ** 2, of(*d), of(*d), of(*d), of(), of(*d), of(*d), of(*d), of(3, *d))


def langevin_rows():
    of = numbers()
    return langevin.KernelRow(*linear_rows(), of(), 1 + of() ** 2, of() * (np.arange(COUNT) % 2))


def corrected_rows():
    """Steps from times to times, with nothing, part or all of the noise new."""
    rng = np.random.default_rng(0)
    return Corrected(*rng.uniform(0.05, 1.0, (2, COUNT)), np.arange(COUNT) / (COUNT - 1))


# A sampler of each kind of step, and random rows for it.
STEPS = {
    "linear": ("ddpm", linear_rows),
    "table": ("adams_3", table_rows),
    "table, with noise": ("adams_3_tau", table_rows),
    "heun": ("heun_churn", heun_rows),
    "beyond a fit": ("principal_2", beyond_rows),
    "langevin": ("snr", langevin_rows),
    "estimate and correct": ("unified_half", corrected_rows),
}
MAKERS = {name: row.make for name, row in SAMPLERS.items()} | {"snr": langevin.predictor_corrector}
walked = jax.jit(lambda sample, x: sample(smooth, KEY, x))


def smooth(x, t) -> Posterior:
    """Of no process."""
    return Posterior(jnp.tanh(1.3 * x + t), 0.3 + jnp.sin(t) ** 2)


def smooth_on_host(x, t):
    return np.tanh(1.3 * x + t), 0.3 + np.sin(t) ** 2


def planned(sampler, made):
    """The sampler with these rows in place of planned ones."""
    return sampler._replace(plan=lambda ts: made, schedule=None)


@pytest.mark.parametrize("kind", STEPS)
def test_steps_do_what_is_read(kind):
    """On random rows, after every one of them, with the draws that the walk's key gives."""
    name, make = STEPS[kind]
    made, sampler = make(), MAKERS[name](VP())
    end, path = walked(sampling_fn(planned(sampler, made), [2.0, 1.0], trace=state_x), jnp.asarray(X))
    expected = np.stack(list(rows.read(rows.legible(sampler, made), smooth_on_host, X, noise_for(sampler))))
    np.testing.assert_allclose(path, expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(end, path[-1])


def noise_for(sampler):
    """A step that draws nothing has no noise to read, whatever its rows say."""
    return np.zeros((COUNT, *X.shape)) if sampler.step is table.step else draws(sampler, COUNT)


@pytest.mark.parametrize("name", MAKERS)
def test_every_sampler_takes_one_of_these_steps(name):
    """So that what holds of rows holds of samplers; a new kind of step wants a reader."""
    plain = lambda init: type(getattr(init, "func", init))  # a Partial binds what the whole walk needs
    kinds = lambda sampler: (sampler.step, plain(sampler.init), sampler.final)
    held = [kinds(MAKERS[kind](VP())) for kind, _ in STEPS.values()]
    sampler = MAKERS[name](VP())
    assert kinds(sampler) in held
    if sampler.step is table.step:
        assert not np.any(sampler.plan(grid_for(name, "vp", 6)).noise)


@pytest.mark.parametrize("name", [*one_of_a_step(KINDS), "snr"])
def test_planned_rows_are_walked_as_they_are_read(name):
    """A denoiser of the library against one in NumPy, down to sigma = 0."""
    target = Mixture((0.3, 0.7), (-0.6, 0.5), (0.04, 0.02))
    schedule, form, *_ = SETTINGS["vp"]
    sampler, ts = MAKERS[name](schedule), grids.karras(schedule, 6)
    model = analytic.gaussian_mixture(*target).denoiser(schedule)
    sample = sampling_fn(sampler, ts, trace=state_x)
    path = along(sample, model, jnp.asarray(X))[1]
    _, expected = rows.walk(sampler, ts, rows.HostModel(target.denoise, form), X, draws(sampler, len(path)))
    np.testing.assert_allclose(path, expected, rtol=1e-11, atol=1e-12)


@jax.jit
def along(sample, model, x):
    """The mixture is one of numbers: the model is mapped over the entries of x, the walk is not."""
    entrywise = lambda x, t: Posterior(jax.vmap(lambda one: model(one, t).mean)(x))
    entrywise.schedule = model.schedule
    return sample(entrywise, KEY, x)
