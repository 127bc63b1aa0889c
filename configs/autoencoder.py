"""A variational autoencoder of scikit-learn's digits (Kingma & Welling 2014): a codec, and one-step samples.

    python -m diffjax.main --config=configs/autoencoder.py               # convolutions: minutes on 2 CPU cores
    python -m diffjax.main --config=configs/autoencoder.py:perceptron    # dense layers, one s: half a minute
    python -m diffjax.main --config=configs/autoencoder.py:heavy         # control: beta = 10
    python -m diffjax.main --config=configs/autoencoder.py:tiny          # every part, small: for tests

    python -m diffjax.main --mode=likelihood --workdir=runs/...          # the bound, in bits per dimension

The default learns an s for each pixel, above a floor, on digits spread over the bins of their 17 levels. Samples are
the decoder's mean; `run.draw(n, noisy=True)` draws of its law. Expected (experiments/baselines; 2.5 minutes): a
Frechet distance of 18.9, of draws of its law 27.0, and a bound of 2.79 bits per dimension; the gate of digits fails, as
with all others here. `:heavy`: 415. `:perceptron`: 47.0; 16 latents with a squared error of 0.043 per entry on held-out
digits, where PCA's is 0.0448, at 12 nats of KL.
"""

from ml_collections import ConfigDict

from diffjax.config import recipe, spec


def digits() -> ConfigDict:
    """The default recipe."""
    config = recipe()
    config.data = spec("digits")
    config.method = spec("autoencoder", per_entry=True, floor=0.05, levels=17)
    config.encoder = spec("Encoder", shape=(64,), channels=16)
    config.decoder = spec("Decoder", shape=(8, 8, 1), channels=16)
    config.learning_rate.update(dict(peak=2e-3, schedule="cosine", warmup_steps=200))
    return config


def perceptron() -> ConfigDict:
    """Dense layers, and one s for all pixels, on the levels themselves."""
    config = digits()
    config.method = spec("autoencoder")
    config.encoder = spec("Perceptron", shape=(32,), width=256, depth=2)
    config.decoder = spec("Perceptron", shape=(8, 8, 1), width=256, depth=2)
    config.learning_rate.update(dict(peak=1e-3, warmup_steps=0))
    return config


def heavy() -> ConfigDict:
    """A negative control: a KL that weighs ten times as much, so that most latents collapse."""
    config = digits()
    config.method.beta = 10.0
    return config


def tiny() -> ConfigDict:
    """Every part of the default's loss, at a small size, for tests."""
    config = perceptron()
    config.data = spec("moons", n=256, held_out=64)
    config.method = spec("autoencoder", per_entry=True, floor=0.05)
    config.encoder = spec("Perceptron", shape=(2,), width=8, depth=1)
    config.decoder = spec("Perceptron", shape=(2,), width=8, depth=1)
    config.train.update(steps=40, batch_size=16, sample_every=40, log_every=10)
    config.checkpoint.update(every=20, best_by="held_out")
    config.eval.samples = 64
    return config


VARIANTS = dict(digits=digits, perceptron=perceptron, heavy=heavy, tiny=tiny)
