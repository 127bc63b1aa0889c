"""MNIST, 5,000 digits of 28 x 28 (extra `mnist`), judged by a gate of their own: a DiT of patches of 4 pixels.

    pip install "diffjax[mnist]"
    python -m diffjax.main --config=configs/mnist.py          # a DiT of 0.7 M parameters: minutes on 2 CPU cores
    python -m diffjax.main --config=configs/mnist.py:unet     # a U-Net, whose steps cost three times as much
    python -m diffjax.main --config=configs/mnist.py:tiny     # every part, on scikit-learn's digits: for tests
    python -m diffjax.main --config=configs/mnist.py:gpu      # a DDPM++-class U-Net by EDM's recipe; an accelerator

Expected of the default: report.md says by how much the gate is passed or missed; docs/results.md has the figures once
it was run. `:gpu` was not run here.
"""

from ml_collections import ConfigDict

from diffjax.config import beside, spec

_base, _edm = beside(__file__, "vpsde.py"), beside(__file__, "edm.py")


def unet() -> ConfigDict:
    """A small U-Net: what fits into ten minutes trains it for two hundred images of each example's kind."""
    config = _base.digits()
    config.data = spec("mnist")
    config.target = spec("V")
    config.model = spec("UNet", channels=16, multipliers=(1, 2, 2), blocks=1, attention=(7,))
    config.train.update(dict(steps=700, batch_size=64, sample_every=350))
    return config


def gpu() -> ConfigDict:
    """EDM's CIFAR-10 recipe with half of its channels and no mirrored digits, for a twentieth of its images."""
    config = _edm.cifar10()
    config.data = spec("mnist")
    config.augment.transforms = ("scale", "rotation", "shift")
    config.model.update(dict(channels=64, multipliers=(1, 2, 2), attention=(14,)))
    config.train.steps = config.train.steps // 200 * 10
    return config


def tiny() -> ConfigDict:
    """Every part of the default, at a small size, on digits that every machine has, for tests."""
    config = _base.tiny()
    config.target = spec("V")
    return config


VARIANTS = {"unet": unet, "tiny": tiny, "gpu": gpu}
