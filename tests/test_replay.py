"""What is not finite in a step is named: the example, the state, the operation, the parameter."""

import json
import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen
from own_objects import denoising

from diffjax import data, models, replay, runs, training
from diffjax import main as command_line
from diffjax.config import ConfigError
from diffjax.data.batches import order_at
from diffjax.method import Method, Turn, per_example

B, N = 4, 24


def pull(params, keys, example, index, size):
    """Pulls m to the mean of the data, through noise of the example's own."""
    return jnp.sum((example.x + jax.random.normal(keys.example, (2,)) - params["m"]) ** 2), {}


def method(*losses, moves=None):
    turns = tuple(Turn(per_example(loss), moves) for loss in losses)
    params = {"m": jnp.zeros(2)}
    params = params if moves is None else {moves: params}
    return Method(lambda key, example: params, turns, lambda params, request, key, given: jnp.zeros(2))


def dataset():
    return data.arrays(np.random.default_rng(0).normal(size=(N + 4, 2)), held_out=4 / (N + 4))


def trainer(*losses, optimizer=None, dataset=dataset(), workdir=None, **options):  # noqa: B008
    options = {"batch_size": B, "steps": 12, "log_every": 4, "checkpoint_every": 2, "sample_every": 100, **options}
    optimizer = optax.sgd(0.1) if optimizer is None else optimizer
    return runs.Trainer(method(*(losses or (pull,))), dataset, optimizer=optimizer, workdir=workdir, **options)


def ends(run):
    """The step at which a run meets what is not finite."""
    with pytest.raises(training.NonFiniteError) as error:
        run.train()
    return error.value.step


@pytest.mark.parametrize("dispatch", [1, 4])
def test_an_example_that_is_not_finite_is_named_with_its_row(dispatch, tmp_path):
    """NaN in row 7; where it stands follows from the definition of the walk."""
    found, row = dataset(), 7
    found.train.x[row, 1] = np.nan
    place = int(np.flatnonzero(order_at(N, 0, np.arange(N)) == row)[0])
    with trainer(dataset=found, workdir=tmp_path, steps_per_dispatch=dispatch, checkpoint_every=dispatch) as run:
        step = ends(run)
        assert step == place // B
        lines = run.replay(step)
    assert lines[0].startswith(f"step {step} is not finite (loss is nan")
    expected = f"batch.x, example {place % B} of the batch (row 7 of the training data), is nan at [1]"
    assert lines[1:] == [f"  {expected}"]


def test_the_state_is_that_of_training_to_the_bit(tmp_path, monkeypatch):
    """Step 9 from the checkpoint at 8, and step 1, of which none is left, from the first state."""
    with trainer(workdir=tmp_path, keep=1, best=0) as run:
        run.train(8)
        monkeypatch.setattr(replay, "show", lambda method, optimizer, before, *rest: before)
        again = {step: run.replay(step) for step in (1, 9)}
        assert (run.checkpoints.steps(), run.step) == ([8], 8)
    for step, found in again.items():
        expected = trainer().train(step).state
        keyed = lambda state: state._replace(key=jax.random.key_data(state.key))
        jax.tree.map(np.testing.assert_array_equal, keyed(found), keyed(expected))


def test_a_step_that_is_finite_has_nothing_to_show():
    assert re.fullmatch(r"step 3 is finite: nothing to show \(loss \d\S+\)", "\n".join(trainer().replay(3)))


def layered(function):
    """The loss of a network of two named layers, the second of which is `function`."""

    def loss(params, keys, example, index, size):
        with jax.named_scope("first"):
            h = jnp.where(jnp.array([True, False]), example.x, -jnp.inf)  # a mask's -inf is no mistake
            h = jax.nn.softmax(h) * params["m"] - 1.0
        with jax.named_scope("second"):
            return jnp.sum(function(h)), {"t01": jnp.asarray(index, float) / size}

    return loss


LAYERS = {
    "a logarithm": (jnp.log, "log", "nan", "-1"),
    "in a jitted function": (jax.jit(lambda h: jnp.log(h)), "log", "nan", "-1"),
    "in one that is computed again": (jax.checkpoint(jnp.log), "log", "nan", "-1"),
    "in one with a derivative of its own": (lambda h: jax.nn.relu(jnp.log(h)), "log", "nan", "-1"),
    "a division": (lambda h: 1 / (h + 1.0), "div", "inf", "1, 0"),
}


@pytest.mark.parametrize("layer", LAYERS)
def test_an_operation_of_the_network_is_named(layer):
    function, operation, value, of = LAYERS[layer]
    lines = trainer(layered(function)).replay(0)
    assert f"the loss of example 0 of the batch (row {order_at(N, 0, np.arange(1))[0]} of" in lines[1]
    assert f"is {value}, where t01 = 0" in lines[1]
    assert re.search(
        rf"it comes from {operation} of .*: {value} at \[0, 0\], of {of}, in .*second.*, test_replay", lines[2]
    )
    assert re.search(r"test_replay\.py:\d+ \(\S+\)$", lines[2])


class Logarithm(linen.Module):
    @linen.compact
    def __call__(self, x, c):
        return jnp.log(linen.Dense(2)(x) - 100.0)


def test_an_operation_of_a_module_is_named_by_its_own_line():
    """A module is traced once and then called: not by the line of the call."""
    run = runs.Trainer(denoising(models.of(Logarithm())), dataset(), optimizer=optax.sgd(0.1), batch_size=B, steps=4)
    line = Logarithm.__call__.__wrapped__.__code__.co_firstlineno + 2
    assert re.search(rf"it comes from log of .*, in .*Logarithm.*, test_replay\.py:{line} \(", run.replay(0)[2])


def test_a_gradient_is_named_by_its_parameter():
    """sqrt has an infinite slope at 0."""
    root = lambda params, *rest: (jnp.sum(jnp.sqrt(params["m"])), {})
    lines = trainer(root).replay(0)
    assert lines[0].startswith("step 0 is not finite (grad_norm is inf")
    assert lines[1].startswith("  gradient ['m'] is inf at [0] (2 of 2 entries), by example 0 of the batch")
    assert re.search(r"it comes from (div|mul|rsqrt|pow|integer_pow) of ", lines[2])


def test_a_rate_that_overflows_is_named():
    """Norms overflow before their entries do; then the entries; then the loss of the next step."""
    assert "the norm of update: its square overflows; the largest is" in trainer(optimizer=optax.sgd(1e37)).replay(0)[1]
    steep = lambda params, *rest: (1e10 * jnp.sum(params["m"]), {})
    assert trainer(steep, optimizer=optax.sgd(1e30)).replay(0)[1].startswith("  update ['m'] is -inf at [0]")
    lines = trainer(lambda params, *rest: (jnp.sum(jnp.exp(params["m"])), {}), optimizer=optax.sgd(-200.0)).replay(1)
    assert "the loss of example 0" in lines[1]
    assert "it comes from exp of float32[2]: inf at [0], of 200," in lines[2]


def test_the_turn_of_a_player_is_named():
    bad = lambda params, *rest: (jnp.sum(jnp.log(params["critic"]["m"] - 1.0)), {})
    good = lambda params, *rest: (jnp.sum(params["critic"]["m"] ** 2), {})
    made = method(good, bad, moves="critic")
    run = runs.Trainer(made, dataset(), optimizer={"critic": optax.sgd(0.1)}, batch_size=B, steps=4, log_every=2)
    assert run.replay(0)[1].startswith("  turn 1 (of critic): the loss of example 1 of the batch")


def test_state_and_batch_as_prepared():
    """What no run saves: parameters that are not finite before the step."""
    state = training.init_state(
        {"m": jnp.array([0.0, jnp.nan])}, optax.sgd(0.1), trainer().built.ema, jax.random.key(0)
    )
    batch = trainer().data.train.gather(np.arange(B))
    metrics = {name: np.float32("nan") for name in training.GUARDED} | {"finite": np.bool_(False)}
    lines = replay.show(method(pull), optax.sgd(0.1), state, batch, metrics, list(range(B)))
    assert lines[1] == "  state.params['m'] is nan at [1] (1 of 2 entries), before the step"


def test_a_damaged_checkpoint_is_passed_over():
    said = []

    def restore(target, step):
        if step == 6:
            raise ValueError("step 6: torn")
        return SimpleNamespace(state=step)

    kept = SimpleNamespace(steps=lambda: [2, 4, 6, 8], restore=restore)
    assert replay.nearest(kept, (), 7, said.append) == 4
    assert said == ["skipped a checkpoint: step 6: torn"]
    assert replay.nearest(kept, (), 1, said.append) is None


# The command.

WORDS = ["data.name=moons", "model.name=MLP", "model.width=8", "model.depth=1", "train.steps=20"]
WORDS += [
    "train.batch_size=8",
    "learning_rate.peak=1e38",
    "learning_rate.warmup_steps=0",
    "grid.n=2",
    "optimizer.name=sgd",
]


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("replay") / "run"
    flags = ["--config=configs/vpsde.py:tiny", f"--workdir={workdir}", *(f"--config.{text}" for text in WORDS)]
    return workdir, command_line.main(flags)


def test_a_run_that_ended_says_the_command_which_shows_why(ended, capsys):
    workdir, status = ended
    assert status == 1
    results = json.loads((workdir / "results.json").read_text())
    command = f"--mode=replay --workdir={workdir} --step={results['step']}"
    assert results["error"].endswith(command)
    before = sorted(path.stat().st_mtime_ns for path in workdir.rglob("*"))
    for arguments in (command.split(), command.split()[:2]):
        assert command_line.main(arguments) == 0
        lines = capsys.readouterr().out.splitlines()[1:]  # the first is the device's
        assert re.match(rf"step {results['step']} is not finite \(\w+_norm is inf", lines[0])
        assert "the norm of update: its square overflows" in lines[1]
    assert sorted(path.stat().st_mtime_ns for path in workdir.rglob("*")) == before, "nothing is written"


@pytest.mark.parametrize(
    ("flags", "match"),
    [
        (["--step=20"], "step is 20, expected one of this run's training steps, 0 to 19"),
        (["--step=-1"], "step is -1, expected one of"),
    ],
)
def test_mistakes(ended, flags, match, capsys):
    assert command_line.main(["--mode=replay", f"--workdir={ended[0]}", *flags]) == 2
    assert match in capsys.readouterr().err


def test_mistakes_about_the_workdir(tmp_path, ended, capsys):
    assert command_line.main(["--mode=replay"]) == 2
    assert "needs --workdir" in capsys.readouterr().err
    assert command_line.main(["--mode=replay", f"--workdir={tmp_path}"]) == 2
    assert "holds no run" in capsys.readouterr().err
    (tmp_path / "config.json").write_text((ended[0] / "config.json").read_text())
    assert command_line.main(["--mode=replay", f"--workdir={tmp_path}"]) == 2
    assert "did not end at a step that is not finite: give the --step" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--nfe=3", "--sampler=heun.edm", "--config.grid.n=3", "--config.train.steps=9"])
def test_no_override_is_dropped(flag, ended, capsys):
    assert command_line.main(["--mode=replay", f"--workdir={ended[0]}", flag]) == 2
    assert "makes a step as it was made" in capsys.readouterr().err


def test_a_step_is_a_number():
    with pytest.raises(ConfigError, match=r"step is 1\.5, expected"):
        trainer().replay(1.5)
