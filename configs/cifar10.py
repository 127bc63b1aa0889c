"""CIFAR-10 from a file that you have, with its ten classes: a DiT of patches of 4 pixels.

    python -m diffjax.main --config=configs/cifar10.py --config.data.path=cifar-10-binary.tar.gz   # minutes on 2 cores
    python -m diffjax.main --config=configs/cifar10.py:tiny   # every part, on patches of photographs: for tests
    python -m diffjax.main --config=configs/cifar10.py:gpu --config.data.path=cifar-10-binary.tar.gz    # EDM's recipe
    python -m diffjax.main --config=configs/cifar10.py:gpu_ddpmpp --config.data.path=...                # DDPM++'s

`data.path` is the archive of the binary or the python version, or a folder or zip of images with a sub-folder for each
class, and then `data.test` a second one (`data/cifar10.py`). The default sees four images of five once, where the
published recipes see each 3,300 to 4,000 times: expect colours and layout, no objects. Distances are in report.md,
beside their floor: exact W2 23.3 (floor 25.0; b115b48, 8 min 22 s), and in features of ImageNet, of 1600 steps, a
Frechet distance of 1124 (floor 166, a fitted Gaussian 1210), KID 1.84 (0.001, 2.37). The published recipes were not
run here.
"""

from ml_collections import ConfigDict

from diffjax.config import beside, spec

_base, _edm, _dit = (beside(__file__, name) for name in ("vpsde.py", "edm.py", "dit.py"))


def small() -> ConfigDict:
    """The default recipe."""
    config = _dit.digits()
    config.data = spec("cifar10", path="", flip=True)
    config.model = spec("DiT", preset="small", patch=4, classes=10, positions="both")
    config.learning_rate.peak = 4e-3
    config.train.update(dict(steps=1300, batch_size=32, sample_every=1300))
    config.eval.samples = 512
    return config


def gpu() -> ConfigDict:
    """Karras et al.'s (2022), unconditional: configs/edm.py:cifar10 on these files, by their network of DDPM++."""
    config = _edm.cifar10()
    config.data = spec("cifar10", path="")  # mirrored by the augmentation
    config.model = spec("PublishedUNet.preset", preset="ddpmpp_edm", dropout=0.13, augment=9)
    return config


def gpu_ddpmpp() -> ConfigDict:
    """Song et al.'s (2021) DDPM++: configs/vpsde.py:cifar10 on these files."""
    config = _base.cifar10()
    config.data = spec("cifar10", path="", flip=True)
    config.model = spec("PublishedUNet.preset", preset="ddpmpp", dropout=0.1)
    return config


def tiny() -> ConfigDict:
    """Every part of the default but its classes, at a small size, on data that every machine has, for tests."""
    config = _base.tiny()
    config.data = spec("photos", size=16, stride=32)
    config.model = spec("DiT", depth=2, width=16, heads=2, patch=4)
    config.target = spec("V")
    config.eval.samples = 32
    return config


VARIANTS = {"small": small, "tiny": tiny, "gpu": gpu, "gpu_ddpmpp": gpu_ddpmpp}
