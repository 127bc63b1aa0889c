"""Energies E(x, t) of digits and points: a network whose noise prediction is a gradient (kexue 7038; Du et al. 2023).

    python -m diffjax.main --config=configs/energy.py           # scikit-learn's digits by class: minutes on 2 CPU cores
    python -m diffjax.main --config=configs/energy.py:points    # eight Gaussians around a circle, told the level
    python -m diffjax.main --config=configs/energy.py:tiny      # every part, small: for tests, not for pictures

Then, of the same run, Metropolis-corrected steps, and two classes at once, which they alone sample rightly:

    python -m diffjax.main --mode=sample --workdir=runs/... --sampler=metropolis.mala --config.grid.zero=False
    python -m diffjax.main --mode=sample --workdir=runs/... --sampler=metropolis.hmc --config.grid.zero=False \\
        --config.guidance.name=all_of --config.guidance.labels="(3,8)"

Other fields: configs/vpsde.py. A step differentiates a gradient, and costs a few of a plain network's. Expected of the
default (9 minutes of two cores): a Frechet distance of 4.42 (floor 4.45), which passes the gate of digits, and the
label asked for in 0.988 of the samples; of `:points` (1.3 minutes) an exact W2 of 0.251 (floor 0.281).
`experiments/energies` composes what the default has learned, and ranks digits by it.
"""

from ml_collections import ConfigDict

from diffjax.config import beside, spec

_digits, _points = beside(__file__, "vpsde.py"), beside(__file__, "points.py")


def _gradient(config: ConfigDict, **options: object) -> ConfigDict:
    """The recipe with its network read as an energy."""
    config.model = spec("scalar.energy", of=config.model.name, **options, **_options(config.model))
    config.target = spec("Eps")
    config.loss = spec("energy")
    config.denoiser = spec("energy")
    return config


def _options(model: ConfigDict) -> dict:
    return {name: value for name, value in model.items() if name != "name"}


def digits() -> ConfigDict:
    """The default recipe: digits by class, the label hidden from a tenth of them."""
    config = _gradient(_digits.digits(), form="inner", classes=10)
    config.train.label_dropout = 0.1
    config.train.steps = 1200
    return config


def points() -> ConfigDict:
    """Points in the plane."""
    config = _gradient(_points.gaussians(), form="inner")
    config.train.steps = 4000
    return config


def tiny() -> ConfigDict:
    """Every part of the default at a small size, with a perceptron, for tests."""
    config = _digits.tiny()
    config.model = spec("MLP", width=16, depth=1)
    config = _gradient(config, form="inner", classes=10)
    config.train.label_dropout = 0.1
    return config


VARIANTS = dict(digits=digits, points=points, tiny=tiny)
