"""Deep InfoMax: bounds on tables and Gaussians, the loss by NumPy, what moves what; its features as a space."""

import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from diffjax import codecs, models
from diffjax.losses import information
from diffjax.method import Example
from diffjax.methods import infomax
from diffjax.metrics import features
from diffjax.models import Maps

COUNTS = np.array([[3, 1, 0], [1, 2, 2], [0, 1, 6]])  # of 16 pairs
P = COUNTS / 16
APART = np.outer(P.sum(1), P.sum(0))
KL = lambda p, q: np.sum(special.rel_entr(p, q))
MUTUAL = KL(P, APART)
JSD = (KL(P, (P + APART) / 2) + KL(APART, (P + APART) / 2)) / 2


def value(scores, joint=P, apart=APART):
    """J of a table of scores, by the loss of pairs of one and of two draws, each with its weight."""
    pairs = jnp.asarray(scores)[:, :, None, None], jnp.asarray(scores)[None, None]
    both = np.asarray(information.jensen_shannon(*pairs))
    return np.einsum("ij,kl,ijkl", joint, apart, both)


@pytest.mark.usefixtures("x64")
def test_jensen_shannon_on_a_table():
    """At T = log p / (p p) J is 2 JSD - 2 log 2; every other T is below; -> JSD itself by `divergence`."""
    positive = P + 1e-300 * (P == 0)  # log of 0: sigmoid(T) is 0 there, and so is what it adds
    best = np.log(positive / APART)
    assert value(best) == pytest.approx(2 * JSD - 2 * np.log(2), abs=1e-12)
    assert information.divergence(value(best)) == pytest.approx(JSD, abs=1e-12)
    assert 0 < JSD < np.log(2)
    rng = np.random.default_rng(0)
    for size in (0.01, 0.3, 3.0):
        assert value(best + size * rng.normal(size=P.shape)) < value(best)
    assert value(np.zeros_like(P)) == pytest.approx(-2 * np.log(2))
    one = np.eye(40) / 40  # nearly told apart: JSD towards log 2
    far = value(np.where(one > 0, np.log(40), -700.0), one, np.full((40, 40), 1 / 1600))
    assert information.divergence(far) == pytest.approx(np.log(2) - np.log(41 / 40) / 2 - np.log(41) / 80, abs=1e-9)


@pytest.mark.usefixtures("x64")
def test_donsker_varadhan_on_a_table():
    """Pairs in the multiplicity of their probability: the bound is I at the best T up to a constant, below else."""
    repeat = lambda table, times: jnp.asarray(np.repeat(table.ravel(), times.ravel()))
    times = np.rint(256 * APART).astype(int)
    found = lambda T: float(information.donsker_varadhan(repeat(T, COUNTS), repeat(T, times)))
    best = np.where(P > 0, np.log(P / APART, where=P > 0, out=np.zeros_like(P)), -700.0)
    assert found(best) == pytest.approx(MUTUAL, abs=1e-12)
    assert found(best + 3.7) == pytest.approx(MUTUAL, abs=1e-12)
    rng = np.random.default_rng(1)
    assert all(found(best + rng.normal(size=P.shape)) < MUTUAL for _ in range(20))
    assert found(0 * P) == pytest.approx(0)


@pytest.mark.usefixtures("x64")
def test_info_nce_is_bounded_by_the_number_of_pairs():
    """Told apart without fail it is log K; of scores that say nothing 0; by hand for two pairs."""
    for K in (2, 7):
        assert information.info_nce(1000 * jnp.eye(K)) == pytest.approx(np.log(K), abs=1e-12)
        assert information.info_nce(jnp.zeros((K, K))) == pytest.approx(0, abs=1e-12)
    T = np.array([[1.0, 0.2], [-0.3, 0.5]])
    by_hand = np.mean([1 - np.log(np.mean(np.exp(T[0]))), 0.5 - np.log(np.mean(np.exp(T[1])))])
    assert information.info_nce(jnp.asarray(T)) == pytest.approx(by_hand, abs=1e-14)
    # Its mean over K independent pairs of the table at the best T, by enumeration of K = 2: below I and log 2.
    ratio, total = P / APART, 0.0
    for i, j in np.argwhere(P > 0):
        for k, m in np.argwhere(P > 0):
            rows = np.array([[ratio[i, j], ratio[i, m]], [ratio[k, j], ratio[k, m]]])
            with np.errstate(divide="ignore"):
                total += P[i, j] * P[k, m] * float(information.info_nce(jnp.asarray(np.log(rows))))
    assert 0 < total < min(MUTUAL, np.log(2))
    with pytest.raises(ValueError, match=r"shape \(1, 1\), expected \(K, K\) of K >= 2 pairs: one alone has no other"):
        information.info_nce(jnp.zeros((1, 1)))


@pytest.mark.usefixtures("x64")
def test_bounds_of_a_bivariate_gaussian():
    """rho = .6: I = -log(1 - rho^2) / 2 = .2231436, J = -1.2707473, by Gauss and Hermite of 160 x 160."""
    rho = 0.6
    at, weight = np.polynomial.hermite_e.hermegauss(160)
    weight = weight / weight.sum()
    grid, both = np.meshgrid(at, at, indexing="ij"), np.outer(weight, weight)
    score = lambda x, z: -np.log(1 - rho**2) / 2 - (rho**2 * (x**2 + z**2) - 2 * rho * x * z) / (2 * (1 - rho**2))
    joint, apart = score(grid[0], rho * grid[0] + np.sqrt(1 - rho**2) * grid[1]), score(*grid)
    half = lambda a, b: np.sum(both * np.asarray(information.jensen_shannon(jnp.asarray(a), jnp.asarray(b))))
    J = half(joint, np.full_like(joint, -np.inf)) + half(np.full_like(joint, np.inf), apart)
    np.testing.assert_allclose(J, -1.2707473, atol=5e-8)
    exact = -np.log(1 - rho**2) / 2
    np.testing.assert_allclose([np.sum(both * joint), exact], 0.2231436, atol=5e-8)
    np.testing.assert_allclose(np.sum(both * np.exp(apart)), 1, atol=1e-6)  # so that DV is I
    rng = np.random.default_rng(0)
    x, own, other = rng.normal(size=(3, 400_000))
    pairs = score(x, rho * x + np.sqrt(1 - rho**2) * own), score(x, other)
    found = float(information.donsker_varadhan(*map(jnp.asarray, pairs)))
    spread = np.hypot(pairs[0].std(), np.exp(pairs[1]).std()) / np.sqrt(400_000)
    assert abs(found - exact) < 5 * spread


def networks(k=2):
    """A map of 2 x 2 places and 3 features, a code of k, a probe; of images (4, 4, 1)."""
    dense = lambda *shape: models.network(models.Perceptron(shape=shape, width=4, depth=0))
    return models.network(Maps(channels=(2, 3))), dense(2 * k), dense(4, 4, 1)


@pytest.fixture(scope="module")
def trained():
    """The method of small networks, and parameters away from their first ones."""
    method = infomax(*networks(), whole=0.7, local=1.1, kl=0.02)
    example = Example(jnp.zeros((4, 4, 1)))
    shapes, rng = jax.eval_shape(method.init, jax.random.key(0), example), np.random.default_rng(0)
    return method, jax.tree.map(lambda a: 0.3 * rng.normal(size=a.shape).astype(np.float32), shapes)


X = np.random.default_rng(1).normal(size=(4, 4, 4, 1)).astype(np.float32)


def in_numpy(params, x):
    """Map, mean and log-variance of images, by loops over places."""
    for i, step in enumerate((1, 2)):
        kernel, bias = (params["network"][f"conv_{i}"][name] for name in ("kernel", "bias"))
        before = 2 - step  # "SAME" with stride 2 on an even side: one place after, none before
        padded = np.pad(x, ((0, 0), (before, 1), (before, 1), (0, 0)))
        at = range(0, x.shape[1], step)
        one = lambda a, b: np.einsum("nijc,ijcd->nd", padded[:, a : a + 3, b : b + 3], kernel) + bias  # noqa: B023
        h = np.stack([np.stack([one(a, b) for b in at], 1) for a in at], 1)
        x = h * special.expit(h)
    said = x.reshape(len(x), -1) @ params["encoder"]["out"]["kernel"] + params["encoder"]["out"]["bias"]
    return x, said[:, :2], said[:, 2:]


def test_losses_are_those_of_numpy(trained):
    """Pairs apart have the map of the next example, of the last the first's: no example is its own."""
    method, params = trained
    (turn,) = method.turns
    assert turn.coupled
    key, index = jax.random.key(5), jnp.arange(4, dtype=jnp.int32)
    losses, logged = jax.jit(turn.losses, static_argnums=4)(params, key, Example(X), index, 4)
    h, mean, log_var = in_numpy(params, X)
    of = method.parts
    base = jax.random.split(key)[1]
    keys = [jax.random.split(jax.random.fold_in(base, i), 5)[0] for i in range(4)]
    own = np.stack([jax.random.normal(key, (2,)) for key in keys])
    z = mean + np.exp(log_var / 2) * own
    pad = lambda a: np.concatenate([a, np.ones((*a.shape[:-1], 1))], -1)
    flat, places = h.reshape(4, -1), h.reshape(4, 4, 3)
    score = lambda name, f: np.einsum(
        "...f,fk,...k", pad(f), params["scores"][name], pad(z)[:, None] if f.ndim > 2 else pad(z)
    )
    log_sig = lambda a: -np.logaddexp(0, -a)
    J = lambda name, f: log_sig(score(name, f)) + log_sig(-score(name, np.roll(f, -1, 0)))
    whole, local = J("whole", flat), J("local", places).mean(1)
    rate = 0.5 * np.sum(mean**2 + np.exp(log_var) - 1 - log_var, -1)
    read = z @ params["decoder"]["out"]["kernel"] + params["decoder"]["out"]["bias"]
    error = np.mean((read - X.reshape(4, -1)) ** 2, -1)
    for name, expected in {"whole": whole, "local": local, "kl": rate, "error": error}.items():
        np.testing.assert_allclose(logged[name], expected, rtol=2e-5, atol=2e-6, err_msg=name)
    np.testing.assert_allclose(losses, 0.02 * rate - 0.7 * whole - 1.1 * local + error, rtol=2e-5, atol=2e-6)
    np.testing.assert_allclose(jax.jit(jax.vmap(of.features(params)))(X), mean, rtol=2e-5, atol=2e-6)
    shuffled = lambda a: a.reshape(4, 3)[np.array([2, 0, 3, 1])].reshape(2, 2, 3)
    told = [of.bounds(params, a, b, jnp.asarray(z[0])) for a, b in ((h[0], h[1]), (shuffled(h[0]), shuffled(h[1])))]
    np.testing.assert_allclose(told[0][1], told[1][1], rtol=1e-5)  # places have no order in the local term
    assert abs(told[0][0] - told[1][0]) > 1e-3


def test_the_probe_teaches_the_features_nothing(trained):
    """The gradient of what else is learned is that of another decoder; the decoder's is that of its error alone."""
    method, params = trained
    (turn,) = method.turns
    index = jnp.arange(4, dtype=jnp.int32)
    mean = lambda p: turn.losses(p, jax.random.key(5), Example(X), index, 4)[0].mean()
    slope = jax.jit(jax.grad(mean))
    here = slope(params)
    there = slope({**params, "decoder": jax.tree.map(lambda a: 5 * a + 1, params["decoder"])})
    for name in ("network", "encoder", "scores"):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-7), here[name], there[name])
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(here["encoder"])) > 1e-3
    assert np.abs(here["decoder"]["out"]["bias"] - there["decoder"]["out"]["bias"]).max() > 1e-3


class Run:
    """As much of a run as `learned` and `codecs.of` read."""

    def __init__(self, method, params):
        self.method, self.params, self.name = method, params, "own"
        self.data = types.SimpleNamespace(shape=(4, 4, 1))


def test_its_features_are_a_space_known_by_its_parameters(trained, monkeypatch):
    method, params = trained
    space = features.learned(Run(method, params))
    np.testing.assert_allclose(space.of(X), in_numpy(params, X)[1], rtol=2e-5, atol=2e-6)
    assert space.of(X).dtype == np.float64
    assert space.fingerprint == features.learned(Run(method, params)).fingerprint
    other = {**params, "scores": jax.tree.map(lambda a: a + 1, params["scores"])}
    assert space.fingerprint != features.learned(Run(method, other)).fingerprint
    module = types.ModuleType("somebodys_space")
    vars(module)["space"] = space
    monkeypatch.setitem(sys.modules, "somebodys_space", module)
    named = features.of("somebodys_space:space")  # as --features names it
    assert (named.name, named.fingerprint, named.shape) == ("somebodys_space:space", space.fingerprint, (4, 4, 1))
    np.testing.assert_array_equal(named(X), space(X))
    with pytest.raises(ValueError, match=r"takes images \(n, 4, 4, 1\), n >= 1, got \(4, 4, 1\)"):
        space.of(X[0])
    codec = codecs.of(Run(method, params))
    assert codec.shape(jax.ShapeDtypeStruct((4, 4, 1), jnp.float32)) == (2,)
    with pytest.raises(ValueError, match=r"trains no features of examples; methods\.infomax does"):
        features.learned(Run(types.SimpleNamespace(parts=None), {}))
    monkeypatch.setattr("diffjax.open", lambda path: {"here": Run(method, params)}[path])
    assert features.learned("here").fingerprint == space.fingerprint


NET, ENCODER, DECODER = networks()


@pytest.mark.parametrize(
    ("parts", "match"),
    [
        ({"kl": -1.0}, "Got kl = -1.0, expected a weight, 0 or more"),
        ({"whole": 0.0, "local": 0.0}, "Got whole = local = 0, expected one of them above"),
        ({"network": ENCODER}, r"The network makes \(4,\) of an example, expected a map \(places, C\): models.Maps"),
        (
            {"encoder": models.network(models.Perceptron(shape=(3,), depth=0))},
            r"The encoder makes \(3,\), expected mean",
        ),
        ({"decoder": ENCODER}, r"The decoder makes examples of shape \(4,\), expected \(4, 4, 1\)"),
    ],
)
def test_bad_parts_are_refused_in_a_line(parts, match):
    made = {"network": NET, "encoder": ENCODER, "decoder": DECODER, **parts}
    first = lambda: jax.eval_shape(infomax(**made).init, jax.random.key(0), Example(jnp.zeros((4, 4, 1))))
    with pytest.raises(ValueError, match=match):
        first()


def test_bad_maps_are_refused_in_a_line():
    with pytest.raises(ValueError, match=r"channels = \(\): expected one positive integer per layer"):
        Maps(channels=())
    net = models.network(Maps(channels=(2, 3, 4)))
    with pytest.raises(ValueError, match=r"examples of shape \(6, 6, 1\), expected images .* divisible by 4, for 3 l"):
        jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((6, 6, 1)), jnp.zeros(()))


def test_a_batch_of_one_and_a_likelihood_are_refused(trained):
    from diffjax import training

    method, params = trained
    with pytest.raises(ValueError, match=r"train\.batch_size = 1, expected 2 or more: the method's losses compare"):
        training.check_parts(method, 1, 1)
    with pytest.raises(ValueError, match="no likelihood: it learned features of examples"):
        method.parts.likelihood(Run(method, params))


@pytest.mark.slow
def test_the_config_trains_draws_and_is_judged(tmp_path):
    """The whole way: train, resume, evaluate; the report has both bounds."""
    import json

    import run_command

    where = f"--workdir={tmp_path / 'run'}"
    status, output = run_command.run("--config=configs/infomax.py:tiny", where)
    assert status == 0, output
    status, output = run_command.run("--mode=eval", where)
    assert status == 0, output
    told = json.loads((tmp_path / "run" / "eval.json").read_text())["information"]
    assert set(told) == {"whole", "local"}
    assert np.all(np.isfinite(list(told.values())))  # 40 steps move them little; what they are is tested above
