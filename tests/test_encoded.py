"""Diffusion in an encoder's space: laws of tokens by quadrature and by Bayes, every step's marginal, the constraint."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import special, stats
from twice import assert_trains_and_resumes

from diffjax import data, methods, models, processes, runs, samplers
from diffjax.codecs import Codec
from diffjax.config import ConfigError
from diffjax.data.tokens import frequencies, joint
from diffjax.method import Example
from diffjax.methods.encoded import Interpolated, Readout, Vectors, sphere, table
from diffjax.processes import Encoded, Gaussian
from diffjax.schedules import VP, Rectified
from diffjax.types import pytree

P = np.array([0.5, 0.3, 0.2])


@pytree
class Circle:
    """(cos, sin) of pi t / 2: alpha = .6, sigma = .8 at some t."""

    t_max: float = 1.0

    def __call__(self, t):
        return jnp.cos(jnp.pi * t / 2), jnp.sin(jnp.pi * t / 2)


def fixed(vectors, constraint=lambda vectors: vectors):
    """An encoder whose first vectors these are; unless a constraint is given it has one that allows all."""
    return Vectors(lambda key: jnp.asarray(vectors, float), lambda params: params, constraint)


def silent():
    """The network that says nothing of the other places."""
    return models.from_function(lambda params, x, c, given: jnp.zeros_like(x) + 0 * params, np.zeros(()))


def of_vectors(vectors, schedule, **options):
    """The method with these vectors and its parameters, tokens of the law P: for one place the exact posterior."""
    vectors = np.asarray(vectors)
    method = methods.encoded(silent(), Gaussian(schedule), *vectors.shape, vectors=fixed(vectors), **options)
    params = jax.jit(method.init)(jax.random.key(0), Example(np.zeros(1, np.int32)))
    return method, {**params, "bias": np.log(P)}


@pytest.mark.usefixtures("x64")
def test_loss_of_the_exact_posterior_by_quadrature_falls_with_the_scale_of_the_vectors():
    """Tokens at scale (-1, 0, 1.5), alpha = .6, sigma = .8: what the constraint is for."""
    z, w = np.polynomial.legendre.leggauss(600)
    z, w = 12 * z, 12 * w * stats.norm.pdf(12 * z)
    tokens, t = np.repeat(np.arange(3, dtype=np.int32), 600)[:, None], 2 / np.pi * np.arccos(0.6)
    batch = Example(tokens, {}, {"t": np.full(1800, t), "z": np.tile(z, 3)[:, None, None]})
    method, params = of_vectors([[-1.0], [0.0], [1.5]], Circle())
    losses = jax.jit(lambda p: method.turns[0].losses(p, jax.random.key(0), batch, jnp.arange(1800), 1)[0])
    found = []
    for scale in (1, 2, 4, 16):
        scaled = {**params, "encoder": scale * np.array([[-1.0], [0.0], [1.5]])}
        found.append((P[tokens[:, 0]] * np.tile(w, 3)) @ np.asarray(losses(scaled)))
    np.testing.assert_allclose(found[:3], [0.826057, 0.516422, 0.144334], atol=6e-7)
    np.testing.assert_allclose(found[3], 2.3e-9, rtol=0.03)
    assert found[0] < stats.entropy(P)


@pytest.mark.usefixtures("x64")
def test_law_of_a_place_is_bayes_rule_and_its_moments_are_those_of_the_vectors():
    """Densities of x_t about alpha E_v, times exp(b_v + E_v . h / sqrt(d)); lengths differ."""
    rng = np.random.default_rng(0)
    E, b, h, x = rng.normal(size=(5, 3)), rng.normal(size=5), rng.normal(size=(2, 3)), rng.normal(size=(2, 3))
    net = jax.tree_util.Partial(lambda h, x, c: h + 2 * x + 0 * c, h)
    alone = b + stats.norm.logpdf(x[:, None], 0.6 * E, 0.4).sum(-1)
    for shown, seen in (("x", x), ("mean", special.softmax(alone, -1) @ E)):
        law, t = Readout(net, Rectified(), E, b, shown), 0.4
        probs, (mean, var) = jax.jit(lambda law, x: (law(x, t).probs, Interpolated(law)(x, t)))(law, x)  # noqa: B023
        expected = special.softmax(alone + (h + 2 * seen) @ E.T / np.sqrt(3), -1)
        np.testing.assert_allclose(probs, expected, atol=1e-13)
        np.testing.assert_allclose(mean, expected @ E, atol=1e-13)
        np.testing.assert_allclose(var, expected @ E**2 - (expected @ E) ** 2, atol=1e-13)


VECTORS = np.sqrt(2) * np.array([[1.0, 0.0], [-0.6, 0.8], [0.0, -1.0]])


@pytest.mark.parametrize(
    "share", [pytest.param(0.0, marks=pytest.mark.slow), 0.3, pytest.param(1.0, marks=pytest.mark.slow)]
)
def test_with_the_exact_posterior_any_number_of_steps_is_exact(share):
    """One place: the posterior is the joint one; 30 000 walks of 1, 2 and 7 steps, and x_t's moments on the way."""
    n, method = 30_000, of_vectors(VECTORS, Rectified())
    of, params = method[0].parts, method[1]
    process, law = Encoded(of.process, of.codec(params)), of.denoiser(params, {})
    sampler = samplers.unified(process, share)
    step = jax.jit(jax.vmap(sampler.step, (None, 0, 0, None)))
    codes = np.asarray(VECTORS)
    for steps in (1, 2, 7):
        key_x, *keys = jax.random.split(jax.random.key(steps), steps + 1)
        ts = np.linspace(1, 0, steps + 1)
        rows = sampler.plan(ts)
        # one walk a key, all with one process
        state = jax.vmap(sampler.init)(jax.random.normal(key_x, (n, 1, 2)))
        for i, key in enumerate(keys):
            row = jax.tree.map(lambda column: jnp.float32(column[i]), rows)  # noqa: B023
            state = step(law, jax.random.split(key, n), state, row)
            x, s = np.asarray(state.x[:, 0], np.float64), ts[i + 1]
            mean = (1 - s) * P @ codes
            cov = (1 - s) ** 2 * ((codes.T * P) @ codes - np.outer(P @ codes, P @ codes)) + s**2 * np.eye(2)
            assert np.all(np.abs(x.mean(0) - mean) < 5 * np.sqrt(np.diag(cov) / n) + 1e-6)
            np.testing.assert_allclose(np.cov(x.T), cov, atol=5 * 2 * math.sqrt(2 / n))
        drawn = np.asarray(jax.vmap(process.codec.decode)(state.x))[:, 0]
        assert np.all(np.abs(np.bincount(drawn, minlength=3) / n - P) < 5 * np.sqrt(P * (1 - P) / n))


def test_a_draw_ends_in_the_vectors_of_the_tokens_that_it_gives():
    method, params = of_vectors(VECTORS, Rectified(), sampler=lambda process: samplers.unified(process, 0.3))
    request = methods.encoded(**{**method.parts._asdict(), "grid": lambda s: np.linspace(1, 0, 4)}).plan(
        (2,), lambda s: s.x
    )
    assert request.nfe == 3
    draw = jax.jit(jax.vmap(method.draw, (None, None, 0, None)))
    tokens, walks = jax.device_get(draw(params, request, jax.random.split(jax.random.key(0), 4000), {}))
    assert tokens.dtype == np.int32
    assert walks.shape == (4000, 3, 2, 2)
    np.testing.assert_allclose(
        walks[:, -1], VECTORS[tokens], atol=1e-6
    )  # the vectors in training took the blanks' place
    for place in range(2):
        found = np.bincount(tokens[:, place], minlength=3) / 4000
        assert np.all(np.abs(found - P) < 5 * np.sqrt(P * (1 - P) / 4000))


@pytest.mark.usefixtures("x64")
def test_verbs_of_the_process_are_those_of_its_base_at_the_code():
    base, codec = Gaussian(VP()), Codec(lambda x: jnp.asarray(VECTORS)[x], lambda code: code)
    process, x0, t = Encoded(base, codec), np.array([2, 0, 1]), 0.3
    z, alpha, sigma = np.random.default_rng(1).normal(size=(3, 2)), *map(float, VP()(0.3))
    x = process.corrupt(x0, z, t)
    np.testing.assert_allclose(x, alpha * VECTORS[x0] + sigma * z, atol=1e-14)
    np.testing.assert_allclose(process.invert(jax.random.key(0), x0, x, t), z, atol=1e-12)
    np.testing.assert_allclose(process.renew(jax.random.key(0), z, 0.0), z)
    assert process.noise(jax.random.key(0), x0).shape == (3, 2)
    assert process.on(Rectified()).schedule == Rectified()
    assert process.schedule is base.schedule


def _loss(method, x, t, z):
    one = Example(np.asarray([x], np.int32), {}, {"t": np.array([t]), "z": np.asarray([z])})
    return lambda params: method.turns[0].losses(params, jax.random.key(0), one, jnp.arange(1), 1)[0][0]


@pytest.mark.usefixtures("x64")
def test_gradient_reaches_the_encoder_along_the_sphere():
    """Against central differences; there is none along a vector, whose length is held."""
    network = models.from_function(lambda p, x, c, given: jnp.tanh(x @ p), np.random.default_rng(2).normal(size=(2, 2)))
    method = methods.encoded(network, Gaussian(Rectified()), 3, 2)
    params = method.init(jax.random.key(1), Example(np.zeros(2, np.int32)))
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, float), params)
    loss = jax.jit(_loss(method, [0, 2], 0.5, np.random.default_rng(3).normal(size=(2, 2))))
    slope, E = jax.jit(jax.grad(loss))(params)["encoder"], np.asarray(params["encoder"])
    for place in np.ndindex(3, 2):
        moved = [{**params, "encoder": jnp.asarray(E).at[place].add(h)} for h in (1e-5, -1e-5)]
        np.testing.assert_allclose(slope[place], (loss(moved[0]) - loss(moved[1])) / 2e-5, atol=1e-8)
    np.testing.assert_allclose(np.sum(np.asarray(slope) * E, -1), 0, atol=1e-12)
    assert np.abs(slope).min() > 1e-4


def test_the_constraint_holds_in_training_and_without_one_vectors_grow():
    """300 steps on independent tokens, from one table; the negative control is allowed any length."""

    def trained(constraint):
        first = np.asarray(sphere(jax.random.normal(jax.random.key(4), (3, 2))))
        vectors = fixed(first, constraint)
        method = methods.encoded(silent(), Gaussian(Rectified()), 3, 2, vectors=vectors)
        params = method.init(jax.random.key(0), Example(np.zeros(3, np.int32)))
        x, index = np.random.default_rng(0).integers(0, 3, (300, 64, 3)).astype(np.int32), jnp.arange(64)

        def step(params, batch):
            x, key = batch
            losses = method.turns[0].losses
            loss, slope = jax.value_and_grad(lambda p: losses(p, key, Example(x), index, 64)[0].mean())(params)
            return jax.tree.map(lambda p, g: p - g, params, slope), loss

        run = jax.jit(lambda params, x, keys: jax.lax.scan(step, params, (x, keys)))
        params, losses = run(params, x, jax.random.split(jax.random.key(1), 300))
        E = np.asarray(method.parts.encoder(params))
        return E, np.asarray(losses)[-50:].mean(), first

    held, loss, first = trained(sphere)
    np.testing.assert_allclose(np.linalg.norm(held, axis=-1), np.sqrt(2), rtol=1e-5)
    apart = lambda E: min(np.linalg.norm(E[i] - E[j]) for i in range(3) for j in range(i))
    assert apart(held) > apart(first) + 0.2  # they part: the farthest that three can be is sqrt(6)
    assert abs(apart(held) - np.sqrt(6)) < 0.15
    free, lower, _ = trained(lambda vectors: vectors)
    assert np.linalg.norm(free, axis=-1).max() > 2 * np.sqrt(2)
    assert lower < loss - 0.1


# Trained: the config's own run, a minute


@pytest.mark.slow
def test_config_trains_and_resumes(tmp_path, capsys):
    found = assert_trains_and_resumes("configs/encoded.py:tiny", tmp_path, capsys)["encoded"]
    np.testing.assert_allclose(found["lengths"], np.sqrt(2), rtol=1e-5)
    assert 0 < found["cross_entropy"] < found["cross_entropy_at_the_end"] < np.log(3) + 0.1
    assert found["closest"] > 0


@pytest.mark.slow
def test_trained_draws_have_the_joint_law_by_tokens_and_by_vectors():
    network = models.of(models.MLP(width=128, depth=2))
    method = methods.encoded(network, Gaussian(Rectified()), 3, 2, shown="mean")
    options = {"batch_size": 512, "steps_per_dispatch": 50, "chunk": 4096, "log_every": 3000}
    with runs.Trainer(method, data.tokens(), optimizer=optax.adam(2e-3), **options) as trainer:
        run = trainer.train(3000)
    law, n = joint(), 20_000
    floor = 0.5 * np.sum(np.sqrt(2 * law * (1 - law) / (np.pi * n)))
    distance = lambda x: 0.5 * np.abs(frequencies(x, law.shape) - law).sum()
    assert distance(run.draw(n)) < 3 * floor
    assert distance(run.draw(n, sampler=samplers.ancestral.ddim)) < 3 * floor
    assert distance(run.draw(n, nfe=1)) > 10 * floor  # the negative control: independent places
    np.testing.assert_array_equal(run.draw([7, 3]), run.draw([3, 7])[::-1])


# Bad input


def make(**options):
    network = models.of(models.MLP(width=8, depth=1))
    return methods.encoded(
        **{"network": network, "process": Gaussian(Rectified()), "vocabulary": 3, "size": 2} | options
    )


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"vocabulary": 1}, r"vocabulary is 1, expected an integer >= 2"),
        ({"size": 0}, r"size is 0, expected an integer >= 1"),
        ({"shown": "E"}, r"shown is 'E', expected 'x' or 'mean'"),
        ({"process": processes.poisson(VP(), D=64.0)}, r"as the process, expected processes.Gaussian\(schedule\)"),
        ({"process": Gaussian(VP(), law=jax.random.laplace)}, r"expected processes.Gaussian\(schedule\) with normal"),
        (
            {"vectors": fixed(np.ones((3, 2)), None)},
            r"The encoder states no constraint, and without one the loss falls",
        ),
        ({"vectors": table(4, 2)}, r"The encoder makes vectors \(4, 2\), expected \(3, 2\): one for each token"),
        (
            {"vectors": fixed([[1, 0], [0, 0], [0, 1]], sphere)},
            r"first vector of token 1 is .*: it had length 0, by",
        ),
    ],
)
def test_parts_that_do_not_fit_are_refused(options, match):
    with pytest.raises(ValueError, match=match):
        make(**options)


def test_real_examples_and_other_networks_are_refused_before_training():
    x = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    with pytest.raises(ConfigError, match=r"float32 of shape \(3,\), expected integers: tokens from 0 on"):
        runs.Trainer(make(), data.arrays(x), optimizer=optax.adam(1e-3))
    wide = make(network=models.of(models.MLP(width=8, depth=1, outputs=2)))
    with pytest.raises(
        ValueError, match=r"The network makes \(3, 4\) of vectors of shape \(3, 2\), expected their sha"
    ):
        jax.eval_shape(wide.init, jax.random.key(0), Example(np.zeros(3, np.int32)))
    method = make(sampler=lambda process: samplers.unified(process, estimate="mean"))
    params = method.init(jax.random.key(0), Example(np.zeros(3, np.int32)))
    with pytest.raises(ValueError, match=r"gives Categorical, which has no mean; take estimate='sample'"):
        jax.eval_shape(method.draw, params, method.plan((3,)), jax.random.key(0), {})


def test_a_token_outside_the_vocabulary_is_refused_and_has_no_loss():
    method = make()
    params, index = jax.jit(method.init)(jax.random.key(0), Example(np.zeros(3, np.int32))), jnp.arange(2)
    losses = jax.jit(lambda x: method.turns[0].losses(params, jax.random.key(0), Example(x), index, 2)[0])
    np.testing.assert_array_equal(np.isnan(losses(np.int32([[0, 1, 2], [0, 1, 3]]))), [False, True])
    with pytest.raises(ConfigError, match="has tokens from 3 to 3, expected 0 to 2: the vocabulary is 3"):
        runs.Trainer(make(), data.arrays(np.full((40, 3), 3, np.int32)), optimizer=optax.sgd(1e-3), batch_size=4)
