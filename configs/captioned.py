"""Images with captions from a folder or zip that you have, by one class of each: emoji, 32 x 32, on grey.

    python -m diffjax.main --config=configs/captioned.py --config.data.path=emoji.zip --config.data.label=category
    python -m diffjax.main --config=configs/captioned.py:tiny --config.data.path=emoji.zip    # small: for tests

The file has captions.jsonl beside its images (`data/captioned.py`); `data.only=base` keeps lines where that field is
true, and `data.caption` names the field with the text, which no network reads yet: samples follow the label alone. The
default is a DiT of patches of 4 pixels. Distances stand in report.md beside their floor. Not measured yet.
"""

from ml_collections import ConfigDict

from diffjax.config import beside, spec

_cifar10 = beside(__file__, "cifar10.py")


def images() -> ConfigDict:
    """The default recipe."""
    config = _cifar10.small()
    config.data = spec("captioned", path="", size=32, background=127)
    config.model = spec("DiT", preset="small", patch=4, classes="data")
    return config


def tiny() -> ConfigDict:
    """Every part of the default, at a small size, for tests."""
    config = _cifar10.tiny()
    config.data = spec("captioned", path="", size=8, background=127)
    config.model = spec("DiT", depth=2, width=16, heads=2, patch=2, classes="data")
    return config


VARIANTS = {"images": images, "tiny": tiny}
