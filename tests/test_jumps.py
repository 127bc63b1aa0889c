"""Tokens by jumps and guidance of rates: frozen generators, an enumerated race of places, and what walks draw."""

import functools
import itertools

import enumerated
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from diffjax import config, grids, methods, runs, samplers
from diffjax.denoisers import guidance
from diffjax.denoisers.categorical import Known, LeaveOneOut, Whole
from diffjax.processes import categorical as processes
from diffjax.samplers import categorical
from diffjax.schedules import Rectified
from diffjax.types import Categorical

B, OTHER = enumerated.unified_law(3, 2, 1, 0, 7), enumerated.unified_law(3, 2, 2, 1, 5)
STATES = np.array(list(itertools.product(range(4), repeat=2)), np.int32)
MASKED = processes.masked(Rectified(), 3)
law_of = jax.jit(categorical.jumps_law)
law_of_each = jax.jit(jax.vmap(categorical.jumps_law, (None, 0, 0, None)))


def laws(p):
    """The exact conditionals of p at every state, (16, 2, 3); a seen place is what it is."""
    rows = [[np.eye(4)[x[i], :3] if x[i] < 3 else enumerated.conditional(p, x, i) for i in range(2)] for x in STATES]
    return np.array(rows)


def branch(tables, given):
    """The denoiser of B where `given` is 0, of the other law where it is 1; logits are up to a constant."""
    with np.errstate(divide="ignore"):
        logits = jnp.asarray(np.log(tables) + np.array([0.3, -1.1])[:, None, None, None])[given]
    return Known(lambda x, c: logits[4 * x[0] + x[1]], MASKED, Whole())


def guided(w, make=guidance.rates):
    """The denoiser of B against the other law."""
    return make(functools.partial(branch, np.stack([laws(B), laws(OTHER)])), jnp.int32(0), jnp.int32(1), w)


@jax.jit
def log_rates(w):
    """Of every state, (16, 2, 3)."""
    denoise = guided(w)
    return jax.vmap(lambda x: denoise.log_rates(x, 0.6))(STATES)


def rates(w):
    """By NumPy: p_B^w p_other^(1 - w), at every state, (16, 2, 3)."""
    cond, other = laws(B), laws(OTHER)
    return np.where(cond > 0, np.where(cond > 0, cond, 1) ** w * np.where(other > 0, other, 1) ** (1 - w), 0)


def places(rates, keep):
    """By NumPy: the law of each place after a step, (4, 4, 2, 4): open with 1 - keep^Z, to v as R(v) / Z."""
    total = rates.sum(-1, keepdims=True)
    stays = np.where(STATES[..., None] == 3, keep**total, 0)
    return np.concatenate([(1 - stays) * rates / total, stays], -1).reshape(4, 4, 2, 4)


def walked(rates, keeps):
    """By NumPy: the law of what the walk draws from all hidden, (3, 3)."""
    law = np.zeros((4, 4))
    law[3, 3] = 1
    for keep in keeps:
        law = enumerated.stepped(law, places(rates, keep))
    return law[:3, :3]


@pytest.mark.parametrize("w", [0.0, 0.5, 2.0, 4.0])
def test_guided_rates_open_by_their_total_and_show_what_guided_logits_show(x64, w):
    found = np.asarray(law_of_each(MASKED, STATES, log_rates(w), 0.4))
    expected = places(rates(w), 0.4).reshape(16, 2, 4)
    np.testing.assert_allclose(found, expected, atol=2e-15)
    hidden = STATES == 3
    np.testing.assert_array_equal(found[~hidden], np.eye(4)[STATES[~hidden]])
    logits = guided(w, guidance.classifier_free)
    shown = np.asarray(jax.jit(jax.vmap(lambda x: logits(x, 0.6).probs))(STATES))
    opened = found[..., :3] / found[..., :3].sum(-1, keepdims=True)
    np.testing.assert_allclose(opened[hidden], shown[hidden], rtol=1e-13)
    opening = 1 - found[..., 3][hidden]
    if w == 0:
        np.testing.assert_allclose(opening, 0.6, atol=1e-15)
    else:  # sooner where the two laws differ, if w is above 1; later below
        assert np.ptp(opening) > 0.01
        assert np.all(opening > 0.6) if w > 1 else np.all(opening < 0.6)


def test_total_rates_by_hand(x64):
    """Both places hidden, w = 2: the first has the laws (8, 11, 5) / 24 in B and (6, 5, 7) / 18 in the other."""
    first = (8 / 24) ** 2 / (6 / 18) + (11 / 24) ** 2 / (5 / 18) + (5 / 24) ** 2 / (7 / 18)
    np.testing.assert_allclose(np.exp(log_rates(2.0))[15, 0].sum(), first, rtol=1e-14)
    np.testing.assert_allclose(np.exp(log_rates(2.0))[15].sum(-1), [1.201190, 1.446429], atol=1e-6)


def test_at_one_guidance_is_off_and_at_zero_unconditional(x64):
    assert isinstance(guided(1.0), Known)
    off = jax.jit(lambda: jax.nn.log_softmax(jax.vmap(lambda x: guided(1.0)(x, 0.6).logits)(STATES), axis=-1))
    np.testing.assert_array_equal(log_rates(jnp.float64(1.0)), off())  # traced, to the bit
    np.testing.assert_allclose(np.exp(log_rates(0.0)), laws(OTHER), atol=1e-15)


def test_step_is_the_exponential_of_frozen_rates(x64):
    """Any state becomes v at the rate R(v): expm of the generator over log(1 / k), masks and tokens beside them."""
    process, k = processes.mixed(Rectified(), 3), 0.37
    log = np.random.default_rng(0).normal(size=(4, 3))
    found = law_of(process, np.arange(4), log, k)
    for x in range(4):
        generator = np.append(np.exp(log[x]), 0) - np.exp(log[x]).sum() * np.eye(4)
        np.testing.assert_allclose(found[x], scipy.linalg.expm(-np.log(k) * generator)[x], atol=1e-14)


@pytest.mark.parametrize(
    ("process", "prices"),
    [
        (MASKED, {1: 0.104733, 2: 0.035059, 3: 0.017574, 6: 0.005060, 12: 0.001374}),
        (processes.uniform(Rectified(), 3), {2: 0.060933, 6: 0.010271, 12: 0.002729}),
    ],
    ids=["masked", "uniform"],
)
def test_unguided_jumps_are_the_mixture_and_near_data_as_steps_grow(x64, process, prices):
    """KL(A | law of samples), of three places."""
    p, K = enumerated.unified_law(3, 3, 1, 0, 7), process.states
    xs, pi = np.array(list(np.ndindex((K,) * 3))), np.asarray(process.pi)
    for N, price in prices.items():
        ts = np.linspace(1, 0, N + 1)
        rows = categorical.jumps(process).plan(ts)
        law = enumerated.noised(p, enumerated.replacement(0.0, pi, 3))
        for t, keep in zip(*rows):
            known = enumerated.known(p, enumerated.replacement(1 - t, pi, 3)).reshape(-1, 3, 3)
            with np.errstate(divide="ignore"):
                found = law_of_each(process, xs, np.log(known), keep)
            law = enumerated.stepped(law, np.asarray(found).reshape(*law.shape, 3, K))
        law = law[:3, :3, :3]
        assert round(enumerated.kl(p, law), 6) == price
        np.testing.assert_allclose(law, enumerated.mixture_walk(p, pi, 1 - ts), atol=1e-14)


def test_guided_walks_tend_to_a_race_of_places(x64):
    """In continuous time the place i opens first with Z_i / (Z_1 + Z_2), then the other: no order has this law."""
    R = np.exp(np.asarray(log_rates(2.0)))
    Z = R.sum(-1)
    shown = R / Z[..., None]

    def raced(first):
        return first * np.array([[shown[15, 0, a] * shown[4 * a + 3, 1, b] for b in range(3)] for a in range(3)]) + (
            1 - first
        ) * np.array([[shown[15, 1, b] * shown[12 + b, 0, a] for b in range(3)] for a in range(3)])

    limit = raced(Z[15, 0] / Z[15].sum())
    errors = []
    for N in (1, 4, 16, 64):
        _, keeps = categorical.jumps(MASKED).plan(np.linspace(1, 0, N + 1))
        errors.append(enumerated.total_variation(walked(R, keeps), limit))
    np.testing.assert_allclose(errors, [0.143878, 0.036859, 0.009214, 0.002302], atol=5e-7)
    assert enumerated.total_variation(limit, raced(0.5)) == pytest.approx(0.006049, abs=1e-6)  # guided logits, evenly


def test_guided_walks_draw_the_enumerated_law():
    n, ts = 40_000, np.array([1.0, 0.7, 0.3, 0.0])
    walk, R = samplers.sampling_fn(categorical.jumps(MASKED), ts), rates(4.0)

    @jax.jit
    def draw(key):
        denoise, prior = guided(4.0), jnp.full(2, 3)
        return jax.vmap(lambda key: walk(denoise, key, prior))(jax.random.split(key, n))

    x = np.asarray(draw(jax.random.key(0)))
    found = np.bincount(np.ravel_multi_index(x.T, (3, 3)), minlength=9).reshape(3, 3) / n
    by_rates, by_logits = (walked(r, ts[1:] / ts[:-1]) for r in (R, R / R.sum(-1, keepdims=True)))
    floor = 0.5 * np.sum(np.sqrt(2 * by_rates * (1 - by_rates) / (np.pi * n)))
    assert enumerated.total_variation(found, by_rates) < 1.8 * floor
    assert enumerated.total_variation(found, by_logits) > 3 * floor


def test_total_rates_out_of_range_open_or_keep():
    """In float32: a rate that overflows opens, one that vanishes keeps, and the step to data leaves nothing hidden."""
    x, base = jnp.full(2, 3), jnp.log(jnp.asarray([0.2, 0.3, 0.5]))
    log = jnp.stack([base + 200, base - 200])
    np.testing.assert_allclose(law_of(MASKED, x, log, 0.4), [[0.2, 0.3, 0.5, 0], [0, 0, 0, 1]], rtol=2e-5)
    np.testing.assert_allclose(law_of(MASKED, x, log, 0.0), [[0.2, 0.3, 0.5, 0]] * 2, rtol=2e-5)
    np.testing.assert_allclose(law_of(MASKED, x, log, 1.0), [[0, 0, 0, 1]] * 2)


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="The flow of jumps needs a pi that does not move, but Moving has none"):
        categorical.jumps(processes.gidd(Rectified(), 3))
    with pytest.raises(ValueError, match="guidance scale w is inf"):
        guided(np.inf)
    with pytest.raises(ValueError, match="needs a network that was trained without its condition"):
        guidance.rates(functools.partial(branch, None), {}, guidance.Unhidden(), 2.0)
    others = categorical.mixture, categorical.markov, samplers.decoding.random, samplers.unified
    for make in others:
        walk = samplers.sampling_fn(make(MASKED), np.array([1.0, 0.5, 0.0]))
        with pytest.raises(ValueError, match=r"categorical\.jumps alone walks by .*classifier_free"):
            jax.eval_shape(lambda key, walk=walk: walk(guided(2.0), key, jnp.full(2, 3)), jax.random.key(0))


def test_a_config_names_both():
    parts = dict(
        network={"name": "TokenMLP", "vocabulary": 3, "classes": 2, "width": 8, "depth": 1},
        process=MASKED,
        target={"name": "categorical.Whole"},
        condition=methods.Condition({"label": 2}, 0.1),
        grid=functools.partial(grids.uniform, n=3, t_min=0.0),
        guidance=config.spec("rates", w=2.0),
    )
    method = runs.assemble("discrete", sampler=config.spec("categorical.jumps"), **parts)
    draw = lambda method: method.draw(
        method.init(jax.random.key(0), methods.Example(np.zeros(2, np.int32), {"label": np.int32(0)})),
        method.plan((2,)),
        jax.random.key(1),
        {"label": np.int32(0)},
    )
    assert jax.eval_shape(lambda: draw(method)).shape == (2,)
    with pytest.raises(ValueError, match=r"sampler\.name=categorical\.jumps"):
        jax.eval_shape(lambda: draw(runs.assemble("discrete", sampler=config.spec("categorical.mixture"), **parts)))


def test_markovs_walk_reads_guided_laws_without_a_place(x64):
    """The guided whole law's leave-one-out law is the guided leave-one-out law, of either kind of guidance."""
    process = processes.uniform(Rectified(), 3)
    tables = jnp.asarray(np.log(np.stack([B.reshape(3, 3), OTHER.reshape(3, 3)]) + 0.1))
    known = lambda given: Known(lambda x, c: tables[given][x], process, LeaveOneOut())
    x, t = jnp.int32([2, 0]), 0.4
    for denoise in (
        guidance.classifier_free(known, jnp.int32(0), jnp.int32(1), 2.5),
        guidance.extrapolated(known(0), known(1), 2.5),
    ):
        whole, chance = denoise(x, t).probs, process.likelihood(x, t)
        np.testing.assert_allclose(denoise.without(x, t).probs, (whole / chance) / (whole / chance).sum(-1)[:, None])


def test_a_token_that_one_law_excludes_does_not_feel_the_constants_of_logits(x64):
    mine, others = np.log([0.2, 0.3, 0.5]), np.append(np.log([0.6, 0.4]), -np.inf)
    expected = np.array([0.2**2 / 0.6, 0.3**2 / 0.4, 0.5])  # w = 2; of the last there is the conditional law alone
    combine = lambda a, b: guidance.combine(a, b, 2.0)
    for shift in (0.0, 3.0, -7.0):
        found = Categorical(jnp.asarray(mine)).combined(Categorical(jnp.asarray(others + shift)), combine)
        np.testing.assert_allclose(found.probs, expected / expected.sum(), rtol=1e-12)
