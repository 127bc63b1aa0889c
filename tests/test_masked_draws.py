"""Other draws of a trained run of masked tokens, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_masked import A, exact, trajectories

from diffjax import data, methods, models, runs
from diffjax.commands import sample
from diffjax.config import ConfigError, to_json
from diffjax.data import source
from diffjax.method import Example
from diffjax.runs import build, run
from diffjax.types import Categorical

SEQUENCE, KEY = Example(np.zeros(3, np.int32)), jax.random.key(0)


def changed(tmp_path, changes, steps=None):
    """The method of a trained run of `configs/masked.py`, drawn with these changes of the command line."""
    config = build.load("configs/masked.py", [] if steps is None else [f"method.steps={steps}"])
    (tmp_path / "config.json").write_text(to_json(config))
    return build._parts(build.complete(run.read_config(tmp_path, changes)))()


@pytest.mark.parametrize(
    ("flags", "overrides", "nfe", "how"),
    [
        ((None, None), [], 3, "one token a step, in a random order"),
        ((None, None), ["method.steps=2"], 2, "2 ancestral steps"),
        ((None, 2), [], 2, "categorical.mixture on the uniform grid of 2 steps"),
        (("decoding.entropy", None), [], 3, "decoding.entropy, a step for each token"),
        (("decoding.entropy", 2), ["sampler.k=2", "grid.name=uniform"], 2, "decoding.entropy on the uniform grid of 2"),
        (("categorical.mixture", 9), [], 9, "categorical.mixture on the uniform grid of 9 steps"),
    ],
)
def test_another_draw_of_a_trained_run_by_its_command_line(tmp_path, flags, overrides, nfe, how):
    method = changed(tmp_path, sample.as_overrides(*flags, overrides))
    assert method.plan((3,)).nfe == nfe
    assert method.parts.how().startswith(how)


def test_what_a_command_line_asks_for_replaces_the_number_of_steps(tmp_path):
    by_flag = changed(tmp_path, sample.as_overrides(None, 3), steps=2)
    assert (by_flag.plan((3,)).nfe, by_flag.parts.steps) == (3, None)
    assert by_flag.parts.how().startswith("categorical.mixture on the uniform grid of 3 steps")
    config = build.load("configs/masked.py", ["grid.n=3"])
    (tmp_path / "config.json").write_text(to_json(config))
    by_option = build._parts(build.complete(run.read_config(tmp_path, ["method.steps=2"])))()
    assert by_option.parts.how() == "2 ancestral steps"


def test_another_draw_by_words_replaces_the_number_of_steps(tmp_path):
    two = changed(tmp_path, [], steps=2).parts
    words = lambda **asked: two._replace(**two.worded(asked, build.drawn_by)).method().plan((3,)).nfe
    assert [words(), words(nfe=3), words(steps=1)] == [2, 3, 1]
    three = two._replace(**two.worded({"nfe": 3}, build.drawn_by))
    assert three._replace(**three.worded({"steps": 1}, build.drawn_by)).method().plan((3,)).nfe == 1
    net = exact(A)
    of = methods.masked(net, 3, steps=2).parts
    first = of._replace(**of.worded({"sampler": "decoding.position", "nfe": 3}, build.drawn_by)).method()
    states = trajectories(first, net.init(None, None, None), 50)
    assert np.all((states == 3) == np.tri(4, 3, -1)[None].astype(bool) ^ True)  # opened from the first place on


def test_draws_that_cannot_be_are_refused_with_the_way_on(tmp_path):
    with pytest.raises(ValueError, match=r"method.steps is 2 and the grid's n is 3, two names of one number: give one"):
        changed(tmp_path, ["grid.n=3", "method.steps=2"], steps=1)
    with pytest.raises(ConfigError, match=r"k = 2 is an option of samplers, but none is named"):
        changed(tmp_path, ["sampler.k=2"])
    with pytest.raises(
        ConfigError, match=r"would change a trained run; here only sampler, .*, eval, .*, method.steps can"
    ):
        changed(tmp_path, ["method.t_min=0.1"])
    few = changed(tmp_path, ["sampler.name=decoding.entropy"], steps=2)
    said = r"rows of this walk open 2 places, but x has 3: take 3 steps that open one place each \(grid.n=3, --nfe=3\)"
    shaped = lambda of: jax.eval_shape(lambda key: of.draw(of.init(key, SEQUENCE), of.plan((3,)), key, {}), KEY)
    with pytest.raises(ValueError, match=said):
        shaped(few)
    assert shaped(changed(tmp_path, sample.as_overrides("decoding.entropy", 3), steps=2)).shape == (3,)
    with pytest.raises(ValueError, match=r"grid.n is 4, more than the 3 tokens of an example; take at most 3"):
        changed(tmp_path, ["grid.n=4"]).plan((3,))


# Bad input


def net(**options):
    return models.of(models.TokenMLP(**{"vocabulary": 3, "width": 8, "depth": 1, "size": 4, **options}))


@pytest.mark.parametrize(
    ("parts", "match"),
    [
        ({"vocabulary": 1}, r"vocabulary is 1, expected an integer >= 2"),
        ({"steps": 0}, r"steps is 0, expected an integer >= 1"),
        ({"steps": 2.0}, r"steps is 2.0, expected an integer >= 1"),
        ({"t_min": 0.0}, r"t_min = 0.0, expected a share of hidden tokens inside \(0, 1\)"),
    ],
)
def test_numbers_out_of_range_are_refused(parts, match):
    with pytest.raises(ValueError, match=match):
        methods.masked(net(), **{"vocabulary": 3, **parts})


def test_more_steps_than_tokens_are_refused_when_drawing_is_planned():
    method = methods.masked(net(), 3, steps=5)
    with pytest.raises(ValueError, match=r"steps is 5, more than the 4 tokens of an example; take at most 4, or none"):
        method.plan((4,))
    method.plan((5,))


def test_a_network_of_another_vocabulary_and_real_numbers_are_refused_before_training():
    example = Example(np.zeros(3, np.int32))
    with pytest.raises(
        ValueError,
        match=r"logits of shape \(3, 4\) for tokens of shape \(3,\), expected \(3, 3\).*model.vocabulary.*symbols",
    ):
        jax.eval_shape(methods.masked(net(vocabulary=4), 3).init, jax.random.key(0), example)
    x = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    with pytest.raises(ConfigError, match=r"float32 of shape \(3,\), expected integers: tokens from 0 on"):
        runs.Trainer(methods.masked(net(), 3), data.arrays(x), optimizer=optax.adam(1e-3))
    with pytest.raises(ValueError, match=r"takes sequences \(L,\) of integers, got float32"):
        net().init(jax.random.key(0), np.zeros(3, np.float32), jnp.zeros(()))


@pytest.mark.parametrize("kind", ["int64", "int16"])
def test_tokens_of_other_dtypes_are_told_of_int32(kind):
    x = np.arange(40, dtype=np.int32).reshape(20, 2)
    assert data.arrays(x).train.gather(np.arange(3)).x.dtype == np.int32
    with pytest.raises(ValueError, match=rf"dtype {kind}, expected uint8 .* or int32 \(tokens from 0 on\): x.astype"):
        data.arrays(x.astype(kind))


def test_a_token_outside_the_vocabulary_is_refused_before_the_first_step():
    """Out-of-range reads clamp silently: the data is looked at, and the loss of such a token is nan."""
    x = np.full((40, 3), 3, np.int32)  # 3 is "hidden", no token
    with pytest.raises(ConfigError, match="has tokens from 3 to 3, expected 0 to 2: the vocabulary is 3"):
        runs.Trainer(methods.masked(net(), 3), data.arrays(x), optimizer=optax.sgd(1e-3), batch_size=4)
    parts = source.Arrays(x[:30] - 1), source.Arrays(x[30:])  # as a text whose last symbol occurs in its end alone
    with pytest.raises(ValueError, match="mine, held out, has tokens from 3 to 3, expected 0 to 2"):
        methods.masked(net(), 3).parts.check_examples(source.in_memory("mine", *parts, classes=None))
    params, batch = exact(A).init(None, None, None), Example(np.int32([[0, 3, 1]]), {}, {"t": np.float32([0.5])})
    losses = methods.masked(exact(A), 3).turns[0].losses
    value = jax.jit(lambda params: losses(params, jax.random.key(0), batch, jnp.zeros(1, jnp.int32), 1)[0])
    assert np.isnan(value(params)).all()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"length": 0}, "tokens: length is 0, expected an integer >= 1"),
        ({"vocabulary": 1}, "tokens: vocabulary is 1, expected an integer >= 2"),
        ({"held_out": 0}, "tokens: held_out is 0"),
        ({"length": 20}, "tokens: 20 places of 3 tokens are 3486784401 sequences, expected at most 100000"),
        ({"seed": -1}, "tokens: seed is -1, expected an integer from 0"),
    ],
)
def test_data_out_of_range_is_refused(options, match):
    with pytest.raises(ValueError, match=match):
        data.tokens(**options)


def test_categorical_of_tokens_that_cannot_be():
    """Probabilities, nats and frequencies, one token impossible."""
    n = 20_000

    @jax.jit
    def law_of(probs, tokens, key):
        law = Categorical(jnp.log(probs))
        return law.probs, law.log_prob(tokens), jax.vmap(law.sample)(jax.random.split(key, n))

    rows = np.float32([[0.2, 0.0, 0.8], [1.0, 0.0, 0.0]])
    probs, nats, drawn = jax.device_get(law_of(rows, np.int32([2, 0]), jax.random.key(0)))
    np.testing.assert_allclose(probs, rows, rtol=1e-6)
    np.testing.assert_allclose(nats, [np.log(0.8), 0.0], atol=1e-6)
    assert drawn.dtype == np.int32
    assert set(drawn[:, 0]) == {0, 2}
    assert set(drawn[:, 1]) == {0}
    assert abs(np.mean(drawn[:, 0] == 0) - 0.2) < 5 * np.sqrt(0.16 / n)
