"""Data sets from files, folders of images and npz, against their definitions, and files that cannot be used."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffjax import data


def everything(part):
    return part.gather(np.arange(len(part)))


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
                             ({"size": 10**6}, "at most 8192"),
                             ({"label": "leaf"}, "expected folder, top, parent, or None"),
                             ({"background": 256}, "grey level 0 .. 255"), ({"background": (1, 2)}, "or a colour"),
                             ({"background": 0, "channels": 4}, "4 channels keep alpha")]:  # fmt: skip
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
        cube=np.zeros((2, 2, 2, 2, 2, 2), np.uint8),
    )  # fmt: skip
    np.savez(tmp_path / "set.npz", **arrays)
    return str(tmp_path / "set.npz"), arrays


def test_npz_images_are_split_by_class(file):
    path, arrays = file
    d = data.npz(path, held_out=0.2)
    assert (d.name, d.shape, d.classes, d.levels) == ("set", (4, 6, 3), 5, 256)
    np.testing.assert_array_equal(np.bincount(d.held_out.given["label"]), 2)  # of ten each
    x = np.concatenate([everything(p).x for p in (d.train, d.held_out)])
    labels = np.concatenate([everything(p).given["label"] for p in (d.train, d.held_out)])
    written = {pixels.tobytes(): label for pixels, label in zip(arrays["x"], arrays["label"])}
    read = np.rint((x + 1) * 127.5).astype(np.uint8)
    assert {pixels.tobytes(): label for pixels, label in zip(read, labels)} == written  # all of them, once, as labelled
    np.testing.assert_allclose(x, read / 127.5 - 1, atol=1e-6)
    assert (x.min(), x.max()) == (-1, 1)


def test_npz_named_parts_grey_float_and_points(file):
    path, arrays = file
    d = data.npz(path, held_out="more", held_out_label="more_label", flip=True)
    assert (len(d.train), len(d.held_out), d.classes, d.flip) == (50, 7, 7, True)
    assert data.npz(path, x="grey", label=None).shape == (4, 6, 1)
    d = data.npz(path, x="float", label=None)
    assert (d.shape, d.levels, d.classes) == ((4, 4, 1), None, None)
    d = data.npz(path, x="points", label=None, held_out=0.1)
    assert len(d.held_out) == 3
    rows = {tuple(row) for part in (d.train, d.held_out) for row in everything(part).x.tolist()}
    assert rows == {tuple(row) for row in arrays["points"].astype(np.float32).tolist()}


@pytest.mark.parametrize(
    ("options", "message"),
    [({"label": "lable"}, "nearest is 'label'"), ({"x": "float"}, "20 examples and 50 labels"),
     ({"x": "wide", "label": None}, r"\[-1, 1\], or uint8"), ({"x": "nan", "label": None}, "not finite"),
     ({"x": "ints", "label": None}, "dtype int64"), ({"label": "one_hot"}, r"expected integers \(N,\)"),
     ({"label": "negative"}, "labels from 0"), ({"label": "objects"}, r"set\.npz.*Python objects.*numpy\.stack"),
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
