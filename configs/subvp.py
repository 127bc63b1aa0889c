"""Sub-VP score SDE (Song et al. 2021; kexue 9209) sampled by predictor-corrector, trained on real digits.

    python -m diffjax.main --config=configs/subvp.py           # scikit-learn's 1797 digits: minutes on 2 CPU cores
    python -m diffjax.main --config=configs/subvp.py:tiny      # the same path, small: for tests, not for pictures
    python -m diffjax.main --config=configs/subvp.py:cifar10   # their recipe; needs the data and an accelerator

Other fields: configs/vpsde.py. The grid's 40 steps cost 80 evaluations. The public code cannot run
this sampler: its Langevin corrector reads a table that its sub-VP SDE does not have.

Expected of the default: a pass of the gate in report.md.
"""

from ml_collections import ConfigDict

from diffjax.config import beside, spec

_base = beside(__file__, "vpsde.py")


def _subvp(config: ConfigDict) -> ConfigDict:
    config.schedule = spec("SubVP", beta_min=0.1, beta_max=20.0)
    return config


def digits() -> ConfigDict:
    """The default recipe; ancestral steps, for 40 are too few for the reverse-diffusion predictor."""
    config = _subvp(_base.digits())
    config.sampler = spec("langevin.predictor_corrector", predictor="ddpm", rule="snr", strength=0.16)
    config.grid = spec("log_snr", n=40, t_min=1e-3)
    return config


def tiny() -> ConfigDict:
    """Every part of the default, at a small size, for tests."""
    config = _subvp(_base.tiny())
    config.sampler = digits().sampler
    config.grid.n = 3
    return config


def cifar10() -> ConfigDict:
    """DDPM++ (continuous, sub-VP) on CIFAR-10: Euler-Maruyama, 1000 steps, the last mean."""
    config = _subvp(_base.cifar10())
    config.sampler = spec("sde.euler_maruyama", churn=1.0, denoise=True)
    config.grid = spec("uniform", n=1000, t_min=1e-3, zero=False)
    return config


VARIANTS = {"digits": digits, "tiny": tiny, "cifar10": cifar10}
