"""Masked tokens (Sahoo et al. 2024; Shi et al. 2024) on a joint law of 27 sequences that can be enumerated.

    python -m diffjax.main --config=configs/masked.py            # one token a step: a minute on 2 CPU cores
    python -m diffjax.main --config=configs/masked.py:ancestral  # two steps, several tokens in each
    python -m diffjax.main --config=configs/masked.py:tiny       # every part, small

Expected of the default, in eval.json: masked.bound within 0.01 nats per token of tokens.entropy, 0.9142, and the total
variation of samples under twice its floor (the gate). Of `ancestral` the gate fails: tokens that open in one step are
independent, whatever the network; the report shows what the two steps cost.
"""

from ml_collections import ConfigDict

from diffjax.config import recipe, spec


def tokens() -> ConfigDict:
    """The default recipe, from which discrete.py, editing.py and encoded.py start too."""
    config = recipe()
    config.method = spec("masked", vocabulary=3)
    config.data = spec("tokens", length=3, vocabulary=3)
    config.model = spec("TokenMLP", vocabulary=3, width=64, depth=2)
    config.learning_rate.update(dict(peak=3e-3, schedule="cosine", warmup_steps=50))
    config.train.update(dict(steps=4000, batch_size=512, steps_per_dispatch=20, log_every=200, sample_every=2000))
    config.checkpoint.every = 1000
    config.sample.chunk = 1024
    config.eval.samples = 16384
    return config


def ancestral() -> ConfigDict:
    """The default in two steps."""
    config = tokens()
    config.method.steps = 2
    return config


def tiny() -> ConfigDict:
    """The default at a small size, for tests."""
    config = tokens()
    config.data.n, config.data.held_out = 2000, 200
    config.model.width = 16
    config.train.update(dict(steps=40, batch_size=32, steps_per_dispatch=1, log_every=10, sample_every=40))
    config.learning_rate.warmup_steps = 5
    config.checkpoint.every = 20
    config.eval.samples = 256
    return config


VARIANTS = dict(tokens=tokens, ancestral=ancestral, tiny=tiny)
