"""MNIST, 5,000 digits of 28 x 28 (extra `mnist`), held to a gate of their own: a DiT of patches of 4 pixels.

    pip install "diffjax[mnist]"
    python -m diffjax.main --config=configs/mnist.py          # a DiT by class, 331 k parameters: 9 minutes on 2 cores
    python -m diffjax.main --config=configs/mnist.py:jit      # JiT, patches of 7 pixels: a step costs less than half
    python -m diffjax.main --config=configs/mnist.py:unet     # a U-Net, whose step costs nearly three times as much
    python -m diffjax.main --config=configs/mnist.py:tiny     # every part, on scikit-learn's digits: for tests
    python -m diffjax.main --config=configs/mnist.py:gpu      # EDM's recipe; needs an accelerator

Other fields: configs/vpsde.py. The default (73efd35 with these options; 9 min 12 s) misses its gate by little: its
Frechet distance is 15.1 (floor 7.2, bound 14.4, a fitted Gaussian 321), its coverage 0.934 (bound 0.95); all else
passes. After 8400 steps (b115b48, 1018 s of CPU time) they are 13.7 and 0.946. Without labels 5600 steps and 40
evaluations gave 64.8, the U-Net after 1500 steps (11 min 28 s) 32.5. `:jit` is not measured yet.
"""

from ml_collections import ConfigDict

from diffjax.config import beside, spec

_base, _edm, _dit = (beside(__file__, name) for name in ("vpsde.py", "edm.py", "dit.py"))


def digits() -> ConfigDict:
    """The default recipe: 51 passes over the digits, which are drawn by class."""
    config = _dit.digits()
    config.data = spec("mnist")
    config.model = spec("DiT", preset="tiny", patch=4, positions="both", classes=10)
    config.train.update(dict(steps=7200, batch_size=32, sample_every=3600))
    config.grid.n = 100
    return config


def jit() -> ConfigDict:
    """JiT: x_0-prediction under the loss of the velocity, on patches of 7 x 7 that pass a bottleneck of 24 entries."""
    config = _dit.jit()
    config.data = spec("mnist")
    config.model = spec("JiT", preset="mini", patch=7, classes=10)
    config.train.update(dict(steps=4500, batch_size=64, sample_every=1500))
    return config


def unet() -> ConfigDict:
    """A U-Net of as many parameters, without labels."""
    config = digits()
    config.model = spec("UNet", channels=16, multipliers=(1, 2, 2), blocks=1, attention=(7,))
    config.learning_rate.peak = 4e-3
    config.train.update(dict(steps=1200, sample_every=1200))
    config.sampler.eta = 0.0
    config.grid.n = 30
    return config


def gpu() -> ConfigDict:
    """EDM's CIFAR-10 recipe with half of its channels, no mirrored digits and a twentieth of its images."""
    config = _edm.cifar10()
    config.data = spec("mnist")
    config.augment.transforms = ("scale", "rotate", "stretch", "shift")
    config.model.update(dict(channels=64, multipliers=(1, 2, 2), attention=(14,)))
    config.train.steps = config.train.steps // 200 * 10
    return config


def tiny() -> ConfigDict:
    """Every part of the default, at a small size, on digits that every machine has, for tests."""
    config = _base.tiny()
    config.model = spec("DiT", depth=2, width=16, heads=2, patch=2)
    config.target = spec("V")
    return config


VARIANTS = {"digits": digits, "jit": jit, "unet": unet, "tiny": tiny, "gpu": gpu}
