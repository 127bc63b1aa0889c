"""The gradient-descent family by optax's names, in closed form: quadratics, constant gradients, textbook loops.

Momentum is the trace form, v = gamma v + g, theta - eta v; the averaging form, v = gamma v + (1 - gamma) g, is the same
with eta (1 - gamma) for eta. eps stands inside the root for rmsprop, adagrad and adadelta, outside for Adam's children.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffjax.optimizers import build_optimizer

START = {"w": np.array([[0.5, -1.0], [2.0, 0.3]]), "b": np.array([0.7, -0.2])}
GRADS = [jax.tree.map(lambda p, i=i: np.random.default_rng(i).normal(size=p.shape), START) for i in range(5)]


def train(spec, grad, params, steps):
    """All iterates, (steps + 1) of them; grad(params, n) -> gradients."""
    optimizer, _ = build_optimizer({"learning_rate": 0.1, **spec}, 100)
    params = jax.tree.map(jnp.asarray, params)
    state, seen, update = optimizer.init(params), [params], jax.jit(optimizer.update)
    for n in range(steps):
        updates, state = update(jax.tree.map(jnp.asarray, grad(params, n)), state, params)
        params = optax.apply_updates(params, updates)
        seen.append(params)
    return seen


def check(got, expected, rtol=1e-12):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-15), got, expected)


def test_gradient_descent_on_a_parabola(x64):
    """k x^2 / 2: (1 - eta k)^n."""
    k, eta = 3.0, 0.1
    seen = train({"name": "sgd", "learning_rate": eta}, lambda x, n: k * x, np.array(2.0), 20)
    check(np.stack(seen), 2 * (1 - eta * k) ** np.arange(21))


@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_on_a_parabola_is_a_matrix_power(x64, nesterov):
    """(v, x) <- M (v, x), M = [[gamma, k], [-eta gamma, 1 - eta k]]; Nesterov's step is eta (g + gamma v)."""
    k, eta, gamma = 3.0, 0.1, 0.8
    ahead = gamma if nesterov else 1.0
    M = np.array([[gamma, k], [-eta * ahead * gamma, 1 - eta * k * (1 + gamma if nesterov else 1)]])
    spec = {"name": "sgd", "learning_rate": eta, "momentum": gamma, "nesterov": nesterov}
    seen = train(spec, lambda x, n: k * x, np.array(2.0), 20)
    expected = [(np.linalg.matrix_power(M, n) @ [0.0, 2.0])[1] for n in range(21)]
    check(np.stack(seen), expected, 1e-11)


def test_nesterovs_two_forms(x64):
    """theta' = theta - eta v', v' = gamma v + grad(theta - eta gamma v) is optax's rule in y = theta - eta gamma v."""
    eta, gamma = 0.1, 0.8
    grad = lambda x: np.sin(x) + 0.3 * x
    theta, v, shifted = np.array([2.0, -0.7]), np.zeros(2), []
    for _ in range(15):
        shifted.append(theta - eta * gamma * v)
        v = gamma * v + grad(theta - eta * gamma * v)
        theta = theta - eta * v
    spec = {"name": "sgd", "learning_rate": eta, "momentum": gamma, "nesterov": True}
    check(np.stack(train(spec, lambda x, n: grad(np.asarray(x)), np.array([2.0, -0.7]), 14)), shifted)


def test_minibatches_average_to_the_full_batch(x64):
    """Loss mean_i k_i (x - c_i)^2 / 2 over 3 data: single-datum steps, averaged over all 3^3 ways to draw them, are
    full-batch descent: each step is affine, and drawn independently."""
    k, c = np.array([1.0, 2.5, 0.4]), np.array([0.3, -1.0, 2.0])
    drawn = np.array(list(itertools.product(range(3), repeat=3))).T
    ends = train({"name": "sgd"}, lambda x, n: k[drawn[n]] * (x - c[drawn[n]]), np.full(27, 1.7), 3)[-1]
    full = train({"name": "sgd"}, lambda x, n: np.mean(k * (np.asarray(x) - c)), np.array(1.7), 3)[-1]
    check(np.mean(ends), full)
    assert np.std(ends) > 0.05


def test_adam_in_a_constant_gradient(x64):
    """Both bias corrections cancel: every step is - eta g / (|g| + eps), whatever the decays."""
    g, eta, eps = np.array([1e-3, -40.0, 0.7]), 0.05, 1e-4
    for name in ("adam", "adamax"):
        spec = {"name": name, "learning_rate": eta, "eps": eps, "b1": 0.8, "b2": 0.97}
        seen = np.stack(train(spec, lambda x, n: g, np.zeros(3), 12))
        check(np.diff(seen, axis=0), np.tile(-eta * g / (np.abs(g) + eps), (12, 1)), 1e-10)


def test_decay_without_gradient(x64):
    """AdamW with g = 0: theta (1 - eta lambda)^n; decoupled, so the same for every optimizer that decays so."""
    eta, decay = 0.1, 0.3
    for name in ("adamw", "nadamw", "adamaxw", "lion"):
        spec = {"name": name, "learning_rate": eta, "weight_decay": decay}
        seen = train(spec, lambda x, n: jnp.zeros_like(x), np.array([2.0, -0.7]), 10)
        check(np.stack(seen), (1 - eta * decay) ** np.arange(11)[:, None] * np.array([2.0, -0.7]))


def adagrad(p, grads, eta=0.1, total=0.1, eps=1e-7):
    for g in grads:
        total = total + g**2
        p = p - eta * g / np.sqrt(total + eps)
    return p


def rmsprop(p, grads, eta=0.1, decay=0.9, eps=1e-8):
    mean = 0
    for g in grads:
        mean = decay * mean + (1 - decay) * g**2
        p = p - eta * g / np.sqrt(mean + eps)
    return p


def adadelta(p, grads, eta=1.0, rho=0.9, eps=1e-6):
    squares = steps = 0
    for g in grads:
        squares = rho * squares + (1 - rho) * g**2
        step = np.sqrt(steps + eps) / np.sqrt(squares + eps) * g
        steps = rho * steps + (1 - rho) * step**2
        p = p - eta * step
    return p


def adamax(p, grads, eta=0.1, b1=0.9, b2=0.999, eps=1e-8):
    m, top = 0, 0
    for n, g in enumerate(grads, 1):
        m, top = b1 * m + (1 - b1) * g, np.maximum(b2 * top, np.abs(g) + eps)
        p = p - eta / (1 - b1**n) * m / top
    return p


def nadam(p, grads, eta=0.1, b1=0.9, b2=0.999, eps=1e-8):
    """Dozat 2016, algorithm 2, with one momentum for all steps and without its further factor b2 on v."""
    m = v = 0
    for n, g in enumerate(grads, 1):
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        look = b1 * m / (1 - b1 ** (n + 1)) + (1 - b1) * g / (1 - b1**n)
        p = p - eta * look / (np.sqrt(v / (1 - b2**n)) + eps)
    return p


@pytest.mark.parametrize("rule", [adagrad, rmsprop, adadelta, adamax, nadam], ids=lambda f: f.__name__)
def test_adaptive_rules_at_their_defaults(x64, rule):
    """Five steps by the textbook, with optax's defaults written above; adadelta's own rate is 1."""
    spec = {"name": rule.__name__, "learning_rate": 1.0 if rule is adadelta else 0.1}
    got = train(spec, lambda p, n: GRADS[n], START, 5)[-1]
    check(got, {key: rule(p, [g[key] for g in GRADS]) for key, p in START.items()}, 1e-10)


@pytest.mark.parametrize(("rule", "change"), [(rmsprop, {"decay": 0.7, "eps": 1e-2}), (adagrad, {"eps": 0.2}),
                                              (adadelta, {"rho": 0.6, "eps": 1e-2}), (nadam, {"b1": 0.5, "eps": 0.3})],
                         ids=lambda v: getattr(v, "__name__", ""))  # fmt: skip
def test_adaptive_rules_take_their_options(x64, rule, change):
    got = train({"name": rule.__name__, **change}, lambda p, n: GRADS[n], START, 5)[-1]
    check(got, {key: rule(p, [g[key] for g in GRADS], eta=0.1, **change) for key, p in START.items()}, 1e-10)


def lamb(p, grads, decay, adapt, eta=0.1, b1=0.9, b2=0.999, eps=1e-6):
    """You et al. 2020, algorithm 2, phi = 1: r = m / (sqrt(v) + eps) + lambda theta, step eta |theta| / |r| r."""
    m = v = 0
    for n, g in enumerate(grads, 1):
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        r = m / (1 - b1**n) / (np.sqrt(v / (1 - b2**n)) + eps) + decay * p
        ratio = np.linalg.norm(p) / np.linalg.norm(r) if adapt and np.any(p) else 1.0
        p = p - eta * ratio * r
    return p


@pytest.mark.parametrize("mask_1d", [False, True])
def test_lamb_spares_biases_and_norms_if_asked(x64, mask_1d):
    """Neither decayed nor adapted: Adam's own step."""
    spec = {"name": "lamb", "weight_decay": 0.3, "mask_1d": mask_1d}
    got = train(spec, lambda p, n: GRADS[n], START, 5)[-1]
    spared = {"w": False, "b": mask_1d}
    expected = {
        key: lamb(p, [g[key] for g in GRADS], 0.0 if spared[key] else 0.3, not spared[key]) for key, p in START.items()
    }
    check(got, expected, 1e-10)
    adam = train({"name": "adam", "eps": 1e-6}, lambda p, n: GRADS[n], START, 5)[-1]
    assert np.allclose(got["b"], adam["b"], rtol=1e-12) == mask_1d


def test_unmasked_lamb_is_optaxs(x64):
    spec = {"b1": 0.8, "b2": 0.95, "eps": 1e-3, "eps_root": 1e-2, "weight_decay": 0.2}
    got = train({"name": "lamb", **spec}, lambda p, n: GRADS[n], START, 5)[-1]
    optimizer, params = optax.lamb(0.1, **spec), jax.tree.map(jnp.asarray, START)
    with jax.numpy_dtype_promotion("standard"):
        state = optimizer.init(params)
        for g in GRADS:
            updates, state = optimizer.update(jax.tree.map(jnp.asarray, g), state, params)
            params = optax.apply_updates(params, updates)
    check(got, params)


@pytest.mark.parametrize("mask_1d", [False, True])
def test_lars_spares_the_same(x64, mask_1d):
    """You et al. 2017: v = gamma v + eta c |theta| / |g + lambda theta| (g + lambda theta), spared: eta g."""
    eta, c, gamma, decay = 0.1, 0.02, 0.7, 0.3
    expected = {}
    for key, p in START.items():
        spared, v = mask_1d and key == "b", 0
        for grads in GRADS:
            r = grads[key] + (0.0 if spared else decay) * p
            v = gamma * v + eta * (1.0 if spared else c * np.linalg.norm(p) / np.linalg.norm(r)) * r
            p = p - v
        expected[key] = p
    spec = {"name": "lars", "trust_coefficient": c, "momentum": gamma, "weight_decay": decay, "mask_1d": mask_1d}
    check(train(spec, lambda p, n: GRADS[n], START, 5)[-1], expected, 1e-10)


def test_a_bias_that_starts_at_zero_does_not_shrink_its_own_step(x64):
    """Adapted, its second step is eta |theta| = eta^2; spared, eta again."""
    start = {"w": np.ones((1, 1)), "b": np.zeros(1)}
    constant = lambda p, n: jax.tree.map(jnp.ones_like, p)
    steps = {
        mask: np.diff([float(p["b"][0]) for p in train({"name": "lamb", "mask_1d": mask}, constant, start, 2)])
        for mask in (False, True)
    }
    np.testing.assert_allclose(steps[False], [-0.1, -0.01], rtol=1e-5)
    np.testing.assert_allclose(steps[True], [-0.1, -0.1], rtol=1e-5)
