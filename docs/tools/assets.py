"""Makes what pages need beside their text: style sheet, search from the disk, a font for mathematics (STIX, OFL)."""

import functools
import importlib.util
import io
from pathlib import Path

# Latin, Greek, accents, punctuation, arrows, operators, brackets and mathematical alphabets
RANGES = ((0x20, 0x17F), (0x300, 0x338), (0x370, 0x3FF), (0x2010, 0x2070), (0x20D0, 0x20E0), (0x2100, 0x214F))
RANGES += ((0x2190, 0x22FF), (0x2308, 0x230F), (0x23B0, 0x23E1), (0x27C0, 0x27FF), (0x2A00, 0x2A10), (0x1D400, 0x1D7FF))


@functools.cache
def font() -> bytes:
    """The font as WOFF, with its tables of mathematics; its file comes with the package ziamath."""
    from fontTools import subset
    from fontTools.ttLib import TTFont

    package = importlib.util.find_spec("ziamath")
    assert package is not None, "the site needs ziamath: pip install 'diffjax[docs]'"
    assert package.origin is not None
    file = Path(package.origin).parent / "fonts" / "STIXTwoMath-Regular.ttf"
    whole = TTFont(file, recalcBBoxes=False)  # outlines stay as they are, and so do their boxes
    options = subset.Options(hinting=False, layout_features=["*"], notdef_outline=True)
    part = subset.Subsetter(options)
    part.populate(unicodes=[code for start, end in RANGES for code in range(start, end + 1)])
    part.subset(whole)
    whole.flavor = "woff"
    whole.save(made := io.BytesIO())
    return made.getvalue()


def files() -> dict[str, str | bytes]:
    """Name in assets/ -> content."""
    texts = {name: Path(__file__).with_name(name).read_text() for name in ("site.css", "iframe-worker.js")}
    return {**texts, "mathematics.woff": font()}
