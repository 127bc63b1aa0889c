"""Images with captions from a folder or zip that you have, by one class of each: emoji, 32 x 32, on grey.

    python -m diffjax.main --config=configs/captioned.py --config.data.path=emoji.zip --config.data.label=category
    python -m diffjax.main --config=configs/captioned.py:tiny --config.data.path=emoji.zip    # small: for tests
    python -m diffjax.main --config=configs/captioned.py:gpu --config.data.path=emoji.zip     # 64 x 64 by ADM's network
    python -m diffjax.main --config=configs/captioned.py:text --config.data.path=emoji.zip    # by the words of captions
    python -m diffjax.main --config=configs/captioned.py:two_scales --config.data.path=emoji.zip  # and by the category
    python -m diffjax.main --config=configs/captioned.py:untold --config.data.path=emoji.zip  # baseline: told nothing
    python -m diffjax.main --config=configs/captioned.py:text_tiny --config.data.path=emoji.zip   # small: for tests
    python -m diffjax.main --config=configs/captioned.py:text_gpu --config.data.path=emoji.zip    # 64 x 64 by JiT-S

The file has captions.jsonl beside its images (`data/captioned.py`); `data.only=base` keeps lines where that field is
true, and `data.caption` names the field with the text. The default is a DiT of patches of 4 pixels by class: distances
stand in report.md beside their floor, on Twemoji by category exact W2 21.89 (floor 23.78, a fitted Gaussian 26.15;
8346c09, 6 min 18 s). `:gpu` was not run here.

`:text` is a JiT of patches of 8 pixels that reads words, with guidance; a sample of one's own words is

    python -m diffjax.main --mode=sample --workdir=runs/... --config.sample.text="red heart"

report.md says how well a probe reads from samples what held-out captions asked for: the AUC beside that of the real
images (its floor) and of shuffled captions (0.5), of all captions and of those whose words all stand in training, and
how near samples are to training images. `:untold` is the network of `:text` without words, whose samples read as
shuffled ones do. On Twemoji `:text` has 0.890 (floor 0.803, shuffled 0.490), 0.878 in new combinations (e2ae6ba, 625 s
of CPU time), `:untold` 0.492 (f35f2a2, 423 s), `:two_scales` 0.867 (3ff0d19, 486 s). `:text_gpu` was not run here.
"""

from ml_collections import ConfigDict

from diffjax.config import beside, spec

_cifar10, _edm, _dit = (beside(__file__, name) for name in ("cifar10.py", "edm.py", "dit.py"))


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


def untold() -> ConfigDict:
    """The baseline of `text`: its network without words, judged by the captions that it does not know."""
    config = _dit.jit()
    config.data = spec("captioned", path="", size=32, background=127, only="base", words=2)
    config.model = spec("JiT", preset="small", patch=8, bottleneck=64)
    config.learning_rate.peak = 4e-3
    config.train.update(dict(steps=3000, batch_size=32, sample_every=3000))
    config.eval.samples = 512
    return config


def text() -> ConfigDict:
    """Words of captions, by cross-attention and beside the label's part of e, hidden from a tenth of the examples."""
    config = untold()
    config.model.text = "data"
    config.train.label_dropout = 0.1
    config.guidance = spec("classifier_free", w=2.0)
    return config


def two_scales() -> ConfigDict:
    """Words and a category, with a scale each: the category's first."""
    config = text()
    config.data.label = "category"
    config.model.classes = "data"
    config.train.update(dict(label_dropout=0.05, apart_dropout=0.05))
    config.guidance = spec("two_scales", w=2.0, w_first=1.5, first="label")
    return config


def text_gpu() -> ConfigDict:
    """`text` at 64 x 64 by JiT-S of patches of 8 pixels, all tones of skin."""
    config = text()
    config.data.size = 64
    del config.data.only
    config.model = spec("JiT", preset="S", patch=8, text="data")
    config.learning_rate.peak = 1e-3
    config.train.update(dict(steps=40_000, batch_size=256, sample_every=10_000))
    return config


def text_tiny() -> ConfigDict:
    """Every part of `two_scales`, at a small size, for tests."""
    config, small = two_scales(), _dit.tiny()
    for group in ("train", "learning_rate", "checkpoint", "sample", "eval"):
        config[group] = small[group]
    config.data.update(dict(size=8, words=1))
    sizes = dict(depth=2, width=16, heads=2, patch=4, bottleneck=4, prefix=1)
    config.model = spec("JiT", **sizes, text="data", classes="data", text_depth=1)
    config.train.update(dict(label_dropout=0.05, apart_dropout=0.05))
    config.grid = spec("uniform", n=5, t_min=0.0)
    config.eval.samples = 32
    return config


VARIANTS = {
    "images": images,
    "tiny": tiny,
    "gpu": gpu,
    "text": text,
    "two_scales": two_scales,
    "untold": untold,
    "text_tiny": text_tiny,
    "text_gpu": text_gpu,
}
