"""Words of captions as tokens: what is told, what is unknown, what a user may say, and what is refused in one line."""

import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_captioned

from diffjax import data, denoisers, methods, models, processes, schedules
from diffjax.config import ConfigError
from diffjax.data import vocabulary
from diffjax.data.vocabulary import UNKNOWN, Vocabulary, words_of
from diffjax.methods.conditions import Condition
from diffjax.runs import checks, settings
from diffjax.types import NULL, PADDING

WORDS = Vocabulary(("apple", "blue", "red"), 3)


def test_words_are_runs_of_letters_and_digits_in_small_letters():
    assert vocabulary.words_of("RED apple: No. 2, été_蘋果!") == ["red", "apple", "no", "2", "été", "蘋果"]


def test_a_text_is_a_row_of_tokens_and_comes_back():
    assert WORDS.sizes == (6, 3)
    assert WORDS.tokens("Red APPLE").tolist() == [5, 3, PADDING]
    assert WORDS.tokens("red pear", rare=True).tolist() == [5, UNKNOWN, PADDING]
    assert WORDS.tokens(" ").tolist() == WORDS.tokens("").tolist() == [NULL, PADDING, PADDING]
    assert WORDS.tokens("!", rare=True).tolist() == [UNKNOWN, PADDING, PADDING]  # a caption is no text only if empty
    assert words_of("Cafe\u0301") == words_of("caf\xe9")
    assert [WORDS.text(row) for row in WORDS.rows(["blue apple", "", "red"])] == ["blue apple", "", "red"]
    assert WORDS.text([5, UNKNOWN, 0]) == "red ?"
    tokens = np.int32([3, 0, 0])
    assert WORDS.rows(tokens) is tokens


def test_a_word_is_told_from_so_many_training_captions_on():
    texts = ["red red apple", "red pear", "Apple tart", "blue"]
    assert vocabulary.vocabulary_of(texts, texts, 2) == Vocabulary(("apple", "red"), 3)
    assert vocabulary.vocabulary_of(texts, [*texts, "one two three four"], 1).length == 4  # of a held-out caption


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (
            lambda: WORDS.tokens("red aple"),
            "The text 'red aple' has 'aple', which is none of the 3 words: nearest is 'apple'; data.json in the",
        ),
        (
            lambda: WORDS.tokens("\u7ea2\u5fc3"),
            "which is none of the 3 words: data.json in the workdir, or run.data.vocabulary.words, has all of them",
        ),
        (
            lambda: WORDS.tokens("\u2764"),
            "has no word, of letters and digits; an empty one stands for no",
        ),
        (lambda: WORDS.tokens("red red red red"), "'red red red red' has 4 words, expected at most 3"),
        (lambda: WORDS.tokens("a " * 90, rare=True), r"'a a .*\.\.\.' has 90 words, expected at most 3"),
        (lambda: vocabulary.vocabulary_of(["a b"], ["a b"], 2), "no word stands in so many of 1 captions"),
        (
            lambda: vocabulary.vocabulary_of(["a b"], ["a b", "a b c"], 1, 2),
            "length is 2, but the caption 'a b c' has 3",
        ),
        (lambda: vocabulary.vocabulary_of(["a"], ["a"], 0), "words"),
        (lambda: vocabulary.check(np.int32([3, 6, 0]), (6, 3), "It"), "It has token 6, but the model knows 0 to 5"),
        (lambda: vocabulary.check(np.int32([-1, 0, 0]), (6, 3), "It"), "It has token -1"),
        (
            lambda: vocabulary.check(np.int32([3, 0]), (6, 3), "It"),
            r"It has 2 places, .* have 3: set model.text=\(6,2\)",
        ),
        (lambda: vocabulary.check(np.int32([[3, 0, 0], [0, 0, 0]]), (6, 3), "It"), "a text of padding alone"),
    ],
)
def test_bad_texts_are_one_line(call, said):
    with pytest.raises(ValueError, match=said) as error:
        call()
    assert "\n" not in str(error.value)


# --- captioned images


@pytest.fixture(scope="module")
def captioned(tmp_path_factory):
    root = tmp_path_factory.mktemp("captioned")
    test_captioned.write(root, test_captioned.entries())
    return data.captioned(str(root), words=1, held_out=0.4)


def test_captions_are_told_by_the_words_of_training(captioned, capsys, tmp_path):
    """Each example has the row of its own caption; words of held-out captions alone are unknown; that is counted."""
    for part in (captioned.train, captioned.held_out):
        for number, row in zip(part.given["caption"], part.given["text"]):
            expected = captioned.vocabulary.tokens(captioned.texts[number], rare=True)
            np.testing.assert_array_equal(row, expected)
    training = {captioned.texts[i] for i in captioned.train.given["caption"]}
    words = {word for text in training for word in vocabulary.words_of(text)}
    assert captioned.vocabulary.words == tuple(sorted(words))
    assert not (captioned.train.given["text"] == UNKNOWN).any()
    test_captioned.write(tmp_path, test_captioned.entries(1))
    found = data.captioned(str(tmp_path), words=2)
    said = capsys.readouterr().out
    texts = [{found.texts[i] for i in part.given["caption"]} for part in (found.train, found.held_out)]
    words, new = (set().union(*map(words_of, part)) for part in texts)
    rare = words - set(found.vocabulary.words)
    assert said == (
        f"captioned: {len(found.vocabulary.words)} words of 2 or more training captions are told, all others read as "
        f"one, unknown: {len(rare)} rarer ones, in {sum(bool(rare & set(words_of(t))) for t in texts[0])} of "
        f"{len(texts[0])} training captions, and {len(new - words)} that held-out captions alone have; "
        f"{sum(not set(words_of(t)) <= set(found.vocabulary.words) for t in texts[1])} of these {len(texts[1])} have "
        "an unknown word\n"
    )
    data.captioned(str(tmp_path), words=2)
    assert capsys.readouterr().out == ""  # it was said


def test_the_vocabulary_survives_where_the_data_are_not(captioned):
    there = data.of_card(json.loads(json.dumps(data.card(captioned))), "data.json", "gone")
    assert there.vocabulary == captioned.vocabulary
    bad = {**data.card(captioned), "vocabulary": {"words": ["b", "a"], "length": 3}}
    with pytest.raises(ConfigError, match="the words of its texts are not in alphabetical order"):
        data.of_card(bad, "data.json", "gone")
    older = {name: part for name, part in data.card(captioned).items() if name != "vocabulary"}
    assert data.of_card(older, "data.json", "gone").vocabulary is None


def test_another_count_of_words_is_another_data_set(captioned, tmp_path):
    test_captioned.write(tmp_path, test_captioned.entries())
    assert data.captioned(str(tmp_path), held_out=0.4).fingerprint != captioned.fingerprint


def method_of(text, share=0.1):
    """A method whose network reads texts (V, L): a table of numbers, one for each token."""

    def apply(params, x, c, given=None, **_):
        return params[given["text"]].sum() * x

    network = models.Network(lambda *_: jnp.ones(text[0]), apply, ("text",), text=text)
    none = {"text": models.text.null_text(text[1])}
    return methods.denoising(
        network, processes.Gaussian(schedules.VP()), denoisers.V(), condition=Condition(none, share)
    )


def test_a_user_says_words(captioned):
    """For all samples, or one for each; what is not said is what held-out examples are given."""
    method, told = method_of(captioned.vocabulary.sizes), captioned.vocabulary
    said = lambda **words: data.told(method, captioned, range(2), words, None)["text"]
    word = told.words[0]
    np.testing.assert_array_equal(said(text=word), [told.tokens(word)] * 2)
    np.testing.assert_array_equal(said(text=[word, ""]), [told.tokens(word), told.tokens("")])
    own = data.held_out(captioned, [0, 1]).given["text"]
    np.testing.assert_array_equal(said(), own)
    np.testing.assert_array_equal(data.told(method, captioned, range(2), {}, None, word)["text"], said(text=word))
    np.testing.assert_array_equal(data.followed(method, captioned, 3, text=word)["text"], [told.tokens(word)] * 3)
    np.testing.assert_array_equal(data.known(method, captioned, {"text": word})["text"], told.tokens(word))
    np.testing.assert_array_equal(said(text=None), [told.tokens("")] * 2)
    np.testing.assert_array_equal(said(text=[None, word]), [told.tokens(""), told.tokens(word)])


def test_several_texts_of_a_config_are_taken_in_turn(captioned):
    """Seed i has number i mod their number, in whatever order seeds are asked for, and so in an evaluation."""
    method, told = method_of(captioned.vocabulary.sizes), captioned.vocabulary
    texts = list(told.words[:3])
    rows = np.stack([told.tokens(text) for text in texts])
    found = data.told(method, captioned, [4, 0, 2], {}, None, texts)["text"]
    np.testing.assert_array_equal(found, rows[[1, 0, 2]])
    np.testing.assert_array_equal(data.followed(method, captioned, 4, text=texts)["text"], rows[[0, 1, 2, 0]])
    data.check_words(method, captioned, None, texts)
    with pytest.raises(ValueError, match="'aple', which is none of"):
        data.check_words(method, captioned, None, [*texts, "aple"])
    for other in (7, [7], [], True):
        with pytest.raises(ValueError, match="expected words, or several texts; a number in quotes"):
            data.check_words(method, captioned, None, other)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("aple", "which is none of the .* words: nearest is 'apple'"),
        ("a " * 20, "has 20 words, expected at most"),
        (["a"] * 3, "Got 3 texts for 2 samples, expected a text for all, or one for each"),
        (np.int32([3, 0]), r"given\['text'\] has shape \(2,\), expected"),
        (np.int32([99, 0, 0]), r"given\['text'\] has token 99, but the model knows 0 to"),
    ],
)
def test_what_a_user_may_not_say(words, said, captioned):
    with pytest.raises(ValueError, match=said):
        data.told(method_of(captioned.vocabulary.sizes), captioned, range(2), {"text": words}, None)


def test_no_text_was_trained_or_is_refused(captioned):
    with pytest.raises(ValueError, match=r"has no words, but training showed all texts \(train.label_dropout"):
        data.told(method_of(captioned.vocabulary.sizes, share=0.0), captioned, range(2), {"text": ""}, None)


def test_texts_that_do_not_suit_a_network(captioned):
    words, length = captioned.vocabulary.sizes
    with pytest.raises(ValueError, match=rf"model.text is \(5, {length}\), but .* has {words} tokens: set it to"):
        data.check_rows(method_of((5, length)), captioned)
    with pytest.raises(ValueError, match=f"has {length} places, but the model's texts have 9: set model.text"):
        data.check_rows(method_of((words, 9)), captioned)
    arrays = data.arrays(np.zeros((20, 2), np.float32), text=np.full((20, 2), 7))
    with pytest.raises(ValueError, match="The text of arrays has token 7, but the model knows 0 to 4"):
        data.check_rows(method_of((5, 2)), arrays)
    with pytest.raises(ValueError, match="arrays has tokens without words: give"):
        data.check_words(method_of((8, 2)), arrays, None, "red")
    data.check_rows(method_of((8, 2)), arrays)
    plain = SimpleNamespace(asks=("label",), parts=None)
    with pytest.raises(ValueError, match="text is 'red', but this run reads no text"):
        data.check_words(plain, captioned, None, "red")  # pyright: ignore[reportArgumentType]


def test_the_config_of_a_network_of_texts_hides_them():
    """What is hidden is what the network says of itself, whatever it reads; guidance needs no class."""
    from diffjax import config as configs
    from diffjax.runs import build

    config = settings.defaults(settings.GROUPS)
    config.model = configs.spec("DiT", text=(7, 5), vector=3)
    config.train.update(dict(label_dropout=0.1, apart_dropout=0.05))
    config.guidance = configs.spec("two_scales", w=2.0, w_first=1.5, first="vector")
    condition = build._condition(config)
    assert set(condition.none) == {"text", "vector"}
    assert (condition.share, condition.apart) == (0.1, 0.05)
    checks.check_labels(config, condition.none)
    config.train.label_dropout = 0.0
    with pytest.raises(ConfigError, match=r"trained without text and vector too: set train\.label_dropout"):
        checks.check_labels(config, condition.none)
    with pytest.raises(ConfigError, match=r"guidance\.two_scales needs a model that is conditional"):
        checks.check_labels(config, {})
    config.sample.label = 0
    with pytest.raises(ConfigError, match=r"sample\.label is set, but the model takes no labels"):
        checks.check_labels(config, condition.none)


def test_the_null_text_is_a_text():
    text = models.text.null_text(3)
    vocabulary.check(text, (6, 3), "It")
    assert WORDS.text(text) == ""
    assert jax.tree.leaves(text)[0].dtype == np.int32
