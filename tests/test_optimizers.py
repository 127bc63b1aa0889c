import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffjax.optimizers import SCHEDULES, build_optimizer

PARAMS = {"w": np.array([[0.5, -1.0], [2.0, 0.3]]), "b": np.array([0.7, -0.2])}
GRADS = [
    jax.tree.map(lambda p, i=i: np.random.default_rng(i).normal(size=p.shape) * (1 + 3 * (i == 1)), PARAMS)
    for i in range(3)
]


def run(spec, total_steps=100):
    optimizer, _ = build_optimizer(spec, total_steps)

    @jax.jit
    def all_of_them(params, all_grads):
        state = optimizer.init(params)
        for grads in all_grads:
            updates, state = optimizer.update(grads, state, params)
            params = optax.apply_updates(params, updates)
        return params

    return all_of_them(PARAMS, GRADS)


def numpy_adam(rates, decay=lambda name: 0.0, b1=0.9, b2=0.999, eps=1e-8, scale=lambda g: 1.0):
    """Kingma and Ba 2015, algorithm 1; decoupled decay (Loshchilov and Hutter 2019, algorithm 2), times the rate."""
    out = {}
    for name, p in PARAMS.items():
        m = v = np.zeros_like(p)
        for n, (rate, grads) in enumerate(zip(rates, GRADS), 1):
            g = grads[name] * scale(grads)
            m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
            p = p - rate * (m / (1 - b1**n) / (np.sqrt(v / (1 - b2**n)) + eps) + decay(name) * p)
        out[name] = p
    return out


def clip(norm):
    def scale(grads):
        total = np.sqrt(sum((g**2).sum() for g in grads.values()))
        return min(1.0, norm / total)

    return scale


def check(got, expected, rtol=1e-12):
    for name in PARAMS:
        np.testing.assert_allclose(got[name], expected[name], rtol=rtol, atol=0)


def test_sgd(x64):
    expected = {k: p - 0.1 * sum(g[k] for g in GRADS) for k, p in PARAMS.items()}
    check(run({"name": "sgd", "learning_rate": 0.1}), expected)


def test_momentum(x64):
    expected = dict(PARAMS)
    for k in expected:
        trace = 0
        for g in GRADS:
            trace = g[k] + 0.8 * trace
            expected[k] = expected[k] - 0.1 * trace
    check(run({"name": "sgd", "learning_rate": 0.1, "momentum": 0.8}), expected)


def test_adam(x64):
    spec = {"name": "adam", "learning_rate": 0.01, "b1": 0.8, "b2": 0.95, "eps": 1e-3}
    check(run(spec), numpy_adam([0.01] * 3, b1=0.8, b2=0.95, eps=1e-3))


@pytest.mark.parametrize("mask_1d", [False, True])
def test_adamw_spares_vectors_if_asked(x64, mask_1d):
    spec = {"name": "adamw", "learning_rate": 0.01, "weight_decay": 0.3, "mask_1d": mask_1d}
    check(run(spec), numpy_adam([0.01] * 3, decay=lambda name: 0.0 if mask_1d and name == "b" else 0.3))


def test_clipping_is_by_the_norm_of_all_gradients_together(x64):
    norms = [np.sqrt(sum((g**2).sum() for g in grads.values())) for grads in GRADS]
    middle = sorted(norms)[1] * 1.01  # the largest is clipped, the others are not
    spec = {"name": "sgd", "learning_rate": 0.1, "clip_norm": middle}
    check(run(spec), {k: p - 0.1 * sum(clip(middle)(g) * g[k] for g in GRADS) for k, p in PARAMS.items()})
    spec = {"name": "adam", "learning_rate": 0.01, "clip_norm": 0.5}
    check(run(spec), numpy_adam([0.01] * 3, scale=clip(0.5)))


def test_update_n_uses_the_rate_of_n(x64):
    """Warm-up over four updates: the three updates run at 0, 1/4 and 1/2 of the peak."""
    spec = {"name": "adam", "learning_rate": 0.01, "warmup_steps": 4, "schedule": "cosine"}
    check(run(spec), numpy_adam([0.0, 0.0025, 0.005]), rtol=1e-8)  # optax makes schedules in float32


def rates(schedule, ns):
    """The schedule at each of these counts of updates."""
    return np.asarray(jax.jit(jax.vmap(schedule))(np.int32(ns)))


PEAK, WARM, TOTAL = 2e-3, 100, 1100
AFTER = {  # the decay, as a function of n >= WARM
    "constant": ({}, lambda n: PEAK),
    "linear": ({"final": 0.1}, lambda n: PEAK * (1 - 0.9 * min((n - WARM) / 1000, 1))),
    "cosine": ({"final": 0.1}, lambda n: PEAK * (0.1 + 0.45 * (1 + np.cos(np.pi * min((n - WARM) / 1000, 1))))),
    "exponential": ({"final": 0.1}, lambda n: PEAK * 0.1 ** min((n - WARM) / 1000, 1)),
    "rsqrt": ({"decay_start": 400}, lambda n: PEAK / np.sqrt(max(n / 400, 1))),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_in_closed_form(name):
    options, after = AFTER[name]
    spec = {"name": "adam", "learning_rate": PEAK, "schedule": name, "warmup_steps": WARM, **options}
    _, schedule = build_optimizer(spec, TOTAL)
    ns = np.int32([0, 1, 37, 99, 100, 101, 350, 401, 640, 1099, 1100, 3000])
    for n, found in zip(ns, rates(schedule, ns)):
        expected = PEAK * n / WARM if n < WARM else after(n)
        np.testing.assert_allclose(found, expected, rtol=2e-5, err_msg=str(n))


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_decays_end_at_zero_by_default(name):
    _, schedule = build_optimizer({"name": "adam", "learning_rate": 1e-3, "schedule": name}, 50)
    np.testing.assert_allclose(rates(schedule, [0, 25, 50]), [1e-3, 5e-4, 0], atol=1e-9)


def test_rsqrt_starts_its_decay_with_the_end_of_the_warm_up_by_default():
    _, schedule = build_optimizer({"name": "adam", "learning_rate": 1.0, "schedule": "rsqrt", "warmup_steps": 25}, 500)
    np.testing.assert_allclose(rates(schedule, [25, 100, 225]), [1, 1 / 2, 1 / 3], rtol=1e-6)


@pytest.mark.parametrize("name", ["adamw", "lion", "lamb", "adafactor", "rmsprop", "radam", "nadamw", "contrib.muon"])
def test_optimizers_of_optax_by_name_descend(name):
    optimizer, _ = build_optimizer({"name": name, "learning_rate": 0.05}, 10)
    params = {"w": np.full((2, 2), 2, np.float32), "b": np.full((2,), 2, np.float32)}
    loss = lambda p: sum(jnp.sum(x**2) for x in jax.tree.leaves(p))

    def one(carry, _):
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return (optax.apply_updates(params, updates), state), None

    descend = lambda params: jax.lax.scan(one, (params, optimizer.init(params)), None, 10)[0][0]
    before, after = jax.jit(lambda params: (loss(params), loss(descend(params))))(params)
    assert after < before


SPEC = {"name": "adam", "learning_rate": 1e-3}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "adamm"}, "no optimizer 'adamm', did you mean 'adam'"),
        ({"name": "scale_by_learning_rate"}, "no optimizer"),
        ({"name": "lbfgs"}, "gradients alone"),
        ({"name": None}, "lacks name"),
        ({"learning_rate": None}, "lacks learning_rate"),
        ({"learning_rate": -1e-3}, "learning_rate = -0.001"),
        ({"schedule": "cosin"}, "no schedule 'cosin', did you mean 'cosine'"),
        ({"nestrov": True}, "takes no 'nestrov', did you mean 'nesterov'"),
        ({"weight_decay": 0.1}, "takes no 'weight_decay'"),
        ({"mask_1d": True}, "takes no mask"),
        (
            {"name": "adamw", "weight_decay": "lots"},
            "'adamw': weight_decay is 'lots', expected a number, such as 0.0001",
        ),
        ({"warmup_steps": 100}, "0 <= warmup_steps < 100"),
        ({"warmup_steps": -1}, "0 <= warmup_steps"),
        ({"clip_norm": 0}, "clip_norm = 0"),
        ({"clip_norm": -1.0}, "clip_norm = -1.0"),
        ({"final": 0.1}, "'constant' takes no 'final'"),
        ({"schedule": "cosine", "decay_start": 5}, "'cosine' takes no 'decay_start'"),
        ({"schedule": "cosine", "final": 1.5}, "final = 1.5"),
        ({"schedule": "rsqrt", "decay_start": 3, "warmup_steps": 5}, "decay_start = 3"),
    ],
)
def test_bad_input_is_one_line_that_says_what_there_is(change, message):
    with pytest.raises(ValueError, match=message) as caught:
        build_optimizer({**SPEC, **change}, 100)
    assert "\n" not in str(caught.value)


def test_the_specification_is_left_as_it_was():
    spec = {**SPEC, "warmup_steps": 3, "clip_norm": 1.0}
    before = dict(spec)
    build_optimizer(spec, 10)
    assert spec == before
