"""Flows along paths (Liu et al. 2022; Lipman et al. 2023; kexue 9497): velocity-prediction, straight lines by default.

    python -m diffjax.main --config=configs/rectified.py                    # digits: minutes on 2 CPU cores
    python -m diffjax.main --config=configs/rectified.py:optimal_transport  # each batch's noise paired with its data
    python -m diffjax.main --config=configs/rectified.py:trigonometric      # along quarter circles
    python -m diffjax.main --config=configs/rectified.py:tiny               # every part, small: not for pictures

The default is a Gaussian process, so that stochastic samplers may use it (sde.euler_maruyama, with
schedule.t_max=0.999); the others know their flow alone. Reflow and distillation train on pairs (z, flow of z) of a run:

    python experiments/flows/pairs.py --workdir=runs/rectified-... --out=pairs.npz
    python -m diffjax.main --config=configs/rectified.py:reflow --config.data.path=pairs.npz
    python -m diffjax.main --config=configs/rectified.py:distill --config.data.path=pairs.npz

Other fields: configs/vpsde.py. Expected of the first two: a pass of the gate in report.md;
experiments/flows has the figures of the last two.
"""

from ml_collections import ConfigDict

from diffjax.config import beside, spec

_base = beside(__file__, "vpsde.py")


def _rectified(config: ConfigDict, steps: int) -> ConfigDict:
    config.schedule = spec("Rectified")
    config.target = spec("Velocity", sigma_data=0.5)
    config.times = spec("stratified", t_min=1e-3)
    config.sampler = spec("multistep.adams", order=2)
    config.grid = spec("uniform", n=steps, t_min=0.0)
    return config


def digits() -> ConfigDict:
    """The default recipe."""
    return _rectified(_base.digits(), 40)


def optimal_transport() -> ConfigDict:
    """Minibatch optimal transport."""
    config = digits()
    config.process = spec("path.rectified")
    config.prepare = spec("optimal_transport")
    return config


def trigonometric() -> ConfigDict:
    """The variance-preserving path: the network's velocity is that of a quarter circle."""
    config = digits()
    config.process = spec("path.variance_preserving")
    return config


def reflow() -> ConfigDict:
    """On pairs of a trained flow: straighter, so that few steps do."""
    config = digits()
    config.data = spec("npz", path="pairs.npz", label=None, z="z")
    config.process = spec("path.rectified")
    config.grid.n = 2
    return config


def distill() -> ConfigDict:
    """On the same pairs: noise to data in one step, trained at t = 1 alone."""
    config = reflow()
    config.times = spec("last")
    config.sampler = spec("ancestral.ddim")
    config.grid.n = 1
    return config


def tiny() -> ConfigDict:
    """Path and transport, at a small size, for tests."""
    config = _rectified(_base.tiny(), 5)
    config.process = spec("path.variance_preserving")
    config.prepare = spec("optimal_transport")
    return config


VARIANTS = dict(
    digits=digits, optimal_transport=optimal_transport, trigonometric=trigonometric, reflow=reflow, distill=distill
)
VARIANTS["tiny"] = tiny
