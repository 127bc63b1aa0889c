"""Data sets held against their definitions, and batches against an enumeration of the walk they come from."""

import hashlib
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffjax import data
from diffjax.config import ConfigError, build
from diffjax.data import batches, source
from diffjax.method import Example

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


# --- image folders --------------------------------------------------------------------------------------------------


def write_images(root, n=40, size=(6, 4), classes=("b", "a"), mode="RGB", suffix="png"):
    """n images (W, H) = size per class; returns {relative name: array}."""
    rng, written = np.random.default_rng(0), {}
    for folder in classes:
        (root / folder).mkdir(parents=True, exist_ok=True)
        for i in range(n):
            shape = (size[1], size[0]) if mode == "L" else (size[1], size[0], len(mode))
            pixels = rng.integers(0, 256, shape, dtype=np.uint8)
            name = f"{folder}/{i}.{suffix}".lstrip("/")
            Image.fromarray(pixels).save(root / name)
            written[name] = pixels
    return written


def expected_split(names, share):
    hashed = {name: int(hashlib.sha256(name.encode()).hexdigest()[:16], 16) / 16**16 for name in sorted(names)}
    return [[n for n in hashed if (hashed[n] < share) == side] for side in (False, True)]


@pytest.mark.parametrize("in_memory", [True, False, None])
def test_folder_reads_pixels_labels_and_split(tmp_path, in_memory):
    written = write_images(tmp_path)
    d = data.folder(str(tmp_path), held_out=0.2, in_memory=in_memory, flip=True)
    assert (d.shape, d.classes, d.levels, d.flip) == ((4, 6, 3), 2, 256, True)
    for part, names in zip((d.train, d.held_out), expected_split(written, 0.2)):
        assert len(part) == len(names) > 5
        batch = everything(part)
        np.testing.assert_allclose(batch.x, np.stack([written[n] for n in names]) / 127.5 - 1, atol=1e-6)
        assert batch.given["label"].tolist() == ["ab".index(n[0]) for n in names]
        assert (batch.x.dtype, batch.given["label"].dtype) == (np.float32, np.int32)


def test_folder_flat_grey_and_a_new_file_moves_no_other(tmp_path):
    written = write_images(tmp_path, classes=("",), mode="L")
    d = data.folder(str(tmp_path), channels=1, held_out=0.3)
    assert (d.shape, d.classes, everything(d.train).given) == ((4, 6, 1), None, {})
    before = {x.tobytes() for x in d.held_out.x}
    write_images(tmp_path, n=3, classes=("",), mode="L", suffix="bmp")
    assert before <= {x.tobytes() for x in data.folder(str(tmp_path), channels=1, held_out=0.3).held_out.x}
    assert len(before) == len(expected_split(written, 0.3)[1])


def test_folder_scales_and_cuts_the_centre(tmp_path):
    wide = np.zeros((8, 24, 3), np.uint8)
    wide[:, 8:16] = [255, 0, 51]
    for i in range(30):
        Image.fromarray(wide if i % 2 else wide.transpose(1, 0, 2)).save(tmp_path / f"{i}.png")
    d = data.folder(str(tmp_path), size=4)
    assert d.shape == (4, 4, 3)
    x = d.train.gather(np.arange(9)).x  # of the middle third; the filter softens its rim, and rounds to one level
    np.testing.assert_allclose(x[:, 1:3, 1:3], np.broadcast_to([1, -1, -0.6], (9, 2, 2, 3)), atol=1.01 / 127.5)
    np.testing.assert_allclose(x, np.broadcast_to([1, -1, -0.6], (9, 4, 4, 3)), atol=0.3)


def test_folder_turns_images_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its left side: to be turned by 90 degrees clockwise
    pixels = np.zeros((4, 6, 3), np.uint8)
    pixels[:, :2] = 255
    for i in range(30):
        Image.fromarray(pixels).save(tmp_path / f"{i}.png", exif=exif)
    d = data.folder(str(tmp_path))
    assert d.shape == (6, 4, 3)
    np.testing.assert_array_equal(d.train.x[0], np.rot90(pixels, -1))
    assert d.train.x[0, 0].min() == 255


def bad_folder(root, how):
    write_images(root)
    if how == "odd":
        write_images(root, n=1, size=(5, 4), classes=("z",))
    elif how == "mixed":
        write_images(root, n=1, classes=("",))
    elif how == "broken":
        (root / "a/1.png").write_bytes((root / "a/1.png").read_bytes()[:60])
    elif how == "text":
        (root / "a/1.png").write_text("not an image")
    elif how == "deep":
        Image.fromarray(np.zeros((4, 6), np.uint16)).save(root / "a/1.png")


@pytest.mark.parametrize(
    ("how", "message"),
    [("odd", "z/0.png.*5 x 4.*6 x 4"), ("mixed", "0.png.*sub-folders"), ("broken", "a/1.png.*cannot be read"),
     ("text", "a/1.png.*cannot be read"), ("deep", "a/1.png.*8 bits")],
)  # fmt: skip
def test_folder_names_the_file_it_cannot_use(tmp_path, how, message):
    bad_folder(tmp_path, how)
    with pytest.raises(ValueError, match=message):
        data.folder(str(tmp_path))


def test_folder_refuses_empty_missing_and_odd_options(tmp_path):
    with pytest.raises(ValueError, match=r"holds no image; expected \.png"):
        data.folder(str(tmp_path))
    with pytest.raises(FileNotFoundError, match="nowhere"):
        data.folder(str(tmp_path / "nowhere"))
    write_images(tmp_path, n=2)
    for options, message in [({"channels": 2}, "channels"), ({"size": 0}, "size"), ({"held_out": 1.0}, "held_out"),
                             ({"held_out": 1e-9}, "at least one")]:  # fmt: skip
        with pytest.raises(ValueError, match=message):
            data.folder(str(tmp_path), **options)


# --- npz ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path):
    rng = np.random.default_rng(1)
    arrays = dict(
        x=rng.integers(0, 256, (50, 4, 6, 3), dtype=np.uint8), label=np.repeat(np.arange(5), 10),
        grey=rng.integers(0, 256, (9, 4, 6), dtype=np.uint8), more=rng.integers(0, 256, (7, 4, 6, 3), dtype=np.uint8),
        more_label=np.arange(7), float=rng.uniform(-1, 1, (20, 4, 4, 1)), wide=rng.uniform(0, 255, (20, 4, 4, 1)),
        points=5 * rng.normal(size=(30, 3)), nan=np.full((20, 2), np.nan), ints=np.zeros((20, 2), int),
        one_hot=np.eye(50, dtype=int), negative=np.arange(50) - 1, objects=np.asarray([{}] * 50, dtype=object),
        cube=np.zeros((2, 2, 2, 2, 2), np.uint8),
    )  # fmt: skip
    np.savez(tmp_path / "set.npz", **arrays)
    return str(tmp_path / "set.npz"), arrays


def test_npz_images_split_evenly(file):
    path, arrays = file
    d = data.npz(path, held_out=0.2)
    assert (d.name, d.shape, d.classes, d.levels) == ("set", (4, 6, 3), 5, 256)
    np.testing.assert_array_equal(
        np.bincount(d.held_out.given["label"]), 2
    )  # of ten each: sorted labels are spread as well
    x = np.concatenate([everything(p).x for p in (d.train, d.held_out)])
    apart = np.arange(50) % 5 == 4
    both = np.concatenate([arrays["x"][~apart], arrays["x"][apart]])
    np.testing.assert_allclose(x, both / 127.5 - 1, atol=1e-6)
    assert (x.min(), x.max()) == (-1, 1)


def test_npz_named_parts_grey_float_and_points(file):
    path, arrays = file
    d = data.npz(path, held_out="more", held_out_label="more_label", flip=True)
    assert (len(d.train), len(d.held_out), d.classes, d.flip) == (50, 7, 7, True)
    assert data.npz(path, x="grey", label=None).shape == (4, 6, 1)
    d = data.npz(path, x="float", label=None)
    assert (d.shape, d.levels, d.classes) == ((4, 4, 1), None, None)
    d = data.npz(path, x="points", label=None, held_out=0.1)
    np.testing.assert_array_equal(everything(d.held_out).x, arrays["points"][[9, 19, 29]].astype(np.float32))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"label": "lable"}, "nearest is 'label'"), ({"x": "float"}, "20 examples and 50 labels"),
     ({"x": "wide", "label": None}, r"\[-1, 1\], or uint8"), ({"x": "nan", "label": None}, "not finite"),
     ({"x": "ints", "label": None}, "dtype int64"), ({"label": "one_hot"}, r"expected integers \(N,\)"),
     ({"label": "negative"}, "labels from 0"), ({"label": "objects"}, "allow_pickle"), ({"held_out": 0.0}, "held_out"),
     ({"x": "cube", "label": None}, r"\(N, H, W\)"), ({"held_out": "more"}, "both or neither"),
     ({"held_out_label": "more_label"}, "needs held_out="), ({"x": "points", "label": None, "flip": True}, "flip"),
     ({"held_out": "float", "label": None}, "differ|shape")],
)  # fmt: skip
def test_npz_refuses_in_one_line(file, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        data.npz(file[0], **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kept", [0, 100, 0.5, 0.999])
def test_npz_truncated(file, kept, tmp_path):
    whole = Path(file[0]).read_bytes()
    cut = tmp_path / "cut.npz"
    cut.write_bytes(whole[: int(kept * len(whole)) if kept < 1 else kept])
    with pytest.raises(ValueError, match=r"cut\.npz.*truncated"):
        data.npz(str(cut))
    with pytest.raises(FileNotFoundError, match="no file"):
        data.npz(str(tmp_path / "none.npz"))


def test_npz_flipped_byte_is_found(file, tmp_path):
    content = bytearray(Path(file[0]).read_bytes())
    content[2000] ^= 1  # among the pixels of x, the first array
    (tmp_path / "flipped.npz").write_bytes(content)
    with pytest.raises(ValueError, match="damaged at 'x'"):
        data.npz(str(tmp_path / "flipped.npz"))


# --- batches --------------------------------------------------------------------------------------------------------


class Numbers:
    """Example i is the number i: a batch shows which examples it holds."""

    def __init__(self, n, shape=()):
        self.x = np.broadcast_to(np.arange(n, dtype=np.float32).reshape(n, *[1] * len(shape)), (n, *shape))

    def __len__(self):
        return len(self.x)

    def gather(self, indices):
        return Example(self.x[indices])


@pytest.mark.parametrize(("n", "size"), [(10, 4), (7, 7), (5, 12), (97, 32)])
def test_walk_visits_every_example_once_per_epoch_in_a_new_order(n, size):
    steps = 12 * n // size + 2
    walk = np.concatenate([data.batch_at(Numbers(n), size, 3, k).x for k in range(steps)]).astype(int)
    epochs = [walk[e * n : (e + 1) * n].tolist() for e in range(len(walk) // n)]
    assert all(sorted(epoch) == list(range(n)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == len(epochs)
    other = np.concatenate([data.batch_at(Numbers(n), size, 4, k).x for k in range(steps)]).astype(int)
    assert walk.tolist() != other.tolist()


def test_order_is_that_of_sorted_philox_words():
    """Philox 4x64 by hand (Salmon et al. 2011), so that no NumPy version can move the data."""
    seed, epoch, n = 5, 2, 11
    words = [w for block in range(1, 4) for w in philox([block, 0, 0, 0], [seed, epoch])][:n]
    expected = sorted(range(n), key=words.__getitem__)
    got = np.concatenate([data.batch_at(Numbers(n), n, seed, epoch).x])
    assert got.astype(int).tolist() == expected


def philox(counter, key):
    """Ten rounds of Philox 4x64: four words from a counter of four and a key of two."""
    (a, b, c, d), (k, m), mask = counter, key, 2**64 - 1
    for _ in range(10):
        first, second = a * 0xD2E7470EE14C6C93, c * 0xCA5A826395121157
        a, b, c, d = (second >> 64) ^ b ^ k, second & mask, (first >> 64) ^ d ^ m, first & mask
        k, m = (k + 0x9E3779B97F4A7C15) & mask, (m + 0xBB67AE8584CAA73B) & mask
    return [a, b, c, d]


@pytest.mark.parametrize("hosts", [1, 2, 4, 8])
def test_global_batch_is_the_same_for_any_number_of_hosts(hosts):
    points = Numbers(50, (2, 3, 1))
    whole = batches.stack_at(points, 16, 7, 20, 5, flip=True).x
    share = lambda i: batches.stack_at(points, 16, 7, 20, 5, flip=True, process_index=i, process_count=hosts).x
    np.testing.assert_array_equal(np.concatenate([share(i) for i in range(hosts)], axis=1), whole)
    assert whole.shape == (5, 16, 2, 3, 1)


@pytest.mark.parametrize("start", [0, 1, 6, 1_000_003])
def test_iterator_is_the_pure_function_from_any_start(start):
    points = Numbers(23, (3, 4, 1))
    with data.Batches(points, 8, 1, start, steps_per_dispatch=3, flip=True, put=lambda x: x) as stream:
        for i in range(4):
            stack = next(stream).x
            for j in range(3):
                np.testing.assert_array_equal(stack[j], data.batch_at(points, 8, 1, start + 3 * i + j, flip=True).x)


def test_default_put_is_on_the_device():
    import jax

    with data.Batches(data.digits().train, 4, 0) as stream:
        batch = next(stream)
    assert isinstance(batch.x, jax.Array)
    assert (batch.x.shape, batch.given["label"].shape) == ((1, 4, 8, 8, 1), (1, 4))


def test_flips_are_fair_mirrors_of_position_not_of_window():
    ramp = data.Arrays(np.broadcast_to(np.arange(4.0)[:, None], (1, 2, 4, 1)).copy())  # one example, again and again
    bits = [batches.stack_at(ramp, size, 2, 0, 2400 // size, flip=True).x.reshape(-1, 2, 4, 1) for size in (1, 5, 48)]
    np.testing.assert_array_equal(bits[0], bits[1])
    np.testing.assert_array_equal(bits[0], bits[2])
    single = [data.batch_at(ramp, 5, 2, k, flip=True).x for k in range(480)]  # windows that start anywhere
    np.testing.assert_array_equal(np.concatenate(single), bits[0])
    flipped = bits[0][:, 0, 0, 0] == 3
    np.testing.assert_array_equal(bits[0][flipped][:, :, ::-1], bits[0][~flipped][:1].repeat(flipped.sum(), 0))
    assert abs(flipped.mean() - 0.5) < 3 * 0.5 / np.sqrt(2400)
    assert abs(np.corrcoef(flipped[1:], flipped[:-1])[0, 1]) < 0.06


def test_flip_only_for_images():
    with pytest.raises(ValueError, match="flip mirrors images"):
        data.Batches(Numbers(5, (2,)), 2, 0, flip=True)


@pytest.mark.parametrize(
    "options", [{"batch_size": 0}, {"batch_size": 6, "process_count": 4}, {"start_step": -1}, {"steps_per_dispatch": 0},
                {"process_index": 2, "process_count": 2}, {"prefetch": 0}],
)  # fmt: skip
def test_batches_refuse_numbers_that_make_no_batch(options):
    with pytest.raises(ValueError, match=r"batch_size|step|prefetch"):
        data.Batches(Numbers(9), **{"batch_size": 4, "seed": 0, **options})


def threads_named(name):
    return [t for t in threading.enumerate() if t.name.startswith(name)]


def test_thread_stops_when_the_consumer_does():
    with data.Batches(Numbers(9), 4, 0, prefetch=1) as stream:
        next(stream)
        assert threads_named("batches")
    assert not threads_named("batches")
    stream.close()
    assert next(stream, "over") == "over"


def test_thread_stops_when_the_iterator_is_dropped():
    stream = data.Batches(Numbers(9), 4, 0, prefetch=1)
    next(stream)
    del stream
    deadline = time.monotonic() + 5
    while threads_named("batches") and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not threads_named("batches")


@pytest.mark.parametrize("culprit", ["source", "put"])
def test_errors_reach_the_consumer_after_the_batches_before_them(culprit):
    numbers, calls = Numbers(9), []

    def count(result):
        calls.append(0)
        if len(calls) > 2:
            raise RuntimeError("the disk is gone")
        return result

    gather, put = numbers.gather, (count if culprit == "put" else lambda x: x)
    if culprit == "source":
        numbers.gather = lambda indices: count(gather(indices))
    stream = data.Batches(numbers, 4, 0, put=put)
    next(stream), next(stream)
    with pytest.raises(RuntimeError, match="the disk is gone"):
        next(stream)
    assert not threads_named("batches")


def test_prefetch_stays_ahead_but_not_far():
    made = []
    with data.Batches(Numbers(9), 4, 0, prefetch=3, put=made.append) as stream:
        next(stream)
        deadline = time.monotonic() + 5
        while len(made) < 5 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.1)
        assert len(made) == 5  # one taken, three waiting, one in hand


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
