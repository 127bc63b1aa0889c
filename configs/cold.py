"""Cold diffusion (Bansal et al. 2022; kexue 9271): a network restores degraded digits, and a walk degrades them less.

    python -m diffjax.main --config=configs/cold.py            # a blur and a little noise: 8 CPU minutes
    python -m diffjax.main --config=configs/cold.py:pixelate   # means over blocks of 2 x 2, 4 x 4, 8 x 8
    python -m diffjax.main --config=configs/cold.py:masked     # places hidden one by one, in an order of their own
    python -m diffjax.main --config=configs/cold.py:mix        # images of another set, of the file mix.npy, mixed in
    python -m diffjax.main --config=configs/cold.py:bansal     # as published: no noise, L1
    python -m diffjax.main --config=configs/cold.py:tiny       # every part, small: for tests, not for pictures

The file of `mix` is an array (n, 8, 8, 1) in [-1, 1], such as patches of photographs:

    python -c "import numpy as np; from diffjax import data; d = data.photos(size=8).train; \\
        np.save('mix.npy', d.gather(np.arange(len(d))).x.mean(-1, keepdims=True))"

--config.sampler.share=1.0 is the naive sampler. `start` has mean and standard deviation of the mean of a digit, which
is all that the full degradation leaves. Other fields: configs/vpsde.py. Expected: digits with noise in x_t (aa35f17:
Frechet distance 6.34, the gate passes), and few over and over without (`bansal`); experiments/degradations has the
table, of a perceptron.
"""

from ml_collections import ConfigDict

from diffjax.config import beside, spec

_base = beside(__file__, "vpsde.py")
START = (-0.389, 0.068)  # of the means of the 1500 training digits


def _cold(config: ConfigDict, steps: int) -> ConfigDict:
    config.schedule = spec("Rectified")
    config.process = spec("cold.blur", std=0.1, start=START)
    config.target = spec("X0", sigma_data=0.75)
    config.times = spec("stratified", t_min=1e-3)
    config.sampler = spec("unified", share=0.0, estimate="mean")
    config.grid = spec("uniform", n=steps, t_min=0.0)
    config.denoiser = spec("mean", clip=(-1.0, 1.0))
    return config


def blur() -> ConfigDict:
    """The default recipe."""
    return _cold(_base.digits(), 40)


def pixelate() -> ConfigDict:
    """Means over blocks that grow."""
    config = blur()
    config.process = spec("cold.pixelate", std=0.1, start=START)
    return config


def masked() -> ConfigDict:
    """Places that are hidden, shown as grey."""
    config = blur()
    config.process = spec("cold.masked", std=0.1)
    return config


def mix() -> ConfigDict:
    """Another data set, mixed in along straight lines: the flow from the one to the other."""
    config = blur()
    config.process = spec("cold.mix", images="mix.npy")
    return config


def bansal() -> ConfigDict:
    """Without noise in x_t, and absolute errors."""
    config = blur()
    config.process.std = 0.0
    config.loss = spec("restoration", norm=1)
    return config


def tiny() -> ConfigDict:
    """Every part of the default and the absolute errors, at a small size, for tests."""
    config = _cold(_base.tiny(), 5)
    config.loss = spec("restoration", norm=1)
    return config


VARIANTS = dict(blur=blur, pixelate=pixelate, masked=masked, mix=mix, bansal=bansal, tiny=tiny)
