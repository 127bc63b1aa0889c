"""Judging samples in a feature space: every number by its definition, its floors, and what is left out or refused."""

import numpy as np
import pytest

from diffjax import data
from diffjax.method import Drawn, Section, merged
from diffjax.metrics import features, frechet, judges, kid, manifold, spaces, statistics


@pytest.fixture(scope="module")
def digits():
    return data.digits()


@pytest.fixture(scope="module")
def drawn(digits):
    """Training digits in the place of samples, of which some leave the lattice and the range."""
    x = digits.train.gather(np.arange(900, 1300)).x
    return Drawn(np.where(np.abs(x) == 1, 1.2 * x, x + 0.05), {})


@pytest.fixture(scope="module")
def judged(digits, drawn):
    reference = statistics.measure(features.digits(), digits.train)
    return spaces.judge(features.digits(), reference, "train.npz")(drawn, digits)


def test_every_number_is_its_definition(digits, drawn, judged):
    found = merged(judged)["features"]
    space, rows = features.digits(), found["metrics"]
    assert (found["space"], found["fingerprint"]) == ("digits", space.fingerprint)
    held_out = digits.some("held_out", 10_000).x
    samples = digits.train.gather(np.arange(900, 1300)).x  # what was added is rounded away
    real, fake = space.of(held_out), space.of(samples)
    n = len(real)
    assert {row["n"] for name, row in rows.items() if "train.npz" not in name} == {297}
    assert rows["Frechet distance"]["value"] == pytest.approx(frechet.frechet(fake[:n], real), rel=1e-6)
    assert rows["Frechet distance"]["expected"] == pytest.approx(frechet.floor(frechet.fit(real), n, n))
    assert rows["KID"]["value"] == pytest.approx(kid.kid(fake[:n], real), rel=1e-6)
    four = manifold.manifold(real, fake[:n])
    assert [rows[f"{name}, k = 5"]["value"] for name in four._fields] == pytest.approx(list(four))
    assert [rows[f"{name}, k = 5"]["expected"] for name in ("density", "precision")] == [1.0, None]
    row = rows["Frechet distance to train.npz"]
    law = frechet.fit(space.of(digits.train.gather(np.arange(len(digits.train))).x))
    assert row["n"] == 400
    assert row["value"] == pytest.approx(frechet.distance(frechet.fit(fake), law), rel=1e-4)
    assert row["floor"] == pytest.approx(frechet.distance(frechet.fit(real), law), rel=1e-4)
    assert row["expected"] == pytest.approx(frechet.floor(law, 400, 1500), rel=1e-4)


def test_floors_are_below_the_gaussian_fit(judged):
    rows = merged(judged)["features"]["metrics"]
    assert rows["Frechet distance"]["gaussian"] > 5 * rows["Frechet distance"]["floor"]
    assert rows["KID"]["gaussian"] > 5 * abs(rows["KID"]["floor"])


def test_the_report_names_the_space_its_fingerprint_n_and_the_floor(judged):
    text = "".join(section.text for section in judged)
    assert "## Features: digits" in text
    assert features.digits().fingerprint in text
    assert "| metric | n | value | floor | expected | Gaussian fit |" in text
    assert "| Frechet distance | 297 |" in text


def test_what_so_few_samples_cannot_say_is_left_out_with_a_word(digits, judged):
    """297 samples of 48 features give no line to extrapolate; 40 no covariance; 5 no fifth neighbour."""
    left = merged(judged)["left_out"]
    assert set(left) == {"Frechet distance, n to infinity"}
    assert "expected at least 480 samples" in left["Frechet distance, n to infinity"]
    few = lambda n: merged(spaces.judge(features.digits())(Drawn(digits.train.gather(np.arange(n)).x, {}), digits))
    found = few(40)
    assert (
        "40 samples have no full covariance of 48 features: expected at least 49"
        in found["left_out"]["Frechet distance"]
    )
    assert set(found["features"]["metrics"]) == {
        "KID",
        "KID, standard error",
        *(f"{name}, k = 5" for name in manifold.Manifold._fields),
    }
    assert "5 samples have no 5-th neighbour each" in few(5)["left_out"]["precision, k = 5"]


def test_a_reference_without_n_has_no_floor_and_one_of_too_few_images_is_left_out(digits, drawn):
    law = frechet.Gaussian(np.zeros(64), np.eye(64))
    judge = lambda n: spaces.judge(features.pixels(), statistics.Statistics(law, n, None, None, None), "edm.npz")
    row = merged(judge(None)(drawn, digits))["features"]["metrics"]["Frechet distance to edm.npz"]
    assert row["expected"] is None
    left = merged(judge(64)(drawn, digits))["left_out"]["Frechet distance to edm.npz"]
    assert left == "64 images of edm.npz have no full covariance of 64 features: expected at least 65"


def test_the_report_says_what_a_reader_cannot_know(digits, drawn, judged):
    """Nobody knows of which space moments in a file are; and of pixels a Gaussian's moments are no baseline."""
    law = frechet.Gaussian(np.zeros(64), np.eye(64))
    unknown = statistics.Statistics(law, None, None, None, None)
    told = "".join(section.text for section in spaces.judge(features.pixels(), unknown, "edm.npz")(drawn, digits))
    assert "edm.npz does not say of which space its moments are" in told
    assert "In pixels the Gaussian fit has the data's own mean and covariance" in told
    text = "".join(section.text for section in judged)
    assert "is not checked" not in text
    assert "In pixels" not in text


def test_the_floor_of_labelled_samples_has_their_labels(digits):
    """All samples are zeros: so is their floor, and both are far from held-out digits of all classes."""
    at = np.flatnonzero(digits.train.labels == 0)[:100]
    drawn = Drawn(digits.train.gather(at).x, {"label": np.zeros(100, np.int32)})
    row = merged(spaces.judge(features.digits())(drawn, digits))["features"]["metrics"]["Frechet distance"]
    assert row["floor"] > 5 * row["expected"]
    assert row["value"] == pytest.approx(row["floor"], rel=0.2)


def test_the_judge_of_features_stands_beside_that_of_the_data_set(digits, drawn):
    digits = digits._replace(judge=lambda drawn, dataset: [Section({"judged": len(drawn.x)})])
    found = merged(judges.judged(drawn, digits, spaces.judge(features.pixels())))
    assert found["features"]["space"] == "pixels"
    assert found["judged"] == 400
    broken = Drawn(np.where(np.arange(400).reshape(-1, 1, 1, 1) == 7, np.nan, drawn.x), {})
    again = merged(judges.judged(broken, digits, spaces.judge(features.pixels())))
    assert (again["nonfinite"]["seeds"], again["judged"]) == ([7], 399)
    assert again["features"]["space"] == "pixels"


def test_images_are_kept_as_files_keep_them():
    x = np.array([-1.3, -1.0, -0.99, 0.004, 0.9999, 7.0])
    expected = np.array([0, 0, 1, 128, 255, 255]) / 127.5 - 1
    np.testing.assert_allclose(spaces.kept(x, 256), expected, atol=1e-12)
    np.testing.assert_array_equal(spaces.kept(x, None), x)


SHAPE = (8, 8, 1)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("digts", {}, None, SHAPE), "nearest is 'digits'"),
        (("digits", {"size": 3}, None, SHAPE), "no option 'size'"),
        (("digits", {}, None, (28, 28, 1)), r"digits takes images \(n, 8, 8, 1\), n >= 1, got \(1, 28, 28, 1\)"),
        (
            (None, {"size": 96}, None, SHAPE),
            "--features.size needs --features, .*it may be digits, efficientnet_lite0, mnist, pixels",
        ),
        ((None, {}, "stats.npz", SHAPE), "--reference=stats.npz needs --features"),
        (("pixels", {}, "nowhere.npz", SHAPE), "no file 'nowhere.npz'"),
    ],
)
def test_bad_words_of_the_command_line_are_refused(words, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        spaces.asked(*words)


def test_statistics_of_another_space_are_refused_and_the_folder_is_named(tmp_path, digits):
    path = tmp_path / "stats.npz"
    statistics.write(path, statistics.measure(features.pixels(), digits.train))
    with pytest.raises(
        ValueError, match=r"stats\.npz are of the space pixels .*, expected digits .*: features of two spaces"
    ):
        spaces.asked("digits", {}, str(path), SHAPE)
    judge, named = spaces.asked("pixels", {}, str(path), SHAPE)
    assert judge is not None
    assert named == ["features=pixels", "reference=stats.npz"]
    assert spaces.asked(None, {}, None, SHAPE) == (None, [])


def test_statistics_without_a_name_are_refused_by_their_number_before_anything_is_drawn(tmp_path):
    np.savez(tmp_path / "stats.npz", mu=np.zeros(7), sigma=np.eye(7))
    with (
        pytest.warns(UserWarning, match="does not say n, features"),
        pytest.raises(ValueError, match=r"statistics in stats\.npz are of 7 features, and the space has 64"),
    ):
        spaces.asked("pixels", {}, str(tmp_path / "stats.npz"), SHAPE)


def test_a_function_of_ones_own_that_makes_no_features_is_refused_before_anything_is_drawn():
    with pytest.raises(ValueError, match=r"makes \(\) of 64 images, expected \(64, d\)"):
        spaces.asked("numpy:mean", {}, None, SHAPE)
