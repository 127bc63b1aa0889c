"""Variational diffusion (Kingma et al. 2021): the bound itself as the loss, and log-SNR falling as a network learns it.

    python -m diffjax.main --config=configs/vdm.py           # scikit-learn's 1797 digits: minutes on 2 CPU cores
    python -m diffjax.main --config=configs/vdm.py:linear    # the same without learning: log-SNR stays a straight line
    python -m diffjax.main --config=configs/vdm.py:tiny      # every part, small: for tests, not for pictures

The network is trained for 17 grey levels between fixed ends of log-SNR; samples take equal steps of the learned clock.
Other fields: configs/vpsde.py. Expected of the first two: a pass of the gate in report.md; the loss
of one draw has the smaller standard deviation with the learned clock.
"""

from ml_collections import ConfigDict

from diffjax.config import beside, spec

_base = beside(__file__, "vpsde.py")


def _vdm(config: ConfigDict, steps: int) -> ConfigDict:
    config.schedule = spec("VDM", gamma_min=-7.0, gamma_max=7.0)
    config.times = spec("stratified", t_min=0.0)
    config.weight = spec("likelihood")
    config.prepare = spec("learned", t_min=0.0)
    config.denoiser = spec("small")
    config.sampler = spec("ancestral.ddpm")
    config.grid = spec("uniform", n=steps, t_min=0.0)
    return config


def digits() -> ConfigDict:
    """The default recipe."""
    return _vdm(_base.digits(), 100)


def linear() -> ConfigDict:
    """Without learning the clock."""
    config = digits()
    config.prepare = spec("nothing")
    return config


def tiny() -> ConfigDict:
    """Every part of the default, at a small size, for tests."""
    return _vdm(_base.tiny(), 4)


VARIANTS = dict(digits=digits, linear=linear, tiny=tiny)
