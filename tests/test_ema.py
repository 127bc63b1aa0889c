import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax import ema


def run(rule, trajectory):
    state = rule.init(trajectory[0])
    for params in trajectory[1:]:
        state = rule.update(state, params)
    return state


def weights(decay, n):
    """What each of p_0 .. p_n weighs after n updates: each update scales all the past by its decay."""
    decays = [min(decay, (1 + k) / (10 + k)) for k in range(n)]
    own = [1.0, *(1 - d for d in decays)]
    return np.array([own[k] * np.prod(decays[k:]) for k in range(n + 1)])


@pytest.mark.parametrize("decay", [0.0, 0.05, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("n", [0, 1, 7, 60])
def test_average_is_the_explicit_weighted_sum(x64, decay, n):
    trajectory = np.random.default_rng(0).normal(size=(n + 1, 3))
    w = weights(decay, n)
    assert np.isclose(w.sum(), 1, atol=1e-14)  # a weighted mean at every moment: no debiasing
    state = run(ema.warm_up([decay]), [{"w": jnp.asarray(p)} for p in trajectory])
    np.testing.assert_allclose(state.averages[str(decay)]["w"], w @ trajectory, rtol=0, atol=1e-14)
    assert int(state.count) == n


def test_constant_parameters_stay_to_the_last_bit():
    params = {"w": jnp.float32([0.1, -3.7, 1e-8])}
    state = run(ema.warm_up([0.9, 0.9999]), [params] * 50)
    for name in ("0.9", "0.9999"):
        np.testing.assert_array_equal(state.averages[name]["w"], params["w"])


def test_several_decays_are_each_their_own():
    trajectory = [jnp.float32(p) for p in np.random.default_rng(1).normal(size=40)]
    together = run(ema.warm_up([0.5, 0.8, 0.99]), trajectory)
    for decay in (0.5, 0.8, 0.99):
        alone = run(ema.warm_up([decay]), trajectory)
        np.testing.assert_array_equal(together.averages[str(decay)], alone.averages[str(decay)])


@pytest.mark.parametrize(("count", "expected"), [(0, 1 / 10), (1, 2 / 11), (80, 81 / 90), (81, 0.9), (10**6, 0.9)])
def test_decay_at(count, expected):
    rule = ema.warm_up([0.9])
    state = rule.init(jnp.zeros(2))._replace(count=jnp.int32(count))
    np.testing.assert_allclose(rule.decays(state)["0.9"], expected, rtol=1e-6)


def test_long_decays_move_as_much_as_they_should():
    rule = ema.warm_up([0.9999])
    state = rule.init(jnp.float32(0))._replace(count=jnp.int32(10**7))
    np.testing.assert_allclose(rule.update(state, jnp.float32(1)).averages["0.9999"], 1e-4, rtol=1e-6)


def test_averages_are_float32_and_own_their_buffers():
    params = {"half": jnp.ones(3, jnp.bfloat16), "full": jnp.ones(3, jnp.float32)}
    rule = ema.warm_up([0.999, 0.9999])
    for init in (rule.init, jax.jit(rule.init)):
        state = init(params)
        leaves = jax.tree.leaves(state.averages)
        assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float32")}
        pointers = [leaf.unsafe_buffer_pointer() for leaf in [*leaves, params["full"]]]
        assert len(set(pointers)) == len(pointers)
    moved = rule.update(state, jax.tree.map(lambda p: p * 2, params)).averages["0.999"]["half"]
    np.testing.assert_allclose(moved, 1.9, rtol=1e-6)
    assert moved.dtype == jnp.float32


def test_no_decays_no_averages():
    assert ema.warm_up([]).init(jnp.ones(2)).averages == {}


@pytest.mark.parametrize("decays", [[1.0], [-0.1], [0.9, 1.5], [float("nan")]])
def test_refuses_decays_out_of_range(decays):
    with pytest.raises(ValueError, match=r"expected numbers in \[0, 1\)"):
        ema.warm_up(decays)


def test_refuses_the_same_decay_twice():
    with pytest.raises(ValueError, match="each of them once"):
        ema.warm_up([0.9, 0.90])


def half_life_decays(half_life, ramp, n):
    """2^(-1 / h) with h = min(half-life, ramp x updates so far), 0 at the start (Karras et al. 2022)."""
    lives = [half_life if ramp is None else min(half_life, ramp * k) for k in range(n)]
    return [2 ** (-1 / h) if h else 0.0 for h in lives]


@pytest.mark.parametrize(("half_life", "ramp"), [(3.0, 0.05), (3.0, None), (50.0, 0.5), (976.5625, 0.05)])
@pytest.mark.parametrize("n", [0, 1, 2, 80])
def test_half_life_is_the_explicit_weighted_sum(x64, half_life, ramp, n):
    trajectory = np.random.default_rng(0).normal(size=(n + 1, 3))
    decays = half_life_decays(half_life, ramp, n)
    own = [1.0, *(1 - d for d in decays)]
    w = np.array([own[k] * np.prod(decays[k:]) for k in range(n + 1)])
    rule = ema.half_life(half_life, ramp)
    state = run(rule, [jnp.asarray(p) for p in trajectory])
    np.testing.assert_allclose(state.averages["half_life"], w @ trajectory, rtol=0, atol=1e-13)
    expected = half_life_decays(half_life, ramp, n + 1)[-1]
    np.testing.assert_allclose(rule.decays(state)["half_life"], expected, rtol=1e-13)


def test_half_life_halves():
    """Past the ramp, what an average knew weighs half after that many updates."""
    rule = ema.half_life(20.0)
    state = rule.init(jnp.float32(1))._replace(count=jnp.int32(400))
    for _ in range(20):
        state = rule.update(state, jnp.float32(0))
    np.testing.assert_allclose(state.averages["half_life"], 0.5, rtol=1e-6)


@pytest.mark.parametrize(
    ("updates", "ramp", "match"), [(0.0, 0.05, "updates = 0"), (-3.0, None, "updates"), (5.0, 0.0, "ramp = 0")]
)
def test_refuses_half_lives_out_of_range(updates, ramp, match):
    with pytest.raises(ValueError, match=match):
        ema.half_life(updates, ramp)
