"""Digits as tokens: each of the 64 pixels is one of 17 grey levels, and is hidden, or replaced, until none is left.

    python -m diffjax.main --config=configs/digit_tokens.py             # masked, by a U-Net: 8 CPU minutes
    python -m diffjax.main --config=configs/digit_tokens.py:perceptron  # a perceptron: 2 CPU minutes
    python -m diffjax.main --config=configs/digit_tokens.py:uniform    # any level in the place of another
    python -m diffjax.main --config=configs/digit_tokens.py:levels     # a level walks to its neighbours: heat
    python -m diffjax.main --config=configs/digit_tokens.py:short      # the U-Net in 500 steps, for two controls:
    python -m diffjax.main --config=configs/digit_tokens.py:bins       # control: 256 grey values, of which 17 occur
    python -m diffjax.main --config=configs/digit_tokens.py:permuted   # control: places in another order, told apart
    python -m diffjax.main --config=configs/digit_tokens.py:shuffled   # negative control: places of different digits
    python -m diffjax.main --config=configs/digit_tokens.py:tiny       # every part, small

Expected in eval.json, masked.bits_per_token: 1.78 bits per dimension of held-out digits by the U-Net, 1.96 by
`short`, 1.98 by `bins`, 2.22 by `permuted`, 2.08 by the perceptron (discrete.bits_per_token of `uniform`: 2.11, of
`levels`: 2.28); a product of the marginals, which is all that `shuffled` has, 2.42. The two controls were drawn in 16
steps (--config.method.steps=16): a bound does not depend on it. On a quiet machine the default takes 5 minutes.
"""

from ml_collections import ConfigDict

from diffjax.config import recipe, spec


def digits() -> ConfigDict:
    """The default recipe: hidden pixels, opened one at a time."""
    config = recipe()
    config.method = spec("masked", vocabulary=17)
    config.data = spec("digit_tokens")
    config.model = spec("TokenUNet", vocabulary=17, channels=24, dropout=0.2)
    config.learning_rate.update(dict(peak=2e-3, schedule="cosine", warmup_steps=100))
    config.train.update(dict(steps=2200, batch_size=64, log_every=100, sample_every=2200))
    config.checkpoint.every = 1100
    config.eval.samples = 297
    return config


def perceptron() -> ConfigDict:
    """A perceptron, with no notion of neighbours: what `uniform`, `levels` and `shuffled` are compared with."""
    config = digits()
    config.model = spec("TokenMLP", vocabulary=17, width=256, depth=2, dropout=0.4)
    config.train.update(dict(steps=600, batch_size=128, steps_per_dispatch=10, sample_every=600))
    config.checkpoint.every = 300
    return config


def uniform() -> ConfigDict:
    """The perceptron where pixels are replaced by any level: it states the law of a pixel without what that holds."""
    config = perceptron()
    config.method = spec("discrete")
    config.process, config.schedule = spec("categorical.uniform", vocabulary=17), spec("Rectified")
    config.target, config.loss = spec("categorical.LeaveOneOut"), spec("categorical.score_entropy")
    config.times = spec("stratified", t_min=1e-3)
    config.sampler, config.grid = spec("categorical.mixture"), spec("uniform", n=64, t_min=0.0)
    return config


def levels() -> ConfigDict:
    """The perceptron where a level walks to its neighbours, as heat does, until all are alike."""
    config = uniform()
    config.process, config.sampler = spec("categorical.levels", vocabulary=17), spec("categorical.markov")
    return config


def short() -> ConfigDict:
    """The U-Net in a quarter of the steps, which the controls of the alphabet and of the order are compared with."""
    config = digits()
    config.train.update(dict(steps=500, sample_every=500))
    config.checkpoint.every = 250
    return config


def bins() -> ConfigDict:
    """The control of the alphabet: `short` on the same pixels as grey values of 8 bits."""
    config = short()
    config.method.vocabulary = config.model.vocabulary = config.data.bins = 256
    return config


def permuted() -> ConfigDict:
    """The control of the order: `short` with one permutation of the places for all digits, which loses nothing."""
    config = short()
    config.data.permuted = True
    return config


def shuffled() -> ConfigDict:
    """The negative control: the perceptron on places of different digits, whose marginals are all there is."""
    config = perceptron()
    config.data.shuffled = True
    return config


def tiny() -> ConfigDict:
    """The default at a small size, for tests."""
    config = digits()
    config.method.steps = 4
    config.model.update(dict(channels=4, multipliers=(1,), attention=()))
    config.train.update(dict(steps=40, batch_size=16, log_every=10, sample_every=40))
    config.learning_rate.warmup_steps = 5
    config.checkpoint.every = 20
    return config


VARIANTS = dict(
    digits=digits,
    perceptron=perceptron,
    uniform=uniform,
    levels=levels,
    short=short,
    bins=bins,
    permuted=permuted,
    shuffled=shuffled,
    tiny=tiny,
)
