"""n-grams against counting by hand, text and words as data, their judges, and bad input."""

import importlib
import itertools
import json
import math
from fractions import Fraction

import numpy as np
import pytest
from scipy import special
from twice import assert_trains_and_resumes

from diffjax import data
from diffjax.data import ngrams
from diffjax.method import Drawn

digits_of, text_of, words_of = (importlib.import_module(f"diffjax.data.{name}") for name in ("digits", "text", "words"))

DOCUMENTATION = "2a95af4ac93f5b719944030ce3769070ddf827d847cba42192afa8da989e5dc4"  # of Python 3.11


def witten_bell(text, vocabulary, context, token):
    """P_n(token | context) in fractions, by the definition and by slices of the text."""
    if context is None:
        return Fraction(1, vocabulary)
    n, context = len(context), tuple(context)
    followers = [text[i + n] for i in range(len(text) - n) if tuple(text[i : i + n]) == context]
    shorter = witten_bell(text, vocabulary, context[1:] if n else None, token)
    kinds = len(set(followers))
    return (followers.count(token) + kinds * shorter) / (len(followers) + kinds) if followers else shorter


def test_two_letters_by_hand():
    """Text 0 1 0 0 1 of three letters: the numbers of the definition, written out."""
    model = ngrams.WittenBell(np.array([0, 1, 0, 0, 1]), 3, 2)
    p = lambda *context: [model.probs(np.array([context], int).reshape(1, -1), np.array([v]))[0] for v in range(3)]
    one = np.array([3 + 2 / 3, 2 + 2 / 3, 2 / 3]) / 7
    np.testing.assert_allclose(p(), one)
    np.testing.assert_allclose(p(0), (np.array([1, 2, 0]) + 2 * one) / 5)
    np.testing.assert_allclose(p(1), (np.array([1, 0, 0]) + one) / 2)
    np.testing.assert_allclose(p(2), one)  # a context that was never seen
    np.testing.assert_allclose(p(2, 2, 1), p(1))  # the last of it alone
    held_out = np.array([[1, 0, 2]])
    expected = -np.log(one[1]) - np.log((1 + one[0]) / 2) - np.log(2 * one[2] / 5)
    np.testing.assert_allclose(ngrams.cross_entropy(model, held_out), expected / 3)
    np.testing.assert_allclose(ngrams.cross_entropy(model.upto(1), held_out), -np.log(one).mean())


def test_ngrams_are_those_of_fractions_and_draws_have_their_law():
    rng = np.random.default_rng(0)
    text = rng.integers(0, 3, 40) * rng.integers(0, 2, 40)
    model, n = ngrams.WittenBell(text, 4, 3), 60_000
    grams = np.array(list(itertools.product(range(4), repeat=3)))
    exact = [float(witten_bell(text.tolist(), 4, gram[:2], gram[2])) for gram in grams.tolist()]
    found = model.probs(grams[:, :2], grams[:, 2])
    np.testing.assert_allclose(found, exact, rtol=1e-12)
    np.testing.assert_allclose(found.reshape(16, 4).sum(1), 1)
    law = model.probs(grams[:, :0], grams[:, 0]) * model.probs(grams[:, :1], grams[:, 1]) * found
    drawn = model.draw(n, 3, seed=1)
    assert drawn.dtype == np.int32
    share = np.bincount(drawn @ [16, 4, 1], minlength=64) / n
    assert np.all(np.abs(share - law) < 5 * np.sqrt(law * (1 - law) / n) + 1e-12)
    flat = np.full(64, 1 / 64)  # the negative control
    assert np.any(np.abs(share - flat) > 20 * np.sqrt(flat / n))


def test_bits_per_character_of_documentation():
    """Numbers counted independently; they are of the text of Python 3.11 alone."""
    import hashlib

    whole, _ = text_of.documentation()
    if hashlib.sha256(whole.encode()).hexdigest() != DOCUMENTATION:
        pytest.skip("another version of the text")
    assert (len(whole), len(set(whole))) == (465_048, 103)
    symbols = sorted(set(whole))
    tokens = np.searchsorted(symbols, list(whole))
    cut = len(tokens) - len(tokens) // 10
    model = ngrams.WittenBell(tokens[:cut], 103, 6)
    bits = [ngrams.cross_entropy(model.upto(n), tokens[None, cut:]) / np.log(2) for n in range(1, 7)]
    np.testing.assert_allclose(bits, [4.671, 3.344, 2.469, 2.026, 1.904, 1.932], atol=1e-3)
    known = data.text().judge.args[0]
    assert round(known.share(np.asarray(known.held_out)[None]), 3) == 0.950


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "own.txt"
    path.write_text("abcab ééxz " * 40 + "bca ñ cab " * 9, encoding="utf-8")
    return str(path)


def test_windows_of_a_file_and_its_symbols(written):
    whole = ("abcab ééxz " * 40) + "bca ñ cab " * 9
    found = data.text(written, length=6, symbols=7)
    cut = len(whole) - len(whole) // 10
    kept = sorted(" abcéx")  # six most frequent: z falls behind, as the first of equals by its number goes first
    read = lambda part: [kept.index(c) if c in kept else 6 for c in part]
    assert len(found.train) == cut - 5
    assert len(found.held_out) == len(whole) // 10 // 6
    np.testing.assert_array_equal(found.train.gather(np.array([3])).x, [read(whole[3:9])])
    np.testing.assert_array_equal(found.held_out.gather(np.array([1])).x, [read(whole[cut + 6 : cut + 12])])
    assert found.train.gather(np.array([0])).x.dtype == np.int32
    assert found.shape == (6,)
    assert 6 in found.held_out.gather(np.arange(4)).x  # "ñ" and "z": unknown to the kept symbols
    assert data.text(written, length=6, symbols=7).fingerprint == found.fingerprint
    assert data.text(written, length=6, symbols=8).fingerprint != found.fingerprint


def test_shuffled_text_keeps_frequencies_alone(written):
    plain, shuffled = data.text(written, length=6), data.text(written, length=6, shuffled=True)
    for part in ("train", "held_out"):
        a, b = (getattr(d, part).tokens for d in (plain, shuffled))
        np.testing.assert_array_equal(np.sort(a), np.sort(b))
        assert np.mean(a == b) < 0.5
    bits = lambda d, n: ngrams.cross_entropy(ngrams.WittenBell(d.train.tokens, 128, n), d.held_out.tokens[None])
    assert bits(plain, 3) < 0.7 * bits(plain, 1)
    assert bits(shuffled, 3) > bits(shuffled, 1)


def test_a_nul_of_a_file_is_read_as_a_symbol_of_its_own(tmp_path):
    """Left out, it would make one word of the two beside it, and a window shorter than it is."""
    path = tmp_path / "nul.txt"
    path.write_text("ab\0cd efg " * 20, encoding="utf-8")
    found = data.text(str(path), length=8)
    known = found.judge.args[0]
    assert known.read(found.train.gather(np.array([0, 2])).x) == ["ab\0cd ef", "\0cd efg "]
    assert known.words == {"ab", "cd", "efg"}
    assert known.read(np.array([[127, 0]], np.int32)) == [text_of.OTHER + "\0"]


def test_words_of_samples_are_counted_where_windows_do_not_cut_them(written):
    """Runs at the ends of a window may be parts of words: they do not count."""
    assert text_of.whole_runs("xabc ab bca x") == ["ab", "bca"]
    assert text_of.whole_runs(" abc") == []
    found = data.text(written, length=6)
    known = found.judge.args[0]
    encode = lambda line: [known.symbols.index(c) for c in line]
    x = np.array([encode(" abcab bca "), encode("a bb abcabx")], np.int32)
    assert known.share(x) == 2 / 3  # abcab, bca, bb: the runs at the ends of the second window are cut
    assert known.share(x, 3) == 1  # abcab, bca
    assert known.share(x, 6) is None
    (section,) = found.judge(Drawn(x, {}), found)
    assert section.results["metrics"]["share of words"]["value"] == 2 / 3
    assert set(section.results["text"]["words"]) == {"samples", "held out", "1-grams", "3-grams", "5-grams"}
    assert "'a bb abcabx'" in section.text


def test_a_text_without_latin_letters_has_no_share_of_words(tmp_path):
    """Neither a number nor nan, which is no JSON: a hole."""
    path = tmp_path / "russian.txt"
    path.write_text("слово за словом " * 40, encoding="utf-8")
    found = data.text(str(path), length=16)
    (section,) = found.judge(Drawn(found.train.gather(np.arange(4)).x, {}), found)
    assert section.results["metrics"]["share of words"] == {"value": None, "floor": None}
    assert "| samples | - | - |" in section.text
    json.dumps(section.results, allow_nan=False)


def test_words_have_the_bound_of_their_law():
    """With conditionals by counting the masked bound of every word is log n: Beta functions for the integral."""
    law = data.words(length=4).train.x
    n, length = law.shape
    assert len(np.unique(law, axis=0)) == n > 100
    for x in law[:: n // 5]:
        bound = 0.0
        for hidden in itertools.product((False, True), repeat=length):
            k = sum(hidden)
            probs = words_of.conditionals(law, np.where(hidden, 26, x))
            nats = -np.log(probs[np.arange(length), x])[np.array(hidden)].sum()
            bound += special.beta(k, length - k + 1) * nats if k else 0.0
        assert math.isclose(bound, math.log(n), rel_tol=1e-12)


def test_judge_of_words_and_its_control(tmp_path):
    path = tmp_path / "list"
    path.write_text("Abc\nabd\nbbd\nabcd\nab1cd\nxyz xyz\n")
    found = data.words(str(path), length=3)
    assert ["".join(chr(97 + v) for v in word) for word in found.train.x] == ["abc", "abd", "bbd", "xyz"]
    x = np.array([[0, 1, 2]] * 3 + [[0, 0, 0]], np.int32)
    (section,) = found.judge(Drawn(x, {}), found)
    told = section.results["words"]
    assert (told["words"], told["share"]) == (4, 0.75)
    assert told["total_variation"] == 0.5 * (0.5 + 3 * 0.25 + 0.25)
    marginals = (0.5 * 0.75 * 0.25) + (0.5 * 0.75 * 0.5) + (0.25 * 0.75 * 0.5) + 0.25**3
    assert told["product_share"] == marginals
    assert told["entropy"] == math.log(4) / 3
    shuffled = data.words(str(path), length=3, shuffled=True)
    np.testing.assert_array_equal(np.sort(shuffled.train.x, 0), np.sort(found.train.x, 0))


@pytest.mark.slow
@pytest.mark.parametrize("config", ["configs/text.py:tiny", "configs/digit_tokens.py:tiny"])
def test_config_trains_and_resumes(config, tmp_path, capsys):
    found = assert_trains_and_resumes(config, tmp_path, capsys)
    assert found["masked"]["bound"] < found["masked"]["product_of_marginals"] + 1.0


def test_digits_as_tokens_are_the_levels_of_the_same_digits():
    digits, tokens = data.digits(), data.digit_tokens()
    for part in ("train", "held_out"):
        a, b = (getattr(d, part).gather(np.arange(297)) for d in (digits, tokens))
        assert b.x.dtype == np.int32
        assert (b.x.min(), b.x.max()) == (0, 16)
        np.testing.assert_array_equal(tokens.to_data(b.x), a.x)
        np.testing.assert_array_equal(b.given["label"], a.given["label"])
    assert tokens.judge is digits.judge
    fine = data.digit_tokens(bins=256).train.x
    assert (fine.max(), len(np.unique(fine))) == (255, 17)
    np.testing.assert_array_equal(np.rint(fine / 255 * 16), tokens.train.x)


def test_controls_of_digits_keep_what_they_say(monkeypatch):
    plain, permuted, shuffled = (data.digit_tokens(**o) for o in ({}, {"permuted": True}, {"shuffled": True}))
    flat = lambda d: d.train.x.reshape(1500, 64)
    np.testing.assert_array_equal(np.sort(flat(plain), 1), np.sort(flat(permuted), 1))
    assert not np.array_equal(flat(plain), flat(permuted))
    monkeypatch.setattr(digits_of, "digit_gate", lambda drawn, dataset: [drawn.x, dataset.some("train", 9).x])
    x = permuted.to_data(permuted.held_out.x)
    drawn, train = permuted.judge(Drawn(x, {}), data.undone(permuted))  # the gate sees digits as they were
    np.testing.assert_array_equal(drawn, plain.to_data(plain.held_out.x))
    np.testing.assert_array_equal(train, plain.to_data(plain.train.x[:9]))
    np.testing.assert_array_equal(np.sort(flat(shuffled), 0), np.sort(flat(plain), 0))
    apart = lambda d: np.abs(np.corrcoef(flat(d)[:, 18], flat(d)[:, 26])[0, 1])
    assert apart(plain) > 0.4
    assert apart(shuffled) < 0.1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: data.text("/nowhere/x.txt"), "There is no file '/nowhere/x.txt'; expected a text in UTF-8"),
        (lambda: data.text(most=500), "500 characters, of which the last tenth .* length 64 take 640 at least"),
        (lambda: data.text(length=0), "text: length is 0, expected an integer >= 1"),
        (lambda: data.text(symbols=1), "text: symbols is 1, expected an integer >= 2"),
        (lambda: data.text(most=-3), "text: most is -3"),
        (lambda: data.words(length=100), "has 0 words of 100 letters a .. z, expected two at least"),
        (lambda: data.words("/nowhere/x.txt"), "There is no file"),
        (lambda: words_of.conditionals(np.array([[0, 1]]), np.array([1, 26])), r"No word has the letters \[1, 26\]"),
        (lambda: data.digit_tokens(bins=16), "bins is 16, expected 17, the levels, or 256"),
        (lambda: data.digit_tokens(permuted=True, shuffled=True), "got permuted and shuffled; expected one of them"),
        (lambda: ngrams.WittenBell(np.array([0, 3]), 3, 1), r"expected integers 0 .. 2"),
        (lambda: ngrams.WittenBell(np.array([0]), 3, 2), r"take a text of as many tokens, got one of shape \(1,\)"),
        (lambda: ngrams.WittenBell(np.zeros(99, int), 2**20, 4), "n is 4, expected at most 2 for 1048576 tokens"),
        (lambda: ngrams.WittenBell(np.zeros(99, int), 2, 2).upto(3), "order is 3, expected at most 2"),
    ],
)
def test_bad_input_is_one_readable_line(make, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        make()
    assert "\n" not in str(error.value)


def test_a_file_that_is_no_text_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "bytes"
    path.write_bytes(b"abc\xff")
    with pytest.raises(ValueError, match="bytes is not UTF-8 at byte 3: convert it"):
        data.text(str(path))
    monkeypatch.setattr(text_of, "LARGEST", 3)
    with pytest.raises(ValueError, match="has 4 bytes, expected at most 3: cut it"):
        data.text(str(path))


def test_a_text_that_is_cut_says_so_in_its_report(tmp_path):
    file = tmp_path / "own.txt"
    file.write_text("one two three four " * 60)
    told = lambda **options: data.text(str(file), length=8, symbols=30, **options).judge
    lines = lambda judge: judge(Drawn(np.zeros((2, 8), np.int32), {}), None)[0].text
    assert "own.txt, the first 400 of 1,140 characters (data.most): 360 training and 40 held-out" in lines(
        told(most=400)
    )
    assert "the first" not in lines(told()) + lines(told(most=5000))
