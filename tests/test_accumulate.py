"""A batch worked through in parts makes the update of the whole batch: same noise, same order, one update."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from own_objects import PLAIN, denoising, pulled, two_players

from diffjax import ema, finetune, host, methods, models, runs, schedules, training
from diffjax.config import ConfigError
from diffjax.losses.importance import importance
from diffjax.method import Example, Method, Turn, per_example
from diffjax.optimizers import build_optimizer
from diffjax.runs.build import complete
from diffjax.types import Prepare

KEY = jax.random.key(7)
B = 12


def linear(params, keys, example, index, size):
    x, y = example
    return (x @ params["w"] - y) ** 2, {}


def examples(steps=3, seed=0):
    """The even examples are large and the odd ones small: clipped apart they would weigh the same."""
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(steps, B, 3)), rng.normal(size=(steps, B))
    x[:, ::2] *= 10
    return x, y


@pytest.mark.parametrize("k", [1, 2, 4, 12])
@pytest.mark.parametrize("clip", [None, 3.0])
def test_updates_are_the_hand_derived_ones(k, clip, x64):
    """SGD on a linear model in NumPy: mean and not sum, clipped once, averaged and counted once per update."""
    spec = {"name": "sgd", "learning_rate": 0.001, "clip_norm": clip}
    optimizer, emas = build_optimizer(spec, 10)[0], ema.warm_up([0.9])
    step = jax.jit(training.make_step(training.loss_method(linear), optimizer, emas, accumulate=k))
    state = training.init_state({"w": jnp.full(3, 0.5)}, optimizer, emas, KEY)
    w, mean, (xs, ys) = np.full(3, 0.5), np.full(3, 0.5), examples()
    for n, (x, y) in enumerate(zip(xs, ys)):
        error = x @ w - y
        slope = 2 * error @ x / B
        norm = np.sqrt((slope**2).sum())
        assert norm > 3
        w = w - 0.001 * slope * (min(1, clip / norm) if clip else 1)
        decay = min(0.9, (1 + n) / (10 + n))
        mean = decay * mean + (1 - decay) * w
        state, metrics = step(state, (x, y))
        np.testing.assert_allclose(metrics["loss"], (error**2).mean(), rtol=1e-12)
        np.testing.assert_allclose(metrics["grad_norm"], norm, rtol=1e-12)
        np.testing.assert_allclose(state.params["w"], w, rtol=1e-12)
        np.testing.assert_allclose(state.ema.averages["0.9"]["w"], mean, rtol=1e-12)
    assert (int(state.step), int(state.ema.count)) == (3, 3)


def noisy(params, keys, example, index, size):
    """A denoiser of two numbers: stratified times unless one was chosen, noise of the example's own."""
    t = (jnp.asarray(index, float) / size + jax.random.uniform(keys.step)) % 1.0
    t = jnp.asarray(example.chosen.get("t", t), float)
    noise = jax.random.normal(keys.example, example.x.shape)
    loss = jnp.mean((jnp.tanh((example.x + t * noise) * params["w"] + params["b"]) - noise) ** 2)
    weight = jnp.asarray(example.chosen.get("weight", 1.0), float)
    return loss * weight, {"t01": t, "unweighted": loss, "noise": noise[0]}


def kept():
    """Remembers what was logged of each example, in the batch's order."""
    init = lambda: {name: jnp.zeros(B) for name in ("losses", "t01", "noise")}
    update = lambda memory, losses, logged: {"losses": losses, **logged}
    return Prepare(init, lambda memory, key, batch: batch, update)


METHODS = {
    "stratified times": lambda: training.loss_method(noisy, kept()),
    "importance sampling": lambda: training.loss_method(noisy, importance(schedules.VP(), steps=4, history=2)),
    "players": two_players,
}


def walk(name, k, steps=5, poison=None):
    """State and stacked metrics of some steps of Adam, in parts."""
    method, emas = METHODS[name](), ema.warm_up([0.9])
    spec = {"name": "adam", "learning_rate": 0.05, "clip_norm": 0.5}
    optimizer, schedule = build_optimizer(spec, 20)
    turns = len(method.turns)
    optimizers = {"critic": optimizer, "generator": optimizer} if turns > 1 else optimizer
    x = np.random.default_rng(1).normal(size=(steps, turns * B, 2))
    if poison is not None:
        x[poison] = np.nan
    params = method.init(KEY, Example(x[0, 0])) if turns > 1 else {"w": jnp.ones(2), "b": jnp.zeros(2)}
    step = training.make_step(method, optimizers, emas, learning_rate=schedule, accumulate=k)
    state = training.init_state(params, optimizers, emas, KEY, method)
    state, metrics = jax.jit(training.make_steps(step))(state, Example(x))
    return state._replace(key=jax.random.key_data(state.key)), metrics


@functools.cache
def walked(name, k, wide):
    with host.enable_x64(wide):
        return jax.device_get(walk(name, k))


@pytest.mark.parametrize("name", METHODS)
def test_parts_are_the_whole_batch_to_rounding(name):
    """State, memory and all metrics of five steps of Adam, clipped; the noise of every example to the bit."""
    wide = name != "importance sampling"  # whose memory is of float32
    whole, parts = walked(name, 1, wide), walked(name, 2 if name == "players" else 3, wide)
    assert jax.tree.structure(whole) == jax.tree.structure(parts)
    rounding = {"rtol": 1e-9, "atol": 1e-12} if wide else {"rtol": 1e-4, "atol": 1e-6}
    same = lambda a, b: np.testing.assert_allclose(a, b, **rounding)
    jax.tree.map(same, whole, parts)
    if name == "stratified times":
        for entry in ("t01", "noise"):
            np.testing.assert_array_equal(whole[0].memory[entry], parts[0].memory[entry])
        assert sorted(np.floor(np.asarray(parts[0].memory["t01"]) * B)) == list(range(B))
    counts = {int(leaf) for leaf in jax.tree.leaves(parts[0].opt_state) if jnp.issubdtype(leaf.dtype, jnp.integer)}
    assert counts <= {5, 10}  # the critic of two turns makes two updates in a step
    assert counts
    assert (int(parts[0].step), int(parts[0].ema.count)) == (5, 5)


@pytest.mark.parametrize(("backend", "loops"), [("cpu", 0), ("gpu", 1)])
def test_a_loop_where_loops_pay(backend, loops, monkeypatch, x64):
    """Unrolled on a CPU, a loop elsewhere, of the same numbers."""
    expected = walked("stratified times", 3, True)
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9), walk("stratified times", 3), expected)
    method, optimizer, emas = training.loss_method(linear), optax.sgd(0.1), ema.warm_up([])
    state, batch = (
        training.init_state({"w": jnp.ones(3)}, optimizer, emas, KEY),
        jax.tree.map(lambda a: a[0], examples()),
    )
    text = lambda k: jax.jit(training.make_step(method, optimizer, emas, accumulate=k)).lower(state, batch).as_text()
    assert text(3).count("stablehlo.while") - text(1).count("stablehlo.while") == loops


def test_sums_of_short_floats_are_made_in_longer_ones():
    """256 + 1 is 256 in bfloat16."""
    method = training.loss_method(lambda p, keys, x, i, n: (jnp.sum(p * x), {}))
    optimizer, emas = optax.sgd(1.0), ema.warm_up([])
    step = training.make_step(method, optimizer, emas, accumulate=8)
    state = training.init_state(jnp.zeros((), jnp.bfloat16), optimizer, emas, KEY)
    state, _ = jax.jit(step)(state, jnp.asarray([256, 1, 1, 1, 1, 1, 1, 1], jnp.bfloat16))
    assert state.params.dtype == jnp.bfloat16
    assert float(state.params) == -float(jnp.bfloat16(263 / 8))


# What is refused.


def coupled(params, key, batch, index, size):
    """Losses of a whole batch: each example against the batch's mean."""
    return jnp.sum((batch.x - batch.x.mean(0, keepdims=True) - params["m"][None]) ** 2, 1), {}


def own(*turns):
    return Method(lambda key, example: {"m": jnp.zeros(2)}, turns, lambda params, request, key, given: params["m"])


def test_losses_that_couple_examples_have_no_parts():
    make = lambda k, *turns: training.make_step(own(*turns), optax.sgd(0.1), ema.warm_up([]), accumulate=k)
    make(1, Turn(coupled))
    with pytest.raises(
        ValueError, match=r"accumulate = 2, but the losses of turn 1 \(of m\) may .*method\.per_example"
    ):
        make(2, Turn(per_example(linear), "m"), Turn(coupled, "m"))
    with pytest.raises(ConfigError, match="the losses of turn 0 may couple the examples"):
        runs.Trainer(own(Turn(coupled)), PLAIN, optimizer=optax.sgd(0.1), accumulate=2)
    runs.Trainer(own(Turn(coupled)), PLAIN, optimizer=optax.sgd(0.1))


def test_a_frozen_method_has_parts():
    method = methods.freezing(denoising(models.of(models.MLP(4))), lambda p: finetune.freeze(p, only="out"))
    training.check_parts(method, 2)


@pytest.mark.parametrize("k", [0, -1, 1.5, True])
def test_parts_are_a_number(k):
    with pytest.raises(ValueError, match=r"accumulate is .*, expected an integer >= 1"):
        training.make_step(training.loss_method(linear), optax.sgd(0.1), ema.warm_up([]), accumulate=k)


def test_a_batch_of_no_parts():
    optimizer, emas = optax.sgd(0.1), ema.warm_up([])
    step = training.make_step(training.loss_method(linear), optimizer, emas, accumulate=5)
    state = training.init_state({"w": jnp.ones(3)}, optimizer, emas, KEY)
    with pytest.raises(ValueError, match="Got 12 examples on a device, expected a multiple of accumulate = 5"):
        step(state, jax.tree.map(lambda a: a[0], examples()))


# A run.


def run(k=None, workdir=None):
    options = {} if k is None else {"accumulate": k}
    return pulled(workdir=workdir, batch_size=8, log_every=2, checkpoint_every=4, **options)


def test_a_run_in_parts_resumes_and_may_have_others(tmp_path):
    with run(2, tmp_path / "two") as trainer:
        trained = trainer.train(4)
    np.testing.assert_allclose(trained.state.params["m"], run().train(4).state.params["m"], rtol=1e-5)
    with run(2, tmp_path / "two") as trainer:
        assert trainer.step == 4
    with run(4, tmp_path / "two") as trainer:  # equal to rounding: it is free, and is recorded
        assert trainer.step == 4
    (change,) = json.loads((tmp_path / "two" / "history.json").read_text())["changes"]
    assert (change["field"], change["old"], change["new"]) == ("objects.settings.accumulate", 2, 4)


def test_a_run_from_before_there_were_parts_goes_on(tmp_path):
    """Of objects, whose fingerprint says nothing of parts, and of a config, which is completed."""
    with run(None, tmp_path / "old") as trainer:
        trainer.train(4)
    config = json.loads((tmp_path / "old" / "config.json").read_text())
    del config["objects"]["settings"]["accumulate"]
    (tmp_path / "old" / "config.json").write_text(json.dumps(config))
    with run(1, tmp_path / "old") as trainer:
        assert trainer.step == 4
    config = runs.load("configs/vpsde.py:tiny")
    with config.unlocked():
        del config.train.accumulate
    assert complete(config).train.accumulate == 1


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"k": 3}, r"batch_size is 8, expected a multiple of 1 devices x train\.accumulate = 3"),
        ({"k": 0}, r"train\.accumulate is 0, expected an integer >= 1"),
    ],
)
def test_bad_numbers_are_refused(options, match):
    with pytest.raises(ConfigError, match=match):
        run(**options)
