"""A U-Net on any folder or zip of images: sub-folders are classes; grey or colour, levels and attention follow.

    python -m diffjax.main --config=configs/folder.py --config.data.path=photos --config.data.size=32
    python -m diffjax.main --config=configs/folder.py:tiny --config.data.path=photos --config.data.size=16   # for tests

What says "data" is decided by the images when the run begins, and stands in its config.json (`diffjax.derived`): the
classes, the multipliers and attention of the U-Net for this size (an even one, 8 to 256), and by channels=None whether
it is grey. Expected: report.md with samples of every class in turn beside held-out images, and distances beside their
floor. A step of 64 colour images of 32 x 32 took 3.4 to 3.9 s of CPU time on two busy cores, so that its 4800 steps are
some five hours of that; on CPUs nobody has trained them to the end. `--mode=show` says what a step of your size costs.
For less, take --config.train.steps=600 or model.channels=16; larger sizes want an accelerator and model.channels=128.
"""

from ml_collections import ConfigDict

from diffjax.config import recipe, spec


def images() -> ConfigDict:
    """The default recipe."""
    config = recipe()
    config.data = spec("folder", path="", size=32, channels=None)
    config.schedule = spec("VP", beta_min=0.1, beta_max=20.0)
    config.target = spec("V")
    config.model = spec("UNet", channels=32, multipliers="data", attention="data", classes="data")
    config.train.update(dict(steps=4800, batch_size=64))
    config.learning_rate.update(dict(peak=1e-3, schedule="cosine", warmup_steps=200))
    config.sampler = spec("ancestral.ddim", eta=1.0)
    config.grid = spec("log_snr", n=40, t_min=1e-3)
    return config


def tiny() -> ConfigDict:
    """Every part of the default, at a small size, for tests."""
    config = images()
    config.data.size = 8
    config.model.channels = 4
    config.train.update(dict(steps=20, batch_size=8, log_every=10, sample_every=20))
    config.learning_rate.warmup_steps = 5
    config.grid.n = 3
    config.checkpoint.every = 10
    config.sample.chunk = 8
    config.eval.samples = 16
    return config


VARIANTS = {"images": images, "tiny": tiny}
