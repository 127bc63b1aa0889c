"""The ground: checks of what was given, names that are nearest, padded evaluation, functions as pytrees."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax import host
from diffjax.calculus import amplitudes
from diffjax.schedules import Tabulated
from diffjax.types import as_pytree


@pytest.mark.parametrize(
    ("value", "least", "expected"),
    [(3, None, True), (np.int64(3), 3, True), (2, 3, False), (True, 0, False), (3.0, 0, False), ("3", 0, False)],
)
def test_is_int_takes_integers_alone(value, least, expected):
    assert host.is_int(value, least) is expected


def test_checks_say_what_was_got_and_what_was_expected():
    assert host.check_int("n", np.int32(4), 2) == 4
    assert host.check_order(2, (1, 2, 3)) == 2
    host.check_positive("rho", 7)
    jax.jit(lambda rho: host.check_positive("rho", rho))(-1.0)  # traced: not looked at
    for call, message in (
        (lambda: host.check_int("n", 1, 2), "n is 1, expected an integer >= 2."),
        (lambda: host.check_order(4, (1, 2, 3)), "The order is 4, expected 1, 2 or 3."),
        (
            lambda: host.check_order(True, (2, 3), "The order of DPM-Solver"),
            "The order of DPM-Solver is True, expected 2 or 3.",
        ),
        (
            lambda: host.check_positive("rho", 0.0, " (published: 7)"),
            "rho is 0.0, expected a positive number (published: 7).",
        ),
        (lambda: host.check_positive("rho", np.inf), "rho is inf, expected a positive number."),
    ):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            call()


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("dim", {"ancestral.ddim", "heun.edm"}, "nearest is 'ancestral.ddim'; it has ancestral.ddim, heun.edm"),
        ("stpes", ["width", "steps"], "nearest is 'steps'; it has steps, width"),
        ("", ["b", "a"], "it has a, b"),
        ("x", [], "it has none"),
        (["steps"], ["steps", "width"], "nearest is 'steps'; it has steps, width"),  # no text
        ("7a", [f"{i:03}" for i in range(201)], "it has 201, such as " + ", ".join(f"{i:03}" for i in range(12))),
        ("b", [f"{i:03}" for i in range(200)], "it has " + ", ".join(f"{i:03}" for i in range(200))),
    ],
)
def test_nearest_names_what_was_meant(name, options, expected):
    assert host.nearest(name, options) == expected


@pytest.mark.parametrize("n", [0, 1, 63, 64, 65, 200])
def test_along_is_the_function_at_each_time(n):
    ts = np.linspace(0.1, 2.0, n)
    line, square = host.along(lambda slope, t: (slope * t, t**2), 3.0, ts)
    assert line.dtype == square.dtype == np.float64
    np.testing.assert_array_equal(line, 3.0 * ts)
    np.testing.assert_array_equal(square, ts * ts)


def test_along_inside_a_trace_of_32_bits_is_of_64():
    """Before and after it was compiled outside of one, with a leaf of NumPy's and a plain number."""
    schedule, ts = Tabulated.linear(100), np.asarray([0.205, 0.753])
    k = 100 * ts
    low = np.floor(k).astype(int)
    table = schedule.log_alpha
    log_alpha = table[low] + (k - low) * (table[low + 1] - table[low])
    found = []
    inside = lambda: jax.eval_shape(lambda x: found.append(amplitudes(schedule, ts)) or x, 1.0)
    for look in (inside, lambda: found.append(amplitudes(schedule, ts)), inside):
        look()
    assert len(found) == 3
    for alpha, sigma in found:
        assert alpha.dtype == sigma.dtype == np.float64
        np.testing.assert_allclose(alpha, np.exp(log_alpha), rtol=1e-14)
        np.testing.assert_allclose(sigma, np.sqrt(-np.expm1(2 * log_alpha)), rtol=1e-14)


def test_a_function_is_an_argument_of_jit_and_a_pytree_stays_itself():
    def plain(x):
        return 2 * x

    assert jax.jit(lambda f, x: f(x))(as_pytree(plain), 3.0) == 6.0
    partial = jax.tree_util.Partial(jnp.multiply, jnp.asarray(5.0))
    assert as_pytree(partial) is partial
    with pytest.raises(TypeError):
        jax.jit(lambda f, x: f(x))(plain, 3.0)
