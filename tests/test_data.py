"""Data sets held against their definitions: digits, toys, and the sources that they are made of."""

import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from numbers_source import Numbers

from diffjax import data
from diffjax.config import ConfigError, build
from diffjax.data import source

TOYS = ["moons", "eight_gaussians", "modes", "checkerboard", "spirals", "swiss_roll"]


def everything(part):
    return part.gather(np.arange(len(part)))


# --- digits ---------------------------------------------------------------------------------------------------------


def test_digits_are_all_of_scikit_learns_with_17_exact_levels():
    from sklearn.datasets import load_digits

    raw, d = load_digits(), data.digits()
    assert (len(d.train), len(d.held_out), d.shape, d.classes, d.levels) == (1500, 297, (8, 8, 1), 10, 17)
    parts = [everything(part) for part in (d.train, d.held_out)]
    ours = {((p.x[i, ..., 0] + 1) * 8).tobytes() + bytes([p.given["label"][i]]) for p in parts for i in range(len(p.x))}
    theirs = {raw.images[i].astype(np.float32).tobytes() + bytes([raw.target[i]]) for i in range(1797)}
    assert ours == theirs  # also: x = level / 8 - 1 without rounding, so no image is in both parts
    assert len(theirs) == 1797


def test_digits_split_is_stratified_and_recorded():
    d = data.digits()
    counts = [np.bincount(part.given["label"], minlength=10) for part in (d.train, d.held_out)]
    np.testing.assert_allclose(counts[1], (counts[0] + counts[1]) * 297 / 1797, atol=1)
    from sklearn.datasets import load_digits

    raw, passed, held_out = load_digits(), 0, set()
    for c in range(10):
        for i in [i for i in range(1797) if raw.target[i] == c]:
            passed += 297
            if passed >= 1797:
                passed -= 1797
                held_out.add(i)
    np.testing.assert_array_equal(d.held_out.x[..., 0], raw.images[sorted(held_out)] / 8 - 1)
    np.testing.assert_array_equal(d.held_out.given["label"], raw.target[sorted(held_out)])
    assert d.fingerprint == "833d3076d9eaeed2"  # recorded: a change of content, order or split is a change of results


# --- toys -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TOYS)
def test_toys_are_points_of_unit_scale_and_held_out_points_are_others(name):
    d = build(data, {"name": name, "n": 4000, "held_out": 3000, "seed": 3})
    x, y = everything(d.train).x, everything(d.held_out).x
    assert (x.shape, y.shape, x.dtype, d.shape, d.levels) == ((4000, 2), (3000, 2), np.float32, (2,), None)
    assert 0.4 < (x**2).sum(1).mean() / 2 < 1.2
    np.testing.assert_allclose(x.mean(0), y.mean(0), atol=0.1)  # the same law
    assert not {p.tobytes() for p in x} & {p.tobytes() for p in y}  # other points


@pytest.mark.parametrize("name", TOYS)
def test_toys_are_functions_of_their_options(name):
    make = lambda **options: build(data, {"name": name, "n": 50, "held_out": 20, **options})
    a, b, more, other = make(), make(), make(n=70), make(seed=1)
    assert a.fingerprint == b.fingerprint
    assert len({a.fingerprint, more.fingerprint, other.fingerprint, make(noise=0.3).fingerprint}) == 4
    np.testing.assert_array_equal(a.train.x, more.train.x[:50])
    assert not np.any(a.train.x == other.train.x)


def test_moons_are_half_circles():
    d = data.moons(n=3000, noise=0.0)
    x, upper = d.train.x + np.asarray([0.5, 0.25]), d.train.given["label"] == 0
    np.testing.assert_allclose(np.linalg.norm(x[upper], axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(x[~upper] - np.asarray([1.0, 0.5]), axis=1), 1, atol=1e-6)
    assert x[upper][:, 1].min() >= 0
    assert x[~upper][:, 1].max() <= 0.5
    assert 0.45 < upper.mean() < 0.55


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.37])
def test_eight_gaussians_have_their_centres_and_noise(noise):
    d = data.eight_gaussians(n=16_000, noise=noise)
    angle = 2 * np.pi * d.train.given["label"] / 8
    residual = d.train.x - np.sqrt(2) * np.stack([np.cos(angle), np.sin(angle)], 1)
    np.testing.assert_allclose(residual.std(0), noise, rtol=0.02, atol=1e-6)
    np.testing.assert_allclose(d.train.x.var(0), 1 + noise**2, rtol=0.03)
    if noise:  # the fourth moment of a Gaussian is 3 times the squared second
        np.testing.assert_allclose((residual**4).mean(0), 3 * noise**4, rtol=0.1)
        np.testing.assert_allclose(np.corrcoef(residual.T)[0, 1], 0, atol=0.03)
    np.testing.assert_allclose(np.bincount(d.train.given["label"]) / 16_000, 1 / 8, atol=0.01)


def test_modes_have_their_weights_centres_and_noise():
    d = data.modes(n=40_000, weights=(0.5, 0.2, 0.3), radius=2.0, noise=0.25)
    label = d.train.given["label"]
    np.testing.assert_allclose(np.bincount(label) / 40_000, [0.5, 0.2, 0.3], atol=0.01)
    angle = 2 * np.pi * label / 3
    residual = d.train.x - 2.0 * np.stack([np.cos(angle), np.sin(angle)], 1)
    np.testing.assert_allclose(residual.mean(0), 0, atol=0.01)
    np.testing.assert_allclose(np.cov(residual.T), 0.25**2 * np.eye(2), atol=0.001)
    assert (d.classes, data.modes(n=9).classes) == (3, 4)


@pytest.mark.parametrize(
    "options", [{"weights": (0.5, 0.6)}, {"weights": ()}, {"weights": (-0.5, 1.5)}, {"radius": -1.0}]
)
def test_modes_refuse_bad_options_by_name(options):
    with pytest.raises(ValueError, match=rf"^modes: {next(iter(options))} .*, expected .*0 or more"):
        data.modes(**options)


def test_checkerboard_is_uniform_on_eight_squares():
    x = data.checkerboard(n=16_000).train.x
    cell = np.floor((x / np.sqrt(3) + 1) * 2).astype(int)
    assert cell.min() == 0
    assert cell.max() == 3
    assert set(cell.sum(1) % 2) == {0}
    np.testing.assert_allclose(np.bincount(cell @ [4, 1], minlength=16)[::-1].reshape(4, 4).sum(1), 4000, rtol=0.05)
    within = (x / np.sqrt(3) + 1) * 2 - cell
    np.testing.assert_allclose(within.mean(0), 0.5, atol=0.01)
    np.testing.assert_allclose(within.var(0), 1 / 12, rtol=0.03)
    np.testing.assert_allclose(x.var(0), 1, rtol=0.03)


def test_spirals_and_swiss_roll_lie_on_their_curves():
    d = data.spirals(n=4000, noise=0.0)
    x = np.where(d.train.given["label"][:, None] == 1, -d.train.x, d.train.x)
    radius = np.linalg.norm(x, axis=1)
    np.testing.assert_allclose(x[:, 0], radius * np.cos(1.5 * np.pi * radius), atol=1e-5)
    np.testing.assert_allclose((radius**2).mean(), 2, rtol=0.05)
    assert 1.99 < radius.max() <= 2
    x = data.swiss_roll(n=4000, noise=0.0).train.x
    radius = np.linalg.norm(x, axis=1) * np.sqrt(13 / 6)
    np.testing.assert_allclose(x[:, 1] * np.sqrt(13 / 6), radius * np.sin(1.5 * np.pi * radius), atol=1e-5)
    np.testing.assert_allclose((x**2).sum(1).mean(), 2, rtol=0.03)
    np.testing.assert_allclose([radius.min(), radius.max()], [1, 3], atol=0.01)


@pytest.mark.parametrize(
    "options", [{"n": 0}, {"n": 2.5}, {"held_out": 0}, {"noise": -0.1}, {"noise": float("nan")}, {"seed": -1}]
)
def test_toys_refuse_bad_options_by_name(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        data.moons(**options)


def test_unknown_data_set_and_option_name_the_nearest():
    with pytest.raises(ConfigError, match="nearest is 'digits'"):
        build(data, {"name": "digit"})
    with pytest.raises(ConfigError, match="nearest is 'noise'"):
        build(data, {"name": "moons", "noize": 0.1})


# --- sources --------------------------------------------------------------------------------------------------------


def test_arrays_refuse_what_is_no_data():
    for x, message in [([], "no example"), (np.zeros(3, int), "int64"), ([[1.0], [np.inf]], "Example 1 is not finite")]:
        with pytest.raises(ValueError, match=message):
            data.Arrays(x)


def test_fingerprint_sees_content_shape_order_and_parts():
    a, b = np.arange(6, dtype=np.int32), np.arange(6, dtype=np.int32)[::-1]
    kinds = [(a,), (b,), (a.reshape(2, 3),), (a.astype(np.int64),), (a, None), (a, a), (a[:3], a[3:]), ("a",)]
    assert len({source.fingerprint(*parts) for parts in kinds}) == len(kinds)


@pytest.mark.parametrize("threads", [1, 7])
@pytest.mark.parametrize("size", [1, 16, 33, 100])
def test_records_keep_the_order_asked_for_whatever_the_threads(threads, size):
    pixels = np.random.default_rng(0).integers(0, 256, (60, 2, 2, 1), dtype=np.uint8)

    def read(indices):
        time.sleep(0.003 * (indices[0] % 3))  # threads overtake one another
        return {"x": pixels[indices], "label": indices}

    records = data.Records(60, read, threads)
    indices = np.random.default_rng(size).integers(0, 60, size)
    got, expected = records.gather(indices), data.Arrays(pixels, np.arange(60)).gather(indices)
    for ours, theirs in [(got.x, expected.x), (got.given["label"], expected.given["label"])]:
        np.testing.assert_array_equal(ours, theirs)
        assert ours.dtype == theirs.dtype
    np.testing.assert_array_equal(
        data.batch_at(records, 8, 3, 40).given["label"], data.batch_at(Numbers(60), 8, 3, 40).x
    )


def test_records_report_the_file_and_leave_no_thread():
    def read(indices):
        if 50 in indices:
            raise ValueError("record 50 is damaged")
        return {"x": indices.astype(np.float32)}

    before = threading.active_count()
    records = data.Records(64, read, threads=4)
    with pytest.raises(ValueError, match="record 50 is damaged"):
        records.load()
    for _ in range(20):
        records.gather(np.arange(40))
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= before
    with pytest.raises(ValueError, match="no example"):
        data.Records(0, read)


def test_importing_data_is_cheap():
    """No reader of files is imported before a data set needs it."""
    heavy = "('sklearn', 'PIL', 'tensorflow_datasets', 'grain', 'tensorflow', 'array_record')"
    code = f"import sys, diffjax.data; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
