"""Numbers of a function as its arguments: equal values, one program for all numbers, and what stays as it is."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffjax import constants, parallel, training
from diffjax.ema import warm_up

X = np.linspace(-2, 2, 5, dtype=np.float32)


def parts(rate, beta=0.9):
    """A function with all that a step has: branches, loops, calls, gradients, derivatives of its own, tables."""
    table = jnp.asarray([rate, 3.0 * rate], jnp.float32)

    @jax.jit
    def called(x):
        return jnp.tanh(x) * 1.7

    def value(x):
        y = jax.nn.relu(called(x)) + jax.nn.logsumexp(rate * x) + table[1]
        y = jax.lax.cond(y.sum() > 0.3, lambda y: y * 1.5, lambda y: y / 1.5, y * beta)
        y, _ = jax.lax.scan(lambda y, i: (y * 1.1 + i, None), y, jnp.arange(3.0))
        return (beta**y).sum()

    return lambda x: {"slope": jax.grad(value)(x), "value": value(x)}


def text(function, *args):
    lifted, numbers = constants.lift(function, *args)
    return jax.jit(lifted).lower(numbers, *args).as_text()


@pytest.mark.parametrize("rate", [0.003, 1.0, -np.inf])
def test_a_lifted_function_has_the_values_of_its_own(rate):
    lifted, numbers = constants.lift(parts(rate), X)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), jax.jit(lifted)(numbers, X), jax.jit(parts(rate))(X)
    )


def test_numbers_given_to_it_stand_for_its_own():
    lifted, _ = constants.lift(parts(0.003), X)
    _, others = constants.lift(parts(0.7, 0.8), X)
    np.testing.assert_allclose(lifted(others, X)["value"], parts(0.7, 0.8)(X)["value"], rtol=1e-6)


def test_functions_that_differ_in_numbers_have_one_program():
    """Those inside what is called by jit are its own, and so are the few by which a compiler simplifies."""
    assert text(parts(0.003), X) == text(parts(0.7, 0.8), X)
    assert text(lambda x: x * 0.3, X) == text(lambda x: x * 0.4, X)
    assert text(lambda x: x * 0.3, X) != text(lambda x: x + 0.3, X)
    assert text(lambda x: x * 0.3, X) != text(lambda x: x * 1.0, X)

    def two(a, b):
        def both(x):
            y = x * a
            return y + b

        return both

    assert text(two(0.3, 0.4), X) == text(two(0.3, 0.3), X)  # equal by chance


def test_numbers_are_floats_and_arrays():
    table = np.arange(3.0, dtype=np.float32)
    _, numbers = constants.lift(lambda x: (x[:3] + table) * 0.3 + 7 + x[1] * 0.3, X)
    assert sorted(map(float, (n for n in numbers if np.ndim(n) == 0))) == pytest.approx([0.3, 7.0])
    assert [np.shape(n) for n in numbers if np.ndim(n)] in ([(3,)], [])  # of some versions a literal
    lifted, numbers = constants.lift(lambda x: (x + 0.3, 0.3, 0.7), X)  # given back as they are
    assert len(numbers) == 3
    assert [float(value) for value in lifted(numbers, X)[1:]] == pytest.approx([0.3, 0.7])
    _, numbers = constants.lift(lambda i: i + 7, np.int32(1))
    assert numbers == []


def steps_of(rate, b1, weight):
    loss = lambda params, key, x, place: (weight * (params["w"] * x - 1.0) ** 2).sum()
    method = training.loss_method(lambda params, key, batch, *rest: (loss(params, key, batch, rest), {}))
    optimizer, emas = optax.adam(optax.exponential_decay(rate, 7, 0.3), b1=b1), warm_up((0.9,))
    state = training.init_state({"w": jnp.float32(0.5)}, optimizer, emas, jax.random.key(0))
    return training.make_steps(training.make_step(method, optimizer, emas)), state


def test_a_compiled_step_takes_rates_and_weights_as_arguments():
    """One text for all of them, and each trains as the step with the numbers compiled in, to the bit."""
    x, texts = np.ones((1, 8), np.float32), []
    for numbers in ((0.03, 0.9, 0.3), (0.2, 0.7, 0.11)):
        steps, state = steps_of(*numbers)
        lifted, numbers = steps.lift(state, x)
        texts.append(jax.jit(lifted).lower(numbers, state, x).as_text())
        plain, ours = jax.jit(steps), parallel.compile_step(steps, mesh=parallel.mesh(data=1), leading=1, donate=False)
        a, b = state, state
        for _ in range(3):
            a, b = plain(a, x)[0], ours(b, x)[0]
        assert a.params["w"] == b.params["w"] != state.params["w"]
        assert next(iter(a.ema.averages.values()))["w"] == next(iter(b.ema.averages.values()))["w"]
    assert texts[0] == texts[1]
