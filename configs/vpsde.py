"""VP-SDE (Song et al. 2021; kexue 9209): eps-prediction, trained and sampled on real digits.

    python -m diffjax.main --config=configs/vpsde.py           # scikit-learn's 1797 digits: minutes on 2 CPU cores
    python -m diffjax.main --config=configs/vpsde.py:tiny      # the same path, small: for tests, not for pictures
    python -m diffjax.main --config=configs/vpsde.py:cifar10   # DDPM++-class U-Net; needs the data and an accelerator

A config says what differs from the defaults, which `--mode=show` prints with it (`runs.settings` has their table).
Expected of the default: a pass of the gate in report.md; docs/results.md has the figures and the commit they come from.
"""

from ml_collections import ConfigDict

from diffjax.config import recipe, spec


def digits() -> ConfigDict:
    """The default recipe."""
    config = recipe()
    config.schedule = spec("VP", beta_min=0.1, beta_max=20.0)
    config.target = spec("Eps")
    config.times = spec("stratified", t_min=1e-5)
    config.model = spec("UNet", channels=16, multipliers=(1, 2), blocks=1, attention=(4,))
    config.learning_rate.update(dict(peak=2e-3, schedule="cosine", warmup_steps=200))
    config.sampler = spec("ancestral.ddim", eta=1.0)
    config.grid = spec("log_snr", n=40, t_min=1e-3)
    return config


def tiny() -> ConfigDict:
    """Every part of the default, at a small size, for tests."""
    config = digits()
    config.model = spec("UNet", channels=8, multipliers=(1, 1), attention=(4,))
    config.train.update(dict(steps=40, batch_size=32, log_every=10, sample_every=20))
    config.learning_rate.warmup_steps = 5
    config.grid.n = 5
    config.checkpoint.every = 10
    config.sample.chunk = 16
    config.eval.samples = 300
    return config


def cifar10() -> ConfigDict:
    """Song et al.'s DDPM++ recipe on CIFAR-10: 1.3 M steps of batch 128; it stops at once where the data is missing."""
    config = digits()
    config.data = spec("tfds", dataset="cifar10", flip=True)
    config.model = spec(
        "UNet",
        channels=128,
        multipliers=(1, 2, 2, 2),
        blocks=4,
        attention=(16,),
        dropout=0.1,
        skip_scale=0.5**0.5,
        embedding="positional",
    )
    config.learning_rate = ConfigDict(dict(peak=2e-4, schedule="constant", warmup_steps=5000))
    config.ema = spec("warm_up", decays=(0.9999,))
    config.train.update(dict(steps=1_300_000, steps_per_dispatch=10, log_every=100, sample_every=10_000))
    config.sampler = spec("ancestral.ddim", eta=1.0)
    config.grid = spec("uniform", n=1000, t_min=1e-3)
    config.sample.update(dict(chunk=128, ema="0.9999"))
    config.checkpoint = ConfigDict(dict(every=10_000, keep=2, best=1))
    return config


VARIANTS = {"digits": digits, "tiny": tiny, "cifar10": cifar10}
