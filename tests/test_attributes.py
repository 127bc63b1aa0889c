"""What a linear probe reads of captioned samples: closed forms, the control at one half, copies shown."""

import numpy as np
import pytest
from scipy import stats

from diffjax.data.source import Arrays, in_memory
from diffjax.data.vocabulary import Vocabulary
from diffjax.method import Drawn
from diffjax.metrics import attributes
from diffjax.metrics.attributes import Probe, auc

RNG = np.random.default_rng(0)
WORDS = Vocabulary(("blue", "large", "red"), 2)
TEXTS = ("red", "blue", "large red", "large blue")
COLORS = {"red": (1.0, -1.0, -1.0), "blue": (-1.0, -1.0, 1.0)}


def test_auc_is_mann_whitneys():
    """Against SciPy's U over its most, ties counted half; of a constant score one half."""
    scores, has = np.round(RNG.normal(size=60), 1), RNG.uniform(size=60) < 0.3
    u = stats.mannwhitneyu(scores[has], scores[~has]).statistic
    assert auc(scores, has) == pytest.approx(u / (has.sum() * (~has).sum()), rel=1e-12)
    assert auc(np.zeros(5), np.arange(5) < 2) == 0.5
    assert auc(np.arange(5.0), np.arange(5) > 2) == 1.0
    with pytest.raises(ValueError, match="5 of 5 have the attribute, expected some with it and some without"):
        auc(np.zeros(5), np.ones(5, bool))


def test_the_probe_is_ridge_regression():
    """The normal equations of centred rows, one attribute at a time: as many unknowns as entries."""
    x, has = RNG.normal(size=(12, 3, 2)), RNG.uniform(size=(12, 2)) < 0.5
    rows = x.reshape(12, 6) - x.reshape(12, 6).mean(0)
    penalty = 0.7 * np.square(rows).sum() / 12
    weights = np.linalg.solve(rows.T @ rows + penalty * np.eye(6), rows.T @ (has - has.mean(0)))
    probe, fresh = Probe(x, has, ridge=0.7), RNG.normal(size=(4, 3, 2))
    expected = (fresh.reshape(4, 6) - x.reshape(12, 6).mean(0)) @ weights
    np.testing.assert_allclose(probe.scores(fresh), expected, rtol=1e-8)


def images(texts, noise=0.3):
    """Images 4 x 4 x 3 of the colour that the caption says; a large one fills the image."""
    x = np.full((len(texts), 4, 4, 3), -1.0)
    for one, text in zip(x, texts):
        side = 4 if "large" in text else 2
        one[:side, :side] = COLORS[text.split()[-1]]
    return (x + noise * RNG.normal(size=x.shape)).astype(np.float32)


def captioned(n=200, m=60, noise=0.3):
    """A data set of images by their captions, which the network of no test reads."""
    parts = []
    for count in (n, m):
        texts = [TEXTS[i % 4] for i in range(count)]
        rows = np.stack([WORDS.tokens(text) for text in texts])
        parts.append(Arrays(images(texts, noise), text=rows))
    return in_memory("colours", *parts, classes=None)._replace(vocabulary=WORDS, judge=attributes.judge)


@pytest.fixture(scope="module")
def colours():
    return captioned()


def read(dataset, x, **given):
    (section,) = attributes.read(Drawn(x, given), dataset)
    return section


def test_samples_that_follow_their_captions_read_as_real_ones(colours):
    held = colours.held_out.gather(colours.places("held_out", 60))
    texts = list(map(WORDS.text, held.given["text"]))
    found = read(colours, images(texts), text=held.given["text"]).results["metrics"]["attribute AUC"]
    assert found["value"] > 0.99
    assert found["floor"] > 0.99
    assert abs(found["control"] - 0.5) < 0.2


def test_samples_of_shuffled_captions_do_not(colours):
    """Drawn by the captions in another order, or by none at all: one half, within four standard deviations."""
    held = colours.held_out.gather(colours.places("held_out", 60))
    texts = list(map(WORDS.text, held.given["text"]))
    other = [texts[i] for i in RNG.permutation(60)]
    spread = np.sqrt((60 + 1) / 12 / 30 / 30)  # of one AUC of 30 against 30 without a signal
    for given in ({"text": held.given["text"]}, {}):
        found = read(colours, images(other), **given).results["metrics"]["attribute AUC"]
        assert abs(found["value"] - 0.5) < 4 * spread
        assert found["floor"] > 0.99


def test_new_combinations_are_told_apart(colours):
    """Captions with an unknown word are left out of a second number, whose own floor stands beside it."""
    held = colours.held_out.gather(colours.places("held_out", 60))
    text = held.given["text"].copy()
    text[:30, 1] = 2  # unknown
    found = read(colours, held.x, text=text).results["metrics"]
    assert found["attribute AUC, new combinations"]["captions"] == 30
    assert found["attribute AUC, new combinations"]["value"] > 0.99
    assert "attribute AUC, new combinations" not in read(colours, held.x, text=held.given["text"]).results["metrics"]


def test_copies_are_counted_and_shown(colours):
    train, held = colours.train.x, colours.held_out.gather(colours.places("held_out", 60))
    copied = np.where(np.arange(60)[:, None, None, None] < 20, train[:60], images([TEXTS[i % 4] for i in range(60)]))
    (section,) = attributes.copies(Drawn(copied, {"text": held.given["text"]}), colours)
    assert 20 / 60 <= section.results["metrics"]["copied share"]["value"] <= 24 / 60
    (figure,) = section.figures
    groups, columns = figure.args
    assert (list(groups), columns) == (["samples", "nearest training", "held out"], 4)
    np.testing.assert_array_equal(groups["nearest training"][:16], train[:16])
    (fresh,) = attributes.copies(Drawn(held.x, {"text": held.given["text"]}), colours)
    assert fresh.results["metrics"]["train-neighbour ratio"]["value"] == 1.0


def test_classes_are_attributes_too(colours):
    label = lambda part: np.int32([2 * ("red" in WORDS.text(row)) for row in part.given["text"]])
    parts = [Arrays(part.x, label(part), text=part.given["text"]) for part in (colours.train, colours.held_out)]
    named = in_memory("colours", *parts, classes=3)._replace(vocabulary=WORDS, names=("cold", "none", "warm"))
    held = named.held_out.gather(named.places("held_out", 60))
    section = read(named, held.x, text=held.given["text"])
    assert "| warm | " in section.text
    assert "| none | " not in section.text  # which no image has


def test_what_a_user_asked_for_is_read_and_not_what_seeds_stand_for(colours):
    """Labels and texts of a user's own, unlike those of the held-out examples of the seeds."""
    label = lambda rows: np.int32(["red" in WORDS.text(row) for row in rows])
    parts = [
        Arrays(part.x, label(part.given["text"]), text=part.given["text"]) for part in (colours.train, colours.held_out)
    ]
    named = in_memory("colours", *parts, classes=2)._replace(vocabulary=WORDS, names=("cold", "warm"))
    asked = named.held_out.gather(named.places("held_out", 60)).given["text"][RNG.permutation(60)]
    x = images(list(map(WORDS.text, asked)))
    alone = read(named, x, label=label(asked))
    assert alone.results["metrics"]["attribute AUC"]["value"] > 0.99
    assert "| warm | " in alone.text
    assert "| red | " not in alone.text  # nobody said which words
    assert read(named, x, text=asked).results["metrics"]["attribute AUC"]["value"] > 0.99
    assert "| warm | " not in read(named, x, text=asked).text
    (one,) = attributes.read(Drawn(x, {"text": np.repeat(asked[:1], 60, 0)}), named)
    assert "attributes" in one.results["left_out"]
    (section,) = attributes.copies(Drawn(x, {"text": asked}), named)
    assert "and some held-out image" in section.text


def test_what_too_few_samples_cannot_say_is_left_out(colours):
    held = colours.held_out.gather(colours.places("held_out", 2))
    section = read(colours, held.x, text=held.given["text"])
    assert "attributes" in section.results["left_out"]


def test_seeds_stand_for_their_captions():
    """Where some samples were not finite, the others are still read by their own captions, beside their own images."""
    noisy, at = captioned(noise=6.0), np.arange(60)[::-1][:40]
    held = noisy.held_out.gather(noisy.places("held_out", 60))
    (section,) = attributes.read(Drawn(held.x[at], {"text": held.given["text"][at]}, seeds=at), noisy)
    found = section.results["metrics"]["attribute AUC"]
    assert found["value"] == found["floor"] < 0.99


def test_the_judge_has_all_three(colours):
    held = colours.held_out.gather(colours.places("held_out", 60))
    sections = colours.judge(Drawn(held.x, {"text": held.given["text"]}), colours)
    names = {name for section in sections for name in section.results.get("metrics", {})}
    assert {"exact W2", "attribute AUC", "copied share"} <= names
