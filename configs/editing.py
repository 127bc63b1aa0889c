"""Editing: tokens are replaced by others, and time counts how many are wrong, on a joint law that can be enumerated.

    python -m diffjax.main --config=configs/editing.py          # one token a step is set right: 60 CPU seconds
    python -m diffjax.main --config=configs/editing.py:several  # two steps for three tokens
    python -m diffjax.main --config=configs/editing.py:tiny     # every part, small

Expected: total variation of 16384 samples 0.0216, floor 0.0147, product of marginals 0.4218; of `several` 0.228, where
the gate fails: tokens that are set right in one step are drawn as if they were independent. The bound, 1.38 nats per
token beside an entropy of 0.91, is loose for every network: it pays for the order in which tokens are set right.
"""

from ml_collections import ConfigDict

from diffjax.config import beside, spec

_base = beside(__file__, "masked.py")


def _editing(config: ConfigDict) -> ConfigDict:
    config.method = spec("discrete")
    config.process, config.schedule = spec("editing", vocabulary=3), spec("Counted", length=3)
    config.target, config.loss = spec("categorical.Whole"), spec("categorical.cross_entropy")
    config.times = spec("chain", evenly=True)
    config.sampler, config.grid = spec("edits.single"), spec("counts", n=3)
    return config


def single() -> ConfigDict:
    """The default recipe: a network of the whole law, trained by cross-entropy, walks of single tokens."""
    return _editing(_base.tokens())


def several() -> ConfigDict:
    """Two steps for three tokens, which are then taken as independent given the others."""
    config = single()
    config.sampler, config.grid.n = spec("edits.several"), 2
    return config


def tiny() -> ConfigDict:
    """The default at a small size, for tests."""
    return _editing(_base.tiny())


VARIANTS = dict(single=single, several=several, tiny=tiny)
