"""A variational autoencoder of scikit-learn's digits (Kingma & Welling 2014): a codec, and one-step samples.

    python -m diffjax.main --config=configs/autoencoder.py           # half a minute on 2 CPU cores
    python -m diffjax.main --config=configs/autoencoder.py:tiny      # every part, small: for tests

Expected of the default: 16 latents with a squared error of 0.043 per entry on held-out digits, where PCA's is 0.0448,
at 12 nats of KL. The gate of digits is not passed (Frechet distance 47, a Gaussian fit's 64): samples are blurred.
"""

from ml_collections import ConfigDict

from diffjax.config import recipe, spec


def digits() -> ConfigDict:
    """The default recipe."""
    config = recipe()
    config.data = spec("digits")
    config.method = spec("autoencoder")
    config.encoder = spec("Perceptron", shape=(32,), width=256, depth=2)
    config.decoder = spec("Perceptron", shape=(8, 8, 1), width=256, depth=2)
    config.learning_rate.update(dict(peak=1e-3, schedule="cosine"))
    return config


def tiny() -> ConfigDict:
    """Every part of the default, at a small size, for tests."""
    config = digits()
    config.data = spec("moons", n=256, held_out=64)
    config.encoder = spec("Perceptron", shape=(2,), width=8, depth=1)
    config.decoder = spec("Perceptron", shape=(2,), width=8, depth=1)
    config.train.update(steps=40, batch_size=16, sample_every=40, log_every=10)
    config.checkpoint.every = 20
    config.eval.samples = 64
    return config


VARIANTS = dict(digits=digits, tiny=tiny)
