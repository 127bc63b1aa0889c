"""Splits: every class in both parts, in proportion; nothing that repeats along a file decides who is held out."""

import numpy as np
import pytest
from PIL import Image

from diffjax import data
from diffjax.data import splits

RNG = np.random.default_rng(0)
PATTERNS = {
    "none": lambda n: None,
    "periodic": lambda n: np.arange(n) % 10,
    "sorted": lambda n: np.sort(np.arange(n) % 7),
    "pairs": lambda n: np.arange(n) // 2,
    "one class": lambda n: np.zeros(n, int),
    "each its own": np.arange,
    "one odd": lambda n: (np.arange(n) == 0).astype(int),
    "a pair among many": lambda n: np.maximum(np.arange(n) - 1, 0),
    "skewed": lambda n: np.minimum(RNG.geometric(0.5, n), 9),
    "with gaps": lambda n: RNG.choice([3, 2**31 - 1], n),
}
RULES = {
    "stratified": splits.stratified,
    "by_name": lambda n, share, label: splits.by_name([f"{i}.jpg" for i in range(n)], share, label),
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_any_two_examples_load_and_every_class_of_two_is_in_both_parts(pattern, rule):
    for n in (2, 3, 10, 24, 300):
        for share in (1e-9, 0.1, 0.5, 1 - 1e-9):
            label = PATTERNS[pattern](n)
            out = RULES[rule](n, share, label)
            assert out.shape == (n,)
            assert 0 < out.sum() < n
            for c in [] if label is None else np.unique(label):
                here = out[label == c]
                assert len(here) < 2 or 0 < here.sum() < len(here), (n, share, c)


def test_a_periodic_file_loses_no_class(tmp_path):
    """The label is the position's last digit; a stride of ten would hold out one class and train on nine."""
    label = np.arange(400) % 10
    np.savez(tmp_path / "a.npz", x=RNG.normal(size=(400, 3)), label=label)
    for d in (data.npz(str(tmp_path / "a.npz")), data.arrays(RNG.normal(size=(400, 3)), label=label)):
        assert np.bincount(d.held_out.given["label"]).tolist() == [4] * 10
        assert np.bincount(d.train.given["label"]).tolist() == [36] * 10


@pytest.mark.parametrize("period", [2, 3, 7, 10, 24, 60])
def test_no_period_of_the_position_decides(period):
    """Frames, days of weeks, A/B pairs without labels: each residue has its share, to 4.5 hypergeometric deviations."""
    n, share = 6000, 0.1
    out = splits.stratified(n, share)
    assert out.sum() == 600
    counts = np.bincount(np.arange(n)[out] % period, minlength=period)
    size = n / period
    std = np.sqrt(600 * (1 / period) * (1 - 1 / period) * (n - 600) / (n - 1))
    np.testing.assert_allclose(counts, size * share, atol=4.5 * std)


def test_classes_are_held_out_in_proportion_to_within_one():
    label = np.repeat(np.arange(5), [1000, 300, 77, 40, 3])[np.random.default_rng(1).permutation(1420)]
    out = splits.stratified(1420, 0.15, label)
    np.testing.assert_allclose(np.bincount(label[out]), 0.15 * np.bincount(label), atol=1)
    assert abs(out.sum() - 213) <= 1


def test_the_only_example_of_a_class_is_trained_on_where_others_suffice():
    label = np.concatenate([np.zeros(50, int), [1], np.full(50, 2)])
    for rule in RULES.values():
        assert not rule(101, 0.2, label)[50]
    many = np.concatenate([[0, 0], np.arange(1, 1001)])  # but a set of such classes is split all the same
    assert splits.stratified(1002, 0.1, many).sum() == pytest.approx(100, abs=1)


def test_names_decide_alone_and_a_new_file_moves_no_other():
    names = [f"{i}.png" for i in range(200)]
    before = dict(zip(names, splits.by_name(names, 0.2)))
    more = sorted([*names, "new.png", "a/b.png"])
    after = dict(zip(more, splits.by_name(more, 0.2)))
    assert all(after[name] == out for name, out in before.items())
    assert 20 < sum(before.values()) < 60


@pytest.mark.parametrize(("count", "suffix"), [(24, "jpg"), (10, "png"), (2, "png")])
def test_a_small_folder_loads(tmp_path, count, suffix):
    for i in range(count):
        Image.fromarray(RNG.integers(0, 256, (4, 4, 3), dtype=np.uint8)).save(tmp_path / f"{i}.{suffix}")
    d = data.folder(str(tmp_path))
    assert len(d.train) + len(d.held_out) == count
    assert min(len(d.train), len(d.held_out)) >= 1


def test_a_class_of_one_image_is_trained_on(tmp_path):
    for i in range(30):
        name = tmp_path / ("rare" if i == 0 else "often") / f"{i}.png"
        name.parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((4, 4), i, np.uint8)).save(name)
    for held_out in (0.1, 0.9):
        d = data.folder(str(tmp_path), channels=1, held_out=held_out)
        assert (d.train.given["label"] == 1).sum() == 1
        assert (d.held_out.given["label"] == 0).all()


@pytest.mark.parametrize("n", [2, 3])
def test_two_examples_of_anything_load(n, tmp_path):
    for x in (np.zeros((n, 1)), np.zeros((n, 4, 4), np.uint8)):
        np.savez(tmp_path / "x.npz", x=x, z=x.astype(float), label=np.arange(n))
        for options in ({}, {"label": None}, *([{"label": None, "z": "z"}] if x.ndim == 2 else [])):
            d = data.npz(str(tmp_path / "x.npz"), **options)
            assert (len(d.held_out), len(d.train)) == (1, n - 1)


@pytest.mark.parametrize("share", [0, 1, 0.0, 1.0, -0.1, float("nan"), True, None])
def test_shares_that_are_none(share):
    with pytest.raises(ValueError, match=r"held_out is .*, expected a share between 0 and 1\."):
        splits.stratified(10, share)


def test_one_example_is_not_split():
    with pytest.raises(ValueError, match="Got 1 examples, expected two or more"):
        data.arrays(np.zeros((1, 3)))
