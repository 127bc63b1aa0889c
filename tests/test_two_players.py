"""Runs of several players: one program for all numbers of a pair, a donated state, the same bytes after any end.

Of every field that a generator follows (`configs/matching.py`), small: a critic in turns and at once, two denoisers,
two energies, and a kernel, which has one player.
"""

import random

import jax
import numpy as np
import pytest
from test_planning import Compiles
from test_resume import BARE, assert_same_run, kill_at_random_moments, uninterrupted
from twice import assert_trainer_resumes

from diffjax import allocator, runs, training
from diffjax.runs.build import load

COMPILES = Compiles()
STEPS = 160
SMALL = {
    "data.n": 256,
    "data.held_out": 64,
    "train.batch_size": 16,
    "train.steps": STEPS,
    "train.sample_every": STEPS,
    "train.log_every": 10,
    "train.steps_per_dispatch": 1,
    "checkpoint.every": 20,
    "eval.samples": 50,
}
PAIRS = {  # variant of the config, what is said beside it, who moves in each turn
    "critic": ("classifier", {"method.critics": 2}, ("critic", "critic", "generator")),
    "at once": ("classifier", {"method.simultaneous": True}, (("generator", "critic"),)),
    "scores": ("scores", {}, (("real", "fake"), ("real", "fake"), "generator")),
    "energies": ("energies", {"method.critics": 1}, (("real", "fake"), "generator")),
    "kernel": ("kernel", {}, ("generator",)),
}
slow = lambda name: pytest.param(name, marks=pytest.mark.slow)


def changes(pair, more):
    """The small run's changes of its config, as text."""
    variant, said, moves = PAIRS[pair]
    players = {name for turn in moves for name in ((turn,) if isinstance(turn, str) else turn)}
    nets = {f"{who}.{what}": n for who in players for what, n in (("width", 8), ("depth", 1))}
    return f"configs/matching.py:{variant}", [f"{k}={v}" for k, v in {**SMALL, **nets, **said, **more}.items()]


def built(pair, **more):
    config, said = changes(pair, more)
    made = runs.build_run(load(config, said))
    assert tuple(turn.moves for turn in made.method.turns) == PAIRS[pair][2]
    return made


def trainer(pair, workdir=None, **more):
    return runs.Trainer(**built(pair, **more)._asdict(), workdir=workdir)


@pytest.mark.parametrize("pair", ["at once", *map(slow, sorted(set(PAIRS) - {"at once"}))])
def test_one_compile_and_a_donated_state(pair):
    with trainer(pair) as one:
        old = one.state
        one.train(1)
        gone = jax.tree.leaves((old.params, old.opt_state, old.ema))
        assert len(gone) > 10
        assert {leaf.is_deleted() for leaf in gone} == {bool(allocator.donating(0))}
        kept = jax.tree.leaves(one.state)
        assert not any(leaf.is_deleted() for leaf in kept)
        assert COMPILES.during(one.train, 6) == 0
        assert int(one.state.step) == 6


ONE = {"method.eps": 0.4}  # 0, 0.5, 1 and 2 are not lifted (`constants.KEPT`), and equal weights of one loop are one
NUMBERS = {  # two settings of a pair
    "critic": (
        {**ONE, "method.r1": 0.2},
        {"method.eps": 0.3, "method.r1": 0.7, "optimizer.critic.learning_rate": 0.02},
    ),
    "at once": (
        {**ONE, "method.r1": 0.2},
        {"method.eps": 0.3, "method.r1": 0.7, "optimizer.critic.learning_rate": 0.02},
    ),
    "scores": (ONE, {"method.eps": 0.3, "optimizer.fake.learning_rate": 0.02}),
}


def program(pair, **more):
    """The text of a pair's step, its numbers lifted out of it, as `parallel.compile_step` compiles it."""
    of = built(pair, **more)
    step = training.make_steps(training.make_step(of.method, of.optimizer, of.ema))
    key = jax.random.key(0)
    batch = of.data.train.gather(np.arange(16 * len(of.method.turns)))
    params = jax.eval_shape(of.method.init, key, jax.tree.map(lambda a: a[0], batch))
    state = jax.eval_shape(lambda p, k: training.init_state(p, of.optimizer, of.ema, k, of.method), params, key)
    batches = jax.tree.map(lambda a: a[None], batch)
    lifted, numbers = step.lift(state, batches)
    return jax.jit(lifted).lower(numbers, state, batches).as_text()


@pytest.mark.parametrize("pair", ["critic", slow("at once"), slow("scores")])
def test_other_numbers_of_a_pair_are_no_new_program(pair):
    one, other = (program(pair, **numbers) for numbers in NUMBERS[pair])
    assert one == other
    assert one != program(pair, **NUMBERS[pair][0], **{"generator.depth": 2})


@pytest.mark.parametrize("pair", ["at once", *map(slow, sorted(set(PAIRS) - {"at once"}))])
def test_a_stopped_pair_goes_on_to_the_same_bytes(pair, tmp_path):
    """Stopped inside a log window and between checkpoints; critics, optimizers and averages are all compared."""
    assert_trainer_resumes(lambda workdir: trainer(pair, workdir), tmp_path, steps=30)


@pytest.mark.slow  # test_resume kills one player in every run
@pytest.mark.parametrize("pair", PAIRS)
def test_a_killed_pair_ends_with_the_same_bytes(pair, tmp_path):
    """SIGKILL at random moments, three times; then state and log are those of a run that nobody disturbed."""
    config, said = changes(pair, {})
    args = [f"--config={config}", *(f"--config.{text}" for text in said)]
    cache = tmp_path / "compiled"
    whole = uninterrupted(args, tmp_path / "whole", cache, BARE)
    assert kill_at_random_moments(args, tmp_path / "killed", cache, 3, random.Random(7)) >= 2
    assert_same_run(whole, uninterrupted(args, tmp_path / "killed", cache, BARE))
    assert set(runs.open(whole).state.params) >= {"generator"}
