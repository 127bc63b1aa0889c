"""VE score SDE (Song et al. 2021; kexue 9209) sampled by predictor-corrector, trained on real digits.

    python -m diffjax.main --config=configs/ve.py           # scikit-learn's 1797 digits: minutes on 2 CPU cores
    python -m diffjax.main --config=configs/ve.py:tiny      # the same path, small: for tests, not for pictures
    python -m diffjax.main --config=configs/ve.py:cifar10   # their recipe; needs the data and an accelerator

Other fields: configs/vpsde.py. sigma_max follows NCSNv2's rule: the largest distance between two
training digits, 9.63, rounded up. The grid's n noise levels cost 2 n evaluations.

Expected of the default: a pass of the gate in report.md.
"""

from ml_collections import ConfigDict

from diffjax.config import beside, spec

_base = beside(__file__, "vpsde.py")

CORRECTED = dict(name="langevin.predictor_corrector", predictor="reverse_diffusion", rule="snr", strength=0.16)


def digits() -> ConfigDict:
    """The default recipe."""
    config = _base.digits()
    config.schedule = spec("VE", sigma_min=0.01, sigma_max=10.0)
    config.sampler = ConfigDict(CORRECTED)
    config.grid = spec("ladder", n=60)
    return config


def tiny() -> ConfigDict:
    """Every part of the default, at a small size, for tests."""
    config = _base.tiny()
    config.schedule, config.sampler = digits().schedule, digits().sampler
    config.grid = spec("ladder", n=3)
    return config


def cifar10() -> ConfigDict:
    """NCSN++ (continuous, VE) on CIFAR-10, its U-Net without the FIR filters and the progressive input.

    Their sigma from 0.01 to 50 and their snr are for images in [0, 1]: in [-1, 1] sigma doubles, snr has no unit.
    """
    config = _base.cifar10()
    config.schedule = spec("VE", sigma_min=0.02, sigma_max=100.0)
    config.model.embedding = "fourier"
    config.ema.decays = (0.999,)
    config.sample.ema = "0.999"
    config.sampler = ConfigDict(CORRECTED)
    config.grid = spec("ladder", n=1000)
    return config


VARIANTS = {"digits": digits, "tiny": tiny, "cifar10": cifar10}
