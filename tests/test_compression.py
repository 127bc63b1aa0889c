"""Codecs in training: each bottleneck's loss by NumPy, a table that follows, an adversary's weight, and bad input."""

from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize
import scipy.special

from diffjax import codecs, data, ema, gumbel, methods, models, players, training
from diffjax.losses import autoencode
from diffjax.method import Drawn, Example, Section, Turn
from diffjax.methods.bottlenecks import Choice, Normal, Scalar, Vector
from diffjax.methods.compression import Compression
from diffjax.methods.estimates import Critic

RNG = np.random.default_rng(0)
X = RNG.normal(size=(8, 4))


def nets(channels, places=2, width=3):
    """A linear encoder of (4,) to (places, channels), and a linear decoder of (places, width)."""
    encoder = models.from_function(
        lambda p, x, c, given: (p["V"] @ x).reshape(places, channels),
        {"V": RNG.normal(size=(places * channels, 4))},
        (),
    )
    decoder = models.from_function(
        lambda p, z, c, given: p["out"]["W"] @ z.reshape(-1), {"out": {"W": RNG.normal(size=(4, places * width))}}, ()
    )
    return encoder, decoder


def looked_at(method, turn=-1):
    """(params, losses (8,), what they log) of a turn, with all eight examples."""
    params = method.init(jax.random.key(1), Example(X[0]))
    of = lambda params: method.turns[turn].losses(params, jax.random.key(0), Example(X), jnp.arange(8), 8)
    return jax.device_get((params, *jax.jit(of)(params)))


@pytest.mark.usefixtures("x64")
def test_the_rate_of_a_normal_code_at_its_distortion():
    """Reverse water-filling: D = min(lambda, w / 2), R = 1/2 log(lambda / D), of |x - y|^2 + w KL in one direction."""
    weight = 0.2
    points, mass = np.polynomial.hermite_e.hermegauss(8)
    kl = jax.jit(lambda h: jnp.sum(jax.vmap(Normal().divergence)(h[:, None]) * mass / mass.sum()))
    for lam, distortion, rate in ((4.0, 0.1, 1.8444397), (0.5, 0.1, 0.8047190), (0.05, 0.05, 0.0)):
        x = np.sqrt(lam) * points

        def parts(theta, x=x, lam=lam):
            a, log_var, back = theta  # E |x - back (a x + sd eps)|^2, and the mean KL
            h = np.stack([a * x, np.full(8, log_var)], -1)
            return (1 - a * back) ** 2 * lam + back**2 * np.exp(log_var), float(kl(h))

        cost = lambda theta, parts=parts: parts(theta) @ np.array([1, weight])
        best = scipy.optimize.minimize(cost, [0.5, -1.0, 0.5], method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-14, "maxiter": 4000})  # fmt: skip  # noqa: E501
        np.testing.assert_allclose(parts(best.x), [distortion, rate], atol=2e-6)


@pytest.mark.usefixtures("x64")
def test_the_loss_of_a_normal_code():
    """Mean |x - y|, or its square, and w KL / size; log-variances are clipped."""
    encoder, decoder = nets(4, width=2)
    params, losses, logged = looked_at(methods.compression.kl(encoder, decoder, beta=0.3, distance="l2"))
    mean, log_var = np.split((X @ params["encoder"]["V"].T).reshape(8, 2, 4), 2, -1)
    kl = 0.5 * (mean**2 + np.exp(log_var) - 1 - log_var).sum((1, 2))
    np.testing.assert_allclose(logged["kl"], kl, rtol=1e-12)
    np.testing.assert_allclose(losses, logged["distance"] + 0.3 * kl / 4, rtol=1e-12)
    far = np.array([[0.0, 99.0]])
    np.testing.assert_allclose(Normal().posterior(far).var, [[np.exp(20)]])
    np.testing.assert_allclose(autoencode.l1(X[0], X[1]), np.abs(X[0] - X[1]).mean())


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("decay", [None, 0.9])
def test_the_loss_and_the_codec_of_a_table(decay):
    encoder, decoder = nets(3)
    method = methods.compression.vq(encoder, decoder, codes=5, decay=decay, distance="l2")
    params, losses, logged = looked_at(method, 0)
    own = params if decay is None else params["codec"]
    book = (
        own["codebook"]["table"]
        if decay is None
        else params["codebook"]["total"] / params["codebook"]["share"][:, None]
    )
    z = (X @ own["encoder"]["V"].T).reshape(8, 2, 3)
    k = np.linalg.norm(z[:, :, None] - book, axis=-1).argmin(-1)
    e = np.asarray(book)[k]
    made = e.reshape(8, -1) @ np.asarray(own["decoder"]["out"]["W"]).T
    away, gap = ((made - X) ** 2).mean(1), ((z - e) ** 2).mean((1, 2))
    np.testing.assert_allclose(losses, away + (0.25 if decay else 1.25) * gap, rtol=1e-12)
    np.testing.assert_allclose(logged["quantised"], gap, rtol=1e-12)
    codec = codecs.of(SimpleNamespace(method=method, params=params))
    code, back = jax.device_get(jax.jit(jax.vmap(lambda x: (codec.encode(x), codec.decode(codec.encode(x)))))(X))
    np.testing.assert_array_equal(code, k)
    np.testing.assert_allclose(back, made, rtol=1e-12)
    assert codec.shape(X[0]) == (2,)
    assert codec.codes == 5
    assert np.isnan(np.asarray(codec.decode(np.array([0, 5])))).any()


@pytest.mark.usefixtures("x64")
def test_a_step_moves_the_table_to_its_running_means():
    """By the trainer's own step and the codec's optimizer: 2 turns, whose examples are the even and the odd ones."""
    encoder, decoder = nets(3)
    method = methods.compression.vq(encoder, decoder, codes=3, decay=0.8, dead=0.0)
    codec = optax.set_to_zero()  # the table has no other than its own
    averages = ema.warm_up((0.9,))
    params = method.init(jax.random.key(1), Example(X[0]))
    params["codebook"]["share"] = jnp.full(3, 1 / 3)
    params["codebook"]["total"] = jnp.asarray(RNG.normal(size=(3, 3)) / 3)
    players.check_optimizers(method, codec)
    state = training.init_state(params, codec, averages, jax.random.key(2), method)
    after, _ = jax.jit(training.make_step(method, codec, averages))(state, Example(X))
    params = jax.device_get(params)
    z = (X[1::2] @ params["codec"]["encoder"]["V"].T).reshape(-1, 3)
    table = 3 * np.asarray(params["codebook"]["total"])
    k = np.linalg.norm(z[:, None] - table, axis=-1).argmin(-1)
    share = 0.8 / 3 + 0.2 * np.bincount(k, minlength=3) / len(z)
    total = 0.8 * table / 3 + 0.2 * np.stack([z[k == i].sum(0) for i in range(3)]) / len(z)
    np.testing.assert_allclose(after.params["codebook"]["share"], share, rtol=1e-12)
    np.testing.assert_allclose(after.params["codebook"]["total"], total, rtol=1e-12)
    jax.tree.map(np.testing.assert_array_equal, after.params["codec"], params["codec"])


@pytest.mark.usefixtures("x64")
def test_the_adversary_pulls_as_hard_as_the_distance_at_the_last_layer():
    """A linear last layer W z and a linear critic a . y: the gradients are 2/d mean (W z - x) z' and -a mean z'."""
    encoder, decoder = nets(3)
    critic = models.from_function(lambda p, x, c, given: p["a"] @ x, {"a": RNG.normal(size=4)}, ())
    method = methods.compression.vq_gan(encoder, decoder, critic, 5, distance="l2", h="kl", factor=0.5, last="out/W")
    assert [turn.moves for turn in method.turns] == ["critic", "codec"]
    assert method.served == ("codec",)
    params, losses, logged = looked_at(method)
    own = jax.device_get(params["codec"])
    z, W = (X @ own["encoder"]["V"].T).reshape(8, 2, 3), own["decoder"]["out"]["W"]
    book = own["codebook"]["table"]
    e = book[np.linalg.norm(z[:, :, None] - book, axis=-1).argmin(-1)].reshape(8, -1)
    rec = 2 / 4 * (e @ W.T - X).T @ e / 8
    gan = -np.outer(params["critic"]["a"], e.mean(0))
    weight = 0.5 * np.linalg.norm(rec) / (np.linalg.norm(gan) + 1e-4)
    np.testing.assert_allclose(logged["weight"], weight, rtol=1e-12)
    gap = ((z.reshape(8, -1) - e) ** 2).mean(1)
    made = e @ W.T
    expected = ((made - X) ** 2).mean(1) + 1.25 * gap - weight * made @ params["critic"]["a"]
    np.testing.assert_allclose(losses, expected, rtol=1e-12)
    mean = lambda params: method.turns[1].losses(params, jax.random.key(0), Example(X), jnp.arange(8), 8)[0].mean()
    slope = jax.jit(jax.grad(mean))(params)
    np.testing.assert_allclose(slope["codec"]["decoder"]["out"]["W"], rec + weight * gan, rtol=1e-10)
    np.testing.assert_array_equal(slope["critic"]["a"], 0)


def test_the_weight_has_an_end_and_no_gradient():
    assert float(autoencode.adversarial_weight({"a": jnp.ones(4)}, {"a": jnp.zeros(4)})) == 1e4  # 2e4 is cut
    assert float(jax.grad(lambda a: autoencode.adversarial_weight(a, jnp.ones(2)))(jnp.ones(2)).sum()) == 0


def test_what_codes_take():
    """Of 8 examples of two places: bits of a fixed length, by their entropy, and how many codes occur."""
    h = np.array([[0.0], [0.9], [9.0], [0.9], [0.0], [9.0], [9.0], [0.0]], np.float32).reshape(4, 2, 1)
    of = Vector(4, decay=None).bits({"table": jnp.array([[0.0], [1.0], [5.0], [9.0]])}, h)  # k = 0 1 3 1 0 3 3 0
    assert (of["bits"], of["used"], of["of"]) == (4.0, 3, 4)
    assert of["perplexity"] == pytest.approx(2.951152, abs=1e-6)
    assert of["entropy"] == pytest.approx(2 * np.log2(2.951152), abs=1e-5)
    assert Scalar((8, 6, 5)).codes == 240
    nats = 0.5 * (1 + 1 - 1)  # mean 1, variance 1, at each of two places
    assert Normal().bits(None, np.array([[[1.0, 0.0], [1.0, 0.0]]])) == {"bits": pytest.approx(2 * nats / np.log(2))}


@pytest.mark.usefixtures("x64")
def test_the_loss_and_the_codec_of_a_choice():
    """The decoder sees one vector, drawn by softmax(h); the KL is to an even law; the code is the likeliest."""
    encoder, decoder = nets(5)
    params, losses, logged = looked_at(methods.compression.gumbel(encoder, decoder, codes=5, width=3, beta=0.3))
    h = (X @ params["encoder"]["V"].T).reshape(8, 2, 5)
    q = scipy.special.softmax(h, -1)
    kl = (q * np.log(5 * q)).sum((1, 2))
    np.testing.assert_allclose(logged["kl"], kl, rtol=1e-10)
    np.testing.assert_allclose(losses, logged["distance"] + 0.3 * kl / 4, rtol=1e-12)
    table, of = np.asarray(params["codebook"]["table"]), Choice(5, 3)
    seen = jax.vmap(lambda key: of.passed(params["codebook"], key, h[0], 4).z)(
        jax.random.split(jax.random.key(0), 4000)
    )
    which = np.argmin(np.abs(np.asarray(seen)[..., None, :] - table).sum(-1), -1)
    np.testing.assert_allclose(seen, table[which], atol=1e-12)
    np.testing.assert_allclose([np.bincount(k, minlength=5) / 4000 for k in which.T], q[0], atol=0.03)
    np.testing.assert_array_equal(of.encode(params["codebook"], h), h.argmax(-1))
    np.testing.assert_array_equal(of.decode(params["codebook"], jnp.array([4, 5]))[0], table[4])
    assert np.isnan(of.decode(params["codebook"], jnp.array([-1]))).all()
    assert of.bits(params["codebook"], h)["bits_back"] == pytest.approx(kl.mean() / np.log(2), rel=1e-6)
    assert set(np.asarray(of.draw(params["codebook"], jax.random.key(0), (99,)))) == set(range(5))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("hard", [True, False])
def test_a_choice_learns_by_its_relaxed_one(hard):
    """By central differences of the relaxed choice, whatever the decoder sees."""
    h, table, key = RNG.normal(size=(1, 4)), RNG.normal(size=(4, 3)), jax.random.key(7)
    of = Choice(4, 3, tau=0.7, hard=hard, beta=0.0)
    noise = np.asarray(gumbel.perturbed(key, jnp.zeros((1, 4))))
    weight = RNG.normal(size=3)
    found = jax.grad(lambda h: jnp.sum(of.passed({"table": table}, key, h, 1).z @ weight))(h)
    relaxed = lambda h: float((scipy.special.softmax((h + noise) / 0.7, -1) @ table @ weight).sum())
    steps = 1e-6 * np.eye(4)[:, None]
    np.testing.assert_allclose(found[0], [(relaxed(h + e) - relaxed(h - e)) / 2e-6 for e in steps], rtol=1e-6)
    if not hard:
        np.testing.assert_allclose(of.passed({"table": table}, key, h, 1).z @ weight, relaxed(h), rtol=1e-10)


def test_draws_have_the_shares_of_their_codes():
    of, params = Vector(3), {"share": jnp.array([0.5, 0.3, 0.2]), "total": jnp.zeros((3, 2))}
    found = np.bincount(np.asarray(of.draw(params, jax.random.key(0), (20_000,))), minlength=3) / 20_000
    np.testing.assert_allclose(found, [0.5, 0.3, 0.2], atol=0.015)
    assert set(np.asarray(Scalar((2, 2)).draw(None, jax.random.key(0), (99,)))) == {0, 1, 2, 3}


def test_rounded_codes_pass_and_come_back():
    encoder, decoder = nets(3)
    method = methods.compression.fsq(encoder, decoder, levels=[5, 4, 2])
    params = method.init(jax.random.key(0), Example(X[0]))
    assert set(params) == {"encoder", "decoder"}
    assert method.turns[0].moves is None
    codec = method.parts.codec(params)
    code = jax.jit(jax.vmap(codec.encode))(X.astype(np.float32))
    assert code.dtype == jnp.int32
    assert code.shape == (8, 2)
    assert codec.std is None
    assert codec.codes == 5 * 4 * 2
    assert np.asarray(jax.eval_shape(jax.vmap(codec.decode), code)).item().shape == (8, 4)


def test_a_report_has_errors_beside_pca_and_mixed_codes_and_the_judges_numbers():
    """A codec that forgets nothing: no error, and mixed codes have the error of mixed entries."""
    square = lambda p, x, c, given: p["V"] @ x
    encoder, decoder = (models.from_function(square, {"V": np.eye(4, dtype=np.float32)}, ()) for _ in range(2))
    same = lambda p, h: h
    told = dict(codes=None, follows=False, init=lambda key, h: None, bits=lambda p, h: {"bits": 32.0 * h.shape[1]})
    bottleneck = SimpleNamespace(encode=same, decode=same, **told)
    method = Compression(encoder, decoder, bottleneck).method()
    judge = lambda drawn, dataset: [Section({"metrics": {"mean": {"value": float(drawn.x.mean())}}})]
    x = RNG.normal(size=(60, 4)).astype(np.float32)
    dataset = data.arrays(x, held_out=0.5)._replace(judge=judge)
    run = SimpleNamespace(params=method.init(jax.random.key(0), Example(x[0])), data=dataset)
    codec, floor = method.report(run, Drawn(np.zeros((9, 4)), {}))
    held_out = dataset.some("held_out", 99).x
    found = codec.results["reconstruction_error"]
    assert found["value"] < 1e-12
    assert found["pca"] is None  # as many numbers as entries
    flat = np.random.default_rng(0).permuted(held_out, axis=0)
    assert found["mixed"] == pytest.approx(np.mean((flat - held_out) ** 2), rel=1e-5)
    assert codec.results["codes"] == {"bits": 128.0}
    assert codec.figures[0].kind == "samples"
    first = dataset.train.gather(dataset.places("train", 9)).x
    assert floor.results == {"decoded": {"mean": pytest.approx(first.mean(), rel=1e-4)}}
    assert method.parts.held_out(run) < 1e-12


ENCODER, DECODER = nets(3)
CRITIC = models.from_function(lambda p, x, c, given: p["a"] @ x, {"a": np.ones(4)}, ())
READER = models.from_function(lambda p, x, c, given: x, {}, reads=("label",))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: methods.compression.vq(ENCODER, DECODER, codes=1), r"codes is 1, expected an integer >= 2\."),
        (lambda: Choice(1), r"codes is 1, expected an integer >= 2\."),
        (lambda: Choice(4, tau=0.0), r"tau is 0\.0, expected a positive number\."),
        (lambda: Choice(4, beta=-1.0), r"Got beta = -1\.0, expected the weight of the KL, 0 or more\."),
        (lambda: Choice(4).init(None, jnp.zeros((2, 3))),
         r"The encoder makes \(2, 3\), expected 4 channels, the logits of as many\."),
        (lambda: Vector(4, decay=1.0), r"Got decay = 1\.0, expected one in \[0, 1\) of running means, or None\."),
        (lambda: Vector(4, commitment=-1), r"Got commitment = -1, expected a weight, 0 or more\."),
        (lambda: Vector(4, dead=1.0), r"Got dead = 1\.0, expected a share of 1 / 4 in \[0, 1\)\."),
        (lambda: methods.compression.fsq(ENCODER, DECODER, (8, 1)), r"levels\[1\] is 1, expected an integer >= 2\."),
        (lambda: methods.compression.kl(ENCODER, DECODER, -1.0), r"Got beta = -1\.0, expected the weight of .*"),
        (lambda: methods.compression.kl(ENCODER, DECODER, distance="l3"), r"distance is 'l3', expected l1 or l2\."),
        (lambda: methods.compression.kl(READER, DECODER), r"The encoder reads label, but a codec .*"),
        (lambda: Compression(ENCODER, DECODER, Normal(), factor=-1).method(), r"Got factor = -1, expected that of .*"),
        (lambda: methods.compression.kl_gan(ENCODER, DECODER, READER), r"The critic reads label, but a .*"),
        (lambda: Compression(ENCODER, DECODER, Normal(), critic=Critic(CRITIC, pairs=True)).method(),
         r"A codec's critic sees each example as it is: leave its pairs and its schedule out\."),
        (lambda: players.check_optimizers(methods.compression.vq(ENCODER, DECODER, 5),
                                          {"codec": optax.adam(1.0), "codebook": optax.adam(1.0)}),
         r"Got an optimizer for codebook, which the method moves by its own: leave it out\."),
        (lambda: players.check_players(methods.compression.vq(ENCODER, DECODER, 5)._replace(
            turns=(Turn(None, by=optax.sgd(1.0)),)), {}), r"A turn has an optimizer of its own, but moves all .*"),
    ],
)  # fmt: skip
def test_refuses_bad_numbers(make, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        make()


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (methods.compression.kl(ENCODER, DECODER), r"The encoder makes \(2, 3\), expected mean and log-variance: .*"),
        (methods.compression.fsq(ENCODER, DECODER, (3, 3)), r"The encoder makes \(2, 3\), expected 2 channels.*"),
        (methods.compression.vq_gan(ENCODER, DECODER, CRITIC, 5), r"last is 'conv_out/kernel', but the decoder has no "
         r"'conv_out': .*out.*"),
        (methods.compression.vq(ENCODER, models.from_function(lambda p, z, c, given: z[0], {}, ()), 5),
         r"The decoder makes examples of shape \(3,\), expected \(4,\), the data's\."),
    ],
)  # fmt: skip
def test_refuses_networks_that_do_not_fit(method, message):
    with pytest.raises(ValueError, match=f"^{message}"):  # behind it jax speaks of its traces
        jax.eval_shape(partial(method.init, jax.random.key(0)), Example(jnp.zeros(4)))
    with pytest.raises(ValueError, match=r"^This run has no likelihood: .* methods\.autoencoder .*"):
        method.parts.likelihood(None)
