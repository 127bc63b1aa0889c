"""Two scales of guidance and conditions hidden apart, against p(x | words) of captions that can be enumerated."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax import analytic
from diffjax.denoisers import composition, guidance
from diffjax.denoisers.scales import Hidden, Unhidden
from diffjax.methods.conditions import Condition
from diffjax.schedules import Rectified
from diffjax.types import NULL, PADDING, Categorical, Posterior, pytree

# Five items: weight, mean and the words of their captions; all of variance V; x_t at t = 1/2 of straight lines.
WEIGHTS = np.asarray([0.2, 0.1, 0.3, 0.15, 0.25])
MEANS = np.asarray([[-1.5, 0.5], [-1.0, -1.0], [1.0, 1.2], [1.4, -0.7], [0.2, 0.1]])
CAPTIONS = ({"red", "round"}, {"red", "square", "big"}, {"blue", "round"}, {"blue", "square"}, {"red", "round", "big"})
V, T, X = 0.04, 0.5, np.asarray([0.3, -0.2])
WORDS = ("big", "blue", "red", "round", "square")
LENGTH = 3
NONE = {"text": np.int32([NULL, PADDING, PADDING])}


def tokens(words):
    row = [2 + WORDS.index(word) for word in sorted(words)]
    return np.int32(row + [PADDING] * (LENGTH - len(row)))


def exact(weights):
    """E[x_0 | x_t = X] by Bayes, of items with these weights: written out."""
    alpha, sigma = 1 - T, T
    var = alpha**2 * V + sigma**2
    shares = weights * np.exp(-0.5 * ((X - alpha * MEANS) ** 2).sum(1) / var)
    means = MEANS + alpha * V / var * (X - alpha * MEANS)
    return shares @ means / shares.sum()


def with_words(*words):
    return WEIGHTS * [set(words) <= caption for caption in CAPTIONS]


def branch(given):
    """What is exactly known of x_0 by a text: the items whose caption has all of its words; all items without one."""
    row = np.asarray(given["text"])
    words = {WORDS[token - 2] for token in row if token not in (PADDING, NULL)}
    weights = with_words(*words)
    at = np.flatnonzero(weights)
    return analytic.gaussian_mixture(weights[at], MEANS[at], [V] * len(at)).denoiser(Rectified())


mean = lambda denoise: np.asarray(denoise(jnp.asarray(X), T).mean)


def test_p_of_x_given_words_is_the_items_that_have_them(x64):
    assert with_words("red").sum() == pytest.approx(0.55)
    red, null = mean(branch({"text": tokens({"red"})})), mean(branch(NONE))
    np.testing.assert_allclose(red, exact(with_words("red")), rtol=1e-12)
    np.testing.assert_allclose(red, (-0.0077897, 0.0006046), atol=1e-7)
    np.testing.assert_allclose(null, (0.5141949, 0.0457750), atol=1e-7)


def test_a_table_by_least_squares_is_p_of_x_given_the_caption(x64):
    """One-hot of the text, each item shown for 1 - p and hidden by `Condition` for p: the normal equations."""
    p, condition = 0.1, Condition(NONE, share=0.1)
    told = [{"text": tokens(caption)} for caption in CAPTIONS]
    seen = [tuple(given["text"].tolist()) for given in [*told, *map(condition.hidden, told)]]
    texts = sorted(set(seen))
    alpha, sigma = 1 - T, T
    var = alpha**2 * V + sigma**2
    shares = WEIGHTS * np.exp(-0.5 * ((X - alpha * MEANS) ** 2).sum(1) / var)
    root = np.sqrt(np.concatenate([(1 - p) * shares, p * shares]))[:, None]
    design = np.asarray([[text == row for text in texts] for row in seen], float)
    aims = np.tile(MEANS + alpha * V / var * (X - alpha * MEANS), (2, 1))
    table = np.linalg.lstsq(root * design, root * aims, rcond=None)[0]
    np.testing.assert_allclose(table[texts.index(tuple(NONE["text"]))], (0.5141949, 0.0457750), atol=1e-7)
    for given, caption in zip(told, CAPTIONS):
        found = table[texts.index(tuple(given["text"].tolist()))]
        np.testing.assert_allclose(found, exact(WEIGHTS * [caption == other for other in CAPTIONS]), rtol=1e-10)


def test_what_hiding_single_words_teaches_is_another_law():
    """Each word hidden with p = .1: {red} weighs items by (1-p) p^(other words), and {} by p^(all words)."""
    p = 0.1
    shown = lambda words: (
        WEIGHTS * [(1 - p) ** len(words) * p ** (len(c) - len(words)) * (words <= c) for c in CAPTIONS]
    )
    for words, expected in (({"red"}, (-0.5341124, 0.1739198)), (set(), (0.9006045, 0.1172211))):
        weights = shown(words)
        np.testing.assert_allclose(exact(weights), expected, atol=1e-7)
        at = np.flatnonzero(weights)
        items = analytic.gaussian_mixture(weights[at] / weights.sum(), MEANS[at], [V] * len(at))
        np.testing.assert_allclose(mean(items.denoiser(Rectified())), expected, atol=1e-6)


def test_words_composed_are_not_both_words(x64):
    """m_0 + (m_red - m_0) + (m_round - m_0), by energies, beside the exact mean of both."""
    null, red, round_ = (branch({"text": tokens(words)}) for words in (set(), {"red"}, {"round"}))
    null = branch(NONE)
    composed = mean(composition.Weighted((null, red, round_), (-1.0, 1.0, 1.0)))
    np.testing.assert_allclose(composed, (-0.1882145, 0.3397866), atol=1e-7)
    np.testing.assert_allclose(mean(branch({"text": tokens({"red", "round"})})), (0.0954089, 0.1089988), atol=1e-7)


# --- two scales


@pytree
class Known:
    """A denoiser that says a mean, by what it was told: rows of a table."""

    schedule: Rectified
    table: object
    given: dict

    def __call__(self, x, t):
        return Posterior(jnp.asarray(self.table)[self.given["image"], self.given["text"]] + 0 * x)


TABLE = np.random.default_rng(0).normal(size=(3, 4, 2))  # by image and text; the last of each is none
GIVEN, HIDE = {"image": np.int32(1), "text": np.int32(2)}, {"image": np.int32(2), "text": np.int32(3)}
by_table = lambda given: Known(Rectified(), TABLE, dict(given))


@pytest.mark.parametrize("first", ["image", "text"])
def test_two_scales_are_those_of_the_paper(first, x64):
    """m_0 + w_1 (m_1 - m_0) + w (m - m_1), with m_1 of the first condition alone."""
    full, nothing = TABLE[1, 2], TABLE[2, 3]
    middle = TABLE[1, 3] if first == "image" else TABLE[2, 2]
    w, w_first = 4.0, 1.5
    denoise = guidance.two_scales(by_table, GIVEN, Hidden(GIVEN, HIDE, True), w, w_first, first)
    expected = nothing + w_first * (middle - nothing) + w * (full - middle)
    np.testing.assert_allclose(mean(denoise), expected, rtol=1e-12)
    both = guidance.two_scales(by_table, GIVEN, Hidden(GIVEN, HIDE, True), 3.0, 3.0, first)
    one = guidance.classifier_free(by_table, GIVEN, Hidden(GIVEN, HIDE, True), 3.0)
    np.testing.assert_allclose(mean(both), mean(one), rtol=1e-12)


def test_scales_of_one_are_off_in_one_evaluation():
    hidden = Hidden(GIVEN, HIDE, True)
    assert guidance.two_scales(by_table, GIVEN, hidden, 1.0, 1.0, "image").given == GIVEN
    table = TABLE.astype(np.float32)
    branch = lambda given: Known(Rectified(), jnp.asarray(table), dict(given))
    x = X.astype(np.float32)
    guided = lambda w, w_first, low: guidance.two_scales(branch, GIVEN, hidden, w, w_first, "image", low)(x, 0.5).mean
    for numbers in ((1.0, 1.0, 0.0), (4.0, 2.0, 50.0)):  # traced, and outside of the interval
        np.testing.assert_array_equal(jax.jit(guided)(*map(np.float32, numbers)), table[1, 2])


def test_tokens_are_guided_by_logits_where_all_three_are_finite(x64):
    """p^w p_1^(w_1 - w) p_0^(1 - w_1), normalised; what the first branch excludes stays excluded."""
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(3, 4, 2, 5))
    logits[1, 2, 0, 3] = -np.inf

    @pytree
    class Tokens:
        schedule: Rectified
        given: dict

        def __call__(self, x, t):
            return Categorical(jnp.asarray(logits)[self.given["image"], self.given["text"]])

    hidden = Hidden(GIVEN, HIDE, True)
    denoise = guidance.two_scales(lambda given: Tokens(Rectified(), dict(given)), GIVEN, hidden, 3.0, 2.0, "image")
    found = np.asarray(denoise(jnp.zeros(2, jnp.int32), 0.5).probs)
    law = np.exp(3.0 * logits[1, 2] - 1.0 * logits[1, 3] - 1.0 * logits[2, 3])
    np.testing.assert_allclose(found, law / law.sum(-1, keepdims=True), rtol=1e-10)


REFUSED = {
    "never hidden": (lambda: (Unhidden(), "image"), "needs a network that was trained without its condition too"),
    "only together": (lambda: (Hidden(GIVEN, HIDE, False), "image"), "with each condition hidden alone: train.apart"),
    "another name": (lambda: (Hidden(GIVEN, HIDE, True), "imag"), "first is imag, expected some of .* image, text"),
    "all": (lambda: (Hidden(GIVEN, HIDE, True), ("image", "text")), "first is image, text, expected some"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_two_scales_that_nothing_was_trained_for(name):
    make, said = REFUSED[name]
    hidden, first = make()
    with pytest.raises(ValueError, match=said) as error:
        guidance.two_scales(by_table, GIVEN, hidden, 2.0, 1.5, first)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="w is nan"):
        guidance.two_scales(by_table, GIVEN, Hidden(GIVEN, HIDE, True), 2.0, np.nan, "image")


# --- hidden conditions

N = 20_000
OWN = {"label": np.int32(4), "text": np.int32([5, 6]), "image": np.ones((2, 2, 1), np.float32), "y": np.float32(1.0)}
NOTHING = {"label": 9, "text": np.int32([NULL, PADDING]), "image": np.float32(np.nan)}


def hidden_in(condition):
    """How often each set of names is hidden, of N keys."""
    keys = jax.random.split(jax.random.key(0), N)
    found = jax.jit(jax.vmap(lambda key: condition.drop(key, OWN)))(keys)
    none = {
        "label": np.asarray(found["label"]) == 9,
        "text": (np.asarray(found["text"]) == [NULL, PADDING]).all(-1),
        "image": np.isnan(found["image"]).all((1, 2, 3)),
    }
    assert (np.asarray(found["y"]) == 1).all()
    own = (np.asarray(found["text"]) == [5, 6]).all(-1)
    assert np.array_equal(own, ~none["text"])  # a text is hidden whole
    return collections.Counter(frozenset(k for k in none if none[k][i]) for i in range(N))


def test_conditions_are_hidden_together_and_each_alone():
    """Shares within 4 standard deviations; no other set is ever hidden."""
    found = hidden_in(Condition(NOTHING, 0.1, apart=0.05))
    expected = {frozenset(NOTHING): 0.1, frozenset(): 0.75} | {frozenset({name}): 0.05 for name in NOTHING}
    assert set(found) == set(expected)
    for names, share in expected.items():
        assert found[names] / N == pytest.approx(share, abs=4 * np.sqrt(share * (1 - share) / N))
    together = hidden_in(Condition(NOTHING, 0.1))
    assert set(together) == {frozenset(NOTHING), frozenset()}


def test_what_is_hidden_has_the_shape_of_what_is_known():
    condition = Condition(NOTHING, 0.1, apart=0.05)
    hidden = condition.unseen(OWN)
    assert jax.tree.map(np.shape, dict(hidden)) == jax.tree.map(np.shape, OWN)
    assert np.isnan(hidden["image"]).all()
    kept = hidden.keeping(("image",))  # pyright: ignore[reportAttributeAccessIssue]
    np.testing.assert_array_equal(kept["image"], OWN["image"])
    assert kept["label"] == 9
    assert isinstance(Condition(NOTHING).unseen(OWN), Unhidden)
    assert isinstance(condition.unseen({"y": OWN["y"]}), Unhidden)


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        (Condition({"label": 3}, 0.1, apart=0.05), "hides label apart, each for a share of 0.05 beside 0.1"),
        (Condition(NOTHING, 0.1, apart=0.31), "expected two conditions or more, whose shares leave"),
        (Condition(NOTHING, 0.1, apart=-0.1), "each for a share of -0.1"),
        (Condition(NOTHING, 0.1, apart="0.1"), "expected names with the values that stand for none"),  # pyright: ignore
        (Condition({"texts": 1}, 0.1), "Condition hides texts, but the network reads label, text, image"),
        (Condition({}, 0.1), "Condition hides nothing for a share of 0.1"),
    ],
)
def test_shares_that_cannot_be(condition, said):
    with pytest.raises(ValueError, match=said) as error:
        condition.check(("label", "text", "image"))
    assert "\n" not in str(error.value)
