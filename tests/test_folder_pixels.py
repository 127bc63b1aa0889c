"""What becomes of a file's pixels: alpha, depth, palettes, grey; which decoders are opened, and for how much."""

import io
import os
import struct
import time
import tracemalloc
import zlib

import numpy as np
import pytest
from image_files import fill, paint, png, ppm
from PIL import Image

from diffjax import data
from diffjax.data import images

RNG = np.random.default_rng(0)


def pixels_of(path, **options):
    """The training and held-out images of a folder, uint8."""
    d = data.folder(str(path), **options)
    x = np.concatenate([part.gather(np.arange(len(part))).x for part in (d.train, d.held_out)])
    return np.rint((x + 1) * 127.5).astype(int)


def twice(root, content, suffix="png"):
    """Two files of the same bytes."""
    root.mkdir(exist_ok=True)
    for i in range(2):
        (root / f"{i}.{suffix}").write_bytes(content)
    return root


def saved(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


# --- alpha ----------------------------------------------------------------------------------------------------------

COLOUR = (200, 30, 30)
CLEAR = {
    "RGBA": lambda: saved(Image.new("RGBA", (4, 4), (*COLOUR, 0))),
    "LA": lambda: saved(Image.new("LA", (4, 4), (200, 0))),
    "palette": lambda: saved(Image.new("P", (4, 4), 0), transparency=0),
    "colour key": lambda: saved(Image.new("RGB", (4, 4), COLOUR), transparency=COLOUR),
    "grey key": lambda: saved(Image.new("L", (4, 4), 200), transparency=200),
    "one bit": lambda: saved(Image.new("1", (4, 4), 1), transparency=1),
    "webp": lambda: saved(Image.new("RGBA", (4, 4), (*COLOUR, 0)), "WEBP", lossless=True),
    "gif": lambda: saved(Image.new("P", (4, 4), 7), "GIF", transparency=7),
}


@pytest.mark.parametrize("kind", CLEAR)
def test_a_hidden_colour_never_becomes_the_image(tmp_path, kind):
    folder = twice(tmp_path, CLEAR[kind](), {"webp": "webp", "gif": "gif"}.get(kind, "png"))
    with pytest.raises(ValueError, match=r"\d\.\w+' has pixels that are not opaque: set channels=4 .*background=255"):
        data.folder(str(folder))
    assert (pixels_of(folder, background=255) == 255).all()
    assert (pixels_of(folder, background=(10, 20, 30)) == [10, 20, 30]).all()
    assert (pixels_of(folder, background=9, channels=1) == 9).all()
    assert (pixels_of(folder, channels=4)[..., 3] == 0).all()


@pytest.mark.parametrize("background", [0, 255, (12, 200, 99)])
def test_half_clear_pixels_are_laid_on_the_background(tmp_path, background):
    pixels = RNG.integers(0, 256, (5, 6, 4), dtype=np.uint8)
    twice(tmp_path, saved(Image.fromarray(pixels)))
    share = pixels[..., 3:] / 255.0
    expected = share * pixels[..., :3] + (1 - share) * np.broadcast_to(background, 3)
    np.testing.assert_allclose(pixels_of(tmp_path, background=background)[0], expected, atol=0.51)
    assert (pixels_of(tmp_path, channels=4)[0] == pixels).all()


def test_an_alpha_that_is_opaque_everywhere_hides_nothing(tmp_path):
    pixels = RNG.integers(0, 256, (4, 4, 4), dtype=np.uint8)
    pixels[..., 3] = 255
    twice(tmp_path, saved(Image.fromarray(pixels)))
    for options in ({}, {"background": 0}):
        assert (pixels_of(tmp_path, **options)[0] == pixels[..., :3]).all()


# --- depth, palettes, grey ------------------------------------------------------------------------------------------

DEEP = {f"png {mode}": ("png", lambda mode=mode: png(mode, 16)) for mode in ("L", "LA", "RGB", "RGBA")}
DEEP |= {f"{magic} {top}": ("ppm", lambda m=magic, top=top: ppm(m, top)) for magic in ("P2", "P3", "P5", "P6")
         for top in (256, 65535)}  # fmt: skip
DEEP |= {"tiff L": ("tif", lambda: saved(Image.fromarray(np.zeros((4, 4), np.uint16)), "TIFF")),
         "tiff float": ("tif", lambda: saved(Image.fromarray(np.zeros((4, 4), np.float32)), "TIFF")),
         "tiff 32": ("tif", lambda: saved(Image.fromarray(np.zeros((4, 4), np.int32)), "TIFF")),
         "tiff RGB": ("tif", lambda: tiff_16())}  # fmt: skip


def tiff_16():
    """A little-endian TIFF of 4 x 4 pixels with three 16-bit samples each, uncompressed."""
    tags = [(256, 3, 1, 4), (257, 3, 1, 4), (258, 3, 3, 8), (259, 3, 1, 1), (262, 3, 1, 2), (273, 4, 1, 200),
            (277, 3, 1, 3), (278, 3, 1, 4), (279, 4, 1, 96), (284, 3, 1, 1)]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    head = b"II*\0" + struct.pack("<I", 14) + struct.pack("<3H", 16, 16, 16)
    return (head + struct.pack("<H", len(tags)) + entries + b"\0" * 4).ljust(200, b"\0") + b"\xff" * 96


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("kind", DEEP)
def test_more_than_8_bits_are_refused_in_grey_as_in_colour(tmp_path, kind, channels):
    suffix, make = DEEP[kind]
    with pytest.raises(
        ValueError, match=rf"0\.{suffix}' has more than 8 bits per channel .*expected 8 bits.*data\.npz"
    ):
        data.folder(str(twice(tmp_path, make(), suffix)), channels=channels)


SHALLOW = {
    "grey": ("png", lambda: png("L", 8), 255),
    "one bit": ("png", lambda: png("L", 1), 255),
    "two bits": ("png", lambda: png("L", 2), 255),
    "four bits": ("png", lambda: png("L", 4), 255),
    "colour": ("png", lambda: png("RGB", 8, level=77), 77),
    "opaque": ("png", lambda: png("RGBA", 8), 255),
    "grey opaque": ("png", lambda: png("LA", 8), 255),
    "pgm": ("pgm", lambda: ppm("P5", 255), 255),
    "ppm": ("ppm", lambda: ppm("P6", 31), 255),
    "plain": ("ppm", lambda: ppm("P3", 7), 255),
    "bmp": ("bmp", lambda: saved(Image.new("RGB", (4, 4), (77, 77, 77)), "BMP"), 77),
    "tiff": ("tiff", lambda: saved(Image.new("L", (4, 4), 77), "TIFF"), 77),
    "cmyk": ("tif", lambda: saved(Image.new("CMYK", (4, 4), (0, 0, 0, 255)), "TIFF"), 0),
    "palette": ("png", lambda: saved(Image.new("RGB", (4, 4), (255, 255, 255)).quantize(4)), 255),
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", SHALLOW)
def test_up_to_8_bits_are_read_by_their_share_of_white(tmp_path, kind, channels):
    suffix, make, level = SHALLOW[kind]
    x = pixels_of(twice(tmp_path, make(), suffix), channels=channels)
    assert x.shape == (2, 4, 4, channels)
    assert (x == level).all()


def test_grey_and_colour_turn_into_each_other_by_one_rule(tmp_path):
    colour = fill(tmp_path / "colour", ["0.png", "1.png"])
    luma = np.stack(list(colour.values())) @ [0.299, 0.587, 0.114]
    found = pixels_of(tmp_path / "colour", channels=1)[..., 0]
    order = [int(np.abs(luma - one).reshape(2, -1).max(1).argmin()) for one in found]
    assert sorted(order) == [0, 1]
    np.testing.assert_allclose(found, luma[order], atol=1)
    grey = fill(tmp_path / "grey", ["0.png", "1.png"], mode="L")
    found = pixels_of(tmp_path / "grey")
    assert {one[..., 0].tobytes() for one in found.astype(np.uint8)} == {one.tobytes() for one in grey.values()}
    assert (found == found[..., :1]).all()


# --- decoders and bounds --------------------------------------------------------------------------------------------


def test_no_program_is_started_for_a_format_that_nobody_named(tmp_path, monkeypatch):
    """EPS goes to Ghostscript, if Pillow may take it for one of the ten suffixes."""
    tools, marker = tmp_path / "bin", tmp_path / "EXECUTED"
    tools.mkdir()
    for name in ("gs", "gswin64c", "ghostscript"):
        (tools / name).write_text(f"#!/bin/sh\ntouch {marker}\n")
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"
    paint(tmp_path / "x/0.png", size=(8, 8))
    (tmp_path / "x/bad.png").write_bytes(eps)
    for options in ({}, {"size": 8}, {"size": 8, "in_memory": False}):
        with pytest.raises(ValueError, match=r"bad\.png' cannot be read as an image: it is none of PNG, JPEG"):
            pixels_of(tmp_path / "x", **options)
    assert not marker.exists()


@pytest.mark.parametrize("kind", ["FITS", "ICO", "PCX", "TGA", "XBM", "PSD"])
def test_other_decoders_stay_closed(tmp_path, kind):
    content = b"SIMPLE  =                    T" if kind == "FITS" else b"8BPS" + bytes(40)
    if kind in ("ICO", "PCX", "TGA", "XBM"):
        content = saved(Image.new("1" if kind == "XBM" else "RGB", (4, 4)), kind)
    with pytest.raises(ValueError, match="it is none of PNG, JPEG, WEBP, BMP, GIF, TIFF, PPM"):
        data.folder(str(twice(tmp_path, content)))


@pytest.mark.parametrize("size", [(12_000, 12_000), (2**31 - 1, 1), (70_000_000, 1), (10_000, 10_000)])
def test_pixels_are_bounded_by_the_header_before_any_is_decoded(tmp_path, size):
    chunk = lambda name, body: struct.pack(">I", len(body)) + name + body + bytes(4)
    head = png("L", 8)[:16] + struct.pack(">IIBBBBB", *size, 8, 0, 0, 0, 0)
    folder = twice(tmp_path, head + bytes(4) + chunk(b"IDAT", b"x" * 100))
    for i in range(2):  # the header's checksum is that of its own bytes
        content = bytearray((folder / f"{i}.png").read_bytes())
        content[29:33] = struct.pack(">I", zlib.crc32(bytes(content[12:29])))
        (folder / f"{i}.png").write_bytes(content)
    tracemalloc.start()
    began = time.monotonic()
    with pytest.raises(ValueError, match=r"\d\.png'.* (pixels, expected at most|cannot be read)") as caught:
        data.folder(str(folder), size=8)
    assert "\n" not in str(caught.value)
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()
    assert time.monotonic() - began < 5


def test_sizes_are_read_without_decoding(tmp_path, monkeypatch):
    """The first look at a folder of PNGs takes headers alone: a file whose pixels are damaged passes it."""
    content = bytearray(png("L", 8))
    content[45:50] = b"xxxxx"
    with images.opened(io.BytesIO(bytes(content)), "bad") as image:
        assert images.size(image) == (4, 4)
    with pytest.raises(ValueError, match="bad"):
        images.decode(io.BytesIO(bytes(content)), "bad", (4, 4, 1))


def test_a_turn_that_a_header_hides_is_not_cut_away(tmp_path):
    """A PNG may say after its pixels that they lie on their side: then its size is another, and that is said."""
    exif = Image.Exif()
    exif[0x0112] = 6
    whole = saved(Image.new("RGB", (6, 4)), exif=exif)
    start, end = whole.index(b"eXIf") - 4, whole.index(b"eXIf")
    length = struct.unpack(">I", whole[start:end])[0] + 12
    moved = whole[:start] + whole[start + length :]
    moved = moved[:-12] + whole[start : start + length] + moved[-12:]
    with pytest.raises(ValueError, match="is 4 x 6 pixels, expected 6 x 4"):
        data.folder(str(twice(tmp_path, moved)))


# --- all that cannot be used, at once


@pytest.mark.parametrize("options", [{"size": 4}, {}, {"channels": None}, {"size": 4, "in_memory": False}], ids=str)
def test_files_that_are_no_images_are_named_together(tmp_path, options):
    """Wherever they are met: by header, when all are loaded, or when a batch is read."""
    fill(tmp_path, [f"{i:02}.png" for i in range(40)])
    broken = [f"{i:02}.png" for i in range(0, 40, 5)]
    for name in broken:
        (tmp_path / name).write_bytes(b"no image")
    with pytest.raises(ValueError, match="files cannot be used") as error:
        pixels_of(tmp_path, **options)
    text = str(error.value)
    assert "\n" not in text
    assert [name for name in broken if name in text] == broken[: images.SHOWN]
    if options.get("in_memory", True):
        assert text.startswith("8 files cannot be used: ")
        assert text.endswith("; and 3 more. Mend them, or move them elsewhere.")


def test_one_that_is_no_image_is_said_with_the_way_on(tmp_path):
    fill(tmp_path, [f"{i}.png" for i in range(4)])
    (tmp_path / "2.png").write_bytes(b"")
    with pytest.raises(
        ValueError, match=r"^'.*/2\.png' cannot be read as an image: .*\. Mend it, or move it elsewhere\.$"
    ):
        pixels_of(tmp_path, size=4)


def test_images_of_other_sizes_are_counted(tmp_path):
    fill(tmp_path, [f"{i}.png" for i in range(6)])
    for name in ("4.png", "5.png"):
        paint(tmp_path / name, size=(5, 4))
    with pytest.raises(
        ValueError, match=r"/4\.png' is 5 x 4 pixels and '0\.png' is 4 x 4 \(2 of 6 differ\); expected one"
    ):
        data.folder(str(tmp_path))
