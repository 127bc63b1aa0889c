"""draft"""

from ml_collections import ConfigDict

from diffjax.config import recipe, spec


def digits() -> ConfigDict:
    """The default recipe."""
    config = recipe()
    config.method = spec("masked", vocabulary=17)
    config.data = spec("digit_tokens")
    config.model = spec("Transformer", vocabulary=17, width=64, depth=3, heads=4, dropout=0.1, positions="learned")
    config.learning_rate.update(dict(peak=2e-3, schedule="cosine", warmup_steps=100))
    config.train.update(dict(steps=3000, batch_size=64, steps_per_dispatch=10, log_every=100, sample_every=3000))
    config.checkpoint.every = 1000
    config.eval.samples = 512
    return config

def tiny() -> ConfigDict:
    config = digits()
    return config

VARIANTS = dict(digits=digits, tiny=tiny)
