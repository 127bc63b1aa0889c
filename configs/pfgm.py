"""PFGM++ (Xu et al. 2023): EDM's loss, preconditioning and Heun with Student-t noise of D degrees of freedom.

    python -m diffjax.main --config=configs/pfgm.py          # D = 64 on scikit-learn's digits: minutes on 2 CPU cores
    python -m diffjax.main --config=configs/pfgm.py:pfgm     # D = 1, the Poisson flow of Xu et al. (2022)
    python -m diffjax.main --config=configs/pfgm.py:tiny     # every part, small: for tests, not for pictures

`--config.process.D=inf` is configs/edm.py. D = 1 has noise without a mean length, which EDM's F = a x_0 + b z would
have to be fitted to: its network predicts x_0, which is bounded, sample by sample, without the published batch field
(`losses.poisson`). Other fields: configs/edm.py. Expected of the default: a pass of the gate in
report.md; docs/results.md has the figures and the commit they come from.
"""

from ml_collections import ConfigDict

from diffjax.config import beside, spec

_base = beside(__file__, "edm.py")


def _poisson(config: ConfigDict, D: float) -> ConfigDict:
    config.process = spec("poisson", D=D)
    return config


def digits() -> ConfigDict:
    """As many extra dimensions as the data has."""
    return _poisson(_base.digits(), 64.0)


def pfgm() -> ConfigDict:
    """One extra dimension, from z = 40 on."""
    config = _poisson(_base.digits(), 1.0)
    config.schedule.t_max = 40.0
    config.target = spec("X0", sigma_data=0.75)
    config.weight = spec("min_snr", gamma=5.0)
    return config


def tiny() -> ConfigDict:
    """Every part of the default, at a small size, for tests."""
    return _poisson(_base.tiny(), 64.0)


VARIANTS = dict(digits=digits, pfgm=pfgm, tiny=tiny)
