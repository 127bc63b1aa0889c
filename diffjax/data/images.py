"""Images as bytes (H, W, C): one rule for every file, by the decoders of the formats that are named here alone.

    depth      at most 8 bits a channel; deeper files are refused, in colour as in grey
    colour     palettes are looked up; grey is repeated into three channels, colours become grey by ITU-R 601-2's luma
    alpha      kept as the fourth of 4 channels; else pixels that are not opaque need a background to lie on
    EXIF       images are turned upright
    frames     of an animation the first is taken

Width and height are read from the header and bounded before anything is decoded.
"""

import functools
import re
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, BinaryIO

import numpy as np

from diffjax import host

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")  # Pillow's decoders behind those suffixes
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
SHALLOW = ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr")  # Pillow's modes of at most 8 bits a channel
SHALLOW_ALPHA = ("LA", "PA", "RGBA")
ORIENTATION = 0x0112  # the EXIF tag; from 5 on, width and height change places
MOST_PIXELS = 2**26  # of one image: 0.7 GB while it is decoded
LARGE = 2**22  # above this many pixels, images are decoded one at a time, whatever the number of threads

SHOWN = 5  # files that an error names

Background = int | tuple[int, int, int] | None
_one_at_a_time = threading.Lock()


class UnusableError(ValueError):
    """Files cannot be used as images: how many, what is wrong with the first few, and what to do.

    Attributes:
        reasons: one for each.
    """

    def __init__(self, reasons: list[str]):
        self.reasons, count = reasons, len(reasons)
        shown = "; ".join(reason.rstrip(".") for reason in reasons[:SHOWN])
        head = "" if count == 1 else f"{count} files cannot be used: "
        more = f"; and {count - SHOWN} more" if count > SHOWN else ""
        way = "Mend it, or move it elsewhere" if count == 1 else "Mend them, or move them elsewhere"
        super().__init__(f"{head}{shown}{more}. {way}.")

    def __reduce__(self) -> tuple:
        """Gives what a process that met the error sends: the message alone would be taken for the reasons."""
        return type(self), (self.reasons,)


def each(names: Iterable[Any], one: Callable[[Any], Any]) -> list[Any]:
    """Calls `one` with each name; where some are refused the others are looked at as well.

    Raises:
        UnusableError: of all that `one` raised a ValueError for.
    """
    found, reasons = [], []
    for name in names:
        try:
            found.append(one(name))
        except ValueError as error:
            reasons += error.reasons if isinstance(error, UnusableError) else [str(error)]
    if reasons:
        raise UnusableError(reasons)
    return found


def check_background(background: Any, channels: int) -> None:
    """Raises a ValueError unless it is None, a grey level or a colour, and the images lose their alpha."""
    levels = background if isinstance(background, tuple | list) else (background,)
    if background is None:
        return
    if len(levels) not in (1, 3) or not all(host.is_int(level, 0) and level <= 255 for level in levels):
        raise ValueError(
            f"background is {background!r}, expected a grey level 0 .. 255, or a colour such as (0, 0, 0)."
        )
    if channels == 4:
        raise ValueError(f"background is {background!r}, but 4 channels keep alpha: leave one of them out.")


@functools.cache
def _pillow() -> Any:
    """Pillow, without its warning of large images: `_check_header` refuses smaller ones."""
    from PIL import Image

    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
    return Image


@contextmanager
def opened(file: BinaryIO | str, name: str) -> Iterator[Any]:
    """Opens an image, its pixels not decoded yet; what is wrong with it becomes a ValueError that names it."""
    Image = _pillow()
    broken = (OSError, SyntaxError, EOFError, Image.DecompressionBombError, Image.DecompressionBombWarning)
    try:
        try:
            image = Image.open(file, formats=FORMATS)
        except ValueError as error:  # Pillow's for text in a PNG that unpacks without end
            raise SyntaxError(str(error)) from error
        with image:
            _check_header(image, name)
            yield image
    except Image.UnidentifiedImageError as error:
        raise ValueError(f"{name!r} cannot be read as an image: it is none of {', '.join(FORMATS)}.") from error
    except broken as error:  # SyntaxError: Pillow's for some headers
        reason = str(error).partition("\n")[0].rstrip(".")
        raise ValueError(f"{name!r} cannot be read as an image: {reason}.") from error


def _check_header(image: Any, name: str) -> None:
    width, height = image.size
    if width * height > MOST_PIXELS:
        raise ValueError(
            f"{name!r} has {width} x {height} pixels, expected at most {MOST_PIXELS} in all: scale it down first."
        )
    if image.mode not in (*SHALLOW, *SHALLOW_ALPHA) or any(_is_deep(tile) for tile in image.tile):
        raise ValueError(
            f"{name!r} has more than 8 bits per channel (mode {image.mode}), expected 8 bits per channel: convert it, "
            "or give floating numbers by data.npz."
        )


def _is_deep(tile: Any) -> bool:
    """Tells by what Pillow is about to decode whether it would cut 16 bits down to 8."""
    words = tile[3] if isinstance(tile[3], tuple) else (tile[3],)
    if str(tile[0]).startswith("ppm"):
        return any(isinstance(word, int) and word > 255 for word in words)  # the file's own largest level
    return any(isinstance(word, str) and re.match(r"(?!BGR).*;(16|32|64)", word) for word in words)


def size(image: Any) -> tuple[int, int]:
    """Tells width and height of the upright image, from its header alone."""
    late = image.format == "PNG" and "exif" not in image.info  # Pillow would decode a PNG to look behind its pixels
    turned = not late and image.getexif().get(ORIENTATION, 1) >= 5
    return image.size[::-1] if turned else image.size


def decode(
    file: BinaryIO | str,
    name: str,
    shape: tuple[int, int, int],
    background: Background = None,
    fit: bool = True,
    upright: bool = True,
) -> np.ndarray:
    """Decodes an image as (H, W, C) uint8.

    Args:
        shape: of the result; C is 1, 3 or 4.
        background: what pixels that are not opaque lie on.
        upright: turn the image as its EXIF tag says.
        fit: scale the shorter side and cut out the centre where the image has another size; else that is an error.

    Raises:
        ValueError: for a file that cannot be read, by its name.
    """
    from PIL import Image, ImageOps

    height, width, channels = shape
    with opened(file, name) as image, _one_at_a_time if image.width * image.height > LARGE else nullcontext():
        try:
            image.load()
        except ValueError as error:  # as in `opened`, of text behind the pixels
            raise SyntaxError(str(error)) from error
        image = ImageOps.exif_transpose(image) if upright else image
        image = (image if channels == 4 else _without_alpha(image, name, background)).convert(MODES[channels])
        if image.size != (width, height):
            if not fit:
                raise ValueError(f"{name!r} is {image.width} x {image.height} pixels, expected {width} x {height}.")
            image = ImageOps.fit(image, (width, height), Image.Resampling.BICUBIC)
        return np.asarray(image, np.uint8).reshape(shape)


def _without_alpha(image: Any, name: str, background: Background) -> Any:
    """Lays the image on its background, or finds that it is opaque everywhere."""
    from PIL import Image

    if image.mode not in SHALLOW_ALPHA and "transparency" not in image.info:
        return image
    pixels = np.asarray(image.convert("RGBA"))
    colour, alpha = pixels[..., :3], pixels[..., 3:].astype(np.uint32)
    if background is None:
        if alpha.min() < 255:
            raise ValueError(
                f"{name!r} has pixels that are not opaque: set channels=4 to keep alpha, or background=255, or "
                "background=(0, 0, 0), or another colour for them to lie on."
            )
        return Image.fromarray(np.ascontiguousarray(colour))
    below = np.broadcast_to(np.asarray(background, np.uint32), 3)
    laid = (colour * alpha + below * (255 - alpha) + 127) // 255
    return Image.fromarray(laid.astype(np.uint8))
