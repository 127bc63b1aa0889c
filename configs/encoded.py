"""Tokens in the space of a trained encoder (kexue 9271), on a joint law of 27 sequences that can be enumerated.

    python -m diffjax.main --config=configs/encoded.py               # tokens drawn at each step: 93 s of CPU time
    python -m diffjax.main --config=configs/encoded.py:interpolated  # DDIM on the mean of the vectors, read at its end
    python -m diffjax.main --config=configs/encoded.py:tiny          # every part, small

Expected of the default, in eval.json: encoded.cross_entropy 0.46 nats per token over all times, at the last time 1.077,
the entropy of the places' marginals; the total variation of samples 0.027, where the gate, twice the floor, is 0.029.
With the network shown x_t itself (--config.method.shown=x, 64 steps) the gate fails, at 0.038. An encoder without a
constraint is refused: its loss falls to 0 by the length of its vectors alone (tests/test_encoded.py).
"""

from ml_collections import ConfigDict

from diffjax.config import recipe, spec


def tokens() -> ConfigDict:
    """The default recipe."""
    config = recipe()
    config.method = spec("encoded", vocabulary=3, size=2, shown="mean")
    config.data = spec("tokens", length=3, vocabulary=3)
    config.schedule = spec("Rectified")
    config.times = spec("stratified", t_min=1e-3)
    config.model = spec("MLP", width=128, depth=2)
    config.sampler = spec("unified")
    config.grid = spec("uniform", n=128, t_min=0.02)
    config.learning_rate.update(dict(peak=3e-3, schedule="cosine", warmup_steps=50))
    config.train.update(dict(steps=4000, batch_size=512, steps_per_dispatch=20, log_every=200, sample_every=2000))
    config.checkpoint.every = 1000
    config.sample.chunk = 1024
    config.eval.samples = 16384
    return config


def interpolated() -> ConfigDict:
    """The default with a sampler of vectors."""
    config = tokens()
    config.sampler = spec("ancestral.ddim")
    return config


def tiny() -> ConfigDict:
    """The default at a small size, for tests."""
    config = tokens()
    config.data.n, config.data.held_out = 2000, 200
    config.model.width = 16
    config.grid.n = 8
    config.train.update(dict(steps=40, batch_size=32, steps_per_dispatch=1, log_every=10, sample_every=40))
    config.learning_rate.warmup_steps = 5
    config.checkpoint.every = 20
    config.eval.samples = 256
    return config


VARIANTS = dict(tokens=tokens, interpolated=interpolated, tiny=tiny)
