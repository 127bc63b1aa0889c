"""Masked tokens against joints that can be enumerated: bound, every step of a draw, and a network that learns one."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from enumerated import ancestral, chain, code, conditionals, contexts, entropy, kl, total_variation, unified_law
from scipy import integrate, special
from twice import judged

from diffjax import data, methods, models, optimizers, runs
from diffjax.data.tokens import frequencies, joint, product_of_marginals
from diffjax.data.tokens import judge as judge_of
from diffjax.likelihood import tokens
from diffjax.method import Drawn, Example
from diffjax.models.network import Network
from diffjax.processes.categorical import Replaced

A = unified_law(3, 3, 1, 0, 7)


def exact(p):
    """The network that knows every conditional of p: a table by the state's number, nonsense at seen places."""
    vocabulary, length = p.shape[0], p.ndim
    table = np.full(((vocabulary + 1) ** length, length, vocabulary), 3.0)  # read at a seen place, it would be wrong
    for x, laws in conditionals(p).items():
        for place, law in laws.items():
            table[code(x, vocabulary), place] = np.log(law)
    powers = (vocabulary + 1) ** np.arange(length)[::-1]
    apply = lambda params, x, c, given=None, **options: params[jnp.sum(x * jnp.asarray(powers, x.dtype))]
    return Network(lambda key, x, c, given=None: table, apply, ())


def sets(length):
    """All sets of hidden places but the empty one, as masks."""
    return [np.array(bits, bool) for bits in itertools.product((0, 1), repeat=length) if any(bits)]


@jax.jit
def _losses(params, batch):
    losses, n = methods.masked(exact(A), 3).turns[0].losses, len(batch.x)
    return losses(params, jax.random.key(0), batch, jnp.arange(n, dtype=jnp.int32), n)[0]


def losses_of(params, x, hidden, t):
    """What the training loss says of one x for each mask of `hidden`: u is 0 where it is hidden at t, 1 where not."""
    n = len(hidden)
    z = Replaced(np.where(hidden, 0.0, 1.0), np.full(hidden.shape, 3, np.int32))
    chosen = {"t": np.full(n, t), "z": z}
    return np.asarray(_losses(params, Example(np.tile(np.int32(x), (n, 1)), {}, chosen)))


def test_loss_of_exact_conditionals_is_the_entropy_of_every_sequence(x64):
    """The integral over t of the mean over masks is -log p(x), for each x: Beta functions for the integral."""
    params, masks, t = exact(A).init(None, None, None), sets(3), 0.7
    count = np.array([mask.sum() for mask in masks])
    weights = special.beta(count, 3 - count + 1)  # integral of t^k (1 - t)^(L - k) / t
    for x in itertools.product(range(3), repeat=3):
        nats = losses_of(params, x, np.array(masks), t) * t  # the sum over the hidden tokens
        np.testing.assert_allclose(np.sum(weights * nats), -np.log(A[x]), atol=1e-12)


def test_bound_does_not_depend_on_the_schedule(x64):
    """Weight -alpha' / (1 - alpha): log-linear, cosine and a polynomial give one number."""
    masks = np.array(sets(3))
    nats = losses_of(exact(A).init(None, None, None), (2, 0, 1), masks, 0.5) * 0.5
    count = masks.sum(1)

    def bound(alpha, slope):
        def integrand(t):
            hidden = 1 - alpha(t)
            return -slope(t) / hidden * np.sum(hidden**count * alpha(t) ** (3 - count) * nats)

        return integrate.quad(integrand, 0, 1, epsabs=1e-12)[0]

    half = np.pi / 2
    schedules = [
        (lambda t: 1 - t, lambda t: -1.0),
        (lambda t: 1 - np.cos(half * (1 - t)), lambda t: -half * np.sin(half * (1 - t))),
        (lambda t: 1 - t**3, lambda t: -3 * t**2),
    ]
    np.testing.assert_allclose([bound(*schedule) for schedule in schedules], -np.log(A[2, 0, 1]), atol=1e-10)


def test_bound_by_counts_is_the_entropy_in_mean(x64):
    """Every number of hidden tokens and every order has its say: counts in turn, keys at random, error stated."""
    net = exact(A)
    of, params = methods.masked(net, 3).parts, jnp.asarray(net.init(None, None, None))
    x = np.stack(np.unravel_index(np.arange(27), A.shape), -1).astype(np.int32)
    bound = lambda key, x, count: tokens.by_count(of.known(params, {}), key, x, count)
    over = jax.vmap(jax.vmap(jax.vmap(bound, (None, None, 0)), (0, None, None)), (None, 0, None))
    split = jax.jit(lambda key, *args: over(jax.random.split(key, 400), *args))
    found = np.asarray(split(jax.random.key(1), x, np.arange(1, 4)))  # (27, 400, 3)
    mean, error = found.mean((1, 2)), found.mean(2).std(1) / np.sqrt(400)
    assert np.all(np.abs(mean + np.log(A.ravel())) < 4.5 * error + 1e-12)
    np.testing.assert_allclose(A.ravel() @ mean, entropy(A), atol=4.5 * np.sqrt(np.sum((A.ravel() * error) ** 2)))


def test_wrong_network_pays_the_divergence(x64):
    """The bound of a product of marginals is its cross-entropy: above the entropy by the total correlation."""
    product = product_of_marginals(A)
    masks = np.array(sets(3))
    weights = special.beta(masks.sum(1), 4 - masks.sum(1))
    params = exact(product).init(None, None, None)
    bound = sum(A[x] * weights @ losses_of(params, x, masks, 0.5) * 0.5 for x in np.ndindex(A.shape))
    np.testing.assert_allclose(bound - entropy(A), kl(A, product), atol=1e-12)


def test_seen_tokens_stay_and_nothing_is_hidden_in_a_sample(x64):
    of, params = methods.masked(exact(A), 3).parts, exact(A).init(None, None, None)
    posterior = jax.jit(lambda params, x: of.known(params, {})(x, 0.5).probs)
    for x, laws in conditionals(A).items():
        probs = np.asarray(posterior(params, np.int32(x)))
        assert probs.shape == (3, 3)  # no mass on "hidden": it has no column
        for place, token in enumerate(x):
            expected = laws[place] if token == 3 else np.eye(3)[token]
            np.testing.assert_allclose(probs[place], expected, atol=1e-12)


def test_gradient_is_finite_and_of_hidden_places_alone():
    net = Network(lambda key, x, c, given=None: jnp.zeros((3, 3)), lambda params, x, c, given=None, **_: params, ())
    of = methods.masked(net, 3).parts.parts()
    z = Replaced(np.float32([0, 1, 0]), np.full(3, 3, np.int32))

    def nats(params, x, z):
        net = of.net(params, {})
        return 0.5 * of.loss(net, of.process, of.target, x, z, jnp.float32(0.5), of.weight)

    gradient = jax.jit(jax.grad(nats))(np.zeros((3, 3), np.float32), np.int32([0, 2, 1]), z)
    np.testing.assert_allclose(gradient, [[-2 / 3, 1 / 3, 1 / 3], [0, 0, 0], [1 / 3, -2 / 3, 1 / 3]], atol=1e-6)


def test_share_of_hidden_tokens_in_training_is_uniform_and_stratified():
    """Of a batch of B, one t in each B-th of [t_min, 1]; the tokens hidden at t are a share t of them."""
    net = Network(lambda key, x, c, given=None: (), lambda params, x, c, given=None, **_: jnp.zeros((*x.shape, 2)), ())
    method, size = methods.masked(net, 2, t_min=0.01), 4000
    index = np.arange(size, dtype=np.int32)
    of = jax.jit(lambda x, index: method.turns[0].losses((), jax.random.key(3), Example(x), index, size))
    losses, aux = jax.device_get(of(np.zeros((size, 5), np.int32), index))
    t = np.sort(np.asarray(aux["t01"]))
    assert np.all(np.histogram(t, size, (0.01, 1))[0] <= 2)
    assert abs(t.mean() - 0.505) < 1e-3
    hidden, t = np.asarray(losses * aux["t01"]) / np.log(2), np.asarray(aux["t01"])  # each costs log 2
    assert abs(np.mean(hidden) - 5 * 0.505) < 5 * np.sqrt(5 / 4 / size)
    assert abs(np.mean(hidden * t) - 5 * (0.505**2 + 0.99**2 / 12)) < 5 * np.sqrt(5 / 4 / size)


# The price of few steps, as measured independently (KL(A | law drawn), nats)
PRICES = {1: 0.104733, 2: 0.035059, 3: 0.017574, 6: 0.005060, 12: 0.001374, 48: 0.000092}


def test_enumeration_of_the_chain_agrees_with_known_prices():
    assert {n: round(kl(A, ancestral(A, n)), 6) for n in PRICES} == PRICES
    assert abs(entropy(A) - 3.181740) < 1e-6


def trajectories(method, params, n, seed=0):
    request = method.plan((3,), lambda x: x)
    one = jax.vmap(lambda params, key: method.draw(params, request, key, {})[1], (None, 0))
    states = np.asarray(
        jax.jit(lambda params, key: one(params, jax.random.split(key, n)))(params, jax.random.key(seed))
    )
    return np.concatenate([np.full((n, 1, 3), 3), states], 1)  # (n, steps + 1, 3), all hidden at first


def floor(law, n):
    """The mean total variation of n draws of a law from it, by the normal law of each frequency."""
    return 0.5 * np.sum(np.sqrt(2 * law * (1 - law) / (np.pi * n)))


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_every_ancestral_step_has_the_enumerated_transition_probabilities(steps):
    """The joint law of the states before and after each step, from all hidden to all open."""
    net, n = exact(A), 30_000
    states = trajectories(methods.masked(net, 3, steps=steps), net.init(None, None, None), n)
    assert states.shape == (n, steps + 1, 3)
    numbers = np.ravel_multi_index(np.moveaxis(states, -1, 0), (4, 4, 4))
    _, joints = chain(A, np.linspace(1, 0, steps + 1))
    for i, expected in enumerate(joints):
        found = np.zeros((64, 64))
        np.add.at(found, (numbers[:, i], numbers[:, i + 1]), 1 / n)
        assert np.all(found[expected == 0] == 0)  # nothing opens that was open, nothing hides again
        # the total variation scatters about its floor by far less than a fifth of it
        assert total_variation(found, expected) < 1.2 * floor(expected, n) + 1e-12


def test_one_at_a_time_is_exact_where_one_step_is_not():
    net, n = exact(A), 30_000
    params = net.init(None, None, None)
    states = trajectories(methods.masked(net, 3), params, n)
    assert np.all((states != 3).sum(-1) == np.arange(4))  # one more is open after each step
    first = np.argmax(states[:, 1] != 3, -1)
    assert np.all(np.abs(np.bincount(first, minlength=3) / n - 1 / 3) < 5 * np.sqrt(2 / 9 / n))  # in a random order
    law = lambda states: frequencies(states[:, -1], A.shape)
    assert total_variation(law(states), A) < 1.3 * floor(A, n)
    at_once = trajectories(methods.masked(net, 3, steps=1), params, n)
    assert total_variation(law(at_once), A) > 5 * floor(A, n)  # the negative control: independent places
    np.testing.assert_allclose(total_variation(law(at_once), product_of_marginals(A)), 0, atol=1.3 * floor(A, n))


# Trained: 2 500 steps, half a minute; the config's tiny run below is trained by default


@pytest.fixture(scope="module")
def trained():
    """A network of the 100 000 sequences of `data.tokens()`, 4 000 steps of 512: 2 500 leave a context half learned."""
    adam, _ = optimizers.build_optimizer({"name": "adam", "learning_rate": 3e-3, "schedule": "cosine"}, 4000)
    network = models.of(models.TokenMLP(vocabulary=3, width=64, depth=1))
    options = {"optimizer": adam, "batch_size": 512, "steps_per_dispatch": 50, "chunk": 4096}
    with runs.Trainer(methods.masked(network, 3), data.tokens(), **options, log_every=4000) as trainer:
        return trainer.train(4000)


def test_joint_of_the_data_is_a_law_of_its_seed_alone():
    """Flat Dirichlet: normalised exponentials, so the mean of p log p over cells is known; examples follow it."""
    laws = np.stack([joint(seed=seed).ravel() for seed in range(400)])
    np.testing.assert_allclose(laws.sum(1), 1, rtol=1e-12)
    assert abs(np.var(laws * 27) - 26 / 28) < 0.1  # Var p = (n - 1) / (n^2 (n + 1))
    assert np.array_equal(joint(seed=7), joint(seed=7))
    assert not np.array_equal(joint(seed=7), joint(seed=8))
    small, large = (data.tokens(n=n).train.gather(np.arange(1000)).x for n in (1000, 5000))
    assert small.dtype == np.int32
    np.testing.assert_array_equal(small, large)
    found = frequencies(data.tokens().train.gather(np.arange(100_000)).x, (3, 3, 3))
    assert total_variation(found, joint()) < 1.5 * floor(joint(), 100_000)


@pytest.mark.slow
def test_trained_conditionals_are_those_of_the_joint(trained):
    """All 37 contexts: errors under 0.1, beside four standard errors of what the training examples say of a context.

    The rarest has probability 0.003, some 300 examples.
    """
    p, of = joint(), trained.method.parts
    seen = contexts(p)
    probs = jax.vmap(lambda x: of.known(trained.params, {})(x, 0.5).probs)(jnp.asarray(seen, jnp.int32))
    laws = conditionals(p)
    share = {x: p[tuple(slice(None) if token == 3 else token for token in x)].sum() for x in seen}
    bound = {x: 0.1 + 4 * np.sqrt(0.25 / (share[x] * len(trained.data.train))) for x in seen}
    each = [(x, found[place] - law) for x, found in zip(seen, probs) for place, law in laws[x].items()]
    errors = [np.abs(error).max() / bound[x] for x, error in each]
    assert (len(seen), len(errors)) == (37, 27 + 9 * 2 + 3)
    assert max(errors) < 1
    blind = [np.abs(laws[3, 3, 3][place] - law).max() / bound[x] for x in seen for place, law in laws[x].items()]
    assert max(blind) > 2  # the negative control: a network that reads no context


@pytest.mark.slow
def test_trained_draws_have_the_joint_law(trained):
    p, n = joint(), 20_000
    one, two = trained.draw(n), trained.draw(n, steps=1)
    assert one.dtype == np.int32
    assert total_variation(frequencies(one, p.shape), p) < 3 * floor(p, n)  # the network's error beside the draws'
    assert total_variation(frequencies(two, p.shape), p) > 10 * floor(p, n)  # the negative control: at once
    np.testing.assert_array_equal(trained.draw([7, 3]), trained.draw([3, 7])[::-1])


def test_held_out_tokens_are_counted_by_place_whatever_the_vocabulary():
    """Frequencies of the training tokens at a place, one more of each token; of 2^24 tokens no table fits."""
    rng = np.random.default_rng(0)
    train, held_out = rng.integers(0, 3, (50, 2, 2)), rng.integers(0, 4, (7, 2, 2))
    for vocabulary in (4, 2**24):
        places = [(x[i, j], train[:, i, j]) for x in held_out for i in range(2) for j in range(2)]
        nats = [-np.log((list(seen).count(v) + 1) / (50 + vocabulary)) for v, seen in places]
        found = tokens.marginals_nats(train.astype(np.int32), held_out.astype(np.int32), vocabulary)
        np.testing.assert_allclose(found, np.mean(nats), rtol=1e-12)


@pytest.mark.slow
def test_sections_of_the_report(trained):
    """The bound is the entropy where the conditionals are right; the judge's figures are those of the enumeration."""
    p = joint()
    drawn = Drawn(trained.draw(4096), {})
    losses, told = trained.method.report(trained, drawn)
    assert abs(losses.results["held_out_loss"] / 3 - told.results["masked"]["bound"]) < 0.05
    figures = told.results["masked"]
    assert abs(figures["bound"] - entropy(p) / 3) < 4 * figures["bound_error"] + 0.005
    marginals = product_of_marginals(p)
    cross = -np.sum(p * np.log(marginals)) / 3
    assert abs(figures["product_of_marginals"] - cross) < 0.01
    assert f"{figures['bound']:.4f}" in told.text
    (judged,) = trained.data.judge(drawn, trained.data)
    found = judged.results["tokens"]
    np.testing.assert_allclose(found["total_variation"], total_variation(frequencies(drawn.x, p.shape), p))
    np.testing.assert_allclose(found["floor"], floor(p, 4096), rtol=0.1)
    np.testing.assert_allclose(found["product_of_marginals"], total_variation(marginals, p))
    np.testing.assert_allclose(found["entropy"], entropy(p) / 3)
    assert judged.passed
    (failed,) = judge_of(np.full((3, 3, 3), 1 / 27), drawn, trained.data)
    assert not failed.passed


@pytest.mark.slow
def test_config_trains(tmp_path):
    found = judged("configs/masked.py:tiny", tmp_path)
    assert found["masked"]["bound"] < found["masked"]["product_of_marginals"] + 0.02
    assert found["tokens"]["floor"] > 0
