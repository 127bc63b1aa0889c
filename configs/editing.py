"""Editing: tokens are replaced by others, and time counts how many are wrong, on a joint law that can be enumerated.

    python -m diffjax.main --config=configs/editing.py          # one token a step is set right: 60 CPU seconds
    python -m diffjax.main --config=configs/editing.py:several  # two steps for three tokens
    python -m diffjax.main --config=configs/editing.py:tiny     # every part, small

Expected: total variation of 16384 samples 0.0216, floor 0.0147, product of marginals 0.4218; of `several` 0.228, where
the gate fails: tokens that are set right in one step are drawn as if they were independent. The bound, 1.38 nats per
token beside an entropy of 0.91, is loose for every network: it pays for the order in which tokens are set right.
"""

from ml_collections import ConfigDict

from diffjax.config import recipe, spec


def single() -> ConfigDict:
    """The default recipe: a network of the whole law, trained by cross-entropy, walks of single tokens."""
    config = recipe()
    config.method = spec("discrete")
    config.data = spec("tokens", length=3, vocabulary=3)
    config.process, config.schedule = spec("editing", vocabulary=3), spec("Counted", length=3)
    config.target, config.loss = spec("categorical.Whole"), spec("categorical.cross_entropy")
    config.times = spec("chain", evenly=True)
    config.sampler, config.grid = spec("edits.single"), spec("counts", n=3)
    config.model = spec("TokenMLP", vocabulary=3, width=64, depth=2)
    config.learning_rate.update(dict(peak=3e-3, schedule="cosine", warmup_steps=50))
    config.train.update(dict(steps=4000, batch_size=512, steps_per_dispatch=20, log_every=200, sample_every=2000))
    config.checkpoint.every = 1000
    config.sample.chunk = 1024
    config.eval.samples = 16384
    return config


def several() -> ConfigDict:
    """Two steps for three tokens, which are then taken as independent given the others."""
    config = single()
    config.sampler, config.grid.n = spec("edits.several"), 2
    return config


def tiny() -> ConfigDict:
    """The default at a small size, for tests."""
    config = single()
    config.data.n, config.data.held_out = 2000, 200
    config.model.width = 16
    config.train.update(dict(steps=40, batch_size=32, steps_per_dispatch=1, log_every=10, sample_every=40))
    config.learning_rate.warmup_steps = 5
    config.checkpoint.every = 20
    config.eval.samples = 256
    return config


VARIANTS = dict(single=single, several=several, tiny=tiny)
