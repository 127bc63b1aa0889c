"""Decoding of hidden tokens: which rules draw the data's law, and what the others cost, by enumeration."""

import dataclasses
import itertools

import enumerated
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import decoding as oracle
from test_edits import assert_drawn_from, keys

from diffjax import grids, samplers, schedules
from diffjax.denoisers import guidance, joint
from diffjax.likelihood import blocks
from diffjax.processes import categorical
from diffjax.samplers import decoding
from diffjax.types import Array, Categorical, pytree

A = enumerated.unified_law(3, 3, 1, 0, 7)
B = enumerated.unified_law(3, 2, 1, 0, 7)
C = enumerated.unified_law(2, 4, 1, 1, 7)
UNTIED = enumerated.unified_law(2, 3, 2, 1, 97)  # no two conditionals of it are equal
MASKED = categorical.masked(schedules.Rectified(), 2)


@pytree
class Table:
    """A denoiser that looks up the conditionals of every sequence with hidden tokens: (V + 1)^L rows of (L, V)."""

    process: categorical.Replacement
    laws: Array

    @property
    def schedule(self):
        return self.process.schedule

    def __call__(self, x, t):
        base = self.laws.shape[-1] + 1
        return Categorical(jnp.log(self.laws[jnp.ravel_multi_index(tuple(x), (base,) * x.size, mode="clip")]))


def table(p):
    """The exact conditionals of p; a seen place is what it is."""
    vocabulary, length = p.shape[0], p.ndim
    laws = np.zeros(((vocabulary + 1) ** length, length, vocabulary))
    for code, x in enumerate(itertools.product(range(vocabulary + 1), repeat=length)):
        for i, token in enumerate(x):
            laws[code, i] = enumerated.conditional(p, x, i) if token == vocabulary else np.eye(vocabulary)[token]
    process = categorical.masked(schedules.Rectified(), vocabulary)
    return Table(process, jnp.asarray(laws, jnp.result_type(float)))


def even(n):
    return grids.uniform(schedules.Rectified(), n, t_min=0.0)


def walked(sampler, denoise, length, n, count=20_000):
    sample = samplers.sampling_fn(sampler, even(n))
    hidden = jnp.full((count, length), denoise.process.vocabulary, jnp.int32)
    return jax.jit(jax.vmap(sample, in_axes=(None, 0, 0)))(denoise, keys(count, 1), hidden)


EXACT = ("random", "position", "entropy", "top")


@pytest.mark.parametrize("p", [A, C], ids=["A", "C"])
def test_one_place_a_row_is_exact_whatever_seen_tokens_pick_it(p):
    for name in EXACT:
        law = oracle.decoded(p, oracle.RULES[name], [1] * p.ndim)
        assert enumerated.total_variation(p, law) < 1e-15, name


def test_price_of_looking_at_the_draws():
    for p, kl, tv in ((A, 0.3370, 0.2656), (C, 1.1485, 0.4193)):
        law = oracle.decoded(p, oracle.confidence, [1] * p.ndim)
        assert enumerated.kl(p, law) == pytest.approx(kl, abs=6e-5)
        assert enumerated.total_variation(p, law) == pytest.approx(tv, abs=6e-5)
    assert enumerated.entropy(oracle.decoded(A, oracle.confidence, [1] * 3)) == pytest.approx(2.8037, abs=6e-5)
    greedy = [enumerated.total_variation(p, oracle.decoded(p, oracle.greedy, [1] * p.ndim)) for p in (A, C)]
    np.testing.assert_allclose(greedy, [0.939, 0.883], atol=5e-4)


@pytest.mark.parametrize(
    ("p", "counts", "kl"),
    [
        (A, (2, 1), 0.006350),
        (A, (1, 2), 0.058168),
        (A, (3,), 0.104733),
        (C, (4,), 0.159372),
        (C, (2, 2), 0.031145),
        (C, (2, 1, 1), 0.003797),
        (C, (1, 1, 2), 0.022831),
    ],
)
def test_price_of_several_places_a_row(p, counts, kl):
    assert enumerated.kl(p, oracle.decoded(p, oracle.random, counts)) == pytest.approx(kl, abs=1e-6)
    rows = decoding.random(categorical.masked(schedules.Rectified(), p.shape[0]), counts).plan(even(len(counts)))
    assert tuple(rows.places) == counts
    assert rows.opened == (p.ndim - counts[-1], p.ndim)


CASES = [  # `random` and `entropy` below too, from given tokens and by blocks
    pytest.param("random", (1, 1, 1), 1.0, marks=pytest.mark.slow),
    pytest.param("position", (2, 1), 1.0, marks=pytest.mark.slow),
    ("entropy", (1, 2), 1.0),
    pytest.param("top", (1, 1, 1), 1.0, marks=pytest.mark.slow),
    pytest.param("confidence", (1, 2), 1.0, marks=pytest.mark.slow),
    ("confidence", (1, 1, 1), 0.5),
]


@pytest.mark.parametrize(("name", "counts", "temperature"), CASES)
def test_walks_draw_the_enumerated_law(name, counts, temperature):
    sampler = getattr(decoding, name)(MASKED, counts, temperature)
    law = oracle.decoded(UNTIED, oracle.RULES[name], counts, temperature)
    assert_drawn_from(walked(sampler, table(UNTIED), 3, len(counts)), law)


def test_noisy_confidence_keeps_a_draw_by_a_power_of_it():
    """Two places: of the draws a the first row keeps one by p_i(a_i)^(1 / noise), half of `noise` in row 1 of 2."""
    p = UNTIED.sum(2)
    alone, law = (p.sum(1), p.sum(0)), np.zeros_like(p)
    for a in itertools.product(range(2), repeat=2):
        kept = np.array([alone[i][a[i]] for i in range(2)]) ** (1 / 0.6)
        kept *= alone[0][a[0]] * alone[1][a[1]] / kept.sum()
        law[a[0]] += kept[0] * p[a[0]] / p[a[0]].sum()
        law[:, a[1]] += kept[1] * p[:, a[1]] / p[:, a[1]].sum()
    assert law.sum() == pytest.approx(1)
    assert_drawn_from(walked(decoding.confidence(MASKED, noise=1.2), table(p), 2, 2), law)
    np.testing.assert_allclose(decoding.confidence(MASKED, noise=1.2).plan(even(4)).noise, [0.9, 0.6, 0.3, 0])


def test_noisy_confidence_in_blocks_falls_within_each_block():
    """One block is `confidence` itself, row by row; of two the second begins with as much noise as the first."""
    whole, one = decoding.confidence(MASKED, noise=1.2), decoding.blocks(MASKED, 3, "confidence", noise=1.2)
    np.testing.assert_array_equal(one.plan(even(3)).noise, whole.plan(even(3)).noise)
    found = [walked(sampler, table(UNTIED), 3, 3, count=200) for sampler in (one, whole)]
    np.testing.assert_array_equal(*found)
    plain = walked(decoding.blocks(MASKED, 3, "confidence"), table(UNTIED), 3, 3, count=200)
    assert (plain != found[0]).any()
    two = decoding.blocks(MASKED, 2, "confidence", noise=1.2)
    np.testing.assert_allclose(two.plan(even(4)).noise, [0.6, 0, 0.6, 0])


def test_greedy_and_ties():
    law = oracle.decoded(UNTIED, oracle.greedy, [1] * 3)
    found = walked(decoding.greedy(MASKED), table(UNTIED), 3, 3, count=3)
    np.testing.assert_array_equal(found, np.broadcast_to(np.argwhere(law == 1)[0], (3, 3)))
    flat = table(np.full((2, 2, 2), 1 / 8))
    step, rows = decoding.entropy(MASKED).step, decoding.entropy(MASKED).plan(even(3))
    first = jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), rows)
    opened = jax.jit(lambda *args: step(*args))(flat, jax.random.key(0), jnp.full(3, 2, jnp.int32), first)
    np.testing.assert_array_equal(opened == 2, [False, True, True])  # equal places are opened from the first on


def test_tokens_that_are_given_stay_and_the_last_rows_open_what_is_left():
    sample = samplers.sampling_fn(decoding.random(MASKED, 2), even(2))
    given = jnp.broadcast_to(jnp.asarray([2, 1, 2], jnp.int32), (5000, 3))
    found = np.asarray(jax.jit(jax.vmap(sample, in_axes=(None, 0, 0)))(table(UNTIED), keys(5000), given))
    assert np.all(found[:, 1] == 1)
    pair = UNTIED[:, 1] / UNTIED[:, 1].sum()
    product = pair.sum(1)[:, None] * pair.sum(0)  # both hidden places open in the first row
    assert_drawn_from(found[:, [0, 2]], product)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_blocks_one_by_one_are_exact(size):
    process = categorical.masked(schedules.Rectified(), 2)
    sampler = decoding.blocks(process, size, "entropy")
    rows = sampler.plan(even(4))
    np.testing.assert_array_equal(rows.low, np.arange(4) // size * size)
    np.testing.assert_array_equal(rows.high - rows.low, size)
    assert rows.opened == (3, 4)
    if size == 2:
        assert_drawn_from(walked(sampler, table(C), 4, 4), C)


@pytest.mark.slow
def test_blocks_of_several_at_once_are_products_inside_a_block():
    sampler = decoding.blocks(categorical.masked(schedules.Rectified(), 2), 2, k=2)
    law = np.zeros(C.shape)
    for x in np.ndindex(*C.shape):
        chance = 1.0
        for i in range(4):
            known = tuple(x[j] if j < i // 2 * 2 else 2 for j in range(4))
            chance *= enumerated.conditional(C, known, i)[x[i]]
        law[x] = chance
    assert_drawn_from(walked(sampler, table(C), 4, 2), law)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_bound_of_blocks_is_minus_log_p_at_every_x(size, x64):
    """The mean over counts and sets of a block, summed over the blocks, each term by the library, is -log p(x)."""
    denoise, x = table(C), jnp.asarray(np.stack([i.ravel() for i in np.indices(C.shape)], -1), jnp.int32)
    starts, sets, weights = [], [], []
    for start in range(0, 4, size):
        for count in range(1, size + 1):
            chosen = list(itertools.combinations(range(start, start + size), count))
            starts += [start] * len(chosen)
            sets += [[i in places for i in range(4)] for places in chosen]
            weights += [1 / size / len(chosen)] * len(chosen)
    term = lambda x, start, chosen: blocks.nats(denoise, x, start, size, chosen)
    each = jax.jit(
        jax.vmap(lambda x: jax.vmap(lambda *row: term(x, *row))(jnp.asarray(starts, jnp.int32), jnp.asarray(sets)))
    )
    np.testing.assert_allclose(np.asarray(each(x)) @ weights, -np.log(C.ravel()), atol=3.6e-15 * 4)


def test_bound_of_blocks_is_unbiased_and_refuses_other_sizes():
    x0, denoise = jnp.asarray([0, 1, 1, 0]), table(C)
    found = np.asarray(jax.jit(jax.vmap(lambda key: blocks.bound(denoise, key, x0, 3)))(keys(4000)))
    assert abs(found.mean() + np.log(C[0, 1, 1, 0])) < 4.5 * found.std() / np.sqrt(4000)
    for size in (0, 5):
        with pytest.raises(ValueError, match=f"size is {size}"):
            blocks.bound(denoise, jax.random.key(0), x0, size)
    replaced = dataclasses.replace(denoise, process=categorical.uniform(schedules.Rectified(), 2))
    with pytest.raises(ValueError, match=r"of hidden tokens \(categorical\.masked\), but the process is Replacement"):
        blocks.bound(replaced, jax.random.key(0), x0, 2)


@pytest.mark.parametrize("token", [-1, 2])
def test_a_token_out_of_the_vocabulary_has_no_bound(token):
    """An index would count -1 from the end, and give the probability of the last token."""
    x0, chosen = jnp.asarray([0, token, 1, 0]), jnp.asarray([False, True, False, False])
    assert np.isnan(blocks.nats(table(C), x0, 0, 2, chosen))


def test_autoregressive_estimate_of_masks_is_the_joint_law():
    denoise = joint.autoregressive(table(UNTIED))
    seen = jnp.asarray([2, 2, 0], jnp.int32)
    drawn = jax.jit(jax.vmap(lambda key: denoise(seen, 0.5).sample(key)))(keys(20_000))
    law = np.zeros((2, 2, 2))
    law[:, :, 0] = UNTIED[:, :, 0] / UNTIED[:, :, 0].sum()
    assert_drawn_from(drawn, law)
    assert denoise.process is not None
    assert denoise.schedule == schedules.Rectified()


def test_autoregressive_estimate_of_another_process_is_told_what_is_drawn():
    law = UNTIED / UNTIED.sum()
    flat = jnp.asarray(law, jnp.float32)

    def conditional(x, t, known):
        """Of places before the next one alone; x says nothing here."""
        seen = [jnp.where(known[i] < 2, jax.nn.one_hot(known[i], 2), jnp.ones(2)) for i in range(3)]
        weighed = flat * seen[0][:, None, None] * seen[1][None, :, None] * seen[2][None, None, :]
        return Categorical(jnp.log(jnp.stack([weighed.sum((1, 2)), weighed.sum((0, 2)), weighed.sum((0, 1))])))

    denoise = joint.autoregressive(table(UNTIED), conditional)
    drawn = jax.jit(jax.vmap(lambda key: denoise(jnp.zeros(3, jnp.int32), 0.5).sample(key)))(keys(20_000))
    assert_drawn_from(drawn, law)


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.0, 0.3])
def test_autoregressive_estimate_is_exact_at_two_steps(share):
    sampler = samplers.unified(MASKED, share)
    assert_drawn_from(walked(sampler, joint.autoregressive(table(UNTIED)), 3, 2), UNTIED)


def guided(w):
    """Laws of tokens under guidance, place by place, of B against W(3, 2; 2, 1, 5)."""
    other = enumerated.unified_law(3, 2, 2, 1, 5)
    pair = table(B), table(other)
    return other, guidance.extrapolated(*pair, w)


@pytest.mark.parametrize(("w", "expected"), [(0.0, 0.0), (1.0, 0.0), (2.0, 0.072574), (4.0, 0.177985)])
def test_guided_tokens_are_not_the_tilted_joint(w, expected, x64):
    other, denoise = guided(w)

    states = np.array(list(itertools.product(range(4), repeat=2)), np.int32)
    laws = np.asarray(jax.jit(jax.vmap(lambda denoise, x: denoise(x, 0.5).probs, (None, 0)))(denoise, states))

    def model(x, hidden):
        return {i: laws[4 * x[0] + x[1], i] for i in hidden}

    tilted = B**w * other ** (1 - w)
    law = oracle.decoded(B, oracle.random, (1, 1), model=model)
    assert enumerated.total_variation(law, tilted / tilted.sum()) == pytest.approx(expected, abs=1e-6)


def test_guidance_of_logits_at_one_is_the_conditional_to_the_bit_and_keeps_what_is_certain():
    logits = np.random.default_rng(0).normal(size=(2, 50, 7)).astype(np.float32)
    logits[:, 3, 2] = -np.inf

    @jax.jit
    def guided(w, cond, other):
        cond, other = Categorical(cond), Categorical(other)
        found = cond.combined(other, lambda a, b: guidance.combine(a, b, w))
        return found.logits, found.probs[0], cond.probs[0] ** 3 / other.probs[0] ** 2

    np.testing.assert_array_equal(guided(np.float32(1), *logits)[0], logits[0])
    beyond, probs, expected = jax.device_get(guided(np.float32(3), *logits))
    assert np.isneginf(beyond[3, 2])
    assert np.isfinite(np.delete(beyond.ravel(), 3 * 7 + 2)).all()
    np.testing.assert_allclose(probs, expected / expected.sum(), rtol=2e-5)


def test_classifier_free_guidance_of_tokens():
    laws = jnp.stack([table(B).laws, table(guided(1.0)[0]).laws])
    process = categorical.masked(schedules.Rectified(), 3)
    branch = lambda given: Table(process, laws[given["other"]])
    given, hidden = {"other": jnp.int32(0)}, {"other": jnp.int32(1)}
    denoise = guidance.classifier_free(branch, given, hidden, 2.0)
    x, beyond = np.int32([3, 1]), guided(2.0)[1]
    found, expected = jax.jit(lambda x: (denoise(x, 0.5).probs, beyond(x, 0.5).probs))(x)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert denoise.process.vocabulary == 3
    with pytest.raises(ValueError, match=r"rescale is 0\.5, but logits of Categorical have no scale"):
        jax.eval_shape(lambda x: guidance.classifier_free(branch, given, hidden, 2.0, rescale=0.5)(x, 0.5), x)


def test_evaluations_are_nearly_all_of_the_cost():
    width, length, vocabulary = 512, 64, 16
    weights = [jnp.ones((vocabulary + 1, width)), *[jnp.ones((width, width))] * 4, jnp.ones((width, vocabulary))]
    process = categorical.masked(schedules.Rectified(), vocabulary)

    @pytree
    class Net:
        weights: list

        @property
        def schedule(self):
            return process.schedule

        def __call__(self, x, t):
            h = self.weights[0][x]
            for weight in self.weights[1:]:
                h = h @ weight
            return Categorical(h)

    net, x = Net(weights), jnp.full(length, vocabulary, jnp.int32)
    flops = lambda f, *args: jax.jit(f).lower(*args).compile().cost_analysis()["flops"]
    row = jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), decoding.entropy(process).plan(even(length)))
    one = flops(lambda net, x: net(x, 0.5).logits, net, x)
    for rule in (decoding.entropy, decoding.confidence):
        step = flops(lambda *args, rule=rule: rule(process).step(*args), net, jax.random.key(0), x, row)
        assert step <= 1.005 * one


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: decoding.random(categorical.uniform(schedules.Rectified(), 3)), "Replacement, expected"),
        (lambda: decoding.random(categorical.mixed(schedules.Rectified(), 3)), "hides tokens and no more"),
        (lambda: decoding.random(MASKED, 0), "k is 0, expected an integer >= 1, or one for each row"),
        (lambda: decoding.random(MASKED, (2, 0)), "k is 0, expected an integer >= 1"),
        (lambda: decoding.random(MASKED, "ab"), "k is 'ab', expected an integer"),
        (lambda: decoding.random(MASKED, 2**40), "k is 1099511627776, expected at most 16777216"),
        (lambda: decoding.blocks(MASKED, 2**40, k=2**40), "size is 1099511627776, expected at most"),
        (lambda: decoding.random(MASKED, (2, 1)).plan(even(3)), "2 rows open, but the grid has 3 steps"),
        (lambda: decoding.confidence(MASKED, noise=-1.0), "noise is -1.0, expected 0 or a positive number"),
        (lambda: decoding.confidence(MASKED, noise=np.inf), "noise is inf.*decoding.random is the limit"),
        (lambda: decoding.top(MASKED, temperature=0.0), "temperature is 0.0.*decoding.greedy"),
        (lambda: decoding.blocks(MASKED, 0), "size is 0"),
        (lambda: decoding.blocks(MASKED, 2, k=3), "k is 3, expected at most 2"),
        (lambda: decoding.blocks(MASKED, 2, "best"), "inner is 'best', expected one of random"),
        (lambda: decoding.blocks(MASKED, 2, "greedy", temperature=0.5), "greedy draws nothing"),
        (lambda: decoding.blocks(MASKED, 2, "top", noise=0.5), "noise is 0.5, but decoding.top has none: leave it out"),
        (lambda: decoding.blocks(MASKED, 2, "confidence", noise=-0.5), "noise is -0.5, expected 0 or a positive"),
        (lambda: decoding.blocks(MASKED, 2).plan(even(3)), "2 rows each, 1 places a row, but the grid has 3 steps"),
        (lambda: walked(decoding.random(MASKED), table(UNTIED), 3, 4, 1), "more steps than tokens to open"),
        (lambda: walked(decoding.random(MASKED), table(UNTIED), 3, 2, 1), "open 2 places, but x has 3"),
        (lambda: walked(decoding.random(MASKED), table(B), 2, 2, 1), r"shape \(2, 3\), expected \(2, 2\)"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()
