"""Deep InfoMax on scikit-learn's digits (Hjelm et al. 2019): 48 features without labels, a second opinion of distances.

    python -m diffjax.main --config=configs/infomax.py               # 51 s of CPU time
    python -m diffjax.main --config=configs/infomax.py:global_only   # control: the whole map alone, as kexue 6024 warns
    python -m diffjax.main --config=configs/infomax.py:tiny          # every part, small: for tests

    python experiments/infomax/spaces.py --workdir=runs/... --out=OUT    # what the space sees, beside others

Its report says both bounds and what the probe, a decoder that teaches the features nothing, reads of them. Samples are
that probe's reading of normal codes: the gate of digits fails, and has to.
"""

from ml_collections import ConfigDict

from diffjax.config import recipe, spec


def digits() -> ConfigDict:
    """The default recipe."""
    config = recipe()
    config.data = spec("digits")
    config.method = spec("infomax")
    config.model = spec("Maps", channels=(16, 32))
    config.encoder = spec("Perceptron", shape=(96,), width=128, depth=1)
    config.decoder = spec("Perceptron", shape=(8, 8, 1), width=128, depth=1)
    config.learning_rate.update(dict(peak=2e-3, schedule="cosine", warmup_steps=0))
    config.train.update(steps=1500, sample_every=1500)
    return config


def global_only() -> ConfigDict:
    """A control without the local term."""
    config = digits()
    config.method.local = 0.0
    return config


def tiny() -> ConfigDict:
    """Every part, at a small size, for tests."""
    config = digits()
    config.model.channels = (4, 8)
    config.encoder = spec("Perceptron", shape=(8,), width=8, depth=1)
    config.decoder = spec("Perceptron", shape=(8, 8, 1), width=8, depth=1)
    config.train.update(steps=40, batch_size=16, sample_every=40, log_every=10)
    config.checkpoint.update(every=20)
    config.eval.samples = 297  # the gate's least
    return config


VARIANTS = dict(digits=digits, global_only=global_only, tiny=tiny)
