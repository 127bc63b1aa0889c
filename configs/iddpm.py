"""iDDPM (Nichol & Dhariwal 2021): the cosine chain, learned variances, L_hybrid, sub-sequences of the chain.

    python -m diffjax.main --config=configs/iddpm.py           # scikit-learn's digits, L_hybrid: minutes on 2 CPU cores
    python -m diffjax.main --config=configs/iddpm.py:vlb       # L_vlb alone, with importance-sampled times
    python -m diffjax.main --config=configs/iddpm.py:tiny      # L_hybrid, small: for tests, not for pictures
    python -m diffjax.main --config=configs/iddpm.py:cifar10   # the published recipe; needs the data and an accelerator

Expected of the default: a pass of the gate, and a bound in bits per dimension, in report.md; docs/results.md has the
figures and the commit they come from.
"""

from ml_collections import ConfigDict

from diffjax.config import beside, spec

_base = beside(__file__, "ddpm.py")
DIGITS = 17  # grey levels


def learned(config: ConfigDict, levels: int = DIGITS) -> ConfigDict:
    """A recipe of `ddpm.py` with a second map for the variances."""
    config.loss = spec("hybrid", vlb_weight=0.001, levels=levels)
    config.denoiser = spec("learned_range", clip=(-1.0, 1.0))
    config.model.outputs = 2
    config.grid = spec("sections", n=str(config.grid.n), steps=config.schedule.steps)
    return config


def digits() -> ConfigDict:
    """The default recipe."""
    return learned(_base.cosine())


def vlb() -> ConfigDict:
    """The bound and nothing else."""
    config = digits()
    config.loss = spec("variational", levels=DIGITS)
    config.prepare = spec("importance")
    return config


def tiny() -> ConfigDict:
    """Every part of the default, at a small size, for tests."""
    return learned(_base.tiny())


def cifar10() -> ConfigDict:
    """The published CIFAR-10 model: T = 4000, 500 k steps of batch 128, Adam at 1e-4, dropout 0.3."""
    config = _base.chain(_base.cifar10(), "cosine")
    config.schedule.steps = 4000
    config.grid.n = 4000
    config = learned(config, levels=256)
    config.times.evenly = False
    config.model = spec(
        "UNet",
        channels=128,
        multipliers=(1, 2, 2, 2),
        blocks=3,
        attention=(16, 8),
        head_width=64,
        dropout=0.3,
        outputs=2,
    )
    config.learning_rate = ConfigDict(dict(peak=1e-4, schedule="constant"))
    config.train.update(dict(steps=500_000, clip_norm=float("inf")))
    return config


VARIANTS = {"digits": digits, "vlb": vlb, "tiny": tiny, "cifar10": cifar10}
