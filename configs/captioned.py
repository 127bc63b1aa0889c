"""Images with captions from a folder or zip that you have, by one class of each: emoji, 32 x 32, on grey.

    python -m diffjax.main --config=configs/captioned.py --config.data.path=emoji.zip --config.data.label=category
    python -m diffjax.main --config=configs/captioned.py:tiny --config.data.path=emoji.zip    # small: for tests
    python -m diffjax.main --config=configs/captioned.py:gpu --config.data.path=emoji.zip     # 64 x 64 by ADM's network

The file has captions.jsonl beside its images (`data/captioned.py`); `data.only=base` keeps lines where that field is
true, and `data.caption` names the field with the text, which no network reads yet: samples follow the label alone. The
default is a DiT of patches of 4 pixels. Distances stand in report.md beside their floor: on Twemoji by category exact
W2 is 21.89 (floor 23.78, a fitted Gaussian 26.15; 8346c09, 6 min 18 s). `:gpu` was not run here.
"""

from ml_collections import ConfigDict

from diffjax.config import beside, spec

_cifar10, _edm = beside(__file__, "cifar10.py"), beside(__file__, "edm.py")


def images() -> ConfigDict:
    """The default recipe."""
    config = _cifar10.small()
    config.data = spec("captioned", path="", size=32, background=127)
    config.model = spec("DiT", preset="small", patch=4, classes="data", positions="both")
    return config


def gpu() -> ConfigDict:
    """Karras et al.'s (2022) ImageNet-64 recipe by classes, ADM's network, a hundredth of its images, 512 a step."""
    config = _edm.cifar10()
    config.data = spec("captioned", path="", size=64, background=127)
    config.augment = spec("none")
    config.model = spec("PublishedUNet.preset", preset="adm_64", clock="edm", classes="data", outputs=1, dropout=0.1)
    batch = 512
    config.learning_rate.update(dict(peak=1e-4, warmup_steps=100_000 // batch))
    config.ema = spec("half_life", updates=500_000 / batch, ramp=0.05)
    config.train.update(dict(steps=25_000_000 // batch // 10 * 10, batch_size=batch))
    return config


def tiny() -> ConfigDict:
    """Every part of the default, at a small size, for tests."""
    config = _cifar10.tiny()
    config.data = spec("captioned", path="", size=8, background=127)
    config.model = spec("DiT", depth=2, width=16, heads=2, patch=2, classes="data")
    return config


VARIANTS = {"images": images, "tiny": tiny, "gpu": gpu}
