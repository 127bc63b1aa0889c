"""Bounds of chains of tokens and their estimates; a run of the config; what is refused in one line."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from enumerated import entropy
from token_table import PROCESSES, A, B, at, each, means, table
from twice import assert_trains_and_resumes

from diffjax import main as command_line
from diffjax import runs, samplers
from diffjax.denoisers.categorical import ConcreteScore, Known, LeaveOneOut, Whole
from diffjax.likelihood import tokens
from diffjax.losses import categorical as losses
from diffjax.methods import planning
from diffjax.processes import categorical as processes
from diffjax.schedules import VP, Rectified


@pytest.mark.parametrize(
    ("name", "gaps"),
    [
        ("masked", [0.104733, 0.058844, 0.031041]),
        pytest.param("uniform", [0.104733, 0.078421, 0.045884], marks=pytest.mark.slow),
    ],
)
def test_bound_of_a_chain_closes_as_one_over_its_steps(x64, name, gaps):
    """The mean over steps of `d3pm` without its cross-entropy, exact model: gap to the entropy of A, N = 1, 2, 4."""
    for N, gap in zip((1, 2, 4), gaps):
        ts = np.arange(1, N + 1) / N
        rows = table(name, A, ts, without=True)
        loss = functools.partial(losses.d3pm, steps=N, auxiliary=0.0)
        found = means(name, A, loss, LeaveOneOut(), rows, ts).mean(0)
        assert abs(A.ravel() @ found - entropy(A) - gap) < 1e-6
    if name == "masked":
        assert np.min(found + np.log(A.ravel())) < -0.3  # it bounds the law of N steps, not p, at one x


def test_d3pm_adds_cross_entropy_at_all_places(x64):
    process, x0, x, t = PROCESSES["uniform"](3), np.int32([0, 2]), np.int32([1, 2]), 0.5
    logits = np.random.default_rng(0).normal(size=(2, 3))

    @jax.jit
    def values(logits):
        parts = (lambda x, c: logits, process, Whole(), x0, at(x), t)
        bound = functools.partial(losses.d3pm, *parts, steps=4)
        posterior = bound(auxiliary=0.0, estimate="posterior")
        return losses.cross_entropy(*parts), bound(auxiliary=0.0), bound(auxiliary=0.5), posterior

    cross, alone, half, plugged = jax.device_get(values(logits))
    expected = -np.sum((logits - np.log(np.exp(logits).sum(-1, keepdims=True)))[[0, 1], x0])
    np.testing.assert_allclose(cross, expected, atol=1e-14)
    np.testing.assert_allclose(half - alone, 0.5 * expected, atol=1e-13)
    assert abs(plugged - alone) > 0.01


@pytest.mark.parametrize("name", each(["masked", "uniform", "gaussian"], {"uniform", "gaussian"}))
def test_estimates_of_the_bound_have_its_mean(x64, name):
    """`likelihood.tokens`: masks by counts, rates by times, a chain by its steps; and the whole sum of a walk."""
    process, n = PROCESSES[name](3), 4000
    x0 = np.int32([2, 1])

    def net(x, c):  # right for masks at any time; a fixed law for the others
        law = jnp.asarray(B)
        seen = [jnp.where(x[i] == 3, 1.0, jax.nn.one_hot(x[i], 3)) for i in range(2)]
        return jnp.log(jnp.stack([law @ seen[1] + 1e-3, seen[0] @ law + 1e-3]))

    of = Known(net, process, LeaveOneOut())
    ts = np.linspace(1, 0, 9)

    @jax.jit
    def both(key):
        keys = jax.random.split(key, n)
        u = jnp.asarray((np.arange(n) + 0.5) / n)
        one, some = (
            jax.vmap(lambda key, u, chain=chain: tokens.bound(of, key, jnp.asarray(x0), u, chain))(keys, u)
            for chain in (None, 8)
        )
        return one, some, jax.vmap(lambda key: tokens.steps(of, key, jnp.asarray(x0), ts))(keys)

    one, some, whole = (np.asarray(a) for a in both(jax.random.key(0)))
    error = lambda a: a.std() / np.sqrt(n)
    if name == "masked":
        assert abs(one.mean() + np.log(B[2, 1])) < 5 * error(one) + 2e-3
    # the same steps, drawn one at a time
    assert abs(some.mean() - whole.mean()) < 5 * (error(some) + error(whole))
    if name == "gaussian":  # has these steps and no others
        np.testing.assert_array_equal(one, some)
    assert whole.mean() > one.mean() - 5 * (error(one) + error(whole))  # fewer steps, a bound less sharp
    assert np.isfinite(one).all()


def test_a_loss_of_whole_steps_says_so_by_its_parameter():
    assert planning.steps_of(functools.partial(losses.d3pm, steps=32)) == 32
    assert planning.steps_of(losses.d3pm) == 1000
    assert planning.steps_of(losses.score_entropy) is None
    assert planning.steps_of(print) is None
    with pytest.raises(ValueError, match=r"loss.steps is 0, expected an integer >= 1"):
        planning.steps_of(functools.partial(losses.d3pm, steps=0))


# Trained


@pytest.mark.slow
def test_config_trains_and_resumes(tmp_path, capsys):
    found = assert_trains_and_resumes("configs/discrete.py:tiny", tmp_path, capsys)
    assert found["discrete"]["bound"] < found["discrete"]["product_of_marginals"] + 0.1
    assert found["tokens"]["floor"] > 0


# Bad input


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: processes.masked(VP(), 3), "VP has alpha = .* but for tokens they are probabilities, alpha"),
        (lambda: processes.masked(Rectified(0.9), 3), "At t_max = 0.9 a token is still seen with probability"),
        (lambda: processes.uniform(Rectified(), 1), "vocabulary is 1, expected an integer >= 2"),
        (lambda: processes.uniform(Rectified, 3), "Got the class Rectified"),
        (lambda: processes.mixed(Rectified(), 3, 1.0), "hidden is 1.0, expected a share inside"),
        (lambda: processes.gidd(Rectified(), 3, 0.0), "B is 0.0, expected a positive number; without uniform noise"),
        (lambda: processes.levels(Rectified(), 5000), "levels has 5000 levels, expected at most 4096"),
        (lambda: processes.gaussian(Rectified(), 300), "a table of 1001 x 300 x 300 = 90090000 numbers"),
        (lambda: PROCESSES["gaussian"](3).rates(jnp.zeros(2, int), 0.5), "A chain of whole steps has no rates"),
        (
            lambda: samplers.categorical.markov(PROCESSES["gaussian"](3)).plan(np.linspace(1, 0, 5)),
            "The discretised Gaussian has 8 steps, of which a walk leaves out none, but the grid has 4",
        ),
        (lambda: samplers.categorical.mixture(PROCESSES["gidd"](3)), "needs a pi that does not move, but Moving"),
        (
            lambda: samplers.categorical.mixture(PROCESSES["uniform"](3), 1.5),
            "share is 1.5, expected a number in .* only masks",
        ),
        (lambda: samplers.categorical.markov(PROCESSES["uniform"](3), "mean"), "estimate is 'mean', expected"),
        (lambda: PROCESSES["uniform"](3).check(object()), "the target is object, expected categorical.Whole"),
        (lambda: PROCESSES["levels"](3).check(ConcreteScore()), "Of Heat no law of x_0 follows from a concrete"),
        (lambda: PROCESSES["levels"](3).check_density(), "tokens, which have no density"),
        (lambda: tokens.check_tokens(np.array([0, 3]), 3, "mine"), "mine has tokens from 0 to 3, expected 0 to 2"),
    ],
)
def test_what_cannot_be_is_refused(make, match):
    with pytest.raises(ValueError, match=match):
        make()


@pytest.mark.parametrize(
    ("flags", "match"),
    [
        (
            ("--config.process.vocabulary=2", "--config.model.vocabulary=2"),
            "error: tokens has tokens from 0 to 2, expected 0 to 1: the vocabulary is 2.",
        ),
        (("--config.sampler.name=ancestral.ddim",), "error: x_T is of int32, expected real numbers"),
    ],
)
def test_the_command_line_refuses_in_one_line(flags, match, tmp_path, capsys):
    flags = ["--config=configs/discrete.py:tiny", f"--workdir={tmp_path}", *flags]
    assert command_line.main(flags) == 2
    (line,) = [line for line in "".join(capsys.readouterr()).splitlines() if line.startswith("error")]
    assert line.startswith(match)


def test_losses_refuse_times_between_steps_and_moving_laws():
    process, x0, net = PROCESSES["uniform"](3), np.int32([0, 1]), lambda x, c: jnp.zeros((2, 3))
    ask = lambda loss, process, t, **options: loss(net, process, Whole(), x0, None, t, **options)
    with pytest.raises(
        ValueError, match=r"t = 0.3 ends none of 4 steps: draw times by losses.times.chain with steps=4"
    ):
        ask(losses.d3pm, process, 0.3, steps=4)
    with pytest.raises(ValueError, match="estimate is 'whole', expected 'leave_one_out' or 'posterior'"):
        ask(losses.d3pm, process, 0.5, estimate="whole")
    with pytest.raises(ValueError, match=r"The loss has 1000 steps, but the process 8: loss.steps=8"):
        ask(losses.d3pm, PROCESSES["gaussian"](3), 0.5)
    with pytest.raises(ValueError, match="Flow matching needs a pi that does not move, but Moving has none"):
        ask(losses.flow_matching, PROCESSES["gidd"](3), 0.5)
    of = jax.jit(lambda x: losses.cross_entropy(net, process, Whole(), x, at(x), 0.5))
    assert np.isnan(of(np.int32([0, 3])))
    of = jax.jit(lambda t: losses.d3pm(net, process, Whole(), x0, at(x0), t, steps=4))  # a time that is not known yet
    assert np.isnan(of(0.375))
    assert np.isfinite(of(0.75))


def test_d3pms_recipe_walks_the_steps_that_it_was_trained_for():
    config = runs.load("configs/discrete.py:d3pm")
    assert config.grid.n == config.times.steps == config.loss.steps == 64


def test_prior_term_is_finite_and_small():
    """In float32, where alpha_T = 0 is a tiny number: nothing of x_0 is left; more is where the chain ends early."""
    term = lambda name: tokens.prior(PROCESSES[name](3), jnp.int32([0, 2, 1]))
    found = jax.device_get(jax.jit(lambda: {name: term(name) for name in PROCESSES})())
    assert 1e-3 < found.pop("gaussian") < 0.5
    assert all(abs(value) < 1e-6 for value in found.values())
