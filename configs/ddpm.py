"""DDPM (Ho et al. 2020; kexue 9119, 9152, 9164): a chain of 1000 steps, eps-prediction, ancestral sampling.

    python -m diffjax.main --config=configs/ddpm.py           # linear betas, on scikit-learn's digits: minutes on a CPU
    python -m diffjax.main --config=configs/ddpm.py:kexue     # the chain of kexue 9119, alpha_t = sqrt(1 - 0.02 t / T)
    python -m diffjax.main --config=configs/ddpm.py:cosine    # the cosine chain of Nichol & Dhariwal 2021
    python -m diffjax.main --config=configs/ddpm.py:tiny      # the same path, small: for tests, not for pictures
    python -m diffjax.main --config=configs/ddpm.py:cifar10   # the published recipe; needs the data and an accelerator

The reverse variance is the 'large' one, beta_t; `--config.denoiser.name=small` is beta_tilde. The digits are sampled in
100 of the 1000 steps; `--config.grid.n=1000` walks them all. Expected of the three chains: a pass of the gate in
report.md; docs/results.md has the figures and the commit they come from.
"""

from ml_collections import ConfigDict

from diffjax.config import beside, spec

_base = beside(__file__, "vpsde.py")


def chain(config: ConfigDict, table: str = "linear") -> ConfigDict:
    """A recipe of `vpsde.py` on a discrete chain."""
    config.schedule = spec(f"Tabulated.{table}", steps=1000)
    config.times = spec("chain", evenly=True)
    config.denoiser = spec("large", clip=(-1.0, 1.0))
    config.sampler = spec("ancestral.ddpm")
    config.grid = spec("trailing", n=100, steps=1000)
    return config


def digits() -> ConfigDict:
    """The default recipe: DDPM's linear betas."""
    return chain(_base.digits())


def kexue() -> ConfigDict:
    """alpha_t = sqrt(1 - 0.02 t / T)."""
    return chain(_base.digits(), "kexue")


def cosine() -> ConfigDict:
    """The published cosine table, which a discrete chain can end at alpha > 0."""
    return chain(_base.digits(), "cosine")


def tiny() -> ConfigDict:
    """Every part of the default, at a small size, for tests."""
    config = chain(_base.tiny())
    config.grid.n = 5
    return config


def cifar10() -> ConfigDict:
    """Ho et al.'s appendix B: 800 k steps of batch 128, Adam at 2e-4, dropout 0.1, EMA 0.9999, all 1000 steps."""
    config = chain(_base.cifar10())
    config.model = spec("UNet", channels=128, multipliers=(1, 2, 2, 2), blocks=2, attention=(16,), dropout=0.1)
    config.times.evenly = False
    config.train.steps = 800_000
    config.grid.n = 1000
    return config


VARIANTS = {"digits": digits, "kexue": kexue, "cosine": cosine, "tiny": tiny, "cifar10": cifar10}
