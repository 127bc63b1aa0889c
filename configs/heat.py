"""Heat dissipation (Rissanen, Heinonen, Solin 2022) on digits: data is blurred, and sampling takes the blur back.

    python -m diffjax.main --config=configs/heat.py            # digits, 40 levels: minutes on 2 CPU cores
    python -m diffjax.main --config=configs/heat.py:patches    # 16 x 16 patches of two photographs
    python -m diffjax.main --config=configs/heat.py:tiny       # every part, small: for tests, not for pictures

Then, of the same run, another noise of the sampler, in units of sigma or by name (`samplers.heat`):

    python -m diffjax.main --mode=eval --workdir=runs/... --config.sampler.delta=sigma

Heat never becomes noise. Samples start from a Gaussian per frequency, of the training data's mean and variance at the
lowest frequencies (`processes.heat.measured`), where the published code starts from blurred training images. The
network predicts the next level of the grid (`Deblur`), so n and t_min of target and grid belong together. Other fields:
configs/vpsde.py. Measured (1a4fa92, 462 s of CPU time): Frechet distance 8.20 with the published noise (floor 4.45,
Gaussian fit 63.7, vpsde.py 6.01), the gate fails by 1-NN accuracy of the fakes alone, 0.662. With sqrt 2 sigma and with
measured variances it is better. The spectra of `patches` are in experiments/spectral/README.md: 405 s of CPU time.
"""

from ml_collections import ConfigDict

from diffjax.config import beside, spec

_base = beside(__file__, "vpsde.py")


def _heat(config: ConfigDict, n: int) -> ConfigDict:
    config.schedule = spec("Still", sigma=0.1)
    config.process = spec(
        "heat.dissipation",
        sides=(8, 8),
        w_min=0.5,
        w_max=6.0,
        mean=(((-3.109,), (-0.142,)), ((0.045,), (0.254,))),
        variance=(((0.294,), (0.519,)), ((0.702,), (0.465,))),
    )
    config.target = spec("Deblur", n=n, t_min=1e-3)
    config.times = spec("stratified", t_min=1e-3)
    config.sampler = spec("heat.dissipation", delta="published")
    config.grid = spec("uniform", n=n, t_min=1e-3)
    return config


def digits() -> ConfigDict:
    """The default recipe."""
    return _heat(_base.digits(), 40)


def patches() -> ConfigDict:
    """Patches of photographs; the prior draws the three colours apart, so that only their spectra are right."""
    config = _heat(_base.digits(), 40)
    config.data = spec("photos", size=16, stride=4)
    config.process = spec(
        "heat.dissipation",
        sides=(16, 16),
        w_min=0.5,
        w_max=16.0,
        mean=(((-2.553, -2.061, -3.606), (-0.023, -0.016, -0.031)), ((0.043, 0.087, 0.135), (-0.001, -0.001, 0.0))),
        variance=(((122.942, 75.351, 94.473), (1.89, 1.361, 1.237)), ((2.917, 1.977, 1.79), (0.554, 0.489, 0.438))),
    )
    config.model.attention = (8,)
    config.train.update(dict(steps=1500, batch_size=32))
    config.eval.samples = 512
    return config


def tiny() -> ConfigDict:
    """Every part of the default, at a small size, for tests."""
    return _heat(_base.tiny(), 5)


VARIANTS = {"digits": digits, "patches": patches, "tiny": tiny}
