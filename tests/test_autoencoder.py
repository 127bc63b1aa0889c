"""A variational autoencoder: its bound and gradients where both are known in closed form, a trained one against PCA."""

import json
from functools import cache
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize
import scipy.stats
from twice import assert_trainer_resumes, judged

from diffjax import codecs, data, methods, models, runs
from diffjax import main as command_line
from diffjax.method import Example
from diffjax.methods.autoencoder import divergence, pca_error
from diffjax.optimizers import build_optimizer
from diffjax.types import Posterior

SPECTRUM = np.array([4.0, 2.0, 1.0, 0.5, 0.25, 0.25])
AXES = np.linalg.qr(np.random.default_rng(3).normal(size=(6, 6)))[0]
C = AXES * SPECTRUM @ AXES.T


def linear(k, **options):
    """The method of linear networks: encoder V x and one log-variance for all x, decoder W z."""
    encoder = models.from_function(
        lambda p, x, c, given: jnp.concatenate([p["V"] @ x, p["log_var"]]),
        {"V": np.zeros((k, 6)), "log_var": np.zeros(k)},
    )
    decoder = models.from_function(lambda p, z, c, given: p["W"] @ z, {"W": np.zeros((6, k))})
    return methods.autoencoder(encoder, decoder, **options)


def ppca(k, s2=None, beta=1.0, turned=0.0):
    """The optimum by Tipping & Bishop: parameters of `linear`, and the variance s^2 that they belong to.

    With a weight beta and a fixed s^2 the same holds of beta s^2; `turned` rotates the first two latents.
    """
    s2 = SPECTRUM[k:].mean() if s2 is None else s2
    kept = np.maximum(SPECTRUM[:k] - beta * s2, 0)
    rotation = np.eye(k)
    turn = np.array([[np.cos(turned), -np.sin(turned)], [np.sin(turned), np.cos(turned)]])
    rotation[:2, :2] = turn[:k, :k]
    W = AXES[:, :k] * np.sqrt(kept) @ rotation
    M = W.T @ W + beta * s2 * np.eye(k)
    encoder = {"V": np.linalg.solve(M, W.T), "log_var": np.log(beta * s2 / np.diag(M))}
    return {"encoder": encoder, "decoder": {"W": W}, "log_std": np.asarray(np.log(s2) / 2)}


@cache
def exact_loss(k, **options):
    """The mean loss of `linear(k, **options)`, compiled once (in float64)."""
    return mean_loss(linear(k, **options), k)


def mean_loss(method, k):
    """params -> (E of the loss, in nats, its gradient), over x ~ N(0, C) and the latent's noise; both enter squared."""
    points = lambda root, n: np.concatenate([root, -root], 1).T * np.sqrt(n)
    x, z = points(np.linalg.cholesky(C), 6), points(np.eye(k), k)
    pairs = Example(np.repeat(x, len(z), 0), {}, {"z": np.tile(z, (len(x), 1))})
    size = len(pairs.x)

    def mean(params, pairs):
        losses, _ = method.turns[0].losses(params, jax.random.key(0), pairs, jnp.arange(size), size)
        return 6 * losses.mean()

    slope = jax.jit(jax.value_and_grad(mean))
    return lambda params: jax.device_get(slope(params, pairs))


def log_likelihood(W, s2):
    """E log N(x; 0, W W' + s^2 I) over x ~ N(0, C)."""
    model = W @ W.T + s2 * np.eye(6)
    return -(6 * np.log(2 * np.pi) + np.linalg.slogdet(model)[1] + np.trace(np.linalg.solve(model, C))) / 2


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("k", "s2", "value"), [(1, 0.8, -8.648920), (2, 0.5, -8.167058), (3, 1 / 3, -7.905433)])
def test_at_the_optimum_of_ppca_the_bound_is_the_likelihood_and_the_gradient_vanishes(k, s2, value):
    params, mean = ppca(k), exact_loss(k)
    loss, slopes = mean(params)
    np.testing.assert_allclose([np.exp(2 * params["log_std"]), -loss], [s2, value], rtol=1e-6)
    W = np.asarray(params["decoder"]["W"])
    np.testing.assert_allclose(-loss, log_likelihood(W, s2), rtol=1e-12)
    # Tipping & Bishop's own expression of the maximum
    kept, rest = SPECTRUM[:k], SPECTRUM[k:]
    maximum = -(6 * np.log(2 * np.pi) + np.log(kept).sum() + (6 - k) * np.log(rest.mean()) + 6) / 2
    np.testing.assert_allclose(-loss, maximum, rtol=1e-12)
    for path, slope in jax.tree_util.tree_leaves_with_path(slopes):
        np.testing.assert_allclose(slope, 0, atol=1e-12, err_msg=jax.tree_util.keystr(path))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("turned", "expected"), [(np.pi / 12, 0.0153858), (np.pi / 4, 0.0588915)])
def test_a_diagonal_encoder_pays_for_rotated_axes(turned, expected):
    """The likelihood does not see a rotation; the bound falls by 1/2 (sum log M_ii - log det M)."""
    params, mean = ppca(2, turned=turned), exact_loss(2)
    W, s2 = np.asarray(params["decoder"]["W"]), float(np.exp(2 * params["log_std"]))
    M = W.T @ W + s2 * np.eye(2)
    gap = (np.log(np.diag(M)).sum() - np.linalg.slogdet(M)[1]) / 2
    np.testing.assert_allclose(gap, expected, rtol=1e-5)
    np.testing.assert_allclose(log_likelihood(W, s2) + mean(params)[0], gap, rtol=1e-9)


@pytest.mark.usefixtures("x64")
def test_at_a_fixed_noise_a_direction_below_it_collapses():
    """s^2 = 1.5 on eigenvalues 4, 2, 1: the third column is 0, by the likelihood's doing and not the bound's."""
    params = ppca(3, s2=1.5)
    del params["log_std"]
    loss, slopes = exact_loss(3, std=1.5**0.5)(params)
    W = np.asarray(params["decoder"]["W"])
    np.testing.assert_allclose((W**2).sum(0), [2.5, 0.5, 0], atol=1e-12)
    np.testing.assert_allclose(-loss, [log_likelihood(W, 1.5)], rtol=1e-12)
    np.testing.assert_allclose(-loss, -9.030949, rtol=1e-6)
    for slope in jax.tree.leaves(slopes):
        np.testing.assert_allclose(slope, 0, atol=1e-12)


@pytest.mark.usefixtures("x64")
def test_ascent_from_random_values_ends_at_ppca_with_its_columns_on_the_axes():
    """A diagonal encoder: the bound picks the principal axes among all rotations."""
    rng = np.random.default_rng(5)
    start = jax.tree.map(lambda a: 0.5 * rng.normal(size=np.shape(a)), ppca(2))
    leaves, structure = jax.tree.flatten(start)
    ends = np.cumsum([np.size(leaf) for leaf in leaves])[:-1]

    def tree(flat):
        parts = [part.reshape(np.shape(leaf)) for part, leaf in zip(np.split(flat, ends), leaves)]
        return jax.tree.unflatten(structure, parts)

    def slope(flat):
        loss, slopes = exact_loss(2)(tree(flat))
        return float(loss), np.concatenate([np.ravel(part) for part in jax.tree.leaves(slopes)])

    flat = np.concatenate([np.ravel(leaf) for leaf in leaves])
    found = scipy.optimize.minimize(slope, flat, jac=True, method="BFGS", options={"gtol": 1e-9, "maxiter": 2000})
    params = tree(found.x)
    assert -found.fun == pytest.approx(-8.1670577, abs=1e-6)
    assert -found.fun == pytest.approx(log_likelihood(params["decoder"]["W"], np.exp(2 * params["log_std"])), abs=1e-9)
    np.testing.assert_allclose(np.exp(2 * params["log_std"]), 0.5, rtol=1e-6)
    columns = np.abs(AXES.T @ params["decoder"]["W"])
    columns = columns[:, np.argsort(-columns.max(0))]
    expected = np.zeros((6, 2))
    expected[0, 0], expected[1, 1] = np.sqrt(3.5), np.sqrt(1.5)
    np.testing.assert_allclose(columns, expected, atol=1e-5)


@pytest.mark.usefixtures("x64")
def test_beta_is_a_rate_at_a_distortion():
    """A fixed s: beta s^2 takes the place of s^2, and a direction below it collapses (reverse water-filling)."""
    beta, s2 = 3.0, 0.5
    method = linear(3, beta=beta, std=s2**0.5)
    params = ppca(3, s2=s2, beta=beta)
    del params["log_std"]
    assert np.abs(params["decoder"]["W"][:, 2]).max() == 0  # the third of 4, 2, 1 is below 1.5
    for path, slope in jax.tree_util.tree_leaves_with_path(exact_loss(3, beta=beta, std=s2**0.5)(params)[1]):
        np.testing.assert_allclose(slope, 0, atol=1e-12, err_msg=jax.tree_util.keystr(path))
    losses = jax.jit(lambda params, x: method.turns[0].losses(params, jax.random.key(0), x, jnp.zeros(1, int), 1))
    _, aux = losses(params, Example(np.zeros((1, 6))))
    m2 = (SPECTRUM[:2] - beta * s2) / SPECTRUM[:2]  # E m^2 of the kept; at x = 0 the KL lacks half of it
    rate = np.log(SPECTRUM[:2] / (beta * s2)).sum() / 2
    np.testing.assert_allclose(aux["kl"], [rate - m2.sum() / 2], rtol=1e-12)


@pytest.mark.usefixtures("x64")
def test_divergence_is_an_integral():
    mean, var = np.array([0.7, -1.2]), np.array([0.3, 2.0])
    x = np.linspace(-25, 25, 100_001)[:, None]
    q = scipy.stats.norm(mean, np.sqrt(var))
    expected = np.sum(q.pdf(x) * (q.logpdf(x) - scipy.stats.norm.logpdf(x))) * (x[1, 0] - x[0, 0])
    found = jax.jit(lambda mean, var: divergence(Posterior(mean, var)))(mean, var)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.usefixtures("x64")
def test_an_s_of_each_entry_above_its_floor():
    """The loss at one draw is KL - log N(x; W z, floor^2 + e^(2 l)), entry by entry, and draws have that noise."""
    rng = np.random.default_rng(2)
    method, params = linear(2, per_entry=True, floor=0.3, noisy=True), ppca(2)
    params["log_std"] = rng.normal(size=6) - 1
    std = np.sqrt(0.09 + np.exp(2 * params["log_std"]))
    x, z = rng.normal(size=6), rng.normal(size=2)

    @jax.jit
    def found(params, example, keys):
        losses, _ = method.turns[0].losses(params, jax.random.key(0), example, jnp.zeros(1, int), 1)
        return losses[0], jax.vmap(lambda key: method.draw(params, method.plan((6,)), key, {}))(keys)

    example = Example(x[None], {}, {"z": z[None]})
    loss, drawn = jax.device_get(found(params, example, jax.random.split(jax.random.key(1), 20_000)))
    mean, var = params["encoder"]["V"] @ x, np.exp(params["encoder"]["log_var"])
    kl = np.sum(mean**2 + var - 1 - np.log(var)) / 2
    W = np.asarray(params["decoder"]["W"])
    expected = kl - scipy.stats.norm(W @ (mean + np.sqrt(var) * z), std).logpdf(x).sum()
    np.testing.assert_allclose(6 * loss, expected, rtol=1e-12)
    np.testing.assert_allclose(np.cov(drawn.T), W @ W.T + np.diag(std**2), atol=0.1)


def test_levels_spread_examples_over_their_bins():
    """Networks of zero, s = 1: the loss has u^2 / 2, of mean 1/6 (1/16)^2 for the 17 levels, and no more."""
    zero = {"encoder": {"V": np.zeros((1, 6)), "log_var": np.zeros(1)}, "decoder": {"W": np.zeros((6, 1))}}
    params = jax.tree.map(np.float32, zero | {"log_std": np.zeros(())})
    for levels, mean in ((17, 1 / 16**2 / 6), (None, 0.0)):
        method, example = linear(1, levels=levels), Example(np.zeros((2000, 6), np.float32))
        losses, _ = jax.jit(method.turns[0].losses, static_argnums=4)(
            params, jax.random.key(0), example, jnp.arange(2000), 2000
        )
        np.testing.assert_allclose(np.mean(np.asarray(losses, np.float64)) - np.log(2 * np.pi) / 2, mean, atol=2e-5)


@pytest.mark.usefixtures("x64")
def test_what_is_stated_is_the_likelihood_in_the_mean():
    """At PPCA's optimum the bound is tight for each x: log N(x; 0, W W' + s^2 I)."""
    params, x = ppca(2), AXES @ np.array([2.0, -1.0, 0.5, 0.2, 0, 0.3])
    parts = linear(2).parts
    said = jax.jit(jax.vmap(lambda key: parts.stated(params, key, x, {})))(jax.random.split(jax.random.key(3), 20_000))
    W, s2 = np.asarray(params["decoder"]["W"]), SPECTRUM[2:].mean()
    expected = scipy.stats.multivariate_normal(np.zeros(6), W @ W.T + s2 * np.eye(6)).logpdf(x)
    np.testing.assert_allclose(np.mean(said.log_p), expected, atol=0.05)
    np.testing.assert_allclose(said.log_p, -sum(said.parts.values()), rtol=1e-12)
    M = np.diag(W.T @ W) + s2
    np.testing.assert_allclose(np.cov(said.latent.T), np.diag(s2 / M), atol=0.01)


def test_pca_error_is_what_is_left_of_the_spectrum():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 2, 3))
    flat = x.reshape(400, 6) - x.reshape(400, 6).mean(0)
    expected = (np.linalg.svd(flat, compute_uv=False)[2:] ** 2).sum() / flat.size
    np.testing.assert_allclose(pca_error(x, x, 2), expected, rtol=1e-10)


STEPS = 1200


def trainer(workdir=None, noisy=True, **settings):
    x = (np.random.default_rng(0).normal(size=(40_000, 6)) * np.sqrt(SPECTRUM) @ AXES.T).astype(np.float32)
    net = lambda size: models.of(models.Perceptron((size,), depth=0))
    method = methods.autoencoder(net(4), net(6), noisy=noisy)
    optimizer, _ = build_optimizer({"name": "adam", "learning_rate": 2e-2, "schedule": "cosine"}, STEPS)
    options = {
        "batch_size": 256,
        "steps": STEPS,
        "log_every": 100,
        "sample_every": STEPS,
        "steps_per_dispatch": 100,
        "chunk": 5000,
    }
    return runs.Trainer(method, data.arrays(x), optimizer=optimizer, workdir=workdir, **options | settings)


@pytest.mark.slow  # trained to the end
def test_trained_linear_networks_reach_ppca():
    with trainer() as made:
        run = made.train()
    x = run.data.held_out.gather(np.arange(len(run.data.held_out))).x
    codec, params = run.method.parts, run.params
    s2 = SPECTRUM[2:].mean()
    np.testing.assert_allclose(np.exp(2 * params["log_std"]), s2, rtol=0.05)

    def looked_at(x):
        code = codec.encode(params, x)
        return codec.decode(params, code.mean).mean, divergence(code)

    back, rates = jax.device_get(jax.jit(jax.vmap(looked_at))(x))
    error = np.mean((back - x) ** 2)
    bound = pca_error(x, x, 2)  # of all linear codecs of two numbers the best
    shrunk = (SPECTRUM[2:].sum() + (s2**2 / SPECTRUM[:2]).sum()) / 6  # 9 % above PCA's
    assert bound < error
    np.testing.assert_allclose(error, shrunk, rtol=0.05)
    np.testing.assert_allclose(rates.mean(), np.log(SPECTRUM[:2] / s2).sum() / 2, atol=0.05)
    model = AXES * np.where(np.arange(6) < 2, SPECTRUM, s2) @ AXES.T
    np.testing.assert_allclose(np.cov(run.draw(20_000, given={}).T), model, atol=0.15)


def test_draws_are_the_decoders_mean_or_have_its_noise():
    params = jax.tree.map(np.float32, ppca(2))

    @jax.jit
    def draw(params, key):
        keys, (plain, noisy) = jax.random.split(key, 20_000), (linear(2, noisy=noisy) for noisy in (False, True))
        of_each = lambda key: [of.draw(params, of.plan((6,)), key, {}) for of in (plain, noisy)]
        return jax.vmap(of_each)(keys)

    drawn = [np.asarray(x, np.float64) for x in draw(params, jax.random.key(0))]
    W, s2 = np.asarray(params["decoder"]["W"]), SPECTRUM[2:].mean()
    np.testing.assert_allclose(np.cov(drawn[False].T), W @ W.T, atol=0.1)
    np.testing.assert_allclose(np.cov(drawn[True].T), W @ W.T + s2 * np.eye(6), atol=0.1)
    np.testing.assert_allclose((drawn[True] - drawn[False]).var(), s2, rtol=0.02)  # of one seed, the same latent


def test_codec_of_a_run_is_the_two_means():
    """x ~ W M^-1 W' x, as linear algebra."""
    params = ppca(2)
    codec = codecs.of(SimpleNamespace(method=linear(2), params=jax.tree.map(np.float32, params)))
    x, W = np.random.default_rng(0).normal(size=6), params["decoder"]["W"]
    back = jax.jit(lambda codec, x: codec.decode(codec.encode(x)))(codec, x.astype(np.float32))
    M = W.T @ W + SPECTRUM[2:].mean() * np.eye(2)
    np.testing.assert_allclose(back, W @ np.linalg.solve(M, W.T @ x), rtol=1e-4)
    assert codec.shape(x) == (2,)


def test_refuses_bad_input_in_one_line():
    net = lambda *shape: models.of(models.Perceptron(shape, width=4))
    for options in ({"beta": 0}, {"std": -1.0}):
        with pytest.raises(ValueError, match=r"^Got (beta = 0|std = -1.0), expected a positive number\.$"):
            methods.autoencoder(net(2), net(2), **options)
    with pytest.raises(ValueError, match=r"^Got floor = -0\.1, expected a standard deviation, 0 or more\.$"):
        methods.autoencoder(net(2), net(2), floor=-0.1)
    with pytest.raises(ValueError, match=r"^Got std = 1\.0 with per_entry or floor, which are of a learned one"):
        methods.autoencoder(net(2), net(2), std=1.0, per_entry=True)
    with pytest.raises(ValueError, match=r"^levels is 1, expected an integer >= 2"):
        methods.autoencoder(net(2), net(2), levels=1)
    make = lambda *nets: runs.Trainer(
        methods.autoencoder(*nets), data.moons(n=64, held_out=8), optimizer=optax.adam(1e-3), batch_size=8
    )
    with pytest.raises(
        ValueError, match=r"^The encoder makes \(3,\), expected mean and log-variance: an even last axis"
    ):
        make(net(3), net(2))
    with pytest.raises(
        ValueError, match=r"^The encoder makes mean and log-variance of a latent of 3 numbers, expected 2"
    ):
        make(net(6), net(2))
    with pytest.raises(ValueError, match=r"^The decoder makes examples of shape \(5,\), expected \(2,\), the data's\."):
        make(net(2), net(5))


def test_both_networks_are_told_that_they_train_and_get_keys():
    told = []

    def network(size, name):
        def apply(params, x, c, given, *, train=False, key=None):
            told.append((name, train, key))
            return jnp.zeros(size)

        return models.Network(lambda key, x, c, given: {}, apply)

    method = methods.autoencoder(network(4, "encoder"), network(3, "decoder"))
    params = method.init(jax.random.key(0), Example(np.zeros(3, np.float32), {}, {}))
    told.clear()
    example = Example(np.zeros((1, 3), np.float32), {}, {})
    jax.eval_shape(lambda p: method.turns[0].losses(p, jax.random.key(0), example, jnp.arange(1), 1), params)
    (first, train, key), (second, trains, other) = told
    assert (first, train, second, trains) == ("encoder", True, "decoder", True)
    assert key is not None
    assert other is not None


@pytest.mark.slow  # test_tiny_recipes resumes by the command
def test_a_stopped_run_goes_on_to_the_same_bytes(tmp_path):
    small = dict(steps=40, sample_every=40, batch_size=16, steps_per_dispatch=1, log_every=10)
    assert_trainer_resumes(lambda workdir: trainer(workdir, **small), tmp_path)


@pytest.mark.slow
def test_the_config_trains_and_is_judged_from_the_command_line(tmp_path):
    results = judged("configs/autoencoder.py:tiny", tmp_path / "whole")
    run = runs.open(tmp_path / "whole")
    x, codec = run.data.held_out.gather(np.arange(64)).x, run.method.parts

    @jax.jit
    def coded(params, x):
        code = jax.vmap(codec.encode, (None, 0))(params, x)
        return code.mean, code.var, jax.vmap(codec.decode, (None, 0))(params, code.mean).mean

    mean, var, made = jax.device_get(coded(run.params, x))
    found = results["reconstruction_error"]
    np.testing.assert_allclose(found["value"], np.mean((made - x) ** 2), rtol=1e-5)
    axes = np.linalg.svd(run.data.train.x - run.data.train.x.mean(0), full_matrices=False)[2]
    left = (x - run.data.train.x.mean(0)) @ axes[1]  # one latent of two axes
    np.testing.assert_allclose(found["pca"], np.mean(left**2) / 2, rtol=1e-4)
    std = np.sqrt(var)
    assert run.draw(4).tobytes() != run.draw(4, noisy=True).tobytes()
    kl = np.sum(-np.log(std) + (std**2 + mean**2 - 1) / 2, -1).mean()
    np.testing.assert_allclose(results["kl"], kl, rtol=1e-4)
    assert "## Codec" in (tmp_path / "whole" / "report.md").read_text()
    assert command_line.main(["--mode=likelihood", f"--workdir={tmp_path / 'whole'}"]) == 0
    said = json.loads((tmp_path / "whole" / "likelihood.json").read_text())
    assert said["exact"] is False
    total = said["bits"]["held out"]["bits"]
    assert sum(said["parts"]["held out"].values()) == pytest.approx(total, abs=1e-4)  # of moons, whose scale is 1
    assert "of it KL" in (tmp_path / "whole" / "likelihood.md").read_text()
