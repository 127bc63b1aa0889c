"""Inputs of public bug reports that the readers of data answer well: kept so."""

import io

import numpy as np
import pytest
from image_files import fill, paint
from PIL import Image

from diffjax import data

RNG = np.random.default_rng(0)


def saved(path, label=None, x=None):
    arrays = {} if label is None else {"label": label}
    np.savez(path, x=np.zeros((12, 2)) if x is None else x, **arrays)
    return str(path)


# stylegan2-ada#22, edm2#11: labels of other forms


@pytest.mark.parametrize(
    "label",
    [np.eye(12), np.arange(12)[:, None], np.arange(12.0), np.arange(12).astype(str), np.arange(12) > 5,
     np.arange(12) - 1, np.arange(9), np.arange(13), np.full(12, 2**40),
     np.zeros((12, 0), int), np.complex64(np.arange(12))],
    ids=["one-hot", "(N, 1)", "float", "text", "truth", "negative", "few", "many", "huge", "(N, 0)", "complex"],
)  # fmt: skip
def test_labels_of_other_forms_are_refused_by_file_in_one_line(tmp_path, label):
    with pytest.raises(ValueError, match=r"x\.npz.*(expected (integers|labels from 0)|12 examples and)") as caught:
        data.npz(saved(tmp_path / "x.npz", label))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["uint8", ">i4", "<i8", ">u2", "int8"])
def test_labels_of_any_integer_are_read(tmp_path, kind):
    d = data.npz(saved(tmp_path / "x.npz", (np.arange(12) % 3).astype(kind)))
    assert d.classes == 3
    assert np.bincount(np.concatenate([part.given["label"] for part in (d.train, d.held_out)])).tolist() == [4, 4, 4]
    assert d.train.given["label"].dtype == np.int32


# improved-diffusion#136, dome272#10: arrays of other types and shapes


@pytest.mark.parametrize("kind", ["uint16", "int64", "bool", "complex64", "S3", "datetime64[s]", "int8"])
def test_arrays_of_other_types_are_refused(tmp_path, kind):
    with pytest.raises(ValueError, match=r"x\.npz: The examples have dtype .*, expected uint8 .*, floating .*int32"):
        data.npz(saved(tmp_path / "x.npz", x=np.zeros((12, 2)).astype(kind)), label=None)


def test_pixels_that_are_no_bytes_are_told_how_they_are_saved(tmp_path):
    x = np.random.default_rng(0).uniform(0, 255, (12, 4, 4, 1))
    with pytest.raises(ValueError, match=r"or uint8 pixels; pixels 0 .. 255 are saved by x.round"):
        data.npz(saved(tmp_path / "x.npz", x=x), label=None)


def test_another_name_and_a_folder_are_told_the_way(tmp_path):
    np.savez(tmp_path / "x.npz", latents=np.zeros((12, 4)))
    with pytest.raises(
        ValueError, match=r"has no array 'x' \(x=NAME, --config.data.x=NAME, for another\): it has latents"
    ):
        data.npz(str(tmp_path / "x.npz"), label=None)
    with pytest.raises(ValueError, match=r"is a folder, expected a file written by numpy.savez: data.folder reads"):
        data.npz(str(tmp_path))


def test_latents_are_told_how_they_are_read(tmp_path):
    """As any floating images beyond [-1, 1]; with the option that the message names they are read."""
    x = 5 * np.random.default_rng(0).normal(size=(40, 4, 4, 4)).astype(np.float32)
    with pytest.raises(ValueError, match=r"expected \[-1, 1\], or uint8 pixels; with standardize=channels"):
        data.npz(saved(tmp_path / "x.npz", x=x), label=None)
    assert data.npz(str(tmp_path / "x.npz"), label=None, standardize="channels").shape == (4, 4, 4)


@pytest.mark.parametrize("shape", [(12,), (), (3, 2, 2, 2, 2, 2), (12, 3, 32, 32)])
def test_arrays_of_other_shapes_are_refused(tmp_path, shape):
    with pytest.raises(ValueError, match=r"x\.npz: 'x' has shape .*expected \(N, H, W, C\)"):
        data.npz(saved(tmp_path / "x.npz", x=np.zeros(shape)), label=None)


@pytest.mark.parametrize("shape", [(12, 8, 12, 1), (12, 17, 13, 3), (12, 17, 13)])
def test_odd_and_oblong_sizes_are_read(tmp_path, shape):
    assert data.npz(saved(tmp_path / "x.npz", x=np.zeros(shape)), label=None).shape == (
        *shape[1:3],
        *(shape[3:] or (1,)),
    )


# MMF#870 and others: broken and foreign files in a folder of images


BROKEN = {"empty": b"", "cut": None, "HTML": b"<!DOCTYPE html><html></html>", "text": b"hello", "zeros": bytes(99)}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_image_is_named(tmp_path, kind):
    paint(tmp_path / "0.png", size=(40, 40))
    whole = (tmp_path / "0.png").read_bytes()
    (tmp_path / "1.png").write_bytes(whole[: len(whole) // 2] if kind == "cut" else BROKEN[kind])
    with pytest.raises(ValueError, match=r"1\.png' cannot be read as an image") as caught:
        data.folder(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_foreign_files_are_skipped_and_names_of_any_kind_read(tmp_path):
    names = ["a.JPG", "b.PnG", "ünïcode ☃.png", "with space.webp", "日本.bmp", "dots.in.name.tif"]
    fill(tmp_path, names)
    for name in ("Thumbs.db", "._a.png", ".DS_Store", "notes.txt", "list.csv", "a.svg"):
        (tmp_path / name).write_bytes(b"no image")
    d = data.folder(str(tmp_path))
    assert len(d.train) + len(d.held_out) == len(names)


def test_of_an_animation_the_first_frame_is_taken(tmp_path):
    frames = [Image.fromarray(np.full((4, 4), level, np.uint8)) for level in (10, 200, 90)]
    for i in range(2):
        frames[0].save(tmp_path / f"{i}.gif", save_all=True, append_images=frames[1:])
    d = data.folder(str(tmp_path), channels=1)
    np.testing.assert_allclose((d.train.gather(np.arange(1)).x + 1) * 127.5, 10, atol=1e-4)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_turn_is_undone(tmp_path, orientation):
    """The eight turns of the EXIF standard, written as NumPy's: what is stored is the upright image, turned back."""
    stored_of = {
        1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1), 6: np.rot90, 7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: np.rot90(a, -1),
    }  # fmt: skip
    upright, exif = RNG.integers(0, 256, (4, 6, 3), dtype=np.uint8), Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(stored_of[orientation](upright))).save(file, "PNG", exif=exif)
    for i in range(2):
        (tmp_path / f"{i}.png").write_bytes(file.getvalue())
    d = data.folder(str(tmp_path))
    np.testing.assert_allclose((d.train.gather(np.arange(1)).x[0] + 1) * 127.5, upright, atol=1e-4)
