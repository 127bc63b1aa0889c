"""VP-SDE (Song et al. 2021; kexue 9209): eps-prediction, trained and sampled on real digits.

    python -m diffjax.main --config=configs/vpsde.py           # scikit-learn's 1797 digits: minutes on 2 CPU cores
    python -m diffjax.main --config=configs/vpsde.py:tiny      # the same path in seconds: for tests, not for pictures
    python -m diffjax.main --config=configs/vpsde.py:cifar10   # DDPM++-class U-Net; needs the data and an accelerator

Expected of the default: a pass of the gate in report.md; README.md has the figures and the commit they come from.
"""

from ml_collections import ConfigDict, config_dict

from diffjax.config import variant_of


def digits() -> ConfigDict:
    """The default recipe."""
    config = ConfigDict()
    config.seed = 0
    config.data = ConfigDict(dict(name="digits"))
    config.schedule = ConfigDict(dict(name="VP", beta_min=0.1, beta_max=20.0))
    config.process = ConfigDict(dict(name="Gaussian"))
    config.target = ConfigDict(dict(name="Eps"))
    config.weight = ConfigDict(dict(name="unit"))
    config.times = ConfigDict(dict(name="stratified", t_min=1e-5))
    config.prepare = ConfigDict(dict(name="nothing"))  # of the batch: "importance" draws its times
    config.loss = ConfigDict(dict(name="regression"))
    config.denoiser = ConfigDict(dict(name="mean"))  # "large", "learned_range", ...; clip=(-1, 1) confines x_0
    config.guidance = ConfigDict(dict(name="none"))  # "classifier_free", for a model with classes
    config.augment = ConfigDict(dict(name="none"))
    config.model = ConfigDict(dict(name="UNet", channels=16, multipliers=(1, 2), blocks=1, attention=(4,)))
    config.optimizer = ConfigDict(dict(name="adam"))  # any optax optimizer, with its own options
    config.learning_rate = ConfigDict(dict(peak=2e-3, schedule="cosine", warmup_steps=200))
    config.ema = ConfigDict(dict(name="warm_up", decays=(0.999,)))
    config.train = ConfigDict(
        dict(
            steps=2400,
            batch_size=128,
            clip_norm=1.0,  # inf: off
            start=config_dict.placeholder(str),  # the workdir of a run whose parameters this one begins with
            only=config_dict.placeholder(str),  # what is trained: a regular expression on parameter paths; None: all
            label_dropout=0.0,  # share of examples whose label is hidden: what guidance without a classifier needs
            steps_per_dispatch=1,  # on CPUs, XLA slows convolutions down inside loops
            log_every=100,
            sample_every=800,
            backend="jit",  # or "pmap"
            devices=config_dict.placeholder(int),  # None: all of them
            nonfinite="stop",  # or "skip"
            loggers=(),  # any of "tensorboard", "wandb"
        )
    )
    config.sampler = ConfigDict(dict(name="ancestral.ddim", eta=1.0))
    config.grid = ConfigDict(dict(name="log_snr", n=40, t_min=1e-3))
    config.sample = ConfigDict(
        dict(chunk=64, ema="0.999", label=config_dict.placeholder(int))
    )  # label: of every sample
    config.checkpoint = ConfigDict(dict(every=500, keep=2, best=1))
    config.eval = ConfigDict(dict(samples=1024, time_bins=10))
    return config


def tiny() -> ConfigDict:
    """Every part of the default, at a size that runs in seconds."""
    config = digits()
    config.model = ConfigDict(dict(name="UNet", channels=8, multipliers=(1, 1), attention=(4,)))
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
    config.data = ConfigDict(dict(name="tfds", dataset="cifar10", flip=True))
    config.model = ConfigDict(
        dict(
            name="UNet",
            channels=128,
            multipliers=(1, 2, 2, 2),
            blocks=4,
            attention=(16,),
            dropout=0.1,
            skip_scale=0.5**0.5,
            embedding="positional",
        )
    )
    config.learning_rate = ConfigDict(dict(peak=2e-4, schedule="constant", warmup_steps=5000))
    config.ema.decays = (0.9999,)
    config.train.update(dict(steps=1_300_000, steps_per_dispatch=10, log_every=100, sample_every=10_000))
    config.sampler = ConfigDict(dict(name="ancestral.ddim", eta=1.0))
    config.grid = ConfigDict(dict(name="uniform", n=1000, t_min=1e-3))
    config.sample.update(dict(chunk=128, ema="0.9999"))
    config.checkpoint = ConfigDict(dict(every=10_000, keep=2, best=1))
    return config


VARIANTS = {"digits": digits, "tiny": tiny, "cifar10": cifar10}


def get_config(variant: str | None = None) -> ConfigDict:
    """The recipe of a variant; None is the first."""
    return variant_of(variant, VARIANTS)()
