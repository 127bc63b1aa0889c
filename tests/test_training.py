import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffjax import ema, training
from diffjax.method import Example
from diffjax.optimizers import build_optimizer
from diffjax.types import Prepare

KEY = jax.random.key(7)


def loss_fn(params, keys, example, index, global_size):
    """Fit w . x + b to y, with noise of the example's own, and a time from index and a shared offset."""
    x, y = example
    offset, noise = jax.random.uniform(keys.step), jax.random.normal(keys.example)
    t01 = (jnp.asarray(index, float) / global_size + offset) % 1.0
    error = x @ params["w"] + params["b"] - y - t01 * noise
    return error**2, {"t01": t01, "error": error}


def data(steps, batch=6, seed=0):
    rng, dtype = np.random.default_rng(seed), jax.dtypes.canonicalize_dtype(float)
    return rng.normal(size=(steps, batch, 3)).astype(dtype), rng.normal(size=(steps, batch)).astype(dtype)


def at(batches, k):
    return jax.tree.map(lambda leaf: leaf[k], batches)


def fresh(optimizer, emas, key=KEY):
    return training.init_state({"w": jnp.full(3, 0.5), "b": jnp.asarray(0.1)}, optimizer, emas, key)


def make(spec=None, decays=(0.9,), **kwargs):
    optimizer, schedule = build_optimizer(spec or {"name": "sgd", "learning_rate": 0.05, "warmup_steps": 3}, 20)
    emas = ema.warm_up(decays)
    step = training.make_step(
        training.loss_method(kwargs.pop("loss", loss_fn)), optimizer, emas, learning_rate=schedule, **kwargs
    )
    return step, fresh(optimizer, emas)


def equal(a, b):
    data_of = lambda x: jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(data_of(x), data_of(y)), a, b)


def test_step_is_the_hand_derived_one(x64):
    """Three SGD steps in NumPy: noise by the documented key rule, gradient by hand, the rest by definition."""
    spec = {"name": "sgd", "learning_rate": 0.0625, "warmup_steps": 4}  # rates that float32 holds exactly
    step, state = make(spec, time_bins=4)
    xs, ys = data(3)
    w, b = np.full(3, 0.5), 0.1
    mean_w = w.copy()

    @jax.jit
    def draws(k):
        shared, base = jax.random.split(jax.random.fold_in(KEY, k))
        return jax.random.uniform(shared), [jax.random.normal(jax.random.fold_in(base, i)) for i in range(6)]

    for k in range(3):
        x, y = xs[k], ys[k]
        offset, noise = jax.device_get(draws(k))
        t = (np.arange(6) / 6 + offset) % 1.0
        error = x @ w + b - y - t * noise
        dw, db = 2 * error @ x / 6, 2 * error.mean()
        rate = 0.0625 * k / 4
        w, b = w - rate * dw, b - rate * db
        decay = min(0.9, (1 + k) / (10 + k))
        mean_w = decay * mean_w + (1 - decay) * w
        bins = (t * 4).astype(int)

        state, metrics = jax.jit(step)(state, (xs[k], ys[k]))
        expected = {
            "loss": (error**2).mean(),
            "grad_norm": np.sqrt((dw**2).sum() + db**2),
            "update_norm": rate * np.sqrt((dw**2).sum() + db**2),
            "param_norm": np.sqrt((w**2).sum() + b**2),
            "learning_rate": rate,
            "finite": True,
            "skipped": 0,
            "time_loss": [(error[bins == j] ** 2).sum() for j in range(4)],
            "time_count": [(bins == j).sum() for j in range(4)],
        }
        for name, value in expected.items():
            np.testing.assert_allclose(metrics[name], value, rtol=1e-12, atol=1e-15, err_msg=name)
        np.testing.assert_allclose(metrics["ema_decay"]["0.9"], decay, rtol=1e-12)
        np.testing.assert_allclose(metrics["aux"]["error"], error.mean(), rtol=1e-12)
        np.testing.assert_allclose(state.params["w"], w, rtol=1e-12)
        np.testing.assert_allclose(state.ema.averages["0.9"]["w"], mean_w, rtol=1e-12)
        assert int(state.step) == k + 1


def test_an_example_sees_the_same_noise_in_a_batch_of_any_size():
    def noise(n):
        show = lambda params, keys, x, i, size: (
            x,
            {"own": jax.random.normal(keys.example), "all": jax.random.normal(keys.step)},
        )
        of = jax.jit(lambda x, index: training.per_example(show)({}, KEY, x, index, n)[1])
        return jax.device_get(of(np.zeros(n, np.float32), np.arange(n, dtype=np.int32)))

    few, many = noise(3), noise(8)
    np.testing.assert_array_equal(few["own"], many["own"][:3])
    np.testing.assert_array_equal(many["all"], np.full(8, many["all"][0]))
    assert len(np.unique([*many["own"], many["all"][0]])) == 9


def test_steps_have_keys_of_their_own():
    draws = lambda params, keys, x, i, size: (params * x, {"own": jax.random.normal(keys.example)})
    optimizer, emas = optax.sgd(0.1), ema.warm_up([])
    step = training.make_step(training.loss_method(draws), optimizer, emas)
    state = training.init_state(jnp.ones(()), optimizer, emas, KEY)
    _, metrics = jax.jit(training.make_steps(step))(state, np.ones((5, 2), np.float32))
    assert len(np.unique(metrics["aux"]["own"])) == 5


def test_time_bins_are_closed_at_one():
    at_x = lambda params, keys, x, i, size: (params * x, {"t01": x})
    optimizer, emas = optax.sgd(0.1), ema.warm_up([])
    x = np.float32([0.0, 0.19, 0.2, 0.5, 0.99, 1.0])
    step = training.make_step(training.loss_method(at_x), optimizer, emas, time_bins=5)
    _, metrics = jax.jit(step)(training.init_state(jnp.ones(()), optimizer, emas, KEY), x)
    np.testing.assert_array_equal(metrics["time_count"], [2, 1, 1, 0, 2])
    np.testing.assert_allclose(metrics["time_loss"], [0.19, 0.2, 0.5, 0, 1.99], rtol=1e-6)


def test_what_a_batch_is_prepared_with_to_be_logged_is_logged():
    """The mean of the scalars in chosen["logged"], beside those of the losses."""
    plain = lambda params, keys, example, i, size: (params * example.x, {"own": example.x})
    off = lambda memory, key, batch: batch.choose(logged={"off": batch.x**2})
    prepare = Prepare(lambda: (), off, lambda memory, losses, logged: memory)
    method, optimizer, emas = training.loss_method(plain, prepare), optax.sgd(0.1), ema.warm_up([])
    step = training.make_step(method, optimizer, emas)
    _, metrics = jax.jit(step)(
        training.init_state(jnp.ones(()), optimizer, emas, KEY, method), Example(np.float32([1, 3]))
    )
    assert metrics["aux"] == {"own": 2.0, "off": 5.0}


def test_losses_without_time_have_no_time_metrics():
    plain = lambda params, keys, x, i, size: (params * x, {})
    optimizer, emas = optax.sgd(0.1), ema.warm_up([])
    step = training.make_step(training.loss_method(plain), optimizer, emas)
    _, metrics = jax.jit(step)(training.init_state(jnp.ones(()), optimizer, emas, KEY), np.ones(2, np.float32))
    assert "time_loss" not in metrics
    assert "learning_rate" not in metrics
    assert metrics["aux"] == {}


def test_k_steps_in_one_dispatch_are_k_steps():
    step, state = make({"name": "adam", "learning_rate": 0.05, "clip_norm": 1.0}, decays=(0.5, 0.999))
    batches = data(5)
    together, stacked = jax.jit(training.make_steps(step))(state, batches)
    single, rows = state, []
    for k in range(5):
        single, metrics = jax.jit(step)(single, at(batches, k))
        rows.append(metrics)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    jax.tree.map(close, together._replace(key=0), single._replace(key=0))
    jax.tree.map(close, stacked, jax.tree.map(lambda *xs: np.stack(xs), *rows))
    assert int(together.step) == 5


@pytest.mark.parametrize(("k", "unroll", "loops"), [(1, 1, 0), (3, 1, 1), (3, 3, 0)])
def test_one_step_and_unrolled_steps_make_no_loop(k, unroll, loops):
    """Inside a loop, XLA's CPU convolutions are slow."""
    step, state = make()
    whiles = lambda f, batches: jax.jit(f).lower(state, batches).as_text().count("stablehlo.while")
    alone = whiles(step, at(data(1), 0))  # the random generator has loops of its own
    assert whiles(training.make_steps(step, unroll), data(k)) == alone + loops


def test_nothing_moves_between_host_and_device_inside_a_step():
    step, state = make({"name": "adamw", "learning_rate": 0.05, "warmup_steps": 2, "schedule": "cosine"})
    batches, first = jax.device_put((data(3), at(data(3), 0)))
    compiled, compiled_k = jax.jit(step), jax.jit(training.make_steps(step))
    with jax.transfer_guard("disallow"):
        state, metrics = compiled(state, first)
        state, metrics = compiled_k(state, batches)
        jax.block_until_ready((state, metrics))
    assert int(state.step) == 4


def test_one_compile_and_a_donated_state():
    traces = []

    def counted(*args):
        traces.append(1)
        return loss_fn(*args)

    step, state = make(loss=counted, decays=(0.9, 0.99))
    batches = data(4)
    compiled = jax.jit(step, donate_argnums=0)
    for k in range(4):
        old = state
        state, _ = compiled(state, at(batches, k))
        jax.block_until_ready(state)
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves((old.params, old.ema, old.opt_state, old.step)))
    assert len(traces) == 1


def test_a_non_finite_step_changes_nothing_but_the_counters():
    spec = {"name": "adam", "learning_rate": 0.05, "warmup_steps": 4}
    step, state = make(spec, time_bins=3)
    batches = data(4)
    poisoned = (batches[0].copy(), batches[1])
    poisoned[0][1, 2, 0] = np.nan
    states, window = [state], []
    for k in range(4):
        state, metrics = jax.jit(step)(states[-1], at(poisoned, k))
        states.append(state)
        window.append(metrics)
    kept = lambda s: (s.params, s.ema, s.opt_state)
    equal(kept(states[2]), kept(states[1]))
    assert [int(s.step) for s in states] == [0, 1, 2, 3, 4]
    assert [int(s.skipped) for s in states] == [0, 0, 1, 1, 1]
    assert [bool(m["finite"]) for m in window] == [True, False, True, True]
    assert int(states[-1].ema.count) == 3
    # the third step takes the rate of the second update, as the optimizer does
    np.testing.assert_allclose([float(m["learning_rate"]) for m in window], [0, 0.0125, 0.0125, 0.025], rtol=1e-6)
    np.testing.assert_array_equal(window[1]["time_loss"], np.zeros(3))
    np.testing.assert_array_equal(window[1]["time_count"], np.zeros(3))
    # the steps after it are those of a run without it, on the keys of their own numbers
    skipping = states[1]._replace(step=jnp.int32(2))
    for k in (2, 3):
        skipping, _ = jax.jit(step)(skipping, at(batches, k))
    equal(kept(skipping), kept(states[-1]))
    # and inside one dispatch
    together, stacked = jax.jit(training.make_steps(step))(states[0], poisoned)
    np.testing.assert_array_equal(stacked["finite"], [True, False, True, True])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(kept(together)))


CULPRITS = {
    # loss 0 with an infinite gradient; a rate that overflows the update; an update that overflows the parameters
    "grad_norm": (lambda p, keys, x, i, n: (jnp.sqrt(p * (x - x)).sum(), {}), 0.1, 1.0),
    "update_norm": (lambda p, keys, x, i, n: (p.sum() * x * 1e10, {}), 1e30, 1.0),
    "param_norm": (lambda p, keys, x, i, n: (-p.sum() * x, {}), 1e19, 1.5e19),
    "loss": (lambda p, keys, x, i, n: (p.sum() * x / 0.0, {}), 0.1, 1.0),
}


@pytest.mark.parametrize("culprit", CULPRITS)
def test_stop_names_the_metric_the_step_and_the_window(culprit):
    loss, rate, start = CULPRITS[culprit]
    optimizer, emas = optax.sgd(rate), ema.warm_up([0.9])
    step = training.make_step(training.loss_method(loss), optimizer, emas)
    start = np.full(2, start, np.float32)  # of one number alone XLA takes |p| for the norm, which does not overflow
    state = training.init_state(start, optimizer, emas, KEY)
    after, bad = jax.jit(step)(state, np.ones(2, np.float32))
    np.testing.assert_array_equal(after.params, start)
    good = {**bad, **{name: np.float32(1) for name in training.GUARDED}, "finite": np.bool_(True)}
    window = [good, good, bad, good, bad]
    with pytest.raises(training.NonFiniteError, match=f"{culprit} is .* at step 42 .*steps 40 to 44") as caught:
        training.check_finite(window, 40, "stop")
    assert (caught.value.metric, caught.value.step) == (culprit, 42)
    assert training.check_finite(window, 40, "skip") == 2
    assert training.check_finite([good, good], 40, "stop") == 0


def test_windows_mix_single_steps_and_dispatches():
    step, state = make()
    xs, ys = data(5)
    xs[3, 0] = np.inf
    state, one = jax.jit(step)(state, (xs[0], ys[0]))
    state, four = jax.jit(training.make_steps(step))(state, (xs[1:], ys[1:]))
    with pytest.raises(training.NonFiniteError, match="at step 13 "):
        training.check_finite([one, four], 10)


def test_check_refuses_an_unknown_policy():
    step, state = make()
    _, metrics = jax.jit(step)(state, at(data(1), 0))
    with pytest.raises(ValueError, match=r"'halt'.*stop, skip"):
        training.check_finite([metrics], 0, "halt")


def test_summary_of_a_window_is_over_its_finite_steps():
    rows = [
        {"loss": 1.0, "finite": True, "time_loss": [1.0, 0.0, 2.0], "time_count": [1, 0, 1], "learning_rate": 0.1},
        {"loss": np.nan, "finite": False, "time_loss": [0.0, 0.0, 0.0], "time_count": [0, 0, 0], "learning_rate": 0.2},
        {"loss": 4.0, "finite": True, "time_loss": [5.0, 0.0, 3.0], "time_count": [2, 0, 1], "learning_rate": 0.3},
    ]
    common = {"grad_norm": 1.0, "update_norm": 2.0, "param_norm": 3.0, "skipped": 1}
    window = [
        {**common, **row, "ema_decay": {"0.9": 0.5 + k / 10}, "aux": {"mse": row["loss"] * 2}}
        for k, row in enumerate(rows)
    ]
    record = training.summarize(
        [jax.tree.map(np.asarray, row, is_leaf=lambda x: isinstance(x, list)) for row in window]
    )
    assert record["loss"] == 2.5
    assert record["aux"] == {"mse": 5.0}
    assert record["loss_by_time"] == [2.0, None, 2.5]
    assert (record["learning_rate"], record["skipped"], record["ema_decay"]) == (0.3, 1, {"0.9": 0.7})
    assert (record["grad_norm"], record["update_norm"], record["param_norm"]) == (1.0, 2.0, 3.0)
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    bad = jax.tree.map(np.asarray, window[1], is_leaf=lambda x: isinstance(x, list))
    assert training.summarize([bad])["loss"] is None


def test_summary_of_real_metrics_is_json():
    step, state = make()
    _, metrics = jax.jit(training.make_steps(step))(state, data(3))
    record = training.summarize([metrics])
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    np.testing.assert_allclose(record["loss"], np.asarray(metrics["loss"], np.float64).mean(), rtol=1e-6)


def test_refuses_raw_keys_and_empty_bins():
    with pytest.raises(ValueError, match="typed key"):
        fresh(optax.sgd(0.1), ema.warm_up([]), key=jnp.zeros(2, jnp.uint32))
    with pytest.raises(ValueError, match="time_bins = 0"):
        make(time_bins=0)
