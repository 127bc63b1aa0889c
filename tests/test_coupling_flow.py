"""A coupling flow: its density against a dense Jacobian, a quadrature and closed forms; its inverse; a resumed run."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats
from twice import assert_trainer_resumes, judged

from diffjax import analytic, data, methods, models, runs, samplers, schedules
from diffjax import main as command_line
from diffjax.checkpoint import Checkpoints
from diffjax.config import ConfigError
from diffjax.method import Example
from diffjax.methods.coupling_flow import CouplingFlow, gaussian_nats, mask
from diffjax.optimizers import build_optimizer

MEAN, COV = np.array([0.5, -1.0]), np.array([[1.0, 0.6], [0.6, 0.5]])


def perceptron(width, maps=2):
    """A perceptron of one hidden layer in float64, from x to `maps` maps of it, with parameters to draw."""

    def init(key, x, c, given=None):
        one, two = jax.random.split(key)
        return {
            "in": jax.random.normal(one, (x.size, width)),
            "out": jax.random.normal(two, (width, maps * x.size)) / width**0.5,
        }

    def apply(params, x, c, given=None, **options):
        hidden = jnp.tanh(x.reshape(-1) @ params["in"] + 0.3)
        return (hidden @ params["out"]).reshape(*x.shape[:-1], maps * x.shape[-1])

    return models.Network(init, apply, ())


def flow(shape, **options):
    """(parts, parameters away from any optimum)."""
    method = methods.coupling_flow(perceptron(16, 2 if options.get("bound", 2.0) else 1), **options)
    params = jax.jit(method.init)(jax.random.key(1), Example(jnp.zeros(shape)))
    if "log_scale" in params:
        params["log_scale"] += np.linspace(-0.5, 0.8, int(np.prod(shape))).reshape(shape)
    return method.parts, params


NICE, PIXELS = {"layers": 2, "bound": 0.0}, {"layers": 2, "levels": 17, "logit": 0.05}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((1,), {"layers": 2}),
        ((5,), {"layers": 3}),
        ((6,), {"layers": 6}),
        ((2, 4, 3), {"layers": 3}),
        ((3, 2, 1), NICE),
        ((5,), PIXELS),
    ],
)
def test_density_is_the_change_of_variables_by_a_dense_jacobian(shape, options):
    parts, params = flow(shape, **options)
    x = np.random.default_rng(2).uniform(-1, 1, size=shape)
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
@pytest.mark.parametrize(
    ("options", "half"),
    [({"layers": 4, "bound": 0.5}, 25.0), ({"layers": 2, "bound": 0.5, "levels": 17, "logit": 0.01}, 1.0832)],
)
def test_density_integrates_to_one(options, half):
    """That of pixels on the square that a draw cannot leave: a logit of 0.01 reaches to (1 + 1/16) (1/0.98)."""
    parts, params = flow((2,), **options)
    line = np.linspace(-half, half, 751)
    grid = np.stack(np.meshgrid(line, line), -1).reshape(-1, 2)
    log_prob = jax.jit(jax.vmap(parts.log_prob, (None, 0)))(params, grid)
    assert np.nansum(np.exp(log_prob)) * (line[1] - line[0]) ** 2 == pytest.approx(1, abs=1e-6 if half > 2 else 2e-3)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("shape", "options"), [((5,), {"layers": 3}), ((2, 4, 3), NICE), ((2, 4, 3), PIXELS)])
def test_the_way_back_undoes_the_way_there(shape, options):
    parts, params = flow(shape, **options)
    x = np.random.default_rng(3).uniform(-1, 1, size=shape)
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


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("n", "short"), [(8, -0.210956), (32, -0.0518513)])
def test_eulers_flow_of_a_diffusion_is_a_flow_of_n_layers(n, short):
    """DDIM on sigma = t is Euler's step, each layer x (1 - h sigma / (V + sigma^2)) on N(0, V): log det of order 1/n.

    Short of that of the exact flow from sigma = 3 to data, which is half the log of the ratio of the two variances.
    """
    schedule, var = schedules.EDM(3.0), 0.5
    ideal = analytic.gaussian_mixture([1.0], [[0.0]], [[[var]]]).denoiser(schedule)
    walk = samplers.sampling_fn(samplers.ancestral.ddim(schedule), np.linspace(3, 0, n + 1))
    slope = jax.jit(jax.jacfwd(lambda x: walk(ideal, jax.random.key(0), x)))(np.ones(1))
    found = np.linalg.slogdet(slope)[1] - 0.5 * np.log(var / (var + 9))
    np.testing.assert_allclose(found, short, atol=2e-6)


def test_temperature_is_the_scale_of_z():
    """A network of zeros is no flow at all: draws are z itself, at any temperature."""
    zeros = models.from_function(lambda p, x, c, given: jnp.zeros(6), {"a": np.zeros(1)})
    of = {T: methods.coupling_flow(zeros, temperature=T) for T in (1.0, 0.8)}
    params = of[1.0].init(jax.random.key(0), Example(np.zeros(3, np.float32)))
    drawn = {T: method.draw(params, method.plan((3,)), jax.random.key(4), {}) for T, method in of.items()}
    np.testing.assert_allclose(drawn[0.8], 0.8 * drawn[1.0], rtol=1e-6)
    assert jax.tree.structure(of[1.0].plan((3,))) == jax.tree.structure(of[0.8].plan((3,)))  # no new compile
    colder = of[1.0].parts._replace(temperature=0.8).method()
    assert colder.plan((3,)).temperature == jnp.float32(0.8)


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


@pytest.mark.slow  # trained to the end; its density is held above, its config trains below
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
    for options, match in (
        ({"bound": -1.0}, r"^Got bound = -1\.0, expected a positive number, or 0 for additive couplings\.$"),
        ({"temperature": 0.0}, r"^Got temperature = 0\.0, expected a positive number; 1 is the model's own\.$"),
        ({"levels": 1}, r"^levels is 1, expected an integer >= 2"),
        ({"levels": 17, "logit": 0.5}, r"^Got logit = 0\.5, expected a share between 0 and 0\.5, such as 0\.05"),
        ({"logit": 0.05}, r"^Got a logit without levels: only pixels are known to lie in \[-1, 1\]"),
    ):
        with pytest.raises(ValueError, match=match):
            methods.coupling_flow(net, **options)
    additive = methods.coupling_flow(net, bound=0.0)
    with pytest.raises(ValueError, match=r"makes \(4,\) of x \(2,\), expected one map, \(2,\): set outputs=1\.$"):
        additive.init(jax.random.key(0), Example(np.zeros(2, np.float32)))
    single = methods.coupling_flow(models.of(models.MLP(width=8, depth=1)))
    with pytest.raises(
        ValueError, match=r"^The network of a coupling makes \(2,\) of x \(2,\), expected two maps, \(4,\)"
    ):
        runs.Trainer(single, data.moons(n=64, held_out=8), optimizer=optax.adam(1e-3), batch_size=8)


@pytest.mark.slow  # test_tiny_recipes resumes by the command
def test_a_stopped_run_goes_on_to_the_same_bytes(tmp_path):
    small = dict(steps=40, sample_every=40, batch_size=16, steps_per_dispatch=1, log_every=10)
    assert_trainer_resumes(lambda workdir: trainer(workdir, **small), tmp_path)


@pytest.mark.slow
def test_the_config_trains_and_is_judged_from_the_command_line(tmp_path):
    results = judged("configs/coupling_flow.py:tiny", tmp_path / "whole")
    run = runs.open(tmp_path / "whole")
    x = run.data.held_out.gather(np.arange(64)).x
    own = np.asarray(jax.jit(jax.vmap(run.method.parts.log_prob, (None, 0)))(run.params, x))
    found = results["nats_per_dimension"]
    np.testing.assert_allclose(found["value"], -np.mean(own) / 2, rtol=1e-5)
    train = run.data.train.gather(np.arange(256)).x
    fit = scipy.stats.multivariate_normal(train.mean(0), np.cov(train.T, bias=True))
    np.testing.assert_allclose(found["gaussian"], -fit.logpdf(x).mean() / 2, rtol=1e-5)
    assert found["round_trip"] < 1e-3
    with Checkpoints(tmp_path / "whole" / "checkpoints", create=False) as checkpoints:
        info = checkpoints.restore(run.state).info
    assert info.metrics["held_out"] == pytest.approx(found["value"], rel=1e-6)  # of all held-out points, as the report
    assert command_line.main(["--mode=likelihood", f"--workdir={tmp_path / 'whole'}"]) == 0
    said = json.loads((tmp_path / "whole" / "likelihood.json").read_text())
    assert (said["exact"], said["parts"]["train"]) == (True, {})
    assert said["bits"]["held out"]["bits"] == pytest.approx(found["value"] / np.log(2), rel=1e-5)
    assert said["baseline"]["Gaussian fit"] == pytest.approx(
        found["gaussian"] / np.log(2), rel=1e-3
    )  # the covariance of n or n - 1
    assert re.search(r"\| exact density, density \| ", (tmp_path / "whole" / "likelihood.md").read_text())
    assert "## Density" in (tmp_path / "whole" / "report.md").read_text()


def test_states_are_ranked_by_held_out_data_where_a_method_measures_it():
    small = dict(steps=40, sample_every=40, batch_size=16, steps_per_dispatch=1, log_every=10)
    with pytest.raises(ConfigError, match=r"^checkpoint\.best_by is 'heldout': .*held_out"):
        trainer(best_by="heldout", **small)
    method = methods.coupling_flow(models.of(models.Perceptron((4,), width=4)))._replace(parts=None)
    with pytest.raises(ConfigError, match=r"^checkpoint\.best_by is 'held_out', which this method does not measure"):
        runs.Trainer(method, data.moons(n=64, held_out=8), optimizer=optax.adam(1e-3), best_by="held_out", batch_size=8)
