"""A coupling flow: its density against a dense Jacobian, a quadrature and closed forms; its inverse; a resumed run."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats
from twice import assert_trainer_resumes, assert_trains_and_resumes

from diffjax import data, methods, models, runs
from diffjax.method import Example
from diffjax.methods.coupling_flow import CouplingFlow, gaussian_nats, mask
from diffjax.optimizers import build_optimizer

MEAN, COV = np.array([0.5, -1.0]), np.array([[1.0, 0.6], [0.6, 0.5]])


def two_maps(width, size):
    """A perceptron of one hidden layer in float64, from (..., size) to two maps of it, with parameters to draw."""

    def init(key, x, c, given=None):
        one, two = jax.random.split(key)
        return {
            "in": jax.random.normal(one, (x.size, width)),
            "out": jax.random.normal(two, (width, 2 * x.size)) / width**0.5,
        }

    def apply(params, x, c, given=None, **options):
        hidden = jnp.tanh(x.reshape(-1) @ params["in"] + 0.3)
        return (hidden @ params["out"]).reshape(*x.shape[:-1], 2 * x.shape[-1])

    return models.Network(init, apply, ())


def flow(shape, **options):
    """(parts, parameters away from any optimum)."""
    method = methods.coupling_flow(two_maps(16, np.prod(shape)), **options)
    return method.parts, jax.jit(method.init)(jax.random.key(1), Example(jnp.zeros(shape)))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("shape", [(1,), (2,), (5,), (2, 4, 3)])
@pytest.mark.parametrize("layers", [2, 3])
def test_density_is_the_change_of_variables_by_a_dense_jacobian(shape, layers):
    parts, params = flow(shape, layers=layers)
    x = np.random.default_rng(2).normal(size=shape)
    both = lambda x: (
        parts.forward(params, x),
        jax.jacfwd(lambda x: parts.forward(params, x)[0])(x),
        parts.log_prob(params, x),
    )
    (z, log_det), jacobian, log_prob = jax.device_get(jax.jit(both)(x))
    sign, expected = np.linalg.slogdet(jacobian.reshape(x.size, x.size))
    assert sign == 1
    assert abs(expected) > 1e-3  # something to be wrong about
    np.testing.assert_allclose(log_det, expected, rtol=1e-12, atol=1e-12)
    density = scipy.stats.norm.logpdf(np.asarray(z)).sum() + expected
    np.testing.assert_allclose(log_prob, density, rtol=1e-12)


@pytest.mark.usefixtures("x64")
def test_density_integrates_to_one():
    parts, params = flow((2,), layers=4, bound=0.5)
    line = np.linspace(-25, 25, 751)
    grid = np.stack(np.meshgrid(line, line), -1).reshape(-1, 2)
    log_prob = jax.jit(jax.vmap(parts.log_prob, (None, 0)))(params, grid)
    np.testing.assert_allclose(np.exp(log_prob).sum() * (line[1] - line[0]) ** 2, 1, atol=1e-6)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("shape", [(2,), (5,), (2, 4, 3)])
def test_the_way_back_undoes_the_way_there(shape):
    parts, params = flow(shape, layers=3)
    x = 2 * np.random.default_rng(3).normal(size=shape)
    there, back = (jax.jit(lambda v, f=f: f(params, v)) for f in (lambda p, v: parts.forward(p, v)[0], parts.backward))
    assert np.abs(np.asarray(there(x)) - x).max() > 0.1
    np.testing.assert_allclose(back(there(x)), x, atol=1e-9)
    np.testing.assert_allclose(there(back(x)), x, atol=1e-9)


@pytest.mark.parametrize("shape", [(5,), (3, 4, 2)])
def test_two_masks_share_the_entries_evenly(shape):
    one, two, three = (mask(shape, layer) for layer in range(3))
    np.testing.assert_array_equal(one, ~two)
    np.testing.assert_array_equal(one, three)
    assert abs(one.sum() - two.sum()) <= 1
    assert one.reshape(-1)[0]
    for axis, size in enumerate(shape):  # no neighbour has an entry's colour
        one_side, other_side = (np.take(one, range(*ends), axis) for ends in ((0, size - 1), (1, size)))
        np.testing.assert_array_equal(one_side, ~other_side)


@pytest.mark.usefixtures("x64")
def test_two_couplings_of_constant_scale_are_a_cholesky_factor():
    """z_1 = (x_1 - l x_0)/e, z_0 = x_0/sqrt(C_00): by hand, a Gaussian's density to rounding."""
    slope, left = COV[0, 1] / COV[0, 0], COV[1, 1] - COV[0, 1] ** 2 / COV[0, 0]
    bound = 2.0
    raw = lambda s: bound * np.arctanh(s / bound)
    scale, other = -np.log(left) / 2, -np.log(COV[0, 0]) / 2

    def apply(params, x, c, given=None, **options):  # layer 0 keeps x_0, layer 1 keeps the new x_1
        move = lambda x_0: (-MEAN[1] - slope * (x_0 - MEAN[0])) * jnp.exp(scale)
        first = jnp.stack([jnp.zeros(()), jnp.full((), raw(scale)), jnp.zeros(()), move(x[0])])
        second = jnp.array([raw(other), 0, -MEAN[0] * np.exp(other), 0])
        return jnp.where(params, first, second)

    parts = CouplingFlow(models.Network(None, apply, ()), 2, bound)
    params = {"layer_0": np.array(True), "layer_1": np.array(False)}
    x = np.random.default_rng(0).normal(size=(20, 2)) * 2
    found = jax.jit(jax.vmap(parts.log_prob, (None, 0)))(params, x)
    np.testing.assert_allclose(found, scipy.stats.multivariate_normal(MEAN, COV).logpdf(x), rtol=1e-12)


def test_gaussian_nats_are_the_closed_form():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(500, 3)) @ rng.normal(size=(3, 3)), rng.normal(size=(40, 3))
    expected = -scipy.stats.multivariate_normal(x.mean(0), np.cov(x.T, bias=True)).logpdf(y).mean() / 3
    np.testing.assert_allclose(gaussian_nats(x, y), expected, rtol=1e-10)
    assert gaussian_nats(x * [1, 1, 0], y) is None  # a constant entry


STEPS = 800


def trainer(workdir=None, **settings):
    x = (MEAN + np.random.default_rng(0).normal(size=(30_000, 2)) @ np.linalg.cholesky(COV).T).astype(np.float32)
    method = methods.coupling_flow(models.of(models.Perceptron((4,), width=32, depth=1)), layers=4)
    optimizer, _ = build_optimizer({"name": "adam", "learning_rate": 5e-3, "schedule": "cosine"}, STEPS)
    options = {
        "batch_size": 256,
        "steps": STEPS,
        "log_every": 100,
        "sample_every": STEPS,
        "steps_per_dispatch": 100,
        "chunk": 5000,
    }
    return runs.Trainer(method, data.arrays(x), optimizer=optimizer, workdir=workdir, **options | settings)


def test_trained_on_a_correlated_gaussian():
    with trainer() as made:
        run = made.train()
    x = run.data.held_out.gather(np.arange(2000)).x
    found = np.asarray(jax.jit(jax.vmap(run.method.parts.log_prob, (None, 0)))(run.params, x))
    exact = scipy.stats.multivariate_normal(MEAN, COV)
    assert np.abs(found - exact.logpdf(x)).mean() < 0.05
    drawn = run.draw(20_000, given={})
    np.testing.assert_allclose(np.cov(drawn.T), COV, atol=0.05)
    np.testing.assert_allclose(drawn.mean(0), MEAN, atol=0.05)


def test_refuses_bad_input_in_one_line():
    net = models.of(models.Perceptron((4,), width=4))
    with pytest.raises(ValueError, match=r"^layers is 1, expected an integer >= 2\.$"):
        methods.coupling_flow(net, layers=1)
    with pytest.raises(ValueError, match=r"^Got bound = 0, expected a positive number\.$"):
        methods.coupling_flow(net, bound=0)
    single = methods.coupling_flow(models.of(models.MLP(width=8, depth=1)))
    with pytest.raises(
        ValueError, match=r"^The network of a coupling makes \(2,\) of x \(2,\), expected two maps, \(4,\)"
    ):
        runs.Trainer(single, data.moons(n=64, held_out=8), optimizer=optax.adam(1e-3), batch_size=8)


@pytest.mark.slow  # of a Trainer; the next test resumes by the command
def test_a_stopped_run_goes_on_to_the_same_bytes(tmp_path):
    small = dict(steps=40, sample_every=40, batch_size=16, steps_per_dispatch=1, log_every=10)
    assert_trainer_resumes(lambda workdir: trainer(workdir, **small), tmp_path)


def test_the_config_trains_is_judged_and_resumed_from_the_command_line(tmp_path, capsys):
    results = assert_trains_and_resumes("configs/coupling_flow.py:tiny", tmp_path, capsys)
    run = runs.open(tmp_path / "whole")
    x = run.data.held_out.gather(np.arange(64)).x
    own = np.asarray(jax.jit(jax.vmap(run.method.parts.log_prob, (None, 0)))(run.params, x))
    found = results["nats_per_dimension"]
    np.testing.assert_allclose(found["value"], -np.mean(own) / 2, rtol=1e-5)
    train = run.data.train.gather(np.arange(256)).x
    fit = scipy.stats.multivariate_normal(train.mean(0), np.cov(train.T, bias=True))
    np.testing.assert_allclose(found["gaussian"], -fit.logpdf(x).mean() / 2, rtol=1e-5)
    assert found["round_trip"] < 1e-3
    assert "## Density" in (tmp_path / "whole" / "report.md").read_text()
