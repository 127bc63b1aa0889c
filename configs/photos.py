"""Colour: patches of scikit-learn's two photographs by a U-Net (v-prediction), which every machine has.

    python -m diffjax.main --config=configs/photos.py          # 16 x 16 patches: minutes on 2 CPU cores
    python -m diffjax.main --config=configs/photos.py:tiny     # every part, small: for tests, not for pictures
    python -m diffjax.main --config=configs/photos.py:gpu      # 32 x 32 by EDM's recipe; needs an accelerator

No patch that is held out shares a pixel with one that is trained on, but all are of two pictures: a judge of colour and
texture, not of objects. No gate; distances stand beside their floor. With --config.train.steps=2000 (73efd35, 876 s of
CPU time): exact W2 11.75 (floor 11.33, a fitted Gaussian 13.72), coverage 0.416 (0.570, 0.182), 1-NN accuracy of real
and drawn 0.740 and 0.904 (0.695 and 0.871). `:gpu` was not run here.
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
