"""Walks of tokens that are destroyed place by place, against enumerated laws, and what they cost."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from enumerated import kl, known, markov_walk, mixture_walk, noised, replacement, total_variation
from token_table import PROCESSES, A, B, each, states

from diffjax import grids, samplers
from diffjax.denoisers.categorical import Known, LeaveOneOut, Whole
from diffjax.schedules import Rectified


def test_price_of_steps(x64):
    """KL(A | law of samples) of exact models, as measured independently: masks, uniform, Markov, and the wrong plug."""
    mask, flat = np.array([0, 0, 0, 1.0]), np.full(3, 1 / 3)
    price = lambda walk, N, pi, *options: round(kl(A, walk(A, pi, np.linspace(0, 1, N + 1), *options)), 6)
    assert [price(mixture_walk, N, mask) for N in (1, 2, 3, 6, 12)] == [
        0.104733,
        0.035059,
        0.017574,
        0.005060,
        0.001374,
    ]
    assert price(mixture_walk, 12, mask, 1.0) == 0.004363
    assert [price(mixture_walk, N, flat) for N in (2, 6, 12)] == [0.060933, 0.010271, 0.002729]
    assert [price(markov_walk, N, flat) for N in (2, 6, 12)] == [0.060933, 0.011078, 0.003027]
    assert [round(price(markov_walk, N, flat, False), 4) for N in (6, 12)] == [0.0611, 0.0602]
    two = [kl(A, mixture_walk(A, mask, [0, 0.5, 1], share)) for share in (0.0, 0.5, 1.0)]
    np.testing.assert_allclose(two, 0.0350595, atol=5e-8)


def test_rows_of_mixtures(x64):
    """Planned in float64: ReMDM's unmasking, sums of 1, the way to data, and what leaves the simplex."""
    process, share = PROCESSES["masked"](3), 0.3
    row = samplers.categorical.mixture(process, share).plan(np.array([0.7, 0.4]))
    alpha_t, alpha_s = 0.3, 0.6
    remasked = share * (1 - alpha_s)
    unmasking = (alpha_s - (1 - remasked) * alpha_t) / (1 - alpha_t)
    np.testing.assert_allclose(row.x0, unmasking, atol=1e-15)
    np.testing.assert_allclose(row.keep + row.noise, 1 - unmasking, atol=1e-15)
    rows = samplers.categorical.mixture(process, 0.5).plan(grids.uniform(Rectified(), 5, t_min=0.0))
    np.testing.assert_allclose(rows.keep + rows.x0 + rows.noise, 1, atol=1e-15)
    assert (rows.keep[-1], rows.x0[-1], rows.noise[-1]) == (0, 1, 0)  # no token is hidden in a sample
    # ReMDM's larger remasking: as often as min(1, (1 - alpha_s) / alpha_t) allows, at 1 - alpha_s = 0.4, alpha_t = 0.3
    most = samplers.categorical.mixture(process, min(1, 0.4 / 0.3) / 0.4).plan(np.array([0.7, 0.4]))
    np.testing.assert_allclose(most.noise, 1, atol=1e-12)
    with pytest.raises(
        ValueError, match=r"has a probability of -0.02 that a seen one stays seen; expected a share nearer"
    ):
        samplers.categorical.mixture(process, 2.55).plan(np.array([0.7, 0.4]))
    with pytest.raises(ValueError, match=r"has a probability of -.* that a hidden token stays hidden"):
        samplers.categorical.mixture(process, 2.0).plan(np.array([0.3, 0.2]))


@functools.cache
def exact(name, which):
    """A network that knows p_t of B under this process by enumeration, traced: (process, net)."""
    process = PROCESSES[name](3)

    def net(x, c):
        t = jax.nn.sigmoid(-c)  # c is log(alpha / (1 - alpha))
        Q = process.spread(jnp.eye(3), t)
        places = [Q[:, x[i]] for i in range(2)]
        if which == "loo":
            laws = [jnp.asarray(B) @ places[1], places[0] @ jnp.asarray(B)]
        else:
            laws = [(jnp.asarray(B) @ places[1]) * places[0], (places[0] @ jnp.asarray(B)) * places[1]]
        return jnp.log(jnp.stack(laws))

    return process, net


@pytest.mark.parametrize(
    ("make", "target", "which"),
    [
        (samplers.categorical.mixture, Whole(), "whole"),
        pytest.param(
            functools.partial(samplers.categorical.mixture, share=0.5), LeaveOneOut(), "loo", marks=pytest.mark.slow
        ),
        (samplers.categorical.markov, LeaveOneOut(), "loo"),
        pytest.param(
            functools.partial(samplers.categorical.markov, estimate="posterior"),
            Whole(),
            "whole",
            marks=pytest.mark.slow,
        ),
        pytest.param(functools.partial(samplers.unified, share=0.5), Whole(), "whole", marks=pytest.mark.slow),
    ],
    ids=["mixture", "share", "markov", "posterior", "unified"],
)
def test_walks_draw_the_enumerated_laws(make, target, which):
    """Uniform replacement in three steps, walked by `sampling_fn`: frequencies of all sequences."""
    (process, net), n = exact("uniform", which), 40_000
    ts, flat = grids.uniform(Rectified(), 3, t_min=0.0), np.full(3, 1 / 3)
    walk = samplers.sampling_fn(make(process), ts)
    options = getattr(make, "keywords", {})
    if "estimate" in options or make is samplers.categorical.markov:
        expected = markov_walk(B, flat, 1 - ts, options.get("estimate") != "posterior")
    else:
        expected = mixture_walk(B, flat, 1 - ts, options.get("share", 0.0))

    def draw(key):
        key_prior, key_walk = jax.random.split(key)
        return walk(Known(net, process, target), key_walk, process.prior(key_prior, (2,)))

    x = np.asarray(jax.jit(lambda key: jax.vmap(draw)(jax.random.split(key, n)))(jax.random.key(0)))
    assert x.dtype == np.int32
    found = np.bincount(np.ravel_multi_index(x.T, (3, 3)), minlength=9) / n
    floor = 0.5 * np.sum(np.sqrt(2 * expected * (1 - expected) / (np.pi * n)))
    assert total_variation(found, expected.ravel()) < 1.8 * floor
    if "posterior" in options.values():
        assert total_variation(found, markov_walk(B, flat, 1 - ts).ravel()) > 3 * floor  # the wrong plug is seen


def test_flows_carry_the_marginals(x64):
    """d p_alpha / d alpha is inflow less outflow: the flow's rates by the posterior, the reversed chain's by loo."""
    alpha, h = 0.37, 1e-5
    for name in ("masked", "uniform"):
        pi = np.asarray(PROCESSES[name](3).pi)
        slope = (noised(A, replacement(alpha + h, pi, 3)) - noised(A, replacement(alpha - h, pi, 3))) / (2 * h)
        Q = replacement(alpha, pi, 3)
        p_t, whole, process = noised(A, Q), known(A, Q), PROCESSES[name](3)
        xs = states(process, 3)
        rows = np.log(np.maximum(known(A, Q, without=True), 1e-300)).reshape(-1, 3, 3)
        of = lambda row, process=process: Known(lambda x, c: row, process, LeaveOneOut())
        both = lambda x, row, rates=process.rates: (jnp.exp(of(row).log_score(x, 1 - alpha)), rates(x, 1 - alpha))  # noqa: B023
        scores, rates = jax.device_get(jax.jit(jax.vmap(both))(xs, rows))
        moved = {"flow": np.zeros_like(p_t), "chain": np.zeros_like(p_t)}
        for n, x in enumerate(map(tuple, xs)):
            for place, v in itertools.product(range(3), range(process.states)):
                y = (*x[:place], v, *x[place + 1 :])
                if v == x[place]:
                    continue
                flow = p_t[x] * (whole[x][place, v] if v < 3 else 0.0) / (1 - alpha)
                chain = p_t[x] * rates[n, place, v] * scores[n, place, v] if rates[n, place, v] else 0.0
                for kind, amount in (("flow", flow), ("chain", chain)):
                    moved[kind][x] -= amount
                    moved[kind][y] += amount
        np.testing.assert_allclose(moved["flow"], slope, atol=1e-9)
        np.testing.assert_allclose(moved["chain"], slope, atol=1e-9)


# What walks cost

WALKS = {
    "mixture": (samplers.categorical.mixture, "uniform", Whole()),
    "markov": (samplers.categorical.markov, "uniform", LeaveOneOut()),
    "random": (samplers.decoding.random, "masked", Whole()),
}


def linear(weights, x, c):
    """A network of tokens whose layers are matrices."""
    h = weights[0][x] + jnp.tanh(c)
    for weight in weights[1:]:
        h = h @ weight
    return h


def of_weights(weights, name, target):
    return Known(functools.partial(linear, weights), PROCESSES[name](weights[-1].shape[-1]), target)


@pytest.mark.parametrize(("make", "name", "target"), WALKS.values(), ids=WALKS)
def test_flops_are_those_of_the_evaluations(make, name, target):
    """One evaluation a row, and at most 1.005 of its FLOPs."""
    width, length, V = 512, 64, 16
    weights = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((V + 1, width), *[(width, width)] * 4, (width, V))]
    sampler, x = make(PROCESSES[name](V)), jax.ShapeDtypeStruct((length,), jnp.int32)
    row = jax.tree.map(lambda leaf: jnp.asarray(leaf[1]), sampler.plan(grids.uniform(Rectified(), length, t_min=0.0)))
    flops = lambda f, *args: jax.jit(f).lower(*args).compile().cost_analysis()["flops"]
    step = lambda weights, key, x: sampler.step(of_weights(weights, name, target), key, x, row)
    one = flops(lambda weights, x: linear(weights, x, 0.5), weights, x)
    assert one > 4 * 2 * length * width**2
    assert flops(step, weights, jax.random.key(0), x) <= 1.005 * one


@pytest.mark.parametrize("walk", each(WALKS, {"markov", "random"}))
def test_a_walk_is_one_program_for_grids_of_one_length_and_of_one_example(walk):
    make, name, target = WALKS[walk]
    rng = np.random.default_rng(0)
    weights = [rng.normal(size=shape).astype(np.float32) for shape in ((4, 8), (8, 3))]
    process, keys = PROCESSES[name](3), jax.random.split(jax.random.key(0), 5)

    @jax.jit
    def run(sample, weights, keys):
        draw = lambda key: sample(of_weights(weights, name, target), key, process.prior(key, (4,)))
        return jax.vmap(draw)(keys), draw(keys[2])

    even = grids.uniform(Rectified(), 4, t_min=0.0)
    for ts in (even, even**2):
        batch, one = jax.device_get(run(samplers.sampling_fn(make(process), ts), weights, keys))
        np.testing.assert_array_equal(batch[2], one)
        assert batch.min() >= 0
        assert batch.max() < 3
        assert len(np.unique(batch, axis=0)) > 1
    assert run._cache_size() == 1
