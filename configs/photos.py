"""Colour: patches of scikit-learn's two photographs by a U-Net (v-prediction), which every machine has.

    python -m diffjax.main --config=configs/photos.py          # 16 x 16 patches: minutes on 2 CPU cores
    python -m diffjax.main --config=configs/photos.py:tiny     # every part, small: for tests, not for pictures
    python -m diffjax.main --config=configs/photos.py:gpu      # 32 x 32 by EDM's recipe; needs an accelerator

No patch that is held out shares a pixel with one that is trained on, but all are of two pictures: a judge of colour and
texture, not of objects. No gate; distances stand beside their floor. The default (b115b48, 7 min 33 s on two cores):
exact W2 11.45 (floor 11.33, a fitted Gaussian 13.72), coverage 0.398 (0.570, 0.182), 1-NN accuracy of real and drawn
0.744 and 0.891 (0.695 and 0.871). `:gpu` was not run here.
"""

from ml_collections import ConfigDict

from diffjax.config import beside, spec

_base, _edm = beside(__file__, "vpsde.py"), beside(__file__, "edm.py")


def patches() -> ConfigDict:
    """The default recipe."""
    config = _base.digits()
    config.data = spec("photos", size=16, stride=4)
    config.target = spec("V")
    config.model.attention = (8,)
    config.train.update(dict(steps=1600, batch_size=64))
    config.eval.samples = 512
    return config


def gpu() -> ConfigDict:
    """EDM's CIFAR-10 recipe, its U-Net and augmentation, on 32 x 32 patches, for a tenth of its images."""
    config = _edm.cifar10()
    config.data = spec("photos", size=32, stride=4)
    config.train.steps = config.train.steps // 100 * 10
    return config


def tiny() -> ConfigDict:
    """Every part of the default, at a small size, for tests."""
    config = _base.tiny()
    config.data = spec("photos", size=8, stride=8)
    config.target = spec("V")
    return config


VARIANTS = {"patches": patches, "tiny": tiny, "gpu": gpu}
