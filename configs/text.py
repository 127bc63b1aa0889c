"""Text as characters, hidden and opened one at a time: Python's own documentation, or a file of one's own.

    python -m diffjax.main --config=configs/text.py            # pydoc_data.topics: 14 CPU minutes, no network
    python -m diffjax.main --config=configs/text.py --config.data.path=FILE  # any text in UTF-8
    python -m diffjax.main --config=configs/text.py:words      # its words of five letters, whose law is known
    python -m diffjax.main --config=configs/text.py:shuffled   # negative control: characters in a random order
    python -m diffjax.main --config=configs/text.py:tiny       # every part, small

Expected of the default, in eval.json, masked.bits_per_token: a bound of 2.36 bits per character, between 3-grams in
windows of 64, 2.52, and 4-grams, 2.09; single characters have 4.67. No context brings `shuffled` under the product of
the marginals: 4.648 for 4.645. Of `words` masked.bound is held against words.entropy, log n / 5 for n words: 1.258 for
1.161 nats per letter, and 0.788 of the samples are words. On a quiet machine the default takes 8 minutes.
"""

from ml_collections import ConfigDict

from diffjax.config import recipe, spec


def text() -> ConfigDict:
    """The default recipe."""
    config = recipe()
    # A hidden token counts 1 / t: from t = 0.03 on the variance is half of that from 1e-3 on, and what lies below is
    # one or two hidden characters of 64, which larger t show too.
    config.method = spec("masked", vocabulary=128, t_min=0.03)
    config.data = spec("text", length=64, symbols=128)
    config.model = spec("Transformer", vocabulary=128, width=96, depth=3, heads=6, positions="rotary")
    config.optimizer = spec("contrib.muon", consistent_rms=0.2)  # steps as large as Adam's: one rate for all
    config.learning_rate.update(dict(peak=5e-3, schedule="cosine", warmup_steps=50))
    config.ema, config.sample.ema = spec("warm_up", decays=(0.99,)), "0.99"  # over the steps where the rate is small
    config.train.update(dict(steps=3000, batch_size=32, steps_per_dispatch=20, log_every=200, sample_every=3000))
    config.checkpoint.every = 1000
    config.eval.samples = 256
    return config


def shuffled() -> ConfigDict:
    """The negative control: characters in a random order, whose bound no context brings under that of 1-grams."""
    config = text()
    config.data.shuffled = True
    config.train.update(dict(steps=500, sample_every=500))
    config.checkpoint.every = 500
    config.eval.samples = 64
    return config


def words() -> ConfigDict:
    """Words of five letters, whose law is known."""
    config = text()
    config.method.vocabulary = config.model.vocabulary = 26
    config.data = spec("words", length=5)
    config.model.update(dict(width=64, depth=2, heads=2, positions="both"))
    config.train.update(dict(steps=3000, batch_size=128, sample_every=3000))
    config.eval.samples = 4096
    return config


def tiny() -> ConfigDict:
    """Every part of the default, at a small size, for tests."""
    config = text()
    config.data.update(dict(length=8, most=4000))
    config.model.update(dict(width=16, depth=1, heads=1))
    config.train.update(dict(steps=40, batch_size=16, steps_per_dispatch=1, log_every=10, sample_every=40))
    config.learning_rate.update(dict(peak=3e-2, warmup_steps=5))  # at 5e-3 forty steps by muon learn no marginals
    config.checkpoint.every = 20
    config.eval.samples = 64
    return config


VARIANTS = dict(text=text, shuffled=shuffled, words=words, tiny=tiny)
